"""Metric rows: one value per (note, code), method and metric; kept as a table, summed up with intervals over admissions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from explain.result import Value
from hilat.files import new_folder, write_json
from hilat.significance import (
    Comparison,
    Interval,
    benjamini_hochberg,
    holm,
    interval_of_mean,
    randomisation,
    sums_by_cluster,
)

SCHEMA = pa.schema(
    [
        ("hadm_id", pa.string()),
        ("code", pa.string()),
        ("outcome", pa.string()),
        ("method", pa.string()),
        ("metric", pa.string()),
        ("value", pa.float64()),
        ("reason", pa.string()),
    ]
)


# Enough for the smallest p to survive Holm over some hundred comparisons.
TEST_RESAMPLES = 10_000


@dataclass(frozen=True, slots=True)
class Row:
    """outcome: TP, FP, FN or TN of the pair; "" where the coders' codes are not known. method: for agreement "a × b"."""

    hadm_id: str
    code: str
    outcome: str
    method: str
    metric: str
    value: Value


@dataclass(frozen=True, slots=True)
class Summary:
    """One cell of a table: the mean over pairs with its interval over admissions, and the comparison with `against`.

    up: whether higher is better. against: the method that all are compared with, None for that method itself.
    p_corrected: the comparison's p, corrected for all comparisons of the table. reasons: why values are missing, counted.
    """

    method: str
    metric: str
    up: bool
    interval: Interval
    against: str | None
    comparison: Comparison | None
    p_corrected: float
    reasons: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Curve:
    """Probability while words go and come back. fractions (S,): share of the words removed, or put back, from 0 to 1.

    deletion (S,): best words removed first; its last value is the fully masked note. insertion (S,): best words put back
    first; its first value is that note.
    """

    hadm_id: str
    code: str
    method: str
    fractions: tuple[float, ...]
    deletion: tuple[float, ...]
    insertion: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class MeasuredNote:
    """What a measurement of one admission gives: rows, chunks encoded for them, and curves where it has any."""

    rows: tuple[Row, ...] = ()
    passes: int = 0
    curves: tuple[Curve, ...] = ()


def outcome_of(predicted: bool, gold: bool | None) -> str:
    """TP, FP, FN, TN, or "" without a coder's word."""
    if gold is None:
        return ""
    return {(True, True): "TP", (True, False): "FP", (False, True): "FN", (False, False): "TN"}[predicted, gold]


def summarise(
    rows: Sequence[Row],
    up: Mapping[str, bool],
    *,
    seed: int = 0,
    resamples: int = 2000,
    kind: Literal["percentile", "bca"] = "percentile",
) -> list[Summary]:
    """Means with 95 % intervals, methods compared with the first one on the pairs that both have a value for.

    The test is paired approximate randomisation over admissions; its p values are corrected by Holm over the table.
    """
    methods = list(dict.fromkeys(row.method for row in rows))
    cells: dict[tuple[str, str], dict[tuple[str, str], Value]] = {}
    for row in rows:
        cells.setdefault((row.method, row.metric), {})[row.hadm_id, row.code] = row.value
    found = []
    for (method, metric), values in cells.items():
        pairs = list(values)
        numbers = np.array([values[pair].value for pair in pairs], dtype=np.float64)
        reasons: dict[str, int] = {}
        for value in values.values():
            if value.reason is not None:
                reasons[value.reason] = reasons.get(value.reason, 0) + 1
        against = methods[0] if method != methods[0] and (methods[0], metric) in cells else None
        test = None if against is None else _compared(values, cells[against, metric], seed)
        span = interval_of_mean(numbers, [hadm_id for hadm_id, _ in pairs], seed=seed, resamples=resamples, kind=kind)
        found.append(Summary(method, metric, up[metric], span, against, test, math.nan, reasons))
    corrected = holm([math.nan if s.comparison is None else s.comparison.p for s in found])
    return [
        Summary(s.method, s.metric, s.up, s.interval, s.against, s.comparison, p, s.reasons)
        for s, p in zip(found, corrected, strict=True)
    ]


def summarise_by_code(
    rows: Sequence[Row], up: Mapping[str, bool], *, seed: int = 0, kind: Literal["percentile", "bca"] = "percentile"
) -> dict[str, list[Summary]]:
    """Code -> its summaries, codes by falling number of pairs; p_corrected holds p corrected by Benjamini-Hochberg over the
    whole table, since a table of codes is read for what stands out, not for one claim."""
    codes = Counter(row.code for row in rows)
    found = {
        code: summarise([row for row in rows if row.code == code], up, seed=seed, resamples=1000, kind=kind)
        for code, _ in codes.most_common()
    }
    flat = [(code, cell) for code, cells in found.items() for cell in cells]
    corrected = benjamini_hochberg([math.nan if c.comparison is None else c.comparison.p for _, c in flat])
    out: dict[str, list[Summary]] = {code: [] for code in found}
    for (code, cell), p in zip(flat, corrected, strict=True):
        out[code].append(replace(cell, p_corrected=p))
    return out


def _compared(mine: Mapping[tuple[str, str], Value], theirs: Mapping[tuple[str, str], Value], seed: int) -> Comparison:
    both = [pair for pair in mine if pair in theirs and mine[pair].reason is None and theirs[pair].reason is None]
    names = [hadm_id for hadm_id, _ in both]
    sums = [
        sums_by_cluster(np.array([[side[pair].value, 1.0] for pair in both]).reshape(-1, 2), names)
        for side in (mine, theirs)
    ]
    return randomisation(sums[0], sums[1], seed=seed, resamples=TEST_RESAMPLES)


CURVES = pa.schema(
    [
        ("hadm_id", pa.string()),
        ("code", pa.string()),
        ("method", pa.string()),
        ("fractions", pa.list_(pa.float64())),
        ("deletion", pa.list_(pa.float64())),
        ("insertion", pa.list_(pa.float64())),
    ]
)


def write_curves(path: Path, curves: Iterable[Curve]) -> None:
    """Write curves as a Parquet table, one row per (admission, code, method)."""
    pq.write_table(pa.Table.from_pylist([asdict(curve) for curve in curves], schema=CURVES), path, compression="zstd")


def read_curves(folder: Path) -> list[Curve]:
    """The curves of a folder of measures; none where it has no curves.parquet."""
    path = Path(folder) / "curves.parquet"
    if not path.exists():
        return []
    rows = pq.read_table(path, schema=CURVES).to_pylist()
    return [Curve(r["hadm_id"], r["code"], r["method"], *(tuple(r[n]) for n in CURVES.names[3:])) for r in rows]


def write_rows(
    folder: Path,
    rows: Iterable[Row],
    summaries: Mapping[str, Sequence[Summary]],
    manifest: Mapping[str, Any],
    *,
    overwrite: bool = False,
    extra: Mapping[str, Callable[[Path], None]] | None = None,
) -> None:
    """Write rows.parquet, summary.json (by group of pairs), manifest.json and extra files into a new folder.

    extra: name of a file -> what writes it, given its path.
    """
    with new_folder(Path(folder), overwrite=overwrite, what="folder of measures") as beside:
        columns: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
        for row in rows:
            for name in ("hadm_id", "code", "outcome", "method", "metric"):
                columns[name].append(getattr(row, name))
            columns["value"].append(row.value.value)
            columns["reason"].append(row.value.reason)
        pq.write_table(pa.table(columns, schema=SCHEMA), beside / "rows.parquet", compression="zstd")
        write_json(beside / "summary.json", {name: [asdict(s) for s in cells] for name, cells in summaries.items()})
        for name, write in (extra or {}).items():
            write(beside / name)
        write_json(beside / "manifest.json", dict(manifest))

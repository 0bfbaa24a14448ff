"""What `hilat report` reads besides explanations: which admissions, and what folders of measures say of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hilat.admissions import HilatError

if TYPE_CHECKING:
    from explain.rows import Curve
    from reports.index import MeanCurve, MeasureTable
    from reports.maker import Measures
    from reports.page import ReportPage

MOST_TABLE = 6  # measures of a table in the index


def read_measures(folders: Sequence[Path], seed: int = 0) -> Measures:
    """The folders that `--out` of faithfulness, plausibility, keywords and agreement wrote.

    Raises:
        HilatError: a folder that is none.
    """
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from explain.rows import read_curves
    from hilat.files import read_json
    from reports.maker import LISTED, Measures

    numbers: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    up: dict[str, bool] = {}
    curves: dict[tuple[str, str], list[Curve]] = {}
    tables: list[MeasureTable] = []
    for folder in folders:
        if not (folder / "rows.parquet").exists() or not (folder / "summary.json").exists():
            raise HilatError(
                f"{folder} holds no rows.parquet and summary.json; expected a folder that --out of faithfulness, "
                "plausibility, keywords or agreement wrote. Correct --measures"
            )
        table = pq.read_table(folder / "rows.parquet", columns=["hadm_id", "code", "method", "metric", "value"])
        table = table.filter(pc.is_in(table["metric"], value_set=_strings(LISTED)))
        for row in table.to_pylist():
            method = str(row["method"]).removeprefix(
                "attention × "
            )  # a comparison with attention is the other's number
            if " × " in method:
                continue
            value = math.nan if row["value"] is None else float(row["value"])
            numbers.setdefault((row["hadm_id"], row["code"]), {}).setdefault(row["metric"], {})[method] = value
        summary, manifest = (
            read_json(folder / "summary.json", what="summary"),
            read_json(folder / "manifest.json", what="manifest"),
        )
        up |= {cell["metric"]: bool(cell["up"]) for cells in summary.values() for cell in cells}
        tables += _tables(summary, str(manifest.get("measure", folder.name)))
        for curve in read_curves(folder):
            curves.setdefault((curve.hadm_id, curve.code), []).append(curve)
    every = [curve for part in curves.values() for curve in part]
    return Measures(numbers, up, curves, tuple(tables), mean_curves(every, seed))


def _strings(values: Sequence[str]) -> Any:
    import pyarrow as pa

    return pa.array(values)


def _tables(summary: Mapping[str, Sequence[Mapping[str, Any]]], kind: str) -> list[MeasureTable]:
    """One table per group of pairs that holds errors or hits apart: predicted, TP and FP; all where those are missing."""
    from reports.index import MeasureCell, MeasureTable
    from reports.maker import LISTED

    found = []
    for group in [name for name in ("predicted", "TP", "FP") if name in summary] or list(summary)[:1]:
        cells = {(c["method"], c["metric"]): c for c in summary[group]}
        metrics = list(dict.fromkeys(c["metric"] for c in summary[group]))
        chosen = ([m for m in metrics if m in LISTED] or metrics)[:MOST_TABLE]
        rows = []
        for method in dict.fromkeys(c["method"] for c in summary[group]):
            line = []
            for metric in chosen:
                cell = cells.get((method, metric))
                span = cell["interval"] if cell else {}
                p = cell.get("p_corrected") if cell else None
                star = p is not None and p < 0.05
                line.append(MeasureCell(span.get("estimate"), span.get("low"), span.get("high"), star))
            rows.append((method, tuple(line)))
        if all(cell.value is None or math.isnan(cell.value) for _, line in rows for cell in line):
            continue  # nothing is defined for these pairs: no evidence among false positives, say
        n = max((int(c["interval"]["n"]) + int(c["interval"]["missing"]) for c in summary[group]), default=0)
        ups = tuple(bool(next(c["up"] for c in summary[group] if c["metric"] == m)) for m in chosen)
        found.append(MeasureTable(f"{kind}, {group} pairs (n = {n:,})", tuple(chosen), ups, tuple(rows)))
    return found


def mean_curves(curves: Sequence[Curve], seed: int = 0) -> tuple[MeanCurve, ...]:
    """Each method's mean deletion curve on a common grid of 21 points, with 95 % bands over admissions."""
    import numpy as np

    from hilat.significance import interval_of_mean
    from reports.index import MeanCurve

    grid = np.linspace(0, 1, 21)
    found = []
    for method in dict.fromkeys(curve.method for curve in curves):
        part = [curve for curve in curves if curve.method == method]
        values = np.array([np.interp(grid, curve.fractions, curve.deletion) for curve in part])  # (n, S)
        names = [curve.hadm_id for curve in part]
        spans = [interval_of_mean(column, names, resamples=1000, seed=seed) for column in values.T]
        line = tuple(span.estimate for span in spans)
        low = tuple(span.low if math.isfinite(span.low) else span.estimate for span in spans)
        high = tuple(span.high if math.isfinite(span.high) else span.estimate for span in spans)
        found.append(MeanCurve(method, tuple(grid.tolist()), line, low, high))
    return tuple(found)


def chosen_ids(explanations: Path, wanted: str | None, seed: int = 0) -> list[str] | None:
    """The admissions that `--admissions` names, in the order of the explanations: "all" (None), "fp:N", "worst:N",
    "random:N", or ids with commas between.

    Raises:
        HilatError: a choice that is not understood, an id that was not explained, or a choice by errors where the coders'
            codes are unknown.
    """
    import numpy as np

    text = (wanted or "all").strip()
    kind, colon, number = text.partition(":")
    if text == "all":
        return None
    if not colon or kind not in ("fp", "worst", "random"):
        asked = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
        explained = set(_outcome_counts(explanations)[0])
        missing = [name for name in asked if name not in explained]
        if missing:
            raise HilatError(
                f"admission {missing[0]} was not explained; expected one of the {len(explained)} in {explanations}. Correct "
                "--admissions, or explain the split that holds it"
            )
        return asked
    if not number.isdecimal() or int(number) < 1:
        raise HilatError(
            f"--admissions {text} was given; expected a number of 1 or more after the colon, such as {kind}:20"
        )
    ids, counts = _outcome_counts(explanations)
    n = min(int(number), len(ids))
    if kind == "random":
        picked = np.random.default_rng(seed).choice(len(ids), n, replace=False)
    elif counts is None:
        raise HilatError(f"--admissions {text} needs the coders' codes, which are unknown here; give random:{n} or ids")
    else:
        tp, fp, fn = counts.T  # (N,) each
        f1 = 2 * tp / np.maximum(1, 2 * tp + fp + fn)
        key = -fp if kind == "fp" else np.where(tp + fp + fn == 0, 1.0, f1)
        picked = np.argsort(key, kind="stable")[:n]
    return [ids[i] for i in sorted(picked.tolist())]


def _outcome_counts(explanations: Path) -> tuple[list[str], Any]:
    """Ids in order, and (N, 3) counts of TP, FP and FN; None where the coders' codes are unknown."""
    import numpy as np
    import pyarrow.parquet as pq

    table = pq.read_table(explanations / "pairs.parquet", columns=["hadm_id", "predicted", "gold"])
    ids = table["hadm_id"].unique().to_pylist()
    if not ids or table["gold"].null_count:
        return ids, None
    predicted, gold = (
        table[name].to_numpy(zero_copy_only=False).reshape(len(ids), -1) for name in ("predicted", "gold")
    )
    return ids, np.stack([(predicted & gold).sum(1), (predicted & ~gold).sum(1), (~predicted & gold).sum(1)], axis=1)


def numbered(pages: Iterator[ReportPage]) -> Iterator[ReportPage]:
    """Pages without note text, whose admissions are called by running numbers."""
    from reports.redact import without_text

    for n, page in enumerate(pages, start=1):
        yield replace(without_text(page), hadm_id=f"note-{n:05d}")

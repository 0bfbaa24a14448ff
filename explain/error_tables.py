"""The tables of an error study on disk: cases, their cues and their passages. Offsets and numbers; none of a note's words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

import pyarrow as pa
import pyarrow.parquet as pq

from explain.cases import Case
from explain.error_profile import PROFILE
from explain.result import Value
from hilat.admissions import HilatError
from hilat.significance import Interval

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

SCHEMAS: dict[str, pa.Schema] = {
    "cases": pa.schema(
        [
            ("hadm_id", pa.string()),
            ("code", pa.string()),
            ("outcome", pa.string()),
            ("probability", pa.float64()),
            ("threshold", pa.float64()),
            ("weak", pa.bool_()),
            *((name, pa.float64()) for name in PROFILE),
        ]
    ),
    "cues": pa.schema(
        [
            ("hadm_id", pa.string()),
            ("code", pa.string()),
            ("kind", pa.string()),
            ("says", pa.string()),
            ("passage", pa.int32()),
            ("start", pa.int32()),
            ("end", pa.int32()),
        ]
    ),
    "passages": pa.schema(
        [
            ("hadm_id", pa.string()),
            ("code", pa.string()),
            ("rank", pa.int32()),
            ("start", pa.int32()),
            ("end", pa.int32()),
            ("peak_start", pa.int32()),
            ("peak_end", pa.int32()),
            ("share", pa.float64()),
            ("section", pa.string()),
            ("keyword", pa.bool_()),
            ("on_evidence", pa.bool_()),
        ]
    ),
}


def write_cases(folder: Path, cases: Sequence[Case]) -> None:
    """Write cases.parquet, cues.parquet and passages.parquet into a folder that exists.

    cases: a row per (hadm_id, code): outcome, probability, threshold, weak, and a column per number of PROFILE, NaN where
    undefined. cues: kind and says of CUES; passage: the rank of the passage it was seen in, -1 for the code as a whole;
    start, end: the matched words in the raw text, -1 where there are none. passages: rank from 0; start, end and the peak
    word in the raw text; share of the scores; section: a heading's name or ""; keyword: whether it holds a description
    word; on_evidence: whether it touches the coders' evidence.
    """
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in SCHEMAS}
    for case in cases:
        pair = {"hadm_id": case.hadm_id, "code": case.code}
        of = {"outcome": case.outcome, "probability": case.probability, "threshold": case.threshold, "weak": case.weak}
        rows["cases"].append({**pair, **of, **{name: case.profile[name] for name in PROFILE}})
        for cue in case.cues:
            passage = -1 if cue.passage is None else cue.passage
            found = {"kind": cue.kind, "says": cue.says, "passage": passage, "start": cue.start, "end": cue.end}
            rows["cues"].append({**pair, **found})
        for rank, p in enumerate(case.passages):
            place = {"rank": rank, "start": p.start, "end": p.end, "peak_start": p.peak[0], "peak_end": p.peak[1]}
            marks = {"keyword": bool(p.keywords), "on_evidence": p.on_evidence}
            rows["passages"].append({**pair, **place, "share": p.share, "section": p.section, **marks})
    for name, schema in SCHEMAS.items():
        pq.write_table(pa.Table.from_pylist(rows[name], schema=schema), folder / f"{name}.parquet", compression="zstd")


def read_table(folder: Path, name: str) -> list[dict[str, Any]]:
    """The rows of one of SCHEMAS in a folder of `hilat errors study`.

    Raises:
        HilatError: a folder that lacks the table, or a table of another form.
    """
    path = Path(folder) / f"{name}.parquet"
    try:
        rows: list[dict[str, Any]] = pq.read_table(path, schema=SCHEMAS[name]).to_pylist()
    except (OSError, pa.ArrowInvalid):
        raise HilatError(
            f"{path} is missing or has other columns; expected a folder that `hilat errors study` wrote. Study the errors again"
        ) from None
    return rows


_PLAIN: dict[type, pa.DataType] = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
# Of a result inside a row: its columns after the row's field, "" for the field's own name.
_NESTED: dict[type, tuple[tuple[str, str, pa.DataType], ...]] = {
    Interval: (
        ("estimate", "", pa.float64()),
        ("low", "_low", pa.float64()),
        ("high", "_high", pa.float64()),
        ("n", "_n", pa.int64()),
        ("missing", "_missing", pa.int64()),
        ("reason", "_reason", pa.string()),
    ),
    Value: (("value", "", pa.float64()), ("reason", "_reason", pa.string())),
}


def write_flat(path: Path, kind: type[DataclassInstance], rows: Sequence[DataclassInstance]) -> None:
    """Write dataclass rows as Parquet; an Interval or a Value inside gives a column per part: x, x_low, x_high, x_n,
    x_missing, x_reason."""
    hints = get_type_hints(kind)
    schema: list[tuple[str, pa.DataType]] = []
    columns: dict[str, list[Any]] = {}
    for field in fields(kind):
        hint = hints[field.name]
        values = [getattr(row, field.name) for row in rows]
        if hint in _NESTED:
            for part, ending, form in _NESTED[hint]:
                schema.append((field.name + ending, form))
                columns[field.name + ending] = [getattr(value, part) for value in values]
        else:
            schema.append((field.name, _PLAIN.get(hint, pa.string())))  # what is left is str | None
            columns[field.name] = values
    pq.write_table(pa.table(columns, schema=pa.schema(schema)), path, compression="zstd")

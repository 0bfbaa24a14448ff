"""The tables of an error study on disk: cases, their cues and their passages. Offsets and numbers; none of a note's words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from explain.cases import Case
from explain.error_profile import PROFILE
from hilat.admissions import HilatError

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

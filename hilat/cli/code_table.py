"""The codes of many notes as one table, written note by note: CSV, JSON lines or Parquet."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from hilat.admissions import HilatError
from hilat.files import new_file, without_nan

if TYPE_CHECKING:
    from explain.pipeline import CodedNote

KINDS = (".csv", ".jsonl", ".parquet")
COLUMNS = ("id", "code", "title", "probability", "logit", "threshold", "given")
_GROUP = 50_000  # rows of a Parquet row group
Row = Mapping[str, Any]


def table_kind(path: Path) -> str:
    """Which of KINDS the file's name asks for. Raises HilatError for another."""
    kind = path.suffix.lower()
    if kind not in KINDS:
        raise HilatError(f"{path} is of no known kind; expected a name that ends in {', '.join(KINDS)}. Rename it")
    return kind


def note_rows(note: CodedNote, evidence: bool, words: bool) -> list[Row]:
    """A note's rows: COLUMNS and, with evidence, a list of start, end and score, and of the word itself with `words`."""
    names = ("start", "end", "score", *(("word",) if words else ()))
    return [
        {
            "id": note.hadm_id,
            "code": one.code,
            "title": one.title,
            "probability": one.score,
            "logit": one.logit,
            "threshold": one.threshold,
            "given": one.given,
            **({"evidence": [{name: word[name] for name in names} for word in one.evidence]} if evidence else {}),
        }
        for one in note.codes
    ]


@contextmanager
def code_table(
    path: Path, *, evidence: bool, words: bool, overwrite: bool
) -> Iterator[Callable[[Sequence[Row]], None]]:
    """What it gives is called with rows of `note_rows`; the file takes its name when the block ends well, or is not there.

    In CSV, evidence is a JSON text.

    Raises:
        HilatError: a name of another kind, a file that exists without `overwrite`, or a folder that cannot be written.
    """
    kind = table_kind(path)
    with new_file(path, overwrite=overwrite, what="table") as beside:
        if kind == ".parquet":
            with pq.ParquetWriter(beside, _schema(evidence, words), compression="zstd") as parquet:
                waiting: list[Row] = []

                def keep(rows: Sequence[Row]) -> None:
                    waiting.extend(rows)
                    if len(waiting) >= _GROUP:
                        parquet.write_table(pa.Table.from_pylist(waiting, schema=parquet.schema))
                        waiting.clear()

                yield keep
                parquet.write_table(pa.Table.from_pylist(waiting, schema=parquet.schema))
            return
        with beside.open("w", encoding="utf-8", newline="") as stream:
            if kind == ".jsonl":
                yield lambda rows: stream.writelines(f"{_json(row)}\n" for row in rows)
                return
            writer = csv.DictWriter(stream, (*COLUMNS, *(("evidence",) if evidence else ())), lineterminator="\n")
            writer.writeheader()
            yield lambda rows: writer.writerows(_cells(row) for row in rows)


def _cells(row: Row) -> Row:
    """A row for CSV."""
    given = {"given": "true" if row["given"] else "false"}
    return {**row, **given, **({"evidence": _json(row["evidence"])} if "evidence" in row else {})}


def _json(value: Any) -> str:
    return json.dumps(without_nan(value), ensure_ascii=False, allow_nan=False)


def _schema(evidence: bool, words: bool) -> pa.Schema:
    numbers = ("probability", "logit", "threshold")
    kinds = {**dict.fromkeys(numbers, pa.float64()), "given": pa.bool_()}
    columns = [(name, kinds.get(name, pa.string())) for name in COLUMNS]
    if evidence:
        word = [("start", pa.int64()), ("end", pa.int64()), ("score", pa.float64())]
        columns.append(("evidence", pa.list_(pa.struct(word + ([("word", pa.string())] if words else [])))))
    return pa.schema(columns)

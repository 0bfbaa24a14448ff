"""A corpus from one table: CSV, JSONL or Parquet with ids, texts and codes (and evidence, split, subject)."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from hilat.admissions import Admission, CodeBook, CodeKind, EvidenceSpan, HilatError, plain_text
from hilat.corpora.folder import Corpus
from hilat.corpora.labelsets import top_k

_LONGEST_FIELD = 2**31 - 1  # notes are longer than the csv module's limit of 131,072 characters


@dataclass(frozen=True, slots=True)
class TableColumns:
    """Which column holds what. evidence, split and subject are read when the table has them.

    codes: a list, a JSON array, or text with `;` (or, without any, `,`) between codes. evidence: a list, or JSON, of
    {"code", "start", "end"} or {"code", "segments": [[start, end], ...]}, offsets into the text as the table holds it.
    """

    id: str = "hadm_id"
    text: str = "text"
    codes: str = "codes"
    evidence: str = "evidence"
    split: str = "split"
    subject: str = "subject_id"

    @property
    def needed(self) -> tuple[str, ...]:
        """The columns that must be there."""
        return (self.id, self.text, self.codes)


def read_table(
    path: Path,
    columns: TableColumns | None = None,
    *,
    encoding: str = "utf-8",
    system: str = "ICD-9-CM",
    titles: Path | None = None,
) -> Corpus:
    """The corpus of a table; the suffix tells its kind: .csv, .jsonl (each also .gz) or .parquet.

    titles: a CSV with columns code, title and (optional) kind; the code book holds all codes, most frequent first.

    Raises:
        HilatError: with the row's number: missing column, repeated id, empty text, spans outside of the text, wrong
            encoding, broken JSON, codes that were read as numbers.
    """
    path, columns = Path(path), columns or TableColumns()
    admissions: list[Admission] = []
    seen: dict[str, str] = {}
    for where, row in _rows(path, encoding):
        if not admissions:
            _check_columns(path, row, columns)
        admission = _admission(row, columns, f"{path}, {where}")
        if admission.hadm_id in seen:
            raise HilatError(
                f"{path}, {where} repeats id {admission.hadm_id} of {seen[admission.hadm_id]}; expected one row per "
                "admission. Join the notes of an admission, or drop one"
            )
        seen[admission.hadm_id] = where
        admissions.append(admission)
    if not admissions:
        raise HilatError(f"{path} holds no row; expected one per admission. Check that the export finished")
    known = _titles(titles, encoding) if titles else {}
    codes = top_k([a.codes for a in admissions], len({c for a in admissions for c in a.codes}))
    book = CodeBook(
        codes,
        tuple(known.get(code, ("", "diagnosis"))[0] for code in codes),
        tuple(known.get(code, ("", "diagnosis"))[1] for code in codes),
        system,
    )
    return Corpus(
        tuple(admissions), book, "table", {"file": path.name, "codes_without_title": sum(not t for t in book.titles)}
    )


def plain_offsets(text: str) -> NDArray[np.int64]:
    """For each position of a text (its end included), the position in `plain_text(text)`."""
    units = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    kept = (units != 0).astype(np.int64)
    kept[1:][(units[1:] == ord("\n")) & (units[:-1] == ord("\r"))] = 0  # of CRLF the CR stays, as LF
    return np.concatenate([[0], np.cumsum(kept)])


def _admission(row: Mapping[str, Any], columns: TableColumns, where: str) -> Admission:
    raw_id, raw_text = row.get(columns.id), row.get(columns.text)
    if raw_id is None or str(raw_id).strip() == "":
        raise HilatError(f"{where} has no {columns.id}; expected an id per admission. Fill it in or drop the row")
    if not isinstance(raw_text, str) or not raw_text.strip():
        raise HilatError(f"{where} (id {raw_id}) has an empty {columns.text}; fill it in or drop the row")
    text = plain_text(raw_text)
    codes = _codes(row.get(columns.codes), where)
    try:
        return Admission(
            hadm_id=str(raw_id).strip(),
            text=text,
            codes=codes,
            evidence=_spans(row.get(columns.evidence), raw_text, text, where),
            split=_optional(row.get(columns.split)),
            subject_id=_optional(row.get(columns.subject)),
        )
    except HilatError as error:
        raise HilatError(f"{where}: {error}") from None


def _codes(value: Any, where: str) -> tuple[str, ...]:
    if value is None or value == "":
        return ()
    if isinstance(value, str):
        if value.lstrip().startswith("["):
            value = _json(value, where, "a JSON array of codes")
        else:
            value = value.split(";" if ";" in value else ",")
    if not isinstance(value, list | tuple | np.ndarray) or any(not isinstance(code, str) for code in value):
        raise HilatError(
            f"{where} holds codes that are not text; expected codes as text, since a number has lost its zeros "
            "(038.9, 03.31). Export the column as text"
        )
    return tuple(dict.fromkeys(code.strip() for code in value if code.strip()))


def _spans(value: Any, raw: str, text: str, where: str) -> tuple[EvidenceSpan, ...]:
    if value is None or (isinstance(value, str) and not value.strip()):
        return ()
    items = _json(value, where, "a JSON list of spans") if isinstance(value, str) else value
    moved = plain_offsets(raw) if raw != text else None
    spans = []
    for item in items:
        try:
            pairs = item.get("segments") or [(item["start"], item["end"])]
            segments = tuple((int(pair[0]), int(pair[1])) for pair in pairs)
            code = str(item["code"])
        except (KeyError, TypeError, ValueError, IndexError, AttributeError):
            raise HilatError(
                f'{where} has a span that is not {{"code", "start", "end"}}; correct its evidence'
            ) from None
        for start, end in segments:
            if not 0 <= start < end <= len(raw):
                raise HilatError(
                    f"{where} has a span of code {code} at ({start}, {end}); the text has {len(raw)} characters. Expected "
                    "0 <= start < end within it. Check which text the offsets were counted in"
                )
        if moved is not None:
            segments = tuple((int(moved[start]), int(moved[end])) for start, end in segments)
        spans.append(EvidenceSpan(code, segments))
    return tuple(spans)


def _rows(path: Path, encoding: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows with what to call them in a message."""
    suffixes = [s.lower() for s in path.suffixes]
    kind = suffixes[-2] if suffixes and suffixes[-1] == ".gz" and len(suffixes) > 1 else (suffixes or [""])[-1]
    if not path.is_file():
        raise HilatError(f"{path} does not exist; expected a .csv, .jsonl or .parquet file. Check the path")
    if kind == ".parquet":
        yield from _parquet_rows(path)
    elif kind in (".csv", ".jsonl"):
        text = _decoded(path, encoding)
        yield from _csv_rows(path, text) if kind == ".csv" else _json_rows(path, text)
    else:
        raise HilatError(
            f"{path} is of no known kind; expected .csv, .csv.gz, .jsonl, .jsonl.gz or .parquet. Rename it"
        )


def _decoded(path: Path, encoding: str) -> str:
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix.lower() == ".gz" else path.read_bytes()
    except (EOFError, gzip.BadGzipFile):
        raise HilatError(f"{path} is a damaged or truncated gzip file; export or download it again") from None
    try:
        return raw.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise HilatError(
            f"{path}, line {line} is not {encoding} (byte {error.start} of the file); expected text in that encoding. "
            "Pass --encoding latin-1, say"
        ) from None
    except LookupError:
        raise HilatError(
            f"encoding {encoding!r} is not known; expected utf-8, latin-1, ... Correct --encoding"
        ) from None


def _csv_rows(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    before = csv.field_size_limit(_LONGEST_FIELD)
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        for number, row in enumerate(reader, 1):
            where = f"row {number} (up to line {reader.line_num})"
            if None in row or None in row.values():
                raise HilatError(
                    f"{path}, {where} has another number of fields than the header; expected {len(reader.fieldnames or [])}. "
                    "Check for quotes that are not closed or doubled"
                )
            yield where, row
    except csv.Error:
        raise HilatError(f"{path} is not well-formed CSV near line {reader.line_num}; check its quotes") from None
    finally:
        csv.field_size_limit(before)


def _json_rows(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            row = _json(line, f"{path}, line {number}", "one JSON object per line")
            if not isinstance(row, dict):
                raise HilatError(f"{path}, line {number} is not a JSON object; expected one object per line")
            yield f"line {number}", row


def _parquet_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        with pq.ParquetFile(path) as parquet:
            number = 0
            for batch in parquet.iter_batches(batch_size=500):
                for row in batch.to_pylist():
                    number += 1
                    yield f"row {number}", row
    except pa.ArrowInvalid:
        raise HilatError(f"{path} is no Parquet file, or truncated; export it again") from None


def _json(text: str, where: str, what: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise HilatError(f"{where} is broken JSON at character {error.pos}; expected {what}. Correct the row") from None


def _check_columns(path: Path, row: Mapping[str, Any], columns: TableColumns) -> None:
    options = {field.name: f"--{field.name}-column" for field in fields(TableColumns)}
    for name in ("id", "text", "codes"):
        wanted = getattr(columns, name)
        if wanted not in row:
            raise HilatError(
                f"{path} has no column {wanted!r}; found: {', '.join(str(c) for c in row)}. Rename the column or pass "
                f"{options[name]} NAME"
            )


def _titles(path: Path, encoding: str) -> dict[str, tuple[str, CodeKind]]:
    found: dict[str, tuple[str, CodeKind]] = {}
    for where, row in _csv_rows(path, _decoded(path, encoding)):
        if "code" not in row or "title" not in row:
            raise HilatError(
                f"{path}, {where} lacks code or title; found: {', '.join(row)}. Name the columns code,title,kind"
            )
        kind: CodeKind = "procedure" if row.get("kind") == "procedure" else "diagnosis"
        found[row["code"].strip()] = (row["title"].strip(), kind)
    return found


def _optional(value: Any) -> str | None:
    return None if value is None or str(value).strip() == "" else str(value).strip()

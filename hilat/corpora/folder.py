"""A corpus on disk: Parquet of admissions, a code book, a manifest. Written streaming and whole, or not at all."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hilat.admissions import Admission, CodeBook, EvidenceSpan, HilatError, NoteSpan
from hilat.files import new_folder, read_json, write_json

FORMAT = 1
_BATCH = 500  # admissions that are written at a time
_READ = 50  # and read
_SEGMENT = pa.struct([("start", pa.int64()), ("end", pa.int64())])
_SPAN = pa.struct([("code", pa.string()), ("segments", pa.list_(_SEGMENT)), ("kind", pa.string())])
_NOTE = pa.struct(
    [
        ("start", pa.int64()),
        ("end", pa.int64()),
        ("note_id", pa.string()),
        ("category", pa.string()),
        ("description", pa.string()),
        ("skipped", pa.int64()),
    ]
)
_NOTE_FIELDS = tuple(one.name for one in fields(NoteSpan))
_SCHEMA = pa.schema(
    [
        ("hadm_id", pa.string()),
        ("subject_id", pa.string()),
        ("split", pa.string()),
        ("text", pa.string()),
        ("codes", pa.list_(pa.string())),
        ("evidence", pa.list_(_SPAN)),
        ("decoys", pa.list_(_SPAN)),
        ("notes", pa.list_(_NOTE)),
    ]
)
_BOOK_SCHEMA = pa.schema([("code", pa.string()), ("title", pa.string()), ("kind", pa.string())])


@dataclass(frozen=True, slots=True)
class Corpus:
    """Admissions with their code book. source: where they come from. notes: counts and settings of their reading."""

    admissions: tuple[Admission, ...]
    code_book: CodeBook
    source: str
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of the splits, in order of appearance."""
        return tuple(dict.fromkeys(a.split for a in self.admissions if a.split is not None))

    def split(self, name: str) -> tuple[Admission, ...]:
        """The admissions of a split. Raises HilatError when there is none of that name."""
        found = tuple(a for a in self.admissions if a.split == name)
        if not found:
            have = ", ".join(self.splits) or "none"
            raise HilatError(f"the corpus has no split {name!r}; it has {have}. Name one of those, or make the split")
        return found


def write_corpus(
    path: Path,
    admissions: Iterable[Admission],
    code_book: CodeBook,
    *,
    source: str,
    notes: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Stream admissions into a corpus folder and return its manifest.

    The folder is written beside and renamed at the end; an interrupted write leaves nothing under its name.

    Raises:
        HilatError: no admission, an id given twice, or an existing folder without `overwrite`.
    """
    seen: set[str] = set()
    splits: Counter[str] = Counter()
    with new_folder(Path(path), overwrite=overwrite, what="corpus folder") as beside:
        file = beside / "admissions.parquet"
        stream = iter(admissions)
        with pq.ParquetWriter(file, _SCHEMA, compression="zstd") as writer:
            while batch := list(islice(stream, _BATCH)):
                for admission in batch:
                    if admission.hadm_id in seen:
                        raise HilatError(
                            f"admission {admission.hadm_id} comes twice; a corpus holds each once. Join or drop one"
                        )
                    seen.add(admission.hadm_id)
                    splits[admission.split or ""] += 1
                writer.write_table(pa.Table.from_pylist([_row(a) for a in batch], schema=_SCHEMA))
        if not seen:
            raise HilatError(f"{path}: no admission to write; expected at least one. Check the source and the filters")
        pq.write_table(
            pa.table(
                {"code": list(code_book.codes), "title": list(code_book.titles), "kind": list(code_book.kinds)},
                schema=_BOOK_SCHEMA,
            ),
            beside / "codes.parquet",
        )
        manifest = {
            "format": FORMAT,
            "source": source,
            "system": code_book.system,
            "codes": len(code_book),
            "admissions": len(seen),
            "splits": dict(splits),
            "sha256": {name: _digest(beside / name) for name in ("admissions.parquet", "codes.parquet")},
            "notes": dict(notes or {}),
        }
        write_json(beside / "manifest.json", manifest)
    return manifest


def read_corpus(path: Path, *, splits: Sequence[str] | None = None) -> Corpus:
    """Read a corpus folder, or only some of its splits.

    Raises:
        HilatError: no such folder, a file missing or changed since it was written, or a split that is not there.
    """
    manifest = checked_manifest(path, splits)
    return Corpus(
        tuple(stored_admissions(path, splits)),
        read_code_book(path),
        manifest["source"],
        manifest["notes"],
    )


def checked_manifest(path: Path, splits: Sequence[str] | None = None) -> dict[str, Any]:
    """The manifest of a corpus folder whose files are as they were written and that has these splits.

    Raises:
        HilatError: as for `read_corpus`.
    """
    manifest = read_manifest(path)
    known = [name for name in manifest["splits"] if name]
    for name in splits or ():
        if name not in known:
            raise HilatError(
                f"{path} has no split {name!r}; it has {', '.join(known) or 'none'}. Name one of those, or make the split"
            )
    for name, digest in manifest["sha256"].items():
        file = Path(path) / name
        if not file.is_file() or _digest(file) != digest:
            state = "is not what was written (truncated or changed)" if file.is_file() else "is missing"
            raise HilatError(f"{file} {state}; expected the file that the manifest describes. Make the corpus again")
    return manifest


def read_code_book(path: Path) -> CodeBook:
    """The code book of a corpus folder."""
    manifest = read_manifest(path)
    try:
        book = pq.read_table(Path(path) / "codes.parquet").to_pydict()
    except (OSError, pa.ArrowInvalid):
        raise HilatError(f"{path}/codes.parquet is missing or damaged; make the corpus again") from None
    return CodeBook(tuple(book["code"]), tuple(book["title"]), tuple(book["kind"]), manifest["system"])


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a corpus folder. Raises HilatError when the folder is none."""
    path = Path(path)
    if not path.is_dir():
        raise HilatError(f"{path} is not a folder; expected a corpus folder that `hilat corpus` wrote. Check the path")
    if not (path / "manifest.json").is_file():
        raise HilatError(f"{path} has no manifest.json; expected a corpus folder. Make one with `hilat corpus`")
    manifest = read_json(path / "manifest.json", what="the manifest of a corpus")
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise HilatError(f"{path / 'manifest.json'} is not of a corpus of format {FORMAT}; make the corpus again")
    return manifest


def stored_admissions(path: Path, splits: Sequence[str] | None = None) -> Iterator[Admission]:
    """The admissions of a corpus folder, or of some of its splits, one after the other as they are read from disk."""
    file = Path(path) / "admissions.parquet"
    wanted = None if splits is None else pa.array(list(splits), pa.string())
    with pq.ParquetFile(file) as parquet:
        for batch in parquet.iter_batches(batch_size=_READ):
            chosen = batch if wanted is None else batch.filter(pc.is_in(batch["split"], value_set=wanted))
            for row in chosen.to_pylist():
                yield Admission(
                    hadm_id=row["hadm_id"],
                    text=row["text"],
                    codes=tuple(row["codes"]),
                    evidence=_spans(row["evidence"]),
                    decoys=_spans(row["decoys"]),
                    split=row["split"],
                    subject_id=row["subject_id"],
                    notes=tuple(NoteSpan(**note) for note in row.get("notes") or ()),  # older corpora have none
                )


def _row(admission: Admission) -> dict[str, Any]:
    return {
        "hadm_id": admission.hadm_id,
        "subject_id": admission.subject_id,
        "split": admission.split,
        "text": admission.text,
        "codes": list(admission.codes),
        "evidence": [_span_row(span) for span in admission.evidence],
        "decoys": [_span_row(span) for span in admission.decoys],
        "notes": [{name: getattr(note, name) for name in _NOTE_FIELDS} for note in admission.notes],
    }


def _span_row(span: EvidenceSpan) -> dict[str, Any]:
    segments = [{"start": start, "end": end} for start, end in span.segments]
    return {"code": span.code, "segments": segments, "kind": span.kind}


def _spans(rows: list[dict[str, Any]]) -> tuple[EvidenceSpan, ...]:
    return tuple(
        EvidenceSpan(row["code"], tuple((s["start"], s["end"]) for s in row["segments"]), row["kind"]) for row in rows
    )


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

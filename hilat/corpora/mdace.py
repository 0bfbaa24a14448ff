"""MDACE's span format (Cheng et al. 2023): one JSON file per admission, its notes, and per note the annotated spans.

The released files hold no text: offsets count in the notes as MIMIC-III released them. This module reads and writes the
format, and puts spans on admissions; `mdace_corpus` makes a corpus of them with the notes of NOTEEVENTS.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hilat.admissions import Admission, CodeBook, EvidenceSpan, HilatError, NoteSpan
from hilat.files import new_folder, read_json, write_text

_DROPPED_BLANKS = (
    200  # at most so many blanks at the end of a joined note are gone; a span further out is of another text
)


@dataclass(frozen=True, slots=True)
class MdaceSpan:
    """One annotation: characters [begin, end) of its note."""

    begin: int
    end: int
    code: str
    code_system: str
    description: str
    type: str


@dataclass(frozen=True, slots=True)
class MdaceNote:
    """The annotations of one note; note_id is a row of NOTEEVENTS in the released files."""

    hadm_id: str
    note_id: str
    category: str
    description: str
    spans: tuple[MdaceSpan, ...]


def read_mdace(folder: Path) -> Iterator[MdaceNote]:
    """The notes of every JSON file of a folder, by file name.

    Raises:
        HilatError: no file, or the file and place of what is not of the format.
    """
    files = sorted(Path(folder).glob("*.json"))
    if not files:
        raise HilatError(f"{folder} holds no .json file; expected MDACE files, one per admission. Check the folder")
    for file in files:
        record = read_json(file, what="an MDACE file")
        for n, note in enumerate(_list(record, "notes", file, "the file")):
            where = f"note {n + 1}"
            spans = tuple(
                _span(a, file, f"{where}, annotation {i + 1}")
                for i, a in enumerate(_list(note, "annotations", file, where))
            )
            yield MdaceNote(
                str(_field(record, "hadm_id", file, "the file")),
                str(_field(note, "note_id", file, where)),
                str(note.get("category", "")),
                str(note.get("description", "")),
                spans,
            )


def with_mdace_evidence(
    admissions: Sequence[Admission], notes: Iterable[MdaceNote], codes: CodeBook | None = None
) -> tuple[tuple[Admission, ...], int]:
    """Admissions with the spans of their MDACE notes as evidence, and how many spans were left out.

    Where an admission knows its notes by id (MIMIC corpora do), spans are put on the note they were made on; those of notes that the
    text does not hold are left out. Otherwise an admission must have one annotated note, whose text is the admission's.
    Left out too are spans of codes that `codes` does not have, and of blanks that joining dropped.

    Raises:
        HilatError: an admission without known notes has several annotated ones, or a span beyond its note.
    """
    of: dict[str, list[MdaceNote]] = {}
    for note in notes:
        if note.spans:
            of.setdefault(note.hadm_id, []).append(note)
    left_out = 0
    found = []
    for admission in admissions:
        kept: dict[EvidenceSpan, None] = {}
        for annotated, place in _places(admission, of.get(admission.hadm_id, [])):
            for span in annotated.spans:
                segment = None
                if place is not None and (codes is None or span.code in codes):
                    segment = placed(span.begin, span.end, place, admission)
                if segment is None:
                    left_out += 1
                else:
                    kept[EvidenceSpan(span.code, (segment,))] = None
        found.append(replace(admission, evidence=tuple(kept)))
    return tuple(found), left_out


def placed(begin: int, end: int, note: NoteSpan, admission: Admission) -> tuple[int, int] | None:
    """Characters [begin, end) of a note, as `plain_text`, as characters of its admission; None where joining dropped them.

    Raises:
        HilatError: the span ends beyond the note (before another note, beyond more blanks than joining may have dropped).
    """
    first, last = note.start + begin - note.skipped, note.start + end - note.skipped
    if last > note.end + (_DROPPED_BLANKS if note.end < len(admission.text) else 0):
        raise HilatError(
            f"admission {admission.hadm_id} has an MDACE span that ends at {end} in a text of "
            f"{note.end - note.start + note.skipped} characters; expected spans of this text. Check that the note is the same"
        )
    first, last = max(first, note.start), min(last, note.end)
    return (first, last) if first < last else None


def _places(admission: Admission, annotated: Sequence[MdaceNote]) -> list[tuple[MdaceNote, NoteSpan | None]]:
    """Each annotated note with where it lies; None where the admission's text does not hold it."""
    if any(note.note_id for note in admission.notes):
        lies = {note.note_id: note for note in admission.notes}
        return [(note, lies.get(note.note_id)) for note in annotated]
    if len(annotated) > 1:
        raise HilatError(
            f"admission {admission.hadm_id} has {len(annotated)} annotated notes in the MDACE files and one text here; "
            "expected one. Keep the files of the note whose text the corpus holds, or make it with `hilat corpus mdace`"
        )
    whole = NoteSpan(0, len(admission.text))
    return [(note, whole) for note in annotated]


def write_mdace(
    folder: Path,
    evidence: Iterable[tuple[str, Sequence[EvidenceSpan]]],
    codes: CodeBook,
    *,
    kind: str = "Human",
    overwrite: bool = False,
) -> int:
    """Write (hadm_id, spans) as one file per admission, one note each; returns how many spans.

    kind: the "type" of the annotations. The segments of a discontinuous span become annotations of their own, as the
    format has no other way.
    """
    count = 0
    with new_folder(Path(folder), overwrite=overwrite, what="MDACE folder") as beside:
        for hadm_id, spans in evidence:
            rows: list[dict[str, Any]] = []
            for span in spans:
                for begin, end in span.segments:
                    system = (
                        f"{codes.system} {codes.kinds[codes.column(span.code)]}" if span.code in codes else codes.system
                    )
                    rows.append(
                        {"begin": begin, "end": end, "code": span.code, "code_system": system, "description": codes.title(span.code) if span.code in codes else "", "type": kind}
                    )  # fmt: skip
            count += len(rows)
            rows.sort(key=lambda row: (row["begin"], row["end"], row["code"]))
            note = {"note_id": 0, "category": "Discharge summary", "description": "Report", "annotations": rows}
            record = {"hadm_id": hadm_id, "comment": "", "notes": [note]}
            safe = "".join(ch if ch.isalnum() or ch in "-_." else "_" for ch in hadm_id)
            write_text(beside / f"{safe}.json", json.dumps(record, ensure_ascii=False) + "\n")
    return count


def _span(value: Any, file: Path, where: str) -> MdaceSpan:
    begin, end = _field(value, "begin", file, where), _field(value, "end", file, where)
    if type(begin) is not int or type(end) is not int or not 0 <= begin < end:
        raise HilatError(
            f"{file}, {where} has a span that does not begin before it ends; expected whole numbers begin < end. "
            "Repair the file"
        )
    code = str(_field(value, "code", file, where))
    return MdaceSpan(
        begin, end, code, str(value.get("code_system", "")), str(value.get("description", "")), str(value.get("type", ""))
    )  # fmt: skip


def _field(value: Any, name: str, file: Path, where: str) -> Any:
    if not isinstance(value, dict) or name not in value:
        raise HilatError(f"{file}, {where} has no {name!r}; expected MDACE's format. Check that this is an MDACE file")
    return value[name]


def _list(value: Any, name: str, file: Path, where: str) -> list[Any]:
    found = _field(value, name, file, where)
    if not isinstance(found, list):
        raise HilatError(f"{file}, {where} has {name!r} that is no list; expected MDACE's format. Repair the file")
    return found

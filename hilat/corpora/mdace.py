"""MDACE's span format (Cheng et al. 2023): one JSON file per admission, its notes, and per note the annotated spans.

The released files hold no text: offsets count in the notes as MIMIC-III released them. This module reads and writes the
format; joining spans to the notes of NOTEEVENTS needs those.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hilat.admissions import Admission, CodeBook, EvidenceSpan, HilatError
from hilat.files import new_folder, read_json, write_text


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
    """Admissions with the spans of their MDACE note as evidence, and how many spans of other codes were left out.

    Each admission must have one note in the files, whose text is the admission's: otherwise offsets would not fit.

    Raises:
        HilatError: an admission with several annotated notes, or a span beyond its text.
    """
    of: dict[str, list[MdaceNote]] = {}
    for note in notes:
        if note.spans:
            of.setdefault(note.hadm_id, []).append(note)
    left_out = 0
    found = []
    for admission in admissions:
        own = of.get(admission.hadm_id, [])
        if len(own) > 1:
            raise HilatError(
                f"admission {admission.hadm_id} has {len(own)} annotated notes in the MDACE files and one text here; "
                "expected one. Keep the files of the note whose text the corpus holds"
            )
        spans = []
        for span in own[0].spans if own else ():
            if codes is not None and span.code not in codes:
                left_out += 1
                continue
            if span.end > len(admission.text):
                raise HilatError(
                    f"admission {admission.hadm_id} has an MDACE span that ends at {span.end} in a text of "
                    f"{len(admission.text)} characters; expected spans of this text. Check that the note is the same"
                )
            spans.append(EvidenceSpan(span.code, ((span.begin, span.end),)))
        kept = tuple(dict.fromkeys(spans))
        found.append(Admission(admission.hadm_id, admission.text, admission.codes, kept, admission.decoys, admission.split, admission.subject_id))  # fmt: skip
    return tuple(found), left_out


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

"""MDACE as a corpus (Cheng et al. 2023): the annotated notes out of MIMIC-III's NOTEEVENTS, with the coders' spans as evidence.

Offsets are counted in the notes as released; they are followed through the change of line ends and the joining of several
notes, and every span's text can be found again. ICD-9 and ICD-10 are two folders of the release, and are kept apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import duckdb
import pyarrow as pa

from hilat.admissions import Admission, CodeBook, CodeKind, HilatError, plain_text
from hilat.corpora.folder import Corpus
from hilat.corpora.labelsets import top_k
from hilat.corpora.mdace import MdaceNote, MdaceSpan, read_mdace, with_mdace_evidence
from hilat.corpora.mimic_codes import SYSTEMS
from hilat.corpora.mimic_notes import DISCHARGE, NoteText, join_texts
from hilat.corpora.mimic_tables import MIMIC3, Release, Table, column_sql, database, id_sql, rows_of, text_sql, time_sql
from hilat.corpora.splits import SplitFiles, read_split_files
from hilat.corpora.tables import plain_offsets

CITATION = "Cheng et al. 2023, MDACE: MIMIC Documents Annotated with Code Evidence, ACL 2023, pages 7534-7550"
SplitSet = Literal["ev", "code-ev"]
# Of MIMIC-III only the notes are needed.
NOTES = Release(MIMIC3.name, {"NOTEEVENTS": MIMIC3.required["NOTEEVENTS"]}, MIMIC3.schemas, MIMIC3.optional)


@dataclass(frozen=True, slots=True)
class MdaceSettings:
    """What is made of MDACE.

    categories: of notes, in the order in which they are joined; none: all annotated notes, the discharge summary first.
    codes: a label set, such as that of the model to be judged; None: all annotated codes.
    memory_limit_mb, threads: DuckDB's. temp_folder: where the annotated notes lie while it runs; None: the system's place.
    """

    categories: tuple[str, ...] = (DISCHARGE,)
    codes: CodeBook | None = None
    memory_limit_mb: int = 512
    threads: int = 2
    temp_folder: Path | None = None


def mdace_split_files(folder: Path, which: SplitSet = "ev") -> SplitFiles:
    """The split files of the release, `MDace-ev-train.csv` and so on.

    Arguments:
        which: "ev" the annotated admissions (302), "code-ev" all of MIMIC-III's that the paper trained on.

    Raises:
        HilatError: one is missing.
    """
    paths = {name: Path(folder) / f"MDace-{which}-{name}.csv" for name in ("train", "val", "test")}
    missing = [path.name for path in paths.values() if not path.is_file()]
    if missing:
        raise HilatError(
            f"{folder} has no {', '.join(missing)}; expected the split files of MDACE. Give its folder splits/Inpatient"
        )
    return SplitFiles(**paths)


def read_mdace_corpus(
    folder: Path, noteevents: Table, settings: MdaceSettings | None = None, splits: SplitFiles | None = None
) -> Corpus:
    """The annotated admissions: notes joined with their borders, the annotated codes, the spans as evidence.

    notes holds counts: of annotated notes used and left out, of spans by how their code was found, of spans left out.

    Arguments:
        folder: of the JSON files of one version of the ICD, such as data/Inpatient/ICD-9/1.0.
        noteevents: MIMIC-III's table (of `find_tables([folder], NOTES)` or `database_tables(url, NOTES)`).
        splits: files of the release; admissions outside them are left out.

    Raises:
        HilatError: files that are not MDACE's, notes that are of other admissions or not there, spans beyond their note.
    """
    settings = settings or MdaceSettings()
    assigned = read_split_files(splits) if splits is not None else None
    everything = [note for note in read_mdace(folder) if note.spans]
    version, annotated, other = _of_one_version(everything)
    wanted = [note for note in annotated if _rank(note.category, settings.categories) is not None]
    kept = [note for note in wanted if assigned is None or note.hadm_id in assigned]
    if not kept:
        raise HilatError(
            f"{folder} has {len(annotated)} annotated notes, none of them of the categories "
            f"{', '.join(settings.categories) or '(all)'} and in the splits; expected some. Check the categories and files"
        )
    with database(
        settings.temp_folder, memory_limit_mb=settings.memory_limit_mb, threads=settings.threads
    ) as connection:
        _stage(connection, noteevents, [note.note_id for note in kept])
        texts, subjects, missing = _staged(connection, noteevents, kept)
    admissions, spans_without_note = [], sum(len(note.spans) for note in kept if note.note_id in missing)
    of_blanks = 0
    for hadm_id in sorted({note.hadm_id for note in kept if note.note_id not in missing}, key=int):
        own = [note for note in kept if note.hadm_id == hadm_id and note.note_id not in missing]
        own.sort(key=lambda note: (_rank(note.category, settings.categories), texts[note.note_id][0]))
        split = assigned[hadm_id] if assigned is not None else None
        admission, dropped = _admission(own, [texts[note.note_id][1] for note in own], split, subjects[hadm_id])
        admissions.append(admission)
        of_blanks += dropped
    book = settings.codes or _book(annotated, [a.codes for a in admissions], version)
    counts: dict[str, Any] = {
        "citation": CITATION,
        "files": {"NOTEEVENTS": noteevents.file},
        "annotated_notes": {
            "of_the_release": len(everything),
            "of_other_categories": len(annotated) - len(wanted),
            "outside_the_splits": len(wanted) - len(kept),
            "not_in_noteevents": len(missing),
            "used": len(kept) - len(missing),
        },
        "spans_by_mapping": dict(Counter(s.type for n in kept if n.note_id not in missing for s in n.spans)),
        "spans_left_out": {
            "of_other_icd_version": other,
            "of_missing_notes": spans_without_note,
            "of_blanks_between_notes": of_blanks,
        },
    }
    return _restricted(Corpus(tuple(admissions), book, f"mdace-icd{version}", counts))


def _restricted(corpus: Corpus) -> Corpus:
    """The corpus with only spans of its label set, the others counted."""
    admissions = [
        replace(admission, evidence=tuple(span for span in admission.evidence if span.code in corpus.code_book))
        for admission in corpus.admissions
    ]
    outside = sum(len(a.evidence) for a in corpus.admissions) - sum(len(a.evidence) for a in admissions)
    left_out = {**corpus.notes["spans_left_out"], "outside_the_label_set": outside}
    return replace(corpus, admissions=tuple(admissions), notes={**corpus.notes, "spans_left_out": left_out})


def _of_one_version(notes: Sequence[MdaceNote]) -> tuple[Literal[9, 10], list[MdaceNote], int]:
    """The version that most spans are of, the notes with only those spans, and how many are of the other."""
    systems = Counter("10" in span.code_system for note in notes for span in note.spans)
    version: Literal[9, 10] = 10 if systems[True] > systems[False] else 9
    own = [
        replace(note, spans=tuple(span for span in note.spans if ("10" in span.code_system) == (version == 10)))
        for note in notes
    ]
    return version, [note for note in own if note.spans], systems[version != 10]


def _rank(category: str, categories: Sequence[str]) -> int | None:
    """The place of a category in the order of joining; None: it is not joined."""
    name = category.strip().lower()
    if not categories:
        return 0 if name == DISCHARGE.lower() else 1
    wanted = [one.strip().lower() for one in categories]
    return wanted.index(name) if name in wanted else None


def _stage(connection: duckdb.DuckDBPyConnection, table: Table, note_ids: Sequence[str]) -> None:
    """Copy the annotated notes into `annotated`: one pass over NOTEEVENTS."""
    connection.register("wanted_rows", pa.table({"note_id": pa.array(list(note_ids), pa.string())}))
    connection.execute("CREATE TEMP TABLE wanted AS SELECT DISTINCT note_id FROM wanted_rows")
    connection.unregister("wanted_rows")
    with rows_of(connection, table) as source:
        connection.execute(
            f"""
            CREATE TABLE annotated AS SELECT * FROM (
                SELECT {id_sql(table, "row_id")} AS note_id, {id_sql(table, "hadm_id")} AS hadm_id,
                    {id_sql(table, "subject_id")} AS subject_id, {text_sql(table, "category")} AS category,
                    {text_sql(table, "description")} AS description,
                    coalesce({time_sql(table, "charttime")}, {time_sql(table, "chartdate")}) AS noted,
                    {column_sql(table, "text")} AS text
                FROM {source}
            ) SEMI JOIN wanted USING (note_id)
            """
        )


def _staged(
    connection: duckdb.DuckDBPyConnection, table: Table, kept: Sequence[MdaceNote]
) -> tuple[dict[str, tuple[tuple[Any, ...], NoteText]], dict[str, str | None], set[str]]:
    """By note: its sorting key (report first, then by time) and text; subject by admission; the notes not found."""
    rows = connection.execute(
        "SELECT note_id, hadm_id, subject_id, coalesce(category, ''), coalesce(description, ''), "
        "coalesce(CAST(noted AS VARCHAR), '9999'), coalesce(text, '') FROM annotated"
    ).fetchall()
    admission_of = {note.note_id: note.hadm_id for note in kept}
    strange = sorted(row[0] for row in rows if row[1] != admission_of[row[0]])
    if strange or not rows:
        what = (
            f"{len(strange)} annotated notes in other admissions ({', '.join(strange[:5])})" if rows else "none of them"
        )
        raise HilatError(
            f"{table.place} has {what}, of {len(kept)} annotated; expected MIMIC-III v1.4, whose row_ids MDACE names. "
            "Use its own file"
        )
    texts = {
        row[0]: ((row[4].lower() != "report", row[5], int(row[0])), NoteText(row[0], row[3], row[4], row[6]))
        for row in rows
    }
    return texts, {row[1]: row[2] for row in rows}, set(admission_of) - set(texts)


def _admission(
    notes: Sequence[MdaceNote], texts: Sequence[NoteText], split: str | None, subject: str | None
) -> tuple[Admission, int]:
    """One admission: its notes as one text, and their spans where they lie in it; how many lie on dropped blanks."""
    joined = join_texts(notes[0].hadm_id, texts, each_once=False)
    plain = [replace(note, spans=_plain_spans(note, text.text)) for note, text in zip(notes, texts, strict=True)]
    codes = tuple(dict.fromkeys(span.code for note in notes for span in note.spans))
    bare = Admission(joined.hadm_id, joined.text, codes, split=split, subject_id=subject, notes=joined.notes)
    (admission,), dropped = with_mdace_evidence([bare], plain)
    return admission, dropped + sum(len(n.spans) for n in notes) - sum(len(n.spans) for n in plain)


def _plain_spans(note: MdaceNote, raw: str) -> tuple[MdaceSpan, ...]:
    """The spans with offsets into `plain_text(raw)` in place of those into the note as released."""
    beyond = max(span.end for span in note.spans)
    if beyond > len(raw):
        raise HilatError(
            f"note {note.note_id} of admission {note.hadm_id} has an MDACE span that ends at {beyond}; it has {len(raw)} "
            "characters. Expected the note as MIMIC-III v1.4 has it. Use its own file, not an edited one"
        )
    if plain_text(raw) == raw:
        return note.spans
    moved = plain_offsets(raw)
    ends = ((int(moved[span.begin]), int(moved[span.end]), span) for span in note.spans)
    return tuple(replace(span, begin=begin, end=end) for begin, end, span in ends if begin < end)


def _book(notes: Sequence[MdaceNote], codes: Sequence[Sequence[str]], version: Literal[9, 10]) -> CodeBook:
    """All annotated codes, most frequent first, with MDACE's descriptions as titles."""
    spans = {span.code: span for note in notes for span in note.spans}
    ordered = top_k(codes, len({code for one in codes for code in one}))
    kinds: list[CodeKind] = ["procedure" if "PCS" in spans[code].code_system else "diagnosis" for code in ordered]
    return CodeBook(ordered, tuple(spans[code].description for code in ordered), tuple(kinds), SYSTEMS[version])

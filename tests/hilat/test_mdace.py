"""MDACE's spans on notes: every span's text is found again, whatever joining and line ends did to its place."""

from __future__ import annotations

import csv
import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hilat.admissions import Admission, CodeBook, HilatError
from hilat.corpora.folder import read_corpus, write_corpus
from hilat.corpora.mdace import read_mdace, with_mdace_evidence
from hilat.corpora.mdace_corpus import NOTES, MdaceSettings, mdace_split_files, read_mdace_corpus
from hilat.corpora.mimic_notes import NoteText, join_texts
from hilat.corpora.mimic_tables import Table, find_tables
from hilat.corpora.overlap import overlap
from hilat.corpora.splits import caml_split_files, read_split_files

Run = Callable[..., Any]
HEADER = [
    "ROW_ID",
    "SUBJECT_ID",
    "HADM_ID",
    "CHARTDATE",
    "CHARTTIME",
    "STORETIME",
    "CATEGORY",
    "DESCRIPTION",
    "CGID",
    "ISERROR",
    "TEXT",
]
ALL_NOTES = MdaceSettings(categories=())


def noteevents(folder: Path, rows: list[list[str]]) -> Path:
    """NOTEEVENTS.csv of these rows."""
    folder.mkdir(exist_ok=True)
    with (folder / "NOTEEVENTS.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(HEADER)
        writer.writerows(rows)
    return folder


def table(folder: Path) -> Table:
    return find_tables([folder], NOTES)["NOTEEVENTS"]


def row(note_id: int, hadm: str, text: str, category: str = "Discharge summary", what: str = "Report") -> list[str]:
    return [str(note_id), hadm[:-1], hadm, "2151-08-04", "", "", category, what, "", "", text]


def annotated(folder: Path, hadm: str, notes: list[tuple[int, str, list[tuple[int, int, str, str]]]]) -> Path:
    """One MDACE file: per note its id, category and spans (begin, end, code, system)."""
    folder.mkdir(exist_ok=True)
    record = {
        "hadm_id": int(hadm),
        "comment": "",
        "notes": [
            {
                "note_id": note_id,
                "category": category,
                "description": "Report",
                "annotations": [
                    {"begin": b, "end": e, "code": c, "code_system": s, "description": f"Title {c}", "type": "Human"}
                    for b, e, c, s in spans
                ],
            }
            for note_id, category, spans in notes
        ],
    }
    (folder / f"{hadm}.json").write_text(json.dumps(record))
    return folder


def invented(shared: Path, tmp_path: Path, version: str) -> tuple[Path, Path, dict[tuple[str, str], list[str]]]:
    """MDACE's real files with invented notes of the same ids, each span's text made unique; and those texts."""
    folder = shared / "data" / "mdace" / "data" / "Inpatient" / version / "1.0"
    if not folder.is_dir():
        pytest.skip("the MDACE annotations are not here")
    rng = random.Random(3)
    pool = rng.choices("abcdefgh \n", k=997)
    rows, said = [], {}
    for note in read_mdace(folder):
        length = max((span.end for span in note.spans), default=50) + 20
        text = (pool * (length // len(pool) + 1))[:length]
        for at in rng.sample(range(1, length - 2), 6):  # CRLF, as some exports have it, wherever it falls
            text[at : at + 2] = ["\r", "\n"]
        raw = "\n\n" + "".join(text)[2:] if rng.random() < 0.3 else "".join(text)
        for span in note.spans:
            plain = raw[span.begin : span.end].replace("\r\n", "\n").replace("\r", "\n").strip()
            said.setdefault((note.hadm_id, note.note_id), []).append(plain)
        rows.append(row(int(note.note_id), note.hadm_id, raw, note.category, note.description))
    rng.shuffle(rows)
    return folder, noteevents(tmp_path, rows), said


@pytest.mark.parametrize("version", ["ICD-9", "ICD-10"])
def test_the_released_spans_come_back_from_all_notes(shared: Path, tmp_path: Path, version: str) -> None:
    folder, mimic, said = invented(shared, tmp_path, version)
    splits = mdace_split_files(shared / "data" / "mdace" / "splits" / "Inpatient")
    corpus = read_mdace_corpus(folder, table(mimic), ALL_NOTES, splits)
    assert len(corpus.admissions) == 302
    assert {name: len(corpus.split(name)) for name in ("train", "val", "test")} == {"train": 181, "val": 60, "test": 61}
    assert corpus.code_book.system == ("ICD-9-CM" if version == "ICD-9" else "ICD-10-CM/PCS")
    assert corpus.notes["spans_left_out"]["of_other_icd_version"] == (0 if version == "ICD-9" else 2)
    whole = {note.note_id: note for note in read_mdace(folder)}
    for admission in corpus.admissions:
        expected: set[tuple[str, str, str]] = set()
        for place in admission.notes:
            spans = zip(whole[place.note_id].spans, said[admission.hadm_id, place.note_id], strict=True)
            expected |= {(place.note_id, s.code, t) for s, t in spans if t and version.split("-")[1] in s.code_system}
        found = set()
        for span in admission.evidence:
            (place,) = [n for n in admission.notes if n.start <= span.start and span.end <= n.end]
            found.add((place.note_id, span.code, admission.text[span.start : span.end].strip()))
        assert {one for one in found if one[2]} == expected
        assert {span.code for span in admission.evidence} <= set(admission.codes)


def test_discharge_summaries_only_by_default(shared: Path, tmp_path: Path) -> None:
    folder, mimic, _ = invented(shared, tmp_path, "ICD-9")
    corpus = read_mdace_corpus(folder, table(mimic))
    assert {n.category for a in corpus.admissions for n in a.notes} == {"Discharge summary"}
    notes = corpus.notes["annotated_notes"]
    assert notes["of_the_release"] == notes["used"] + notes["of_other_categories"]
    assert sum(corpus.notes["spans_by_mapping"].values()) >= sum(len(a.evidence) for a in corpus.admissions) > 2000


def test_spans_by_hand_with_windows_line_ends_and_a_seam(tmp_path: Path) -> None:
    first, second = "Sepsis.\r\nHome \r\n", "\r\n\r\nKidney failure.\r\n"
    mimic = noteevents(tmp_path / "m", [row(7, "1001", first), row(8, "1001", second, what="Addendum")])
    spans = [(9, 13, "V60", "ICD-9-CM"), (0, 6, "038.9", "ICD-9-CM"), (13, 16, "799", "ICD-9-CM")]
    notes = [(8, "Discharge summary", [(4, 10, "584.9", "ICD-9-CM")]), (7, "Discharge summary", spans)]
    corpus = read_mdace_corpus(annotated(tmp_path / "a", "1001", notes), table(mimic))
    (admission,) = corpus.admissions
    assert admission.text == "Sepsis.\nHome\n\nKidney failure.\n"
    told = {span.code: admission.text[span.start : span.end] for span in admission.evidence}
    assert told == {"V60": "Home", "038.9": "Sepsis", "584.9": "Kidney"}  # 799 was on the blanks that joining dropped
    assert corpus.notes["spans_left_out"]["of_blanks_between_notes"] == 1
    assert corpus.code_book.title("584.9") == "Title 584.9"
    only = CodeBook(("038.9",), ("",), ("diagnosis",))
    fewer = read_mdace_corpus(tmp_path / "a", table(mimic), MdaceSettings(codes=only))
    assert [span.code for span in fewer.admissions[0].evidence] == ["038.9"]
    assert fewer.notes["spans_left_out"]["outside_the_label_set"] == 2


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([row(7, "1002", "Sepsis.")], r"1 annotated notes in other admissions \(7\)"),
        ([row(9, "1001", "Sepsis.")], "has none of them, of 1 annotated"),
        ([row(7, "1001", "Sep")], "ends at 6; it has 3 characters"),
    ],
)
def test_other_notes_than_the_annotated_are_refused(tmp_path: Path, rows: list[list[str]], said: str) -> None:
    folder = annotated(tmp_path / "a", "1001", [(7, "Discharge summary", [(0, 6, "038.9", "ICD-9-CM")])])
    with pytest.raises(HilatError, match=said):
        read_mdace_corpus(folder, table(noteevents(tmp_path / "m", rows)))


def test_an_admission_that_knows_its_notes_takes_spans_of_each(tmp_path: Path) -> None:
    joined = join_texts("1001", [NoteText("7", "", "", "Sepsis.\n\n"), NoteText("8", "", "", "\nKidney failure.")])
    admission = Admission("1001", joined.text, (), notes=joined.notes)
    spans = {7: [(0, 6, "038.9", "")], 8: [(1, 7, "584.9", "")], 9: [(0, 3, "486", "")]}
    folder = annotated(tmp_path / "a", "1001", [(n, "", s) for n, s in spans.items()])
    (found,), left_out = with_mdace_evidence([admission], read_mdace(folder))
    assert [found.text[s.start : s.end] for s in found.evidence] == ["Sepsis", "Kidney"]
    assert left_out == 1  # note 9 is not in the text
    assert found.notes == admission.notes
    with pytest.raises(HilatError, match="3 annotated notes"):
        with_mdace_evidence([replace(admission, notes=())], read_mdace(folder))


def test_leaks_are_found_by_admission_by_text_and_by_patient() -> None:
    trained = [Admission("1", "one", (), subject_id="a"), Admission("2", "two", (), subject_id="b")]
    judged = [
        Admission("1", "one, edited", (), subject_id="a"),
        Admission("3", " two\n", (), subject_id="c"),
        Admission("4", "four", (), subject_id="b"),
        Admission("5", "five", (), subject_id="d"),
        Admission("6", "six", ()),
    ]
    found = overlap(judged, iter(trained))
    assert (found.admissions, found.texts, found.subjects) == (("1",), ("3",), ("4",))
    assert found.leaks == {"1", "3", "4"}
    assert found.counts() == {"judged": 5, "trained_on": 2, "same_admission": 1, "same_text": 1, "same_subject": 1}


def test_the_command_refuses_what_was_trained_on_or_leaves_it_out(tmp_path: Path, run: Run) -> None:
    spans = [(0, 6, "038.9", "ICD-9-CM")]
    for hadm, note_id in (("1001", 7), ("2001", 8), ("3001", 9)):
        annotated(tmp_path / "a", hadm, [(note_id, "Discharge summary", spans)])
    texts = {7: "Sepsis. Home.", 8: "Sepsis again.", 9: "Sepsis, third."}
    mimic = noteevents(tmp_path / "m", [row(n, f"{n - 6}001", text) for n, text in texts.items()])
    trained = [
        Admission("1001", "Sepsis. Home.", ("038.9",), split="train"),
        Admission("2001", "Other.", (), split="test"),
    ]
    book = CodeBook(("038.9",), ("Septicemia",), ("diagnosis",))
    write_corpus(tmp_path / "trained", trained, book, source="test")
    command = ("corpus", "mdace", tmp_path / "a", "--mimic", mimic, "--against", tmp_path / "trained")
    refused = run(*command, "--out", tmp_path / "out")
    assert refused.code == 1
    assert "1 of MDACE's 3 admissions are in the training split: 1 as such" in refused.err
    assert not (tmp_path / "out").exists()
    kept = run(*command, "--leaks", "keep", "--out", tmp_path / "kept", "--json")
    assert kept.json["notes"]["leaks"]["same_admission"] == 1
    dropped = run(*command, "--leaks", "drop", "--codes-of", tmp_path / "trained", "--out", tmp_path / "out")
    assert dropped.code == 0, dropped.err
    corpus = read_corpus(tmp_path / "out")
    assert [a.hadm_id for a in corpus.admissions] == ["2001", "3001"]
    assert corpus.code_book == book
    counted = run("corpus", "overlap", tmp_path / "kept", tmp_path / "trained", "--split", "all", "--json")
    assert counted.json == {"judged": 3, "trained_on": 1, "same_admission": 1, "same_text": 0, "same_subject": 0}
    checked = run("corpus", "overlap", tmp_path / "kept", tmp_path / "trained", "--split", "all", "--check")
    assert checked.code == 1
    clean = run("corpus", "overlap", tmp_path / "out", tmp_path / "trained", "--split", "all", "--check")
    assert (clean.code, "same admission: 0" in clean.out) == (0, True)


def test_mdaces_admissions_are_in_the_test_split_of_caml(shared: Path) -> None:
    folder = shared / "data"
    if not (folder / "mdace").is_dir() or not (folder / "caml_splits").is_dir():
        pytest.skip("the MDACE and CAML splits are not here")
    annotated_ids = read_split_files(mdace_split_files(folder / "mdace" / "splits" / "Inpatient"))
    assert Counter(annotated_ids.values()) == {"train": 181, "val": 60, "test": 61}
    caml = read_split_files(caml_split_files(folder / "caml_splits", "full"))
    assert {caml[hadm_id] for hadm_id in annotated_ids} == {"test"}
    supervised = read_split_files(mdace_split_files(folder / "mdace" / "splits" / "Inpatient", "code-ev"))
    assert {i: supervised[i] for i in annotated_ids} == annotated_ids  # a model trained on code-ev has seen 181 of them
    with pytest.raises(HilatError, match=r"MDace-ev-train\.csv"):
        mdace_split_files(folder)

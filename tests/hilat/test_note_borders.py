"""Several notes of an admission as one text: where each lies is known, and comes back from the corpus folder."""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
import random
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from hilat.admissions import Admission, HilatError, NoteSpan
from hilat.corpora.describe import describe
from hilat.corpora.folder import read_corpus
from hilat.corpora.mimic import MimicSettings
from hilat.corpora.mimic3 import convert_mimic3, read_mimic3
from hilat.corpora.mimic_notes import NoteText, join_texts

HEADER = ["ROW_ID", "SUBJECT_ID", "HADM_ID", "CHARTDATE", "CHARTTIME", "CATEGORY", "DESCRIPTION", "ISERROR", "TEXT"]
CODES = "ROW_ID,SUBJECT_ID,HADM_ID,SEQ_NUM,ICD9_CODE\n1,10,100,1,4019\n"
TITLES = "ROW_ID,ICD9_CODE,SHORT_TITLE,LONG_TITLE\n1,4019,h,High\n2,0066,p,PTCA\n"
ALL = MimicSettings(labels="all", keep="all", splits=None)


def tables(folder: Path, notes: list[tuple[int, str, str, str, str]]) -> Path:
    """MIMIC-III's tables with these notes: row, admission, category, description, text."""
    folder.mkdir(exist_ok=True)
    with (folder / "NOTEEVENTS.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(HEADER)
        writer.writerows(
            [row, "10", hadm, "2151-08-04", "", kind, what, "", text] for row, hadm, kind, what, text in notes
        )
    for name in ("DIAGNOSES_ICD", "PROCEDURES_ICD"):
        (folder / f"{name}.csv").write_text(CODES if name == "DIAGNOSES_ICD" else CODES.replace("4019", "0066"))
        (folder / f"D_{name.replace('DIAGNOSES_ICD', 'ICD_DIAGNOSES').replace('PROCEDURES_ICD', 'ICD_PROCEDURES')}.csv").write_text(TITLES)  # fmt: skip
    return folder


def some_notes(seed: int) -> list[tuple[int, str, str, str, str]]:
    rng = random.Random(seed)
    words = ["fever", '"denies"', "\n", "\n\n", "\r\n", "été", ",", "  ", "1,2,3"]
    return [
        (
            row,
            rng.choice(["100", "101", "102"]),
            rng.choice(["Discharge summary", "Discharge summary", "Radiology"]),
            rng.choice(["Report", "Addendum"]),
            rng.choice(["", "\n", "\r\n\n"])
            + f"{row} "
            + " ".join(rng.choices(words, k=20))
            + rng.choice(["", " \n\n"]),
        )
        for row in range(1, 40)
    ]


@pytest.mark.parametrize("seed", [1, 2])
def test_each_note_is_found_in_the_text_and_the_corpus_folder_keeps_it(tmp_path: Path, seed: int) -> None:
    notes = some_notes(seed)
    raw = {str(row): text.replace("\r\n", "\n") for row, _, _, _, text in notes}
    folder = tables(tmp_path / "in", notes)
    convert_mimic3(folder, tmp_path / "out", ALL, categories=("Discharge summary", "Radiology"))
    corpus = read_corpus(tmp_path / "out")
    assert sorted(n.note_id for a in corpus.admissions for n in a.notes) == sorted(raw)
    for admission in corpus.admissions:
        between = [admission.text[a.end : b.start] for a, b in itertools.pairwise(admission.notes)]
        assert between == ["\n\n"] * (len(admission.notes) - 1)
        assert (admission.notes[0].start, admission.notes[-1].end) == (0, len(admission.text))
        for note in admission.notes:
            text = raw[note.note_id]
            assert text[note.skipped :].startswith(admission.text[note.start : note.end])
            assert not text[: note.skipped].strip()
    assert describe(corpus).splits[0].notes == len(notes)


def test_notes_of_other_categories_come_after_the_summary(tmp_path: Path) -> None:
    notes = [
        (1, "100", "Radiology", "Report", "X-ray."),
        (2, "100", "Discharge summary", "Report", "Summary."),
        (3, "100", "Physician ", "Note", "Visit."),
        (4, "100", "Discharge summary", "Addendum", "Later word."),
        (5, "101", "Radiology", "Report", "Only an X-ray."),
        (6, "100", "Nursing/other", "Report", "Nurse."),
    ]
    corpus = read_mimic3(tables(tmp_path, notes), ALL, categories=("discharge SUMMARY", "physician", "Radiology"))
    (admission,) = corpus.admissions  # 101 has no note of the first category
    assert admission.text == "Summary.\n\nLater word.\n\nVisit.\n\nX-ray."
    assert [(n.note_id, n.category, n.description) for n in admission.notes] == [
        ("2", "Discharge summary", "Report"),
        ("4", "Discharge summary", "Addendum"),
        ("3", "Physician", "Note"),
        ("1", "Radiology", "Report"),
    ]
    assert corpus.notes["note_rows"]["other_categories"] == 1
    assert corpus.notes["settings"]["categories"] == ["discharge SUMMARY", "physician", "Radiology"]


def test_an_identical_text_is_joined_once_unless_asked_for() -> None:
    notes = [NoteText("1", "", "", "Same.\n"), NoteText("2", "", "", "\nSame."), NoteText("3", "", "", "Other.")]
    once = join_texts("100", notes)
    assert (once.text, [n.note_id for n in once.notes], once.identical) == ("Same.\n\nOther.", ["1", "3"], 1)
    both = join_texts("100", notes, each_once=False)
    assert (both.text, both.notes[1]) == ("Same.\n\nSame.\n\nOther.", NoteSpan(7, 12, "2", skipped=1))


def test_a_corpus_that_was_written_without_borders_is_still_read(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    manifest = convert_mimic3(tables(tmp_path / "in", some_notes(1)), folder, ALL)
    whole = read_corpus(folder)
    file = folder / "admissions.parquet"
    pq.write_table(pq.read_table(file).drop_columns("notes"), file)
    manifest["sha256"]["admissions.parquet"] = hashlib.sha256(file.read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert read_corpus(folder).admissions == tuple(replace(a, notes=()) for a in whole.admissions)


@pytest.mark.parametrize("spans", [[(0, 3), (2, 5)], [(0, 9)], [(2, 2)], [(3, 5), (0, 2)]])
def test_borders_that_cannot_be_are_refused(spans: list[tuple[int, int]]) -> None:
    with pytest.raises(HilatError, match="empty, overlap or leave"):
        Admission("1", "abcdef", (), notes=tuple(NoteSpan(start, end) for start, end in spans))

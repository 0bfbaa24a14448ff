"""The MIMIC-III reader against a slow second version, on the open demo's code tables and on notes invented here."""

from __future__ import annotations

import csv
import gzip
import json
import random
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hilat.admissions import HilatError
from hilat.corpora.folder import read_corpus
from hilat.corpora.mimic import MimicSettings
from hilat.corpora.mimic3 import convert_mimic3, read_mimic3
from hilat.corpora.splits import SplitFiles, SubjectSplit

NOTE_COLUMNS = (
    "ROW_ID,SUBJECT_ID,HADM_ID,CHARTDATE,CHARTTIME,STORETIME,CATEGORY,DESCRIPTION,CGID,ISERROR,TEXT".lower().split(",")
)
CODE_COLUMNS = ["row_id", "subject_id", "hadm_id", "seq_num", "icd9_code"]
TITLE_COLUMNS = ["row_id", "icd9_code", "short_title", "long_title"]
TABLES = ("NOTEEVENTS", "DIAGNOSES_ICD", "PROCEDURES_ICD", "D_ICD_DIAGNOSES", "D_ICD_PROCEDURES")
ALL = MimicSettings(labels="all", keep="all", splits=None)
Rows = list[list[str]]


def note(row: int, hadm: str, text: str, **other: str) -> list[str]:
    """A row of NOTEEVENTS; the subject of admission 100..109 is 10, and so on."""
    values = {
        "row_id": str(row),
        "subject_id": hadm[:-1],
        "hadm_id": hadm,
        "chartdate": "2151-08-04",
        "category": "Discharge summary",
        "description": "Report",
        "text": text,
    }
    return [(values | other).get(column, "") for column in NOTE_COLUMNS]


def small_tables() -> dict[str, tuple[list[str], Rows]]:
    """Three coded admissions with a summary (100 and 101 of one subject), one without codes, one without a note."""
    diagnoses = [
        ("100", "1", "4019"),
        ("100", "2", "0389"),
        ("101", "1", "4019"),
        ("110", "1", "V1582"),
        ("130", "1", "E8782"),
    ]
    procedures = [("100", "1", "3893"), ("110", "1", "0331")]
    titles = ["0389", "4019", "V1582", "E8782", "3811"]
    return {
        "NOTEEVENTS": (
            NOTE_COLUMNS,
            [note(n, h, f"Summary of {h}.") for n, h in enumerate(("100", "101", "110", "120"))],
        ),
        "DIAGNOSES_ICD": (CODE_COLUMNS, [[str(n), h[:-1], h, s, c] for n, (h, s, c) in enumerate(diagnoses)]),
        "PROCEDURES_ICD": (CODE_COLUMNS, [[str(n), h[:-1], h, s, c] for n, (h, s, c) in enumerate(procedures)]),
        "D_ICD_DIAGNOSES": (TITLE_COLUMNS, [[str(n), c, c, f"Diagnosis {c}"] for n, c in enumerate(titles)]),
        "D_ICD_PROCEDURES": (TITLE_COLUMNS, [["1", "3893", "", "Venous cath"], ["2", "0331", "", "Spinal tap"]]),
    }


def write_table(folder: Path, name: str, columns: list[str], rows: Rows, form: str = "csv", upper: bool = True) -> Path:
    """One table as .csv, .csv.gz or .parquet, its header and its name in upper or lower case."""
    folder.mkdir(exist_ok=True)
    header = [column.upper() if upper else column for column in columns]
    path = folder / f"{name if upper else name.lower()}.{form}"
    if form == "parquet":
        by_column = {column: [row[n] or None for row in rows] for n, column in enumerate(header)}
        pq.write_table(pa.table(by_column, schema=pa.schema([(column, pa.string()) for column in header])), path)
        return path
    opened = gzip.open if form == "csv.gz" else open
    with opened(path, "wt", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n" if upper else "\r\n")
        writer.writerow(header)
        writer.writerows(rows)
    return path


def write_tables(
    folder: Path, tables: Mapping[str, tuple[list[str], Rows]] | None = None, form: str = "csv", upper: bool = True
) -> Path:
    """All tables in a folder."""
    for name, (columns, rows) in (tables or small_tables()).items():
        write_table(folder, name, columns, rows, form, upper)
    return folder


def with_notes(*rows: list[str]) -> dict[str, tuple[list[str], Rows]]:
    """The small tables with other notes."""
    return small_tables() | {"NOTEEVENTS": (NOTE_COLUMNS, list(rows))}


def demo_tables(shared: Path) -> dict[str, tuple[list[str], Rows]]:
    """The open demo's own code tables, and invented notes of every troublesome kind for its admissions."""
    tables: dict[str, tuple[list[str], Rows]] = {}
    for name in TABLES:
        with (shared / "data" / "mimic3_demo" / f"{name}.csv").open(encoding="utf-8", newline="") as stream:
            columns, *rows = csv.reader(stream)
        tables[name] = (columns, rows)
    rng = random.Random(11)
    subject_of = {row[2]: row[1] for row in tables["DIAGNOSES_ICD"][1]}
    stays = [*sorted(subject_of)[:-10], *["999001", "999002"] * 5]
    words = [
        "fever",
        '"denies pain"',
        "[**2151-7-16**]",
        "1,2,3,4,5,6,7,8,9,10,11",
        "\n",
        "\n\n",
        "\r\n",
        "été",
        ",",
        '"',
        "  ",
    ]
    notes = []
    for row in range(1, 600):
        stay = rng.choice([*stays, ""])
        text = rng.choice(["", " \n", "The same words.\n", "\n" + " ".join(rng.choices(words, k=30)) + "\r\n"])
        text += f'\n"{row}","5","{stay}",,,,"Discharge summary"\n' if rng.random() < 0.2 else ""
        notes.append(
            note(
                row,
                stay,
                text,
                subject_id=subject_of.get(stay, "7"),
                chartdate=rng.choice(["", "2151-08-04", "2151-08-05"]),
                charttime=rng.choice(["", "", "2151-08-04 13:00:00", "2151-08-04 09:30:00"]),
                category=rng.choice(["Discharge summary"] * 3 + ["Nursing", "Physician "]),
                description=rng.choice(["Report", "Report", "Addendum"]),
                iserror=rng.choice([""] * 6 + ["1"]),
            )
        )
    rng.shuffle(notes)
    return tables | {"NOTEEVENTS": (NOTE_COLUMNS, notes)}


def slow_texts(notes: Rows) -> dict[str, str]:
    """The joined summary by admission, the obvious way."""
    rows = [dict(zip(NOTE_COLUMNS, row, strict=True)) for row in notes]
    used = [r for r in rows if r["category"] == "Discharge summary" and r["iserror"] != "1" and r["hadm_id"]]
    texts: dict[str, list[str]] = {}
    last = "9999"  # sorts after every date: rows without a time come last
    used.sort(
        key=lambda r: (r["description"] != "Report", r["charttime"] or last, r["chartdate"] or last, int(r["row_id"]))
    )
    for row in used:
        text = row["text"].replace("\r\n", "\n").replace("\r", "\n").replace("\0", "")
        told = texts.setdefault(row["hadm_id"], [])
        if text.strip() and text.strip() not in [t.strip() for t in told]:
            told.append(text)
    joined = {}
    for hadm_id, several in texts.items():
        whole = several[0] if several else ""
        for text in several[1:]:
            whole = whole.rstrip() + "\n\n" + text.lstrip("\n")
        if whole:
            joined[hadm_id] = whole
    return joined


def slow_codes(diagnoses: Rows, procedures: Rows) -> dict[str, list[str]]:
    """The dotted codes by admission, the obvious way: CAML's `reformat`, which tells the kinds apart."""
    codes: dict[str, list[str]] = {}
    for rows, is_diagnosis in ((diagnoses, True), (procedures, False)):
        for _, _, hadm_id, _, code in sorted(rows, key=lambda row: float(row[3] or "inf")):
            if not code:
                continue
            whole = (4 if code.startswith("E") else 3) if is_diagnosis else 2
            dotted = code[:whole] + "." + code[whole:] if len(code) > whole else code
            if dotted not in codes.setdefault(hadm_id, []):
                codes[hadm_id].append(dotted)
    return codes


@pytest.mark.parametrize("form", ["csv", "csv.gz", "parquet"])
@pytest.mark.parametrize("upper", [True, False], ids=["upper", "lower"])
def test_every_form_gives_what_the_slow_version_gives(shared: Path, tmp_path: Path, form: str, upper: bool) -> None:
    tables = demo_tables(shared)
    corpus = read_mimic3(write_tables(tmp_path, tables, form, upper), ALL)
    texts = slow_texts(tables["NOTEEVENTS"][1])
    codes = slow_codes(tables["DIAGNOSES_ICD"][1], tables["PROCEDURES_ICD"][1])
    assert [a.hadm_id for a in corpus.admissions] == sorted(texts, key=int)
    assert {a.hadm_id: a.text for a in corpus.admissions} == texts
    for admission in corpus.admissions:
        assert sorted(admission.codes) == sorted(codes.get(admission.hadm_id, []))
    counted = Counter(code for hadm_id in texts for code in codes.get(hadm_id, []))
    assert list(corpus.code_book.codes) == sorted(counted, key=lambda code: (-counted[code], code))
    assert corpus.code_book.title("038.9") == "Unspecified septicemia"
    assert corpus.code_book.kinds[corpus.code_book.column("96.71")] == "procedure"
    noted, coded = set(texts), set(codes)
    assert corpus.notes["admissions"]["with_summary_without_codes"] == len(noted - coded) > 0
    assert corpus.notes["admissions"]["with_codes_without_summary"] == len(coded - noted) > 0


def test_report_comes_first_then_addenda_by_time_then_date_then_row_id(tmp_path: Path) -> None:
    rows = [
        note(1, "100", "E no time, earlier row.", description="Addendum", chartdate=""),
        note(2, "100", "D later date.\n", description="Addendum", chartdate="2151-08-09"),
        note(10, "100", "G row ten.", description="Addendum", chartdate=""),
        note(9, "100", "F row nine.", description="Addendum", chartdate=""),
        note(3, "100", "C date only.", description="Addendum"),
        note(4, "100", "\nB first time.\n\n \n", description="Addendum", charttime="2151-08-20 09:00:00"),
        note(5, "100", "  A report.\n", chartdate="2151-12-31"),
    ]
    (admission,) = read_mimic3(write_tables(tmp_path, with_notes(*rows)), ALL).admissions
    assert admission.text == (
        "  A report.\n\nB first time.\n\nC date only.\n\nD later date.\n\nE no time, earlier row.\n\nF row nine.\n\nG row ten."
    )


def test_everything_dropped_joined_or_changed_is_counted(tmp_path: Path) -> None:
    rows = [
        note(1, "100", "Kept.\r\n"),
        note(2, "100", "Kept.\n"),
        note(3, "100", "Addendum \x00here.", description="Addendum"),
        note(4, "100", "Wrong.", iserror="1"),
        note(5, "", "Nobody's."),
        note(6, "101", " \n\t"),
        note(7, "101", "Nurse.", category="Nursing/other"),
        note(8, "110.0", "As pandas writes it.", chartdate="soon", subject_id="11"),
        note(9, "120", "Without codes."),
    ]
    notes = read_mimic3(write_tables(tmp_path, with_notes(*rows)), ALL).notes
    assert notes["note_rows"] == {
        "rows": 9,
        "other_categories": 1,
        "considered": 8,
        "dropped_error": 1,
        "dropped_without_hadm_id": 1,
        "dropped_blank": 1,
        "used": 5,
        "unreadable_times": 1,
    }
    assert notes["joined"] == {
        "admissions_with_several_notes": 1,
        "identical_texts_left_out": 1,
        "texts_with_changed_line_ends": 2,
    }
    assert notes["admissions"] == {
        "with_summary": 3,
        "with_codes": 4,
        "with_summary_without_codes": 1,
        "with_codes_without_summary": 2,
        "in_splits": 3,
        "in_splits_without_label": 1,
        "kept": 3,
    }


def test_codes_are_text_and_the_kinds_stay_apart(tmp_path: Path) -> None:
    tables = small_tables()
    tables["DIAGNOSES_ICD"][1].extend(
        [
            ["20", "10", "100", "3", "3811"],
            ["21", "10", "100", "4", "3811"],
            ["22", "10", "100", "5", ""],
            ["23", "10", "", "1", "4019"],
            ["24", "10", "101", "", "0331"],
            ["25", "10", "101", "0", "99"],
        ]
    )
    tables["PROCEDURES_ICD"][1].extend([["20", "10", "100", "0", "3811"], ["21", "10", "101", "1", "331"]])
    corpus = read_mimic3(write_tables(tmp_path, tables), ALL)
    codes = {admission.hadm_id: admission.codes for admission in corpus.admissions}
    assert codes["100"] == ("401.9", "038.9", "381.1", "38.11", "38.93")  # by seq_num within a kind
    assert codes["101"] == ("99", "401.9", "033.1", "33.1")
    assert codes["110"] == ("V15.82", "03.31")
    assert codes["120"] == ()
    book = corpus.code_book
    assert (book.title("381.1"), book.title("38.11")) == ("Diagnosis 3811", "")
    assert (book.kinds[book.column("381.1")], book.kinds[book.column("38.11")]) == ("diagnosis", "procedure")
    assert corpus.notes["code_rows"]["diagnosis"] == {
        "rows": 11,
        "without_code": 1,
        "without_hadm_id": 1,
        "duplicates": 1,
        "of_unusual_form": 1,
        "unique": 7,
        "unique_without_title": 2,
    }
    assert corpus.notes["code_rows"]["procedure"]["unique_without_title"] == 2
    assert corpus.notes["labels"]["without_title"] == ["033.1", "33.1", "38.11", "99"]


@pytest.mark.parametrize(
    ("labels", "count_on", "expected"),
    [
        (1, "summaries", ["401.9"]),
        (3, "summaries", ["401.9", "03.31", "038.9"]),  # equals by code
        ("all", "summaries", ["401.9", "03.31", "038.9", "38.93", "V15.82"]),
        ("all", "coded", ["401.9", "03.31", "038.9", "38.93", "E878.2", "V15.82"]),
        ("all", "train", ["401.9", "038.9", "38.93"]),
    ],
)
def test_label_sets_count_on_the_admissions_asked_for(
    tmp_path: Path, labels: int | str, count_on: Any, expected: list[str]
) -> None:
    ids = tmp_path / "ids"
    ids.mkdir()
    for name, lines in (("train", "100\n101\n130\n"), ("val", "110\n"), ("test", "120\n77\n")):
        (ids / f"{name}.csv").write_text(lines)
    splits = SplitFiles(ids / "train.csv", ids / "val.csv", ids / "test.csv")
    settings = MimicSettings(labels=labels, count_labels_on=count_on, keep="all", splits=splits)
    corpus = read_mimic3(write_tables(tmp_path / "mimic"), settings)
    assert list(corpus.code_book.codes) == expected
    assert corpus.notes["labels"]["counted_on"] == count_on


@pytest.mark.parametrize(
    ("labels", "keep", "expected"),
    [
        (1, None, ["100", "101"]),
        (1, "coded", ["100", "101", "110"]),
        (1, "all", ["100", "101", "110", "120"]),
        ("all", None, ["100", "101", "110"]),
    ],
)
def test_admissions_are_kept_as_asked(tmp_path: Path, labels: int | str, keep: Any, expected: list[str]) -> None:
    settings = MimicSettings(labels=labels, keep=keep, splits=None)
    corpus = read_mimic3(write_tables(tmp_path), settings)
    with pytest.raises(HilatError, match="asked for the 50 codes on most rows"):
        read_mimic3(tmp_path, MimicSettings(labels="laat-50", splits=None))
    assert [admission.hadm_id for admission in corpus.admissions] == expected
    assert corpus.notes["admissions"]["kept"] == len(expected)


def test_split_files_choose_the_admissions_and_absent_ids_are_counted(tmp_path: Path) -> None:
    for name, lines in (("train", "100\n130\n"), ("val", "101\n120\n"), ("test", "77\n78\n")):
        (tmp_path / f"{name}.csv").write_text(lines)
    files = SplitFiles(tmp_path / "train.csv", tmp_path / "val.csv", tmp_path / "test.csv")
    corpus = read_mimic3(write_tables(tmp_path / "mimic"), MimicSettings(labels="all", splits=files))
    assert {a.hadm_id: a.split for a in corpus.admissions} == {"100": "train", "101": "val"}
    assert corpus.notes["splits"] == {
        "by": "files",
        "ids": {"train": 2, "val": 2, "test": 2},
        "ids_not_in_data": {"test": 2},
        "ids_without_summary": {"train": 1},
        "ids_without_codes": {"val": 1},
        "admissions_outside": 1,
        "subjects_in_two_splits": 1,
    }
    for name in ("train", "val", "test"):
        (tmp_path / f"{name}.csv").write_text(f"9{len(name)}\n")
    with pytest.raises(HilatError, match="none of the 3 ids"):
        read_mimic3(tmp_path / "mimic", MimicSettings(labels="all", splits=files))


def test_a_drawn_split_keeps_a_subject_together_and_is_the_same_again(shared: Path, tmp_path: Path) -> None:
    folder = write_tables(tmp_path, demo_tables(shared))
    settings = MimicSettings(labels=20, splits=SubjectSplit({"train": 0.6, "test": 0.4}, seed=4))
    corpus = read_mimic3(folder, settings)
    splits_of: dict[str | None, set[str | None]] = {}
    for admission in corpus.admissions:
        splits_of.setdefault(admission.subject_id, set()).add(admission.split)
    assert {len(splits) for splits in splits_of.values()} == {1}
    assert set(corpus.splits) == {"train", "test"}
    assert read_mimic3(folder, settings) == corpus


def test_the_corpus_folder_holds_it_all_with_statistics_and_nothing_else_is_left(shared: Path, tmp_path: Path) -> None:
    folder = write_tables(tmp_path / "mimic", demo_tables(shared))
    out = tmp_path / "made" / "corpus"
    manifest = convert_mimic3(folder, out, MimicSettings(labels=10))
    assert [path.name for path in out.parent.iterdir()] == ["corpus"]  # no staged notes beside it
    corpus = read_corpus(out)
    assert corpus.admissions == read_mimic3(folder, MimicSettings(labels=10)).admissions
    assert corpus.notes == manifest["notes"] == json.loads(json.dumps(manifest["notes"]))
    train = [a for a in corpus.admissions if a.split == "train"]
    words = [len(a.text.split()) for a in train]
    seen = {code for a in train for code in a.codes}
    labelled = [sum(code in corpus.code_book for code in a.codes) for a in train]
    table = corpus.notes["statistics"]["train"]
    assert table["admissions"] == len(train) > 10
    assert table["unique_codes"] == len(seen)
    assert table["words_per_admission"] == {"mean": sum(words) / len(words), "min": min(words), "max": max(words)}
    assert table["label_codes_per_admission"] == {
        "mean": sum(labelled) / len(labelled),
        "min": 1,
        "max": max(labelled),
    }
    assert corpus.notes["statistics"]["all"]["admissions"] == len(corpus.admissions)
    with pytest.raises(HilatError, match="exists already"):
        convert_mimic3(folder, out, MimicSettings(labels=10))
    convert_mimic3(folder, out, MimicSettings(labels=5), overwrite=True)
    assert len(read_corpus(out).code_book) == 5

"""The MIMIC-IV reader against a slow second version, on tables invented here in the released layout."""

from __future__ import annotations

import csv
import gzip
import random
import re
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hilat.admissions import HilatError
from hilat.codes import add_dot
from hilat.corpora.folder import read_corpus
from hilat.corpora.mimic import MimicSettings
from hilat.corpora.mimic4 import convert_mimic4, read_mimic4
from hilat.corpora.splits import SubjectSplit

SECRET = "Mr Zebrafish"
NOTE = ["note_id", "subject_id", "hadm_id", "note_type", "note_seq", "charttime", "storetime", "text"]
CODE = {"diagnoses_icd": ["subject_id", "hadm_id", "seq_num", "icd_code", "icd_version"],
        "procedures_icd": ["subject_id", "hadm_id", "seq_num", "chartdate", "icd_code", "icd_version"]}  # fmt: skip
TITLE = ["icd_code", "icd_version", "long_title"]
DIAGNOSES = {9: ("4019", "0389", "V1582", "E8782", "25000"), 10: ("I10", "E119", "A4101", "E8809", "S72001A")}
PROCEDURES = {9: ("3893", "0331", "9671"), 10: ("5A1955Z", "02HV33Z", "0BH17EZ")}
ALL = MimicSettings(labels="all", keep="all", splits=None)
Rows = list[list[str]]
Tables = dict[str, tuple[list[str], Rows]]


def small_tables(seed: int = 5, stays: int = 60) -> Tables:
    """Stays of ICD-9, ICD-10 and (a few) of both; notes of every troublesome kind."""
    rng = random.Random(seed)
    notes: Rows = []
    codes: dict[str, Rows] = {"diagnoses_icd": [], "procedures_icd": []}
    for stay in range(20_000_000, 20_000_000 + stays):
        subject = str(10_000_000 + (stay % 1000) // 3)
        version = rng.choice([9, 9, 9, 10, 10, 10])
        for n in range(rng.choice([0, 2, 4])):
            mine = 19 - version if rng.random() < 0.05 else version
            codes["diagnoses_icd"].append([subject, str(stay), str(n + 1), rng.choice(DIAGNOSES[mine]), str(mine)])
        for n in range(rng.choice([0, 1, 3])):
            code = rng.choice(PROCEDURES[version])
            codes["procedures_icd"].append([subject, str(stay), str(n + 1), "2151-08-04", code, str(version)])
        for n in range(rng.choice([0, 1, 1, 1, 2, 3])):
            kind = rng.choice(["DS", "DS", "AD", "RR"])
            time = rng.choice(["", "2151-08-04 13:00:00", "2151-08-05 00:00:00"])
            text = rng.choice(["", "Same.\n", f'Seen "{stay}",\r\n{n}\n\n1,2,3\n'])
            hadm = rng.choice([str(stay)] * 8 + [""])
            notes.append(
                [f"{subject}-{kind}-{stay}{n}", subject, hadm, kind, str(n), time, rng.choice([time, ""]), text]
            )
    for rows in (notes, *codes.values()):
        rng.shuffle(rows)
    titles = {
        "d_icd_diagnoses": [[c, str(v), f"Diagnosis {c}"] for v, cs in DIAGNOSES.items() for c in cs],
        "d_icd_procedures": [[c, str(v), f"Procedure {c}"] for v, cs in PROCEDURES.items() for c in cs],
    }
    return {
        "discharge": (NOTE, notes),
        **{name: (CODE[name], rows) for name, rows in codes.items()},
        **{name: (TITLE, rows) for name, rows in titles.items()},
    }


def write_tables(folder: Path, tables: Tables, packed: bool = True) -> Path:
    """The released layout: hosp/*.csv.gz and note/discharge.csv.gz."""
    for name, (columns, rows) in tables.items():
        inner = folder / ("note" if name == "discharge" else "hosp")
        inner.mkdir(parents=True, exist_ok=True)
        opened: Callable[..., Any] = gzip.open if packed else open
        with opened(inner / f"{name}.csv{'.gz' if packed else ''}", "wt", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(columns)
            writer.writerows(rows)
    return folder


def slow_codes(tables: Tables, version: int) -> tuple[dict[str, list[str]], set[str], set[str]]:
    """Dotted codes by admission, the obvious way; admissions of the other version; those of both."""
    codes: dict[str, list[str]] = {}
    versions: dict[str, set[int]] = {}
    for name, diagnosis in (("diagnoses_icd", True), ("procedures_icd", False)):
        for row in sorted(tables[name][1], key=lambda row: (int(row[2]), row[-2])):
            stay, code, mine = row[1], row[-2], int(row[-1])
            versions.setdefault(stay, set()).add(mine)
            if diagnosis and mine == 10:
                code = code[:3] + "." + code[3:] if len(code) > 3 else code
            elif mine == 9:
                whole = 2 if not diagnosis else 4 if code[0] == "E" else 3
                code = code[:whole] + "." + code[whole:] if len(code) > whole else code
            if mine == version and code not in codes.setdefault(stay, []):
                codes[stay].append(code)
    mixed = {stay for stay, several in versions.items() if len(several) == 2}
    other = {stay for stay, several in versions.items() if version not in several}
    return {stay: own for stay, own in codes.items() if stay not in mixed and own}, other, mixed


def slow_texts(tables: Tables) -> dict[str, str]:
    last = "9999"
    rows = [dict(zip(NOTE, row, strict=True)) for row in tables["discharge"][1]]
    rows = [r for r in rows if r["note_type"] in ("DS", "AD") and r["hadm_id"] and r["text"].strip()]
    rows.sort(
        key=lambda r: (
            r["note_type"] == "AD",
            r["charttime"] or last,
            r["storetime"] or last,
            int(r["note_seq"]),
            r["note_id"],
        )
    )
    texts: dict[str, list[str]] = {}
    for row in rows:
        told = texts.setdefault(row["hadm_id"], [])
        text = row["text"].replace("\r\n", "\n")
        if text.strip() not in [t.strip() for t in told]:
            told.append(text)
    joined = {}
    for stay, several in texts.items():
        whole = several[0]
        for text in several[1:]:
            whole = whole.rstrip() + "\n\n" + text.lstrip("\n")
        joined[stay] = whole
    return joined


@pytest.mark.parametrize("version", [9, 10])
@pytest.mark.parametrize("packed", [True, False], ids=["gz", "csv"])
def test_each_version_gives_what_the_slow_version_gives(tmp_path: Path, version: Any, packed: bool) -> None:
    tables = small_tables()
    corpus = read_mimic4([write_tables(tmp_path, tables, packed)], version, ALL)
    codes, other, mixed = slow_codes(tables, version)
    texts = slow_texts(tables)
    assert {a.hadm_id: a.text for a in corpus.admissions} == texts
    assert {a.hadm_id: list(a.codes) for a in corpus.admissions} == {i: codes.get(i, []) for i in texts}
    counted = Counter(code for i in texts for code in codes.get(i, []))
    assert list(corpus.code_book.codes) == sorted(counted, key=lambda code: (-counted[code], code))
    assert corpus.code_book.system == ("ICD-9-CM" if version == 9 else "ICD-10-CM/PCS")
    counts = corpus.notes["admissions"]
    assert counts["with_summary_of_other_icd_version"] == len(other & set(texts)) > 5
    assert counts["with_summary_of_both_icd_versions"] == len(mixed & set(texts)) > 0
    assert corpus.notes["settings"]["icd_version"] == version
    assert corpus.source == f"mimic4-icd{version}"


def test_the_two_versions_share_no_admission_with_codes_and_no_title(tmp_path: Path) -> None:
    folder = write_tables(tmp_path, small_tables())
    nine, ten = (read_mimic4([folder], version, MimicSettings(labels="all", splits=None)) for version in (9, 10))
    assert not {a.hadm_id for a in nine.admissions} & {a.hadm_id for a in ten.admissions}
    assert ten.code_book.title("E88.09") == "Diagnosis E8809"  # an E code of ICD-9 would be E880.9
    kinds = dict(zip(ten.code_book.codes, ten.code_book.kinds, strict=True))
    assert (kinds["5A1955Z"], kinds["I10"]) == ("procedure", "diagnosis")
    assert nine.code_book.title("038.9") == "Diagnosis 0389"


def test_dots_of_icd_10_by_hand() -> None:
    assert [add_dot(code, "diagnosis", 10) for code in ("I10", "E119", "S72001A", "e11.9")] == ["I10", "E11.9", "S72.001A", "E11.9"]  # fmt: skip
    assert add_dot("5A1955Z", "procedure", 10) == "5A1955Z"


def test_two_downloads_make_one_corpus_and_the_folder_holds_it(tmp_path: Path) -> None:
    both = write_tables(tmp_path / "both", small_tables())
    (tmp_path / "notes").mkdir()
    (both / "note").rename(tmp_path / "notes" / "note")
    settings = MimicSettings(labels=4, splits=SubjectSplit({"train": 0.5, "test": 0.5}))
    manifest = convert_mimic4([both, tmp_path / "notes"], tmp_path / "out", 10, settings)
    corpus = read_corpus(tmp_path / "out")
    assert corpus.admissions == read_mimic4([both / "hosp", tmp_path / "notes" / "note"], 10, settings).admissions
    assert manifest["system"] == "ICD-10-CM/PCS"
    assert "differs_from" not in manifest["notes"]["labels"]  # the published lists are of ICD-9
    splits_of: dict[str | None, set[str | None]] = {}
    for admission in corpus.admissions:
        splits_of.setdefault(admission.subject_id, set()).add(admission.split)
    assert {len(splits) for splits in splits_of.values()} == {1}


def test_codes_below_the_minimum_are_left_out(tmp_path: Path) -> None:
    tables = small_tables()
    codes, _, _ = slow_codes(tables, 9)
    counted = Counter(code for i in slow_texts(tables) for code in codes.get(i, []))
    least = sorted(counted.values())[2] + 1
    settings = MimicSettings(labels="all", min_count=least, splits=None)
    corpus = read_mimic4([write_tables(tmp_path, tables)], 9, settings)
    assert set(corpus.code_book.codes) == {code for code, count in counted.items() if count >= least}
    assert corpus.notes["labels"]["below_min_count"] == len(counted) - len(corpus.code_book) >= 3
    assert all(set(a.codes) & set(corpus.code_book.codes) for a in corpus.admissions)
    with pytest.raises(HilatError, match=r"no code of \d+ has 999 admissions"):
        read_mimic4([tmp_path], 9, MimicSettings(labels="all", min_count=999, splits=None))
    with pytest.raises(HilatError, match="min_count is 10 with labels caml-50"):
        MimicSettings(labels="caml-50", min_count=10)


def refusal(folder: Path, version: Any = 10, settings: MimicSettings = ALL) -> str:
    with pytest.raises(HilatError) as caught:
        read_mimic4([folder], version, settings)
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    return str(caught.value)


@pytest.mark.parametrize(
    ("table", "change", "said"),
    [
        ("discharge", lambda c, r: (["id", *c[1:]], r), "no column note_id; found id, subject_id"),
        ("diagnoses_icd", lambda c, r: ([*c[:-1], "version"], r), "no column icd_version"),
        ("diagnoses_icd", lambda c, r: (c, [[*r[0][:-1], "11"], *r[1:]]), "1 rows whose icd_version is neither 9 nor 10"),
        ("diagnoses_icd", lambda c, r: (c, [[*r[0][:-1], ""], *r[1:]]), "1 rows whose icd_version"),
        ("procedures_icd", lambda c, _: (c, []), "a header and no row"),
        ("d_icd_diagnoses", lambda c, r: (c, [x for x in r if x[1] == "9"]), "no code title of ICD-10-CM/PCS"),
        ("discharge", lambda c, _: (c, []), "MIMIC-IV-Note, which needs a PhysioNet account"),
        ("discharge", lambda c, r: (c, [*r, r[0]]), "1 note ids that come twice"),
        ("discharge", lambda c, r: (c, [[*x[:3], "RR", *x[4:]] for x in r]), "no usable discharge summary.*note_type DS"),
        ("diagnoses_icd", lambda c, r: (c, [[*r[0][:3], "E11.9", "10"], *r[1:]]), r"codes with a dot \(E11.9\)"),
    ],
)  # fmt: skip
def test_wrong_tables_are_refused_in_a_sentence(
    tmp_path: Path, table: str, change: Callable[[list[str], Rows], tuple[list[str], Rows]], said: str
) -> None:
    tables = small_tables()
    tables["discharge"][1][0][-1] = SECRET
    message = refusal(write_tables(tmp_path, tables | {table: change(*tables[table])}))
    assert table in message
    assert re.search(said, message)


def test_truncated_files_missing_tables_and_unknown_versions_are_refused(tmp_path: Path) -> None:
    folder = write_tables(tmp_path, small_tables())
    assert "ICD version 11" in refusal(folder, 11)
    assert "caml-50' is of ICD-9-CM" in refusal(folder, 10, MimicSettings(labels="caml-50", splits=None))
    notes = folder / "note" / "discharge.csv.gz"
    notes.write_bytes(notes.read_bytes()[:-40])
    assert "truncated gzip" in refusal(folder)
    notes.unlink()
    assert "lacks DISCHARGE; it holds d_icd_diagnoses.csv.gz" in refusal(folder)
    with pytest.raises(HilatError, match="no folder of tables"):
        read_mimic4([], 10)


def test_the_command_writes_the_corpus_and_tells_what_it_left_out(tmp_path: Path, run: Callable[..., Any]) -> None:
    folder = write_tables(tmp_path / "in", small_tables())
    common = ("corpus", "mimic4", folder, "--icd", "10", "--labels", "all")
    answer = run(*common, "--min-count", "2", "--draw", "stratified", "--out", tmp_path / "out")
    assert answer.code == 0, answer.err
    assert "with_summary_of_other_icd_version" in answer.out
    assert "stratified by code" in answer.out
    assert read_corpus(tmp_path / "out").splits
    made = run(*common, "--draw", "none", "--out", tmp_path / "plain", "--json")
    assert made.json["source"] == "mimic4-icd10"
    assert run("corpus", "mimic4", folder, "--icd", "11", "--out", tmp_path / "x").code == 2
    assert "got neither" in run("corpus", "mimic4", "--icd", "9", "--out", tmp_path / "x").err
    both = run(*common, "--draw", "none", "--splits", folder, "--out", tmp_path / "x")
    assert "got --splits and --draw" in both.err
    assert run(*common, "--draw", "lots", "--out", tmp_path / "x").code == 2

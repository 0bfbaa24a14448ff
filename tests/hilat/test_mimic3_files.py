"""Damaged, wrong and large MIMIC-III files: one plain sentence for each, no note's text in it, bounded memory."""

from __future__ import annotations

import csv
import gzip
import json
import os
import re
import subprocess
import sys
import textwrap
import traceback
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hilat.admissions import HilatError
from hilat.corpora.mimic import MimicSettings
from hilat.corpora.mimic3 import convert_mimic3, read_mimic3

HEADER = "ROW_ID,SUBJECT_ID,HADM_ID,CHARTDATE,CHARTTIME,STORETIME,CATEGORY,DESCRIPTION,CGID,ISERROR,TEXT\n"
SECRET = "Mr Zebrafish"
FIRST = f'1,10,100,2151-08-04,,,"Discharge summary","Report",,,"{SECRET} said ""no"".\n\nHome."\n'
SECOND = f'2,10,101,2151-08-04,,,"Discharge summary","Report",,,"{SECRET} again,\r\n1,2,3,4,5,6,7,8,9,10,11\n"\n'
CODE_HEADER = "ROW_ID,SUBJECT_ID,HADM_ID,SEQ_NUM,ICD9_CODE\n"
GOOD = {
    "NOTEEVENTS.csv": HEADER + FIRST + SECOND,
    "DIAGNOSES_ICD.csv": CODE_HEADER + '1,10,100,1,"0389"\n2,10,101,1,"4019"\n',
    "PROCEDURES_ICD.csv": CODE_HEADER + '1,10,100,1,"0066"\n',
    "D_ICD_DIAGNOSES.csv": 'ROW_ID,ICD9_CODE,SHORT_TITLE,LONG_TITLE\n1,"0389","s","Septicemia"\n2,"4019","h","High"\n',
    "D_ICD_PROCEDURES.csv": 'ROW_ID,ICD9_CODE,SHORT_TITLE,LONG_TITLE\n1,"0066","p","PTCA"\n',
}
HTML = "\n<!DOCTYPE html><html><body>Please log in</body></html>"
ALL = MimicSettings(labels="all", splits=None)


def folder_with(folder: Path, **files: str | bytes | None) -> Path:
    """The good tables, with some files given other content (`NOTEEVENTS_csv=`), or taken away with None."""
    changed = {name.replace("_csv", ".csv").replace("_gz", ".gz"): content for name, content in files.items()}
    for name, content in {**GOOD, **changed}.items():
        if content is not None:
            (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def notes_as_parquet(folder: Path, **changed: Any) -> Path:
    """The good tables with NOTEEVENTS as Parquet, columns typed as a database export types them."""
    folder_with(folder, NOTEEVENTS_csv=None)
    columns: dict[str, Any] = {
        "ROW_ID": pa.array([1, 2, 3], pa.int32()),
        "SUBJECT_ID": pa.array([10, 10, 10], pa.int64()),
        "HADM_ID": pa.array([100.0, 100.0, None], pa.float64()),
        "CHARTDATE": pa.array([datetime(2151, 8, 5), datetime(2151, 8, 4), None], pa.timestamp("us")),
        "CHARTTIME": pa.array([None] * 3, pa.timestamp("us")),
        "CATEGORY": ["Discharge summary"] * 3,
        "DESCRIPTION": ["Report"] * 3,
        "ISERROR": pa.array([None, 0.0, None], pa.float64()),
        "TEXT": ["Second.", "First.", "Nobody's."],
    }
    pq.write_table(pa.table({**columns, **changed}), folder / "NOTEEVENTS.parquet")
    return folder


def refusal(folder: Path, settings: MimicSettings = ALL) -> str:
    """What the reader says; the note's text is neither in the message nor in a printed traceback."""
    with pytest.raises(HilatError) as caught:
        read_mimic3(folder, settings)
    printed = "".join(traceback.format_exception(caught.value))
    assert SECRET not in printed
    assert "Zebrafish" not in printed
    return str(caught.value)


def test_the_good_tables_are_read(tmp_path: Path) -> None:
    first, second = read_mimic3(folder_with(tmp_path), ALL).admissions
    assert first.text == f'{SECRET} said "no".\n\nHome.'
    assert second.text == f"{SECRET} again,\n1,2,3,4,5,6,7,8,9,10,11\n"
    assert (first.codes, second.codes) == (("038.9", "00.66"), ("401.9",))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (HEADER, "open MIMIC-III demo comes without notes"),
        (HTML, "is a web page.*log in to PhysioNet"),
        (FIRST + SECOND, "has no column row_id, subject_id.*found Report"),
        (HEADER.replace("HADM_ID", "STAY") + FIRST, "has no column hadm_id; found ROW_ID, SUBJECT_ID, STAY"),
        (HEADER.replace("CGID", "TEXT") + FIRST, "names text twice"),
        ((HEADER + FIRST).encode("utf-16"), "encoded in UTF-16"),
        ((HEADER + FIRST).replace("Home", "café").encode("latin-1"), "is not UTF-8.*row"),
        (HEADER + FIRST + SECOND[:-12], "unclosed quote"),
        (HEADER + FIRST + SECOND[:60], "unclosed quote"),
        (HEADER + FIRST + SECOND[:15], "too few fields near row"),
        (HEADER + FIRST + "2,10" + SECOND, "too many or too few fields"),
        (HEADER + FIRST + SECOND + FIRST, r"1 row ids that come twice or more \(1\)"),
        (HEADER + FIRST + SECOND.replace("2,10", ",10", 1), "1 rows without row_id"),
        (HEADER + FIRST.replace("Discharge summary", "Nursing"), "no usable discharge summary"),
        (HEADER + FIRST + SECOND.replace("2,10,101", "2,11,100"), r"1 admissions to two subjects \(100\)"),
    ],
)
def test_wrong_notes_are_refused_in_a_sentence(tmp_path: Path, content: str | bytes, said: str) -> None:
    message = refusal(folder_with(tmp_path, NOTEEVENTS_csv=content))
    assert "NOTEEVENTS.csv" in message
    assert re.search(said, message)


@pytest.mark.parametrize("kept", [0.3, 0.98])
def test_a_truncated_gzip_is_refused(tmp_path: Path, kept: float) -> None:
    rows = "".join(FIRST.replace("1,10,100", f"{n},10,100").replace("Home", f"{n * 7919:x}") for n in range(5000))
    packed = gzip.compress((HEADER + rows).encode())
    folder_with(tmp_path, NOTEEVENTS_csv=None, NOTEEVENTS_csv_gz=packed[: int(len(packed) * kept)])
    assert "truncated gzip" in refusal(tmp_path)


def test_a_page_or_a_plain_csv_under_a_gz_name_is_refused(tmp_path: Path) -> None:
    assert "web page" in refusal(folder_with(tmp_path, NOTEEVENTS_csv=None, NOTEEVENTS_csv_gz=HTML))
    (tmp_path / "NOTEEVENTS.csv.gz").write_text(GOOD["NOTEEVENTS.csv"])
    assert "not what its name says" in refusal(tmp_path)


def test_a_missing_table_tells_what_is_there_and_what_is_expected(tmp_path: Path) -> None:
    message = refusal(folder_with(tmp_path, NOTEEVENTS_csv=None, D_ICD_DIAGNOSES_csv=None))
    assert "lacks NOTEEVENTS, D_ICD_DIAGNOSES; it holds DIAGNOSES_ICD.csv, D_ICD_PROCEDURES.csv" in message
    assert ".csv.gz, .parquet" in message
    assert "not a folder" in refusal(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("codes", "said"),
    [
        (CODE_HEADER, "a header and no row"),
        (CODE_HEADER + "1,10,100,1,38.9\n2,10,101,1,401.9\n", "codes with a dot"),
        (CODE_HEADER + "1,10,100,1,389\n2,10,101,1,4019\n", r"lost their leading zeros \(389\)"),
        (CODE_HEADER + "1,10,100,1,0389\n1,10,101,1,4019\n", "1 row ids that come twice"),
        (CODE_HEADER.replace("ICD9_", "") + "1,10,100,1,0389\n", "no column icd9_code"),
        (CODE_HEADER + "1,10,100,1,00\n", None),
    ],
)
def test_wrong_code_tables_are_refused(tmp_path: Path, codes: str, said: str | None) -> None:
    folder_with(tmp_path, DIAGNOSES_ICD_csv=codes)
    if said is not None:
        assert re.search(said, refusal(tmp_path))
    else:  # an odd diagnosis that dots like a procedure
        (tmp_path / "PROCEDURES_ICD.csv").write_text(CODE_HEADER + "1,10,100,1,00\n")
        assert "both give 00 once dotted" in refusal(tmp_path)


def test_parquet_with_a_databases_types_is_read(tmp_path: Path) -> None:
    (admission,) = read_mimic3(notes_as_parquet(tmp_path), ALL).admissions
    assert (admission.hadm_id, admission.subject_id) == ("100", "10")
    assert admission.text == "First.\n\nSecond."


def test_numeric_codes_in_parquet_are_refused(tmp_path: Path) -> None:
    folder_with(tmp_path, DIAGNOSES_ICD_csv=None)
    table = pa.table({"HADM_ID": [100, 101], "SEQ_NUM": [1, 1], "ICD9_CODE": [389, 4019]})
    pq.write_table(table, tmp_path / "diagnoses_icd.parquet")
    message = refusal(tmp_path)
    assert "ICD9_CODE of type BIGINT" in message
    assert "lost their zeros" in message


def test_damaged_parquet_is_refused(tmp_path: Path) -> None:
    notes_as_parquet(tmp_path)
    whole = (tmp_path / "NOTEEVENTS.parquet").read_bytes()
    (tmp_path / "NOTEEVENTS.parquet").write_bytes(whole[: len(whole) // 2])
    assert "damaged or truncated Parquet" in refusal(tmp_path)
    (tmp_path / "NOTEEVENTS.parquet").write_text(GOOD["NOTEEVENTS.csv"])
    assert "not what its name says" in refusal(tmp_path)


def test_the_open_demo_is_refused_for_its_missing_notes(shared: Path) -> None:
    assert "open MIMIC-III demo comes without notes" in refusal(shared / "data" / "mimic3_demo")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (MimicSettings(labels=4, splits=None), "4 most frequent codes of 3"),
        (MimicSettings(labels="cmal-50", splits=None), "cmal-50.*caml-50"),
        (MimicSettings(labels=1, count_labels_on="train", splits=None), "no admission with codes is there to count"),
        (MimicSettings(labels=1), "1 subjects are too few"),
        (MimicSettings(labels=1, splits=None, memory_limit_mb=10), "memory_limit_mb is 10"),
        (MimicSettings(labels=1, splits=None, temp_folder=Path("/no/such/place")), "cannot make a temporary folder"),
    ],
)
def test_settings_that_do_not_fit_are_refused(tmp_path: Path, settings: MimicSettings, said: str) -> None:
    assert re.search(said, refusal(folder_with(tmp_path), settings))


@pytest.mark.parametrize("wrong", [{"labels": 0}, {"keep": "some"}, {"count_labels_on": "test"}])
def test_unknown_settings_are_refused_when_made(wrong: dict[str, Any]) -> None:
    with pytest.raises(HilatError, match=next(iter(wrong))):
        MimicSettings(**wrong)


def test_label_sets_from_a_file_and_by_name(tmp_path: Path) -> None:
    codes = tmp_path / "codes.txt"
    codes.write_text("401.9\n\n99.15\nV58.61\n")
    corpus = read_mimic3(folder_with(tmp_path), MimicSettings(labels=codes, splits=None))
    assert corpus.code_book.codes == ("401.9", "99.15", "V58.61")
    assert corpus.code_book.kinds == ("diagnosis", "procedure", "diagnosis")
    assert [a.hadm_id for a in corpus.admissions] == ["101"]
    assert corpus.notes["labels"]["not_in_data"] == ["99.15", "V58.61"]
    named = read_mimic3(tmp_path, MimicSettings(labels="caml-50", splits=None))
    assert len(named.code_book) == 50
    assert named.notes["labels"]["differs_from"]["caml-50"] == {"only_here": [], "only_there": []}
    for content in ("401.9\n401.9\n", "4019\n", ""):
        codes.write_text(content)
        assert "no list of codes" in refusal(tmp_path, MimicSettings(labels=codes, splits=None))


def test_a_failed_conversion_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    folder_with(tmp_path / "in", NOTEEVENTS_csv=HEADER + FIRST + SECOND[:-12])
    with pytest.raises(HilatError):
        convert_mimic3(tmp_path / "in", tmp_path / "out" / "corpus", ALL)
    assert list((tmp_path / "out").iterdir()) == []


def test_odd_folder_names_mean_themselves(tmp_path: Path) -> None:
    odd = tmp_path / "it's [v1.4] *?"
    odd.mkdir()
    notes_as_parquet(odd)
    assert len(read_mimic3(odd, ALL).admissions) == 1


def test_the_plain_csv_is_taken_before_the_packed_one_and_the_choice_is_noted(tmp_path: Path) -> None:
    folder_with(tmp_path, NOTEEVENTS_csv_gz=b"never opened")
    assert read_mimic3(tmp_path, ALL).notes["files"]["NOTEEVENTS"] == "NOTEEVENTS.csv"


def write_many(folder: Path, megabytes: int) -> int:
    """Many notes with line breaks, quotes and lines that look like rows; a fifth are summaries. Rows written."""
    text = 'Seen by "the" team.\n7,10,100,2151-08-04,,,Discharge summary,Report,,,"\nBP 1,2,3\r\n' * 60
    rows = megabytes * 1_000_000 // len(text)
    folder_with(folder)
    with (folder / "NOTEEVENTS.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(HEADER.strip().split(","))
        for n in range(rows):
            kind = "Discharge summary" if n % 5 == 0 else "Nursing/other"
            writer.writerow([n, n // 8, 100 + n // 4, "2151-08-04", "", "", kind, "Report", "", "", f"{n}{text}{n}"])
    return rows


MEASURE = """
    import json, resource, sys
    from pathlib import Path
    from hilat.corpora.mimic import MimicSettings
    from hilat.corpora.mimic3 import convert_mimic3
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    settings = MimicSettings(labels="all", keep="all", splits=None, memory_limit_mb=256, threads=1)
    manifest = convert_mimic3(Path(sys.argv[1]), Path(sys.argv[2]), settings)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"before_mb": before / 1024, "peak_mb": peak / 1024, **manifest["notes"]["note_rows"]}))
"""


@pytest.mark.parametrize(
    ("megabytes", "allowed_mb"), [(100, 350), pytest.param(1500, 800, marks=pytest.mark.slow)], ids=["small", "large"]
)
def test_memory_is_bounded_whatever_the_size(tmp_path: Path, megabytes: int, allowed_mb: int) -> None:
    (tmp_path / "in").mkdir()
    rows = write_many(tmp_path / "in", megabytes)
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(MEASURE), str(tmp_path / "in"), str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    told = json.loads(done.stdout)

    assert told["rows"] == rows
    assert told["used"] == -(-rows // 5)
    # 256 MB for DuckDB, some hundreds for Arrow's blocks and a slice of texts; in all below the 2 GB promised.
    assert told["peak_mb"] - told["before_mb"] < allowed_mb

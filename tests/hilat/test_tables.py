"""Own tables: three kinds of file, one result; every fault told with its row and without the note's text."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hilat.admissions import HilatError, plain_text
from hilat.corpora.tables import TableColumns, plain_offsets, read_table

SECRET = "Zebrafinch"
ROWS: list[dict[str, Any]] = [
    {"hadm_id": "1", "text": f'CHF, "{SECRET}"\r\nwith edema', "codes": ["428.0", "038.9"], "split": "train",
     "evidence": [{"code": "428.0", "start": 0, "end": 3}, {"code": "428.0", "start": 24, "end": 29}]},
    {"hadm_id": "2", "text": f"Afib {SECRET} — café", "codes": ["427.31", "428.0", "428.0"], "split": "test", "evidence": None},
    {"hadm_id": "3", "text": "nothing coded", "codes": [], "split": "test", "evidence": []},
]  # fmt: skip


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Rows in the kind of file that the suffix says."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
        return path
    if ".jsonl" in path.name:
        text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    else:
        import io

        out = io.StringIO(newline="")
        writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        for row in rows:
            flat = {**row, "codes": ";".join(row["codes"])}
            flat["evidence"] = json.dumps(row["evidence"]) if row.get("evidence") else ""
            writer.writerow(flat)
        text = out.getvalue()
    raw = text.encode("utf-8")
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.jsonl", "t.jsonl.gz", "t.parquet"])
def test_every_kind_of_file_gives_the_same(tmp_path: Path, name: str) -> None:
    corpus = read_table(write(tmp_path / name, ROWS))
    assert [a.hadm_id for a in corpus.admissions] == ["1", "2", "3"]
    first, second, third = corpus.admissions
    assert first.text == plain_text(ROWS[0]["text"])
    assert first.codes == ("428.0", "038.9")
    assert [first.text[s.start : s.end] for s in first.evidence] == ["CHF", "edema"]  # mapped over the CRLF
    assert second.codes == ("427.31", "428.0")
    assert third.codes == ()
    assert corpus.code_book.codes == ("428.0", "038.9", "427.31")
    assert corpus.splits == ("train", "test")


def test_offsets_follow_what_plain_text_changes() -> None:
    text = "a\r\nb\x00c\rd\r\r\n"
    moved = plain_offsets(text)
    plain = plain_text(text)
    for i, character in enumerate(text):
        if character not in "\r\n\x00":
            assert plain[moved[i]] == character
    assert moved[len(text)] == len(plain)


def test_titles_and_other_column_names(tmp_path: Path) -> None:
    rows = [{"stay": "9", "note": "CHF", "icd": "428.0"}]
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps(rows[0]), encoding="utf-8")
    (tmp_path / "titles.csv").write_text(
        "code,title,kind\n428.0,Congestive heart failure,diagnosis\n", encoding="utf-8"
    )
    corpus = read_table(path, TableColumns("stay", "note", "icd"), titles=tmp_path / "titles.csv")
    assert corpus.code_book.title("428.0") == "Congestive heart failure"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hadm_id": "2"}, r"row 3.*repeats id 2 of row 2"),
        ({"text": "  "}, r"row 3.*empty text"),
        ({"evidence": [{"code": "428.0", "start": 5, "end": 500}]}, r"row 3.*\(5, 500\).*13 characters"),
        ({"evidence": [{"start": 5}]}, r"row 3.*has a span that is not"),
    ],
)
def test_faults_are_told_with_their_row(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    rows = [ROWS[0], ROWS[1], {**ROWS[2], **change}]
    with pytest.raises(HilatError, match=said) as told:
        read_table(write(tmp_path / "t.csv", rows))
    assert SECRET not in str(told.value)


def test_files_that_are_none_are_told(tmp_path: Path) -> None:
    cases: dict[str, tuple[bytes, str]] = {
        "a.csv": (b"id,text\n1,CHF\n", "no column 'hadm_id'; found: id, text.*--id-column"),
        "b.csv": ("hadm_id,text,codes\n1,café,428.0\n".encode("latin-1"), "line 2 is not utf-8.*latin-1"),
        "c.csv": (b"hadm_id,text,codes\n", "holds no row"),
        "d.csv": (b'hadm_id,text,codes\n1,"CHF,428.0\n', "quotes"),
        "e.jsonl": (b'{"hadm_id": "1", "te', "line 1 is broken JSON"),
        "f.jsonl": (b"[1]\n", "not a JSON object"),
        "g.parquet": (b"PAR1 no", "no Parquet file"),
        "h.csv.gz": (gzip.compress(b"hadm_id,text,codes\n" * 50)[:20], "damaged or truncated gzip"),
        "i.xlsx": (b"x", "of no known kind"),
    }
    for name, (raw, said) in cases.items():
        (tmp_path / name).write_bytes(raw)
        with pytest.raises(HilatError, match=said):
            read_table(tmp_path / name)
    with pytest.raises(HilatError, match="does not exist"):
        read_table(tmp_path / "none.csv")


def test_codes_read_as_numbers_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"hadm_id": ["1"], "text": ["CHF"], "codes": [[38.9]]}), tmp_path / "t.parquet")
    with pytest.raises(HilatError, match="lost its zeros"):
        read_table(tmp_path / "t.parquet")


def test_a_very_long_note_is_read(tmp_path: Path) -> None:
    rows = [{**ROWS[2], "text": "word " * 60_000}]
    assert len(read_table(write(tmp_path / "t.csv", rows)).admissions[0].text) == 300_000

"""`hilat predict` on folders, files and standard input: tables against `predict`, and files that are not as they should be."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from hilat.admissions import CodeBook
from hilat.cleaning import CleaningRules
from hilat.coder import Coder, load_coder, save_coder
from hilat.coder import predict as predict_notes
from hilat.encoding import ChunkLayout
from hilat.model import build_model
from hilat.vocabulary import train_sentencepiece

CANARY = "zyxcanary"
NOTES = {
    "a": f"heart failure and fever, treated with water tablets; {CANARY}\r\nno pain",
    "b": "no pain",
    "ward 3/b": "kidney failure after sepsis; fever again",
    "ward 3/deep/c.d": "fever " * 90,
}
Run = Callable[..., Any]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model `m` and the notes in `notes`."""
    folder = tmp_path_factory.mktemp("predict")
    tokenizer = train_sentencepiece(list(NOTES.values()), folder / "t", vocab_size=60, seed=0)
    encoder = {"model_type": "xlnet", "vocab_size": len(tokenizer), "d_model": 8, "n_layer": 1, "n_head": 2, "d_inner": 8, "pad_token_id": tokenizer.pad_token_id}  # fmt: skip
    coder = Coder(
        build_model(encoder, 3, chunks=3, tokens=20, seed=0, init_std=0.5).eval(),
        tokenizer,
        CodeBook(("428.0", "584.9", "038.9"), ("Heart, failure", "Kidney", ""), ("diagnosis",) * 3, "ICD-9-CM"),
        CleaningRules(words="all", order="raw"),
        ChunkLayout(3, 20),
        np.array([0.45, 0.5, 0.55]),
        "per code, tuned on val",
    )
    save_coder(coder, folder / "m")
    for name, text in NOTES.items():
        file = folder / "notes" / f"{name}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text.encode())
    (folder / "notes/readme.md").write_text("no note")
    (folder / "notes/.hidden.txt").write_text("no note")
    return folder


def expected(place: Path) -> list[dict[str, Any]]:
    """Every code of every note, from `predict`, one note at a time."""
    coder = load_coder(place / "m")
    rows = []
    for name in sorted(NOTES):
        found = next(predict_notes(coder, [NOTES[name].replace("\r\n", "\n")]))
        rows += [
            {"id": name, "code": code, "probability": p, "logit": z, "threshold": t, "given": bool(p >= t)}
            for code, p, z, t in sorted(
                zip(coder.code_book.codes, found.probabilities, found.logits, coder.thresholds, strict=True),
                key=lambda one: -one[1],
            )
        ]
    return rows


def read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return list(pq.read_table(path).to_pylist())
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    with path.open(encoding="utf-8", newline="") as stream:
        numbers = ("probability", "logit", "threshold")
        return [
            {**row, **{n: float(row[n]) for n in numbers}, "given": row["given"] == "true", **({"evidence": json.loads(row["evidence"])} if "evidence" in row else {})}
            for row in csv.DictReader(stream)
        ]  # fmt: skip


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_folder_becomes_a_table(run: Run, place: Path, tmp_path: Path, kind: str) -> None:
    common = ("predict", "--model", place / "m", "--text", place / "notes", "--device", "cpu")
    table = tmp_path / f"new/codes.{kind}"
    told = run(*common, "--out", table, "--all", "--json")
    assert told.code == 0, told.err
    lost = [load_coder(place / "m").encode(text).truncated_words for text in NOTES.values()]
    assert told.json == {
        "table": str(table), "notes": 4, "threshold_source": "per code, tuned on val", "failed": [],
        "truncated": {"notes": sum(n > 0 for n in lost), "words": sum(lost)},
    }  # fmt: skip
    assert f"{sum(lost)} words were not read" in told.err
    assert "1 files that are not .txt" in told.err
    assert table.stat().st_mode & 0o077 == 0
    assert os.listdir(tmp_path / "new") == [table.name]
    rows, right = read(table), expected(place)
    assert list(rows[0]) == ["id", "code", "title", "probability", "logit", "threshold", "given"]
    for name in ("id", "code", "given"):
        assert [row[name] for row in rows] == [row[name] for row in right]
    for name in ("probability", "logit", "threshold"):
        np.testing.assert_allclose([row[name] for row in rows], [row[name] for row in right], atol=1e-5)
    assert {row["title"] for row in rows if row["code"] == "428.0"} == {"Heart, failure"}
    assert run(*common, "--out", table).code == 1  # it exists
    assert run(*common, "--out", table, "--overwrite", "--batch-size", "2").code == 0
    assert [(row["id"], row["code"]) for row in read(table)] == [(r["id"], r["code"]) for r in right if r["given"]]
    assert run(*common, "--out", table, "--overwrite", "--top", "2").code == 0
    assert [(row["id"], row["code"]) for row in read(table)] == [
        (right[3 * n + i]["id"], right[3 * n + i]["code"]) for n in range(4) for i in range(2)
    ]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_evidence_is_positions_unless_words_are_asked_for(run: Run, place: Path, tmp_path: Path, kind: str) -> None:
    common = ("predict", "--model", place / "m", place / "notes", "--all", "--evidence", "3", "--out")
    assert run(*common, tmp_path / f"p.{kind}").code == 0
    assert CANARY.encode() not in (tmp_path / f"p.{kind}").read_bytes()
    assert run(*common, tmp_path / f"w.{kind}", "--words").code == 0
    for plain, with_words in zip(read(tmp_path / f"p.{kind}"), read(tmp_path / f"w.{kind}"), strict=True):
        text = (place / "notes" / f"{plain['id']}.txt").read_text(encoding="utf-8")  # Python reads CRLF as LF
        assert 0 < len(plain["evidence"]) <= 3
        for one, same in zip(plain["evidence"], with_words["evidence"], strict=True):
            assert set(one) == {"start", "end", "score"}
            assert same == {**one, "word": text[one["start"] : one["end"]]}
        scores = [one["score"] for one in plain["evidence"]]
        assert scores == sorted(scores, reverse=True)


def test_without_a_table_the_codes_are_printed(run: Run, place: Path) -> None:
    common = ("predict", "--model", place / "m")
    given: dict[str, list[str]] = {name: [] for name in sorted(NOTES)}
    for row in expected(place):
        if row["given"]:
            given[row["id"]].append(row["code"])
    whole = run(*common, place / "notes", "--json").json
    assert {one["id"]: [row["code"] for row in one["codes"]] for one in whole["notes"]} == given
    assert whole["failed"] == []
    lines = run(*common, place / "notes").out.splitlines()
    assert [line.split(": ")[0] for line in lines] == list(given)
    assert all(code in line for line, codes in zip(lines, given.values(), strict=True) for code in codes)
    one = run(*common, "--text", place / "notes/a.txt", "--all", "--evidence", "1", "--words", "--json")
    assert set(one.json["codes"][0]["evidence"][0]) == {"start", "end", "score", "word"}
    piped = run(*common, "--text", "-", "--all", "--evidence", "1", "--words", "--json", stdin=NOTES["a"].encode())
    assert piped.json == one.json
    assert "–" in run(*common, place / "notes/a.txt", "--all", "--evidence", "1").out


def test_one_bad_file_does_not_lose_the_others(run: Run, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    import hilat.text_files

    monkeypatch.setattr(hilat.text_files, "LARGEST", 2**20)
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "good.txt").write_text(NOTES["a"])
    (notes / "numbers.txt").write_text("12 34")
    (notes / "empty.txt").write_text(" \n\x00")
    (notes / "latin.txt").write_bytes(f"{CANARY} café".encode("latin-1"))
    (notes / "large.txt").write_bytes(b"x" * (2**20 + 1))
    (notes / "gone.txt").symlink_to(notes / "nowhere")
    (notes / "twice.TXT").write_text(CANARY)
    (notes / "twice.txt").write_text(CANARY)
    os.mkfifo(notes / "pipe.txt")
    bad_name = os.fsencode(notes) + b"/\xff.txt"
    with open(bad_name, "w") as stream:
        stream.write(CANARY)
    table = tmp_path / "codes.jsonl"
    told = run("predict", "--model", place / "m", notes, "--out", table, "--top", "1", "--json")
    assert told.code == 1
    assert [row["id"] for row in read(table)] == ["good", "numbers", "twice"]
    errors = {one["id"]: one["error"] for one in told.json["failed"]}
    said = {
        "empty": "is empty; expected", "latin": "is not utf-8 (byte 13); expected", "large": "larger than 1 MB; expected",
        "gone": "does not exist; expected", "twice": "the same id 'twice'; expected", "pipe": "no regular file; expected",
        "\\udcff": "not UTF-8; expected",
    }  # fmt: skip
    assert set(errors) == set(said)
    for name, words in said.items():
        assert words in errors[name]
        assert errors[name] in told.err
    assert CANARY not in told.said
    assert f"{len(said)} notes were not read" in told.err
    ascii_read = run("predict", "--model", place / "m", notes, "--encoding", "latin-1", "--json").json
    assert "latin" in {one["id"] for one in ascii_read["notes"]}


def test_what_is_wrong_is_said_and_nothing_is_written(run: Run, place: Path, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    (tmp_path / "blank").mkdir()
    (tmp_path / "blank/x.txt").write_text(" ")
    table = tmp_path / "codes.csv"
    for given, code, words in (
        ((tmp_path / "none", "--out", table), 1, "holds no .txt file"),
        ((tmp_path / "blank", "--out", table), 1, "none of the 1 notes"),
        ((tmp_path / "blank", "--json"), 1, "none of the 1 notes"),
        ((tmp_path / "gone", "--out", table), 1, "does not exist"),
        ((place / "notes", "--out", tmp_path / "codes.xlsx"), 1, ".csv, .jsonl, .parquet"),
        ((place / "notes", "--out", tmp_path / "blank"), 1, ".csv, .jsonl, .parquet"),
        ((place / "notes", "--encoding", "abacus", "--out", table), 1, "abacus"),
        ((place / "notes", "--evidence", "1", "--method", "magic", "--out", table), 1, "att_in_grad"),
        ((place / "notes", "--text", place / "notes", "--out", table), 2, "one of the two"),
        ((place / "notes", "--all", "--top", "2", "--out", table), 2, "one of the two"),
        ((place / "notes", "--top", "0", "--out", table), 2, "--top"),
    ):
        answer = run("predict", "--model", place / "m", *given)
        said = " ".join(answer.said.split())
        assert (answer.code, words in said) == (code, True), said
        assert "Traceback" not in said
        assert sorted(os.listdir(tmp_path)) == ["blank", "none"]


def test_a_note_without_a_code_has_no_row(run: Run, place: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    coder = load_coder(place / "m")
    save_coder(replace(coder, thresholds=np.ones(3)), tmp_path / "m")
    for kind in ("csv", "jsonl", "parquet"):
        table = tmp_path / f"codes.{kind}"
        told = run("predict", "--model", tmp_path / "m", place / "notes", "--out", table, "--evidence", "2", "--json")
        assert (told.code, told.json["notes"], read(table)) == (0, 4, [])
    assert "no code reaches" in run("predict", "--model", tmp_path / "m", place / "notes").out

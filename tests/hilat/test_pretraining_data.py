"""Notes from every source, their counts, and the sequences cut from them."""

from __future__ import annotations

import csv
import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hilat.admissions import Admission, CodeBook, HilatError
from hilat.cleaning import CleaningRules
from hilat.corpora import write_corpus
from hilat.encoding import tokenise
from hilat.pretraining_data import (
    HeldOutRows,
    Notes,
    TokenFile,
    TrainingRows,
    cut_into_sequences,
    is_held_out,
    prepare_notes,
    read_prepared,
)
from hilat.pretraining_notes import NoteSource, judged_admissions, kind_of, read_notes
from hilat.pretraining_settings import PretrainingSettings, pretraining_settings
from hilat.pretraining_targets import Aim, vocabulary_of
from hilat.pretraining_text import preprocess, sentence_starts

TINY = PretrainingSettings(
    encoder="new:xlnet", new_layers=1, new_width=16, new_heads=2, new_vocabulary=80, sequence=16, held_out=0.3, steps=4,
    batch_size=4, warmup=1,
)  # fmt: skip
SECRET = "a patient named Zebra"


def texts_in(folder: Path, count: int = 30) -> Path:
    """A folder of short notes."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    words = ["acute", "renal", "failure", "fever", "cough", "chronic", "pain", "left", "lung", "dose"]
    for n in range(count):
        sentences = [
            " ".join(rng.choice(words, rng.integers(2, 9))).capitalize() + "." for _ in range(rng.integers(1, 5))
        ]
        (folder / f"n{n:03d}.txt").write_text(" ".join(sentences), encoding="utf-8")
    return folder


def noteevents(folder: Path, form: str = ".csv") -> Path:
    """MIMIC-III's NOTEEVENTS with notes of three categories, line breaks and quotes in them."""
    header = ["ROW_ID", "SUBJECT_ID", "HADM_ID", "CHARTDATE", "CATEGORY", "DESCRIPTION", "ISERROR", "TEXT"]
    rows: list[list[Any]] = []
    for n, category in enumerate(
        ["Discharge summary", "Nursing/other", "ECG", "ECG", "Nursing/other", "Discharge summary"]
    ):
        rows.append(
            [n, 10 + n % 2, 100 + n, "2100-01-01", category, "Report", "1" if n == 3 else "", f'Note "{n}"\nof it.']
        )
    rows.append([9, 11, "", "2100-01-01", "ECG ", "Report", "", "   "])  # blank: no note
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"NOTEEVENTS{form}"
    if form == ".parquet":
        table = {name: pa.array([str(row[i]) for row in rows]) for i, name in enumerate(header)}
        pq.write_table(pa.table(table), file)
        return file
    with gzip.open(file, "wt", newline="") if form.endswith(".gz") else file.open("w", newline="") as stream:
        csv.writer(stream, quoting=csv.QUOTE_NONNUMERIC).writerows([header, *rows])
    return file


def corpus_in(folder: Path) -> Path:
    """A corpus folder with a train, a val and a test admission, and three more in train."""
    splits = ["train", "val", "test", "train", "train", "train"]
    admissions = [
        Admission(str(100 + n), f"Note {n} of the corpus.", ("401.9",), split=split, subject_id=f"s{n // 2}")
        for n, split in enumerate(splits)
    ]
    write_corpus(folder, admissions, CodeBook(("401.9",), ("",), ("diagnosis",), "ICD-9-CM"), source="table")
    return folder


def names(source: NoteSource, without: frozenset[str] = frozenset()) -> list[str]:
    """The names of a source's notes."""
    return [note.name for note in read_notes(source, without)]


# ---------------------------------------------------------------------------------------------------------------- sources
@pytest.mark.parametrize("form", [".csv", ".csv.gz", ".parquet"])
def test_mimic_notes_by_category(form: str, tmp_path: Path) -> None:
    file = noteevents(tmp_path / "mimic", form)
    folder = str(file.parent)
    assert kind_of(NoteSource(folder)) == kind_of(NoteSource(str(file))) == "mimic3"
    assert names(NoteSource(folder)) == ["0", "1", "2", "3", "4", "5"]  # the paper's MIMIC-III-CN, errors too
    assert names(NoteSource(folder, categories=("all-but-discharge",))) == ["1", "2", "3", "4"]
    assert names(NoteSource(folder, categories=("ecg", "Nursing/Other"))) == ["1", "2", "3", "4"]
    assert names(NoteSource(folder), frozenset({"102", "105"})) == ["0", "1", "3", "4"]
    note = next(iter(read_notes(NoteSource(folder))))
    assert (note.text, note.category, note.group, note.admission) == (
        'Note "0"\nof it.',
        "discharge summary",
        "10",
        "100",
    )
    with pytest.raises(HilatError, match=r"no notes of category nursing; it has discharge summary, ecg, nursing/other"):
        names(NoteSource(folder, categories=("Nursing",)))


def test_damaged_mimic_notes_are_told_without_their_text(tmp_path: Path) -> None:
    file = tmp_path / "NOTEEVENTS.csv.gz"
    whole = noteevents(tmp_path / "whole", ".csv.gz").read_bytes()
    file.write_bytes(whole[:-20])
    with pytest.raises(HilatError, match="cannot be read to its end"):
        names(NoteSource(str(file)))
    bare = tmp_path / "bare" / "noteevents.csv"
    bare.parent.mkdir()
    bare.write_text(f"row_id,text\n1,{SECRET}\n", encoding="utf-8")
    with pytest.raises(HilatError, match="no column category, hadm_id, subject_id") as told:
        names(NoteSource(str(bare.parent)))
    assert SECRET not in str(told.value)


def test_a_corpus_gives_its_train_split_unless_asked(tmp_path: Path) -> None:
    folder = corpus_in(tmp_path / "corpus")
    assert names(NoteSource(str(folder))) == ["100", "103", "104", "105"]
    assert names(NoteSource(str(folder), splits=("val", "test"))) == ["101", "102"]
    assert judged_admissions([folder]) == frozenset({"101", "102"})
    with pytest.raises(HilatError, match="no split dev; it has test, train, val"):
        names(NoteSource(str(folder), splits=("dev",)))
    mimic = noteevents(tmp_path / "mimic").parent
    assert names(NoteSource(str(mimic)), judged_admissions([folder])) == ["0", "3", "4", "5"]


@pytest.mark.parametrize("form", ["csv", "jsonl", "jsonl.gz", "parquet"])
def test_tables(form: str, tmp_path: Path) -> None:
    rows = [{"id": str(n), "note": f'Text "{n}",\nline'} for n in range(3)]
    file = tmp_path / f"notes.{form}"
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
    elif form == "csv":
        with file.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, ["id", "note"])
            writer.writeheader()
            writer.writerows(rows)
    else:
        lines = "\n".join(json.dumps(row) for row in rows)
        file.write_bytes(gzip.compress(lines.encode()) if form.endswith("gz") else lines.encode())
    read = list(read_notes(NoteSource(str(file), text_column="note", id_column="id")))
    assert [(note.name, note.text, note.group) for note in read] == [(r["id"], r["note"], r["id"]) for r in rows]
    with pytest.raises(HilatError, match="no column 'text'; found: id, note"):
        list(read_notes(NoteSource(str(file))))


def test_a_broken_line_is_told_without_its_text(tmp_path: Path) -> None:
    file = tmp_path / "notes.jsonl"
    file.write_text(f'{{"text": "{SECRET}"', encoding="utf-8")
    with pytest.raises(HilatError, match="cannot be read to its end") as told:
        list(read_notes(NoteSource(str(file))))
    assert SECRET not in str(told.value)


def test_codiesp_and_what_is_no_source(tmp_path: Path) -> None:
    texts_in(tmp_path / "codiesp" / "background" / "text_files", 3)
    assert names(NoteSource(str(tmp_path / "codiesp"))) == ["n000", "n001", "n002"]
    with pytest.raises(HilatError, match="no notes that are known"):
        names(NoteSource(str(tmp_path)))
    with pytest.raises(HilatError, match="expected one of auto"):
        NoteSource(str(tmp_path), kind="pdf")


# ------------------------------------------------------------------------------------------------------- text and counts
def test_sentences() -> None:
    text = "Seen by Dr. Smith. No fever! Why?\n\nplan: 1. rest\n2. Lasix 2.5 mg. e.g. daily.\nEnd"
    starts = sentence_starts(text)
    found = [text[a:b].strip() for a, b in zip(starts, [*starts[1:], len(text)], strict=True)]
    assert [s for s in found if s] == [
        "Seen by Dr. Smith.",
        "No fever!",
        "Why?",
        "plan: 1. rest\n2. Lasix 2.5 mg. e.g. daily.",
        "End",
    ]


def test_the_papers_preprocessing() -> None:
    text = "Seen on [**2101-1-1**] at ==5 PM__. Stable.\n-----\nBP 120/80."
    words, sentences = preprocess(text, CleaningRules(words="all", order="raw"))
    assert words == ("seen", "on", "at", "5", "pm", ".", "stable.", "bp", "120/80.")
    assert sentences == 3
    words, sentences = preprocess(text, CleaningRules(words="all", order="raw"), shortest_sentence=2)
    assert words == ("seen", "on", "at", "5", "pm", ".", "bp", "120/80.")
    assert sentences == 2
    assert preprocess(" \n--", CleaningRules()) == ((), 0)


def test_prepared_notes_are_those_of_a_slow_second_version(tmp_path: Path) -> None:
    notes = Notes((NoteSource(str(texts_in(tmp_path / "texts"))), NoteSource(str(noteevents(tmp_path / "m").parent))))
    prepare_notes(tmp_path / "data", notes, TINY)
    prepared = read_prepared(tmp_path / "data")
    separator = prepared.tokenizer.get_vocab()["<eod>"]
    expected: dict[str, list[int]] = {"train": [], "held_out": []}
    held, words_of, tokens = 0, [], 0
    for _, note in notes:
        words = note.text.lower().split()
        ids = tokenise(words, prepared.tokenizer)[0].tolist()
        out = is_held_out(note.group, 0.3, 0)
        held += out
        words_of += words
        tokens += len(ids)
        expected["held_out" if out else "train"] += [*ids, separator]
    assert prepared.train.tokens.tolist() == expected["train"]
    assert prepared.held_out.tokens.tolist() == expected["held_out"]
    total = prepared.statistics[-1]
    assert (total["notes"], total["held_out_notes"], total["words"], total["tokens"]) == (
        36,
        held,
        len(words_of),
        tokens,
    )
    assert {(row["source"], row["category"]) for row in prepared.statistics} == {
        ("texts", "note"), ("m", "ecg"), ("m", "nursing/other"), ("m", "discharge summary"), ("all", "all")
    }  # fmt: skip
    assert [row["admissions"] for row in prepared.statistics if row["source"] == "m"] == [2, 2, 2]
    assert total["admissions"] == 6
    assert sum(int(row["words"]) for row in prepared.statistics[:-1]) == total["words"]


def test_a_patients_notes_are_held_out_together_and_by_the_seed() -> None:
    shares = [np.mean([is_held_out(f"p{n}", 0.2, seed) for n in range(2000)]) for seed in range(3)]
    assert all(abs(share - 0.2) < 0.04 for share in shares)
    assert [is_held_out(f"p{n}", 0.2, 0) for n in range(50)] != [is_held_out(f"p{n}", 0.2, 1) for n in range(50)]
    assert not any(is_held_out(f"p{n}", 0.0, 0) for n in range(50))


def test_nothing_is_left_of_a_preparation_that_fails(tmp_path: Path) -> None:
    folder = texts_in(tmp_path / "texts", 4)
    for file in folder.iterdir():
        file.write_text("----", encoding="utf-8")
    with pytest.raises(HilatError):
        prepare_notes(tmp_path / "data", Notes((NoteSource(str(folder)),)), TINY)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["texts"]


def test_a_file_that_was_cut_off_is_told(tmp_path: Path) -> None:
    prepare_notes(tmp_path / "data", Notes((NoteSource(str(texts_in(tmp_path / "texts"))),)), TINY)
    file = tmp_path / "data" / "train.tokens"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(HilatError, match="cut off"):
        read_prepared(tmp_path / "data")


# -------------------------------------------------------------------------------------------------------------- sequences
@pytest.mark.parametrize("lengths", [[3, 11, 1, 5], [1], [10], [4, 5]])
def test_sequences_against_a_slow_second_version(lengths: list[int]) -> None:
    room, separator = 5, 99
    notes = [list(range(10 * n, 10 * n + length)) for n, length in enumerate(lengths)]
    stream = [token for note in notes for token in [*note, separator]]
    starts = np.cumsum([0, *(length + 1 for length in lengths)])
    file = TokenFile(np.array(stream, dtype=np.uint16), starts)
    packed = cut_into_sequences(file, room, "packed")
    pieces = [stream[i : i + room] for i in range(0, len(stream), room)]
    if pieces[-1] == [separator] and len(pieces) > 1:
        pieces.pop()
    assert [packed[n].tolist() for n in range(len(packed))] == pieces
    apart = cut_into_sequences(file, room, "apart")
    assert [apart[n].tolist() for n in range(len(apart))] == [
        note[i : i + room] for note in notes for i in range(0, len(note), room)
    ]


def test_rows_depend_on_the_seed_and_their_number_alone(tmp_path: Path) -> None:
    prepare_notes(tmp_path / "data", Notes((NoteSource(str(texts_in(tmp_path / "texts"))),)), TINY)
    prepared = read_prepared(tmp_path / "data")
    vocabulary = vocabulary_of(prepared.tokenizer)
    sequences = cut_into_sequences(prepared.train, 14, "packed")
    one, two, other = (
        TrainingRows(sequences, vocabulary, Aim("permutation", 1 / 6), 3 * len(sequences), seed) for seed in (0, 0, 1)
    )
    order = list(range(len(one)))
    for n in order[::-1]:
        assert one[n].ids.tolist() == two[n].ids.tolist()
        assert one[n].ranks.tolist() == two[n].ranks.tolist()
    assert any(one[n].ids.tolist() != other[n].ids.tolist() for n in order)
    for first in (0, len(sequences)):  # each pass has all sequences, in an order of its own
        read = sorted(one[first + n].ids.tolist() for n in range(len(sequences)))
        assert read == sorted([*sequences[n].tolist(), 4, 3] for n in range(len(sequences)))
    passes = [[one[start + n].ids.tolist() for n in range(len(sequences))] for start in (0, len(sequences))]
    assert passes[0] != passes[1]
    held = HeldOutRows(cut_into_sequences(prepared.held_out, 14, "packed"), vocabulary, Aim("permutation", 1 / 6), 5, 0)
    assert len(held) == 5
    assert held[3].ranks.tolist() == held[3].ranks.tolist()


# --------------------------------------------------------------------------------------------------------------- settings
def test_the_defaults_are_the_papers() -> None:
    settings = PretrainingSettings()
    assert (settings.steps, settings.batch_size, settings.sequence) == (1_000_000, 64, 512)
    assert (settings.learning_rate, settings.weight_decay, settings.dropout) == (4e-4, 0.01, 0.1)
    assert settings.share_predicted("permutation") == 1 / 6
    assert settings.share_predicted("masked") == 0.15


def test_settings_from_a_file_and_wrong_ones(tmp_path: Path) -> None:
    file = tmp_path / "pretrain.yaml"
    file.write_text("learning_rate: 1e-4\nsteps: 10\n", encoding="utf-8")
    assert pretraining_settings(file, {"steps": 20}) == replace(PretrainingSettings(), learning_rate=1e-4, steps=20)
    for wrong, message in (
        ({"chunks": 10}, "unknown setting chunks"),
        ({"sequence": 4}, "8 tokens or more"),
        ({"held_out": 1.0}, "held_out is 1.0"),
        ({"predict": 0.9}, "predict is 0.9"),
        ({"documents": "mixed"}, "packed, apart"),
        ({"encoder": "new:t5"}, "new encoders are"),
        ({"warmup": -1.0}, "not negative"),
    ):
        with pytest.raises(HilatError, match=message):
            pretraining_settings(None, wrong)

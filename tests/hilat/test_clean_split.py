"""Splits in which every code has its share: against the published algorithm written out slowly, and from released files."""

from __future__ import annotations

import csv
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hilat.admissions import HilatError
from hilat.corpora.mimic import MimicSettings
from hilat.corpora.mimic3 import read_mimic3
from hilat.corpora.splits import SplitTable, StratifiedSplit, read_split_table, split_by_subject
from hilat.corpora.stratified import stratification_table, stratified_by_subject

FRACTIONS = {"train": 0.75, "val": 0.10, "test": 0.15}


def some_admissions(seed: int, subjects: int = 120) -> tuple[list[str], list[list[str]]]:
    """Subjects with one to five admissions, codes from very rare to frequent, some admissions without any."""
    rng = np.random.default_rng(seed)
    people, codes = [], []
    for subject in range(subjects):
        for _ in range(rng.choice([1, 1, 1, 2, 5])):
            people.append(f"p{subject}")
            codes.append([f"c{k}" for k in range(40) if rng.random() < 0.5 / (k + 1)])
    return people, codes


def slow_stratified(people: list[str], codes: list[list[str]], fractions: dict[str, float], seed: int) -> list[str]:
    """Sechidis et al. 2011, algorithm 1, with sets: the rarest code left first, to the split that lacks it most."""
    rng = np.random.default_rng(seed)
    everyone = sorted(set(people))
    order = dict(zip(everyone, rng.permutation(len(everyone)).tolist(), strict=True))
    of: dict[str, Counter[str]] = {person: Counter() for person in everyone}
    for person, own in zip(people, codes, strict=True):
        of[person].update(own)
    size = Counter(people)
    names = list(fractions)
    total = Counter(code for own in codes for code in own)
    lacking = {code: [total[code] * fractions[name] for name in names] for code in sorted(total)}
    room = [len(people) * fractions[name] for name in names]
    left, where = set(everyone), {}

    def put(person: str, wish: list[float]) -> None:
        best = [s for s in range(len(names)) if wish[s] >= max(wish) - 1e-9]
        if len(best) > 1:
            best = [s for s in best if room[s] >= max(room[b] for b in best) - 1e-9]
        split = best[0] if len(best) == 1 else int(rng.choice(best))
        where[person] = names[split]
        left.discard(person)
        for code, times in of[person].items():
            lacking[code][split] -= times
        room[split] -= size[person]

    while True:
        holders = {code: sum(code in of[person] for person in left) for code in lacking}
        remaining = [code for code in lacking if holders[code]]
        if not remaining:
            break
        code = min(remaining, key=lambda one: (holders[one], one))
        for person in sorted((p for p in left if code in of[p]), key=order.__getitem__):
            put(person, lacking[code])
    for person in sorted(left):
        put(person, list(room))
    return [where[person] for person in people]


@pytest.mark.parametrize("seed", range(4))
def test_the_draw_is_the_slow_versions(seed: int) -> None:
    people, codes = some_admissions(seed)
    assert stratified_by_subject(people, codes, FRACTIONS, seed) == slow_stratified(people, codes, FRACTIONS, seed)


@pytest.mark.parametrize("seed", range(4))
def test_subjects_stay_together_shares_come_out_and_codes_are_better_spread_than_by_chance(seed: int) -> None:
    people, codes = some_admissions(seed, subjects=600)
    drawn = stratified_by_subject(people, codes, FRACTIONS, seed)
    splits_of: dict[str, set[str]] = {}
    for person, split in zip(people, drawn, strict=True):
        splits_of.setdefault(person, set()).add(split)
    assert {len(splits) for splits in splits_of.values()} == {1}
    table = stratification_table(drawn, codes)
    for name, share in FRACTIONS.items():
        assert table[name]["share"] == pytest.approx(share, abs=0.02)
    ids = [str(n) for n in range(len(people))]
    chance = stratification_table(list(split_by_subject(ids, people, FRACTIONS, seed).values()), codes)
    for name in ("val", "test"):
        assert table[name]["kl_nats"] < chance[name]["kl_nats"]
        assert table[name]["codes_missing"] <= chance[name]["codes_missing"]


def test_the_draw_depends_on_the_data_and_not_on_their_order() -> None:
    people, codes = some_admissions(9)
    drawn = dict(zip(people, stratified_by_subject(people, codes, FRACTIONS, 3), strict=True))
    shuffled = np.random.default_rng(0).permutation(len(people))
    again = stratified_by_subject([people[i] for i in shuffled], [codes[i] for i in shuffled], FRACTIONS, 3)
    assert dict(zip([people[i] for i in shuffled], again, strict=True)) == drawn
    assert stratified_by_subject(people, codes, FRACTIONS, 4) != stratified_by_subject(people, codes, FRACTIONS, 3)
    two = stratified_by_subject(people, codes, {"train": 0.8, "val": 0.0, "test": 0.2}, 3)
    assert set(two) == {"train", "test"}
    with pytest.raises(HilatError, match="2 subjects are too few"):
        stratified_by_subject(["a", "b"], [["x"], ["x"]], FRACTIONS, 0)
    with pytest.raises(HilatError, match="1 of them empty"):
        stratified_by_subject(["a", ""], [["x"], ["x"]], FRACTIONS, 0)


def test_the_table_by_hand() -> None:
    table = stratification_table(["train", "train", "test"], [["a", "b"], ["a"], ["a"]])
    assert table["test"] == {"admissions": 1, "share": 1 / 3, "codes_missing": 1, "kl_nats": pytest.approx(math.log(4 / 3))}  # fmt: skip
    expected = 2 / 3 * math.log((2 / 3) / (3 / 4)) + 1 / 3 * math.log((1 / 3) / (1 / 4))
    assert table["train"]["kl_nats"] == pytest.approx(expected)


@pytest.mark.parametrize("form", ["feather", "parquet", "csv"])
def test_a_released_split_file_is_read(tmp_path: Path, form: str) -> None:
    frame = pd.DataFrame({"_id": [100001, 100003, 100006], "split": ["train", "val", "test"]})
    path = tmp_path / f"mimiciii_clean_splits.{form}"
    frame.to_csv(path, index=False) if form == "csv" else getattr(frame, f"to_{form}")(path)
    expected = {"100001": "train", "100003": "val", "100006": "test"}
    assert read_split_table(path) == expected
    gaps = pd.DataFrame({"HADM_ID": [100001.0, 100003.0, 100006.0], "Split": ["train", "dev", "test"]})
    gaps.to_parquet(path)
    assert read_split_table(path) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id,split\n1,train\n", "has the columns id, split; expected _id"),
        ("_id,split\n1,train\n1,test\n", "admission 1 in train and in test"),
        ("_id,split\n1,fold3\n", "a split of another name"),
        ("_id,split\nx1,train\n", "an id that is no whole number"),
        ("_id,split\n", "holds no id"),
        ("", "cannot be read as Feather, Parquet or CSV"),
        ("ARROW1 and then nothing", "cannot be read as Feather"),
        (None, "does not exist"),
    ],
)
def test_wrong_split_files_are_refused(tmp_path: Path, text: str | None, said: str) -> None:
    path = tmp_path / "splits.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(HilatError, match=said):
        read_split_table(path)


def mimic3(folder: Path) -> Path:
    """MIMIC-III's tables with a summary for each of some admissions and diagnoses c0 .. c39 as 100 .. 139."""
    people, codes = some_admissions(2)
    tables: dict[str, list[list[Any]]] = {
        "NOTEEVENTS": [
            ["row_id", "subject_id", "hadm_id", "chartdate", "charttime", "category", "description", "iserror", "text"]
        ],
        "DIAGNOSES_ICD": [["row_id", "hadm_id", "seq_num", "icd9_code"]],
        "PROCEDURES_ICD": [["row_id", "hadm_id", "seq_num", "icd9_code"], [1, 1, 1, "9999"]],
        "D_ICD_DIAGNOSES": [["icd9_code", "long_title"], ["100", "One"]],
        "D_ICD_PROCEDURES": [["icd9_code", "long_title"], ["9999", "Two"]],
    }
    for n, (person, own) in enumerate(zip(people, codes, strict=True)):
        hadm = 100_000 + n
        tables["NOTEEVENTS"].append([n, person[1:], hadm, "", "", "Discharge summary", "Report", "", f"Summary {n}."])
        tables["DIAGNOSES_ICD"] += [[hadm * 100 + i, hadm, i, 100 + int(code[1:])] for i, code in enumerate(own)]
    for name, rows in tables.items():
        with (folder / f"{name}.csv").open("w", newline="") as stream:
            csv.writer(stream).writerows(rows)
    return folder


def test_the_clean_corpus_is_made_as_its_authors_describe(tmp_path: Path) -> None:
    folder = mimic3(tmp_path)
    people, codes = some_admissions(2)
    counts = Counter(code for own in codes for code in own)
    kept = {str(100 + int(code[1:])) for code, count in counts.items() if count >= 10}
    settings = MimicSettings(labels="all", min_count=10, splits=StratifiedSplit(seed=1))
    corpus = read_mimic3(folder, settings)
    assert set(corpus.code_book.codes) == kept
    assert len(kept) < len(counts)
    labelled = [n for n, own in enumerate(codes) if {str(100 + int(code[1:])) for code in own} & kept]
    assert [a.hadm_id for a in corpus.admissions] == [str(100_000 + n) for n in labelled]
    lists = [[str(100 + int(code[1:])) for code in codes[n] if str(100 + int(code[1:])) in kept] for n in labelled]
    expected = slow_stratified([people[n][1:] for n in labelled], lists, FRACTIONS, 1)
    assert [a.split for a in corpus.admissions] == expected
    drawn = corpus.notes["splits"]["drawn"]
    assert {name: row["admissions"] for name, row in drawn.items()} == dict(Counter(expected))


def test_a_released_split_chooses_the_admissions(tmp_path: Path) -> None:
    folder = mimic3(tmp_path)
    hadm_ids = [str(100_000 + n) for n, own in enumerate(some_admissions(2)[1]) if "c0" in own][:9]
    frame = pd.DataFrame({"_id": [int(i) for i in hadm_ids] + [7], "split": ["train", "val", "test"] * 3 + ["test"]})
    frame.to_feather(tmp_path / "clean.feather")
    settings = MimicSettings(labels="all", min_count=10, splits=SplitTable(tmp_path / "clean.feather"))
    corpus = read_mimic3(folder, settings)
    assert {a.hadm_id: a.split for a in corpus.admissions} == dict(
        zip(hadm_ids, ["train", "val", "test"] * 3, strict=True)
    )
    assert corpus.notes["splits"]["ids_not_in_data"] == {"test": 1}
    assert corpus.notes["settings"]["splits"] == "clean.feather"


def test_labels_counted_on_train_cannot_steer_the_split() -> None:
    with pytest.raises(HilatError, match="expected one to come first"):
        MimicSettings(count_labels_on="train", splits=StratifiedSplit())

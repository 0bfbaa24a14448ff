"""Splits from CAML's files and by subject."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hilat.admissions import HilatError
from hilat.corpora.splits import SplitFiles, caml_split_files, read_id_file, read_split_files, split_by_subject

FRACTIONS = {"train": 0.7, "val": 0.1, "test": 0.2}


def three_files(folder: Path, train: str, val: str, test: str) -> SplitFiles:
    for name, content in (("train", train), ("val", val), ("test", test)):
        (folder / f"{name}.csv").write_bytes(content.encode())
    return SplitFiles(folder / "train.csv", folder / "val.csv", folder / "test.csv")


def test_the_split_files_of_caml(shared: Path) -> None:
    fifty = read_split_files(caml_split_files(shared / "data" / "caml_splits", "50"))
    counts = [list(fifty.values()).count(name) for name in ("train", "val", "test")]
    assert counts == [8066, 1573, 1729]  # Mullenbach et al. 2018, table 2
    assert fifty["182396"] == "train"
    assert fifty["111912"] == "val"
    assert fifty["193800"] == "test"
    full = read_split_files(caml_split_files(shared / "data" / "caml_splits", "full"))
    assert [list(full.values()).count(name) for name in ("train", "val", "test")] == [47723, 1631, 3372]
    assert fifty.items() <= full.items()


def test_files_with_crlf_bom_blank_lines_and_no_last_newline_hold_the_same_ids(tmp_path: Path) -> None:
    files = three_files(tmp_path, "\ufeff1\r\n2\r\n\r\n", "3", '"4"\n\n5\n5\n')
    assert read_split_files(files) == {"1": "train", "2": "train", "3": "val", "4": "test", "5": "test"}


def test_an_id_in_two_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HilatError, match=r"2 admission ids .*3 in val and test, 2 in train and test"):
        read_split_files(three_files(tmp_path, "1\n2\n", "3\n", "3\n2\n"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"HADM_ID\n1\n", "line 1 is a header"),
        (b"1\n2,3\n", "line 2 is not an admission id"),
        (b"1\n2.0\n", "line 2 is not an admission id"),
        (b"", "holds no id"),
        (b"\xff\xfe1\n", "cannot be read as text"),
    ],
)
def test_a_file_that_is_no_list_of_ids_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "ids.csv").write_bytes(content)
    with pytest.raises(HilatError, match=said):
        read_id_file(tmp_path / "ids.csv")


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(HilatError, match=r"does not exist"):
        read_id_file(tmp_path / "ids.csv")
    (tmp_path / "train_50_hadm_ids.csv").write_text("1\n")
    with pytest.raises(HilatError, match=r"has no dev_50_hadm_ids.csv, test_50.*there: train_50_hadm_ids.csv"):
        caml_split_files(tmp_path, "50")


def test_a_subject_is_in_one_split_and_the_shares_are_those_asked_for() -> None:
    rng = np.random.default_rng(0)
    ids = [str(n) for n in range(1000)]
    subjects = [str(s) for s in rng.integers(0, 400, size=1000)]
    drawn = split_by_subject(ids, subjects, FRACTIONS, seed=3)
    assert list(drawn) == ids
    splits_of: dict[str, set[str]] = {}
    for hadm_id, subject in zip(ids, subjects, strict=True):
        splits_of.setdefault(subject, set()).add(drawn[hadm_id])
    assert {len(splits) for splits in splits_of.values()} == {1}
    people = len(splits_of)
    for name, share in FRACTIONS.items():
        assert abs(sum(splits == {name} for splits in splits_of.values()) - share * people) <= 1


def test_the_draw_depends_on_the_seed_and_not_on_the_order() -> None:
    ids = [str(n) for n in range(60)]
    subjects = [str(n // 2) for n in range(60)]
    drawn = split_by_subject(ids, subjects, FRACTIONS, seed=1)
    assert drawn == split_by_subject(ids[::-1], subjects[::-1], FRACTIONS, seed=1)
    assert drawn != split_by_subject(ids, subjects, FRACTIONS, seed=2)


def test_a_split_of_zero_is_allowed_and_stays_empty() -> None:
    drawn = split_by_subject(["1", "2"], ["a", "b"], {"train": 1.0, "test": 0.0}, seed=0)
    assert set(drawn.values()) == {"train"}


@pytest.mark.parametrize(
    ("ids", "subjects", "fractions", "said"),
    [
        (["1"], ["a", "b"], {"train": 1.0}, "1 ids and 2 subjects"),
        (["1", "1"], ["a", "b"], {"train": 1.0}, "comes twice"),
        (["1", "2"], ["a", ""], {"train": 1.0}, "1 admissions have no subject"),
        (["1", "2"], ["a", "b"], {"train": 0.8, "test": 0.1}, "sum to 1"),
        (["1", "2"], ["a", "b"], {"train": 1.5, "test": -0.5}, "train=1.5, test=-0.5"),
        (["1", "2"], ["a", "b"], {}, "none"),
        (["1", "2"], ["a", "a"], {"train": 0.5, "test": 0.5}, "too few"),
    ],
)
def test_what_cannot_be_split_is_refused(
    ids: list[str], subjects: list[str], fractions: dict[str, float], said: str
) -> None:
    with pytest.raises(HilatError, match=said):
        split_by_subject(ids, subjects, fractions, seed=0)

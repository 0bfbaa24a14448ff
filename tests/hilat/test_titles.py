"""Titles for codes that come without."""

from __future__ import annotations

from pathlib import Path

import pytest

from hilat.admissions import Admission, CodeBook, HilatError
from hilat.corpora import Corpus
from hilat.corpora.titles import read_titles, with_titles

BOOK = CodeBook(("R52", "I10", "R50.9"), ("", "mine", ""), ("diagnosis",) * 3, "ICD-10-CM/PCS")
CORPUS = Corpus((Admission(hadm_id="1", text="a", codes=("R52",)),), BOOK, "x")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("icd10cm_codes_2018.txt", "R52     Pain, unspecified\nI10     Essential (primary) hypertension\nR509    Fever, unspecified\n"),
        ("titles.csv", 'code,title\nr50.9,"Fever, unspecified"\nR52,"Pain, unspecified"\nI10,Essential\n'),
    ],
)  # fmt: skip
def test_titles_come_from_a_code_list_or_a_table(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    found = with_titles(CORPUS, tmp_path / name)
    assert found.code_book.titles == ("Pain, unspecified", "mine", "Fever, unspecified")
    assert found.code_book.codes == BOOK.codes
    assert found.admissions == CORPUS.admissions


def test_a_code_that_is_there_only_in_longer_forms_takes_the_first(tmp_path: Path) -> None:
    (tmp_path / "codes.txt").write_text("R509XD  Fever, later\nR509XA  Fever, first\nR5      Pain\n", encoding="utf-8")
    assert with_titles(CORPUS, tmp_path / "codes.txt").code_book.titles == ("", "mine", "Fever, first")


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    for name, text, words in (
        ("a.csv", "id,name\n1,2\n", "columns id, name; expected code and title"),
        ("b.txt", "R52\n", "not a code, spaces and a title"),
        ("c.txt", "Z99 Something\n", "none of which is for one of the corpus' 3 codes"),
    ):
        (tmp_path / name).write_text(text, encoding="utf-8")
        with pytest.raises(HilatError, match=words):
            with_titles(CORPUS, tmp_path / name)
    with pytest.raises(HilatError, match="does not exist"):
        read_titles(tmp_path / "none.txt")

"""Forms of codes against the released dictionaries."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from hilat.admissions import CodeKind, HilatError
from hilat.codes import add_dot, category, icd9_chapter, remove_dot, siblings


def test_dots_by_hand() -> None:
    assert add_dot("0389", "diagnosis") == "038.9"
    assert add_dot("0331", "procedure") == "03.31"
    assert add_dot("331", "procedure") == "33.1"
    assert add_dot("4019", "diagnosis") == "401.9"
    assert add_dot("486", "diagnosis") == "486"
    assert add_dot("V5861", "diagnosis") == "V58.61"
    assert add_dot("E8781", "diagnosis") == "E878.1"
    assert add_dot("E849", "diagnosis") == "E849"
    assert add_dot("38.93", "procedure") == "38.93"


@pytest.mark.parametrize(
    ("file", "kind"), [("D_ICD_DIAGNOSES.csv", "diagnosis"), ("D_ICD_PROCEDURES.csv", "procedure")]
)
def test_every_code_of_the_dictionaries_comes_back(shared: Path, file: str, kind: CodeKind) -> None:
    with (shared / "data" / "mimic3_demo" / file).open(encoding="utf-8", newline="") as stream:
        codes = [row["icd9_code"] for row in csv.DictReader(stream)]
    dotted = [add_dot(code, kind) for code in codes]
    assert [remove_dot(code) for code in dotted] == codes
    assert len(set(dotted)) == len(set(codes)) > 3000
    whole = {len(code.split(".")[0]) for code in dotted}
    assert whole == ({3, 4} if kind == "diagnosis" else {2})
    if kind == "diagnosis":
        assert all(icd9_chapter(code) for code in dotted)


def test_categories_siblings_and_chapters() -> None:
    assert category("96.71", "procedure") == "96"
    assert category("E878.1", "diagnosis") == "E878"
    assert siblings("428.0", "diagnosis", ["428.0", "428.21", "427.31"]) == ("428.21",)
    assert siblings("96.71", "procedure", ["96.71", "96.72", "96.6", "96.04", "9670"]) == ("96.72", "9670")
    assert icd9_chapter("428.0") == "Diseases of the circulatory system"
    assert icd9_chapter("V58.61").startswith("Factors")


def test_numbers_and_nothing_are_refused() -> None:
    with pytest.raises(HilatError, match="lost its zeros"):
        add_dot(389, "diagnosis")  # type: ignore[arg-type]
    with pytest.raises(HilatError, match="empty"):
        add_dot(" ", "diagnosis")
    with pytest.raises(HilatError, match="no chapter"):
        icd9_chapter("Z99")

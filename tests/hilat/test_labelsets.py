"""Label sets: counting with ties, the published list, differences."""

from __future__ import annotations

import pytest

from hilat.admissions import HilatError
from hilat.corpora.labelsets import compare_label_sets, published_label_set, top_k


def test_top_k_counts_admissions_and_breaks_ties_by_code() -> None:
    lists = [("B", "A", "A"), ("C", "B"), ("A",), ("D",)]
    assert top_k(lists, 3) == ("A", "B", "C")
    assert top_k(lists, 9) == ("A", "B", "C", "D")


def test_the_published_list_has_fifty_codes() -> None:
    codes = published_label_set("caml-50")
    assert len(set(codes)) == 50
    assert codes[:3] == ("401.9", "38.93", "428.0")
    assert sum(len(code.split(".")[0]) == 2 for code in codes) == 17  # procedures


def test_differences_are_told_both_ways() -> None:
    codes = [*published_label_set("caml-50")[1:], "V45.82"]
    assert compare_label_sets(codes)["caml-50"] == {"only_here": ["V45.82"], "only_there": ["401.9"]}


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(HilatError, match="laat-50"):
        published_label_set("laat-50")

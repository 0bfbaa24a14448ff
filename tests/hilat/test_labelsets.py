"""Label sets: counting with ties, the published list, differences."""

from __future__ import annotations

import pytest

from hilat.admissions import HilatError
from hilat.corpora.labelsets import compare_label_sets, published_label_set, top_k
from hilat.corpora.mimic_codes import most_frequent, most_frequent_rows


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


def test_laats_rule_counts_rows_and_not_admissions() -> None:
    rows = [{"33.24": 3, "401.9": 1}, {"401.9": 1}, {"037.1": 1, "33.24": 1, "401.9": 1}]
    assert most_frequent_rows(rows, 2) == ("33.24", "401.9")
    assert most_frequent([tuple(one) for one in rows], 2) == ("401.9", "33.24")
    with pytest.raises(HilatError, match="have 3"):
        most_frequent_rows(rows, 50)

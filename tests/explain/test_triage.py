"""Drawing cases for review: strata, allocation, chances, reviewers; tables safe in a spreadsheet."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from explain.cues import Cue, Passage
from explain.triage import (
    POOLED,
    Drawn,
    ListedCase,
    SampleOptions,
    allocate,
    draw,
    read_sample,
    write_sample,
)
from explain.triage_csv import Beside, inert, plain, write_triage
from hilat.admissions import HilatError


def case(hadm_id: str, code: str, outcome: str = "FP", kinds: Sequence[str] = (), *, weak: bool = False) -> ListedCase:
    cues = tuple(Cue(kind, f"says {kind}", 0, 4, 9) for kind in kinds)
    return ListedCase(
        hadm_id, code, outcome, 0.7, 0.5, weak, cues, (Passage(4, 20, (4, 9), 0.6, "hospital_course", (), False),)
    )


CASES = [
    *(case(f"{n}", "401.9", kinds=("negated",) if n % 2 else ()) for n in range(20)),
    *(case(f"{n}", "428.0", kinds=("negated", "section")) for n in range(7)),
    *(case(f"{n}", "038.9", kinds=("family", "negated")) for n in range(2)),
    case("5", "584.9"),
    *(case(f"{n}", "250.00", "TP", weak=n < 3) for n in range(10)),
    case("3", "584.9", "FN"),
]


# ---------------------------------------------------------------- allocation


def slow_proportional(sizes: list[int], n: int) -> float:
    """The smallest sum of squared distances to n N_h / N of any allocation with 1 to N_h each: tried one by one."""
    share = [Fraction(n * size, sum(sizes)) for size in sizes]
    best: list[float] = []

    def go(h: int, left: int, cost: Fraction) -> None:
        if h == len(sizes):
            if left == 0:
                best.append(float(cost))
            return
        for x in range(1, min(sizes[h], left) + 1):
            go(h + 1, left - x, cost + (x - share[h]) ** 2)

    go(0, n, Fraction(0))
    return min(best)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4), data=st.data())
def test_proportional_allocation_is_the_nearest_to_the_sizes(sizes: list[int], data: st.DataObject) -> None:
    n = data.draw(st.integers(len(sizes), sum(sizes)))
    found = allocate(sizes, n)
    assert sum(found) == n
    assert all(1 <= x <= size for x, size in zip(found, sizes, strict=True))
    cost = sum((x - n * size / sum(sizes)) ** 2 for x, size in zip(found, sizes, strict=True))
    assert cost == pytest.approx(slow_proportional(sizes, n), abs=1e-9)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=8), data=st.data())
def test_equal_allocation_is_as_even_as_the_sizes_allow(sizes: list[int], data: st.DataObject) -> None:
    n = data.draw(st.integers(len(sizes), sum(sizes)))
    found = allocate(sizes, n, "equal")
    assert sum(found) == n
    assert all(1 <= x <= size for x, size in zip(found, sizes, strict=True))
    open_ = [x for x, size in zip(found, sizes, strict=True) if x < size]
    assert all(x >= max(found) - 1 for x in open_)  # who could take more has hardly less than any


def test_allocation_by_hand() -> None:
    assert allocate([20, 7, 2, 1], 10) == [6, 2, 1, 1]  # shares 6.67, 2.33, 0.67, 0.33
    assert allocate([20, 7, 2, 1], 10, "equal") == [4, 3, 2, 1]
    assert allocate([5, 5], 2) == [1, 1]
    assert allocate([3], 3) == [3]


# ---------------------------------------------------------------- strata and chances


@pytest.mark.parametrize("by", ["code", "cue", "outcome"])
@pytest.mark.parametrize("allocation", ["proportional", "equal"])
def test_every_stratum_is_drawn_from_and_weights_add_up_to_the_population(by: str, allocation: str) -> None:
    drawn = draw(CASES, SampleOptions(12, by, allocation, ("FP", "FN", "TP")))
    assert len(drawn) == len({one.pair for one in drawn}) == 12
    assert sum(one.weight for one in drawn) == pytest.approx(len(CASES))
    assert all(one.inclusion * one.weight == pytest.approx(1) for one in drawn)
    count = Counter(one.stratum for one in drawn)
    assert all(count[one.stratum] == one.drawn for one in drawn)
    where = [CASES.index(next(c for c in CASES if c.pair == one.pair)) for one in drawn]
    assert where == sorted(where)


def test_strata_by_cue_take_the_rarest_of_a_case() -> None:
    drawn = draw(CASES, SampleOptions(30, "cue"))
    assert {one.stratum: one.population for one in drawn} == {
        "FP family": 2,
        "FP negated": 10,
        "FP section": 7,
        "FP no cue": 11,
    }


def test_weak_cases_can_be_asked_for_alone() -> None:
    drawn = draw(CASES, SampleOptions(99, outcomes=("weak",)))
    assert [one.hadm_id for one in drawn] == ["0", "1", "2"]
    assert {one.stratum for one in drawn} == {"TP 250.00"}


def test_small_strata_are_pooled_where_there_are_more_than_cases_to_draw() -> None:
    drawn = draw(CASES, SampleOptions(2))  # four codes among the false positives
    assert {one.stratum: one.population for one in drawn} == {"FP 401.9": 20, POOLED: 10}
    (one,) = draw(CASES, SampleOptions(1))
    assert (one.stratum, one.population, one.drawn) == (POOLED, 30, 1)


def test_cases_are_drawn_as_often_as_their_chance_says() -> None:
    times: Counter[tuple[str, str]] = Counter()
    chance: dict[tuple[str, str], float] = {}
    for seed in range(1500):
        for one in draw(CASES, SampleOptions(10, seed=seed)):
            times[one.pair] += 1
            chance[one.pair] = one.inclusion
    false = [one for one in CASES if one.outcome == "FP"]
    observed = np.array([times[one.pair] / 1500 for one in false])
    expected = np.array([chance[one.pair] for one in false])
    # Four standard errors of a share of 1,500 seeds.
    assert np.all(np.abs(observed - expected) <= 4 * np.sqrt(expected * (1 - expected) / 1500) + 1e-9)


def test_the_same_seed_draws_the_same_and_another_one_does_not() -> None:
    first = draw(CASES, SampleOptions(10, reviewers=("a", "b"), overlap=0.4, seed=1))
    assert first == draw(CASES, SampleOptions(10, reviewers=("a", "b"), overlap=0.4, seed=1))
    assert first != draw(CASES, SampleOptions(10, reviewers=("a", "b"), overlap=0.4, seed=2))


@pytest.mark.parametrize(("names", "overlap"), [(("a", "b"), 0.3), (("a", "b", "c"), 0.25), (("a", "b"), 1.0), (("a",), 0.0)])  # fmt: skip
def test_shared_cases_go_to_everybody_and_the_others_are_dealt_out_evenly(names: tuple[str, ...], overlap: float) -> None:  # fmt: skip
    drawn = draw(CASES, SampleOptions(20, reviewers=names, overlap=overlap))
    shared = [one for one in drawn if one.reviewers == names and len(names) > 1]
    assert len(shared) == round(overlap * 20)
    alone = Counter(one.reviewers for one in drawn if one not in shared)
    assert all(len(who) == 1 for who in alone)
    if alone:
        assert max(alone.values()) - min(alone.values()) <= 1


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"n": 0}, "--n"),
        ({"n": 5, "by": "note"}, "code, cue, outcome"),
        ({"n": 5, "allocation": "neyman"}, "proportional, equal"),
        ({"n": 5, "outcomes": ("TN",)}, "FP, FN, weak, TP"),
        ({"n": 5, "reviewers": ("a/b",)}, "--reviewers"),
        ({"n": 5, "reviewers": ("ab", "AB")}, "--reviewers"),
        ({"n": 5, "overlap": 0.2}, "two"),
        ({"n": 5, "overlap": 1.2, "reviewers": ("a", "b")}, "--overlap"),
    ],
)
def test_wrong_options_say_what_is_expected(wrong: dict[str, object], says: str) -> None:
    with pytest.raises(HilatError, match=says):
        SampleOptions(**wrong)  # type: ignore[arg-type]


def test_no_case_of_the_outcomes_says_what_there_is() -> None:
    with pytest.raises(HilatError, match="1 FN, 30 FP"):
        draw([one for one in CASES if one.outcome != "TP"], SampleOptions(3, outcomes=("TP",)))


def test_a_sample_comes_back_from_its_file(tmp_path: Path) -> None:
    drawn = draw(CASES, SampleOptions(9, reviewers=("a", "b"), overlap=0.5))
    write_sample(tmp_path / "sample.parquet", drawn)
    assert read_sample(tmp_path) == drawn
    with pytest.raises(HilatError, match=r"--sample"):
        read_sample(tmp_path / "nowhere")


# ---------------------------------------------------------------- tables

TEXT = "The =1+1 of \U0001f600 note\nwith -9 and @all. " + "word " * 40


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@x", "\tx", "\rx"])
def test_cells_that_a_spreadsheet_would_run_are_made_inert_and_come_back(cell: str) -> None:
    assert inert(cell) == f"'{cell}"
    assert plain(inert(cell)) == cell.strip() or cell != cell.strip()


@pytest.mark.parametrize("cell", ["", "no", "'quoted'", "a=b", "401.9", "'"])
def test_other_cells_stay_as_they_are(cell: str) -> None:
    assert inert(cell) == cell
    assert plain(cell) == cell


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def test_a_table_holds_the_reviewers_cases_and_no_note_text_unless_given(tmp_path: Path) -> None:
    cases = {one.pair: one for one in (case("=a", "038.9", kinds=("negated",)), case("-b", "401.9"), case("c", "250.00"))}  # fmt: skip
    drawn = [Drawn(*pair, "FP", "FP", 3, 3, ("x", "y") if pair[0] != "c" else ("y",)) for pair in cases]
    assert write_triage(tmp_path / "x.csv", "x", drawn, cases) == 2
    assert (tmp_path / "x.csv").stat().st_mode & 0o777 == 0o600
    first, second = rows_of(tmp_path / "x.csv")
    assert (first["case"], first["hadm_id"], first["code"]) == ("'=a|038.9", "'=a", "038.9")
    assert (first["cues_shown"], first["verdict"], first["cues"], first["comment"]) == ("negated", "", "", "")
    assert first["why"] == "negated: says negated (passage 1)"
    assert (first["section_1"], first["share_1"]) == ("hospital_course", "0.600")
    assert "text_1" not in first
    assert second["case"] == "'-b|401.9"
    beside = Beside({"=a": TEXT, "-b": TEXT, "c": TEXT}, {"038.9": "=Septicemia"}, lambda h, c: f"p/{h}.html#c={c}")
    assert write_triage(tmp_path / "y.csv", "y", drawn, cases, beside) == 3
    first = rows_of(tmp_path / "y.csv")[0]
    assert (first["title"], first["page"]) == ("'=Septicemia", "p/=a.html#c=038.9")
    assert "»=1+1 of \U0001f600 note w«" in first["text_1"]
    assert first["text_1"].endswith("word …")
    assert first["why"] == "negated: says negated »=1+1« (passage 1)"
    for row in rows_of(tmp_path / "y.csv"):
        assert not any(cell.startswith(("=", "+", "-", "@")) for cell in row.values())

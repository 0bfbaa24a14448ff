"""The network of confused codes: counts, lift and p by loops over notes, labels, and order."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from scipy.stats import fisher_exact

from explain.confusion import Edge, EdgeOptions, NoteCodes, confusion, lift_of, note_codes
from explain.rule_pairs import RulePair
from explain.table import Explained
from hilat.admissions import Admission, CodeBook
from hilat.significance import benjamini_hochberg

CODES = ("96.71", "96.72", "96.04", "401.9", "403.90", "428.0")
BOOK = CodeBook(CODES, CODES, ("procedure", "procedure", "procedure", "diagnosis", "diagnosis", "diagnosis"))
RULES = (RulePair("401.9", ("403.*",), "exclusive", "kidney disease has codes of its own"),)
OPTIONS = EdgeOptions(resamples=200, rules=RULES)


def drawn(notes: int = 60, seed: int = 0) -> list[NoteCodes]:
    """96.71 is given where 96.72 is missed; 401.9 where 403.90 is coded; 428.0 goes its own way."""
    rng = np.random.default_rng(seed)
    found = []
    for n in range(notes):
        false, missed, coded = [], [], []
        if rng.random() < 0.3:
            false, missed, coded = ["96.71"], ["96.72"], ["96.72"]
        if rng.random() < 0.3:
            coded.append("403.90")
            if rng.random() < 0.8:
                false.append("401.9")
        if rng.random() < 0.3:
            missed.append("428.0")
            coded.append("428.0")
        coded.append("401.0")  # outside of the label set: of the category of 401.9
        found.append(NoteCodes(str(n), tuple(false), tuple(missed), tuple(coded)))
    return found


def of(edges: list[Edge], code: str, other: str, relation: str) -> Edge:
    return next(e for e in edges if (e.false_positive, e.other, e.relation) == (code, other, relation))


@pytest.mark.parametrize("relation", ["missed", "assigned"])
def test_counts_lift_and_p_are_those_of_loops(relation: str) -> None:
    notes = drawn()
    edges = [e for e in confusion(notes, BOOK, OPTIONS) if e.relation == relation]
    assert edges
    for edge in edges:
        first = [edge.false_positive in note.false_positives for note in notes]
        second = [edge.other in (note.missed if relation == "missed" else note.coded) for note in notes]
        both = sum(a and b for a, b in zip(first, second, strict=True))
        assert (edge.count, edge.false_positives, edge.others, edge.notes) == (
            both,
            sum(first),
            sum(second),
            len(notes),
        )
        assert edge.expected == pytest.approx(sum(first) * sum(second) / len(notes))
        assert edge.lift.estimate == pytest.approx(both / (sum(first) * sum(second) / len(notes)))
        table = [[both, sum(first) - both], [sum(second) - both, len(notes) - sum(first) - sum(second) + both]]
        assert edge.p == pytest.approx(fisher_exact(table, alternative="greater").pvalue)


def test_codes_that_stand_for_each_other_are_found_and_independent_ones_are_not() -> None:
    edges = confusion(drawn(200), BOOK, OPTIONS)
    tied = of(edges, "96.71", "96.72", "missed")
    assert tied.label == "sibling"
    assert tied.lift.low > 2
    assert tied.p_corrected < 0.001
    alone = of(edges, "96.71", "428.0", "missed")
    assert alone.label == "co-occurring"
    assert alone.lift.low < 1 < alone.lift.high
    assert alone.p_corrected > 0.05
    rule = of(edges, "401.9", "403.90", "assigned")
    assert rule.label == "rule pair"
    assert rule.lift.low > 2


def test_assigned_codes_are_siblings_or_tied_by_a_rule_in_or_out_of_the_label_set() -> None:
    edges = [e for e in confusion(drawn(), BOOK, OPTIONS) if e.relation == "assigned"]
    assert {(e.false_positive, e.other, e.label) for e in edges} == {
        ("96.71", "96.72", "sibling"),
        ("401.9", "403.90", "rule pair"),
        ("401.9", "401.0", "sibling"),
    }
    assert of(edges, "401.9", "401.0", "assigned").lift.estimate == pytest.approx(1.0)  # it is on every note


def test_a_diagnosis_and_a_procedure_are_no_siblings() -> None:
    book = CodeBook(("38.91", "038.9"), ("", ""), ("procedure", "diagnosis"))
    note = NoteCodes("1", ("38.91",), ("038.9",), ("038.9",))
    assert [e.label for e in confusion([note], book, OPTIONS)] == ["co-occurring"]


def test_p_is_corrected_for_the_pairs_that_were_not_seen_as_well() -> None:
    notes = [*drawn(8, seed=1), NoteCodes("8", ("96.04",), (), ()), NoteCodes("9", (), ("250.00",), ("250.00",))]
    edges = [e for e in confusion(notes, BOOK, OPTIONS) if e.relation == "missed"]
    false = {code for note in notes for code in note.false_positives}
    missed = {code for note in notes for code in note.missed}
    every = dict.fromkeys(product(false, missed), 1.0) | {(e.false_positive, e.other): e.p for e in edges}
    assert len(every) > len(edges)
    corrected = dict(zip(every, benjamini_hochberg(list(every.values())), strict=True))
    for edge in edges:
        assert edge.p_corrected == pytest.approx(corrected[edge.false_positive, edge.other])


def test_few_notes_give_no_interval() -> None:
    notes = [NoteCodes(str(n), ("96.71",) if n < 2 else (), ("96.72",) if n < 2 else (), ()) for n in range(9)]
    edge = confusion(notes, BOOK, OPTIONS)[0]
    assert edge.lift.estimate == pytest.approx(4.5)
    assert math.isnan(edge.lift.low)
    assert edge.lift.reason == "fewer than 3 notes"
    assert confusion([], BOOK, OPTIONS) == []


def test_order_is_by_relation_count_and_p_whatever_the_order_of_notes() -> None:
    notes = drawn()
    edges = confusion(notes, BOOK, OPTIONS)
    keys = [(e.relation == "assigned", -e.count, e.p, e.false_positive, e.other) for e in edges]
    assert keys == sorted(keys)
    again = confusion(notes[::-1], BOOK, OPTIONS)
    assert [(e.false_positive, e.other, e.relation, e.count, e.p) for e in again] == [
        (e.false_positive, e.other, e.relation, e.count, e.p) for e in edges
    ]


def test_lift_of_many_resamples() -> None:
    found = lift_of(np.array([[2.0, 4.0, 5.0, 10.0], [0.0, 0.0, 5.0, 10.0]]))
    assert found[0] == pytest.approx(2 / (4 * 5 / 10))
    assert math.isnan(found[1])


def test_what_a_note_says() -> None:
    one = Explained(
        "1", CODES[:4], np.zeros(4), np.array([0.9, 0.1, 0.6, 0.2]), np.full(4, 0.5), np.array([False, True, True, False]), None,
        (), {}, np.zeros((0, 2), dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64),
        np.zeros((0, 2), dtype=np.int64), (),
    )  # fmt: skip
    found = note_codes(one, Admission("1", "a note", ("96.72", "96.04", "V58.61")))
    assert found == NoteCodes("1", ("96.71",), ("96.72",), ("96.72", "96.04", "V58.61"))

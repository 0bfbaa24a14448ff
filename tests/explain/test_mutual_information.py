"""Mutual information against trusted numbers, slow sums and scikit-learn."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import digamma
from sklearn.feature_selection import mutual_info_classif

from explain import mutual_information as mi
from hilat.admissions import HilatError

LN2 = math.log(2)


def slow_mi_nats(table: list[list[float]]) -> float:
    n = sum(map(sum, table))
    total = 0.0
    for row in table:
        for j, cell in enumerate(row):
            if cell:
                total += cell / n * math.log(cell * n / (sum(row) * sum(r[j] for r in table)))
    return total


def test_two_by_two_tables_agree_with_the_vectors(shared: Path) -> None:
    cases = json.loads((shared / "vectors/mi_2x2.json").read_text())
    assert len(cases) >= 3
    for case in cases:
        table = [[case["n11"], case["n10"]], [case["n01"], case["n00"]]]
        near = {"abs": 1e-12, "rel": 1e-10}
        assert mi.mi_bits(table) == pytest.approx(case["mi_bits"], **near)
        assert mi.mi_bits(table) * LN2 == pytest.approx(slow_mi_nats(table), **near)
        assert mi.entropy_bits(np.sum(table, axis=1)) * LN2 == pytest.approx(case["H_selected"], **near)
        assert mi.entropy_bits(np.sum(table, axis=0)) * LN2 == pytest.approx(case["H_description"], **near)
        assert mi.miller_madow_bits(table) * LN2 == pytest.approx(case["miller_madow_observed_support"], **near)
        nominal = mi.miller_madow_bits(table, "nominal")
        assert nominal * LN2 == pytest.approx(case["miller_madow_nominal_2x2"], **near)
        expected = mi.expected_mi_bits(table)
        assert expected * LN2 == pytest.approx(case["expected_mi_hypergeometric"], **near)
        assert (mi.mi_bits(table) - expected) * LN2 == pytest.approx(case["mi_minus_expected"], **near)
        for mean in ("arithmetic", "geometric", "max"):
            if min(case["H_selected"], case["H_description"]) == 0:
                assert mi.normalised_mi(table, "geometric").reason is not None  # 0 / 0, for which scikit-learn says 0
                continue
            assert mi.normalised_mi(table, mean).value == pytest.approx(case[f"nmi_{mean}"], **near)
        assert mi.adjusted_mi(table).value == pytest.approx(case["ami_arithmetic"], rel=1e-9)
        assert mi.adjusted_mi(table, "max").value == pytest.approx(case["ami_max"], rel=1e-9)
        if case["H_selected"] == 0:
            continue
        transposed = np.array(table).T
        assert mi.uncertainty_coefficient(transposed).value == pytest.approx(
            case["mi_nats"] / case["H_selected"], **near
        )
        assert mi.signed_mi_bits(table) * LN2 == pytest.approx(case["signed_mi"], **near)
        assert mi.log_odds_nats(table) == pytest.approx(case["log_odds_haldane"], **near)
        g, p = mi.g_test(table)
        assert g == pytest.approx(case["G_statistic"], rel=1e-10)
        assert p == pytest.approx(case["G_pvalue_chi2_1"], rel=1e-8)
        assert mi.fisher_p_more(table) == pytest.approx(case["fisher_exact_greater_p"], rel=1e-9)
        if case["n11"]:
            assert mi.pmi_bits(table)[0, 0] * LN2 == pytest.approx(case["pmi_cell11"], **near)
            assert mi.npmi(table)[0, 0] == pytest.approx(case["npmi_cell11"], **near)


def test_larger_tables_agree_with_the_vectors(shared: Path) -> None:
    case = json.loads((shared / "vectors/mi_kxl.json").read_text())
    table = case["table"]
    assert mi.mi_bits(table) * LN2 == pytest.approx(case["mi_nats"], abs=1e-12)
    assert mi.expected_mi_bits(table) * LN2 == pytest.approx(case["expected_mi"], abs=1e-12)
    assert mi.adjusted_mi(table).value == pytest.approx(case["ami_arithmetic"], abs=1e-12)
    assert mi.normalised_mi(table).value == pytest.approx(case["nmi_arithmetic"], abs=1e-12)
    nominal = mi.miller_madow_bits(table, "nominal") * LN2
    observed = mi.miller_madow_bits(table) * LN2
    assert min(abs(nominal - case["miller_madow"]), abs(observed - case["miller_madow"])) < 1e-12


def test_word_code_tables_agree_with_the_vectors(shared: Path) -> None:
    case = json.loads((shared / "vectors/pmi.json").read_text())
    counts = case["counts_word_by_label"]
    np.testing.assert_allclose(mi.pmi_bits(counts) * LN2, case["pmi_nats"], atol=1e-12)
    np.testing.assert_allclose(mi.npmi(counts), case["npmi"], atol=1e-12)
    np.testing.assert_allclose(mi.ppmi_bits(counts) * LN2, case["ppmi"], atol=1e-12)
    np.testing.assert_allclose(mi.pmi_bits(counts, add=0.5) * LN2, case["add_half_pmi"], atol=1e-12)
    joint = np.array(counts) / np.sum(counts)
    assert (joint * mi.pmi_bits(counts)).sum() == pytest.approx(mi.mi_bits(counts))
    assert mi.mi_bits(counts) * LN2 == pytest.approx(case["mi_from_pmi"], abs=1e-12)
    mass = np.array(case["weighted_attention_mass"])  # word x code shares of a code's attention
    assert mi.mi_bits(mass / 2) * LN2 == pytest.approx(case["mi_of_mass_uniform_labels"], abs=1e-12)


def test_nearest_neighbours_agree_with_the_vectors(shared: Path) -> None:
    case = json.loads((shared / "vectors/mi_knn_ross.json").read_text())
    scores, member = np.array(case["attention"]), np.array(case["in_description"], dtype=bool)
    for k in (3, 5):
        assert mi.knn_mi_bits(scores, member, k).value * LN2 == pytest.approx(case[f"mi_knn_k{k}_raw"], abs=1e-6)
        logs = mi.knn_mi_bits(np.log(scores), member, k).value
        assert logs * LN2 == pytest.approx(case[f"mi_knn_k{k}_log"], abs=1e-6)


def slow_ross_nats(scores: list[float], member: list[bool], k: int) -> float:
    total = 0.0
    for x, group in zip(scores, member, strict=True):
        same = sorted(abs(x - y) for y, other in zip(scores, member, strict=True) if other == group)
        count = len(same)  # with itself, at distance 0
        radius = same[k]
        nearer = sum(abs(x - y) < radius for y in scores)
        total += digamma(len(scores)) + digamma(k) - digamma(count) - digamma(nearer)
    return float(total / len(scores))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31 - 1), st.sampled_from([1, 3, 5]))
def test_nearest_neighbours_agree_with_the_definition_and_scikit_learn(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    member = rng.permutation(40) < rng.integers(6, 34)
    scores = rng.normal(size=40) + member
    found = mi.knn_mi_bits(scores, member, k).value * LN2
    assert found == pytest.approx(slow_ross_nats(scores.tolist(), member.tolist(), k), abs=1e-9)
    theirs = mutual_info_classif(scores[:, None], member, n_neighbors=k, discrete_features=False, random_state=0)[0]
    # scikit-learn scales first, which may round one neighbour onto the radius: one count, 1/40 times at most 1 nat.
    assert max(0.0, found) == pytest.approx(theirs, abs=2 / 40)


def slow_expected(n: int, a: int, b: int) -> float:
    """Over all placements of a selected among n words, b of which are keywords."""
    values = [
        slow_mi_nats([[x, a - x], [b - x, n - a - b + x]])
        for chosen in itertools.combinations(range(n), a)
        for x in (sum(i < b for i in chosen),)
    ]
    return float(np.mean(values)) / LN2


@pytest.mark.parametrize(("n", "a", "b"), [(7, 2, 3), (8, 4, 4), (6, 1, 5), (9, 3, 1)])
def test_expectation_is_the_mean_over_all_placements(n: int, a: int, b: int) -> None:
    table = [[1, a - 1], [b - 1, n - a - b + 1]]
    if min(map(min, table)) < 0:
        table = [[a, 0], [b - a, n - b]]
    assert mi.expected_mi_bits(table) == pytest.approx(slow_expected(n, a, b), abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=4, max_size=4).filter(lambda c: sum(c) > 0))
def test_properties(cells: list[int]) -> None:
    table = [cells[:2], cells[2:]]
    bits = mi.mi_bits(table)
    assert 0 <= bits <= min(mi.entropy_bits(np.sum(table, axis=0)), mi.entropy_bits(np.sum(table, axis=1))) + 1e-12
    assert bits == pytest.approx(mi.mi_bits(np.transpose(table)), abs=1e-12)
    assert bits == pytest.approx(slow_mi_nats(table) / LN2, abs=1e-12)
    if mi.adjusted_mi(table).reason is None:
        assert mi.adjusted_mi(table).value <= 1 + 1e-9


def test_what_is_undefined_or_wrong_says_so() -> None:
    assert mi.normalised_mi([[3, 0], [0, 0]]).reason is not None
    assert mi.uncertainty_coefficient([[3, 0], [2, 0]]).reason == "the columns do not vary"
    assert mi.npmi([[3, 0], [0, 0]])[0, 0] != mi.npmi([[3, 0], [0, 0]])[0, 0]
    assert mi.npmi([[3, 0], [0, 3]])[0, 1] == -1
    assert mi.knn_mi_bits(np.arange(4.0), np.array([True, False, False, False])).reason is not None
    for wrong in ([[1, -1], [0, 1]], [[0, 0], [0, 0]], [1, 2], [[math.nan, 1], [1, 1]]):
        with pytest.raises(HilatError):
            mi.mi_bits(wrong)
    with pytest.raises(HilatError, match="whole counts"):
        mi.expected_mi_bits([[0.5, 1], [1, 1]])
    with pytest.raises(HilatError, match="2 x 2"):
        mi.signed_mi_bits([[1, 2, 3], [1, 2, 3]])

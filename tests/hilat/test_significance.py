"""Bootstrap and randomisation against trusted numbers and slow loops."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hilat.admissions import HilatError
from hilat.significance import (
    benjamini_hochberg,
    benjamini_yekutieli,
    holm,
    interval,
    interval_of_mean,
    macro_f1_of,
    mean_of,
    micro_f1_of,
    over_seeds,
    randomisation,
    sums_by_cluster,
)


@pytest.fixture(scope="module")
def trusted(shared: Path) -> Any:
    return json.loads((shared / "vectors/statistics.json").read_text())


def ones(values: list[float]) -> np.ndarray:
    return np.stack([np.array(values), np.ones(len(values))], axis=1)


def test_the_exact_sign_flip_is_that_of_scipy(trusted: Any) -> None:
    found = randomisation(ones(trusted["a"]), ones(trusted["b"]))
    assert found.exact
    assert found.p == pytest.approx(trusted["exact_sign_flip_two_sided_p"], abs=1e-12)
    assert found.difference == pytest.approx(trusted["mean_diff"], abs=1e-12)
    differences = np.array(trusted["a"]) - np.array(trusted["b"])
    assert found.effect == pytest.approx(differences.mean() / differences.std(ddof=1))
    assert found.superiority == pytest.approx(0.8)


def test_sampled_randomisation_counts_itself_and_comes_near(trusted: Any) -> None:
    found = randomisation(ones(trusted["a"]), ones(trusted["b"]), resamples=1000)
    assert not found.exact
    assert found.p * 1001 == pytest.approx(round(found.p * 1001))
    assert found.p == pytest.approx(trusted["exact_sign_flip_two_sided_p"], abs=0.012)
    rule = trusted["add_one_p_rule"]
    assert (rule["count_ge"] + 1) / (rule["n_resamples"] + 1) == rule["p"]


@pytest.mark.parametrize("measure", [micro_f1_of, macro_f1_of])
def test_prediction_measures_are_exchanged_admission_by_admission(measure: Any) -> None:
    rng = np.random.default_rng(0)
    columns = 3 if measure is micro_f1_of else 6
    first, second = rng.integers(0, 4, (2, 6, columns)).astype(float)
    observed = measure(first.sum(0, keepdims=True))[0] - measure(second.sum(0, keepdims=True))[0]
    count = 0
    for flips in itertools.product((False, True), repeat=6):
        a = sum(second[i] if f else first[i] for i, f in enumerate(flips))
        b = sum(first[i] if f else second[i] for i, f in enumerate(flips))
        count += abs(measure(a[None])[0] - measure(b[None])[0]) >= abs(observed) - 1e-12
    assert randomisation(first, second, measure).p == count / 64


def test_measures_are_what_they_are_called() -> None:
    assert mean_of(np.array([[3.0, 2.0], [0, 0]])).tolist()[0] == 1.5
    assert math.isnan(mean_of(np.zeros((1, 2)))[0])
    assert micro_f1_of(np.array([[2.0, 1, 3]]))[0] == pytest.approx(4 / 8)
    assert macro_f1_of(np.array([[2.0, 0, 1, 0, 3, 0]]))[0] == pytest.approx((4 / 8 + 0) / 2)


@pytest.mark.parametrize("kind", ["percentile", "bca"])
def test_bootstrap_intervals_are_those_of_scipy(trusted: Any, kind: Any) -> None:
    differences = np.array(trusted["a"]) - np.array(trusted["b"])
    found = interval_of_mean(differences, [str(i) for i in range(10)], resamples=20000, kind=kind)
    expected = trusted[f"bootstrap_{kind}_seed0_20000"]
    assert (found.low, found.high) == pytest.approx(expected, abs=trusted["bootstrap_tolerance"])
    assert (found.n, found.clusters, found.missing, found.reason) == (10, 10, 0, None)


def test_the_bootstrap_comes_near_all_resamples(trusted: Any) -> None:
    data = trusted["exact_bootstrap_data"]
    every = [np.mean(row) for row in itertools.product(data, repeat=4)]
    assert np.std(every) == pytest.approx(trusted["exact_bootstrap_se"])
    found = interval(ones(data), mean_of, resamples=40000)
    assert found.low == pytest.approx(trusted["exact_bootstrap_percentile_2_5"], abs=0.26)
    assert found.high == pytest.approx(trusted["exact_bootstrap_percentile_97_5"], abs=0.26)


def test_pairs_of_an_admission_are_drawn_together() -> None:
    rng = np.random.default_rng(1)
    level = rng.normal(size=30)
    values = np.repeat(level, 40) + 0.01 * rng.normal(size=1200)
    names = np.repeat([f"a{i}" for i in range(30)], 40).tolist()
    clustered = interval_of_mean(values, names)
    naive = interval_of_mean(values, [str(i) for i in range(1200)])
    assert (clustered.high - clustered.low) > 4 * (naive.high - naive.low)
    assert clustered.clusters == 30
    slow = []
    draw = np.random.default_rng(5)
    for _ in range(2000):
        rows = np.concatenate([values[np.array(names) == f"a{i}"] for i in draw.integers(0, 30, 30)])
        slow.append(rows.mean())
    assert (clustered.low, clustered.high) == pytest.approx(np.quantile(slow, [0.025, 0.975]), abs=0.05)


def test_undefined_values_are_left_out_and_counted() -> None:
    found = interval_of_mean(np.array([1.0, math.nan, 3.0]), ["a", "a", "b"])
    assert (found.estimate, found.n, found.missing, found.clusters) == (2.0, 2, 1, 2)
    lonely = interval_of_mean(np.array([1.0, 2.0]), ["a", "a"])
    assert (lonely.estimate, lonely.reason) == (1.5, "fewer than two admissions")
    assert math.isnan(lonely.low)
    nothing = interval_of_mean(np.array([math.nan]), ["a"])
    assert math.isnan(nothing.estimate)
    assert randomisation(np.zeros((1, 2)), np.zeros((1, 2))).reason == "fewer than two admissions"


def test_sums_by_cluster() -> None:
    assert sums_by_cluster(np.array([[1.0], [2], [4]]), ["b", "a", "b"]).tolist() == [[2.0], [5.0]]


def test_corrections_for_many_tests_are_those_of_statsmodels(trusted: Any) -> None:
    for rule, name in ((holm, "holm"), (benjamini_hochberg, "bh"), (benjamini_yekutieli, "by")):
        np.testing.assert_allclose(rule(trusted["pvalues"]), trusted[name], atol=1e-12)
        shuffled = trusted["pvalues"][::-1]
        np.testing.assert_allclose(rule(shuffled), trusted[name][::-1], atol=1e-12)
    assert holm([0.01, math.nan])[0] == 0.01


def test_over_seeds() -> None:
    assert over_seeds([1.0, 3.0]) == (2.0, pytest.approx(math.sqrt(2)))
    assert math.isnan(over_seeds([1.0])[1])


def test_wrong_input_is_told() -> None:
    with pytest.raises(HilatError, match="same clusters"):
        randomisation(np.zeros((2, 2)), np.zeros((3, 2)))
    with pytest.raises(HilatError, match="0 resamples"):
        interval(np.zeros((2, 2)), mean_of, resamples=0)

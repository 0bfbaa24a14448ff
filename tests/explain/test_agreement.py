"""Agreement against scipy's numbers and against loops."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from explain.agreement import METRICS, agreement, jaccard_at, overlap_at, rank_biased_overlap


def test_correlations_and_overlaps_are_those_of_the_reference(shared: Path) -> None:
    for case in json.loads((shared / "vectors/rank_agreement.json").read_text()):
        x, y = np.array(case["x"], dtype=float), np.array(case["y"], dtype=float)
        for name in ("kendall_tau_b", "spearman", "pearson"):
            found = METRICS[name].of(x, y)
            if case[name] is None:
                assert found.reason
            else:
                assert found.value == pytest.approx(case[name], abs=1e-12)
        for key, expected in case.items():
            if key.startswith("overlap_at_"):
                assert overlap_at(int(key[11:]))(x, y).value == pytest.approx(expected, abs=1e-12)
            if key.startswith("jaccard_at_"):
                assert jaccard_at(int(key[11:]))(x, y).value == pytest.approx(expected, abs=1e-12)


def test_divergences_are_those_of_the_reference(shared: Path) -> None:
    for case in json.loads((shared / "vectors/divergences.json").read_text())["pairs"]:
        p, q = np.array(case["p"], dtype=float), np.array(case["q"], dtype=float)
        assert METRICS["js_bits"].of(p, q).value == pytest.approx(case["jsd_bits_scipy"], abs=1e-9)
        assert METRICS["cosine"].of(p, q).value == pytest.approx(case["cosine"], abs=1e-12)


def test_rank_biased_overlap_is_its_sum_over_depths() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        x, y = rng.integers(0, 6, 12).astype(float), rng.integers(0, 6, 12).astype(float)
        first = sorted(range(12), key=lambda i: (-x[i], i))
        second = sorted(range(12), key=lambda i: (-y[i], i))
        p, total = 0.9, 0.0
        for depth in range(1, 13):
            share = len(set(first[:depth]) & set(second[:depth])) / depth
            total += (1 - p) * p ** (depth - 1) * share
        assert rank_biased_overlap(x, y).value == pytest.approx(total + p**12 * share, abs=1e-12)
    assert rank_biased_overlap(x, x).value == pytest.approx(1.0)


def test_an_explanation_agrees_with_itself_and_the_reversed_one_does_not() -> None:
    x = np.arange(1.0, 40.0)
    for name, metric in METRICS.items():
        itself, turned = metric.of(x, x).value, metric.of(x, x[::-1].copy()).value
        assert itself == pytest.approx(1.0 if metric.up else 0.0, abs=1e-9), name
        assert (turned < itself - 0.2) if metric.up else (turned > itself + 0.2), name


def test_undefined_is_told() -> None:
    flat, x = np.ones(4), np.arange(4.0)
    assert METRICS["kendall_tau_b"].of(flat, x).reason
    assert METRICS["js_bits"].of(-x, x).reason == "no positive score"
    assert METRICS["cosine"].of(0 * x, x).reason == "all scores are 0"
    for metric in METRICS.values():
        assert math.isnan(metric.of(np.zeros(0), np.zeros(0)).value)


def test_every_pair_of_methods_is_compared_once() -> None:
    rows = agreement({name: np.random.default_rng(0).random(9) for name in "abc"})
    assert {(a, b) for a, b, _, _ in rows} == {("a", "b"), ("a", "c"), ("b", "c")}
    assert len(rows) == 3 * len(METRICS)

"""Tuned thresholds against brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hilat.thresholds import best_cut, tune_threshold


def brute(scores: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """The best F1 over every possible cut, and the cut nearest 0.5 of those that reach it."""
    distinct = sorted(set(scores.tolist()))
    cuts = [(low + high) / 2 for low, high in zip([0.0, *distinct[:-1]], distinct, strict=True)]
    best: list[tuple[float, float]] = []
    for cut in cuts:
        hits = sum(1 for s, t in zip(scores, truth, strict=True) if s >= cut and t)
        given_codes = sum(1 for s in scores if s >= cut)
        best.append((2 * hits / (given_codes + int(truth.sum())), cut))
    top = max(f1 for f1, _ in best)
    return min((cut for f1, cut in best if f1 == top), key=lambda cut: (abs(cut - 0.5), cut)), top


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 20), st.booleans()), min_size=1, max_size=30))
def test_the_best_cut_is_that_of_brute_force(pairs: list[tuple[int, bool]]) -> None:
    scores = np.array([p for p, _ in pairs]) / 20
    truth = np.array([t for _, t in pairs])
    cut, f1 = best_cut(scores, truth)
    if not truth.any():
        assert cut == 0.5
        assert np.isnan(f1)
        return
    expected_cut, expected = brute(scores, truth)
    assert f1 == pytest.approx(expected, abs=1e-12)
    assert cut == pytest.approx(expected_cut, abs=1e-12)
    given_codes = scores >= cut
    assert 2 * (given_codes & truth).sum() / (given_codes.sum() + truth.sum()) == pytest.approx(f1, abs=1e-12)


def test_global_and_per_code() -> None:
    rng = np.random.default_rng(0)
    scores = rng.random((50, 4))
    truth = rng.random((50, 4)) < scores**2
    truth[:, 2] = False
    one = tune_threshold(scores, truth, how="global", tuned_on="val")
    assert set(one.values) == {brute(scores.ravel(), truth.ravel())[0]}
    each = tune_threshold(scores, truth, how="per_code", tuned_on="val")
    for k in (0, 1, 3):
        assert each.values[k] == pytest.approx(brute(scores[:, k], truth[:, k])[0], abs=1e-12)
    assert each.values[2] == one.values[2]
    assert each.fallbacks == 1

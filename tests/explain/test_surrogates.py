"""Occlusion, LIME and KernelSHAP on a set function whose Shapley values are known, and on loops."""

from __future__ import annotations

import json
from itertools import combinations
from math import factorial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from explain.occlusion import occlusion, sentence_groups, window_occlusion
from explain.surrogates import kernel_shap, lime, neighbour_groups
from hilat.admissions import HilatError

WORDS = np.arange(5)


def curves(shared: Path) -> Any:
    return json.loads((shared / "vectors/aopc_curves.json").read_text())


def toy(shared: Path) -> Any:
    """The five-word set function of the reference numbers, as logits; a second code is its mirror image."""
    table = {int(k): v for k, v in curves(shared)["subset_bitmask_to_prob"].items()}

    def value(keep: np.ndarray) -> np.ndarray:
        p = np.array([table[int(row @ (1 << WORDS))] for row in keep])
        logit = np.log(p / (1 - p))
        return np.stack([logit, -logit], axis=1)

    return value


def additive(weights: np.ndarray) -> Any:
    return lambda keep: np.stack([keep @ weights, 1.0 - keep @ (2 * weights)], axis=1)


def shapley(value: Any, n: int, output: str) -> np.ndarray:
    """By the subset formula, one subset at a time."""

    def f(subset: tuple[int, ...]) -> float:
        keep = np.zeros((1, n), dtype=bool)
        keep[0, list(subset)] = True
        logit = value(keep)[0, 0]
        return logit if output == "logit" else 1 / (1 + np.exp(-logit))

    scores = np.zeros(n)
    for i in range(n):
        others = [j for j in range(n) if j != i]
        for size in range(n):
            for subset in combinations(others, size):
                weight = factorial(size) * factorial(n - size - 1) / factorial(n)
                scores[i] += weight * (f((*subset, i)) - f(subset))
    return scores


@pytest.mark.parametrize("output", ["prob", "logit"])
def test_kernel_shap_on_all_subsets_is_exact(shared: Path, output: str) -> None:
    expected = json.loads((shared / "vectors/shapley_toy.json").read_text())[output]
    full = {"prob": "probability", "logit": "logit"}[output]
    found = kernel_shap(toy(shared), WORDS, 32, 0, full)  # type: ignore[arg-type]
    assert found.exact
    np.testing.assert_allclose(found.scores[0], expected["shap_exact"], atol=1e-9)
    np.testing.assert_allclose(found.scores[0], expected["subset_formula"], atol=1e-9)
    np.testing.assert_allclose(found.scores[0], shapley(toy(shared), 5, full), atol=1e-9)


def test_kernel_shap_by_sampling_adds_up_and_comes_near(shared: Path) -> None:
    value = toy(shared)
    found = kernel_shap(value, WORDS, 30, 0)
    ends = value(np.array([[False] * 5, [True] * 5]))
    assert not found.exact
    np.testing.assert_allclose(found.scores.sum(axis=1), ends[1] - ends[0], atol=1e-9)
    weights = np.random.default_rng(0).normal(size=12)
    linear = kernel_shap(additive(weights), np.arange(12), 80, 0)
    np.testing.assert_allclose(linear.scores, [weights, -2 * weights], atol=1e-9)
    np.testing.assert_allclose(linear.fit, 1.0)


def test_groups_share_what_they_win() -> None:
    weights = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    groups = neighbour_groups(np.array([0, 1, 2, 4, 5]), 6, 2)
    assert groups.tolist() == [0, 0, 0, -1, 1, 1]
    found = kernel_shap(additive(weights), groups, 100, 0).scores[0]
    np.testing.assert_allclose(found, [2, 2, 2, 0, 5.5, 5.5])
    np.testing.assert_allclose(occlusion(additive(weights), groups)[0], [2, 2, 2, 0, 5.5, 5.5])


def test_lime_is_the_weighted_ridge_it_says_it_is(shared: Path) -> None:
    value = toy(shared)
    seen: list[np.ndarray] = []

    def watched(keep: np.ndarray) -> np.ndarray:
        seen.append(keep)
        return value(keep)

    found = lime(watched, WORDS, 60, 3)
    (keep,) = seen
    assert keep[0].all()
    assert not keep[1:].all(axis=1).any()
    weights = [np.exp(-((100 * (1 - row.sum() / np.sqrt(5 * row.sum() or 1))) ** 2) / 25**2) if row.any() else np.exp(-16) for row in keep]  # fmt: skip
    from sklearn.linear_model import Ridge

    for k in range(2):
        model = Ridge(alpha=1.0).fit(keep, value(keep)[:, k], sample_weight=weights)
        np.testing.assert_allclose(found.scores[k], model.coef_, atol=1e-8)
        assert found.fit[k] == pytest.approx(model.score(keep, value(keep)[:, k], sample_weight=weights))
    np.testing.assert_array_equal(lime(value, WORDS, 60, 3).scores, found.scores)


def test_leave_one_out_is_that_of_the_reference(shared: Path) -> None:
    expected = curves(shared)["methods"]["a"]["loo_prob"]
    np.testing.assert_allclose(occlusion(toy(shared), WORDS, "probability")[0], expected, atol=1e-12)


def test_windows_average_over_what_holds_a_word(shared: Path) -> None:
    value = toy(shared)
    found = window_occlusion(value, WORDS, 5, 2, "probability")

    def f(gone: tuple[int, ...]) -> float:
        keep = np.ones((1, 5), dtype=bool)
        keep[0, list(gone)] = False
        return float(1 / (1 + np.exp(-value(keep)[0, 0])))

    drops = [f(()) - f((i, i + 1)) for i in range(4)]
    slow = [drops[0], (drops[0] + drops[1]) / 2, (drops[1] + drops[2]) / 2, (drops[2] + drops[3]) / 2, drops[3]]
    np.testing.assert_allclose(found[0], slow, atol=1e-12)


def test_sentences_end_at_stops_and_line_breaks() -> None:
    text = "No fever. Has pain\nPlan: rest; fluids 2.5 l"
    spans = np.array([[0, 2], [3, 8], [10, 13], [14, 18], [19, 23], [25, 29], [31, 37], [38, 41], [42, 43]])
    assert sentence_groups(text, spans).tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 3]
    assert sentence_groups(text, spans[::-1]).tolist() == [3, 3, 3, 2, 2, 1, 1, 0, 0]


def test_nothing_to_explain_is_told() -> None:
    for method in (lime, kernel_shap):
        with pytest.raises(HilatError, match="0 groups"):
            method(additive(np.ones(2)), np.array([-1, -1]), 10, 0)

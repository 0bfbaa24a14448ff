"""Faithfulness against the trusted set function, and on functions where the truth is known."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from explain.curves import Curves, count_of, removal_counts, removal_curves
from explain.faithfulness import (
    METRICS,
    FaithfulnessOptions,
    Measured,
    Words,
    acu,
    aopc,
    comprehensiveness,
    measure,
    normalised_comprehensiveness,
    normalised_sufficiency,
    racu,
    sigmoid,
    sufficiency,
)
from explain.hilat_target import HilatTarget
from explain.naopc import aopc_bounds
from explain.perturbation import NoteFunction
from hilat.admissions import HilatError
from hilat.coder import Coder

MakeCoder = Callable[..., Coder]
ALL = FaithfulnessOptions(steps=None, groups=5)
PLACE = np.arange(5)
FIVE, ONE = Words(np.ones(5, dtype=bool), PLACE), np.zeros(1, dtype=np.int64)


@pytest.fixture(scope="module")
def trusted(shared: Path) -> Any:
    return json.loads((shared / "vectors/aopc_curves.json").read_text())


def toy(trusted: Any, codes: int = 1) -> Any:
    table = {int(k): v for k, v in trusted["subset_bitmask_to_prob"].items()}

    def value(keep: np.ndarray) -> np.ndarray:
        p = np.array([table[int(row @ (1 << PLACE))] for row in keep])
        return np.repeat(np.log(p / (1 - p))[:, None], codes, axis=1)

    return value


def measured(trusted: Any, name: str) -> Measured:
    scores = np.array([trusted["methods"][name]["attribution"]], dtype=float)
    return measure(toy(trusted), scores, ONE, np.array([0.5]), FIVE, ALL)[0]


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_every_number_is_that_of_the_reference(trusted: Any, name: str) -> None:
    d, m = trusted["methods"][name], measured(trusted, name)
    close = {"abs": 1e-12}
    np.testing.assert_allclose(m.probabilities[0], d["deletion_curve"], atol=1e-12)
    np.testing.assert_allclose(m.probabilities[1][::-1], d["insertion_curve"], atol=1e-12)
    for i, ratio in enumerate(d["eraser_ratios"]):
        assert comprehensiveness(m, ratio) == pytest.approx(d["eraser_comp_points"][i], **close)
        assert sufficiency(m, ratio) == pytest.approx(d["eraser_suff_points"][i], **close)
    assert aopc(m.probabilities[0], m.curve) == pytest.approx(d["aopc_morf_mean_k1_n"], **close)
    assert aopc(m.probabilities[0], m.curve, with_zero=True) == pytest.approx(d["aopc_morf_mean_k0_n"], **close)
    found = {key: metric.of(m).value for key, metric in METRICS.items()}
    assert found["aopc_lerf"] == pytest.approx(d["aopc_lerf_mean_k1_n"], **close)
    assert found["normalised_aopc"] == pytest.approx(d["naopc_morf"], **close)
    assert found["deletion_auc"] == pytest.approx(d["deletion_auc"], **close)
    assert found["insertion_auc"] == pytest.approx(d["insertion_auc"], **close)
    assert found["leave_one_out_tau"] == pytest.approx(d["kendall_tau_b_vs_loo"], **close)
    assert found["decision_flip"] == pytest.approx(d["decision_flip_fraction"], **close)
    assert found["first_word_flips"] == d["decision_flip_most_informative"]
    assert (found["monotonicity"] == 1.0) == bool(d["monotone_nondecreasing"])
    assert found["log_odds"] == pytest.approx(d["log_odds_k1"], abs=1e-9)  # the top 20 % of five words is one
    assert m.without_each == pytest.approx(d["loo_prob"], **close)


def test_top_k_scores_are_those_of_ferret(trusted: Any, shared: Path) -> None:
    ferret = json.loads((shared / "vectors/ferret.json").read_text())["faithfulness_on_aopc_curves_toy"]
    for name, d in ferret.items():
        m = measured(trusted, name)
        for k in (1, 2, 3):
            assert comprehensiveness(m, k / 5) == pytest.approx(d[f"comp_top{k}"], abs=1e-9)
            assert sufficiency(m, k / 5) == pytest.approx(d[f"suff_top{k}"], abs=1e-9)


def test_bounds_are_those_of_all_orders(trusted: Any) -> None:
    value = toy(trusted)
    found = aopc_bounds(value, PLACE)
    assert (found.how, found.width) == ("exact", None)
    assert found.upper[0] == pytest.approx(trusted["naopc_upper"], abs=1e-12)
    assert found.lower[0] == pytest.approx(trusted["naopc_lower"], abs=1e-12)
    every = []
    for order in itertools.permutations(range(5)):
        keep = np.ones((6, 5), dtype=bool)
        for step in range(1, 6):
            keep[step, list(order[:step])] = False
        p = sigmoid(value(keep)[:, 0])
        every.append((p[0] - p[1:]).mean())
    assert (min(every), max(every)) == pytest.approx((found.lower[0], found.upper[0]), abs=1e-12)


def test_a_wide_beam_is_exact_and_a_narrow_one_within(trusted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = aopc_bounds(toy(trusted), PLACE)
    monkeypatch.setattr("explain.naopc.EXACT_GROUPS", 2)
    wide, narrow = aopc_bounds(toy(trusted), PLACE, beam=100), aopc_bounds(toy(trusted), PLACE, beam=1)
    assert (wide.how, wide.width) == ("beam", 100)
    assert (wide.lower[0], wide.upper[0]) == pytest.approx((exact.lower[0], exact.upper[0]), abs=1e-12)
    assert exact.lower[0] - 1e-12 <= narrow.lower[0] <= narrow.upper[0] <= exact.upper[0] + 1e-12


def test_normalised_pairs_are_those_of_the_reference(shared: Path) -> None:
    for case in json.loads((shared / "vectors/normalised_comp_suff.json").read_text()):
        numbers = (case["p_full"], case["p_reduced"], case["p_zero"])
        assert normalised_sufficiency(*numbers).value == pytest.approx(case["norm_suff"], abs=1e-12)
        assert normalised_comprehensiveness(*numbers).value == pytest.approx(case["norm_comp"], abs=1e-12)
    assert math.isnan(normalised_sufficiency(0.4, 0.3, 0.5).value)
    assert normalised_comprehensiveness(0.4, 0.3, 0.5).reason is not None


def test_acu_and_racu_are_those_of_the_reference(shared: Path) -> None:
    d = json.loads((shared / "vectors/acu_racu.json").read_text())
    ratio, random = np.array(d["masking_ratio"]), np.array(d["random_baseline"])
    for name in ("explainer", "worse"):
        curve, expected = np.array(d[name]), d[f"{name}_result"]
        assert acu(curve, random, ratio) == pytest.approx(expected["acu"], abs=1e-12)
        assert racu(curve, random, ratio).value == pytest.approx(expected["racu"], abs=1e-12)
    assert racu(random, np.full(6, 0.5), ratio).reason is not None


@pytest.mark.parametrize("steps", [None, 10])
def test_the_true_order_wins_and_random_ones_are_at_the_random_line(steps: int | None) -> None:
    weights = np.abs(np.random.default_rng(0).normal(size=60)) ** 3 / 4

    def value(keep: np.ndarray) -> np.ndarray:
        return (keep @ weights - 4.0)[:, None]

    rng = np.random.default_rng(1)
    scores = np.concatenate([weights[None], rng.random((40, 60))])
    options = FaithfulnessOptions(steps=steps, random_orders=40, groups=6)
    found = measure(
        value,
        scores,
        np.zeros(41, dtype=np.int64),
        np.full(1, 0.5),
        Words(np.ones(60, dtype=bool), np.arange(60)),
        options,
    )
    for name, metric in METRICS.items():
        values = np.array([metric.of(m).value for m in found])
        if name in ("monotonicity", "first_word_flips"):
            continue  # of an additive function with positive weights every order is monotone
        assert np.isfinite(values).all(), name
        assert (values[0] >= values[1:].max() - 1e-9) if metric.up else (values[0] <= values[1:].min() + 1e-9), name
    assert np.mean([METRICS["racu"].of(m).value for m in found[1:]]) == pytest.approx(0.0, abs=0.05)
    assert np.mean([METRICS["leave_one_out_tau"].of(m).value for m in found[1:]]) == pytest.approx(0.0, abs=0.05)


def test_several_codes_share_a_stream_and_keep_their_own_order(make_coder: MakeCoder, note: str) -> None:
    coder = make_coder()
    document = coder.encode(note)
    value = NoteFunction(HilatTarget(coder, [0, 2]), document)
    words = np.arange(value.n_words)
    scores = np.random.default_rng(0).normal(size=(2, value.n_words))
    counts = removal_counts(value.n_words, 4)
    both = removal_curves(value, scores, np.arange(2), words, words, counts)
    for k, column in enumerate((0, 2)):
        own = NoteFunction(HilatTarget(coder, [column]), document)
        alone = removal_curves(own, scores[[k]], ONE, words, words, counts)
        np.testing.assert_allclose(both.morf[k], alone.morf[0], atol=1e-4)
        np.testing.assert_allclose(both.lerf[k], alone.lerf[0], atol=1e-4)
        np.testing.assert_allclose(both.random[:, k], alone.random[:, 0], atol=1e-4)
    np.testing.assert_allclose(both.morf[:, -1], both.lerf[:, -1], atol=1e-5)


def test_counts_hold_the_ratios_and_their_mirror_image() -> None:
    counts = removal_counts(1000, 10)
    for ratio in (0.01, 0.05, 0.1, 0.2, 0.5):
        assert count_of(ratio, 1000) in counts
        assert 1000 - count_of(ratio, 1000) in counts
    assert removal_counts(3, 20).tolist() == [0, 1, 2, 3]
    assert count_of(0.01, 20) == 1
    with pytest.raises(HilatError, match="0 words"):
        removal_counts(0, 3)


def test_undefined_is_told(trusted: Any) -> None:
    scores = np.array([[1.0, 1, 1, 1, 1]])
    options = FaithfulnessOptions(steps=None, groups=0, leave_one_out=False)
    (m,) = measure(toy(trusted), scores, ONE, np.array([0.99]), FIVE, options)
    for name in ("decision_flip", "first_word_flips", "leave_one_out_tau", "normalised_aopc"):
        assert METRICS[name].of(m).reason, name
    (never,) = measure(toy(trusted), scores, ONE, np.array([0.01]), FIVE, options)
    assert METRICS["decision_flip"].of(never).reason == "the code is given even without any word"
    flat = Curves(np.arange(2), 1, np.zeros((1, 2)), np.zeros((1, 2)), ONE, np.zeros((3, 1, 2)))
    m = Measured(flat, 0, 0.5, np.zeros(1), np.zeros(1), None, math.nan)
    assert METRICS["leave_one_out_tau"].of(m).reason == "all words score the same"

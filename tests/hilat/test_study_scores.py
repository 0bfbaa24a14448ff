"""A study's measures and tests, against the metrics themselves and against brute force."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from hilat.admissions import HilatError
from hilat.metrics import evaluate_codes
from hilat.study_run import RunScores
from hilat.study_scores import MEASURES, auc_matrix, compare_rows, sign_p

N, K = 9, 5


def runs(seed: int, lift: float, number: int = 2, n: int = N) -> list[RunScores]:
    """Runs with the same targets, better with more lift; some scores tie."""
    targets = np.random.default_rng(7).random((n, K)) < 0.35
    rng = np.random.default_rng(seed)
    return [
        RunScores(
            {},
            tuple(map(str, range(n))),
            np.clip(np.round(rng.random((n, K)) * 0.8 + lift * targets, 1), 0, 1),
            targets,
            np.full(K, 0.5),
        )
        for _ in range(number)
    ]


def value(run: RunScores, measure: str, rows: np.ndarray | None = None) -> float:
    """The measure from `evaluate_codes`, of some admissions."""
    rows = np.arange(len(run.hadm_ids)) if rows is None else rows
    found = evaluate_codes(run.probabilities[rows], run.targets[rows], run.thresholds, threshold_source="x")
    if measure.startswith("precision_at"):
        return found.precision_at[int(measure.rsplit("_", 1)[1])]
    return float(getattr(found, measure))


@pytest.mark.parametrize("measure", MEASURES)
def test_differences_and_exchanges_are_those_of_the_metrics(measure: str) -> None:
    """All 2^9 exchanges by scoring each exchanged pair of systems anew; the tests draw theirs (or try all) on their own."""
    first, second = runs(1, 0.5), runs(2, 0.25)
    found = compare_rows(first, second, [measure], resamples=4000)[measure]
    by_seed = [value(a, measure) - value(b, measure) for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(found.by_seed, by_seed, atol=1e-9)
    assert found.difference == pytest.approx(np.mean(by_seed), abs=1e-9)
    extreme = 0
    for pattern in itertools.product((False, True), repeat=N):
        take = np.array(pattern)[:, None]
        differences = []
        for a, b in zip(first, second, strict=True):
            x = replace(a, probabilities=np.where(take, b.probabilities, a.probabilities))
            y = replace(b, probabilities=np.where(take, a.probabilities, b.probabilities))
            differences.append(value(x, measure) - value(y, measure))
        extreme += abs(np.mean(differences)) >= abs(np.mean(by_seed)) - 1e-9
    assert found.p == pytest.approx(extreme / 2**N, abs=0.03)  # AUC draws 4,000: a standard error of 0.008 or less


def test_an_auc_is_its_matrix() -> None:
    a, b = runs(3, 0.4, 1)[0], runs(4, 0.1, 1)[0]
    taken = np.random.default_rng(0).integers(0, 2, N).astype(bool)
    mixed = replace(a, probabilities=np.where(taken[:, None], a.probabilities, b.probabilities))
    z = np.concatenate([taken, ~taken]).astype(float)
    for macro, name in ((True, "macro_auc"), (False, "micro_auc")):
        matrix = auc_matrix(np.concatenate([a.probabilities, b.probabilities]), a.targets, macro)
        assert z @ matrix @ z == pytest.approx(value(mixed, name), abs=1e-12)
    assert np.isnan(auc_matrix(np.zeros((4, 2)), np.ones((2, 2), dtype=bool), False)).all()
    assert np.isnan(auc_matrix(np.zeros((4, 2)), np.ones((2, 2), dtype=bool), True)).all()


def test_the_interval_is_the_bootstrap_of_the_difference() -> None:
    first, second = runs(5, 0.5, n=40), runs(6, 0.3, n=40)
    found = compare_rows(first, second, ["micro_f1"], resamples=2000)["micro_f1"]
    rng = np.random.default_rng(1)
    drawn = []
    for _ in range(1500):
        rows = rng.integers(0, 40, 40)
        drawn.append(
            np.mean(
                [value(a, "micro_f1", rows) - value(b, "micro_f1", rows) for a, b in zip(first, second, strict=True)]
            )
        )
    np.testing.assert_allclose((found.low, found.high), np.quantile(drawn, (0.025, 0.975)), atol=0.02)


def test_the_same_models_do_not_differ_and_other_admissions_are_refused() -> None:
    first = runs(1, 0.5)
    for name, found in compare_rows(first, first, list(MEASURES), resamples=100).items():
        assert (abs(found.difference) < 1e-12, found.p) == (True, 1), name
    with pytest.raises(HilatError, match="other admissions"):
        compare_rows(first, runs(1, 0.5, n=8), ["micro_f1"], resamples=100)


def test_signs_over_seeds() -> None:
    assert sign_p([0.1, 0.2, 0.3]) == 0.25  # 2 of 8 changes of sign
    assert sign_p([0.1, 0.2, -0.3]) == 1
    assert np.isnan(sign_p([0.1]))

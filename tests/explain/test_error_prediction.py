"""Prediction of errors: weighted curves against scikit-learn's, folds, leakage, and cases known beforehand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.preprocessing import StandardScaler

from explain import error_prediction as prediction
from explain.cases import Case
from explain.cues import CUES, Cue
from explain.error_prediction import LEAKS, SETS, PredictionOptions, design_of, folds_of, out_of_fold, predict_errors
from explain.error_profile import PROFILE
from hilat.admissions import HilatError

FAST = PredictionOptions(least=10, resamples=100, refits=20, seed=1)


def case(hadm_id: str, code: str, outcome: str, cues: tuple[str, ...] = (), **numbers: float) -> Case:
    profile = {name: numbers.get(name, math.nan) for name in PROFILE}
    return Case(hadm_id, code, outcome, 0.7, 0.5, (), tuple(Cue(k, CUES[k]) for k in cues), profile, False)


def drawn(seed: int = 0, notes: int = 80) -> list[Case]:
    """`entropy` tells false positives from true ones, `margin` a little, `top_share` and the cue "section" not at all."""
    rng = np.random.default_rng(seed)
    cases = []
    for n in range(notes):
        for code in ("401.9", "428.0", "486"):
            fp = bool(rng.random() < 0.25)
            numbers = {"margin": rng.normal() - 0.5 * fp, "entropy": rng.normal() + 4 * fp, "top_share": rng.normal()}
            numbers |= {
                "keyword_share": rng.random() if rng.random() < 0.8 else math.nan,
                "evidence_share": float(not fp),
            }
            kinds = [
                k
                for k, chance in (("section", 0.5), ("sibling", 0.9 * fp), ("borderline", 0.5))
                if rng.random() < chance
            ]
            cases.append(case(str(n), code, "FP" if fp else "TP", tuple(kinds), **numbers))
    return cases


def test_weighted_auc_is_that_of_scikit_learn_and_of_pairs() -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 8, size=40).astype(float)  # with ties
    labels = rng.random(40) < 0.4
    times = rng.integers(0, 3, size=(12, 40)).astype(float)
    found = prediction.weighted_auc(scores, labels, times)
    for row, weights in zip(found, times, strict=True):
        assert row == pytest.approx(roc_auc_score(labels, scores, sample_weight=weights))
    above = [
        1.0 if scores[i] > scores[j] else 0.5 if scores[i] == scores[j] else 0.0
        for i, j in itertools.product(np.flatnonzero(labels), np.flatnonzero(~labels))
    ]
    assert prediction.weighted_auc(scores, labels, np.ones((1, 40)))[0] == pytest.approx(sum(above) / len(above))
    assert math.isnan(prediction.weighted_auc(scores, labels, labels[None].astype(float))[0])


def test_weighted_average_precision_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    scores, labels = rng.integers(0, 9, size=40).astype(float), rng.random(40) < 0.3
    times = rng.integers(0, 3, size=(12, 40)).astype(float)
    found = prediction.weighted_average_precision(scores, labels, times)
    for row, weights in zip(found, times, strict=True):
        assert row == pytest.approx(average_precision_score(labels, scores, sample_weight=weights))


def test_within_code_auc_counts_pairs_of_one_code_only() -> None:
    cases = drawn(2)
    design, _ = design_of(cases)
    scores = np.random.default_rng(0).integers(0, 5, size=len(cases)).astype(float)
    right = total = 0.0
    for i, a in enumerate(cases):
        for j, b in enumerate(cases):
            if a.code == b.code and (a.outcome, b.outcome) == ("FP", "TP"):
                right += 1.0 if scores[i] > scores[j] else 0.5 if scores[i] == scores[j] else 0.0
                total += 1
    assert prediction.within_code_auc(scores, design, np.ones((1, len(cases))))[0] == pytest.approx(right / total)


def test_folds_never_share_an_admission_and_test_each_pair_once() -> None:
    design, _ = design_of(drawn())
    tested: list[int] = []
    for train, test in folds_of(design, FAST):
        assert not set(design.hadm_id[train]) & set(design.hadm_id[test])
        assert design.false_positive[train].any()
        tested += test.tolist()
    assert sorted(tested) == list(range(len(design.values)))


def test_out_of_fold_scores_are_those_of_scikit_learn_fitted_fold_by_fold() -> None:
    design, _ = design_of([c for c in drawn() if not math.isnan(c.profile["keyword_share"])])
    folds = folds_of(design, FAST)
    found = out_of_fold(design, folds, FAST)
    for train, test in folds:
        scale = StandardScaler().fit(design.values[train])
        model = LogisticRegression(C=1.0, max_iter=10_000, tol=1e-9).fit(
            scale.transform(design.values[train]), design.false_positive[train]
        )
        np.testing.assert_allclose(
            found[test], model.decision_function(scale.transform(design.values[test])), atol=1e-3
        )


def test_what_tells_errors_is_found_and_chance_is_not_beaten_by_noise() -> None:
    found = predict_errors(drawn(), FAST)
    assert found.reason is None
    assert [result.name for result in found.sets] == list(SETS)
    by = {result.name: result for result in found.sets}
    assert by["profile"].auc.estimate > 0.95
    assert by["profile"].auc.low > by["margin"].auc.high
    assert by["profile"].over_margin.low > 0
    assert by["margin"].over_margin.estimate == 0
    assert by["cues"].auc.low < 0.5 < by["cues"].auc.high
    first = by["all"].coefficients[0]
    assert first.feature == "entropy"
    assert first.value.low > 0
    noise = next(c for c in by["all"].coefficients if c.feature == "top_share")
    assert noise.value.low < 0 < noise.value.high
    assert found.share == pytest.approx(found.n_fp / (found.n_fp + found.n_tp))


def test_what_needs_the_coders_is_left_out_and_would_have_told_the_answer() -> None:
    cases = drawn()
    design, left_out = design_of(cases)
    assert set(LEAKS) <= set(left_out)
    assert not {"evidence_share", "cue sibling", "cue rule_pair", "cue evidence_elsewhere", "cue borderline"} & set(
        design.names
    )
    assert not [name for name in design.names if "evidence" in name]
    other = [
        case(
            c.hadm_id,
            c.code,
            c.outcome,
            tuple({*c.kinds} ^ {"sibling", "rule_pair"}),
            **{**c.profile, "evidence_share": 0.3},
        )
        for c in cases
    ]
    assert predict_errors(other, FAST).sets == predict_errors(cases, FAST).sets  # they change nothing


def test_undefined_numbers_are_told_to_the_regression_and_rare_ones_left_out() -> None:
    cases = drawn()
    design, left_out = design_of(cases)
    absent = design.values[:, design.names.index("no keyword_share")]
    assert absent.tolist() == [float(math.isnan(c.profile["keyword_share"])) for c in cases]
    assert left_out["sufficiency"] == "undefined for every pair"
    assert left_out["cue family"] == "the same for every pair"
    some = [
        case(c.hadm_id, c.code, c.outcome, **{**c.profile, "sufficiency": 0.1 * n if n < 20 else math.nan})
        for n, c in enumerate(cases)
    ]
    assert design_of(some)[1]["sufficiency"] == "undefined for more than half of the pairs"


def test_nothing_is_fitted_with_too_few_errors_and_it_says_why() -> None:
    few = [c for c in drawn() if c.outcome == "TP"] + [c for c in drawn() if c.outcome == "FP"][:5]
    found = predict_errors(few, FAST)
    assert found.sets == ()
    assert found.reason is not None
    assert "5 false" in found.reason
    one_note = [case("1", f"{n}.0", "FP", margin=float(n)) for n in range(30)]
    found = predict_errors([*one_note, *(case(str(n), "486", "TP", margin=float(n)) for n in range(2, 40))], FAST)
    assert found.reason is not None
    assert "in 1 admissions" in found.reason
    assert predict_errors([], FAST).reason is not None


def test_misses_do_not_count_and_options_are_checked() -> None:
    cases = drawn()
    misses = [case(c.hadm_id, "250.00", "FN", margin=-0.2) for c in cases]
    assert predict_errors([*cases, *misses], FAST) == predict_errors(cases, FAST)
    with pytest.raises(HilatError, match="2 folds or more"):
        PredictionOptions(folds=1)

"""False against true positives within codes: means, weights, intervals and p values by loops, and cases known beforehand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from explain.cases import Case
from explain.error_contrast import Contrast, ContrastOptions, contrast, weighted_difference
from explain.error_profile import PROFILE
from hilat.admissions import HilatError
from hilat.significance import benjamini_hochberg

FAST = ContrastOptions(least=3, resamples=200, draws=400, seed=1)


def case(hadm_id: str, code: str, outcome: str, **numbers: float) -> Case:
    profile = {name: numbers.get(name, math.nan) for name in PROFILE}
    return Case(hadm_id, code, outcome, 0.7, 0.5, (), (), profile, False)


def drawn(seed: int, notes: int = 60, shift: float = 0.0) -> list[Case]:
    """Three codes of different levels and error rates; `margin` is moved by `shift` in false positives, `entropy` is not."""
    rng = np.random.default_rng(seed)
    cases = []
    for n in range(notes):
        for code, level, share in (("401.9", 0.0, 0.4), ("428.0", 5.0, 0.2), ("486", -3.0, 0.1)):
            if rng.random() < 0.6:
                fp = bool(rng.random() < share)
                margin = level + rng.normal() + shift * fp
                entropy = level + rng.normal() if rng.random() < 0.9 else math.nan
                cases.append(case(str(n), code, "FP" if fp else "TP", margin=margin, entropy=entropy))
    return cases


def by_hand(cases: list[Case], feature: str, code: str = "") -> tuple[float, float, float]:
    """(mean of FP, mean of TP, standard deviation within codes) by loops over codes."""
    codes = sorted({c.code for c in cases if code in ("", c.code)})
    first = second = weights = squares = 0.0
    freedom = 0
    for one in codes:
        fp = [
            c.profile[feature]
            for c in cases
            if c.code == one and c.outcome == "FP" and not math.isnan(c.profile[feature])
        ]
        tp = [
            c.profile[feature]
            for c in cases
            if c.code == one and c.outcome == "TP" and not math.isnan(c.profile[feature])
        ]
        if not fp or not tp:
            continue
        weight = 1 / (1 / len(fp) + 1 / len(tp))
        first, second, weights = (
            first + weight * sum(fp) / len(fp),
            second + weight * sum(tp) / len(tp),
            weights + weight,
        )
        middle = sum(fp + tp) / len(fp + tp)
        squares += sum((x - middle) ** 2 for x in fp + tp)
        freedom += len(fp + tp) - 1
    return first / weights, second / weights, math.sqrt(squares / freedom)


def of(rows: tuple[Contrast, ...], feature: str, code: str = "") -> Contrast:
    return next(row for row in rows if row.feature == feature and row.code == code)


@pytest.mark.parametrize("feature", ["margin", "entropy"])
@pytest.mark.parametrize("code", ["", "401.9", "428.0"])
def test_means_and_effect_are_those_of_loops(feature: str, code: str) -> None:
    cases = drawn(0, shift=1.0)
    found = contrast(cases, FAST)
    row = of(found.by_code if code else found.pooled, feature, code)
    fp, tp, spread = by_hand(cases, feature, code)
    assert row.false_positives == pytest.approx(fp)
    assert row.true_positives == pytest.approx(tp)
    assert row.difference.estimate == pytest.approx(fp - tp)
    assert row.effect == pytest.approx((fp - tp) / spread)
    there = [c for c in cases if code in ("", c.code)]
    assert row.difference.missing == sum(math.isnan(c.profile[feature]) for c in there)
    assert row.n_fp == sum(c.outcome == "FP" and not math.isnan(c.profile[feature]) for c in there)


def test_the_difference_is_that_of_a_regression_with_an_intercept_per_code() -> None:
    cases = drawn(3, shift=0.7)
    codes = sorted({c.code for c in cases})
    table = np.array([[float(c.outcome == "FP"), *(float(c.code == one) for one in codes)] for c in cases])
    slope = np.linalg.lstsq(table, np.array([c.profile["margin"] for c in cases]), rcond=None)[0][0]
    assert of(contrast(cases, FAST).pooled, "margin").difference.estimate == pytest.approx(slope)


def test_a_number_that_tells_false_from_true_is_found_and_one_that_does_not_is_not() -> None:
    found = contrast(drawn(5, notes=120, shift=3.0), FAST)
    tells, silent = of(found.pooled, "margin"), of(found.pooled, "entropy")
    assert tells.difference.low > 0
    assert tells.p == tells.p_admissions == pytest.approx(1 / 401)
    assert tells.p_corrected < 0.05
    assert silent.difference.low < 0 < silent.difference.high
    assert silent.p_corrected > 0.05
    assert tells.p_corrected == pytest.approx(
        benjamini_hochberg([max(tells.p, tells.p_admissions), max(silent.p, silent.p_admissions)])[0]
    )


def test_levels_of_codes_alone_are_no_difference() -> None:
    """Codes that err more often and score higher: a comparison over all pairs would see a difference."""
    cases = [
        case(f"{code}{n}", code, "FP" if n < errors else "TP", margin=level + (-1) ** n)
        for code, errors, level in (("401.9", 40, 10.0), ("486", 5, 0.0))
        for n in range(50)
    ]
    naive = np.mean([c.profile["margin"] for c in cases if c.outcome == "FP"]) - np.mean(
        [c.profile["margin"] for c in cases if c.outcome == "TP"]
    )
    row = of(contrast(cases, FAST).pooled, "margin")
    assert naive > 5
    assert abs(row.difference.estimate) < 0.1
    assert row.p > 0.5


def test_p_of_one_code_nears_that_of_all_arrangements() -> None:
    values = [0.3, 2.0, 2.4, 0.1, 0.7, 0.2, 1.0, 0.9]
    cases = [case(str(n), "486", "FP" if n < 3 else "TP", margin=x) for n, x in enumerate(values)]
    observed = abs(sum(values[:3]) / 3 - sum(values[3:]) / 5)
    arrangements = list(itertools.combinations(range(8), 3))
    beyond = 0
    for chosen in arrangements:
        inside = [values[i] for i in chosen]
        outside = [values[i] for i in range(8) if i not in chosen]
        beyond += abs(sum(inside) / 3 - sum(outside) / 5) >= observed - 1e-12
    row = of(contrast(cases, ContrastOptions(least=3, resamples=10, draws=20_000)).by_code, "margin", "486")
    assert row.p == pytest.approx(beyond / len(arrangements), abs=0.012)  # three standard errors
    assert math.isnan(row.p_admissions)


def test_p_is_even_when_nothing_differs() -> None:
    options = ContrastOptions(resamples=1, draws=99)
    p = [
        (row.p, row.p_admissions)
        for seed in range(60)
        for row in [of(contrast(drawn(seed, notes=30), options).pooled, "margin")]
    ]
    for column in np.array(p).T:
        assert 0.35 < column.mean() < 0.65  # 0.5, four standard errors of a mean of 60 even draws
        assert (column <= 0.1).mean() <= 0.2


def test_flipped_signs_see_what_shuffled_labels_do_not_when_pairs_of_a_note_go_together() -> None:
    """All pairs of a note share outcome and level, so that there are as many observations as notes, not as pairs."""
    options = ContrastOptions(resamples=1, draws=199)
    small = [0, 0]
    for seed in range(24):
        rng = np.random.default_rng(seed)
        cases = []
        for n in range(12):
            outcome, level = "FP" if rng.random() < 0.5 else "TP", rng.normal()
            cases += [
                case(str(n), f"{code}.0", outcome, margin=level + 0.01 * rng.normal()) for code in range(100, 120)
            ]
        if len({c.outcome for c in cases}) == 2:
            row = of(contrast(cases, options).pooled, "margin")
            small[0] += row.p <= 0.05
            small[1] += row.p_admissions <= 0.05
            assert row.p_corrected == max(row.p, row.p_admissions)  # the only number: nothing to correct for
    assert small[0] > 12
    assert small[1] < 5


def test_codes_with_few_of_one_kind_are_left_out_with_the_reason() -> None:
    cases = [case(str(n), "401.9", "FP" if n < 5 else "TP", margin=float(n)) for n in range(12)]
    cases += [case(str(n), "486", "FP" if n < 2 else "TP", margin=float(n)) for n in range(12)]
    cases += [case(str(n), "428.0", "TP", margin=100.0) for n in range(12)]
    cases += [case(str(n), "428.0", "FN", margin=-100.0) for n in range(12, 14)]
    found = contrast(cases, FAST)
    assert {row.code for row in found.by_code} == {"401.9"}
    assert [(x.code, x.n_fp, x.n_tp) for x in found.left_out] == [("486", 2, 10), ("428.0", 0, 12)]
    assert all("fewer than 3" in x.reason for x in found.left_out)
    assert found.pooled_codes == 2
    assert of(found.pooled, "margin").n_tp == 17


def test_undefined_numbers_have_a_reason_and_no_value() -> None:
    found = contrast(drawn(0), FAST)
    row = of(found.pooled, "sufficiency")
    assert math.isnan(row.difference.estimate)
    assert row.reason is not None
    assert row.difference.missing == sum(c.outcome in ("FP", "TP") for c in drawn(0))
    assert math.isnan(row.p_corrected)
    nothing = contrast([], FAST)
    assert nothing.by_code == nothing.left_out == ()
    assert all(row.reason for row in nothing.pooled)


def test_a_resample_without_a_code_drops_it() -> None:
    sums = np.array([[3.0, 0.0, 2.0, 0.0, 4.0, 5.0, 2.0, 1.0], [0.0, 0.0, 0.0, 0.0, 4.0, 5.0, 2.0, 1.0]])
    assert weighted_difference(sums)[0] == pytest.approx(3 / 2 - 4 / 2)
    assert math.isnan(weighted_difference(sums)[1])


def test_same_seed_same_answer_in_any_order_of_other_codes() -> None:
    cases = drawn(2, shift=0.5)
    assert of(contrast(cases, FAST).pooled, "margin") == of(contrast(list(cases), FAST).pooled, "margin")
    alone = contrast([c for c in cases if c.code == "401.9"], FAST)
    assert of(alone.by_code, "margin", "401.9").p == of(contrast(cases, FAST).by_code, "margin", "401.9").p


def test_options_are_checked() -> None:
    with pytest.raises(HilatError, match="2, 1 and 1 or more"):
        ContrastOptions(least=1)

"""Cues beside their rate among true positives: counts and odds ratios by loops, and cues that say nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats.contingency import odds_ratio

from explain.cases import Case
from explain.cues import CUES, Cue
from explain.error_cues import CueOptions, CueRow, cue_table, mantel_haenszel
from explain.error_profile import PROFILE

FAST = CueOptions(least=3, resamples=200)


def case(hadm_id: str, code: str, outcome: str, *kinds: str) -> Case:
    cues = tuple(Cue(kind, CUES[kind]) for kind in kinds)
    return Case(hadm_id, code, outcome, 0.7, 0.5, (), cues, dict.fromkeys(PROFILE, math.nan), False)


def drawn() -> list[Case]:
    """ "negated" is seen with false positives, "section" as often with both, "family" with one code only, twice a case."""
    rng = np.random.default_rng(0)
    cases = []
    for n in range(100):
        for code, share in (("401.9", 0.5), ("486", 0.2)):
            fp = bool(rng.random() < share)
            kinds = [k for k, chance in (("negated", 0.6 if fp else 0.1), ("section", 0.4)) if rng.random() < chance]
            kinds += ["family", "family"] if code == "486" and fp and rng.random() < 0.5 else []
            cases.append(case(str(n), code, "FP" if fp else "TP", *kinds))
        cases.append(case(str(n), "428.0", "FN", *(["duration"] if n < 7 else [])))
    return cases


def of(rows: list[CueRow], kind: str, code: str = "") -> CueRow:
    return next(row for row in rows if row.kind == kind and row.code == code)


@pytest.mark.parametrize("code", ["", "401.9", "486"])
@pytest.mark.parametrize("kind", ["negated", "section"])
def test_counts_and_rates_are_those_of_loops(code: str, kind: str) -> None:
    cases = drawn()
    row = of(cue_table(cases, FAST), kind, code)
    for outcome, having, total in (
        ("FP", row.fp_with, row.fp),
        ("TP", row.tp_with, row.tp),
        ("FN", row.fn_with, row.fn),
    ):
        there = [c for c in cases if c.outcome == outcome and code in ("", c.code)]
        assert total == len(there)
        assert having == sum(any(cue.kind == kind for cue in c.cues) for c in there)
    assert row.fp_rate == pytest.approx(row.fp_with / row.fp)
    assert row.lift == pytest.approx((row.fp_with / row.fp) / (row.tp_with / row.tp))


def test_odds_ratio_of_a_code_is_haldanes_with_woolfs_interval() -> None:
    row = of(cue_table(drawn(), FAST), "negated", "401.9")
    a, b, c, d = row.fp_with + 0.5, row.fp - row.fp_with + 0.5, row.tp_with + 0.5, row.tp - row.tp_with + 0.5
    assert row.odds_ratio.estimate == pytest.approx(a / b / (c / d))
    width = 1.959963984540054 * (1 / a + 1 / b + 1 / c + 1 / d) ** 0.5
    assert math.log(row.odds_ratio.high / row.odds_ratio.estimate) == pytest.approx(width)
    table = np.array([[row.fp_with, row.fp - row.fp_with], [row.tp_with, row.tp - row.tp_with]])
    exact = odds_ratio(table).confidence_interval()
    assert row.odds_ratio.low == pytest.approx(exact.low, rel=0.3)  # the exact conditional interval is a little wider


def test_odds_ratio_over_codes_compares_within_codes() -> None:
    cases = drawn()
    up = down = 0.0
    for code in ("401.9", "486"):
        there = [c for c in cases if c.code == code]
        cells = {
            (o, has): sum(c.outcome == o and ("negated" in c.kinds) == has for c in there)
            for o in ("FP", "TP")
            for has in (True, False)
        }
        up += cells["FP", True] * cells["TP", False] / len(there)
        down += cells["FP", False] * cells["TP", True] / len(there)
    row = of(cue_table(cases, FAST), "negated")
    assert row.odds_ratio.estimate == pytest.approx(up / down)
    assert row.odds_ratio.low > 1
    silent = of(cue_table(cases, FAST), "section").odds_ratio
    assert silent.low < 1 < silent.high


def test_a_cue_of_the_codes_that_err_often_says_nothing_of_the_error() -> None:
    """Every pair of the code that errs has the cue: over all pairs it looks telling, within codes it is not defined."""
    cases = [case(f"a{n}", "401.9", "FP" if n < 40 else "TP", "section") for n in range(50)]
    cases += [case(f"b{n}", "486", "FP" if n < 5 else "TP") for n in range(50)]
    row = of(cue_table(cases, FAST), "section")
    assert row.lift > 4
    assert math.isnan(row.odds_ratio.estimate)
    assert row.odds_ratio.reason is not None


def test_an_interval_may_have_no_upper_end() -> None:
    cases = [
        case(f"{n}", "401.9", "FP" if n < 20 else "TP", *(["negated"] if n < 10 or n == 20 else [])) for n in range(60)
    ]
    odds = of(cue_table(cases, FAST), "negated").odds_ratio
    assert odds.estimate == pytest.approx((10 * 39) / (10 * 1))
    assert 1 < odds.low < odds.estimate
    assert odds.high == math.inf  # the one true positive with the cue is not drawn in a third of the resamples
    assert mantel_haenszel(np.array([[1.0, 1.0, 0.0, 3.0]]))[0] == math.inf
    assert math.isnan(mantel_haenszel(np.array([[0.0, 1.0, 0.0, 3.0]]))[0])


def test_few_pairs_and_coders_evidence_give_no_odds_ratio() -> None:
    cases = [case(str(n), "486", "FP" if n < 2 else "TP", "negated", "evidence_elsewhere") for n in range(20)]
    rows = cue_table(cases, FAST)
    assert of(rows, "negated", "486").odds_ratio.reason == "fewer than 3 false or true positives"
    assert of(rows, "evidence_elsewhere").odds_ratio.reason == "false positives have no coders' evidence to compare"
    assert of(rows, "evidence_elsewhere").asks_coders
    assert not of(rows, "negated").asks_coders


def test_every_cue_has_a_row_over_all_codes_and_codes_without_errors_have_none() -> None:
    rows = cue_table(drawn(), FAST)
    assert [row.kind for row in rows if not row.code] == list(CUES)
    assert {row.code for row in rows} == {"", "401.9", "486"}
    assert of(rows, "duration").fn_with == 7
    assert [row.kind for row in cue_table([], FAST)] == list(CUES)

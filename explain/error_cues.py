"""Which cues speak of an error: how often each is seen with false positives, and with true positives of the same code.

A cue that is as frequent with true positives says nothing of the error, however often it is seen.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from explain.cases import Case
from explain.cues import CUES
from hilat.significance import Interval, sums_by_cluster

Array = NDArray[np.float64]
# Cues that ask what the coders did: their rates differ between outcomes for that reason too.
ASKS_CODERS = ("sibling", "rule_pair", "evidence_elsewhere")


@dataclass(frozen=True, slots=True)
class CueRow:
    """One cue with one code, or with all codes where code is "".

    fp_with of fp false positives have the cue, tp_with of tp true positives, fn_with of fn misses; the rates are their
    shares. lift: fp_rate over tp_rate. odds_ratio: 1 where the cue says nothing. Of a code: 0.5 added to each of the four
    counts (Haldane and Anscombe), interval by Woolf's logarithm, since a code has a pair per admission. Of all codes: Mantel
    and Haenszel's, which compares within codes, percentile interval over admissions, whose upper end may be infinite (null in
    JSON). asks_coders: the cue itself depends
    on the coders' codes.
    """

    code: str
    kind: str
    fp_with: int
    fp: int
    fp_rate: float
    tp_with: int
    tp: int
    tp_rate: float
    fn_with: int
    fn: int
    lift: float
    odds_ratio: Interval
    asks_coders: bool


@dataclass(frozen=True, slots=True)
class CueOptions:
    """least: false and true positives that a code needs for an odds ratio."""

    least: int = 5
    resamples: int = 2000
    seed: int = 0


def cue_table(cases: Sequence[Case], options: CueOptions = CueOptions()) -> list[CueRow]:
    """A row per cue over all codes, then per code and cue that was seen with it, codes by falling false positives."""
    counts = Counter((case.code, case.outcome) for case in cases)
    having = Counter((case.code, case.outcome, kind) for case in cases for kind in case.kinds)
    fp_codes = sorted({case.code for case in cases if case.outcome == "FP"}, key=lambda c: (-counts[c, "FP"], c))
    rows = [_over_all(cases, kind, options) for kind in CUES]
    for code in fp_codes:
        total = [counts[code, outcome] for outcome in ("FP", "TP", "FN")]
        for kind in CUES:
            found = [having[code, outcome, kind] for outcome in ("FP", "TP", "FN")]
            if any(found):
                rows.append(_row(code, kind, found, total, _odds_ratio(found[:2], total[:2], options)))
    return rows


def _row(code: str, kind: str, found: Sequence[int], total: Sequence[int], odds: Interval) -> CueRow:
    fp_rate, tp_rate = (f / t if t else math.nan for f, t in zip(found[:2], total[:2], strict=True))
    lift = fp_rate / tp_rate if tp_rate > 0 else math.nan
    return CueRow(
        code, kind, found[0], total[0], fp_rate, found[1], total[1], tp_rate, found[2], total[2], lift, odds, kind in ASKS_CODERS
    )  # fmt: skip


def _odds_ratio(found: Sequence[int], total: Sequence[int], options: CueOptions) -> Interval:
    n = sum(total)
    if min(total) < options.least:
        return Interval(
            math.nan, math.nan, math.nan, n, n, reason=f"fewer than {options.least} false or true positives"
        )
    cells = np.array([found[0], total[0] - found[0], found[1], total[1] - found[1]]) + 0.5
    log = math.log(cells[0] * cells[3] / (cells[1] * cells[2]))
    half = float(norm.ppf(0.975)) * math.sqrt(float((1 / cells).sum()))
    return Interval(math.exp(log), math.exp(log - half), math.exp(log + half), n, n)


def _over_all(cases: Sequence[Case], kind: str, options: CueOptions) -> CueRow:
    found = [sum(c.outcome == outcome and kind in c.kinds for c in cases) for outcome in ("FP", "TP", "FN")]
    total = [sum(c.outcome == outcome for c in cases) for outcome in ("FP", "TP", "FN")]
    both = {c.code for c in cases if c.outcome == "FP"} & {c.code for c in cases if c.outcome == "TP"}
    chosen = [c for c in cases if c.outcome in ("FP", "TP") and c.code in both]
    number = {code: i for i, code in enumerate(sorted(both))}
    columns = np.zeros((len(chosen), 4, len(both)))
    for n, c in enumerate(chosen):
        columns[n, 2 * (c.outcome == "TP") + (kind not in c.kinds), number[c.code]] = 1.0
    sums = sums_by_cluster(columns.reshape(len(chosen), 4 * len(both)), [c.hadm_id for c in chosen])
    if kind == "evidence_elsewhere":
        none = math.nan
        odds = Interval(
            none, none, none, len(chosen), len(sums), reason="false positives have no coders' evidence to compare"
        )
    else:
        odds = _interval(sums, len(chosen), options)
    return _row("", kind, found, total, odds)


def _interval(sums: Array, n: int, options: CueOptions) -> Interval:
    """Percentile interval over admissions (G, 4 C). A resample in which nothing speaks against the cue counts as
    infinite, so that the upper end may be; leaving such resamples out would pull the interval down."""
    estimate = float(mantel_haenszel(sums.sum(axis=0, keepdims=True))[0])
    if not math.isfinite(estimate):
        why = "no true positive with the cue and false positive without it, or the reverse, share a code"
        return Interval(math.nan, math.nan, math.nan, n, len(sums), reason=why)
    g = len(sums)
    times = np.random.default_rng(options.seed).multinomial(g, np.full(g, 1 / g), size=options.resamples)  # (R, G)
    values = mantel_haenszel(times @ sums)
    low, high = np.quantile(values[~np.isnan(values)], [0.025, 0.975], method="inverted_cdf")
    return Interval(estimate, float(low), float(high), n, g)


def mantel_haenszel(sums: Array) -> Array:
    """(R,) odds ratios of R rows of counts (R, 4 C): false positives with and without, true ones with and without, C codes
    each (Mantel and Haenszel 1959). Infinite where no code has a true positive with the cue and a false one without it;
    NaN where no code has the reverse either."""
    a, b, c, d = np.split(sums, 4, axis=1)  # (R, C) each
    n = a + b + c + d
    up, down = (
        np.divide(first * second, n, out=np.zeros_like(n), where=n > 0).sum(axis=1)
        for first, second in ((a, d), (b, c))
    )
    out = np.where(up > 0, np.inf, np.nan)
    return np.asarray(np.divide(up, down, out=out, where=down > 0))

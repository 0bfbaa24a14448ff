"""How false positives differ from true positives of the same code, number by number.

Codes differ in their words, their frequency and their errors, so pairs are compared within a code only. Over all codes the
difference is the mean of the codes' differences, a code weighing n1 n0 / (n1 + n0) with its n1 false and n0 true positives
(the weights of a regression on the outcome with an intercept per code, and of Mantel and Haenszel's risk difference).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from explain.cases import Case
from explain.controls import seed_of
from explain.error_profile import PROFILE
from hilat.admissions import HilatError
from hilat.significance import Interval, benjamini_hochberg, interval, sums_by_cluster

Array = NDArray[np.float64]
_BLOCK = 1000  # permutations at a time


@dataclass(frozen=True, slots=True)
class Contrast:
    """One number in false and true positives of one code, or of all codes where code is "".

    false_positives, true_positives: means (over all codes: with the weights of the difference). difference: the first minus
    the second, 95 % interval over admissions; its n counts pairs, its missing those without the number. effect: difference
    over the standard deviation within codes. n_fp, n_tp: pairs that went in. p: two-sided, outcome labels shuffled within
    each code. p_admissions: signs of the admissions' contributions flipped, which stays right when pairs of one admission go
    together; a single code has a pair per admission and needs none. p_corrected: the larger of the two, corrected by
    Benjamini and Hochberg over the numbers (and, by code, over the codes). reason: why there is no value.
    """

    code: str
    feature: str
    false_positives: float
    true_positives: float
    difference: Interval
    effect: float
    n_fp: int
    n_tp: int
    p: float
    p_admissions: float
    p_corrected: float = math.nan
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A code that is not compared on its own, with its pairs and the reason."""

    code: str
    n_fp: int
    n_tp: int
    reason: str


@dataclass(frozen=True, slots=True)
class Contrasts:
    """pooled: a row per number, over the codes with at least one pair of both kinds; pooled_codes: how many.

    by_code: a row per code and number, codes by falling number of false positives; left_out: the other codes. least: pairs
    of each kind that a code needs to be compared on its own.
    """

    pooled: tuple[Contrast, ...]
    pooled_codes: int
    by_code: tuple[Contrast, ...]
    left_out: tuple[LeftOut, ...]
    least: int


@dataclass(frozen=True, slots=True)
class ContrastOptions:
    """least: pairs of each kind that a code needs. resamples: of the bootstrap. draws: shuffles of the tests."""

    least: int = 5
    resamples: int = 2000
    draws: int = 10_000
    seed: int = 0
    kind: Literal["percentile", "bca"] = "percentile"

    def __post_init__(self) -> None:
        if self.least < 2 or self.resamples < 1 or self.draws < 1:
            raise HilatError(
                f"a contrast was asked for with at least {self.least} pairs, {self.resamples} resamples and {self.draws} draws; "
                "expected 2, 1 and 1 or more. Correct them"
            )


@dataclass(frozen=True, slots=True, eq=False)
class _Pairs:
    """Predicted pairs: values (n, F), false_positive (n,), the code's number (n,) and the admission's id (n,)."""

    values: Array
    false_positive: NDArray[np.bool_]
    code: NDArray[np.int64]
    hadm_id: NDArray[np.str_]

    def of(self, chosen: NDArray[np.bool_]) -> _Pairs:
        return _Pairs(self.values[chosen], self.false_positive[chosen], self.code[chosen], self.hadm_id[chosen])


def contrast(cases: Sequence[Case], options: ContrastOptions = ContrastOptions()) -> Contrasts:
    """False against true positives, over all codes and by code, for every number of PROFILE."""
    predicted = [case for case in cases if case.outcome in ("FP", "TP")]
    fp, tp = (Counter(case.code for case in predicted if case.outcome == kind) for kind in ("FP", "TP"))
    codes = sorted({*fp, *tp}, key=lambda code: (-fp[code], code))
    number = {code: i for i, code in enumerate(codes)}
    pairs = _Pairs(
        np.array([[case.profile[name] for name in PROFILE] for case in predicted]).reshape(-1, len(PROFILE)),
        np.array([case.outcome == "FP" for case in predicted], dtype=bool),
        np.array([number[case.code] for case in predicted], dtype=np.int64),
        np.array([case.hadm_id for case in predicted], dtype=np.str_),
    )
    both = [i for i, code in enumerate(codes) if fp[code] and tp[code]]
    nulls = {
        i: _shuffled(pairs.of(pairs.code == i), seed_of("contrast", codes[i], options.seed), options) for i in both
    }
    pooled = _pooled(pairs.of(np.isin(pairs.code, both)), nulls, options)
    enough = [i for i in both if min(fp[codes[i]], tp[codes[i]]) >= options.least]
    by_code = [c for i in enough for c in _one_code(pairs.of(pairs.code == i), codes[i], nulls[i], options)]
    left_out = [
        LeftOut(code, fp[code], tp[code], f"fewer than {options.least} false or true positives")
        for i, code in enumerate(codes)
        if i not in enough
    ]
    return Contrasts(tuple(_corrected(pooled)), len(both), tuple(_corrected(by_code)), tuple(left_out), options.least)


def _corrected(rows: Sequence[Contrast]) -> list[Contrast]:
    larger = [row.p if math.isnan(row.p_admissions) else max(row.p, row.p_admissions) for row in rows]
    return [replace(row, p_corrected=p) for row, p in zip(rows, benjamini_hochberg(larger), strict=True)]


def weighted_difference(sums: Array) -> Array:
    """(R,) differences of R rows of sums (R, 4 C): totals and counts of false, then of true positives, C codes each.

    A code without one of the two weighs nothing; NaN where all weigh nothing.
    """
    parts = _means(sums)
    return np.asarray(parts[0] - parts[1])


def _means(sums: Array) -> tuple[Array, Array]:
    """The weighted means (R,) of false and of true positives."""
    total1, n1, total0, n0 = np.split(sums, 4, axis=1)  # (R, C) each
    weight = np.divide(n1 * n0, n1 + n0, out=np.zeros_like(n1), where=n1 + n0 > 0)
    there = weight > 0
    means = (
        np.where(there, weight * np.divide(total, n, out=np.zeros_like(n), where=n > 0), 0.0).sum(axis=1)
        for total, n in ((total1, n1), (total0, n0))
    )
    whole = weight.sum(axis=1)
    first, second = (np.divide(m, whole, out=np.full(len(whole), np.nan), where=whole > 0) for m in means)
    return first, second


def _columns(values: Array, pairs: _Pairs) -> Array:
    """(n, 4 C) columns whose sums are those of `weighted_difference`."""
    _, code = np.unique(pairs.code, return_inverse=True)
    n, width = len(values), int(code.max(initial=-1)) + 1
    out = np.zeros((n, 4, width))
    kind = np.where(pairs.false_positive, 0, 2)
    out[np.arange(n), kind, code] = values
    out[np.arange(n), kind + 1, code] = 1.0
    return out.reshape(n, 4 * width)


def _one_code(pairs: _Pairs, code: str, null: Array, options: ContrastOptions) -> list[Contrast]:
    found = []
    for f, feature in enumerate(PROFILE):
        there = np.isfinite(pairs.values[:, f])
        n_fp = int(pairs.false_positive[there].sum())
        n_tp = int(there.sum()) - n_fp
        if min(n_fp, n_tp) < options.least:
            reason = f"fewer than {options.least} false or true positives have this number"
            found.append(_without(code, feature, (n_fp, n_tp, int((~there).sum())), reason))
            continue
        found.append(_row(pairs, f, code, (_share_beyond(null[:, f], _observed(pairs, f)), math.nan), options))
    return found


def _pooled(pairs: _Pairs, nulls: dict[int, Array], options: ContrastOptions) -> list[Contrast]:
    found = []
    for f, feature in enumerate(PROFILE):
        weights = {i: _weight(pairs.of(pairs.code == i), f) for i in nulls}
        whole = sum(weights.values())
        if not whole:
            missing = int(np.isnan(pairs.values[:, f]).sum())
            found.append(_without("", feature, (0, 0, missing), "no code has this number in both kinds of pairs"))
            continue
        # A code's null is NaN where it lacks one of the two kinds; it weighs nothing there.
        null = np.sum([weight * nulls[i][:, f] for i, weight in weights.items() if weight], axis=0) / whole
        observed = _observed(pairs, f)
        flipped = _flipped(pairs, f, options)
        found.append(_row(pairs, f, "", (_share_beyond(null, observed), flipped), options))
    return found


def _without(code: str, feature: str, counts: tuple[int, int, int], reason: str) -> Contrast:
    n_fp, n_tp, missing = counts
    none = math.nan
    span = Interval(none, none, none, n_fp + n_tp, 0, missing, reason)
    return Contrast(code, feature, none, none, span, none, n_fp, n_tp, none, none, reason=reason)


def _row(pairs: _Pairs, f: int, code: str, p: tuple[float, float], options: ContrastOptions) -> Contrast:
    there = _usable(pairs, f)
    chosen = pairs.of(there)
    values = chosen.values[:, f]
    columns = _columns(values, chosen)
    sums = sums_by_cluster(columns, chosen.hadm_id.tolist())
    span = interval(sums, weighted_difference, resamples=options.resamples, seed=options.seed, kind=options.kind)
    missing = int(np.isnan(pairs.values[:, f]).sum())
    first, second = _means(columns.sum(axis=0, keepdims=True))
    inside = _centred(values, chosen.code)
    spread = math.sqrt(float((inside**2).sum()) / max(1, len(values) - len(np.unique(chosen.code))))
    n_fp = int(chosen.false_positive.sum())
    return Contrast(
        code,
        list(PROFILE)[f],
        float(first[0]),
        float(second[0]),
        Interval(span.estimate, span.low, span.high, len(values), span.clusters, missing, span.reason),
        span.estimate / spread if spread > 1e-12 * float(np.abs(values).max()) else math.nan,  # or it is rounding
        n_fp,
        len(values) - n_fp,
        *p,
    )


def _usable(pairs: _Pairs, f: int) -> NDArray[np.bool_]:
    """(n,): pairs that have the number, of codes that have it in both kinds of pairs."""
    there = np.isfinite(pairs.values[:, f])
    codes = [i for i in np.unique(pairs.code) if _weight(pairs.of(pairs.code == i), f) > 0]
    return np.asarray(there & np.isin(pairs.code, codes))


def _weight(pairs: _Pairs, f: int) -> float:
    there = np.isfinite(pairs.values[:, f])
    n1 = int((there & pairs.false_positive).sum())
    n0 = int(there.sum()) - n1
    return n1 * n0 / (n1 + n0) if n1 + n0 else 0.0


def _observed(pairs: _Pairs, f: int) -> float:
    chosen = pairs.of(_usable(pairs, f))
    return float(weighted_difference(_columns(chosen.values[:, f], chosen).sum(axis=0, keepdims=True))[0])


def _centred(values: Array, groups: NDArray[np.int64]) -> Array:
    """Values minus their group's mean, (n,)."""
    _, index = np.unique(groups, return_inverse=True)
    return np.asarray(values - (np.bincount(index, values) / np.bincount(index))[index])


def _shuffled(pairs: _Pairs, seed: int, options: ContrastOptions) -> Array:
    """(draws, F) differences of one code when its outcome labels are shuffled among the pairs that have the number."""
    out = np.full((options.draws, pairs.values.shape[1]), np.nan)
    defined = np.isfinite(pairs.values)  # (n, F)
    masks, which = np.unique(defined, axis=1, return_inverse=True)
    for m in range(masks.shape[1]):
        there, features = masks[:, m], np.flatnonzero(which.reshape(-1) == m)
        labels = pairs.false_positive[there]
        n1, n0 = int(labels.sum()), int((~labels).sum())
        if not n1 or not n0:
            continue
        values = pairs.values[there][:, features]
        rng = np.random.default_rng(seed)  # the same shuffles for all numbers that the same pairs have
        for start in range(0, options.draws, _BLOCK):
            size = min(_BLOCK, options.draws - start)
            drawn = rng.permuted(np.tile(labels, (size, 1)), axis=1)  # (size, n)
            first = drawn.astype(np.float64) @ values
            out[start : start + size, features] = first / n1 - (values.sum(axis=0) - first) / n0
    return out


def _flipped(pairs: _Pairs, f: int, options: ContrastOptions) -> float:
    """p of the sum over admissions of (label minus its code's mean) (value minus its code's mean), signs flipped.

    That sum is the weighted difference times its weights, so the two tests share their statistic.
    """
    chosen = pairs.of(_usable(pairs, f))
    label = _centred(chosen.false_positive.astype(np.float64), chosen.code)
    each = label * _centred(chosen.values[:, f], chosen.code)
    sums = sums_by_cluster(each[:, None], chosen.hadm_id.tolist())[:, 0]  # (G,)
    rng = np.random.default_rng(seed_of("flip", f, options.seed))
    null = [
        (1.0 - 2.0 * rng.integers(0, 2, size=(min(_BLOCK, options.draws - start), len(sums)))) @ sums
        for start in range(0, options.draws, _BLOCK)
    ]
    return _share_beyond(np.concatenate(null), float(sums.sum()))


def _share_beyond(null: Array, observed: float) -> float:
    """(c + 1) / (R + 1): how often the null is at least as far from 0; the tolerance is for the last bits of the sums."""
    least = abs(observed) * (1 - 1e-9)
    return float((int((np.abs(null) >= least).sum()) + 1) / (len(null) + 1))

"""Intervals and tests when rows are not independent: (note, code) pairs belong to admissions, and admissions are drawn.

Everything works on sums per cluster (admission): a measure is a function of columns summed over clusters, such as
mean = total / count, or micro-F1 of true positives, false positives and false negatives. Resampling clusters is then a
product of matrices, whatever the measure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from hilat.admissions import HilatError

Array = NDArray[np.float64]
# Sums (R, m) of R resamples -> the measure of each, (R,).
Measure = Callable[[Array], Array]
_BLOCK = 2000  # resamples at a time


@dataclass(frozen=True, slots=True)
class Interval:
    """A measure with its confidence interval. n: rows that went in; missing: undefined ones that were left out.

    reason: why there is no interval (fewer than two clusters, an undefined measure), with NaN for what is missing.
    """

    estimate: float
    low: float
    high: float
    n: int
    clusters: int
    missing: int = 0
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """A paired test. difference: first minus second. p: two-sided. exact: whether all exchanges were tried.

    effect: Cohen's d_z, the mean of the clusters' differences over their standard deviation. superiority: the share of
    clusters in which the first is higher, ties counted half.
    """

    difference: float
    p: float
    effect: float
    superiority: float
    clusters: int
    exact: bool
    reason: str | None = None


def mean_of(sums: Array) -> Array:
    """Total over count: (R, 2) -> (R,); NaN where nothing was counted."""
    return np.asarray(np.divide(sums[:, 0], sums[:, 1], out=np.full(len(sums), np.nan), where=sums[:, 1] > 0))


def micro_f1_of(sums: Array) -> Array:
    """Micro-F1 of true positives, false positives and false negatives: (R, 3) -> (R,); NaN where all are 0."""
    below = 2 * sums[:, 0] + sums[:, 1] + sums[:, 2]
    return np.asarray(np.divide(2 * sums[:, 0], below, out=np.full(len(sums), np.nan), where=below > 0))


def macro_f1_of(sums: Array) -> Array:
    """Mean of the codes' F1, 0 for a code with none right: (R, 3 K), all tp, then fp, then fn, -> (R,)."""
    tp, fp, fn = np.split(sums, 3, axis=1)
    below = 2 * tp + fp + fn
    return np.asarray(np.divide(2 * tp, below, out=np.zeros_like(tp), where=below > 0).mean(axis=1))


def sums_by_cluster(columns: Array, clusters: Sequence[str]) -> Array:
    """(G, m) sums of the rows (n, m) of each cluster, in the order of the clusters' names."""
    _, index = np.unique(np.asarray(clusters), return_inverse=True)
    out = np.zeros((int(index.max(initial=-1)) + 1, columns.shape[1]))
    np.add.at(out, index, columns)
    return out


def interval_of_mean(
    values: Array,
    clusters: Sequence[str],
    *,
    resamples: int = 2000,
    seed: int = 0,
    kind: Literal["percentile", "bca"] = "percentile",
) -> Interval:
    """95 % interval of the mean of values (n,), admissions drawn with replacement; NaN values are left out and counted."""
    there = np.isfinite(values)
    columns = np.stack([values[there], np.ones(int(there.sum()))], axis=1)
    sums = sums_by_cluster(columns, np.asarray(clusters)[there].tolist())
    found = interval(sums, mean_of, resamples=resamples, seed=seed, kind=kind)
    return Interval(found.estimate, found.low, found.high, len(columns), len(sums), int((~there).sum()), found.reason)


def interval(
    sums: Array,
    measure: Measure,
    *,
    resamples: int = 2000,
    seed: int = 0,
    kind: Literal["percentile", "bca"] = "percentile",
    confidence: float = 0.95,
) -> Interval:
    """Bootstrap interval of a measure of clusters' sums (G, m) (Efron and Tibshirani 1993, chapters 13 and 14).

    Raises:
        HilatError: fewer than 1 resample, or a confidence outside (0, 1).
    """
    if resamples < 1 or not 0 < confidence < 1:
        raise HilatError(
            f"{resamples} resamples and confidence {confidence} were given; expected 1 or more, and a share such as 0.95"
        )
    n = len(sums)
    estimate = float(measure(sums.sum(axis=0, keepdims=True))[0]) if n else math.nan
    if n < 2 or math.isnan(estimate):
        reason = "fewer than two admissions" if n < 2 else "undefined on these admissions"
        return Interval(estimate, math.nan, math.nan, n, n, reason=reason)
    rng = np.random.default_rng(seed)
    drawn = []
    for start in range(0, resamples, _BLOCK):
        times = rng.multinomial(n, np.full(n, 1 / n), size=min(_BLOCK, resamples - start))  # (R, G)
        drawn.append(measure(times @ sums))
    values = np.concatenate(drawn)
    values = values[np.isfinite(values)]
    tails = np.array([(1 - confidence) / 2, (1 + confidence) / 2])
    if kind == "bca":
        tails = _bca_tails(values, estimate, measure(sums.sum(axis=0) - sums), tails)
    low, high = np.quantile(values, tails)
    return Interval(estimate, float(low), float(high), n, n)


def _bca_tails(values: Array, estimate: float, without_one: Array, tails: Array) -> Array:
    """The tails corrected for bias and acceleration (Efron 1987)."""
    below = (np.sum(values < estimate) + 0.5 * np.sum(values == estimate)) / len(values)
    z0 = norm.ppf(below)
    away = np.nanmean(without_one) - without_one
    spread = np.nansum(away**2)
    acceleration = np.nansum(away**3) / (6 * spread**1.5) if spread > 0 else 0.0
    z = z0 + norm.ppf(tails)
    corrected: Array = norm.cdf(z0 + z / (1 - acceleration * z))
    return np.clip(np.nan_to_num(corrected, nan=0.5), 0.0, 1.0)


def randomisation(
    first: Array, second: Array, measure: Measure = mean_of, *, resamples: int = 10_000, seed: int = 0
) -> Comparison:
    """Paired approximate randomisation: the two systems' clusters (G, m) are exchanged at random (Noreen 1989).

    All 2^G exchanges are tried when they are at most `resamples` + 1 (the exact test); otherwise p = (c + 1) / (R + 1).
    Source for the field: Yeh 2000; Liu et al. 2022 test their models so.

    Raises:
        HilatError: shapes that differ.
    """
    if first.shape != second.shape:
        raise HilatError(
            f"the two systems have sums of shape {first.shape} and {second.shape}; expected the same clusters in both"
        )
    n = len(first)
    observed = float((measure(_total(first)) - measure(_total(second)))[0]) if n else math.nan
    per_cluster = measure(first) - measure(second) if n else np.zeros(0)
    per_cluster = per_cluster[np.isfinite(per_cluster)]
    if n < 2 or math.isnan(observed):
        reason = "fewer than two admissions" if n < 2 else "undefined on these admissions"
        return Comparison(observed, math.nan, math.nan, math.nan, n, False, reason)
    spread = per_cluster.std(ddof=1) if len(per_cluster) > 1 else 0.0
    effect = float(per_cluster.mean() / spread) if spread > 0 else math.nan
    superiority = float(np.mean(per_cluster > 0) + 0.5 * np.mean(per_cluster == 0)) if len(per_cluster) else math.nan
    exact = n < 31 and 2**n <= resamples + 1
    count, tried = 0, 2**n if exact else resamples
    rng = np.random.default_rng(seed)
    for start in range(0, tried, _BLOCK):
        size = min(_BLOCK, tried - start)
        if exact:
            exchanged = (np.arange(start, start + size)[:, None] >> np.arange(n)) & 1
        else:
            exchanged = rng.integers(0, 2, size=(size, n))
        moved = exchanged @ (second - first)
        differences = measure(_total(first) + moved) - measure(_total(second) - moved)
        count += int(np.sum(np.abs(differences) >= abs(observed) - 1e-12))
    p = count / tried if exact else (count + 1) / (tried + 1)
    return Comparison(observed, p, effect, superiority, n, exact)


def _total(sums: Array) -> Array:
    return np.asarray(sums.sum(axis=0, keepdims=True))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's adjusted p values (1979), for the family-wise error of a headline table; NaN stays NaN and does not count."""
    return _adjusted(p, lambda ordered, m: np.maximum.accumulate(ordered * (m - np.arange(m))))


def benjamini_hochberg(p: Sequence[float]) -> list[float]:
    """Adjusted p values of Benjamini and Hochberg (1995), for the false discovery rate of per-code tables."""
    return _adjusted(p, lambda ordered, m: _from_above(ordered * m / (np.arange(m) + 1)))


def benjamini_yekutieli(p: Sequence[float]) -> list[float]:
    """The same under any dependence (Benjamini and Yekutieli 2001)."""
    return _adjusted(
        p, lambda ordered, m: _from_above(ordered * m * (1 / np.arange(1, m + 1)).sum() / (np.arange(m) + 1))
    )


def _from_above(values: Array) -> Array:
    return np.asarray(np.minimum.accumulate(values[::-1])[::-1])


def _adjusted(p: Sequence[float], rule: Callable[[Array, int], Array]) -> list[float]:
    given = np.asarray(p, dtype=np.float64)
    there = np.flatnonzero(np.isfinite(given))
    order = there[np.argsort(given[there], kind="stable")]
    out = np.full(len(given), np.nan)
    out[order] = np.minimum(rule(given[order], len(order)), 1.0)
    return [float(value) for value in out]


def over_seeds(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation (n - 1) over several models; the deviation of a single one is NaN."""
    given = np.asarray(values, dtype=np.float64)
    return float(given.mean()), float(given.std(ddof=1)) if len(given) > 1 else math.nan

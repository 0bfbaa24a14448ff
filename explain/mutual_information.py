"""Mutual information of counts, in bits (log base 2) unless a name says otherwise, and of a score with a set of words.

Tables are K x L of counts or weights, rows X and columns Y; where this is about keywords, rows say whether a word was
selected and columns whether it is a keyword: [[n11, n10], [n01, n00]]. Plug-in estimates are biased upward by about
(K-1)(L-1) / (2 n ln 2) bits, which Miller-Madow's correction, the exact expectation or a permutation takes off.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import digamma, gammaln, xlogy
from scipy.stats import chi2, hypergeom

from explain.result import Value, defined, undefined
from hilat.admissions import HilatError

Array = NDArray[np.float64]
Mean = Literal["arithmetic", "geometric", "max", "min"]
_LN2 = float(np.log(2.0))
_MEANS: dict[str, Callable[[float, float], float]] = {
    "arithmetic": lambda a, b: (a + b) / 2,
    "geometric": lambda a, b: float(np.sqrt(a * b)),
    "max": max,
    "min": min,
}


def entropy_bits(counts: ArrayLike) -> float:
    """The entropy of counts or weights of any shape, in bits (plug-in). Raises HilatError for negative or no counts."""
    share = _table(np.atleast_2d(np.asarray(counts, dtype=np.float64)))
    share = share / share.sum()
    bits: float = -float(np.sum(xlogy(share, share))) / _LN2
    return max(0.0, bits)


def mi_bits(table: ArrayLike) -> float:
    """The plug-in mutual information of a K x L table, in bits.

    Raises:
        HilatError: when the table is not K x L, holds negative or non-finite cells, or only zeros.
    """
    cells = _table(table)
    joint = cells / cells.sum()
    independent = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    held = joint > 0
    return max(0.0, float((joint[held] * np.log2(joint[held] / independent[held])).sum()))


def miller_madow_bits(table: ArrayLike, support: Literal["observed", "nominal"] = "observed") -> float:
    """Mutual information with Miller and Madow's (1955) correction of its three entropies, in bits; may be negative.

    Each entropy gains (cells - 1) / 2n nats. support: which cells of the table count: the observed ones, or (nominal) all
    in rows and columns that are not empty. Raises HilatError for cells that are not counts.
    """
    cells = _counts(table)
    rows, columns = int((cells.sum(axis=1) > 0).sum()), int((cells.sum(axis=0) > 0).sum())
    joint = int((cells > 0).sum()) if support == "observed" else rows * columns
    return mi_bits(cells) + float((rows + columns - joint - 1) / (2 * cells.sum() * _LN2))


def expected_mi_bits(table: ArrayLike) -> float:
    """The exact mean of the plug-in mutual information over all tables with the same margins, in bits.

    The hypergeometric model of Vinh, Epps and Bailey 2010, equation 24a. Raises HilatError for cells that are not counts.
    """
    cells = _counts(table)
    n = float(cells.sum())
    total = 0.0
    columns, column_times = np.unique(cells.sum(axis=0), return_counts=True)
    rows, row_times = np.unique(cells.sum(axis=1), return_counts=True)
    for a, a_times in zip(rows, row_times, strict=True):
        for b, b_times in zip(columns, column_times, strict=True):
            both = np.arange(max(1.0, a + b - n), min(a, b) + 1)
            if a == 0 or b == 0 or not len(both):
                continue
            log_chance = _log_choose(a, both) + _log_choose(n - a, b - both) - _log_choose(n, b)
            terms = both / n * np.log2(n * both / (a * b)) * np.exp(log_chance)
            total += float(a_times * b_times * terms.sum())
    return max(0.0, total)


def normalised_mi(table: ArrayLike, mean: Mean = "arithmetic") -> Value:
    """Mutual information over this mean of the two entropies, 0 to 1; undefined where that mean is 0."""
    x, y = _entropies(table)
    return _share(mi_bits(table), _mean(mean)(x, y), f"the {mean} mean of the two entropies is 0")


def uncertainty_coefficient(table: ArrayLike) -> Value:
    """I(X;Y) / H(Y): the share of the columns' entropy that the rows tell (Theil 1970); undefined for constant columns."""
    return _share(mi_bits(table), _entropies(table)[1], "the columns do not vary")


def adjusted_mi(table: ArrayLike, mean: Mean = "arithmetic") -> Value:
    """(I - E[I]) / (mean of entropies - E[I]) (Vinh et al. 2010): 0 by chance, 1 for the same partition; may be negative."""
    expected = expected_mi_bits(table)
    most = _mean(mean)(*_entropies(table)) - expected
    if abs(most) < 1e-14:
        return undefined(f"the {mean} mean of the two entropies is what chance gives")
    return defined((mi_bits(table) - expected) / most)


def signed_mi_bits(table: ArrayLike) -> float:
    """The mutual information of a 2 x 2 table in bits, negative where n11 is less than its expectation."""
    cells = _two_by_two(table)
    return overlap_sign(cells) * mi_bits(cells)


def overlap_sign(table: ArrayLike) -> int:
    """1 where n11 of a 2 x 2 table is more than its expectation under independence, -1 where less, 0 where equal."""
    cells = _two_by_two(table)
    return int(np.sign(cells[0, 0] * cells.sum() - cells[0].sum() * cells[:, 0].sum()))


def g_test(table: ArrayLike) -> tuple[float, float]:
    """G = 2 n I (in nats) and its p by chi-square with (K-1)(L-1) degrees of freedom: large counts only."""
    cells = _counts(table)
    g = 2 * cells.sum() * mi_bits(cells) * _LN2
    return float(g), float(chi2.sf(g, max(1, (cells.shape[0] - 1) * (cells.shape[1] - 1))))


def fisher_p_more(table: ArrayLike) -> float:
    """Fisher's exact one-sided p of a 2 x 2 table: an n11 this large or larger, margins given. Takes words as exchangeable."""
    cells = _counts(_two_by_two(table))
    return float(hypergeom.sf(cells[0, 0] - 1, cells.sum(), cells[0].sum(), cells[:, 0].sum()))


def log_odds_nats(table: ArrayLike) -> float:
    """The log odds ratio of a 2 x 2 table in nats, half added to each cell (Haldane 1956, Anscombe 1956)."""
    cells = _two_by_two(table) + 0.5
    return float(np.log(cells[0, 0] * cells[1, 1] / (cells[0, 1] * cells[1, 0])))


def pmi_bits(table: ArrayLike, add: float = 0.0) -> Array:
    """Pointwise mutual information log2 p(x,y) / (p(x) p(y)) of each cell (K, L), in bits (Church and Hanks 1990).

    add: what each cell gains first; 0.5 tames rare pairs. -inf where a pair never occurs, NaN where its row or column is empty.
    """
    joint, independent = _joint(table, add)
    out = np.full(joint.shape, -np.inf)
    held = joint > 0
    out[held] = np.log2(joint[held] / independent[held])
    out[independent == 0] = np.nan
    return out


def npmi(table: ArrayLike, add: float = 0.0) -> Array:
    """PMI over -log p(x,y) (K, L), -1 to 1 (Bouma 2009): -1 for a pair that never occurs (the limit), 0 when independent.

    NaN where the row or column is empty, or one cell holds everything.
    """
    joint, _ = _joint(table, add)
    out = pmi_bits(table, add)
    surprise = np.zeros_like(joint)
    surprise[joint > 0] = -np.log2(joint[joint > 0])
    held = (surprise > 0) & np.isfinite(out)
    result = np.full(joint.shape, np.nan)
    result[held] = out[held] / surprise[held]
    result[np.isneginf(out)] = -1.0
    return result


def ppmi_bits(table: ArrayLike, add: float = 0.0) -> Array:
    """PMI where it is positive, else 0 (K, L), in bits; NaN where the row or column is empty."""
    return np.asarray(np.maximum(pmi_bits(table, add), 0.0))


def knn_mi_bits(scores: Array, member: NDArray[np.bool_], neighbours: int = 3) -> Value:
    """Mutual information of a continuous score (W,) with a yes or no (W,), in bits: k nearest neighbours, no threshold.

    Ross 2014, equation 2, with natural digammas turned to bits. For each word: the distance to its k-th neighbour of the
    same group, then how many words of both groups are nearer. Not cut at 0 (scikit-learn does), so that its mean is near 0
    for unrelated scores. Scores should not tie: see `explain.keyword_information.rank_information`.
    Undefined with fewer than two words in a group.

    Raises:
        HilatError: arrays that do not fit, scores that are not finite, fewer than one neighbour.
    """
    if scores.ndim != 1 or scores.shape != member.shape or not np.isfinite(scores).all() or neighbours < 1:
        raise HilatError(
            f"scores {scores.shape}, members {member.shape} and {neighbours} neighbours; expected finite scores (W,), yes or "
            "no (W,) and at least 1 neighbour. Drop words without a score"
        )
    inside, outside = scores[member], scores[~member]
    if min(len(inside), len(outside)) < 2:
        return undefined("fewer than two words are in one of the two groups")
    everything = np.sort(scores)
    mean = 0.0
    for group in (inside, outside):
        k = min(neighbours, len(group) - 1)
        values = np.sort(group)
        nearer = _nearer(everything, values, _kth_distance(values, k))
        mean += float((digamma(k) - digamma(len(group)) - digamma(nearer)).sum()) / len(scores)
    return defined((float(digamma(len(scores))) + mean) / _LN2)


def _kth_distance(values: Array, k: int) -> Array:
    """Distance (n,) of each of n sorted values to its k-th nearest other one: the best of the k + 1 runs that hold it."""
    n = len(values)
    best = np.full(n, np.inf)
    for below in range(k + 1):
        low, high = np.arange(n) - below, np.arange(n) - below + k
        fits = (low >= 0) & (high < n)
        here = values[fits]
        reach = np.maximum(here - values[low[fits]], values[high[fits]] - here)
        best[fits] = np.minimum(best[fits], reach)
    return best


def _nearer(everything: Array, values: Array, radius: Array) -> NDArray[np.int64]:
    """How many of the sorted scores lie nearer to each value (n,) than its radius, itself included, at least 1.

    Distances are compared as `_kth_distance` computes them: value minus radius may round onto the very neighbour that
    the radius comes from, which must not count.
    """
    first = np.searchsorted(everything, values - radius, side="left")
    last = np.searchsorted(everything, values + radius, side="right") - 1
    while (far := (first < last) & (values - everything[first] >= radius)).any():
        first = first + far
    while (far := (first < last) & (everything[last] - values >= radius)).any():
        last = last - far
    return np.asarray(last - first + 1)


def _joint(table: ArrayLike, add: float) -> tuple[Array, Array]:
    cells = _table(np.asarray(table, dtype=np.float64) + add)
    joint = cells / cells.sum()
    return joint, joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)


def _log_choose(n: Any, k: Any) -> Any:
    return gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)


def _entropies(table: ArrayLike) -> tuple[float, float]:
    cells = _table(table)
    return entropy_bits(cells.sum(axis=1)), entropy_bits(cells.sum(axis=0))


def _share(part: float, whole: float, reason: str) -> Value:
    return defined(part / whole) if whole > 0 else undefined(reason)


def _mean(name: str) -> Callable[[float, float], float]:
    if name not in _MEANS:
        raise HilatError(f"there is no {name!r} mean of entropies; expected {', '.join(_MEANS)}. Choose one of them")
    return _MEANS[name]


def _table(table: ArrayLike) -> Array:
    cells = np.asarray(table, dtype=np.float64)
    if cells.ndim != 2 or not np.isfinite(cells).all() or (cells < 0).any() or not (cells > 0).any():
        raise HilatError(
            f"a table of shape {cells.shape} has negative or non-finite cells, no positive one, or other than two axes; "
            "expected K x L counts or weights. Count the pairs first"
        )
    return cells


def _counts(table: ArrayLike) -> Array:
    cells = _table(table)
    if (cells != np.round(cells)).any():
        raise HilatError(
            "a table holds fractions; expected whole counts, since the correction depends on how many there were. Use "
            "mi_bits with a permutation for weights"
        )
    return cells


def _two_by_two(table: ArrayLike) -> Array:
    cells = _table(table)
    if cells.shape != (2, 2):
        raise HilatError(
            f"a table has shape {cells.shape}; expected 2 x 2, [[n11, n10], [n01, n00]]. Use mi_bits for others"
        )
    return cells

"""Agreement of two explanations of the same (note, code) pair: do they rank the same words?

Agreement is neither faithfulness nor plausibility: two methods may agree and both be wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import jensenshannon
from scipy.stats import kendalltau, pearsonr, spearmanr

from explain.result import Value, defined, undefined

Scores = NDArray[np.float64]
TOP = 5
PERSISTENCE = 0.9


def _correlation(of: Callable[[Scores, Scores], float]) -> Callable[[Scores, Scores], Value]:
    def found(x: Scores, y: Scores) -> Value:
        if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
            return undefined("all words score the same, or there are fewer than two")
        return defined(of(x, y))

    return found


def top_words(scores: Scores, k: int) -> NDArray[np.int64]:
    """The k highest words, best first; equal ones by their place (scores are given in text order)."""
    return np.argsort(-scores, kind="stable")[:k]


def overlap_at(k: int) -> Callable[[Scores, Scores], Value]:
    """Share of the k highest words that both have (of the shorter list where there are fewer words)."""

    def found(x: Scores, y: Scores) -> Value:
        if not len(x):
            return undefined("no word")
        return defined(len(np.intersect1d(top_words(x, k), top_words(y, k))) / min(k, len(x)))

    return found


def jaccard_at(k: int) -> Callable[[Scores, Scores], Value]:
    """Intersection over union of the k highest words."""

    def found(x: Scores, y: Scores) -> Value:
        if not len(x):
            return undefined("no word")
        first, second = top_words(x, k), top_words(y, k)
        return defined(len(np.intersect1d(first, second)) / len(np.union1d(first, second)))

    return found


def rank_biased_overlap(x: Scores, y: Scores, persistence: float = PERSISTENCE) -> Value:
    """RBO, extrapolated, of the two whole rankings (Webber et al. 2010, equation 32); ties go by text order."""
    n = len(x)
    if not n:
        return undefined("no word")
    first, second = top_words(x, n), top_words(y, n)
    where = np.empty((2, n), dtype=np.int64)
    where[0, first], where[1, second] = np.arange(n), np.arange(n)
    both_in_by = np.maximum(where[0], where[1])  # the depth at which a word is in both
    shared = np.cumsum(np.bincount(both_in_by, minlength=n))  # (n,) words in both at depth 1..n
    depth = np.arange(1, n + 1)
    agreement = shared / depth
    weights = persistence**depth
    return defined(
        float(agreement[-1] * persistence**n + (1 - persistence) / persistence * (agreement * weights).sum())
    )


def _divergence(x: Scores, y: Scores) -> Value:
    first, second = np.maximum(x, 0), np.maximum(y, 0)
    if first.sum() <= 0 or second.sum() <= 0:
        return undefined("no positive score")
    return defined(float(np.nan_to_num(jensenshannon(first, second, base=2)) ** 2))


def _cosine(x: Scores, y: Scores) -> Value:
    lengths = np.linalg.norm(x) * np.linalg.norm(y)
    return defined(float(x @ y / lengths)) if lengths > 0 else undefined("all scores are 0")


@dataclass(frozen=True, slots=True)
class Metric:
    """up: whether higher is more agreement. of: its value for two score vectors of the same words, in text order."""

    up: bool
    says: str
    of: Callable[[Scores, Scores], Value]


METRICS: dict[str, Metric] = {
    "kendall_tau_b": Metric(True, "rank correlation with ties", _correlation(lambda x, y: float(kendalltau(x, y).statistic))),
    "spearman": Metric(True, "correlation of ranks", _correlation(lambda x, y: float(spearmanr(x, y).statistic))),
    "pearson": Metric(True, "correlation of scores", _correlation(lambda x, y: float(pearsonr(x, y).statistic))),
    "overlap_at_5": Metric(True, "share of the five highest words that both have", overlap_at(TOP)),
    "jaccard_at_5": Metric(True, "intersection over union of the five highest words", jaccard_at(TOP)),
    "rank_biased_overlap": Metric(True, "overlap over all depths, the top weighing most, p = 0.9", rank_biased_overlap),
    "js_bits": Metric(False, "Jensen-Shannon divergence of the positive scores, bits", _divergence),
    "cosine": Metric(True, "cosine of the scores", _cosine),
}  # fmt: skip


def agreement(scores: Mapping[str, Scores]) -> list[tuple[str, str, str, Value]]:
    """(method, other method, metric, value) for every pair of methods; scores (n,) of the same words in text order."""
    return [
        (first, second, name, metric.of(scores[first], scores[second]))
        for first, second in combinations(scores, 2)
        for name, metric in METRICS.items()
    ]

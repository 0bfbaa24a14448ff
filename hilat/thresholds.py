"""From which probability a code is given: one threshold for all codes or one per code, tuned for micro-F1 or F1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hilat.metrics import checked

_BLOCK = 1_000_000  # scores that are counted at a time

How = Literal["global", "per_code"]


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Tuned thresholds (K,), what they were tuned for and on, the value reached there, and how many codes had no
    positive there and so got the global threshold."""

    values: NDArray[np.float64]
    how: How
    objective: str
    tuned_on: str
    reached: float
    fallbacks: int = 0


def tune_threshold(
    probabilities: NDArray[Any], targets: NDArray[Any], *, how: How = "global", tuned_on: str = "val"
) -> Thresholds:
    """The thresholds with the highest F1: micro-F1 over all codes ("global"), or each code's own F1 ("per_code").

    Searches every distinct score, exactly. A threshold lies midway between two neighbouring scores; of several equally
    good ones the one nearest 0.5 is taken, the lower of two equally near.
    """
    scores, truth = checked(probabilities, targets)
    value, reached = best_cut(scores.ravel(), truth.ravel())
    codes = scores.shape[1]
    if how == "global":
        return Thresholds(np.full(codes, value), how, "micro-F1", tuned_on, reached)
    values = np.full(codes, value)
    reached_by_code, fallbacks = [], 0
    for k in range(codes):
        if truth[:, k].any():
            values[k], best = best_cut(scores[:, k], truth[:, k])
            reached_by_code.append(best)
        else:
            fallbacks += 1
    mean = float(np.mean(reached_by_code)) if reached_by_code else float("nan")
    return Thresholds(values, how, "each code's F1", tuned_on, mean, fallbacks)


def best_cut(scores: NDArray[np.float64], truth: NDArray[np.bool_]) -> tuple[float, float]:
    """The threshold with the highest F1 of `score >= threshold`, and that F1; (0.5, NaN) without positives."""
    positives = int(truth.sum())
    if positives == 0:
        return 0.5, float("nan")
    # Below a score without a positive there is more to give and no more hits: the best cut is at a positive's score.
    values, here = np.unique(scores[truth], return_counts=True)  # (V,) ascending, and the positives that have each
    up_to = np.zeros(len(values) + 1, dtype=np.int64)
    for first in range(0, len(scores), _BLOCK):
        place = np.searchsorted(values, scores[first : first + _BLOCK], side="right")  # how many values it reaches
        up_to += np.bincount(place, minlength=len(up_to))
    given = np.cumsum(up_to[::-1])[::-1][1:]  # (V,) scores at the value or above
    hits = np.cumsum(here[::-1])[::-1]
    f1 = 2 * hits / (given + positives)
    best = np.flatnonzero(f1 == f1.max())
    cuts = {}
    for i in best:
        below = float(np.max(scores, where=scores < values[i], initial=0.0))  # the next lower score
        middle = (values[i] + below) / 2
        cuts[i] = middle if middle > below else values[i]  # neighbours too close for a midpoint
    nearest = min(best, key=lambda i: (abs(cuts[i] - 0.5), cuts[i]))
    return float(cuts[nearest]), float(f1[nearest])

"""The strongest passages of an explanation: runs of words around its peaks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

HIDE_BELOW = 32  # of 255: scores under (32/255)^2 = 1.6 % of the largest are neither shown nor a peak
GAP = 60  # characters between two words beyond which they are no phrase (removed text stands between)


def quantise(scores: Sequence[float] | NDArray[np.float64]) -> tuple[NDArray[np.uint8], float]:
    """Bytes round(255 * sqrt(score / maximum)), (W,), and the maximum; 0 for scores that are not positive."""
    values = np.asarray(scores, dtype=np.float64)
    maximum = float(values.max(initial=0.0))
    if maximum <= 0.0:
        return np.zeros(len(values), dtype=np.uint8), 0.0
    return np.rint(255.0 * np.sqrt(np.maximum(values, 0.0) / maximum)).astype(np.uint8), maximum


def strongest(scores: NDArray[np.float64], n: int) -> NDArray[np.int64]:
    """The n highest of scores (W,) by falling value, equal ones in text order; all where W is smaller. Indices (n,)."""
    if n >= len(scores):
        return np.argsort(-scores, kind="stable")
    least = np.partition(scores, len(scores) - n)[len(scores) - n]
    among = np.flatnonzero(scores >= least)  # more than n where values are equal
    return among[np.argsort(-scores[among], kind="stable")][:n]


@dataclass(frozen=True, slots=True)
class Snippet:
    """A run of words first..last (inclusive) around a peak; share is the sum of their scores."""

    first: int
    last: int
    peak: int
    share: float


def snippets(
    scores: Sequence[float] | NDArray[np.float64],
    words: Sequence[tuple[int, int]] | NDArray[np.int64],
    *,
    count: int = 6,
    reach: int = 6,
) -> tuple[Snippet, ...]:
    """The strongest runs of up to 2 * reach + 1 words, disjoint, by falling peak; none for peaks too weak to be shown.

    scores (W,) and words (W, 2), raw character ranges, both in the order of the text. A run stops at a gap of more than
    60 characters, so that a snippet stays a phrase.
    """
    values = np.asarray(scores, dtype=np.float64)  # (W,)
    quantised, _ = quantise(values)
    used = bytearray(len(values))
    out: list[Snippet] = []
    # The words used by the snippets before are at most so many, so the next peak is among the highest of these.
    for peak in strongest(values, count * (2 * reach + 1)).tolist():
        if len(out) == count or quantised[peak] < HIDE_BELOW:
            break
        if used[peak]:
            continue
        first = last = peak
        while first > max(0, peak - reach) and not used[first - 1] and words[first][0] - words[first - 1][1] <= GAP:
            first -= 1
        limit = min(len(values) - 1, peak + reach)
        while last < limit and not used[last + 1] and words[last + 1][0] - words[last][1] <= GAP:
            last += 1
        used[first : last + 1] = b"\x01" * (last + 1 - first)
        out.append(Snippet(first, last, peak, float(values[first : last + 1].sum())))
    return tuple(out)


def words_for_half(scores: Sequence[float] | NDArray[np.float64]) -> int:
    """The smallest number of words that hold half of the positive scores; 0 if there are none."""
    values = np.sort(np.maximum(np.asarray(scores, dtype=np.float64), 0.0))[::-1]
    total = values.sum()
    if total <= 0.0:
        return 0
    # The tolerance keeps the count from depending on the last bit of the sum.
    return int(np.searchsorted(np.cumsum(values), 0.5 * total * (1 - 1e-9)) + 1)

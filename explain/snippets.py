"""The strongest passages of an explanation: runs of words around its peaks."""

from __future__ import annotations

import math
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


def strongest(scores: NDArray[np.float64], n: int, rising: NDArray[np.float64] | None = None) -> NDArray[np.int64]:
    """The n highest of scores (W,) by falling value, equal ones in text order; all where W is smaller. Indices (n,).

    rising: the same scores sorted, for who has them already.
    """
    if n >= len(scores):
        return np.argsort(-scores, kind="stable")
    least = (np.partition(scores, len(scores) - n) if rising is None else rising)[len(scores) - n]
    among = np.flatnonzero(scores >= least)  # more than n where values are equal
    return among[np.argsort(-scores[among], kind="stable")][:n]


@dataclass(frozen=True, slots=True)
class Snippet:
    """A run of words first..last (inclusive) around a peak; share is the sum of their scores."""

    first: int
    last: int
    peak: int
    share: float


def breaks_of(words: Sequence[tuple[int, int]] | NDArray[np.int64]) -> bytes:
    """(W,): 1 for a word with more than 60 characters between it and the word before, 0 for the others."""
    bounds = np.asarray(words, dtype=np.int64).reshape(-1, 2)
    far = np.zeros(len(bounds), dtype=np.uint8)
    far[1:] = bounds[1:, 0] - bounds[:-1, 1] > GAP
    return far.tobytes()


def snippets(
    scores: Sequence[float] | NDArray[np.float64],
    breaks: bytes,
    *,
    count: int = 6,
    reach: int = 6,
) -> tuple[Snippet, ...]:
    """The strongest runs of up to 2 * reach + 1 words, disjoint, by falling peak; none for peaks too weak to be shown.

    scores (W,) in the order of the text; breaks: `breaks_of` its words. A run stops at a break, so that a snippet stays a
    phrase.
    """
    values = np.asarray(scores, dtype=np.float64)  # (W,)
    found = runs(values, breaks, count=count, reach=reach)
    return tuple(Snippet(*run, float(values[run[0] : run[1] + 1].sum())) for run in found)


def runs(
    values: NDArray[np.float64],
    breaks: bytes,
    *,
    count: int = 6,
    reach: int = 6,
    highest: NDArray[np.int64] | None = None,
) -> list[tuple[int, int, int]]:
    """First word, last word and peak of the `snippets` of scores (W,), without their sums.

    highest: the `strongest` count * (2 * reach + 1) words or more, for who has them already.
    """
    if highest is None:  # the words used by the runs before are at most so many, so the next peak is among these
        highest = strongest(values, count * (2 * reach + 1))
    maximum = float(values[highest[0]]) if len(highest) else 0.0
    used = bytearray(len(values))
    out: list[tuple[int, int, int]] = []
    for peak, score in zip(highest.tolist(), values[highest].tolist(), strict=True):  # by falling score
        if len(out) == count or score <= 0.0 or round(255.0 * math.sqrt(score / maximum)) < HIDE_BELOW:
            break
        if used[peak]:
            continue
        low, high = max(0, peak - reach), min(len(values), peak + reach + 1)
        first = max(low, used.rfind(1, low, peak) + 1, breaks.rfind(1, low + 1, peak + 1))
        last = min(_before(used.find(1, peak + 1, high), high), _before(breaks.find(1, peak + 1, high), high))
        used[first : last + 1] = b"\x01" * (last + 1 - first)
        out.append((first, last, peak))
    return out


def _before(found: int, end: int) -> int:
    """The last place before what was found, or before the end where nothing was."""
    return (found if found >= 0 else end) - 1


def words_for_half(scores: Sequence[float] | NDArray[np.float64], rising: NDArray[np.float64] | None = None) -> int:
    """The smallest number of words that hold half of the positive scores; 0 if there are none.

    rising: the same scores sorted, for who has them already.
    """
    values = np.maximum(np.asarray(scores, dtype=np.float64), 0.0)
    half = 0.5 * values.sum() * (1 - 1e-9)  # so that the count does not depend on the last bit of the sum
    if half <= 0.0:
        return 0
    falling = (np.sort(values) if rising is None else rising)[::-1]
    sums = np.cumsum(np.maximum(falling[:1024], 0.0))  # mostly these are enough
    if sums[-1] < half:
        sums = np.cumsum(np.maximum(falling, 0.0))
    return int(sums.searchsorted(half)) + 1

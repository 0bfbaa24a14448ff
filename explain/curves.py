"""Removal curves: a code's output while the words go, best first, worst first, or in random order.

Everything sees a note as a set function (`explain.perturbation`); each code has its own order of words, and the masks
of all codes go through the model in one stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from explain.occlusion import SetFunction
from hilat.admissions import HilatError

ERASER_RATIOS = (0.01, 0.05, 0.1, 0.2, 0.5)


@dataclass(frozen=True, slots=True, eq=False)
class Curves:
    """Logits while words are removed, at `counts` (S,) removed words, from 0 to n, for r rankings of k codes' words.

    morf (r, S): most relevant first. lerf (r, S): least relevant first, so that lerf read backwards is insertion, most
    relevant first. columns (r,): the code of each ranking. random (R, k, S): in R random orders, for every code.
    n: words that can be removed. The last column is the note with every word removed.
    """

    counts: NDArray[np.int64]
    n: int
    morf: NDArray[np.float64]
    lerf: NDArray[np.float64]
    columns: NDArray[np.int64]
    random: NDArray[np.float64]

    @property
    def fractions(self) -> NDArray[np.float64]:
        """Share of the words removed at each step, (S,)."""
        return self.counts / self.n

    def at(self, count: int) -> int:
        """The column at which `count` words are gone."""
        return int(np.searchsorted(self.counts, count))


def falling_order(scores: NDArray[np.float64], place: NDArray[np.int64]) -> NDArray[np.int64]:
    """Word indices (k, n) by falling score (k, n); equal ones in text order."""
    return np.array([np.lexsort((place, -row)) for row in scores], dtype=np.int64).reshape(scores.shape)


def removal_counts(n: int, steps: int | None, ratios: Sequence[float] = ERASER_RATIOS) -> NDArray[np.int64]:
    """How many of n words are gone at each step, rising from 0 to n: every number where steps is None or enough, else
    about `steps` evenly spaced ones and those of the ratios (at least one word), with the mirror image of all, so
    that removing and keeping can be read off the same curves.

    Raises:
        HilatError: no word, or no step.
    """
    if n < 1 or (steps is not None and steps < 1):
        raise HilatError(f"a curve over {n} words in {steps} steps was asked for; expected 1 or more of both")
    if steps is None or steps >= n:
        return np.arange(n + 1)
    even = np.round(np.linspace(0, n, steps + 1)).astype(np.int64)
    counts = np.union1d(even, [count_of(ratio, n) for ratio in ratios])
    return np.union1d(counts, n - counts)


def count_of(ratio: float, n: int) -> int:
    """Words in a share of n, rounded, at least one."""
    return min(n, max(1, round(ratio * n)))


def removal_curves(
    value: SetFunction,
    scores: NDArray[np.float64],
    columns: NDArray[np.int64],
    words: NDArray[np.int64],
    place: NDArray[np.int64],
    counts: NDArray[np.int64],
    *,
    random_orders: int = 3,
    seed: int = 0,
) -> Curves:
    """The curves of r rankings (r, W), each of the code columns[r], over the words (n,) that can be removed.

    place: (W,) of each word in the text. random_orders: drawn once, for all codes and rankings.
    """
    order = words[falling_order(scores[:, words], place[words])]  # (r, n)
    rng = np.random.default_rng(seed)
    random = np.array([rng.permutation(words) for _ in range(random_orders)]).reshape(random_orders, len(words))
    steps = len(counts)

    def run(row: NDArray[np.int64]) -> NDArray[np.float64]:
        keep = np.ones((steps, scores.shape[1]), dtype=bool)
        for s, count in enumerate(counts):
            keep[s, row[:count]] = False
        return value(keep)  # (S, k)

    return Curves(
        counts,
        len(words),
        np.array([run(row)[:, k] for row, k in zip(order, columns, strict=True)]),
        np.array([run(row[::-1])[:, k] for row, k in zip(order, columns, strict=True)]),
        columns,
        np.array([run(row).T for row in random]),
    )

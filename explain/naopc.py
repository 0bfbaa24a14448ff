"""Normalised AOPC: where an order stands between the worst and the best one that this model allows.

AOPC depends on the model: two models' numbers do not compare until each is put between its own bounds (Edin et al. 2025,
"Normalized AOPC"). The bounds are over all orders of the words: exact by dynamic programming over subsets, or by beam
search where there are too many.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from explain.occlusion import SetFunction
from hilat.admissions import HilatError

EXACT_GROUPS = 15


@dataclass(frozen=True, slots=True, eq=False)
class Bounds:
    """The lowest and highest AOPC (k,) of any order, over the removal of 1 to n groups, on the probability.

    how: "exact", or "beam" with its width; a beam's bounds are within the exact ones.
    """

    lower: NDArray[np.float64]
    upper: NDArray[np.float64]
    how: Literal["exact", "beam"]
    width: int | None


def aopc_bounds(value: SetFunction, groups: NDArray[np.int64], *, beam: int = 5) -> Bounds:
    """Bounds over the orders of the groups; groups (W,): the group of each word, -1 for words that stay.

    Raises:
        HilatError: no group, or a beam without width.
    """
    n = int(groups.max(initial=-1)) + 1
    if n < 1 or beam < 1:
        raise HilatError(f"bounds over {n} groups with a beam of {beam} were asked for; expected 1 or more of both")
    return _exact(value, groups, n) if n <= EXACT_GROUPS else _beam(value, groups, n, beam)


def _probability(value: SetFunction, kept: NDArray[np.bool_], groups: NDArray[np.int64]) -> NDArray[np.float64]:
    keep = kept[:, np.maximum(groups, 0)] | (groups < 0)  # (S, W)
    return np.asarray(1.0 / (1.0 + np.exp(-value(keep))))


def _exact(value: SetFunction, groups: NDArray[np.int64], n: int) -> Bounds:
    """best[gone] = drop(gone) + the best over which group of `gone` went last."""
    codes = np.arange(2**n)
    gone = (codes[:, None] >> np.arange(n)) & 1 == 1  # (2^n, n)
    drops = np.empty((0, 0))
    for start in range(0, len(codes), 4096):
        part = _probability(value, ~gone[start : start + 4096], groups)
        drops = part if start == 0 else np.concatenate([drops, part])
    drops = drops[0] - drops  # (2^n, k)
    highest, lowest = np.full_like(drops, -np.inf), np.full_like(drops, np.inf)
    highest[0] = lowest[0] = 0.0
    for i in np.argsort(gone.sum(axis=1), kind="stable")[1:]:
        before = i - (1 << np.flatnonzero(gone[i]))
        highest[i] = drops[i] + highest[before].max(axis=0)
        lowest[i] = drops[i] + lowest[before].min(axis=0)
    return Bounds(lowest[-1] / n, highest[-1] / n, "exact", None)


def _beam(value: SetFunction, groups: NDArray[np.int64], n: int, width: int) -> Bounds:
    full = _probability(value, np.ones((1, n), dtype=bool), groups)[0]  # (k,)
    ends = np.array(
        [[_search(value, groups, n, width, k, full[k], sign) for k in range(len(full))] for sign in (-1, 1)]
    )
    return Bounds(-ends[0] / n, ends[1] / n, "beam", width)


def _search(
    value: SetFunction, groups: NDArray[np.int64], n: int, width: int, code: int, full: float, sign: int
) -> float:
    """The largest found sum over an order's steps of sign * (f(x) - f(what is left))."""
    states: dict[bytes, tuple[NDArray[np.bool_], float]] = {}
    start = np.ones(n, dtype=bool)
    states[start.tobytes()] = (start, 0.0)
    for _ in range(n):
        following: dict[bytes, tuple[NDArray[np.bool_], float]] = {}
        for kept, total in states.values():
            for i in np.flatnonzero(kept):
                child = kept.copy()
                child[i] = False
                name = child.tobytes()
                if name not in following or following[name][1] < total:
                    following[name] = (child, total)
        rows = list(following.values())
        left = _probability(value, np.array([kept for kept, _ in rows]), groups)[:, code]
        sums = np.array([total for _, total in rows]) + sign * (full - left)
        best = np.argsort(-sums, kind="stable")[:width]
        states = {rows[b][0].tobytes(): (rows[b][0], float(sums[b])) for b in best}
    return max(total for _, total in states.values())

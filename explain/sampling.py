"""Masks for LIME and KernelSHAP that thousands of samples put together from few masks per chunk.

A sample drawn on its own changes every chunk, so S samples of a note of C chunks cost S x C chunk passes. Here every
chunk has a pool of masks, a sample takes one mask of each chunk's pool, and S samples cost at most C x size passes,
however many they are: what is left is a softmax over C numbers per sample and code.

The regressions ask for subsets by their size s among n groups: all subsets of one size are as likely. A sample whose
groups are kept with one probability p, each on its own, has this property too, whatever p is, and its chunks are
independent of each other, which a sample of fixed size does not allow. So samples are drawn at L levels p_1 ... p_L,
each with pools of its own; a sample has masks of one level in all its chunks. Its size then has the probability

    mix(s) = 1/L sum_l C(n, s) p_l^s (1 - p_l)^(n - s),

and a sample of size s enters the regression with the weight wanted(s) / mix(s), divided by the share of samples that
are not thrown away (sizes that are not wanted). The weighted sum of any function over the samples thus has the
expectation that it has in the design of independent samples. (For KernelSHAP the levels need no correction when there
are many: C(n, s) p^s (1 - p)^(n - s), integrated over dp / (p (1 - p)), is n / (s (n - s)), the Shapley kernel.) The
levels stand at the quantiles of `wanted`.

Within one pool the samples are not independent of each other: what a chunk's masks of the pool have by chance in common
does not go away with more samples, but with a larger pool.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from hilat.admissions import HilatError

MASKS_PER_LEVEL = 16
MASKS_PER_GROUP = 8
_ROUNDS = 100  # of drawing again what is thrown away


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """size: masks per chunk. words_of_chunks: the words (n,) that have a token in each chunk."""

    size: int
    words_of_chunks: Sequence[NDArray[np.int64]]

    def __post_init__(self) -> None:
        if self.size < 2 * MASKS_PER_LEVEL:
            raise HilatError(
                f"a pool of {self.size} masks per chunk was asked for; expected {2 * MASKS_PER_LEVEL} or more (0: every "
                "sample has its own masks). Change it"
            )

    def groups_of_chunks(self, groups: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """The groups of words in each chunk that has any, from the group (W,) of each word, -1 for none."""
        found = [np.unique(groups[words]) for words in self.words_of_chunks]
        return [rows[rows >= 0] for rows in found if rows.max(initial=-1) >= 0]

    def roomy(self, groups: NDArray[np.int64]) -> Pool:
        """The pool, with 8 masks or more per group of its fullest chunk: regressions on few masks are unstable."""
        most = max(map(len, self.groups_of_chunks(groups)), default=0)
        return Pool(max(self.size, MASKS_PER_GROUP * most), self.words_of_chunks)


def pooled(
    chunks: Sequence[NDArray[np.int64]],
    wanted: NDArray[np.float64],
    samples: int,
    size: int,
    seed: int,
    *,
    paired: bool = False,
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Masks (S, n) of kept groups, and their weights (S,).

    chunks: the groups of each chunk. wanted (n + 1,): the weight of all subsets of each size together; sizes of weight 0
    are not drawn. size: masks in the pool of a chunk. paired: each sample is followed by its complement, for which
    `wanted` has to be the same from both ends; the complements of a pool are the pool of the level 1 - p.

    A group that stands in two chunks has one bit: the second chunk takes its mask among those that agree with it, and
    where none does, the bit is put into one of them (a mask more for this chunk).
    """
    rng = np.random.default_rng(seed)
    n = len(wanted) - 1
    half = 2 if paired else 1
    levels = _levels(wanted, max(1, size // (MASKS_PER_LEVEL * half)), half)  # (L,)
    each = size // (half * len(levels))
    pools = [[_pool(len(own), p, each, rng) for own in chunks] for p in levels]
    keep = np.zeros((0, n), dtype=bool)
    rows = -(-samples // half)
    for _ in range(_ROUNDS):
        if len(keep) >= rows:
            break
        level = rng.permutation(np.arange(rows - len(keep)) % len(levels))
        drawn = np.concatenate([_joined(pools[i], chunks, n, int((level == i).sum()), rng) for i in range(len(levels))])
        keep = np.concatenate([keep, drawn[wanted[drawn.sum(axis=1)] > 0]])
    if paired:
        keep = np.stack([keep, ~keep], axis=1).reshape(-1, n)
        levels = np.concatenate([levels, 1 - levels])
    mix = binom.pmf(np.arange(n + 1)[:, None], n, levels[None]).mean(axis=1)  # (n + 1,)
    return keep, (wanted * mix[wanted > 0].sum() / np.maximum(mix, 1e-300))[keep.sum(axis=1)]


def _levels(wanted: NDArray[np.float64], count: int, half: int) -> NDArray[np.float64]:
    """Probabilities at evenly spaced quantiles of `wanted` (of its lower half, where half is 2)."""
    shares = np.cumsum(wanted) / wanted.sum()
    sizes = np.searchsorted(shares, (np.arange(count) + 0.5) / (half * count))
    return np.asarray((sizes + 0.5) / len(wanted))


def _pool(groups: int, p: float, size: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Masks (size, groups), each of independent bits that are kept with probability p; every group in about p of them."""
    place = rng.permuted(np.tile(np.arange(size), (groups, 1)), axis=1).T  # (size, groups)
    return np.asarray((place + rng.random((size, groups))) / size < p)


def _joined(
    pool: Sequence[NDArray[np.bool_]],
    chunks: Sequence[NDArray[np.int64]],
    n: int,
    samples: int,
    rng: np.random.Generator,
) -> NDArray[np.bool_]:
    """Samples (S, n) of one level: a mask of each chunk's pool, drawn evenly from those that agree with the chunks before."""
    keep = np.zeros((samples, n), dtype=bool)
    decided = np.zeros(n, dtype=bool)
    for masks, own in zip(pool, chunks, strict=True):
        fixed = decided[own]
        agrees = (masks[None, :, fixed] == keep[:, None, own[fixed]]).all(axis=2)  # (S, size)
        drawn = masks[np.argmax(rng.random(agrees.shape) + agrees, axis=1)]  # (S, groups of the chunk)
        keep[:, own[~fixed]] = drawn[:, ~fixed]
        decided[own] = True
    return keep

"""LIME and KernelSHAP: a linear model of what the codes' outputs do when groups of words are taken away.

Both see a note as a set function (`explain.perturbation`); the changed notes, and the one system of equations they lead
to, are shared by all codes.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import comb

import numpy as np
from numpy.typing import NDArray

from explain.note_gradients import Output
from explain.occlusion import SetFunction, outputs
from explain.sampling import Pool, pooled
from hilat.admissions import HilatError

_LIME_KERNEL_WIDTH = 25.0  # of the released code for text, on cosine distances times 100
_LIME_RIDGE = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Surrogate:
    """Scores (K, W), signed; a group's score is shared evenly by its words.

    fit (K,): weighted R2 of the linear model on its samples. groups: how many groups the words were joined to.
    exact: whether every subset was tried.
    """

    scores: NDArray[np.float64]
    fit: NDArray[np.float64]
    groups: int
    exact: bool


def neighbour_groups(words: NDArray[np.int64], n_words: int, most: int) -> NDArray[np.int64]:
    """Groups (W,) of at most `most` runs of neighbours, of even size, over the given words; -1 for the others."""
    if most < 1:
        raise HilatError(f"words are to be joined to {most} groups; expected 1 or more. Change it")
    groups = np.full(n_words, -1, dtype=np.int64)
    groups[words] = np.arange(len(words)) * min(most, len(words)) // max(1, len(words))
    return groups


def lime(
    value: SetFunction,
    groups: NDArray[np.int64],
    samples: int,
    seed: int,
    output: Output = "logit",
    pool: Pool | None = None,
) -> Surrogate:
    """LIME for text (Ribeiro et al. 2016, section 3.4 and the authors' code): weighted ridge on random subsets.

    A sample removes a number of groups drawn evenly from 1 to all, at random; its weight is exp(-d^2 / 25^2), d a
    hundred times the cosine distance of its mask from the whole note; ridge penalty 1. (The released code weights
    errors by the square root of that kernel twice squared, which is the same least squares.) With a pool, the same
    problem is estimated from the samples of `explain.sampling`.

    Raises:
        HilatError: without any group, or fewer than 2 samples.
    """
    n = _count(groups, samples)
    chunks = _pays(pool, groups)
    if pool is None or chunks is None:
        keep = np.ones((samples, n), dtype=bool)  # the first row keeps all
        rng = np.random.default_rng(seed)
        for row in keep[1:]:
            row[rng.choice(n, size=rng.integers(1, n + 1), replace=False)] = False
        weights = _lime_kernel(keep.sum(axis=1), n)
    else:
        wanted = _lime_kernel(np.arange(n + 1), n) / n  # one of n sizes
        wanted[n] = 0.0
        drawn, found = pooled(chunks, wanted, samples - 1, pool.size, seed)
        keep = np.concatenate([np.ones((1, n), dtype=bool), drawn])
        weights = np.concatenate([np.ones(1), found])
    y = outputs(value, _of_words(keep, groups), output)  # (S, K)
    x = keep.astype(np.float64)
    x_mean, y_mean = weights @ x / weights.sum(), weights @ y / weights.sum()
    centred = (x - x_mean) * weights[:, None]
    slopes = np.linalg.solve(centred.T @ (x - x_mean) + _LIME_RIDGE * np.eye(n), centred.T @ (y - y_mean))  # (G, K)
    return Surrogate(_to_words(slopes, groups), _fit(y, y_mean + (x - x_mean) @ slopes, weights), n, False)


def _lime_kernel(kept: NDArray[np.int64], n: int) -> NDArray[np.float64]:
    """Weights of subsets by their size; the cosine of a 0/1 vector with ones is the square root of its share of ones."""
    distance = 100.0 * (1.0 - np.sqrt(kept / n))
    return np.asarray(np.exp(-((distance / _LIME_KERNEL_WIDTH) ** 2)))


def kernel_shap(
    value: SetFunction,
    groups: NDArray[np.int64],
    samples: int,
    seed: int,
    output: Output = "logit",
    pool: Pool | None = None,
) -> Surrogate:
    """KernelSHAP (Lundberg and Lee 2017, theorem 2): Shapley values as the constrained least squares of their kernel.

    Exact when all 2^G subsets are at most `samples`. Otherwise sizes are drawn by the kernel, each subset with its
    complement (Covert and Lee 2021), so that the samples weigh the same; with a pool, from the samples of
    `explain.sampling`, with their complements. The scores sum to f(x) - f(nothing) exactly.

    Raises:
        HilatError: without any group, or fewer than 2 samples.
    """
    n = _count(groups, samples)
    exact = 2**n <= samples
    chunks = _pays(pool, groups)
    if exact:
        inner, weights = _every_subset(n)
    elif pool is None or chunks is None:
        inner, weights = _drawn_subsets(n, samples - 2, seed)
    else:
        sizes = np.arange(1, n)
        wanted = np.concatenate([np.zeros(1), 1.0 / (sizes * (n - sizes)), np.zeros(1)])
        inner, weights = pooled(chunks, wanted, samples - 2, pool.size, seed, paired=True)
    keep = np.concatenate([np.zeros((1, n), dtype=bool), np.ones((1, n), dtype=bool), inner])
    found = outputs(value, _of_words(keep, groups), output)  # (S, K)
    empty, full, y = found[0], found[1], found[2:] - found[0]
    total = full - empty  # (K,)
    # The last group's score is what the others leave of the total.
    x = inner.astype(np.float64)
    free, target = x[:, :-1] - x[:, -1:], y - x[:, -1:] * total
    root = np.sqrt(weights)[:, None]
    slopes = np.zeros((n, len(total)))
    if n > 1:
        slopes[:-1] = np.linalg.lstsq(free * root, target * root, rcond=None)[0]
    slopes[-1] = total - slopes[:-1].sum(axis=0)
    fit = _fit(y, x @ slopes, weights) if len(inner) else np.ones_like(total)
    return Surrogate(_to_words(slopes, groups), fit, n, exact)


def _pays(pool: Pool | None, groups: NDArray[np.int64]) -> list[NDArray[np.int64]] | None:
    """The groups of each chunk where a pool saves passes: several chunks, and one with more subsets than masks."""
    chunks = [] if pool is None else pool.groups_of_chunks(groups)
    if pool is None or len(chunks) < 2 or 2 ** max(map(len, chunks)) <= pool.size:
        return None
    return chunks


def _every_subset(n: int) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """All subsets but the empty and the full one, and their Shapley kernel."""
    codes = np.arange(1, 2**n - 1)
    keep = (codes[:, None] >> np.arange(n)) & 1 == 1  # (2^n - 2, n)
    size = keep.sum(axis=1)
    return keep, np.array([(n - 1) / (comb(n, int(s)) * s * (n - s)) for s in size])


def _drawn_subsets(n: int, count: int, seed: int) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    rng = np.random.default_rng(seed)
    sizes = np.arange(1, n)
    chance = 1.0 / (sizes * (n - sizes))
    half = max(1, count // 2)
    keep = np.zeros((half, n), dtype=bool)
    for row, size in zip(keep, rng.choice(sizes, size=half, p=chance / chance.sum()), strict=True):
        row[rng.choice(n, size=size, replace=False)] = True
    both = np.concatenate([keep, ~keep])
    return both, np.ones(len(both))


def _count(groups: NDArray[np.int64], samples: int) -> int:
    n = int(groups.max(initial=-1)) + 1
    if n < 1 or samples < 2:
        raise HilatError(
            f"a surrogate was asked for with {n} groups of words and {samples} samples; expected 1 group and 2 samples or "
            "more. Give a note that the model reads, and more samples"
        )
    return n


def _of_words(keep: NDArray[np.bool_], groups: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Masks over words (S, W) from masks over groups (S, G); words without a group are kept."""
    return np.asarray(keep[:, np.maximum(groups, 0)] | (groups < 0))


def _to_words(slopes: NDArray[np.float64], groups: NDArray[np.int64]) -> NDArray[np.float64]:
    sizes = np.bincount(groups[groups >= 0], minlength=len(slopes))
    each = (slopes / np.maximum(sizes, 1)[:, None])[np.maximum(groups, 0)].T  # (K, W)
    return np.where(groups >= 0, each, 0.0)


def _fit(y: NDArray[np.float64], guess: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weighted R2 (K,); 1 where the outputs do not vary and the guess is right, else NaN."""
    mean = weights @ y / weights.sum()
    error, spread = weights @ (y - guess) ** 2, weights @ (y - mean) ** 2
    flat = spread <= 1e-24
    return np.where(flat, np.where(error <= 1e-20, 1.0, np.nan), 1.0 - error / np.where(flat, 1.0, spread))

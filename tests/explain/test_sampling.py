"""Samples from pools of masks, against the subsets that they stand for, counted out one by one."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from math import comb

import numpy as np
import pytest

from explain import MethodOptions
from explain.hilat_target import HilatTarget
from explain.perturbation import NoteFunction
from explain.sampling import MASKS_PER_LEVEL, Pool, pooled
from explain.surrogates import kernel_shap, lime, neighbour_groups
from hilat.admissions import HilatError
from hilat.coder import Coder

MakeCoder = Callable[..., Coder]
CHUNKS = [np.array([0, 1, 2]), np.array([2, 3, 4]), np.array([4, 5])]  # groups 2 and 4 stand in two chunks
N = 6
SIZES = np.arange(1, N)
KERNELS = {
    "lime": np.array([0.3, 0.5, 1.0, 2.0, 3.0, 4.0, 0.0]),
    "shap": np.concatenate([[0.0], 1.0 / (SIZES * (N - SIZES)), [0.0]]),
}


def coder_like(keep: np.ndarray, chunks: list[np.ndarray] = CHUNKS, seed: int = 0) -> np.ndarray:
    """A softmax over chunks of numbers that depend on each chunk's groups, not linearly; (S, 2)."""
    rng = np.random.default_rng(seed)
    scores, given = [], []
    for own in chunks:
        hidden = np.tanh((keep[:, own] - 0.4) @ rng.normal(size=(len(own), 4)))
        scores.append(hidden @ rng.normal(size=(4, 2)))
        given.append(hidden @ rng.normal(size=(4, 2)))
    weights = np.exp(scores)
    return np.asarray((weights / weights.sum(axis=0) * given).sum(axis=0))


def subsets(n: int) -> np.ndarray:
    return np.array([[g in kept for g in range(n)] for size in range(n + 1) for kept in combinations(range(n), size)])


@pytest.mark.parametrize("kind", KERNELS)
def test_weighted_sums_are_those_of_the_wanted_subsets(kind: str) -> None:
    wanted = KERNELS[kind]
    every = subsets(N)
    each = np.array([wanted[s] / comb(N, s) for s in every.sum(axis=1)])  # a size's weight is its subsets', evenly
    moments = np.column_stack([coder_like(every), every, every[:, :1] & every[:, 1:], np.ones(len(every))])
    expected = each @ moments
    found = []
    for seed in range(60):
        keep, weights = pooled(CHUNKS, wanted, 300, 96, seed, paired=kind == "shap")
        seen = np.column_stack([coder_like(keep), keep, keep[:, :1] & keep[:, 1:], np.ones(len(keep))])
        found.append(weights @ seen / len(keep))
    spread = np.std(found, axis=0) / np.sqrt(len(found))
    assert (np.abs(np.mean(found, axis=0) - expected) < 4 * spread + 1e-3 * np.abs(expected)).all()


def test_a_pool_bounds_what_chunks_look_like() -> None:
    rng = np.random.default_rng(0)
    chunks = [np.arange(c * 10, c * 10 + 11 - (c == 4)) for c in range(5)]  # every border has a group in two chunks
    wanted = np.concatenate([rng.random(50) + 0.1, [0.0]])
    keep, weights = pooled(chunks, wanted, 2000, 64, 0)
    assert keep.shape == (2000, 50)
    assert weights.shape == (2000,)
    assert (weights > 0).all()
    for own in chunks:
        assert len(np.unique(keep[:, own], axis=0)) <= 64 + 8  # a few where no mask of the level agrees at the border
    assert len(np.unique(keep, axis=0)) > 1900
    paired, _ = pooled(chunks, np.ones(51), 100, 64, 0, paired=True)
    np.testing.assert_array_equal(paired[::2], ~paired[1::2])
    again, _ = pooled(chunks, wanted, 2000, 64, 0)
    np.testing.assert_array_equal(keep, again)


def pool_of(size: int, chunks: list[np.ndarray]) -> Pool:
    return Pool(size, [np.asarray(own) for own in chunks])


WIDE = [np.arange(9), np.arange(8, 16)]


def test_additive_functions_are_explained_exactly() -> None:
    weights = np.random.default_rng(1).normal(size=16)

    def value(keep: np.ndarray) -> np.ndarray:
        return np.stack([keep @ weights, 2.0 - keep @ weights], axis=1)

    found = kernel_shap(value, np.arange(16), 400, 0, pool=pool_of(128, WIDE))
    np.testing.assert_allclose(found.scores, [weights, -weights], atol=1e-9)
    near = lime(value, np.arange(16), 100_000, 0, pool=pool_of(128, WIDE))
    np.testing.assert_allclose(near.scores, [weights, -weights], rtol=0, atol=1e-3)  # the ridge
    np.testing.assert_allclose(near.fit, 1.0, atol=1e-6)


def test_both_regressions_come_near_to_all_subsets_as_the_pool_grows() -> None:
    def value(keep: np.ndarray) -> np.ndarray:
        return coder_like(keep, WIDE, seed=3)

    exact = kernel_shap(value, np.arange(16), 2**16, 0)  # Shapley values
    assert exact.exact
    near = lime(value, np.arange(16), 30_000, 0).scores
    for method, expected in ((kernel_shap, exact.scores), (lime, near)):
        errors = [
            np.mean([
                np.linalg.norm(method(value, np.arange(16), 4000, seed, pool=pool_of(size, WIDE)).scores - expected)
                for seed in range(4)
            ]) / np.linalg.norm(expected)
            for size in (64, 256)
        ]  # fmt: skip
        assert errors[1] < 0.7 * errors[0]
        assert errors[1] < 0.15
        mean = np.mean([method(value, np.arange(16), 2000, s, pool=pool_of(128, WIDE)).scores for s in range(30)], axis=0)  # fmt: skip
        np.testing.assert_allclose(mean, expected, atol=0.04 * np.abs(expected).max())


def test_on_a_model_a_pool_takes_few_passes(make_coder: MakeCoder, note: str) -> None:
    coder = make_coder()
    document = coder.encode(note)
    groups = np.arange(len(document.word_spans))
    target = HilatTarget(coder)
    for method in (lime, kernel_shap):
        value = NoteFunction(target, document)
        method(value, groups, 300, 0)
        many = value.passes
        value = NoteFunction(target, document)
        method(value, groups, 300, 0, pool=Pool(32, value.words_of_chunks))
        assert value.passes <= 4 * (32 + 2 + 8) < many  # the pool, everything and nothing, and borders


def test_a_pool_is_left_aside_where_it_saves_nothing() -> None:
    def value(keep: np.ndarray) -> np.ndarray:
        return coder_like(keep)

    groups = neighbour_groups(np.arange(N), N, N)
    for chunks in ([np.arange(N)], CHUNKS):  # one chunk; chunks of few groups
        for method in (lime, kernel_shap):
            alone = method(value, groups, 40, 0)
            np.testing.assert_array_equal(method(value, groups, 40, 0, pool=pool_of(32, chunks)).scores, alone.scores)


def test_a_pool_has_room_for_the_groups_of_its_fullest_chunk() -> None:
    assert Pool(64, WIDE).roomy(np.arange(16)).size == 8 * 9
    assert Pool(200, WIDE).roomy(np.arange(16)).size == 200


def test_a_pool_has_a_smallest_size() -> None:
    with pytest.raises(HilatError, match=f"expected {2 * MASKS_PER_LEVEL} or more"):
        Pool(3, [])
    with pytest.raises(HilatError, match="a pool of 31 masks"):
        MethodOptions(pool=31)
    assert MethodOptions(pool=0).pool == 0

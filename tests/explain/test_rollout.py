"""Attention rollout: against the reference numbers, a sum over all paths, and what it must keep."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from explain.hilat_target import HilatTarget
from explain.rollout import label_rollout, rollout
from hilat.admissions import HilatError
from hilat.coder import Coder


def attention(rng: np.random.Generator, *shape: int) -> np.ndarray:
    values = rng.random((*shape, shape[-1]))
    return values / values.sum(-1, keepdims=True)


def test_reference_numbers(shared: Path) -> None:
    numbers = json.loads((shared / "vectors" / "rollout.json").read_text())
    layers = np.array(numbers["layers_head_averaged"])[:, None, None]  # one chunk, one head
    for n in (1, 2):
        for residual, name in ((True, "rollout_residual"), (False, "rollout_no_residual")):
            found = rollout(layers[:n], residual=residual)
            np.testing.assert_allclose(found[0], numbers[name][n - 1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("residual", [True, False])
def test_against_the_sum_over_all_paths(residual: bool) -> None:
    rng = np.random.default_rng(0)
    layers = attention(rng, 3, 2, 4, 3)  # (L, C, H, T, T)
    found = rollout(torch.from_numpy(layers), residual=residual)
    for c, t, s in itertools.product(range(2), range(3), range(3)):
        total = 0.0
        for a, b in itertools.product(range(3), repeat=2):  # the position after the second and the first layer
            path = 1.0
            for layer, (i, j) in zip((2, 1, 0), ((t, a), (a, b), (b, s)), strict=True):
                weight = sum(layers[layer, c, h, i, j] for h in range(4)) / 4
                path *= (weight + (i == j)) / 2 if residual else weight
            total += path
        assert found[c, t, s] == pytest.approx(total, abs=1e-12)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_rows_stay_distributions_and_label_attention_keeps_its_total(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rolled = rollout(attention(rng, 2, 3, 2, 5))
    np.testing.assert_allclose(rolled.sum(-1), 1.0)
    alpha, o = attention(rng, 4, 3, 5)[..., 0, :], rng.dirichlet(np.ones(3), size=4)
    down = label_rollout(alpha, o, rolled)
    np.testing.assert_allclose(down.sum(-1), o)
    for k, c, s in np.ndindex(down.shape):
        assert down[k, c, s] == pytest.approx(sum(o[k, c] * alpha[k, c, t] * rolled[c, t, s] for t in range(5)))
    np.testing.assert_allclose(label_rollout(alpha, None, rolled) * o[..., None], down)


def test_chunks_not_read_and_direction() -> None:
    layers = attention(np.random.default_rng(0), 2, 2, 2, 4)
    layers[:, 1] = 0.0
    np.testing.assert_array_equal(rollout(layers)[1], np.eye(4))
    assert not rollout(layers, residual=False)[1].any()
    # Position 0 looks at position 1 in the last layer, which looked at position 2 in the first.
    first, last = np.eye(3)[[0, 2, 2]], np.eye(3)[[1, 1, 2]]
    both = rollout(np.stack([first, last])[:, None, None], residual=False)[0]
    assert both[0].tolist() == [0.0, 0.0, 1.0]
    assert (last @ first).tolist() == both.tolist()
    assert (first @ last).tolist() != both.tolist()


@pytest.mark.parametrize("kind", ["xlnet", "bert"])
def test_on_a_model(make_coder: Callable[..., Coder], note: str, kind: str) -> None:
    target = HilatTarget(make_coder(kind, chunks=8, tokens=32))
    document = target.encode(note)
    states = target.frozen(document)
    rolled = rollout(target.encoder_attentions(document))
    down = label_rollout(states.token_attention.numpy(), states.chunk_attention.numpy(), rolled)
    assert down.shape == (5, *document.input_ids.shape)
    np.testing.assert_allclose(down.sum((1, 2)), 1.0, rtol=1e-5)
    assert np.abs(down[:, document.attention_mask == 0]).max() < 1e-6  # real tokens attend to no padding


def test_wrong_attention_is_refused() -> None:
    good = attention(np.random.default_rng(0), 2, 2, 2, 4)
    with pytest.raises(HilatError, match="without memories"):
        rollout(np.concatenate([good, good], axis=-1) / 2)
    with pytest.raises(HilatError, match="expected \\(layers, chunks, heads"):
        rollout(good[0])
    with pytest.raises(HilatError, match="do not sum to 1"):
        rollout(good * 1.1)
    with pytest.raises(HilatError, match="from one document"):
        label_rollout(np.zeros((3, 2, 5)), None, rollout(good))
    with pytest.raises(HilatError, match="from one document"):
        label_rollout(np.zeros((3, 2, 4)), np.zeros((3, 3)), rollout(good))

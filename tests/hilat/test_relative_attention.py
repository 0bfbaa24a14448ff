"""XLNet's attention in blocks, on its own: against a loop number by number, finite differences, and its dropout masks."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from hilat.encoders import relative_attention
from hilat.encoders.relative_attention import RelativeAttention
from hilat.encoders.seeded_dropout import Dropout, SeededDropout


def _parts(chunks: int = 2, tokens: int = 5, heads: int = 2, size: int = 3) -> tuple[Tensor, ...]:
    """qkv, r, shift and segments."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(chunks, tokens, 3, heads, size), (2 * tokens, heads, size), (heads, size), (2, heads, size)]
    return tuple(torch.randn(s, dtype=torch.float64, generator=generator).requires_grad_() for s in shapes)


KINDS = F.one_hot(torch.tensor([[0, 0, 2, 2, 1], [1, 0, 0, 1, 1]])).double()  # (B, T, S)


def _slow(parts: tuple[Tensor, ...], kinds: Tensor | None, kept: Tensor, scale: float) -> Tensor:
    """The attention (B, T, H, E) written number by number. kept: (H, B, T, T)."""
    qkv, r, shift, (segment, other) = parts
    chunks, tokens, _, heads, _ = qkv.shape
    output = torch.empty_like(qkv[:, :, 0])
    for b, i, h in itertools.product(range(chunks), range(tokens), range(heads)):
        q, scores = qkv[b, i, 0, h], []
        for j in range(tokens):
            near = (q + shift[h]) @ r[tokens - (i - j), h]
            apart = kinds is not None and not torch.equal(kinds[b, i], kinds[b, j])
            scores.append(q @ qkv[b, j, 1, h] + near + apart * ((q + segment[h]) @ other[h]))
        output[b, i, h] = (torch.softmax(torch.stack(scores), 0) * kept[h, b, i] * scale) @ qkv[b, :, 2, h]
    return output


@pytest.mark.parametrize("kinds", [None, KINDS])
def test_attention_against_a_loop(kinds: Tensor | None) -> None:
    parts = _parts()
    ones = torch.ones(2, 2, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(RelativeAttention.apply(*parts, kinds, None, None), _slow(parts, kinds, ones, 1.0))


@pytest.mark.parametrize("kinds", [None, KINDS, KINDS[..., :1]])
@pytest.mark.parametrize("scores", [1, 10**6])
@pytest.mark.parametrize(("p", "keep"), [(0.0, False), (0.0, True), (0.1, False), (0.5, False), (0.5, True)])
def test_gradients_with_dropout(
    p: float, keep: bool, scores: int, kinds: Tensor | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finite differences: the backward pass draws the masks of the forward pass, block for block, or reads them."""
    monkeypatch.setattr(relative_attention, "QUERIES", 2)
    monkeypatch.setattr(relative_attention, "BLOCK_SCORES", scores)
    noise = Dropout(p, (7, 1)) if p else None
    run = RelativeAttention.apply
    assert torch.autograd.gradcheck(lambda *parts: run(*parts, kinds, None, noise, keep), _parts())  # type: ignore[no-untyped-call]
    qkv, *fixed = _parts()
    explained = [part.detach() for part in fixed]
    assert torch.autograd.gradcheck(lambda qkv: run(qkv, *explained, kinds, None, noise, keep), qkv)  # type: ignore[no-untyped-call]
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    assert noise is None or torch.autograd.gradcheck(lambda x: SeededDropout.apply(x, noise), (x,))  # type: ignore[no-untyped-call]


def test_dropped_weights_are_those_of_the_mask() -> None:
    """One block a head: their masks are the seed's first ones."""
    parts, noise = _parts(), Dropout(0.4, (3, 0))
    masks = noise.masks()
    kept = torch.stack([masks(torch.empty(2, 5, 5, dtype=torch.float64)) for _ in range(2)])
    assert 0 < float(kept.mean()) < 1
    found = RelativeAttention.apply(*parts, KINDS, None, noise)
    torch.testing.assert_close(found, _slow(parts, KINDS, kept, noise.scale))


def test_memory_of_a_thread_serves_other_sizes_types_modes_and_threads() -> None:
    """Larger and smaller calls one after the other, first in inference mode, and at the same time in other threads."""
    sizes = [(1, 3), (2, 40), (2, 5), (1, 130), (3, 9)]
    given = [[part.detach() for part in _parts(chunks, tokens)] for chunks, tokens in sizes]
    given += [[part.float() for part in parts] for parts in given]
    kept = [torch.ones(2, qkv.shape[0], qkv.shape[1], qkv.shape[1]) for qkv, *_ in given]
    expected = [
        _slow(tuple(parts), None, ones.to(parts[0].dtype), 1.0) for parts, ones in zip(given, kept, strict=True)
    ]

    def run(parts: list[Tensor]) -> Tensor:
        output: Tensor = RelativeAttention.apply(*parts, None, None, None)  # type: ignore[no-untyped-call]
        return output

    with ThreadPoolExecutor(1) as alone:
        first = [output.clone() for output in alone.map(torch.inference_mode()(run), given)]
        again = list(alone.map(lambda parts: run([part.clone().requires_grad_() for part in parts]), given))
    with ThreadPoolExecutor(4) as several:
        together = list(several.map(run, given * 8))
    for found in (first, again, *(together[i : i + len(given)] for i in range(0, len(together), len(given)))):
        torch.testing.assert_close(found, expected)


def test_a_run_of_nans_leaves_nothing_in_the_memory() -> None:
    """What is written over may be anything, in the backward pass too."""

    def gradients(scale: float) -> tuple[Tensor, ...]:
        parts = [(part.detach() * scale).requires_grad_() for part in _parts(3, 70)]
        output = RelativeAttention.apply(*parts, None, None, Dropout(0.1, (1,)))  # type: ignore[no-untyped-call]
        return torch.autograd.grad(output.square().sum(), parts[:3])

    first, spoilt, again = gradients(1.0), gradients(float("nan")), gradients(1.0)
    assert all(bool(gradient.isnan().any()) for gradient in spoilt)
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_keep_rate_and_mean(p: float) -> None:
    noise = Dropout(p, (11,))
    dropped = SeededDropout.apply(torch.ones(1000, 999), noise)
    deviation = (p * (1 - p) / dropped.numel()) ** 0.5
    assert abs(float((dropped == 0).float().mean()) - p) < 4 * deviation + 2**-16
    assert set(dropped.unique().tolist()) == {0.0, float(np.float32(noise.scale))}
    assert noise.scale == pytest.approx(1 / (1 - p), rel=1e-3)
    # Neighbours are independent, those in the next stream and the next block too.
    flat = (dropped == 0).float().flatten()
    for lag in (1, 2, 3, 4, 8, 16, 999, 2**16):
        both = float((flat[lag:] * flat[:-lag]).mean())
        assert abs(both - p * p) < 6 * deviation

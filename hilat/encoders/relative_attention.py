"""XLNet's attention in blocks of queries: nothing of size T x T is kept, neither for the backward pass nor in the forward.

Except where inputs alone have gradients, as in explanations: there the weights of attention are kept, for many backward
passes through the same graph.

The score of key j for query i is (q_i + u) . k_j + (q_i + v) . r_{i-j}, and a term for equal or different segments, which
the callers fold into q and k (Dai et al. 2019, Transformer-XL, section 3.3; Yang et al. 2019, XLNet, sections 2.5 and A.3).

The relative scores of a block of m queries need the T + m - 1 relative keys that lie between its first query and the last
key and its last query and the first key. Computed for all of them, (m, w), the score that belongs to key j stands one place
further left in each following row, so that the scores by key are the same memory read with rows of w - 1 numbers.

Axis letters: H heads, B chunks, T tokens, m queries of a block, w relative keys of a block, E width of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

QUERIES = 128  # of a block; 64 to 256 differ by a few per cent
# Head-and-chunk pairs times queries times tokens of a block: its scores take 1 MB in float32, and stay in the cache.
BLOCK_SCORES = 262_144
_ALIGNED = 16


@dataclass(frozen=True, slots=True)
class Dropout:
    """Which attention weights are dropped: a share p, decided by a seed, so that the backward pass can draw them again."""

    p: float
    seed: tuple[int, ...]

    @property
    def threshold(self) -> int:
        """16 random bits, read as a signed number, keep a weight when they are below this."""
        return 2**15 - self._dropped

    @property
    def scale(self) -> float:
        """What kept weights are multiplied by: 1 / (1 - p), for the p that 16 bits can say."""
        return 2**16 / (2**16 - self._dropped)

    @property
    def _dropped(self) -> int:
        return min(round(self.p * 2**16), 2**16 - 1)

    def masks(self) -> Callable[[Tensor], Tensor]:
        """A function that gives the next 0s (dropped) and 1s (kept) of the seed's stream, in the shape and type of a tensor.

        On the CPU a quarter of a number's 64 random bits decides on a weight, which takes a tenth of the time of torch's
        bernoulli; elsewhere the device's own generator draws them.
        """
        stream = np.random.SFC64(self.seed)
        generators: dict[torch.device, torch.Generator] = {}

        def mask(like: Tensor) -> Tensor:
            if like.device.type == "cpu":
                words = stream.random_raw(-(-like.numel() // 4))
                bits = torch.from_numpy(words.view(np.int16))[: like.numel()].view(like.shape)
                return torch.lt(bits, self.threshold, out=torch.empty(like.shape, dtype=like.dtype))
            if like.device not in generators:
                number = int(np.random.SeedSequence(self.seed).generate_state(1, np.uint64)[0] >> 1)
                generators[like.device] = torch.Generator(like.device).manual_seed(number)
            kept = torch.empty(like.shape, dtype=like.dtype, device=like.device)
            return kept.bernoulli_(1.0 / self.scale, generator=generators[like.device])

        return mask


class SeededDropout(torch.autograd.Function):
    """Dropout that keeps a seed for the backward pass, not a mask: drop(x) is 0 in a share p, x / (1 - p) elsewhere."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dropout: Dropout) -> Tensor:
        """x of any shape, on the CPU."""
        ctx.dropout = dropout
        return dropout.masks()(x).mul_(x).mul_(dropout.scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:
        """The same weights on the gradient."""
        weighed: Tensor = ctx.dropout.masks()(slope).mul_(slope).mul_(ctx.dropout.scale)
        return weighed, None


@dataclass(frozen=True, slots=True)
class Block:
    """Heads h0 to h1, chunks b0 to b1, queries t0 to t1; of one head, or of all chunks."""

    h0: int
    h1: int
    b0: int
    b1: int
    t0: int
    t1: int
    tokens: int

    @property
    def pairs(self) -> int:
        """Head-and-chunk pairs."""
        return (self.h1 - self.h0) * (self.b1 - self.b0)

    @property
    def relative(self) -> slice:
        """The relative keys that the block needs, of those for i - j = T, T - 1, ..., 1 - T, and up to 15 more.

        In sixteens: a product with 640 columns takes two thirds of the time of one with 639.
        """
        first, last = self.tokens - self.t1 + 1, 2 * self.tokens - self.t0
        return slice(first, first + -(-(last - first) // _ALIGNED) * _ALIGNED)

    def queries(self, x: Tensor) -> Tensor:
        """The block's part (pairs, m, ...) of (H, B, T, ...)."""
        return x[self.h0 : self.h1, self.b0 : self.b1, self.t0 : self.t1].flatten(0, 1)

    def keys(self, x: Tensor) -> Tensor:
        """The part (pairs, T, ...) of (H, B, T, ...) that belongs to the block's heads and chunks, as a view."""
        return x[self.h0 : self.h1, self.b0 : self.b1].view(self.pairs, *x.shape[2:])

    def by_chunk(self, x: Tensor) -> Tensor:
        """The block's part (heads, chunks, m, E) of (B, T, H, E), as a view."""
        return x[self.b0 : self.b1, self.t0 : self.t1, self.h0 : self.h1].permute(2, 0, 1, 3)

    def by_key(self, scores: Tensor) -> Tensor:
        """The relative scores (heads, chunks * m, w) read by key: a view (pairs, m, T)."""
        m, w = self.t1 - self.t0, scores.shape[-1]
        return scores.as_strided((self.pairs, m, self.tokens), (m * w, w - 1, 1), m - 1)


def _blocks(heads: int, chunks: int, tokens: int) -> Iterator[Block]:
    """The whole (H, B, T) in blocks, in a fixed order."""
    queries = min(QUERIES, tokens)
    pairs = max(1, BLOCK_SCORES // (queries * tokens))
    of_heads, of_chunks = (min(heads, pairs // chunks), chunks) if pairs >= chunks else (1, pairs)
    for h in range(0, heads, of_heads):
        for b in range(0, chunks, of_chunks):
            for t in range(0, tokens, queries):
                yield Block(
                    h, min(h + of_heads, heads), b, min(b + of_chunks, chunks), t, min(t + queries, tokens), tokens
                )


@dataclass(frozen=True, slots=True)
class _Scratch:
    """Memory that the blocks of one pass write in, one after the other, so that it stays in the cache."""

    like: Tensor
    _made: dict[tuple[str, tuple[int, ...]], Tensor] = field(default_factory=dict)

    def __call__(self, name: str, *shape: int) -> Tensor:
        """A tensor of that name and shape, the same each time; zeros at first."""
        if (name, shape) not in self._made:
            self._made[name, shape] = self.like.new_zeros(shape)
        return self._made[name, shape]


def _probabilities(
    q: Tensor,
    k: Tensor,
    q_r: Tensor,
    r: Tensor,
    hidden: Tensor | None,
    block: Block,
    scratch: _Scratch,
    kept: bool = False,
) -> Tensor:
    """Softmax of the block's scores (pairs, m, T); in memory of its own where it is kept."""
    n = block.h1 - block.h0
    near = r[block.h0 : block.h1, block.relative]  # (heads, w, E)
    asked = block.queries(q_r).reshape(n, -1, q_r.shape[-1])  # (heads, chunks * m, E)
    relative = scratch("relative", n, asked.shape[1], near.shape[1])
    torch.bmm(asked, near.transpose(1, 2), out=relative)
    shape = (block.pairs, block.t1 - block.t0, block.tokens)
    scores = q.new_empty(shape) if kept else scratch("scores", *shape)
    torch.bmm(block.queries(q), block.keys(k).transpose(1, 2), out=scores)
    scores.add_(block.by_key(relative))
    if hidden is not None:
        masked = hidden[block.b0 : block.b1, block.t0 : block.t1]  # (chunks, m, T)
        scores.view(n, *masked.shape).add_(masked)
    if torch.promote_types(scores.dtype, torch.float32) == scores.dtype:
        return torch.softmax(scores, -1, out=scores)
    return scores.copy_(torch.softmax(scores, -1, dtype=torch.float32))


class RelativeAttention(torch.autograd.Function):
    """Attention over scores q . k + shifted q_r . r + hidden, recomputed block by block in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        q_r: Tensor,
        r: Tensor,
        hidden: Tensor | None,
        dropout: Dropout | None,
    ) -> Tensor:
        """Output (B, T, H, E).

        q, k: (H, B, T, E'), scores already divided by sqrt(E). v, q_r: (H, B, T, E). r: (H, 2T, E), for i - j = T, T - 1,
        ..., 1 - T. hidden: (B, T, T), 0 where query i sees key j, -inf where not. All contiguous, of one dtype.
        """
        r = F.pad(r, (0, 0, 0, _ALIGNED - 1))  # (H, 2T + 15, E): the last block asks for some that no score needs
        ctx.save_for_backward(q, k, v, q_r, r, hidden)
        ctx.dropout = dropout
        # Inputs have gradients and relative keys none: inputs are explained, with a backward pass for each of many codes.
        explained = ctx.needs_input_grad[0] and not ctx.needs_input_grad[4] and dropout is None
        ctx.weights = [] if explained else None
        mask = None if dropout is None else dropout.masks()
        heads, chunks, tokens, size = v.shape
        output = v.new_empty(chunks, tokens, heads, size)
        scratch = _Scratch(v)
        for block in _blocks(heads, chunks, tokens):
            weights = _probabilities(q, k, q_r, r, hidden, block, scratch, kept=explained)
            if explained:
                ctx.weights.append(weights)
            if mask is not None:
                weights.mul_(mask(weights))
            mixed = scratch("mixed", *weights.shape[:2], size)
            torch.bmm(weights, block.keys(v), out=mixed)  # (pairs, m, E)
            block.by_chunk(output).copy_(mixed.view(block.h1 - block.h0, -1, *mixed.shape[1:]))
        return output if dropout is None else output.mul_(dropout.scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of q, k, v, q_r and r."""
        q, k, v, q_r, r, hidden = ctx.saved_tensors
        dropout: Dropout | None = ctx.dropout
        mask, scale = (None, 1.0) if dropout is None else (dropout.masks(), dropout.scale)
        to_q, to_k, to_v, to_q_r, to_r = (
            torch.empty_like(q),
            torch.zeros_like(k),
            torch.zeros_like(v),
            torch.empty_like(q_r),
            torch.zeros_like(r),
        )
        scratch = _Scratch(v)
        for i, block in enumerate(_blocks(*v.shape[:3])):
            weights = ctx.weights[i] if ctx.weights else _probabilities(q, k, q_r, r, hidden, block, scratch)
            n, (pairs, m, tokens) = block.h1 - block.h0, weights.shape
            down = scratch("down", pairs, m, v.shape[-1])
            torch.mul(block.by_chunk(slope), scale, out=down.view(n, -1, *down.shape[1:]))
            to_weights = scratch("slopes", pairs, m, tokens)
            torch.bmm(down, block.keys(v).transpose(1, 2), out=to_weights)
            dropped = weights
            if mask is not None:
                kept = mask(weights)
                to_weights.mul_(kept)
                dropped = kept.mul_(weights)
            block.keys(to_v).baddbmm_(dropped.transpose(1, 2), down)
            to_scores = torch.ops.aten._softmax_backward_data(
                to_weights, weights, -1, weights.dtype, grad_input=to_weights
            )
            here = slice(block.h0, block.h1), slice(block.b0, block.b1), slice(block.t0, block.t1)
            to_q[here] = torch.bmm(to_scores, block.keys(k)).view(to_q[here].shape)
            block.keys(to_k).baddbmm_(to_scores.transpose(1, 2), block.queries(q))

            near = r[block.h0 : block.h1, block.relative]  # (heads, w, E)
            # What no key stands behind is 0, and never written.
            relative = scratch("relative slopes", n, pairs // n * m, near.shape[1])
            block.by_key(relative).copy_(to_scores)
            to_q_r[here] = torch.bmm(relative, near).view(to_q_r[here].shape)
            if ctx.needs_input_grad[4]:
                asked = block.queries(q_r).reshape(n, -1, q_r.shape[-1])  # (heads, chunks * m, E)
                to_r[block.h0 : block.h1, block.relative].baddbmm_(relative.transpose(1, 2), asked)
        return to_q, to_k, to_v, to_q_r, to_r[:, : 1 - _ALIGNED], None, None

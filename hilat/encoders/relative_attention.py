"""XLNet's attention in blocks of some megabytes, whatever the number of heads, chunks and tokens; no weights are kept.

Except where a call is told to keep the weights of attention, which saves their second computation, and where inputs alone
have gradients, as in explanations: there they are kept for many backward passes through the same graph.

The score of key j for query i is (q_i + u) . k_j + (q_i + w) . r_{i-j} + [other segment] (q_i + s) . g (Dai et al. 2019,
Transformer-XL, section 3.3; Yang et al. 2019, XLNet, sections 2.5 and A.3), g being what the vector of other segments is
apart from that of one's own: a softmax sees the difference only. As S more numbers in queries and keys, one for each kind of
segment, the term is part of the first product: -(q_i + s) . g stands where the query's kind is, 1 where the key's is.

The relative scores of a strip of s queries need the T + s - 1 relative keys that lie between its first query and the last
key and its last query and the first key. Computed for all of them, (s, W), the score that belongs to key j stands one place
further left in each following row, so that the scores by key are the same memory read with rows of W - 1 numbers. Few
queries waste little; all else is done for a block of many strips at once: one head, some chunks, all their queries where
that is not too much.

Queries, keys and values are read from, and their gradients written to, the one tensor that their product makes; what else a
block needs is written in memory that all blocks use.

Axis letters: H heads, B chunks, T tokens, n chunks of a block, m queries of a block, s of a strip, W relative keys of a
strip, E width of a head, S kinds of segments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hilat.encoders.scratch import scratch
from hilat.encoders.seeded_dropout import Dropout

QUERIES = 128  # of a strip; 64 to 256 differ by a few per cent
BLOCK_SCORES = 2**20  # chunks times queries times tokens of a block at most: 4 MB in float32
_ALIGNED = 16


@dataclass(frozen=True, slots=True)
class Block:
    """Head h of chunks b0 to b1, queries t0 to t1 of T. A strip is one too."""

    h: int
    b0: int
    b1: int
    t0: int
    t1: int
    tokens: int

    @property
    def rows(self) -> slice:
        """Its queries among those of its chunks."""
        return slice(self.t0, self.t1)

    def cut(self, queries: int) -> list[Block]:
        """In blocks of so many queries at most."""
        starts = range(self.t0, self.t1, queries)
        return [replace(self, t0=t, t1=min(t + queries, self.t1)) for t in starts]

    @property
    def relative(self) -> tuple[int, int, int]:
        """The relative keys that a strip needs, of those for i - j = T, T - 1, ..., 1 - T: first, last + 1; and how many
        at the front no score needs.

        In sixteens where there are so many: a product with 640 columns takes two thirds of the time of one with 639.
        """
        first, last = self.tokens - self.t1 + 1, 2 * self.tokens - self.t0
        more = -(last - first) % _ALIGNED
        if more <= first:
            return first - more, last, more
        return first, min(last + more, 2 * self.tokens), 0

    def of(self, x: Tensor) -> Tensor:
        """The block's part (n, m, ...) of (B, T, H, ...), as a view."""
        return x[self.b0 : self.b1, self.rows, self.h]

    def near(self, x: Tensor) -> Tensor:
        """A strip's part (W, E) of (2T, H, E), as a view."""
        first, last, _ = self.relative
        return x[first:last, self.h]

    def by_key(self, scores: Tensor) -> Tensor:
        """A strip's relative scores (n, s, W) read by key: a view (n, s, T)."""
        n, s, w = scores.shape
        return scores.as_strided((n, s, self.tokens), (s * w, w - 1, 1), s - 1 + self.relative[2])


@dataclass(frozen=True, slots=True)
class _Given:
    """What a pass reads: as in `RelativeAttention.forward`; kinds: None where there is no difference to see."""

    q: Tensor
    k: Tensor
    v: Tensor
    r: Tensor
    shift: Tensor
    segments: Tensor | None
    kinds: Tensor | None
    hidden: Tensor | None
    _zeros: dict[tuple[int, ...], Tensor] = field(default_factory=dict)

    def scratch(self, name: str, *shape: int) -> Tensor:
        """Memory that all blocks use: a tensor with anything in it."""
        return scratch(f"attention's {name}", *shape, like=self.q)

    def zeros(self, *shape: int, front: int) -> Tensor:
        """The same tensor each time, of zeros where it is never written; `front` numbers of a row come before what is."""
        key = (front, *shape)
        if key not in self._zeros:
            self._zeros[key] = self.q.new_zeros(shape)
        return self._zeros[key]

    @property
    def more(self) -> int:
        """S, how many numbers queries and keys have for kinds of segments."""
        return 0 if self.kinds is None else self.kinds.shape[-1]

    def blocks(self) -> Iterator[tuple[Block, list[Block]]]:
        """A head of some chunks with all its queries, and these in blocks; all of them, in a fixed order."""
        chunks, tokens, heads, _ = self.q.shape
        queries = min(tokens, max(QUERIES, BLOCK_SCORES // tokens // QUERIES * QUERIES))
        size = max(1, BLOCK_SCORES // (queries * tokens))
        for h in range(heads):
            for b in range(0, chunks, size):
                whole = Block(h, b, min(b + size, chunks), 0, tokens, tokens)
                yield whole, whole.cut(queries)

    def keys(self, whole: Block) -> Tensor:
        """Keys, with their kinds of segments (n, T, E + S)."""
        n, size = whole.b1 - whole.b0, self.k.shape[-1]
        k = self.scratch("keys", n, whole.tokens, size + self.more)
        k[..., :size] = whole.of(self.k)
        if self.kinds is not None:
            k[..., size:] = self.kinds[whole.b0 : whole.b1]
        return k

    def queries(self, whole: Block) -> Tensor:
        """Queries of keys, with what they make of kinds of segments (n, T, E + S)."""
        asked = whole.of(self.q)  # (n, T, E)
        n, tokens, size = asked.shape
        q = self.scratch("queries", n, tokens, size + self.more)
        q[..., :size] = asked
        if self.kinds is not None and self.segments is not None:
            s, g = self.segments[:, whole.h]  # (E,)
            other = torch.matmul(q[..., :size], g[:, None]).add_(s @ g)  # (n, T, 1)
            torch.mul(self.kinds[whole.b0 : whole.b1], other.neg_(), out=q[..., size:])
        return q

    def relative_queries(self, strip: Block) -> Tensor:
        """(n, s, E)."""
        asked = strip.of(self.q)
        return torch.add(asked, self.shift[strip.h], out=self.scratch("relative queries", *asked.shape))

    def probabilities(self, block: Block, q: Tensor, k: Tensor, kept: bool = False) -> Tensor:
        """Softmax of the block's scores (n, m, T); in memory of its own where it is kept. q and k: (n, T, E + S)."""
        n, m, size = len(q), block.t1 - block.t0, self.q.shape[-1]
        scores = q.new_empty(n, m, block.tokens) if kept else self.scratch("scores", n, m, block.tokens)
        torch.bmm(q[:, block.rows], k.transpose(1, 2), out=scores)
        for strip in block.cut(QUERIES):
            near, q_r = strip.near(self.r), self.relative_queries(strip)
            relative = self.scratch("relative", *q_r.shape[:2], len(near))
            torch.mm(q_r.view(-1, size), near.t(), out=relative.view(-1, len(near)))
            scores[:, strip.t0 - block.t0 : strip.t1 - block.t0].add_(strip.by_key(relative))
        if self.hidden is not None:
            scores.add_(self.hidden[block.b0 : block.b1, block.rows])
        if torch.promote_types(scores.dtype, torch.float32) == scores.dtype:
            return torch.softmax(scores, -1, out=scores)
        return scores.copy_(torch.softmax(scores, -1, dtype=torch.float32))


class RelativeAttention(torch.autograd.Function):
    """Attention over the scores of this module's first lines; what is not kept is computed again in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        qkv: Tensor,
        r: Tensor,
        shift: Tensor,
        segments: Tensor | None,
        kinds: Tensor | None,
        hidden: Tensor | None,
        dropout: Dropout | None,
        keep: bool = False,
    ) -> Tensor:
        """Output (B, T, H, E).

        qkv: (B, T, 3, H, E); queries have u in them and are divided by sqrt(E), as shift and s are. r: (2T, H, E), for
        i - j = T, T - 1, ..., 1 - T. shift: (H, E), w - u. segments: (2, H, E), s - u and g. kinds: (B, T, S), the kind of
        each token's segment as 0s and one 1, with segments. hidden: (B, T, T), 0 where query i sees key j, -inf where not.
        All of one dtype. keep: the weights (H, B, T, T) are kept for the backward pass, dropped ones with a minus sign.
        """
        ctx.dropout = dropout
        # Inputs have gradients and relative keys none: inputs are explained, with a backward pass for each of many codes.
        keep = keep or (ctx.needs_input_grad[0] and not ctx.needs_input_grad[1] and dropout is None)
        kept: list[Tensor] = []
        mask = None if dropout is None else dropout.masks()
        chunks, tokens, _, heads, size = qkv.shape
        output = qkv.new_empty(chunks, tokens, heads, size)
        given = _given(qkv, r, shift, segments, kinds, hidden)
        for whole, blocks in given.blocks():
            q, k, v = given.queries(whole), given.keys(whole), whole.of(given.v)
            for block in blocks:
                weights = dropped = given.probabilities(block, q, k, kept=keep)
                if mask is not None:
                    drawn = mask(given.scratch("drawn", *weights.shape))
                    dropped = torch.mul(drawn, weights, out=given.scratch("dropped", *weights.shape))
                    if keep:
                        weights.copysign_(drawn.sub_(0.5))
                if keep:
                    kept.append(weights)
                mixed = torch.bmm(dropped, v, out=given.scratch("mixed", *weights.shape[:2], size))  # (n, m, E)
                block.of(output).copy_(mixed)
        ctx.save_for_backward(qkv, r, shift, segments, kinds, hidden, *kept)
        return output if dropout is None else output.mul_(dropout.scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of qkv, r, shift and segments."""
        qkv, r, shift, segments, kinds, hidden, *kept = ctx.saved_tensors
        given, to_qkv = _given(qkv, r, shift, segments, kinds, hidden), torch.empty_like(qkv)
        dropout: Dropout | None = ctx.dropout
        scale = 1.0 if dropout is None else dropout.scale
        to = _Gradients.of(given, to_qkv, ctx.needs_input_grad)
        weights_of = _weights_again(given, dropout, kept)
        for whole, blocks in given.blocks():
            q, k, v = given.queries(whole), given.keys(whole), whole.of(given.v)
            to_q = given.scratch("to queries", *q.shape)
            # Not added where they belong: torch adds products to what is not contiguous one chunk after the other.
            to_k, to_v = given.scratch("to keys", *v.shape), given.scratch("to values", *v.shape)
            for i, block in enumerate(blocks):
                weights, dropped = weights_of(block, q, k)
                asked = q[:, block.rows, : v.shape[-1]]  # (n, m, E)
                down = torch.mul(block.of(slope), scale, out=given.scratch("down", *asked.shape))
                to_scores = given.scratch("to scores", *weights.shape)
                torch.bmm(down, v.transpose(1, 2), out=to_scores)  # of weights that were not dropped, at first
                to_v.baddbmm_(dropped.transpose(1, 2), down, beta=int(i > 0))
                to_scores.mul_(dropped)
                to_scores.addcmul_(weights, to_scores.sum(-1, keepdim=True), value=-1)
                to_k.baddbmm_(to_scores.transpose(1, 2), asked, beta=int(i > 0))
                torch.bmm(to_scores, k, out=to_q[:, block.rows])
                for strip in block.cut(QUERIES):
                    _to_relative(given, strip, to_scores[:, strip.t0 - block.t0 : strip.t1 - block.t0], to)
            whole.of(to.k).copy_(to_k)
            whole.of(to.v).copy_(to_v)
            _to_queries(given, whole, q, to_q, to)
        return to_qkv, to.r, to.shift, to.segments, None, None, None, None


def _weights_again(
    given: _Given, dropout: Dropout | None, kept: Sequence[Tensor]
) -> Callable[[Block, Tensor, Tensor], tuple[Tensor, Tensor]]:
    """A function that gives the next block's weights (n, m, T) before and after dropout: kept, or computed again."""
    mask, stored = None if dropout is None else dropout.masks(), iter(kept)

    def weights_of(block: Block, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        if not kept:
            weights = given.probabilities(block, q, k)
            return weights, weights if mask is None else mask(given.scratch("drawn", *weights.shape)).mul_(weights)
        signed = next(stored)
        if mask is None:
            return signed, signed
        weights, dropped = (given.scratch(name, *signed.shape) for name in ("weights", "dropped"))
        return torch.abs(signed, out=weights), torch.clamp_min(signed, 0, out=dropped)

    return weights_of


@dataclass(frozen=True, slots=True)
class _Gradients:
    """Of what a pass reads; None where none is asked for."""

    q: Tensor
    k: Tensor
    v: Tensor
    r: Tensor | None
    shift: Tensor | None
    segments: Tensor | None

    @classmethod
    def of(cls, given: _Given, to_qkv: Tensor, asked: tuple[bool, ...]) -> _Gradients:
        """Zeros that are added to; those of queries, keys and values are parts of `to_qkv`, which are written."""
        fixed = (given.r, given.shift, given.segments)
        r, shift, segments = (
            torch.zeros_like(x) if wanted and x is not None else None
            for x, wanted in zip(fixed, asked[1:4], strict=True)
        )
        q, k, v = to_qkv.unbind(2)
        return cls(q, k, v, r, shift, segments)


def _given(
    qkv: Tensor, r: Tensor, shift: Tensor, segments: Tensor | None, kinds: Tensor | None, hidden: Tensor | None
) -> _Given:
    q, k, v = qkv.unbind(2)
    different = kinds if kinds is not None and kinds.shape[-1] > 1 else None
    return _Given(q, k, v, r, shift, segments, different, hidden)


def _to_relative(given: _Given, strip: Block, to_scores: Tensor, to: _Gradients) -> None:
    """Gradients of a strip's relative queries, written in the place of those of its queries, and of its relative keys."""
    near, target = strip.near(given.r), strip.of(to.q)
    n, s, size = target.shape
    # What no key stands behind is 0, and never written.
    relative = given.zeros(n, s, len(near), front=strip.relative[2])
    strip.by_key(relative).copy_(to_scores)
    flat = relative.view(n * s, -1)
    to_q_r = given.scratch("to relative queries", n, s, size)
    torch.mm(flat, near, out=to_q_r.view(n * s, size))
    if to.r is not None:
        strip.near(to.r).addmm_(flat.t(), given.relative_queries(strip).view(n * s, size))
    target.copy_(to_q_r)


def _to_queries(given: _Given, whole: Block, q: Tensor, to_q: Tensor, to: _Gradients) -> None:
    """To the gradients of a head's relative queries add those of q (n, T, E + S); and those of the vectors, from both."""
    target = whole.of(to.q)  # (n, T, E)
    size = target.shape[-1]
    if to.shift is not None:
        to.shift[whole.h] += target.sum((0, 1))
    target.add_(to_q[..., :size])
    if given.kinds is None or given.segments is None:
        return
    s, g = given.segments[:, whole.h]  # (E,)
    to_other = (to_q[..., size:] * given.kinds[whole.b0 : whole.b1]).sum(-1, keepdim=True).neg_()  # (n, T, 1)
    target.addcmul_(to_other, g)
    if to.segments is not None:
        all_others = to_other.sum()
        to.segments[0, whole.h] += all_others * g
        to.segments[1, whole.h] += (to_other * q[..., :size]).sum((0, 1)) + all_others * s

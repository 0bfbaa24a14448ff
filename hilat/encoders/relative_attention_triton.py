"""XLNet's attention on an NVIDIA GPU in half precision: one kernel forward and four backward, in Triton.

The score of key j for query i is scale * ((q_i + u) . k_j + (q_i + w) . r_{i-j} + [other segment] (q_i + s) . g), as in
`hilat.encoders.relative_attention` but for what is equal for all keys of a query. Nothing of size T x 2T is ever in
memory: for a block of queries and a block of keys the relative scores of two neighbouring blocks of distances are computed
where they are needed, and each row is turned by its own number of places (row a by a), which puts the score of a distance
where its key is. Where two blocks are of one segment and without padding, nothing is looked up.

The backward pass computes the weights again and writes them and the scores' gradients, (B, H, T, T) each, for one layer
at a time; all other gradients are sums over these. Sums are in a fixed order, so that the same seed gives the same
gradients. Dropped weights are decided by a hash of their place and the seed, twice the same.

Axis letters: B chunks, T tokens, H heads, E width of a head, N queries or keys of a block.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from hilat.admissions import HilatError
from hilat.encoders import relative_attention_kernels as kernels

BLOCK = 64  # queries and keys of a block
_LAUNCH = {"num_warps": 4, "num_stages": 2}


@dataclass(frozen=True, slots=True)
class Marks:
    """What tokens are: of (B, T) their segment, or -1 - segment for padding; of each block its segment, or -1 for several.

    Padding sees itself and is seen by no other; a block with padding or beyond the last token is -1. Both int32.
    """

    tokens: Tensor
    blocks: Tensor

    @classmethod
    def of(cls, kinds: Tensor | None, seen: Tensor | None, like: Tensor) -> Marks | None:
        """From segments (B, T), 0 or more, and a mask (B, T), 0 for padding; None where there is nothing to tell.

        like: (B, T, ...), for the shape.
        """
        chunks, length = like.shape[:2]
        if kinds is None and seen is None and length % BLOCK == 0:
            return None
        marks = torch.zeros((chunks, length), dtype=torch.int32, device=like.device) if kinds is None else kinds.int()
        if seen is not None:
            marks = torch.where(seen > 0, marks, -1 - marks)
        whole = torch.nn.functional.pad(marks, (0, -length % BLOCK), value=-1).view(chunks, -1, BLOCK)
        low, high = whole.amin(-1), whole.amax(-1)  # (B, blocks)
        return cls(marks.contiguous(), torch.where(low == high, low, -1).clamp(min=-1).contiguous())


@dataclass(frozen=True, slots=True)
class Scores:
    """What decides the scores beside queries and keys.

    scale: 1 / sqrt(E). marks: None where all tokens are of one segment, none is padding, and N divides T. dropped: the
    share of weights that dropout takes, decided by `seed`, below 2^31.
    """

    scale: float
    marks: Marks | None
    dropped: float
    seed: int


def _given(scores: Scores, like: Tensor) -> dict[str, Any]:
    """The kernels' arguments by name, from qkv (B, T, 3, H, E)."""
    threshold = min(round(scores.dropped * 2**32), 2**32 - 1)
    sizes = {"tokens": like.shape[1], "heads": like.shape[3], "E": like.shape[4], "N": BLOCK}
    marks = scores.marks
    return {
        **sizes,
        "marks": None if marks is None else marks.tokens,
        "blocks": None if marks is None else marks.blocks,
        "scale": scores.scale,
        "seed": scores.seed,
        "threshold": threshold,
        "MARKED": marks is not None,
        "DROPS": threshold > 0,
    }


class TritonAttention(torch.autograd.Function):
    """Attention over the scores of this module's first lines, recomputed in the backward pass."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, r: Tensor, vectors: Tensor, scores: Scores) -> Tensor:
        """Output (B, T, H * E).

        qkv: (B, T, 3, H, E), contiguous, bfloat16 or float16, E a power of two from 16 on. r: (2T, H, E), of the same
        type, for i - j = T, T - 1, ..., 1 - T. vectors: (4, H, E), float32: u, w, s and g.
        """
        chunks, tokens, _, heads, size = qkv.shape
        out = torch.empty((chunks, tokens, heads * size), dtype=qkv.dtype, device=qkv.device)
        lse = torch.empty((chunks, heads, tokens), dtype=torch.float32, device=qkv.device)
        grid = (triton.cdiv(tokens, BLOCK), chunks * heads)
        # What half precision cuts off the output. The slopes of scores are small differences of large numbers, one of which
        # is the output times its slope: without the rest, gradients of queries and keys are off by tens of per cent.
        rest = torch.empty_like(out) if any(ctx.needs_input_grad) else None
        kernels.forward[grid](qkv, r, vectors, out=out, rest=rest, lse=lse, **_LAUNCH, **_given(scores, qkv))
        ctx.save_for_backward(qkv, r, vectors, out, rest, lse)
        ctx.scores = scores
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of qkv, r and the vectors."""
        qkv, r, vectors, out, rest, lse = ctx.saved_tensors
        slope = slope.contiguous()
        chunks, tokens, _, heads, size = qkv.shape
        blocks = triton.cdiv(tokens, BLOCK)
        grid = (blocks, chunks * heads)
        to_qkv = torch.empty_like(qkv)
        weights, to_scores = qkv.new_empty((2, chunks, heads, tokens, tokens)).unbind(0)
        sums = torch.zeros((chunks, heads, blocks, 4, size), dtype=torch.float32, device=qkv.device)
        given = _given(ctx.scores, qkv)
        to_others = torch.empty_like(lse) if given["MARKED"] else None  # (B, H, T)
        kernels.backward_scores[grid](
            qkv, r, vectors, out=out, rest=rest, lse=lse, slope=slope, weights=weights, to_scores=to_scores, to_others=to_others,
            **_LAUNCH, **given,
        )  # fmt: skip
        sizes = {"tokens": tokens, "heads": heads, "E": size, "N": BLOCK}
        kernels.backward_queries[grid](
            qkv,
            r,
            vectors,
            to_scores,
            to_others,
            to_qkv,
            sums,
            MARKED=given["MARKED"],
            **_LAUNCH,
            **sizes,
        )
        kernels.backward_keys[grid](qkv, vectors, slope, to_qkv, weights, to_scores, **_LAUNCH, **sizes)
        to_r = None
        if ctx.needs_input_grad[1]:
            parts = max(1, min(chunks, 8))
            partial = torch.zeros((parts, 2 * tokens, heads, size), dtype=torch.float32, device=qkv.device)
            kernels.backward_relative[(triton.cdiv(2 * tokens, BLOCK), heads, parts)](
                qkv, vectors, to_scores, partial, chunks=chunks, per_part=math.ceil(chunks / parts),
                num_warps=4, num_stages=1, **sizes,
            )  # fmt: skip
            to_r = partial.sum(0).to(r.dtype)
        to_vectors = sums.sum((0, 2)).transpose(0, 1) if ctx.needs_input_grad[2] else None  # (4, H, E)
        return to_qkv, to_r, to_vectors, None


def try_out(size: int, dtype: torch.dtype, device: torch.device) -> None:
    """Run the kernels on a few numbers, with heads of that size, and raise what goes wrong, wrong numbers too.

    A compiler that gives wrong sums without an error has been met (Triton 3.6, heads of 64, bfloat16), in blocks after the
    first only; so two blocks and a bit are compared with the equations in float32.

    Raises:
        HilatError: an output or a gradient that is off by more than 3 %, where half precision explains less than 1.
    """
    tokens = 2 * BLOCK + 8
    drawn = torch.Generator().manual_seed(0)
    shapes = ((1, tokens, 3, 1, size), (2 * tokens, 1, size), (4, 1, size))
    exact = [torch.randn(shape, generator=drawn) for shape in shapes]
    kinds = (torch.arange(tokens, device=device) >= tokens - 1).int()[None]  # (1, T): the last token is another segment
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
        given = [part.to(device, dtype).requires_grad_() for part in exact[:2]]
        vectors = exact[2].to(device, copy=True).requires_grad_()
        marks = Marks.of(kinds, None, given[0])
        found = TritonAttention.apply(*given, vectors, Scores(size**-0.5, marks, 0.0, 0))  # type: ignore[no-untyped-call]
        expected = _by_equations(given[0].float(), given[1].float(), vectors, kinds)
        down = torch.randn(expected.shape, generator=drawn).to(device)
        slopes = torch.autograd.grad(found, [*given, vectors], down.to(dtype))
        others = torch.autograd.grad(expected, [*given, vectors], down.to(dtype).float())
    for mine, other in zip((found, *slopes), (expected, *others), strict=True):
        apart = float((mine.detach().float() - other.detach().float()).norm() / other.detach().float().norm())
        if not apart < 0.03:
            raise HilatError(
                f"Triton's kernels are off by {apart:.2g} of the size of the numbers with heads of {size} in {dtype}; "
                "expected under 0.03. Another version of Triton may do"
            )


def _by_equations(qkv: Tensor, r: Tensor, vectors: Tensor, kinds: Tensor) -> Tensor:
    """The output (1, T, E) of one chunk and head, score by score. kinds: (1, T)."""
    q, k, v = qkv[0, :, :, 0].unbind(1)  # (T, E)
    u, w, s, g = vectors[:, 0].unbind(0)  # (E,)
    place = torch.arange(len(q), device=q.device)
    near = r[len(q) - place[:, None] + place[None, :], 0]  # (T, T, E)
    scores = (q + u) @ k.T + torch.einsum("ie,ije->ij", q + w, near)
    scores = scores + (kinds[0, :, None] != kinds[0, None, :]) * ((q + s) @ g)[:, None]
    return (torch.softmax(scores / q.shape[1] ** 0.5, -1) @ v)[None]

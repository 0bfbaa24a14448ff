"""The label-wise head in blocks of codes: nothing of the size codes x chunks x tokens is kept, whatever their number.

The function is that of `hilat.attention`; codes only meet in the sums of the gradients of what they share. With targets,
the derivative of the loss with respect to a code's logit is known as soon as the logit is, so that a block's gradients
are computed right after its forward pass, and nothing is kept or computed twice. Where the logits themselves are
differentiated, a block is computed again in the backward pass. Dropout masks are drawn again from a seed.

A chunk's key K m of equation 5, m = sum_t a_t h_t, is also sum_t a_t (K h_t). With K h_t computed once for all codes, a
block needs a product over tokens instead of one over width: less work for many codes, but only without dropout between.

Axis letters: B documents, C chunks, T tokens, K codes, k codes of a block, D width, N chunks that were encoded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from hilat.encoders import products
from hilat.encoders.seeded_dropout import Dropout


@dataclass(frozen=True, slots=True)
class Rows:
    """Where the N encoded chunks stand: P places, `document` and `column` (P,), chunk-major; `counts`, how many are first, ...

    seen: (N, T) bool, the tokens that take attention, at least one of each chunk; None for all. row: (P,), which of the N
    stands at each place; None where place n is that of row n. Rows at several places need one token attention for all
    chunks, no dropout, and another pooling than "flat".
    """

    document: Tensor
    column: Tensor
    counts: tuple[int, ...]
    documents: int
    seen: Tensor | None
    row: Tensor | None = None

    @property
    def chunks(self) -> int:
        """C."""
        return len(self.counts)

    def place(self, values: Tensor, fill: float) -> Tensor:
        """(N, ...) as (B, C, ...), with `fill` where no chunk stands."""
        if self.row is not None:
            values = values.index_select(0, self.row)  # (P, ...)
        empty = values.new_full((self.documents, self.chunks, *values.shape[1:]), fill)  # (B, C, ...)
        return empty.index_put((self.document, self.column), values)


class HeadTensors(NamedTuple):
    """What the head computes from: (N, T, D) hidden states, tanh(W h) and K h (or None), and parameters by code.

    labels: U, (K, D) or (C, K, D). weight (K, D) or (K, C*D) and bias (K,): the classifiers. projection and query: of the
    chunk attention, (D, D) and (1, D), or (K, D, D) and (K, D), or None.
    """

    hidden: Tensor
    states: Tensor
    keys: Tensor | None
    labels: Tensor
    weight: Tensor
    bias: Tensor
    projection: Tensor | None
    query: Tensor | None

    def block(self, codes: slice) -> HeadTensors:
        """The same for some of the codes only, as views."""
        per_code = self.projection is not None and self.projection.dim() == 3
        return self._replace(
            labels=self.labels[..., codes, :],
            weight=self.weight[codes],
            bias=self.bias[codes],
            projection=self.projection[codes] if per_code and self.projection is not None else self.projection,
            query=self.query[codes] if per_code and self.query is not None else self.query,
        )


@dataclass(frozen=True, slots=True)
class HeadPlan:
    """How the head is computed. pooling: HilatConfig's chunk_attention. block: k. fused: gradients with the forward pass.

    dropout: of chunk and document vectors; None without. targets: (B, K) or None. wanted: codes (m,) whose token weights
    are kept, in `kept_tokens` (m, N, T); chunk weights of all codes are kept in `kept_chunks` (B, K, C) then.
    """

    rows: Rows
    pooling: str
    block: int
    dropout: Dropout | None
    targets: Tensor | None
    fused: bool
    wanted: Tensor | None = None
    kept_tokens: list[Tensor] = field(default_factory=list)
    kept_chunks: list[Tensor] = field(default_factory=list)

    def blocks(self, codes: int) -> Iterator[slice]:
        """All codes, in slices of `block`."""
        for first in range(0, codes, self.block):
            yield slice(first, min(first + self.block, codes))

    def slope(self, logits: Tensor, codes: slice) -> Tensor:
        """The derivative (B, k) of the loss (the mean cross-entropy over all B x K) with respect to a block's logits."""
        assert self.targets is not None
        targets = self.targets[:, codes]
        dtype = torch.promote_types(logits.dtype, torch.float32)
        return ((torch.sigmoid(logits.to(dtype)) - targets.to(dtype)) / self.targets.numel()).to(logits.dtype)


class _Sums(NamedTuple):
    """Where the blocks' gradients of hidden, states and keys are added up, each (N, T, D), in at least float32."""

    hidden: Tensor
    states: Tensor
    keys: Tensor | None


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total (n, ., .) += left @ right, without a tensor in between where the types agree."""
    if total.dtype == left.dtype:
        products.add_batched_times(total, left, right)
    else:
        total.add_(torch.bmm(left, right))


class _Scores(torch.autograd.Function):
    """Scores (k, N, T) of labels (k, D) and states (N, T, D), whose gradient is added to a sum instead of returned."""

    @staticmethod
    def forward(ctx: Any, labels: Tensor, states: Tensor, total: Tensor) -> Tensor:
        """labels (k, D), states and total (N, T, D)."""
        ctx.save_for_backward(labels, states)
        ctx.total = total
        return products.linear_of_many(labels, states.flatten(0, 1)).view(len(labels), *states.shape[:2])  # (k, N, T)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None, None]:
        """The gradient of labels."""
        labels, states = ctx.saved_tensors
        slope = slope.flatten(1)  # (k, N T)
        _add_product(ctx.total.view(1, -1, labels.shape[-1]), slope.t()[None], labels[None])
        return products.turned_times(slope.t(), states.flatten(0, 1)), None, None


class _Mixed(torch.autograd.Function):
    """Sums over tokens (N, k, D) of states (N, T, D) by weights (k, N, T); the states' gradients go to sums."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, parts: tuple[Tensor, ...], totals: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """parts and totals: one or two of (N, T, D)."""
        ctx.save_for_backward(weights)
        ctx.parts, ctx.totals = parts, totals
        return tuple(products.batched_times(weights.transpose(0, 1), part) for part in parts)  # (N, k, D)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None]:
        """The gradient of weights."""
        (weights,) = ctx.saved_tensors
        to_weights = torch.empty_like(weights)
        for i, (slope, part, total) in enumerate(zip(slopes, ctx.parts, ctx.totals, strict=True)):
            products.add_batched_times(to_weights.transpose(0, 1), slope, part.transpose(1, 2), keep=i > 0)
            _add_product(total, weights.permute(1, 2, 0), slope)
        return to_weights, None, None


def _token_scores(plan: HeadPlan, given: HeadTensors, sums: _Sums | None) -> Tensor:
    """Equation 1 before the softmax: (k, N, T)."""
    counts = list(plan.rows.counts) if given.labels.dim() == 3 else [len(given.states)]
    labels = given.labels if given.labels.dim() == 3 else given.labels[None]  # (C or 1, k, D)
    states = torch.split(given.states, counts)
    if sums is None:
        parts = [
            products.linear_of_many(u, z.flatten(0, 1)).view(len(u), *z.shape[:2])
            for u, z in zip(labels, states, strict=True)
        ]
    else:
        totals = torch.split(sums.states, counts)
        parts = [_Scores.apply(*three) for three in zip(labels, states, totals, strict=True)]  # type: ignore[no-untyped-call]
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)  # (k, N, T)


def _mixed(weights: Tensor, given: HeadTensors, sums: _Sums | None) -> tuple[Tensor, Tensor | None]:
    """Equation 3, chunk vectors (N, k, D), and their keys before the tanh where these are sums over tokens too."""
    parts = (given.hidden,) if given.keys is None else (given.hidden, given.keys)
    if sums is None:
        mixed = tuple(products.batched_times(weights.transpose(0, 1), part) for part in parts)  # (N, k, D)
    else:
        totals = (sums.hidden,) if sums.keys is None else (sums.hidden, sums.keys)
        mixed = _Mixed.apply(weights, parts, totals)  # type: ignore[no-untyped-call]
    return mixed[0], mixed[1] if len(mixed) == 2 else None


def _chunk_weights(plan: HeadPlan, given: HeadTensors, vectors: Tensor, keys: Tensor | None) -> Tensor:
    """Equations 5 and 6: chunk weights (B, C, k), 0 for chunks that were not encoded; equal ones for the mean."""
    rows = plan.rows
    if given.query is None or given.projection is None:
        wide = torch.promote_types(vectors.dtype, torch.float32)
        encoded = rows.place(torch.ones(len(vectors), dtype=wide, device=vectors.device), 0.0)  # (B, C)
        return (encoded / encoded.sum(1, keepdim=True))[..., None].expand(-1, -1, vectors.shape[1])  # (B, C, k)
    if given.projection.dim() == 3:
        deep = torch.tanh(torch.einsum("nkd,ked->nke", vectors, given.projection))  # (N, k, D)
        scores = torch.einsum("nke,ke->nk", deep, given.query)  # (N, k)
    else:
        deep = torch.tanh(products.linear(vectors, given.projection) if keys is None else keys)  # (N, k, D)
        scores = torch.matmul(deep, given.query[0])  # (N, k)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    return torch.softmax(rows.place(scores, torch.finfo(scores.dtype).min), dim=1)  # (B, C, k)


def _masks(plan: HeadPlan, codes: slice) -> Callable[[Tensor], Tensor] | None:
    """A function that draws the block's next dropout mask, of 0 and 1 / (1 - p), in the shape and type of a tensor."""
    dropout = plan.dropout
    if dropout is None:
        return None
    noise = Dropout(dropout.p, (*dropout.seed, codes.start))
    if plan.rows.document.device.type == "cpu":
        draw = noise.masks()
        return lambda like: draw(torch.empty_like(like)).mul_(noise.scale)
    generator = torch.Generator(plan.rows.document.device).manual_seed((noise.seed[0] + codes.start) % 2**62)
    return lambda like: torch.empty_like(like).bernoulli_(1 - noise.p, generator=generator).div_(1 - noise.p)


def _values(plan: HeadPlan, weight: Tensor, vectors: Tensor, mask: Callable[[Tensor], Tensor] | None) -> Tensor:
    """Each chunk vector (N, k, D) times its code's classifier, (N, k): a document's logit is their weighted sum."""
    rows = plan.rows
    if plan.pooling == "flat":
        own = weight.view(len(weight), rows.chunks, -1)[:, rows.column].transpose(0, 1)  # (N, k, D)
        return (vectors * (own if mask is None else own * mask(vectors))).sum(-1)
    if mask is None:
        return torch.einsum("nkd,kd->nk", vectors, weight)
    dropped = weight * mask(vectors.new_empty((rows.documents, *weight.shape)))  # (B, k, D)
    return (vectors * (dropped if rows.documents == 1 else dropped[rows.document])).sum(-1)


def _block(plan: HeadPlan, given: HeadTensors, codes: slice, sums: _Sums | None = None) -> tuple[Tensor, ...]:
    """Logits (B, k), token weights (k, N, T) and, where they have a meaning, chunk weights (B, k, C) of a block.

    given: the block's part. sums: where the gradients of what all blocks share go; None for plain autograd.
    """
    rows, mask = plan.rows, _masks(plan, codes)
    scores = _token_scores(plan, given, sums)  # (k, N, T)
    wide = torch.promote_types(scores.dtype, torch.float32)
    if rows.seen is not None:
        scores = scores.masked_fill(~rows.seen, torch.finfo(scores.dtype).min)
    tokens = torch.softmax(scores, -1, dtype=wide)
    vectors, keys = _mixed(tokens.to(given.hidden.dtype), given, sums)  # (N, k, D)
    if mask is not None:
        vectors = vectors * mask(vectors)
    if plan.pooling == "max":
        pooled = rows.place(vectors, torch.finfo(vectors.dtype).min).max(dim=1).values  # (B, k, D)
        pooled = pooled if mask is None else pooled * mask(pooled)
        return torch.einsum("bkd,kd->bk", pooled, given.weight) + given.bias, tokens
    values = _values(plan, given.weight, vectors, mask)  # (N, k)
    if plan.pooling == "flat":
        return rows.place(values, 0.0).sum(1) + given.bias, tokens  # (B, k)
    chunks = _chunk_weights(plan, given, vectors, keys)  # (B, C, k)
    logits = (chunks.to(values.dtype) * rows.place(values, 0.0)).sum(1) + given.bias  # (B, k)
    return logits, tokens, chunks.transpose(1, 2)  # (B, k, C)


def _forward(plan: HeadPlan, given: HeadTensors) -> Tensor:
    """Logits (B, K) block by block; the attentions asked for are kept in the plan."""
    codes = len(given.bias)
    logits = given.hidden.new_empty((plan.rows.documents, codes))  # (B, K)
    if plan.wanted is not None:
        size = (len(plan.wanted), *given.hidden.shape[:2])
        kept = given.hidden.new_empty(size, dtype=torch.promote_types(given.hidden.dtype, torch.float32))  # (m, N, T)
        plan.kept_tokens.append(kept)
    for part in plan.blocks(codes):
        logits[:, part], tokens, *chunks = _block(plan, given.block(part), part)
        if plan.wanted is not None:
            here = (plan.wanted >= part.start) & (plan.wanted < part.stop)  # (m,)
            kept[here] = tokens[plan.wanted[here] - part.start]
            plan.kept_chunks.extend(chunks)
    return logits


def _with_gradients(
    plan: HeadPlan, given: HeadTensors, slope: Callable[[Tensor, slice], Tensor]
) -> tuple[Tensor, list[Tensor | None]]:
    """Logits (B, K), and the gradients of all of `given` for the logits' slopes: of a block's logits and codes, (B, k)."""
    codes = len(given.bias)
    logits = given.hidden.new_empty((plan.rows.documents, codes))  # (B, K)

    def zeros(like: Tensor | None) -> Any:
        wide = None if like is None else torch.promote_types(like.dtype, torch.float32)
        return None if like is None else torch.zeros_like(like, dtype=wide, memory_format=torch.contiguous_format)

    totals = HeadTensors(*(zeros(tensor) for tensor in given))
    sums = _Sums(totals.hidden, totals.states, totals.keys)
    for part in plan.blocks(codes):
        own = given.block(part)
        leaves = [None if t is None or i < 3 else t.detach().requires_grad_() for i, t in enumerate(own)]
        with torch.enable_grad():
            output = _block(plan, HeadTensors(*own[:3], *leaves[3:]), part, sums)[0]  # type: ignore[arg-type]
        logits[:, part] = output.detach()
        used = [leaf for leaf in leaves if leaf is not None]
        found = iter(torch.autograd.grad(output, used, slope(logits[:, part], part), allow_unused=True))
        for leaf, total in zip(leaves, totals.block(part), strict=True):
            gradient = None if leaf is None else next(found)
            if gradient is not None and total is not None:
                total.add_(gradient)
    return logits, [None if s is None else s.to(t.dtype) for s, t in zip(totals, given, strict=True)]  # type: ignore[union-attr]


def _graph_of_gradients(plan: HeadPlan, given: HeadTensors, slope: Tensor | None, loss: Tensor | None) -> list[Any]:
    """The same gradients as a graph of their own, for second derivatives; not sparing with memory."""
    apart = HeadTensors(*(None if t is None else t.view_as(t) for t in given))  # type: ignore[arg-type]
    parts = plan.blocks(len(given.bias))
    logits = torch.cat([_block(plan, apart.block(part), part)[0] for part in parts], 1)  # (B, K)
    total = logits.new_zeros(logits.shape) if slope is None else slope
    if loss is not None:
        total = total + loss * plan.slope(logits, slice(None))
    used = [tensor for tensor in apart if tensor is not None]
    found = iter(torch.autograd.grad(logits, used, total, create_graph=True, allow_unused=True))
    return [None if tensor is None else next(found) for tensor in apart]


class BlockedHead(torch.autograd.Function):
    """Loss (a scalar; 0 without targets) and logits (B, K), in blocks of codes."""

    @staticmethod
    def forward(ctx: Any, plan: HeadPlan, *tensors: Tensor | None) -> tuple[Tensor, Tensor]:
        """tensors: those of HeadTensors, in its order."""
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)
        ctx.plan, ctx.gradients = plan, None
        given = HeadTensors(*tensors)  # type: ignore[arg-type]
        with torch.autocast(given.hidden.device.type, enabled=False):
            if plan.fused:
                logits, ctx.gradients = _with_gradients(plan, given, plan.slope)
            else:
                logits = _forward(plan, given)
        if plan.targets is None:
            return logits.new_zeros(()), logits
        dtype = torch.promote_types(logits.dtype, torch.float32)
        return F.binary_cross_entropy_with_logits(logits.to(dtype), plan.targets.to(dtype)), logits

    @staticmethod
    def backward(ctx: Any, to_loss: Tensor | None, to_logits: Tensor | None) -> tuple[Any, ...]:
        """Gradients of the tensors: those that the forward pass left, times the loss's, or computed again."""
        plan: HeadPlan = ctx.plan
        if plan.targets is None:
            to_loss = None
        if torch.is_grad_enabled():  # asked for as a graph
            given = HeadTensors(*ctx.saved_tensors)
            return None, *_graph_of_gradients(plan, given, to_logits, to_loss)
        ready, ctx.gradients = ctx.gradients, None
        if to_logits is None and to_loss is not None and ready is not None:
            return None, *(None if gradient is None else gradient.mul_(to_loss) for gradient in ready)

        def slope(logits: Tensor, codes: slice) -> Tensor:
            given = torch.zeros_like(logits) if to_logits is None else to_logits[:, codes]
            return given if to_loss is None else given + (to_loss * plan.slope(logits, codes)).to(given.dtype)

        del ready
        given = HeadTensors(*ctx.saved_tensors)
        with torch.autocast(given.hidden.device.type, enabled=False):
            return None, *_with_gradients(plan, given, slope)[1]

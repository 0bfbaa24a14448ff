"""The label-wise head: token attention, chunk attention and its replacements in the ablation, one classifier per code.

Axis letters: B documents, C chunks, T tokens, K codes, D width, N chunks that were encoded (of all documents).
Nothing here loops over codes. The published head does, and the backward pass of each of its slices fills a whole
tensor with zeros: time that grows with the square of the number of codes. For many codes `hilat.head_blocks` computes the
same from the same parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hilat.encoders import products
from hilat.watched import nothing_is_kept

_TOKENS_AT_ONCE = 2048  # of which Z of equation 1 is computed at a time without gradients, on the CPU


def masked_softmax(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Softmax over the last axis, in at least float32: exactly 0 where the mask is False.

    scores: (..., n). mask: bool, broadcastable to scores; None lets every position take part.
    A row without any True position is all zeros, not NaN, and its gradient is zero.
    """
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if mask is None:
        return torch.softmax(scores, dim=-1)
    lowest = torch.finfo(scores.dtype).min
    return torch.softmax(scores.masked_fill(~mask, lowest), dim=-1).masked_fill(~mask, 0.0)


class TokenAttention(nn.Module):
    """Equations 1 to 3: for every code, which tokens of a chunk speak for it.

    projection: W, (D, D), or (C, D, D) with one attention per chunk (the ablation's "multi-head").
    labels: U, (K, D), or (C, K, D): the label vectors.
    """

    def __init__(self, width: int, num_codes: int, chunks: int | None = None) -> None:
        super().__init__()
        per_chunk = () if chunks is None else (chunks,)
        self.projection = nn.Parameter(torch.empty(*per_chunk, width, width))
        self.labels = nn.Parameter(torch.empty(*per_chunk, num_codes, width))

    def forward(self, hidden: Tensor, mask: Tensor | None, chunk_counts: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Chunk vectors (N, K, D) and token weights (N, K, T).

        hidden: (N, T, D), all first chunks, then all second chunks, and so on. mask: (N, T) bool, or None.
        chunk_counts: how many of the N are first chunks, second chunks, ...; only attention per chunk needs it.
        """
        if self.labels.dim() == 2:
            # Without gradients a few chunks at a time, in the cache: of their Z only the scores are kept.
            split = nothing_is_kept() and not hidden.is_cuda
            parts = torch.split(hidden, max(1, _TOKENS_AT_ONCE // hidden.shape[1])) if split else [hidden]
            scores = torch.cat([products.linear(self.states(part, ()), self.labels) for part in parts])  # (N, T, K)
        else:
            states = self.states(hidden, chunk_counts)
            own = zip(torch.split(states, list(chunk_counts)), self.labels.unbind(0), strict=True)
            scores = torch.cat([products.linear(z, u) for z, u in own])  # (N, T, K)
        weights = masked_softmax(scores.transpose(1, 2), None if mask is None else mask[:, None, :])  # (N, K, T)
        return weights.to(hidden.dtype) @ hidden, weights  # (N, K, D)

    def states(self, hidden: Tensor, chunk_counts: Sequence[int]) -> Tensor:
        """Z of equation 1, tanh(W h), (N, T, D): what all codes share. Arguments as above."""
        if self.projection.dim() == 2:
            projected = products.linear(hidden, self.projection)
            return projected.tanh_() if nothing_is_kept() else torch.tanh(projected)
        parts = zip(torch.split(hidden, list(chunk_counts)), self.projection.unbind(0), strict=True)
        return torch.cat([torch.tanh(products.linear(h, w)) for h, w in parts])


class ChunkAttention(nn.Module):
    """Equations 5 to 7: for every code, which chunks of the document speak for it.

    projection: K of equation 5, (D, D), or (K, D, D) with one attention per code. query: v, (1, D) or (K, D).
    """

    def __init__(self, width: int, num_codes: int | None = None) -> None:
        super().__init__()
        per_code = () if num_codes is None else (num_codes,)
        self.projection = nn.Parameter(torch.empty(*per_code, width, width))
        self.query = nn.Parameter(torch.empty(num_codes or 1, width))

    def forward(self, vectors: Tensor, keep: Tensor | None) -> tuple[Tensor, Tensor]:
        """Document vectors (B, K, D) and chunk weights (B, K, C).

        vectors: (B, K, C, D). keep: (B, C) bool, the chunks that may take attention; None for all.
        """
        scores = chunk_scores(vectors, self.projection, self.query)
        weights = masked_softmax(scores, None if keep is None else keep[:, None, :])  # (B, K, C)
        return (weights.to(vectors.dtype)[:, :, None, :] @ vectors).squeeze(2), weights  # (B, K, D)


def chunk_scores(vectors: Tensor, projection: Tensor, query: Tensor) -> Tensor:
    """What the softmax of equation 6 is taken of, (B, K, C), from vectors (B, K, C, D); parameters of ChunkAttention."""
    if projection.dim() == 2:
        return F.linear(torch.tanh(products.linear(vectors, projection)), query).squeeze(-1)
    keys = torch.tanh(torch.einsum("bkcd,ked->bkce", vectors, projection))  # (B, K, C, D)
    return torch.einsum("bkce,ke->bkc", keys, query)


def pool_chunks(
    vectors: Tensor, keep: Tensor | None, how: Literal["mean", "max", "flat"]
) -> tuple[Tensor, Tensor | None]:
    """Document vectors without chunk attention (ablation h, i, j), and chunk weights where they have a meaning.

    vectors: (B, K, C, D). keep: (B, C) bool, or None for all chunks. Mean and max look at the kept chunks only;
    "flat" puts the chunks side by side, (B, K, C*D), and expects the vectors of dropped chunks to be zero.
    The weights (B, K, C) are those of the mean; None for "max" and "flat".
    """
    if how == "flat":
        return vectors.flatten(2), None  # (B, K, C*D)
    if keep is None:
        keep = vectors.new_ones((vectors.shape[0], vectors.shape[2]), dtype=torch.bool)
    if how == "max":
        hidden_away = vectors.masked_fill(~keep[:, None, :, None], torch.finfo(vectors.dtype).min)
        return hidden_away.max(dim=2).values, None  # (B, K, D)
    dtype = torch.promote_types(vectors.dtype, torch.float32)
    weights = keep.to(dtype) / keep.sum(-1, keepdim=True).clamp(min=1)  # (B, C)
    return torch.einsum("bkcd,bc->bkd", vectors, weights.to(vectors.dtype)), weights[:, None, :].expand(
        -1, vectors.shape[1], -1
    )


class CodeClassifier(nn.Module):
    """Equation 8 before the sigmoid: one linear classifier per code. weight: (K, D) or (K, C*D); bias: (K,)."""

    def __init__(self, width: int, num_codes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_codes, width))
        self.bias = nn.Parameter(torch.empty(num_codes))

    def forward(self, documents: Tensor) -> Tensor:
        """Logits (B, K) of document vectors (B, K, width)."""
        return torch.einsum("bkd,kd->bk", documents, self.weight) + self.bias

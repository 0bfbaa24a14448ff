"""Attention rollout: the encoder's own attention followed from its last layer down to the input positions."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hilat.admissions import HilatError


def rollout(attentions: torch.Tensor | NDArray[Any], *, residual: bool = True) -> NDArray[np.float64]:
    """(C, T, T): how much input position s holds of last-layer position t of its chunk, [c, t, s]; rows sum to 1.

    Abnar and Zuidema 2020, section 4, equation 1: the product of the layers, last one leftmost, heads averaged. residual: half of each
    layer's row is the position itself (A + I, normalised), as in the paper; False multiplies the plain attention.
    attentions: (L, C, H, T, T), rows that sum to 1. A row of zeros (a chunk that was not read) stays zero without the
    residual, and is the position itself with it.

    Raises:
        HilatError: another shape, such as XLNet's with memories (T rows of T + M), or rows that are no distribution.
    """
    if attentions.ndim != 5 or 0 in attentions.shape or attentions.shape[-1] != attentions.shape[-2]:
        raise HilatError(
            f"the encoder's attention has shape {tuple(attentions.shape)}; expected (layers, chunks, heads, tokens, tokens). "
            "Run the encoder with eager attention and, if it is an XLNet, without memories"
        )
    rolled: NDArray[np.float64] | None = None
    for layer in attentions:  # (C, H, T, T)
        values = layer.detach().cpu().numpy() if isinstance(layer, torch.Tensor) else np.asarray(layer)
        mixed: NDArray[np.float64] = values.mean(axis=1, dtype=np.float64)  # (C, T, T)
        total = mixed.sum(axis=-1)  # (C, T)
        if not (np.isclose(total, 1.0, atol=1e-2) | (total == 0)).all() or (mixed < 0).any():
            raise HilatError(
                "the encoder's attention has rows that do not sum to 1; expected a distribution over the chunk's "
                "positions in each (or zeros in chunks not read). Take the weights after the softmax, without dropout"
            )
        if residual:
            mixed = mixed + np.eye(mixed.shape[-1])
        total = mixed.sum(axis=-1, keepdims=True)
        mixed = mixed / np.where(total > 0, total, 1.0)
        rolled = mixed if rolled is None else mixed @ rolled
    assert rolled is not None
    return rolled


def label_rollout(
    token_attention: NDArray[np.floating], chunk_attention: NDArray[np.floating] | None, rolled: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(K, C, T): the codes' attention on last-layer positions, brought down to the input positions by the rollout.

    sum_t o_kc alpha_kct R_cts. Within a chunk the total stays as it was, where R's rows sum to 1.
    token_attention: (K, C, T). chunk_attention: (K, C), or None to leave chunks unweighted. rolled: (C, T, T).

    Raises:
        HilatError: shapes that do not agree.
    """
    codes, chunks, tokens = token_attention.shape
    if rolled.shape != (chunks, tokens, tokens) or (
        chunk_attention is not None and chunk_attention.shape != (codes, chunks)
    ):
        raise HilatError(
            f"token attention has shape {token_attention.shape}, chunk attention "
            f"{None if chunk_attention is None else chunk_attention.shape} and the rollout {rolled.shape}; expected (K, C, T), "
            "(K, C) and (C, T, T). Take all three from one document"
        )
    weights = token_attention.astype(np.float64)
    if chunk_attention is not None:
        weights = weights * chunk_attention.astype(np.float64)[..., None]
    down: NDArray[np.float64] = np.matmul(weights.transpose(1, 0, 2), rolled)  # (C, K, T)
    return down.transpose(1, 0, 2)

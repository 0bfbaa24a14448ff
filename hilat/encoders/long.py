"""Longformer and BigBird under the head: a note in fewer, longer chunks, down to one.

Longformer (Beltagy et al. 2020): the first token of each chunk has global attention, as its authors do for classification;
all others see their window and it. Without it the global projections would have no gradient.

BigBird (Zaheer et al. 2020): transformers takes full attention for an input too short for its blocks, and keeps to it
from then on, for long inputs too; and the blocks that a token sees depend on the padding of its batch. Here the size of the
chunks decides once, and block-sparse chunks always have that size, so that a note's result depends on nothing but the note.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel


def shortest_sparse(config: PreTrainedConfig) -> int:
    """The fewest tokens for which BigBird's block-sparse attention is defined (transformers' condition)."""
    least: int = (5 + 2 * config.num_random_blocks) * config.block_size + 1
    return least


def settle_attention(encoder: PreTrainedModel, tokens: int) -> None:
    """Let a BigBird with chunks of that many tokens use full attention where they are too short for its blocks."""
    if encoder.config.model_type == "big_bird" and tokens < shortest_sparse(encoder.config):
        bigbird: Any = encoder
        bigbird.set_attention_type("original_full")


def long_inputs(encoder: PreTrainedModel, inputs: dict[str, Any], tokens: int) -> dict[str, Any]:
    """The encoder's inputs (N, T', ...) with what a Longformer or a BigBird needs more; others as they are.

    tokens: the size of the model's chunks, to which block-sparse inputs are padded again.
    """
    mask: Tensor = inputs["attention_mask"]
    if encoder.config.model_type == "longformer":
        first = torch.zeros_like(mask)
        first[:, 0] = 1
        return {**inputs, "global_attention_mask": first}
    missing = tokens - mask.shape[1]
    if missing > 0 and getattr(encoder, "attention_type", None) == "block_sparse":
        return {name: _padded(values, missing) for name, values in inputs.items()}
    return inputs


def _padded(values: Tensor, missing: int) -> Tensor:
    """(N, T', ...) with zeros after T': masked, so that which token stands there does not matter."""
    return F.pad(values, (0, 0) * (values.dim() - 2) + (0, missing))

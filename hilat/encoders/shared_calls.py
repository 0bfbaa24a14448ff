"""What the calls of XLNet that make up one pass share: what is the same for all chunks, and room for weights of attention.

Axis letters: B chunks, T tokens, D width, H heads, E = D / H, S kinds of segments.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.models.xlnet.modeling_xlnet import XLNetRelativeAttention

from hilat.encoders import products

KEPT_WEIGHTS = 2**28  # bytes that weights of attention may take in one pass; the others are computed again


@dataclass(frozen=True, slots=True)
class Fixed:
    """What a layer's attention has for all chunks alike, with 1 / sqrt(E) in queries.

    weights: (D, 3 H E), of queries, keys and values; None without gradients, where only memory would be needed to keep
    them. biases: (3 H E,). r: (2T, H, E), the relative keys of i - j = T, T - 1, ..., 1 - T. shift: (H, E) and segments:
    (2, H, E), as in `RelativeAttention`.
    """

    weights: Tensor | None
    biases: Tensor
    r: Tensor
    shift: Tensor
    segments: Tensor

    @classmethod
    def of(cls, own: XLNetRelativeAttention, positions: Tensor) -> Fixed:
        """From positions (2T, D)."""
        _, heads, size = own.q.shape
        content = own.r_w_bias * own.scale  # (H, E)
        segments = (own.r_s_bias * own.scale - content, own.seg_embed[1] - own.seg_embed[0])
        return cls(
            weights=projection(own) if torch.is_grad_enabled() else None,
            biases=F.pad(content.flatten(), (0, 2 * heads * size)),
            r=products.linear(positions.to(own.r.dtype), own.r.flatten(1).t()).view(-1, heads, size),
            shift=own.r_r_bias * own.scale - content,
            segments=torch.stack(segments),
        )

    def cut(self, tokens: int) -> Fixed:
        """For chunks of so many tokens, at most T."""
        longest = len(self.r) // 2
        return replace(self, r=self.r[longest - tokens : longest + tokens])


def projection(own: XLNetRelativeAttention) -> Tensor:
    """Of queries, keys and values in one (D, 3 H E)."""
    return torch.cat([own.q.flatten(1) * own.scale, own.k.flatten(1), own.v.flatten(1)], 1)


@dataclass(slots=True)
class Shared:
    """Of the calls of one pass: the bytes that weights of attention may still take; and what is the same for all chunks, by
    model and whether with gradients."""

    room: int
    fixed: dict[tuple[int, bool], list[Fixed]] = field(default_factory=dict)


_SHARED: ContextVar[Shared | None] = ContextVar("shared", default=None)


@contextmanager
def shared_calls() -> Iterator[None]:
    """Calls of one XLNet inside, with the same weights, compute what is the same for all chunks once, the longest one first;
    and keep weights of attention for the backward pass while they take less than `KEPT_WEIGHTS` in all."""
    token = _SHARED.set(Shared(KEPT_WEIGHTS))
    try:
        yield
    finally:
        _SHARED.reset(token)


def shared() -> Shared | None:
    """Of the pass that is under way, if one is."""
    return _SHARED.get()


def room_for_weights(qkv: Tensor) -> bool:
    """Whether a call may keep its weights of attention; takes the room they need. qkv: (B, T, 3, H, E)."""
    found = _SHARED.get()
    chunks, tokens, _, heads, _ = qkv.shape
    needed = heads * chunks * tokens**2 * qkv.element_size()
    if found is None or not qkv.requires_grad or needed > found.room:
        return False
    found.room -= needed
    return True

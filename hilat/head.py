"""From hidden states to logits: the head as a whole, for all codes at once or in blocks, whichever suits its size.

Axis letters: B documents, C chunks, T tokens, K codes, D width, N chunks that were encoded.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from hilat.attention import ChunkAttention, CodeClassifier, TokenAttention, pool_chunks
from hilat.encoders import products
from hilat.encoders.seeded_dropout import Dropout
from hilat.head_blocks import BlockedHead, HeadPlan, HeadTensors, Rows
from hilat.watched import calls_are_watched

# Codes of a block: so many that its numbers, k x N x (T + 2D), are about this many; from so many codes to so many. On a
# GPU, where a block should be work for the whole of it, rather more.
_BLOCK_NUMBERS = 2_621_440
_FEWEST, _MOST = 64, 128
_GPU_NUMBERS, _GPU_MOST = 335_544_320, 1024


@dataclass(frozen=True, slots=True)
class Head:
    """The head's modules, as the model keeps them. pooling: HilatConfig's chunk_attention."""

    token_attention: TokenAttention
    chunk_attention: ChunkAttention | None
    classifier: CodeClassifier
    dropout: nn.Dropout
    pooling: str

    @property
    def noisy(self) -> bool:
        """Dropout is at work."""
        return self.dropout.training and self.dropout.p > 0


@dataclass(frozen=True, slots=True)
class HeadOutput:
    """logits (B, K); loss, where the head computed it; token_weights (N, m, T) and chunk_weights (B, K, C) or None."""

    logits: Tensor
    loss: Tensor | None = None
    token_weights: Tensor | None = None
    chunk_weights: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """Beside logits: the loss for targets (B, K); the attentions, of tokens for `codes` only (None: for all)."""

    targets: Tensor | None = None
    attentions: bool = False
    codes: Tensor | None = None


def block_size(hidden: Tensor, asked: int | None) -> int:
    """How many codes a block has: as asked, or by the size of its tensors, a few tens of MB for one document on the CPU.

    hidden: (N, T, D).
    """
    if asked is not None:
        return asked
    rows, tokens, width = hidden.shape
    numbers, most = (_GPU_NUMBERS, _GPU_MOST) if hidden.is_cuda else (_BLOCK_NUMBERS, _MOST)
    return min(most, max(_FEWEST, numbers // (rows * (tokens + 2 * width))))


def in_blocks(head: Head, codes_of_block: int, asked: Asked) -> bool:
    """Whether the head is computed in blocks: where it has more than one, and nobody looks at what is in between.

    Attentions that take part in a gradient, or are drawn with dropout, come from the plain path; so does everything that
    other parties watch: hooks on the head's modules, function modes (DeepLift), forward-mode derivatives, compilation.
    """
    if len(head.classifier.bias) <= codes_of_block:
        return False
    if asked.attentions and (torch.is_grad_enabled() or head.noisy):
        return False
    parts = (head.token_attention, head.chunk_attention, head.classifier)
    hooks = (
        part._forward_hooks or part._forward_pre_hooks or part._backward_hooks for part in parts if part is not None
    )
    return not (any(hooks) or calls_are_watched() or forward_ad._current_level >= 0 or torch.compiler.is_compiling())


def plain(head: Head, hidden: Tensor, rows: Rows, keep: Tensor | None, asked: Asked) -> HeadOutput:
    """All codes at once. hidden: (N, T, D). keep: (B, C) bool, the chunks that take attention; None for all."""
    vectors, tokens = head.token_attention(hidden, rows.seen, rows.counts)  # (N, K, D), (N, K, T)
    stacked = head.dropout(rows.place(vectors, 0.0).transpose(1, 2))  # (B, K, C, D)
    if head.chunk_attention is not None:
        pooled, chunks = head.chunk_attention(stacked, keep)
    else:
        pooled, chunks = pool_chunks(stacked, keep, head.pooling)  # type: ignore[arg-type]
    logits = head.classifier(head.dropout(pooled))  # (B, K)
    if not asked.attentions:
        return HeadOutput(logits)
    return HeadOutput(logits, None, tokens if asked.codes is None else tokens[:, asked.codes], chunks)


def blocked(head: Head, hidden: Tensor, rows: Rows, codes_of_block: int, asked: Asked) -> HeadOutput:
    """The same in blocks of codes, with the loss. hidden: (N, T, D); what takes no attention is not among its rows."""
    given = _tensors(head, hidden, rows)
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        given = HeadTensors(*(None if t is None else t.to(dtype) for t in given))  # type: ignore[arg-type]
    wanted = None
    if asked.attentions:
        wanted = torch.arange(len(given.bias), device=hidden.device) if asked.codes is None else asked.codes
    learns = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in given)
    if rows.seen is not None and rows.seen.device.type == "cpu" and bool(rows.seen.all()):
        rows = replace(rows, seen=None)
    plan = HeadPlan(
        rows=rows,
        pooling=head.pooling,
        block=codes_of_block,
        dropout=Dropout(head.dropout.p, (int(torch.randint(2**62, ())),)) if head.noisy else None,
        targets=asked.targets,
        fused=learns and asked.targets is not None,
        wanted=wanted,
    )
    loss, logits = BlockedHead.apply(plan, *given)  # type: ignore[no-untyped-call]
    tokens = plan.kept_tokens[0].transpose(0, 1) if plan.kept_tokens else None  # (N, m, T)
    chunks = torch.cat(plan.kept_chunks, 1) if plan.kept_chunks else None  # (B, K, C)
    return HeadOutput(logits, None if asked.targets is None else loss, tokens, chunks)


def _tensors(head: Head, hidden: Tensor, rows: Rows) -> HeadTensors:
    """What the blocks share, computed once, and the parameters."""
    own, over = head.token_attention, head.chunk_attention
    projection, query = (None, None) if over is None else (over.projection, over.query)
    keys = None
    width, tokens = hidden.shape[2], hidden.shape[1]
    codes = len(head.classifier.bias)
    # Per chunk, K D^2 products for the chunk's keys, or K T D for sums over those of its tokens, which take T D^2 once.
    if (
        projection is not None
        and projection.dim() == 2
        and not head.noisy
        and codes * (width - tokens) > tokens * width
    ):
        keys = products.linear(hidden, projection)  # (N, T, D)
    return HeadTensors(
        hidden.contiguous(),
        own.states(hidden, rows.counts).contiguous(),
        keys,
        own.labels,
        head.classifier.weight,
        head.classifier.bias,
        projection,
        query,
    )

"""Which chunks of a batch are encoded, and together with which others: no work on padding.

Where padding is masked, empty chunks are left out, and chunks are encoded in groups of similar length, each cut to its
longest chunk (or somewhat later, `products.even`): real tokens see neither padding nor other chunks, so their states stay the
same. Where padding is attended to, as in the published code, all empty chunks of a batch are the same input: one is encoded
and stands in the place of each, so that it has its multiplicity in the chunk softmax.

Axis letters: B documents, C chunks, T tokens per chunk, P chunks that take part, N of them that are encoded, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hilat.admissions import HilatError
from hilat.encoders import products
from hilat.model_config import SPECIAL_TOKENS
from hilat.watched import nothing_is_kept

# What a call of the encoder costs beside its tokens, in tokens, about: the start of each step, of kernels off the CPU.
_CALL_TOKENS = {"cpu": 64}
_CALL_TOKENS_ELSEWHERE = 2048
# A call's tokens at most: larger tensors leave the CPU's cache, and its allocator asks for their pages anew each time.
_MOST_TOKENS = {"cpu": 2048}


def chunks_that_count(mask: Tensor, attend_padding: bool) -> tuple[Tensor | None, Tensor]:
    """Which chunks take attention (B, C), None for all; and the flat indices b * C + c of those (P,), chunk-major.

    mask: (B, C, T) of 0 and 1. An empty chunk (its two special tokens only) takes none unless padding is attended to; a
    document without any text keeps its first chunk.

    Raises:
        HilatError: for a document without any token.
    """
    documents, chunks, _ = mask.shape
    indices = torch.arange(documents * chunks, device=mask.device).view(documents, chunks)
    if attend_padding:
        return None, indices.t().flatten()
    length = mask.sum(-1)  # (B, C)
    keep = length > SPECIAL_TOKENS
    keep[:, 0] |= ~keep.any(1)
    if bool((keep & (length == 0)).any()):
        raise HilatError(
            "a document of this batch has no token in its attention_mask, not even special ones; expected an empty "
            "chunk to hold its two special tokens. Encode it with hilat.encoding, or leave it out"
        )
    return keep, indices.t()[keep.t()]


def one_empty_chunk(inputs: Mapping[str, Tensor], places: Tensor) -> tuple[Tensor, Tensor | None]:
    """The chunks to encode (N,), flat indices in the order of `places`; and which of them stands at each place (P,).

    inputs: (B, C, T, ...) by name. Empty chunks with the inputs of the first one are left out for it; None where there
    are no such, and with inputs_embeds, which take a gradient each.
    """
    if "inputs_embeds" in inputs:
        return places, None
    flat = {name: values.flatten(0, 1)[places] for name, values in inputs.items()}  # (P, T)
    empty = (flat["attention_mask"].sum(-1) <= SPECIAL_TOKENS).nonzero().flatten()
    if len(empty) < 2:
        return places, None
    same = torch.stack([(values[empty] == values[empty[0]]).all(-1) for values in flat.values()]).all(0)
    encoded = torch.ones_like(places, dtype=torch.bool)
    encoded[empty[1:][same[1:]]] = False
    row = encoded.cumsum(0) - 1  # (P,)
    return places[encoded], torch.where(encoded, row, row[empty[0]])


def groups_by_length(lengths: Sequence[int], call_tokens: int) -> list[list[int]]:
    """The rows in groups, so that the tokens of all groups, each as long as its longest row, are as few as can be.

    call_tokens: what a group costs beside them. The rows of a group in their order, the longest group first.
    """
    order = sorted(range(len(lengths)), key=lambda n: -lengths[n])
    # Shortest rows last: best[i] is the least for those from order[i] on, and ends[i] where its first group ends.
    best, ends = [0] * (len(order) + 1), [0] * len(order)
    starts = [i for i in range(len(order)) if i == 0 or lengths[order[i]] < lengths[order[i - 1]]]
    for i in reversed(starts):
        costs = ((lengths[order[i]] * (j - i) + call_tokens + best[j], j) for j in [*starts, len(order)] if j > i)
        best[i], ends[i] = min(costs)
    groups, i = [], 0
    while i < len(order):
        groups.append(sorted(order[i : ends[i]]))
        i = ends[i]
    return groups


def has_hooks(encoder: nn.Module) -> bool:
    """Somebody watches what the encoder's modules are called with; many such (captum's) expect one call a pass."""
    return any(part._forward_hooks or part._forward_pre_hooks or part._backward_hooks for part in encoder.modules())


def encode_by_length(
    encode: Callable[[Mapping[str, Tensor]], Tensor],
    inputs: Mapping[str, Tensor],
    *,
    cut: bool = True,
    in_one_call: bool = False,
) -> Tensor:
    """Hidden states (N, T', D) of chunks, T' the longest, or somewhat more (`products.even`); zeros at padding that is not encoded.

    inputs: (N, T, ...) by name, with their attention_mask. encode: hidden states from some rows of them, cut to some length.
    cut: chunks are cut to the longest of their group; else all keep T tokens. in_one_call: one group, and one call.
    """
    mask = inputs["attention_mask"]
    device = mask.device.type
    position = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    lengths = (mask * position).amax(1).tolist() if cut else [mask.shape[1]] * len(mask)
    if device == "cpu":
        lengths = [products.even(length, mask.shape[1]) for length in lengths]
    groups = [list(range(len(lengths)))]
    if not in_one_call:
        rounded = [-(-length // 8) * 8 for length in lengths]  # few lengths to choose from
        groups = groups_by_length(rounded, _CALL_TOKENS.get(device, _CALL_TOKENS_ELSEWHERE))
        groups = [part for rows in groups for part in _parts(rows, lengths, _MOST_TOKENS.get(device))]
    longest = max(lengths)
    if len(groups) == 1:
        return encode({name: values[:, :longest] for name, values in inputs.items()})
    states, whole, in_place = [], None, nothing_is_kept()
    for rows in groups:
        length = max(lengths[n] for n in rows)
        chosen = torch.tensor(rows, device=mask.device)
        hidden = encode({name: values[chosen, :length] for name, values in inputs.items()})  # (n, length, D)
        if not in_place:
            states.append(F.pad(hidden, (0, 0, 0, longest - length)))  # (n, T', D)
            continue
        if whole is None:
            whole = hidden.new_zeros(len(lengths), longest, hidden.shape[2])
        whole[chosen, :length] = hidden
    if whole is not None:
        return whole
    where = torch.tensor([n for rows in groups for n in rows], device=mask.device).argsort()  # (N,)
    return torch.cat(states).index_select(0, where)


def _parts(rows: list[int], lengths: Sequence[int], most_tokens: int | None) -> Iterator[list[int]]:
    """A group in parts of at most so many tokens, and at least one row."""
    size = len(rows) if most_tokens is None else max(1, most_tokens // max(lengths[n] for n in rows))
    for first in range(0, len(rows), size):
        yield rows[first : first + size]

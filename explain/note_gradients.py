"""One note and k codes: every code's gradient at the word embeddings, chunk by chunk.

A code's logit depends on the encoder through its own chunk vectors only (the head is label-wise), so one backward pass
through the head serves all codes, and each code then takes one backward pass through the encoder, over the groups of
chunks on which it depends. The forward pass is shared by all codes. Chunks of similar length go together, so that padding
is not encoded; short notes have several points of a path in one call of the encoder. Where the whole graph would be
large, all groups but the last are encoded twice: once without a graph for the head, once with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from explain.deep_lift import with_multipliers
from explain.target import Target
from hilat.admissions import HilatError
from hilat.chunk_rows import groups_by_length
from hilat.encoding import EncodedDocument

Output = Literal["logit", "probability"]
# Chunks x tokens x width whose graph is kept at a time: two chunks of 512 tokens of a base-sized encoder (1.3 GB for XLNet).
_GRAPH_NUMBERS = 2**20
# What a call of the encoder costs beside its tokens, in tokens: XLNet's relative keys.
_CALL_TOKENS = 64


def known(what: str, given: str, options: Sequence[str]) -> None:
    """Refuse what is not one of the options."""
    if given not in options:
        raise HilatError(f"{what} {given!r} is not known; expected one of {', '.join(options)}. Choose one of them")


@dataclass(frozen=True, slots=True)
class GradientOptions:
    """What all gradient methods share.

    output: what is differentiated. bound: the largest completeness gap that is not an error (see `TokenScores`).
    chunks_at_once: chunks whose graph is held at a time; None decides by size. All of them in one go is fastest.
    negligible: a code leaves out groups of chunks whose slopes at their chunk vectors (L2 norms, summed) are together at
        most this share of those of all its chunks, and their tokens score 0. The gradient left out is at most this share
        of the sum of all slopes times the largest norm of a chunk's encoder Jacobian. 0 leaves out what has no slope at all,
        such as a chunk whose attention is exactly 0, which changes nothing.
    """

    output: Output = "logit"
    bound: float = 0.05
    chunks_at_once: int | None = None
    negligible: float = 0.0

    def __post_init__(self) -> None:
        known("output", self.output, get_args(Output))
        if not 0 <= self.negligible < 1:
            raise HilatError(
                f"gradient options have negligible {self.negligible}; expected a share from 0 to below 1. Change it"
            )
        if not self.bound > 0 or (self.chunks_at_once is not None and self.chunks_at_once < 1):
            raise HilatError(
                f"gradient options have bound {self.bound} and chunks_at_once {self.chunks_at_once}; expected a bound "
                "over 0, and 1 chunk or more or None. Change them"
            )


DEFAULTS = GradientOptions()


@dataclass(frozen=True, slots=True, eq=False)
class Note:
    """A note before the encoder, and the codes to explain.

    embeds (C, T, D); inputs: mask and types (C, T); kept (C,) bool; rows: the N chunks that are read; groups: the same, as
    they are encoded together, each in the order of the chunks. points: how many copies of the note are encoded at a time.
    negligible: see `GradientOptions`.
    """

    target: Target
    columns: list[int]
    output: Output
    embeds: Tensor
    inputs: dict[str, Tensor]
    kept: Tensor
    rows: NDArray[np.int64]
    groups: list[NDArray[np.int64]]
    points: int
    negligible: float


def prepare(target: Target, document: EncodedDocument, columns: Sequence[int], options: GradientOptions) -> Note:
    """The note as the gradient methods take it.

    Raises:
        HilatError: columns outside the model's codes, none, or one twice.
    """
    chosen = [int(k) for k in columns]
    if not chosen or len(set(chosen)) != len(chosen) or min(chosen) < 0 or max(chosen) >= len(target.codes):
        raise HilatError(
            f"the columns are {chosen}; expected one or more different ones from 0 to {len(target.codes) - 1}. "
            "Name codes of this model, each once"
        )
    inputs = {name: values[0] for name, values in target.inputs(document).items()}  # (C, T)
    with torch.no_grad():
        embeds = target.embeddings(inputs.pop("input_ids")).detach()  # (C, T, D)
    read = target.chunks_read(document.attention_mask[None])[0]  # (C,)
    rows = np.flatnonzero(read)
    at_once = options.chunks_at_once or max(1, _GRAPH_NUMBERS // embeds[0].numel())
    groups = _groups(document.attention_mask[rows], rows, at_once)
    kept = torch.from_numpy(read).to(embeds.device)
    numbers = sum(int(_lengths(document.attention_mask[part]).max()) * len(part) for part in groups) * embeds.shape[-1]
    points = 1 if len(groups) > 1 or options.chunks_at_once else max(1, _GRAPH_NUMBERS // numbers)
    return Note(target, chosen, options.output, embeds, inputs, kept, rows, groups, points, options.negligible)


def _lengths(mask: NDArray[np.int64]) -> NDArray[np.int64]:
    """Tokens (N,) of chunks up to their last one, in eights, from masks (N, T)."""
    last = (mask * np.arange(1, mask.shape[1] + 1)).max(axis=1)
    return np.asarray(-(-last // 8) * 8)


def _groups(mask: NDArray[np.int64], rows: NDArray[np.int64], at_once: int) -> list[NDArray[np.int64]]:
    """The rows (N,) in groups of similar length, of at_once chunks or fewer; mask: theirs, (N, T)."""
    similar = groups_by_length(_lengths(mask).tolist(), _CALL_TOKENS)
    return [rows[part[i : i + at_once]] for part in similar for i in range(0, len(part), at_once)]


def _vectors(note: Note, rows: NDArray[np.int64], embeds: Tensor) -> Tensor:
    """Chunk vectors (n * P, K, D) of these chunks, each at P points, from their embeddings (n * P, T, D)."""
    every = np.repeat(rows, len(embeds) // len(rows))
    inputs = {name: values[every] for name, values in note.inputs.items()}
    return note.target.chunk_vectors({"inputs_embeds": embeds, **inputs}, every)


def _logits(note: Note, vectors: Tensor) -> Tensor:
    """Logits (P, k) of the chosen codes from chunk vectors (P, C, K, D), zeros where a chunk is not read."""
    return note.target.logits(vectors, note.kept[None].expand(len(vectors), -1))[:, note.columns]


def _placed(note: Note, parts: list[Tensor]) -> Tensor:
    """Chunk vectors (P, C, K, D) from those of each group, (n * P, K, D)."""
    points = len(parts[0]) // len(note.groups[0])
    stacked = parts[0].new_zeros((points, len(note.kept), *parts[0].shape[1:]))
    for rows, part in zip(note.groups, parts, strict=True):
        stacked[:, rows] = part.view(len(rows), points, *part.shape[1:]).transpose(0, 1)
    return stacked


def _chosen(embeds: Tensor, rows: NDArray[np.int64]) -> Tensor:
    """The chunks' embeddings (n * P, T, D), chunk by chunk, from (P, C, T, D)."""
    return embeds[:, rows].transpose(0, 1).flatten(0, 1)


def _encoded(note: Note, groups: list[NDArray[np.int64]], embeds: Tensor) -> list[Tensor]:
    """Chunk vectors of each group without a graph."""
    with torch.no_grad():
        return [_vectors(note, rows, _chosen(embeds, rows)) for rows in groups]


def outputs(note: Note, embeds: Tensor) -> NDArray[np.float64]:
    """The chosen codes' outputs (k,) for embeddings (C, T, D)."""
    vectors = _placed(note, _encoded(note, note.groups, embeds[None]))
    with torch.no_grad():
        logits = _logits(note, vectors)[0].double()
    values: NDArray[np.float64] = (logits if note.output == "logit" else torch.sigmoid(logits)).cpu().numpy()
    return values


def reduced(
    note: Note,
    embeds: Tensor,
    reduce: Callable[[Tensor, NDArray[np.int64]], Tensor],
    reference: Tensor | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
    """Scores (k, C, T), summed over the points, from each gradient (P, n, T, D, float64) and its chunks.

    embeds: (P, C, T, D), the note at P points; reduce gives (P, n, T). Then the outputs (P, k); chunks encoded.
    """
    scores = np.zeros((len(note.columns), *embeds.shape[1:3]))  # (k, C, T)

    def take(i: int, rows: NDArray[np.int64], gradient: Tensor) -> None:
        scores[i, rows] = reduce(gradient, rows).sum(0).cpu().numpy()

    values, passes = walk(note, embeds, take, reference)
    return scores, values, passes


def walk(
    note: Note,
    embeds: Tensor,
    take: Callable[[int, NDArray[np.int64], Tensor], None],
    reference: Tensor | None = None,
) -> tuple[NDArray[np.float64], int]:
    """Hand `take` every code's gradient (P, n, T, D), float64, chunk group by chunk group; the outputs (P, k); chunks encoded.

    embeds: (P, C, T, D). Groups on which a code does not depend are left out; their gradient is 0. With a reference
    (P, C, T, D), DeepLIFT's multipliers instead of gradients.
    """

    def graph(rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        leaf = _chosen(embeds, rows).detach().requires_grad_()
        return leaf, _run(partial(_vectors, note, rows), leaf, None if reference is None else _chosen(reference, rows))

    ready: tuple[Tensor, Tensor] | None = graph(note.groups[-1])  # stays while the head is computed
    assert ready is not None
    vectors = _placed(note, [*_encoded(note, note.groups[:-1], embeds), ready[1].detach()])
    before = None if reference is None else _placed(note, _encoded(note, note.groups, reference))
    values, slopes = _head_slopes(note, vectors, before)  # (P, k), (P, C, K, D)
    needed = _needed(note, slopes)  # (k, G)
    for g in range(len(note.groups))[::-1]:
        rows, codes = note.groups[g], np.flatnonzero(needed[:, g]).tolist()
        whole, ready = ready, None
        if not codes:
            continue
        (leaf, output), slope = whole or graph(rows), _chosen(slopes, rows)  # (n * P, K, D)
        for i in codes:
            k = note.columns[i]
            (gradient,) = torch.autograd.grad(output[:, k], leaf, slope[:, k], retain_graph=i != codes[-1])
            take(i, rows, gradient.view(len(rows), len(embeds), *gradient.shape[1:]).transpose(0, 1).double())
            del gradient
        del leaf, output, whole  # this graph, before the next one grows
    again = len(note.rows) - len(note.groups[-1])
    return values, len(embeds) * (len(note.rows) + again + (0 if reference is None else 2 * len(note.rows)))


def at_states(note: Note, reduce: Callable[[Tensor, Tensor], Tensor]) -> NDArray[np.float64]:
    """Scores (k, C, T) from each code's gradient at the encoder's last states and these, both (n, T', D); 0 elsewhere."""
    scores = np.zeros((len(note.columns), *note.embeds.shape[:2]))  # (k, C, T)
    graphs = []
    for rows in note.groups:
        inputs = {name: values[rows] for name, values in note.inputs.items()}
        with torch.no_grad():
            states = note.target.hidden_states({"inputs_embeds": note.embeds[rows], **inputs})  # (n, T', D)
        leaf = states.requires_grad_()
        with torch.enable_grad():
            graphs.append((leaf, note.target.vectors_of_states(leaf, inputs["attention_mask"], rows)))
    _, slopes = _head_slopes(note, _placed(note, [output.detach() for _, output in graphs]), None)  # (1, C, K, D)
    for rows, (leaf, output) in zip(note.groups, graphs, strict=True):
        for i, k in enumerate(note.columns):
            slope = slopes[0, rows][:, k]  # (n, D)
            (gradient,) = torch.autograd.grad(output[:, k], leaf, slope, retain_graph=True)
            scores[i, rows, : leaf.shape[1]] = reduce(gradient.double(), leaf.detach()).cpu().numpy()
    return scores


def _needed(note: Note, slopes: Tensor) -> NDArray[np.bool_]:
    """Which codes take a backward pass through which groups (k, G): all but those whose share of the slopes is negligible."""
    sizes = slopes.double().norm(dim=-1).sum(0).cpu().numpy()[:, note.columns]  # (C, k)
    shares = np.stack([sizes[rows].sum(axis=0) for rows in note.groups], axis=1)  # (k, G)
    order = np.argsort(shares, axis=1)
    left_out = np.cumsum(np.take_along_axis(shares, order, axis=1), axis=1)  # were all up to this one left out
    kept = ~(left_out <= note.negligible * shares.sum(axis=1, keepdims=True))
    needed = np.empty(kept.shape, dtype=np.bool_)
    np.put_along_axis(needed, order, kept, axis=1)
    return needed


def _head_slopes(note: Note, vectors: Tensor, before: Tensor | None) -> tuple[NDArray[np.float64], Tensor]:
    """The outputs (P, k), and each one's derivative with respect to its own chunk vectors, as (P, C, K, D)."""
    leaf = vectors.detach().requires_grad_()
    logits = _run(partial(_logits, note), leaf, before)  # (P, k)
    (slopes,) = torch.autograd.grad(
        logits.sum(), leaf
    )  # (P, C, K, D): of code k in [:, :, k], as the head is label-wise
    values = logits.detach().double()
    if note.output == "probability":
        probability = torch.sigmoid(values)
        slope = probability * (1 - probability)
        if before is not None:
            with torch.no_grad():
                start = _logits(note, before).double()
            apart = (values - start).abs() > 1e-5
            ratio = (probability - torch.sigmoid(start)) / torch.where(apart, values - start, 1.0)
            slope = torch.where(apart, ratio, slope)
        values = probability
        slopes[:, :, note.columns] *= slope.to(slopes.dtype)[:, None, :, None]
    return values.cpu().numpy(), slopes


def _run(function: Callable[[Tensor], Tensor], value: Tensor, reference: Tensor | None) -> Tensor:
    if reference is not None:
        return with_multipliers(function, value, reference)
    with torch.enable_grad():
        return function(value)

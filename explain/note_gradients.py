"""One note and k codes: every code's gradient at the word embeddings, chunk by chunk.

A code's logit depends on the encoder through its own chunk vectors only (the head is label-wise), so one backward pass
through the head serves all codes, and each code then takes one backward pass through the encoder, chunk by chunk. The
forward pass is shared by all codes. Where the whole note's graph would be large, chunks are encoded twice: once without
a graph for the head, once with it.
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
from hilat.encoding import EncodedDocument

Output = Literal["logit", "probability"]
# Chunks x tokens x width whose graph is kept at a time: one chunk of 512 tokens of a base-sized encoder (1.5 GB for XLNet).
_GRAPH_NUMBERS = 2**19


def known(what: str, given: str, options: Sequence[str]) -> None:
    """Refuse what is not one of the options."""
    if given not in options:
        raise HilatError(f"{what} {given!r} is not known; expected one of {', '.join(options)}. Choose one of them")


@dataclass(frozen=True, slots=True)
class GradientOptions:
    """What all gradient methods share.

    output: what is differentiated. bound: the largest completeness gap that is not an error (see `TokenScores`).
    chunks_at_once: chunks whose graph is held at a time; None decides by size. All of them in one go is fastest.
    """

    output: Output = "logit"
    bound: float = 0.05
    chunks_at_once: int | None = None

    def __post_init__(self) -> None:
        known("output", self.output, get_args(Output))
        if not self.bound > 0 or (self.chunks_at_once is not None and self.chunks_at_once < 1):
            raise HilatError(
                f"gradient options have bound {self.bound} and chunks_at_once {self.chunks_at_once}; expected a bound "
                "over 0, and 1 chunk or more or None. Change them"
            )


DEFAULTS = GradientOptions()


@dataclass(frozen=True, slots=True, eq=False)
class Note:
    """A note before the encoder, and the codes to explain.

    embeds (C, T, D); inputs: mask and types (C, T); kept (C,) bool; rows: the N chunks that are read, in groups.
    """

    target: Target
    columns: list[int]
    output: Output
    embeds: Tensor
    inputs: dict[str, Tensor]
    kept: Tensor
    rows: NDArray[np.int64]
    groups: list[NDArray[np.int64]]


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
    groups = [rows[i : i + at_once] for i in range(0, len(rows), at_once)]
    kept = torch.from_numpy(read).to(embeds.device)
    return Note(target, chosen, options.output, embeds, inputs, kept, rows, groups)


def _vectors(note: Note, rows: NDArray[np.int64], embeds: Tensor) -> Tensor:
    """Chunk vectors (n, K, D) of these chunks from their embeddings (n, T, D)."""
    inputs = {name: values[rows] for name, values in note.inputs.items()}
    return note.target.chunk_vectors({"inputs_embeds": embeds, **inputs}, rows)


def _logits(note: Note, vectors: Tensor) -> Tensor:
    """Logits (k,) of the chosen codes from the chunk vectors (N, K, D)."""
    stacked = vectors.new_zeros((len(note.kept), *vectors.shape[1:]))  # (C, K, D)
    stacked = stacked.index_put((torch.from_numpy(note.rows).to(vectors.device),), vectors)
    return note.target.logits(stacked[None], note.kept[None])[0, note.columns]


def _encoded(note: Note, embeds: Tensor) -> Tensor:
    """Chunk vectors (N, K, D) without a graph."""
    with torch.no_grad():
        return torch.cat([_vectors(note, rows, embeds[rows]) for rows in note.groups])


def outputs(note: Note, embeds: Tensor) -> NDArray[np.float64]:
    """The chosen codes' outputs (k,) for embeddings (C, T, D)."""
    with torch.no_grad():
        logits = _logits(note, _encoded(note, embeds)).double()
    values: NDArray[np.float64] = (logits if note.output == "logit" else torch.sigmoid(logits)).cpu().numpy()
    return values


def reduced(
    note: Note,
    embeds: Tensor,
    reduce: Callable[[Tensor, NDArray[np.int64]], Tensor],
    reference: Tensor | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
    """Scores (k, C, T) from each gradient (n, T, D, float64) and its chunks; the outputs (k,); chunks encoded."""
    scores = np.zeros((len(note.columns), *embeds.shape[:2]))  # (k, C, T)

    def take(i: int, rows: NDArray[np.int64], gradient: Tensor) -> None:
        scores[i, rows] = reduce(gradient, rows).cpu().numpy()

    values, passes = walk(note, embeds, take, reference)
    return scores, values, passes


def walk(
    note: Note,
    embeds: Tensor,
    take: Callable[[int, NDArray[np.int64], Tensor], None],
    reference: Tensor | None = None,
) -> tuple[NDArray[np.float64], int]:
    """Hand `take` every code's gradient (n, T, D), float64, chunk group by chunk group; the outputs (k,); chunks encoded.

    With a reference (C, T, D), DeepLIFT's multipliers instead of gradients.
    """

    def graph(rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        leaf = embeds[rows].detach().requires_grad_()
        return leaf, _run(partial(_vectors, note, rows), leaf, None if reference is None else reference[rows])

    whole = graph(note.rows) if len(note.groups) == 1 else None
    vectors = _encoded(note, embeds) if whole is None else whole[1].detach()  # (N, K, D)
    before = None if reference is None else _encoded(note, reference)
    values, slopes = _head_slopes(note, vectors, before)  # (k,), (N, K, D)
    done = 0
    for rows in note.groups:
        leaf, output = whole or graph(rows)
        slope = slopes[done : done + len(rows)]
        done += len(rows)
        for i, k in enumerate(note.columns):
            more = i + 1 < len(note.columns)
            (gradient,) = torch.autograd.grad(output[:, k], leaf, slope[:, k], retain_graph=more)
            take(i, rows, gradient.double())
        del leaf, output, gradient  # this graph, before the next one grows
    rounds = (1 if whole else 2) + (0 if reference is None else 2)
    return values, rounds * len(note.rows)


def _head_slopes(note: Note, vectors: Tensor, before: Tensor | None) -> tuple[NDArray[np.float64], Tensor]:
    """The outputs (k,), and each one's derivative with respect to its own chunk vectors, as (N, K, D)."""
    leaf = vectors.detach().requires_grad_()
    logits = _run(partial(_logits, note), leaf, before)  # (k,)
    (slopes,) = torch.autograd.grad(logits.sum(), leaf)  # (N, K, D): of code k in [:, k], as the head is label-wise
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
        slopes[:, note.columns] *= slope.to(slopes.dtype)[None, :, None]
    return values.cpu().numpy(), slopes


def _run(function: Callable[[Tensor], Tensor], value: Tensor, reference: Tensor | None) -> Tensor:
    if reference is not None:
        return with_multipliers(function, value, reference)
    with torch.enable_grad():
        return function(value)

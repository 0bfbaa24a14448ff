"""Gradient attributions of the tokens of a note, for several codes at once: how a code's output answers to each embedding.

The forward pass is shared by all codes (`explain.note_gradients`), and no gradient outlives its reduction to one number
per token. Gradients are taken at the word embeddings (`inputs_embeds`), before positions and segments are added. The model is
expected in eval mode; neither it nor the gradients of its parameters are changed.
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

from explain.note_gradients import (
    DEFAULTS,
    GradientOptions,
    Note,
    Output,
    at_states,
    known,
    outputs,
    prepare,
    reduced,
    walk,
)
from explain.target import Target
from hilat.admissions import HilatError
from hilat.encoding import EncodedDocument

Baseline = Literal["mask", "pad", "zero"]
Norm = Literal["l2", "l1", "mean"]
# Completeness is measured relative to |f(x) - f(baseline)|, or to this where that is smaller.
_FLOOR = 1e-3


@dataclass(frozen=True, slots=True)
class ShapSampling:
    """What gradient SHAP draws: for each baseline, this many pairs of points on the line from it to the note.

    noise: standard deviation of what is added to each embedding number of a word, as in SmoothGrad; 0 for none.
    """

    baselines: tuple[Baseline, ...] = ("mask", "pad")
    pairs: int = 25
    noise: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for kind in self.baselines:
            known("baseline", kind, get_args(Baseline))
        if not self.baselines or self.pairs < 1 or not 0 <= self.noise < np.inf:
            raise HilatError(
                f"gradient SHAP was given {len(self.baselines)} baselines, {self.pairs} pairs and noise "
                f"{self.noise}; expected 1 or more of each and noise of 0 or more. Change the sampling"
            )


_SAMPLING = ShapSampling()


@dataclass(frozen=True, slots=True, eq=False)
class TokenScores:
    """Scores (k, C, T) of the tokens, float64, for the k chosen codes in the order in which they were asked for.

    target: "logit" or "probability". signed: whether a negative score speaks against the code.
    completeness_gap: (k,), |sum of scores - (f(x) - f(baseline))| / |f(x) - f(baseline)|, with a denominator of 0.001 or
        more; None for methods that promise no such sum. passes: how many chunks were encoded.
    """

    scores: NDArray[np.float64]
    signed: bool
    target: str
    completeness_gap: NDArray[np.float64] | None
    passes: int


def embedding_gradients(
    target: Target, document: EncodedDocument, columns: Sequence[int], output: Output = "logit"
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Word embeddings (C, T, D) and the gradients (k, C, T, D) of k codes' outputs with respect to them.

    These are k copies of the note's embeddings (31 MB each at 5,120 tokens of width 768); the methods below never hold
    them all. Chunks that the model does not read have gradient 0.

    Raises:
        HilatError: columns outside the model's codes, none, or one twice.
    """
    note = prepare(target, document, columns, GradientOptions(output))
    gradients = np.zeros((len(note.columns), *note.embeds.shape))  # (k, C, T, D)

    def take(i: int, rows: NDArray[np.int64], gradient: Tensor) -> None:
        gradients[i, rows] = gradient[0].cpu().numpy()

    walk(note, note.embeds[None], take)
    return note.embeds.double().cpu().numpy(), gradients


def saliency(
    target: Target,
    document: EncodedDocument,
    columns: Sequence[int],
    norm: Norm = "l2",
    options: GradientOptions = DEFAULTS,
) -> TokenScores:
    """The size of the gradient at each token, unsigned: its L2 norm over the width, L1 norm, or mean absolute value.

    Simonyan et al. 2014, section 3; the L2 norm as in Edin et al. 2024.

    Raises:
        HilatError: columns outside the model's codes, none, or one twice; another norm.
    """
    known("norm", norm, get_args(Norm))
    reduce: dict[str, Callable[[Tensor], Tensor]] = {
        "l2": lambda gradient: gradient.norm(dim=-1),
        "l1": lambda gradient: gradient.abs().sum(-1),
        "mean": lambda gradient: gradient.abs().mean(-1),
    }
    note = prepare(target, document, columns, options)
    scores, _, passes = reduced(note, note.embeds[None], lambda gradient, _: reduce[norm](gradient))
    return TokenScores(scores, False, note.output, None, passes)


def input_x_gradient(
    target: Target,
    document: EncodedDocument,
    columns: Sequence[int],
    reduce: Literal["sum", "l2"] = "sum",
    options: GradientOptions = DEFAULTS,
) -> TokenScores:
    """Embedding times gradient at each token: the sum over the width (signed), or the L2 norm (unsigned).

    Shrikumar et al. 2016; the norm is what Edin et al. 2024 call InputXGrad.

    Raises:
        HilatError: columns outside the model's codes, none, or one twice; another `reduce`.
    """
    known("reduce", reduce, ("sum", "l2"))
    note = prepare(target, document, columns, options)

    def product(gradient: Tensor, rows: NDArray[np.int64]) -> Tensor:
        weighted = gradient * note.embeds[rows].double()  # (1, n, T, D)
        return weighted.sum(-1) if reduce == "sum" else weighted.norm(dim=-1)

    scores, _, passes = reduced(note, note.embeds[None], product)
    return TokenScores(scores, reduce == "sum", note.output, None, passes)


def state_x_gradient(
    target: Target,
    document: EncodedDocument,
    columns: Sequence[int],
    reduce: Literal["sum", "l2"] = "sum",
    options: GradientOptions = DEFAULTS,
) -> TokenScores:
    """Hidden state times gradient at each token, head only: the sum over the width (signed), or the L2 norm (unsigned).

    The gradient is taken at the encoder's last hidden states, so that no backward pass goes through the encoder: all codes
    cost little more than a forward pass. It is another quantity than `input_x_gradient`: it says which states the head
    reads, and nothing of the words that the encoder mixed into them.

    Raises:
        HilatError: columns outside the model's codes, none, or one twice; another `reduce`.
    """
    known("reduce", reduce, ("sum", "l2"))
    note = prepare(target, document, columns, options)

    def product(gradient: Tensor, states: Tensor) -> Tensor:
        weighted = gradient * states.double()  # (n, T', D)
        return weighted.sum(-1) if reduce == "sum" else weighted.norm(dim=-1)

    return TokenScores(at_states(note, product), reduce == "sum", note.output, None, len(note.rows))


def baseline_embeddings(target: Target, document: EncodedDocument, kind: Baseline) -> Tensor:
    """Embeddings (C, T, D) of a note that says nothing.

    "mask", "pad": every token of a word has the embedding of the tokenizer's mask or padding token; special tokens and
    padding keep theirs, and what may attend to what stays as it is. "zero": zeros everywhere, on special tokens too,
    as captum's default; not for an XLNet, whose first layer norm then has nothing to divide by, so that no number of
    steps adds up.

    Raises:
        HilatError: another kind, or a tokenizer without that token.
    """
    known("baseline", kind, get_args(Baseline))
    ids = target.inputs(document)["input_ids"][0]  # (C, T)
    with torch.no_grad():
        if kind == "zero":
            return torch.zeros_like(target.embeddings(ids))
        content = torch.from_numpy(document.word_index >= 0).to(ids.device)
        return target.embeddings(torch.where(content, target.baseline_id(kind), ids)).detach()


def integrated_gradients(
    target: Target,
    document: EncodedDocument,
    columns: Sequence[int],
    baseline: Baseline = "mask",
    steps: int = 50,
    options: GradientOptions = DEFAULTS,
) -> TokenScores:
    """Integrated gradients, signed: difference from the baseline times the gradient's mean on the straight line to it.

    Sundararajan et al. 2017, equation 1, with Gauss-Legendre points (captum's default rule). Every point of the line is
    encoded once for all codes, several points of a short note in one call.

    Raises:
        HilatError: a completeness gap above the bound; columns, baseline or steps that are not possible.
    """
    _positive("steps", steps)
    note = prepare(target, document, columns, options)
    start = baseline_embeddings(target, document, baseline)  # (C, T, D)
    points, weights = np.polynomial.legendre.leggauss(steps)
    scores, passes = _along(note, note.embeds, start, (points + 1) / 2, weights / 2)
    change = outputs(note, note.embeds) - outputs(note, start)  # (k,)
    gap = _checked_gap(
        note, scores, change, options, f"Raise the number of steps (now {steps}) or take another baseline"
    )
    return TokenScores(scores, True, note.output, gap, passes + 2 * len(note.rows))


def gradient_shap(
    target: Target,
    document: EncodedDocument,
    columns: Sequence[int],
    sampling: ShapSampling = _SAMPLING,
    options: GradientOptions = DEFAULTS,
) -> TokenScores:
    """Gradient SHAP, signed: difference from a baseline times the gradient at a random point between, on average.

    Lundberg and Lee 2017 as in captum's GradientShap: its expectation is integrated gradients averaged over baselines
    (and noise). Captum draws each point anew; here each of n equal parts of the line has one and its mirror
    image in that part, which has the same expectation and far less variance. The completeness gap is to f(x) - mean f(baseline).

    Raises:
        HilatError: a completeness gap above the bound; columns or a baseline that are not possible.
    """
    note = prepare(target, document, columns, options)
    content = torch.from_numpy(document.word_index >= 0).to(note.embeds.device)[..., None]  # (C, T, 1)
    rng = np.random.default_rng(sampling.seed)
    n = sampling.pairs
    total = 2 * n * len(sampling.baselines)
    scores = np.zeros((len(note.columns), *document.input_ids.shape))  # (k, C, T)
    change, passes = outputs(note, note.embeds), len(note.rows)
    for kind in sampling.baselines:
        start = baseline_embeddings(target, document, kind)  # (C, T, D)
        change -= outputs(note, start) / len(sampling.baselines)
        passes += len(note.rows)
        drawn_at = rng.random(n)
        for point in (np.arange(n) + np.stack([drawn_at, 1 - drawn_at])).ravel() / n:
            end = note.embeds
            if sampling.noise:
                drawn = torch.from_numpy(rng.normal(scale=sampling.noise, size=tuple(end.shape)))
                end = end + content * drawn.to(end)
            part, encoded = _along(note, end, start, np.array([point]), np.array([1 / total]))
            scores += part
            passes += encoded
    advice = f"Raise the number of pairs (now {n})" + (" or lower the noise" if sampling.noise else "")
    gap = _checked_gap(note, scores, change, options, advice)
    return TokenScores(scores, True, note.output, gap, passes)


def deep_lift(
    target: Target,
    document: EncodedDocument,
    columns: Sequence[int],
    baseline: Baseline = "mask",
    options: GradientOptions = DEFAULTS,
) -> TokenScores:
    """DeepLIFT, signed: difference from the baseline times the multipliers of `explain.deep_lift`.

    Shrikumar et al. 2017, rescale rule, extended to products, softmax, layer norm and attention, without which it is
    not complete on Transformers. Captum's DeepLift equals this on networks of linear layers and nn.ReLU, nn.Tanh and
    the like. On a label-attention coder it does not: it meets none of its modules in a BERT or XLNet with GELU, so that
    what it returns is the plain gradient times the difference, and its completeness gap there is as large as that one's.
    Where the model uses a nonlinear function without a rule (a maximum over chunks, a recurrent layer), the gap
    shows it, and above the bound it is an error.

    Raises:
        HilatError: a completeness gap above the bound; columns or a baseline that are not possible.
    """
    note = prepare(target, document, columns, options)
    start = baseline_embeddings(target, document, baseline)  # (C, T, D)
    each = partial(_times_difference, note.embeds, start)
    scores, _, passes = reduced(note, note.embeds[None], each, start[None])
    change = outputs(note, note.embeds) - outputs(note, start)  # (k,)
    advice = "The model has steps that DeepLift has no rule for: use integrated_gradients"
    gap = _checked_gap(note, scores, change, options, advice)
    return TokenScores(scores, True, note.output, gap, passes + 2 * len(note.rows))


def _times_difference(end: Tensor, start: Tensor, gradient: Tensor, rows: NDArray[np.int64]) -> Tensor:
    return (gradient * (end[rows] - start[rows]).double()).sum(-1)  # (P, n, T)


def _along(
    note: Note, end: Tensor, start: Tensor, points: NDArray[np.float64], weights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], int]:
    """Scores (k, C, T), weighted sums over points of the line from start (0) to end (1), both (C, T, D); chunks encoded."""
    scores = np.zeros((len(note.columns), *end.shape[:2]))  # (k, C, T)
    difference, passes = end - start, 0
    for first in range(0, len(points), note.points):
        part = slice(first, first + note.points)
        here = torch.stack([start + float(point) * difference for point in points[part]])  # (P, C, T, D)
        weight = torch.from_numpy(weights[part]).to(end.device)[:, None, None]  # (P, 1, 1)

        def reduce(gradient: Tensor, rows: NDArray[np.int64], weight: Tensor = weight) -> Tensor:
            return weight * _times_difference(end, start, gradient, rows)

        found, _, encoded = reduced(note, here, reduce)
        scores += found
        passes += encoded
    return scores, passes


def _checked_gap(
    note: Note, scores: NDArray[np.float64], change: NDArray[np.float64], options: GradientOptions, advice: str
) -> NDArray[np.float64]:
    """The completeness gap (k,); an error above the bound."""
    gap: NDArray[np.float64] = np.abs(scores.sum(axis=(1, 2)) - change) / np.maximum(np.abs(change), _FLOOR)
    wrong = np.flatnonzero(~(gap <= options.bound))
    if len(wrong):
        worst = wrong[np.argmax(gap[wrong])]
        raise HilatError(
            f"the attributions of {len(wrong)} of {len(gap)} codes do not add up; the worst, "
            f"{note.target.codes[note.columns[worst]]}, misses f(x) - f(baseline) = {change[worst]:.3g} by "
            f"{gap[worst]:.2g} of it, expected at most {options.bound:g}. {advice}, or raise the bound"
        )
    return gap


def _positive(what: str, number: int) -> None:
    if number < 1:
        raise HilatError(f"{what} is {number}; expected 1 or more. Change it")

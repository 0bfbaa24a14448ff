"""One note under explanation, for k codes: what the methods share is computed once, when the first of them asks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from explain.attention import global_token_attention
from explain.gradients import Baseline, TokenScores, input_x_gradient, saliency
from explain.note_gradients import GradientOptions, Output
from explain.perturbation import NoteFunction, Removal
from explain.sampling import Pool
from explain.target import FrozenStates, Target
from hilat.encoding import EncodedDocument, outside_words, seen_words, tokens_to_words

Join = Literal["sum", "mean", "max"]


@dataclass(frozen=True, slots=True)
class MethodOptions:
    """What a run of several methods shares.

    join: how a word's score comes from its tokens'; sum is the paper's (Fig. 2 d). output: what gradients and
    perturbation explain. baseline: where path methods start. steps: points of the path; integrated gradients takes up
    to four times as many where the completeness gap asks for it. bound: the completeness gap above which a path method
    is an error; sampled_bound: the same for gradient SHAP, whose gap is that of a sample. removal: what becomes of a removed word. window: words per window of occlusion.
    samples, groups: of LIME and KernelSHAP: perturbed notes, and the most groups of neighbouring words. pool: how many
    changed versions of a chunk these notes are put together from, or more where a chunk has many groups (`explain.sampling`); 0: each note has its own.
    """

    join: Join = "sum"
    output: Output = "logit"
    baseline: Baseline = "mask"
    steps: int = 50
    bound: float = 0.05
    sampled_bound: float = 0.5
    removal: Removal = "mask"
    window: int = 5
    samples: int = 1000
    groups: int = 200
    pool: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        if self.pool:
            Pool(self.pool, ())  # refuses one that is too small


@dataclass(frozen=True, slots=True, eq=False)
class WordScores:
    """Scores (k, W) of one method for the k codes of a subject; words without a token have 0.

    outside (k,): share of the absolute scores that fell on special tokens and padding. completeness_gap (k,): see
    `explain.gradients.TokenScores`; None where nothing is promised. passes: chunks that were encoded for it.
    """

    scores: NDArray[np.float64]
    signed: bool
    target: str
    outside: NDArray[np.float64]
    completeness_gap: NDArray[np.float64] | None = None
    passes: int = 0


class Subject:
    """A note, its model and the columns of the codes to explain, with the states that several methods need.

    target: the model with all K codes. part: the same, of the k codes only. hidden: the encoder's last states (C, T', D) of
    the note, where a prediction has left them.
    """

    def __init__(
        self,
        target: Target,
        document: EncodedDocument,
        text: str,
        columns: Sequence[int],
        options: MethodOptions = MethodOptions(),
        hidden: Tensor | None = None,
    ) -> None:
        self.target = target
        self.document = document
        self.text = text
        self.columns = [int(k) for k in columns]
        self.options = options
        self.hidden = hidden
        self.part = target.restricted(self.columns)

    @property
    def codes(self) -> tuple[str, ...]:
        """The k codes."""
        return self.part.codes

    @property
    def every(self) -> list[int]:
        """The columns of the k codes within `part`."""
        return list(range(len(self.columns)))

    @property
    def chunks(self) -> int:
        """How many chunks the model reads of this note: what one forward pass costs."""
        return int(self.target.chunks_read(self.document.attention_mask[None]).sum())

    @cached_property
    def states(self) -> FrozenStates:
        """One forward pass, frozen: that of the prediction where it left its states."""
        return self.part.frozen(self.document, self.hidden)

    @cached_property
    def token_attention(self) -> NDArray[np.float64]:
        """Equation 2, (k, C, T)."""
        return np.asarray(self.states.token_attention.double().cpu().numpy())

    @cached_property
    def chunk_attention(self) -> NDArray[np.float64]:
        """Equation 6, (k, C)."""
        return np.asarray(self.states.chunk_attention.double().cpu().numpy())

    @cached_property
    def attention(self) -> NDArray[np.float64]:
        """Equation 10, (k, C, T)."""
        return global_token_attention(self.token_attention, self.chunk_attention)

    @cached_property
    def gradient_options(self) -> GradientOptions:
        """The options in the words of `explain.gradients`."""
        return GradientOptions(self.options.output, self.options.bound)

    @cached_property
    def gradient_norm(self) -> TokenScores:
        """L2 norms of the gradients at the embeddings."""
        return saliency(self.part, self.document, self.every, options=self.gradient_options)

    @cached_property
    def input_x_gradient_norm(self) -> TokenScores:
        """L2 norms of embedding times gradient."""
        return input_x_gradient(self.part, self.document, self.every, "l2", self.gradient_options)

    @cached_property
    def seen(self) -> NDArray[np.bool_]:
        """Which words (W,) the model read."""
        return seen_words(self.document)

    @cached_property
    def without(self) -> NoteFunction:
        """The note as a set function of its words, under the options' removal."""
        return NoteFunction(self.part, self.document, self.options.removal)

    def on_words(
        self,
        tokens: NDArray[np.float64],
        signed: bool,
        target: str,
        gap: NDArray[np.float64] | None = None,
        passes: int = 0,
    ) -> WordScores:
        """Word scores from token scores (k, C, T), and the share that fell outside of words."""
        words = tokens_to_words(tokens, self.document, how=self.options.join)  # (k, W)
        total = np.abs(tokens).sum(axis=(1, 2))  # (k,)
        outside = outside_words(np.abs(tokens), self.document)
        share = np.divide(outside, total, out=np.zeros_like(total), where=total > 0)
        return WordScores(words, signed, target, share, gap, passes)

"""What one page shows, as plain strings and numbers: the last type before HTML."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from hilat.admissions import HilatError

Outcome = Literal["FP", "FN", "TP", "TN", "predicted", "not predicted"]
Span = tuple[int, int, str]

_SURROGATE = re.compile("[\ud800-\udfff]")

OUTCOME_ORDER: tuple[Outcome, ...] = ("FP", "FN", "TP", "predicted", "not predicted", "TN")


@dataclass(frozen=True, slots=True)
class Layer:
    """Another method's scores for a code, one per word of the page in its order; signed: below zero speaks against."""

    method: str
    signed: bool
    scores: Sequence[float]


@dataclass(frozen=True, slots=True)
class CueView:
    """Why a code may be wrong. start, end: the matched words in the raw text, -1 for none; the rest is in words."""

    kind: str
    says: str
    start: int = -1
    end: int = -1


@dataclass(frozen=True, slots=True)
class NumberRow:
    """A measure of a code on this admission, method by method; None where it is undefined. up: higher is better."""

    measure: str
    up: bool
    values: tuple[tuple[str, float | None], ...]


@dataclass(frozen=True, slots=True)
class CurveView:
    """A deletion curve: probability (S,) after the share (S,) of the words is gone; its end is the fully masked note."""

    method: str
    fractions: tuple[float, ...]
    probabilities: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class CodeNotes:
    """What is known of a code besides scores. keywords: ranges of description words with the term that matched.

    weak: rightly predicted, with neither a description word nor evidence in the strongest passages.
    """

    keywords: tuple[Span, ...] = ()
    cues: tuple[CueView, ...] = ()
    numbers: tuple[NumberRow, ...] = ()
    curves: tuple[CurveView, ...] = ()
    weak: bool = False


@dataclass(frozen=True, slots=True)
class SectionView:
    """A section [start, end) of the raw text; title as written, "" before the first heading. place: in model order."""

    title: str
    start: int
    end: int
    place: int


@dataclass(frozen=True, slots=True)
class NoteView:
    """Where a note of an admission of several begins in the raw text, and what kind of note it is; "" if unknown."""

    start: int
    kind: str = ""


@dataclass(frozen=True, slots=True)
class CodeView:
    """One code as the page shows it for one admission.

    probability, threshold: 0 to 1. logit: natural-log odds. gold: None where the coders' codes are unknown.
    scores: attention per word of the page, in its order, each >= 0; with special_share (special and padding tokens)
        they sum to 1. Empty when the code is listed without shading. Build gives read-only buffers: as objects of
        their own the numbers of fifty codes cost more time than the rest of the page.
    chunk_attention: one share per chunk; empty when unknown.
    evidence, decoys: (start, end, kind) character ranges in the raw text, sorted; ranges of one code do not overlap.
    layers: other methods, the same for every code that has any.
    """

    code: str
    title: str
    kind: str
    probability: float
    logit: float
    threshold: float
    predicted: bool
    gold: bool | None
    scores: Sequence[float] = ()
    chunk_attention: tuple[float, ...] = ()
    special_share: float = 0.0
    evidence: tuple[Span, ...] = ()
    decoys: tuple[Span, ...] = ()
    layers: tuple[Layer, ...] = ()
    notes: CodeNotes = CodeNotes()

    def __post_init__(self) -> None:
        numbers = (self.probability, self.logit, self.threshold, self.special_share, *self.chunk_attention)
        if not all(math.isfinite(x) for x in numbers):
            raise HilatError(
                f"code {self.code} has a number that is not finite; expected finite numbers; check the model"
            )
        scores = np.asarray(self.scores, dtype=np.float64)  # (W,)
        if scores.size and not (np.isfinite(scores).all() and (scores >= 0).all()):
            raise HilatError(
                f"code {self.code} has attention that is negative or not finite; expected values >= 0; "
                "check the attribution method: only attention can fill words"
            )
        if scores.size and scores.sum() + self.special_share > 1.001:
            raise HilatError(
                f"code {self.code} has attention that sums to {scores.sum() + self.special_share:.4f}; "
                "expected at most 1; pass shares of the code's whole attention"
            )

        for layer in self.layers:
            if not np.isfinite(np.asarray(layer.scores, dtype=np.float64)).all():
                raise HilatError(
                    f"code {self.code} has scores by {layer.method} that are not finite; expected finite numbers; explain "
                    "again, or leave the method out"
                )

    @property
    def outcome(self) -> Outcome:
        """TP, FP, FN or TN; "predicted" or "not predicted" where the coders' codes are unknown."""
        if self.gold is None:
            return "predicted" if self.predicted else "not predicted"
        if self.gold:
            return "TP" if self.predicted else "FN"
        return "FP" if self.predicted else "TN"


@dataclass(frozen=True, slots=True)
class ReportPage:
    """Everything on the page of one admission.

    text: the raw note, LF line ends, no NUL. words: the words that the model read, half-open character ranges in
    raw order. word_chunks: the chunk (from 0) in which each word begins. chunk_words: words per chunk, 0 for an
    empty chunk. unseen: (start, end, reason) of what the model did not read. codes: in the order of the list.
    n_tokens: tokens that belong to words. threshold: how the threshold was chosen. model: which model, which run.
    notes: sentences told under the header. sections: together the whole text, in order; () where it has no headings. previous, next: hadm_id of the neighbours.
    parts: where each note begins, in order, for an admission of several; () for one.
    synthetic: the note was invented, so the page is not protected health information.
    """

    hadm_id: str
    text: str
    words: tuple[tuple[int, int], ...]
    word_chunks: tuple[int, ...]
    chunk_words: tuple[int, ...]
    codes: tuple[CodeView, ...]
    unseen: tuple[Span, ...] = ()
    n_tokens: int = 0
    threshold: str = ""
    model: str = ""
    split: str | None = None
    synthetic: bool = False
    notes: tuple[str, ...] = ()
    sections: tuple[SectionView, ...] = ()
    parts: tuple[NoteView, ...] = ()
    previous: str | None = None
    next: str | None = None

    def __post_init__(self) -> None:
        here = f"the page of admission {self.hadm_id}"
        if not self.hadm_id:
            raise HilatError("a page has an empty hadm_id; every page needs one; fill it from the admission")
        if "\r" in self.text or "\x00" in self.text or _SURROGATE.search(self.text):
            raise HilatError(f"{here} holds CR, NUL or lone surrogates; a browser changes them; use plain_text first")
        marked = sorted([*self.words, *((start, end) for start, end, _ in self.unseen)])
        _check_spans(marked, len(self.text), f"{here}, words and unseen pieces")
        if list(self.words) != sorted(self.words) or list(self.unseen) != sorted(self.unseen):
            raise HilatError(f"{here} has spans out of order; expected raw order; sort words and unseen by start")
        if len(self.word_chunks) != len(self.words):
            raise HilatError(
                f"{here} has {len(self.words)} words and {len(self.word_chunks)} chunk numbers; give one per word"
            )
        if self.word_chunks and not 0 <= min(self.word_chunks) <= max(self.word_chunks) < len(self.chunk_words):
            raise HilatError(f"{here} has a word outside its {len(self.chunk_words)} chunks; count chunks from 0")
        starts = [part.start for part in self.parts]
        if starts != sorted(set(starts)) or any(not 0 <= start < max(1, len(self.text)) for start in starts):
            raise HilatError(
                f"{here} has notes that begin out of order or outside its text; expected raw order; sort them"
            )
        if len({view.code for view in self.codes}) != len(self.codes):
            raise HilatError(f"{here} lists a code twice; expected each code once; check the code book")
        for view in self.codes:
            self._check_code(view, here)

    def _check_code(self, view: CodeView, here: str) -> None:
        if view.scores and len(view.scores) != len(self.words):
            raise HilatError(
                f"{here}, code {view.code}: {len(view.scores)} scores for {len(self.words)} words; give one per word"
            )
        for layer in view.layers:
            if len(layer.scores) != len(self.words):
                raise HilatError(
                    f"{here}, code {view.code}: {len(layer.scores)} scores by {layer.method} for {len(self.words)} words; "
                    "give one per word"
                )
        if view.chunk_attention and len(view.chunk_attention) != len(self.chunk_words):
            raise HilatError(
                f"{here}, code {view.code}: chunk attention of {len(view.chunk_attention)} chunks, "
                f"expected {len(self.chunk_words)}; give one share per chunk"
            )
        for name, spans in (("evidence", view.evidence), ("decoys", view.decoys), ("keywords", view.notes.keywords)):
            ranges = [(start, end) for start, end, _ in spans]
            _check_spans(ranges, len(self.text), f"{here}, {name} of code {view.code}")

    def count(self, outcome: Outcome) -> int:
        """How many codes of the page have this outcome."""
        return sum(view.outcome == outcome for view in self.codes)

    @property
    def methods(self) -> tuple[tuple[str, bool], ...]:
        """(name, signed) of the methods besides attention that any code has."""
        return tuple(dict.fromkeys((layer.method, layer.signed) for view in self.codes for layer in view.layers))

    @property
    def reordered(self) -> bool:
        """Whether the model read the sections in another order than the note has them."""
        places = [section.place for section in self.sections if section.place >= 0]
        return places != sorted(places)

    @property
    def gold_known(self) -> bool:
        """Whether the coders' codes are known for every code of the page."""
        return all(view.gold is not None for view in self.codes)


def _check_spans(spans: Sequence[tuple[int, int]], length: int, where: str) -> None:
    """Raise HilatError unless the spans are sorted, inside [0, length] and do not overlap."""
    last = 0
    for start, end in spans:
        if not last <= start < end <= length:
            raise HilatError(
                f"{where}: span ({start}, {end}) is empty, out of order, overlapping or outside the text of {length} "
                "characters; expected sorted ranges that do not overlap; merge or sort them"
            )
        last = end

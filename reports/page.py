"""What one page shows, as plain strings and numbers: the last type before HTML."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hilat.admissions import Admission, CodeBook, EvidenceSpan, HilatError

Outcome = Literal["FP", "FN", "TP", "TN", "predicted", "not predicted"]
Span = tuple[int, int, str]

OUTCOME_ORDER: tuple[Outcome, ...] = ("FP", "FN", "TP", "predicted", "not predicted", "TN")
AFTER_LAST_CHUNK = "after the last chunk"
NO_ROOM = "no room in its chunk, or no token"


@dataclass(frozen=True, slots=True)
class CodeView:
    """One code as the page shows it for one admission.

    probability, threshold: 0 to 1. logit: natural-log odds. gold: None where the coders' codes are unknown.
    scores: attention per word of the page, in its order, each >= 0; with special_share (special and padding tokens)
        they sum to 1. Empty when the code is listed without shading.
    chunk_attention: one share per chunk; empty when unknown.
    evidence, decoys: (start, end, kind) character ranges in the raw text, sorted; ranges of one code do not overlap.
    """

    code: str
    title: str
    kind: str
    probability: float
    logit: float
    threshold: float
    predicted: bool
    gold: bool | None
    scores: tuple[float, ...] = ()
    chunk_attention: tuple[float, ...] = ()
    special_share: float = 0.0
    evidence: tuple[Span, ...] = ()
    decoys: tuple[Span, ...] = ()

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
    notes: sentences told under the header. previous, next: hadm_id of the neighbours.
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
    previous: str | None = None
    next: str | None = None

    def __post_init__(self) -> None:
        here = f"the page of admission {self.hadm_id}"
        if not self.hadm_id:
            raise HilatError("a page has an empty hadm_id; every page needs one; fill it from the admission")
        if "\r" in self.text or "\x00" in self.text or any("\ud800" <= c <= "\udfff" for c in self.text):
            raise HilatError(f"{here} holds CR, NUL or lone surrogates; a browser changes them; use plain_text first")
        marked = sorted([*self.words, *((start, end) for start, end, _ in self.unseen)])
        _check_spans(marked, len(self.text), f"{here}, words and unseen pieces")
        if list(self.words) != sorted(self.words) or list(self.unseen) != sorted(self.unseen):
            raise HilatError(f"{here} has spans out of order; expected raw order; sort words and unseen by start")
        if len(self.word_chunks) != len(self.words):
            raise HilatError(
                f"{here} has {len(self.words)} words and {len(self.word_chunks)} chunk numbers; give one per word"
            )
        if any(not 0 <= chunk < len(self.chunk_words) for chunk in self.word_chunks):
            raise HilatError(f"{here} has a word outside its {len(self.chunk_words)} chunks; count chunks from 0")
        if len({view.code for view in self.codes}) != len(self.codes):
            raise HilatError(f"{here} lists a code twice; expected each code once; check the code book")
        for view in self.codes:
            self._check_code(view, here)

    def _check_code(self, view: CodeView, here: str) -> None:
        if view.scores and len(view.scores) != len(self.words):
            raise HilatError(
                f"{here}, code {view.code}: {len(view.scores)} scores for {len(self.words)} words; give one per word"
            )
        if view.chunk_attention and len(view.chunk_attention) != len(self.chunk_words):
            raise HilatError(
                f"{here}, code {view.code}: chunk attention of {len(view.chunk_attention)} chunks, "
                f"expected {len(self.chunk_words)}; give one share per chunk"
            )
        for name, spans in (("evidence", view.evidence), ("decoys", view.decoys)):
            ranges = [(start, end) for start, end, _ in spans]
            _check_spans(ranges, len(self.text), f"{here}, {name} of code {view.code}")

    def count(self, outcome: Outcome) -> int:
        """How many codes of the page have this outcome."""
        return sum(view.outcome == outcome for view in self.codes)

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


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """What the model read of a note.

    word_spans: (W, 2) raw offsets of the clean words in model order. word_chunk: (W,) the chunk in which each begins, -1
    for a word the model did not read. chunks: C. n_tokens: tokens that belong to words. removed_spans: (R, 2) raw offsets
    of what cleaning dropped, removed_reasons one each.
    """

    word_spans: NDArray[np.int64]
    word_chunk: NDArray[np.int64]
    chunks: int
    n_tokens: int
    removed_spans: NDArray[np.int64]
    removed_reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Outputs:
    """What the model said of a note, rows in code-book order.

    logits, probabilities, thresholds: (K,). chunk_attention: (K, C), or None from a model that has none.
    word_attention: for each code to be shaded, (W,) shares of the code's attention per clean word in model order (what
    is missing to 1 fell on special tokens).
    """

    logits: NDArray[np.float64]
    probabilities: NDArray[np.float64]
    thresholds: NDArray[np.float64]
    chunk_attention: NDArray[np.float64] | None
    word_attention: Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class RunLabel:
    """What is the same on every page of a run: model, how the threshold was chosen, synthetic notes or patients'."""

    model: str
    threshold: str
    synthetic: bool = False
    notes: tuple[str, ...] = ()


def build_page(
    admission: Admission,
    code_book: CodeBook,
    reading: Reading,
    outputs: Outputs,
    run: RunLabel,
    *,
    gold_known: bool = True,
) -> ReportPage:
    """The page of one admission, codes in the order FP, FN, TP, TN and by falling probability within each.

    gold_known: False for a note whose codes nobody gave yet (outcomes are then "predicted", "not predicted").

    Raises:
        HilatError: arrays that do not fit together, or spans outside the text.
    """
    n_words, n_codes = len(reading.word_spans), len(code_book)
    shapes = {"logits": len(outputs.logits), "probabilities": len(outputs.probabilities)}
    shapes["thresholds"] = len(outputs.thresholds)
    if outputs.chunk_attention is not None:
        shapes["chunk_attention"] = len(outputs.chunk_attention)
    for name, length in shapes.items():
        if length != n_codes:
            raise HilatError(f"{name} has {length} rows; the code book has {n_codes} codes; give one row per code")
    chunk_of = reading.word_chunk  # (W,)
    seen = np.flatnonzero(chunk_of >= 0)
    order = seen[np.argsort(reading.word_spans[seen, 0], kind="stable")]  # raw order, (W_seen,)
    gold = set(admission.codes)
    views = []
    for k, code in enumerate(code_book.codes):
        attention = outputs.word_attention.get(code)
        if attention is not None and attention.shape != (n_words,):
            raise HilatError(
                f"attention of code {code} has shape {attention.shape}; expected ({n_words},), one per word"
            )
        scores = () if attention is None else tuple(attention[order].tolist())
        views.append(
            CodeView(
                code=code,
                title=code_book.titles[k],
                kind=code_book.kinds[k],
                probability=float(outputs.probabilities[k]),
                logit=float(outputs.logits[k]),
                threshold=float(outputs.thresholds[k]),
                predicted=bool(outputs.probabilities[k] >= outputs.thresholds[k]),
                gold=(code in gold) if gold_known else None,
                scores=scores,
                chunk_attention=() if outputs.chunk_attention is None else tuple(outputs.chunk_attention[k].tolist()),
                special_share=max(0.0, 1.0 - sum(scores)) if scores else 0.0,
                evidence=_merged(admission.evidence, code),
                decoys=_merged(admission.decoys, code),
            )
        )
    return ReportPage(
        hadm_id=admission.hadm_id,
        text=admission.text,
        words=tuple((int(s), int(e)) for s, e in reading.word_spans[order]),
        word_chunks=tuple(chunk_of[order].tolist()),
        chunk_words=tuple(np.bincount(chunk_of[order], minlength=reading.chunks).tolist()),
        codes=tuple(sorted(views, key=lambda v: (OUTCOME_ORDER.index(v.outcome), -v.probability, v.code))),
        unseen=_unseen(reading, chunk_of),
        n_tokens=reading.n_tokens,
        threshold=run.threshold,
        model=run.model,
        split=admission.split,
        synthetic=run.synthetic,
        notes=run.notes,
    )


def _unseen(reading: Reading, chunk_of: NDArray[np.int64]) -> tuple[Span, ...]:
    """Removed pieces and truncated words with their reason, in raw order; a piece inside a word stays with the word."""
    if len(reading.removed_reasons) != len(reading.removed_spans):
        raise HilatError(
            f"{len(reading.removed_spans)} removed pieces and {len(reading.removed_reasons)} reasons; "
            "expected one reason per piece; pass both from the same cleaning"
        )
    last_seen = int(np.flatnonzero(chunk_of >= 0).max(initial=-1))
    out = [
        (int(s), int(e), AFTER_LAST_CHUNK if w > last_seen else NO_ROOM)
        for w, (s, e) in enumerate(reading.word_spans)
        if chunk_of[w] < 0
    ]
    by_start = reading.word_spans[np.argsort(reading.word_spans[:, 0], kind="stable")]  # (W, 2)
    for (start, end), reason in zip(reading.removed_spans.tolist(), reading.removed_reasons, strict=True):
        before = int(np.searchsorted(by_start[:, 0], end))  # words that begin before the piece ends
        if start < end and (before == 0 or by_start[before - 1, 1] <= start):
            out.append((start, end, reason))
    return tuple(sorted(out))


def _merged(spans: Sequence[EvidenceSpan], code: str) -> tuple[Span, ...]:
    """The segments of a code's spans, sorted; overlapping ones joined and their kinds listed."""
    segments = sorted((start, end, span.kind) for span in spans if span.code == code for start, end in span.segments)
    out: list[Span] = []
    for start, end, kind in segments:
        if out and start < out[-1][1]:
            kinds = out[-1][2].split(", ")
            joined = kinds if kind in kinds else [*kinds, kind]
            out[-1] = (out[-1][0], max(end, out[-1][1]), ", ".join(joined))
        else:
            out.append((start, end, kind))
    return tuple(out)

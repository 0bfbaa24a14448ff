"""From what the model read and said to the page of an admission."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hilat.admissions import Admission, CodeBook, EvidenceSpan, HilatError
from hilat.sections import find_sections
from reports.page import OUTCOME_ORDER, CodeNotes, CodeView, Layer, NoteView, ReportPage, SectionView, Span

AFTER_LAST_CHUNK = "after the last chunk"
NO_ROOM = "no room in its chunk, or no token"


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
    is missing to 1 fell on special tokens). layers: other methods, (name, signed, code -> (W,)).
    """

    logits: NDArray[np.float64]
    probabilities: NDArray[np.float64]
    thresholds: NDArray[np.float64]
    chunk_attention: NDArray[np.float64] | None
    word_attention: Mapping[str, NDArray[np.float64]]
    layers: tuple[tuple[str, bool, Mapping[str, NDArray[np.float64]]], ...] = ()
    notes: Mapping[str, CodeNotes] = field(default_factory=dict)


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
        scores = () if attention is None else _buffer(attention[order])
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
                special_share=max(0.0, 1.0 - float(attention[order].sum())) if attention is not None else 0.0,
                evidence=_merged(admission.evidence, code),
                decoys=_merged(admission.decoys, code),
                layers=tuple(
                    Layer(name, signed, _buffer(given[code][order]))
                    for name, signed, given in outputs.layers
                    if code in given
                ),
                notes=outputs.notes.get(code, CodeNotes()),
            )
        )
    return ReportPage(
        hadm_id=admission.hadm_id,
        text=admission.text,
        words=tuple((s, e) for s, e in reading.word_spans[order].tolist()),
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
        sections=_sections(admission.text, reading),
        parts=_parts(admission),
    )


def _buffer(values: NDArray[np.float64]) -> Sequence[float]:
    """The numbers (W,) as a read-only sequence."""
    return np.ascontiguousarray(values, dtype=np.float64).data.toreadonly()


def _sections(text: str, reading: Reading) -> tuple[SectionView, ...]:
    """The sections of the note, placed by where their first word stands for the model; none without a heading."""
    found = find_sections(text)
    if len(found) < 2:
        return ()
    starts = reading.word_spans[:, 0]
    first = [np.flatnonzero((starts >= s.start) & (starts < s.end))[:1] for s in found]
    ranks = sorted(int(f[0]) for f in first if len(f))
    places = [ranks.index(int(f[0])) if len(f) else -1 for f in first]
    return tuple(SectionView(s.title, s.start, s.end, place) for s, place in zip(found, places, strict=True))


def _parts(admission: Admission) -> tuple[NoteView, ...]:
    """Where the notes of an admission of several begin; none for one note."""
    if len(admission.notes) < 2:
        return ()
    kinds = (" · ".join(filter(None, (note.category.strip(), note.description.strip()))) for note in admission.notes)
    return tuple(NoteView(note.start, kind) for note, kind in zip(admission.notes, kinds, strict=True))


def _unseen(reading: Reading, chunk_of: NDArray[np.int64]) -> tuple[Span, ...]:
    """Removed pieces and truncated words with their reason, in raw order; a piece inside a word stays with the word."""
    if len(reading.removed_reasons) != len(reading.removed_spans):
        raise HilatError(
            f"{len(reading.removed_spans)} removed pieces and {len(reading.removed_reasons)} reasons; "
            "expected one reason per piece; pass both from the same cleaning"
        )
    last_seen = int(np.flatnonzero(chunk_of >= 0).max(initial=-1))
    missed = np.flatnonzero(chunk_of < 0)
    out = [
        (s, e, AFTER_LAST_CHUNK if w > last_seen else NO_ROOM)
        for w, (s, e) in zip(missed.tolist(), reading.word_spans[missed].tolist(), strict=True)
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

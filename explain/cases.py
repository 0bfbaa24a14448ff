"""One code of one admission as a reviewer meets it: where the explanation points, how it looks, and cues why it may be wrong."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from explain.cues import CUES, CaseOptions, Cue, Passage, code_cues, context_cues, place_cues, profile_cues
from explain.keyword_rows import note_matches
from explain.keywords import TIERS, KeywordMatches, KeywordSet
from explain.rows import outcome_of
from explain.sentences import Ranges, sentences_near
from explain.snippets import breaks_of, snippets, words_for_half
from explain.table import Explained
from hilat.admissions import Admission, CodeBook, HilatError
from hilat.sections import Section, find_sections


@dataclass(frozen=True, slots=True)
class Case:
    """A (note, code) pair for review. Probabilities 0 to 1; profile: name of FEATURES -> number, NaN where undefined.

    keywords: raw ranges of all description words of the note, with the term that matched and its tier.
    weak: a true positive whose strong passages hold neither a description word nor evidence.
    """

    hadm_id: str
    code: str
    outcome: str
    probability: float
    threshold: float
    passages: tuple[Passage, ...]
    cues: tuple[Cue, ...]
    profile: Mapping[str, float]
    weak: bool
    keywords: tuple[tuple[int, int, str], ...] = ()

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of cues of this case, each once, in the order of CUES."""
        there = {cue.kind for cue in self.cues}
        return tuple(kind for kind in CUES if kind in there)


# What a case's profile holds; numbers that an error may be told by.
FEATURES: dict[str, str] = {
    "margin": "probability minus threshold",
    "top_share": "share of the scores on the strongest passage",
    "half_words": "words that hold half of the scores",
    "outside_words": "share of the attention on special and padding tokens",
    "entropy": "entropy of the scores over words, over that of even ones",
    "keyword_share": "share of the scores on description words",
    "keyword_lift": "the same over the share of such words in the note",
    "evidence_share": "share of the scores on the coders' evidence",
}


@dataclass(frozen=True, slots=True, eq=False)
class _Note:
    """What all codes of a note share. order (W,): words in text order. sentences: of `explain.sentences.sentences_near`."""

    one: Explained
    admission: Admission
    order: NDArray[np.int64]
    sentences: Callable[[Iterable[int]], Ranges]
    sections: tuple[Section, ...]
    predicted: tuple[str, ...]


def find_cases(
    one: Explained,
    admission: Admission,
    keywords: Mapping[str, KeywordSet],
    book: CodeBook,
    options: CaseOptions = CaseOptions(),  # noqa: B008 (frozen)
    method: str = "attention",
) -> list[Case]:
    """The cases of the codes that were explained, in their order; passages and profile by the named method.

    Raises:
        HilatError: a method that the explanations do not hold.
    """
    if one.scored and method not in one.methods:
        raise HilatError(
            f"admission {one.hadm_id} has no explanations by {method!r}; it has {', '.join(one.methods)}. Choose one of them"
        )
    predicted = tuple(c for c, p, t in zip(one.codes, one.probabilities, one.thresholds, strict=True) if p >= t)
    note = _Note(
        one,
        admission,
        np.argsort(one.word_spans[:, 0], kind="stable"),
        sentences_near(admission.text, options.language),
        find_sections(admission.text),
        predicted,
    )
    return [_case(note, i, keywords[code], book, options, method) for i, code in enumerate(one.scored)]


def _case(note: _Note, i: int, keywords: KeywordSet, book: CodeBook, options: CaseOptions, method: str) -> Case:
    one, code = note.one, note.one.scored[i]
    k = one.codes.index(code)
    words = one.methods[method]
    seen = one.word_chunk[note.order] >= 0
    order = note.order[seen]
    scores = np.maximum(words.scores[i, order], 0.0)
    spans = one.word_spans[order]
    matches = note_matches(one, note.admission.text, keywords)
    matched = matches.words()
    evidence = _touched(spans, [s for e in note.admission.evidence if e.code == code for s in e.segments])
    passages = _passages(note.sections, scores, spans, (matched[order], evidence), options.passages)
    near = note.sentences(passage.peak[0] for passage in passages)
    outcome = outcome_of(
        bool(one.probabilities[k] >= one.thresholds[k]), None if one.gold is None else bool(one.gold[k])
    )
    profile = _profile(scores, matched[order], evidence, float(words.outside[i]))
    profile["margin"] = float(one.probabilities[k] - one.thresholds[k])
    profile["top_share"] = passages[0].share if passages else math.nan
    supported = any(p.keywords or p.on_evidence for p in passages)
    unread = bool(matched[one.word_chunk < 0].any())
    return Case(
        one.hadm_id,
        code,
        outcome,
        float(one.probabilities[k]),
        float(one.thresholds[k]),
        passages,
        (
            *context_cues(note.admission.text, passages, near, options.language, options.backend, book.title(code)),
            *place_cues(note.admission.text, passages, near),
            *code_cues(code, outcome, book, (note.admission.codes, note.predicted), options.rules),
            *profile_cues(profile, passages, (bool(keywords.terms), bool(evidence.any()), unread), options),
        ),
        profile,
        outcome == "TP" and not supported,
        _found_keywords(one, matches),
    )


def _found_keywords(one: Explained, matches: KeywordMatches) -> tuple[tuple[int, int, str], ...]:
    """Raw ranges of the description words, in text order, each with its term and tier."""
    terms = matches.keyword_set.terms
    return tuple(
        sorted(
            (int(one.word_spans[w, 0]), int(one.word_spans[w, 1]), f"{' '.join(terms[matches.term[w]].words)} ({TIERS[int(matches.tier[w])]})")
            for w in np.flatnonzero(matches.words())
        )
    )  # fmt: skip


def _passages(
    sections: Sequence[Section],
    scores: NDArray[np.float64],
    spans: NDArray[np.int64],
    marks: tuple[NDArray[np.bool_], NDArray[np.bool_]],
    count: int,
) -> tuple[Passage, ...]:
    """The strongest passages; marks: (W,) description words, words on evidence. Shares are of the scores on words."""
    keyword, evidence = marks
    total = float(scores.sum())
    starts = [section.start for section in sections]
    found = []
    for s in snippets(scores, breaks_of(spans), count=count):
        here = slice(s.first, s.last + 1)
        runs = [(int(a), int(b)) for a, b in spans[here][keyword[here]]]
        peak = (int(spans[s.peak, 0]), int(spans[s.peak, 1]))
        name = sections[max(0, bisect_right(starts, peak[0]) - 1)].name if sections else ""
        found.append(
            Passage(int(spans[s.first, 0]), int(spans[s.last, 1]), peak, s.share / total, name, tuple(runs), bool(evidence[here].any()))
        )  # fmt: skip
    return tuple(found)


def _profile(
    scores: NDArray[np.float64], keyword: NDArray[np.bool_], evidence: NDArray[np.bool_], outside: float
) -> dict[str, float]:
    """Numbers of FEATURES that come from the scores (W,) of the words that were read."""
    total, n = float(scores.sum()), len(scores)
    share = scores / total if total > 0 else np.full(n, math.nan)
    positive = share[share > 0]
    on_words = float(share[keyword].sum()) if keyword.any() and total > 0 else math.nan
    return {
        "half_words": float(words_for_half(scores)) if total > 0 else math.nan,
        "outside_words": outside,
        "entropy": float(-(positive * np.log(positive)).sum() / math.log(n)) if n > 1 and total > 0 else math.nan,
        "keyword_share": on_words,
        "keyword_lift": on_words / float(keyword.mean()) if keyword.any() else math.nan,
        "evidence_share": float(share[evidence].sum()) if evidence.any() and total > 0 else math.nan,
    }


def _touched(spans: NDArray[np.int64], segments: Sequence[tuple[int, int]]) -> NDArray[np.bool_]:
    """(W,): words that touch one of the character ranges."""
    found = np.zeros(len(spans), dtype=bool)
    for start, end in segments:
        found |= (spans[:, 0] < end) & (spans[:, 1] > start)
    return found

"""The strongest passages of every method on one code, side by side."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from explain.snippets import runs, strongest
from reports.highlight import Words, touching, words_of
from reports.page import CodeView, ReportPage

TOP = 10  # passages per method
LISTED = 6  # of attention, in the evidence list
WIDEST = 13  # words of a passage at most


class PassageRow(NamedTuple):
    """Words first..last around a peak. by: for attention and each layer the rank (from 1) of its best word here and the
    share of its positive scores. section: index of the page's sections, -1 without. keyword, evidence: touched or not."""

    first: int
    last: int
    peak: int
    by: tuple[tuple[int, float], ...]
    section: int
    keyword: bool
    evidence: bool


@dataclass(frozen=True, slots=True, eq=False)
class Ranked:
    """A method's scores on a code, (W,), the same numbers sorted, and its strongest words, as many as passages ask for."""

    scores: NDArray[np.float64]
    rising: NDArray[np.float64]
    highest: NDArray[np.int64]


def ranked(view: CodeView) -> tuple[Ranked, ...]:
    """The scores of a code sorted once for all that is asked of them: attention's, where it has any, then the layers'."""
    out = []
    for given in _scores_of(view):
        scores = np.asarray(given, dtype=np.float64)
        rising = np.sort(scores)
        out.append(Ranked(scores, rising, strongest(scores, TOP * WIDEST, rising)))
    return tuple(out)


def _scores_of(view: CodeView) -> list[Sequence[float]]:
    """The scores of every method: attention's, where there are any, then the layers'."""
    return [*([view.scores] if view.scores else []), *(layer.scores for layer in view.layers)]


def passage_rows(
    view: CodeView, page: ReportPage, words: Words | None = None, methods: Sequence[Ranked] | None = None
) -> tuple[PassageRow, ...]:
    """The union of each method's ten strongest passages: attention's first, in its order, then the others'.

    A method's passage whose peak lies in one already listed is that one. words: `words_of` the page, and methods: `ranked`
    the view, for who has them already.
    """
    words = words_of(page) if words is None else words
    methods = ranked(view) if methods is None else methods
    ranges: list[tuple[int, int, int]] = []
    listed = bytearray(len(words.breaks))
    count = LISTED if len(methods) == 1 else TOP
    for method in methods:
        found = runs(method.scores, words.breaks, count=count, highest=method.highest)
        new = [run for run in found if not listed[run[2]]]  # a method's runs are disjoint
        for first, last, _ in new:
            listed[first : last + 1] = b"\x01" * (last + 1 - first)
        ranges += new
    if not ranges:
        return ()
    starts = [section.start for section in page.sections]
    marked = (view.notes.keywords, view.evidence)
    keywords, evidence = (touching(words.bounds, spans).tobytes() if spans else b"" for spans in marked)
    return tuple(
        PassageRow(
            first,
            last,
            peak,
            by,
            bisect_right(starts, page.words[peak][0]) - 1,
            keyword=1 in keywords[first : last + 1],
            evidence=1 in evidence[first : last + 1],
        )
        for (first, last, peak), by in zip(ranges, _places(methods, np.array(ranges)), strict=True)
    )


def strongest_passage(view: CodeView, breaks: bytes) -> tuple[int, int, int] | None:
    """First word, last word and peak of the first of a code's passages, None without any; breaks: of the page's words."""
    for scores in _scores_of(view):
        if found := runs(np.asarray(scores, dtype=np.float64), breaks, count=1):
            return found[0]
    return None


def _places(methods: Sequence[Ranked], bounds: NDArray[np.int64]) -> list[tuple[tuple[int, float], ...]]:
    """For each passage of bounds (P, 3), for each method, the rank of its best word, from 1 with equal scores in text order,
    and its share of the total.

    The first method is attention, whose scores are shares already; of the others, scores below zero count as 0.
    """
    first, last = bounds[:, 0], bounds[:, 1]  # (P,)
    offsets = np.arange(int((last - first).max()) + 1)
    words = np.minimum(first[:, None] + offsets, last[:, None])  # (P, L): of each passage, its last one again
    columns = []
    for n, method in enumerate(methods):
        scores, rising = (np.maximum(x, 0.0) if n else x for x in (method.scores, method.rising))  # (W,)
        ranks = _ranks(scores, rising, first + scores[words].argmax(axis=1))
        sums = np.zeros(len(scores) + 1)
        scores.cumsum(out=sums[1:])
        total = 1.0 if n == 0 else float(scores.sum())
        shares = (sums[last + 1] - sums[first]) / (total if total > 0 else 1.0)  # (P,)
        columns.append(zip(ranks, shares.tolist(), strict=True))
    return list(zip(*columns, strict=True))


def _ranks(scores: NDArray[np.float64], rising: NDArray[np.float64], words: NDArray[np.int64]) -> list[int]:
    """The ranks (P,) of words among scores (W,), which are sorted in rising."""
    values = scores[words]  # (P,)
    upto = rising.searchsorted(values, side="right")  # (P,): words of at most this score
    ties = upto - rising.searchsorted(values, side="left")  # (P,)
    ranks: list[int] = (len(scores) + 1 - upto).tolist()
    if ties.max() > 1:
        for i in np.flatnonzero(ties > 1).tolist():
            ranks[i] += int(np.count_nonzero(scores[: words[i]] == values[i]))
    return ranks


def overlap_at(view: CodeView, k: int = 20, highest: Iterable[NDArray[np.int64]] | None = None) -> Sequence[float]:
    """For each layer the share of attention's k highest words that are among its k highest.

    highest: the `strongest` k words or more of attention and of each layer, for who has them already.
    """
    if not view.scores or not view.layers:
        return []
    if highest is None:
        highest = [strongest(np.asarray(scores, dtype=np.float64), k) for scores in _scores_of(view)]
    first, *others = (set(words[:k].tolist()) for words in highest)
    return [len(first & top) / max(1, min(k, len(view.scores))) for top in others]

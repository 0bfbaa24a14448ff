"""The strongest passages of every method on one code, side by side."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from explain.snippets import breaks_of, runs, strongest
from reports.highlight import touching
from reports.page import CodeView, ReportPage

TOP = 10  # passages per method
LISTED = 6  # of attention, in the evidence list


@dataclass(frozen=True, slots=True)
class PassageRow:
    """Words first..last around a peak. by: for attention and each layer the rank (from 1) of its best word here and the
    share of its positive scores. section: index of the page's sections, -1 without. keyword, evidence: touched or not."""

    first: int
    last: int
    peak: int
    by: tuple[tuple[int, float], ...]
    section: int
    keyword: bool
    evidence: bool


def passage_rows(view: CodeView, page: ReportPage, breaks: bytes | None = None) -> tuple[PassageRow, ...]:
    """The union of each method's ten strongest passages: attention's first, in its order, then the others'.

    A method's passage whose peak lies in one already listed is that one. breaks: `breaks_of` the page's words, for who has
    them already.
    """
    breaks = breaks_of(page.words) if breaks is None else breaks
    methods = [np.asarray(view.scores, dtype=np.float64)] if view.scores else []
    methods += [np.maximum(np.asarray(layer.scores, dtype=np.float64), 0.0) for layer in view.layers]
    ranges: list[tuple[int, int, int]] = []
    listed = bytearray(len(breaks))
    for n, scores in enumerate(methods):
        count = LISTED if n == 0 and len(methods) == 1 else TOP
        new = [run for run in runs(scores, breaks, count=count) if not listed[run[2]]]  # a method's runs are disjoint
        for first, last, _ in new:
            listed[first : last + 1] = b"\x01" * (last + 1 - first)
        ranges += new
    by = [_places(scores, ranges, total=1.0 if n == 0 else float(scores.sum())) for n, scores in enumerate(methods)]
    starts = [section.start for section in page.sections]
    rows = []
    for (first, last, peak), *places in zip(ranges, *by, strict=True):
        section = bisect_right(starts, page.words[peak][0]) - 1
        words = page.words[first : last + 1]
        keyword, evidence = (bool(s) and bool(touching(words, s).any()) for s in (view.notes.keywords, view.evidence))
        rows.append(PassageRow(first, last, peak, tuple(places), section, keyword, evidence))
    return tuple(rows)


def _places(
    scores: NDArray[np.float64], ranges: Sequence[tuple[int, int, int]], total: float
) -> list[tuple[int, float]]:
    """For each range the rank of its best word, from 1 with equal scores in text order, and its share of the total.

    total: 1 for attention, whose scores (W,) are shares already.
    """
    if not ranges:
        return []
    bounds = np.array(ranges)  # (P, 3)
    widest = int((bounds[:, 1] - bounds[:, 0]).max())
    words = np.minimum(
        bounds[:, :1] + np.arange(widest + 1), bounds[:, 1:2]
    )  # (P, L): of each range, its last one again
    best = bounds[:, 0] + scores[words].argmax(axis=1)  # (P,)
    ordered = np.sort(scores)
    upto = np.searchsorted(ordered, scores[best], side="right")  # (P,): words of at most this score
    ties = upto - np.searchsorted(ordered, scores[best], side="left")  # (P,)
    ranks = [
        1 + len(scores) - n + (int(np.count_nonzero(scores[:w] == scores[w])) if tied > 1 else 0)
        for w, n, tied in zip(best.tolist(), upto.tolist(), ties.tolist(), strict=True)
    ]
    sums = np.concatenate([[0.0], np.cumsum(scores)])  # (W + 1,)
    shares = (sums[bounds[:, 1] + 1] - sums[bounds[:, 0]]) / (total if total > 0 else 1.0)  # (P,)
    return list(zip(ranks, shares.tolist(), strict=True))


def overlap_at(view: CodeView, k: int = 20) -> Sequence[float]:
    """For each layer the share of attention's k highest words that are among its k highest."""
    if not view.scores:
        return []
    first, *others = (
        set(strongest(np.asarray(scores, dtype=np.float64), k).tolist())
        for scores in (view.scores, *(layer.scores for layer in view.layers))
    )
    return [len(first & top) / max(1, min(k, len(view.scores))) for top in others]

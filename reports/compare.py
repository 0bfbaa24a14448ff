"""The strongest passages of every method on one code, side by side."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from explain.snippets import snippets
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


def passage_rows(view: CodeView, page: ReportPage) -> tuple[PassageRow, ...]:
    """The union of each method's ten strongest passages: attention's first, in its order, then the others'.

    A method's passage whose peak lies in one already listed is that one.
    """
    methods = [np.asarray(view.scores, dtype=np.float64)] if view.scores else []
    methods += [np.maximum(np.asarray(layer.scores, dtype=np.float64), 0.0) for layer in view.layers]
    ranges: list[tuple[int, int, int]] = []
    for n, scores in enumerate(methods):
        count = LISTED if n == 0 and len(methods) == 1 else TOP
        for s in snippets(scores, page.words, count=count):
            if not any(first <= s.peak <= last for first, last, _ in ranges):
                ranges.append((s.first, s.last, s.peak))
    ranks, totals = [_ranks(scores) for scores in methods], [_total(n, scores) for n, scores in enumerate(methods)]
    keyword, evidence = touching(page.words, view.notes.keywords), touching(page.words, view.evidence)
    starts = [section.start for section in page.sections]
    rows = []
    for first, last, peak in ranges:
        here = slice(first, last + 1)
        by = tuple(
            (int(rank[here].min()), float(scores[here].sum() / total) if total > 0 else 0.0)
            for rank, scores, total in zip(ranks, methods, totals, strict=True)
        )
        section = bisect_right(starts, page.words[peak][0]) - 1
        rows.append(PassageRow(first, last, peak, by, section, bool(keyword[here].any()), bool(evidence[here].any())))
    return tuple(rows)


def _total(number: int, scores: NDArray[np.float64]) -> float:
    """Attention's scores are shares already; those of other methods are not."""
    return 1.0 if number == 0 else float(scores.sum())


def _ranks(scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """The rank of every word from 1, equal scores in text order, (W,)."""
    ranks = np.empty(len(scores), dtype=np.int64)
    ranks[np.argsort(-scores, kind="stable")] = np.arange(1, len(scores) + 1)
    return ranks


def overlap_at(view: CodeView, k: int = 20) -> Sequence[float]:
    """For each layer the share of attention's k highest words that are among its k highest."""
    if not view.scores:
        return []
    first = set(np.argsort(-np.asarray(view.scores), kind="stable")[:k].tolist())
    tops = [set(np.argsort(-np.asarray(layer.scores), kind="stable")[:k].tolist()) for layer in view.layers]
    return [len(first & top) / max(1, min(k, len(view.scores))) for top in tops]

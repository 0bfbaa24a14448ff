"""Passages of several methods side by side, and the overlap of their highest words, against slow loops."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from explain.snippets import breaks_of
from reports.compare import LISTED, TOP, overlap_at, passage_rows, ranked, strongest_passage
from reports.page import CodeNotes, CodeView, Layer, ReportPage, SectionView

PageMaker = Callable[..., ReportPage]
REACH, GAP, HIDE = 6, 60, 32


def text_with_gaps(seed: int, words: int = 160) -> str:
    """Words, some numbers that the model does not see, and now and then a run of them longer than a phrase's gap."""
    rng = np.random.default_rng(seed)
    parts = []
    for n in range(words):
        parts.append(f"w{chr(97 + n % 26)}{n}")
        draw = rng.random()
        parts += ["12"] if draw < 0.2 else ["1"] * 40 if draw < 0.24 else []
    return " ".join(parts)


def slow_passages(scores: Sequence[float], words: Sequence[tuple[int, int]], count: int) -> list[tuple[int, int, int]]:
    """(first, last, peak): the highest free word that is shown, widened word by word, as often as asked."""
    free, most, found = set(range(len(scores))), max(scores, default=0.0), []
    while len(found) < count and free:
        peak = min(free, key=lambda w: (-scores[w], w))
        if most <= 0 or scores[peak] <= 0 or round(255 * math.sqrt(scores[peak] / most)) < HIDE:
            break
        first = last = peak
        while first - 1 in free and peak - first < REACH and words[first][0] - words[first - 1][1] <= GAP:
            first -= 1
        while last + 1 in free and last - peak < REACH and words[last + 1][0] - words[last][1] <= GAP:
            last += 1
        free -= set(range(first, last + 1))
        found.append((first, last, peak))
    return found


def slow_rank(scores: Sequence[float], word: int) -> int:
    return 1 + sum(s > scores[word] or (s == scores[word] and w < word) for w, s in enumerate(scores))


def scored(view: CodeView, digits: int) -> CodeView:
    """The same with rounded scores, so that many are equal."""
    rounded = [tuple(round(x, digits) for x in scores) for scores in (view.scores, *(la.scores for la in view.layers))]
    layers = tuple(replace(la, scores=s) for la, s in zip(view.layers, rounded[1:], strict=True))
    return replace(view, scores=rounded[0], layers=layers)


@pytest.mark.parametrize("digits", [9, 2, 1])
@pytest.mark.parametrize("layers", [(), ("occlusion",), ("occlusion", "input_x_gradient")])
def test_passages_against_a_loop(make_page: PageMaker, layers: tuple[str, ...], digits: int) -> None:
    for seed in range(4):
        text = text_with_gaps(seed)
        spans = tuple((n, n + 9, "term") for n in range(5, len(text) - 9, 70))
        sections = tuple(
            SectionView(f"s{n}", n * 100, min((n + 1) * 100, len(text)), n) for n in range(len(text) // 100 + 1)
        )
        page = make_page(
            text, layers=layers, seed=seed, notes=CodeNotes(keywords=spans), evidence=spans[::3], sections=sections
        )
        view = scored(page.codes[0], digits)
        methods = [list(view.scores)] + [[max(x, 0.0) for x in layer.scores] for layer in view.layers]
        wanted: list[tuple[int, int, int]] = []
        for scores in methods:
            for first, last, peak in slow_passages(scores, page.words, TOP if layers else LISTED):
                if not any(a <= peak <= b for a, b, _ in wanted):
                    wanted.append((first, last, peak))
        rows = passage_rows(view, page)
        assert [(row.first, row.last, row.peak) for row in rows] == wanted
        assert len(rows) >= (1 if digits == 1 else 2)
        for row in rows:
            here = range(row.first, row.last + 1)
            assert len(row.by) == len(methods)
            for n, (scores, (rank, share)) in enumerate(zip(methods, row.by, strict=True)):
                total = 1.0 if n == 0 else math.fsum(scores)
                assert rank == min(slow_rank(scores, w) for w in here)
                assert share == pytest.approx(math.fsum(scores[w] for w in here) / (total or 1.0), abs=1e-12)
            places = [page.words[w] for w in here]
            assert row.keyword is any(s < b and a < e for s, e in places for a, b, _ in view.notes.keywords)
            assert row.evidence is any(s < b and a < e for s, e in places for a, b, _ in view.evidence)
            assert page.sections[row.section].start <= page.words[row.peak][0] < page.sections[row.section].end


def test_a_method_adds_only_passages_that_attention_has_not(make_page: PageMaker) -> None:
    page = make_page(" ".join(f"w{chr(97 + n % 26)}{n}" for n in range(60)))
    at_10 = tuple(0.5 if w == 10 else 0.0 for w in range(60))
    at_12 = tuple(1.0 if w == 12 else 0.0 for w in range(60))
    at_40 = tuple(-9.0 if w == 11 else 1.0 if w == 40 else 0.0 for w in range(60))
    view = replace(page.codes[0], scores=at_10, layers=(Layer("a", True, at_12), Layer("b", True, at_40)))
    rows = passage_rows(view, page)
    assert [row.peak for row in rows] == [10, 40]
    assert rows[0].by == ((1, 0.5), (1, 1.0), (6, 0.0))  # -9 counts as 0; the first word, 4, comes after 40, 0, 1, 2, 3
    assert rows[1].by[2] == (1, 1.0)
    assert rows[0].section == -1  # a page without sections


def test_the_strongest_passage_is_the_first(make_page: PageMaker) -> None:
    for seed in range(4):
        page = make_page(text_with_gaps(seed), layers=("occlusion",), seed=seed)
        breaks = breaks_of(page.words)
        zeros = (0.0,) * len(page.words)
        for view in (page.codes[0], replace(page.codes[0], scores=()), replace(page.codes[0], scores=zeros)):
            first = passage_rows(view, page)[0]
            assert strongest_passage(view, breaks) == (first.first, first.last, first.peak)
        assert strongest_passage(replace(view, layers=()), breaks) is None


def test_no_passage_where_nothing_is_scored(make_page: PageMaker) -> None:
    page = make_page("alpha beta")
    assert passage_rows(replace(page.codes[0], scores=(0.0, 0.0)), page) == ()
    assert passage_rows(replace(page.codes[0], scores=()), page) == ()


def test_overlap_against_sets(make_page: PageMaker) -> None:
    for seed, digits in ((0, 9), (1, 2), (2, 1), (3, 1)):
        page = make_page(text_with_gaps(seed), layers=("occlusion", "input_x_gradient"), seed=seed)
        view = scored(page.codes[0], digits)

        def highest(scores: Sequence[float], k: int) -> set[int]:
            return {w for w in range(len(scores)) if slow_rank(scores, w) <= k}

        for k in (1, 5, 20, 1000):
            mine = highest(view.scores, k)
            wanted = [len(mine & highest(layer.scores, k)) / min(k, len(page.words)) for layer in view.layers]
            assert list(overlap_at(view, k)) == pytest.approx(wanted)
            if k <= 20:
                assert overlap_at(view, k, [method.highest for method in ranked(view)]) == overlap_at(view, k)
    assert list(overlap_at(replace(view, layers=()))) == []
    assert list(overlap_at(replace(view, scores=()))) == []
    nothing = make_page("12 34", layers=("occlusion",))
    assert list(overlap_at(nothing.codes[0])) in ([], [0.0])  # no word was read

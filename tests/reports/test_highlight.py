"""Shades, snippets, offsets and the marked-up note, each against a slow second version."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest

from explain.snippets import HIDE_BELOW, breaks_of, quantise, runs, snippets, strongest, words_for_half
from reports.highlight import chunk_marks, note_html, shade_levels, share_on, utf16_offsets
from reports.page import CodeNotes, NoteView, ReportPage, Span
from reports.render import asset

PageMaker = Callable[..., ReportPage]


class Pieces(HTMLParser):
    """The elements of a marked-up note as (tag, classes, text), text outside elements as ("", "", text)."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.pieces: list[tuple[str, set[str], str]] = []
        self.open: tuple[str, set[str]] = ("", set())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open = (tag, set((dict(attrs).get("class") or "").split()))

    def handle_endtag(self, tag: str) -> None:  # noqa: ARG002  the parser's signature
        self.open = ("", set())

    def handle_data(self, data: str) -> None:
        self.pieces.append((*self.open, data))


def pieces_of(markup: str) -> list[tuple[str, set[str], str]]:
    parser = Pieces()
    parser.feed(markup)
    parser.close()
    return parser.pieces


def test_quantised_scores_come_back_within_half_a_step() -> None:
    scores = np.random.default_rng(0).dirichlet(np.full(500, 0.1))
    quantised, maximum = quantise(scores)
    assert maximum == scores.max()
    assert quantised[scores.argmax()] == 255
    for score, q in zip(scores, quantised, strict=True):
        assert abs(math.sqrt(score / maximum) - q / 255) <= 0.5 / 255 + 1e-12


def test_levels_rise_from_white_to_eight() -> None:
    levels = shade_levels(np.arange(256, dtype=np.uint8))
    slow = [0 if q < HIDE_BELOW else 1 + math.floor((q - HIDE_BELOW) * 8 / (256 - HIDE_BELOW)) for q in range(256)]
    assert levels.tolist() == slow
    assert set(slow) == set(range(9))
    assert slow[255] == 8


def test_equal_weights_are_equally_dark_and_no_weight_is_white() -> None:
    assert set(shade_levels(quantise(np.full(7, 1 / 7))[0])) == {8}
    assert set(shade_levels(quantise(np.zeros(7))[0])) == {0}
    assert quantise([])[1] == 0.0


def test_utf16_offsets_against_encoding_each_prefix() -> None:
    text = "a\u0301 \U0001f9ea é\u2028z\U0001f468\u200d\U0001f469"
    assert utf16_offsets(text).tolist() == [len(text[:i].encode("utf-16-le")) // 2 for i in range(len(text) + 1)]
    assert utf16_offsets("abc").tolist() == [0, 1, 2, 3]


def test_words_for_half_against_dropping_one_by_one() -> None:
    for seed in range(20):
        scores = np.random.default_rng(seed).dirichlet(np.full(40, 0.3)) * 0.7
        ranked, taken, n = sorted(scores, reverse=True), 0.0, 0
        while taken < 0.5 * sum(scores) - 1e-12:
            taken, n = taken + ranked[n], n + 1
        assert words_for_half(scores) == n
    assert words_for_half(np.full(10, 0.1)) == 5
    assert words_for_half([0.0, 0.0]) == 0


@pytest.mark.parametrize("digits", [9, 2, 1])
def test_what_is_sorted_already_need_not_be_sorted_again(digits: int) -> None:
    for seed, words in ((0, 5), (1, 300), (2, 2500)):
        scores = np.round(np.random.default_rng(seed).normal(size=words), digits)
        rising = np.sort(scores)
        order = sorted(range(words), key=lambda w: (-scores[w], w))
        for n in (1, 7, 130, 5000):
            assert strongest(scores, n, rising).tolist() == strongest(scores, n).tolist() == order[:n]
        assert words_for_half(scores, rising) == words_for_half(scores)
        far = bytes(words)
        for highest in (strongest(scores, 130), strongest(scores, 400)):
            assert runs(scores, far, count=10, highest=highest) == runs(scores, far, count=10)


def test_snippets_are_disjoint_around_falling_peaks(make_page: PageMaker) -> None:
    page = make_page(" ".join(f"w{i}a" for i in range(300)))
    view = page.codes[0]
    found = snippets(view.scores, breaks_of(page.words))
    assert len(found) == 6
    assert found[0].peak == max(range(300), key=lambda w: view.scores[w])
    peaks = [view.scores[s.peak] for s in found]
    assert peaks == sorted(peaks, reverse=True)
    members = [w for s in found for w in range(s.first, s.last + 1)]
    assert len(members) == len(set(members))
    for s in found:
        assert s.first <= s.peak <= s.last <= s.first + 12
        assert s.share == pytest.approx(math.fsum(view.scores[s.first : s.last + 1]))


def test_a_snippet_stops_at_removed_text(make_page: PageMaker) -> None:
    page = make_page("one two " + "1 " * 50 + "three four")
    for part in snippets(page.codes[0].scores, breaks_of(page.words)):
        assert {part.first, part.last} <= {0, 1} or {part.first, part.last} <= {2, 3}


def test_share_on_evidence_against_a_loop(make_page: PageMaker) -> None:
    page = make_page("alpha beta, gamma delta")
    view = page.codes[0]
    spans = ((7, 10, "evidence"), (18, 19, "evidence"))
    expected = [w for w, (s, e) in enumerate(page.words) if any(s < b and e > a for a, b, _ in spans)]
    share, count = share_on(view.scores, np.array(page.words), spans)
    assert count == len(expected) == 2
    assert share == pytest.approx(sum(view.scores[w] for w in expected))


def test_every_word_is_shaded_by_its_own_score_the_last_one_too(make_page: PageMaker) -> None:
    page = make_page("alpha beta 12 gamma\nomega")
    view = replace(page.codes[0], scores=(0.0, 0.1, 0.0, 0.4))
    markup = note_html(page, view, ["no letter"])
    words = [(classes, text) for tag, classes, text in pieces_of(markup) if tag == "i"]
    assert words == [(set(), "alpha"), ({"a4"}, "beta"), (set(), "gamma"), ({"a8"}, "omega")]
    assert ("u", {"r0"}, "12") in pieces_of(markup)


def test_evidence_boxes_cover_exactly_the_span(make_page: PageMaker) -> None:
    text = "no chest pain (EF 25%), worse"
    start, end = text.index("pain"), text.index("25%") + 2  # ends inside an unseen piece
    page = make_page(text, evidence=((start, end, "evidence"),))
    boxed = [
        (classes, piece)
        for _, classes, piece in pieces_of(note_html(page, page.codes[0], ["no letter"]))
        if "e" in classes
    ]
    assert "".join(piece for _, piece in boxed) == text[start:end]
    assert [("e0" in c, "e1" in c) for c, _ in boxed] == [(True, False)] + [(False, False)] * (len(boxed) - 2) + [
        (False, True)
    ]
    unboxed = note_html(page, page.codes[1], ["no letter"])
    assert not any("e" in classes for _, classes, _ in pieces_of(unboxed))
    assert [p[2] for p in pieces_of(unboxed)] == [
        p[2] for p in pieces_of(note_html(page, page.codes[0], ["no letter"]))
    ]


def slow_pieces(page: ReportPage, reasons: list[str]) -> list[tuple[str, set[str], str]]:
    """The pieces of a note whose first code is shaded by nothing, from one set of facts per character."""
    first = page.codes[0]
    spans = [span for view in page.codes for span in (*view.evidence, *view.decoys, *view.notes.keywords)]
    cuts = {offset for s, e, _ in spans for offset in (s, e)} | {part.start for part in page.parts}
    kinds = [("i", page.words), ("u", [(s, e) for s, e, _ in page.unseen]), ("b", [(s, e) for s, e, _ in spans])]
    pieces: list[tuple[str, set[str], str]] = []
    before: tuple[str, int] | None = None
    for at, character in enumerate(page.text):
        found = [(tag, n) for tag, given in kinds for n, (s, e) in enumerate(given) if s <= at < e]
        tag, number = found[0] if found else ("", 0)
        here = (tag, 0 if tag == "b" else number)  # a gap is one, whatever spans lie on it
        marks = {f"r{reasons.index(page.unseen[number][2])}"} if tag == "u" else set()
        for name, marked in (("w", first.notes.keywords), ("e", first.evidence), ("d", first.decoys)):
            marks |= {name for s, e, _ in marked if s <= at < e}
        goes_on = here == before and not (tag and at in cuts)
        pieces.append((tag, marks, pieces.pop()[2] + character if goes_on else character))
        before = here
    return pieces


def test_the_marked_up_note_against_character_by_character(make_page: PageMaker) -> None:
    rng = np.random.default_rng(7)
    parts = ["a<b", "x&y", '"q"', "it's", "caf\u00e9", "\U0001f9ea", "12", "word", "longer", "\n", " " * 70]
    for _ in range(40):
        text = " ".join(str(part) for part in rng.choice(parts, 30))

        def spans(n: int, text: str = text) -> tuple[Span, ...]:
            ends = sorted(rng.choice(len(text) + 1, 2 * n, replace=False).tolist())
            return tuple((s, e, "term") for s, e in zip(ends[::2], ends[1::2], strict=True))

        page = make_page(text, evidence=spans(2), decoys=spans(2), notes=CodeNotes(keywords=spans(3)))
        borders = (
            (0, *sorted(rng.choice(np.arange(1, len(text)), 2, replace=False).tolist())) if rng.random() < 0.5 else ()
        )
        page = replace(page, parts=tuple(NoteView(start) for start in borders))
        view = replace(page.codes[0], scores=())
        markup = note_html(page, view, ["no letter"])
        for number in range(1, len(borders) + 1):
            mark = f'<span role="separator" aria-label="Note {number} of 3" data-note="Note {number} of 3"></span>'
            assert markup.count(mark) == 1
            markup = markup.replace(mark, "")
        edges = {"e0", "e1", "d0", "d1"}
        assert [(tag, set(c) - edges, piece) for tag, c, piece in pieces_of(markup)] == slow_pieces(page, ["no letter"])


def test_chunk_marks_stand_where_the_chunk_changes() -> None:
    assert chunk_marks((2, 2, 0, 0, 1, 2)) == {0: (2, True), 2: (0, True), 4: (1, True), 5: (2, False)}
    assert chunk_marks(()) == {}


@pytest.mark.parametrize("name", ["a", "g"])  # attention; the other method in a difference of ranks
def test_black_text_reads_on_every_step_of_the_ramp(name: str) -> None:
    style = asset("report.css") + asset("page.css")
    ramp = dict(re.findall(rf"\.{name}(\d) \{{ background: (#[0-9a-f]{{6}})", style))
    assert sorted(ramp) == list("12345678")

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    steps = [luminance(ramp[str(step)]) for step in range(1, 9)]
    assert all(light > dark for light, dark in pairwise(steps))  # grey print keeps the order
    for light in steps:
        assert (light + 0.05) / (luminance("#111111") + 0.05) >= 4.5  # WCAG 2.2, success criterion 1.4.3

"""The data block of a page, decoded in Python the way the page's script decodes it, against what was given."""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from reports.page import CodeNotes, CueView, CurveView, NumberRow, ReportPage, SectionView, Span
from reports.render import render_page

PageMaker = Callable[..., ReportPage]
TEXT = (
    "History of Present Illness:\nZebra \U0001f9ea\U0001f468\u200d\U0001f469 caf\u00e9 cafe\u0301 12 \U0001f9eaglued\U0001f9ea septic"
    " physiology\u2028was considered 97.3\n\nDischarge Diagnosis:\nsepsis \U0001f9ea, ruled out \U0001f9ea."
)


class Decoded:
    """The data block as the script sees it: the note in UTF-16 units, words, chunks and scores by word."""

    def __init__(self, html: str, text: str) -> None:
        found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
        assert found is not None
        self.data: dict[str, Any] = json.loads(found[1])
        self.units = text.encode("utf-16-le")
        self.words: list[tuple[int, int]] = []
        at = 0
        numbers = iter(self.data["words"])
        for gap, length in zip(numbers, numbers, strict=True):
            self.words.append((at + gap, at + gap + length))
            at += gap + length
        runs = iter(self.data["chunks"])
        self.chunks = [chunk for chunk, n in zip(runs, runs, strict=True) for _ in range(n)]

    def slice(self, start: int, end: int) -> str:
        """What `text.slice(start, end)` gives in a browser."""
        return self.units[2 * start : 2 * end].decode("utf-16-le", "surrogatepass")

    def bytes_of(self, part: dict[str, Any], signed: bool) -> list[int]:
        """One number per word, 0 for those that were left out."""
        kept = [b - 256 if signed and b > 127 else b for b in base64.b64decode(part["q"])]
        if "at" not in part:
            return kept
        packed = base64.b64decode(part["at"])
        places = [int.from_bytes(packed[i : i + 4], "little") for i in range(0, len(packed), 4)]
        values = [0] * len(self.words)
        for place, value in zip(places, kept, strict=True):
            values[place] = value
        return values


def close(quantised: Sequence[int], scores: Sequence[float], steps: int) -> bool:
    """Whether every score is within half a step, in square roots, of what its byte says, with its sign."""
    most = max((abs(x) for x in scores), default=0.0)
    for q, x in zip(quantised, scores, strict=True):
        if abs(abs(q) / steps - math.sqrt(abs(x) / most)) > 0.5 / steps + 1e-9 or q * x < 0:
            return False
    return True


@pytest.fixture(scope="module")
def page(make_page: PageMaker) -> ReportPage:
    middle = TEXT.index("Discharge")
    terms: tuple[Span, ...] = tuple((m.start(), m.end(), m[0]) for m in re.finditer("septic|physiology|sepsis", TEXT))
    first = TEXT.index("considered")
    cues = (CueView("uncertain", "possible only", first, first + 10), CueView("borderline", "0.05 from the threshold"))
    numbers = (NumberRow("comprehensiveness", True, (("attention", 0.123456), ("random", None))),)
    curve = (CurveView("attention", (0.0, 1 / 3, 1.0), (0.8, 0.123456, 0.1)),)
    emoji: tuple[Span, ...] = tuple((m.start(), m.end(), "lab") for m in re.finditer("\U0001f9ea", TEXT))
    sections = (
        SectionView("History of Present Illness:", 0, middle, 1),
        SectionView("Discharge Diagnosis:", middle, len(TEXT), 0),
    )
    return make_page(
        TEXT, codes=5, layers=("occlusion", "lime"), notes=CodeNotes(terms, cues, numbers, curve, True), evidence=emoji,
        decoys=((0, 7, "negated"),), sections=sections, seed=3,
    )  # fmt: skip


def test_words_and_chunks_come_back(page: ReportPage) -> None:
    decoded = Decoded(render_page(page), TEXT)
    assert [decoded.slice(s, e) for s, e in decoded.words] == [TEXT[s:e] for s, e in page.words]
    assert decoded.chunks == list(page.word_chunks)
    assert [bool(n) for n in decoded.data["empty"]] == [n == 0 for n in page.chunk_words]
    assert decoded.data["methods"] == [["occlusion", True], ["lime", True]]
    assert decoded.data["reordered"] is True
    named = [(title, decoded.slice(s, e), place) for title, s, e, place in decoded.data["sections"]]
    assert named == [(s.title, TEXT[s.start : s.end], s.place) for s in page.sections]


def test_ranges_are_utf16_and_name_the_same_text(page: ReportPage) -> None:
    decoded = Decoded(render_page(page), TEXT)
    for view, code in zip(page.codes, decoded.data["codes"], strict=True):
        for spans, key in ((view.evidence, "e"), (view.decoys, "d"), (view.notes.keywords, "w")):
            named = [(decoded.slice(s, e), says) for s, e, says in code[key]]
            assert named == [(TEXT[s:e], says) for s, e, says in spans]
        assert [tuple(cue[:2]) for cue in code["cues"]] == [(c.kind, c.says) for c in view.notes.cues]
        for cue, (_, _, start, end) in zip(view.notes.cues, code["cues"], strict=True):
            assert (start, end) == (-1, -1) if cue.start < 0 else decoded.slice(start, end) == TEXT[cue.start : cue.end]
    assert "\U0001f9ea" in [decoded.slice(s, e) for s, e, _ in decoded.data["codes"][0]["e"]]


def test_scores_come_back_within_half_a_step(page: ReportPage) -> None:
    decoded = Decoded(render_page(page), TEXT)
    for view, code in zip(page.codes, decoded.data["codes"], strict=True):
        assert close(decoded.bytes_of(code, False), list(view.scores), 255)
        assert code["max"] == pytest.approx(max(view.scores), rel=1e-4)
        assert len(code["l"]) == len(view.layers)
        for layer, part in zip(view.layers, code["l"], strict=True):
            assert close(decoded.bytes_of(part, True), list(layer.scores), 127)
            assert part["max"] == pytest.approx(max(abs(x) for x in layer.scores), rel=1e-4)
        shares = [code["max"] * (q / 255) ** 2 for q in decoded.bytes_of(code, False)]
        for share, score in zip(shares, view.scores, strict=True):
            assert share == pytest.approx(score, abs=code["max"] / 255 + 1e-9)  # the square's slope is at most 2
    assert not close([255, 128], [1.0, 0.26], 255)  # the check can fail
    assert not close([127, -127], [1.0, 1.0], 127)


def test_a_probability_is_shown_alike_in_the_list_and_beside_the_note(page: ReportPage) -> None:
    """0.654980 is 0.65; rounded to four digits first, it would become 0.66."""
    codes = tuple(replace(view, probability=0.65498, threshold=0.64496) for view in page.codes)
    html = render_page(replace(page, codes=codes))
    assert [code["shown"] for code in Decoded(html, TEXT).data["codes"]] == [["0.65", "0.64"]] * len(codes)
    assert re.findall(r'<span class="p">([^<]*)</span>', html)[: len(codes)] == ["0.65"] * len(codes)


def test_numbers_of_a_code_come_back(page: ReportPage) -> None:
    decoded = Decoded(render_page(page), TEXT)
    for view, code in zip(page.codes, decoded.data["codes"], strict=True):
        assert (code["code"], code["title"], code["outcome"], bool(code["weak"])) == (
            view.code, view.title, view.outcome, view.notes.weak,
        )  # fmt: skip
        assert (code["p"], code["t"], code["logit"]) == pytest.approx((view.probability, view.threshold, view.logit))
        assert code["special"] == pytest.approx(view.special_share, abs=1e-5)
        assert code["chunk"] == pytest.approx(list(view.chunk_attention), abs=1e-4)
        ranked, half = sorted(view.scores, reverse=True), 0
        while math.fsum(ranked[:half]) < 0.5 * math.fsum(ranked) - 1e-12:
            half += 1
        assert code["half"] == half
        touched = [w for w, (s, e) in enumerate(page.words) if any(a < e and s < b for a, b, _ in view.evidence)]
        assert code["on"][1] == len(touched)
        assert code["on"][0] == pytest.approx(math.fsum(view.scores[w] for w in touched), abs=1e-5)
        for first, last, peak, section, *_ in code["parts"]:
            assert first <= peak <= last
            assert page.sections[section].start <= page.words[peak][0] < page.sections[section].end
    first_code = decoded.data["codes"][0]
    assert first_code["nums"] == [["comprehensiveness", 1, [["attention", 0.12346], ["random", None]]]]
    assert first_code["cv"] == [["attention", [0.0, 0.3333, 1.0], [0.8, 0.1235, 0.1]]]


def test_a_reduced_page_keeps_the_strongest_words_of_every_method(make_page: PageMaker) -> None:
    text = "\U0001f9ea " + " ".join(f"w{chr(97 + n % 26)}{n}" for n in range(1500))
    page = make_page(text, codes=4, layers=("occlusion",))
    decoded = Decoded(render_page(page, size_limit=1000), text)
    for view, code in zip(page.codes, decoded.data["codes"], strict=True):
        if view.outcome == "TN":
            assert "q" not in code
            assert code["parts"] == []
            continue
        for scores, part, steps in ((view.scores, code, 255), (view.layers[0].scores, code["l"][0], 127)):
            values = decoded.bytes_of(part, steps == 127)
            kept = [w for w in range(1500) if values[w]]
            assert len(kept) <= 500
            assert close([values[w] for w in kept], [scores[w] for w in kept], steps)
            weakest = min(abs(values[w]) for w in kept)
            left_out = [abs(scores[w]) for w in range(1500) if not values[w]]
            most = max(abs(x) for x in scores)
            assert max(left_out) <= most * ((weakest + 0.5) / steps) ** 2

"""Several notes of an admission on its page: a line with the kind of each where it begins, which is no part of the text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hilat.admissions import Admission, CodeBook, HilatError, NoteSpan
from reports.build import Outputs, Reading, RunLabel, build_page
from reports.page import NoteView, ReportPage, SectionView
from reports.redact import without_text
from reports.render import render_page

PageMaker = Callable[..., ReportPage]
Open = Callable[..., Any]

FIRST = "History of septic physiology 97.3, was  considered.\n"
SECOND = "Chest film: septic \U0001f9ea emboli & <b>no</b> failure.\n"
THIRD = "Discharge Diagnosis:\nsepsis at last \n"
TEXT = f"{FIRST}\n\n{SECOND}\n{THIRD}"
AT = (0, TEXT.index(SECOND), TEXT.index(THIRD))
PARTS = (NoteView(AT[0], "Discharge summary"), NoteView(AT[1], 'Radiology · "CHEST" <AP>'), NoteView(AT[2]))
SAYS = ["Note 1 of 3 · Discharge summary", 'Note 2 of 3 · Radiology · "CHEST" <AP>', "Note 3 of 3"]


class NoteParser(HTMLParser):
    """The text of the note, and what was read of it before each border."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.inside, self.text, self.seen = False, "", []  # type: bool, str, list[tuple[str, str]]
        self.feed(html)
        self.text = self.text[1:]  # the newline that <pre> swallows

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        self.inside = self.inside or tag == "pre"
        if "data-note" in given:
            assert given["aria-label"] == given["data-note"]
            self.seen.append((self.text[1:], given["data-note"] or ""))

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.inside and tag != "pre"

    def handle_data(self, data: str) -> None:
        self.text += data if self.inside else ""


def built(notes: tuple[NoteSpan, ...]) -> ReportPage:
    """The page of an admission with these notes, a word read of each."""
    spans = np.array([[start, start + 5] for start in AT])
    reading = Reading(spans, np.zeros(3, dtype=np.int64), 1, 3, np.zeros((0, 2), dtype=np.int64), ())
    outputs = Outputs(np.array([1.0]), np.array([0.7]), np.array([0.5]), None, {"A": np.array([0.5, 0.2, 0.1])})
    book = CodeBook(("A",), ("a",), ("diagnosis",))
    return build_page(Admission("7", TEXT, ("A",), notes=notes), book, reading, outputs, RunLabel("m", "0.50", True))


@pytest.fixture
def several(make_page: PageMaker) -> ReportPage:
    """Evidence over the second border, and up to the third."""
    evidence = ((AT[1] - 14, AT[1] + 5, "across"), (AT[2] - 9, AT[2], "up to it"))
    sections = (SectionView("", 0, AT[2], 1), SectionView("Discharge Diagnosis:", AT[2], len(TEXT), 0))
    return replace(
        make_page(TEXT, evidence=evidence, decoys=((AT[2], AT[2] + 9, "d"),), sections=sections), parts=PARTS
    )


def test_the_notes_of_an_admission_are_told_and_one_note_changes_nothing() -> None:
    kinds = (("Discharge summary", " "), ("Radiology", "CHEST (PA)"), ("", ""))
    ends = (len(FIRST), AT[1] + len(SECOND), len(TEXT))
    notes = tuple(NoteSpan(s, e, "1", *kind) for s, e, kind in zip(AT, ends, kinds, strict=True))
    assert built(notes).parts == (
        NoteView(AT[0], "Discharge summary"),
        NoteView(AT[1], "Radiology · CHEST (PA)"),
        NoteView(AT[2], ""),
    )
    assert built(notes[:1]).parts == ()
    assert render_page(built(notes[:1])) == render_page(built(()))
    assert "data-note" not in render_page(built(()))


def test_borders_stand_where_notes_begin_and_are_no_text(several: ReportPage) -> None:
    parsed = NoteParser(render_page(several))
    assert parsed.text == TEXT
    assert parsed.seen == [(TEXT[:at], says) for at, says in zip(AT, SAYS, strict=True)]


@pytest.mark.parametrize("seed", range(20))
def test_a_border_may_stand_anywhere(make_page: PageMaker, seed: int) -> None:
    """Inside words, unseen pieces and evidence too, as other sources may have them."""
    rng = np.random.default_rng(seed)
    places = np.sort(rng.choice(len(TEXT), 6, replace=False)).tolist()
    spans = tuple((int(s), int(e), "x") for s, e in np.sort(rng.choice(len(TEXT), 6, replace=False)).reshape(3, 2))
    page = replace(make_page(TEXT, evidence=spans), parts=tuple(NoteView(at) for at in places))
    parsed = NoteParser(render_page(page))
    assert parsed.text == TEXT
    assert [before for before, _ in parsed.seen] == [TEXT[:at] for at in places]


def test_a_page_without_text_keeps_borders_and_no_kind(several: ReportPage) -> None:
    hidden = without_text(several)
    html = render_page(hidden)
    parsed = NoteParser(html)
    assert parsed.text == hidden.text
    assert [says for _, says in parsed.seen] == ["Note 1 of 3", "Note 2 of 3", "Note 3 of 3"]
    assert not [kind for kind in ("Radiology", "CHEST", "Discharge summary") if kind in html]
    # As many blocks before each border as words before it.
    blocks = [before.split() for before, _ in parsed.seen]
    assert [len(found) for found in blocks] == [len(TEXT[:at].split()) for at in AT]


@pytest.mark.parametrize("starts", [(5, 3), (3, 3), (-1, 4), (0, len(TEXT))])
def test_notes_out_of_order_are_refused(several: ReportPage, starts: tuple[int, ...]) -> None:
    with pytest.raises(HilatError, match="notes that begin out of order or outside its text"):
        replace(several, parts=tuple(NoteView(at) for at in starts))


def test_in_a_browser(opened: Open, several: ReportPage, tmp_path: Path) -> None:
    with_borders, without = tmp_path / "several.html", tmp_path / "one.html"
    with_borders.write_text(render_page(several), "utf-8", newline="")
    without.write_text(render_page(replace(several, parts=())), "utf-8", newline="")
    # For every character of the note the classes of its piece, but for where a box begins and ends.
    classes = (
        "[...document.querySelectorAll('#note > :not([data-note])')].flatMap(n => [...n.textContent].map("
        "() => n.className.replace(/ ?\\b[ed][01]\\b/g, '')))"
    )
    copied = "(getSelection().selectAllChildren(document.getElementById('note')), getSelection().toString())"
    with opened(without.as_uri()) as tab:
        plain, plain_copy = tab.evaluate(classes), tab.evaluate(copied)
    with opened(with_borders.as_uri(), width=400) as tab:
        assert tab.evaluate("document.documentElement.scrollWidth") <= 400
    with opened(with_borders.as_uri()) as tab:
        assert tab.evaluate("document.getElementById('note').textContent") == TEXT
        assert tab.evaluate(classes) == plain
        assert tab.evaluate(copied) == plain_copy
        drawn = "[...document.querySelectorAll('#note [data-note]')].map(b => {}(b))"
        content = "(b => getComputedStyle(b, '::before').content)"
        said = tab.evaluate(drawn.format(content))
        assert [text.replace('\\"', '"')[1:-1] for text in said] == SAYS
        # Evidence runs over the second border and ends at the third, where a decoy begins; their boxes do not show there.
        look = "(b => { const s = getComputedStyle(b); return [s.borderLeftWidth, s.borderBottomWidth, s.borderTopWidth, s.paddingTop, s.fontWeight]; })"
        assert len({tuple(one) for one in tab.evaluate(drawn.format(look))}) == 1
        # A line of its own: the words around it stand above and below.
        box = "(b => { const r = b.getBoundingClientRect(), n = b.parentElement.getBoundingClientRect(); return r.width / n.width; })"
        assert all(share > 0.99 for share in tab.evaluate(drawn.format(box)))
        tops = tab.evaluate(
            "[...document.querySelectorAll('#note > [data-note], #note > i')].map(n => n.getBoundingClientRect().top)"
        )
        kinds = tab.evaluate("[...document.querySelectorAll('#note > [data-note], #note > i')].map(n => n.localName)")
        for n, kind in enumerate(kinds):
            if kind == "span":
                assert all(top < tops[n] for top in tops[:n])
                assert all(top > tops[n] for top in tops[n + 1 :])
        tab.click("#model")
        assert not tab.is_visible("#note [data-note]")
        tab.click("#model")
        assert tab.is_visible("#note [data-note]")
        assert tab.evaluate("document.getElementById('note').textContent") == TEXT
        tab.emulate_media(media="print")
        assert tab.is_visible("#note [data-note]")
        assert tab.pdf()[:5] == b"%PDF-"


def test_axe_finds_nothing(opened: Open, several: ReportPage, tmp_path: Path) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed").Axe()
    file = tmp_path / "page.html"
    file.write_text(render_page(several), "utf-8", newline="")
    with opened(file.as_uri()) as tab:
        found = axe.run(tab).response["violations"]
    assert [(v["id"], [n["failureSummary"] for n in v["nodes"]]) for v in found] == []

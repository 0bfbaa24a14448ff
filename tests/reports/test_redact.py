"""Pages without note text: no word survives, everything still points at words, and lengths tell nothing."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from hilat.sections import find_sections
from reports.index import RunHeader, Tally, render_index
from reports.page import CodeNotes, CueView, ReportPage, SectionView, Span
from reports.redact import BLOCK, without_text
from reports.render import render_page

PageMaker = Callable[..., ReportPage]
# Syllables of words that stand in no template, so that one that is found comes from the note.
SYLLABLES = ("zyx", "qov", "wuq", "jyk", "xib", "vuz")


def word(rng: np.random.Generator) -> str:
    return "".join(rng.choice(SYLLABLES, int(rng.integers(2, 6))))


def noted_page(make_page: PageMaker, seed: int) -> ReportPage:
    """A page with everything that holds ranges or words of the note, birth date in a heading and an emoji included."""
    rng = np.random.default_rng(seed)
    filler = [word(rng) for _ in range(60)]
    head = f"Admission Date: [**{word(rng)}-12**]\nDate of Birth: [**{word(rng)}-4-3**]  Sex: F\n\n"
    text = head + "History of Present Illness:\n" + " ".join(filler[:30]) + "\U0001f9ea, 97.3\t\n\n"
    text += "Discharge Diagnosis:\n" + "  ".join(filler[30:]) + f" \U0001f468\u200d\U0001f469{word(rng)}\n"
    starts = [m.start() for m in re.finditer(r"\S+", text)]
    at = sorted(rng.choice(starts, 12, replace=False).tolist())
    spans: tuple[Span, ...] = tuple((s, min(s + 4, b), "term") for s, b in zip(at, [*at[1:], len(text)], strict=True))
    cues = tuple(CueView("negated", "a negation governs the words", s, e) for s, e, _ in spans[:3])
    notes = CodeNotes(spans[3:6], (*cues, CueView("borderline", "0.05 from the threshold")), (), (), True)
    sections = tuple(SectionView(s.title, s.start, s.end, n) for n, s in enumerate(find_sections(text)))
    return make_page(
        text, layers=("occlusion",), evidence=spans[6:9], decoys=spans[9:], notes=notes, sections=sections, seed=seed
    )


@pytest.mark.parametrize("seed", range(5))
def test_no_word_of_the_note_survives(make_page: PageMaker, seed: int) -> None:
    page = noted_page(make_page, seed)
    hidden = without_text(page)
    tally = Tally()
    tally.add(hidden, "f.html", text=False)
    for html in (render_page(hidden), render_index(tally, RunHeader("Run", text=False))):
        assert not [s for s in SYLLABLES if s in html.lower()]
        assert "[**" not in html
        assert "\U0001f9ea" not in html
        assert "97.3" not in html
    shown = render_page(page)
    assert all(s in shown.lower() for s in SYLLABLES)  # the test would see them
    titles = [section.title for section in hidden.sections]
    assert [t for t in titles if t] == [
        "Admission Date:",
        "Section:",
        "History of Present Illness:",
        "Discharge Diagnosis:",
    ]


@pytest.mark.parametrize("seed", range(5))
def test_everything_still_points_at_words(make_page: PageMaker, seed: int) -> None:
    page = noted_page(make_page, seed)
    hidden = without_text(page)
    assert set(hidden.text) <= set(BLOCK + " \n")
    assert (len(hidden.words), hidden.word_chunks) == (len(page.words), page.word_chunks)
    assert all(hidden.text[s:e].replace(BLOCK, "") == "" for s, e in hidden.words)  # whole blocks, no space
    assert [reason for _, _, reason in hidden.unseen] == [reason for _, _, reason in page.unseen]
    for before, after in zip(page.codes, hidden.codes, strict=True):
        assert (list(after.scores), after.layers) == (list(before.scores), before.layers)
        pairs = [(before.evidence, after.evidence), (before.decoys, after.decoys)]
        pairs += [(before.notes.keywords, after.notes.keywords)]
        pairs += [
            tuple(tuple((c.start, c.end, c.kind) for c in v.notes.cues if c.start >= 0) for v in (before, after))  # type: ignore[list-item]
        ]
        for old, new in pairs:
            assert len(old) == len(new)
            for (s, e, says), (moved_s, moved_e, still) in zip(old, new, strict=True):
                assert says == still
                assert BLOCK in hidden.text[moved_s:moved_e]
                # The same words are touched before and after.
                touched = [w for w, (a, b) in enumerate(page.words) if a < e and s < b]
                assert touched == [w for w, (a, b) in enumerate(hidden.words) if a < moved_e and moved_s < b]
    ends = [(section.start, section.end) for section in hidden.sections]
    assert [s for s, _ in ends] == [0, *(e for _, e in ends[:-1])]
    assert ends[-1][1] == len(hidden.text)


def test_lengths_tell_nothing(make_page: PageMaker) -> None:
    """Notes that differ in the length of their words and of their gaps give the same bytes."""
    short = make_page("ab cd\n12 ef", layers=("occlusion",))
    long = make_page("abdominal   cholecystectomy \n\n\n1234567 efferent", layers=("occlusion",))
    assert without_text(short) == without_text(long)
    assert render_page(without_text(short)) == render_page(without_text(long))
    assert without_text(short).text == f"{BLOCK} {BLOCK}\n{BLOCK} {BLOCK}"


def test_a_page_without_words_stays_one(make_page: PageMaker) -> None:
    hidden = without_text(make_page("12 34\n"))
    assert hidden.text == f"{BLOCK} {BLOCK}\n"
    assert 'id="note"' in render_page(replace(hidden, codes=()))

"""From scores and spans to shades, snippets and the marked-up note."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

from explain.snippets import HIDE_BELOW, quantise
from reports.page import CodeView, ReportPage

LEVELS = 8
COMMON_MAXIMUM = 0.10  # darkest fill on the common scale: 10 % of a code's attention


def shade_levels(quantised: NDArray[np.uint8], hide_below: int = HIDE_BELOW) -> NDArray[np.int64]:
    """Fill steps 0 (white) to 8 (darkest) of quantised scores, (W,); the page's script computes the same."""
    q = quantised.astype(np.int64)
    steps = 1 + (q - hide_below) * LEVELS // (256 - hide_below)
    return np.where(q < hide_below, 0, steps)


def utf16_offsets(text: str) -> NDArray[np.int64]:
    """For each character offset 0..len(text) the offset in UTF-16 units, as browsers count, (len + 1,)."""
    units = np.ones(len(text) + 1, dtype=np.int64)
    units[0] = 0
    if not text.isascii():
        points = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
        units[1:] += points > 0xFFFF
    return np.cumsum(units)


def share_on(
    view: CodeView, words: Sequence[tuple[int, int]], spans: Sequence[tuple[int, int, str]]
) -> tuple[float, int]:
    """The attention on words that touch one of the spans, and how many words do."""
    if not view.scores or not spans:
        return 0.0, 0
    bounds = np.asarray(words, dtype=np.int64).reshape(-1, 2)
    touched = np.zeros(len(words), dtype=bool)
    for start, end, _ in spans:
        touched |= (bounds[:, 0] < end) & (bounds[:, 1] > start)
    return float(np.asarray(view.scores)[touched].sum()), int(touched.sum())


def note_html(page: ReportPage, first: CodeView | None, reasons: Sequence[str]) -> Markup:
    """The note as markup whose text is the note: `<i>` a word, `<u>` an unseen piece, `<b>` a gap inside a span.

    The words carry the shades of `first`. The text is cut at every span of every code, so that the page's script only
    ever changes classes. Chunk numbers are drawn by the style sheet and are not text.
    """
    text = page.text
    role: dict[int, tuple[str, int]] = {s: ("i", w) for w, (s, _) in enumerate(page.words)}
    role |= {s: ("u", reasons.index(reason)) for s, _, reason in page.unseen}
    cuts = {0, len(text)}
    cuts.update(offset for span in page.words for offset in span)
    cuts.update(offset for s, e, _ in page.unseen for offset in (s, e))
    inside: set[tuple[int, int]] = {(s, e) for view in page.codes for s, e, _ in (*view.evidence, *view.decoys)}
    cuts.update(offset for span in inside for offset in span)
    ends = dict(page.words) | {s: e for s, e, _ in page.unseen}
    covered = _coverage(sorted(inside), len(text))
    levels = shade_levels(quantise(first.scores)[0]).tolist() if first is not None and first.scores else []
    marks = chunk_marks(page.word_chunks)
    boxes = [] if first is None else [(*s[:2], "e") for s in first.evidence] + [(*s[:2], "d") for s in first.decoys]
    out: list[str] = []
    current, current_end = ("", 0), 0
    for start, end in pairwise(sorted(cuts)):
        if start in role:
            current, current_end = role[start], ends[start]
        tag, number = current if start < current_end else ("b" if covered[start] else "", 0)
        classes, extra = [f"r{number}"] if tag == "u" else [], ""
        if tag == "i":
            if levels and levels[number]:
                classes.append(f"a{levels[number]}")
            if start == page.words[number][0] and number in marks:
                chunk, is_first = marks[number]
                extra = f" data-k={chunk + 1}" + (f" id=k{chunk + 1}" if is_first else "")
        if tag and boxes:
            classes += box_classes(boxes, start, end)
        piece = str(escape(text[start:end]))
        attribute = f' class="{" ".join(classes)}"' if classes else ""
        out.append(f"<{tag}{attribute}{extra}>{piece}</{tag}>" if tag else piece)
    return Markup("".join(out))


def box_classes(boxes: Sequence[tuple[int, int, str]], start: int, end: int) -> list[str]:
    """Classes of a piece: "e" inside evidence, "d" inside a decoy, with 0 and 1 where the box begins and ends."""
    classes: list[str] = []
    for box_start, box_end, name in boxes:
        if box_start <= start and end <= box_end:
            classes.append(name)
            if start == box_start:
                classes.append(f"{name}0")
            if end == box_end:
                classes.append(f"{name}1")
    return classes


def chunk_marks(word_chunks: Sequence[int]) -> dict[int, tuple[int, bool]]:
    """Words at which the chunk changes in raw order: word -> (chunk, whether it is the chunk's first mark)."""
    marks: dict[int, tuple[int, bool]] = {}
    known: set[int] = set()
    last = -1
    for word, chunk in enumerate(word_chunks):
        if chunk != last:
            marks[word] = (chunk, chunk not in known)
            known.add(chunk)
            last = chunk
    return marks


def _coverage(spans: Sequence[tuple[int, int]], length: int) -> NDArray[np.bool_]:
    """Whether each character offset lies inside a span, (length + 1,)."""
    covered = np.zeros(length + 1, dtype=bool)
    for start, end in spans:
        covered[start:end] = True
    return covered

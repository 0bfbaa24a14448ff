"""From scores and spans to shades, underlines and the marked-up note."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, product
from operator import itemgetter

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

from explain.snippets import HIDE_BELOW, breaks_of, quantise
from reports.page import CodeView, Layer, ReportPage, Span

LEVELS = 8
COMMON_MAXIMUM = 0.10  # darkest fill on the common scale: 10 % of a code's attention
LINES = 4  # strengths of an underline
_NEEDS_ESCAPE = re.compile("[&<>'\"]")


def shade_levels(quantised: NDArray[np.uint8], hide_below: int = HIDE_BELOW) -> NDArray[np.int64]:
    """Fill steps 0 (white) to 8 (darkest) of quantised scores, (W,); the page's script computes the same."""
    q = quantised.astype(np.int64)
    steps = 1 + (q - hide_below) * LEVELS // (256 - hide_below)
    return np.where(q < hide_below, 0, steps)


def quantise_signed(scores: Sequence[float] | NDArray[np.float64]) -> tuple[NDArray[np.int8], float]:
    """Bytes sign * round(127 * sqrt(|score| / maximum)), (W,), and the largest absolute score."""
    values = np.asarray(scores, dtype=np.float64)
    sizes = np.abs(values)
    maximum = float(sizes.max(initial=0.0))
    if maximum <= 0.0:
        return np.zeros(len(values), dtype=np.int8), 0.0
    return np.copysign(np.rint(127.0 * np.sqrt(sizes / maximum)), values).astype(np.int8), maximum


def line_levels(quantised: NDArray[np.int8], hide_below: int = HIDE_BELOW) -> NDArray[np.int64]:
    """Underlines -4 to 4 of signed quantised scores, (W,), 0 for none; the page's script computes the same."""
    q = np.abs(quantised.astype(np.int64)) * 2
    steps = 1 + (q - hide_below) * LINES // (256 - hide_below)
    return np.where(q < hide_below, 0, steps) * np.sign(quantised.astype(np.int64))


def utf16_offsets(text: str) -> NDArray[np.int64]:
    """For each character offset 0..len(text) the offset in UTF-16 units, as browsers count, (len + 1,)."""
    units = np.ones(len(text) + 1, dtype=np.int64)
    units[0] = 0
    if not text.isascii():
        points = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
        units[1:] += points > 0xFFFF
    return np.cumsum(units)


@dataclass(frozen=True, slots=True, eq=False)
class Words:
    """The words of a page. bounds: start and end of each, (W, 2). breaks: `breaks_of` them."""

    bounds: NDArray[np.int64]
    breaks: bytes


def words_of(page: ReportPage) -> Words:
    """The words of the page, for what asks for many at a time."""
    bounds = np.fromiter(chain.from_iterable(page.words), np.int64, 2 * len(page.words)).reshape(-1, 2)
    return Words(bounds, breaks_of(bounds))


def share_on(scores: Sequence[float], words: NDArray[np.int64], spans: Sequence[Span]) -> tuple[float, int]:
    """The sum of the scores on words, with bounds (W, 2), that touch one of the spans, and how many words do."""
    if not len(scores) or not spans:
        return 0.0, 0
    touched = touching(words, spans)
    return float(np.asarray(scores)[touched].sum()), int(touched.sum())


def touching(words: NDArray[np.int64], spans: Sequence[Span]) -> NDArray[np.bool_]:
    """(W,): words, with bounds (W, 2), sorted and apart, that touch one of the spans."""
    touched = np.zeros(len(words), dtype=bool)
    ranges = np.array([(start, end) for start, end, _ in spans], dtype=np.int64).reshape(-1, 2)
    first = words[:, 1].searchsorted(ranges[:, 0], side="right")  # the first word that ends after the span begins
    after = words[:, 0].searchsorted(ranges[:, 1])  # the first word that does not begin before the span ends
    for low, high in zip(first.tolist(), after.tolist(), strict=True):
        touched[low:high] = True
    return touched


def note_html(page: ReportPage, first: CodeView | None, reasons: Sequence[str]) -> Markup:
    """The note as markup whose text is the note: `<i>` a word, `<u>` an unseen piece, `<b>` a gap inside a span.

    The words carry the shades and lines of `first`. The text is cut at every span of every code and at every section, so
    that the page's script only ever changes classes. Chunk numbers and the kinds of several notes are drawn by the style sheet
    and are not text.
    """
    text = page.text
    inside = {(s, e) for v in page.codes for s, e, _ in (*v.evidence, *v.decoys, *v.notes.keywords)}
    covered = _coverage(inside, len(text))
    borders = border_marks(page)
    within = sorted({*borders, *chain.from_iterable(inside)})  # where a word, a piece or a gap may be cut
    boxes = [] if first is None else boxes_of(first)
    boxed = box_classes(boxes, _cuts(page, inside)) if boxes else {}
    special = [m.start() for m in _NEEDS_ESCAPE.finditer(text)]
    rare = bytearray(covered)  # 1 at characters that are escaped, in a span, or the first of a note
    for place in (*special, *borders):
        rare[place] = 1
    out: list[str] = []

    def add(start: int, end: int, tag: str, named: str, extra: str = "") -> None:
        """One element, or bare text without a tag, for each piece between the cuts at start and end."""
        stops = within[bisect_right(within, start) : bisect_left(within, end)] if within else ()
        for stop in (*stops, end):
            if start in borders:
                out.append(borders[start])
            piece = text[start:stop]
            if bisect_left(special, start) < bisect_left(special, stop):  # most pieces are words or a space
                piece = str(escape(piece))
            here = tag or ("b" if covered[start] else "")
            if here:
                names = " ".join((named, *boxed[start]) if named else boxed[start]) if start in boxed else named
                attribute = f' class="{names}"' if names else ""
                piece = f"<{here}{attribute}{extra}>{piece}</{here}>"
            out.append(piece)
            start, extra = stop, ""

    at, next_rare = 0, rare.find(1)
    for start, end, tag, named, extra in _marked(page, first, reasons):
        if next_rare < 0 or end <= next_rare:  # nothing to cut, to box or to escape
            attribute = f' class="{named}"' if named else ""
            out.append(f"{text[at:start]}<{tag}{attribute}{extra}>{text[start:end]}</{tag}>")
        else:
            if at < start:
                add(at, start, "", "")
            add(start, end, tag, named, extra)
            next_rare = rare.find(1, end)
        at = end
    if at < len(text):
        add(at, len(text), "", "")
    return Markup("".join(out))  # every piece of the text was escaped, or holds nothing to escape


def _marked(page: ReportPage, first: CodeView | None, reasons: Sequence[str]) -> list[tuple[int, int, str, str, str]]:
    """(start, end, element, classes, other attributes) of words and unseen pieces in the order of the text."""
    classes = _word_classes(first, len(page.words))
    begins = [""] * len(page.words)
    for w, (chunk, new) in chunk_marks(page.word_chunks).items():
        begins[w] = f" data-k={chunk + 1}" + (f" id=k{chunk + 1}" if new else "")
    marked = [(s, e, "i", named, marks) for (s, e), named, marks in zip(page.words, classes, begins, strict=True)]
    if page.unseen:
        numbers = {reason: n for n, reason in enumerate(reasons)}
        marked += [(s, e, "u", f"r{numbers[reason]}", "") for s, e, reason in page.unseen]
        marked.sort(key=itemgetter(0))
    return marked


def _cuts(page: ReportPage, inside: set[tuple[int, int]]) -> list[int]:
    """Where the text is cut: the ends of words, unseen pieces and spans."""
    cuts = {0, len(page.text), *(part.start for part in page.parts)}
    cuts.update(chain.from_iterable(page.words), chain.from_iterable(inside))
    cuts.update(offset for s, e, _ in page.unseen for offset in (s, e))
    return sorted(cuts)


def border_marks(page: ReportPage) -> dict[int, str]:
    """Where each of several notes begins -> an element without text that tells which one, for the style sheet to draw."""
    marks = {}
    for n, part in enumerate(page.parts, 1):
        says = escape(f"Note {n} of {len(page.parts)}" + (f" · {part.kind}" if part.kind else ""))
        marks[part.start] = f'<span role="separator" aria-label="{says}" data-note="{says}"></span>'
    return marks


def _word_classes(view: CodeView | None, n: int) -> list[str]:
    """The classes of each word: its fill by attention, then its underline by the first layer."""
    if view is None:
        return [""] * n
    fills = shade_levels(quantise(view.scores)[0]) if view.scores else np.zeros(n, dtype=np.int64)
    lines = first_lines(view.layers) if view.layers else np.zeros(n, dtype=np.int64)
    filled = ["", *(f"a{level}" for level in range(1, LEVELS + 1))]
    lined = [*(f"m{level}" for level in range(LINES, 0, -1)), "", *(f"p{level}" for level in range(1, LINES + 1))]
    named = [" ".join(filter(None, pair)) for pair in product(filled, lined)]
    return [named[i] for i in (fills * len(lined) + lines + LINES).tolist()]


def first_lines(layers: Sequence[Layer]) -> NDArray[np.int64]:
    """The underlines of the first layer, (W,); none without a layer."""
    return line_levels(quantise_signed(layers[0].scores)[0]) if layers else np.zeros(0, dtype=np.int64)


def boxes_of(view: CodeView) -> list[tuple[int, int, str]]:
    """(start, end, class) of what is marked by place: keywords, evidence, decoys."""
    named = ((view.notes.keywords, "w"), (view.evidence, "e"), (view.decoys, "d"))
    return [(start, end, name) for spans, name in named for start, end, _ in spans]


def box_classes(boxes: Sequence[tuple[int, int, str]], cuts: Sequence[int]) -> dict[int, list[str]]:
    """Start of a piece -> its classes: "w" of a keyword, "e" inside evidence, "d" inside a decoy; the boxes of the latter
    two begin and end at 0 and 1. cuts: the sorted ends of pieces, among them those of the boxes."""
    classes: dict[int, list[str]] = {}
    for box_start, box_end, name in boxes:
        for i in range(bisect_left(cuts, box_start), bisect_left(cuts, box_end)):
            added = classes.setdefault(cuts[i], [])
            added.append(name)
            if name != "w":
                added += [f"{name}0"] if cuts[i] == box_start else []
                added += [f"{name}1"] if cuts[i + 1] == box_end else []
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


def _coverage(spans: Iterable[tuple[int, int]], length: int) -> bytearray:
    """1 for each character offset inside a span, else 0, (length + 1,)."""
    covered = bytearray(length + 1)
    for start, end in spans:
        covered[start:end] = b"\x01" * (end - start)
    return covered

"""Passages with shaded words: the layouts of Liu et al. 2022, Fig. 3 (codes of one note) and Fig. 4 (wrong codes)."""

from __future__ import annotations

from collections.abc import Sequence

from hilat.admissions import HilatError
from reports.figures.panels import Choice, Panel, Piece, Unit
from reports.figures.saving import Drawing
from reports.figures.sheet import Box, Face, Mark, Stroke, Words, broken, measure, moved, paint, paragraph, space
from reports.figures.style import (
    AGAINST,
    ATTENTION,
    BODY,
    FOR,
    INK,
    MUTED,
    OUTCOMES,
    POINTS_PER_MM,
    RULE,
    SMALL,
    percent,
    spoken,
)

LEADING = 1.75 * BODY
MARGIN = 3.0  # points
WIDTHS = (0.8, 1.2, 1.7, 2.3)  # points of a line, by its level
CUES = 4  # lines of cues per panel
BETWEEN = Piece("[…]", seen=False)  # between two passages
_PAD = 0.8


def draw_text(panels: Sequence[Panel], choice: Choice, width_mm: float, threshold_source: str, model: str) -> Drawing:
    """Fig. 3: for each code its title and the passage around its strongest word, filled by the scores."""
    _check(panels, "the admission has none")
    inner = width_mm * POINTS_PER_MM - 2 * MARGIN
    marks: list[Mark] = []
    y = MARGIN
    for n, panel in enumerate(panels):
        y += 0.9 * LEADING if n else 0.0
        part, height = _heading(panel, inner, "")
        marks += moved(part, MARGIN, y)
        y += height + 1.5
        part, height = passages(panel, inner)
        marks += moved(part, MARGIN, y)
        y += height
    part, height = legend(choice, panels, inner)
    marks += moved(part, MARGIN, y + 5.0)
    y += 5.0 + height + MARGIN
    ids = list(dict.fromkeys(p.hadm_id for p in panels))
    where = f"admission {ids[0]}" if len(ids) == 1 else f"{len(ids)} admissions"
    title = (
        f"{spoken(choice.methods[0]).capitalize()} on the words of {where}, {len(panels)} code{'s' * (len(panels) > 1)}"
    )
    return Drawing(
        paint(marks, width_mm * POINTS_PER_MM, y), title, caption(panels, choice, threshold_source, model, cues=False)
    )


def draw_errors(panels: Sequence[Panel], choice: Choice, width_mm: float, threshold_source: str, model: str) -> Drawing:
    """Fig. 4: examples with outcome, probability and threshold, the passage, and the cues why the code may be wrong."""
    _check(panels, "there are no false positives")
    full = width_mm * POINTS_PER_MM
    indent = 14.0
    inner = full - 2 * MARGIN - indent
    marks: list[Mark] = []
    y = MARGIN
    for n, panel in enumerate(panels):
        if n:
            marks.append(Stroke(MARGIN, y + 4.5, full - MARGIN, y + 4.5, RULE, 0.4))
            y += 9.0
        top = y
        marks.append(Words(MARGIN, y + 1.0 + BODY, chr(ord("a") + n % 26), Face(BODY + 0.5, bold=True)))
        part, height = _heading(panel, inner, panel.outcome or "predicted")
        marks += moved(part, MARGIN + indent, y)
        y += height + 1.5
        part, height = passages(panel, inner)
        marks += moved(part, MARGIN + indent, y)
        y += height + 1.0
        for cue in panel.cues[:CUES]:
            says = f"{spoken(cue.kind)}: " + (f"“{' '.join(cue.words.split())}” – " if cue.words else "") + cue.says
            part, height = paragraph(says, 0.0, 0.0, inner - 8.0, Face(SMALL), MUTED)
            marks.append(Words(MARGIN + indent, y + SMALL, "▸", Face(SMALL), MUTED))
            marks += moved(part, MARGIN + indent + 8.0, y)
            y += height
        bar = OUTCOMES.get(panel.outcome, MUTED)
        marks.append(Box(MARGIN + indent - 5.0, top + 1.0, 1.6, y - top - 1.0, bar))
    part, height = legend(choice, panels, inner)
    marks += moved(part, MARGIN + indent, y + 7.0)
    y += 7.0 + height + MARGIN
    title = f"{len(panels)} examples of codes that the model gave, with reasons why they may be wrong"
    return Drawing(paint(marks, full, y), title, caption(panels, choice, threshold_source, model, cues=True))


def _check(panels: Sequence[Panel], why: str) -> None:
    if not panels:
        raise HilatError(
            f"no (admission, code) pair to draw: {why}; expected one or more. Name others by --admissions and --codes"
        )


def _heading(panel: Panel, width: float, tag: str) -> tuple[list[Mark], float]:
    """Code and title in bold; on the right the outcome, the probability and the threshold where a tag is given."""
    bold, small = Face(BODY + 0.5, bold=True), Face(SMALL)
    if not tag:
        return paragraph(f"{panel.code} {panel.title}", 0.0, 0.0, width, bold)
    numbers = f"p {_rounded(panel.probability)}   threshold {panel.threshold:.2f}"
    face = Face(SMALL, bold=True)
    right = measure(numbers, small) + measure(tag, face) + 12.0
    colour = OUTCOMES.get(panel.outcome, MUTED)
    fits = width - right > 90.0
    marks, height = paragraph(f"{panel.code} {panel.title}", 0.0, 0.0, width - right - 6.0 if fits else width, bold)
    x, y = (width - right, 0.0) if fits else (0.0, height)
    marks.append(Box(x, y + 0.8, measure(tag, face) + 6.0, 1.45 * SMALL, "", edge=colour))
    marks.append(Words(x + 3.0, y + 1.4 + SMALL, tag, face, colour))
    marks.append(Words(x + measure(tag, face) + 12.0, y + 1.4 + SMALL, numbers, small, INK))
    return marks, height if fits else height + 1.7 * SMALL


def _rounded(probability: float) -> str:
    """Two decimals; what they would show as certain is said to be near it."""
    if 0.005 <= probability < 0.995:
        return f"= {probability:.2f}"
    return "> 0.99" if probability > 0.5 else "< 0.01"


def passages(panel: Panel, width: float) -> tuple[list[Mark], float]:
    """The passages as one run of words, with a mark between them; the marks and their height."""
    units: list[Unit] = []
    for n, passage in enumerate(panel.passages):
        units += [(BETWEEN,)] * (n > 0)
        units += passage
    return flow(units, width)


def flow(units: Sequence[Unit], width: float) -> tuple[list[Mark], float]:
    """Units wrapped to the width, each word on its rectangle and over its line. A unit wider than the line is broken."""
    gap = space(Face(BODY))
    marks: list[Mark] = []
    x, n = 0.0, 0
    for unit in units:
        for part in _fitting(unit, width):
            wide = sum(measure(piece.text, _face(piece)) for piece in part)
            if x > 0 and x + wide > width:
                x, n = 0.0, n + 1
            for piece in part:
                marks += _piece(piece, x, n * LEADING)
                x += measure(piece.text, _face(piece))
        x += gap
    return marks, (n + 1) * LEADING if units else 0.0


def _face(piece: Piece) -> Face:
    return Face(BODY, italic=not piece.seen)


def _fitting(unit: Unit, width: float) -> list[Unit]:
    """The unit itself where it fits a line; else its pieces as units of their own, broken by characters where they must."""
    if sum(measure(piece.text, _face(piece)) for piece in unit) <= width:
        return [unit]
    return [
        (Piece(text, piece.fill, piece.line, piece.seen, piece.boxed),)
        for piece in unit
        for text in broken(piece.text, _face(piece), width)
    ]


def _piece(piece: Piece, x: float, top: float) -> list[Mark]:
    """The piece on its line: a rectangle under a filled one, a line under a signed one, an outline around a cue."""
    wide, base = measure(piece.text, _face(piece)), top + 1.22 * BODY
    marks: list[Mark] = []
    if piece.fill or piece.boxed:
        colour = ATTENTION[piece.fill - 1] if piece.fill else ""
        marks.append(
            Box(x - _PAD, base - 1.02 * BODY, wide + 2 * _PAD, 1.36 * BODY, colour, edge=MUTED if piece.boxed else "")
        )
    if piece.line:
        thick = WIDTHS[abs(piece.line) - 1]
        y = base + 0.26 * BODY + thick / 2
        marks.append(Stroke(x, y, x + wide, y, FOR[-1] if piece.line > 0 else AGAINST[-1], thick, piece.line < 0))
    marks.append(Words(x, base, piece.text, _face(piece), INK if piece.seen else MUTED))
    return marks


def legend(choice: Choice, panels: Sequence[Panel], width: float) -> tuple[list[Mark], float]:
    """The ramp with what its ends stand for, the two kinds of lines, and what else the passages hold."""
    face = Face(SMALL)
    pieces = [piece for p in panels for passage in p.passages for unit in passage for piece in unit]
    entries = _ramp(choice, panels, width) if choice.fill else []
    if choice.line:
        for says, colour, dashed in ((" for the code", FOR[-1], False), (" against it", AGAINST[-1], True)):
            stroke = Stroke(0.0, 0.6 * SMALL, 18.0, 0.6 * SMALL, colour, 2.0, dashed)
            entries.append(_entry([stroke], 22.0, spoken(choice.line) + says, face))
    if any(not piece.seen for piece in pieces):
        entries.append(_entry([], 0.0, "not read by the model", Face(SMALL, italic=True)))
    if any(piece.boxed for piece in pieces):
        entries.append(_entry([Box(0.0, 0.4, 12.0, SMALL + 0.6, "", edge=MUTED)], 16.0, "words of a cue", face))
    marks: list[Mark] = []
    x, y = 0.0, 0.0
    for part, wide in entries:
        if x and x + wide > width:
            x, y = 0.0, y + 1.7 * SMALL
        marks += moved(part, x, y)
        x += wide + 14.0
    return marks, y + 1.5 * SMALL if entries else 0.0


def _entry(marks: Sequence[Mark], x: float, text: str, face: Face) -> tuple[list[Mark], float]:
    """Marks and a text from x on, with the width they take together."""
    return [*marks, Words(x, SMALL, text, face, MUTED)], x + measure(text, face)


def _ramp(choice: Choice, panels: Sequence[Panel], width: float) -> list[tuple[list[Mark], float]]:
    """The ramp; on a narrow sheet what its end stands for is an entry of its own."""
    face, step = Face(SMALL), 9.0
    first, last = f"{spoken(choice.fill)}  0", _darkest(choice, panels)
    x = measure(first, face) + 4.0
    end = x + 8 * step + 4.0
    marks: list[Mark] = [Words(0.0, SMALL, first, face, MUTED)]
    marks += [Box(x + step * i, 0.6, step, SMALL, colour) for i, colour in enumerate(ATTENTION)]
    marks.append(Box(x, 0.6, 8 * step, SMALL, "", edge=RULE))
    if end + measure(last, face) <= width:
        return [_entry(marks, end, last, face)]
    return [_entry(marks, end, "1", face), _entry([], 0.0, f"1 = {last}", face)]


def _darkest(choice: Choice, panels: Sequence[Panel]) -> str:
    """What the darkest step stands for."""
    if choice.scale == "common":
        return f"{percent(panels[0].maximum)} or more"
    low, high = (percent(end(panel.maximum for panel in panels)) for end in (min, max))
    return f"the code’s highest word ({low if low == high else f'{low} to {high}'})"


def caption(
    panels: Sequence[Panel], choice: Choice, threshold_source: str, model: str, *, cues: bool
) -> tuple[str, ...]:
    """What is shown, by which scale and method, and which words hold how much."""
    lines = [
        f"What is shown: about {choice.words} words of the note, as it was written, around "
        + (f"each of the {choice.passages} strongest words of a code, in the order of the note" if choice.passages > 1 else "the strongest word of each code")
        + "; slanted grey words were not read by the model."
        + (" Outlined words matched a cue: a reason to look, not a verdict." if cues else ""),
        f"Method: {', '.join(spoken(name) for name in choice.methods)}."
        + (" Attention is that of equation 10 of Liu et al. 2022, summed over a word’s tokens." * ("attention" in choice.methods))
        + " A high weight is no proof of a cause.",
        _scale(choice),
        f"Threshold: {threshold_source}. Model: {model}.",
    ]  # fmt: skip
    for n, panel in enumerate(panels):
        name = f"{chr(ord('a') + n % 26)}. " if cues else ""
        words = ", ".join(f"{' '.join(word.split())} {percent(share)}" for word, share in panel.top)
        outcome = f"{panel.outcome}, " if panel.outcome else ""
        part = (
            f"{name}{panel.code} {panel.title} (admission {panel.hadm_id}; {outcome}p {panel.probability:.3f}, threshold "
            f"{panel.threshold:.3f}; peak in {spoken(panel.section) or 'no section'}). Strongest words of the note: "
            f"{words or 'none'}. Half of the scores is on {panel.half} word{'s' * (panel.half != 1)}."
        )
        if cues:
            said = [f"{spoken(c.kind)} ({' '.join(c.words.split()) or 'the code as a whole'})" for c in panel.cues]
            part += f" Cues: {', '.join(said) or 'none'}."
        lines.append(part)
    return tuple(lines)


def _scale(choice: Choice) -> str:
    parts = []
    if choice.fill:
        darkest = "10 % of the code’s scores or more" if choice.scale == "common" else "the code’s highest word"
        parts.append(
            f"Scale: eight steps of the square root of a word’s share of the scores on the words that were read; the darkest is {darkest}; words under 1.6 % of that "
            "are white."
        )
    if choice.line:
        parts.append(
            f"Lines: {spoken(choice.line)}; solid blue for the code, dashed pink against it, thicker for more (square root)."
        )
    return " ".join(parts)

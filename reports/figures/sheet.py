"""A sheet of words, boxes and lines in points, measured before it is painted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from reports.figures.style import FONT, INK, paper

_DPI = 720.0  # of the renderer that measures
LACKING = "\ufffd"  # stands for a character that the font has not


@dataclass(frozen=True, slots=True)
class Face:
    """Size in points, weight and slope."""

    size: float
    bold: bool = False
    italic: bool = False


@dataclass(frozen=True, slots=True)
class Words:
    """Text from x on, its baseline at y; both in points, y from the top of the sheet."""

    x: float
    y: float
    text: str
    face: Face
    colour: str = INK


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle; y is its top. colour: "" for no fill. edge: "" for no outline. hatch: matplotlib's pattern."""

    x: float
    y: float
    width: float
    height: float
    colour: str
    edge: str = ""
    hatch: str = ""


@dataclass(frozen=True, slots=True)
class Stroke:
    """A line from (x, y) to (x_end, y_end), `width` points wide."""

    x: float
    y: float
    x_end: float
    y_end: float
    colour: str
    width: float = 0.6
    dashed: bool = False


Mark = Words | Box | Stroke


def measure(text: str, face: Face) -> float:
    """Width of the text in points."""
    return _measured(shown(text, face), face)


@lru_cache(maxsize=20_000)
def _measured(text: str, face: Face) -> float:
    with mpl.rc_context({"text.hinting": "no_hinting"}):
        width, _, _ = _renderer().get_text_width_height_descent(text, _font(face), ismath=False)  # type: ignore[no-untyped-call]
    return float(width) * 72 / _DPI


@lru_cache(maxsize=1)
def _renderer() -> RendererAgg:
    return RendererAgg(8, 8, _DPI)  # type: ignore[no-untyped-call]


@lru_cache(maxsize=64)
def _font(face: Face) -> FontProperties:
    return FontProperties(
        family=FONT, size=face.size, weight="bold" if face.bold else "normal", style="oblique" if face.italic else "normal"
    )  # fmt: skip


def shown(text: str, face: Face) -> str:
    """The text with U+FFFD for every character that the font lacks, control characters among them."""
    return text if text.isascii() and text.isprintable() else "".join(_shown(ch, face.bold, face.italic) for ch in text)


@lru_cache(maxsize=5_000)
def _shown(character: str, bold: bool, italic: bool) -> str:
    font = get_font(findfont(_font(Face(8.0, bold, italic))))
    there = font.get_char_index(ord(character)) != 0 and (character.isprintable() or character.isspace())
    return character if there else LACKING


def space(face: Face) -> float:
    """Width of the gap between two words, in points."""
    return measure("n n", face) - measure("nn", face)


def broken(text: str, face: Face, width: float) -> list[str]:
    """The text cut into pieces that fit the width; one piece where it fits, at least one character each."""
    if measure(text, face) <= width:
        return [text]
    pieces, at = [], 0
    while at < len(text):
        end = at + 1
        while end < len(text) and measure(text[at : end + 1], face) <= width:
            end += 1
        pieces.append(text[at:end])
        at = end
    return pieces


def paragraph(text: str, x: float, y: float, width: float, face: Face, colour: str = INK) -> tuple[list[Mark], float]:
    """Wrapped text whose first line is [y, y + 1.4 size]; its marks and the height it takes."""
    leading = 1.4 * face.size
    marks: list[Mark] = []
    line, n = "", 0
    for word in [piece for unit in text.split() for piece in broken(unit, face, width)]:
        longer = f"{line} {word}" if line else word
        if line and measure(longer, face) > width:
            marks.append(Words(x, y + n * leading + face.size, line, face, colour))
            line, n = word, n + 1
        else:
            line = longer
    if line:
        marks.append(Words(x, y + n * leading + face.size, line, face, colour))
        n += 1
    return marks, n * leading


def moved(marks: Sequence[Mark], x: float, y: float) -> list[Mark]:
    """The marks, further right and down."""
    return [
        replace(m, x=m.x + x, y=m.y + y, x_end=m.x_end + x, y_end=m.y_end + y)
        if isinstance(m, Stroke)
        else replace(m, x=m.x + x, y=m.y + y)
        for m in marks
    ]


def paint(marks: Sequence[Mark], width: float, height: float) -> Figure:
    """A figure of width by height points with the marks on it: boxes lowest, then lines, then words."""
    with paper():
        figure = Figure(figsize=(width / 72, height / 72))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.set_xlim(0, width)
        axes.set_ylim(height, 0)
        for mark in marks:
            if isinstance(mark, Box):
                _box(axes, mark)
            elif isinstance(mark, Stroke):
                dash: tuple[float, Sequence[float]] = (0, (2.2, 1.4)) if mark.dashed else (0, ())
                axes.add_line(
                    Line2D(
                        (mark.x, mark.x_end), (mark.y, mark.y_end), color=mark.colour, linewidth=mark.width,
                        linestyle=dash, dash_capstyle="butt", solid_capstyle="butt", zorder=2,
                    )
                )  # fmt: skip
            else:
                axes.text(
                    mark.x, mark.y, shown(mark.text, mark.face), fontproperties=_font(mark.face), color=mark.colour,
                    va="baseline", ha="left", zorder=3, parse_math=False,
                )  # fmt: skip
    return figure


def _box(axes: Axes, mark: Box) -> None:
    axes.add_patch(
        Rectangle(
            (mark.x, mark.y), mark.width, mark.height, facecolor=mark.colour or "none", edgecolor=mark.edge or "none",
            linewidth=0.6 if mark.edge else 0.0, hatch=mark.hatch or None, zorder=1,
        )
    )  # fmt: skip

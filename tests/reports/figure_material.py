"""Material of the figure tests: explained admissions of drawn scores, hostile notes, and what a painted figure holds."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.transforms import Bbox

from explain.subject import WordScores
from explain.table import Explained
from hilat.admissions import Admission, CodeBook
from reports.figures.style import paper

BOOK = CodeBook(
    ("276.2", "428.0", "88.56"),
    ("Acidosis", "Congestive heart failure, unspecified", "Coronary arteriography $using$ two_catheters"),
    ("diagnosis", "diagnosis", "procedure"),
)
HOSTILE = (
    "History of Present Illness: paid $5 for $x_1$ and \\frac{1}{2} of x^2_3, lactate < 4 & <b>possible</b> "
    "sepsis --> \x07bell \u4e2d\u6587 \U0001f600 %s {0} 97.3 102/55 " + "_" * 260 + " was given.\n"
    "Past Medical History: acute on chronic systolic heart failure; septic physiology was considered today.\n"
)


def explained_of(text: str, hadm_id: str = "100345", seed: int = 0, outcomes: str = "TP FP FN") -> tuple[Explained, Admission]:  # fmt: skip
    """An explained admission: words are runs of word characters with a letter, in reversed model order; two methods."""
    rng = np.random.default_rng(seed)
    spans = np.array([m.span() for m in re.finditer(r"[\w$^\\]*[A-Za-z][\w$^]*", text)])[::-1]
    n, k = len(spans), len(BOOK)
    attention = rng.gamma(0.05, size=(k, n)) + 1e-9
    attention *= 0.9 / attention.sum(axis=1, keepdims=True)
    signed = rng.normal(size=(k, n)) ** 3
    given = [name[1] == "P" for name in outcomes.split()]
    gold = np.array([name in ("TP", "FN") for name in outcomes.split()])
    probabilities = np.where(given, 0.9, 0.1)
    chunk = np.arange(n) * 3 // n
    chunk[-1] = -1  # the first word of the text was not read
    one = Explained(
        hadm_id, BOOK.codes, np.log(probabilities / (1 - probabilities)), probabilities, np.full(k, 0.5), gold,
        np.tile([0.5, 0.3, 0.2, 0.0], (k, 1)), BOOK.codes,
        {
            "attention": WordScores(attention, False, "attention", np.full(k, 0.1)),
            "input_x_gradient": WordScores(signed, True, "logit", np.zeros(k)),
        },
        spans, chunk, np.ones(n, dtype=np.int64), np.zeros((0, 2), dtype=np.int64), (),
    )  # fmt: skip
    codes = tuple(code for code, is_gold in zip(BOOK.codes, gold, strict=True) if is_gold)
    return one, Admission(hadm_id, text, codes, split="test")


def texts_of(svg: Path) -> list[str]:
    """What the <text> elements of an SVG file say."""
    root = ElementTree.fromstring(svg.read_bytes())
    return ["".join(node.itertext()) for node in root.iter("{http://www.w3.org/2000/svg}text")]


def painted(figure: Figure) -> tuple[list[tuple[str, Bbox]], list[Rectangle], Bbox]:
    """The words with the boxes that the renderer gives them at 300 dpi, the rectangles, and the canvas."""
    with paper():  # as when it is saved
        figure.set_dpi(300)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        axes = figure.axes[0]
        words = [(t.get_text(), t.get_window_extent(canvas.get_renderer())) for t in axes.texts]
    return words, [p for p in axes.patches if isinstance(p, Rectangle)], figure.bbox

"""The worked example of Liu et al. 2022, Fig. 2: from chunk and token attention to the attention of words, with numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from explain.snippets import quantise
from hilat.admissions import HilatError
from reports.figures.saving import Drawing
from reports.figures.sheet import Box, Face, Mark, Stroke, Words, broken, measure, paint, paragraph
from reports.figures.style import ATTENTION, BODY, INK, MUTED, POINTS_PER_MM, RULE, SMALL
from reports.highlight import shade_levels

MARGIN = 3.0
CELL = 24.0  # points, height of a cell of two lines
LINE = 10.0  # points, of one more
PAD = 7.0  # points, of a cell's width
MOST = 14  # tokens of a snippet


@dataclass(frozen=True, slots=True, eq=False)
class Attended:
    """What the model attended to for one code of one note.

    token_attention (C, T), equation 2; chunk_attention (C,), equation 6; word_index (C, T), -1 off words; tokens: C lists of
    T pieces as the tokenizer writes them; words: the note's words by that index. empty (C,): chunks without a word.
    """

    hadm_id: str
    code: str
    title: str
    probability: float
    logit: float
    threshold: float
    token_attention: NDArray[np.float64]
    chunk_attention: NDArray[np.float64]
    word_index: NDArray[np.int64]
    tokens: tuple[tuple[str, ...], ...]
    words: tuple[str, ...]
    empty: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Snippet:
    """Tokens first..last (inclusive) of a chunk. alpha, products (n,): equations 2 and 10. word_of (n,): their words.

    words: each word of the snippet once; sums: of its tokens' products in the whole note; shares: after normalising by
    `total`, the sum over all words.
    """

    chunk: int
    first: int
    last: int
    alpha: NDArray[np.float64]
    products: NDArray[np.float64]
    word_of: NDArray[np.int64]
    words: tuple[int, ...]
    sums: NDArray[np.float64]
    shares: NDArray[np.float64]
    total: float


def number(value: float) -> str:
    """Three decimals; a smaller positive value says so."""
    return "< 0.001" if 0 < value < 0.0005 else f"{value:.3f}"


def snippet_of(attended: Attended, width: float) -> Snippet:
    """The tokens around the strongest one of equation 10, whole words only, as many as fit the width in points.

    Raises:
        HilatError: no word in any chunk.
    """
    products = attended.token_attention * attended.chunk_attention[:, None]  # (C, T)
    on_words = attended.word_index >= 0
    if not on_words.any():
        raise HilatError(f"admission {attended.hadm_id} has no word that the model read; choose another admission")
    sums = np.zeros(len(attended.words))  # (W,)
    np.add.at(sums, attended.word_index[on_words], products[on_words])
    total = float(sums.sum())
    chunk, peak = (int(i) for i in np.unravel_index(np.where(on_words, products, -1.0).argmax(), products.shape))
    index = attended.word_index[chunk]  # (T,)
    runs = _runs(index)
    middle = next(i for i, (a, b) in enumerate(runs) if a <= peak <= b)
    low = high = middle
    grow = True
    while grow:
        grow = False
        for side in (-1, 1):
            a, b = (low - 1, high) if side < 0 else (low, high + 1)
            if a < 0 or b >= len(runs) or runs[b][1] - runs[a][0] + 1 > MOST:
                continue
            if runs[b][1] - runs[a][0] != sum(e - s + 1 for s, e in runs[a : b + 1]) - 1:
                continue  # a special token stands between
            if sum(_columns(attended, products, chunk, runs[a : b + 1])) <= width:
                low, high, grow = a, b, True
    first, last = runs[low][0], runs[high][1]
    here = slice(first, last + 1)
    words = tuple(dict.fromkeys(index[here].tolist()))
    chosen = sums[list(words)]
    return Snippet(
        chunk, first, last, attended.token_attention[chunk, here], products[chunk, here], index[here], words, chosen,
        chosen / total if total > 0 else chosen, total,
    )  # fmt: skip


def _runs(index: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Positions first..last of each word's tokens in a chunk (T,), in order."""
    runs: list[tuple[int, int]] = []
    for t in np.flatnonzero(index >= 0).tolist():
        if runs and runs[-1][1] == t - 1 and index[t] == index[t - 1]:
            runs[-1] = (runs[-1][0], t)
        else:
            runs.append((t, t))
    return runs


def _columns(
    attended: Attended, products: NDArray[np.float64], chunk: int, runs: Sequence[tuple[int, int]]
) -> list[float]:
    """Widths of the tokens' cells: wide enough for token and numbers, and together for the word and its numbers."""
    widths: list[float] = []
    for a, b in runs:
        cells = [
            PAD
            + max(
                measure(attended.tokens[chunk][t], Face(BODY)),
                measure(number(attended.token_attention[chunk, t]), Face(SMALL)),
                measure(number(products[chunk, t]), Face(SMALL)),
            )
            for t in range(a, b + 1)
        ]
        word = attended.words[int(attended.word_index[chunk, a])]
        need = PAD + max(measure(word, Face(BODY, bold=True)), measure("< 0.001", Face(SMALL)))
        extra = max(0.0, need - sum(cells)) / len(cells)
        widths += [cell + extra for cell in cells]
    return widths


def draw_worked(attended: Attended, width_mm: float, threshold_source: str, model: str) -> Drawing:
    """The four rows of Fig. 2: chunk attention, token attention, their product, and words; then the prediction."""
    full = width_mm * POINTS_PER_MM
    inner = full - 2 * MARGIN
    snip = snippet_of(attended, inner)
    products = attended.token_attention * attended.chunk_attention[:, None]
    runs = [run for run in _runs(attended.word_index[snip.chunk]) if snip.first <= run[0] and run[1] <= snip.last]
    columns = _columns(attended, products, snip.chunk, runs)
    if sum(columns) > inner:  # one word that is wider than the page
        columns = [column * inner / sum(columns) for column in columns]
    left = MARGIN + (inner - sum(columns)) / 2
    edges = left + np.concatenate([[0.0], np.cumsum(columns)])  # (n + 1,)
    tokens = attended.tokens[snip.chunk][snip.first : snip.last + 1]
    o = float(attended.chunk_attention[snip.chunk])
    marks: list[Mark] = []
    height = _head(
        "a", f"Chunk attention o of {len(attended.chunk_attention)} chunks (equation 6)", MARGIN, inner, marks
    )
    y = MARGIN + height
    bounds = _chunk_row(attended, snip.chunk, y, inner, marks)
    low = y + CELL
    y = low + 15.0
    for x, x_end in zip(bounds, (float(edges[0]), float(edges[-1])), strict=True):
        marks.append(Stroke(x, low, x_end, low + 12.0, MUTED, 0.5, True))
    y += _head("b", f"Token attention α within chunk {snip.chunk + 1} (equation 2)", y, inner, marks)
    _cells(edges, tokens, [number(a) for a in snip.alpha], snip.alpha, y, marks)
    y += CELL + 8.0
    y += _head("c", f"Global token attention g = α · o, with o = {number(o)} (equation 10)", y, inner, marks)
    _cells(edges, tokens, [number(g) for g in snip.products], snip.products, y, marks)
    y += CELL + 8.0
    y += _head("d", f"Word attention: the sum over a word’s tokens, and below it divided by {snip.total:.4f}, the sum over all words", y, inner, marks)  # fmt: skip
    _word_row(attended, snip, edges, y, marks)
    y += CELL + LINE + 7.0
    part, tall = paragraph(_sums(attended, snip, tokens), MARGIN, y, inner, Face(SMALL), MUTED)
    marks += part
    title = f"From token to word attention, worked on one note: code {attended.code} {attended.title}"
    height = y + tall + MARGIN
    return Drawing(paint(marks, full, height), title, _caption(attended, snip, tokens, threshold_source, model))


def _caption(
    attended: Attended, snip: Snippet, tokens: Sequence[str], threshold_source: str, model: str
) -> tuple[str, ...]:
    return (
        f"What is shown: admission {attended.hadm_id}, code {attended.code} {attended.title}, after Liu et al. 2022, Fig. 2. "
        f"The snippet is the {len(tokens)} tokens around the strongest product, in chunk {snip.chunk + 1} of "
        f"{len(attended.chunk_attention)} ({int(attended.empty.sum())} empty).",
        "Scale: each row is filled in eight steps of the square root of its values; the darkest is the highest of the row.",
        "Method: token attention times chunk attention (equation 10), summed over a word’s tokens and divided by the sum over "
        f"all words ({snip.total:.4f}; the rest to 1 is on special tokens). A high weight is no proof of a cause.",
        f"Numbers: {_sums(attended, snip, tokens)}",
        f"Threshold: {threshold_source}. Model: {model}.",
    )


def _sums(attended: Attended, snip: Snippet, tokens: Sequence[str]) -> str:
    """The arithmetic of the strongest token and its word, and the prediction."""
    i = int(snip.products.argmax())
    w = snip.words.index(int(snip.word_of[i]))
    o = float(attended.chunk_attention[snip.chunk])
    verdict = "predicted" if attended.probability >= attended.threshold else "not predicted"
    sign = "≥" if attended.probability >= attended.threshold else "<"
    return (
        f"{tokens[i]}: g = {snip.alpha[i]:.4f} × {o:.4f} = {snip.products[i]:.4f}.  Its word: {snip.sums[w]:.5f} / "
        f"{snip.total:.5f} = {snip.shares[w]:.5f} of the attention on words.  {attended.code}: logit {attended.logit:.2f}, "
        f"probability {attended.probability:.3f} {sign} threshold {attended.threshold:.3f}, {verdict}."
    )


def _head(letter: str, says: str, y: float, width: float, marks: list[Mark]) -> float:
    """A row's letter and what it shows; returns the height."""
    marks.append(Words(MARGIN, y + BODY, letter, Face(BODY + 0.5, bold=True)))
    part, height = paragraph(says, MARGIN + 11.0, y, width - 11.0, Face(BODY))
    marks += part
    return max(height, 1.4 * BODY) + 3.5


def _chunk_row(attended: Attended, chosen: int, y: float, width: float, marks: list[Mark]) -> tuple[float, float]:
    """A cell per chunk, empty ones hatched; returns the left and right end of the chosen one."""
    n = len(attended.chunk_attention)
    wide = width / n
    levels = shade_levels(quantise(attended.chunk_attention)[0])
    roomy = wide >= measure("< 0.001", Face(SMALL)) + 2.0
    for c in range(n):
        x = MARGIN + c * wide
        if attended.empty[c]:
            marks.append(Box(x, y, wide, CELL, "", edge=RULE, hatch="////"))
            if wide >= measure("empty", Face(SMALL)) + 6.0:
                marks.append(Box(x + (wide - measure("empty", Face(SMALL)) - 4.0) / 2, y + 7.0, measure("empty", Face(SMALL)) + 4.0, 10.0, "#ffffff"))  # fmt: skip
                marks.append(
                    Words(x + (wide - measure("empty", Face(SMALL))) / 2, y + 14.3, "empty", Face(SMALL), MUTED)
                )
            continue
        value = number(float(attended.chunk_attention[c])) if roomy else ""
        _cell((x, y, wide), (str(c + 1), value), int(levels[c]), marks)
    x = MARGIN + chosen * wide
    marks.append(Stroke(x, y + CELL, x + wide, y + CELL, INK, 1.4))
    return x, x + wide


def _word_row(attended: Attended, snip: Snippet, edges: NDArray[np.float64], y: float, marks: list[Mark]) -> None:
    """A cell per word over the columns of its tokens, with a bracket where these are several."""
    levels = shade_levels(quantise(snip.sums)[0])
    for i, word in enumerate(snip.words):
        mine = np.flatnonzero(snip.word_of == word)
        x, x_end = float(edges[mine[0]]), float(edges[mine[-1] + 1])
        if len(mine) > 1:
            marks.append(Stroke(x + 2, y - 1.5, x_end - 2, y - 1.5, INK, 0.8))
        lines = (attended.words[word], number(snip.sums[i]), number(snip.shares[i]))
        _cell((x, y, x_end - x), lines, int(levels[i]), marks)


def _cells(
    edges: NDArray[np.float64], above: Sequence[str], below: Sequence[str], values: NDArray[np.float64], y: float, marks: list[Mark]
) -> None:  # fmt: skip
    """A row of cells between the edges (n + 1,), filled by their values (n,)."""
    levels = shade_levels(quantise(values)[0])
    for i, (first, second) in enumerate(zip(above, below, strict=True)):
        _cell((float(edges[i]), y, float(edges[i + 1] - edges[i])), (first, second), int(levels[i]), marks)


def _cell(spot: tuple[float, float, float], lines: Sequence[str], level: int, marks: list[Mark]) -> None:
    """A cell at (x, y) of a width with two or three centred lines; of three the first is bold. A line too wide is cut."""
    x, y, wide = spot
    high = CELL + LINE * (len(lines) - 2)
    marks.append(Box(x, y, wide, high, ATTENTION[level - 1] if level else "#ffffff", edge=RULE))
    for n, text in enumerate(lines):
        face = Face(SMALL) if n else Face(BODY, bold=len(lines) > 2)
        fits = broken(text, face, max(1.0, wide - 2.0)) if text else []
        line = fits[0] if len(fits) == 1 else f"{fits[0][:-1]}…" if fits else ""
        if line:
            marks.append(Words(x + (wide - measure(line, face)) / 2, y + 9.6 + LINE * n, line, face))

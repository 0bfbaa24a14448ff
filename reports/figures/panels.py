"""One code of one admission as a figure shows it: the passages around its strongest words, each word with its shade."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from explain.rows import outcome_of
from explain.snippets import HIDE_BELOW, quantise, strongest, words_for_half
from hilat.admissions import Admission, CodeBook, HilatError
from hilat.sections import find_sections
from reports.highlight import COMMON_MAXIMUM, line_levels, quantise_signed, shade_levels

if TYPE_CHECKING:
    from explain.table import Explained

TOLD = 8  # strongest words that a caption lists, those with a share of LEAST or more
LEAST = 0.005
Scale = Literal["code", "common"]


@dataclass(frozen=True, slots=True)
class Piece:
    """Characters that are drawn in one go. fill: 0 (none) to 8. line: -4 (against) to 4 (for). seen: the model read it.

    boxed: it belongs to a cue.
    """

    text: str
    fill: int = 0
    line: int = 0
    seen: bool = True
    boxed: bool = False


Unit = tuple[Piece, ...]  # pieces without a space between them


@dataclass(frozen=True, slots=True)
class CueLine:
    """Why a code may be wrong: kind, what it says, and the note's words that matched, "" for none."""

    kind: str
    says: str
    words: str = ""
    start: int = -1
    end: int = -1


@dataclass(frozen=True, slots=True)
class Choice:
    """What a panel shows. fill: a method whose scores are not signed, or "". line: a signed one, or "".

    words: whitespace units of a passage. passages: how many. scale: "code": the darkest word is the code's highest;
    "common": the darkest holds 10 % of the scores or more.
    """

    fill: str = "attention"
    line: str = ""
    words: int = 44
    passages: int = 1
    scale: Scale = "code"

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods that are drawn; the first one chooses the passages."""
        return tuple(name for name in (self.fill, self.line) if name)


@dataclass(frozen=True, slots=True)
class Panel:
    """A code's passages. passages: of units, in the order of the text. maximum: the share that the darkest word stands for.

    outcome: TP, FP, FN, TN, or "" where the coders' codes are unknown. top: the strongest words of the whole note with
    their shares; half: how many words hold half of the scores. section: of the peak.
    """

    hadm_id: str
    code: str
    title: str
    outcome: str
    probability: float
    threshold: float
    passages: tuple[tuple[Unit, ...], ...]
    maximum: float
    top: tuple[tuple[str, float], ...]
    half: int
    section: str
    cues: tuple[CueLine, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class _Shades:
    """Words (W, 2) in text order with their fills, lines and the strengths (W,) that choose the passages."""

    spans: NDArray[np.int64]
    fills: NDArray[np.int64]
    lines: NDArray[np.int64]
    strength: NDArray[np.float64]
    maximum: float


def panel_of(
    one: Explained, admission: Admission, book: CodeBook, code: str, choice: Choice, cues: Sequence[CueLine] = ()
) -> Panel:
    """The panel of a code that was explained.

    Raises:
        HilatError: a code or method without scores on this admission, or a method drawn the wrong way.
    """
    k = one.codes.index(code) if code in one.codes else -1
    if code not in one.scored:
        raise HilatError(
            f"code {code} was not explained on admission {one.hadm_id}; explained were {', '.join(one.scored) or 'none'}. "
            "Name one of those, or explain again with --codes"
        )
    shades = _shades(one, code, choice)
    text = admission.text
    units = [match.span() for match in re.finditer(r"\S+", text)]
    starts = [start for start, _ in units]
    windows, peak = _windows(shades, starts, choice)
    sections = find_sections(text)
    place = bisect_right([s.start for s in sections], peak) - 1
    share = shades.strength / max(shades.strength.sum(), 1e-300)
    top = [
        (text[slice(*shades.spans[w])], float(share[w])) for w in strongest(shades.strength, TOLD) if share[w] >= LEAST
    ]
    probability, threshold = float(one.probabilities[k]), float(one.thresholds[k])
    gold = None if one.gold is None else bool(one.gold[k])
    return Panel(
        one.hadm_id, code, book.titles[book.column(code)], outcome_of(probability >= threshold, gold), probability, threshold,
        tuple(tuple(_unit(text, units[u], shades, cues) for u in range(a, b)) for a, b in windows),
        shades.maximum, tuple(top), words_for_half(shades.strength), sections[place].name if sections else "", tuple(cues),
    )  # fmt: skip


def _shades(one: Explained, code: str, choice: Choice) -> _Shades:
    """Fills and lines of the words that were read, in text order."""
    seen = np.flatnonzero(one.word_chunk >= 0)
    order = seen[np.argsort(one.word_spans[seen, 0], kind="stable")]
    scores = {name: one.of(name)[code][order] for name in choice.methods}
    for name in scores:
        if one.methods[name].signed != (name == choice.line):
            way = "signed: it is drawn as lines" if one.methods[name].signed else "not signed: it fills words"
            raise HilatError(f"method {name} is {way}; expected one of each kind at most. Correct --method")
    if not len(order) or not scores:
        raise HilatError(f"admission {one.hadm_id} has no word that the model read; choose another admission")
    first = scores[choice.methods[0]]
    strength = np.abs(first)
    fills = np.zeros(len(order), dtype=np.int64)
    maximum = float(strength.max() / max(strength.sum(), 1e-300))
    if choice.fill:
        positive = np.maximum(scores[choice.fill], 0.0)
        share = positive / max(positive.sum(), 1e-300)
        if choice.scale == "common":
            maximum = COMMON_MAXIMUM
            quantised = np.rint(255 * np.sqrt(np.minimum(share / COMMON_MAXIMUM, 1.0))).astype(np.uint8)
        else:
            quantised, maximum = quantise(share)
        fills = shade_levels(quantised)
    lines = line_levels(quantise_signed(scores[choice.line])[0]) if choice.line else np.zeros_like(fills)
    return _Shades(one.word_spans[order], fills, lines, strength, maximum)


def _windows(shades: _Shades, starts: Sequence[int], choice: Choice) -> tuple[list[tuple[int, int]], int]:
    """Ranges of units around the strongest words, disjoint and in text order, and where the strongest word begins.

    Beyond the first only words that are strong enough to be shown make a window.
    A window at either end of the note is moved inside, so that it is as long as the others.
    """
    n, size = len(starts), min(choice.words, len(starts))
    found: list[tuple[int, int]] = []
    first = -1
    quantised = quantise(shades.strength)[0]
    for word in strongest(shades.strength, len(shades.strength)).tolist():
        if len(found) == choice.passages or (found and quantised[word] < HIDE_BELOW):
            break
        at = int(shades.spans[word, 0])
        unit = bisect_right(starts, at) - 1
        if any(a <= unit < b for a, b in found):
            continue
        begin = min(max(0, unit - size // 2), n - size)
        found.append((begin, begin + size))
        first = at if first < 0 else first
    merged: list[tuple[int, int]] = []
    for begin, end in sorted(found):
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((begin, end))
    return merged, first


def _unit(text: str, unit: tuple[int, int], shades: _Shades, cues: Sequence[CueLine]) -> Unit:
    """A whitespace unit cut at the words and cues in it."""
    start, end = unit
    first = int(np.searchsorted(shades.spans[:, 1], start, side="right"))
    last = int(np.searchsorted(shades.spans[:, 0], end, side="left"))
    words = [
        (max(start, int(a)), min(end, int(b)), w) for w, (a, b) in enumerate(shades.spans[first:last], start=first)
    ]
    marked = [(max(start, c.start), min(end, c.end)) for c in cues if c.start >= 0 and c.start < end and start < c.end]
    cuts = sorted(
        {start, end, *(cut for a, b, _ in words for cut in (a, b)), *(cut for span in marked for cut in span)}
    )
    pieces: list[Piece] = []
    for a, b in pairwise(cuts):
        boxed = any(s <= a < e for s, e in marked)
        word = next((w for s, e, w in words if s <= a < e), None)
        if word is None:
            pieces.append(Piece(text[a:b], seen=bool(words), boxed=boxed))
        else:
            pieces.append(Piece(text[a:b], int(shades.fills[word]), int(shades.lines[word]), True, boxed))
    return tuple(pieces)

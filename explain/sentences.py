"""Sentences of a clinical note, as ranges of its raw text: blocks by layout first, then pysbd within each block.

pysbd (Sadvilkar and Neumann 2020, "PySBD: Pragmatic Sentence Boundary Disambiguation") knows abbreviations, but ends a
sentence at every line end, and a note's lines are mostly broken by width. So a note is first cut where its layout says
that something new begins, and each block goes to pysbd with its line ends as spaces. Of pysbd's answer only the starts
of sentences are used, so that no text can be lost.
"""

from __future__ import annotations

import re
import warnings
from bisect import bisect_right
from collections.abc import Callable, Iterable
from functools import lru_cache
from itertools import pairwise
from typing import Any

from explain.lemmas import LANGUAGES
from hilat.admissions import HilatError

Ranges = tuple[tuple[int, int], ...]

_WINDOW = 2000  # characters that pysbd gets at once: its time grows with the square of the length
_SHORT_LINE = 45  # characters; a shorter line did not end because it was full
_LINE = re.compile(r"[^\n]+")
_LIST_ITEM = re.compile(r"\s*(?:[-*•·>+]\s*(?=\w)|#|\(?\d{1,2}(?:[.)](?!\d)|\)))")
_HEADING = re.compile(r"\s*[^\W\d_a-z][^\n:.,;!?]{0,60}:(?=\s|$)")
_HEADING_LINE = re.compile(r"[^\n:]{1,80}:\s*$")
# A line that ends so goes on, however short it is.
_GOES_ON = re.compile(
    r"(?:[,(/&-]|\b(?:and|or|of|the|with|without|for|to|no|not|a|an|in|on|at|by|from|his|her|was|is|had|has|dr\.?|y|o|de|del|la|el"
    r"|los|las|un|una|con|sin|en|por|para|al|se|que|su))\s*$",
    re.IGNORECASE,
)
_SPACE = re.compile(r"\s")
_END = re.compile(r"[.!?…][\"'’”»)\]]*\s*$")
_NUMBER_ITEM = re.compile(r"\d{1,2}[.)]")
# Where a sentence can start at all within a block (see _starts); most blocks have no such place, and pysbd is slow.
_CAN_START = re.compile(r"[.!?…][\"'’”»)\]]*\s+\S|\s\d{1,2}[.)]")


def sentences(text: str, language: str = "en") -> tuple[tuple[int, int], ...]:
    """Half-open character ranges of the raw text, one per sentence, in order, none overlapping, without outer white space.

    Every character that is not white space is in one of them. Blank lines, list items, headings at the start of a line
    and short lines before a capital end a sentence; a line broken by width does not.

    Raises:
        HilatError: for a language other than "en" and "es".
    """
    _check(language)
    return tuple(sentence for block in _blocks(text) for sentence in _in_block(text, *block, language))


def sentences_near(text: str, language: str = "en") -> Callable[[Iterable[int]], Ranges]:
    """A function that gives, of `sentences(text)`, those of the blocks in which some places stand, in order.

    Each block is cut into sentences when it is first asked for: most of a note never is, and pysbd is slow.

    Raises:
        HilatError: for a language other than "en" and "es".
    """
    _check(language)
    blocks = _blocks(text)
    starts = [start for start, _ in blocks]
    known: dict[int, Ranges] = {}

    def near(places: Iterable[int]) -> Ranges:
        wanted = sorted({bisect_right(starts, place) - 1 for place in places} - {-1})
        for n in wanted:
            if n not in known:
                known[n] = _in_block(text, *blocks[n], language)
        return tuple(sentence for n in wanted for sentence in known[n])

    return near


def _check(language: str) -> None:
    if language not in LANGUAGES:
        raise HilatError(
            f"sentences cannot be found in language {language!r}; expected {' or '.join(LANGUAGES)}. Choose one of them"
        )


def _in_block(text: str, start: int, end: int, language: str) -> Ranges:
    """The sentences of one block."""
    cuts = [start, *_cuts(text, start, end, language), end]
    return tuple(_trimmed(text, *piece) for piece in pairwise(cuts))


def _blocks(text: str) -> list[tuple[int, int]]:
    """Ranges of lines that belong together, none of white space only."""
    blocks: list[tuple[int, int]] = []
    previous = ""  # the line before, "" after a blank one
    for match in _LINE.finditer(text):
        line, start, end = match.group(), match.start(), match.end()
        if not line.strip():
            previous = ""
        elif previous and text[start - 2] != "\n" and not _begins(line, previous):
            blocks[-1] = (blocks[-1][0], end)
            previous = line
        else:
            blocks.append((start, end))
            previous = line
    return blocks


def _begins(line: str, previous: str) -> bool:
    """Whether this line begins something new after the previous one, neither of them blank."""
    if _LIST_ITEM.match(line) or _HEADING.match(line) or _HEADING_LINE.match(previous):
        return True
    short = len(previous.strip()) < _SHORT_LINE and not _GOES_ON.search(previous)
    return short and line.lstrip()[0].isupper()


def _cuts(text: str, start: int, end: int, language: str) -> list[int]:
    """Where sentences start within the block [start, end), its own start left out.

    pysbd gets a window of the block; the last sentence that begins in a window begins the next one, as it may have been
    cut off. A window without a sentence end is followed by the next without a cut.
    """
    if not _CAN_START.search(text, start, end):
        return []
    segmenter, block = _segmenter(language), _SPACE.sub(" ", text[start:end])
    cuts: list[int] = []
    at = 0
    while at < len(block):
        stop = _window_end(block, at)
        starts = [at + s for s in _starts(block[at:stop], segmenter.segment(block[at:stop]))]
        cuts += [start + s for s in starts]
        at = starts[-1] if starts and stop < len(block) else stop
    return cuts


def _window_end(block: str, at: int) -> int:
    if len(block) - at <= _WINDOW:
        return len(block)
    space = block.rfind(" ", at + 1, at + _WINDOW)
    return space if space > at else at + _WINDOW


def _starts(window: str, pieces: list[str]) -> list[int]:
    """Where the pieces start in the window, the first left out, and those whose start cannot be trusted.

    pysbd alters rare characters and then drops a piece or cannot be followed: a start counts only right behind the piece
    before, after white space. Pieces that follow no sentence end (pysbd takes "(1)" for a list) do not count either.
    """
    starts: list[int] = []
    behind = 0  # the end of the piece before
    for piece in (p.strip() for p in pieces):
        place = window.find(piece, behind) if piece else -1
        if place < 0:
            continue
        before = window[:place]
        followed = not window[behind:place].strip() and before.endswith(" ")
        if followed and _ends(before[starts[-1] if starts else 0 :], piece):
            starts.append(place)
        behind = place + len(piece)
    return starts


def _ends(sentence: str, following: str) -> bool:
    """Whether a sentence ends before the following piece."""
    if not any(c.isalpha() for c in sentence):
        return False  # "3." belongs to what it counts
    if _NUMBER_ITEM.match(following):
        return True
    ended = _END.search(sentence) is not None
    return ended and not (sentence.rstrip().endswith("?") and following[0].islower())  # "fever ? viral"


@lru_cache(maxsize=len(LANGUAGES))
def _segmenter(language: str) -> Any:
    with warnings.catch_warnings():
        # pysbd 0.3.4 holds "\s" in plain strings; Python says so when it first compiles the module (DeprecationWarning up
        # to 3.11, SyntaxWarning since), and only then. Nothing else is silenced.
        for category in (DeprecationWarning, SyntaxWarning):
            warnings.filterwarnings("ignore", message=".*invalid escape sequence", category=category)
        from pysbd import Segmenter
    return Segmenter(language=language, clean=False, char_span=False)


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    piece = text[start:end]
    return start + len(piece) - len(piece.lstrip()), start + len(piece.rstrip())

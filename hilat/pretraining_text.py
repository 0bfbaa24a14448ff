"""A note as pretraining reads it: words and sentences, and the counts of a corpus (Liu et al. 2022, section 3.1, Table 1)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hilat.cleaning import CleaningRules, clean

# Where a sentence may end: after . ! ? and closing marks before white space, and at a blank line.
_END = re.compile(r"[.!?]+[\"')\]»”]*(?=\s)|\n[ \t]*\n")
_NEXT = re.compile(r"\s*[\"'(\[«“¿¡*-]*")
_WORD_BEFORE = re.compile(r"[^\s(\[]+$")
_ABBREVIATIONS = frozenset(
    ("dr", "dra", "mr", "mrs", "ms", "sr", "sra", "st", "vs", "prof", "jr", "approx", "pt", "pts", "fig", "figs", "e.g", "i.e",
     "al", "ca", "cf", "resp", "temp", "dept", "m.d", "r.n", "p.o", "i.v", "a.m", "p.m", "b.i.d", "t.i.d", "q.i.d", "q.d")
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class NoteCounts:
    """What notes hold after preprocessing. characters: of the cleaned words joined by spaces. tokens: of the vocabulary."""

    notes: int = 0
    held_out_notes: int = 0
    without_words: int = 0
    sentences: int = 0
    words: int = 0
    tokens: int = 0
    characters: int = 0

    def __add__(self, other: NoteCounts) -> NoteCounts:
        return NoteCounts(*(getattr(self, name) + getattr(other, name) for name in self.__slots__))


def sentence_starts(text: str) -> NDArray[np.int64]:
    """Offsets (S,) where sentences begin, with the white space before them; 0 first.

    Rules of our own, since a trained splitter takes hours on two million notes: a sentence ends at a blank line, and at
    . ! or ? before white space, unless lower case follows or the word before is an abbreviation, a number of a list or
    an initial. The sentences' borders shape the counts, and what `shortest_sentence` drops; not the sequences.
    """
    starts = [0]
    for found in _END.finditer(text):
        following = found.end() + len(_NEXT.match(text, found.end()).group())  # type: ignore[union-attr]
        after = text[following : following + 1]
        if found.group().startswith("\n") or not (after.islower() or _continues(text, found)):
            starts.append(found.end())
    return np.unique(np.array(starts, dtype=np.int64))


def _continues(text: str, found: re.Match[str]) -> bool:
    """Whether the stop belongs to the word before it."""
    if not found.group().startswith("."):
        return False
    before = _WORD_BEFORE.search(text, max(0, found.start() - 20), found.start())
    word = before.group().lower() if before else ""
    line = text.rfind("\n", 0, found.start()) + 1
    numbered = word.isdigit() and not text[line : found.start()].strip().strip(word)
    return word in _ABBREVIATIONS or (len(word) == 1 and word.isalpha()) or numbered


def preprocess(text: str, rules: CleaningRules, shortest_sentence: int = 1) -> tuple[tuple[str, ...], int]:
    """The words of a note that are read, in order, and the number of their sentences.

    Source: Liu et al. 2022, section 3.1: sentences, lower case, without ==, --, __ and de-identified brackets.
    """
    cleaned = clean(text, rules)
    if not cleaned.words:
        return (), 0
    sentence = np.searchsorted(sentence_starts(text), cleaned.spans[:, 0], side="right") - 1  # (W,)
    sizes = np.bincount(sentence)
    long_enough = sizes >= shortest_sentence
    count = int((long_enough & (sizes > 0)).sum())
    if shortest_sentence <= 1:
        return cleaned.words, count
    kept = long_enough[sentence]  # (W,)
    return tuple(word for word, keep in zip(cleaned.words, kept, strict=True) if keep), count


def counts_of(words: Sequence[str], sentences: int, tokens: int, *, held_out: bool) -> NoteCounts:
    """The counts of one note."""
    characters = sum(map(len, words)) + max(0, len(words) - 1)
    return NoteCounts(1, int(held_out), int(not words), sentences, len(words), tokens, characters)


def statistics_table(
    counts: dict[tuple[str, str], NoteCounts], admissions: dict[tuple[str, str], set[str]]
) -> list[dict[str, str | int]]:
    """Rows of the statistics: per source and category of notes, and all together last.

    admissions: the ids of the notes' admissions, where they have one; the rows count them.
    """
    rows = [_row(*key, found, admissions.get(key, set())) for key, found in sorted(counts.items())]
    return [*rows, _row("all", "all", _total(counts.values()), set().union(*admissions.values()))]


def _total(counts: Iterable[NoteCounts]) -> NoteCounts:
    total = NoteCounts()
    for found in counts:
        total = total + found
    return total


def _row(source: str, category: str, found: NoteCounts, admissions: set[str]) -> dict[str, str | int]:
    numbers = {name: getattr(found, name) for name in found.__slots__}
    return {"source": source, "category": category, "admissions": len(admissions), **numbers}

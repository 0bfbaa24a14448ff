"""The paper's preprocessing (section 3.1) as a view on the raw text: which words are kept, in which order.

A word is what `\\w+` finds in the lower-cased text, if it holds a letter (with words="all": what white space divides).
Marks (`[** **]`, and runs of `--`, `__`, `==`) are dropped and divide words. The published code deletes them, which
joins the words around them, and it loses text when it reorders sections; order="published" repeats both.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from hilat.admissions import HilatError
from hilat.sections import MOVED, SECTION_CHUNKS, Section, find_sections
from hilat.stopwords import ENGLISH_STOP_WORDS

Words = Literal["alphabetic", "all", "no_stop_words"]
Order = Literal["diagnosis_first", "raw", "published"]

MARK, NO_LETTER, STOP_WORD, LOST = "mark", "word without a letter", "stop word", "lost by the published reordering"

# A mark may run over a line end, not over another mark's opening.
_MARKS = re.compile(r"\[\*\*(?:(?!\[\*\*).)*?\*\*\]|--+|__+|==+", re.DOTALL)
_PUBLISHED_MARKS = re.compile(r"\[\*\*.*?\*\*\]|--|__|==")
_WORD = re.compile(r"\w+")
_UNIT = re.compile(r"\S+")
_SEX_LINE = re.compile(r"^date of birth:.*\bsex:.*$", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class CleaningRules:
    """Which words are kept and in which order; the defaults are the paper's.

    words: "alphabetic" drops words without a letter (the paper's), "all" keeps them with punctuation (ablation a),
        "no_stop_words" drops stop words too (ablation b).
    order: "diagnosis_first" moves discharge diagnosis, disposition and condition to the front, losing nothing;
        "raw" keeps the order (ablation c); "published" repeats the published reordering, which loses text.
    lower: lower-case the words. drop_marks: drop de-identification marks and rules.
    """

    words: Words = "alphabetic"
    order: Order = "diagnosis_first"
    lower: bool = True
    drop_marks: bool = True

    def __post_init__(self) -> None:
        for name, value, choices in (
            ("words", self.words, get_args(Words)),
            ("order", self.order, get_args(Order)),
        ):
            if value not in choices:
                raise HilatError(f"cleaning rule {name} is {value!r}; expected one of {', '.join(choices)}. Correct it")


@dataclass(frozen=True, slots=True)
class CleanText:
    """What is left of a note, in model order.

    words: clean forms. spans: (W, 2) their raw-text offsets. word_sections: (W,) index into sections.
    removed: (R, 2) raw offsets of what was dropped, in raw order; removed_reasons one each. Punctuation between words
    belongs to neither.
    """

    words: tuple[str, ...]
    spans: NDArray[np.int64]
    word_sections: NDArray[np.int64]
    sections: tuple[Section, ...]
    removed: NDArray[np.int64]
    removed_reasons: tuple[str, ...]


def clean(text: str, rules: CleaningRules = CleaningRules()) -> CleanText:  # noqa: B008 (frozen)
    """The kept words of a raw note, each with its span in the raw text."""
    published = rules.order == "published"
    marks = list((_PUBLISHED_MARKS if published else _MARKS).finditer(text)) if rules.drop_marks else []
    view, origin = _without(text, marks, joined=published)
    sections = find_sections(text)
    kept: list[tuple[int, int]] = []
    removed: list[tuple[int, int, str]] = [(m.start(), m.end(), MARK) for m in marks]
    for found in (_UNIT if rules.words == "all" else _WORD).finditer(view):
        start, end = int(origin[found.start()]), int(origin[found.end() - 1]) + 1
        reason = _dropped(found.group(), rules)
        if reason:
            removed.append((start, end, reason))
        else:
            kept.append((start, end))
    forms = _forms(text, kept, marks, rules)
    spans = np.array(kept, dtype=np.int64).reshape(-1, 2)  # (W, 2)
    inside = np.searchsorted([s.start for s in sections], spans[:, 0], side="right") - 1  # (W,)
    order, sections, lost = _model_order(text, spans, inside, sections, rules.order)
    removed += [(int(spans[w, 0]), int(spans[w, 1]), LOST) for w in lost]
    removed.sort()
    return CleanText(
        words=tuple(forms[w] for w in order),
        spans=_fixed(spans[order]),
        word_sections=_fixed(inside[order]),
        sections=sections,
        removed=_fixed(np.array([r[:2] for r in removed], dtype=np.int64).reshape(-1, 2)),
        removed_reasons=tuple(r[2] for r in removed),
    )


def _without(text: str, marks: list[re.Match[str]], *, joined: bool) -> tuple[str, NDArray[np.int64]]:
    """The text without marks (deleted when joined, else blanked), and the raw position of each of its characters."""
    if not joined:
        parts, last = [], 0
        for mark in marks:
            parts += [text[last : mark.start()], " " * (mark.end() - mark.start())]
            last = mark.end()
        return "".join([*parts, text[last:]]), np.arange(len(text))
    stays = np.ones(len(text), dtype=bool)
    for mark in marks:
        stays[mark.start() : mark.end()] = False
    origin = np.flatnonzero(stays)
    return "".join(text[i] for i in origin), origin


def _forms(text: str, kept: list[tuple[int, int]], marks: list[re.Match[str]], rules: CleaningRules) -> list[str]:
    """The clean forms of the kept words; a mark inside a word (published joining) is cut out."""
    forms = [text[start:end] for start, end in kept]
    if rules.order == "published" and marks:
        forms = [_PUBLISHED_MARKS.sub("", form) for form in forms]
    return [form.lower() for form in forms] if rules.lower else forms


def _dropped(word: str, rules: CleaningRules) -> str | None:
    """Why a word is dropped, or None."""
    if rules.words == "all":
        return None
    if not any(character.isalpha() for character in word):
        return NO_LETTER
    if rules.words == "no_stop_words" and word.lower() in ENGLISH_STOP_WORDS:
        return STOP_WORD
    return None


def _model_order(
    text: str, spans: NDArray[np.int64], inside: NDArray[np.int64], sections: tuple[Section, ...], order: Order
) -> tuple[NDArray[np.int64], tuple[Section, ...], list[int]]:
    """Word indices in model order, the sections with `moved` set, and the words that the published order loses."""
    everything = np.arange(len(spans))
    if order == "raw":
        return everything, sections, []
    if order == "diagnosis_first":
        moved = np.array([section.name in MOVED for section in sections], dtype=bool)
        front = moved[inside]
        told = tuple(replace(section, moved=bool(m)) for section, m in zip(sections, moved, strict=True))
        return np.concatenate([everything[front], everything[~front]]), told, []
    chosen = [w for start, end in _published_stretches(text, sections) for w in _between(spans, start, end)]
    lost = sorted(set(range(len(spans))) - set(chosen))
    return np.array(chosen, dtype=np.int64), sections, lost


def _published_stretches(text: str, sections: tuple[Section, ...]) -> Iterator[tuple[int, int]]:
    """Stretches of text in the published order: of sections of one name only the last, nothing outside a heading."""
    last = {section.name: section for section in sections if section.name}
    names = [*MOVED, *(name for group in SECTION_CHUNKS for name in group if name not in MOVED)]
    for name in names:
        if name == "sex":
            line = _SEX_LINE.search(text)
            if line:
                yield line.start(), line.end()
        elif name in last and name != "procedure":
            yield last[name].start, last[name].end


def _between(spans: NDArray[np.int64], start: int, end: int) -> range:
    low, high = np.searchsorted(spans[:, 0], [start, end])
    return range(int(low), int(high))


def _fixed(array: NDArray[np.int64]) -> NDArray[np.int64]:
    array = np.ascontiguousarray(array, dtype=np.int64)
    array.flags.writeable = False
    return array

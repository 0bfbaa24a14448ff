"""The paper's preprocessing (section 3.1) as a view on the raw text: which words are kept, in which order.

A word is what `\\w+` finds, with combining accents, if it holds a letter (with words="all": what white space divides).
Marks (`[** **]`, and runs of `--`, `__`, `==`) are dropped and divide words.

order="published" repeats what the published code does: it deletes every `[...]` of a line and each pair `--`, `__`,
`==`, which joins the words around them, and when it moves sections it loses the text outside of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from hilat.admissions import HilatError
from hilat.sections import MOVED, PUBLISHED_ORDER, Section, find_sections
from hilat.stopwords import ENGLISH_STOP_WORDS

Words = Literal["alphabetic", "all", "no_stop_words"]
Order = Literal["diagnosis_first", "raw", "published"]

MARK, NO_LETTER, STOP_WORD, LOST = "mark", "word without a letter", "stop word", "lost by the published reordering"

# A mark may run over a line end, but neither over another mark's opening nor on and on when it is never closed.
_MARKS = re.compile(r"\[\*\*(?:(?!\[\*\*).){0,300}?\*\*\]|--+|__+|==+", re.DOTALL)
_PUBLISHED_MARKS = (re.compile(r"\[.*?\]"), re.compile(r"--|__|=="))  # one after the other
_UNIT = re.compile(r"\S+")
_PUBLISHED_WORD = re.compile(r"\w+")
# Accents written as characters of their own (NFD) are not in \w; without them "neumoni" + accent + "a" falls apart.
_ACCENTS = "\u0300-\u036f\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f"
_WORD = re.compile(rf"\w+(?:[{_ACCENTS}]+\w*)*")


@dataclass(frozen=True, slots=True)
class CleaningRules:
    """Which words are kept and in which order; the defaults are the paper's.

    words: "alphabetic" drops words without a letter (the paper's), "all" keeps them with punctuation (ablation a),
        "no_stop_words" drops stop words too (ablation b).
    order: "diagnosis_first" moves discharge disposition, diagnosis and condition to the front, losing nothing;
        "raw" keeps the order (ablation c); "published" repeats the published reordering, which loses text.
    lower: lower-case the words. drop_marks: drop de-identification marks and rules.
    """

    words: Words = "alphabetic"
    order: Order = "diagnosis_first"
    lower: bool = True
    drop_marks: bool = True

    def __post_init__(self) -> None:
        choices: dict[str, tuple[object, ...]] = {
            "words": get_args(Words),
            "order": get_args(Order),
            "lower": (True, False),
            "drop_marks": (True, False),
        }
        for name, known in choices.items():
            value = getattr(self, name)
            if type(value) is not type(known[0]) or value not in known:
                listed = ", ".join(str(choice) for choice in known)
                raise HilatError(f"cleaning rule {name} is {value!r}; expected one of {listed}. Correct it")

    def to_dict(self) -> dict[str, str | bool]:
        """The rules as a JSON-able dictionary."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CleaningRules:
        """The rules of a dictionary; missing keys take their defaults.

        Raises:
            HilatError: for a key or a value that is not known.
        """
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise HilatError(
                f"cleaning rules hold {', '.join(map(repr, unknown))}; known are {', '.join(known)}. Remove or correct it"
            )
        return cls(**values)


@dataclass(frozen=True, slots=True, eq=False)
class CleanText:
    """What is left of a note, in model order.

    words: W clean forms, each `text[start:end]` lower-cased (published order: with the marks inside it cut out).
    spans: (W, 2) their raw-text offsets; no two overlap. word_sections: (W,) the index of each word's section.
    sections: the note's sections in raw order; together they are the whole text.
    removed: (R, 2) raw offsets of marks and words that were dropped, in raw order, removed_reasons one each; no two
    overlap. Kept and removed spans together hold every word character of the note (with words="all" every character
    that is not white space); only in published order may a removed mark stand inside a kept word.
    """

    words: tuple[str, ...]
    spans: NDArray[np.int64]
    word_sections: NDArray[np.int64]
    sections: tuple[Section, ...]
    removed: NDArray[np.int64]
    removed_reasons: tuple[str, ...]

    def __post_init__(self) -> None:
        n_words, n_removed = len(self.words), len(self.removed_reasons)
        shapes = (self.spans.shape, self.word_sections.shape, self.removed.shape)
        if shapes != ((n_words, 2), (n_words,), (n_removed, 2)):
            raise HilatError(
                f"a clean text has {n_words} words, {n_removed} reasons and arrays of shapes {shapes}; expected "
                "spans (W, 2), word_sections (W,) and removed (R, 2)"
            )
        for name, spans in (("kept", self.spans), ("removed", self.removed)):
            in_order = spans[np.argsort(spans[:, 0], kind="stable")]
            if len(spans) and (
                in_order[0, 0] < 0
                or (in_order[:, 0] >= in_order[:, 1]).any()
                or (in_order[1:, 0] < in_order[:-1, 1]).any()
            ):
                raise HilatError(
                    f"the {name} spans of a clean text overlap or are empty; each must be start < end, apart"
                )
        for array in (self.spans, self.word_sections, self.removed):
            array.flags.writeable = False


class _View(NamedTuple):
    """The text to look for words in, the raw position of each of its characters, and the raw spans of its marks."""

    text: str
    origin: NDArray[np.int64]
    marks: list[tuple[int, int]]


class _Stretch(NamedTuple):
    """A stretch of a view: the index of its section, its place in model order (None: lost), the kind of its words."""

    start: int
    end: int
    section: int
    rank: int | None
    words: Words


def clean(text: str, rules: CleaningRules = CleaningRules()) -> CleanText:
    """The kept words of a raw note, each with its span in the raw text."""
    published = rules.order == "published"
    view = _view(text, rules)
    sections = find_sections(view.text)
    word = _PUBLISHED_WORD if published else _WORD
    kept: list[tuple[int, int, int, int]] = []  # start, end (in the view), section, rank
    dropped: list[tuple[int, int, str]] = []
    for stretch in _stretches(view.text, sections, rules):
        pattern = _UNIT if stretch.words == "all" else word
        for found in pattern.finditer(view.text, stretch.start, stretch.end):
            start, end = found.span()
            reason = _reason(found.group(), stretch)
            if reason is None and stretch.rank is not None:
                kept.append((start, end, stretch.section, stretch.rank))
            else:
                dropped.append((start, end, reason or LOST))
    table = np.array(kept, dtype=np.int64).reshape(-1, 4)  # (W, 4)
    table = table[np.argsort(table[:, 3], kind="stable")]  # model order
    forms = (view.text[start:end] for start, end in table[:, :2].tolist())
    without = _raw(np.array([place[:2] for place in dropped], dtype=np.int64).reshape(-1, 2), view)
    marks = _outside(np.array(view.marks, dtype=np.int64).reshape(-1, 2), without)
    removed = np.concatenate([without, marks])  # (R, 2)
    reasons = [reason for _, _, reason in dropped] + [MARK] * len(marks)
    in_text_order = np.argsort(removed[:, 0], kind="stable")
    return CleanText(
        words=tuple(form.lower() for form in forms) if rules.lower else tuple(forms),
        spans=_raw(table[:, :2], view),
        word_sections=table[:, 2].copy(),
        sections=_raw_sections(sections, view, len(text), rules.order),
        removed=removed[in_text_order],
        removed_reasons=tuple(reasons[i] for i in in_text_order),
    )


def _view(text: str, rules: CleaningRules) -> _View:
    """The text with its marks blanked (they divide words), or in published order deleted (they join them)."""
    if not rules.drop_marks:
        return _View(text, np.arange(len(text)), [])
    if rules.order != "published":
        marks = [found.span() for found in _MARKS.finditer(text)]
        return _View(_MARKS.sub(lambda found: " " * len(found.group()), text), np.arange(len(text)), marks)
    origin = np.arange(len(text))
    view = text
    for pattern in _PUBLISHED_MARKS:
        stays = np.ones(len(view), dtype=bool)
        for found in pattern.finditer(view):
            stays[found.start() : found.end()] = False
        view, origin = pattern.sub("", view), origin[stays]
    gone = np.ones(len(text) + 2, dtype=bool)
    gone[origin + 1] = gone[0] = gone[-1] = False
    edges = np.flatnonzero(gone[1:] != gone[:-1]).reshape(-1, 2)  # runs of deleted characters
    return _View(view, origin, [(start, end) for start, end in edges.tolist()])


def _stretches(text: str, sections: tuple[Section, ...], rules: CleaningRules) -> Iterator[_Stretch]:
    """The sections of a view with their places in model order; one after the other they are the whole view."""
    last = {section.name: s for s, section in enumerate(sections)}
    for s, section in enumerate(sections):
        start, end, words = section.start, section.end, rules.words
        if rules.order == "raw":
            yield _Stretch(start, end, s, 0, words)
        elif rules.order == "diagnosis_first":
            yield _Stretch(start, end, s, MOVED.index(section.name) if section.name in MOVED else len(MOVED), words)
        else:
            rank = PUBLISHED_ORDER.index(section.name) if section.name in PUBLISHED_ORDER else None
            if last[section.name] != s:
                rank = None  # of sections of one name only the last
            if section.name == "sex":  # this one line, as it stands
                line_end = text.find("\n", start, end)
                line_end = end if line_end < 0 else line_end
                yield _Stretch(start, line_end, s, rank, "all")
                start, rank = line_end, None
            yield _Stretch(start, end, s, rank, words)


def _reason(word: str, stretch: _Stretch) -> str | None:
    """Why the rules drop a word, or None."""
    if stretch.words == "all":
        return None
    if not word.isalpha() and not any(map(str.isalpha, word)):
        return NO_LETTER
    if stretch.words == "no_stop_words" and word.lower() in ENGLISH_STOP_WORDS:
        return STOP_WORD
    return None


def _raw(places: NDArray[np.int64], view: _View) -> NDArray[np.int64]:
    """Raw-text spans (N, 2) of spans (N, 2) in a view: from the first to the last of their characters."""
    if not len(places):
        return np.zeros((0, 2), dtype=np.int64)
    return np.stack([view.origin[places[:, 0]], view.origin[places[:, 1] - 1] + 1], axis=1)


def _outside(marks: NDArray[np.int64], words: NDArray[np.int64]) -> NDArray[np.int64]:
    """The marks (M, 2) that are not inside one of the words (N, 2), both in text order: "1--2" goes as one word."""
    if not len(words):
        return marks
    before = np.searchsorted(words[:, 0], marks[:, 0], side="right") - 1  # (M,)
    outside = (before < 0) | (words[before, 1] < marks[:, 1])  # (M,)
    return np.asarray(marks[outside], dtype=np.int64)


def _raw_sections(sections: tuple[Section, ...], view: _View, length: int, order: Order) -> tuple[Section, ...]:
    """The sections with raw-text offsets, still without gaps, told whether they were moved to the front."""
    starts = [0, *(int(view.origin[section.start]) for section in sections[1:])]
    return tuple(
        replace(section, start=start, end=end, moved=order != "raw" and section.name in MOVED)
        for section, start, end in zip(sections, starts, [*starts[1:], length], strict=True)
    )

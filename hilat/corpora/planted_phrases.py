"""Pieces of a note that carry their marks, and how a frame becomes one: slots filled, the form put in and marked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from hilat.corpora.planted_codes import INNER_EVIDENCE, Form, inner_forms
from hilat.corpora.planted_ventilation import LONG_DURATIONS, SHORT_DURATIONS


@dataclass(frozen=True, slots=True)
class Patient:
    """What sentences need to know of the patient and the stay. Years are shifted, as in the marks of the source."""

    female: bool
    age: int
    year: int
    month: int
    day: int
    stay_days: int
    codes: frozenset[str]


@dataclass(frozen=True, slots=True)
class Phrase:
    """A piece of text with its marks (code, start, end, kind), offsets in `text`; kind "evidence" or a decoy kind."""

    text: str
    marks: tuple[tuple[str, int, int, str], ...] = ()


_RELATIVES = ("mother", "father", "brother", "sister", "maternal aunt", "grandfather", "grandmother", "son", "daughter")
_NUMBER = re.compile(r"#(\d+)-(\d+)")
_SLOT = re.compile(r"<([A-Za-z]+)(?::(\d+)-(\d+))?>")


def pick(rng: np.random.Generator, items: Sequence[str]) -> str:
    """One of the items, each as likely."""
    return items[int(rng.integers(len(items)))]


def date_mark(patient: Patient, rng: np.random.Generator, *, years_back: int = 0) -> str:
    """A de-identification mark with a date of the stay, e.g. `[**2151-7-16**]`, or with a year gone by."""
    if years_back:
        return f"[**{patient.year - years_back}**]"
    return f"[**{patient.year}-{patient.month}-{patient.day + int(rng.integers(patient.stay_days + 1))}**]"


def expand(template: str, patient: Patient, rng: np.random.Generator) -> str:
    """The template with its `<...>` slots filled: dates, years, numbers (`<n:2-6>`), pronouns, relatives, durations."""

    def fill(slot: re.Match[str]) -> str:
        name = slot.group(1)
        match name.lower():
            case "n":
                return str(int(rng.integers(int(slot.group(2)), int(slot.group(3)) + 1)))
            case "age":
                return str(patient.age)
            case "date":
                return date_mark(patient, rng)
            case "year":
                return date_mark(patient, rng, years_back=int(rng.integers(3, 20)))
            case "he":
                word = "she" if patient.female else "he"
            case "him":
                word = "her" if patient.female else "him"
            case "his":
                word = "her" if patient.female else "his"
            case "relative":
                word = pick(rng, _RELATIVES)
            case _:
                return pick(rng, SHORT_DURATIONS if rng.random() < 0.5 else LONG_DURATIONS)
        return word.capitalize() if name[0].isupper() else word

    return _SLOT.sub(fill, template)


def choose_form(forms: Sequence[Form], rng: np.random.Generator) -> Form:
    """A form, usual ones (first in their list) more often: weights 1 / sqrt(rank); long lists of variants evenly."""
    if len(forms) > 30:
        return forms[int(rng.integers(len(forms)))]
    weights = np.cumsum(1.0 / np.sqrt(np.arange(1.0, len(forms) + 1.0)))
    return forms[int(np.searchsorted(weights, rng.random() * weights[-1], side="right"))]


def _inner_kind(code: str, inner: str, kind: str) -> str:
    """What the wording of another code inside a form counts as."""
    if kind != "evidence":
        return kind
    if INNER_EVIDENCE.get(code) == inner:
        return "evidence"
    return "history" if code == "V45.81" else "rule"


def fill_frame(frame: str, form: Form, code: str, kind: str, drawn: tuple[Patient, np.random.Generator]) -> Phrase:
    """The frame with the form in it, marked as `kind` for `code`, and the wordings of other codes inside it marked too.

    drawn: the patient, and the generator for the slots and the numbers of the form.
    """
    patient, rng = drawn
    before, slot, after = re.split(r"\{([fF])\}", expand(frame, patient, rng), maxsplit=1)
    text = _NUMBER.sub(lambda hit: str(int(rng.integers(int(hit.group(1)), int(hit.group(2)) + 1))), form.text)
    if slot == "F" and text[0].islower():
        text = text[0].upper() + text[1:]
    start = len(before)
    marks = [(code, start, start + len(text), kind)]
    for inner, inner_start, inner_end in inner_forms(form, code):
        marks.append((inner, start + inner_start, start + inner_end, _inner_kind(code, inner, kind)))
    return Phrase(before + text + after, tuple(marks))


def joined(phrases: Sequence[Phrase], between: str = " ") -> Phrase:
    """The phrases one after the other, marks moved along."""
    pieces: list[str] = []
    marks: list[tuple[str, int, int, str]] = []
    length = 0
    for phrase in phrases:
        if pieces:
            pieces.append(between)
            length += len(between)
        marks.extend((code, start + length, end + length, kind) for code, start, end, kind in phrase.marks)
        pieces.append(phrase.text)
        length += len(phrase.text)
    return Phrase("".join(pieces), tuple(marks))


def capitalised(phrase: Phrase) -> Phrase:
    """The phrase with a capital first letter, marks unchanged."""
    return replace(phrase, text=phrase.text[:1].upper() + phrase.text[1:])

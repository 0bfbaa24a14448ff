"""The planted corpus: discharge summaries written by this project, with the evidence of every code known.

Nothing in it comes from a patient. A note's codes are drawn from patient profiles (`planted_profiles`), each code is
licensed by marked words (`planted_codes`), and decoys, which only look like evidence, are marked too.
"""

from __future__ import annotations

import csv
import io
from dataclasses import asdict, dataclass
from importlib import resources
from typing import Any, Literal, cast

import numpy as np

from hilat.admissions import Admission, CodeBook, CodeKind, HilatError
from hilat.corpora.folder import Corpus
from hilat.corpora.planted_codes import BY_CODE, PLANTED_CODES, form_pattern
from hilat.corpora.planted_note import NotePlan, write_note
from hilat.corpora.planted_phrases import Patient
from hilat.corpora.planted_profiles import draw_codes

PAPER_MEAN_WORDS, PAPER_MIN_WORDS, PAPER_MAX_WORDS = 2188, 89, 10_174
_PAPER_SIGMA = 0.55  # of the logarithm; 1 % of the notes are brief
_PAPER_BRIEF_SHARE, _PAPER_BRIEF_MAX = 0.01, 400
_SHORT_WORDS = (170, 260)
_SECOND_STAY_RATE = 0.1


@dataclass(frozen=True, slots=True)
class Shortcut:
    """A harmless word planted to go with a code: in the note at one rate with the code, at another without it."""

    code: str
    word: str
    rate_with_code: float
    rate_without: float

    def __post_init__(self) -> None:
        if self.code not in BY_CODE:
            raise HilatError(
                f"the shortcut names code {self.code!r}; expected one of {', '.join(BY_CODE)}; choose one of these"
            )
        if not self.word.isalpha():
            raise HilatError(f"the shortcut word is {self.word!r}; expected one word of letters only; give such a word")
        if any(form_pattern(self.word).search(form.text) for entry in PLANTED_CODES for form in entry.forms):
            raise HilatError(
                f"the shortcut word {self.word!r} is part of a code's own wording; expected a word that tells of no "
                "code; choose another, for example 'lavender'"
            )
        for name in ("rate_with_code", "rate_without"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise HilatError(
                    f"the shortcut has {name} {getattr(self, name)}; expected a share between 0 and 1; correct it"
                )


@dataclass(frozen=True, slots=True)
class PlantedSettings:
    """What `make_planted` makes; same settings, same notes to the byte.

    train, val, test: admissions per split. length: "short" (about 150 to 260 words) or "paper" (mean 2,188 words, 89 to
    10,174; Liu et al. 2022, Table 1). decoy_rate: mean planted decoys per note, before those that the coding rules
    bring. addendum_rate: share of notes with an addendum. shortcut: see `Shortcut`.
    """

    seed: int = 0
    train: int = 1200
    val: int = 200
    test: int = 250
    length: Literal["short", "paper"] = "short"
    decoy_rate: float = 2.0
    addendum_rate: float = 0.1
    shortcut: Shortcut | None = None

    def __post_init__(self) -> None:
        for name in ("seed", "train", "val", "test"):
            if getattr(self, name) < 0:
                raise HilatError(
                    f"the planted corpus was given {name} {getattr(self, name)}; expected 0 or more; give such a number"
                )
        if self.train + self.val + self.test == 0:
            raise HilatError(
                "the planted corpus was given no admissions; expected at least one; raise train, val or test"
            )
        if self.length not in ("short", "paper"):
            raise HilatError(
                f"the planted corpus was given length {self.length!r}; expected 'short' or 'paper'; choose one of them"
            )
        if not 0.0 <= self.decoy_rate <= 50.0:
            raise HilatError(
                f"the planted corpus was given decoy_rate {self.decoy_rate}; expected 0 to 50 decoys a note; correct it"
            )
        if not 0.0 <= self.addendum_rate <= 1.0:
            raise HilatError(
                f"the planted corpus was given addendum_rate {self.addendum_rate}; expected 0 to 1; correct it"
            )

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain values, as they stand in a corpus's notes."""
        return asdict(self)


def make_planted(settings: PlantedSettings) -> Corpus:
    """The planted corpus of these settings: train, val and test in this order, subjects never in two splits.

    Each note has a generator of its own, seeded by (seed, split, position): a larger split begins with the notes of a
    smaller one.
    """
    admissions: list[Admission] = []
    subject = 0
    for split_number, split in enumerate(("train", "val", "test")):
        remaining = 0  # stays that the subject still has
        for position in range(getattr(settings, split)):
            rng = np.random.default_rng([settings.seed, split_number, position])
            if remaining:
                remaining -= 1
            else:
                subject += 1
                remaining = int(rng.random() < _SECOND_STAY_RATE)
            hadm_id = str(100_000 + len(admissions))
            admissions.append(_admission(settings, (hadm_id, str(10_000 + subject), split), rng))
    return Corpus(tuple(admissions), planted_code_book(), "planted", _notes(settings, admissions))


def planted_code_book() -> CodeBook:
    """The 50 codes of the MIMIC-III-50 list with their official titles, most frequent first."""
    text = resources.files("hilat.corpora").joinpath("data", "mimic3_50.csv").read_text(encoding="utf-8")
    rows = {row["code"]: row for row in csv.DictReader(io.StringIO(text))}
    codes = tuple(entry.code for entry in PLANTED_CODES)
    kinds = tuple(cast(CodeKind, rows[code]["kind"]) for code in codes)
    return CodeBook(codes, tuple(rows[code]["title"] for code in codes), kinds)


def _admission(settings: PlantedSettings, names: tuple[str, str, str], rng: np.random.Generator) -> Admission:
    hadm_id, subject_id, split = names
    profile, codes = draw_codes(rng)
    patient = Patient(
        female=bool(rng.random() < 0.45),
        age=int(np.clip(rng.normal(66, 14), 19, 89)),
        year=int(rng.integers(2110, 2200)),
        month=int(rng.integers(1, 13)),
        day=int(rng.integers(1, 16)),
        stay_days=int(rng.integers(7 if "96.72" in codes else 2, 13)),
        codes=codes,
    )
    words = _target_words(settings, rng)
    plan = NotePlan(
        patient=patient,
        profile=profile,
        target_words=words,
        extra_mentions=0.35 if words < 400 else 1.2,
        decoy_rate=settings.decoy_rate,
        addendum=bool(rng.random() < settings.addendum_rate),
        shortcut=_shortcut_here(settings.shortcut, codes, rng),
    )
    text, evidence, decoys = write_note(plan, rng)
    ordered = tuple(entry.code for entry in PLANTED_CODES if entry.code in codes)
    return Admission(hadm_id, text, ordered, evidence, decoys, split, subject_id)


def _target_words(settings: PlantedSettings, rng: np.random.Generator) -> int:
    """Words to write: even over the short range, or lognormal with the paper's mean and limits."""
    if settings.length == "short":
        return int(rng.integers(_SHORT_WORDS[0], _SHORT_WORDS[1] - 10))
    if rng.random() < _PAPER_BRIEF_SHARE:
        return int(rng.integers(PAPER_MIN_WORDS, _PAPER_BRIEF_MAX))
    brief_mean = (PAPER_MIN_WORDS + _PAPER_BRIEF_MAX) / 2
    mean = (PAPER_MEAN_WORDS - _PAPER_BRIEF_SHARE * brief_mean) / (1 - _PAPER_BRIEF_SHARE)
    words = rng.lognormal(np.log(mean) - _PAPER_SIGMA**2 / 2, _PAPER_SIGMA)
    return int(np.clip(words, PAPER_MIN_WORDS, PAPER_MAX_WORDS - 30))


def _shortcut_here(
    shortcut: Shortcut | None, codes: frozenset[str], rng: np.random.Generator
) -> tuple[str, str] | None:
    draw = rng.random()  # drawn either way, so that the note around the word stays the same without it
    if shortcut is None:
        return None
    rate = shortcut.rate_with_code if shortcut.code in codes else shortcut.rate_without
    return (shortcut.code, shortcut.word) if draw < rate else None


def _notes(settings: PlantedSettings, admissions: list[Admission]) -> dict[str, Any]:
    """The settings, and what came out of them: mean words, codes and decoys per note, decoys by kind."""
    kinds: dict[str, int] = {}
    for admission in admissions:
        for span in admission.decoys:
            kinds[span.kind] = kinds.get(span.kind, 0) + 1
    count = len(admissions)
    return {
        "settings": settings.to_dict(),
        "origin": "written by this project's generator; no patient's text",
        "mean_words": round(sum(len(admission.text.split()) for admission in admissions) / count, 2),
        "mean_codes": round(sum(len(admission.codes) for admission in admissions) / count, 3),
        "mean_decoys": round(sum(len(admission.decoys) for admission in admissions) / count, 3),
        "decoys_by_kind": dict(sorted(kinds.items())),
        "rule_96.04": "given only where intubation occurs without ventilation; else its mention is a decoy",
    }

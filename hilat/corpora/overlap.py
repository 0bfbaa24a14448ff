"""Leaks: admissions that a model is judged on and that its training split holds too, as such, by patient, or by text."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from hilat.admissions import Admission


@dataclass(frozen=True, slots=True)
class Overlap:
    """Which of the judged admissions were trained on: ids in the order judged, each in the first that holds.

    admissions: the same hadm_id. texts: another hadm_id with the very same text. subjects: another admission of the same
    patient, whose notes tell much the same. judged, trained: how many there are of each.
    """

    admissions: tuple[str, ...]
    texts: tuple[str, ...]
    subjects: tuple[str, ...]
    judged: int
    trained: int

    @property
    def leaks(self) -> frozenset[str]:
        """The ids of all."""
        return frozenset((*self.admissions, *self.texts, *self.subjects))

    def counts(self) -> dict[str, int]:
        """The numbers for a manifest."""
        return {
            "judged": self.judged,
            "trained_on": self.trained,
            "same_admission": len(self.admissions),
            "same_text": len(self.texts),
            "same_subject": len(self.subjects),
        }


def overlap(judged: Iterable[Admission], trained: Iterable[Admission]) -> Overlap:
    """The overlap of two sets of admissions, of the same database: its ids must mean the same in both.

    `trained` is gone through once and not kept (of a text its SHA-256).
    """
    ids: set[str] = set()
    texts: set[bytes] = set()
    subjects: set[str] = set()
    for admission in trained:
        ids.add(admission.hadm_id)
        texts.add(_digest(admission.text))
        if admission.subject_id:
            subjects.add(admission.subject_id)
    same: dict[str, list[str]] = {"admission": [], "text": [], "subject": []}
    count = 0
    for admission in judged:
        count += 1
        if admission.hadm_id in ids:
            same["admission"].append(admission.hadm_id)
        elif _digest(admission.text) in texts:
            same["text"].append(admission.hadm_id)
        elif admission.subject_id in subjects:
            same["subject"].append(admission.hadm_id)
    return Overlap(tuple(same["admission"]), tuple(same["text"]), tuple(same["subject"]), count, len(ids))


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.strip().encode("utf-8", "surrogatepass")).digest()

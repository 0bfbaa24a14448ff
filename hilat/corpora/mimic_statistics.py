"""Statistics of a corpus as in the papers' first table, gathered while the admissions stream by."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class SplitStatistics:
    """Running counts of one split (or of all). Words are runs of characters other than blanks in the raw text."""

    labels: frozenset[str]
    admissions: int = 0
    notes: int = 0
    _subjects: set[str] = field(default_factory=set)
    _codes: set[str] = field(default_factory=set)
    _words: list[int] = field(default_factory=list)
    _codes_each: list[int] = field(default_factory=list)
    _labels_each: list[int] = field(default_factory=list)

    def add(self, text: str, notes: int, codes: tuple[str, ...], subject_id: str | None) -> None:
        """Count one admission."""
        self.admissions += 1
        self.notes += notes
        self._codes.update(codes)
        self._words.append(len(text.split()))
        self._codes_each.append(len(codes))
        self._labels_each.append(sum(code in self.labels for code in codes))
        if subject_id:
            self._subjects.add(subject_id)

    def table(self) -> dict[str, Any]:
        """The counts as JSON: totals, and mean, min and max per admission of words, codes and codes of the label set."""
        return {
            "admissions": self.admissions,
            "subjects": len(self._subjects),
            "notes": self.notes,
            "unique_codes": len(self._codes),
            "unique_label_codes": len(self._codes & self.labels),
            "words_per_admission": _spread(self._words),
            "codes_per_admission": _spread(self._codes_each),
            "label_codes_per_admission": _spread(self._labels_each),
        }


def _spread(values: list[int]) -> dict[str, float]:
    return {"mean": sum(values) / len(values), "min": min(values), "max": max(values)}

"""What a corpus holds, in numbers: the rows of the paper's Table 1, and more."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hilat.admissions import Admission
from hilat.corpora.folder import Corpus


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean, smallest and largest of a count."""

    mean: float
    min: int
    max: int


@dataclass(frozen=True, slots=True)
class SplitDescription:
    """One split (or all): words are those that white space divides; codes are those of the label set.

    notes: how many notes the admissions are joined from, each of a source that does not tell counted as one.
    """

    name: str
    admissions: int
    subjects: int
    words: Spread
    codes: Spread
    unique_codes: int
    without_code: int
    notes: int
    evidence_spans: int
    decoys: dict[str, int]


@dataclass(frozen=True, slots=True)
class Description:
    """All and each split; frequent: code, title and the share of admissions that have it."""

    source: str
    system: str
    label_set: int
    splits: tuple[SplitDescription, ...]
    frequent: tuple[tuple[str, str, float], ...]
    notes: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain values."""
        return dataclasses.asdict(self)


def describe(corpus: Corpus, *, most: int = 50) -> Description:
    """The description of a corpus, with its `most` frequent codes."""
    groups: list[tuple[str, Sequence[Admission]]] = [("all", corpus.admissions)]
    groups += [(name, corpus.split(name)) for name in corpus.splits]
    book = corpus.code_book
    counts = Counter(code for a in corpus.admissions for code in a.codes if code in book)
    ranked = sorted(counts, key=lambda code: (-counts[code], code))[:most]
    return Description(
        source=corpus.source,
        system=book.system,
        label_set=len(book),
        splits=tuple(_described(name, admissions, corpus) for name, admissions in groups),
        frequent=tuple((code, book.title(code), counts[code] / len(corpus.admissions)) for code in ranked),
        notes=dict(corpus.notes),
    )


def _described(name: str, admissions: Sequence[Admission], corpus: Corpus) -> SplitDescription:
    codes = [[code for code in a.codes if code in corpus.code_book] for a in admissions]
    decoys = Counter(span.kind for a in admissions for span in a.decoys)
    return SplitDescription(
        name=name,
        admissions=len(admissions),
        subjects=len({a.subject_id or a.hadm_id for a in admissions}),
        words=_spread([len(a.text.split()) for a in admissions]),
        codes=_spread([len(c) for c in codes]),
        unique_codes=len({code for c in codes for code in c}),
        without_code=sum(not c for c in codes),
        notes=sum(len(a.notes) or 1 for a in admissions),
        evidence_spans=sum(len(a.evidence) for a in admissions),
        decoys=dict(sorted(decoys.items())),
    )


def _spread(counts: Sequence[int]) -> Spread:
    return Spread(sum(counts) / len(counts), min(counts), max(counts))

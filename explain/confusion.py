"""Which codes are given for which: false positives beside the codes that were missed or assigned on the same note."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import hypergeom

from explain.rule_pairs import RulePair
from explain.table import Explained
from hilat.admissions import Admission, CodeBook
from hilat.codes import siblings
from hilat.significance import Interval, benjamini_hochberg, interval

Relation = Literal["missed", "assigned"]
Array = NDArray[np.float64]
# What an edge from a false positive to another code says.
RELATIONS: dict[str, str] = {
    "missed": "the coders gave the other code and the model did not",
    "assigned": "the coders gave the other code, a sibling or one tied by a coding rule, whether the model did or not",
}
LABELS: dict[str, str] = {
    "sibling": "a code of the same category",
    "rule pair": "a coding rule ties the two codes",
    "co-occurring": "seen on the same note",
}


@dataclass(frozen=True, slots=True)
class NoteCodes:
    """One note: codes given and not coded, codes coded and not given (of the label set), and all that the coders gave."""

    hadm_id: str
    false_positives: tuple[str, ...]
    missed: tuple[str, ...]
    coded: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Edge:
    """count: notes on which `false_positive` is one and `other` was missed, or assigned (see RELATIONS).

    false_positives, others: notes of each alone; notes: all. expected: count if the two were independent. lift: count over
    expected, 95 % interval over admissions, undefined below `EdgeOptions.least` notes. p: chance of at least this count
    (hypergeometric); p_corrected: by Benjamini and Hochberg over the edges that the relation could have,
    seen or not. label: of LABELS.
    """

    false_positive: str
    other: str
    relation: str
    label: str
    count: int
    false_positives: int
    others: int
    notes: int
    expected: float
    lift: Interval
    p: float
    p_corrected: float = math.nan


@dataclass(frozen=True, slots=True)
class EdgeOptions:
    """least: notes from which lift gets an interval."""

    least: int = 3
    resamples: int = 1000
    seed: int = 0
    kind: Literal["percentile", "bca"] = "percentile"
    rules: tuple[RulePair, ...] = field(default_factory=tuple)


def note_codes(one: Explained, admission: Admission) -> NoteCodes | None:
    """What was given and coded on a note, over all codes of the model; None where the coders' codes are unknown."""
    if one.gold is None:
        return None
    given = one.probabilities >= one.thresholds
    wrong, missed = given & ~one.gold, ~given & one.gold
    named = np.array(one.codes, dtype=object)
    return NoteCodes(one.hadm_id, tuple(named[wrong]), tuple(named[missed]), admission.codes)


def confusion(notes: Iterable[NoteCodes], book: CodeBook, options: EdgeOptions = EdgeOptions()) -> list[Edge]:
    """The edges that were seen on a note at least, "missed" ones first, by falling count, then by p and code.

    A false positive is joined to every missed code, and to assigned codes that are its siblings or tied to it by a rule.
    """
    every = list(notes)
    rows: dict[tuple[str, str, str], set[int]] = {}
    labels: dict[tuple[str, str], str] = {}
    of: dict[tuple[str, str], set[int]] = {}  # ("false", code), ("missed", code), ("assigned", code) -> its notes
    for n, note in enumerate(every):
        for kind, codes in (("false", note.false_positives), ("missed", note.missed), ("assigned", note.coded)):
            for code in codes:
                of.setdefault((kind, code), set()).add(n)
        for code in note.false_positives:
            for other in dict.fromkeys((*note.missed, *note.coded)):
                labels.setdefault((code, other), _label(code, other, book, options.rules))
            for relation, others in (("missed", note.missed), ("assigned", note.coded)):
                for other in others:
                    if relation == "missed" or labels[code, other] != "co-occurring":
                        rows.setdefault((code, other, relation), set()).add(n)
    found = [
        _edge(key, labels[key[:2]], (both, of["false", key[0]], of[key[2], key[1]]), len(every), options)
        for key, both in rows.items()
    ]
    tried = {relation: _candidates(of, relation, book, options.rules) for relation in RELATIONS}
    return _sorted([edge for relation in RELATIONS for edge in _corrected(found, relation, tried[relation])])


def _candidates(of: dict[tuple[str, str], set[int]], relation: str, book: CodeBook, rules: Sequence[RulePair]) -> int:
    """How many edges there could have been: those that were not seen were looked for as well."""
    first, second = ([code for kind, code in of if kind == wanted] for wanted in ("false", relation))
    return sum(
        code != other and (relation == "missed" or _label(code, other, book, rules) != "co-occurring")
        for code in first
        for other in second
    )


def _label(code: str, other: str, book: CodeBook, rules: Sequence[RulePair]) -> str:
    kind = book.kinds[book.column(code)]
    same_kind = other not in book or book.kinds[book.column(other)] == kind
    if same_kind and siblings(code, kind, [other]):
        return "sibling"
    return "rule pair" if any(rule.partner(code, (other,)) for rule in rules) else "co-occurring"


def _edge(
    key: tuple[str, str, str], label: str, where: tuple[set[int], set[int], set[int]], n: int, options: EdgeOptions
) -> Edge:  # fmt: skip
    both, first, second = (len(part) for part in where)
    expected = first * second / n
    if both < options.least:
        reason = f"fewer than {options.least} notes"
        span = Interval(both / expected, math.nan, math.nan, n, n, reason=reason)
    else:
        sums = np.zeros((n, 4))
        for column, part in enumerate(where):
            sums[sorted(part), column] = 1.0
        sums[:, 3] = 1.0
        span = interval(sums, lift_of, resamples=options.resamples, seed=options.seed, kind=options.kind)
    p = float(hypergeom.sf(both - 1, n, first, second))
    code, other, relation = key
    return Edge(code, other, relation, label, both, first, second, n, expected, span, p)


def lift_of(sums: Array) -> Array:
    """(R,) lifts from sums (R, 4): notes with both, with the first, with the second, and all; NaN where one is 0."""
    both, first, second, n = sums.T
    alone = first * second
    return np.asarray(np.divide(both * n, alone, out=np.full(len(sums), np.nan), where=alone > 0))


def _corrected(edges: Sequence[Edge], relation: str, tried: int) -> list[Edge]:
    part = [edge for edge in edges if edge.relation == relation]
    corrected = benjamini_hochberg([*(edge.p for edge in part), *[1.0] * (tried - len(part))])
    return [replace(edge, p_corrected=p) for edge, p in zip(part, corrected[: len(part)], strict=True)]


def _sorted(edges: Sequence[Edge]) -> list[Edge]:
    relation = list(RELATIONS)
    return sorted(edges, key=lambda e: (relation.index(e.relation), -e.count, e.p, e.false_positive, e.other))

"""How well codes are predicted by how often they were seen in training: what one macro average over thousands of codes hides."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from hilat.admissions import Admission, HilatError
from hilat.metrics import CodeRow

EDGES = (0, 10, 50, 100, 500)


@dataclass(frozen=True, slots=True)
class FrequencyBand:
    """The codes with `least` to `most` training admissions (None: no end), scored together.

    codes: how many there are; present: those with a positive in the scored documents; positives, predicted,
    true_positives: over documents and codes. micro_*: of these sums. macro_precision, macro_recall, macro_f1: means over
    the present codes, a code that is never predicted counting 0; macro_f1_all: mean over all of the band, a code neither
    given nor predicted counting 0. macro_auc: mean over the `codes_in_macro_auc` with positives and negatives. NaN where
    nothing is there to average, or to divide by.
    """

    least: int
    most: int | None
    codes: int
    present: int
    positives: int
    predicted: int
    true_positives: int
    micro_precision: float
    micro_recall: float
    micro_f1: float
    macro_precision: float
    macro_recall: float
    macro_f1: float
    macro_f1_all: float
    macro_auc: float
    codes_in_macro_auc: int

    @property
    def name(self) -> str:
        """The range as text: 0, 1-10, ..., >500."""
        if self.most is None:
            return f">{self.least - 1}"
        return str(self.least) if self.least == self.most else f"{self.least}-{self.most}"

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain values, with the name; NaN becomes None."""
        values = {"training_admissions": self.name, **dataclasses.asdict(self)}
        return {key: None if isinstance(x, float) and math.isnan(x) else x for key, x in values.items()}


def frequency_bands(
    rows: Iterable[CodeRow], training: Mapping[str, int], edges: Sequence[int] = EDGES
) -> tuple[FrequencyBand, ...]:
    """One band per range of training admissions that have the code: up to the first edge, ..., above the last.

    rows: `CodeMetrics.per_code`. training: admissions by code; a code that is not there has none.

    Raises:
        HilatError: for edges that do not rise from 0 or more.
    """
    if not edges or edges[0] < 0 or any(a >= b for a, b in pairwise(edges)):
        raise HilatError(
            f"the edges of the bands are {list(edges)}; expected rising whole numbers from 0, such as {list(EDGES)}. "
            "Put them in order"
        )
    starts = [0, *(edge + 1 for edge in edges)]
    ends = [*edges, None]
    groups: list[list[CodeRow]] = [[] for _ in starts]
    for row in rows:
        groups[sum(training.get(row.code, 0) > edge for edge in edges)].append(row)
    return tuple(_band(*three) for three in zip(starts, ends, groups, strict=True))


def training_counts(admissions: Iterable[Admission]) -> Counter[str]:
    """How many of the admissions have each code; gone through once, none is kept."""
    return Counter(code for admission in admissions for code in admission.codes)


def _band(least: int, most: int | None, rows: Sequence[CodeRow]) -> FrequencyBand:
    present = [row for row in rows if row.support]
    positives, predicted = sum(row.support for row in rows), sum(row.predicted for row in rows)
    hits = sum(row.true_positives for row in rows)
    aucs = [row.auc for row in rows if not math.isnan(row.auc)]
    return FrequencyBand(
        least=least,
        most=most,
        codes=len(rows),
        present=len(present),
        positives=positives,
        predicted=predicted,
        true_positives=hits,
        micro_precision=hits / predicted if predicted else math.nan,
        micro_recall=hits / positives if positives else math.nan,
        micro_f1=2 * hits / (predicted + positives) if predicted + positives else math.nan,
        macro_precision=_mean([_or_zero(row.precision) for row in present]),
        macro_recall=_mean([row.recall for row in present]),
        macro_f1=_mean([row.f1 for row in present]),
        macro_f1_all=_mean([_or_zero(row.f1) for row in rows]),
        macro_auc=_mean(aucs),
        codes_in_macro_auc=len(aucs),
    )


def _or_zero(value: float) -> float:
    return 0.0 if math.isnan(value) else value


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan

"""From explanations, keywords and measures to the page of an admission: what `hilat report` and a notebook share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hilat.admissions import Admission, CodeBook, HilatError
from reports.build import Outputs, Reading, RunLabel, build_page
from reports.index import MeanCurve, MeasureTable
from reports.page import CodeNotes, CueView, CurveView, NumberRow, ReportPage

if TYPE_CHECKING:
    from explain.cases import Case
    from explain.cues import CaseOptions
    from explain.keywords import KeywordSet
    from explain.rows import Curve
    from explain.table import Explained

CONTROLS = ("random", "uniform", "position", "frequent_words", "other_code")  # columns of numbers, never a layer
# Measures that a page lists, of those in the folders given.
LISTED = (
    "comprehensiveness", "sufficiency", "normalised_aopc", "decision_flip", "average_precision", "evidence_mass", "position_ami",
    "rank_auc", "kendall_tau_b", "overlap_at_10",
)  # fmt: skip

Pair = tuple[str, str]


@dataclass(frozen=True)
class Measures:
    """What folders of measures say: numbers and deletion curves by (admission, code), and tables for the index."""

    numbers: Mapping[Pair, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)
    up: Mapping[str, bool] = field(default_factory=dict)
    curves: Mapping[Pair, Sequence[Curve]] = field(default_factory=dict)
    tables: tuple[MeasureTable, ...] = ()
    mean_curves: tuple[MeanCurve, ...] = ()


@dataclass(frozen=True)
class PageMaker:
    """What all pages of a run share. drawn: methods drawn as underlines; None for all but attention and the controls."""

    known: Mapping[str, Admission]
    book: CodeBook
    label: RunLabel
    chunks: int
    keywords: Mapping[str, KeywordSet]
    options: CaseOptions
    measures: Measures = field(default_factory=Measures)
    drawn: tuple[str, ...] | None = None

    def page(self, one: Explained) -> ReportPage:
        """The page of one explained admission.

        Raises:
            HilatError: an admission that the corpus does not hold.
        """
        from explain.cases import find_cases  # here, since it loads torch, which a page needs not

        if one.hadm_id not in self.known:
            raise HilatError(
                f"admission {one.hadm_id} was explained and is not in the corpus; give the corpus that was explained"
            )
        admission = self.known[one.hadm_id]
        cases = find_cases(one, admission, self.keywords, self.book, self.options)
        tokens = int(one.word_tokens.sum())
        reading = Reading(one.word_spans, one.word_chunk, self.chunks, tokens, one.removed, one.removed_reasons)
        drawn = [name for name in one.methods if name not in CONTROLS] if self.drawn is None else self.drawn
        layers = tuple(
            (name, words.signed, one.of(name))
            for name, words in one.methods.items()
            if name in drawn and name != "attention"
        )
        notes = {case.code: self._notes(case) for case in cases}
        outputs = Outputs(
            one.logits, one.probabilities, one.thresholds, one.chunk_attention, one.of("attention"), layers, notes
        )  # fmt: skip
        return build_page(admission, self.book, reading, outputs, self.label, gold_known=one.gold is not None)

    def _notes(self, case: Case) -> CodeNotes:
        curves = self.measures.curves.get((case.hadm_id, case.code), ())
        cues = case.cues if case.outcome not in ("TP", "TN") else ()  # a hit needs no reason to be wrong
        return CodeNotes(
            case.keywords,
            tuple(CueView(cue.kind, cue.says, cue.start, cue.end) for cue in cues),
            self._numbers((case.hadm_id, case.code)),
            tuple(CurveView(c.method, c.fractions, c.deletion) for c in curves),
            case.weak,
        )

    def _numbers(self, pair: Pair) -> tuple[NumberRow, ...]:
        found = self.measures.numbers.get(pair, {})
        methods = list(dict.fromkeys(method for values in found.values() for method in values))
        return tuple(
            NumberRow(
                metric, self.measures.up.get(metric, True), tuple((m, _finite(found[metric].get(m))) for m in methods)
            )
            for metric in LISTED
            if metric in found
        )


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None

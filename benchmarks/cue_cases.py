"""Cases whose cause is known: passages put on planted marks, and errors of a model that point at one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from explain.cases import Case, find_cases
from explain.cues import CaseOptions
from explain.keywords import KeywordSet
from explain.subject import WordScores
from explain.table import Explained
from hilat.admissions import Admission, CodeBook, EvidenceSpan

# Kind of a planted mark -> cues that name it. Planned procedures are planted as "uncertain"; ConText calls them hypothetical.
NAMES: dict[str, tuple[str, ...]] = {
    "negated": ("negated",),
    "uncertain": ("uncertain", "hypothetical"),
    "family": ("family",),
    "history": ("historical",),
    "rule": ("rule_pair",),
    "shortcut": ("symptom_only",),
}
VENTILATION = ("96.71", "96.72")
DURATION = "duration of ventilation"
OTHER_CODE = "evidence of another code"
NOTHING = "nothing that was planted"
# The cues by which a reader would learn of each cause.
CUES_OF: dict[str, tuple[str, ...]] = {
    **NAMES,
    DURATION: ("sibling", "rule_pair"),
    OTHER_CODE: ("sibling", "rule_pair"),
    NOTHING: ("symptom_only",),
}


@dataclass(frozen=True, slots=True)
class Marked:
    """A case and what it points at: kind of NAMES, "evidence", DURATION, OTHER_CODE or NOTHING. cues: kinds of the strongest passage
    and of the code as a whole. outcome: of the case."""

    hadm_id: str
    code: str
    outcome: str
    kind: str
    cues: frozenset[str]


def marked_passages(
    admission: Admission, book: CodeBook, keywords: Mapping[str, KeywordSet], options: CaseOptions
) -> Iterator[Marked]:
    """A case for each mark of the note, as if an explanation pointed at its words and at nothing else."""
    waiting = [span for span in (*admission.evidence, *admission.decoys) if span.code in book]
    while waiting:  # a code has one passage per round
        now = {span.code: span for span in reversed(waiting)}
        waiting = [span for span in waiting if span is not now[span.code]]
        one = pointing_at(admission, book, list(now.values()))
        for case, span in zip(
            find_cases(one, admission, keywords, book, options, "attention"), now.values(), strict=True
        ):
            yield Marked(case.hadm_id, case.code, case.outcome, span.kind, cues_at_first(case))


def pointing_at(admission: Admission, book: CodeBook, spans: Sequence[EvidenceSpan]) -> Explained:
    """Explanations of the spans' codes, all of them predicted, whose scores are even on the span's words and 0 elsewhere."""
    words = np.array([match.span() for match in re.finditer(r"\S+", admission.text)], dtype=np.int64)  # (W, 2)
    scores = np.array([(words[:, 0] < span.end) & (words[:, 1] > span.start) for span in spans], dtype=np.float64)
    gold = np.isin(np.array(book.codes, dtype=object), list(admission.codes))
    wanted = np.isin(np.array(book.codes, dtype=object), [span.code for span in spans])
    return Explained(
        hadm_id=admission.hadm_id,
        codes=book.codes,
        logits=np.where(wanted, 4.0, -4.0),
        probabilities=np.where(wanted, 0.98, 0.02),
        thresholds=np.full(len(book), 0.5),
        gold=gold,
        chunk_attention=None,
        scored=tuple(span.code for span in spans),
        methods={
            "attention": WordScores(
                scores / scores.sum(axis=1, keepdims=True), False, "probability", np.zeros(len(spans))
            )
        },
        word_spans=words,
        word_chunk=np.zeros(len(words), dtype=np.int64),
        word_tokens=np.ones(len(words), dtype=np.int64),
        removed=np.zeros((0, 2), dtype=np.int64),
        removed_reasons=(),
    )


def cues_at_first(case: Case) -> frozenset[str]:
    """The kinds of cues of the strongest passage and of the code as a whole."""
    return frozenset(cue.kind for cue in case.cues if cue.passage in (0, None))


def caused(case: Case, admission: Admission) -> Marked:
    """The case with what its strongest passage points at: the mark of its code under the peak word or, where the peak is on
    none, a mark of it in the passage; evidence before decoys. Of a false positive without such a mark: DURATION where the
    other code of VENTILATION was given, OTHER_CODE where the peak word is evidence of another code."""
    return Marked(case.hadm_id, case.code, case.outcome, _cause(case, admission), cues_at_first(case))


def _cause(case: Case, admission: Admission) -> str:
    if not case.passages:
        return NOTHING
    first = case.passages[0]
    marks = [span for span in (*admission.evidence, *admission.decoys) if span.code == case.code]
    for start, end in (first.peak, (first.start, first.end)):
        here = [span.kind for span in marks if span.start < end and span.end > start]
        if here:
            return here[0]
    other = VENTILATION[case.code == VENTILATION[0]]
    if case.outcome == "FP" and case.code in VENTILATION and other in admission.codes:
        return DURATION
    beside = any(span.start < first.peak[1] and span.end > first.peak[0] for span in admission.evidence)
    return OTHER_CODE if beside else NOTHING

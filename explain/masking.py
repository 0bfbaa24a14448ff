"""Masking test of false positives: does the code go when the words that the explanation names go, and when others go?

Words are removed in place by `explain.perturbation.NoteFunction`, which encodes the changed chunks only. Every removal has
its control: as many words drawn at random from those the model read, so that a removal is not judged by its size.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from explain.cases import Case
from explain.controls import seed_of
from explain.cues import CONTEXTS, Passage
from explain.faithfulness import sigmoid
from explain.result import Value, defined, undefined
from explain.sentences import sentences
from explain.snippets import strongest, words_for_half
from explain.table import Explained
from hilat.admissions import Admission, HilatError
from hilat.significance import Comparison, Interval, holm, interval_of_mean, mean_of, randomisation, sums_by_cluster

Words = NDArray[np.bool_]
SetFunction = Callable[[Words], NDArray[np.float64]]
# What is removed -> what it is.
CONDITIONS: dict[str, str] = {
    "top": "the strongest words",
    "half": "the fewest words that hold half of the scores",
    "decoy": "the code's decoys: mentions that are negated, of the past, of others, or bound by a rule",
    "governed": "the words that a context cue governs",
    "modifier": "the words of the context cue itself, such as the negation",
}
WHY_NONE: dict[str, str] = {
    "top": "no word has a positive score",
    "half": "no word has a positive score",
    "decoy": "no decoy of the code is known in the note",
    "governed": "no context cue governs a strong passage",
    "modifier": "no context cue governs a strong passage",
}
SAME_PROBABILITY = 0.02  # what rounding on another device may change


@dataclass(frozen=True, slots=True)
class MaskingOptions:
    """top: strongest words that are removed. draws: random removals of each size. seed: of them. language: of the notes."""

    top: int = 5
    draws: int = 10
    seed: int = 0
    language: str = "en"

    def __post_init__(self) -> None:
        if self.top < 1 or self.draws < 1:
            raise HilatError(
                f"a masking test was asked for with the top {self.top} words and {self.draws} draws; expected 1 or more of both. "
                "Correct them"
            )


@dataclass(frozen=True, slots=True)
class Masked:
    """One removal from one pair. words: how many were removed. drop: fall of the probability; flips: 1 when the code is no
    longer given, else 0. random_drop, random_flips: the means of as many words drawn at random. Values with a reason where
    there was nothing to remove."""

    hadm_id: str
    code: str
    condition: str
    words: int
    drop: Value
    flips: Value
    random_drop: Value
    random_flips: Value


@dataclass(frozen=True, slots=True)
class MaskingSummary:
    """A condition over pairs: means with 95 % intervals over admissions. flip_test, drop_test: against the random words of
    the same pairs, paired randomisation over admissions; p_corrected: of the flip test, by Holm over the conditions.
    reasons: why pairs have no value, counted."""

    condition: str
    says: str
    words: float
    drop: Interval
    random_drop: Interval
    flips: Interval
    random_flips: Interval
    flip_test: Comparison
    drop_test: Comparison
    p_corrected: float
    reasons: Mapping[str, int]


def chosen_cases(cases: Sequence[Case], most: int, seed: int = 0) -> list[Case]:
    """At most `most` of the false positives, drawn by the seed, in the order given."""
    errors = [case for case in cases if case.outcome == "FP"]
    if len(errors) <= most:
        return errors
    drawn = np.random.default_rng(seed).choice(len(errors), most, replace=False)
    return [errors[i] for i in sorted(drawn.tolist())]


def removals(
    case: Case, one: Explained, admission: Admission, method: str, options: MaskingOptions
) -> dict[str, Words]:
    """Condition -> the words (W,) to remove, among those that the model read; none where the condition has none.

    Strong words are those with a positive score; equal scores go by the order of the text.
    """
    seen = one.word_chunk >= 0
    order = np.argsort(one.word_spans[:, 0], kind="stable")
    order = order[seen[order]]
    scores = np.maximum(one.methods[method].scores[one.scored.index(case.code), order], 0.0)
    positive = int((scores > 0).sum())
    decoys = [s for span in admission.decoys if span.code == case.code for s in span.segments]
    cues = [cue for cue in case.cues if cue.kind in CONTEXTS and cue.passage is not None]
    passages = [case.passages[n] for n in sorted({cue.passage for cue in cues if cue.passage is not None})]
    borders = sentences(admission.text, options.language) if passages else ()
    governed = [span for passage in passages for span in _governed(passage, borders)]
    return {
        "top": _marked(order[strongest(scores, min(options.top, positive))], len(seen)),
        "half": _marked(order[strongest(scores, words_for_half(scores))], len(seen)),
        "decoy": _touching(one.word_spans, decoys) & seen,
        "governed": _touching(one.word_spans, governed) & seen,
        "modifier": _touching(one.word_spans, [(cue.start, cue.end) for cue in cues]) & seen,
    }


def _governed(passage: Passage, borders: Sequence[tuple[int, int]]) -> Sequence[tuple[int, int]]:
    """The words whose context was asked for (`explain.cues.context_cues`): the description words in the sentence of the
    peak or, where it has none, the peak."""
    start, end = next(((s, e) for s, e in borders if s <= passage.peak[0] < e), passage.peak)
    return [span for span in passage.keywords if start <= span[0] < end] or [passage.peak]


def _marked(words: NDArray[np.int64], count: int) -> Words:
    out = np.zeros(count, dtype=bool)
    out[words] = True
    return out


def _touching(spans: NDArray[np.int64], ranges: Sequence[tuple[int, int]]) -> Words:
    found = np.zeros(len(spans), dtype=bool)
    for start, end in ranges:
        found |= (spans[:, 0] < end) & (spans[:, 1] > start)
    return found


def masking_rows(
    cases: Sequence[Case],
    one: Explained,
    admission: Admission,
    value: SetFunction,
    method: str = "attention",
    options: MaskingOptions = MaskingOptions(),
) -> list[Masked]:
    """All conditions for some cases of one admission, from one stream of changed notes.

    value: keep masks (S, W) -> logits (S, k), of the codes of `cases` in their order.

    Raises:
        HilatError: a model that does not give the probabilities that were stored.
    """
    seen = np.flatnonzero(one.word_chunk >= 0)
    asked = [removals(case, one, admission, method, options) for case in cases]
    keep: list[Words] = [np.ones(len(one.word_spans), dtype=bool)]
    place: dict[tuple[int, str], tuple[int, slice]] = {}  # where the removal and its controls are
    for k, case in enumerate(cases):
        for condition, words in asked[k].items():
            if not words.any():
                continue
            rng = np.random.default_rng(seed_of("masking", case.hadm_id, case.code, condition, options.seed))
            first = len(keep)
            keep.append(~words)
            for _ in range(options.draws):
                keep.append(~_marked(rng.choice(seen, int(words.sum()), replace=False), len(words)))
            place[k, condition] = (first, slice(first + 1, len(keep)))
    probabilities = np.asarray(sigmoid(value(np.stack(keep))))  # (S, k)
    found = []
    for k, case in enumerate(cases):
        _check(case, float(probabilities[0, k]))
        for condition, words in asked[k].items():
            where = place.get((k, condition))
            if where is None:
                none = undefined(WHY_NONE[condition])
                found.append(Masked(case.hadm_id, case.code, condition, 0, none, none, none, none))
            else:
                found.append(_masked(case, condition, int(words.sum()), probabilities[:, k], where))
    return found


def _check(case: Case, probability: float) -> None:
    if abs(probability - case.probability) > SAME_PROBABILITY:
        raise HilatError(
            f"the model gives code {case.code} of admission {case.hadm_id} the probability {probability:.3f} and the explanations "
            f"hold {case.probability:.3f}; expected the model that was explained. Give that one with --model"
        )


def _masked(
    case: Case, condition: str, words: int, probabilities: NDArray[np.float64], where: tuple[int, slice]
) -> Masked:  # fmt: skip
    before, after, random = probabilities[0], probabilities[where[0]], probabilities[where[1]]
    drops = (defined(before - after), defined(float((before - random).mean())))
    if before < case.threshold:
        lost = undefined("rounding put the code under its threshold before anything was removed")
        flips = (lost, lost)
    else:
        flips = (defined(float(after < case.threshold)), defined(float((random < case.threshold).mean())))
    return Masked(case.hadm_id, case.code, condition, words, drops[0], flips[0], drops[1], flips[1])


def summarise_masking(
    rows: Sequence[Masked],
    *,
    seed: int = 0,
    resamples: int = 2000,
    kind: Literal["percentile", "bca"] = "percentile",
) -> list[MaskingSummary]:
    """Every condition over the pairs that have something to remove, and its test against random words."""

    def span(part: Sequence[Masked], field: str) -> Interval:
        values = np.array([getattr(row, field).value for row in part], dtype=np.float64)
        return interval_of_mean(values, [row.hadm_id for row in part], resamples=resamples, seed=seed, kind=kind)

    found = []
    for condition, says in CONDITIONS.items():
        part = [row for row in rows if row.condition == condition]
        there = [row.words for row in part if row.words]
        found.append(
            MaskingSummary(
                condition,
                says,
                float(np.mean(there)) if there else math.nan,
                span(part, "drop"),
                span(part, "random_drop"),
                span(part, "flips"),
                span(part, "random_flips"),
                _test([(row.hadm_id, row.flips.value, row.random_flips.value) for row in part], seed),
                _test([(row.hadm_id, row.drop.value, row.random_drop.value) for row in part], seed),
                math.nan,
                dict(Counter(row.flips.reason for row in part if row.flips.reason is not None)),
            )
        )
    corrected = holm([summary.flip_test.p for summary in found])
    return [replace(summary, p_corrected=p) for summary, p in zip(found, corrected, strict=True)]


def _test(values: Sequence[tuple[str, float, float]], seed: int) -> Comparison:
    there = [(name, a, b) for name, a, b in values if math.isfinite(a) and math.isfinite(b)]
    names = [name for name, _, _ in there]
    first, second = (
        sums_by_cluster(np.array([[row[side], 1.0] for row in there]).reshape(-1, 2), names) for side in (1, 2)
    )
    return randomisation(first, second, mean_of, seed=seed)

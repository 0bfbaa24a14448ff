"""Explanations as sets of words: those whose share of the scores reaches a threshold, tuned on another split.

A word's share is its positive score over the sum of the note's positive scores. Precision, recall and F1 are micro: counts
are added up over pairs, and intervals are over admissions. Plausibility, not faithfulness.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from explain.plausibility import MATCH_CLASSES, evidence_words, match_class
from explain.rows import outcome_of
from explain.table import Explained
from hilat.admissions import Admission, HilatError
from hilat.significance import Comparison, Interval, interval, micro_f1_of, randomisation, sums_by_cluster

Array = NDArray[np.float64]
Words = NDArray[np.bool_]
Span = tuple[int, int]  # first word and the word after the last, places in the text
IOU = (0.1, 0.25, 0.5, 0.75)  # DeYoung et al. 2020 use 0.5
# Kinds of counts: what is compared.
KINDS: dict[str, str] = {
    "word": "words (MDACE's exact token)",
    "token": "the same, words weighted by their model tokens",
    **{f"iou_{x:g}": f"runs of words whose intersection over union with an evidence span is at least {x:g} (ERASER)" for x in IOU},
    "span": "runs of words that are evidence spans exactly (MDACE's exact span)",
    "span_text": "the same by their text, wherever they stand (MDACE's position-independent span)",
    "word_text": "words by their text, wherever they stand (MDACE's position-independent token)",
}  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class PairWords:
    """One pair, over the words that the model read, in text order.

    share (W,): of the positive scores, 0 where none is positive. gold (W,). spans: of the evidence, as runs of words.
    tokens (W,): how many tokens each word has. words: folded to lower case.
    """

    hadm_id: str
    outcome: str
    share: Array
    gold: Words
    spans: tuple[Span, ...]
    tokens: NDArray[np.int64]
    words: tuple[str, ...]


def runs(chosen: Words) -> tuple[Span, ...]:
    """The runs of neighbouring chosen words."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], chosen, [False]]).astype(np.int8)))
    return tuple((int(a), int(b)) for a, b in edges.reshape(-1, 2))


def pair_words(one: Explained, admission: Admission, method: str) -> Iterator[PairWords]:
    """The pairs of an admission that have evidence that the model read."""
    seen = np.flatnonzero(one.word_chunk >= 0)
    seen = seen[np.argsort(one.word_spans[seen, 0], kind="stable")]
    places = one.word_spans[seen]
    words = tuple(admission.text[start:end].lower() for start, end in places)
    for i, code in enumerate(one.scored):
        inside = evidence_words(admission.evidence, code, places)  # (E, W)
        if not inside.any():
            continue
        k = one.codes.index(code)
        gold = None if one.gold is None else bool(one.gold[k])
        positive = np.maximum(one.methods[method].scores[i, seen], 0.0)
        total = positive.sum()
        yield PairWords(
            one.hadm_id,
            outcome_of(bool(one.probabilities[k] >= one.thresholds[k]), gold),
            positive / total if total > 0 else positive,
            np.asarray(inside.any(axis=0)),
            tuple(dict.fromkeys(span for row in inside for span in runs(row))),
            one.word_tokens[seen],
            words,
        )


def tuned_threshold(pairs: Iterable[PairWords]) -> float:
    """The share from which a word is chosen that gives the highest micro F1 of words; every distinct share is tried.

    It lies midway between two neighbouring shares; of equally good ones the highest. Raises HilatError without evidence.
    """
    every = list(pairs)
    share = np.concatenate([p.share for p in every]) if every else np.zeros(0)
    gold = np.concatenate([p.gold for p in every]) if every else np.zeros(0, dtype=bool)
    if not gold.any() or not (share > 0).any():
        raise HilatError(
            f"{len(every)} pairs of the tuning split have evidence and positive scores; expected at least one. Tune on "
            "a split with evidence spans"
        )
    order = np.argsort(-share, kind="stable")
    ranked = share[order]
    right = np.cumsum(gold[order])
    f1 = 2 * right / (np.arange(1, len(order) + 1) + gold.sum())
    last = np.append(ranked[1:] < ranked[:-1], True) & (ranked > 0)  # a threshold lies after the last of equal shares
    best = int(np.flatnonzero(last)[np.argmax(f1[last])])
    below = ranked[best + 1] if best + 1 < len(ranked) else 0.0
    return float((ranked[best] + below) / 2)


def counts(pair: PairWords, threshold: float) -> dict[str, tuple[float, float, float]]:
    """Kind -> (right, chosen, evidence) of one pair."""
    chosen = (pair.share >= threshold) & (pair.share > 0)
    found, wanted = runs(chosen), pair.spans
    out: dict[str, tuple[float, float, float]] = {}
    for kind, weight in (("word", np.ones(len(chosen))), ("token", pair.tokens.astype(np.float64))):
        out[kind] = (
            float(weight[chosen & pair.gold].sum()), float(weight[chosen].sum()), float(weight[pair.gold].sum())
        )  # fmt: skip
    best = [max((_iou(span, other) for other in wanted), default=0.0) for span in found]
    for x in IOU:
        out[f"iou_{x:g}"] = (float(sum(value >= x for value in best)), float(len(found)), float(len(wanted)))
    sets: dict[str, tuple[set[object], set[object]]] = {
        "span": (set(found), set(wanted)),
        "span_text": ({pair.words[a:b] for a, b in found}, {pair.words[a:b] for a, b in wanted}),
        "word_text": ({pair.words[w] for w in np.flatnonzero(chosen)}, {pair.words[w] for w in np.flatnonzero(pair.gold)}),
    }  # fmt: skip
    for kind, (mine, theirs) in sets.items():
        out[kind] = (float(len(mine & theirs)), float(len(mine)), float(len(theirs)))
    return out


def _iou(a: Span, b: Span) -> float:
    shared = max(0, min(a[1], b[1]) - max(a[0], b[0]))
    return shared / (a[1] - a[0] + b[1] - b[0] - shared)


@dataclass(frozen=True, slots=True)
class SetScore:
    """One kind of one method: precision, recall and F1 over all pairs, F1 with its interval, and compared with `against`."""

    method: str
    kind: str
    threshold: float
    precision: float
    recall: float
    f1: Interval
    against: str | None
    comparison: Comparison | None


def set_scores(
    pairs: Mapping[str, Sequence[PairWords]], thresholds: Mapping[str, float], *, seed: int = 0
) -> list[SetScore]:
    """Every kind for every method (the keys), compared with the first method by paired randomisation over admissions.

    Raises:
        HilatError: methods that were not measured on the same pairs.
    """
    sums: dict[tuple[str, str], Array] = {}
    for method, part in pairs.items():
        names = [p.hadm_id for p in part]
        each = [counts(p, thresholds[method]) for p in part]
        for kind in KINDS:
            numbers = np.array([c[kind] for c in each]).reshape(-1, 3)
            right, chosen, wanted = numbers.T
            sums[method, kind] = sums_by_cluster(np.stack([right, chosen - right, wanted - right], axis=1), names)
    first = next(iter(pairs), None)
    found = []
    for (method, kind), one in sums.items():
        if first is not None and one.shape != sums[first, kind].shape:
            raise HilatError(
                f"methods {first} and {method} were measured on different pairs; expected the same. Explain them together"
            )
        tp, fp, fn = one.sum(axis=0) if len(one) else np.zeros(3)
        against = None if method == first else first
        test = None if against is None else randomisation(one, sums[against, kind], micro_f1_of, seed=seed)
        found.append(
            SetScore(
                method,
                kind,
                thresholds[method],
                float(tp / (tp + fp)) if tp + fp > 0 else float("nan"),
                float(tp / (tp + fn)) if tp + fn > 0 else float("nan"),
                interval(one, micro_f1_of, seed=seed),
                against,
                test,
            )
        )
    return found


def match_shares(pairs: Sequence[PairWords], threshold: float, window: int = 10) -> dict[str, float]:
    """The share of pairs in each of MATCH_CLASSES (Beckh et al. 2025), at this threshold."""
    classes = [
        match_class(
            np.flatnonzero(p.gold).tolist(), np.flatnonzero((p.share >= threshold) & (p.share > 0)).tolist(), window
        )
        for p in pairs
    ]
    return {name: classes.count(name) / len(classes) if classes else float("nan") for name in MATCH_CLASSES}

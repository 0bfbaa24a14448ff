"""Plausibility: do the scores point where the coders' evidence is? One (note, code) pair at a time.

It says whether an explanation looks right to people, not whether the model works that way (Jacovi and Goldberg 2020).
Words are those of the note in model order; `gold` marks the words that touch an evidence span of the code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import jensenshannon
from sklearn.metrics import auc, average_precision_score, precision_recall_curve, roc_auc_score

from explain.result import Value, defined, undefined
from hilat.admissions import EvidenceSpan, HilatError

Scores = NDArray[np.float64]
Words = NDArray[np.bool_]
_KL_FLOOR = 1e-10
MATCH_CLASSES = ("empty", "exact", "proximate", "partial", "no match")


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """The scores (W,) of one pair with its evidence.

    gold: (W,) whether a word touches evidence. spans: (E, W) bool, the words of each evidence span. place: (W,) the rank
    of each word in text order, in which neighbours are counted. unseen: evidence spans of which the model read no word.
    """

    scores: Scores
    gold: Words
    spans: NDArray[np.bool_]
    place: NDArray[np.int64]
    unseen: int = 0

    @property
    def order(self) -> NDArray[np.int64]:
        """Words by falling score; equal ones in text order."""
        return np.lexsort((self.place, -self.scores))


def evidence_words(evidence: Sequence[EvidenceSpan], code: str, word_spans: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(E, W): which words touch each of the code's evidence spans; all segments of a discontinuous span count."""
    rows = []
    for span in evidence:
        if span.code == code:
            row = np.zeros(len(word_spans), dtype=bool)
            for start, end in span.segments:
                row |= (word_spans[:, 0] < end) & (word_spans[:, 1] > start)
            rows.append(row)
    return np.array(rows, dtype=bool).reshape(len(rows), len(word_spans))


def make_pair(scores: Scores, spans: NDArray[np.bool_], word_spans: NDArray[np.int64], seen: Words) -> Pair:
    """A pair over the words that the model read; evidence of which it read nothing is counted in `unseen`.

    scores: (W,). spans: (E, W), from `evidence_words`. seen: (W,).

    Raises:
        HilatError: arrays that do not fit together.
    """
    if not scores.shape == seen.shape == (len(word_spans),) or spans.shape[1] != len(word_spans):
        raise HilatError(
            f"scores {scores.shape}, seen {seen.shape}, evidence {spans.shape} and word spans {word_spans.shape} do not "
            "fit together; expected (W,), (W,), (E, W) and (W, 2) of one note"
        )
    inside: NDArray[np.bool_] = spans[:, seen]
    read = inside.any(axis=1)
    place = np.argsort(np.argsort(word_spans[seen, 0], kind="stable"), kind="stable").astype(np.int64)
    return Pair(scores[seen], np.asarray(inside.any(axis=0)), inside[read], place, int((~read).sum()))


def _ranking(measure: Callable[[Words, Scores], float]) -> Callable[[Pair], Value]:
    """A measure of the whole ranking, defined where there are words in evidence and words outside of it."""

    def of(pair: Pair) -> Value:
        if not pair.gold.any():
            return undefined("no evidence that the model read")
        if pair.gold.all():
            return undefined("every word is evidence")
        return defined(measure(pair.gold, pair.scores))

    return of


def _auprc(gold: Words, scores: Scores) -> float:
    precision, recall, _ = precision_recall_curve(gold, scores)
    return float(auc(recall, precision))


def precision_at(k: int) -> Callable[[Pair], Value]:
    """Share of the k highest words that are evidence."""
    return lambda pair: _with_evidence(pair, lambda: float(pair.gold[pair.order[:k]].mean()))


def recall_at(k: int) -> Callable[[Pair], Value]:
    """Share of the evidence words that are among the k highest."""
    return lambda pair: _with_evidence(pair, lambda: float(pair.gold[pair.order[:k]].sum() / pair.gold.sum()))


def hit_at(k: int) -> Callable[[Pair], Value]:
    """Whether one of the k highest words is evidence (1 or 0); k = 1 is the pointing game (Zhang et al. 2018)."""
    return lambda pair: _with_evidence(pair, lambda: float(pair.gold[pair.order[:k]].any()))


def span_recall_at(k: int) -> Callable[[Pair], Value]:
    """Share of the evidence spans that one of the k highest words touches."""
    return lambda pair: _with_evidence(pair, lambda: float(pair.spans[:, pair.order[:k]].any(axis=1).mean()))


def span_cover_at(k: int) -> Callable[[Pair], Value]:
    """The mean share of an evidence span's words that are among the k highest (Cheng et al. 2023, "cover")."""
    return lambda pair: _with_evidence(
        pair, lambda: float((pair.spans[:, pair.order[:k]].sum(axis=1) / pair.spans.sum(axis=1)).mean())
    )


def _iou(pair: Pair) -> Value:
    def found() -> float:
        top = np.zeros_like(pair.gold)
        top[pair.order[: int(pair.gold.sum())]] = True
        return float((top & pair.gold).sum() / (top | pair.gold).sum())

    return _with_evidence(pair, found)


def _word_f1(pair: Pair) -> Value:
    return _with_evidence(pair, lambda: float(pair.gold[pair.order[: int(pair.gold.sum())]].mean()))


def _mass(pair: Pair) -> Value:
    return _with_mass(pair, lambda share: float(share[pair.gold].sum()))


def _divergence(pair: Pair) -> Value:
    even = pair.gold / max(1, int(pair.gold.sum()))
    return _with_mass(pair, lambda share: float(jensenshannon(even, share, base=2) ** 2))


def _kl(pair: Pair) -> Value:
    even = pair.gold / max(1, int(pair.gold.sum()))

    def found(share: Scores) -> float:
        at = pair.gold
        return float(np.sum(even[at] * np.log(even[at] / np.maximum(share[at], _KL_FLOOR))))

    return _with_mass(pair, found)


def _entropy(pair: Pair) -> Value:
    share = np.maximum(pair.scores, 0.0)
    total = share.sum()
    if total <= 0 or len(share) < 2:
        return undefined("no positive score" if total <= 0 else "fewer than two words")
    share = share[share > 0] / total
    return defined(float(-(share * np.log(share)).sum() / np.log(len(pair.scores))))


def _with_evidence(pair: Pair, found: Callable[[], float]) -> Value:
    return defined(found()) if pair.gold.any() else undefined("no evidence that the model read")


def _with_mass(pair: Pair, found: Callable[[Scores], float]) -> Value:
    share = np.maximum(pair.scores, 0.0)
    total = float(share.sum())
    if not pair.gold.any():
        return undefined("no evidence that the model read")
    return defined(found(share / total)) if total > 0 else undefined("no positive score")


@dataclass(frozen=True, slots=True)
class Metric:
    """up: whether higher is better. says: what it is, in a line. of: its value for a pair."""

    up: bool
    says: str
    of: Callable[[Pair], Value]


METRICS: dict[str, Metric] = {
    "average_precision": Metric(True, "average precision, exact", _ranking(average_precision_score)),
    "auprc": Metric(True, "area under precision and recall, trapezoids between all thresholds", _ranking(_auprc)),
    "roc_auc": Metric(True, "chance that an evidence word scores above another word", _ranking(roc_auc_score)),
    "pointing_game": Metric(True, "the highest word is evidence", hit_at(1)),
    "hit_at_3": Metric(True, "one of the three highest words is evidence", hit_at(3)),
    "precision_at_3": Metric(True, "of the three highest words, the share that is evidence", precision_at(3)),
    "precision_at_5": Metric(True, "of the five highest words, the share that is evidence", precision_at(5)),
    "recall_at_5": Metric(True, "of the evidence words, the share among the five highest", recall_at(5)),
    "word_f1_at_size": Metric(True, "as many highest words as there are evidence words: precision = recall = F1", _word_f1),
    "word_iou_at_size": Metric(True, "the same sets: intersection over union", _iou),
    "span_recall_at_5": Metric(True, "evidence spans that one of the five highest words touches", span_recall_at(5)),
    "span_cover_at_5": Metric(True, "share of an evidence span's words among the five highest", span_cover_at(5)),
    "evidence_mass": Metric(True, "share of the positive scores on evidence", _mass),
    "js_bits": Metric(False, "Jensen-Shannon divergence from an even share on evidence, bits", _divergence),
    "kl_nats": Metric(False, "KL divergence from an even share on evidence to the scores, nats, floor 1e-10", _kl),
    "entropy": Metric(False, "entropy of the positive scores over that of even ones", _entropy),
}  # fmt: skip


def chance(pair: Pair) -> dict[str, float]:
    """What random scores reach on average, where there is a closed form: the share of evidence words, mostly."""
    words, gold = len(pair.gold), int(pair.gold.sum())
    if not 0 < gold < words:
        return {}
    share = gold / words
    miss = 1.0
    for i in range(min(3, words)):
        miss *= max(0, words - gold - i) / (words - i)
    return {
        "pointing_game": share,
        "hit_at_3": 1 - miss,
        "precision_at_3": share,
        "precision_at_5": share,
        "recall_at_5": min(5, words) / words,
        "word_f1_at_size": share,
        "roc_auc": 0.5,
        "evidence_mass": share,
    }


def match_class(gold: Sequence[int], chosen: Sequence[int], window: int = 10) -> str:
    """How chosen word places meet evidence places: one of MATCH_CLASSES (Beckh et al. 2025, "The anatomy of evidence").

    exact: the same set. proximate: at least one evidence word is chosen, every chosen word lies within `window` places of
    evidence, and every evidence word of a chosen one. partial: at least one is, and some lie farther. no match: none is. empty: nothing chosen.
    """
    if not len(chosen):
        return "empty"
    if set(gold) == set(chosen):
        return "exact"
    if not set(gold) & set(chosen):
        return "no match"
    near = _within(gold, chosen, window) and _within(chosen, gold, window)
    return "proximate" if near else "partial"


def _within(places: Sequence[int], others: Sequence[int], window: int) -> bool:
    """Whether each place has one of the others within the window."""
    return all(min(abs(place - other) for other in others) <= window for place in places)

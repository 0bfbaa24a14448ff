"""How well codes are predicted: the paper's metrics (section 4.2.1), with every convention named.

N documents, K codes. CAML's conventions (Mullenbach et al. 2018), which the paper and its baselines use: a macro
average runs over all K codes with 1e-10 in each denominator; macro-F1 is the harmonic mean of macro precision and macro
recall; macro AUC is the mean over the codes that have positives and negatives here.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hilat.admissions import CodeBook, HilatError

EPSILON = 1e-10
_BLOCK_NUMBERS = 1_000_000  # of scores that are ranked at a time
_CODES = 64  # whose columns are laid out one after the other at a time
NO_POSITIVE = "no positive in these documents"
NO_NEGATIVE = "no negative in these documents"
NOT_PREDICTED = "never predicted"
NEITHER = "neither given nor predicted"


@dataclass(frozen=True, slots=True)
class CodeRow:
    """One code: counts and scores; a score that is not defined is NaN, and `reasons` says why."""

    code: str
    title: str
    support: int
    predicted: int
    true_positives: int
    precision: float
    recall: float
    f1: float
    auc: float
    average_precision: float
    threshold: float
    reasons: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class CodeMetrics:
    """Scores of a split, all in [0, 1], NaN where undefined.

    macro_precision, macro_recall, macro_accuracy: CAML's, over all K codes. macro_f1_of_macro_p_r: harmonic mean of
    the two (the paper's macro-F1). macro_f1_mean_of_codes: mean of the codes' F1, a code neither given nor predicted
    counting 0 (scikit-learn's). The `_present` ones average over the codes with positives here only.
    accuracy: intersection over union (CAML's). precision_at, recall_at: mean over documents of the k highest scores;
    equal scores by column; tied_at: documents where a tie crosses k, so that another order could change the value.
    """

    documents: int
    codes: int
    threshold_source: str
    micro_precision: float
    micro_recall: float
    micro_f1: float
    micro_accuracy: float
    micro_auc: float
    micro_average_precision: float
    macro_precision: float
    macro_recall: float
    macro_accuracy: float
    macro_f1_of_macro_p_r: float
    macro_f1_mean_of_codes: float
    macro_precision_present: float
    macro_recall_present: float
    macro_f1_present: float
    macro_auc: float
    mean_average_precision: float
    codes_without_positives: int
    codes_in_macro_auc: int
    precision_at: Mapping[int, float]
    recall_at: Mapping[int, float]
    tied_at: Mapping[int, int]
    per_code: tuple[CodeRow, ...]

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain values; NaN becomes None."""
        plain: dict[str, Any] = _plain(dataclasses.asdict(self))
        return plain


def evaluate_codes(
    scores: NDArray[Any],
    targets: NDArray[Any],
    thresholds: float | NDArray[np.float64],
    *,
    threshold_source: str,
    code_book: CodeBook | None = None,
    ks: Sequence[int] = (5, 8, 15),
) -> CodeMetrics:
    """Score probabilities (N, K) against targets (N, K) of 0 and 1; a code is given when score >= threshold.

    Raises:
        HilatError: shapes that differ, nothing to score, scores that are not probabilities, targets that are not 0/1.
    """
    scores, truth = checked(scores, targets)
    n, k = scores.shape
    limits = np.broadcast_to(np.asarray(thresholds, dtype=np.float64), (k,))
    if not np.isfinite(limits).all():
        raise HilatError("a threshold is not finite; expected one probability, or one per code. Tune them again")
    if code_book is not None and len(code_book) != k:
        raise HilatError(f"the scores have {k} columns and the code book {len(code_book)} codes; they must agree")
    given = scores >= limits  # (N, K)
    hits = (given & truth).sum(axis=0)  # (K,)
    predicted, support, union = given.sum(axis=0), truth.sum(axis=0), (given | truth).sum(axis=0)
    aucs, precisions_area = _areas_by_code(scores, truth)  # (K,), (K,)
    micro_auc, micro_area = _areas(_runs(scores, _BLOCK_NUMBERS // k + 1), scores[truth], n * k)
    code_f1 = 2 * hits / np.maximum(predicted + support, 1)
    micro_f1, mean_f1, harmonic_f1 = f1_scores(hits, predicted, support)
    present = support > 0
    micro_p = _ratio(hits.sum(), predicted.sum(), math.nan)
    micro_r = _ratio(hits.sum(), support.sum(), math.nan)
    at = _at_each(scores, truth, ks)
    return CodeMetrics(
        documents=n,
        codes=k,
        threshold_source=threshold_source,
        micro_precision=micro_p,
        micro_recall=micro_r,
        micro_f1=micro_f1,
        micro_accuracy=_ratio(hits.sum(), union.sum()),
        micro_auc=micro_auc,
        micro_average_precision=micro_area,
        macro_precision=_macro(hits, predicted),
        macro_recall=_macro(hits, support),
        macro_accuracy=_macro(hits, union),
        macro_f1_of_macro_p_r=harmonic_f1,
        macro_f1_mean_of_codes=mean_f1,
        macro_precision_present=_mean((hits / np.maximum(predicted, 1))[present]),
        macro_recall_present=_mean((hits / np.maximum(support, 1))[present]),
        macro_f1_present=_mean(code_f1[present]),
        macro_auc=_mean(aucs[~np.isnan(aucs)]),
        mean_average_precision=_mean(precisions_area[~np.isnan(precisions_area)]),
        codes_without_positives=int((~present).sum()),
        codes_in_macro_auc=int((~np.isnan(aucs)).sum()),
        precision_at={size: value[0] for size, value in at.items()},
        recall_at={size: value[1] for size, value in at.items()},
        tied_at={size: value[2] for size, value in at.items()},
        per_code=tuple(
            _row(
                code_book,
                j,
                n,
                int(support[j]),
                int(predicted[j]),
                int(hits[j]),
                aucs[j],
                precisions_area[j],
                limits[j],
            )
            for j in range(k)
        ),
    )


def f1_scores(
    hits: NDArray[np.int64], predicted: NDArray[np.int64], support: NDArray[np.int64]
) -> tuple[float, float, float]:
    """Micro-F1, the mean of the codes' F1, and the harmonic mean of macro precision and recall, from each code's counts (K,)."""
    precision, recall = _macro(hits, predicted), _macro(hits, support)
    return (
        _ratio(2 * hits.sum(), predicted.sum() + support.sum()),
        float((2 * hits / np.maximum(predicted + support, 1)).mean()),
        2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0,
    )


def checked(scores: NDArray[Any], targets: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Scores as float64 and targets as bool, both (N, K), or a HilatError that says what is wrong."""
    scores, targets = np.asarray(scores), np.asarray(targets)
    if scores.ndim != 2 or scores.shape != targets.shape or 0 in scores.shape:
        raise HilatError(
            f"scores have shape {scores.shape} and targets {targets.shape}; expected the same (N, K), N and K at least 1"
        )
    scores = scores.astype(np.float64, copy=False)
    outside = ~((scores >= 0) & (scores <= 1))  # NaN is outside too
    if outside.any():
        raise HilatError(
            f"{int(outside.sum())} of {scores.size} scores are NaN or outside [0, 1]; expected probabilities. "
            "Check the model's weights, or apply the sigmoid to logits"
        )
    if not np.isin(targets, (0, 1)).all():
        raise HilatError("targets hold values other than 0 and 1; expected a multi-hot matrix (N, K)")
    return scores, targets.astype(bool)


def _areas(blocks: Iterable[NDArray[np.float64]], positive: NDArray[np.float64], total: int) -> tuple[float, float]:
    """Area under ROC and average precision of `total` scores, which come in blocks, from the scores of the positives.

    The area: the share of (positive, negative) pairs ranked rightly, ties half (Mann and Whitney); NaN without both kinds.
    Average precision: the sum over distinct scores of (recall step) x precision, as scikit-learn defines it; NaN without
    positives. Both only need to know how many scores lie below each positive's and how many are equal to it, so that
    nothing of the size of all scores is sorted or kept.
    """
    if len(positive) == 0:
        return math.nan, math.nan
    values, here = np.unique(positive, return_counts=True)  # (V,) ascending, and the positives that have each
    up_to, equal = np.zeros(len(values) + 1, dtype=np.int64), np.zeros(len(values), dtype=np.int64)
    for block in blocks:
        place = np.searchsorted(values, block)  # the first value that is not below the score
        up_to += np.bincount(place, minlength=len(up_to))
        place = place[values[np.minimum(place, len(values) - 1)] == block]
        equal += np.bincount(place, minlength=len(values))
    below = np.cumsum(up_to)[:-1] - equal  # (V,) scores lower than the value
    hits = np.cumsum(here[::-1])[::-1]  # (V,) positives at the value or above
    area = float((here * hits / (total - below)).sum() / len(positive))
    negatives = total - len(positive)
    if negatives == 0:
        return math.nan, area
    lower = below - (len(positive) - hits) + (equal - here) / 2  # (V,) negatives below it, ties half
    return float((here * lower).sum() / (len(positive) * negatives)), area


def _areas_by_code(
    scores: NDArray[np.float64], truth: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The areas of each column of scores and truth (N, K), each (K,)."""
    n, k = scores.shape
    found = np.empty((2, k))
    for first in range(0, k, _CODES):
        columns = np.ascontiguousarray(scores[:, first : first + _CODES].T)  # (k, N)
        there = truth[:, first : first + _CODES].T
        for j, (column, positive) in enumerate(zip(columns, there, strict=True)):
            found[:, first + j] = _areas([column], column[positive], n)
    return found[0], found[1]


def _runs(scores: NDArray[np.float64], rows: int) -> Iterator[NDArray[np.float64]]:
    """All scores (N, K), some documents at a time, flat."""
    return (scores[first : first + rows].ravel() for first in range(0, len(scores), rows))


def _at_each(
    scores: NDArray[np.float64], truth: NDArray[np.bool_], sizes: Sequence[int]
) -> dict[int, tuple[float, float, int]]:
    """For each size: mean precision and recall of so many best codes per document, and documents where a tie crosses the
    cut."""
    n, k = scores.shape
    cuts = {size: min(size, k) for size in sizes}
    most = max(cuts.values(), default=0)
    hits, tied = np.zeros((n, most + 1), dtype=np.int64), np.zeros((n, most + 1), dtype=np.bool_)  # by cut, from 0
    rows = _BLOCK_NUMBERS // k + 1
    for first in range(0, n, rows):
        here = slice(first, first + rows)
        order = np.argsort(-scores[here], axis=1, kind="stable")[:, : most + 1]  # (n, M)
        hits[here, 1:] = np.cumsum(np.take_along_axis(truth[here], order[:, :most], axis=1), axis=1)
        ranked = np.take_along_axis(scores[here], order, axis=1)
        tied[here, 1 : ranked.shape[1]] = ranked[:, :-1] == ranked[:, 1:]
    coded = truth.sum(axis=1)  # (N,)
    recalls = hits / np.maximum(coded, 1)[:, None]
    return {
        size: (float((hits[:, cut] / cut).mean()), _mean(recalls[coded > 0, cut]), int(tied[:, cut].sum()))
        for size, cut in cuts.items()
    }


def _row(
    book: CodeBook | None,
    j: int,
    documents: int,
    support: int,
    predicted: int,
    hits: int,
    auc: float,
    area: float,
    limit: float,
) -> CodeRow:
    reasons: dict[str, str] = {}
    if support == 0:
        reasons |= {"recall": NO_POSITIVE, "auc": NO_POSITIVE, "average_precision": NO_POSITIVE}
    elif support == documents:
        reasons["auc"] = NO_NEGATIVE
    if predicted == 0:
        reasons["precision"] = NOT_PREDICTED
        if support == 0:
            reasons["f1"] = NEITHER
    return CodeRow(
        code=book.codes[j] if book else str(j),
        title=book.titles[j] if book else "",
        support=support,
        predicted=predicted,
        true_positives=hits,
        precision=_ratio(hits, predicted, math.nan),
        recall=_ratio(hits, support, math.nan),
        f1=_ratio(2 * hits, predicted + support, math.nan),
        auc=float(auc),
        average_precision=float(area),
        threshold=float(limit),
        reasons=reasons,
    )


def _ratio(above: Any, below: Any, otherwise: float = 0.0) -> float:
    return float(above / below) if below else otherwise


def _macro(hits: NDArray[np.int64], among: NDArray[np.int64]) -> float:
    """CAML's macro average of hits / among, over all codes."""
    return float((hits / (among + EPSILON)).mean())


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if len(values) else math.nan


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value

"""Which numbers and cues predict that a given code is an error: a small regression, cross-validated over admissions.

The regression is a measuring device, not a product: it asks whether the explanation says anything of the error beyond
what the probability says. What needs the coders' codes or evidence is left out, since it would tell the answer (`LEAKS`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold

from explain.cases import Case
from explain.cues import CUES
from explain.error_profile import PROFILE
from hilat.admissions import HilatError
from hilat.significance import Interval

Array = NDArray[np.float64]
# (scores (n,), labels (n,), times (R, n)) -> (R,): a measure when pair i is there times[r, i] times.
Ranking = Callable[[Array, NDArray[np.bool_], Array], Array]

# What the coders' work goes into, and why it may not predict.
LEAKS: dict[str, str] = {
    "evidence_share": "needs the coders' evidence, which a false positive has none of",
    "sibling": "needs the coders' codes",
    "rule_pair": "needs the coders' codes",
    "evidence_elsewhere": "needs the coders' evidence",
}
# Sets of features -> what they hold. "margin" alone is what the others have to beat.
SETS: dict[str, str] = {
    "margin": "probability minus threshold, alone",
    "profile": "the numbers of the explanation, without the margin",
    "cues": "the cues, without the margin",
    "profile and margin": "numbers and margin",
    "all": "numbers, margin and cues",
}
_CUES_USED = tuple(kind for kind in CUES if kind not in (*LEAKS, "borderline"))  # borderline: the margin again


@dataclass(frozen=True, slots=True)
class PredictionOptions:
    """folds: over admissions. least: false and true positives that are needed. strength: C of the regression, the inverse of
    its L2 penalty. resamples: of the bootstrap over admissions; refits: of the coefficients."""

    folds: int = 5
    least: int = 20
    strength: float = 1.0
    resamples: int = 1000
    refits: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        if self.folds < 2 or self.least < self.folds or self.strength <= 0 or self.resamples < 1 or self.refits < 1:
            raise HilatError(
                f"error prediction was asked for with {self.folds} folds, at least {self.least} errors, strength {self.strength}, "
                f"{self.resamples} resamples and {self.refits} refits; expected 2 folds or more, no fewer errors than folds, "
                "and positive numbers. Correct them"
            )


@dataclass(frozen=True, slots=True)
class Coefficient:
    """Log odds of a false positive per standard deviation of the feature, the others held; interval over admissions."""

    feature: str
    value: Interval


@dataclass(frozen=True, slots=True)
class SetResult:
    """How well a set of features ranks false positives above true ones, out of fold.

    auc: area under the ROC curve, 0.5 by chance. within_code_auc: the same over pairs of the same code only, so that knowing
    which codes err counts for nothing. average_precision: by chance the share of false positives. over_margin: auc minus
    that of the margin alone. All with 95 % intervals over admissions.
    """

    name: str
    says: str
    features: tuple[str, ...]
    auc: Interval
    within_code_auc: Interval
    average_precision: Interval
    over_margin: Interval
    coefficients: tuple[Coefficient, ...] = ()


@dataclass(frozen=True, slots=True)
class ErrorPrediction:
    """n_fp, n_tp: predicted pairs of `admissions` admissions; share: of false positives, which is the average precision of
    chance. sets: of SETS. left_out: features that were not used, with the reason. reason: why nothing was fitted."""

    n_fp: int
    n_tp: int
    admissions: int
    folds: int
    share: float
    sets: tuple[SetResult, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    reason: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Design:
    """values (n, F) with NaN where undefined, names of the F columns; false_positive, code and hadm_id (n,)."""

    values: Array
    names: tuple[str, ...]
    false_positive: NDArray[np.bool_]
    code: NDArray[np.str_]
    hadm_id: NDArray[np.str_]


def design_of(cases: Sequence[Case]) -> tuple[Design, dict[str, str]]:
    """The predicted pairs as a table of PROFILE and cue indicators, and the features left out with the reason.

    A column that is undefined for some pairs gets a second one that says so; columns that never vary, or are undefined for more
    than half of the pairs, are left out.
    """
    predicted = [case for case in cases if case.outcome in ("FP", "TP")]
    left_out = dict(LEAKS)
    columns: dict[str, Array] = {}
    for name in PROFILE:
        if name not in LEAKS:
            _add(columns, left_out, name, np.array([case.profile[name] for case in predicted], dtype=np.float64))
    for kind in _CUES_USED:
        _add(columns, left_out, f"cue {kind}", np.array([float(kind in case.kinds) for case in predicted]))
    left_out["borderline"] = "says what the margin says"
    values = np.stack(list(columns.values()), axis=1) if columns else np.zeros((len(predicted), 0))
    return Design(
        values,
        tuple(columns),
        np.array([case.outcome == "FP" for case in predicted], dtype=bool),
        np.array([case.code for case in predicted], dtype=np.str_),
        np.array([case.hadm_id for case in predicted], dtype=np.str_),
    ), left_out


def _add(columns: dict[str, Array], left_out: dict[str, str], name: str, values: Array) -> None:
    there = np.isfinite(values)
    if not there.any():
        left_out[name] = "undefined for every pair"
    elif there.mean() < 0.5:  # most of it would be made up
        left_out[name] = "undefined for more than half of the pairs"
    elif np.ptp(values[there]) == 0 and there.all():
        left_out[name] = "the same for every pair"
    else:
        if np.ptp(values[there]) > 0:
            columns[name] = values
        absent = (~there).astype(np.float64)
        if absent.any() and not any(np.array_equal(absent, other) for other in columns.values()):
            columns[f"no {name}"] = absent


def predict_errors(
    cases: Sequence[Case], options: PredictionOptions = PredictionOptions()
) -> ErrorPrediction:  # fmt: skip
    """Cross-validated prediction of false positives among the predicted pairs, by every set of SETS."""
    design, left_out = design_of(cases)
    n_fp, n = int(design.false_positive.sum()), len(design.false_positive)
    groups = np.unique(design.hadm_id)
    share = n_fp / n if n else math.nan
    reason = _too_few(design, options)
    if reason is not None:
        return ErrorPrediction(n_fp, n - n_fp, len(groups), 0, share, left_out=left_out, reason=reason)
    folds = folds_of(design, options)
    times = _times(design, options)
    margin_scores = out_of_fold(_chosen(design, "margin"), folds, options)
    results = []
    for name, says in SETS.items():
        part = _chosen(design, name)
        if not part.names:
            left_out[f"set {name}"] = "none of its features varies"
            continue
        scores = out_of_fold(part, folds, options)
        found = _measured(design, scores, margin_scores, times)
        results.append(SetResult(name, says, part.names, *found, coefficients=_coefficients(part, options)))
    return ErrorPrediction(n_fp, n - n_fp, len(groups), options.folds, share, tuple(results), left_out)


def _too_few(design: Design, options: PredictionOptions) -> str | None:
    n_fp, n = int(design.false_positive.sum()), len(design.false_positive)
    if min(n_fp, n - n_fp) < options.least:
        return (
            f"{n_fp} false and {n - n_fp} true positives; at least {options.least} of each are needed to predict errors"
        )
    for wanted, kind in ((True, "false"), (False, "true")):
        notes = len(np.unique(design.hadm_id[design.false_positive == wanted]))
        if notes < 2 * options.folds:
            return f"the {kind} positives are in {notes} admissions; at least {2 * options.folds} are needed for {options.folds} folds"
    if "margin" not in design.names:
        return "the margin is the same for every pair"
    return None


def _chosen(design: Design, name: str) -> Design:
    """The columns of one of SETS."""
    margin = [n for n in design.names if n in ("margin", "no margin")]
    cues = [n for n in design.names if n.startswith("cue ")]
    profile = [n for n in design.names if n not in (*margin, *cues)]
    wanted = {
        "margin": margin,
        "profile": profile,
        "cues": cues,
        "profile and margin": [*margin, *profile],
        "all": [*margin, *profile, *cues],
    }[name]
    keep = [design.names.index(n) for n in wanted]
    return Design(design.values[:, keep], tuple(wanted), design.false_positive, design.code, design.hadm_id)


def folds_of(design: Design, options: PredictionOptions) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """(train, test) rows of each fold: pairs of an admission stay together, false positives are spread evenly."""
    split = StratifiedGroupKFold(options.folds, shuffle=True, random_state=options.seed)
    return [
        (np.asarray(train), np.asarray(test))
        for train, test in split.split(design.values, design.false_positive, groups=design.hadm_id)
    ]


def out_of_fold(
    design: Design, folds: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]], options: PredictionOptions
) -> Array:
    """(n,) log odds of a false positive, each pair by the regression of the folds that do not hold it."""
    out = np.full(len(design.values), np.nan)
    for train, test in folds:
        coefficients, intercept, mean, scale = _fit(design.values[train], design.false_positive[train], options)
        out[test] = _standard(design.values[test], mean, scale) @ coefficients + intercept
    return out


def _standard(values: Array, mean: Array, scale: Array) -> Array:
    """Standardised by training means and deviations; an undefined number is put at the mean."""
    return np.asarray(np.nan_to_num((values - mean) / scale, nan=0.0))


def _fit(values: Array, labels: NDArray[np.bool_], options: PredictionOptions) -> tuple[Array, float, Array, Array]:
    """Coefficients (F,) of standardised columns, intercept, means and deviations (F,)."""
    there = np.isfinite(values)
    count = there.sum(axis=0)
    filled = np.where(there, values, 0.0)
    mean = filled.sum(axis=0) / np.maximum(count, 1)
    spread = np.sqrt((np.where(there, values - mean, 0.0) ** 2).sum(axis=0) / np.maximum(count, 1))
    scale = np.where(spread > 1e-12 * np.maximum(np.abs(mean), 1e-300), spread, 1.0)  # a constant stays one
    model = LogisticRegression(C=options.strength, solver="newton-cholesky", tol=1e-6).fit(
        _standard(values, mean, scale), labels
    )
    return model.coef_[0], float(model.intercept_[0]), mean, scale


def _times(design: Design, options: PredictionOptions) -> Array:
    """(R, n) how often each pair is there when admissions are drawn with replacement."""
    _, group = np.unique(design.hadm_id, return_inverse=True)
    n = int(group.max()) + 1
    drawn = np.random.default_rng(options.seed).multinomial(n, np.full(n, 1 / n), size=options.resamples)
    return np.asarray(drawn[:, group], dtype=np.float64)


def _measured(
    design: Design, scores: Array, margin: Array, times: Array
) -> tuple[Interval, Interval, Interval, Interval]:  # fmt: skip
    labels = design.false_positive
    whole = np.concatenate([np.ones((1, len(labels))), times])  # (1 + R, n); the first row is the estimate
    clusters = len(np.unique(design.hadm_id))
    auc = weighted_auc(scores, labels, whole)
    return (
        _interval(auc, labels, clusters),
        _interval(within_code_auc(scores, design, whole), labels, clusters),
        _interval(weighted_average_precision(scores, labels, whole), labels, clusters),
        _interval(auc - weighted_auc(margin, labels, whole), labels, clusters),
    )


def _interval(values: Array, labels: NDArray[np.bool_], clusters: int) -> Interval:
    """The percentile interval of values[1:], about values[0]."""
    drawn = values[1:][np.isfinite(values[1:])]
    if not math.isfinite(values[0]) or not len(drawn):
        return Interval(float(values[0]), math.nan, math.nan, len(labels), clusters, reason="no pairs to compare")
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(float(values[0]), float(low), float(high), len(labels), clusters)


def weighted_auc(scores: Array, labels: NDArray[np.bool_], times: Array) -> Array:
    """(R,) chance that a false positive scores above a true one, ties half; NaN where one of the two is not drawn."""
    above, all_pairs = _concordant(scores, labels, times)
    return np.asarray(np.divide(above, all_pairs, out=np.full(len(above), np.nan), where=all_pairs > 0))


def _concordant(scores: Array, labels: NDArray[np.bool_], times: Array) -> tuple[Array, Array]:
    """(R,) weights of the pairs in order, ties half, and of all pairs of a false and a true positive."""
    _, group = np.unique(scores, return_inverse=True)
    sort = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[sort], prepend=-1))
    positive = np.add.reduceat(times[:, sort] * labels[sort], starts, axis=1)  # (R, different scores), rising
    negative = np.add.reduceat(times[:, sort] * ~labels[sort], starts, axis=1)
    below = np.cumsum(negative, axis=1) - 0.5 * negative
    return (positive * below).sum(axis=1), positive.sum(axis=1) * negative.sum(axis=1)


def within_code_auc(scores: Array, design: Design, times: Array) -> Array:
    """(R,) the same over pairs of one false and one true positive of the same code."""
    above, all_pairs = np.zeros(len(times)), np.zeros(len(times))
    for code in np.unique(design.code[design.false_positive]):
        here = design.code == code
        more, pairs = _concordant(scores[here], design.false_positive[here], times[:, here])
        above, all_pairs = above + more, all_pairs + pairs
    return np.asarray(np.divide(above, all_pairs, out=np.full(len(above), np.nan), where=all_pairs > 0))


def weighted_average_precision(scores: Array, labels: NDArray[np.bool_], times: Array) -> Array:
    """(R,) sum over falling thresholds of (recall gained) times precision; NaN where no false positive is drawn."""
    _, group = np.unique(-scores, return_inverse=True)
    sort = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[sort], prepend=-1))
    positive = np.add.reduceat(times[:, sort] * labels[sort], starts, axis=1)
    given = np.cumsum(np.add.reduceat(times[:, sort], starts, axis=1), axis=1)
    hits = np.cumsum(positive, axis=1)
    precision = np.divide(hits, given, out=np.zeros_like(hits), where=given > 0)
    total = hits[:, -1]
    gained = (positive * precision).sum(axis=1)
    return np.asarray(np.divide(gained, total, out=np.full(len(total), np.nan), where=total > 0))


def _coefficients(design: Design, options: PredictionOptions) -> tuple[Coefficient, ...]:
    """Of all pairs, with percentile intervals from refits on drawn admissions; largest first."""
    estimate, *_ = _fit(design.values, design.false_positive, options)
    names, group = np.unique(design.hadm_id, return_inverse=True)
    rows = [np.flatnonzero(group == g) for g in range(len(names))]
    rng = np.random.default_rng(options.seed)
    refits = []
    for _ in range(options.refits):
        drawn = np.concatenate([rows[g] for g in rng.integers(0, len(names), size=len(names))])
        labels = design.false_positive[drawn]
        if labels.any() and not labels.all():
            refits.append(_fit(design.values[drawn], labels, options)[0])
    low, high = np.quantile(np.array(refits), [0.025, 0.975], axis=0)
    order = np.argsort(-np.abs(estimate), kind="stable")
    n = len(design.values)
    return tuple(
        Coefficient(design.names[f], Interval(float(estimate[f]), float(low[f]), float(high[f]), n, len(names)))
        for f in order
    )

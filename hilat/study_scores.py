"""The numbers of a study's table as functions of its predictions, and their tests.

Every measure is the mean over seeds of the measure of each seed's model. A test exchanges, or draws, whole admissions with the
predictions of all seeds: it asks whether the models at hand differ on other admissions. Whether other seeds would give the
same is asked by the signs of the seeds' own differences.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hilat.admissions import HilatError
from hilat.metrics import EPSILON
from hilat.significance import Measure, interval, mean_of, micro_f1_of, randomisation
from hilat.study_run import RunScores

Array = NDArray[np.float64]
_BLOCK = 1000  # exchanges at a time
_MOST_CODES = 1000  # macro averages of more codes are not tested: their sums per admission no longer fit


@dataclass(frozen=True, slots=True)
class Tested:
    """A row against another on one measure. difference: the row's mean over the common seeds minus the other's.

    low, high: 95 % bootstrap interval over admissions (NaN for AUC, which is no function of sums). p: paired approximate
    randomisation over admissions, two-sided. by_seed: the difference of each common seed; seed_p: the exact sign test of
    their mean (at least 2 / 2^seeds). reason: why something is NaN.
    """

    difference: float
    low: float
    high: float
    p: float
    by_seed: tuple[float, ...]
    seed_p: float
    reason: str | None = None


def _micro(column: Callable[[Array], Array]) -> Measure:
    def of(sums: Array) -> Array:
        return column(np.stack([part.sum(axis=1) for part in np.split(sums, 3, axis=1)], axis=1))

    return of


def _share(sums: Array, other: int) -> Array:
    below = sums[:, 0] + sums[:, other]
    return np.asarray(np.divide(sums[:, 0], below, out=np.full(len(sums), np.nan), where=below > 0))


def _macro(sums: Array) -> tuple[Array, Array, Array]:
    """CAML's macro precision, macro recall, and their harmonic mean, (R,) each, of (R, 3 K)."""
    tp, fp, fn = np.split(sums, 3, axis=1)
    p, r = (tp / (tp + fp + EPSILON)).mean(axis=1), (tp / (tp + fn + EPSILON)).mean(axis=1)
    return p, r, np.divide(2 * p * r, p + r, out=np.zeros_like(p), where=p + r > 0)


def _mean_of_f1(sums: Array) -> Array:
    tp, fp, fn = np.split(sums, 3, axis=1)
    return np.asarray((2 * tp / np.maximum(2 * tp + fp + fn, 1)).mean(axis=1))


# Measures of sums (R, 3 K): true positives, false positives, false negatives of each code.
COUNTED: dict[str, Measure] = {
    "macro_precision": lambda sums: _macro(sums)[0],
    "micro_precision": _micro(lambda sums: _share(sums, 1)),
    "macro_recall": lambda sums: _macro(sums)[1],
    "micro_recall": _micro(lambda sums: _share(sums, 2)),
    "macro_f1_of_macro_p_r": lambda sums: _macro(sums)[2],
    "macro_f1_mean_of_codes": _mean_of_f1,
    "micro_f1": _micro(micro_f1_of),
}
RANKED = (5, 8, 15)
# In the order of the paper's Table 2.
MEASURES: dict[str, str] = {
    "macro_auc": "macro AUC",
    "micro_auc": "micro AUC",
    "macro_precision": "macro P",
    "micro_precision": "micro P",
    "macro_recall": "macro R",
    "micro_recall": "micro R",
    "macro_f1_of_macro_p_r": "macro F1 (of macro P, R)",
    "macro_f1_mean_of_codes": "macro F1 (mean of codes)",
    "micro_f1": "micro F1",
    **{f"precision_at_{k}": f"P@{k}" for k in RANKED},
}


def counts(run: RunScores) -> Array:
    """True positives, false positives and false negatives of each code in each admission, (N, 3 K)."""
    given = run.probabilities >= run.thresholds
    parts = [given & run.targets, given & ~run.targets, ~given & run.targets]
    return np.concatenate(parts, axis=1).astype(np.float64)


def precision_at(run: RunScores, size: int) -> Array:
    """The share of right codes among the `size` highest of each admission, and 1 to count it, (N, 2)."""
    size = min(size, run.probabilities.shape[1])
    best = np.argsort(-run.probabilities, axis=1, kind="stable")[:, :size]
    right = np.take_along_axis(run.targets, best, axis=1).mean(axis=1)
    return np.stack([right, np.ones(len(right))], axis=1)


def over_seeds_of(measure: Measure, seeds: int) -> Measure:
    """The mean over seeds of a measure, of sums whose columns are those of the seeds side by side."""

    def of(sums: Array) -> Array:
        return np.asarray(np.mean([measure(part) for part in np.split(sums, seeds, axis=1)], axis=0))

    return of


def compare_rows(
    first: Sequence[RunScores], second: Sequence[RunScores], measures: Sequence[str], *, resamples: int, seed: int = 0
) -> dict[str, Tested]:
    """These measures of two rows, whose runs are of the same seeds in the same order.

    Raises:
        HilatError: other admissions or other codes in one of them.
    """
    for a, b in zip(first, second, strict=True):
        if a.hadm_ids != b.hadm_ids or not np.array_equal(a.targets, b.targets):
            raise HilatError("two runs were scored on other admissions or codes; expected the same. Run them again")
    codes = first[0].targets.shape[1]
    mine, theirs = (np.concatenate([counts(run) for run in runs], axis=1) for runs in (first, second))
    found: dict[str, Tested] = {}
    for name in measures:
        if name.endswith("_auc"):
            found[name] = _tested_auc(first, second, name == "macro_auc", resamples, seed)
        elif name in COUNTED and name.startswith("macro") and codes > _MOST_CODES:
            reason = f"macro averages of more than {_MOST_CODES} codes are not tested"
            found[name] = Tested(math.nan, math.nan, math.nan, math.nan, (), math.nan, reason)
        elif name in COUNTED:
            found[name] = _tested(mine, theirs, COUNTED[name], len(first), resamples, seed)
        else:
            size = int(name.rsplit("_", 1)[1])
            mine_at, theirs_at = (
                np.concatenate([precision_at(run, size) for run in runs], axis=1) for runs in (first, second)
            )
            found[name] = _tested(mine_at, theirs_at, mean_of, len(first), resamples, seed)
    return found


def _tested(mine: Array, theirs: Array, measure: Measure, seeds: int, resamples: int, seed: int) -> Tested:
    """A measure of sums: (N, seeds x m) of each."""
    joined, width = over_seeds_of(measure, seeds), mine.shape[1]
    test = randomisation(mine, theirs, joined, resamples=resamples, seed=seed)
    span = interval(
        np.concatenate([mine, theirs], axis=1),
        lambda sums: joined(sums[:, :width]) - joined(sums[:, width:]),
        resamples=min(resamples, 2000),
        seed=seed,
    )
    by_seed = [
        float((measure(a.sum(axis=0, keepdims=True)) - measure(b.sum(axis=0, keepdims=True)))[0])
        for a, b in zip(np.split(mine, seeds, axis=1), np.split(theirs, seeds, axis=1), strict=True)
    ]
    return Tested(test.difference, span.low, span.high, test.p, tuple(by_seed), sign_p(by_seed), test.reason)


def sign_p(differences: Sequence[float]) -> float:
    """Exact p of the mean of paired differences under all changes of sign; NaN for fewer than two."""
    values = np.array(differences)
    if len(values) < 2 or not np.isfinite(values).all():
        return math.nan
    ones = np.ones(len(values))
    return randomisation(np.stack([values, ones], axis=1), np.stack([0 * values, ones], axis=1)).p


def _tested_auc(
    first: Sequence[RunScores], second: Sequence[RunScores], macro: bool, resamples: int, seed: int
) -> Tested:
    """AUC is quadratic in which system an admission is taken from: every exchange is one product with `auc_matrix`."""
    n = len(first[0].hadm_ids)
    matrix, by_seed = np.zeros((2 * n, 2 * n)), []
    own = np.repeat([1.0, 0.0], n)  # the first system's predictions of all admissions
    for a, b in zip(first, second, strict=True):
        one = auc_matrix(np.concatenate([a.probabilities, b.probabilities]), a.targets, macro)
        by_seed.append(float(own @ one @ own - (1 - own) @ one @ (1 - own)))
        matrix += one / len(first)
    observed = float(np.mean(by_seed))
    if n < 2 or math.isnan(observed):
        reason = "fewer than two admissions" if n < 2 else "undefined on these admissions"
        return Tested(observed, math.nan, math.nan, math.nan, tuple(by_seed), math.nan, reason)
    rng = np.random.default_rng(seed)
    count = 0
    for start in range(0, resamples, _BLOCK):
        kept = rng.integers(0, 2, size=(min(_BLOCK, resamples - start), n)).astype(np.float64)  # (R, N)
        one, other = np.concatenate([kept, 1 - kept], axis=1), np.concatenate([1 - kept, kept], axis=1)
        moved = ((one @ matrix) * one).sum(axis=1) - ((other @ matrix) * other).sum(axis=1)
        count += int((np.abs(moved) >= abs(observed) - 1e-12).sum())
    p = (count + 1) / (resamples + 1)
    return Tested(observed, math.nan, math.nan, p, tuple(by_seed), sign_p(by_seed))


def auc_matrix(scores: Array, targets: NDArray[np.bool_], macro: bool) -> Array:
    """(2 N, 2 N) matrix M for scores (2 N, K) of two systems on N admissions with targets (N, K).

    For z (2 N,) that is 1 where an admission's scores are taken, z M z is the AUC of what is taken: of all pairs (micro),
    or the mean over the codes that have positives and negatives (macro). M[i, j] is the share of pairs (positive of i,
    negative of j) that are ranked rightly, ties half. NaN where no pair is defined.
    """
    n, codes = targets.shape
    truth = np.concatenate([targets, targets])  # (2 N, K)
    matrix = np.zeros((2 * n, 2 * n))
    if macro:
        defined = [k for k in range(codes) if 0 < targets[:, k].sum() < n]
        for k in defined:
            yes, no = np.flatnonzero(truth[:, k]), np.flatnonzero(~truth[:, k])
            gap = scores[yes, k][:, None] - scores[no, k][None]
            pairs = (len(yes) / 2) * (len(no) / 2) * len(defined)
            matrix[np.ix_(yes, no)] += ((gap > 0) + 0.5 * (gap == 0)) / pairs
        return matrix if defined else np.full_like(matrix, np.nan)
    rows, columns = np.nonzero(truth)
    positives = scores[rows, columns]  # in the order of rows
    pairs = int(targets.sum()) * int((~targets).sum())
    if not pairs:
        return np.full_like(matrix, np.nan)
    for j in range(2 * n):
        below = np.sort(scores[j][~truth[j]])
        won = (np.searchsorted(below, positives, "left") + np.searchsorted(below, positives, "right")) / 2
        matrix[:, j] = np.bincount(rows, weights=won, minlength=2 * n) / pairs
    return matrix

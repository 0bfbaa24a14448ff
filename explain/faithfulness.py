"""Faithfulness: does the model's output follow the words that the explanation ranks high?

All measures are of one (note, code) pair, from curves that the codes of a note share a stream of changed notes for. On
the probability unless the name ends with _logit. Undefined is NaN with its reason.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

from explain.curves import ERASER_RATIOS, Curves, count_of, removal_counts, removal_curves
from explain.naopc import Bounds, aopc_bounds
from explain.occlusion import SetFunction, occlusion
from explain.result import Value, defined, undefined
from explain.surrogates import neighbour_groups

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class FaithfulnessOptions:
    """steps: of the curves, None for every word. random_orders: of the reference line. groups: for the normalised AOPC,
    the note is cut into this many runs of words (0: not measured); beam: its width above 15 groups. leave_one_out:
    whether to compare with it (one changed note per word)."""

    steps: int | None = 20
    random_orders: int = 3
    groups: int = 8
    beam: int = 5
    leave_one_out: bool = True
    seed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """What the measures of one ranking are read off; row: its place in the curve's arrays."""

    curve: Curves
    row: int
    threshold: float
    scores: Array
    without_each: Array | None
    bounds: Bounds | None
    grouped_aopc: float

    @property
    def column(self) -> int:
        """The code that is ranked for, among those of the set function."""
        return int(self.curve.columns[self.row])

    @property
    def logits(self) -> tuple[Array, Array]:
        """MoRF and LeRF logits, (S,) each."""
        return self.curve.morf[self.row], self.curve.lerf[self.row]

    @property
    def probabilities(self) -> tuple[Array, Array]:
        """MoRF and LeRF probabilities, (S,) each."""
        return sigmoid(self.logits[0]), sigmoid(self.logits[1])

    @property
    def random(self) -> Array:
        """The mean probability of the random orders, (S,)."""
        return np.asarray(sigmoid(self.curve.random[:, self.column]).mean(axis=0))


def sigmoid(logits: Array) -> Array:
    """Probabilities of logits."""
    return np.asarray(1.0 / (1.0 + np.exp(-logits)))


def area(values: Array, fractions: Array) -> float:
    """Trapezoids under a curve over the share of words."""
    return float(np.trapezoid(values, fractions))


def comprehensiveness(m: Measured, ratio: float, logit: bool = False) -> float:
    """f(x) - f(x without the top share) (DeYoung et al. 2020, section 4, equation 1)."""
    down = (m.logits if logit else m.probabilities)[0]
    return float(down[0] - down[m.curve.at(count_of(ratio, m.curve.n))])


def sufficiency(m: Measured, ratio: float, logit: bool = False) -> float:
    """f(x) - f(the top share alone); lower is better (DeYoung et al. 2020, section 4, equation 2)."""
    up = (m.logits if logit else m.probabilities)[1]
    return float(up[0] - up[m.curve.at(m.curve.n - count_of(ratio, m.curve.n))])


def aopc(values: Array, curve: Curves, *, with_zero: bool = False) -> float:
    """Mean drop over the removal of 1 to n words (0 to n with_zero), by interpolation where steps are left out
    (Samek et al. 2017, equation 12)."""
    every = np.interp(np.arange(curve.n + 1), curve.counts, values)
    drops = every[0] - every
    return float(drops.mean() if with_zero else drops[1:].mean())


def normalised_sufficiency(full: float, reduced: float, empty: float) -> Value:
    """Between what nothing and everything gives, in [0, 1] (Carton et al. 2020), without the epsilon of released codes."""
    floor = 1 - max(0.0, full - empty)
    if floor >= 1:
        return undefined("the empty note has no lower probability than the note")
    return defined(float(np.clip((1 - max(0.0, full - reduced) - floor) / (1 - floor), 0, 1)))


def normalised_comprehensiveness(full: float, reduced: float, empty: float) -> Value:
    """The drop as a share of that of the empty note, in [0, 1] (Carton et al. 2020)."""
    most = max(0.0, full - empty)
    if most <= 0:
        return undefined("the empty note has no lower probability than the note")
    return defined(float(np.clip(max(0.0, full - reduced) / most, 0, 1)))


def acu(explained: Array, random: Array, fractions: Array) -> float:
    """Area by which the explanation's deletion curve lies below the random one (Madsen et al. 2022, section 3)."""
    return area(random - explained, fractions)


def racu(explained: Array, random: Array, fractions: Array) -> Value:
    """ACU as a share of the area between the random curve and the fully masked note."""
    most = area(random - random[-1], fractions)
    if most <= 0:
        return undefined("random removal does not lower the probability on average")
    return defined(acu(explained, random, fractions) / most)


def decision_flip(m: Measured) -> Value:
    """Smallest share of words, best first, without which the code is no longer given (Chrysostomou and Aletras 2021)."""
    down = m.probabilities[0]
    if down[0] < m.threshold:
        return undefined("the code is not given")
    flipped = np.flatnonzero(down < m.threshold)
    if not len(flipped):
        return undefined("the code is given even without any word")
    return defined(float(m.curve.fractions[flipped[0]]))


def _first_word_flips(m: Measured) -> Value:
    down = m.probabilities[0]
    if down[0] < m.threshold:
        return undefined("the code is not given")
    return (
        defined(float(down[m.curve.at(1)] < m.threshold)) if 1 in m.curve.counts else undefined("no step of one word")
    )


def _monotonicity(m: Measured) -> Value:
    """Share of steps that do not lower the probability when words come back, least relevant first (Luss et al. 2021)."""
    up = m.probabilities[0][::-1]  # MoRF backwards: the least relevant words are there first
    return defined(float(np.mean(np.diff(up) >= 0)))


def _leave_one_out(m: Measured) -> Value:
    if m.without_each is None:
        return undefined("not measured")
    if np.ptp(m.scores) == 0 or np.ptp(m.without_each) == 0:
        return undefined("all words score the same")
    return defined(float(kendalltau(m.scores, m.without_each).statistic))


def _normalised_aopc(m: Measured) -> Value:
    if m.bounds is None:
        return undefined("not measured")
    low, high = m.bounds.lower[m.column], m.bounds.upper[m.column]
    if high - low <= 1e-12:
        return undefined("every order has the same AOPC")
    return defined(float((m.grouped_aopc - low) / (high - low)))


def _over_ratios(measure: Callable[[Measured, float, bool], float], logit: bool = False) -> Callable[[Measured], Value]:
    return lambda m: defined(float(np.mean([measure(m, ratio, logit) for ratio in ERASER_RATIOS])))


@dataclass(frozen=True, slots=True)
class Metric:
    """up: whether higher is better (more faithful). says: what it is. of: its value for a pair."""

    up: bool
    says: str
    of: Callable[[Measured], Value]


METRICS: dict[str, Metric] = {
    "comprehensiveness": Metric(True, "drop without the top 1, 5, 10, 20, 50 %, mean (ERASER)", _over_ratios(comprehensiveness)),
    "sufficiency": Metric(False, "drop with only the top 1, 5, 10, 20, 50 %, mean (ERASER)", _over_ratios(sufficiency)),
    "comprehensiveness_logit": Metric(True, "the same on the logit", _over_ratios(comprehensiveness, True)),
    "sufficiency_logit": Metric(False, "the same on the logit", _over_ratios(sufficiency, True)),
    "normalised_comprehensiveness": Metric(
        True, "top 20 %, between nothing and everything",
        lambda m: normalised_comprehensiveness(m.probabilities[0][0], m.probabilities[0][m.curve.at(count_of(0.2, m.curve.n))], m.probabilities[0][-1]),
    ),
    "normalised_sufficiency": Metric(
        True, "top 20 %, between nothing and everything",
        lambda m: normalised_sufficiency(m.probabilities[1][0], m.probabilities[1][m.curve.at(m.curve.n - count_of(0.2, m.curve.n))], m.probabilities[1][-1]),
    ),
    "aopc_morf": Metric(True, "mean drop, most relevant words first", lambda m: defined(aopc(m.probabilities[0], m.curve))),
    "aopc_lerf": Metric(False, "mean drop, least relevant words first", lambda m: defined(aopc(m.probabilities[1], m.curve))),
    "aopc_morf_logit": Metric(True, "the first on the logit", lambda m: defined(aopc(m.logits[0], m.curve))),
    "normalised_aopc": Metric(True, "AOPC of groups of words between the worst and the best order", _normalised_aopc),
    "deletion_auc": Metric(False, "area under the probability, best words removed first", lambda m: defined(area(m.probabilities[0], m.curve.fractions))),
    "insertion_auc": Metric(True, "area under the probability, best words put back first", lambda m: defined(area(m.probabilities[1][::-1], m.curve.fractions))),
    "log_odds": Metric(False, "change of the logit without the top 20 %", lambda m: defined(-comprehensiveness(m, 0.2, True))),
    "leave_one_out_tau": Metric(True, "Kendall tau-b of the scores with leave-one-out drops", _leave_one_out),
    "monotonicity": Metric(True, "share of steps that do not fall when words come back, worst first", _monotonicity),
    "decision_flip": Metric(False, "smallest share of words that flips the decision, best first", decision_flip),
    "first_word_flips": Metric(True, "removing the best word flips the decision", _first_word_flips),
    "acu": Metric(True, "area between the random deletion curve and this one", lambda m: defined(acu(m.probabilities[0], m.random, m.curve.fractions))),
    "racu": Metric(True, "the same as a share of the area above the fully masked note", lambda m: racu(m.probabilities[0], m.random, m.curve.fractions)),
}  # fmt: skip


def measure(
    value: SetFunction,
    scores: Array,
    columns: NDArray[np.int64],
    thresholds: Array,
    words: Words,
    options: FaithfulnessOptions = FaithfulnessOptions(),
) -> list[Measured]:
    """What the METRICS need, for r rankings of a note's words, by several methods for several codes.

    value: the note as a set function with k outputs. scores (r, W), of the codes columns (r,); thresholds (k,).
    """
    removable = np.flatnonzero(words.seen)
    counts = removal_counts(len(removable), options.steps)
    curves = removal_curves(
        value, scores, columns, removable, words.place, counts, random_orders=options.random_orders, seed=options.seed
    )
    known = shared_numbers(value, words.seen, options)
    out = []
    for row, k in enumerate(columns):
        grouped = np.nan if known.bounds is None else _grouped_aopc(value, scores[row], known.groups, int(k))
        each = None if known.without_each is None else known.without_each[k, removable]
        out.append(Measured(curves, row, float(thresholds[k]), scores[row, removable], each, known.bounds, grouped))
    return out


@dataclass(frozen=True, slots=True, eq=False)
class Words:
    """seen (W,): words that the model read and that can be removed. place (W,): of each word in the text."""

    seen: NDArray[np.bool_]
    place: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class SharedNumbers:
    """What all methods of a note share: leave-one-out drops (k, W) and the bounds of AOPC over groups (W,)."""

    without_each: Array | None
    bounds: Bounds | None
    groups: NDArray[np.int64]


def shared_numbers(value: SetFunction, seen: NDArray[np.bool_], options: FaithfulnessOptions) -> SharedNumbers:
    """Leave-one-out and AOPC bounds of a note: they ask the model, not the explanation."""
    words = np.flatnonzero(seen)
    each = np.where(seen, np.arange(len(seen)), -1)
    groups = neighbour_groups(words, len(seen), max(1, options.groups))
    return SharedNumbers(
        occlusion(value, each, "probability") if options.leave_one_out else None,
        aopc_bounds(value, groups, beam=options.beam) if options.groups else None,
        groups,
    )


def _grouped_aopc(value: SetFunction, scores: Array, groups: NDArray[np.int64], code: int) -> float:
    """AOPC of the groups, by the sum of their words' scores, best first."""
    n = int(groups.max()) + 1
    totals = np.bincount(groups[groups >= 0], weights=scores[groups >= 0], minlength=n)
    order = np.argsort(-totals, kind="stable")
    keep = np.ones((n + 1, len(groups)), dtype=bool)
    for step in range(1, n + 1):
        keep[step] = ~np.isin(groups, order[:step])
    p = sigmoid(value(keep)[:, code])
    return float((p[0] - p[1:]).mean())

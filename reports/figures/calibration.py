"""Calibration: do codes that get a probability of 0.7 turn out to be coded in 70 % of the cases?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray

from hilat.admissions import HilatError
from hilat.significance import Interval, interval, mean_of
from reports.figures.pairs import Pairs
from reports.figures.saving import Drawing
from reports.figures.style import INK, MUTED, SMALL, inches, paper

BINS = 10


@dataclass(frozen=True, slots=True, eq=False)
class Reliability:
    """Bins [b / B, (b + 1) / B), the last with 1. counts, confidence (mean probability) and frequency (share that was
    coded), each (B,), NaN in an empty bin; low, high (B,): 95 % interval of the frequency over admissions, NaN where there
    is none. ece: expected calibration error, down is better, with its interval. brier: mean squared error."""

    counts: NDArray[np.int64]
    confidence: NDArray[np.float64]
    frequency: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    ece: Interval
    brier: float


def reliability(pairs: Pairs, bins: int = BINS, seed: int = 0) -> Reliability:
    """All pairs in bins of equal width; ECE = sum over bins of n_b / n |frequency_b - confidence_b| (Naeini et al. 2015).

    Intervals: admissions drawn with replacement, 1,000 times.

    Raises:
        HilatError: fewer than 1 bin.
    """
    if bins < 1:
        raise HilatError(f"{bins} bins were given; expected 1 or more. Correct --bins")
    n, k = pairs.probabilities.shape
    number = np.minimum((pairs.probabilities * bins).astype(np.int64), bins - 1)  # (N, K)
    place = (number + bins * np.arange(n)[:, None]).reshape(-1)  # (N K,) by admission and bin

    def per_admission(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(
            np.bincount(place, weights=weights.reshape(-1), minlength=n * bins).reshape(n, bins), dtype=np.float64
        )

    counts = per_admission(np.ones((n, k)))  # (N, B)
    sums = per_admission(pairs.probabilities)
    coded = per_admission(pairs.gold.astype(np.float64))
    total = counts.sum(axis=0)  # (B,)
    blank = np.full(bins, math.nan)
    spans = [
        interval(np.stack([coded[:, b], counts[:, b]], axis=1), mean_of, resamples=1000, seed=seed)
        if (counts[:, b] > 0).sum() > 1 else None for b in range(bins)
    ]  # fmt: skip
    error = interval(np.concatenate([counts, sums, coded], axis=1), _ece_of, resamples=1000, seed=seed)
    return Reliability(
        total.astype(np.int64),
        np.divide(sums.sum(axis=0), total, out=blank.copy(), where=total > 0),
        np.divide(coded.sum(axis=0), total, out=blank.copy(), where=total > 0),
        np.array([math.nan if span is None else span.low for span in spans]),
        np.array([math.nan if span is None else span.high for span in spans]),
        error,
        float(((pairs.probabilities - pairs.gold) ** 2).mean()),
    )


def _ece_of(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """ECE of summed counts, probabilities and coded pairs, (R, 3 B) -> (R,)."""
    counts, probability, coded = np.split(sums, 3, axis=1)
    return np.asarray(np.abs(coded - probability).sum(axis=1) / counts.sum(axis=1))


def draw_calibration(found: Reliability, pairs: Pairs, width_mm: float, model: str) -> Drawing:
    """The reliability diagram, and below it how many pairs each bin holds."""
    bins = len(found.counts)
    n, k = pairs.probabilities.shape
    with paper():
        figure = Figure(figsize=(inches(width_mm), inches(width_mm) * 1.12), layout="constrained")
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3.2, 1))
        top.plot((0, 1), (0, 1), color=MUTED, linestyle=(0, (1, 1.2)), linewidth=0.9, label="perfect calibration")
        there = np.isfinite(found.low)
        top.vlines(found.confidence[there], found.low[there], found.high[there], color="#0072b2", linewidth=0.9)
        seen = found.counts > 0
        top.plot(found.confidence[seen], found.frequency[seen], color="#0072b2", marker="o", label="model, with 95 % interval")  # fmt: skip
        top.set_ylim(-0.02, 1.02)
        top.set_xlim(0, 1)
        top.set_ylabel("Share of pairs that were coded")
        top.legend(loc="upper left", handlelength=2.4)
        top.text(
            0.97, 0.05, f"ECE {found.ece.estimate:.3f}\nBrier {found.brier:.3f}", ha="right", va="bottom",
            transform=top.transAxes, color=INK, linespacing=1.5,
        )  # fmt: skip
        bottom.bar((np.arange(bins) + 0.5) / bins, found.counts, 0.9 / bins, color="#56b4e9", edgecolor=INK, linewidth=0.4)  # fmt: skip
        bottom.set_yscale("log")
        bottom.set_ylim(0.7, max(2.0, float(found.counts.max()) * 4))
        bottom.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else ""))
        bottom.yaxis.set_minor_formatter(FuncFormatter(lambda _value, _: ""))
        if bins <= 12:
            for b, count in enumerate(found.counts):
                bottom.text((b + 0.5) / bins, max(count, 0.8) * 1.25, f"{count:,}", ha="center", va="bottom", fontsize=SMALL - 1.5)  # fmt: skip
        bottom.set_ylabel("Pairs (log)")
        bottom.set_xlabel("Probability that the model gives")
        figure.align_ylabels([top, bottom])
    table = "; ".join(
        f"{b / bins:.2f} to {(b + 1) / bins:.2f}: {found.counts[b]:,} pairs, mean probability {found.confidence[b]:.3f}, "
        f"coded {found.frequency[b]:.3f}"
        for b in range(bins)
        if found.counts[b]
    )
    span = f" (95 % interval {found.ece.low:.4f} to {found.ece.high:.4f})" if math.isfinite(found.ece.low) else ""
    return Drawing(
        figure,
        f"Calibration over {n * k:,} pairs ({n:,} admissions, {k:,} codes)",
        (
            "What is shown: in each bin of probability, the share of (admission, code) pairs that the coders coded, against "
            "the mean probability; vertical lines are 95 % intervals, admissions drawn with replacement. Below: pairs per bin.",
            f"Expected calibration error over {bins} bins of equal width, lower is better: {found.ece.estimate:.4f}{span}. Brier "
            f"score: {found.brier:.4f}. Most pairs are codes that nobody thinks of, with a probability near 0: they make both "
            "numbers small; the diagram tells more.",
            f"Bins: {table}.",
            f"Scale: counts on a logarithmic axis. Model: {model}.",
        ),
    )  # fmt: skip

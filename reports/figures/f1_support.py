"""F1 of every code against its support: are rare codes coded worse?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator
from numpy.typing import NDArray
from scipy.stats import spearmanr

from hilat.admissions import HilatError
from reports.figures.pairs import Pairs
from reports.figures.saving import Drawing
from reports.figures.style import INK, MUTED, SMALL, inches, paper

NAMED = 6  # codes with the lowest F1 that carry their name
GROUPS = 5  # of codes by support, for the line
LEAST = 20  # codes from which on the line is drawn
_KINDS = (("diagnosis", "#0072b2", "o"), ("procedure", "#d55e00", "^"))


@dataclass(frozen=True, slots=True, eq=False)
class CodeScores:
    """support (K,): admissions that the coders gave the code. f1 (K,): NaN for a code that nobody and nothing gave."""

    codes: tuple[str, ...]
    support: NDArray[np.int64]
    f1: NDArray[np.float64]


def code_scores(pairs: Pairs) -> CodeScores:
    """F1 = 2 TP / (2 TP + FP + FN) of every code at the model's thresholds."""
    tp = (pairs.predicted & pairs.gold).sum(axis=0)  # (K,)
    below = pairs.predicted.sum(axis=0) + pairs.gold.sum(axis=0)
    f1 = np.divide(2.0 * tp, below, out=np.full(len(tp), math.nan), where=below > 0)
    return CodeScores(pairs.codes, pairs.gold.sum(axis=0), f1)


def draw_f1_support(
    scores: CodeScores, kinds: Sequence[str], width_mm: float, threshold_source: str, model: str
) -> Drawing:
    """A point per code, circles for diagnoses and triangles for procedures, and a line of means by support.

    Raises:
        HilatError: no code with support.
    """
    there = np.isfinite(scores.f1) & (scores.support > 0)
    if not there.any():
        raise HilatError("no code was given by the coders in these admissions; expected some. Explain a larger split")
    support, f1 = scores.support[there], scores.f1[there]
    codes = [code for code, is_there in zip(scores.codes, there, strict=True) if is_there]
    kind = np.array([k for k, is_there in zip(kinds, there, strict=True) if is_there])
    varied = len(codes) > 2 and np.ptp(support) > 0 and np.ptp(f1) > 0
    rho = float(spearmanr(support, f1).statistic) if varied else math.nan
    with paper():
        figure = Figure(figsize=(inches(width_mm), inches(width_mm) * 0.72), layout="constrained")
        ax = figure.subplots()
        for name, colour, marker in _KINDS:
            mine = kind == name
            if mine.any():
                ax.scatter(support[mine], f1[mine], s=13, marker=marker, c=colour, alpha=0.75, linewidths=0, label=name, zorder=3)  # fmt: skip
        line = support_groups(support, f1)
        if len(codes) >= LEAST:
            ax.plot(line[:, 0], line[:, 1], color=INK, linewidth=1.0, marker="_", markersize=7, label=f"mean of a {_fraction()} of the codes", zorder=2)  # fmt: skip
        ax.set_xscale("log")
        _ticks(ax, support)
        ax.set_ylim(-0.03, 1.03)
        ax.set_xlabel("Support: admissions with the code (log scale)")
        ax.set_ylabel("F1 of the code")
        _name_lowest(ax, codes, support, f1)
        figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=3, handletextpad=0.4)
    lowest = np.argsort(f1, kind="stable")[:NAMED]
    told = ", ".join(f"{codes[i]} {f1[i]:.2f} (n = {support[i]})" for i in lowest)
    return Drawing(
        figure,
        f"F1 of {len(codes):,} codes against their support",
        (
            "What is shown: a point per code; F1 at the model's threshold against how many admissions the coders gave it to. "
            f"{int((~there).sum()):,} codes without support are left out."
            + (f" The line joins the mean F1 of {GROUPS} groups of codes of about equal size, by support." if len(codes) >= LEAST else ""),
            "Scale: support on a logarithmic axis.",
            f"Spearman's rank correlation of support and F1: {'undefined' if math.isnan(rho) else f'{rho:.2f}'}. Mean F1 of "
            f"these codes: {f1.mean():.3f}. Lowest: {told}.",
            f"Threshold: {threshold_source}. Model: {model}.",
        ),
    )  # fmt: skip


def _fraction() -> str:
    return {4: "quarter", 5: "fifth", 10: "tenth"}[GROUPS]


def support_groups(support: NDArray[np.int64], f1: NDArray[np.float64]) -> NDArray[np.float64]:
    """(GROUPS, 2): geometric mean of the support and mean F1 of groups of codes of about equal size, by support."""
    order = np.argsort(support, kind="stable")
    parts = [part for part in np.array_split(order, GROUPS) if len(part)]
    return np.array([(np.exp(np.log(support[part]).mean()), f1[part].mean()) for part in parts])


def _ticks(ax: Axes, support: NDArray[np.int64]) -> None:
    """Plain numbers on the log axis, at 1, 2 and 5 times powers of ten where the range is short."""
    low, high = float(support.min()), float(support.max())
    ax.set_xlim(low / 1.25, high * 1.35)
    ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high / low < 200 else (1.0,)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    ax.xaxis.set_minor_formatter(FuncFormatter(lambda _value, _: ""))


def _name_lowest(ax: Axes, codes: Sequence[str], support: NDArray[np.int64], f1: NDArray[np.float64]) -> None:
    """The names of the lowest codes beside their points; one that would cover another's is left to the caption."""
    taken: list[tuple[float, float]] = []
    for i in np.argsort(f1, kind="stable")[:NAMED]:
        place = (math.log10(support[i]), float(f1[i]))
        if any(abs(place[0] - x) < 0.16 and abs(place[1] - y) < 0.045 for x, y in taken):
            continue
        taken.append(place)
        ax.annotate(
            codes[i], (support[i], f1[i]), xytext=(3.5, -1.0), textcoords="offset points", fontsize=SMALL - 0.5,
            color=MUTED, va="center", parse_math=False,
        )  # fmt: skip

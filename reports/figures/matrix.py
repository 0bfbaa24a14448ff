"""Agreement of methods: a matrix of their mean agreement, pair by pair."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from explain.agreement import METRICS
from explain.rows import Row
from hilat.admissions import HilatError
from hilat.significance import interval_of_mean
from reports.figures.saving import Drawing
from reports.figures.style import AGAINST, FOR, INK, RULE, SMALL, inches, paper, spoken

BETWEEN = " × "  # stands between the two methods of a row


@dataclass(frozen=True, slots=True, eq=False)
class Agreement:
    """Means (m, m) of a measure over pairs with half of their 95 % intervals (m, m); NaN where nothing is defined."""

    methods: tuple[str, ...]
    mean: NDArray[np.float64]
    half: NDArray[np.float64]
    pairs: int
    notes: int
    missing: int


def agreement_of(rows: Sequence[Row], metric: str, seed: int = 0) -> Agreement:
    """The matrix of one measure.

    Raises:
        HilatError: no row of that measure.
    """
    chosen = [row for row in rows if row.metric == metric and row.method.count(BETWEEN) == 1]
    if not chosen:
        there = ", ".join(sorted({row.metric for row in rows})) or "none"
        raise HilatError(
            f"there is no agreement by {metric!r}; the rows hold {there}. Correct --metric, or explain by two methods or more"
        )
    names = list(dict.fromkeys(name for row in chosen for name in row.method.split(BETWEEN)))
    mean, half = np.full((2, len(names), len(names)), math.nan)
    missing = 0
    for method in dict.fromkeys(row.method for row in chosen):
        part = [row for row in chosen if row.method == method]
        values = np.array([row.value.value for row in part], dtype=np.float64)
        span = interval_of_mean(values, [row.hadm_id for row in part], seed=seed)
        i, j = (names.index(name) for name in method.split(BETWEEN))
        mean[i, j] = mean[j, i] = span.estimate
        half[i, j] = half[j, i] = (span.high - span.low) / 2
        missing += span.missing
    pairs = {(row.hadm_id, row.code) for row in chosen}
    return Agreement(tuple(names), mean, half, len(pairs), len({hadm_id for hadm_id, _ in pairs}), missing)


def signed(value: float) -> str:
    """Two decimals with a real minus; what rounds to 0 has none."""
    return f"{value:.2f}".replace("-0.00", "0.00").replace("-", "−")


def draw_agreement(found: Agreement, metric: str, width_mm: float, said: tuple[str, str]) -> Drawing:
    """The lower triangle, every cell with its number and half of its interval. said: the pairs and the model."""
    n = len(found.methods)
    low = -1.0 if np.nanmin(found.mean) < 0 else 0.0
    cells = found.mean[1:, :-1].copy()  # the diagonal is 1 and the upper triangle the same again
    cells[np.triu_indices(n - 1, 1)] = math.nan
    with paper():
        figure = Figure(figsize=(inches(width_mm), inches(width_mm) * (0.34 + 0.09 * n)), layout="constrained")
        ax = figure.subplots()
        stops = ([AGAINST[-1], "#ffffff"] if low < 0 else ["#ffffff"]) + [FOR[-1]]
        image = ScalarMappable(Normalize(low, 1.0), LinearSegmentedColormap.from_list("agreement", stops))
        for i in range(n - 1):
            for j in range(i + 1):
                value, half = cells[i, j], found.half[i + 1, j]
                colour = "none" if math.isnan(value) else image.to_rgba(value)
                ax.add_patch(Rectangle((j, i), 1, 1, facecolor=colour, edgecolor=RULE, linewidth=0.5))
                says = "–" if math.isnan(value) else signed(value)
                ax.text(j + 0.5, i + 0.5, says, ha="center", va="center" if math.isnan(half) else "bottom", color=INK)
                if not math.isnan(half):
                    ax.text(j + 0.5, i + 0.56, f"± {half:.3f}", ha="center", va="top", fontsize=SMALL - 1, color=INK)
        ax.set_xlim(-0.02, n - 0.98)
        ax.set_ylim(n - 0.98, -0.02)
        ax.set_aspect("equal")
        ax.tick_params(length=0)
        ax.set_yticks(np.arange(n - 1) + 0.5, [spoken(name) for name in found.methods[1:]])
        ax.set_xticks(np.arange(n - 1) + 0.5, [spoken(name) for name in found.methods[:-1]], rotation=40, ha="right", rotation_mode="anchor")  # fmt: skip
        for side in ax.spines.values():
            side.set_visible(False)
        bar = figure.colorbar(image, ax=ax, shrink=0.8, aspect=16, pad=0.02)
        bar.outline.set_linewidth(0.4)
        bar.set_label(f"{spoken(metric)}{'' if METRICS[metric].up else ' (lower: more alike)'}")
    missing = f" {found.missing:,} values are undefined and left out." if found.missing else ""
    return Drawing(
        figure,
        f"Agreement of {n} methods by {spoken(metric)}",
        (
            f"What is shown: mean {spoken(metric)} ({METRICS[metric].says}) of the word scores of each two methods, over "
            f"{found.pairs:,} pairs ({said[0]}) in {found.notes:,} admissions; below it half of the 95 % interval, admissions "
            f"drawn with replacement.{missing}",
            f"Scale: {'pink below 0, white at 0, ' if low < 0 else 'white at 0, '}blue at 1; every cell has its number.",
            f"Agreement is neither faithfulness nor plausibility: methods may agree and both be wrong. Model: {said[1]}.",
        ),
    )

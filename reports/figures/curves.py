"""Deletion and insertion curves: the probability while the words go, and while they come back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from explain.rows import Curve
from hilat.admissions import HilatError
from hilat.significance import interval_of_mean
from reports.figures.saving import Drawing
from reports.figures.style import BODY, Look, inches, looks, paper, spoken

NARROW_MM = 120.0
GRID = np.linspace(0.0, 1.0, 41)
KINDS = ("deletion", "insertion")


@dataclass(frozen=True, slots=True, eq=False)
class Band:
    """A mean curve at the shares `at` (S,) with the ends of its 95 % interval (S,), equal to the mean where there is none."""

    at: NDArray[np.float64]
    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]

    @property
    def area(self) -> float:
        """Area under the mean, by trapezoids."""
        return float(((self.mean[1:] + self.mean[:-1]) / 2 * np.diff(self.at)).sum())


def bands(curves: Sequence[Curve], seed: int = 0) -> dict[str, dict[str, Band]]:
    """Method -> deletion and insertion. One pair: its own points. Several: means on a grid of 41 shares, the curves
    interpolated between their points, with intervals over admissions (percentile bootstrap, 1,000 resamples)."""
    found: dict[str, dict[str, Band]] = {}
    for method in dict.fromkeys(curve.method for curve in curves):
        part = [curve for curve in curves if curve.method == method]
        found[method] = {kind: _band(part, kind, seed) for kind in KINDS}
    return found


def _band(part: Sequence[Curve], kind: str, seed: int) -> Band:
    lines = [curve.deletion if kind == "deletion" else curve.insertion for curve in part]
    if len(part) == 1:
        line = np.array(lines[0])
        return Band(np.array(part[0].fractions), line, line, line)
    values = np.array([np.interp(GRID, c.fractions, line) for c, line in zip(part, lines, strict=True)])  # (n, S)
    names = [curve.hadm_id for curve in part]
    spans = [interval_of_mean(column, names, resamples=1000, seed=seed) for column in values.T]
    mean = np.array([span.estimate for span in spans])
    low, high = (np.array([getattr(span, end) for span in spans]) for end in ("low", "high"))
    return Band(GRID, mean, *(np.where(np.isfinite(ends), ends, mean) for ends in (low, high)))


def draw_curves(curves: Sequence[Curve], width_mm: float, said: Mapping[str, str], seed: int = 0) -> Drawing:
    """Two panels, deletion and insertion, a line per method. said: "pairs", "removal" and "model" for the caption.

    Raises:
        HilatError: no curve.
    """
    if not curves:
        raise HilatError(
            "there is no curve to draw; expected curves.parquet with the chosen pairs and methods. Give the folder that "
            "`hilat faithfulness --out` wrote, or other --admissions, --codes and --method"
        )
    made = bands(curves, seed)
    methods = sorted(made, key=lambda name: name.startswith("random"))
    shown = looks(methods)
    pairs = {(c.hadm_id, c.code) for c in curves}
    notes = len({hadm_id for hadm_id, _ in pairs})
    single = len(pairs) == 1
    narrow = width_mm < NARROW_MM  # then one panel stands over the other
    columns = 2 if narrow else 3
    high = inches(width_mm) * (1.15 if narrow else 0.42) + 0.15 * math.ceil(len(methods) / columns)
    with paper():
        figure = Figure(figsize=(inches(width_mm), high), layout="constrained")
        grid = figure.subplots(2 if narrow else 1, 1 if narrow else 2, sharey=True, squeeze=False)
        axes: list[Axes] = list(grid.ravel())
        for ax, kind, says in zip(axes, KINDS, ("removed, strongest first", "put back, strongest first"), strict=True):
            _panel(ax, {method: made[method][kind] for method in methods}, shown)
            ax.set_title(f"{'a' if kind == 'deletion' else 'b'}  {kind.capitalize()}")
            ax.set_xlabel(f"Words {says}")
            ax.set_ylabel(
                "Probability of the code" if single else "Mean probability" if narrow or ax is axes[0] else ""
            )
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, handlelength=3.2)
    areas = "; ".join(
        f"{spoken(m)} {made[m]['deletion'].area:.3f} and {made[m]['insertion'].area:.3f}" for m in methods
    )
    only = next(iter(pairs))
    what = f"admission {only[0]}, code {only[1]}" if single else f"{len(pairs):,} pairs in {notes:,} admissions"
    return Drawing(
        figure,
        f"Deletion and insertion curves, {what}",
        (
            f"What is shown: the probability of a code while words are removed ({said.get('removal', 'masked')}) as each "
            f"method ranks them (a), and put back into the wholly removed note (b); {said.get('pairs', 'all')} pairs. For a "
            "method that ranks well the first falls early and the second rises early.",
            "Scale: the horizontal axis is the share of the words that the model read. "
            + ("The points are those measured." if single else
               "Lines are means over pairs, interpolated to 41 shares; bands are 95 % intervals, admissions drawn with replacement."),
            f"Areas under the curves, deletion (lower is better) and insertion (higher is better): {areas}.",
            f"Model: {said.get('model', 'not recorded')}.",
        ),
    )  # fmt: skip


def _panel(ax: Axes, lines: Mapping[str, Band], shown: Mapping[str, Look]) -> None:
    for i, (method, band) in enumerate(lines.items()):
        look = shown[method]
        if (band.high > band.low).any():
            ax.fill_between(band.at, band.low, band.high, color=look.colour, alpha=0.16, linewidth=0)
        every = max(1, len(band.at) // 8)
        ax.plot(
            band.at, band.mean, color=look.colour, linestyle=look.line, marker=look.marker or None, label=spoken(method),
            markevery=((1 + 2 * i) % every if every > 1 else 0, every), markeredgewidth=0,
        )  # fmt: skip
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1.02)
    ax.set_xticks([0, 0.25, 0.5, 0.75, 1.0], ["0", "25 %", "50 %", "75 %", "100 %"], fontsize=BODY - 1)

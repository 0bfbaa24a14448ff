"""How every figure looks: one font, colours that the colour-blind can tell apart, and nothing of the user's own settings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import matplotlib as mpl

POINTS_PER_MM = 72 / 25.4
COLUMN_MM = 85.0  # one column of a journal's page
PAGE_MM = 170.0  # both columns

FONT = "DejaVu Sans"  # matplotlib brings it, so that every machine has it
BODY = 7.5  # points
SMALL = 6.5

INK = "#111111"
MUTED = "#595959"
RULE = "#b5b5b5"
# Steps 1 to 8 of the pages; luminance falls from step to step, so that a print in grey keeps their order.
ATTENTION = ("#fdf9ec", "#faefd2", "#f7e1b6", "#f5d39a", "#f3c37f", "#f2b364", "#f0a24a", "#ef912d")
FOR = ("#f2f8ff", "#deedff", "#c7dfff", "#afd1ff", "#96c0fc", "#7faef6", "#6a9cf0", "#5689e9")
AGAINST = ("#fff5f9", "#ffe3ef", "#ffcfe4", "#fbb8d6", "#f5a1c7", "#ed89b7", "#e371a8", "#d95899")
OUTCOMES = {"TP": "#1b6e3c", "FP": "#a83200", "FN": "#5b3fa0"}

# Seven colours of Okabe and Ito (2008) that stand out on white, each with a line and a marker of its own.
_LOOKS = (
    ("#0072b2", "-", "o"),
    ("#d55e00", (0, (5, 1.5)), "s"),
    ("#009e73", (0, (5, 1.5, 1, 1.5)), "^"),
    ("#cc79a7", (0, (3, 1, 1, 1, 1, 1)), "D"),
    ("#56b4e9", (0, (2, 1)), "v"),
    ("#e69f00", (0, (7, 2)), "P"),
    (INK, (0, (4, 2, 1, 2)), "X"),
)
_RANDOM = (MUTED, (0, (1, 1.2)), "")  # random orders
_CONTROL = ("#8c8c8c", (0, (4, 1.2, 1, 1.2)), ".")  # random scores

STYLE = {
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.labelsize": BODY,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": BODY,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "font.family": [FONT],
    "font.size": BODY,
    "hatch.linewidth": 0.5,
    "legend.fontsize": SMALL,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.2,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    "svg.hashsalt": "hilat",
    "text.color": INK,
    "text.hinting": "no_hinting",  # a word is as wide in PNG as in PDF and SVG
    "text.parse_math": False,
    "xtick.color": INK,
    "xtick.labelsize": SMALL,
    "xtick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.color": INK,
    "ytick.labelsize": SMALL,
    "ytick.major.width": 0.6,
    "ytick.minor.width": 0.4,
}


@contextmanager
def paper() -> Iterator[None]:
    """Within it figures are made and saved; outside of it matplotlib's settings are as they were."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)  # type: ignore[arg-type]
        yield


@dataclass(frozen=True, slots=True)
class Look:
    """Colour, line style and marker of a method; marker "" for none."""

    colour: str
    line: str | tuple[float, tuple[float, ...]]
    marker: str


def looks(methods: Sequence[str]) -> dict[str, Look]:
    """A look for each method, by its place in the list; random orders are a grey dotted line, random scores another."""
    named = [method for method in methods if not method.startswith("random")]
    found = {method: Look(*_LOOKS[i % len(_LOOKS)]) for i, method in enumerate(named)}
    return {m: found.get(m, Look(*(_CONTROL if m == "random" else _RANDOM))) for m in methods}


_NAMES = {
    "kendall_tau_b": "Kendall’s tau-b", "spearman": "Spearman’s rho", "pearson": "Pearson’s r", "js_bits": "Jensen-Shannon divergence, bits",
    "overlap_at_5": "overlap of the top 5", "jaccard_at_5": "Jaccard of the top 5", "lime": "LIME", "kernel_shap": "KernelSHAP",
    "deep_lift": "DeepLIFT", "history_present_illness": "history of present illness", "gradient_shap": "GradientSHAP",
}  # fmt: skip


def spoken(name: str) -> str:
    """The name of a method, measure or section as a reader reads it."""
    return _NAMES.get(name) or name.replace("_x_", " × ").replace("_", " ")


def percent(share: float) -> str:
    """A share as a percentage of two or three digits."""
    value = 100 * share
    if 0 < value < 0.05:
        return "< 0.1 %"
    return f"{value:.1f} %" if value < 9.95 else f"{value:.0f} %"


def inches(width_mm: float) -> float:
    """Millimetres as inches."""
    return width_mm / 25.4

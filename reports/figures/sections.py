"""Attention by section: where in the note the scores of right and wrong codes fall."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from explain.rows import outcome_of
from hilat.admissions import Admission, HilatError
from hilat.sections import find_sections
from hilat.significance import Interval, interval_of_mean
from reports.figures.saving import Drawing
from reports.figures.style import INK, OUTCOMES, SMALL, inches, paper, spoken

if TYPE_CHECKING:
    from explain.table import Explained

GROUPS = ("TP", "FP")
MOST = 12  # sections with a bar of their own
OPENING = "before the first heading"
OTHER = "other sections"
_FILLS = {"TP": ("#7fb3d9", ""), "FP": ("#e9a77a", "////")}


@dataclass(frozen=True, slots=True)
class PairShares:
    """Of one pair: section -> its share of the positive scores, and of the words that were read; both sum to 1."""

    hadm_id: str
    outcome: str
    shares: tuple[tuple[str, float, float], ...]


def pair_shares(one: Explained, admission: Admission, method: str) -> list[PairShares]:
    """The shares of every explained pair of an admission that is TP or FP and has a positive score."""
    if not one.scored or one.gold is None:
        return []
    sections = find_sections(admission.text)
    seen = np.flatnonzero(one.word_chunk >= 0)
    starts = [section.start for section in sections]
    place = np.searchsorted(starts, one.word_spans[seen, 0], side="right") - 1  # (W_seen,)
    names = list(dict.fromkeys(section.name or OPENING for section in sections))
    number = np.array([names.index(section.name or OPENING) for section in sections])[place]
    words = np.bincount(number, minlength=len(names)) / max(1, len(seen))
    found = []
    for code, scores in one.of(method).items():
        k = one.codes.index(code)
        outcome = outcome_of(bool(one.probabilities[k] >= one.thresholds[k]), bool(one.gold[k]))
        positive = np.maximum(scores[seen], 0.0)
        if outcome in GROUPS and positive.sum() > 0:
            shares = np.bincount(number, weights=positive, minlength=len(names)) / positive.sum()
            found.append(PairShares(one.hadm_id, outcome, tuple(zip(names, shares.tolist(), words.tolist(), strict=True))))  # fmt: skip
    return found


@dataclass(frozen=True, slots=True, eq=False)
class SectionMeans:
    """Sections (S) by falling share; means: TP and FP -> an interval per section; words (S,): share of the words."""

    sections: tuple[str, ...]
    means: dict[str, tuple[Interval, ...]]
    words: NDArray[np.float64]
    pairs: dict[str, int]


def section_means(pairs: Iterable[PairShares], seed: int = 0) -> SectionMeans:
    """Mean shares over pairs with 95 % intervals over admissions; a section that a note lacks counts as 0 there.

    All but the twelve with the largest shares are summed as "other sections".

    Raises:
        HilatError: no pair that is TP or FP.
    """
    pairs = list(pairs)
    if not pairs:
        raise HilatError(
            "no true or false positive was explained; expected some, and coders' codes. Explain --codes predicted,gold"
        )
    names = list(dict.fromkeys(name for pair in pairs for name, _, _ in pair.shares))
    values = np.zeros((2, len(pairs), len(names)))  # scores and words
    for row, pair in enumerate(pairs):
        for name, share, words in pair.shares:
            values[:, row, names.index(name)] += (share, words)
    order = np.argsort(-values[0].mean(axis=0), kind="stable")
    if len(order) > MOST:
        rest = values[:, :, order[MOST - 1 :]].sum(axis=2, keepdims=True)
        values = np.concatenate([values[:, :, order[: MOST - 1]], rest], axis=2)
        names = [*(names[i] for i in order[: MOST - 1]), OTHER]
    else:
        values, names = values[:, :, order], [names[i] for i in order]
    means: dict[str, tuple[Interval, ...]] = {}
    for group in GROUPS:
        mine = np.array([pair.outcome == group for pair in pairs])
        if mine.any():
            ids = [pair.hadm_id for pair in pairs if pair.outcome == group]
            means[group] = tuple(interval_of_mean(column, ids, resamples=1000, seed=seed) for column in values[0, mine].T)  # fmt: skip
    return SectionMeans(
        tuple(names), means, values[1].mean(axis=0), {g: sum(p.outcome == g for p in pairs) for g in means}
    )


def draw_sections(found: SectionMeans, method: str, width_mm: float, said: tuple[str, str]) -> Drawing:
    """Bars per section for TP and FP, and a tick where the share would be by chance. said: threshold and model."""
    n, groups = len(found.sections), list(found.means)
    tall = 0.8 / len(groups)
    with paper():
        figure = Figure(figsize=(inches(width_mm), 0.75 + n * 0.12 * (1 + len(groups))), layout="constrained")
        ax = figure.subplots()
        for g, group in enumerate(groups):
            spans = found.means[group]
            y = np.arange(n) - 0.4 + tall * (g + 0.5)
            colour, hatch = _FILLS[group]
            ax.barh(
                y, [s.estimate for s in spans], tall * 0.92, color=colour, hatch=hatch, edgecolor=OUTCOMES[group],
                linewidth=0.5, label=f"{group} ({found.pairs[group]:,} pairs)",
            )  # fmt: skip
            ends = [(s.low, s.high) if math.isfinite(s.low) else (s.estimate, s.estimate) for s in spans]
            ax.hlines(y, [low for low, _ in ends], [high for _, high in ends], color=INK, linewidth=0.8)
        ax.vlines(found.words, np.arange(n) - 0.42, np.arange(n) + 0.42, color=INK, linestyle=(0, (2, 1)), linewidth=1.0, label="share of the words")  # fmt: skip
        ax.set_yticks(np.arange(n), [spoken(name) for name in found.sections])
        ax.set_ylim(n - 0.4, -0.6)
        ax.tick_params(axis="y", length=0)
        ax.set_xlim(left=0)
        ax.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
        ax.set_xlabel(f"Mean share of {'the attention' if method == 'attention' else f'the scores by {spoken(method)}'} on words")  # fmt: skip
        handles, labels = ax.get_legend_handles_labels()
        last = labels.index("share of the words")
        handles.append(handles.pop(last))
        labels.append(labels.pop(last))
        figure.legend(handles, labels, loc="outside lower center", ncols=2 if width_mm < 110 else 3, fontsize=SMALL)  # fmt: skip
    told = [
        f"{spoken(name)}: "
        + ", ".join(f"{group} {_with_ends(found.means[group][i])}" for group in groups)
        + f", {100 * found.words[i]:.1f} % of the words"
        for i, name in enumerate(found.sections)
    ]
    return Drawing(
        figure,
        f"{spoken(method).capitalize()} by section of the note, right and wrong codes",
        (
            f"What is shown: the mean share of a pair's positive scores by {spoken(method)} that falls on each section, for "
            "true positives (TP) and false positives (FP); thin lines are 95 % intervals, admissions drawn with replacement; "
            "dashed lines are the section's share of the words that the model read: what an even spread would give.",
            "Scale: shares are of the scores on words; a section that a note lacks counts as 0.",
            f"Numbers: {'; '.join(told)}.",
            f"Sections are told by their headings. Threshold: {said[0]}. Model: {said[1]}.",
        ),
    )


def _with_ends(span: Interval) -> str:
    ends = f" ({100 * span.low:.1f} to {100 * span.high:.1f})" if math.isfinite(span.low) else ""
    return f"{100 * span.estimate:.1f} %{ends}"

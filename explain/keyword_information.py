"""How far the words a method ranks high are the keywords of the code: position mutual information of one (note, code) pair.

(A) between "selected" and "is a keyword", with what chance gives taken off; (B) without a threshold, on the ranks. Any
method's scores go in, so that attention, gradients and perturbation stand side by side. Not a published formula: the
future work of Liu et al. 2022 (section 5), put together from published parts. What it says is `NOTE`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from explain.attribution import Attribution
from explain.keywords import NOTE, SYNONYM, KeywordMatches
from explain.mutual_information import (
    adjusted_mi,
    expected_mi_bits,
    fisher_p_more,
    knn_mi_bits,
    mi_bits,
    overlap_sign,
    uncertainty_coefficient,
)
from explain.result import Value, defined, undefined
from hilat.admissions import HilatError

Words = NDArray[np.bool_]
Scores = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Selection:
    """Which words count as selected: the k highest, or the fewest that hold this share of the positive scores."""

    k: int | None = 10
    mass: float | None = None

    def __post_init__(self) -> None:
        good = (self.k is not None and self.k >= 1) if self.mass is None else self.k is None and 0 < self.mass < 1
        if not good:
            raise HilatError(
                f"words are selected by k={self.k} and mass={self.mass}; expected either k of 1 or more, or k=None and a mass "
                "between 0 and 1. Give one of them"
            )


@dataclass(frozen=True, slots=True)
class PositionInformation:
    """(A) for one pair. n11 words are selected and keywords, n10 selected only, n01 keywords only, n00 neither.

    bits: plug-in mutual information. expected_bits: its exact mean under the hypergeometric model. bits_above_chance: the
    difference. adjusted: AMI, maximum of the entropies. uncertainty: I / H(keyword). sign: 1 for more overlap than
    expected, -1 for less, 0. p_more, p_less: share of all circular shifts of the selection in text order, the observed one
    included, with at least (most) this overlap. fisher_p_more: the same if words were exchangeable, which
    neighbours are not. coverage: share of the code's keywords that occur in the note. unseen: keyword words that the
    model did not read.
    """

    n11: int
    n10: int
    n01: int
    n00: int
    bits: Value
    expected_bits: Value
    bits_above_chance: Value
    adjusted: Value
    uncertainty: Value
    sign: Value
    p_more: Value
    p_less: Value
    fisher_p_more: Value
    coverage: Value
    unseen: int
    note: str = NOTE

    def values(self) -> dict[str, Value]:
        """The measures by name, for a table of metrics."""
        return {
            "position_mi_bits": self.bits,
            "position_expected_bits": self.expected_bits,
            "position_bits_above_chance": self.bits_above_chance,
            "position_ami": self.adjusted,
            "position_uncertainty": self.uncertainty,
            "position_sign": self.sign,
            "position_p_more": self.p_more,
            "position_p_less": self.p_less,
            "position_fisher_p_more": self.fisher_p_more,
            "keyword_coverage": self.coverage,
        }


@dataclass(frozen=True, slots=True)
class RankInformation:
    """(B) for one pair: bits by k nearest neighbours on the ranks; shifted_bits, its mean over circular shifts of the
    keywords in text order; p: (c + 1) / (R + 1) of R shifts with at least these bits. Blind to the sign: see auc, the chance
    that a keyword ranks above another word."""

    bits: Value
    shifted_bits: Value
    bits_above_shifts: Value
    p: Value
    auc: Value
    shifts: int
    coverage: Value
    note: str = NOTE

    def values(self) -> dict[str, Value]:
        """The measures by name, for a table of metrics."""
        return {
            "rank_mi_bits": self.bits,
            "rank_shifted_bits": self.shifted_bits,
            "rank_bits_above_shifts": self.bits_above_shifts,
            "rank_p": self.p,
            "rank_auc": self.auc,
        }


def select_words(scores: Scores, selection: Selection) -> Words:
    """(W,): the selected words; scores (W,) in text order, equal ones first come. None where no score is positive and a
    share of mass is asked for."""
    chosen = np.zeros(len(scores), dtype=bool)
    order = np.argsort(-scores, kind="stable")
    if selection.mass is None:
        chosen[order[: selection.k]] = True
        return chosen
    held = np.cumsum(np.maximum(scores[order], 0.0))
    if len(held) and held[-1] > 0:
        enough = int(np.argmax(held >= selection.mass * held[-1] * (1 - 1e-12))) + 1
        chosen[order[:enough]] = True
    return chosen


def position_information(
    attribution: Attribution,
    matches: KeywordMatches,
    seen: Words,
    selection: Selection = Selection(),
    up_to: int = SYNONYM,
) -> PositionInformation:
    """(A) of one attribution. matches: of the same words. seen (W,): words the model read; others are left out.

    up_to: the last tier of keywords that counts. Raises HilatError for arrays of different lengths.
    """
    scores, keyword = _read(attribution, matches, seen, up_to)
    unseen = int((matches.words(up_to) & ~seen).sum())
    return overlap_information(select_words(scores, selection), keyword, matches.coverage(up_to), unseen)


def overlap_information(selected: Words, keyword: Words, coverage: Value, unseen: int = 0) -> PositionInformation:
    """(A) from two sets of words, both (W,) in text order; undefined with its reason where one of them is empty or all."""
    n11, n10 = int((selected & keyword).sum()), int((selected & ~keyword).sum())
    n01 = int((keyword & ~selected).sum())
    n00 = len(selected) - n11 - n10 - n01
    cells = (n11, n10, n01, n00)
    reason = _why_not(selected, keyword)
    if reason is not None:
        n = undefined(reason)
        return PositionInformation(*cells, n, n, n, n, n, n, n, n, n, coverage, unseen)
    table = np.array([[n11, n10], [n01, n00]])
    bits, expected = mi_bits(table), expected_mi_bits(table)
    overlaps = shifted_overlaps(selected, keyword)
    return PositionInformation(
        *cells,
        bits=defined(bits),
        expected_bits=defined(expected),
        bits_above_chance=defined(bits - expected),
        adjusted=adjusted_mi(table, "max"),
        uncertainty=uncertainty_coefficient(table),
        sign=defined(overlap_sign(table)),
        p_more=defined(float((overlaps >= n11).mean())),
        p_less=defined(float((overlaps <= n11).mean())),
        fisher_p_more=defined(fisher_p_more(table)),
        coverage=coverage,
        unseen=unseen,
    )


def shifted_overlaps(selected: Words, keyword: Words) -> NDArray[np.int64]:
    """(W,): how many keywords are selected after the selection was moved on by 0, 1, ..., W-1 words, around the end.

    All shifts at once by the Fourier transform, rounded to the whole numbers they are. With the identity among them,
    the share of shifts at least as extreme is (c + 1) / (R + 1) with R = W - 1.
    """
    size = len(selected)
    product = np.conj(np.fft.rfft(selected.astype(np.float64))) * np.fft.rfft(keyword.astype(np.float64))
    return np.rint(np.fft.irfft(product, n=size)).astype(np.int64)


def rank_information(
    attribution: Attribution,
    matches: KeywordMatches,
    seen: Words,
    *,
    neighbours: int = 3,
    shifts: int = 99,
    seed: int = 0,
    up_to: int = SYNONYM,
) -> RankInformation:
    """(B) of one attribution: Ross's estimate on the ranks of its scores, ties broken at random with the seed.

    A word of rank r stands at r plus a random share of 1, so that no two distances tie. shifts: how many circular shifts
    are drawn without repeat, at most W - 1; 0 leaves p undefined. Arguments else, and errors, as in `position_information`.
    """
    scores, keyword = _read(attribution, matches, seen, up_to)
    rng = np.random.default_rng(seed)
    coverage = matches.coverage(up_to)
    reason = _why_not(None, keyword)
    if reason is not None:
        none = undefined(reason)
        return RankInformation(none, none, none, none, none, 0, coverage)
    order = np.lexsort((rng.random(len(scores)), scores))
    ranks = np.empty(len(scores))
    ranks[order] = np.arange(len(scores)) + rng.random(len(scores))
    auc = _auc(scores, keyword)
    bits = knn_mi_bits(ranks, keyword, neighbours)
    drawn = 1 + rng.permutation(len(scores) - 1)[:shifts]  # shift 0 is the observed one
    if bits.reason is not None or not len(drawn):
        none = undefined(bits.reason or "no shift was asked for")
        return RankInformation(bits, none, none, none, auc, 0, coverage)
    null = np.array([knn_mi_bits(ranks, np.roll(keyword, int(shift)), neighbours).value for shift in drawn])
    at_least = int((null >= bits.value - 1e-12).sum())
    return RankInformation(
        bits,
        defined(float(null.mean())),
        defined(bits.value - float(null.mean())),
        defined((at_least + 1) / (len(drawn) + 1)),
        auc,
        len(drawn),
        coverage,
    )


def _auc(scores: Scores, keyword: Words) -> Value:
    """The chance that a keyword scores above another word, ties half (Mann-Whitney)."""
    others = np.sort(scores[~keyword])
    below = np.searchsorted(others, scores[keyword], side="left") + np.searchsorted(
        others, scores[keyword], side="right"
    )
    return defined(float(below.mean() / (2 * len(others))))


def _why_not(selected: Words | None, keyword: Words) -> str | None:
    if not keyword.any():
        return "no keyword of the code among the words that the model read"
    if keyword.all():
        return "every word is a keyword"
    if selected is not None and not selected.any():
        return "no word is selected: no positive score"
    if selected is not None and selected.all():
        return "every word is selected"
    return None


def _read(attribution: Attribution, matches: KeywordMatches, seen: Words, up_to: int) -> tuple[Scores, Words]:
    """Scores and keyword marks of the words that the model read, in text order."""
    if not len(attribution.scores) == len(matches.tier) == len(seen):
        raise HilatError(
            f"attribution {attribution.method} of admission {attribution.hadm_id}, code {attribution.code}, has "
            f"{len(attribution.scores)} words, the matches {len(matches.tier)} and seen {len(seen)}; expected those of one "
            "note. Match the keywords on the words of the attribution"
        )
    if attribution.code != matches.keyword_set.code:
        raise HilatError(
            f"an attribution explains code {attribution.code} and the keywords are those of {matches.keyword_set.code}; "
            "expected one code. Take the keyword set of the code that is explained"
        )
    order = np.argsort(attribution.word_spans[:, 0], kind="stable")
    order = order[seen[order]]
    return attribution.scores[order], matches.words(up_to)[order]

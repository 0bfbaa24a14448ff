"""Stored explanations against the words of the codes' descriptions: rows per (note, code, method), and the corpus's view.

All of it is plausibility, not faithfulness (`explain.keywords.NOTE`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from explain.attribution import Attribution
from explain.code_information import (
    Attended,
    Probe,
    WordCode,
    attended_words,
    identification_information,
    usable_information,
    word_code_table,
)
from explain.keyword_information import Selection, position_information, rank_information
from explain.keywords import SYNONYM, KeywordMatches, KeywordSet, match_keywords
from explain.result import Value
from explain.rows import Row, outcome_of
from explain.table import Explained
from hilat.admissions import Admission

# Measures of a pair: whether higher means more agreement with the description, and what it is.
KEYWORD_METRICS: dict[str, tuple[bool, str]] = {
    "position_bits_above_chance": (True, "information between selected and keyword, minus its exact expectation, bits"),
    "position_ami": (True, "adjusted mutual information of the two sets (maximum of the entropies)"),
    "position_uncertainty": (True, "I / H(keyword): share of the keywords' entropy that the selection tells"),
    "position_sign": (True, "1: more keywords selected than expected, -1: fewer"),
    "position_mi_bits": (True, "plug-in information, bits: biased upward"),
    "position_expected_bits": (False, "what chance gives, exactly (hypergeometric), bits"),
    "position_p_more": (False, "share of circular shifts with at least this overlap"),
    "position_p_less": (True, "share of circular shifts with at most this overlap"),
    "position_fisher_p_more": (False, "the same if words were exchangeable, which neighbours are not"),
    "rank_mi_bits": (True, "information between rank and keyword by nearest neighbours (Ross 2014), bits"),
    "rank_shifted_bits": (False, "its mean over circular shifts, bits"),
    "rank_bits_above_shifts": (True, "the difference, bits"),
    "rank_p": (False, "share of circular shifts with at least these bits"),
    "rank_auc": (True, "chance that a keyword ranks above another word"),
    "keyword_coverage": (True, "share of the code's keywords that occur in the note: not the method's doing"),
}
# Measures of a method over all pairs.
CORPUS_METRICS: dict[str, str] = {
    "identification_bits_above_null": "information of an attended word about its code, minus that under shuffled codes, bits",
    "identification_share": "the same as a share of the codes' entropy",
    "identification_p": "share of shuffles over the corpus with at least these bits",
    "within_note_bits_above_null": "the same, codes shuffled within each note: are they this code's words or the note's?",
    "within_note_p": "its share of shuffles",
    "usable_bits": "V-information of a probe that sees only the attended words about the code, held-out admissions, bits",
    "usable_coverage": "share of the pairs with a value for it",
}


@dataclass(frozen=True, slots=True)
class KeywordOptions:
    """selection: the words that count as selected. up_to: the last tier of keywords. shifts: circular shifts for the
    rank measure. attended: words per pair for the corpus measures."""

    selection: Selection = Selection()  # noqa: RUF009 (frozen)
    up_to: int = SYNONYM
    shifts: int = 19
    attended: int = 10
    seed: int = 0


def note_matches(one: Explained, text: str, keyword_set: KeywordSet) -> KeywordMatches:
    """The keywords of a code among an admission's words: matched in text order, told in the order of the words given."""
    order = np.argsort(one.word_spans[:, 0], kind="stable")
    found = match_keywords([text[start:end] for start, end in one.word_spans[order]], keyword_set)
    tier, term = np.zeros_like(found.tier), np.full_like(found.term, -1)
    tier[order], term[order] = found.tier, found.term
    return replace(found, tier=tier, term=term)


def keyword_rows(
    one: Explained,
    admission: Admission,
    sets: Mapping[str, KeywordSet],
    options: KeywordOptions = KeywordOptions(),
) -> tuple[list[Row], dict[str, list[Attended]]]:
    """Rows of every method for the codes that were explained, and the words that each method attends to for them."""
    words = [admission.text[start:end] for start, end in one.word_spans]
    seen: NDArray[np.bool_] = one.word_chunk >= 0
    rows: list[Row] = []
    attended: dict[str, list[Attended]] = {method: [] for method in one.methods}
    for i, code in enumerate(one.scored):
        k = one.codes.index(code)
        predicted = bool(one.probabilities[k] >= one.thresholds[k])
        outcome = outcome_of(predicted, None if one.gold is None else bool(one.gold[k]))
        matches = note_matches(one, admission.text, sets[code])
        for method, given in one.methods.items():
            scores = Attribution(one.hadm_id, code, method, given.target, given.signed, given.scores[i], one.word_spans)
            values = {
                **position_information(scores, matches, seen, options.selection, options.up_to).values(),
                **rank_information(
                    scores, matches, seen, shifts=options.shifts, seed=options.seed, up_to=options.up_to
                ).values(),
            }
            rows += [Row(one.hadm_id, code, outcome, method, name, values[name]) for name in KEYWORD_METRICS]
            attended[method].append(attended_words(scores, words, options.attended))
    return rows, attended


def corpus_information(
    pairs: Sequence[Attended], *, shuffles: int = 199, probe: Probe = "logistic", seed: int = 0
) -> dict[str, Value]:
    """CORPUS_METRICS of one method's pairs."""
    over_all = identification_information(pairs, shuffles=shuffles, seed=seed)
    within = identification_information(pairs, shuffle="admission", shuffles=shuffles, seed=seed)
    usable = usable_information(pairs, probe=probe, seed=seed)
    return {
        "identification_bits_above_null": over_all.bits_above_null,
        "identification_share": over_all.share,
        "identification_p": over_all.p,
        "within_note_bits_above_null": within.bits_above_null,
        "within_note_p": within.p,
        "usable_bits": usable.bits,
        "usable_coverage": usable.coverage,
    }


def word_tables(attended: Mapping[str, Sequence[Attended]], min_count: int = 5) -> list[tuple[str, WordCode]]:
    """(method, word-code row): PMI and NPMI of codes with the words attended to in at least `min_count` pairs."""
    return [(method, row) for method, pairs in attended.items() for row in word_code_table(pairs, min_count=min_count)]

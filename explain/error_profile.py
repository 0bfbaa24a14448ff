"""What a false positive and a true positive are compared by: the profile of a case, with what takes longer to compute.

`explain.cases.find_cases` gives what a page shows at once; the study adds agreement with other methods, information about
the description words and, where folders of measures are given, how much the output rests on the strongest words.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from explain.agreement import METRICS, overlap_at
from explain.attribution import Attribution
from explain.cases import FEATURES, Case
from explain.cues import code_cues
from explain.keyword_information import position_information, rank_information
from explain.keyword_rows import note_matches
from explain.keywords import KeywordSet
from explain.table import Explained
from hilat.admissions import Admission, CodeBook, HilatError

Pair = tuple[str, str]
# Methods that know nothing of the code: agreeing with one of them is no agreement.
CONTROLS = ("random", "uniform", "position", "frequent_words", "other_code")
# Measures that `hilat faithfulness` keeps and the study reads: how much the output rests on the strongest words.
STRENGTH: dict[str, str] = {
    "comprehensiveness": "drop of the probability without the strongest words",
    "sufficiency": "drop of the probability with only the strongest words",
    "normalised_aopc": "drop over all groups of words, between the worst and the best order",
    "leave_one_out_tau": "Kendall tau-b of the scores with the drops without each word",
}
AGREEMENT: dict[str, str] = {
    "agreement_overlap": "share of the 10 strongest words that another method has too, mean over the other methods",
    "agreement_tau": "Kendall tau-b with the other methods, mean",
}
INFORMATION: dict[str, str] = {
    "keyword_bits": "information between the 10 strongest words and the description words above chance, bits",
    "keyword_ami": "the same as adjusted mutual information",
    "keyword_auc": "chance that a description word scores above another word",
}
# All numbers of a case in the study, in the order of the columns of cases.parquet.
PROFILE: dict[str, str] = {**FEATURES, **AGREEMENT, **INFORMATION, **STRENGTH}
# Why a number of the profile is NaN, for each feature that may be.
WHY_UNDEFINED: dict[str, str] = {
    "margin": "no probability",
    **dict.fromkeys(("top_share", "half_words", "entropy"), "no word has a positive score"),
    "outside_words": "the method says nothing of tokens that are no words",
    **dict.fromkeys(("keyword_share", "keyword_lift", *INFORMATION), "no description word among the words that were read"),
    "evidence_share": "the coders marked no evidence for the code",
    **dict.fromkeys(AGREEMENT, "no other method than controls was stored"),
    **dict.fromkeys(STRENGTH, "not measured for the pair: a folder that `hilat faithfulness --out` wrote gives it, with --measures"),
}  # fmt: skip
_OVERLAP = overlap_at(10)


@dataclass(frozen=True, slots=True, eq=False)
class Profiling:
    """What profiles of all cases share: the code book, the method, and STRENGTH's numbers by (hadm_id, code)."""

    book: CodeBook
    method: str = "attention"
    strength: Mapping[Pair, Mapping[str, float]] = field(default_factory=dict)


def studied(case: Case, one: Explained, admission: Admission, keywords: KeywordSet, given: Profiling) -> Case:
    """The case with every number of PROFILE, and with the cue "sibling" for true positives too, so that its rate among
    them can be told; without the ranges of its description words, which a table of cases does not need."""
    i = one.scored.index(case.code)
    measured = given.strength.get((case.hadm_id, case.code), {})
    profile = {
        **case.profile,
        **_agreement(one, i, given.method),
        **_information(one, i, admission, keywords, given.method),
        **{name: measured.get(name, math.nan) for name in STRENGTH},
    }
    cues = case.cues
    if case.outcome == "TP":
        cues = (*cues, *code_cues(case.code, "FP", given.book, (admission.codes, ()), ()))
    return replace(case, profile={name: profile[name] for name in PROFILE}, cues=cues, keywords=())


def _agreement(one: Explained, i: int, method: str) -> dict[str, float]:
    """Means over the other methods, of the words that were read, in text order."""
    words = np.flatnonzero(one.word_chunk >= 0)
    words = words[np.argsort(one.word_spans[words, 0], kind="stable")]
    mine = one.methods[method].scores[i, words]
    others = [m.scores[i, words] for name, m in one.methods.items() if name != method and name not in CONTROLS]
    overlaps = [_OVERLAP(mine, other).value for other in others]
    taus = [METRICS["kendall_tau_b"].of(mine, other).value for other in others]
    return {"agreement_overlap": _mean(overlaps), "agreement_tau": _mean(taus)}


def _mean(values: Sequence[float]) -> float:
    """The mean of the numbers that are defined; NaN where none is."""
    there = [value for value in values if math.isfinite(value)]
    return float(np.mean(there)) if there else math.nan


def _information(
    one: Explained, i: int, admission: Admission, keywords: KeywordSet, method: str
) -> dict[str, float]:  # fmt: skip
    """The measures of `hilat keywords` for this pair; the rank measure without its shifts, which only its p needs."""
    given, seen = one.methods[method], one.word_chunk >= 0
    matches = note_matches(one, admission.text, keywords)
    scores = Attribution(
        one.hadm_id, one.scored[i], method, given.target, given.signed, given.scores[i], one.word_spans
    )
    position = position_information(scores, matches, seen)
    return {
        "keyword_bits": position.bits_above_chance.value,
        "keyword_ami": position.adjusted.value,
        "keyword_auc": rank_information(scores, matches, seen, shifts=0).auc.value,
    }


def read_strength(folders: Sequence[Path], method: str) -> dict[Pair, dict[str, float]]:
    """(hadm_id, code) -> the measures of STRENGTH for one method, from folders that `hilat faithfulness --out` wrote.

    Raises:
        HilatError: a folder without rows, or with none of these measures for the method.
    """
    found: dict[Pair, dict[str, float]] = {}
    for folder in folders:
        path = Path(folder) / "rows.parquet"
        if not path.exists():
            raise HilatError(
                f"{folder} holds no rows.parquet; expected a folder that `hilat faithfulness --out` wrote. Correct --measures"
            )
        table = pq.read_table(path, columns=["hadm_id", "code", "method", "metric", "value"])
        there = sorted(set(table["method"].to_pylist()))
        chosen = table.filter(
            pc.and_(pc.equal(table["method"], method), pc.is_in(table["metric"], value_set=pa.array(list(STRENGTH))))
        )
        if not chosen.num_rows:
            raise HilatError(
                f"{folder} holds none of {', '.join(STRENGTH)} for method {method!r}; its methods are {', '.join(there)}. "
                "Give a folder of `hilat faithfulness` on these explanations, or another --method"
            )
        for row in chosen.to_pylist():
            value = math.nan if row["value"] is None else float(row["value"])
            found.setdefault((row["hadm_id"], row["code"]), {})[row["metric"]] = value
    return found

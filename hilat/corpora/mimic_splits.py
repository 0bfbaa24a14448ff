"""The splits of a MIMIC corpus: read from files or drawn, with counts of what falls outside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from hilat.admissions import HilatError
from hilat.corpora.mimic_codes import CodedAdmissions
from hilat.corpora.splits import (
    SplitFiles,
    Splits,
    SplitTable,
    StratifiedSplit,
    SubjectSplit,
    read_split_files,
    read_split_table,
    split_by_subject,
)
from hilat.corpora.stratified import stratification_table, stratified_by_subject


@dataclass(frozen=True, slots=True)
class Considered:
    """The admissions that may be kept. subjects: subject by admission with a discharge summary, by ascending hadm_id."""

    subjects: Mapping[str, str]
    coded: CodedAdmissions
    keep: Literal["labelled", "coded", "all"]

    @property
    def eligible(self) -> list[str]:
        """Those with codes; all of them when keep is "all"."""
        return [i for i in self.subjects if self.keep == "all" or i in self.coded.codes]


def read_assigned(splits: Splits | None) -> dict[str, str] | None:
    """Split by admission, where splits are files; None where they are drawn. Raises HilatError for files that do not fit."""
    if isinstance(splits, SplitFiles):
        return read_split_files(splits)
    return read_split_table(splits.path) if isinstance(splits, SplitTable) else None


def assign_splits(
    considered: Considered, splits: Splits | None, assigned: Mapping[str, str] | None, labels: frozenset[str]
) -> tuple[dict[str, str | None], dict[str, Any]]:
    """The split of every admission that may be kept (None where none is asked for), and what to note about it.

    Arguments:
        assigned: what `read_assigned` gave. labels: the label set, for a stratified split.

    Raises:
        HilatError: too few subjects, or files none of whose ids is here.
    """
    subjects, eligible = considered.subjects, considered.eligible
    if isinstance(splits, SubjectSplit):
        fractions = dict(splits.fractions)
        drawn = split_by_subject(eligible, [subjects[i] for i in eligible], fractions, splits.seed)
        return dict(drawn), {"by": "subject", "fractions": fractions, "seed": splits.seed}
    if isinstance(splits, StratifiedSplit):
        return _stratified(considered, splits, labels)
    if assigned is None:
        return dict.fromkeys(eligible), {"by": "none"}
    return _from_files(considered, assigned)


def _stratified(
    considered: Considered, splits: StratifiedSplit, labels: frozenset[str]
) -> tuple[dict[str, str | None], dict[str, Any]]:
    codes_of = considered.coded.codes
    lists = {i: [code for code in codes_of.get(i, ()) if code in labels] for i in considered.eligible}
    if considered.keep == "labelled":
        lists = {hadm_id: codes for hadm_id, codes in lists.items() if codes}
    fractions = dict(splits.fractions)
    drawn = stratified_by_subject(
        [considered.subjects[i] for i in lists], list(lists.values()), fractions, splits.seed
    )  # fmt: skip
    notes = {
        "by": "subject, stratified by code",
        "fractions": fractions,
        "seed": splits.seed,
        "drawn": stratification_table(drawn, list(lists.values())),
    }
    return dict(zip(lists, drawn, strict=True)), notes


def _from_files(considered: Considered, assigned: Mapping[str, str]) -> tuple[dict[str, str | None], dict[str, Any]]:
    subjects, codes, eligible = considered.subjects, considered.coded.codes, considered.eligible
    kept: dict[str, str | None] = {hadm_id: assigned[hadm_id] for hadm_id in eligible if hadm_id in assigned}
    if not kept:
        raise HilatError(
            f"none of the {len(assigned)} ids of the split files is among the {len(eligible)} admissions that could be "
            "kept; expected hadm_ids of these tables. Check that files and tables belong together"
        )
    without_summary = [hadm_id for hadm_id in assigned if hadm_id not in subjects]
    splits_of: dict[str, set[str | None]] = {}
    for hadm_id, name in kept.items():
        splits_of.setdefault(subjects[hadm_id], set()).add(name)
    notes = {
        "by": "files",
        "ids": dict(Counter(assigned.values())),
        "ids_not_in_data": dict(Counter(assigned[i] for i in without_summary if i not in codes)),
        "ids_without_summary": dict(Counter(assigned[i] for i in without_summary if i in codes)),
        "ids_without_codes": dict(Counter(s for i, s in assigned.items() if i in subjects and i not in codes)),
        "admissions_outside": len(eligible) - len(kept),
        "subjects_in_two_splits": sum(len(names) > 1 for subject, names in splits_of.items() if subject),
    }
    return kept, notes

"""Splits by subject in which every code has its share: iterative stratification.

Sechidis, Tsoumakas and Vlahavas 2011, "On the stratification of multi-label data", algorithm 1: the code with fewest
examples left is dealt out first, each of its examples to the split that lacks most of that code. Edin et al. 2023 drew
their clean splits of MIMIC-III and MIMIC-IV so, over subjects. Where this differs from theirs: all splits are drawn at
once, not test first and val from the rest; and what a split lacks is counted in admissions, so that the shares of the
admissions come out as asked and not only those of the subjects.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hilat.admissions import HilatError
from hilat.corpora.splits import check_fractions


@dataclass(frozen=True, slots=True)
class _Dealt:
    """Subjects by codes, both ways. subject p has codes[first[p] : first[p + 1]], each in so many of its admissions.

    holders[k]: the subjects with code k, in a drawn order. admissions: how many each subject has.
    """

    first: NDArray[np.int64]
    codes: NDArray[np.int64]
    times: NDArray[np.float64]
    holders: tuple[NDArray[np.int64], ...]
    admissions: NDArray[np.float64]


def stratified_by_subject(
    subjects: Sequence[str],
    codes: Sequence[Sequence[str]],
    fractions: Mapping[str, float],
    seed: int,
) -> list[str]:
    """The split of each admission; all admissions of a subject are in one split.

    The draw depends on the subjects, their codes and the seed, not on the order of the arguments.

    Arguments:
        subjects, codes: of each admission, equally long.
        fractions: share of the admissions per split name, summing to 1.

    Raises:
        HilatError: fractions that are no shares, an empty subject, or a split that gets no admission.
    """
    check_fractions(fractions)
    if len(subjects) != len(codes) or not all(subjects):
        raise HilatError(
            f"got {len(subjects)} subjects, {sum(not one for one in subjects)} of them empty, and {len(codes)} lists of codes; "
            "expected one subject and one list per admission. Fill subject_id or use split files"
        )
    names = list(fractions)
    shares = np.array([fractions[name] for name in names])
    rng = np.random.default_rng(seed)
    people = sorted(set(subjects))
    dealt = _dealt(subjects, codes, people, rng)
    where = _deal(dealt, shares, rng)
    split_of = {person: names[where[p]] for p, person in enumerate(people)}
    empty = [name for name in names if fractions[name] > 0 and name not in split_of.values()]
    if empty:
        raise HilatError(
            f"{len(people)} subjects are too few for a split {empty[0]!r} of {fractions[empty[0]]:g}; "
            "expected at least one subject per split. Give more admissions or a larger fraction"
        )
    return [split_of[subject] for subject in subjects]


def stratification_table(splits: Sequence[str], codes: Sequence[Sequence[str]]) -> dict[str, dict[str, float]]:
    """How well each split stands for the whole: by split, its admissions, its share of them, codes and divergence.

    codes_missing: codes of the whole that no admission of the split has. kl_nats: Kullback-Leibler divergence of the
    split's distribution of codes from the whole's, in nats (natural logarithm); 0 is the same distribution.
    """
    whole = Counter(code for one in codes for code in one)
    total = sum(whole.values())
    table: dict[str, dict[str, float]] = {}
    for name in dict.fromkeys(splits):
        mine = [one for one, split in zip(codes, splits, strict=True) if split == name]
        own = Counter(code for one in mine for code in one)
        there = np.array([own[code] for code in own], dtype=np.float64) / max(sum(own.values()), 1)
        expected = np.array([whole[code] for code in own], dtype=np.float64) / max(total, 1)
        table[name] = {
            "admissions": len(mine),
            "share": len(mine) / len(codes),
            "codes_missing": len(whole) - len(own),
            "kl_nats": float(np.sum(there * np.log(there / expected))),
        }
    return table


def _dealt(
    subjects: Sequence[str], codes: Sequence[Sequence[str]], people: Sequence[str], rng: np.random.Generator
) -> _Dealt:
    number = {person: p for p, person in enumerate(people)}
    column = {code: k for k, code in enumerate(sorted({code for one in codes for code in one}))}
    owner = np.array([number[subject] for subject in subjects], dtype=np.int64)
    lengths = np.array([len(one) for one in codes], dtype=np.int64)
    flat = np.fromiter((column[code] for one in codes for code in one), dtype=np.int64, count=int(lengths.sum()))
    pairs, times = np.unique(np.repeat(owner, lengths) * max(len(column), 1) + flat, return_counts=True)
    who, which = pairs // max(len(column), 1), pairs % max(len(column), 1)
    # The order in which a code's subjects are dealt is drawn once: ids in MIMIC need not be in random order.
    order = np.lexsort((rng.permutation(len(people))[who], which))
    bounds = np.searchsorted(which[order], np.arange(len(column) + 1))
    return _Dealt(
        first=np.searchsorted(who, np.arange(len(people) + 1)),
        codes=which,
        times=times.astype(np.float64),
        holders=tuple(who[order[bounds[k] : bounds[k + 1]]] for k in range(len(column))),
        admissions=np.bincount(owner, minlength=len(people)).astype(np.float64),
    )


def _deal(dealt: _Dealt, shares: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.int64]:
    """The split of each subject, as a position in `shares`."""
    people, kinds = len(dealt.admissions), len(dealt.holders)
    where = np.full(people, -1, dtype=np.int64)
    totals = np.bincount(dealt.codes, weights=dealt.times, minlength=kinds)
    lacking = totals[:, None] * shares  # (K, splits), in admissions
    room = dealt.admissions.sum() * shares  # (splits,), in admissions
    lacking[:, shares == 0] = -np.inf
    room[shares == 0] = -np.inf
    left = np.array([len(one) for one in dealt.holders], dtype=np.int64)  # subjects not dealt yet, by code

    def put(person: int, wish: NDArray[np.float64]) -> None:
        best = np.flatnonzero(wish >= wish.max() - 1e-9)
        if len(best) > 1:
            best = best[room[best] >= room[best].max() - 1e-9]
        split = int(best[0] if len(best) == 1 else rng.choice(best))
        where[person] = split
        own = slice(dealt.first[person], dealt.first[person + 1])
        lacking[dealt.codes[own], split] -= dealt.times[own]
        left[dealt.codes[own]] -= 1
        room[split] -= dealt.admissions[person]

    while kinds and left.max() > 0:
        code = int(np.argmin(np.where(left > 0, left, people + 1)))
        for person in dealt.holders[code]:
            if where[person] < 0:
                put(int(person), lacking[code])
    for person in np.flatnonzero(where < 0):  # those without any code
        put(int(person), room.copy())
    return where

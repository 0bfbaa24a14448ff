"""Cases of an error study drawn for review: stratified, seeded, with the weights that lead back to all cases.

A sample of n cases is drawn without replacement within strata, so that a case's chance of being read is known:
n_h / N_h in its stratum of N_h cases, and its weight N_h / n_h (Horvitz and Thompson 1952, J Am Stat Assoc 47:663).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from explain.cues import CUES, Cue, Passage
from explain.error_tables import read_table
from hilat.admissions import HilatError

Pair = tuple[str, str]
# What strata are made of beside the outcome.
BY: dict[str, str] = {
    "code": "outcome and code",
    "cue": "outcome and the rarest of the case's cues",
    "outcome": "outcome",
}
ALLOCATIONS: dict[str, str] = {
    "proportional": "strata get cases by their size, each at least one",
    "equal": "strata get the same number of cases, as far as they have them",
}
OUTCOMES = ("FP", "FN", "weak", "TP")
POOLED, NO_CUE = "pooled", "no cue"
_SAMPLE = pa.schema(
    [
        ("hadm_id", pa.string()),
        ("code", pa.string()),
        ("outcome", pa.string()),
        ("stratum", pa.string()),
        ("population", pa.int64()),
        ("drawn", pa.int64()),
        ("inclusion", pa.float64()),
        ("weight", pa.float64()),
        ("reviewers", pa.list_(pa.string())),
    ]
)


@dataclass(frozen=True, slots=True)
class ListedCase:
    """A case as the tables of a study hold it: without note text. Passages have no ranges of description words."""

    hadm_id: str
    code: str
    outcome: str
    probability: float
    threshold: float
    weak: bool
    cues: tuple[Cue, ...]
    passages: tuple[Passage, ...]

    @property
    def pair(self) -> Pair:
        """(hadm_id, code)."""
        return self.hadm_id, self.code

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of cues of this case, each once, in the order of CUES."""
        there = {cue.kind for cue in self.cues}
        return tuple(kind for kind in CUES if kind in there)


@dataclass(frozen=True, slots=True)
class SampleOptions:
    """n: cases to draw. by: of BY. allocation: of ALLOCATIONS. outcomes: of OUTCOMES, the cases drawn from; "weak" are true
    positives without support. overlap: share of the drawn cases that every reviewer reads; each other case goes to one."""

    n: int
    by: str = "code"
    allocation: str = "proportional"
    outcomes: tuple[str, ...] = ("FP",)
    reviewers: tuple[str, ...] = ("reviewer",)
    overlap: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, known in (("--by", self.by, BY), ("--allocation", self.allocation, ALLOCATIONS)):
            if value not in known:
                raise HilatError(f"{name} is {value!r}; expected one of {', '.join(known)}. Choose one of them")
        unknown = [name for name in self.outcomes if name not in OUTCOMES]
        if unknown or not self.outcomes:
            raise HilatError(
                f"outcome {(unknown or [''])[0]!r} is not known; expected some of {', '.join(OUTCOMES)}. Correct --outcomes"
            )
        if self.n < 1:
            raise HilatError(f"{self.n} cases were asked for; expected at least one. Raise --n")
        wrong = [name for name in self.reviewers if not re.fullmatch(r"[\w.-]{1,40}", name)]
        if wrong or not self.reviewers or len({name.casefold() for name in self.reviewers}) < len(self.reviewers):
            raise HilatError(
                f"the reviewers are {', '.join(self.reviewers) or 'nobody'}; expected different names of letters, digits, '.', '_' "
                "and '-', since each names a file. Correct --reviewers"
            )
        if not 0 <= self.overlap <= 1 or (self.overlap and len(self.reviewers) < 2):
            raise HilatError(
                f"an overlap of {self.overlap} was given for {len(self.reviewers)} reviewer(s); expected a share from 0 to 1, and two "
                "reviewers for any above 0. Correct --overlap or --reviewers"
            )


@dataclass(frozen=True, slots=True)
class Drawn:
    """A drawn case. population, drawn: cases of its stratum and how many of them were drawn. inclusion: drawn /
    population; weight: its inverse. reviewers: who reads it."""

    hadm_id: str
    code: str
    outcome: str
    stratum: str
    population: int
    drawn: int
    reviewers: tuple[str, ...] = ()

    @property
    def pair(self) -> Pair:
        """(hadm_id, code)."""
        return self.hadm_id, self.code

    @property
    def inclusion(self) -> float:
        """The chance with which the case was drawn."""
        return self.drawn / self.population

    @property
    def weight(self) -> float:
        """How many cases of the population it stands for."""
        return self.population / self.drawn


def read_cases(folder: Path) -> list[ListedCase]:
    """The cases in a folder that `hilat errors study --out` wrote, in its order.

    Raises:
        HilatError: a folder that lacks a table, or has one of another form.
    """
    cues: dict[Pair, list[Cue]] = {}
    for row in read_table(folder, "cues"):
        passage = None if row["passage"] < 0 else row["passage"]
        cue = Cue(row["kind"], row["says"], passage, row["start"], row["end"])
        cues.setdefault((row["hadm_id"], row["code"]), []).append(cue)
    passages: dict[Pair, list[Passage]] = {}
    for row in sorted(read_table(folder, "passages"), key=lambda row: int(row["rank"])):
        peak = (row["peak_start"], row["peak_end"])
        found = Passage(row["start"], row["end"], peak, row["share"], row["section"], (), row["on_evidence"])
        passages.setdefault((row["hadm_id"], row["code"]), []).append(found)
    cases = []
    for row in read_table(folder, "cases"):
        pair = (row["hadm_id"], row["code"])
        numbers = (row["probability"], row["threshold"], row["weak"])
        cases.append(
            ListedCase(*pair, row["outcome"], *numbers, tuple(cues.get(pair, ())), tuple(passages.get(pair, ())))
        )
    return cases


def draw(cases: Sequence[ListedCase], options: SampleOptions) -> list[Drawn]:
    """The drawn cases, in the order of `cases`, each with its stratum and its reviewers. All where n is not below their number.

    Strata that are more than n are pooled, the smallest ones together, so that every case keeps a chance to be drawn.

    Raises:
        HilatError: no case of the outcomes that were asked for.
    """
    chosen = [case for case in cases if _wanted(case, options.outcomes)]
    if not chosen:
        there = Counter(case.outcome for case in cases)
        raise HilatError(
            f"no case is one of {', '.join(options.outcomes)}; there are "
            f"{', '.join(f'{count} {name}' for name, count in sorted(there.items())) or 'none'}. Change --outcomes, or study with other ones"
        )
    n = min(options.n, len(chosen))
    strata = _pooled(_strata(chosen, options.by), n)
    rng = np.random.default_rng(options.seed)
    drawn: dict[int, Drawn] = {}
    numbers = allocate([len(members) for members in strata.values()], n, options.allocation)
    for (name, members), number in zip(strata.items(), numbers, strict=True):
        for place in rng.choice(len(members), number, replace=False).tolist():
            case = chosen[members[place]]
            drawn[members[place]] = Drawn(case.hadm_id, case.code, case.outcome, name, len(members), number)
    ordered = [drawn[place] for place in sorted(drawn)]
    return _given_out(ordered, options, rng)


def allocate(sizes: Sequence[int], n: int, allocation: str = "proportional") -> list[int]:
    """How many of n cases each stratum gets: at least one, at most its size. n: from the number of strata to all cases.

    proportional: nearest to n N_h / N, by largest remainders. equal: one after the other in turn. Equal claims go to the
    earlier stratum.
    """
    share = [n * size / sum(sizes) for size in sizes]
    given = [1 if allocation == "equal" else min(size, max(1, int(part))) for size, part in zip(sizes, share, strict=True)]  # fmt: skip
    claim = [0.0] * len(sizes) if allocation == "equal" else share
    while sum(given) < n:
        open_ = [h for h, size in enumerate(sizes) if given[h] < size]
        given[max(open_, key=lambda h: (claim[h] - given[h], -h))] += 1
    while sum(given) > n:
        open_ = [h for h in range(len(sizes)) if given[h] > 1]
        given[min(open_, key=lambda h: (claim[h] - given[h], -h))] -= 1
    return given


def write_sample(path: Path, drawn: Sequence[Drawn]) -> None:
    """Write drawn cases as Parquet: a row per case with stratum, population, drawn, inclusion, weight, reviewers."""
    rows = [{name: getattr(case, name) for name in _SAMPLE.names} for case in drawn]
    for row in rows:
        row["reviewers"] = list(row["reviewers"])
    pq.write_table(pa.Table.from_pylist(rows, schema=_SAMPLE), path, compression="zstd")


def read_sample(folder: Path) -> list[Drawn]:
    """The drawn cases of a folder that `hilat errors sample` wrote.

    Raises:
        HilatError: a folder without sample.parquet, or with one of another form.
    """
    path = Path(folder) / "sample.parquet"
    try:
        rows = pq.read_table(path).cast(_SAMPLE).to_pylist()
    except (OSError, ValueError):
        raise HilatError(
            f"{path} is missing or has other columns; expected a folder that `hilat errors sample` wrote. Correct --sample"
        ) from None
    return [
        Drawn(
            row["hadm_id"], row["code"], row["outcome"], row["stratum"], row["population"], row["drawn"],
            tuple(row["reviewers"]),
        )
        for row in rows
    ]  # fmt: skip


def _wanted(case: ListedCase, outcomes: Sequence[str]) -> bool:
    return case.outcome in outcomes or (case.weak and "weak" in outcomes)


def _strata(cases: Sequence[ListedCase], by: str) -> dict[str, list[int]]:
    """Name of a stratum -> the numbers of its cases, names sorted."""
    often = Counter(kind for case in cases for kind in case.kinds)
    found: dict[str, list[int]] = {}
    for number, case in enumerate(cases):
        if by == "cue":  # the rarest, so that a rare cue is not drowned by the frequent ones beside it
            part = min(case.kinds, key=lambda kind: (often[kind], kind), default=NO_CUE)
        else:
            part = case.code if by == "code" else ""
        found.setdefault(f"{case.outcome} {part}".strip(), []).append(number)
    return dict(sorted(found.items()))


def _pooled(strata: Mapping[str, list[int]], n: int) -> dict[str, list[int]]:
    """The strata as they are, or the n - 1 largest and one of all others."""
    if len(strata) <= n:
        return dict(strata)
    kept = sorted(strata, key=lambda name: (-len(strata[name]), name))[: n - 1]
    rest = sorted(number for name, members in strata.items() if name not in kept for number in members)
    return {**{name: strata[name] for name in sorted(kept)}, POOLED: rest}


def _given_out(drawn: Sequence[Drawn], options: SampleOptions, rng: np.random.Generator) -> list[Drawn]:
    """The cases with their reviewers: some for all of them, the others dealt out in turn."""
    shared = round(options.overlap * len(drawn))
    readers: dict[int, tuple[str, ...]] = {}
    for turn, place in enumerate(rng.permutation(len(drawn)).tolist()):
        one = options.reviewers[turn % len(options.reviewers)]
        readers[place] = options.reviewers if turn < shared else (one,)
    return [replace(case, reviewers=readers[place]) for place, case in enumerate(drawn)]

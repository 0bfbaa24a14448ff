"""What the verdicts say: how often each cue was right, what the errors are, and how far reviewers agree.

A case counts once, however many reviewers read it: with the share of them that confirmed a cue or gave a verdict. Where
the sample is known, a second estimate weights each case by what it stands for, so that it holds for all cases that were
drawn from and not for the strata that were drawn from most.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.stats import norm

from explain.cues import CUES
from explain.triage import Drawn, ListedCase, Pair
from explain.verdicts import VERDICTS, Judgement
from hilat.significance import Interval, interval, mean_of, sums_by_cluster

Array = NDArray[np.float64]
_LIST = pa.list_(pa.string())
_VERDICTS = pa.schema(
    [
        *((name, pa.string()) for name in ("reviewer", "hadm_id", "code", "outcome", "verdict")),
        ("cues_shown", _LIST),
        ("cues", _LIST),
        *((name, pa.string()) for name in ("comment", "source", "stratum")),
        ("weight", pa.float64()),
    ]
)


@dataclass(frozen=True, slots=True)
class Share:
    """How many of n read cases have something: a confirmed cue among those that showed it, or a verdict among all.

    outcome: of the cases, "" for all. hits: may be fractional, where reviewers of a case differ. share: hits / n.
    low, high: Wilson's 95 % interval (Wilson 1927), which takes cases as independent; NaN with a reason where n is 0.
    weighted: the share among all cases that were drawn from, percentile interval over admissions, NaN with a reason where
    all cases are alike; missing: cases read that are not of the sample.
    """

    name: str
    outcome: str
    hits: float
    n: int
    share: float
    low: float
    high: float
    weighted: Interval
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Agreement:
    """Two reviewers on what both judged. what: "verdict", or "cues": is each shown cue right or not.

    shared: cases, or cues of shared cases. raw: share on which they agree. kappa: Cohen's (1960), 1 full agreement, 0 what
    their own frequencies give by chance; percentile interval over admissions, NaN with a reason where it is undefined.
    """

    first: str
    second: str
    what: str
    shared: int
    raw: float
    kappa: Interval


@dataclass(frozen=True, slots=True)
class Review:
    """cues, verdicts: shares over all outcomes, then by outcome. unfinished: judgements without a verdict, left out.
    unread_strata: strata of the sample in which no case was read, with the cases they stand for."""

    reviewers: Mapping[str, int]
    cases: int
    unfinished: int
    cues: tuple[Share, ...]
    verdicts: tuple[Share, ...]
    agreements: tuple[Agreement, ...]
    unread_strata: Mapping[str, int]


def review(
    judgements: Sequence[Judgement],
    cases: Mapping[Pair, ListedCase],
    sample: Sequence[Drawn] = (),
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Review:
    """What checked judgements (`explain.verdicts.check_verdicts`) say. sample: what was drawn, for weighted estimates."""
    done = [one for one in judgements if one.verdict]
    weights, unread = read_weights(sample, {one.pair for one in done})
    known = weights if sample else None
    outcomes = sorted({cases[one.pair].outcome for one in done})
    cues: list[Share] = []
    verdicts: list[Share] = []
    for outcome in ("", *(outcomes if len(outcomes) > 1 else ())):
        part = [one for one in done if outcome in ("", cases[one.pair].outcome)]
        for kind in CUES:
            shown = [one for one in part if kind in one.cues_shown]
            if shown:
                right = _by_case((one.pair, kind in one.cues) for one in shown)
                cues.append(_share((kind, outcome), right, known, (resamples, seed)))
        for verdict in VERDICTS:
            given = _by_case((one.pair, one.verdict == verdict) for one in part)
            verdicts.append(_share((verdict, outcome), given, known, (resamples, seed)))
    return Review(
        dict(Counter(one.reviewer for one in done)),
        len({one.pair for one in done}),
        len(judgements) - len(done),
        tuple(cues),
        tuple(verdicts),
        tuple(agreements(done, resamples=resamples, seed=seed)),
        unread,
    )


def read_weights(sample: Sequence[Drawn], read: set[Pair]) -> tuple[dict[Pair, float], dict[str, int]]:
    """The weight of each case that was drawn and read, and the strata in which none was read with their size.

    A stratum's weight is its population over the cases of it that were read: cases that were drawn and are not read yet
    are taken as missing at random within their stratum.
    """
    of = Counter(case.stratum for case in sample if case.pair in read)
    weights = {case.pair: case.population / of[case.stratum] for case in sample if case.pair in read}
    unread = {case.stratum: case.population for case in sample if not of[case.stratum]}
    return weights, unread


def wilson(hits: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's interval (1927, J Am Stat Assoc 22:209) of a share hits / n; NaN where n is 0."""
    if n == 0:
        return math.nan, math.nan
    z = float(norm.ppf((1 + confidence) / 2))
    p, below = hits / n, 1 + z * z / n
    middle, half = (p + z * z / (2 * n)) / below, z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / below
    # At 0 and 1 the bound is exact; rounding must not push it out.
    return (0.0 if hits == 0 else middle - half), (1.0 if hits == n else middle + half)


def kappa_of(sums: Array) -> Array:
    """Cohen's kappa (R,) of R tables of counts (R, C * C), rows the first reviewer; NaN where chance agreement is 1.

    (p_o - p_e) / (1 - p_e), p_o the share on the diagonal, p_e the sum over categories of the product of both reviewers'
    shares (Cohen 1960, Educ Psychol Meas 20:37).
    """
    size = math.isqrt(sums.shape[1])
    table = sums.reshape(-1, size, size)  # (R, C, C)
    n = table.sum(axis=(1, 2))
    observed = np.trace(table, axis1=1, axis2=2) * n
    chance = (table.sum(axis=1) * table.sum(axis=2)).sum(axis=1)
    below = n * n - chance
    return np.asarray(np.divide(observed - chance, below, out=np.full(len(n), np.nan), where=below > 0))


def agreements(judgements: Sequence[Judgement], *, resamples: int = 2000, seed: int = 0) -> list[Agreement]:
    """Agreement of each two reviewers, on verdicts and on cues, in the order of their names."""
    of: dict[str, dict[Pair, Judgement]] = {}
    for one in judgements:
        of.setdefault(one.reviewer, {})[one.pair] = one
    found = []
    for first, second in combinations(sorted(of), 2):
        shared = [(of[first][pair], of[second][pair]) for pair in sorted(of[first].keys() & of[second].keys())]
        said = [(a.hadm_id, VERDICTS.index(a.verdict), VERDICTS.index(b.verdict)) for a, b in shared]
        found.append(_agreement((first, second), "verdict", said, len(VERDICTS), (resamples, seed)))
        shown = [
            (a.hadm_id, int(kind in a.cues), int(kind in b.cues))
            for a, b in shared
            for kind in a.cues_shown
            if kind in b.cues_shown
        ]
        found.append(_agreement((first, second), "cues", shown, 2, (resamples, seed)))
    return found


def _agreement(
    names: tuple[str, str], what: str, said: Sequence[tuple[str, int, int]], size: int, drawing: tuple[int, int]
) -> Agreement:
    """said: (hadm_id, category by the first, category by the second). drawing: resamples and seed."""
    if not said:
        none = Interval(math.nan, math.nan, math.nan, 0, 0, reason="no case that both judged")
        return Agreement(*names, what, 0, math.nan, none)
    columns = np.zeros((len(said), size * size))
    for n, (_, a, b) in enumerate(said):
        columns[n, a * size + b] = 1.0
    sums = sums_by_cluster(columns, [hadm_id for hadm_id, _, _ in said])
    kappa = interval(sums, kappa_of, resamples=drawing[0], seed=drawing[1])
    if math.isnan(kappa.estimate):
        kappa = replace(
            kappa, reason="both gave one and the same answer to all that they share: no chance to correct for"
        )
    raw = sum(a == b for _, a, b in said) / len(said)
    return Agreement(*names, what, len(said), raw, replace(kappa, n=len(said)))


def _by_case(answers: Iterable[tuple[Pair, bool]]) -> dict[Pair, float]:
    """Case -> the share of its reviewers who said yes."""
    of: dict[Pair, list[bool]] = {}
    for pair, yes in answers:
        of.setdefault(pair, []).append(yes)
    return {pair: sum(values) / len(values) for pair, values in of.items()}


def _share(
    names: tuple[str, str], hits: Mapping[Pair, float], weights: Mapping[Pair, float] | None, drawing: tuple[int, int]
) -> Share:
    """The share of cases with a hit, plain and weighted. names: of the share, and the outcome."""
    n, total = len(hits), sum(hits.values())
    weighted = _weighted(hits, weights, drawing)
    if n == 0:
        return Share(*names, 0.0, 0, math.nan, math.nan, math.nan, weighted, "no case was read")
    return Share(*names, total, n, total / n, *wilson(total, n), weighted)


def _weighted(hits: Mapping[Pair, float], weights: Mapping[Pair, float] | None, drawing: tuple[int, int]) -> Interval:
    """Sum of weighted hits over sum of weights (Hajek's ratio), percentile interval over admissions."""
    known = {} if weights is None else {pair: weights[pair] for pair in hits if pair in weights}
    missing = len(hits) - len(known)
    if not known:
        why = "the sample is not known" if weights is None else "no case of the sample was read"
        return Interval(math.nan, math.nan, math.nan, 0, 0, missing, why)
    columns = np.array([[weight * hits[pair], weight] for pair, weight in known.items()])
    if len(set(columns[:, 0] / columns[:, 1])) == 1:
        why = "all cases alike: resampling them gives no spread"
        return Interval(float(columns[0, 0] / columns[0, 1]), math.nan, math.nan, len(known), 0, missing, why)
    sums = sums_by_cluster(columns, [hadm_id for hadm_id, _ in known])
    found = interval(sums, mean_of, resamples=drawing[0], seed=drawing[1])
    return replace(found, n=len(known), missing=missing)


def write_verdicts(
    path: Path, judgements: Sequence[Judgement], cases: Mapping[Pair, ListedCase], sample: Sequence[Drawn]
) -> None:
    """Write every judgement as Parquet: reviewer, case, its outcome in the study, verdict ("" where none), cues shown and
    confirmed, comment, source, and stratum and weight where the case was drawn (null where not).

    weight: population / drawn; estimates divide by the cases that were read instead (`read_weights`).
    """
    of = {case.pair: case for case in sample}
    rows = []
    for one in judgements:
        drawn = of.get(one.pair)
        row = {name: getattr(one, name) for name in _VERDICTS.names if hasattr(one, name)}
        row |= {"outcome": cases[one.pair].outcome, "cues_shown": list(one.cues_shown), "cues": list(one.cues)}
        row |= {"stratum": drawn and drawn.stratum, "weight": drawn and drawn.weight}
        rows.append(row)
    pq.write_table(pa.Table.from_pylist(rows, schema=_VERDICTS), path, compression="zstd")

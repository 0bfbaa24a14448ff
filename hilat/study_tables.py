"""The tables of a study: scores, differences to the reference row, and what the runs took; as Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hilat.files import write_json, write_text
from hilat.provenance import run_record
from hilat.significance import holm, over_seeds
from hilat.study import Study, StudyRow, StudyRun
from hilat.study_jobs import run_folder
from hilat.study_run import RunScores, finished, read_scores
from hilat.study_scores import MEASURES, Tested, compare_rows

LEVELS = ((0.01, "††"), (0.05, "†"))
_COSTS = ("parameters", "trained_parameters", "training_seconds", "training_cpu_seconds", "seconds_per_document")


@dataclass(frozen=True, slots=True)
class Compared:
    """`Tested` with p corrected by Holm's method over the rows compared on the same measure."""

    against: str
    tested: Tested
    p_holm: float


@dataclass(frozen=True, slots=True)
class RowResult:
    """A row with the seeds that have finished. scores: mean and standard deviation (n - 1) per measure.

    to_best, to_reference: per measure, against the best row of that measure and against the reference; none for the row
    itself. costs: mean of each over the seeds; what is said about them (device, threads, what memory is) as text.
    """

    row: StudyRow
    seeds: tuple[int, ...]
    missing: tuple[int, ...]
    scores: Mapping[str, tuple[float, float]]
    to_best: Mapping[str, Compared]
    to_reference: Mapping[str, Compared]
    costs: Mapping[str, float]
    said: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class StudyResult:
    """All rows, and what the scores rest on. best: the row with the highest mean, per measure."""

    study: Study
    rows: tuple[RowResult, ...]
    best: Mapping[str, str]
    admissions: int
    codes: int
    thresholds: tuple[str, ...]
    resamples: int
    failed: tuple[tuple[str, int, str], ...]


def gather(
    study: Study,
    runs: Sequence[StudyRun],
    out: Path,
    failed: Mapping[str, str],
    *,
    resamples: int,
    tell: Callable[[str], None],
) -> StudyResult | None:
    """What the finished runs say; None where none is finished. `tell` is told which row is being tested."""
    done: dict[str, dict[int, RunScores]] = {row.name: {} for row in study.rows}
    for run in runs:
        folder = run_folder(out, run)
        if finished(folder, run.key):
            done[run.row][run.seed] = read_scores(folder)
    some = next((scores for by_seed in done.values() for scores in by_seed.values()), None)
    if some is None:
        return None
    scores = {name: _mean_scores(list(by_seed.values())) for name, by_seed in done.items()}
    best = {m: max(scores, key=lambda name: _low_nan(scores[name][m][0])) for m in MEASURES}
    pairs = _Pairs(done, resamples, tell)
    to_best, to_reference = _against(study, best, pairs), {}
    if study.reference is not None:
        to_reference = _against(study, dict.fromkeys(MEASURES, study.reference), pairs)
    rows = tuple(
        RowResult(
            row,
            tuple(done[row.name]),
            tuple(seed for seed in study.seeds if seed not in done[row.name]),
            scores[row.name],
            to_best.get(row.name, {}),
            to_reference.get(row.name, {}),
            *_costs(list(done[row.name].values())),
        )
        for row in study.rows
    )
    sources = {str(s.record["metrics"]["threshold_source"]) for by_seed in done.values() for s in by_seed.values()}
    reasons = tuple((run.row, run.seed, failed[run.key]) for run in runs if run.key in failed)
    n, k = some.targets.shape
    return StudyResult(study, rows, best, n, k, tuple(sorted(sources)), resamples, reasons)


class _Pairs:
    """Comparisons of two rows on their common seeds."""

    def __init__(
        self, done: Mapping[str, Mapping[int, RunScores]], resamples: int, tell: Callable[[str], None]
    ) -> None:
        self._done, self._resamples, self._tell = done, resamples, tell
        self._known: dict[tuple[str, str, str], Tested] = {}

    def __call__(self, first: str, second: str, measures: Sequence[str]) -> dict[str, Tested]:
        """These measures of the first against the second; nothing without a common seed."""
        common = [seed for seed in self._done[first] if seed in self._done[second]]
        if not common:
            return {}
        new = [m for m in measures if (first, second, m) not in self._known]
        if new:
            self._tell(f"testing {first} against {second}")
            one, other = ([self._done[name][seed] for seed in common] for name in (first, second))
            for m, tested in compare_rows(one, other, new, resamples=self._resamples).items():
                self._known[first, second, m] = tested
        return {m: self._known[first, second, m] for m in measures}


def _against(study: Study, other: Mapping[str, str], pairs: _Pairs) -> dict[str, dict[str, Compared]]:
    """Per row and measure, the row against the row that is `other` on this measure; Holm within a measure."""
    out: dict[str, dict[str, Compared]] = {row.name: {} for row in study.rows}
    for against in dict.fromkeys(other.values()):
        measures = [m for m in other if other[m] == against]
        tested = {row.name: pairs(row.name, against, measures) for row in study.rows if row.name != against}
        for m in measures:
            there = {name: found[m] for name, found in tested.items() if m in found}
            for (name, one), p in zip(there.items(), holm([t.p for t in there.values()]), strict=True):
                out[name][m] = Compared(against, one, p)
    return out


def _mean_scores(runs: Sequence[RunScores]) -> dict[str, tuple[float, float]]:
    return {m: over_seeds([_value(run, m) for run in runs]) if runs else (math.nan, math.nan) for m in MEASURES}


def _value(run: RunScores, measure: str) -> float:
    metrics = run.record["metrics"]
    found = metrics["precision_at"][measure.rsplit("_", 1)[1]] if "_at_" in measure else metrics[measure]
    return math.nan if found is None else float(found)


def _low_nan(value: float) -> float:
    return -math.inf if math.isnan(value) else value


def _costs(runs: Sequence[RunScores]) -> tuple[dict[str, float], dict[str, str]]:
    """Means over the runs, the largest memory, and what was measured on what."""
    if not runs:
        return {}, {}
    found = [run.record["cost"] for run in runs]
    costs = {name: over_seeds([float(cost[name]) for cost in found])[0] for name in _COSTS}
    for name in ("training_memory", "scoring_memory"):
        if all(cost[name] for cost in found):
            costs[f"{name}_bytes"] = max(float(cost[name]["bytes"]) for cost in found)
    costs["truncated_documents"] = max(float(run.record["truncated"]["documents"]) for run in runs)
    said = {
        "device": ", ".join(sorted({str(cost["device"]) for cost in found})),
        "threads": ", ".join(sorted({str(cost["threads"]) for cost in found})),
        "memory": ", ".join(sorted({cost["training_memory"]["of"] for cost in found})),
    }
    return costs, said


def write_tables(result: StudyResult, out: Path) -> None:
    """Write table.md, table.csv and table.json into the folder."""
    write_text(out / "table.md", markdown(result))
    write_text(out / "table.csv", as_csv(result))
    write_json(out / "table.json", as_json(result))


def as_json(result: StudyResult) -> dict[str, Any]:
    """Everything, as plain values."""
    study = result.study
    rows = [
        {
            "name": row.row.name,
            "label": row.row.label,
            "changed": dict(row.row.changed),
            "seeds": list(row.seeds),
            "missing_seeds": list(row.missing),
            "scores": {m: {"mean": mean, "sd": sd} for m, (mean, sd) in row.scores.items()},
            "to_best": {m: _plain(found) for m, found in row.to_best.items()},
            "to_reference": {m: _plain(found) for m, found in row.to_reference.items()},
            "costs": dict(row.costs),
            "measured_on": dict(row.said),
        }
        for row in result.rows
    ]
    return {
        **run_record("study", {"title": study.title, "corpus": str(study.corpus), "resamples": result.resamples}, None),
        "split": study.split,
        "admissions": result.admissions,
        "codes": result.codes,
        "thresholds": list(result.thresholds),
        "reference": study.reference,
        "best": dict(result.best),
        "rows": rows,
        "failed": [{"row": row, "seed": seed, "reason": reason} for row, seed, reason in result.failed],
    }


def _plain(found: Compared) -> dict[str, Any]:
    return {"against": found.against, **dataclasses.asdict(found.tested), "p_holm": found.p_holm}


def as_csv(result: StudyResult) -> str:
    """One line per row and measure."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    tested = ("difference", "low", "high", "p", "seed_p")
    writer.writerow(
        ["row", "measure", "seeds", "mean", "sd", "best_row", "p_holm_to_best", "reference", *tested, "p_holm"]
    )
    for row in result.rows:
        for m, (mean, sd) in row.scores.items():
            to_best, to_reference = row.to_best.get(m), row.to_reference.get(m)
            cells: list[Any] = [row.row.name, m, len(row.seeds), mean, sd, result.best[m]]
            cells += [math.nan if to_best is None else to_best.p_holm, result.study.reference or ""]
            cells += [math.nan if to_reference is None else getattr(to_reference.tested, name) for name in tested]
            cells += [math.nan if to_reference is None else to_reference.p_holm]
            writer.writerow(["" if isinstance(cell, float) and math.isnan(cell) else cell for cell in cells])
    return file.getvalue()


def score_cell(result: StudyResult, row: RowResult, measure: str) -> str:
    """Mean (standard deviation); bold: the best; *: not significantly different from the best, as in the paper's Table 2."""
    mean, sd = row.scores[measure]
    if math.isnan(mean):
        return "–"
    text = f"{mean:.3f}" if math.isnan(sd) else f"{mean:.3f} ({sd:.3f})"
    if result.best[measure] == row.row.name:
        return f"**{text}**"
    found = row.to_best.get(measure)
    return text + ("*" if found is not None and found.p_holm > 0.05 else "")


def difference_cell(row: RowResult, measure: str) -> str:
    """The difference to the reference, with a mark for its level."""
    found = row.to_reference.get(measure)
    if found is None or math.isnan(found.tested.difference):
        return "–"
    mark = next((mark for level, mark in LEVELS if found.p_holm <= level), "")
    return f"{found.tested.difference:+.3f}{mark}"


def cost_cells(row: RowResult) -> tuple[str, ...]:
    """Parameters, those trained, training time, CPU time, time per document, memory."""
    if not row.costs:
        return ("–",) * 7
    seconds, cpu = row.costs["training_seconds"], row.costs["training_cpu_seconds"]
    memory = (row.costs.get("training_memory_bytes", math.nan), row.costs.get("scoring_memory_bytes", math.nan))
    return (
        f"{row.costs['parameters']:,.0f}",
        f"{row.costs['trained_parameters']:,.0f}",
        _time(seconds),
        _time(cpu),
        f"{1000 * row.costs['seconds_per_document']:.1f} ms",
        *("–" if math.isnan(m) else f"{m / 2**20:,.0f} MiB" for m in memory),
    )


COST_HEADS = (
    "parameters",
    "trained",
    "training",
    "its CPU time",
    "per document",
    "memory, training",
    "memory, scoring",
)


def _time(seconds: float) -> str:
    return f"{seconds / 3600:.2f} h" if seconds >= 3600 else f"{seconds:.1f} s"


def notes(result: StudyResult) -> list[str]:
    """What must be known to read the tables."""
    study, measured = result.study, [row.said for row in result.rows if row.said]
    lines = [
        f"Split {study.split}: {result.admissions} admissions, {result.codes} codes (the corpus' label set). Threshold: "
        f"{'; '.join(result.thresholds)}. Seeds: {', '.join(map(str, study.seeds))}; mean, and standard deviation (n - 1) "
        "over seeds in brackets.",
        "Bold: the best of the column. *: not significantly different from it (p > 0.05), as in Table 2 of Liu et al. 2022: "
        f"paired approximate randomisation over admissions, all seeds of an admission exchanged together, {result.resamples:,} "
        "exchanges, Holm over the rows of the column.",
        "Macro F1 (of macro P, R): harmonic mean of macro precision and recall, CAML's and the paper's. Macro F1 (mean of "
        "codes): scikit-learn's. P@k needs no threshold.",
    ]
    if study.reference is not None:
        lines.append(
            f"Differences are to {study.reference}, over the seeds that both have. † p ≤ 0.05, †† p ≤ 0.01, the same test and "
            "correction. Seeds: in how many seeds the micro F1 differs in the direction of the mean; with n seeds an exact test over "
            f"seeds cannot go below 2 / 2^n ({2 / 2 ** len(study.seeds):.3g} here)."
        )
    if measured:
        one = {name: "; ".join(sorted({said[name] for said in measured})) for name in measured[0]}
        lines.append(
            f"Measured on: {one['device']}, {one['threads']} threads per process. Training: wall time of the training command, with "
            "encoding and validation, and work repeated after a stop; runs at the same time share the machine. Memory: peak of the "
            f"{one['memory']}, the largest over seeds. Per document: reading, encoding and scoring one."
        )
    for row in result.rows:
        if row.missing:
            lines.append(f"{row.row.name}: no result of seed {', '.join(map(str, row.missing))}.")
    return lines + [f"Failed: {row}, seed {seed}: {reason}" for row, seed, reason in result.failed]


def seeds_agreeing(row: RowResult) -> str:
    """Of how many seeds the micro-F1 differs from the reference as the mean does."""
    found = row.to_reference.get("micro_f1")
    if found is None or not found.tested.by_seed:
        return "–"
    signs = [d * found.tested.difference > 0 for d in found.tested.by_seed]
    return f"{sum(signs)} of {len(signs)}"


def markdown(result: StudyResult) -> str:
    """The tables and their notes."""
    names = list(MEASURES.values())
    rows = result.rows
    parts = [f"# {result.study.title}", "## Scores"]
    parts.append(_table(["row", *names], [[_name(r), *(score_cell(result, r, m) for m in MEASURES)] for r in rows]))
    if result.study.reference is not None:
        parts.append(f"## Differences to {result.study.reference}")
        others = [row for row in rows if row.row.name != result.study.reference]
        cells = [[_name(r), *(difference_cell(r, m) for m in MEASURES), seeds_agreeing(r)] for r in others]
        parts.append(_table(["row", *names, "seeds"], cells))
    parts += ["## What they took", _table(["row", *COST_HEADS], [[_name(r), *cost_cells(r)] for r in rows])]
    parts += ["## Notes", "\n".join(f"- {line}" for line in notes(result))]
    return "\n\n".join(parts) + "\n"


def _name(row: RowResult) -> str:
    return f"{row.row.name}) {row.row.label}" if row.row.label and len(row.row.name) == 1 else _long_name(row.row)


def _long_name(row: StudyRow) -> str:
    return f"{row.name}: {row.label}" if row.label else row.name


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [list(heads), ["---"] + ["---:"] * (len(heads) - 1), *map(list, rows)]
    return "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines)

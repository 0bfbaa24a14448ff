"""`hilat plausibility`, `hilat faithfulness`, `hilat agreement`: what stored explanations are worth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial as bind
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hilat.admissions import HilatError
from hilat.cli.console import emit_json, table
from hilat.cli.measured import (
    admissions_of,
    cell_text,
    checked_view,
    each_explained,
    each_measured,
    known_admission,
    summed,
    tell,
)
from hilat.cli.options import CorpusFolder, Device, Interval, Json, ModelFolder, Overwrite, Seed

if TYPE_CHECKING:
    from explain.rows import Curve, Row, Summary
    from explain.table import Explained
    from explain.word_sets import PairWords
    from hilat.admissions import Admission

Explanations = Annotated[Path, typer.Option("--explanations", help="A folder that `hilat explain` wrote.")]
OutFolder = Annotated[Path | None, typer.Option("--out", help="Keep rows.parquet and summary.json in this folder.")]
Pairs = Annotated[
    str, typer.Option(help="Pairs of the printed table: all, gold, predicted, TP, FP or FN; --json and --out hold all.")
]
ByCode = Annotated[str, typer.Option("--by-code", help="Also print this measure for every code.")]
Shown = Annotated[str, typer.Option(help="Measures to print, comma between, or all.")]


def plausibility(
    explanations: Explanations,
    corpus: CorpusFolder,
    out_folder: OutFolder = None,
    pairs: Pairs = "TP",
    show: Shown = "average_precision,pointing_game,hit_at_3,evidence_mass,span_recall_at_5",
    by_code: ByCode = "",
    tune_on: Annotated[
        Path | None,
        typer.Option(help="Explanations of another split: also judge sets of words, by a threshold tuned there."),
    ] = None,
    interval: Interval = "percentile",
    seed: Seed = 0,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Compare explanations with the coders' evidence spans: do they point where people would?

    It measures whether they look right, not whether the model works that way.

    Example: [bold]hilat plausibility --explanations e --corpus c --pairs gold --tune-on e-val[/]
    """
    from explain.judging import GROUPS, plausibility_rows
    from explain.plausibility import METRICS
    from explain.word_sets import pair_words
    from hilat.cli.word_sets import tell_sets, tuned

    directions = {name: metric.up for name, metric in METRICS.items()}
    view = checked_view(directions, (pairs, show), seed, (out_folder, overwrite, json), by_code, interval)
    known, manifest = admissions_of(explanations, corpus)
    cuts = None if tune_on is None else tuned(tune_on, corpus, manifest)
    rows: list[Row] = []
    sets: dict[str, list[PairWords]] = {method: [] for method in manifest["methods"]}
    for one in each_explained(explanations, manifest, "measuring"):
        admission = known_admission(known, one.hadm_id)
        rows += plausibility_rows(one, admission)
        for method in one.methods if cuts else ():
            sets[method] += pair_words(one, admission, method)
    title = "Plausibility: agreement with evidence spans, which is not faithfulness"
    if cuts is None:
        tell(title, "plausibility", rows, directions, view, manifest)
        return
    wanted = GROUPS[pairs]
    chosen = {m: [p for p in part if wanted is None or p.outcome in wanted] for m, part in sets.items()}
    tell_sets(title, rows, directions, view, manifest, (cuts, chosen))


def faithfulness(
    model: ModelFolder,
    explanations: Explanations,
    corpus: CorpusFolder,
    out_folder: OutFolder = None,
    pairs: Pairs = "predicted",
    show: Shown = "comprehensiveness,sufficiency,normalised_aopc,racu,decision_flip",
    by_code: ByCode = "",
    removal: Annotated[str, typer.Option(help="What becomes of a removed word: mask, pad, unk or delete.")] = "mask",
    steps: Annotated[int, typer.Option(min=0, help="Steps of the curves; 0: every word.")] = 20,
    groups: Annotated[int, typer.Option(min=0, help="Groups of words for the normalised AOPC; 0: not measured.")] = 8,
    leave_one_out: Annotated[bool, typer.Option(help="Compare with leave-one-out: a changed note per word.")] = True,
    infidelity: Annotated[
        int, typer.Option(min=0, help="Random removals per note for infidelity; 0: not measured.")
    ] = 0,
    soft: Annotated[
        int, typer.Option(min=0, help="Samples per pair for soft comprehensiveness and sufficiency; 0: not measured.")
    ] = 0,
    sensitivity: Annotated[
        int, typer.Option(min=0, help="Moves of the embeddings per note for max-sensitivity; 0: not measured.")
    ] = 0,
    admissions: Annotated[int, typer.Option(min=0, help="Only the first N admissions; 0: all.")] = 0,
    interval: Interval = "percentile",
    seed: Seed = 0,
    device: Device = "auto",
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Remove words as the explanations rank them, and see whether the model's output follows.

    With --out, a run that was stopped goes on where it stopped when it is given again, and several processes share the notes.

    Example: [bold]hilat faithfulness --model m --explanations e --corpus c --admissions 50[/]
    """
    from explain.collect import fingerprint
    from explain.faithfulness import METRICS, FaithfulnessOptions
    from explain.judging import RobustnessOptions, faithfulness_of, robustness_rows
    from explain.resuming import begin, finish
    from explain.robustness import ROBUSTNESS_METRICS
    from explain.rows import MeasuredNote, write_curves
    from hilat.coder import load_coder
    from hilat.processes import together

    more = RobustnessOptions(infidelity, soft, sensitivity, seed=seed)
    asked = {"infidelity": infidelity, "soft": soft, "max_s": sensitivity}
    also = {n: up for n, (up, _) in ROBUSTNESS_METRICS.items() if any(k and n.startswith(p) for p, k in asked.items())}
    directions = {**{name: metric.up for name, metric in METRICS.items()}, **also}
    show = show if show == "all" else ",".join([show, *also])
    view = checked_view(directions, (pairs, show), seed, (out_folder, overwrite, json), by_code, interval)
    options = FaithfulnessOptions(steps=steps or None, groups=groups, leave_one_out=leave_one_out, seed=seed)
    measured_by = {"removal": removal, "faithfulness": asdict(options), "robustness": asdict(more)}
    rows: list[Row] = []
    curves: list[Curve] = []
    passes = 0
    with together() as processes:
        coder = load_coder(model, device)
        known, manifest = admissions_of(explanations, corpus)
        key = {"model": fingerprint(coder), "explanations": manifest, **measured_by}
        partial = begin(out_folder, key, overwrite=overwrite, processes=processes)

        def measure(one: Explained) -> MeasuredNote:
            admission = known_admission(known, one.hadm_id)
            found = faithfulness_of(coder, one, admission, options, removal)  # type: ignore[arg-type]
            if not also:
                return found
            return replace(found, rows=(*found.rows, *robustness_rows(coder, one, admission, more, removal)))  # type: ignore[arg-type]

        each = bind(each_explained, explanations, manifest, "measuring", admissions)
        for _, found in each_measured(each, measure, partial, processes):
            rows += found.rows
            curves += found.curves
            passes += found.passes
    if not processes.first:
        return
    said = {**manifest, **measured_by, "chunks_encoded": passes}
    title = f"Faithfulness: removal by {removal}, {passes} chunks encoded"
    extra = {"curves.parquet": lambda path: write_curves(path, curves)}
    tell(title, "faithfulness", rows, directions, view, said, extra)
    finish(partial)


def attention_tests(
    model: ModelFolder,
    explanations: Explanations,
    corpus: CorpusFolder,
    out_folder: OutFolder = None,
    pairs: Pairs = "predicted",
    trials: Annotated[int, typer.Option(min=1, help="Permutations per pair.")] = 100,
    starts: Annotated[int, typer.Option(min=1, help="Starts of the adversarial search.")] = 3,
    randomise: Annotated[
        int, typer.Option(min=0, help="Also draw the model's weights anew, on the first N notes.")
    ] = 0,
    admissions: Annotated[int, typer.Option(min=0, help="Only the first N admissions; 0: all.")] = 0,
    interval: Interval = "percentile",
    seed: Seed = 0,
    device: Device = "auto",
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Change the attention and nothing else: shuffle it, even it out, take its top away, look for an adversary.

    With --out, a run that was stopped goes on where it stopped when it is given again, and several processes share the notes.
    Token and chunk level apart; no encoder pass per trial. Uniform and frozen attention as models of their own are
    settings of training: [bold]hilat train --set attention=uniform[/].

    Example: [bold]hilat attention-tests --model m --explanations e --corpus c --admissions 50 --randomise 5[/]
    """
    from explain.collect import fingerprint
    from explain.judging import ATTENTION_TESTS, attention_test_rows, groups_of, randomisation_rows
    from explain.resuming import begin, finish
    from explain.rows import MeasuredNote
    from hilat.coder import load_coder
    from hilat.processes import together

    view = checked_view({}, (pairs, "all"), seed, (out_folder, overwrite, json), interval=interval)
    tested_by = {"trials": trials, "starts": starts, "seed": seed}
    rows: list[Row] = []
    first: list[tuple[Explained, Admission]] = []
    with together() as processes:
        coder = load_coder(model, device)
        known, manifest = admissions_of(explanations, corpus)
        key = {"model": fingerprint(coder), "explanations": manifest, **tested_by}
        partial = begin(out_folder, key, overwrite=overwrite, processes=processes)

        def measure(one: Explained) -> MeasuredNote:
            admission = known_admission(known, one.hadm_id)
            found = attention_test_rows(coder, one, admission, trials=trials, starts=starts, seed=seed)
            return MeasuredNote(tuple(found))

        each = bind(each_explained, explanations, manifest, "testing", admissions)
        for one, found in each_measured(each, measure, partial, processes):
            rows += found.rows
            if len(first) < randomise and one.scored:
                first.append((one, known_admission(known, one.hadm_id)))
    if not processes.first:
        return
    randomised = randomisation_rows(coder, first, seed=seed)
    rows += randomised
    stages = list(dict.fromkeys(row.metric for row in randomised))
    says = {**ATTENTION_TESTS, **dict.fromkeys(stages, (False, "Spearman with the attention before"))}
    directions = {name: up for name, (up, _) in says.items()}
    summaries = summed("attention tests", rows, directions, view, {**manifest, **tested_by})
    finish(partial)
    if json:
        emit_json({"attention_tests": {name: [asdict(cell) for cell in cells] for name, cells in summaries.items()}})
        return
    chosen, cells = groups_of(rows)[pairs], summaries[pairs]
    n = len({(row.hadm_id, row.code) for row in chosen})
    table(
        f"Attention tests · {pairs}: {n} pairs · mean, ± half of its 95 % interval over admissions",
        ("test", "what it is", "value", "undefined"),
        [
            (cell.metric, says[cell.metric][1], cell_text(cell).replace("\n", " "), str(cell.interval.missing))
            for cell in cells
        ],
        left=2,
    )


def agreement(
    explanations: Explanations,
    out_folder: OutFolder = None,
    pairs: Pairs = "all",
    metric: Annotated[str, typer.Option(help="The measure of the printed matrix.")] = "kendall_tau_b",
    interval: Interval = "percentile",
    seed: Seed = 0,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Compare the methods of an explanation folder with each other, pair by pair.

    Example: [bold]hilat agreement --explanations e --metric overlap_at_5[/]
    """
    from explain.agreement import METRICS
    from explain.judging import agreement_rows, groups_of
    from explain.table import read_manifest

    if metric not in METRICS:
        raise HilatError(f"measure {metric!r} is not known; expected one of {', '.join(METRICS)}. Correct --metric")
    directions = {name: one.up for name, one in METRICS.items()}
    view = checked_view(directions, (pairs, "all"), seed, (out_folder, overwrite, json), interval=interval)
    manifest = read_manifest(explanations)
    methods = list(manifest["methods"])
    if len(methods) < 2:
        raise HilatError(
            f"{explanations} has one method ({methods[0]}); expected two or more to compare. Explain again with "
            "--method attention,input_x_gradient, say"
        )
    rows = [row for one in each_explained(explanations, manifest, "comparing") for row in agreement_rows(one)]
    summaries = summed("agreement", rows, directions, view, manifest)
    if json:
        emit_json({"agreement": {name: [asdict(cell) for cell in cells] for name, cells in summaries.items()}})
        return
    chosen = groups_of(rows)[pairs]
    cells = {cell.method: cell for cell in summaries[pairs] if cell.metric == metric}
    n = len({(row.hadm_id, row.code) for row in chosen})
    table(
        f"{metric}: {METRICS[metric].says} · {pairs}, {n} pairs · mean; intervals with --json",
        ("method", *(str(i + 1) for i in range(len(methods)))),
        [
            (f"{i + 1} {first}", *(_between(cells, methods, i, j) for j in range(len(methods))))
            for i, first in enumerate(methods)
        ],
    )


def _between(cells: Mapping[str, Summary], methods: Sequence[str], i: int, j: int) -> str:
    """The mean agreement of methods i and j, above the diagonal."""
    if j <= i:
        return ""
    estimate = cells[f"{methods[i]} × {methods[j]}"].interval.estimate
    return f"{estimate:.2f}" if math.isfinite(estimate) else "–"

"""`hilat plausibility`, `hilat faithfulness`, `hilat agreement`: what stored explanations are worth."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hilat.admissions import HilatError
from hilat.cli.console import emit_json, out, progress, say, table
from hilat.cli.options import CorpusFolder, Device, Json, ModelFolder, Overwrite, Seed

if TYPE_CHECKING:
    from explain.rows import Row, Summary
    from explain.table import Explained
    from hilat.admissions import Admission

Explanations = Annotated[Path, typer.Option("--explanations", help="A folder that `hilat explain` wrote.")]
OutFolder = Annotated[Path | None, typer.Option("--out", help="Keep rows.parquet and summary.json in this folder.")]
Pairs = Annotated[
    str, typer.Option(help="Pairs of the printed table: all, gold, predicted, TP, FP or FN; --json and --out hold all.")
]
Shown = Annotated[str, typer.Option(help="Measures to print, comma between, or all.")]


def plausibility(
    explanations: Explanations,
    corpus: CorpusFolder,
    out_folder: OutFolder = None,
    pairs: Pairs = "TP",
    show: Shown = "average_precision,pointing_game,hit_at_3,evidence_mass,span_recall_at_5",
    seed: Seed = 0,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Compare explanations with the coders' evidence spans: do they point where people would?

    It measures whether they look right, not whether the model works that way.

    Example: [bold]hilat plausibility --explanations e --corpus c --pairs gold[/]
    """
    from explain.judging import plausibility_rows
    from explain.plausibility import METRICS

    known, manifest = _admissions(explanations, corpus)
    rows = [
        row
        for one in _each(explanations, manifest, "measuring")
        for row in plausibility_rows(one, _known(known, one.hadm_id))
    ]
    directions = {name: metric.up for name, metric in METRICS.items()}
    title = "Plausibility: agreement with evidence spans, which is not faithfulness"
    _tell(title, "plausibility", rows, directions, (pairs, show, seed), (out_folder, overwrite, json), manifest)


def faithfulness(
    model: ModelFolder,
    explanations: Explanations,
    corpus: CorpusFolder,
    out_folder: OutFolder = None,
    pairs: Pairs = "predicted",
    show: Shown = "comprehensiveness,sufficiency,normalised_aopc,racu,decision_flip",
    removal: Annotated[str, typer.Option(help="What becomes of a removed word: mask, pad, unk or delete.")] = "mask",
    steps: Annotated[int, typer.Option(min=0, help="Steps of the curves; 0: every word.")] = 20,
    groups: Annotated[int, typer.Option(min=0, help="Groups of words for the normalised AOPC; 0: not measured.")] = 8,
    leave_one_out: Annotated[bool, typer.Option(help="Compare with leave-one-out: a changed note per word.")] = True,
    admissions: Annotated[int, typer.Option(min=0, help="Only the first N admissions; 0: all.")] = 0,
    seed: Seed = 0,
    device: Device = "auto",
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Remove words as the explanations rank them, and see whether the model's output follows.

    Example: [bold]hilat faithfulness --model m --explanations e --corpus c --admissions 50[/]
    """
    from explain.faithfulness import METRICS, FaithfulnessOptions
    from explain.judging import faithfulness_rows
    from hilat.coder import load_coder

    coder = load_coder(model, device)
    known, manifest = _admissions(explanations, corpus)
    options = FaithfulnessOptions(steps=steps or None, groups=groups, leave_one_out=leave_one_out, seed=seed)
    rows: list[Row] = []
    passes = 0
    for one in _each(explanations, manifest, "measuring", admissions):
        found, encoded = faithfulness_rows(coder, one, _known(known, one.hadm_id), options, removal)  # type: ignore[arg-type]
        rows += found
        passes += encoded
    directions = {name: metric.up for name, metric in METRICS.items()}
    said = {**manifest, "removal": removal, "faithfulness": asdict(options), "chunks_encoded": passes}
    title = f"Faithfulness: removal by {removal}, {passes} chunks encoded"
    _tell(title, "faithfulness", rows, directions, (pairs, show, seed), (out_folder, overwrite, json), said)


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
    seed: Seed = 0,
    device: Device = "auto",
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Change the attention and nothing else: shuffle it, even it out, take its top away, look for an adversary.

    Token and chunk level apart; no encoder pass per trial. Uniform and frozen attention as models of their own are
    settings of training: [bold]hilat train --set attention=uniform[/].

    Example: [bold]hilat attention-tests --model m --explanations e --corpus c --admissions 50 --randomise 5[/]
    """
    from explain.judging import ATTENTION_TESTS, attention_test_rows, groups_of, randomisation_rows
    from explain.rows import summarise, write_rows
    from hilat.coder import load_coder

    coder = load_coder(model, device)
    known, manifest = _admissions(explanations, corpus)
    rows: list[Row] = []
    first: list[tuple[Explained, Admission]] = []
    for one in _each(explanations, manifest, "testing", admissions):
        admission = _known(known, one.hadm_id)
        rows += attention_test_rows(coder, one, admission, trials=trials, starts=starts, seed=seed)
        if len(first) < randomise and one.scored:
            first.append((one, admission))
    randomised = randomisation_rows(coder, first, seed=seed)
    rows += randomised
    stages = list(dict.fromkeys(row.metric for row in randomised))
    says = {**ATTENTION_TESTS, **dict.fromkeys(stages, (False, "Spearman with the attention before"))}
    directions = {name: up for name, (up, _) in says.items()}
    chosen = _group(groups_of(rows), pairs)
    cells = summarise(chosen, directions, seed=seed)
    if out_folder is not None:
        write_rows(out_folder, rows, {pairs: cells}, {**manifest, "measure": "attention tests"}, overwrite=overwrite)
    if json:
        emit_json({"pairs": pairs, "attention_tests": [asdict(cell) for cell in cells]})
        return
    n = len({(row.hadm_id, row.code) for row in chosen})
    table(
        f"Attention tests · {pairs}: {n} pairs · mean, ± half of its 95 % interval over admissions",
        ("test", "what it is", "value", "undefined"),
        [
            (cell.metric, says[cell.metric][1], _cell(cell).replace("\n", " "), str(cell.interval.missing))
            for cell in cells
        ],
        left=2,
    )


def agreement(
    explanations: Explanations,
    out_folder: OutFolder = None,
    pairs: Pairs = "all",
    metric: Annotated[str, typer.Option(help="The measure of the printed matrix.")] = "kendall_tau_b",
    seed: Seed = 0,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Compare the methods of an explanation folder with each other, pair by pair.

    Example: [bold]hilat agreement --explanations e --metric overlap_at_5[/]
    """
    from explain.agreement import METRICS
    from explain.judging import agreement_rows, groups_of
    from explain.rows import summarise, write_rows
    from explain.table import read_manifest

    if metric not in METRICS:
        raise HilatError(f"measure {metric!r} is not known; expected one of {', '.join(METRICS)}. Correct --metric")
    manifest = read_manifest(explanations)
    methods = list(manifest["methods"])
    if len(methods) < 2:
        raise HilatError(
            f"{explanations} has one method ({methods[0]}); expected two or more to compare. Explain again with "
            "--method attention,input_x_gradient, say"
        )
    rows = [row for one in _each(explanations, manifest, "comparing") for row in agreement_rows(one)]
    directions = {name: one.up for name, one in METRICS.items()}
    chosen = _group(groups_of(rows), pairs)
    summaries = {pairs: summarise(chosen, directions, seed=seed)}
    if out_folder is not None:
        write_rows(out_folder, rows, summaries, {**manifest, "measure": "agreement"}, overwrite=overwrite)
    if json:
        emit_json({"pairs": pairs, "agreement": [asdict(cell) for cell in summaries[pairs]]})
        return
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


def _admissions(explanations: Path, corpus: Path) -> tuple[dict[str, Admission], dict[str, Any]]:
    from explain.table import read_manifest
    from hilat.corpora import read_corpus

    manifest = read_manifest(explanations)
    data = read_corpus(corpus, splits=[str(manifest["split"])])
    return {admission.hadm_id: admission for admission in data.admissions}, manifest


def _known(admissions: Mapping[str, Admission], hadm_id: str) -> Admission:
    if hadm_id not in admissions:
        raise HilatError(
            f"admission {hadm_id} was explained and is not in the corpus; expected the corpus that was explained. Give that one"
        )
    return admissions[hadm_id]


def _each(explanations: Path, manifest: Mapping[str, Any], what: str, most: int = 0) -> Iterator[Explained]:
    from itertools import islice

    from explain.table import read_explanations

    total = min(most or int(manifest["admissions"]), int(manifest["admissions"]))
    return progress(islice(read_explanations(explanations), total), total, what)


def _group(groups: Mapping[str, list[Row]], name: str) -> list[Row]:
    if name not in groups:
        raise HilatError(
            f"there are no pairs {name!r}; there are {', '.join(groups) or 'none'}. Choose one with --pairs"
        )
    return groups[name]


def _tell(
    title: str,
    kind: str,
    rows: Sequence[Row],
    directions: Mapping[str, bool],
    view: tuple[str, str, int],
    where: tuple[Path | None, bool, bool],
    manifest: Mapping[str, Any],
) -> None:
    """Sum up, keep, and print or emit."""
    from explain.judging import groups_of
    from explain.rows import summarise, write_rows

    (pairs, show, seed), (folder, overwrite, json) = view, where
    groups = groups_of(rows)
    chosen = _group(groups, pairs)
    wanted = list(directions) if show == "all" else [name.strip() for name in show.split(",") if name.strip()]
    unknown = [name for name in wanted if name not in directions]
    if unknown:
        raise HilatError(
            f"measure {unknown[0]!r} is not known; expected some of {', '.join(directions)}. Correct --show"
        )
    keep_all = folder is not None or json
    summaries = {
        name: summarise(part, directions, seed=seed) for name, part in groups.items() if keep_all or name == pairs
    }
    if folder is not None:
        write_rows(folder, rows, summaries, {**manifest, "measure": kind}, overwrite=overwrite)
    if json:
        emit_json({kind: {name: [asdict(cell) for cell in cells] for name, cells in summaries.items()}})
        return
    _print(title, pairs, chosen, summaries[pairs], [name for name in directions if name in wanted])
    if folder is not None:
        say(f"rows and summaries: {folder}")


def _print(title: str, pairs: str, rows: Sequence[Row], cells: Iterable[Summary], wanted: Sequence[str]) -> None:
    by = {(cell.method, cell.metric): cell for cell in cells}
    methods = list(dict.fromkeys(row.method for row in rows))
    n = len({(row.hadm_id, row.code) for row in rows})
    notes = len({row.hadm_id for row in rows})
    ups = {metric: by[methods[0], metric].up for metric in wanted}
    table(
        f"{title} · {pairs}: {n} pairs in {notes} admissions · mean, ± half of its 95 % interval over admissions",
        ("method", *(f"{name.replace('_', ' ')} {'↑' if ups[name] else '↓'}" for name in wanted)),
        [(method, *(_cell(by[method, name]) for name in wanted)) for method in methods],
    )
    if len(methods) > 1:
        out.print(f"* differs from {methods[0]} (paired randomisation over admissions, Holm over the table, p < 0.05)")
    missing = {
        name: (by[method, name].interval.missing, by[method, name].reasons)
        for method in methods[:1]
        for name in wanted
        if by[method, name].interval.missing
    }
    for name, (count, reasons) in missing.items():
        why = ", ".join(f"{reason} ({times})" for reason, times in reasons.items())
        out.print(f"{name}: {count} of {n} pairs undefined for {methods[0]}: {why}", style="dim", soft_wrap=True)


def _cell(cell: Summary) -> str:
    """A mean with its interval, and a star where it differs from the first method's."""
    span = cell.interval
    if not math.isfinite(span.estimate):
        return "–"
    star = "*" if math.isfinite(cell.p_holm) and cell.p_holm < 0.05 else ""
    if not math.isfinite(span.low):
        return f"{span.estimate:.3f}{star}"
    return f"{span.estimate:.3f}{star}\n±{(span.high - span.low) / 2:.3f}"

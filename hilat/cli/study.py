"""`hilat study`: rows of settings x seeds, trained, scored and compared."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hilat.admissions import HilatError
from hilat.cli.console import emit_json, out, say, table
from hilat.cli.options import BatchSize, Json

if TYPE_CHECKING:
    from hilat.study import Study, StudyRun
    from hilat.study_jobs import RunEvent
    from hilat.study_tables import StudyResult


def study(
    file: Annotated[
        Path, typer.Argument(help="A YAML file of a study; examples/studies has some.", metavar="FILE.yaml")
    ],
    out_folder: Annotated[Path, typer.Option("--out", help="Where runs and tables go; finished runs there are kept.")],
    corpus: Annotated[Path | None, typer.Option(help="A corpus folder, instead of the file's.")] = None,
    unlabelled: Annotated[Path | None, typer.Option(help="A folder of .txt files, instead of the file's.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Seeds, comma between, instead of the file's.")] = None,
    rows: Annotated[str | None, typer.Option(help="Only these rows, comma between (the reference stays).")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="A setting of the base as name=value; may be given many times.", show_default=False),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time; threads are divided among them.")] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps; or several, as cuda:0,cuda:1.")] = "auto",
    batch_size: BatchSize = 8,
    resamples: Annotated[int, typer.Option(min=100, help="Random exchanges of each test.")] = 10_000,
    keep_models: Annotated[
        bool, typer.Option("--keep-models/--no-keep-models", help="Keep each run's model, or only its predictions.")
    ] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list the runs.")] = False,
    json: Json = False,
) -> None:
    """Train and score every row of a study with every seed, and write the table with differences and tests.

    OUT gets runs/ (one folder per run) and table.md, table.csv, table.json. Called again, it keeps the runs that are finished,
    goes on with those that were stopped, and runs what is new.

    Examples:

      [bold]hilat study examples/studies/ablations.yaml --corpus corpora/mimic50 --out out/ablations --dry-run[/]

      [bold]hilat study examples/studies/ablations-planted.yaml --corpus corpora/planted --out out/ablations --jobs 4[/]
    """
    from hilat.runs import alone_in
    from hilat.study import plan_runs, read_study
    from hilat.study_jobs import run_all
    from hilat.study_run import RunOptions
    from hilat.study_tables import as_json, gather, write_tables

    overrides: dict[str, Any] = {
        "corpus": corpus,
        "unlabelled": unlabelled,
        "seeds": None if seeds is None else _numbers(seeds),
        "settings": _pairs(set_ or []),
    }
    given = _only(read_study(file, overrides), rows)
    runs = plan_runs(given)
    if dry_run:
        _show_plan(given, runs, out_folder, json)
        return
    options = RunOptions(device, batch_size, keep_models)
    with alone_in(out_folder, "hilat study"):
        failed = run_all(given, runs, out_folder, jobs=jobs, options=options, tell=_Told(len(runs)))
        result = gather(given, runs, out_folder, failed, resamples=resamples, tell=say)
        if result is not None:
            write_tables(result, out_folder)
    if result is not None:
        if json:
            emit_json(as_json(result))
        else:
            _show(result, out_folder)
    if failed:
        raise HilatError(
            f"{len(failed)} of {len(runs)} runs failed; the others are kept. Correct what is wrong and run the same command again"
        )


def run_one(folder: Annotated[Path, typer.Argument(help="A run's folder.")]) -> None:
    """One run of a study, which `hilat study` starts in a process of its own."""
    from hilat.study_run import run_in

    run_in(folder)


def _numbers(seeds: str) -> list[int]:
    try:
        return [int(seed) for seed in seeds.split(",")]
    except ValueError:
        raise typer.BadParameter(
            f"{seeds!r} is not a list of whole numbers such as 0,1,2", param_hint="--seeds"
        ) from None


def _pairs(texts: list[str]) -> dict[str, Any]:
    from hilat.cli.train import _pair

    return dict(_pair(text) for text in texts)


def _only(given: Study, rows: str | None) -> Study:
    from dataclasses import replace

    if rows is None:
        return given
    wanted = {name.strip() for name in rows.split(",")}
    names = [row.name for row in given.rows]
    unknown = sorted(wanted - set(names))
    if unknown:
        raise HilatError(f"the study has no row {', '.join(unknown)}; its rows are {', '.join(names)}. Correct --rows")
    return replace(given, rows=tuple(row for row in given.rows if row.name in wanted | {given.reference}))


class _Told:
    """Tells what happens to the runs, a line each, on standard error."""

    def __init__(self, total: int) -> None:
        self.total, self.done = total, 0

    def __call__(self, event: RunEvent) -> None:
        """Of one event."""
        if event.run is None:
            say(f"  {event.at}")
            return
        name = f"{event.run.row}, seed {event.run.seed}"
        if event.what == "started":
            say(f"started {name}: {event.folder}")
            return
        self.done += 1
        took = {"kept": "was finished before", "finished": f"finished in {event.seconds:.0f} s"}
        say(f"[{self.done}/{self.total}] {name}: {took.get(event.what) or f'FAILED: {event.reason}'}")


def _show_plan(given: Study, runs: tuple[StudyRun, ...], folder: Path, json: bool) -> None:
    from hilat.study_jobs import state_of

    changed = {row.name: ", ".join(f"{k}={v}" for k, v in row.changed.items()) or "the base" for row in given.rows}
    states = [state_of(folder, run) for run in runs]
    different = len({run.key for run in runs})
    if json:
        listed = [
            {"row": run.row, "seed": run.seed, "key": run.key, "state": state, "settings": run.settings.to_dict()}
            for run, state in zip(runs, states, strict=True)
        ]
        emit_json({"title": given.title, "corpus": str(given.corpus), "runs": listed, "different": different})
        return
    rows = [(run.row, str(run.seed), changed[run.row], state) for run, state in zip(runs, states, strict=True)]
    table(f"{given.title}: {len(runs)} runs on {given.corpus}", ("row", "seed", "changed", "state"), rows, left=4)
    out.print(
        f"{len(runs)} runs ({different} different): {len(given.rows)} rows x {len(given.seeds)} seeds; "
        f"{states.count('finished')} finished, {states.count('begun')} begun, {states.count('to run')} to run"
    )


def _show(result: StudyResult, folder: Path) -> None:
    from hilat.study_tables import cost_cells, difference_cell, notes, score_cell

    shown = {"micro_f1": "micro F1", "macro_f1_of_macro_p_r": "macro F1 (P, R)", "macro_f1_mean_of_codes": "macro F1 (mean)",
             "micro_auc": "micro AUC", "macro_auc": "macro AUC", "precision_at_5": "P@5"}  # fmt: skip
    rows = []
    for row in result.rows:
        cells = [score_cell(result, row, m) for m in shown]
        rows.append((row.row.name, *cells, difference_cell(row, "micro_f1"), cost_cells(row)[2]))
    table(result.study.title, ("row", *shown.values(), "± micro F1", "training"), rows)
    for line in notes(result):
        out.print(line, style="dim", soft_wrap=True)
    out.print(f"tables written to {folder / 'table.md'}, .csv and .json", soft_wrap=True)

"""`hilat tune`: search for settings with Optuna."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hilat.admissions import HilatError
from hilat.cli.console import emit_json, number, out, say, table
from hilat.cli.options import CorpusFolder, Device, Json

if TYPE_CHECKING:
    from hilat.tuning import TuningResult
    from hilat.tuning_trainer import TrialRow

_TOLD_EVERY = 30.0  # seconds


def tune(
    file: Annotated[
        Path, typer.Argument(help="A YAML file of a search; examples/search.yaml is one.", metavar="FILE.yaml")
    ],
    corpus: CorpusFolder,
    out_folder: Annotated[Path, typer.Option("--out", help="Where trials and results go; trials there are kept.")],
    trials: Annotated[int | None, typer.Option(min=1, help="How many trials in all, instead of the file's.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="A setting of all trials as name=value; may be given often.", show_default=False),
    ] = None,
    unlabelled: Annotated[
        Path | None, typer.Option(help="A folder of .txt files without codes, for a new encoder's vocabulary.")
    ] = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Search for training settings: many short trials on train, judged on val, never on test.

    OUT gets trials.csv (every trial) and best.yaml, which `hilat train --config` takes. Called again, it goes on where it
    stopped; with more --trials it adds to them. Optuna is an extra: pip install 'hilat\\[tune]'.

    Examples:

      [bold]hilat tune examples/search.yaml --corpus corpora/planted --out out/search --trials 10[/]

      [bold]hilat train --corpus corpora/planted --out out/run --config out/search/best.yaml[/]
    """
    from hilat.cli.study import _pairs
    from hilat.cli.train import _texts
    from hilat.corpora import read_corpus
    from hilat.corpora.folder import read_manifest
    from hilat.runs import alone_in
    from hilat.tuning import tune as run
    from hilat.tuning_space import read_search

    try:
        search = read_search(file, _pairs(set_ or []), trials)
    except HilatError as error:  # wrong usage, so exit code 2
        raise typer.BadParameter(str(error), param_hint="FILE.yaml / --set / --trials") from None
    there = read_manifest(corpus)["splits"]
    read = read_corpus(corpus, splits=tuple(name for name in ("train", "val") if name in there))
    texts = _texts(unlabelled) if unlabelled else []
    told = _Told(search.base.best, search.trials)
    with alone_in(out_folder, "hilat tune"):
        result = run(read, search, out_folder, unlabelled=texts, device=device, tell=told)
    if json:
        shown = {"trials": [dataclasses.asdict(row) for row in result.trials], "best": dataclasses.asdict(result.best)}
        emit_json({**shown, "settings": result.settings.to_dict(), "measure": search.base.best})
        return
    _show(result, search.base.best, list(search.space))
    out.print(
        f"settings written to {out_folder / 'best.yaml'}, all trials to {out_folder / 'trials.csv'}", soft_wrap=True
    )


class _Told:
    """Tells of each trial's end, and now and then of the one under way, on standard error."""

    def __init__(self, measure: str, trials: int) -> None:
        self.measure, self.trials = measure, trials
        self._told = time.monotonic()

    def __call__(self, row: TrialRow) -> None:
        """Of a trial."""
        values = ", ".join(f"{name} {_value(value)}" for name, value in row.values.items())
        reached = "" if row.measure is None else f", val {self.measure} {number(row.measure, 4)} at step {row.step}"
        if row.state == "running":
            if time.monotonic() - self._told > _TOLD_EVERY:
                self._told = time.monotonic()
                say(f"  trial {row.number}{reached}")
            return
        say(f"trial {row.number} {row.state}{reached} ({values}){': ' + row.reason if row.reason else ''}")


def _value(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _show(result: TuningResult, measure: str, names: list[str]) -> None:
    rows = [
        (str(row.number), row.state, number(row.measure, 4), "–" if row.step is None else str(row.step), number(row.seconds, 1),
         *(_value(row.values.get(name, "–")) for name in names))
        for row in result.trials
    ]  # fmt: skip
    table(f"{len(rows)} trials", ("trial", "state", f"val {measure}", "step", "seconds", *names), rows, left=2)
    best = result.best
    out.print(f"best: trial {best.number}, val {measure} {number(best.measure, 4)} (threshold 0.5) at step {best.step}")

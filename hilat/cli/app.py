"""The `hilat` command and its subcommands."""

from __future__ import annotations

import importlib.metadata
from typing import Annotated

import typer

from hilat.cli import (
    corpus,
    demo,
    doctor,
    errors,
    evaluate,
    evidence,
    explain,
    figure,
    judge,
    keywords,
    models,
    predict,
    pretrain,
    report,
    study,
    train,
    tune,
)

app = typer.Typer(
    name="hilat",
    help="Explainability evaluation for automated clinical coding: train HiLAT, explain every code, read the evidence.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        print(f"hilat {importlib.metadata.version('hilat')}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    del version


app.command("demo")(demo.demo)
app.command("doctor")(doctor.doctor)
app.add_typer(corpus.app, name="corpus")
app.command("pretrain")(pretrain.pretrain)
app.command("train")(train.train)
app.command("tune")(tune.tune)
app.command("study")(study.study)
app.command("study-run", hidden=True)(study.run_one)
app.command("evaluate")(evaluate.evaluate)
app.command("predict")(predict.predict)
app.command("explain")(explain.explain)
app.command("plausibility")(judge.plausibility)
app.command("faithfulness")(judge.faithfulness)
app.command("attention-tests")(judge.attention_tests)
app.command("agreement")(judge.agreement)
app.command("keywords")(keywords.keywords)
app.command("compare")(models.compare)
app.command("over-seeds")(models.over_seeds)
app.add_typer(evidence.app, name="evidence")
app.add_typer(errors.app, name="errors")
app.command("report")(report.report)
app.add_typer(figure.app, name="figure")

"""`hilat train`: fine-tune a coder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hilat.admissions import HilatError, plain_text
from hilat.cli.console import emit_json, number, out, say, training_progress
from hilat.cli.options import CorpusFolder, Device, Json


def train(
    corpus: CorpusFolder,
    out_folder: Annotated[Path, typer.Option("--out", help="The run folder; the model goes to OUT/model.")],
    config: Annotated[Path | None, typer.Option(help="A YAML file of settings; --set wins over it.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="One setting as name=value; may be given many times.", show_default=False),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last complete checkpoint in OUT.")] = False,
    unlabelled: Annotated[
        Path | None, typer.Option(help="A folder of .txt files without codes, for a new encoder's vocabulary.")
    ] = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Train HiLAT on a corpus; the settings default to the paper's.

    Examples:

      [bold]hilat train --corpus corpora/mimic50 --out runs/xlnet --config paper.yaml[/]

      [bold]hilat train --corpus corpora/mimic50 --out runs/bert --set encoder=bert-base-uncased --set steps=500[/]

      [bold]accelerate launch -m hilat train --corpus corpora/mimic50 --out runs/xlnet[/]
    """
    from hilat.corpora import read_corpus
    from hilat.settings import read_settings, settings_from
    from hilat.training import train as run

    given = dict(_pair(text) for text in set_ or [])
    texts = _texts(unlabelled) if unlabelled else []
    try:
        settings = read_settings(config, given) if config else settings_from(given, origin="--set")
    except HilatError as error:  # wrong usage, so exit code 2
        raise typer.BadParameter(str(error), param_hint="--config / --set") from None
    with training_progress() as tell:
        result = run(
            read_corpus(corpus), settings, out_folder, unlabelled=texts, device=device, resume=resume, tell=tell
        )
    card = result.coder.card
    summary = {
        "model": str(out_folder / "model"),
        "steps": result.steps,
        "best": card["best"],
        "final_loss": result.losses[-1][1] if result.losses else None,
        "threshold_source": result.coder.threshold_source,
        "truncated": card["truncated"],
    }
    if json:
        emit_json(summary)
        return
    best = card["best"]
    if best["value"] is not None:
        out.print(f"best val {best['measure']} {number(best['value'], 4)} (threshold 0.5) at step {best['step']}")
    lost = card["truncated"]
    say(f"{lost['train_documents']} training notes were longer than the chunks and lost {lost['train_words']} words")
    out.print(f"model written to {out_folder / 'model'}", soft_wrap=True)


def _texts(folder: Path) -> list[str]:
    files = sorted(folder.glob("*.txt")) if folder.is_dir() else []
    if not files:
        raise HilatError(f"{folder} holds no .txt file; expected a folder of notes, one per file. Check the path")
    return [plain_text(file.read_text(encoding="utf-8", errors="replace")) for file in files]


def _pair(text: str) -> tuple[str, Any]:
    import yaml

    name, sign, value = text.partition("=")
    if not sign:
        raise typer.BadParameter(f"{text!r} is not name=value", param_hint="--set")
    return name.strip(), yaml.safe_load(value)

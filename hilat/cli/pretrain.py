"""`hilat pretrain`: continual pretraining of an encoder on clinical notes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from hilat.admissions import HilatError
from hilat.cli.console import emit_json, number, out, say, table, training_progress
from hilat.cli.options import Device, Json


def pretrain(
    notes: Annotated[
        list[Path],
        typer.Option(
            "--notes",
            help="Where notes come from: a folder with MIMIC-III's NOTEEVENTS, CodiEsp's folder, a folder of .txt files, a "
            "table (CSV, JSONL, Parquet) or a corpus folder; may be given many times.",
            show_default=False,
        ),
    ],
    out_folder: Annotated[Path, typer.Option("--out", help="The run folder; the encoder goes to OUT/encoder.")],
    encoder: Annotated[
        str | None,
        typer.Option(
            help="A model name or folder, or new:xlnet / new:bert. Short for --set encoder=...", show_default=False
        ),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="A YAML file of settings; --set wins over it.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="One setting as name=value; may be given many times.", show_default=False),
    ] = None,
    kind: Annotated[str, typer.Option(help="mimic3, codiesp, texts, table or corpus; auto looks.")] = "auto",
    categories: Annotated[
        str, typer.Option(help="Of MIMIC-III: all, all-but-discharge, or names with commas between.")
    ] = "all",
    splits: Annotated[str, typer.Option(help="Of a corpus folder: names with commas between.")] = "train",
    text_column: Annotated[str, typer.Option(help="Of a table.")] = "text",
    id_column: Annotated[str, typer.Option(help="Of a table.")] = "hadm_id",
    without: Annotated[
        list[Path] | None,
        typer.Option(
            help="A corpus folder: notes of its admissions outside of train are left out, so that no model is judged on "
            "text that it was pretrained on; may be given many times.",
            show_default=False,
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last complete checkpoint in OUT.")] = False,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Pretrain an encoder on notes: XLNet by permutation language modelling, BERT and kin by masked modelling.

    The settings default to the paper's. OUT/encoder is an encoder for `hilat train --set encoder=OUT/encoder`.

    Examples:

      [bold]hilat pretrain --encoder xlnet-base-cased --notes mimic3/ --without corpora/mimic50 --out runs/plus[/]

      [bold]hilat pretrain --encoder xlnet-base-cased --notes mimic3/ --categories all-but-discharge --out runs/plus-ds[/]

      [bold]torchrun --nproc-per-node 8 -m hilat pretrain --encoder new:bert --notes notes/ --out runs/bert[/]
    """
    from hilat.cli.train import _pair
    from hilat.pretraining import pretrain as run
    from hilat.pretraining_data import Notes
    from hilat.pretraining_notes import NoteSource, judged_admissions
    from hilat.pretraining_settings import pretraining_settings

    given: dict[str, Any] = {"encoder": encoder} if encoder else {}
    given |= dict(_pair(text) for text in set_ or [])
    try:
        settings = pretraining_settings(config, given)
        sources = tuple(
            NoteSource(str(path), kind, _listed(categories), _listed(splits), text_column, id_column) for path in notes
        )
    except HilatError as error:  # wrong usage, so exit code 2
        raise typer.BadParameter(str(error), param_hint="--config / --set / --kind") from None
    read = Notes(sources, judged_admissions(without or []))
    with training_progress() as tell:
        result = run(read, settings, out_folder, device=device, resume=resume, tell=tell, tell_notes=_teller())
    if json:
        emit_json({"encoder": str(result.encoder), **result.card})
        return
    _show(result.card)
    out.print(f"encoder written to {result.encoder}", soft_wrap=True)


def _show(card: dict[str, Any]) -> None:
    """The statistics of the notes and the held-out losses."""
    columns = ("notes", "held_out_notes", "sentences", "words", "tokens")
    rows = [
        (f"{row['source']}: {row['category']}", *(f"{int(row[name]):,}" for name in columns))
        for row in card["statistics"]
    ]
    table("Notes", ("source: category", *columns), rows)
    measured = card["held_out"]
    rows = [(f"{m['step']:,}", number(m["loss"], 4), number(m["perplexity"], 2)) for m in measured]
    table("Held-out notes, per predicted token", ("step", "loss (nats)", "perplexity"), rows)
    for m in measured:
        if m["reason"]:
            say(m["reason"])
    if card["started_anew"]:
        say(f"weights that started anew: {', '.join(card['started_anew'][:5])}")


def _teller() -> Callable[[int], None]:
    """Says now and then how many notes are read."""
    read = 0

    def tell(more: int) -> None:
        nonlocal read
        read += more
        if read % 50_000 == 0:
            say(f"{read:,} notes read")

    return tell


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())

"""`hilat explain`: word scores for every code, as tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hilat.cli.console import emit_json, out, progress
from hilat.cli.options import BatchSize, CorpusFolder, Device, Json, ModelFolder, Overwrite, Split

if TYPE_CHECKING:
    from hilat.admissions import Admission
    from hilat.coder import Coder


def explain(
    model: ModelFolder,
    corpus: CorpusFolder,
    out_folder: Annotated[Path, typer.Option("--out", help="The explanation folder to write.")],
    split: Split = "test",
    codes: Annotated[
        str,
        typer.Option(
            help="Which codes of each note: all, predicted, gold, false-positive, false-negative, or codes; comma between."
        ),
    ] = "predicted,gold",
    batch_size: BatchSize = 8,
    device: Device = "auto",
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Write the word attention of a split's notes as Parquet tables (no note text in them).

    Examples:

      [bold]hilat explain --model runs/xlnet/model --corpus corpora/mimic50 --out runs/xlnet/explain[/]

      [bold]hilat explain --model m --corpus c --out e --codes false-positive,428.0[/]
    """
    from hilat.coder import load_coder
    from hilat.corpora import read_corpus

    coder = load_coder(model, device)
    data = read_corpus(corpus, splits=[split])
    choices = [choice.strip() for choice in codes.split(",") if choice.strip()]
    count = write(coder, model, data.split(split), out_folder, split, data.source, choices, batch_size, overwrite)
    summary = {"explanations": str(out_folder), "admissions": count, "codes": choices, "method": "attention"}
    if json:
        emit_json(summary)
    else:
        out.print(f"{count} admissions explained: {out_folder}", soft_wrap=True)


def write(
    coder: Coder,
    model: Path,
    admissions: Sequence[Admission],
    folder: Path,
    split: str,
    source: str,
    choices: list[str],
    batch_size: int,
    overwrite: bool,
) -> int:
    """Explain admissions into a folder, with a progress bar; returns how many."""
    import numpy as np

    from explain.collect import chosen_columns, collect
    from explain.table import write_explanations
    from hilat.provenance import run_record

    nothing = np.zeros(len(coder.code_book), dtype=bool)
    chosen_columns(choices, coder, nothing, nothing)  # a wrong code is told before the work begins
    manifest = {
        **run_record("explain", {"model": str(model), "split": split, "codes": choices}, None),
        "source": source,
        "split": split,
        "threshold_source": coder.threshold_source,
        "chunks": coder.layout.chunks,
        "label_set": list(coder.code_book.codes),
        "system": coder.code_book.system,
        "methods": {"attention": "global token attention (Liu et al. 2022, equation 10), summed over a word's tokens"},
    }
    stream = collect(coder, admissions, choices=choices, batch_size=batch_size)
    return write_explanations(
        folder, iter(progress(stream, len(admissions), "explaining")), manifest, overwrite=overwrite
    )

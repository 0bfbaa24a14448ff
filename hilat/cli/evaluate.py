"""`hilat evaluate`: score a model on a split."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from hilat.cli.console import emit_json, number, out, progress, table
from hilat.cli.options import BatchSize, CorpusFolder, Device, Json, ModelFolder, Split, Workers


def evaluate(
    model: ModelFolder,
    corpus: CorpusFolder,
    split: Split = "test",
    out_file: Annotated[Path | None, typer.Option("--out", help="Also write the result to this JSON file.")] = None,
    batch_size: BatchSize = 8,
    workers: Workers = 0,
    device: Device = "auto",
    card: Annotated[
        bool, typer.Option("--card", help="Also put the result into the model card, README.md of the model folder.")
    ] = False,
    per_code: Annotated[bool, typer.Option("--per-code", help="Print one row per code as well.")] = False,
    bands: Annotated[
        bool, typer.Option("--bands", help="Also score codes by how often the corpus' train split has them.")
    ] = False,
    json: Json = False,
) -> None:
    """Score a model on a split, at the model's own thresholds. Several processes share the notes.

    Examples:

      [bold]hilat evaluate --model runs/xlnet/model --corpus corpora/mimic50 --split test[/]

      [bold]hilat evaluate --model runs/xlnet/model --corpus corpora/mimic50 --card[/]

      [bold]torchrun --nproc-per-node 2 -m hilat evaluate --model runs/xlnet/model --corpus corpora/mimic50[/]
    """
    from hilat.coder import load_coder
    from hilat.corpora.streaming import open_split
    from hilat.evaluation import evaluate as score
    from hilat.files import write_json
    from hilat.frequency_bands import frequency_bands, training_counts
    from hilat.model_card import evaluation_entry, record_evaluation
    from hilat.processes import together
    from hilat.provenance import run_record

    with together() as processes:
        coder = load_coder(model, device)
        admissions = open_split(corpus, split)
        follow = partial(progress, what=f"scoring {split}") if processes.first else None
        result = score(coder, admissions, batch_size=batch_size, workers=workers, follow=follow, processes=processes)
    if not processes.first:
        return
    groups = frequency_bands(result.metrics.per_code, training_counts(open_split(corpus, "train"))) if bands else ()
    record: dict[str, Any] = {
        **run_record("evaluate", {"model": str(model), "corpus": str(corpus), "split": split}, None),
        "split": split,
        "admissions": len(admissions),
        "truncated": {"documents": result.truncated_documents, "words": result.truncated_words},
        "metrics": result.metrics.to_dict(),
        **({"bands": [band.to_dict() for band in groups]} if bands else {}),
    }
    if out_file is not None:
        write_json(out_file, record)
    if card:
        entry = evaluation_entry(result.metrics, admissions.source, split, result.truncated_documents)
        record_evaluation(model, coder, entry)
    if json:
        emit_json(record)
        return
    show(result, f"{split}, {len(admissions)} admissions", per_code=per_code)
    if bands:
        show_bands(groups)


def show_bands(bands: Sequence[Any]) -> None:
    """Print FrequencyBands."""
    table(
        "Codes by training admissions that have them",
        ("training", "codes", "present", "positives", "predicted", "micro P", "micro R", "micro F1", "macro F1", "AUC"),
        [
            (
                band.name,
                *(f"{count:,}" for count in (band.codes, band.present, band.positives, band.predicted)),
                *(
                    number(x)
                    for x in (band.micro_precision, band.micro_recall, band.micro_f1, band.macro_f1, band.macro_auc)
                ),
            )
            for band in bands
        ],
    )
    out.print(
        "present: codes with a positive in these documents; macro F1 and AUC are means over those.",
        style="dim",
        soft_wrap=True,
    )


def show(result: Any, title: str, *, per_code: bool = False) -> None:
    """Print the metrics of an Evaluation."""
    m = result.metrics
    rows = [
        ("AUC", number(m.micro_auc), number(m.macro_auc)),
        ("precision", number(m.micro_precision), number(m.macro_precision)),
        ("recall", number(m.micro_recall), number(m.macro_recall)),
        ("F1", number(m.micro_f1), f"{number(m.macro_f1_mean_of_codes)} / {number(m.macro_f1_of_macro_p_r)}"),
        ("mean average precision", number(m.micro_average_precision), number(m.mean_average_precision)),
        *((f"P@{k}", number(value), "") for k, value in m.precision_at.items()),
    ]
    table(f"{title} · threshold {m.threshold_source} · {m.codes} codes", ("measure", "micro", "macro"), rows)
    out.print(
        "macro F1: mean of the codes' F1 / harmonic mean of macro precision and recall (the paper's). "
        f"{m.codes_without_positives} codes have no positive here and are left out of macro AUC; "
        f"mean F1 of the other {m.codes - m.codes_without_positives}: {number(m.macro_f1_present)}.",
        style="dim",
        soft_wrap=True,
    )
    if result.truncated_documents:
        out.print(
            f"{result.truncated_documents} notes were longer than the chunks; {result.truncated_words} words were not read.",
            style="yellow",
            soft_wrap=True,
        )
    if per_code:
        table(
            "Per code",
            ("code", "title", "support", "predicted", "P", "R", "F1", "AUC"),
            [
                (
                    r.code,
                    r.title,
                    str(r.support),
                    str(r.predicted),
                    *(number(x) for x in (r.precision, r.recall, r.f1, r.auc)),
                )
                for r in m.per_code
            ],
            left=2,
        )

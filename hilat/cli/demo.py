"""`hilat demo`: everything once, on built-in notes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from hilat.cli.console import emit_json, number, out, say, training_progress
from hilat.cli.options import Json

# Found by trying (docs/codiesp.md): trained from nothing on a few hundred notes, it matters where everything starts.
QUICK: dict[str, Any] = {
    "encoder": "new:xlnet",
    "new_layers": 1,
    "new_width": 128,
    "new_heads": 4,
    "new_vocabulary": 2000,
    "new_embeddings": "cooccurrence",
    "new_embedding_std": 1.0,
    "new_init_std": 0.05,
    "new_local_heads": True,
    "label_init": "associations",
    "bias_init": "prevalence",
    "chunks": 5,
    "tokens": 66,
    "steps": 600,
    "batch_size": 8,
    "learning_rate": 1e-3,
    "embedding_learning_rate": 2e-3,
    "head_learning_rate": 4e-3,
    "init_std": 0.05,
    "warmup": 0.1,
    "weight_decay": 0.01,
    "evaluate_every": 150,
    "threshold": "global",
}
FULL: dict[str, Any] = {**QUICK, "new_layers": 2, "steps": 4000, "evaluate_every": 500}


def demo(
    out_folder: Annotated[Path, typer.Option("--out", help="Where everything is written.")] = Path("out/demo"),
    full: Annotated[bool, typer.Option("--full", help="A larger corpus and a longer training.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of the corpus and of the training.")] = 0,
    json: Json = False,
) -> None:
    """Build the built-in corpus, train a small HiLAT, evaluate, explain, and write the pages.

    Takes under four minutes on two CPU cores; --full takes longer and reaches more.

    Example: [bold]hilat demo[/]
    """
    import torch

    from explain.subject import MethodOptions
    from hilat.cli import evaluate as evaluate_command
    from hilat.cli import explain as explain_command
    from hilat.cli import report as report_command
    from hilat.corpora import read_corpus, write_corpus
    from hilat.corpora.planted import PlantedSettings, make_planted
    from hilat.evaluation import evaluate
    from hilat.files import write_json
    from hilat.settings import settings_from
    from hilat.training import train

    begun = time.monotonic()
    torch.set_num_threads(2)  # a small model gains nothing from more, and waits for them where cores are shared
    size = PlantedSettings(seed=seed, train=4000, val=400, test=400) if full else PlantedSettings(seed=seed)
    say("1/5 building the corpus")
    made = make_planted(size)
    folder = out_folder / "corpus"
    write_corpus(folder, made.admissions, made.code_book, source=made.source, notes=made.notes, overwrite=True)
    corpus = read_corpus(folder)
    say("2/5 training")
    settings = settings_from({**(FULL if full else QUICK), "seed": seed}, origin="the demo")
    _clear_run(out_folder / "run")
    with training_progress() as tell:
        coder = train(corpus, settings, out_folder / "run", device="cpu", tell=tell).coder
    say("3/5 evaluating on test")
    test = corpus.split("test")
    result = evaluate(coder, test)
    write_json(out_folder / "evaluation.json", result.metrics.to_dict())
    say("4/5 explaining")
    model = out_folder / "run" / "model"
    methods = ("attention", "input_x_gradient")
    plan = explain_command.Plan("test", corpus.source, ("predicted", "gold"), methods, MethodOptions())
    explain_command.write(coder, model, test, out_folder / "explain", plan, overwrite=True)
    say("5/5 writing pages")
    index, pages = report_command.write(out_folder / "explain", corpus, out_folder / "pages", overwrite=True)
    seconds = time.monotonic() - begun
    if json:
        emit_json({"index": str(index), "pages": pages, "seconds": seconds, "metrics": result.metrics.to_dict()})
        return
    evaluate_command.show(result, f"built-in test split, {len(test)} admissions")
    out.print(f"micro-F1 {number(result.metrics.micro_f1)} after {seconds:.0f} s in all. Look at:")
    out.print(f"  {index.resolve()}", soft_wrap=True)


def _clear_run(folder: Path) -> None:
    """The demo always trains anew."""
    import shutil

    shutil.rmtree(folder, ignore_errors=True)

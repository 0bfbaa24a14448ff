"""`hilat explain`: word scores for every code, as tables."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hilat.cli.console import emit_json, out, progress, say, table
from hilat.cli.options import BatchSize, CorpusFolder, Device, Json, ModelFolder, Overwrite, Seed, Split, Workers
from hilat.processes import ALONE, Processes

if TYPE_CHECKING:
    from explain.subject import MethodOptions
    from explain.table import Explained
    from hilat.admissions import Admission
    from hilat.coder import Coder
    from hilat.corpora.streaming import StoredSplit


def _list(asked: bool) -> None:
    """Show the methods and stop."""
    if not asked:
        return
    from explain.methods import METHODS

    table("Methods", ("name", "family", "what it is"), [(n, m.family, m.says) for n, m in METHODS.items()], left=3)
    raise typer.Exit


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
    method: Annotated[
        str, typer.Option(help="Methods, comma between, or all; `hilat explain --list-methods` tells them.")
    ] = "attention",
    join: Annotated[str, typer.Option(help="A word's score from its tokens': sum, mean or max.")] = "sum",
    removal: Annotated[str, typer.Option(help="What becomes of a removed word: mask, pad, unk or delete.")] = "mask",
    baseline: Annotated[str, typer.Option(help="Where path methods start: mask, pad or zero.")] = "mask",
    output: Annotated[
        str, typer.Option(help="What gradients and perturbation explain: logit or probability.")
    ] = "logit",
    steps: Annotated[
        int, typer.Option(min=1, help="Points of the path of integrated gradients and gradient SHAP.")
    ] = 50,
    samples: Annotated[int, typer.Option(min=10, help="Perturbed notes for LIME and KernelSHAP.")] = 1000,
    pool: Annotated[
        int,
        typer.Option(min=0, help="Changed versions of a chunk these notes are put together from; 0: each has its own."),
    ] = 200,
    seed: Seed = 0,
    batch_size: BatchSize = 8,
    workers: Workers = 0,
    list_methods: Annotated[  # noqa: ARG001
        bool, typer.Option("--list-methods", is_eager=True, callback=_list, help="Show the methods and stop.")
    ] = False,
    device: Device = "auto",
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Write the word scores of a split's notes as Parquet tables (no note text in them).

    A run that was stopped goes on where it stopped when the same command is given again. Several processes share the notes.

    Examples:

      [bold]hilat explain --model runs/xlnet/model --corpus corpora/mimic50 --out runs/xlnet/explain[/]

      [bold]hilat explain --model m --corpus c --out e --method attention,input_x_gradient --codes false-positive,428.0[/]

      [bold]torchrun --nproc-per-node 2 -m hilat explain --model m --corpus c --out e[/]
    """
    from explain.methods import METHODS, checked_methods
    from explain.subject import MethodOptions
    from hilat.coder import load_coder
    from hilat.corpora.streaming import open_split
    from hilat.processes import together

    methods = checked_methods(tuple(METHODS) if method == "all" else tuple(_listed(method)))
    options = MethodOptions(
        join=join,  # type: ignore[arg-type]
        removal=removal,  # type: ignore[arg-type]
        baseline=baseline,  # type: ignore[arg-type]
        output=output,  # type: ignore[arg-type]
        steps=steps,
        samples=samples,
        pool=pool,
        seed=seed,
    )
    choices = _listed(codes)
    begun = time.monotonic()
    with together() as processes:
        coder = load_coder(model, device)
        notes = open_split(corpus, split)
        plan = Plan(split, notes.source, tuple(choices), methods, options, batch_size, workers)
        write(coder, model, notes, out_folder, plan, overwrite, processes)
    if not processes.first:
        return
    summary = {
        "explanations": str(out_folder),
        "admissions": len(notes),
        "codes": choices,
        "methods": list(methods),
        "seconds": time.monotonic() - begun,
    }
    if json:
        emit_json(summary)
    else:
        out.print(f"{len(notes)} admissions explained by {', '.join(methods)}: {out_folder}", soft_wrap=True)


@dataclass(frozen=True)
class Plan:
    """What is to be explained, and how."""

    split: str
    source: str
    choices: tuple[str, ...]
    methods: tuple[str, ...]
    options: MethodOptions
    batch_size: int = 8
    workers: int = 0


def write(
    coder: Coder,
    model: Path,
    admissions: Sequence[Admission] | StoredSplit,
    folder: Path,
    plan: Plan,
    overwrite: bool,
    processes: Processes = ALONE,
) -> None:
    """Explain admissions into a folder, with a progress bar.

    The admissions are gone through twice: for a digest of all, then to be explained. Nothing is held of all of them.
    """
    import numpy as np

    from explain.collect import chosen_columns, collect, fingerprint
    from explain.methods import METHODS
    from explain.writing import PART, Run, unfinished, write_explanations
    from hilat.provenance import run_record

    nothing = np.zeros(len(coder.code_book), dtype=bool)
    chosen_columns(plan.choices, coder, nothing, nothing)  # a wrong code is told before the work begins
    options = asdict(plan.options)
    settings = {"model": str(model), "split": plan.split, "codes": list(plan.choices), "options": options}
    count, data = len(admissions), _digest(admissions)
    manifest = {
        **run_record("explain", settings, plan.options.seed),
        "source": plan.source,
        "split": plan.split,
        "threshold_source": coder.threshold_source,
        "chunks": coder.layout.chunks,
        "label_set": list(coder.code_book.codes),
        "system": coder.code_book.system,
        "methods": {name: METHODS[name].says for name in plan.methods},
        "model_fingerprint": fingerprint(coder),
        "data_fingerprint": data,
    }
    key = {
        "model": manifest["model_fingerprint"],
        "admissions": data,
        "codes": list(plan.choices),
        "methods": list(plan.methods),
        "options": options,
    }
    part = max(PART, plan.batch_size)
    done = min(unfinished(folder, part), count)
    if done and processes.first:
        say(f"going on after {done} admissions")

    def explained(parts: Sequence[slice]) -> Iterator[Explained]:
        stream = collect(
            coder,
            _chosen(admissions, parts),
            choices=plan.choices,
            methods=plan.methods,
            options=plan.options,
            batch_size=plan.batch_size,
            workers=plan.workers,
        )
        wanted = sum(one.stop - one.start for one in parts)
        yield from progress(stream, wanted, _title(processes)) if processes.first else stream

    write_explanations(folder, count, explained, manifest, Run(key, overwrite, part, processes))


def _title(processes: Processes) -> str:
    """What the bar says: of several processes, the first one's share is shown."""
    return "explaining" if processes.count == 1 else f"explaining, process 1 of {processes.count}"


def _chosen(admissions: Iterable[Admission], parts: Iterable[slice]) -> Iterator[Admission]:
    """The admissions of some parts, which stand in order and apart; all are read up to the last."""
    stream, at = iter(admissions), 0
    for part in parts:
        yield from islice(stream, part.start - at, part.stop - at)
        at = part.stop


def _digest(admissions: Iterable[Admission]) -> str:
    """A short digest of ids, texts and codes: the same data give the same one."""
    digest = hashlib.blake2b(digest_size=12)
    for a in admissions:
        digest.update("\x1f".join((a.hadm_id, a.text, *a.codes)).encode("utf-8", "surrogatepass") + b"\x1e")
    return digest.hexdigest()


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]

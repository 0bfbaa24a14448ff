"""Does pretraining on CodiEsp's uncoded background cases help to code the others? (The paper's main claim, on open data.)

    python -m benchmarks.codiesp_pretraining all --data FOLDER_OF_CODIESP --out out/codiesp_pretraining --jobs 4

The model is that of `benchmarks/codiesp.yaml`. Its encoder is made once (`prepare`): a vocabulary of the training and background
texts, and embeddings that start from co-occurrence in them ("cooccurrence", the recipe), or at random ("random"). Each
start is trained as it is, and after permutation language modelling on the same texts ("+pretrained"). So the arms of a
pair differ in the pretraining alone: the vocabulary, the texts that are read without codes and everything of the training
are the same. With a half and a quarter of the coded training cases (drawn by the seed, the same for all arms).

Measured: micro-F1 on dev at the paper's threshold of 0.5; dev decides nothing. The test is paired approximate
randomisation over the dev cases, each with its counts of all seeds, Holm over the fractions of a start.

To choose settings of the pretraining, `--judged rest` measures on the training cases that a fraction leaves, not on dev.

Jobs are independent and leave their result as a file, so that a run that was stopped goes on where it stopped:
`prepare`, then `pretrain --start S --seed N`, then `train --arm A --fraction F --seed N`, then `summarise`; `all` runs what is
missing, `--jobs` at a time, each a process of one thread.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from hilat.admissions import Admission
from hilat.cli.console import quiet_libraries, say, table
from hilat.coder import predict
from hilat.corpora import Corpus
from hilat.corpora.codiesp import background_texts, read_codiesp
from hilat.files import read_json, write_json
from hilat.metrics import evaluate_codes
from hilat.pretraining import pretrain, save_encoder
from hilat.pretraining_data import Notes, prepare_notes, read_prepared
from hilat.pretraining_models import language_model
from hilat.pretraining_notes import NoteSource
from hilat.pretraining_settings import PretrainingSettings
from hilat.settings import read_settings
from hilat.significance import holm, micro_f1_of, over_seeds, randomisation
from hilat.training import train

SETTINGS = Path(__file__).with_name("codiesp.yaml")
STARTS = ("cooccurrence", "random")
ARMS = tuple(f"{start}{suffix}" for start in STARTS for suffix in ("", "+pretrained"))
FRACTIONS = (1.0, 0.5, 0.25)
# What training and pretraining share: the encoder, and how a text is read.
OF_THE_RECIPE = (
    "encoder", "new_layers", "new_width", "new_heads", "new_feed_forward", "new_embedding_std", "new_init_std", "new_local_heads",
    "words", "order", "dropout",
)  # fmt: skip
HELD_OUT = 0.05  # of the notes are held out from pretraining, to see its loss


@dataclass(frozen=True)
class Place:
    """Where things are: CodiEsp, the results, and the device of the models."""

    data: Path
    out: Path
    device: str


def pretraining(start: str, given: argparse.Namespace) -> PretrainingSettings:
    """The settings of the start's pretraining; of the encoder, those of the recipe."""
    recipe = read_settings(SETTINGS)
    return PretrainingSettings(
        **{name: getattr(recipe, name) for name in OF_THE_RECIPE},
        new_vocabulary=given.vocabulary,
        new_embeddings=start,
        sequence=recipe.tokens,
        held_out=HELD_OUT,
        held_out_sequences=300,
        batch_size=64,
        epochs=given.pretraining_epochs,
        learning_rate=given.pretraining_rate,
        warmup=0.1,
        precision="float32",
        evaluate_every=1000,
        keep_checkpoints=1,
    )


def prepare(place: Place, given: argparse.Namespace) -> None:
    """The texts in a folder, and both starts as encoders."""
    texts = place.out / "texts"
    if not texts.exists():
        beside = place.out / ".texts"
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        for n, text in enumerate(background_texts(place.data)):
            (beside / f"background{n:04d}.txt").write_text(text, encoding="utf-8")
        for case in read_codiesp(place.data).split("train"):
            (beside / f"train-{case.hadm_id}.txt").write_text(case.text, encoding="utf-8")
        beside.rename(texts)
    notes = Notes((NoteSource(str(texts), "texts"),))
    data = place.out / "data"
    if not data.exists():  # the vocabulary is learned and the starts are made of all texts
        prepare_notes(data, notes, replace(pretraining("random", given), held_out=0.0))
    for start in STARTS:
        folder = place.out / "starts" / start
        if not folder.exists():
            read = read_prepared(data)
            model, _ = language_model(pretraining(start, given), read.tokenizer, read.train.notes())
            save_encoder(model, read.tokenizer, folder)


def scaled(folder: Path, out: Path, factor: float | None) -> None:
    """The encoder with its last normalisation times a factor, or with its mean gain at 1 (None)."""
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(folder, out)
    weights = load_file(folder / "model.safetensors")
    names = [name for name in weights if ".ff.layer_norm." in name]
    last = max(int(name.split(".layer.")[1].split(".")[0]) for name in names)
    gain, shift = (f"transformer.layer.{last}.ff.layer_norm.{part}" for part in ("weight", "bias"))
    times = 1.0 / float(weights[gain].mean()) if factor is None else factor
    weights[gain], weights[shift] = weights[gain] * times, weights[shift] * times
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})


def pretrain_job(place: Place, given: argparse.Namespace) -> None:
    """Pretrain one start with one seed.

    The recipe's embeddings have a spread of 1, and XLNet predicts by products with them: at the recipe's scale of the
    states (a gain of 1 in the last normalisation) the loss begins at 43 nats, four times that of even chances. So the
    pretraining begins at a tenth of that scale, and training at the recipe's again.
    """
    out = place.out / "pretrained" / f"{given.start}-seed{given.seed}"
    if (out / "seconds.json").exists():
        return
    begin = place.out / "pretrained" / f".{given.start}-seed{given.seed}"
    if not out.exists():
        scaled(place.out / "starts" / given.start, begin, 0.1)
    settings = replace(pretraining(given.start, given), encoder=str(begin), tokenizer="keep", seed=given.seed)
    begun = time.monotonic()
    notes = Notes((NoteSource(str(place.out / "texts"), "texts"),))
    result = pretrain(notes, settings, out, device=place.device, resume=out.exists())
    scaled(result.encoder, out / "scaled", None)
    for left in (begin, out / "training", out / "data"):
        shutil.rmtree(left, ignore_errors=True)
    write_json(out / "seconds.json", {"seconds": time.monotonic() - begun, "held_out": result.card["held_out"]})


def subset(cases: Sequence[Admission], fraction: float, seed: int) -> tuple[Admission, ...]:
    """A share of the coded cases, in their order; smaller shares of a seed are parts of its larger ones."""
    order = np.random.default_rng(seed).permutation(len(cases))
    return tuple(cases[i] for i in sorted(order[: max(1, round(fraction * len(cases)))]))


def encoder_of(place: Place, arm: str, seed: int) -> Path:
    """The encoder that an arm is trained from."""
    start, _, suffix = arm.partition("+")
    return place.out / "pretrained" / f"{start}-seed{seed}" / "scaled" if suffix else place.out / "starts" / start


def train_job(place: Place, given: argparse.Namespace) -> None:
    """Train one arm with one seed on a share of the coded cases, and count on dev."""
    rows = place.out / ("rows" if given.judged == "dev" else "rows-rest")
    file = rows / f"{given.arm}-{given.fraction:g}-seed{given.seed}.json"
    if file.exists():
        return
    corpus = read_codiesp(place.data)
    cases, judged = subset(corpus.split("train"), given.fraction, given.seed), corpus.split("dev")
    if given.judged == "rest":
        learned = {case.hadm_id for case in cases}
        judged = tuple(case for case in corpus.split("train") if case.hadm_id not in learned)
    row = measure(place, given, cases, judged)
    rows.mkdir(parents=True, exist_ok=True)
    write_json(file, row)


def measure(
    place: Place, given: argparse.Namespace, cases: Sequence[Admission], judged: Sequence[Admission]
) -> dict[str, Any]:
    """What a model that was trained on some cases gives on others. Counts are lists with a number per judged case."""
    book = read_codiesp(place.data).code_book
    settings = replace(
        read_settings(SETTINGS),
        encoder=str(encoder_of(place, given.arm, given.seed)),
        seed=given.seed,
        precision="float32",
    )
    if given.training_epochs:
        settings = replace(settings, epochs=given.training_epochs)
    out = place.out / "runs" / f"{given.arm}-{given.fraction:g}-seed{given.seed}"
    shutil.rmtree(out, ignore_errors=True)
    begun = time.monotonic()
    coder = train(Corpus(tuple(cases), book, "codiesp"), settings, out, device=place.device).coder
    scored = np.stack([p.probabilities for p in predict(coder, judged, batch_size=16)])  # (N, K)
    shutil.rmtree(out)
    targets = book.targets([a.codes for a in judged])
    measured = evaluate_codes(scored, targets, 0.5, threshold_source="fixed 0.5")
    said, true = scored >= 0.5, targets > 0.5
    return {
        "arm": given.arm,
        "fraction": given.fraction,
        "seed": given.seed,
        "cases": len(cases),
        "seconds": time.monotonic() - begun,
        "micro_f1": measured.micro_f1,
        "macro_f1": measured.macro_f1_mean_of_codes,
        "micro_auc": measured.micro_auc,
        "map": measured.mean_average_precision,
        "tp": (said & true).sum(axis=1).tolist(),
        "fp": (said & ~true).sum(axis=1).tolist(),
        "fn": (~said & true).sum(axis=1).tolist(),
    }


def counts(rows: Sequence[dict[str, Any]]) -> NDArray[np.float64]:
    """True positives, false positives and false negatives (N, 3) of each dev case, over all seeds."""
    return np.sum([np.stack([row["tp"], row["fp"], row["fn"]], axis=1) for row in rows], axis=0).astype(np.float64)


def summarise(place: Place, judged: str) -> None:
    """Print the tables of what is there, and keep them as summary.json."""
    folder = place.out / ("rows" if judged == "dev" else "rows-rest")
    rows = [read_json(file, what="a row") for file in sorted(folder.glob("*.json"))]
    found: dict[tuple[str, float], list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["arm"], row["fraction"]), []).append(row)
    said, lines = [], []
    for start in STARTS:
        pairs = [
            (f, found[start, f], found[f"{start}+pretrained", f])
            for f in FRACTIONS
            if (start, f) in found and (f"{start}+pretrained", f) in found
        ]
        tests = []
        for _, plain, pretrained in pairs:
            seeds = {r["seed"] for r in plain} & {r["seed"] for r in pretrained}
            both = [[r for r in side if r["seed"] in seeds] for side in (pretrained, plain)]
            tests.append((len(seeds), randomisation(counts(both[0]), counts(both[1]), micro_f1_of)))
        adjusted = holm([test.p for _, test in tests])
        for (fraction, plain, pretrained), (seeds, test), p in zip(pairs, tests, adjusted, strict=True):
            cells = [
                _cell(side, name)
                for name in ("micro_f1", "macro_f1", "micro_auc", "map")
                for side in (plain, pretrained)
            ]
            lines.append(
                (f"{start}, {plain[0]['cases']} cases", str(seeds), *cells, f"{test.difference:+.4f}", f"{p:.4f}")
            )
            said.append({"start": start, "fraction": fraction, "seeds": seeds, "difference": test.difference, "p": test.p,
                         "p_holm": p, "effect": test.effect, "superiority": test.superiority})  # fmt: skip
    names = ("micro-F1", "macro-F1", "micro-AUC", "mAP")
    columns = [name for title in names for name in (title, "pretrained")]
    table(
        f"CodiEsp {judged} at threshold 0.5, mean (sd) over seeds; difference of the pooled micro-F1, p of the paired test (Holm)",
        ("start of the embeddings", "seeds", *columns, "difference", "p"),
        lines,
    )
    for file in sorted((place.out / "pretrained").glob("*/seconds.json")):
        record = read_json(file, what="a pretraining")
        losses = ", ".join(f"{m['loss']:.3f} (step {m['step']})" for m in record["held_out"])
        say(f"{file.parent.name}: held-out loss {losses}; {record['seconds']:.0f} s")
    write_json(place.out / "summary.json", said)


def _cell(rows: Sequence[dict[str, Any]], name: str) -> str:
    mean, deviation = over_seeds([row[name] for row in rows])
    return f"{mean:.3f} ({deviation:.3f})" if len(rows) > 1 else f"{mean:.3f}"


def run_all(place: Place, given: argparse.Namespace) -> None:
    """Every job that is missing, `--jobs` at a time; trainings that need no pretraining run beside it."""
    prepare(place, given)
    trainings = [
        ("train", "--arm", arm, "--fraction", str(f), "--seed", str(seed))
        for f in given.fractions
        for seed in given.seeds
        for arm in given.arms
    ]
    waiting = [job for job in trainings if "+" in job[2]]
    starts = [start for start in STARTS if f"{start}+pretrained" in given.arms]
    first = [("pretrain", "--start", start, "--seed", str(seed)) for seed in given.seeds for start in starts]
    for jobs in ([*first, *(job for job in trainings if job not in waiting)], waiting):
        with ThreadPoolExecutor(given.jobs) as pool:
            list(pool.map(lambda job: _process(place, given, job), jobs))
    summarise(place, given.judged)


def _process(place: Place, given: argparse.Namespace, job: Sequence[str]) -> None:
    """One job in a process of its own."""
    shared = {"--data": place.data, "--out": place.out, "--device": place.device, "--vocabulary": given.vocabulary,
              "--pretraining-epochs": given.pretraining_epochs, "--pretraining-rate": given.pretraining_rate,
              "--training-epochs": given.training_epochs, "--judged": given.judged}  # fmt: skip
    options = [text for name, value in shared.items() for text in (name, str(value))]
    command = [sys.executable, "-m", "benchmarks.codiesp_pretraining", *job, *options]
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    begun = time.monotonic()
    done = subprocess.run(command, env={**os.environ, **threads}, capture_output=True, text=True, check=False)
    say(f"{' '.join(job)}: {time.monotonic() - begun:.0f} s{'' if done.returncode == 0 else ', FAILED'}")
    if done.returncode:
        say(done.stderr[-2000:])


def main() -> None:
    """Run one job, or all that are missing, or print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", choices=("prepare", "pretrain", "train", "summarise", "all"))
    parser.add_argument("--data", type=Path, required=True, help="the folder of CodiEsp as released")
    parser.add_argument("--out", type=Path, default=Path("out/codiesp_pretraining"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--start", choices=STARTS, default=STARTS[0])
    parser.add_argument("--arm", choices=ARMS, default=ARMS[0])
    parser.add_argument("--fraction", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--arms", choices=ARMS, nargs="+", default=list(ARMS))
    parser.add_argument("--fractions", type=float, nargs="+", default=list(FRACTIONS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--jobs", type=int, default=1, help="jobs at a time, each a process of one thread")
    parser.add_argument("--vocabulary", type=int, default=read_settings(SETTINGS).new_vocabulary)
    parser.add_argument("--pretraining-epochs", type=float, default=10.0)
    parser.add_argument("--pretraining-rate", type=float, default=2e-3)
    parser.add_argument("--training-epochs", type=float, default=0.0, help="0: those of the recipe")
    judged = "dev, or the training cases that a fraction leaves, to choose settings without looking at dev"
    parser.add_argument("--judged", choices=("dev", "rest"), default="dev", help=judged)
    given = parser.parse_args()
    quiet_libraries()
    place = Place(given.data, given.out, given.device)
    if given.job == "summarise":
        summarise(place, given.judged)
        return
    {"prepare": prepare, "pretrain": pretrain_job, "train": train_job, "all": run_all}[given.job](place, given)


if __name__ == "__main__":
    main()

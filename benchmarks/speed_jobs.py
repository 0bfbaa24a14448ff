"""Whole jobs: memory by the number of notes, and what worker processes and several processes bring.

    OMP_NUM_THREADS=1 python -m benchmarks.speed_jobs [--quick] [--only memory workers explain train] [--out jobs.json]

Planted notes (about 215 words), explained by attention for the coders' codes; models with random weights, one layer of width
128 as in the demo, and of width 32 for memory. memory: the highest memory of a process that explains, or evaluates, n
notes of a corpus on disk, above that before it, with the model loaded: its own, and all that is resident, with the pages of
files that the system keeps or drops as it likes; medians, since what allocators keep for later differs by 10 MB. workers,
explain, train: seconds by the clock, since several processes are compared; the ways take turns, medians. Explaining is timed
from the model's loading to the tables on disk; training is the difference of a long and a short run, by their steps. Without
a quiet machine these times say little.
"""

from __future__ import annotations

import argparse
import math
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.measuring import in_new_process, own_peak_megabytes, peak_megabytes
from explain.subject import MethodOptions
from hilat.admissions import Admission
from hilat.cleaning import CleaningRules
from hilat.cli.console import quiet_libraries, say, table
from hilat.cli.explain import Plan, write
from hilat.coder import Coder, load_coder, save_coder
from hilat.corpora import write_corpus
from hilat.corpora.planted import PlantedSettings, make_planted
from hilat.corpora.streaming import open_split
from hilat.encoding import ChunkLayout
from hilat.evaluation import evaluate
from hilat.files import read_json, write_json
from hilat.model import build_model
from hilat.vocabulary import train_sentencepiece

Rows = list[dict[str, Any]]
SIZES, QUICK_SIZES = (1_000, 3_000, 10_000), (50, 150)
STEPS = (10, 40)  # of the short and the long training run


def prepare(folder: Path, sizes: tuple[int, ...]) -> None:
    """Two models, and a corpus for each size with so many test notes."""
    made = make_planted(PlantedSettings(seed=1, train=64, val=1, test=max(sizes)))
    train = [a for a in made.admissions if a.split != "test"]
    test = [a for a in made.admissions if a.split == "test"]
    for size in sizes:
        chosen: list[Admission] = [*train, *test[:size]]
        write_corpus(folder / f"corpus-{size}", chosen, made.code_book, source="planted")
    texts = [a.text.lower() for a in train]
    tokenizer = train_sentencepiece(texts, folder / "tokenizer", vocab_size=1000, seed=0)
    n = len(made.code_book)
    for name, width in (("model", 128), ("tiny", 32)):
        encoder = {"model_type": "xlnet", "vocab_size": len(tokenizer), "d_model": width, "n_layer": 1, "n_head": 4, "d_inner": 4 * width, "pad_token_id": tokenizer.pad_token_id}  # fmt: skip
        model = build_model(encoder, n, chunks=5, tokens=66, seed=0).eval()
        given = (made.code_book, CleaningRules(), ChunkLayout(5, 66), np.full(n, 0.5), "fixed 0.5")
        save_coder(Coder(model, tokenizer, *given), folder / name)


def peaks_of(job: str, folder: Path, size: int) -> tuple[float, float]:
    """Of a process of its own: the job's peak in MB, of its own memory and of all that is resident."""
    quiet_libraries()
    coder = load_coder(folder / "tiny")
    _job(job, coder, folder, min(QUICK_SIZES))  # what is loaded and set up once
    resident: list[float] = []
    own = own_peak_megabytes(lambda: resident.append(peak_megabytes(partial(_job, job, coder, folder, size))))
    return own, resident[0]


def _job(job: str, coder: Coder, folder: Path, size: int) -> None:
    notes = open_split(folder / f"corpus-{size}", "test")
    if job == "evaluate":
        evaluate(coder, notes)
        return
    plan = Plan("test", "planted", ("gold",), ("attention",), MethodOptions())
    write(coder, folder / "tiny", notes, folder / f"{job}-out", plan, True)


def memory(folder: Path, sizes: tuple[int, ...], runs: int) -> Rows:
    """One row per job and number of notes, medians of so many runs; what the notes take on disk for comparison."""
    found: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for run in range(runs):
        for job in ("explain", "evaluate"):
            for size in sizes:
                say(f"{job}, {size} notes, run {run + 1} of {runs}")
                found.setdefault((job, size), []).append(
                    in_new_process(peaks_of, job, folder, size) or (math.nan, math.nan)
                )
    return [
        {
            "part": "memory",
            "job": job,
            "notes": size,
            "own_mb": median(own for own, _ in peaks),
            "resident_mb": median(resident for _, resident in peaks),
            "runs": peaks,
            "corpus_mb": (folder / f"corpus-{size}" / "admissions.parquet").stat().st_size / 1e6,
        }
        for (job, size), peaks in found.items()
    ]


def together(arguments: list[str], processes: int) -> list[str]:
    """The hilat command by so many processes with one thread each; their standard outputs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = [{"RANK": str(r), "LOCAL_RANK": str(r), "WORLD_SIZE": str(processes)} for r in range(processes)]
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "hilat", *arguments],
            env=common | (rank if processes > 1 else {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for rank in ranks
    ]
    said = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise RuntimeError(f"hilat {arguments[0]} failed with {processes} processes")
    return said


def explaining(folder: Path, size: int, processes: int, workers: int) -> float:
    """Seconds to explain `size` notes."""
    given = ["--model", folder / "model", "--corpus", folder / f"corpus-{size}", "--out", folder / "timed"]
    options = ["--codes", "gold", "--workers", workers, "--device", "cpu", "--overwrite", "--json"]
    said = together(["explain", *map(str, given), *map(str, options)], processes)
    (folder / "said.json").write_text(said[0], encoding="utf-8")
    return float(read_json(folder / "said.json", what="what hilat explain says")["seconds"])


def training(folder: Path, size: int, processes: int) -> float:
    """Seconds of one training step of a batch of 8, as the difference of two runs."""
    sets = {"encoder": "new:xlnet", "new_layers": 2, "new_width": 256, "new_heads": 4, "new_vocabulary": 1000, "chunks": 5, "tokens": 66,
            "batch_size": 8, "warmup": 1, "evaluate_every": 1000, "threshold": "fixed"}  # fmt: skip
    taken = []
    for steps in STEPS:
        given = [x for name, value in {**sets, "steps": steps}.items() for x in ("--set", f"{name}={value}")]
        with tempfile.TemporaryDirectory() as out:
            begun = time.monotonic()
            where = ["--corpus", str(folder / f"corpus-{size}"), "--out", f"{out}/run", "--device", "cpu", "--json"]
            together(["train", *where, *given], processes)
            taken.append(time.monotonic() - begun)
    return (taken[1] - taken[0]) / (STEPS[1] - STEPS[0])


def by_the_clock(part: str, unit: str, ways: Mapping[str, Callable[[], float]], runs: int) -> Rows:
    """Median of each way; they take turns."""
    taken: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(runs):
        for way, step in ways.items():
            say(f"{part}, {way}")
            taken[way].append(step())
    first = median(next(iter(taken.values())))
    return [
        {"part": part, "way": way, "unit": unit, "seconds": median(v), "ratio": first / median(v)}
        for way, v in taken.items()
    ]


def measure(quick: bool, only: tuple[str, ...] = ("memory", "workers", "explain", "train")) -> Rows:
    """All rows; see the module's own words."""
    sizes, runs, timed = (QUICK_SIZES, 1, 150) if quick else ((*SIZES, 50), 3, 1_000)
    rows: Rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, sizes)
        if "memory" in only:
            rows += memory(folder, tuple(size for size in sizes if size > min(sizes)), runs)
        if "workers" in only:
            ways = {f"{n} workers": partial(explaining, folder, timed, 1, n) for n in (0, 1, 2)}
            rows += by_the_clock("workers", f"{timed} notes explained", ways, runs)
        if "explain" in only:
            ways = {f"{n} processes": partial(explaining, folder, timed, n, 0) for n in (1, 2)}
            rows += by_the_clock("explain", f"{timed} notes explained", ways, runs)
        if "train" in only:
            ways = {f"{n} processes": partial(training, folder, min(sizes), n) for n in (1, 2)}
            rows += by_the_clock("train", "a training step of 8 notes", ways, runs)
    return rows


def show(rows: Rows) -> None:
    """Print the rows as two tables."""
    held = [row for row in rows if row["part"] == "memory"]
    if held:
        table(
            "Memory of whole jobs",
            ("job", "notes", "own peak, MB", "resident peak, MB", "notes on disk, MB"),
            [
                (r["job"], f"{r['notes']:,}", *(f"{r[of]:.1f}" for of in ("own_mb", "resident_mb", "corpus_mb")))
                for r in held
            ],
        )  # fmt: skip
    timed = [row for row in rows if row["part"] != "memory"]
    if timed:
        table(
            f"Seconds by the clock, {os.cpu_count()} cores",
            ("job", "way", "of", "seconds", "times as fast"),
            [(r["part"], r["way"], r["unit"], f"{r['seconds']:.2f}", f"{r['ratio']:.2f}") for r in timed],
            left=3,
        )


def summary(rows: Rows) -> Rows:
    """One process against two."""
    found = []
    for part in ("explain", "train"):
        ways = {row["way"]: row for row in rows if row["part"] == part}
        if ways:
            one, two = ways["1 processes"], ways["2 processes"]
            line = {"plain": f"{one['seconds']:.2f} s", "ours": f"{two['seconds']:.2f} s", "ratio": two["ratio"]}
            found.append({"what": f"{one['unit']}, 2 processes against 1", **line})
    return found


def main() -> None:
    """Measure what the command line asks for and print it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed_jobs", description=__doc__.splitlines()[0])
    parts = ("memory", "workers", "explain", "train")
    parser.add_argument("--quick", action="store_true", help="few notes, one run: a check, not a measurement")
    parser.add_argument("--only", nargs="+", choices=parts, default=parts)
    parser.add_argument("--out", type=Path, help="write the rows there as JSON too")
    asked = parser.parse_args()
    quiet_libraries()
    rows = measure(asked.quick, tuple(asked.only))
    show(rows)
    if asked.out is not None:
        write_json(asked.out, {"jobs": rows})


if __name__ == "__main__":
    main()

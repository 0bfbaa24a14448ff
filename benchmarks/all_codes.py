"""What all 8,929 codes of MIMIC-III cost: a training step of HiLAT at full size on the CPU, and scoring a split.

    OMP_NUM_THREADS=1 python -m benchmarks.all_codes [--quick] [--out all_codes.json]

The training step is a whole one, forward, backward and AdamW with the settings' groups, of a 12-layer XLNet of width 768
with random weights, on a document of 10 full chunks of 512 tokens; once without and once with gradient checkpointing
(`checkpointing: true`). Two steps are taken: AdamW's own state is there from the second one on. The memory is the highest
resident memory of the process, with Python, torch and the weights, so it needs a machine with about that much left.
Scoring: `hilat.metrics.evaluate_codes` on drawn scores of as many admissions as the full splits of MIMIC-III have.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measuring import in_new_process, peak_megabytes, resident_peak_megabytes
from benchmarks.speed import machine
from hilat.building import parameter_groups
from hilat.cli.console import quiet_libraries, say, table
from hilat.corpora.planted_many import code_shares
from hilat.files import write_json
from hilat.metrics import evaluate_codes
from hilat.model import HilatModel, build_model
from hilat.settings import TrainingSettings

CODES = 8929
SPLITS = {"val": 1631, "test": 3372}  # admissions of MIMIC-III's full splits (Mullenbach et al. 2018)
_MEAN_CODES = 16


@dataclass(frozen=True, slots=True)
class Size:
    """How large the model and its one document are."""

    codes: int = CODES
    layers: int = 12
    width: int = 768
    chunks: int = 10
    tokens: int = 512
    vocabulary: int = 32_000


def model_of(size: Size) -> HilatModel:
    """HiLAT on an XLNet of this size, random weights, in training mode."""
    encoder = {
        "model_type": "xlnet",
        "vocab_size": size.vocabulary,
        "d_model": size.width,
        "n_layer": size.layers,
        "n_head": size.width // 64,
        "d_inner": 4 * size.width,
        "dropout": 0.1,
    }
    return build_model(encoder, size.codes, seed=0, chunks=size.chunks, tokens=size.tokens).train()


def document(size: Size) -> dict[str, torch.Tensor]:
    """One document of full chunks, and its codes as labels (1, K)."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(10, size.vocabulary, (1, size.chunks, size.tokens), generator=generator)  # (1, C, T)
    given = torch.randperm(size.codes, generator=generator)[:_MEAN_CODES]
    labels = torch.zeros(1, size.codes).index_fill_(1, given, 1.0)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def step(model: HilatModel, optimizer: torch.optim.Optimizer, batch: dict[str, torch.Tensor]) -> dict[str, float]:
    """One optimiser step: loss, CPU and wall seconds, and the process's peak memory so far."""
    cpu, wall = time.process_time(), time.monotonic()
    loss = model(**batch).loss
    assert loss is not None
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return {
        "loss": float(loss.detach()),
        "cpu_s": time.process_time() - cpu,
        "wall_s": time.monotonic() - wall,
        "peak_mb": resident_peak_megabytes(),
    }


def two_steps(size: Size, checkpointing: bool) -> dict[str, Any]:
    """Of a process of its own: two steps, and what the weights alone take."""
    quiet_libraries()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = model_of(size)
    if checkpointing:
        model.gradient_checkpointing_enable()
    settings = TrainingSettings()
    optimizer = torch.optim.AdamW(parameter_groups(model, settings), lr=settings.learning_rate)
    batch = document(size)
    first, second = (step(model, optimizer, batch) for _ in range(2))
    parameters = sum(p.numel() for p in model.parameters())
    return {"checkpointing": checkpointing, "parameters": parameters, "first": first, "second": second}


def drawn(admissions: int, codes: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores and targets (N, K), with the codes' shares of the corpus of many codes."""
    rng = np.random.default_rng(0)
    targets = rng.random((admissions, codes)) < code_shares(codes)
    return rng.random((admissions, codes)) * 0.7 + targets * 0.3, targets


def scoring(admissions: int, codes: int) -> dict[str, Any]:
    """Of a process of its own: what one call of `evaluate_codes` takes beside its scores and targets."""
    scores, targets = drawn(admissions, codes)
    taken = []

    def score() -> Any:
        start = time.process_time()
        found = evaluate_codes(scores, targets, 0.5, threshold_source="fixed 0.5")
        taken.append(time.process_time() - start)
        return found

    extra = peak_megabytes(score)
    return {"admissions": admissions, "given_mb": scores.nbytes / 1e6, "extra_mb": extra, "cpu_s": taken[0]}


def measure(quick: bool) -> dict[str, Any]:
    """All numbers; quick: a small model and few admissions, a check of this file only."""
    size = Size(codes=300, layers=1, width=64, chunks=2, tokens=32, vocabulary=100) if quick else Size()
    steps = []
    for checkpointing in (False, True):
        say(f"training step, checkpointing {'on' if checkpointing else 'off'}")
        steps.append(in_new_process(two_steps, size, checkpointing))
    splits = {"val": 20, "test": 30} if quick else SPLITS
    scored = {}
    for name, count in splits.items():
        say(f"scoring {count} admissions")
        scored[name] = in_new_process(scoring, count, size.codes)
    return {"codes": size.codes, "steps": steps, "scoring": scored}


def show(found: dict[str, Any]) -> None:
    """Print the two tables."""
    rows = [
        (
            "on" if one["checkpointing"] else "off",
            f"{one['parameters'] / 1e6:.1f} M",
            *(f"{one['second'][name]:.0f}" for name in ("cpu_s", "wall_s")),
            f"{one['second']['peak_mb'] / 1000:.2f}",
            f"{one['second']['loss']:.3f}",
        )
        for one in found["steps"]
        if one is not None
    ]
    columns = ("checkpointing", "parameters", "CPU s", "wall s", "peak GB of the process", "loss")
    table(f"Training step, {found['codes']:,} codes, one document · {machine()}", columns, rows)
    rows = [
        (name, f"{one['admissions']:,}", f"{one['given_mb']:.0f}", f"{one['extra_mb']:.0f}", f"{one['cpu_s']:.1f}")
        for name, one in found["scoring"].items()
        if one is not None
    ]
    table("Scoring a split", ("split", "admissions", "scores, MB", "beside them, MB", "CPU s"), rows)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.all_codes", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small model: a check, not a measurement")
    parser.add_argument("--out", type=Path, help="write the numbers there as JSON")
    asked = parser.parse_args()
    quiet_libraries()
    torch.set_num_threads(1)
    found = measure(asked.quick)
    if asked.out is not None:
        write_json(asked.out, {"machine": machine(), "quick": asked.quick, **found})
    show(found)


if __name__ == "__main__":
    main()

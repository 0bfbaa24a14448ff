"""XLNet next to BERT: a part of `benchmarks.speed`.

XLNet (ours, transformers') and BERT (transformers', sdpa) of one size on chunks of 512 tokens, XLNet with the
token types of HiLAT's chunks (0, and 2 for <cls>). A training step is forward, backward and AdamW. Memory: "kept" is what
autograd holds for the backward pass beside parameters, per layer and chunk; "peak" is the highest resident memory of a
process of its own (Linux), less that before the step, after a first step on short chunks. Weights are random: time does
not depend on them.

bert: as transformers runs it. bert, our products: with its linear layers by the library that ours take
(`hilat.encoders.products`), on processors where that is another than torch's.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel, XLNetConfig, XLNetModel

from benchmarks.measuring import cpu_medians, in_new_process, peak_megabytes
from hilat.cli.console import quiet_libraries, say, table
from hilat.encoders import products
from hilat.encoders.xlnet import FastXLNetModel

TOKENS, VOCABULARY = 512, 1000
WAYS = ("bert", "bert, our products", "xlnet fast", "xlnet transformers")


@dataclass(frozen=True)
class Case:
    """One size and one kind of step. kind: "forward", "backward" (forward and backward), "training" (and AdamW)."""

    kind: str
    width: int
    heads: int
    layers: int
    chunks: int
    dropout: float
    runs: int

    @property
    def name(self) -> str:
        """The case in words."""
        step = {"forward": "forward", "backward": "forward + backward", "training": "training step"}[self.kind]
        return f"{step}, {self.layers} x {self.width}, {self.heads} heads, {self.chunks} chunks, dropout {self.dropout}"


CASES = (
    Case("forward", 768, 12, 1, 4, 0.0, 9),
    Case("backward", 768, 12, 1, 4, 0.0, 7),
    Case("backward", 768, 12, 1, 4, 0.1, 7),
    Case("forward", 256, 4, 4, 4, 0.0, 9),
    Case("backward", 256, 4, 4, 4, 0.0, 7),
    Case("training", 768, 12, 12, 4, 0.1, 2),
)


def make(way: str, case: Case) -> nn.Module:
    """A model of that kind with random weights, in the mode that the case asks for."""
    if way.startswith("bert"):
        config = BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=case.width,
            num_hidden_layers=case.layers,
            num_attention_heads=case.heads,
            intermediate_size=4 * case.width,
            hidden_dropout_prob=case.dropout,
            attention_probs_dropout_prob=case.dropout,
        )
        model: nn.Module = BertModel(config, add_pooling_layer=False)
        products.set_linear(model, fast=way != "bert")
    else:
        kind = FastXLNetModel if way == "xlnet fast" else XLNetModel
        model = kind(
            XLNetConfig(
                vocab_size=VOCABULARY,
                d_model=case.width,
                n_layer=case.layers,
                n_head=case.heads,
                d_inner=4 * case.width,
                dropout=case.dropout,
            )
        )
    return model.train(case.kind != "forward")


def step_of(way: str, case: Case) -> Callable[[int], None]:
    """A function that takes one step of the case on chunks of so many tokens."""
    torch.manual_seed(0)
    model = make(way, case)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-5) if case.kind == "training" else None

    def step(tokens: int) -> None:
        with torch.set_grad_enabled(case.kind != "forward"):
            output = run(way, model, case, tokens)
            if case.kind != "forward":
                torch.autograd.backward(output.mul(0.01).sum())
        if optimiser is not None:
            optimiser.step()
        model.zero_grad()

    return step


def run(way: str, model: nn.Module, case: Case, tokens: int) -> Tensor:
    """The model's output (B, T, D)."""
    ids = torch.randint(0, VOCABULARY, (case.chunks, tokens), generator=torch.Generator().manual_seed(0))
    given: dict[str, Any] = {"attention_mask": torch.ones_like(ids)}
    if not way.startswith("bert"):
        types = torch.zeros_like(ids)
        types[:, -1] = 2
        given |= {"token_type_ids": types, "use_mems": False}
    output: Tensor = model(ids, **given).last_hidden_state
    return output


def times(case: Case) -> dict[str, float]:
    """Median CPU seconds of a step, by way; the ways take turns."""
    quiet_libraries()
    return cpu_medians({way: partial(step_of(way, case), TOKENS) for way in ways()}, case.runs)


def ways() -> list[str]:
    """What is measured: BERT by our products where these are others than torch's."""
    return [way for way in WAYS if way != "bert, our products" or products.missing() is None]


def kept_megabytes(way: str, case: Case) -> float:
    """What autograd holds after the forward pass, per layer and chunk, in MB (10^6 bytes)."""
    model = make(way, case)
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    held: dict[int, Any] = {}  # by address; the storages stay alive, so that no address comes twice

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            held[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        run(way, model, case, TOKENS)
    total = sum(int(storage.nbytes()) for storage in held.values())
    return total / 1e6 / case.layers / case.chunks


def _peak(way: str, case: Case) -> float:
    """Of a process of its own: the step's peak memory."""
    quiet_libraries()
    torch.set_num_threads(1)
    step = step_of(way, case)
    step(16)
    return peak_megabytes(partial(step, TOKENS))


def measure(quick: bool) -> list[dict[str, Any]]:
    """One row per case and way; quick: 3 runs of each case, and no training step."""
    rows = []
    quickly = [replace(case, runs=min(3, case.runs)) for case in CASES if case.kind != "training"]
    for case in quickly if quick else CASES:
        say(case.name)
        taken = in_new_process(times, case) or times(case)  # what it held, up to 17 GB, ends with it
        for way in ways():
            kept = None if case.kind == "forward" else kept_megabytes(way, case)
            row = {"case": case.name, "way": way, "seconds": taken[way], "ratio": taken[way] / taken["bert"]}
            rows.append({**row, "kept_mb": kept, "peak_mb": in_new_process(_peak, way, case)})
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    """Print the rows as a table."""
    columns = ("step", "way", "CPU ms", "x BERT", "kept MB / layer / chunk", "peak MB")
    cells = []
    for row in rows:
        first = row["way"] == WAYS[0]
        memory = ["–" if row[name] is None else f"{row[name]:.1f}" for name in ("kept_mb", "peak_mb")]
        cells.append(
            [row["case"] if first else "", row["way"], f"{1e3 * row['seconds']:.0f}", f"{row['ratio']:.2f}", *memory]
        )
    table(f"Encoders, one thread, {platform.machine()}, torch {torch.__version__}", columns, cells, left=2)


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """XLNet's time in multiples of BERT's, transformers' and ours."""
    lines = []
    for name in dict.fromkeys(row["case"] for row in rows):
        of = {row["way"]: row for row in rows if row["case"] == name}
        plain, ours = of["xlnet transformers"], of["xlnet fast"]
        target = "1.25 x BERT" if name.startswith("forward,") else "1.2 x BERT"
        lines.append(
            {
                "what": f"XLNet, {name}",
                "plain": f"{plain['ratio']:.2f} x BERT",
                "ours": f"{ours['ratio']:.2f} x BERT",
                "ratio": plain["seconds"] / ours["seconds"],
                "target": target,
            }
        )
    return lines

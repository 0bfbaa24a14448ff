"""Whole documents of realistic length, from token ids to logits and gradients: a part of `benchmarks.speed`.

Four documents of 1,370, 2,159, 3,076 and 4,825 tokens (mean 2,858) in ten chunks of 512, XLNet of 4 layers x 256 or (not
with `--quick`) 2 layers x 768 with heads of 64, 50 codes, random weights (time does not depend on them). plain:
`benchmarks.plain`, which encodes all ten chunks of each by transformers' XLNet, with attention mask and token types, one
code after the other. ours: HilatModel. Padding takes attention in both, as published, or in neither ("masked"). A training
step is forward and backward, without optimiser.

One thread and CPU time; two threads and the time that passes where said, for which nothing else should run.

at best: what our step would take if its matrix products ran as fast as a product of 2048 x 2048 numbers did in the same
run, by the library that ours take, and everything else took no time. Attention in C can be faster than that library.

torch's products: ours without oneDNN, on processors where that is the faster library (`hilat.encoders.products`).

in blocks: ours where no C compiler is there, XLNet's attention by torch's operations; "at best" counts this one's.

chunks again: our training step with gradient checkpointing, which keeps hidden states and encodes one chunk at a time
again in the backward pass.

Memory is the highest resident memory of a process of its own in its first such step (Linux), less that before it; a step
on short chunks goes before, so that libraries are loaded. In inference the median of three processes: what the allocator
gives back to the system, and when, makes some tens of MB.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import XLNetConfig

from benchmarks.measuring import (
    LARGE_PRODUCT_GFLOP,
    cpu_medians,
    in_new_process,
    large_product,
    peak_megabytes,
    product_gflop,
)
from benchmarks.plain import PlainHilat
from hilat.cli.console import quiet_libraries, say, table
from hilat.encoders import products, xlnet_token_types
from hilat.model import build_model

LENGTHS = (1370, 2159, 3076, 4825)
CHUNKS, TOKENS, CODES, VOCABULARY = 10, 512, 50, 1000
PAD, EMPTY = 5, (4, 3)


@dataclass(frozen=True)
class Case:
    """One kind of step. dropout: of encoder and head. width, layers: of the encoder. threads: of torch."""

    training: bool
    attend_padding: bool
    dropout: float
    runs: int
    ways: tuple[str, ...] = ("plain", "ours")
    width: int = 256
    layers: int = 4
    threads: int = 1

    @property
    def name(self) -> str:
        """The case in words."""
        step = f"training step, dropout {self.dropout}" if self.training else "inference"
        padding = "attended to" if self.attend_padding else "masked"
        threads = "" if self.threads == 1 else f", {self.threads} threads"
        return f"{step}, padding {padding}, {self.layers} x {self.width}{threads}"


CASES = (
    Case(False, True, 0.0, 5),
    Case(False, False, 0.0, 5, ("plain", "ours", "torch's products", "in blocks")),
    Case(True, True, 0.0, 5),
    Case(True, False, 0.0, 5),
    Case(True, True, 0.1, 5),
    Case(True, False, 0.1, 5, ("plain", "ours", "torch's products", "in blocks", "chunks again")),
    Case(False, False, 0.0, 5, threads=2),
    Case(True, False, 0.1, 5, threads=2),
    Case(False, False, 0.0, 3, width=768, layers=2),
    Case(True, False, 0.1, 3, width=768, layers=2),
)


def documents(tokens: int) -> dict[str, Tensor]:
    """The four documents in chunks of so many tokens, those of one word where that is little."""
    room = tokens - 2
    content = torch.tensor([[min(max(n - c * room, 0), room) for c in range(CHUNKS)] for n in LENGTHS])  # (B, C)
    mask = (torch.arange(tokens) < content[..., None] + 2).long()  # (B, C, T)
    types = xlnet_token_types(mask.flatten(0, 1)).view_as(mask)
    ids = torch.randint(6, VOCABULARY, mask.shape, generator=torch.Generator().manual_seed(0))
    ids = torch.where(types == 2, EMPTY[1], torch.where(types == 3, PAD, ids))
    position = torch.arange(tokens).expand_as(mask)
    ids = torch.where((position == content[..., None]) & (mask > 0), EMPTY[0], ids)  # <sep> before <cls>
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}


def model_of(way: str, case: Case) -> nn.Module:
    """A model with the weights that every way has."""
    torch.manual_seed(0)
    encoder = XLNetConfig(
        vocab_size=VOCABULARY,
        d_model=case.width,
        n_layer=case.layers,
        n_head=case.width // 64,
        d_inner=4 * case.width,
        dropout=case.dropout,
        pad_token_id=PAD,
    )
    model = build_model(
        encoder, CODES, seed=0, chunks=CHUNKS, tokens=TOKENS, attend_padding=case.attend_padding, dropout=case.dropout
    ).train(case.training)
    if way == "in blocks":
        model.encoder.path = "blocks"  # type: ignore[assignment]
    if way == "chunks again":
        model.activation_checkpointing_enable()
    return PlainHilat(model) if way == "plain" else model


def step_of(way: str, case: Case) -> Callable[[int], Any]:
    """A function that takes one step of the case on chunks of so many tokens."""
    model = model_of(way, case)
    labels = (torch.rand(len(LENGTHS), CODES, generator=torch.Generator().manual_seed(1)) < 0.1).float()

    def step(tokens: int) -> Tensor:
        with products.by("torch") if way == "torch's products" else nullcontext():
            return taken(documents(tokens))

    def taken(inputs: dict[str, Tensor]) -> Tensor:
        model.zero_grad()
        with torch.set_grad_enabled(case.training):
            if way == "plain":
                logits: Tensor = model(**inputs)
                loss = F.binary_cross_entropy_with_logits(logits, labels)
            else:
                output = model(**inputs, labels=labels)
                logits, loss = output.logits, output.loss
        if case.training:
            torch.autograd.backward(loss)
        return logits.detach()

    return step


def _peak(way: str, case: Case) -> float:
    """Of a process of its own: the step's peak memory."""
    quiet_libraries()
    torch.set_num_threads(case.threads)
    step = step_of(way, case)
    step(8)
    return peak_megabytes(partial(step, TOKENS))


def measure(quick: bool) -> list[dict[str, Any]]:
    """One row per case and way; quick: one run of each at width 256."""
    rows = []
    for case in [replace(case, runs=1) for case in CASES if case.width == 256] if quick else CASES:
        say(case.name)
        ways = [way for way in case.ways if way != "torch's products" or products.missing() is None]
        steps = {way: step_of(way, case) for way in ways}
        if not case.dropout:
            torch.testing.assert_close(steps["ours"](32), steps["plain"](32), rtol=1e-3, atol=1e-4)
        timed = {**steps, "large product": large_product()}
        taken = cpu_medians({way: partial(step, TOKENS) for way, step in timed.items()}, case.runs, case.threads)
        rate = LARGE_PRODUCT_GFLOP / taken["large product"]  # 10^9 operations a second
        at_best = product_gflop(partial(step_of("in blocks", case), TOKENS)) / rate  # torch does not count what C does
        for way in ways:
            row = {"case": case.name, "way": way, "seconds": taken[way], "ratio": taken["plain"] / taken[way]}
            peaks = (in_new_process(_peak, way, case) for _ in range(1 if quick or case.training else 3))
            known = [peak for peak in peaks if peak is not None]
            rows.append({**row, "peak_mb": median(known) if known else None})
        row = {"case": case.name, "way": "at best", "seconds": at_best, "ratio": taken["plain"] / at_best}
        rows.append({**row, "peak_mb": None, "gflop_per_second": rate})
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    """Print the rows as a table."""
    cells = []
    for row in rows:
        first = row["way"] == "plain"
        memory = "–" if row["peak_mb"] is None else f"{row['peak_mb']:.0f}"
        cells.append([row["case"] if first else "", row["way"], f"{row['seconds']:.2f}", f"{row['ratio']:.2f}", memory])
    columns = ("step", "way", "CPU s (2 threads: s)", "times as fast", "peak MB")
    table(f"Four documents, {platform.machine()}, torch {torch.__version__}", columns, cells, left=2)


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Time and memory of ours against the plain path."""
    lines = []
    for name in dict.fromkeys(row["case"] for row in rows):
        of = {row["way"]: row for row in rows if row["case"] == name}
        of.pop("at best")
        plain, target = of.pop("plain"), "3.3" if name.startswith("training") else "5"
        for way, ours in of.items():
            what = f"document, {name}" + (f", {way}" if way != "ours" else "")
            seconds = {"plain": f"{plain['seconds']:.2f} s", "ours": f"{ours['seconds']:.2f} s"}
            lines.append({"what": what, **seconds, "ratio": ours["ratio"], "target": target})
            if plain["peak_mb"] is not None and ours["peak_mb"] is not None:
                memory = {"plain": f"{plain['peak_mb']:.0f} MB", "ours": f"{ours['peak_mb']:.0f} MB"}
                ratio = plain["peak_mb"] / ours["peak_mb"]
                lines.append({"what": f"{what}: memory", **memory, "ratio": ratio, "target": "3"})
    return lines

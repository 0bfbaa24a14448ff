"""The label-wise head by the number of codes, in three ways of computing the same: a part of `benchmarks.speed`.

One document of 10 chunks of 512 tokens, width 768, float32, random weights (time does not depend on them), no dropout
unless said, one thread. A training step is the head's forward and backward pass with its loss: gradients of the hidden
states and of all its parameters. Encoder and optimiser are not part of it.

loop: chunk by chunk and code by code, as published (Liu et al. 2022, equations 1 to 8), written here from the equations;
only where it ends in reasonable time. vectorised: all codes at once (`hilat.head.plain`). blocks: `hilat.head.blocked`.

Time is CPU time of the process, on which other programs have less influence than on the clock: the ways take turns, one
step each, after one step each that does not count; numbers are medians, ratios those of the medians. Memory is the highest
resident memory of a process of its own in its first such step (Linux), less that before it: above inputs and parameters,
with the gradients that the step returns. A step at 8 codes goes before, so that libraries are loaded.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.measuring import LARGE_PRODUCT_GFLOP, cpu_medians, in_new_process, large_product, peak_megabytes
from hilat.attention import ChunkAttention, CodeClassifier, TokenAttention
from hilat.cli.console import quiet_libraries, say, table
from hilat.head import Asked, Head, block_size, blocked, plain
from hilat.head_blocks import Rows

WIDTH, CHUNKS, TOKENS = 768, 10, 512
WAYS = ("vectorised", "blocks", "loop")


@dataclass(frozen=True)
class Case:
    """One number of codes and one kind of step. training: forward and backward. loop: the published way too."""

    codes: int
    training: bool
    dropout: float
    runs: int
    loop: bool = False

    @property
    def name(self) -> str:
        """The case in words."""
        step = "training step" if self.training else "inference"
        return f"{self.codes:,} codes, {step}" + (f", dropout {self.dropout}" if self.dropout else "")

    @property
    def ways(self) -> tuple[str, ...]:
        """What is measured."""
        return WAYS if self.loop else WAYS[:2]


CASES = (
    Case(50, True, 0.0, 9, loop=True),
    Case(500, True, 0.0, 5, loop=True),
    Case(2000, True, 0.0, 5),
    Case(8929, True, 0.0, 2),
    Case(8929, True, 0.1, 2),
    Case(50, False, 0.0, 9, loop=True),
    Case(500, False, 0.0, 5, loop=True),
    Case(2000, False, 0.0, 5),
    Case(8929, False, 0.0, 3),
)


@dataclass(frozen=True)
class Inputs:
    """A head of so many codes, and a document's hidden states (N, T, D) and targets (1, K)."""

    head: Head
    hidden: Tensor
    targets: Tensor
    rows: Rows


def inputs(codes: int, case: Case) -> Inputs:
    """Random weights of the size that training starts with."""
    torch.manual_seed(0)
    parts = TokenAttention(WIDTH, codes), ChunkAttention(WIDTH), CodeClassifier(WIDTH, codes)
    for part in parts:
        for parameter in part.parameters():
            nn.init.normal_(parameter, std=0.03)
    head = Head(*parts, nn.Dropout(case.dropout).train(case.training), "shared")
    hidden = torch.randn(CHUNKS, TOKENS, WIDTH, requires_grad=case.training)
    rows = Rows(torch.zeros(CHUNKS, dtype=torch.long), torch.arange(CHUNKS), (1,) * CHUNKS, 1, torch.ones(CHUNKS, TOKENS, dtype=torch.bool))  # fmt: skip
    return Inputs(head, hidden, (torch.rand(1, codes) < 0.01).float(), rows)


def loop(given: Inputs) -> Tensor:
    """Logits (1, K), every code's on its own, as the published code computes them."""
    head = given.head
    own, over = head.token_attention, head.chunk_attention
    assert over is not None
    vectors = []
    for c in range(CHUNKS):
        states = torch.tanh(F.linear(given.hidden[c : c + 1], own.projection))  # (1, T, D)
        weights = torch.softmax(F.linear(states, own.labels).transpose(1, 2), -1)  # (1, K, T)
        vectors.append(weights @ given.hidden[c : c + 1])  # (1, K, D)
    stacked = torch.stack(vectors, 1)  # (1, C, K, D)
    logits = []
    for k in range(stacked.shape[2]):
        mine = stacked[:, :, k]  # (1, C, D)
        weights = torch.softmax(F.linear(torch.tanh(F.linear(mine, over.projection)), over.query), 1)  # (1, C, 1)
        document = (weights.transpose(1, 2) @ mine).squeeze(1)  # (1, D)
        logits.append(F.linear(document, head.classifier.weight[k : k + 1], head.classifier.bias[k : k + 1]))  # (1, 1)
    return torch.cat(logits, 1)


def step_of(way: str, case: Case) -> Callable[[Inputs], Any]:
    """A function that takes one step, and gives back what a caller would keep."""

    def step(given: Inputs) -> Any:
        head, hidden, rows = given.head, given.hidden, given.rows
        asked = Asked(given.targets if case.training else None)
        loss = None
        with torch.set_grad_enabled(case.training):
            if way == "blocks":
                output = blocked(head, hidden, rows, block_size(hidden, None), asked)
                logits, loss = output.logits, output.loss
            elif way == "vectorised":
                logits = plain(head, hidden, rows, torch.ones(1, CHUNKS, dtype=torch.bool), asked).logits
            else:
                logits = loop(given)
            if not case.training:
                return logits
            loss = F.binary_cross_entropy_with_logits(logits, given.targets) if loss is None else loss
        parts = (head.token_attention, head.chunk_attention, head.classifier)
        learned = [p for part in parts if part is not None for p in part.parameters()]
        return torch.autograd.grad(loss, [hidden, *learned])

    return step


def times(case: Case) -> dict[str, float]:
    """Median CPU seconds of a step, by way; the ways take turns."""
    given = inputs(case.codes, case)
    return cpu_medians({way: partial(step_of(way, case), given) for way in case.ways}, case.runs)


def _peak(way: str, case: Case) -> float:
    """Of a process of its own: the step's peak memory."""
    quiet_libraries()
    torch.set_num_threads(1)
    step = step_of(way, case)
    step(inputs(8, case))
    return peak_megabytes(partial(step, inputs(case.codes, case)))


def operations_per_second() -> float:
    """What one thread reaches in a product of two (2048, 2048) matrices, in 10^9 operations per CPU second; a median."""
    product = large_product()
    return LARGE_PRODUCT_GFLOP / cpu_medians({"product": lambda: product(0)}, 7)["product"]


def measure(quick: bool) -> list[dict[str, Any]]:
    """One row per case and way; quick: one run of each, and no 8,929 codes."""
    rows = []
    for case in [replace(case, runs=1) for case in CASES if case.codes <= 2000] if quick else CASES:
        say(case.name)
        speed = operations_per_second()
        taken = times(case)
        for way in case.ways:
            row = {"case": case.name, "way": way, "seconds": taken[way], "ratio": taken[way] / taken["vectorised"]}
            rows.append({**row, "peak_mb": in_new_process(_peak, way, case), "matrix_gflops": speed})
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    """Print the rows as a table."""
    columns = ("step", "way", "CPU s", "x vectorised", "peak MB", "matrix product, 10^9 / s")
    cells = []
    for row in rows:
        first = row["way"] == WAYS[0]
        memory = "–" if row["peak_mb"] is None else f"{row['peak_mb']:.0f}"
        cells.append(
            [row["case"] if first else "", row["way"], f"{row['seconds']:.3f}", f"{row['ratio']:.2f}", memory,
             f"{row['matrix_gflops']:.0f}" if first else ""]
        )  # fmt: skip
    table(f"Label-wise head, one thread, {platform.machine()}, torch {torch.__version__}", columns, cells, left=2)


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Blocks against the published loop where that was measured, else against all codes at once."""
    lines = []
    for name in dict.fromkeys(row["case"] for row in rows):
        of = {row["way"]: row for row in rows if row["case"] == name}
        against = "loop" if "loop" in of else "vectorised"
        plain, ours = of[against], of["blocks"]
        lines.append(
            {
                "what": f"head, {name} (plain: {against})",
                "plain": f"{plain['seconds']:.2f} s",
                "ours": f"{ours['seconds']:.2f} s",
                "ratio": plain["seconds"] / ours["seconds"],
            }
        )
    return lines

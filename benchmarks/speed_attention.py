"""XLNet's attention alone, in C against blocks of PyTorch operations, the two taking turns.

    OMP_NUM_THREADS=1 python -m benchmarks.speed_attention

Chunks of 512 tokens, heads of 64, random numbers, two kinds of segments, no padding. kept: weights stay for the backward
pass, as where there is room for them; again: they are computed again. inputs: gradients of queries, keys and values alone,
as in explanations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.measuring import cpu_medians
from hilat.cli.console import quiet_libraries, say, table
from hilat.encoders import relative_attention_compiled
from hilat.encoders.relative_attention import RelativeAttention
from hilat.encoders.relative_attention_compiled import CompiledAttention
from hilat.encoders.seeded_dropout import Dropout

CHUNKS, TOKENS, HEADS, SIZE, RUNS = 4, 512, 4, 64, 9


@dataclass(frozen=True)
class Case:
    """What is kept for the backward pass ("kept", "again"), what has gradients, and dropout."""

    kept: bool
    inputs_alone: bool
    p: float

    @property
    def name(self) -> str:
        """The case in words."""
        gradients = "inputs" if self.inputs_alone else "all gradients"
        return f"{'kept' if self.kept else 'again'}, {gradients}, dropout {self.p}"


CASES = (Case(True, True, 0.0), Case(False, False, 0.0), Case(True, False, 0.1), Case(False, False, 0.1))


def steps(case: Case) -> dict[str, Callable[[], Any]]:
    """By pass and way: functions that take the same numbers."""
    drawn = torch.Generator().manual_seed(0)
    shapes = ((CHUNKS, TOKENS, 3, HEADS, SIZE), (2 * TOKENS, HEADS, SIZE), (HEADS, SIZE), (2, HEADS, SIZE))
    parts = [torch.randn(shape, generator=drawn) * SIZE**-0.25 for shape in shapes]
    for part in parts[: 1 if case.inputs_alone else 4]:
        part.requires_grad_()
    asked = [part for part in parts if part.requires_grad]
    slope = torch.randn(CHUNKS, TOKENS, HEADS, SIZE, generator=drawn)
    kinds = torch.zeros(CHUNKS, TOKENS, dtype=torch.int32)
    kinds[:, -1] = 1
    noise = Dropout(case.p, (1,)) if case.p else None
    found: dict[str, Callable[[], Any]] = {}
    for way, function, mark in (
        ("in C", CompiledAttention, kinds),
        ("in blocks", RelativeAttention, F.one_hot(kinds.long()).float()),
    ):
        forward = partial(function.apply, *parts, mark, None, noise, case.kept)
        output: Tensor = forward()
        found[f"forward {way}"] = forward
        found[f"backward {way}"] = partial(torch.autograd.grad, output, asked, slope, retain_graph=True)
    return found


def main() -> None:
    """Measure and print."""
    quiet_libraries()
    torch.set_num_threads(1)
    reason = relative_attention_compiled.missing()
    if reason is not None:
        raise SystemExit(f"attention is not compiled here: {reason}")
    cells = []
    for case in CASES:
        say(case.name)
        taken = cpu_medians(steps(case), RUNS)
        for direction in ("forward", "backward"):
            ours, blocks = taken[f"{direction} in C"], taken[f"{direction} in blocks"]
            cells.append([case.name, direction, f"{1e3 * ours:.1f}", f"{1e3 * blocks:.1f}", f"{ours / blocks:.2f}"])
    title = f"{CHUNKS} chunks of {TOKENS}, {HEADS} heads of {SIZE}, one thread, torch {torch.__version__}"
    table(title, ("weights", "pass", "in C, CPU ms", "in blocks", "share"), cells, left=2)


if __name__ == "__main__":
    main()

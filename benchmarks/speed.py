"""How long the parts of a HiLAT take, next to the plain way of computing the same: the ratios of README's "How fast", in one go.

    OMP_NUM_THREADS=1 python -m benchmarks.speed [--quick] [--only NAME ...] [--out speed.json]

All ways of one case take turns, one step each, on one thread; the numbers are medians of the CPU time of the process, on
which other programs on the machine have little influence, and ratios of these medians. Steps are first repeated once
without being counted.

A part is a module in PARTS with

    measure(quick: bool) -> list[dict]     numbers, in rows that can be written as JSON; quick: few runs, small cases
    show(rows) -> None                     its own table on the screen
    summary(rows) -> list[dict]            lines of the table at the end: "what", "plain" and "ours" (texts with units),
                                           "ratio" (plain through ours: up is better), and "target" where there is one

and steps measured by `benchmarks.measuring`. A new part is one import and one line in PARTS.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
import transformers

from benchmarks import (
    speed_attribution,
    speed_document,
    speed_encoder,
    speed_gpu,
    speed_head,
    speed_jobs,
    speed_perturbation,
)
from hilat.cli.console import quiet_libraries, say, table
from hilat.files import write_json

Rows = list[dict[str, Any]]


class Part(Protocol):
    """What a module in PARTS has."""

    def measure(self, quick: bool) -> Rows:
        """Numbers in rows."""

    def show(self, rows: Rows) -> None:
        """Print them."""

    def summary(self, rows: Rows) -> Rows:
        """Lines of the last table."""


PARTS: Mapping[str, Part] = {
    "encoder": speed_encoder,
    "head": speed_head,
    "document": speed_document,
    "attribution": speed_attribution,
    "perturbation": speed_perturbation,
    "jobs": speed_jobs,
    "gpu": speed_gpu,
}


def machine() -> str:
    """The processor, its threads in use, and the versions that matter, in one line."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    processor = next(named, platform.processor() or platform.machine())
    return (
        f"{processor}, {torch.get_num_threads()} thread(s), torch {torch.__version__}, "
        f"transformers {transformers.__version__}"
    )


def show_summary(lines: Rows) -> None:
    """Print the ratios of all parts."""
    cells = [
        [line["what"], line["plain"], line["ours"], f"{line['ratio']:.2f}", str(line.get("target", "–"))]
        for line in lines
    ]
    table(machine(), ("what", "plain", "ours", "ratio", "target"), cells)


def main() -> None:
    """Measure what the command line asks for and print it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few runs, small cases: a check, not a measurement")
    parser.add_argument("--only", nargs="+", choices=tuple(PARTS), default=tuple(PARTS), help="these parts only")
    parser.add_argument("--out", type=Path, help="write all rows there as JSON, after each part")
    asked = parser.parse_args()
    quiet_libraries()
    torch.set_num_threads(1)
    found: dict[str, Rows] = {}
    lines: Rows = []
    for name in asked.only:
        say(name)
        found[name] = PARTS[name].measure(asked.quick)
        PARTS[name].show(found[name])
        lines += PARTS[name].summary(found[name])
        if asked.out is not None:
            write_json(asked.out, {"machine": machine(), "quick": asked.quick, **found, "summary": lines})
    show_summary(lines)


if __name__ == "__main__":
    main()

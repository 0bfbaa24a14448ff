"""Whole documents again, each way in a process of its own: beside `benchmarks.speed --only document`, where they share one.

    OMP_NUM_THREADS=1 python -m benchmarks.speed_apart [--runs 5] [--out apart.json]

In one process, what one way gives back to the allocator the next one takes without asking the system for new pages, and how
much the allocator keeps at all depends on what it saw before. Here each way has what it would have alone. They take turns all
the same, one step each; CPU seconds, medians, the first step of each not counted. "pages": new pages of memory a step asked
the system for (minor page faults), a median.
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import resource
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.speed_document import CASES, TOKENS, Case, step_of
from hilat.cli.console import quiet_libraries, say, table
from hilat.files import write_json

WAYS = ("plain", "ours")
MASKED = tuple(case for case in CASES if not case.attend_padding and case.threads == 1)


def _serve(asked: Connection, way: str, case: Case) -> None:
    """A step for each thing that comes; its CPU seconds and new pages go back."""
    quiet_libraries()
    torch.set_num_threads(1)
    step = step_of(way, case)
    with suppress(EOFError):
        while asked.recv():
            pages, start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.process_time()
            step(TOKENS)
            seconds = time.process_time() - start
            asked.send((seconds, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - pages))


def measure(case: Case, runs: int) -> dict[str, Any]:
    """Medians of both ways, a row."""
    spawned, steps = multiprocessing.get_context("spawn"), []
    for way in WAYS:
        ours, theirs = spawned.Pipe()
        process = spawned.Process(target=_serve, args=(theirs, way, case), daemon=True)
        process.start()
        theirs.close()
        steps.append((process, ours))
    taken: list[list[tuple[float, int]]] = [[] for _ in WAYS]
    for _ in range(runs + 1):
        for (_, connection), found in zip(steps, taken, strict=True):
            connection.send(True)
            found.append(connection.recv())
    for process, connection in steps:
        connection.send(False)
        process.join()
    row: dict[str, Any] = {"case": case.name, "runs": runs}
    for way, found in zip(WAYS, taken, strict=True):
        row[f"{way}_seconds"] = median(seconds for seconds, _ in found[1:])
        row[f"{way}_pages"] = median(pages for _, pages in found[1:])
    return row | {"ratio": row["plain_seconds"] / row["ours_seconds"]}


def main() -> None:
    """Measure all cases and print them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed_apart", description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5, help="steps of each way that count")
    parser.add_argument("--out", type=Path, help="write the rows there as JSON, after each case")
    asked = parser.parse_args()
    rows = []
    for case in MASKED:
        say(case.name)
        rows.append(measure(case, asked.runs))
        if asked.out is not None:
            write_json(asked.out, {"rows": rows})
    columns = ("step", "plain, CPU s", "ours", "times as fast", "plain, new pages", "ours")
    cells = [
        [
            row["case"],
            f"{row['plain_seconds']:.2f}",
            f"{row['ours_seconds']:.2f}",
            f"{row['ratio']:.2f}",
            f"{row['plain_pages']:,.0f}",
            f"{row['ours_pages']:,.0f}",
        ]
        for row in rows
    ]
    table(f"Four documents, processes of their own, {platform.machine()}, torch {torch.__version__}", columns, cells)


if __name__ == "__main__":
    main()

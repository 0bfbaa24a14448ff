"""CPU time and memory of one step, as the benchmarks of speed measure them."""

from __future__ import annotations

import math
import multiprocessing
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from hilat.encoders import products

Measured = TypeVar("Measured")
_CLEAR = Path("/proc/self/clear_refs")


def cpu_medians(steps: Mapping[str, Callable[[], Any]], runs: int, threads: int = 1) -> dict[str, float]:
    """Median CPU seconds of this process for each step; the steps take turns, and their first turn does not count.

    threads: of torch, meanwhile. With more than one the seconds are those that pass.
    """
    clock, before = time.process_time if threads == 1 else time.perf_counter, torch.get_num_threads()
    torch.set_num_threads(threads)
    taken: dict[str, list[float]] = {way: [] for way in steps}
    for i in range(runs + 1):
        for way, step in steps.items():
            start = clock()
            step()
            if i > 0:
                taken[way].append(clock() - start)
    torch.set_num_threads(before)
    return {way: median(values) for way, values in taken.items()}


def product_gflop(step: Callable[[], Any]) -> float:
    """10^9 operations (a multiplication and an addition are two) of the step's matrix products, with rows that are filled up for oneDNN."""
    aten = torch.ops.aten
    more: dict[Any, Callable[..., int]] = {aten.addmm_: _added_product, aten.baddbmm_: _added_product}
    if hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        more[torch.ops.mkldnn._linear_pointwise] = _onednn_product
    with FlopCounterMode(display=False, custom_mapping=more) as seen:
        step()
    return seen.get_total_flops() / 1e9


def _added_product(_: object, left: Sequence[int], right: Sequence[int], *__: object, **___: object) -> int:
    """Of a product added in place, which torch's counter does not know: from shapes ([n,] a, b) and ([n,] b, c)."""
    return 2 * math.prod(left) * right[-1]


def _onednn_product(x: Sequence[int], weight: Sequence[int], *_: object, **__: object) -> int:
    """From shapes (a, b) and (c, b)."""
    return 2 * math.prod(x) * weight[0]


def large_product() -> Callable[[int], Tensor]:
    """A step of `LARGE_PRODUCT_GFLOP`: what this machine's products reach at best, by the library that ours take."""
    left, right = torch.rand(2048, 2048), torch.rand(2048, 2048)
    return lambda _: products.times(left, right, place="a large product")


LARGE_PRODUCT_GFLOP = 2 * 2048**3 / 1e9


def in_new_process(measure: Callable[..., Measured], *arguments: object) -> Measured | None:
    """What `measure` gives in a process of its own; None where resident memory is not told (outside Linux)."""
    if not _CLEAR.exists():
        return None
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found: Measured = pool.apply(measure, arguments)
    return found


def peak_megabytes(step: Callable[[], Any]) -> float:
    """The highest resident memory while `step` runs, with what it returns, above that before it, in MB (10^6 bytes)."""
    before = _status("VmRSS")
    _CLEAR.write_text("5", encoding="ascii")  # the high-water mark starts again
    kept = step()
    peak = (_status("VmHWM") - before) / 1e3
    del kept
    return peak


def own_peak_megabytes(step: Callable[[], Any]) -> float:
    """As `peak_megabytes`, of the process's own memory only, looked at every 2 ms: without the pages of files (libraries,
    weights), which the system drops and loads again as it likes. Memory that the allocator has at hand from before does not
    count; benchmarks measure in new processes."""
    before, ended = _status("RssAnon"), threading.Event()
    highest = before

    def watch() -> None:
        nonlocal highest
        while not ended.wait(0.002):
            highest = max(highest, _status("RssAnon"))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        kept = step()
    finally:
        ended.set()
        watching.join()
    del kept
    return (highest - before) / 1e3


def resident_peak_megabytes() -> float:
    """The highest resident memory of this process so far, in MB (10^6 bytes)."""
    return _status("VmHWM") / 1e3


def _status(name: str) -> float:
    """A line of this process's status, in kB (10^3 bytes)."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return float(next(line for line in lines if line.startswith(name)).split()[1]) * 1.024

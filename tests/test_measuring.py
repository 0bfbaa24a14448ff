"""What the benchmarks say of memory, on steps whose memory is known."""

from __future__ import annotations

import mmap
import time
from pathlib import Path

import pytest
import torch

from benchmarks.measuring import LARGE_PRODUCT_GFLOP, large_product, own_peak_megabytes, product_gflop
from hilat.encoders import products

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="resident memory is told by Linux only")
MEGABYTES = 40
HELD = 0.3  # seconds: on busy cores a thread that looks every 2 ms may wait for tens of them


def test_memory_that_is_given_back_counts_and_pages_of_files_do_not(tmp_path: Path) -> None:
    def take_and_give_back() -> None:
        # Pages of its own: what earlier tests freed and the allocator has at hand would not count.
        with mmap.mmap(-1, MEGABYTES * 10**6, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as held:
            held.write(b"x" * len(held))
            time.sleep(HELD)

    (tmp_path / "file").write_bytes(b"x" * MEGABYTES * 10**6)

    def read_mapped() -> None:
        with (tmp_path / "file").open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as pages:
            assert pages[:: mmap.PAGESIZE].count(b"x"[0]) == -(-MEGABYTES * 10**6 // mmap.PAGESIZE)
            time.sleep(HELD)

    assert MEGABYTES - 1 < own_peak_megabytes(take_and_give_back) < MEGABYTES + 10
    assert own_peak_megabytes(read_mapped) < 10


def test_a_step_that_fails_ends_the_watch() -> None:
    with pytest.raises(ZeroDivisionError):
        own_peak_megabytes(lambda: 1 // 0)


def test_operations_of_products() -> None:
    a, b, c = torch.ones(3, 4), torch.ones(4, 5), torch.ones(3, 5)
    assert product_gflop(lambda: a @ b) == pytest.approx(120e-9)
    assert product_gflop(lambda: c.addmm_(a, b)) == pytest.approx(120e-9)
    assert product_gflop(
        lambda: torch.ones(2, 3, 5).baddbmm_(a.expand(2, -1, -1), b.expand(2, -1, -1))
    ) == pytest.approx(240e-9)
    assert product_gflop(lambda: torch.mm(a, b, out=c)) == pytest.approx(120e-9)
    if torch.backends.mkldnn.is_available():
        with products.by("onednn"):
            many = torch.ones(64, 4)  # rows that need not be filled up
            assert product_gflop(lambda: products.times(many, b)) == pytest.approx(2 * 64 * 4 * 5 * 1e-9)
    step = large_product()
    assert product_gflop(lambda: step(0)) == pytest.approx(LARGE_PRODUCT_GFLOP)

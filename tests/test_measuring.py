"""What the benchmarks say of memory, on steps whose memory is known."""

from __future__ import annotations

import mmap
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks.measuring import own_peak_megabytes

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="resident memory is told by Linux only")
MEGABYTES = 40


def test_memory_that_is_given_back_counts_and_pages_of_files_do_not(tmp_path: Path) -> None:
    def take_and_give_back() -> None:
        held = np.ones(MEGABYTES * 10**6, dtype=np.uint8)
        time.sleep(0.02)
        del held

    (tmp_path / "file").write_bytes(b"x" * MEGABYTES * 10**6)

    def read_mapped() -> None:
        with (tmp_path / "file").open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as pages:
            assert pages[:: mmap.PAGESIZE].count(b"x"[0]) == -(-MEGABYTES * 10**6 // mmap.PAGESIZE)
            time.sleep(0.02)

    assert MEGABYTES - 1 < own_peak_megabytes(take_and_give_back) < MEGABYTES + 10
    assert own_peak_megabytes(read_mapped) < 10


def test_a_step_that_fails_ends_the_watch() -> None:
    with pytest.raises(ZeroDivisionError):
        own_peak_megabytes(lambda: 1 // 0)

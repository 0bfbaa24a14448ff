"""Several processes of one command, on one machine or several, as torchrun and accelerate launch start them."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from hilat.admissions import HilatError

Item = TypeVar("Item")
# How long a process waits for the others' work; one that is stopped is noticed at once, by its closed connection.
_PATIENCE = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Processes:
    """This process among the `count` of its command; rank: its number, from 0. group: torch's, where there are several."""

    rank: int = 0
    count: int = 1
    group: Any = None

    @property
    def first(self) -> bool:
        """Whether this is the process that joins the parts and tells the result."""
        return self.rank == 0

    def share(self, items: Sequence[Item]) -> list[Item]:
        """This process's items: every `count`-th one."""
        return list(items[self.rank :: self.count])

    def wait(self) -> None:
        """Come back when all processes have come here.

        Raises:
            HilatError: another one was stopped.
        """
        if self.count > 1:
            import torch.distributed as dist

            self._together(lambda: dist.barrier(group=self.group))

    def add(self, values: NDArray[np.float64]) -> None:
        """Put the sum over all processes in the place of the values, in every process.

        Raises:
            HilatError: another one was stopped.
        """
        if self.count > 1:
            import torch
            import torch.distributed as dist

            self._together(lambda: dist.all_reduce(torch.from_numpy(values), group=self.group))

    def _together(self, step: Any) -> None:
        try:
            step()
        except RuntimeError:
            raise HilatError(
                f"another of the {self.count} processes was stopped, and says why itself; expected all of them to go on. "
                "Give the same command again: what was finished is kept"
            ) from None


ALONE = Processes()


def rank_and_count() -> tuple[int, int]:
    """This process's number and how many there are, from the variables RANK and WORLD_SIZE; (0, 1) without them.

    Raises:
        HilatError: variables that are no such numbers.
    """
    found = [os.environ.get(name, default) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"))]
    try:
        rank, count = (int(text) for text in found)
    except ValueError:
        rank, count = 0, 0
    if not 0 <= rank < count:
        raise HilatError(
            f"RANK is {found[0]!r} and WORLD_SIZE {found[1]!r}; expected a process's number from 0 and how many there are. "
            "Start with torchrun or accelerate launch, or unset both"
        )
    return rank, count


@contextmanager
def folder_to_make(shared: Path, *, kept: bool) -> Iterator[Path]:
    """Where this process makes a folder that all make alike: the first in the shared place, which it alone clears and writes,
    the others in a temporary one of their own. kept: what is there already is from an earlier run, and all read it."""
    if rank_and_count()[0] == 0 or (kept and shared.is_dir()):
        yield shared
        return
    with tempfile.TemporaryDirectory(prefix="hilat-") as own:
        yield Path(own) / shared.name


@contextmanager
def together() -> Iterator[Processes]:
    """The processes of this command, connected to each other (gloo) until the block ends; ALONE where there is one.

    Raises:
        HilatError: the others cannot be reached.
    """
    rank, count = rank_and_count()
    if count == 1:
        yield ALONE
        return
    import torch.distributed as dist

    try:
        dist.init_process_group("gloo")
        group = dist.new_group(backend="gloo", timeout=_PATIENCE)
    except (ValueError, RuntimeError):
        address = f"{os.environ.get('MASTER_ADDR', '?')}:{os.environ.get('MASTER_PORT', '?')}"
        raise HilatError(
            f"process {rank} of {count} cannot reach the others at {address} (MASTER_ADDR, MASTER_PORT); expected them to "
            "have been started by torchrun or accelerate launch. See docs/several-processes.md"
        ) from None
    # Launchers stop the processes that are left with this signal; what is being written must still be cleared away.
    main_thread = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(1)) if main_thread else None
    try:
        yield Processes(rank, count, group)
    finally:
        if main_thread:
            signal.signal(signal.SIGTERM, before)
        dist.destroy_process_group()

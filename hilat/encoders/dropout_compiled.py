"""Dropout on the CPU in C (`c/dropout.c`): the masks that `hilat.encoders.seeded_dropout` draws with numpy, to the last bit, in one
pass over a tensor."""

from __future__ import annotations

import ctypes
import logging
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hilat.admissions import HilatError
from hilat.encoders import compiled, kernels

_LOG = logging.getLogger(__name__)
_TRIED = ((100, 29000), (3, -5), (1100, 2**15))  # how many numbers, and a threshold


def takes(*tensors: Tensor) -> bool:
    """Whether the C function can be used here and on these: float32 numbers on the CPU that lie one after the other."""
    plain = all(type(x) is Tensor and x.dtype == torch.float32 and x.device.type == "cpu" for x in tensors)
    readable = plain and not torch.compiler.is_compiling() and all(x.is_contiguous() for x in tensors)
    return readable and missing() is None


def drop(stream: np.random.SFC64, threshold: int, scale: float, x: Tensor | None, out: Tensor) -> Tensor:
    """Writes x in `out`, which may be x, with 0 in the place of what is dropped and `scale` times the rest; x of ones for None.

    A number is kept where the stream's next 16 bits, read as a signed number, are below the threshold; what is left of
    its last 64 bits is not used. Tensors as `takes` wants them, of as many numbers.
    """
    given = None if x is None else x.data_ptr()
    _library().drop(stream.ctypes.state_address, threshold, scale, given, out.numel(), out.data_ptr())
    return out


@cache
def missing() -> str | None:
    """Why the C function cannot be used here, or None; tried once, on a few numbers, and logged once where it cannot."""
    return kernels.why_not(_try_out, _LOG, "dropout is not compiled, which takes longer")


@cache
def _library() -> ctypes.CDLL:
    found = compiled.library(Path(__file__).with_name("c") / "dropout.c")
    pointer = ctypes.c_void_p
    found.drop.argtypes = [pointer, ctypes.c_int32, ctypes.c_float, pointer, ctypes.c_int64, pointer]
    found.drop.restype = None
    return found


def _try_out() -> None:
    """Compare with numpy's numbers.

    Raises:
        HilatError: no library, or other masks.
    """
    ours, numpys = np.random.SFC64(0), np.random.SFC64(0)
    for count, threshold in _TRIED:
        x = torch.linspace(-1, 1, count, dtype=torch.float32, device="cpu")
        kept = torch.from_numpy(numpys.random_raw(-(-count // 4)).view(np.int16)[:count] < threshold)
        if not torch.equal(drop(ours, threshold, 2.0, x, torch.empty_like(x)), x * kept * 2.0):
            raise HilatError("what the C compiler made of it drops other numbers. Another compiler may do: set CC")

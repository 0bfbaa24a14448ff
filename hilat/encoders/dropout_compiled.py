"""Dropout on the CPU in C (`c/dropout.c`): the masks of the bits that `hilat.encoders.dropout_bits` draws with numpy, in one pass over a
tensor, in torch's threads."""

from __future__ import annotations

import ctypes
import logging
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from hilat.admissions import HilatError
from hilat.encoders import compiled, kernels
from hilat.encoders.dropout_bits import BLOCK, random_bits

_TRIED = ((100, 29000), (3, -5), (1100, 2**15), (BLOCK + 7, 0))  # how many numbers, and a threshold
_LOG = logging.getLogger(__name__)
_Pointer = ctypes.c_void_p


class Job(ctypes.Structure):
    """As `struct job` in c/dropout.c. x: what is dropped from, or nothing for ones; out: where it is written, which may be x;
    count: how many numbers each has. A weight is kept where 16 random bits, read as a signed number, are below the
    threshold. next: 0, the next block."""

    _fields_ = (
        ("seed", ctypes.c_uint64),
        ("x", _Pointer),
        ("out", _Pointer),
        ("count", ctypes.c_int64),
        ("next", ctypes.c_int64),
        ("threshold", ctypes.c_int32),
        ("scale", ctypes.c_float),
    )


def takes(*tensors: Tensor) -> bool:
    """Whether the C function can be used here and on these: float32 numbers on the CPU that lie one after the other."""
    plain = all(type(x) is Tensor and x.dtype == torch.float32 and x.device.type == "cpu" for x in tensors)
    readable = plain and not torch.compiler.is_compiling() and all(x.is_contiguous() for x in tensors)
    return readable and missing() is None


def drop(seed: int, threshold: int, scale: float, x: Tensor | None, out: Tensor) -> Tensor:
    """Writes x in `out`, which may be x, with 0 in the place of what is dropped and `scale` times the rest; x of ones for None.

    seed: of 64 bits. threshold: as in `Job`. Tensors as `takes` wants them, of as many numbers.
    """
    given = None if x is None else x.data_ptr()
    job = Job(seed, given, out.data_ptr(), out.numel(), 0, threshold, scale)
    compiled.in_threads(_library().work, ctypes.byref(job), min(torch.get_num_threads(), -(-out.numel() // BLOCK)))
    return out


@cache
def missing() -> str | None:
    """Why the C function cannot be used here, or None; tried once, on a few numbers, and logged once where it cannot."""
    return kernels.why_not(_try_out, _LOG, "dropout is not compiled, which takes longer")


@cache
def _library() -> ctypes.CDLL:
    found = compiled.library(Path(__file__).with_name("c") / "dropout.c")
    found.work.argtypes, found.work.restype = [_Pointer], None
    return found


def _try_out() -> None:
    """Compare with numpy's numbers.

    Raises:
        HilatError: no library, or other masks.
    """
    for seed, (count, threshold) in enumerate(_TRIED):
        x = torch.linspace(-1, 1, count, dtype=torch.float32, device="cpu")
        kept = torch.from_numpy(random_bits(seed, count) < threshold)
        if not torch.equal(drop(seed, threshold, 2.0, x, torch.empty_like(x)), x * kept * 2.0):
            raise HilatError("what the C compiler made of it drops other numbers. Another compiler may do: set CC")

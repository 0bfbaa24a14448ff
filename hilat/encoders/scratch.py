"""Memory that steps write in one after the other: it stays in the cache, and is not taken from what is kept in between.

Each thread has its own and holds it as long as it lives, some tens of megabytes with chunks of 512 tokens.
"""

from __future__ import annotations

import math
import threading

import torch
from torch import Tensor


class _Made(threading.local):
    def __init__(self) -> None:
        self.tensors: dict[tuple[str, torch.dtype, torch.device], Tensor] = {}


_MADE = _Made()


def scratch(name: str, *shape: int, like: Tensor) -> Tensor:
    """A tensor of that shape, of the type and on the device of another, with anything in it.

    Of one name, the last one given only may still be used.
    """
    if type(like) is not Tensor or torch.compiler.is_compiling():
        return like.new_empty(shape)  # stands for numbers that are not there yet
    key, size = (name, like.dtype, like.device), math.prod(shape)
    made = _MADE.tensors.get(key)
    if made is None or len(made) < size:
        with torch.inference_mode(False):  # what is made inside that mode cannot be written outside
            made = _MADE.tensors[key] = torch.empty(size, dtype=like.dtype, device=like.device)
    return made[:size].view(shape)

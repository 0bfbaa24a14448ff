"""Dropout whose masks come again from a seed: the backward pass draws what the forward pass drew, and none is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hilat.encoders import dropout_compiled
from hilat.encoders.dropout_bits import random_bits


@dataclass(frozen=True, slots=True)
class Dropout:
    """Which numbers are dropped: a share p, decided by a seed, so that the backward pass can draw them again."""

    p: float
    seed: tuple[int, ...]

    @property
    def threshold(self) -> int:
        """16 random bits, read as a signed number, keep a weight when they are below this."""
        return 2**15 - self._dropped

    @property
    def scale(self) -> float:
        """What kept weights are multiplied by: 1 / (1 - p), for the p that 16 bits can say."""
        return 2**16 / (2**16 - self._dropped)

    @property
    def _dropped(self) -> int:
        return min(round(self.p * 2**16), 2**16 - 1)

    @property
    def number(self) -> int:
        """The seed as one number of 64 bits. Its length counts too, as zeros at the end alone would change nothing."""
        return int(np.random.SeedSequence((len(self.seed), *self.seed)).generate_state(1, np.uint64)[0])

    def masks(self) -> Callable[[Tensor], Tensor]:
        """A function that writes the seed's next mask, 0s (dropped) and 1s (kept), in a tensor, and gives that.

        On the CPU a quarter of a number's 64 random bits decides on a weight, which takes a tenth of the time of torch's
        bernoulli, and less in C; elsewhere the device's own generator draws them.
        """
        calls = count()
        generators: dict[torch.device, torch.Generator] = {}

        def mask(place: Tensor) -> Tensor:
            if place.device.type == "cpu":
                return self._drop(next(calls), None, 1.0, place)
            if place.device not in generators:
                generators[place.device] = torch.Generator(place.device).manual_seed(self.number >> 1)
            return place.bernoulli_(1.0 / self.scale, generator=generators[place.device])

        return mask

    def drop(self, x: Tensor, scale: float, out: Tensor | None = None) -> Tensor:
        """x on the CPU with 0 in the place of what the seed's first mask drops, and that scale times the rest. out: where it
        is written, which may be x; None for a new tensor."""
        return self._drop(0, x, scale, torch.empty_like(x) if out is None else out)

    def _drop(self, call: int, x: Tensor | None, scale: float, out: Tensor) -> Tensor:
        """By the mask of that call; x of ones for None."""
        seed = Dropout(self.p, (*self.seed, call)).number
        if dropout_compiled.takes(out, *(() if x is None else (x,))):
            return dropout_compiled.drop(seed, self.threshold, scale, x, out)
        bits = torch.from_numpy(random_bits(seed, out.numel())).view(out.shape)
        most = self.threshold - 1  # the threshold itself may be too large for 16 bits
        kept = torch.le(bits, most, out=out) if x is None else torch.mul(bits <= most, x, out=out)
        return kept.mul_(scale)


class SeededDropout(torch.autograd.Function):
    """Dropout that keeps a seed for the backward pass, not a mask: drop(x) is 0 in a share p, x / (1 - p) elsewhere."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dropout: Dropout) -> Tensor:
        """x of any shape, on the CPU."""
        ctx.dropout = dropout
        return dropout.drop(x, dropout.scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:
        """The same weights on the gradient."""
        weighed: Tensor = ctx.dropout.drop(slope, ctx.dropout.scale)
        return weighed, None

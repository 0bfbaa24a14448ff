"""Dropout whose masks come again from a seed: the backward pass draws what the forward pass drew, and none is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


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
        """The seed as one number of 64 bits."""
        return int(np.random.SeedSequence(self.seed).generate_state(1, np.uint64)[0])

    def masks(self) -> Callable[[Tensor], Tensor]:
        """A function that writes the next 0s (dropped) and 1s (kept) of the seed's stream in a tensor, and gives that.

        On the CPU a quarter of a number's 64 random bits decides on a weight, which takes a tenth of the time of torch's
        bernoulli; elsewhere the device's own generator draws them.
        """
        stream = np.random.SFC64(self.seed)
        generators: dict[torch.device, torch.Generator] = {}

        def mask(place: Tensor) -> Tensor:
            if place.device.type == "cpu":
                words = stream.random_raw(-(-place.numel() // 4))
                bits = torch.from_numpy(words.view(np.int16))[: place.numel()].view(place.shape)
                return torch.lt(bits, self.threshold, out=place)
            if place.device not in generators:
                generators[place.device] = torch.Generator(place.device).manual_seed(self.number >> 1)
            return place.bernoulli_(1.0 / self.scale, generator=generators[place.device])

        return mask


class SeededDropout(torch.autograd.Function):
    """Dropout that keeps a seed for the backward pass, not a mask: drop(x) is 0 in a share p, x / (1 - p) elsewhere."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dropout: Dropout) -> Tensor:
        """x of any shape, on the CPU."""
        ctx.dropout = dropout
        return dropout.masks()(torch.empty_like(x)).mul_(x).mul_(dropout.scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:
        """The same weights on the gradient."""
        weighed: Tensor = ctx.dropout.masks()(torch.empty_like(slope)).mul_(slope).mul_(ctx.dropout.scale)
        return weighed, None

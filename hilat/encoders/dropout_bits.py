"""The random bits that decide on dropout on the CPU, by numpy; `c/dropout.c` draws the same.

Each block of 65,536 weights has four streams of SFC64 (Doty-Humphrey, PractRand), whose states follow from a seed by splitmix64
(Steele, Lea and Flood 2014): in C the four are computed side by side, and blocks are shared among threads.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BLOCK = 2**16  # weights
_STREAMS = 4
_PER_NUMBER = 4  # weights that the 64 bits of a number decide on


def random_bits(seed: int, count: int) -> NDArray[np.int16]:
    """(count,): 16 bits for each weight, read as a signed number. seed: of 64 bits."""
    states = _split(seed, 3 * _STREAMS * -(-count // BLOCK)).reshape(-1, 3, _STREAMS)
    blocks = [_drawn(state, min(BLOCK, count - n * BLOCK)) for n, state in enumerate(states)]
    return np.concatenate(blocks) if blocks else np.zeros(0, np.int16)


def _drawn(state: NDArray[np.uint64], count: int) -> NDArray[np.int16]:
    """A block's bits (count,) from the states (3, 4) of its streams, which take turns."""
    stream, of_each = np.random.SFC64(0), -(-count // (_STREAMS * _PER_NUMBER))
    numbers = np.empty((of_each, _STREAMS), np.uint64)
    for n in range(_STREAMS):
        start = np.append(state[:, n], np.uint64(1))  # the last is its counter
        stream.state = {"bit_generator": "SFC64", "state": {"state": start}, "has_uint32": 0, "uinteger": 0}
        numbers[:, n] = stream.random_raw(of_each)
    return numbers.view(np.int16).reshape(-1)[:count]


def _split(seed: int, count: int) -> NDArray[np.uint64]:
    """The first numbers (count,) of splitmix64."""
    z = np.uint64(seed) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))

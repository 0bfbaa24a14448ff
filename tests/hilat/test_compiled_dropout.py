"""Dropout in C: the masks of numpy's numbers to the last bit, whatever vectors and threads; and how it is left alone."""

from __future__ import annotations

import ctypes
import itertools
import logging
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from hilat.encoders import compiled, dropout_compiled
from hilat.encoders.seeded_dropout import Dropout, SeededDropout

needs_a_compiler = pytest.mark.skipif(
    dropout_compiled.missing() is not None, reason=f"not compiled: {dropout_compiled.missing()}"
)
# A number, a vector and one more, all that are drawn at once, one more, more than twice as many; a block, one more, three.
COUNTS = (1, 9, 512, 513, 1100, 2**16, 2**16 + 1, 180_001)
RATES = (1e-6, 0.1, 0.5, 0.999, 1 - 1e-6)


def _forget() -> None:
    dropout_compiled._library.cache_clear()
    dropout_compiled.missing.cache_clear()


@pytest.fixture
def _anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """As in a process that has compiled nothing yet, with a cache folder of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    _forget()
    yield
    _forget()


def _splitmix64(at: int) -> Iterator[int]:
    while True:
        at = (at + 0x9E3779B97F4A7C15) % 2**64
        z = (at ^ (at >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        yield z ^ (z >> 31)


def _sfc64(a: int, b: int, c: int) -> Iterator[int]:
    for counter in itertools.count(1):
        drawn = (a + b + counter) % 2**64
        yield drawn
        a, b, c = b ^ (b >> 11), (c + (c << 3)) % 2**64, (((c << 24) | (c >> 40)) + drawn) % 2**64


@cache
def _bits(seed: int, blocks: int) -> NDArray[np.int64]:
    """For each weight of so many blocks 16 bits, read as a signed number, in Python's numbers: a block's four streams take turns."""
    seeds, numbers = _splitmix64(seed), list[int]()
    for _ in range(blocks):
        states = [[next(seeds) for _ in range(4)] for _ in ("a", "b", "c")]
        streams = [_sfc64(*state) for state in zip(*states, strict=True)]
        numbers += [next(stream) for _ in range(2**12) for stream in streams]
    quarters = [number >> shift & 0xFFFF for number in numbers for shift in (0, 16, 32, 48)]
    return np.array(quarters, np.uint16).view(np.int16).astype(np.int64)


def _kept(dropout: Dropout, *counts: int) -> list[Tensor]:
    """One mask after the other: 1 where a weight's bits are below the threshold."""
    seeds = [Dropout(0, (*dropout.seed, call)).number for call in range(len(counts))]
    drawn = [_bits(seed, -(-count // 2**16))[:count] for seed, count in zip(seeds, counts, strict=True)]
    return [torch.from_numpy((bits < dropout.threshold).astype(np.float32)) for bits in drawn]


def _compare(p: float) -> None:
    dropout = Dropout(p, (7, 3))
    for count in COUNTS:
        x = torch.randn(count, generator=torch.Generator().manual_seed(count))
        expected = x * _kept(dropout, count)[0] * dropout.scale
        assert torch.equal(dropout.drop(x, dropout.scale), expected)
        assert torch.equal(dropout.drop(x.clone().view(1, -1), dropout.scale)[0], expected)
        place = x.clone()
        assert dropout.drop(place, dropout.scale, out=place) is place
        assert torch.equal(place, expected)
    mask = dropout.masks()
    for expected in _kept(dropout, *COUNTS):  # each mask has a seed of its own
        assert torch.equal(mask(torch.full_like(expected, torch.nan)), expected)


@needs_a_compiler
@pytest.mark.parametrize("p", RATES)
def test_compiled(p: float) -> None:
    assert dropout_compiled.takes(torch.empty(3))
    _compare(p)


@needs_a_compiler
@pytest.mark.parametrize("threads", [2, 3, 16])
@pytest.mark.parametrize("whose", ["torch's", "our own"])
def test_threads_give_the_same(threads: int, whose: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if whose == "our own":
        monkeypatch.setattr(compiled, "_openmp_start", lambda: None)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        _compare(0.3)
    finally:
        torch.set_num_threads(before)


@needs_a_compiler
@pytest.mark.parametrize(("threads", "count", "used"), [(1, 180_001, 1), (2, 180_001, 2), (16, 180_001, 3), (2, 9, 1)])
def test_so_many_threads_are_asked_for(threads: int, count: int, used: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(compiled, "in_threads", lambda function, given, count: asked.append(count) or function(given))
    dropout = Dropout(0.3, (1,))
    assert torch.equal(dropout.drop(torch.ones(count), 1.0), _kept(dropout, count)[0])
    assert asked == [used]


@needs_a_compiler
@pytest.mark.parametrize(
    "flags",
    [("-DLANES=4",), ("-DLANES=16",), ("-O0", "-Wall", "-Wextra", "-Werror", "-Wno-unused-command-line-argument")],
    ids=lambda flags: flags[0],
)
@pytest.mark.usefixtures("_anew")
def test_vectors_of_other_widths(flags: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "_FLAGS", (*compiled._FLAGS, *flags))
    assert dropout_compiled.missing() is None
    _compare(0.3)


@pytest.mark.parametrize("p", RATES)
@pytest.mark.usefixtures("_anew")
def test_without_a_compiler(p: float, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("CC", "false")
    with caplog.at_level(logging.INFO, "hilat"):
        _compare(p)
    assert [record.getMessage() for record in caplog.records] == [
        "dropout is not compiled, which takes longer: false does not run as a C compiler"
    ]


@needs_a_compiler
@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("<< 24", "<< 25"),
        ("< job->threshold", "> job->threshold"),
        ("* job->scale", "* 1"),
        ("block * 3", "block * 4"),
        ("+ ++counter", "+ counter++"),
    ],
)
@pytest.mark.usefixtures("_anew")
def test_other_masks_are_found_before_use(
    right: str, wrong: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    library = compiled.library

    def miscompiled(source: Path) -> ctypes.CDLL:
        for header in source.parent.glob("*.h"):
            (tmp_path / header.name).write_bytes(header.read_bytes())
        (tmp_path / "wrong.c").write_text(source.read_text().replace(right, wrong))
        return library(tmp_path / "wrong.c")

    monkeypatch.setattr(compiled, "library", miscompiled)
    assert "drops other numbers" in str(dropout_compiled.missing())
    assert not dropout_compiled.takes(torch.empty(3))
    _compare(0.3)


def test_seeds_of_other_lengths_are_other_seeds() -> None:
    def masks(*seed: int) -> list[Tensor]:
        draw = Dropout(0.5, seed).masks()
        return [draw(torch.empty(500)) for _ in range(2)]

    drawn = [*masks(1), *masks(1, 0), *masks(1, 1), *masks(1, 0, 0), *masks(0, 1)]
    assert not any(torch.equal(one, other) for one, other in itertools.combinations(drawn, 2))


def test_what_c_does_not_read() -> None:
    """Other types, and numbers that do not lie one after the other: the same masks, by torch."""
    dropout, (kept,) = Dropout(0.4, (1,)), _kept(Dropout(0.4, (1,)), 60)
    x = torch.randn(6, 10)
    for given in (x.double(), x.t().contiguous().t(), x.repeat(1, 2)[:, ::2]):
        assert not dropout_compiled.takes(given)
        expected = given * kept.view(6, 10).to(given.dtype) * dropout.scale
        assert torch.equal(dropout.drop(given, dropout.scale), expected)
    leaf = x.t().clone().requires_grad_()
    dropped: Tensor = SeededDropout.apply(leaf.t(), dropout)  # type: ignore[no-untyped-call]
    (slope,) = torch.autograd.grad(dropped.sum(), leaf)
    torch.testing.assert_close(slope.t(), kept.view(6, 10) * dropout.scale)


@needs_a_compiler
def test_nans_stay_where_they_are() -> None:
    x = torch.ones(1000)
    x[[3, 700]] = torch.tensor([torch.nan, torch.inf])
    dropout = Dropout(0.5, (2,))
    assert torch.equal(dropout.drop(x, 2.0).nan_to_num(-1), (x * _kept(dropout, 1000)[0] * 2.0).nan_to_num(-1))

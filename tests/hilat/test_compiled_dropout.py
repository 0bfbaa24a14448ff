"""Dropout in C: the masks of numpy's numbers to the last bit, whatever vectors it is compiled for; and how it is left alone."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from hilat.encoders import compiled, dropout_compiled
from hilat.encoders.seeded_dropout import Dropout, SeededDropout

needs_a_compiler = pytest.mark.skipif(
    dropout_compiled.missing() is not None, reason=f"not compiled: {dropout_compiled.missing()}"
)
# A number, a vector and one more, all that are drawn at once, one more, more than twice as many.
COUNTS = (1, 9, 512, 513, 1100, 70_001)
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


def _kept(dropout: Dropout, *counts: int) -> list[Tensor]:
    """One mask after the other, from numpy's numbers: 1 where 16 of their bits are below the threshold."""
    stream = np.random.SFC64(dropout.seed)
    drawn = [stream.random_raw(-(-count // 4)).view(np.int16)[:count].astype(np.int64) for count in counts]
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
    for expected in _kept(dropout, *COUNTS):  # one stream, each mask from a new number on
        assert torch.equal(mask(torch.full_like(expected, torch.nan)), expected)


@needs_a_compiler
@pytest.mark.parametrize("p", RATES)
def test_compiled(p: float) -> None:
    assert dropout_compiled.takes(torch.empty(3))
    _compare(p)


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
@pytest.mark.parametrize(("right", "wrong"), [("<< 24", "<< 25"), ("< threshold", "> threshold"), ("* scale", "* 1")])
@pytest.mark.usefixtures("_anew")
def test_other_masks_are_found_before_use(
    right: str, wrong: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    library = compiled.library

    def miscompiled(source: Path) -> ctypes.CDLL:
        (tmp_path / "vectors.h").write_bytes(source.with_name("vectors.h").read_bytes())
        (tmp_path / "wrong.c").write_text(source.read_text().replace(right, wrong))
        return library(tmp_path / "wrong.c")

    monkeypatch.setattr(compiled, "library", miscompiled)
    assert "drops other numbers" in str(dropout_compiled.missing())
    assert not dropout_compiled.takes(torch.empty(3))
    _compare(0.3)


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

"""Products by oneDNN: against float64, in every order in memory, in parts and filled up, with gradients and theirs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from hilat.encoders import products

needs_onednn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN to compare with"
)
BOUND = 1e-5  # of the largest number: float32's rounding in sums of at most 300
SHAPES = ((70, 50, 90), (90, 50, 70), (1, 300, 64), (33, 64, 1), (17, 1, 40))  # m, k, n


def _orders(x: Tensor) -> Iterator[Tensor]:
    """The same matrix: row by row, column by column, with gaps between rows, and between columns."""
    rows, columns = x.shape
    yield x
    yield x.t().contiguous().t()
    yield torch.zeros(rows, columns + 5)[:, :columns].copy_(x)
    yield torch.zeros(columns, rows + 3).t()[:rows].copy_(x)


def _near(got: Tensor, exact: Tensor) -> None:
    assert got.shape == exact.shape
    assert float((got - exact).abs().max()) <= BOUND * max(1.0, float(exact.abs().max()))


def _leaves(*shapes: tuple[int, ...], dtype: torch.dtype) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(shape).to(dtype).requires_grad_() for shape in shapes]


# ------------------------------------------------------------------------------------------------------------- products
@needs_onednn
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize(("m", "k", "n"), SHAPES)
@pytest.mark.parametrize(("even", "most"), [(1, 2048), (8, 2048), (8, 16)])
def test_products_in_every_order_in_memory(
    m: int,
    k: int,
    n: int,
    with_bias: bool,
    even: int,
    most: int,
    onednn: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without rows that are filled up, with some, and in parts."""
    monkeypatch.setattr(products, "_EVEN", even)
    monkeypatch.setattr(products, "_MOST_ROWS", most)
    monkeypatch.setattr(products, "_ROWS_AT_ONCE", most)
    left, right, bias = (part.detach() for part in _leaves((m, k), (k, n), (n,), dtype=torch.float32))
    exact = left.double() @ right.double()
    added = exact + bias.double() if with_bias else exact
    m_parts, k_parts, n_parts = (-(-side // most) for side in (m, k, n))
    calls = 3 * m_parts + n_parts * m_parts + k_parts
    with products.by("onednn"), torch.no_grad():
        for a in _orders(left):
            for b in _orders(right):
                before = onednn.count
                _near(products.times(a, b, bias if with_bias else None), added)
                _near(products.linear(a, b.t(), bias if with_bias else None), added)
                _near(products.linear_of_many(a, b.t()), exact)
                _near(products.turned_times(a.t(), b), exact)
                total = torch.ones(m, n)
                assert products.add_times(total, a, b) is total
                _near(total, exact + 1)
                assert onednn.count - before == calls


@needs_onednn
def test_of_each(onednn: SimpleNamespace) -> None:
    left, right = (part.detach() for part in _leaves((3, 20, 30), (3, 30, 40), dtype=torch.float32))
    exact = torch.bmm(left.double(), right.double())
    turned = left.transpose(0, 1).contiguous().transpose(0, 1)  # as weights of codes are: gaps between rows
    for a in (left, turned):
        with torch.no_grad():
            _near(products.batched_times(a, right), exact)
            total = torch.ones(20, 3, 40).transpose(0, 1)
            assert products.add_batched_times(total, a, right) is total
        _near(total, exact + 1)
    assert onednn.count == 12
    followed = left.clone().requires_grad_()
    (slope,) = torch.autograd.grad(products.batched_times(followed, right).sum(), followed)
    _near(slope, right.double().sum(2)[:, None].expand(3, 20, 30))
    assert onednn.count == 12
    assert products.batched_times(left[:0], right[:0]).shape == (0, 20, 40)


@needs_onednn
@pytest.mark.parametrize("shape", [(6, 48), (2, 3, 48), (48,), (13, 48)])
@pytest.mark.parametrize("n", [40, 72])
@pytest.mark.parametrize(("even", "most"), [(1, 2048), (1, 4), (8, 2048), (8, 8)])
def test_gradients_and_theirs(
    shape: tuple[int, ...], n: int, even: int, most: int, onednn: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against torch's linear layer in float64: once for each argument, and the gradient of the gradients' squares."""
    monkeypatch.setattr(products, "_EVEN", even)
    monkeypatch.setattr(products, "_MOST_ROWS", most)

    def run(function: Callable[..., Tensor], dtype: torch.dtype) -> list[Tensor]:
        leaves = _leaves(shape, (n, 48), (n,), dtype=dtype)
        output = function(*leaves)
        first = torch.autograd.grad(output.sin().sum(), leaves, create_graph=True)
        second = torch.autograd.grad(sum((part**2).sum() for part in first), leaves)
        return [part.detach() for part in (output, *first, *second)]

    with products.by("onednn"):
        ours = run(products.linear, torch.float32)
    for got, exact in zip(ours, run(F.linear, torch.float64), strict=True):
        assert float((got - exact).abs().max()) <= 1e-4 * max(1.0, float(exact.abs().max()))
    assert onednn.count > 3


@needs_onednn
@pytest.mark.parametrize("rows", [13, 16, 40])
def test_others_may_write_in_the_output(rows: int, onednn: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """As transformers' Longformer does, and layers such as ReLU(inplace=True): with gradients, filled up and in parts too."""
    monkeypatch.setattr(products, "_EVEN", 8)
    monkeypatch.setattr(products, "_MOST_ROWS", 32)
    x, weight = _leaves((rows, 48), (40, 48), dtype=torch.float32)
    output = products.linear(x, weight)
    output /= 3.0
    found = torch.autograd.grad(torch.relu_(output).sum(), (x, weight))
    exact = [part.detach().double().requires_grad_() for part in (x, weight)]
    expected = torch.autograd.grad(F.linear(*exact).relu().sum() / 3.0, exact)
    for mine, other in zip(found, expected, strict=True):
        _near(mine, other)
    assert onednn.count >= 3


def _summed_gradients(leaves: list[Tensor]) -> tuple[Tensor, ...]:
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    return torch.autograd.grad(F.linear(*exact).sum(), exact)


@needs_onednn
@pytest.mark.parametrize("wanted", [(True, False, False), (False, True, False), (False, False, True)])
def test_gradients_of_one_argument_only(wanted: tuple[bool, ...], onednn: SimpleNamespace) -> None:
    leaves = _leaves((9, 50), (20, 50), (20,), dtype=torch.float32)
    for leaf, needs in zip(leaves, wanted, strict=True):
        leaf.requires_grad_(needs)
    output = products.linear(*leaves)
    node: Any = output.grad_fn
    kept = sum(tensor is not None for tensor in node.next_functions[0][0].saved_tensors)
    assert kept == (0 if wanted[2] else 1)
    output.sum().backward()  # type: ignore[no-untyped-call]
    for leaf, needs, exact in zip(leaves, wanted, _summed_gradients(leaves), strict=True):
        assert (leaf.grad is not None) == needs
        if leaf.grad is not None:
            _near(leaf.grad, exact)
    assert onednn.count == (1 if wanted[2] else 2)


class _Shapes(TorchDispatchMode):
    """Notes the shapes that reach oneDNN."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "_linear_pointwise" in str(func):
            self.seen.add((*args[0].shape, *args[1].shape))
        return func(*args, **(kwargs or {}))


class _Strides(TorchDispatchMode):
    """Notes whether weights that reach oneDNN follow one another, by rows or by columns."""

    def __init__(self) -> None:
        super().__init__()
        self.dense: list[bool] = []

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "_linear_pointwise" in str(func):
            self.dense.append(args[1].is_contiguous() or args[1].t().is_contiguous())
        return func(*args, **(kwargs or {}))


@needs_onednn
def test_weights_never_have_gaps(onednn: SimpleNamespace) -> None:
    """oneDNN computes those a thousand times slower."""
    left, right = torch.ones(9, 50), torch.ones(50, 20)
    with _Strides() as seen:
        for b in _orders(right):
            products.times(left, b)
    assert seen.dense == [True] * 4
    del onednn


@needs_onednn
@pytest.mark.parametrize(
    ("m", "k", "n", "taken"),
    [(16, 8, 24, 1), (15, 8, 24, 1), (13, 8, 24, 1), (12, 8, 24, 0), (16, 9, 24, 0), (16, 8, 23, 0)],
)
def test_odd_sides_are_torchs_but_for_rows_that_are_nearly_even(
    m: int, k: int, n: int, taken: int, onednn: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "_EVEN", 8)
    products.linear(torch.ones(m, k), torch.ones(n, k))
    assert onednn.count == taken


@needs_onednn
def test_odd_rows_come_as_even_ones_with_the_same_gradients(
    onednn: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One shape for each product, forward and backward, of any number of rows; infinite weights reach no row that is not there."""
    monkeypatch.setattr(products, "_EVEN", 8)
    seen: dict[int, set[tuple[int, ...]]] = {}
    for rows in (13, 14, 15, 16, 13):
        x, weight, bias = _leaves((rows, 8), (24, 8), (24,), dtype=torch.float32)
        exact = [part.detach().double().requires_grad_() for part in (x, weight, bias)]
        with _Shapes() as shapes:
            output = products.linear(x, weight, bias)
            assert output.shape == (rows, 24)
            found = torch.autograd.grad(output.sin().sum(), (x, weight, bias))
        expected = torch.autograd.grad(F.linear(*exact).sin().sum(), exact)
        for mine, other in zip((output, *found), (F.linear(*exact), *expected), strict=True):
            _near(mine.detach(), other.detach())
        seen[rows] = shapes.seen
    assert onednn.count == 15
    assert seen[13] == seen[14] == seen[15] == seen[16]
    endless = torch.full((24, 8), torch.inf)
    assert bool((products.linear(torch.ones(13, 8), endless) == torch.inf).all())


def test_rows_are_filled_up_to_few_sizes() -> None:
    sizes = {rows: rows + products._rows_to_add(rows) for rows in range(1, 4097)}
    assert all(size == rows for rows, size in sizes.items() if rows % 64 == 0)
    odd = {rows: size for rows, size in sizes.items() if rows % 64}
    small, octaves = range(64, 513, 64), [*range(640, 1025, 128), *range(1280, 2049, 256), *range(2560, 4097, 512)]
    assert odd == {rows: next(size for size in (*small, *octaves) if size >= rows) for rows in odd}


@needs_onednn
@pytest.mark.parametrize("rows", [13, 16])
def test_several_gradients_at_once(rows: int, onednn: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_EVEN", 8)
    x, weight = _leaves((rows, 8), (24, 8), dtype=torch.float32)
    output, slopes = products.linear(x, weight), torch.eye(24)[:, None].expand(24, rows, 24)
    to_x, to_weight = torch.autograd.grad(output, (x, weight), slopes, is_grads_batched=True)
    _near(to_x, weight.detach().double()[:, None].expand(24, rows, 8))
    _near(to_weight, torch.eye(24).double()[..., None] * x.detach().double().sum(0))
    assert onednn.count == 1

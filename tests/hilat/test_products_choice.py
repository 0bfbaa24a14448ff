"""Which library computes a product: oneDNN or torch's own, by processor, sizes, types and who watches."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import jacrev, vmap
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from transformers.activations import ACT2FN

from hilat.encoders import products
from hilat.encoders.active_product import ActiveProduct

needs_onednn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN to compare with"
)


def _given() -> tuple[Tensor, Tensor]:
    """x (9, 50) and weight (20, 50)."""
    torch.manual_seed(0)
    return torch.randn(9, 50), torch.randn(20, 50)


def _close(got: Tensor, exact: Tensor) -> None:
    torch.testing.assert_close(got.double(), exact, rtol=1e-5, atol=1e-5)


class _Marked(Tensor):
    """A tensor of another kind."""


def _by_slope(x: Tensor, weight: Tensor) -> Tensor:
    """What torch.func's slope by another number tells of it."""
    slope: Tensor = jacrev(lambda scale: scale * products.linear(x, weight))(torch.tensor(1.0))
    return slope


def _jvp(x: Tensor, weight: Tensor) -> Tensor:
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(products.linear(forward_ad.make_dual(x, x), weight)).tangent


@needs_onednn
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # torch's own, of forward mode
@pytest.mark.parametrize(
    "run",
    [
        lambda x, w: products.linear(x.double(), w.double()).float(),
        lambda x, w: products.linear(x.as_subclass(_Marked), w).as_subclass(Tensor),
        lambda x, w: vmap(lambda row: products.linear(row, w))(x),
        lambda x, w: vmap(lambda _: products.linear(x, w))(torch.ones(2))[0],
        _by_slope,
        _jvp,
    ],
    ids=["float64", "another kind of tensor", "vmap", "vmap over another", "a slope by another", "forward mode"],
)
def test_torchs_own_where_onednn_cannot(run: Callable[[Tensor, Tensor], Tensor], onednn: SimpleNamespace) -> None:
    x, weight = _given()
    _close(run(x, weight), F.linear(x.double(), weight.double()))
    assert onednn.count == 0


@needs_onednn
def test_torchs_own_where_it_is_asked_for(onednn: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = _given()
    with products.by("torch"):
        assert torch.equal(products.linear(x, weight), F.linear(x, weight))
        assert torch.equal(products.times(x, weight.t()), torch.mm(x, weight.t()))
    with monkeypatch.context() as patch:
        patch.setattr(torch.backends.mkldnn, "enabled", False)
        assert torch.equal(products.linear(x, weight), F.linear(x, weight))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert products.linear(x, weight).dtype == torch.bfloat16
    assert onednn.count == 0
    products.linear(x, weight)
    assert onednn.count == 1


@needs_onednn
@pytest.mark.parametrize(
    "bias",
    [
        torch.arange(40.0)[::2],
        torch.ones(1).expand(20),
        torch.ones(1),
        torch.tensor(2.0),
        torch.arange(180.0).view(9, 20),
    ],
    ids=["with gaps", "expanded", "one number", "no dimension", "a matrix"],
)
def test_any_bias_that_torch_takes(bias: Tensor, onednn: SimpleNamespace) -> None:
    x, weight = _given()
    _close(products.linear(x, weight, bias), F.linear(x.double(), weight.double(), bias.double()))
    assert onednn.count == (1 if bias.shape == (20,) else 0)


@needs_onednn
def test_wrong_shapes_and_types_are_told_by_torch(onednn: SimpleNamespace) -> None:
    x, weight = torch.ones(9, 50), torch.ones(20, 40)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        products.linear(x, weight)
    with pytest.raises(RuntimeError, match="dtype"):
        products.linear(x, torch.ones(20, 50), torch.ones(20).half())
    assert onednn.count == 0


@needs_onednn
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_traced(onednn: SimpleNamespace) -> None:
    part, x = nn.Sequential(nn.Linear(50, 20), nn.ReLU(), nn.Linear(20, 4)), torch.randn(9, 50)
    expected = part(x)
    products.set_linear(part, fast=True)
    assert torch.equal(torch.jit.trace(part, x, check_trace=False)(x), expected)  # type: ignore[no-untyped-call]
    assert onednn.count == 0


class _Follower(TorchFunctionMode):
    """Somebody who follows torch's calls, as DeepLift does."""

    def __torch_function__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


@needs_onednn
def test_torchs_own_where_calls_are_followed(onednn: SimpleNamespace) -> None:
    x, weight = _given()
    with _Follower():
        assert torch.equal(products.linear(x, weight), F.linear(x, weight))
    assert onednn.count == 0


@needs_onednn
@pytest.mark.filterwarnings("ignore:Sparse CSR:UserWarning")
def test_other_layouts_and_no_dimension(onednn: SimpleNamespace) -> None:
    x, weight = _given()
    _close(products.linear(x, weight.to_sparse_csr()), F.linear(x, weight).double())
    _close(products.linear(x.to_mkldnn(), weight.to_mkldnn()).to_dense(), F.linear(x, weight).double())
    assert products.linear(torch.ones(5, 0), torch.ones(3, 0)).shape == (5, 3)
    with pytest.raises(RuntimeError, match="at least 1D"):
        products.linear(torch.tensor(1.0), torch.ones(3, 1))
    assert onednn.count == 0


@needs_onednn
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # the compiler's own doing
def test_compiled_in_one_graph(onednn: SimpleNamespace) -> None:
    """Nothing here breaks a graph of torch.compile; products are torch's there."""
    part = nn.Sequential(nn.Linear(50, 20), nn.ReLU(), nn.Linear(20, 4))
    x = torch.randn(9, 50)
    expected = part(x)
    products.set_linear(part, fast=True)
    assert torch.equal(torch.compile(part, backend="eager", fullgraph=True)(x), expected)
    leaves = [torch.randn(9, 50), torch.randn(20, 50, requires_grad=True), torch.zeros(20, requires_grad=True)]

    def active(*given: Tensor) -> Tensor:
        product: Tensor = ActiveProduct.apply(*given, ACT2FN["gelu"], None)  # type: ignore[no-untyped-call]
        return product

    compiled = torch.compile(active, backend="eager", fullgraph=True)
    found = torch.autograd.grad(compiled(*leaves).sum(), leaves[1:])
    assert onednn.count == 0
    for mine, other in zip(found, torch.autograd.grad(active(*leaves).sum(), leaves[1:]), strict=True):
        _close(mine, other.double())


@needs_onednn
def test_torchs_products_are_in_one_part(onednn: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their sums are those of before, wherever oneDNN is not taken."""
    monkeypatch.setattr(products, "_MOST_ROWS", 4)
    asked: list[tuple[int, ...]] = []
    own = F.linear
    monkeypatch.setattr(
        F, "linear", lambda x, weight, bias=None: asked.append((len(x), len(weight))) or own(x, weight, bias)
    )
    x, weight = _given()
    with products.by("torch"):
        _close(products.linear(x, weight), (x.double() @ weight.double().t()))
        _close(products.linear_of_many(x, weight), (x.double() @ weight.double().t()))
        _close(products.turned_times(x, x), x.double().t() @ x.double())
    assert asked == [(9, 20), (9, 20), (50, 50)]
    assert onednn.count == 0


@needs_onednn
@pytest.mark.parametrize(("columns", "rows"), [((30, 20), 20), ((20, 30), 20), ((30, 600), 30), ((700, 600), 700)])
def test_gradients_of_weights_by_their_narrow_side(
    columns: tuple[int, int], rows: int, onednn: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Turned where that side is narrow enough for oneDNN to be faster so."""
    asked: list[int] = []
    own = products._onednn
    monkeypatch.setattr(products, "_onednn", lambda x, weight, bias: asked.append(len(x)) or own(x, weight, bias))
    left, right = (torch.randn(5, width) for width in columns)
    _close(products.turned_times(left, right), left.double().t() @ right.double())
    assert asked == [rows]
    assert onednn.count == 1


@needs_onednn
def test_small_products_are_torchs(onednn: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_LEAST", 9 * 50 * 20)
    x, weight = torch.ones(9, 50), torch.ones(20, 50)
    products.linear(x[:8], weight)
    assert onednn.count == 0
    products.linear(x, weight)
    assert onednn.count == 1


@pytest.mark.parametrize(
    ("capability", "maker", "taken"),
    [
        ("AVX512", "AuthenticAMD", True),
        ("AVX512", "GenuineIntel", False),
        ("AVX512", "", False),
        ("AVX2", "AuthenticAMD", False),
        ("DEFAULT", "AuthenticAMD", False),
    ],
)
@needs_onednn
def test_the_processor_decides(capability: str, maker: str, taken: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(products, "_maker", lambda: maker)
    assert (products.missing.__wrapped__() is None) == taken


def test_who_made_the_processor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told = tmp_path / "cpuinfo"
    told.write_text("processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: 26\n")
    monkeypatch.setattr(products, "Path", lambda _path: told)
    assert products._maker() == "AuthenticAMD"
    told.unlink()  # Windows
    monkeypatch.setattr(products.platform, "processor", lambda: "AMD64 Family 25 Model 97 Stepping 2, AuthenticAMD")
    assert products._maker() == "AuthenticAMD"


def _wrong(x: Tensor, weight: Tensor, _bias: Tensor | None) -> Tensor:
    return x @ weight.t()


def _fails(*_: object) -> Tensor:
    raise RuntimeError("could not create a primitive")


@pytest.mark.parametrize(("function", "said"), [(_wrong, "wrong numbers"), (_fails, "fails here (RuntimeError)")])
def test_what_does_not_serve_is_told_and_left_alone(
    function: Any, said: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(products, "_maker", lambda: "AuthenticAMD")
    monkeypatch.setattr(products, "_onednn", function)
    with caplog.at_level(logging.INFO, "hilat"):
        reason = products.missing.__wrapped__()
    assert said in reason
    assert [said in record.getMessage() for record in caplog.records] == [True]

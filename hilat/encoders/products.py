"""Products of matrices in float32 on the CPU, by the faster of the two libraries that come with torch.

torch takes MKL, which uses a processor's AVX-512 only where Intel made the processor. oneDNN, which torch has for
convolutions, uses it on any, and is taken where MKL does not: twice as fast on an AMD EPYC of family 26
(docs/performance.md). The processor and the sizes decide, never a clock, so that a seed gives the same numbers again.

oneDNN makes code for each shape, and keeps half a megabyte of it for each of the last thousand and more. So it is given few shapes,
which come again: sides of multiples of 64, to which chunks are cut (`even`), and other rows are filled up with zeros.
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import cache, reduce
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F

from hilat.admissions import HilatError
from hilat.encoders import kernels
from hilat.encoders.scratch import scratch
from hilat.watched import calls_are_watched

Library = Literal["torch", "onednn"]

_LEAST = 2**22  # multiplications, below which calling oneDNN costs about what it saves
_EVEN = 64  # what sides are multiples of
_FILLED = 0.25  # of rows that are there, as many are filled up at most
_MOST_ROWS = 2048  # tokens of a product
_ROWS_AT_ONCE = 1024  # where a product is added to something: oneDNN gives it in memory of its own first
_NARROW = 512  # up to this width of inputs the gradient of weights is computed faster turned
_BOUND = 1e-5  # of a trial's largest number
_LOG = logging.getLogger(__name__)
_ASKED: ContextVar[Library | None] = ContextVar("asked", default=None)


@contextmanager
def by(library: Library) -> Iterator[None]:
    """Inside, in this thread, products are torch's own, or oneDNN's wherever it can compute them, for comparisons."""
    token = _ASKED.set(library)
    try:
        yield
    finally:
        _ASKED.reset(token)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + b, as torch's `linear`, any number of times differentiable: (..., n) from x (..., k), weight (n, k), bias (n,)."""
    if not takes(x, weight, bias) or calls_are_watched():
        return F.linear(x, weight, bias)
    product: Tensor = _Linear.apply(x.reshape(-1, x.shape[-1]), weight, bias)  # type: ignore[no-untyped-call]
    return product.view(*x.shape[:-1], len(weight))


def linear_of_many(x: Tensor, weight: Tensor) -> Tensor:
    """`linear` where the weights are of tokens: (m, n) from x (m, k) and weight (n, k), by 2,048 of n where oneDNN is taken."""
    if len(weight) <= _MOST_ROWS or not takes(x, weight):
        return linear(x, weight)
    parts = torch.split(weight, _MOST_ROWS)
    if torch.is_grad_enabled():
        return torch.cat([linear(x, part) for part in parts], 1)
    product = x.new_empty(len(x), len(weight))
    for own, part in zip(torch.split(product, _MOST_ROWS, 1), parts, strict=True):
        own.copy_(linear(x, part))
    return product


def times(left: Tensor, right: Tensor, bias: Tensor | None = None, *, place: str | None = None) -> Tensor:
    """left (m, k) times right (k, n), and bias (n,) added to each row; without gradients.

    place: of the scratch memory where torch writes it, or None for new memory; oneDNN always takes new memory.
    """
    if takes(left, right.t(), bias):
        return _in_parts(left, right.t(), bias)
    out = None if place is None else scratch(place, len(left), right.shape[1], like=left)
    return torch.mm(left, right, out=out) if bias is None else torch.addmm(bias, left, right, out=out)


def add_times(total: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """total (m, n), with left (m, k) times right (k, n) added in its place; without gradients."""
    if not takes(left, right.t()):
        return total.addmm_(left, right)
    for own, part in zip(torch.split(total, _ROWS_AT_ONCE), torch.split(left, _ROWS_AT_ONCE), strict=True):
        own.add_(_onednn(part, right.t(), None))
    return total


def turned_times(left: Tensor, right: Tensor) -> Tensor:
    """left (k, m) turned, times right (k, n), any number of times differentiable; by 2,048 of k where oneDNN is taken."""
    if not (_readable(left, right) and _pays(len(left), left.shape[1], right.shape[1]) and serves()):
        return F.linear(left.t(), right.t())
    parts = zip(torch.split(left, _MOST_ROWS), torch.split(right, _MOST_ROWS), strict=True)
    return reduce(torch.add, (_turned_part(_filled_up(a, "left"), _filled_up(b, "right")) for a, b in parts))


def batched_times(left: Tensor, right: Tensor) -> Tensor:
    """Of each n, left (n, m, k) times right (n, k, l); torch's where gradients are followed."""
    if torch.is_grad_enabled():
        return torch.bmm(left, right)
    return add_batched_times(left.new_empty(*left.shape[:2], right.shape[2]), left, right, keep=False)


def add_batched_times(total: Tensor, left: Tensor, right: Tensor, *, keep: bool = True) -> Tensor:
    """total (n, m, l), with left (n, m, k) times right (n, k, l) added in its place, or in place of it where it is not to
    be kept; without gradients."""
    if len(left) == 0 or not takes(left[0], right[0].t()):
        return total.baddbmm_(left, right, beta=int(keep))
    for own, a, b in zip(total, left, right, strict=True):
        if keep:
            add_times(own, a, b)
        else:
            own.copy_(_in_parts(a, b.t(), None))
    return total


def even(size: int, most: int) -> int:
    """Where oneDNN is taken on this processor, the next multiple of 64, but at most `most`; else, and where `most` is under
    128, the size itself. It says the same for models that oneDNN does not serve (float64)."""
    return min(-(-size // _EVEN) * _EVEN, most) if most >= 2 * _EVEN and serves() else size


class Linear(nn.Linear):
    """torch's linear layer, computed by `linear`."""

    def forward(self, input: Tensor) -> Tensor:
        """As torch's."""
        return linear(input, self.weight, self.bias)


def is_linear(module: nn.Module) -> bool:
    """Whether it is a linear layer and nothing more: none that a module was put around (LoRA)."""
    return type(module) in (nn.Linear, Linear)


def set_linear(model: nn.Module, fast: bool) -> None:
    """Let the model's linear layers be computed by `linear` where that is another than torch's, or by torch's again."""
    fast = fast and missing() is None
    for module in model.modules():
        if is_linear(module):
            module.__class__ = Linear if fast else nn.Linear


def serves() -> bool:
    """Whether oneDNN computes products here: not where torch is told to leave it alone (`torch.backends.mkldnn`)."""
    asked = _ASKED.get()
    return asked != "torch" and bool(torch.backends.mkldnn.enabled) and (asked == "onednn" or missing() is None)


def takes(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    """Whether oneDNN computes x W^T + b, from x (..., k), weight (n, k) and bias (n,)."""
    if not _readable(x, weight, *(() if bias is None else (bias,))) or weight.dim() != 2 or x.dim() == 0:
        return False
    width = x.shape[-1]
    same = 0 < width == weight.shape[1] and (bias is None or bias.shape == weight.shape[:1])
    return same and _pays(x.numel() // width, width, len(weight)) and serves()


def _pays(rows: int, width: int, columns: int) -> bool:
    """Whether oneDNN is worth its call for a product of these sides, of which rows may be filled up."""
    if _ASKED.get() == "onednn":
        return True
    even = not (width % _EVEN or columns % _EVEN) and _rows_to_add(rows) <= _FILLED * rows
    return even and rows * width * columns >= _LEAST


def _readable(*parts: Tensor) -> bool:
    """Whether they are numbers in float32 on the CPU, and nobody wants other products of them: a compiler, autocast, or somebody
    who computes several at once (`torch.func`, `is_grads_batched`) or slopes with them."""
    if torch.compiler.is_compiling() or torch._C._get_tracing_state() or torch._C._are_functorch_transforms_active():
        return False
    if torch.is_autocast_enabled("cpu") or forward_ad._current_level >= 0:
        return False
    plain = all(type(x) in (Tensor, nn.Parameter) and x.layout == torch.strided for x in parts)
    plain = plain and all(x.dtype == torch.float32 and x.device.type == "cpu" for x in parts)
    return plain and not any(torch._C._functorch.is_legacy_batchedtensor(x) for x in parts)


class _Linear(torch.autograd.Function):
    """x (m, k) times weight (n, k) turned, and bias (n,)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """(m, n)."""
        needed = ctx.needs_input_grad
        ctx.save_for_backward(x if needed[1] else None, weight if needed[0] else None)
        return _in_parts(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, down: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, weight and bias, which have gradients themselves where those are asked for."""
        x, weight = ctx.saved_tensors
        to_x = None if weight is None else linear(down, weight.t())  # (m, k)
        to_weight = None if x is None else turned_times(down, x)  # (n, k)
        return to_x, to_weight, down.sum(0) if ctx.needs_input_grad[2] else None


def _turned_part(left: Tensor, right: Tensor) -> Tensor:
    """left (k, m) turned, times right (k, n), or as the turned product of the two, where that is faster."""
    swapped = left.shape[1] > right.shape[1] and right.shape[1] <= _NARROW
    a, b = (right.t(), left.t()) if swapped else (left.t(), right.t())
    followed = torch.is_grad_enabled() and (a.requires_grad or b.requires_grad)
    product = linear(a, b) if followed else _onednn(a, b, None)  # at once, as its rows are no tokens
    return product.t() if swapped else product


def _rows_to_add(rows: int) -> int:
    """How many rows more oneDNN is given: none where they are a multiple of 64, else up to one of four sizes in each octave."""
    return -rows % max(_EVEN, 2 ** (rows.bit_length() - 3)) if rows % _EVEN else 0


def _filled_up(x: Tensor, place: str) -> Tensor:
    """x (m, n) with as many rows of zeros after its own as `_rows_to_add` says; in the scratch memory of that place where nothing is
    saved for gradients."""
    rows, added = len(x), _rows_to_add(len(x))
    if not added:
        return x
    if torch.is_grad_enabled():
        return torch.cat([x, x.new_zeros(added, x.shape[1])])
    filled = scratch(f"rows of a product's {place}", rows + added, x.shape[1], like=x)
    filled[:rows] = x
    filled[rows:] = 0
    return filled


def _in_parts(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (m, k) times weight (n, k) turned, and bias (n,), by 2,048 of m."""
    if len(x) <= _MOST_ROWS:
        return _onednn(x, weight, bias)
    product = x.new_empty(len(x), len(weight))
    for own, part in zip(torch.split(product, _MOST_ROWS), torch.split(x, _MOST_ROWS), strict=True):
        own.copy_(_onednn(part, weight, bias))
    return product


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (m, k) times weight (n, k) turned, and bias (n,); with the memory of rows that were filled up, at most a quarter more.

    It reads a bias as if its numbers followed one another, and takes its slow way for weights with gaps between their rows.
    """
    rows, x = len(x), _filled_up(x, "inputs")
    if not (weight.is_contiguous() or weight.t().is_contiguous()):
        weight = weight.contiguous()
    given = None if bias is None else bias.contiguous()
    product: Tensor = torch.ops.mkldnn._linear_pointwise.default(x, weight, given, "none", [], "")
    return product if len(product) == rows else product.resize_(rows, len(weight))  # no view: others may write in it


@cache
def missing() -> str | None:
    """Why products are torch's own on this machine, or None; oneDNN is tried once, and it is logged where it does not serve."""
    if torch.backends.cpu.get_cpu_capability() != "AVX512" or not torch.backends.mkl.is_available():  # type: ignore[no-untyped-call]
        return "no AVX-512, or no MKL"
    if _maker() != "AuthenticAMD":
        return "MKL uses AVX-512 on this processor"
    return kernels.why_not(_try_out, _LOG, "products of matrices are torch's own, which take longer")


def _maker() -> str:
    """Who made the processor, as it says itself."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("vendor_id"):
                return line.partition(":")[2].strip()
    return platform.processor().rpartition(",")[2].strip()


def _try_out() -> None:
    """Compare with float64, for each order in memory.

    Raises:
        HilatError: this torch has no such function, or it fails or gives wrong numbers.
    """
    x = torch.linspace(-1, 1, 70 * 50, device="cpu", dtype=torch.float32).sin().view(70, 50)
    weight = torch.linspace(-2, 1, 90 * 50, device="cpu", dtype=torch.float32).cos().view(90, 50)
    bias = torch.linspace(-1, 3, 90, device="cpu", dtype=torch.float32)
    exact = torch.addmm(bias.double(), x.double(), weight.double().t())
    for a in (x, x.t().contiguous().t()):
        for b in (weight, weight.t().contiguous().t()):
            try:
                error = (_onednn(a, b, bias) - exact).abs().max() / exact.abs().max()
            except (AttributeError, RuntimeError) as failure:
                raise HilatError(f"oneDNN fails here ({type(failure).__name__})") from None
            if not bool(error < _BOUND):
                raise HilatError("oneDNN gives wrong numbers")

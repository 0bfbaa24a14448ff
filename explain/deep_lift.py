"""DeepLIFT's multipliers for any torch function, by watching the calls that it makes.

Captum's DeepLift knows a few modules (nn.ReLU, nn.Tanh, ...). A label-attention coder calls functions instead (torch.tanh,
softmax, layer norm, attention times values), for which captum silently takes the plain gradient, and it takes the first
half of whatever reaches a module for the input and the second for the reference, which is not so when chunks of several
documents are gathered chunk by chunk. Here the reference and the input run one after the other, call matched to call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from hilat.admissions import HilatError

_NODES = 12
# Functions of one number: the rescale rule, difference of outputs over difference of inputs.
_ONE = {
    F.gelu, F.relu, F.silu, F.softplus, F.elu, F.leaky_relu, F.tanh, F.sigmoid, F.mish,
    torch.tanh, torch.relu, torch.sigmoid, torch.erf, torch.exp, torch.log, torch.sqrt, torch.rsqrt, torch.square, torch.pow,
    Tensor.tanh, Tensor.relu, Tensor.sigmoid, Tensor.erf, Tensor.exp, Tensor.log, Tensor.sqrt, Tensor.rsqrt,
    Tensor.square, Tensor.pow, Tensor.__pow__,
}  # fmt: skip
# Linear in each of two factors: the point halfway gives each factor its mean over both orders, exactly.
_PRODUCT = {
    torch.mul, torch.matmul, torch.bmm, torch.einsum,
    Tensor.mul, Tensor.__mul__, Tensor.__rmul__, Tensor.matmul, Tensor.__matmul__, Tensor.bmm,
}  # fmt: skip
# The rest: the Jacobian's mean over the straight line between both inputs.
_SEVERAL = {
    torch.softmax, F.softmax, Tensor.softmax, F.layer_norm, torch.layer_norm, F.scaled_dot_product_attention,
    torch.div, Tensor.div, Tensor.__truediv__,
}  # fmt: skip


def with_multipliers(function: Callable[[Tensor], Tensor], value: Tensor, reference: Tensor) -> Tensor:
    """function(value), whose gradient is DeepLIFT's multiplier with respect to `reference` (the same shape as value).

    Functions of one number have the rescale rule (Shrikumar et al. 2017, section 3.5.1). Products, softmax, layer
    norm and attention have their Aumann-Shapley values, the Jacobian averaged over the line from the reference to the
    value, in the way in which Lundberg and Lee 2017, section 4.2, join the Shapley values of small components; for a
    product of two that is the mean over both orders. So multipliers times differences sum to the difference of the
    outputs, up to the quadrature. Functions that are not on the list keep their gradient: what they miss is for the
    caller to measure.

    Raises:
        HilatError: when the function does not make the same calls on both.
    """
    watch = _Watch()
    with torch.no_grad(), watch:
        function(reference)
    watch.replay = True
    with torch.enable_grad(), watch:
        return function(value)


class _Watch(TorchFunctionMode):
    """First notes the inputs of each nonlinear call; then gives the same calls their multipliers."""

    def __init__(self) -> None:
        super().__init__()
        self.replay = False
        self.calls: list[tuple[Any, dict[int, Tensor]]] = []
        self.at = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        kwargs = kwargs or {}
        if func not in _ONE and func not in _PRODUCT and func not in _SEVERAL:
            return func(*args, **kwargs)
        given = {i: a for i, a in enumerate(args) if isinstance(a, Tensor) and a.is_floating_point()}
        if func in _PRODUCT and len(given) < 2:  # by a plain number
            return func(*args, **kwargs)
        if not self.replay:
            self.calls.append((func, {i: a.detach() for i, a in given.items()}))
            return func(*args, **kwargs)
        before = self._matching(func, given)
        # Parameters are the same tensors both times.
        moving = [i for i, a in given.items() if a.requires_grad and a.data_ptr() != before[i].data_ptr()]
        if not moving or (func in _PRODUCT and len(moving) == 1):
            return func(*args, **kwargs)

        def run(*values: Tensor) -> Tensor:
            point = dict(zip(moving, values, strict=True))
            output: Tensor = func(*(point.get(i, a) for i, a in enumerate(args)), **kwargs)
            return output

        nodes = 0 if func in _ONE and len(given) == 1 else 1 if func in _PRODUCT else _NODES
        multiplied: Any = _Multiplied.apply
        return multiplied(run, nodes, [before[i] for i in moving], *(given[i] for i in moving))

    def _matching(self, func: Any, given: dict[int, Tensor]) -> dict[int, Tensor]:
        known = self.at < len(self.calls)
        if known:
            recorded, before = self.calls[self.at]
            same_shapes = {i: a.shape for i, a in before.items()} == {i: a.shape for i, a in given.items()}
            known = recorded is func and same_shapes
        if not known:
            raise HilatError(
                "the model computes its baseline in other steps than the note, so that DeepLift cannot compare them; "
                "expected the same calls on both. Use integrated gradients"
            )
        self.calls[self.at] = (func, {})  # each is needed once
        self.at += 1
        return before


class _Multiplied(torch.autograd.Function):
    """A function's value, with DeepLIFT's multipliers in the place of its derivative.

    What the line between both inputs needs is computed again in the backward pass: kept, it would take _NODES times the
    memory of the plain graph.
    """

    @staticmethod
    def forward(ctx: Any, run: Callable[..., Tensor], nodes: int, before: list[Tensor], *values: Tensor) -> Tensor:
        """run(*values). nodes: points on the line; 0 for the rescale rule."""
        ctx.run, ctx.nodes, ctx.before = run, nodes, before
        output = run(*values)
        ctx.save_for_backward(*values)
        return output

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        """slope times the multipliers, for each of the values."""
        values: tuple[Tensor, ...] = ctx.saved_tensors
        if ctx.nodes == 0:
            return None, None, None, slope * _ratio(ctx.run, values[0], ctx.before[0])
        points, weights = np.polynomial.legendre.leggauss(ctx.nodes)
        totals = [torch.zeros_like(value) for value in values]
        for point, weight in zip((points + 1) / 2, weights / 2, strict=True):
            here = [_between(*ends, float(point)) for ends in zip(values, ctx.before, strict=True)]
            with torch.enable_grad():
                output = ctx.run(*here)
            parts = torch.autograd.grad(output, here, slope)
            totals = [total + float(weight) * part for total, part in zip(totals, parts, strict=True)]
        return None, None, None, *totals


def _ratio(run: Callable[..., Tensor], value: Tensor, before: Tensor) -> Tensor:
    """Difference of outputs over difference of inputs; where these are too near to divide, the slope halfway."""
    difference = value - before
    near = difference.abs() < torch.finfo(value.dtype).eps ** (1 / 3)
    halfway = _between(value, before, 0.5)
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(run(halfway).sum(), halfway)
    return torch.where(near, slope, (run(value) - run(before)) / torch.where(near, 1.0, difference))


def _between(value: Tensor, before: Tensor, share: float) -> Tensor:
    """before + share * (value - before), a new leaf; what is equal on both sides, infinities too, stays."""
    return torch.where(value == before, value, before + share * (value - before)).detach().requires_grad_()

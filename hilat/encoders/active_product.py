"""The second half of a feed-forward layer, with one tensor of its inner width kept for the backward pass instead of two."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from transformers.activations import GELUActivation

from hilat.encoders import products
from hilat.encoders.seeded_dropout import Dropout


class ActiveProduct(torch.autograd.Function):
    """product(drop(function(inner))), which keeps the inner numbers and not what the function made of them.

    Where inputs alone have gradients (explanations) the function's slope is kept in their place, so that it is computed once
    and not again in each of many backward passes.
    """

    @staticmethod
    def forward(
        ctx: Any,
        inner: Tensor,
        weight: Tensor,
        bias: Tensor,
        function: Callable[[Tensor], Tensor],
        noise: Dropout | None,
    ) -> Tensor:
        """(rows, D) from inner (rows, d_inner), weight (D, d_inner) and bias (D,)."""
        ctx.slope = noise is None and ctx.needs_input_grad[:3] == (True, False, False)
        active, slope = _with_slope(function, inner) if ctx.slope else (function(inner), inner)
        ctx.save_for_backward(slope, weight)
        ctx.function, ctx.noise = function, noise
        if noise is None:
            return products.times(active, weight.t(), bias)
        place = active if is_gelu(function) else None  # others may give what they were given
        return products.times(noise.drop(active, noise.scale, out=place), weight.t(), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, down: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of inner, weight and bias."""
        kept, weight = ctx.saved_tensors
        to_active = products.times(down, weight)  # (rows, d_inner)
        if ctx.slope:
            return to_active.mul_(kept), None, None, None, None
        noise: Dropout | None = ctx.noise
        if noise is not None:
            noise.drop(to_active, noise.scale, out=to_active)
        active, to_inner = _with_slope(ctx.function, kept, to_active)
        if noise is not None:
            active = noise.drop(active, noise.scale, out=active if is_gelu(ctx.function) else None)
        to_weight = products.turned_times(down, active) if ctx.needs_input_grad[1] else None
        return to_inner, to_weight, down.sum(0) if ctx.needs_input_grad[2] else None, None, None


def _with_slope(
    function: Callable[[Tensor], Tensor], inner: Tensor, down: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """function(inner), and its slope at each number, times `down` where that is given, which may be written over."""
    if is_gelu(function):
        to_output = torch.ones_like(inner) if down is None else down
        return F.gelu(inner), torch.ops.aten.gelu_backward.grad_input(to_output, inner, grad_input=to_output)
    # What is saved here is used at once: hooks around it (gradient checkpointing's) would encode everything again for it.
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: x):
        leaf = inner.detach().requires_grad_()
        output = function(leaf)
        (slope,) = torch.autograd.grad(output, leaf, torch.ones_like(output) if down is None else down)
    return output.detach(), slope


def is_gelu(function: Callable[[Tensor], Tensor]) -> bool:
    """Whether it is XLNet's usual activation function, by the error function; torch has its slope and a form in place."""
    return isinstance(function, GELUActivation) and function.act is F.gelu


def in_place(function: Callable[[Tensor], Tensor], inner: Tensor) -> Tensor:
    """function(inner), without gradients; in the place of inner, which is needed no more, where torch can."""
    return torch.ops.aten.gelu.out(inner, out=inner) if is_gelu(function) else function(inner)

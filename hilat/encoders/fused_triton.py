"""What stands between a Transformer layer's products, each in one pass over a GPU's memory, in Triton.

Dropout is decided by a hash of a number's row and column and a seed (`hilat.encoders.relative_attention_kernels`), so that the backward
pass needs no mask. Computed in float32; stored in the type that was given.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from hilat.encoders.relative_attention_kernels import kept

_ROWS = 2  # of a program at a time
_COLUMNS = 1024  # of a row, where rows mean nothing
_PROGRAMS = 1056  # whose sums over rows are added up at the end


@triton.jit
def _dropped(x, seed, row, column, threshold):
    """x (R, N) with dropout; the same on a gradient."""
    return tl.where(kept(seed, row, column, threshold), x * (4294967296.0 / (4294967296.0 - threshold)), 0.0)


@triton.jit(do_not_specialize=["seed"])
def _norm_forward(
    x, residual, weight, bias, out, total, mean, spread, eps, seed, threshold, rows, width,
    R: tl.constexpr, W: tl.constexpr, DROPS: tl.constexpr,
):  # fmt: skip
    """layer_norm(dropout(x) + residual) of R rows; the sum, its means and 1 / standard deviations."""
    row = tl.program_id(0) * R + tl.arange(0, R)
    column = tl.arange(0, W)
    at = row.to(tl.int64)[:, None] * width + column[None, :]
    inside = (row < rows)[:, None] & (column < width)[None, :]
    here = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    if DROPS:
        here = _dropped(here, seed, row, column, threshold)
    here += tl.load(residual + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(total + at, here.to(total.dtype.element_ty), mask=inside)
    middle = tl.sum(here, 1) / width
    apart = tl.where(inside, here - middle[:, None], 0.0)
    scale = tl.rsqrt(tl.sum(apart * apart, 1) / width + eps)
    w = tl.load(weight + column, mask=column < width, other=0.0).to(tl.float32)
    b = tl.load(bias + column, mask=column < width, other=0.0).to(tl.float32)
    normed = apart * scale[:, None] * w[None, :] + b[None, :]
    tl.store(out + at, normed.to(out.dtype.element_ty), mask=inside)
    tl.store(mean + row, middle, mask=row < rows)
    tl.store(spread + row, scale, mask=row < rows)


@triton.jit(do_not_specialize=["seed"])
def _norm_backward(
    slope, total, mean, spread, weight, to_x, to_residual, sums, seed, threshold, rows, width,
    R: tl.constexpr, W: tl.constexpr, DROPS: tl.constexpr,
):  # fmt: skip
    """Gradients of x and the residual for every so-manieth R rows, and the sums for weight and bias."""
    column = tl.arange(0, W)
    w = tl.load(weight + column, mask=column < width, other=0.0).to(tl.float32)
    to_weight = tl.zeros([R, W], tl.float32)
    to_bias = tl.zeros([R, W], tl.float32)
    for first in range(tl.program_id(0) * R, rows, tl.num_programs(0) * R):
        row = first + tl.arange(0, R)
        at = row.to(tl.int64)[:, None] * width + column[None, :]
        inside = (row < rows)[:, None] & (column < width)[None, :]
        middle = tl.load(mean + row, mask=row < rows, other=0.0)
        scale = tl.load(spread + row, mask=row < rows, other=0.0)
        down = tl.load(slope + at, mask=inside, other=0.0).to(tl.float32)
        normed = (tl.load(total + at, mask=inside, other=0.0).to(tl.float32) - middle[:, None]) * scale[:, None]
        normed = tl.where(inside, normed, 0.0)
        to_weight += down * normed
        to_bias += down
        weighed = down * w[None, :]
        along, level = tl.sum(weighed * normed, 1) / width, tl.sum(weighed, 1) / width
        to_total = (weighed - level[:, None] - normed * along[:, None]) * scale[:, None]
        tl.store(to_residual + at, to_total.to(to_residual.dtype.element_ty), mask=inside)
        if DROPS:
            dropped = _dropped(to_total, seed, row, column, threshold)
            tl.store(to_x + at, dropped.to(to_x.dtype.element_ty), mask=inside)
    part = sums + tl.program_id(0) * 2 * width + column
    tl.store(part, tl.sum(to_weight, 0), mask=column < width)
    tl.store(part + width, tl.sum(to_bias, 0), mask=column < width)


@triton.jit(do_not_specialize=["seed"])
def _gelu_forward(x, out, seed, threshold, count, R: tl.constexpr, N: tl.constexpr, DROPS: tl.constexpr):
    """dropout(gelu(x)) of R x N numbers."""
    row = tl.program_id(0) * R + tl.arange(0, R)
    column = tl.arange(0, N)
    at = row.to(tl.int64)[:, None] * N + column[None, :]
    here = tl.load(x + at, mask=at < count, other=0.0).to(tl.float32)
    here = 0.5 * here * (1.0 + tl.erf(here * 0.7071067811865476))
    if DROPS:
        here = _dropped(here, seed, row, column, threshold)
    tl.store(out + at, here.to(out.dtype.element_ty), mask=at < count)


@triton.jit(do_not_specialize=["seed"])
def _gelu_backward(x, slope, to_x, seed, threshold, count, R: tl.constexpr, N: tl.constexpr, DROPS: tl.constexpr):
    """The gradient of R x N numbers."""
    row = tl.program_id(0) * R + tl.arange(0, R)
    column = tl.arange(0, N)
    at = row.to(tl.int64)[:, None] * N + column[None, :]
    here = tl.load(x + at, mask=at < count, other=0.0).to(tl.float32)
    down = tl.load(slope + at, mask=at < count, other=0.0).to(tl.float32)
    if DROPS:
        down = _dropped(down, seed, row, column, threshold)
    below = 0.5 * (1.0 + tl.erf(here * 0.7071067811865476))
    steep = below + here * tl.exp(-0.5 * here * here) * 0.3989422804014327
    tl.store(to_x + at, (down * steep).to(to_x.dtype.element_ty), mask=at < count)


def _threshold(p: float) -> int:
    return min(round(p * 2**32), 2**32 - 1)


class NormAfter(torch.autograd.Function):
    """layer_norm(dropout(x) + residual)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float, p: float, seed: int
    ) -> Tensor:
        """In x's type. x and residual: (..., D), contiguous. weight, bias: (D,). p: of dropout, decided by the seed."""
        width = x.shape[-1]
        rows = x.numel() // width
        out, total = torch.empty_like(x), torch.empty_like(x)
        mean, spread = torch.empty((2, rows), dtype=torch.float32, device=x.device).unbind(0)
        ctx.cut = {"seed": seed, "threshold": _threshold(p), "rows": rows, "width": width, "R": _ROWS}
        ctx.cut |= {"W": triton.next_power_of_2(width), "DROPS": p > 0, "num_warps": 4}
        grid = (triton.cdiv(rows, _ROWS),)
        _norm_forward[grid](x, residual, weight, bias, out, total, mean, spread, eps, **ctx.cut)
        ctx.save_for_backward(total, mean, spread, weight)
        ctx.types = residual.dtype, bias.dtype
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, residual, weight and bias."""
        total, mean, spread, weight = ctx.saved_tensors
        slope = slope.contiguous()
        to_residual = torch.empty_like(total, dtype=ctx.types[0])
        to_x = torch.empty_like(total) if ctx.cut["DROPS"] else to_residual
        programs = min(_PROGRAMS, triton.cdiv(len(mean), _ROWS))
        sums = torch.empty((programs, 2, total.shape[-1]), dtype=torch.float32, device=total.device)
        _norm_backward[(programs,)](slope, total, mean, spread, weight, to_x, to_residual, sums, **ctx.cut)
        to_weight, to_bias = sums.sum(0).unbind(0)
        return to_x.to(total.dtype), to_residual, to_weight.to(weight.dtype), to_bias.to(ctx.types[1]), None, None, None


class GeluDropout(torch.autograd.Function):
    """dropout(gelu(x)), gelu by the error function."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float, seed: int) -> Tensor:
        """x: any shape, contiguous."""
        out = torch.empty_like(x)
        ctx.cut = {"seed": seed, "threshold": _threshold(p), "count": x.numel(), "DROPS": p > 0}
        ctx.cut |= {"R": _ROWS, "N": _COLUMNS, "num_warps": 4}
        _gelu_forward[(triton.cdiv(x.numel(), _ROWS * _COLUMNS),)](x, out, **ctx.cut)
        ctx.save_for_backward(x)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None, None]:
        """The gradient of x."""
        (x,) = ctx.saved_tensors
        to_x = torch.empty_like(x)
        _gelu_backward[(triton.cdiv(x.numel(), _ROWS * _COLUMNS),)](x, slope.contiguous(), to_x, **ctx.cut)
        return to_x, None, None

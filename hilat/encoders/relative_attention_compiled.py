"""XLNet's attention on the CPU in C: the function of `hilat.encoders.relative_attention`, strip by strip in the cache.

`c/relative_attention.c` says how. Half of a block's time there goes to numbers that are written for the next operation to
read; here a strip of some 48 queries goes from products to output at once. In float32 only.

Axis letters: H heads, B chunks, T tokens, E width of a head, P = T rounded up to the vectors' width.
"""

from __future__ import annotations

import ctypes
import logging
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hilat.admissions import HilatError
from hilat.encoders import compiled, kernels
from hilat.encoders.relative_attention import RelativeAttention
from hilat.encoders.scratch import scratch
from hilat.encoders.seeded_dropout import Dropout

_LOG = logging.getLogger(__name__)
_ALL_KEPT = 2**31 - 1  # the threshold below which all random numbers are
_OFF = 1e-4  # of the largest number, at most: float32 explains a hundredth of it

_Pointer = ctypes.c_void_p


class Job(ctypes.Structure):
    """What the C functions are given; as `struct job` there.

    qkv, r, shift and segments: as in `RelativeAttention.forward`. kinds: (B, T), int32, of each token's segment, or
    (0,) where all are one. padding:
    (B, T), 0 where a key is seen, -inf where only by itself. threshold: a weight is kept where 32 random bits, read as a
    signed number, are below it; output is multiplied by scale. sums: (H, B, T, 2), each
    query's largest score, and 1 / the sum that softmax divides by.
    weights: (H, B, T, P), after softmax, dropped ones with a minus sign, 0 past T. slope: of output. Those that stand for
    nothing are 0. Gradients of r, shift and segments are added to what is there.
    """

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("chunks", "tokens", "heads", "size")),
        *((name, _Pointer) for name in ("qkv", "r", "shift", "segments", "kinds", "padding")),
        ("seed", ctypes.c_uint64),
        ("threshold", ctypes.c_int32),
        ("scale", ctypes.c_float),
        *((name, _Pointer) for name in ("output", "sums", "weights")),
        *((name, _Pointer) for name in ("slope", "to_qkv", "to_r", "to_shift", "to_segments")),
    )


class Share(ctypes.Structure):
    """Tasks first to last - 1 of a job, a head of a chunk each, and memory for them; as `struct share` there."""

    _fields_ = (
        ("job", ctypes.POINTER(Job)),
        ("first", ctypes.c_int64),
        ("last", ctypes.c_int64),
        ("memory", _Pointer),
    )


class Team(ctypes.Structure):
    """Shares for threads to take, one after the other, and what is done with each; as `struct team` there."""

    _fields_ = (
        ("function", _Pointer),
        ("shares", ctypes.POINTER(Share)),
        ("count", ctypes.c_int32),
        ("next", ctypes.c_int32),
    )


class CompiledAttention(torch.autograd.Function):
    """As `RelativeAttention`; what is not kept is computed again in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        qkv: Tensor,
        r: Tensor,
        shift: Tensor,
        segments: Tensor | None,
        kinds: Tensor | None,
        padding: Tensor | None,
        dropout: Dropout | None,
        keep: bool = False,
    ) -> Tensor:
        """Output (B, T, H, E) of float32 numbers on the CPU; kinds and padding: as in `Job`, all else as in
        `RelativeAttention.forward`."""
        if qkv.dtype != torch.float32 or qkv.device.type != "cpu":
            raise ValueError(f"qkv is {qkv.dtype} on {qkv.device}; expected float32 on the CPU. Take RelativeAttention")
        chunks, tokens, _, heads, size = qkv.shape
        keep = keep or (ctx.needs_input_grad[0] and not ctx.needs_input_grad[1] and dropout is None)
        output, sums, weights = qkv.new_empty(chunks, tokens, heads, size), None, None
        if any(ctx.needs_input_grad):
            sums = qkv.new_empty(heads, chunks, tokens, 2)
        if keep:
            weights = qkv.new_empty(heads, chunks, tokens, _library().padded(tokens))
        given = {"qkv": qkv, "r": r, "shift": shift, "segments": segments, "kinds": kinds, "padding": padding}
        given |= {"output": output, "sums": sums, "weights": weights}
        given = {name: None if x is None else x.contiguous() for name, x in given.items()}
        _run(_library().attention, [given] * _threads(qkv), dropout)
        ctx.dropout, ctx.names = dropout, tuple(given)
        ctx.save_for_backward(*given.values())
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of qkv, r, shift and segments."""
        qkv, *others = ctx.saved_tensors  # once: where chunks are encoded again, each time would be another
        given: dict[str, Tensor | None] = dict(zip(ctx.names, (qkv, *others), strict=True))
        to_qkv, threads = torch.empty_like(qkv), _threads(qkv)
        given |= {"slope": slope.contiguous(), "to_qkv": to_qkv}
        # Those that tasks add to, each to its head's: as many as there may be threads at one head, added up in a fixed order.
        chunks, tasks = len(qkv), len(qkv) * qkv.shape[3]
        parts = min(threads, chunks // max(1, tasks // threads) + 2)
        added = {
            f"to_{name}": x.new_zeros(parts, *x.shape)
            for name, asked in zip(("r", "shift", "segments"), ctx.needs_input_grad[1:4], strict=True)
            if asked and (x := given[name]) is not None
        }
        each = [given | {name: x[i % parts] for name, x in added.items()} for i in range(threads)]
        _run(_library().attention_backward, each, ctx.dropout)
        sums = [added[name].sum(0) if name in added else None for name in ("to_r", "to_shift", "to_segments")]
        return to_qkv, *sums, None, None, None, None


@cache
def missing() -> str | None:
    """Why the C functions cannot be used here, or None; tried once, on a few numbers, and logged once where they cannot."""
    return kernels.why_not(_try_out, _LOG, "XLNet's attention is not compiled, which takes longer")


@cache
def _library() -> ctypes.CDLL:
    found = compiled.library(Path(__file__).with_name("c") / "relative_attention.c")
    found.work.argtypes, found.work.restype = [_Pointer], None
    for function, arguments in ((found.room_needed, 2), (found.padded, 1)):
        function.argtypes, function.restype = [ctypes.c_int64] * arguments, ctypes.c_int64
    return found


def _threads(qkv: Tensor) -> int:
    """How many share the tasks: at most as many as there are."""
    return max(1, min(torch.get_num_threads(), len(qkv) * qkv.shape[3]))


def _run(function: Any, each: list[dict[str, Tensor | None]], dropout: Dropout | None) -> None:
    """All tasks in as many shares as there are dictionaries of what a job is given."""
    qkv = each[0]["qkv"]
    assert qkv is not None
    chunks, tokens, _, heads, size = qkv.shape
    tasks, count = chunks * heads, len(each)
    rooms = scratch("compiled attention", count, _library().room_needed(tokens, size), like=qkv)
    jobs, shares = (Job * count)(), (Share * count)()
    for i, (job, share) in enumerate(zip(jobs, shares, strict=True)):
        job.chunks, job.tokens, job.heads, job.size = chunks, tokens, heads, size
        job.threshold, job.scale = _ALL_KEPT, 1.0
        if dropout is not None:
            job.seed, job.scale = dropout.number, dropout.scale
            job.threshold = min(dropout.threshold * 2**16, _ALL_KEPT)
        for name, x in each[i].items():
            setattr(job, name, None if x is None else x.data_ptr())
        share.job, share.memory = ctypes.pointer(job), rooms[i].data_ptr()
        share.first, share.last = (tasks * at // count for at in (i, i + 1))
    team = Team(function=ctypes.cast(function, _Pointer), shares=shares, count=count)
    compiled.in_threads(_library().work, ctypes.byref(team), count)


def _try_out() -> None:
    """Compare with `RelativeAttention` on a few numbers: more than one strip, two kinds of segments, some padding.

    Raises:
        HilatError: no library; or an output or a gradient that is off.
    """
    tokens, heads, size = 100, 2, 8
    drawn = torch.Generator().manual_seed(0)
    shapes = ((2, tokens, 3, heads, size), (2 * tokens, heads, size), (heads, size), (2, heads, size))
    parts = [torch.randn(shape, generator=drawn, dtype=torch.float32, device="cpu") for shape in shapes]
    kinds = torch.zeros(2, tokens, dtype=torch.int32, device="cpu")
    padding = torch.zeros(2, tokens, device="cpu")
    kinds[:, -2:], padding[1, 80:] = 1, -torch.inf
    hidden = padding[:, None].repeat(1, tokens, 1).double()
    hidden.diagonal(dim1=1, dim2=2).zero_()
    by_kind = torch.stack([kinds == 0, kinds == 1], -1).double()
    ways = ((CompiledAttention, torch.float32, kinds, padding), (RelativeAttention, torch.float64, by_kind, hidden))
    found = []
    with torch.enable_grad():
        for function, dtype, kind, unseen in ways:
            given = [part.to(dtype, copy=True).requires_grad_() for part in parts]
            output: Tensor = function.apply(*given, kind, unseen, None)  # type: ignore[no-untyped-call]
            slopes = torch.autograd.grad(output.square().sum(), given)
            found.append([output.detach(), *slopes])
    for mine, other in zip(*found, strict=True):
        apart = float((mine - other).abs().max() / other.abs().max())
        if not apart < _OFF:
            raise HilatError(
                f"what the C compiler made of it is off by {apart:.2g} of the largest number, expected under {_OFF}. "
                "Another compiler may do: set CC"
            )

"""The GPU's own kernels, if this machine can run them, and how a layer calls them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.activations import GELUActivation

from hilat.admissions import HilatError

_LOG = logging.getLogger(__name__)


@cache
def missing(size: int, dtype: torch.dtype, device: torch.device) -> str | None:
    """Why the kernels cannot run for heads of that size, or None; tried once, and logged once where they cannot."""
    try:
        from hilat.encoders import relative_attention_triton as attention

        apart(lambda: attention.try_out(size, dtype, device))
    except Exception as error:  # no Triton, no compiler, a GPU that it does not know, wrong numbers
        reason = str(error) if isinstance(error, HilatError) else f"Triton does not work here ({type(error).__name__})"
        _LOG.warning("XLNet's GPU kernels are not used: %s", reason)
        return reason
    return None


def why_not(try_out: Callable[[], None], log: logging.Logger, lost: str) -> str | None:
    """Why what `try_out` tries cannot be used here, which is logged after what is lost by it; None where it can."""
    try:
        apart(try_out)
    except (HilatError, OSError) as error:
        log.info("%s: %s", lost, error)
        return str(error)
    return None


def apart(run: Callable[[], None]) -> None:
    """Run it in a thread of its own, where nothing watches that watches the caller: modes, and those who count what is kept
    for the backward pass, as where chunks are encoded again."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(run).result()


def seed(p: float) -> int:
    """A seed below 2^31 from torch's generator, for dropout of a share p; 0 where nothing is dropped."""
    return int(torch.randint(2**31, ())) if p else 0


def norm_after(x: Tensor, residual: Tensor, norm: nn.LayerNorm, p: float) -> Tensor:
    """norm(dropout(x) + residual), (..., D), in one pass over memory, in x's type. p: of dropout, 0 for none."""
    from hilat.encoders.fused_triton import NormAfter

    done: Tensor = NormAfter.apply(  # type: ignore[no-untyped-call]
        x.contiguous(), residual.contiguous(), norm.weight, norm.bias, norm.eps, p, seed(p)
    )
    return done


def activated(x: Tensor, function: Callable[[Tensor], Tensor], p: float) -> Tensor:
    """dropout(function(x)), in one pass over memory where the function is gelu. p: of dropout, 0 for none."""
    from hilat.encoders.fused_triton import GeluDropout

    if isinstance(function, GELUActivation):
        done: Tensor = GeluDropout.apply(x.contiguous(), p, seed(p))  # type: ignore[no-untyped-call]
        return done
    return F.dropout(function(x), p)

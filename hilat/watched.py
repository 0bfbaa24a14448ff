"""Whether somebody follows what a model computes, call by call, so that the calls must stay what they are."""

from __future__ import annotations

import torch
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext


def calls_are_watched() -> bool:
    """A function mode is there that sees torch's calls, as DeepLift's is; torch's own, for a default device, looks at none."""
    modes = _get_current_function_mode_stack()  # type: ignore[no-untyped-call]
    return any(not isinstance(mode, DeviceContext) for mode in modes)


def nothing_is_kept() -> bool:
    """No gradients and nobody who compares calls: steps may be taken in parts, and write over what is needed no more."""
    return not torch.is_grad_enabled() and not calls_are_watched()

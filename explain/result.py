"""A metric's value that may be undefined: NaN always comes with its reason, and a reason only with NaN."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hilat.admissions import HilatError


@dataclass(frozen=True, slots=True)
class Value:
    """A number, or NaN and why there is none."""

    value: float
    reason: str | None = None

    def __post_init__(self) -> None:
        if math.isnan(self.value) != (self.reason is not None):
            raise HilatError(
                f"a metric is {self.value} with reason {self.reason!r}; expected a reason exactly when it is NaN. "
                "Use defined(x) or undefined(reason)"
            )


def defined(value: float) -> Value:
    """This number."""
    return Value(float(value))


def undefined(reason: str) -> Value:
    """No number, for this reason."""
    return Value(math.nan, reason)

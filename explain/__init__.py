"""explain: from codes to evidence. Word scores for every code, and measures of what they are worth."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from explain.attribution import Attribution
    from explain.explaining import explain, judge
    from explain.explanation import Explanation
    from explain.methods import METHODS
    from explain.pipeline import CodingPipeline
    from explain.subject import MethodOptions

__all__ = ["METHODS", "Attribution", "CodingPipeline", "Explanation", "MethodOptions", "explain", "judge"]

_HOME = {
    "METHODS": "explain.methods",
    "Attribution": "explain.attribution",
    "CodingPipeline": "explain.pipeline",
    "Explanation": "explain.explanation",
    "MethodOptions": "explain.subject",
    "explain": "explain.explaining",
    "judge": "explain.explaining",
}


def __getattr__(name: str) -> Any:
    """The public names, loaded when first asked for: pages read scores from disk and need no torch."""
    if name not in _HOME:
        raise AttributeError(f"module 'explain' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)

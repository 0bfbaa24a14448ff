"""explain: from codes to evidence. Word scores for every code, and measures of what they are worth."""

from explain.attribution import Attribution
from explain.explaining import explain, judge
from explain.methods import METHODS
from explain.subject import MethodOptions

__all__ = ["METHODS", "Attribution", "MethodOptions", "explain", "judge"]

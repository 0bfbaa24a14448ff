"""explain: from codes to evidence. Word scores for every code, and measures of what they are worth."""

from explain.attention import attend, explain
from explain.attribution import Attribution

__all__ = ["Attribution", "attend", "explain"]

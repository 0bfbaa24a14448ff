"""Years that lie before the stay: "in [**2140**]" in a note of 2151, "en 2003" in a case report of 2012.

ConText's lists know the past by its words; notes date it as often. MIMIC's dates are shifted, all of a patient's by the same
time, so that years of one note can be compared.
"""

from __future__ import annotations

import re
from functools import lru_cache

_MONTHS = 6  # a full date counts from so many months before the stay
# A date mark of a year, a month or a day; or a year after a preposition, since a bare number may be a result or a dose.
_DATE = re.compile(
    r"\[\*\*\s?(?P<marked>(?:1[89]|2[0-2])\d\d)(?:-(?P<month>\d{1,2}))?(?:-\d{1,2})?\s?\*\*\]"
    r"|\b(?:in|until|till|en|hasta)\s+(?P<plain>(?:19|20)\d\d)\b(?!\s*(?:ml|mL|mg|cc|units?\b)|[.,]\d)",
    re.IGNORECASE,
)
_STAY = re.compile(r"admission date:\s*\[\*\*(\d{4})-(\d{1,2})", re.IGNORECASE)
# What has lasted since then is not past.
_SINCE = re.compile(r"\b(?:since|from|desde)(?:\s+\w+)?\s*$", re.IGNORECASE)


@lru_cache(maxsize=2)
def past_years(text: str) -> tuple[tuple[int, int], ...]:
    """Raw ranges of dates before the stay, in text order: a year before its year, a month six months before its month.

    The stay is what "Admission Date:" says or, where there is no such heading, the latest date of the note. Dates after
    "since" are left out.
    """
    found = [(match, *_when(match)) for match in _DATE.finditer(text)]
    stay = _STAY.search(text)
    if stay is not None:
        year, month = int(stay.group(1)), int(stay.group(2))
    elif found:
        year, month = max((year, month or 0) for _, year, month in found)
    else:
        return ()
    past = []
    for match, then, its_month in found:
        months = 12 * (year - then) + month - its_month
        before = months >= _MONTHS if month and its_month else then < year
        if before and not _SINCE.search(text, max(0, match.start() - 30), match.start()):
            past.append(match.span())
    return tuple(past)


def _when(match: re.Match[str]) -> tuple[int, int]:
    """Year and month; month 0 where none is given."""
    month = int(match["month"] or 0)
    return int(match["marked"] or match["plain"]), month if 1 <= month <= 12 else 0

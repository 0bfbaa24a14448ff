"""Label sets: the most frequent codes of a corpus, published lists by name, and how two lists differ.

Several "top 50" lists of MIMIC-III circulate: they depend on the admissions that were counted (all, or those with a
discharge summary), and on whether repeats count. Always say which one a result is for.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib import resources

from hilat.admissions import HilatError

# Name -> (file in hilat/corpora/data, source).
PUBLISHED: dict[str, tuple[str, str]] = {
    "caml-50": (
        "mimic3_50.csv",
        "the 50 most frequent codes as counted by the CAML preprocessing (Mullenbach et al. 2018) over admissions with "
        "a discharge summary; used by the papers that HiLAT compares with",
    ),
}


def top_k(code_lists: Iterable[Sequence[str]], k: int) -> tuple[str, ...]:
    """The k codes that most admissions have, most frequent first; equally frequent ones by code."""
    counts = Counter(code for codes in code_lists for code in set(codes))
    return tuple(code for code, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:k])


def published_label_set(name: str) -> tuple[str, ...]:
    """The codes of a published list, in its order. Raises HilatError for a name that is not known."""
    if name not in PUBLISHED:
        raise HilatError(
            f"label set {name!r} is not known; expected a number, 'all', {', '.join(PUBLISHED)}, laat-50 (counted on "
            "MIMIC-III by LAAT's rule), or a file with one code per line. Correct the name"
        )
    text = resources.files("hilat.corpora").joinpath("data", PUBLISHED[name][0]).read_text(encoding="utf-8")
    return tuple(row["code"] for row in csv.DictReader(io.StringIO(text)))


def compare_label_sets(codes: Sequence[str]) -> dict[str, dict[str, list[str]]]:
    """How a label set differs from each published one: the codes only here and the codes only there, sorted."""
    mine = set(codes)
    return {
        name: {
            "only_here": sorted(mine - set(published_label_set(name))),
            "only_there": sorted(set(published_label_set(name)) - mine),
        }
        for name in PUBLISHED
    }

"""The label set of a MIMIC corpus: counted, or a list."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hilat.admissions import HilatError
from hilat.corpora.labelsets import compare_label_sets
from hilat.corpora.mimic_codes import CodedAdmissions, listed_codes, most_frequent, most_frequent_rows

LAAT_50 = "laat-50"


def choose_labels(
    coded: CodedAdmissions, hadm_ids: Sequence[str], labels: int | str | Path, min_count: int = 1
) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The codes of the label set in column order, and what to note about it.

    Arguments:
        hadm_ids: the admissions to count on. labels, min_count: as in `MimicSettings`.

    Raises:
        HilatError: a name that is no list, more codes asked for than there are, or none frequent enough.
    """
    counts = Counter(code for hadm_id in hadm_ids for code in coded.codes[hadm_id])
    notes: dict[str, Any] = {}
    if isinstance(labels, int) or labels == "all":
        frequent = {code for code, count in counts.items() if count >= min_count}
        if not frequent:
            raise HilatError(
                f"no code of {len(counts)} has {min_count} admissions or more; expected at least one. Lower min_count"
            )
        lists = [[code for code in coded.codes[hadm_id] if code in frequent] for hadm_id in hadm_ids]
        chosen = most_frequent(lists, labels if isinstance(labels, int) else len(frequent))
        notes["below_min_count"] = len(counts) - len(frequent)
    elif labels == LAAT_50:
        chosen = most_frequent_rows([coded.rows(hadm_id) for hadm_id in hadm_ids], 50)
    else:
        chosen = listed_codes(labels, coded.version)
        notes["not_in_data"] = sorted(code for code in chosen if code not in counts)
    if labels != "all" and coded.version == 9:
        notes["differs_from"] = compare_label_sets(chosen)
    notes |= {"codes": len(chosen), "without_title": sorted(code for code in chosen if not coded.titles.get(code))}
    return chosen, notes

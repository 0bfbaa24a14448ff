"""How well the codes of an explanation folder are predicted, from a table of pairs that is never held whole."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from hilat.metrics import checked, f1_scores

HELD = 65_536  # scores of positives that are ranked in one reading of the table, and those of one more row group


def pair_scores(pairs: Path) -> dict[str, float] | None:
    """F1s and micro AUC of all admissions in `pairs.parquet`; None where there are none or the coders' codes are not known.

    They are those of `hilat.metrics.evaluate_codes`, bit for bit. Held are one row group, with whole admissions, and counts.

    Raises:
        HilatError: probabilities that are none.
    """
    with pq.ParquetFile(pairs) as file:
        total = file.metadata.num_rows
        if total == 0:
            return None
        names = file.read_row_group(0, columns=["hadm_id"])["hadm_id"]
        n_codes = names.to_pylist().count(names[0].as_py())
        counts = np.zeros((3, n_codes), dtype=np.int64)  # hits, predicted, support
        for group in range(file.num_row_groups):
            rows = file.read_row_group(group, columns=["probability", "predicted", "gold"])
            if rows["gold"].null_count:
                return None
            scores, given, gold = (rows[name].to_numpy().reshape(-1, n_codes) for name in rows.column_names)  # (n, K)
            checked(scores, gold)
            counts += np.stack([(given & gold).sum(axis=0), given.sum(axis=0), gold.sum(axis=0)])
        micro, mean_of_codes, of_macro_p_r = f1_scores(*counts)
        return {
            "micro_f1": micro,
            "macro_f1_mean_of_codes": mean_of_codes,
            "macro_f1_of_macro_p_r": of_macro_p_r,
            "micro_auc": _micro_auc(file, int(counts[2].sum()), total),
        }


def _micro_auc(file: pq.ParquetFile, positives: int, total: int) -> float:
    """The share of (positive, negative) pairs ranked rightly, ties half (Mann and Whitney); NaN without both kinds.

    Each positive counts the scores below it, and half of those equal to it. That adds up over any portions of positives and
    of scores, in whole numbers when doubled. The positives among themselves, each with itself too, make half their square.
    """
    if positives in (0, total):
        return math.nan
    doubled = 0
    for some in _positives(file):
        for group in range(file.num_row_groups):
            ordered = np.sort(file.read_row_group(group, columns=["probability"])["probability"].to_numpy())
            doubled += sum(int(np.searchsorted(ordered, some, side).sum()) for side in ("left", "right"))
    return (doubled - positives**2) / 2 / (positives * (total - positives))


def _positives(file: pq.ParquetFile) -> Iterator[NDArray[np.float64]]:
    """The scores of all positives, some at a time, ascending."""
    some = np.empty(0)
    for group in range(file.num_row_groups):
        rows = file.read_row_group(group, columns=["probability", "gold"])
        some = np.concatenate([some, rows["probability"].to_numpy()[rows["gold"].to_numpy()]])
        if len(some) >= HELD or group == file.num_row_groups - 1:
            yield np.sort(some)
            some = np.empty(0)

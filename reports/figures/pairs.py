"""What the model said of every (admission, code) pair of an explanation folder, as arrays."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from hilat.admissions import HilatError


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """probabilities (N, K) from 0 to 1, predicted and gold (N, K) bool: N admissions by K codes."""

    hadm_ids: tuple[str, ...]
    codes: tuple[str, ...]
    probabilities: NDArray[np.float64]
    predicted: NDArray[np.bool_]
    gold: NDArray[np.bool_]


def read_pairs(explanations: Path) -> Pairs:
    """The pairs of an explanation folder.

    Raises:
        HilatError: no such table, no admission, or admissions whose codes nobody gave.
    """
    path = Path(explanations) / "pairs.parquet"
    if not path.exists():
        raise HilatError(f"{path} does not exist; expected a folder that `hilat explain` wrote. Check --explanations")
    table = pq.read_table(path, columns=["hadm_id", "code", "probability", "predicted", "gold"])
    if not table.num_rows:
        raise HilatError(f"{explanations} holds no admission; expected one or more. Explain a split that has some")
    if table["gold"].null_count:
        raise HilatError(
            f"{explanations} does not know the coders' codes of all admissions; this figure needs them. Explain a split "
            "whose admissions are coded"
        )
    ids = tuple(table["hadm_id"].unique().to_pylist())
    shape = (len(ids), table.num_rows // len(ids))
    columns = {name: table[name].to_numpy(zero_copy_only=False) for name in ("probability", "predicted", "gold")}
    return Pairs(
        ids,
        tuple(table["code"].slice(0, shape[1]).to_pylist()),
        columns["probability"].reshape(shape),
        columns["predicted"].astype(bool).reshape(shape),
        columns["gold"].astype(bool).reshape(shape),
    )

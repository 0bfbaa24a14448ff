"""Scoring a coder on a split."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hilat.admissions import Admission
from hilat.coder import WINDOW, Coder, Prediction, predict
from hilat.corpora.streaming import StoredSplit
from hilat.metrics import CodeMetrics, evaluate_codes
from hilat.processes import ALONE, Processes


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Metrics of a split with the probabilities they were computed from (N, K), and what the model did not see."""

    metrics: CodeMetrics
    hadm_ids: tuple[str, ...]
    probabilities: NDArray[np.float64]
    targets: NDArray[np.float32]
    truncated_documents: int
    truncated_words: int


def evaluate(
    coder: Coder,
    admissions: Sequence[Admission] | StoredSplit,
    *,
    batch_size: int = 8,
    workers: int = 0,
    follow: Callable[[Iterator[Prediction], int], Iterable[Prediction]] | None = None,
    processes: Processes = ALONE,
) -> Evaluation:
    """Score the coder on admissions, at its own thresholds.

    The label set is the coder's: codes of the admissions that are outside of it are not counted against it. The admissions
    are gone through twice; held are the probabilities and targets of all. workers: as for `predict`. follow: is given the
    predictions, as they are made, and their number, and passes them on. processes: those that share the windows of the
    admissions; all get the same Evaluation, which is that of one process.
    """
    ids, codes = [], []
    for admission in admissions:
        ids.append(admission.hadm_id)
        codes.append(admission.codes)
    window = max(batch_size, WINDOW)
    starts = processes.share(range(0, len(ids), window))
    mine = [n for start in starts for n in range(start, min(start + window, len(ids)))]
    chosen = set(mine)
    notes = (admission for n, admission in enumerate(admissions) if n in chosen)
    stream = predict(coder, notes, batch_size=batch_size, workers=workers)
    probabilities = np.zeros((len(ids), len(coder.code_book)))  # (N, K)
    lost = np.zeros(len(ids))
    for n, prediction in zip(mine, stream if follow is None else follow(stream, len(mine)), strict=True):
        probabilities[n] = prediction.probabilities
        lost[n] = prediction.document.truncated_words
    processes.add(probabilities)  # zeros where another process has the numbers
    processes.add(lost)
    targets = coder.code_book.targets(codes)  # (N, K)
    metrics = evaluate_codes(
        probabilities, targets, coder.thresholds, code_book=coder.code_book, threshold_source=coder.threshold_source
    )
    return Evaluation(metrics, tuple(ids), probabilities, targets, int((lost > 0).sum()), int(lost.sum()))

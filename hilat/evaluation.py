"""Scoring a coder on a split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hilat.admissions import Admission
from hilat.coder import Coder, Prediction, predict
from hilat.metrics import CodeMetrics, evaluate_codes


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
    admissions: Sequence[Admission],
    *,
    batch_size: int = 8,
    predictions: Iterator[Prediction] | None = None,
) -> Evaluation:
    """Score the coder on admissions, at its own thresholds. `predictions`, where at hand, are used instead of new ones.

    The label set is the coder's: codes of the admissions that are outside of it are not counted against it.
    """
    stream = predictions if predictions is not None else predict(coder, admissions, batch_size=batch_size)
    probabilities = np.zeros((len(admissions), len(coder.code_book)))  # (N, K)
    lost = np.zeros(len(admissions), dtype=np.int64)
    for n, prediction in enumerate(stream):
        probabilities[n] = prediction.probabilities
        lost[n] = prediction.document.truncated_words
    targets = coder.code_book.targets([admission.codes for admission in admissions])  # (N, K)
    metrics = evaluate_codes(
        probabilities, targets, coder.thresholds, code_book=coder.code_book, threshold_source=coder.threshold_source
    )
    return Evaluation(
        metrics,
        tuple(admission.hadm_id for admission in admissions),
        probabilities,
        targets,
        int((lost > 0).sum()),
        int(lost.sum()),
    )

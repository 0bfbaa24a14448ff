"""Word vectors from co-occurrence, to start an encoder's embeddings from when there is little coded text.

Positive pointwise mutual information of token pairs within a window, pairs weighted by 1/distance, contexts smoothed by
the power 0.75; factorised by truncated SVD, U * sqrt(S) (Levy, Goldberg and Dagan 2015, sections 3.1 to 3.3).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.utils.extmath import randomized_svd

from hilat.admissions import HilatError

_SMOOTHING = 0.75
_BATCH = 200_000  # tokens whose pairs are counted at a time


def cooccurrence_counts(sequences: Iterable[NDArray[np.int64]], size: int, window: int) -> sparse.csr_matrix:
    """Symmetric counts (V, V): for tokens i, j at distance d <= window in one sequence, 1/d each way."""
    total = sparse.csr_matrix((size, size), dtype=np.float64)
    rows: list[NDArray[np.int64]] = []
    columns: list[NDArray[np.int64]] = []
    weights: list[NDArray[np.float64]] = []
    held = 0
    for ids in sequences:
        for distance in range(1, min(window, len(ids) - 1) + 1):
            rows.append(ids[:-distance])
            columns.append(ids[distance:])
            weights.append(np.full(len(ids) - distance, 1.0 / distance))
        held += len(ids)
        if held >= _BATCH:
            total, held = total + _counted(rows, columns, weights, size), 0
            rows, columns, weights = [], [], []
    if rows:
        total = total + _counted(rows, columns, weights, size)
    return sparse.csr_matrix(total + total.T)


def cooccurrence_vectors(
    sequences: Iterable[NDArray[np.int64]], size: int, width: int, *, window: int = 5, seed: int = 0
) -> NDArray[np.float32]:
    """Vectors (V, D) of token ids below `size`, each scaled to length sqrt(D); tokens never seen get zeros.

    Raises:
        HilatError: no two tokens ever stand together, or a width that is not below the vocabulary's size.
    """
    if not 0 < width < size:
        raise HilatError(f"vectors of width {width} need a vocabulary larger than that; it has {size} tokens")
    counts = cooccurrence_counts(sequences, size, window)
    if counts.nnz == 0:
        raise HilatError("the texts have no two words side by side; give texts to count in")
    pairs = counts.tocoo()
    word = np.asarray(counts.sum(axis=1)).ravel()  # (V,)
    context = word**_SMOOTHING
    context /= context.sum()
    information = np.maximum(np.log(pairs.data / (word[pairs.row] * context[pairs.col])), 0.0)  # PPMI, nats
    matrix = sparse.csr_matrix((information, (pairs.row, pairs.col)), shape=counts.shape)
    left, strength, _ = randomized_svd(matrix, width, random_state=seed)
    vectors = np.where(word[:, None] > 0, left * np.sqrt(strength), 0.0)  # (V, D)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 1e-9) * np.sqrt(width)
    return np.asarray(scaled, dtype=np.float32)


def _counted(
    rows: list[NDArray[np.int64]], columns: list[NDArray[np.int64]], weights: list[NDArray[np.float64]], size: int
) -> sparse.csr_matrix:
    where = (np.concatenate(rows), np.concatenate(columns))
    return sparse.csr_matrix((np.concatenate(weights), where), shape=(size, size))

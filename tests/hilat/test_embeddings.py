"""Co-occurrence vectors against the definition, written out with loops."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hilat.admissions import HilatError
from hilat.embeddings import cooccurrence_counts, cooccurrence_vectors

SEQUENCES = [np.array([1, 2, 3, 1, 2]), np.array([4, 1]), np.array([3]), np.array([2, 4, 4, 3])]


def test_counts_are_those_of_a_loop() -> None:
    expected = np.zeros((5, 5))
    for ids in SEQUENCES:
        for i in range(len(ids)):
            for j in range(len(ids)):
                if i != j and abs(i - j) <= 2:
                    expected[ids[i], ids[j]] += 1 / abs(i - j)
    np.testing.assert_allclose(cooccurrence_counts(SEQUENCES, 5, 2).toarray(), expected, rtol=1e-14)


def test_vectors_factorise_the_positive_pmi() -> None:
    counts = cooccurrence_counts(SEQUENCES, 5, 2).toarray()
    word = counts.sum(axis=1)
    context = word**0.75 / (word**0.75).sum()
    ppmi = np.zeros((5, 5))
    for i in range(5):
        for j in range(5):
            if counts[i, j] > 0:
                ppmi[i, j] = max(0.0, math.log(counts[i, j] / (word[i] * context[j])))
    left, values, _ = np.linalg.svd(ppmi)
    expected = left[:, :3] * np.sqrt(values[:3])
    expected[0] = 0.0  # token 0 never occurs
    vectors = cooccurrence_vectors(SEQUENCES, 5, 3, window=2)
    for i in range(1, 5):
        assert np.linalg.norm(vectors[i]) == pytest.approx(math.sqrt(3), rel=1e-6)
        for j in range(1, 5):  # the signs of the factors are free, the angles between words are not
            cosine = expected[i] @ expected[j] / np.linalg.norm(expected[i]) / np.linalg.norm(expected[j])
            assert vectors[i] @ vectors[j] / 3 == pytest.approx(cosine, abs=1e-5)
    np.testing.assert_array_equal(vectors[0], 0)


def test_the_same_texts_and_seed_give_the_same_vectors() -> None:
    one, two = (cooccurrence_vectors(SEQUENCES, 5, 3, seed=4) for _ in range(2))
    np.testing.assert_array_equal(one, two)


def test_nothing_to_count_is_told() -> None:
    with pytest.raises(HilatError, match="no two words"):
        cooccurrence_vectors([np.array([3])], 5, 2)
    with pytest.raises(HilatError, match="width 5"):
        cooccurrence_vectors(SEQUENCES, 5, 5)

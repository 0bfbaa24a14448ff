"""Collecting explanations: the chunk of each word, and the choice of codes."""

from __future__ import annotations

import numpy as np

from explain.collect import first_chunk


def test_first_chunk_against_a_loop() -> None:
    rng = np.random.default_rng(1)
    word_index = rng.integers(-1, 30, size=(6, 9))
    expected = []
    for w in range(30):
        where = [c for c in range(6) if w in word_index[c]]
        expected.append(where[0] if where else -1)
    assert first_chunk(word_index, 30).tolist() == expected

"""Controls: explanations that know nothing of the code, to be beaten by those that claim to."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def seed_of(*parts: str | int) -> int:
    """A seed that depends on these names alone: the same whatever was drawn before, on every machine."""
    text = "\x1f".join(map(str, parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def random_scores(hadm_id: str, codes: Sequence[str], n_words: int, seed: int) -> NDArray[np.float64]:
    """(k, W) independent draws from (0, 1), unsigned; a pair's draw depends on its admission, code and the seed only."""
    draws = [np.random.default_rng(seed_of("random", hadm_id, code, seed)).random(n_words) for code in codes]
    return np.array(draws).reshape(len(codes), n_words)


def uniform_scores(codes: int, seen: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(k, W) the same share on each word that the model read, unsigned. Every order of its words is a tie."""
    return np.tile(seen / max(1, int(seen.sum())), (codes, 1))


def position_scores(codes: int, seen: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(k, W) 1 / (1 + place in model order), unsigned: what comes first matters most. 0 for words not read."""
    return np.tile(np.where(seen, 1.0 / (1.0 + np.arange(len(seen))), 0.0), (codes, 1))


def frequency_scores(codes: int, words: Sequence[str], seen: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(k, W) how often each word was read, as a share of all words read, case aside, unsigned; 0 for words not read."""
    folded = [word.casefold() for word in words]
    counts = Counter(word for word, read in zip(folded, seen, strict=True) if read)
    shares = np.array([counts[word] for word in folded], dtype=np.float64) / max(1, int(seen.sum()))
    return np.tile(np.where(seen, shares, 0.0), (codes, 1))


def other_columns(hadm_id: str, columns: Sequence[int], n_codes: int, seed: int) -> list[int]:
    """For each column another one, drawn by admission, column and seed; the column itself where the model has one code."""
    others = []
    for k in columns:
        draw = int(np.random.default_rng(seed_of("other", hadm_id, k, seed)).integers(max(1, n_codes - 1)))
        others.append(k if n_codes == 1 else draw + (draw >= k))
    return others

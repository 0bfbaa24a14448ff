"""What an explanation is here: one score per word of the raw note, for one code, by one method."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hilat.admissions import HilatError


@dataclass(frozen=True, slots=True)
class Attribution:
    """Word scores of one method for one (note, code) pair.

    target: what the scores explain: "logit", "probability", or "attention" for weights that explain no output.
    signed: whether a negative score speaks against the code. scores: (W,) float64, finite.
    word_spans: (W, 2) character ranges in the raw text, in the order in which the model read the words.
    outside: the share that fell on no word (special tokens, padding), where the method distributes a total of 1.
    """

    hadm_id: str
    code: str
    method: str
    target: str
    signed: bool
    scores: NDArray[np.float64]
    word_spans: NDArray[np.int64]
    outside: float = 0.0

    def __post_init__(self) -> None:
        if self.scores.ndim != 1 or self.word_spans.shape != (len(self.scores), 2):
            raise HilatError(
                f"attribution {self.method} of admission {self.hadm_id}, code {self.code}: scores have shape "
                f"{self.scores.shape} and word spans {self.word_spans.shape}; expected (W,) and (W, 2)"
            )
        if not np.isfinite(self.scores).all():
            raise HilatError(
                f"attribution {self.method} of admission {self.hadm_id}, code {self.code} holds "
                f"{int((~np.isfinite(self.scores)).sum())} values that are not finite; check the model's weights"
            )
        if not self.signed and (self.scores < 0).any():
            raise HilatError(f"attribution {self.method} is unsigned and has negative scores; mark it as signed")

    def top(self, k: int) -> NDArray[np.int64]:
        """Indices of the k words with the highest scores, best first; equal scores in text order."""
        order = np.lexsort((self.word_spans[:, 0], -self.scores))
        return order[:k].astype(np.int64)

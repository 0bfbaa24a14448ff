"""From a coder and admissions to what the explanation tables hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from explain.attention import attend
from explain.table import Explained
from hilat.admissions import Admission
from hilat.cleaning import clean
from hilat.coder import Coder

CHOICES = ("all", "predicted", "gold", "false-positive", "false-negative")


def chosen_columns(
    choices: Sequence[str], coder: Coder, predicted: NDArray[np.bool_], gold: NDArray[np.bool_]
) -> list[int]:
    """Columns of the codes that any of the choices names: a word of CHOICES, or a code. Unknown ones raise HilatError."""
    named = {
        "all": np.ones_like(predicted),
        "predicted": predicted,
        "gold": gold,
        "false-positive": predicted & ~gold,
        "false-negative": ~predicted & gold,
    }
    wanted = np.zeros(len(coder.code_book), dtype=bool)  # (K,)
    for choice in choices:
        if choice in CHOICES:
            wanted |= named[choice]
        else:
            wanted[coder.code_book.column(choice)] = True
    return [int(k) for k in np.flatnonzero(wanted)]


def collect(
    coder: Coder,
    admissions: Sequence[Admission],
    *,
    choices: Sequence[str] = ("predicted", "gold"),
    batch_size: int = 8,
) -> Iterator[Explained]:
    """One Explained per admission, in order, from one forward pass each."""
    for admission, (prediction, words, outside) in zip(
        admissions, attend(coder, admissions, batch_size=batch_size), strict=True
    ):
        document = prediction.document
        gold = coder.code_book.targets([admission.codes])[0] > 0.5  # (K,)
        predicted = prediction.probabilities >= coder.thresholds  # (K,)
        text = clean(admission.text, coder.rules)
        assert prediction.chunk_attention is not None
        yield Explained(
            hadm_id=admission.hadm_id,
            codes=coder.code_book.codes,
            logits=prediction.logits,
            probabilities=prediction.probabilities,
            thresholds=coder.thresholds,
            gold=gold,
            chunk_attention=prediction.chunk_attention.astype(np.float64),
            outside=outside,
            word_scores={coder.code_book.codes[k]: words[k] for k in chosen_columns(choices, coder, predicted, gold)},
            word_spans=document.word_spans,
            word_chunk=first_chunk(document.word_index, len(document.word_spans)),
            word_tokens=np.bincount(document.word_index[document.word_index >= 0], minlength=len(document.word_spans)),
            removed=text.removed,
            removed_reasons=text.removed_reasons,
        )


def first_chunk(word_index: NDArray[np.int64], n_words: int) -> NDArray[np.int64]:
    """The chunk in which each word begins, (W,), from word_index (C, T); -1 for words after the last chunk."""
    chunks = np.broadcast_to(np.arange(word_index.shape[0])[:, None], word_index.shape)  # (C, T)
    first = np.full(n_words, word_index.shape[0], dtype=np.int64)
    inside = word_index >= 0
    np.minimum.at(first, word_index[inside], chunks[inside])
    return np.where(first == word_index.shape[0], -1, first)

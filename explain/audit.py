"""Where the attention lies besides words: an audit of its mass on special tokens, padding, marks and chunk borders."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from hilat.encoding import EncodedDocument

Array = NDArray[np.float64]
_MARK = re.compile(r"\[\*\*.*?\*\*\]", re.DOTALL)  # MIMIC's de-identification marks
# Kinds of positions; a position may be of several (a border is also a word).
KINDS: dict[str, str] = {
    "special": "special tokens (classifier, separator)",
    "padding": "padding",
    "punctuation": "words without a letter or a digit",
    "number": "words without a letter",
    "deidentified": "words inside of de-identification marks [** ... **]",
    "chunk_border": "the first and the last word token of a chunk",
}


def kinds(document: EncodedDocument, text: str) -> dict[str, NDArray[np.bool_]]:
    """Kind -> positions (C, T) that are of it; over the chunks as they were encoded."""
    index, mask = document.word_index, document.attention_mask == 1  # (C, T)
    word = index >= 0
    words = [text[start:end] for start, end in document.word_spans]
    marks = [match.span() for match in _MARK.finditer(text)]
    inside = np.zeros(len(words), dtype=bool)
    for start, end in marks:
        inside |= (document.word_spans[:, 0] >= start) & (document.word_spans[:, 1] <= end)

    def of_words(flags: NDArray[np.bool_]) -> NDArray[np.bool_]:
        if not len(flags):
            return np.zeros_like(word)
        return np.asarray(word & flags[np.maximum(index, 0)])

    border = np.zeros_like(word)
    for c in range(len(word)):
        places = np.flatnonzero(word[c])
        if len(places):
            border[c, [places[0], places[-1]]] = True
    return {
        "special": mask & ~word,
        "padding": ~mask,
        "punctuation": of_words(np.array([not any(ch.isalnum() for ch in w) for w in words], dtype=bool)),
        "number": of_words(np.array([not any(ch.isalpha() for ch in w) for w in words], dtype=bool)),
        "deidentified": of_words(inside),
        "chunk_border": border,
    }


def audit(attention: Array, document: EncodedDocument, text: str) -> dict[str, tuple[Array, float]]:
    """Kind -> the share (k,) of the attention (k, C, T) on it, and its share of the tokens that are no padding.

    For padding the second number is 0: even attention over what is there puts none on it.
    """
    real = document.attention_mask == 1
    found = {}
    for kind, places in kinds(document, text).items():
        found[kind] = (attention[:, places].sum(axis=-1), float((places & real).sum() / max(1, int(real.sum()))))
    return found

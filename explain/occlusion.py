"""Occlusion: what a code's output loses when words are taken away, one at a time, in windows, or by sentence.

Everything here sees a note as a set function, `value(keep (S, W)) -> logits (S, K)` (see `explain.perturbation`), so one
stream of changed notes serves all codes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from explain.note_gradients import Output, known
from hilat.admissions import HilatError

SetFunction = Callable[[NDArray[np.bool_]], NDArray[np.float64]]
_BLOCK = 1024  # masks that are handed over at a time
# Between two words of one sentence there is no line break, and no full stop, question or exclamation mark or semicolon
# before white space.
_BORDER = re.compile(r"\n|[.!?;]\s")


def outputs(value: SetFunction, keep: NDArray[np.bool_], output: Output) -> NDArray[np.float64]:
    """Logits or probabilities (S, K) of the samples keep (S, W), handed over in blocks."""
    known("output", output, ("logit", "probability"))
    if not len(keep):
        raise HilatError("no sample was given; expected one row of kept words or more")
    logits = np.concatenate([value(keep[start : start + _BLOCK]) for start in range(0, len(keep), _BLOCK)])
    return logits if output == "logit" else 1.0 / (1.0 + np.exp(-logits))


def occlusion(value: SetFunction, groups: NDArray[np.int64], output: Output = "logit") -> NDArray[np.float64]:
    """Scores (K, W), signed: f(x) - f(x without the word's group), shared evenly by the words of the group.

    groups: (W,) the group of each word, -1 for a word that is always kept and scores 0. With a group per word this is
    leave-one-out (Li et al. 2016, "Understanding neural networks through representation erasure", section 3).
    """
    names, index = np.unique(groups[groups >= 0], return_inverse=True)
    keep = np.ones((len(names) + 1, len(groups)), dtype=bool)  # the last row keeps all
    keep[:-1] = groups[None] != names[:, None]
    found = outputs(value, keep, output)  # (G + 1, K)
    drops = found[-1] - found[:-1]  # (G, K)
    sizes = np.bincount(index, minlength=len(names))
    scores = np.zeros((found.shape[1], len(groups)))
    scores[:, groups >= 0] = (drops / sizes[:, None])[index].T
    return scores


def window_occlusion(
    value: SetFunction, words: NDArray[np.int64], n_words: int, size: int, output: Output = "logit"
) -> NDArray[np.float64]:
    """Scores (K, W), signed: the mean over the windows that hold a word of f(x) - f(x without the window).

    words: the words to slide over, in their order; windows of `size` neighbours, one word apart. Others score 0.

    Raises:
        HilatError: for a size below 1.
    """
    if size < 1:
        raise HilatError(f"the window has {size} words; expected 1 or more. Change it")
    count = max(1, len(words) - size + 1) if len(words) else 0
    keep = np.ones((count + 1, n_words), dtype=bool)
    for start in range(count):
        keep[start, words[start : start + size]] = False
    found = outputs(value, keep, output)  # (windows + 1, K)
    drops = found[-1] - found[:-1]
    inside = ~keep[:-1]  # (windows, W)
    return np.asarray(drops.T @ inside / np.maximum(inside.sum(axis=0), 1))


def sentence_groups(text: str, word_spans: NDArray[np.int64]) -> NDArray[np.int64]:
    """The sentence (W,) of each word, counted from 0 in text order.

    In a note a line break ends a sentence as a full stop does; an abbreviation's full stop ends one too.
    """
    order = np.argsort(word_spans[:, 0], kind="stable")
    groups = np.zeros(len(word_spans), dtype=np.int64)
    for before, after in pairwise(order):
        between = text[word_spans[before, 1] : word_spans[after, 0] + 1]
        groups[after] = groups[before] + bool(_BORDER.search(between))
    return groups

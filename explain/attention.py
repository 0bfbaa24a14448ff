"""Attention as explanation: global token attention (Liu et al. 2022, equation 10) and word attention (Fig. 2)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from hilat.admissions import Admission, HilatError
from hilat.coder import Coder, Prediction, predict
from hilat.encoding import EncodedDocument, outside_words, tokens_to_words


def global_token_attention(
    token_attention: NDArray[np.floating], chunk_attention: NDArray[np.floating]
) -> NDArray[np.float64]:
    """g = alpha * o (equation 10): (K, C, T) token attention times (K, C) chunk attention -> (K, C, T)."""
    weights = token_attention.astype(np.float64) * chunk_attention.astype(np.float64)[..., None]  # (K, C, T)
    return np.asarray(weights, dtype=np.float64)


def word_attention(
    tokens: NDArray[np.float64], document: EncodedDocument
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Word attention (K, W) from global token attention (K, C, T), and the share (K,) that fell outside of all words.

    The weights of a word's tokens are summed (Fig. 2 d). The paper then normalises; here the words and the share on
    special and padding tokens together sum to 1, so nothing is hidden. Divide by the sum over words for the paper's.
    """
    words = tokens_to_words(tokens, document, how="sum")  # (K, W)
    outside = outside_words(tokens, document)  # (K,)
    total = words.sum(axis=-1) + outside  # (K,)
    total = np.where(total > 0, total, 1.0)
    return words / total[:, None], outside / total


def attend(
    coder: Coder,
    admissions: Iterable[Admission | str],
    *,
    batch_size: int = 8,
    columns: Sequence[int] | None = None,
) -> Iterator[tuple[Prediction, NDArray[np.float64], NDArray[np.float64]]]:
    """For each admission: the prediction, word attention (K, W) and the share outside (K,), for all codes at once.

    columns: only these k codes, in this order, instead of all K; the prediction's token attention is theirs too.

    Raises:
        HilatError: when the model has no chunk attention (it pools chunks), so that equation 10 is not defined.
    """
    if coder.model.config.chunk_attention not in ("shared", "per_code"):
        raise HilatError(
            f"the model pools chunks ({coder.model.config.chunk_attention}) and has no chunk attention; equation 10 "
            "needs one. Explain it with a gradient or perturbation method, or train with chunk_attention: shared"
        )
    for prediction in predict(coder, admissions, batch_size=batch_size, attentions=True, attention_codes=columns):
        assert prediction.token_attention is not None
        assert prediction.chunk_attention is not None
        chunks = prediction.chunk_attention if columns is None else prediction.chunk_attention[list(columns)]
        tokens = global_token_attention(prediction.token_attention, chunks)
        words, outside = word_attention(tokens, prediction.document)
        yield prediction, words, outside

"""Equation 10 and Fig. 2 against loops; the five lines of the README."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from explain import explain
from explain.attention import attend, global_token_attention
from hilat.admissions import HilatError
from hilat.coder import Coder

MakeCoder = Callable[..., Coder]


def test_global_token_attention_is_equation_10() -> None:
    rng = np.random.default_rng(0)
    token, chunk = rng.random((3, 4, 5)), rng.random((3, 4))
    found = global_token_attention(token, chunk)
    for k in range(3):
        for c in range(4):
            for t in range(5):
                assert found[k, c, t] == token[k, c, t] * chunk[k, c]


def test_words_get_the_sum_of_their_tokens_and_nothing_is_lost(make_coder: MakeCoder, note: str) -> None:
    coder = make_coder()
    ((prediction, words, outside),) = attend(coder, [note])
    document = prediction.document
    assert prediction.token_attention is not None
    assert prediction.chunk_attention is not None
    slow = np.zeros_like(words)
    for k in range(words.shape[0]):
        for c in range(document.word_index.shape[0]):
            for t in range(document.word_index.shape[1]):
                if document.word_index[c, t] >= 0:
                    weight = float(prediction.token_attention[k, c, t]) * float(prediction.chunk_attention[k, c])
                    slow[k, document.word_index[c, t]] += weight
    np.testing.assert_allclose(words, slow, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(words.sum(1) + outside, 1.0, atol=1e-9)


def test_a_model_that_pools_chunks_is_refused(make_coder: MakeCoder, note: str) -> None:
    with pytest.raises(HilatError, match="pools chunks"):
        next(attend(make_coder(chunk_attention="max"), [note]))


def test_explain_gives_the_codes_of_the_model_or_those_asked_for(make_coder: MakeCoder, note: str) -> None:
    coder = make_coder()
    ((prediction, words, outside),) = attend(coder, [note])
    given = [code for k, code in enumerate(coder.code_book.codes) if prediction.probabilities[k] >= 0.5]
    assert [a.code for a in explain(coder, note)] == given
    (one,) = explain(coder, note, ["584.9"])
    np.testing.assert_allclose(one.scores, words[2], rtol=1e-5, atol=1e-9)
    assert one.outside == pytest.approx(outside[2], abs=1e-6)
    assert (one.method, one.target, one.signed) == ("attention", "attention", False)
    assert next(note[s:e] for s, e in one.word_spans[one.top(1)]).strip()
    with pytest.raises(HilatError, match=r"999\.9"):
        explain(coder, note, ["999.9"])
    with pytest.raises(HilatError, match="input_x_gradient"):
        explain(coder, note, method="atention")

"""Collecting explanations: the chunk of each word, and one pass of the encoder for predictions and attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from explain.collect import collect, first_chunk
from explain.hilat_target import HilatTarget
from explain.methods import METHODS, reads_states
from explain.subject import MethodOptions, Subject
from hilat.admissions import Admission
from hilat.coder import Coder, predict

MakeCoder = Callable[..., Coder]


def test_first_chunk_against_a_loop() -> None:
    rng = np.random.default_rng(1)
    word_index = rng.integers(-1, 30, size=(6, 9))
    expected = []
    for w in range(30):
        where = [c for c in range(6) if w in word_index[c]]
        expected.append(where[0] if where else -1)
    assert first_chunk(word_index, 30).tolist() == expected


@pytest.mark.parametrize(
    "settings",
    [{}, {"attend_padding": True}, {"token_attention": "per_chunk", "chunk_attention": "per_code"}, {"kind": "bert"}],
)
def test_the_predictions_pass_gives_what_a_pass_of_its_own_gives(
    make_coder: MakeCoder, note: str, other_note: str, settings: dict[str, Any]
) -> None:
    """Batches of notes of other lengths, one without any text to read; every method that reads states."""
    coder = make_coder(**settings)
    notes = [Admission(str(n), text, ("428.0",)) for n, text in enumerate((note, other_note, "12 34", note[:200]))]
    methods = [name for name in METHODS if reads_states(name)]
    assert {"attention", "attention_x_gradient", "att_in_grad", "other_code"} <= set(methods)
    options = MethodOptions()
    for admission, one in zip(
        notes, collect(coder, notes, choices=("all",), methods=methods, batch_size=3), strict=True
    ):
        alone = Subject(HilatTarget(coder), coder.encode(admission), admission.text, range(5), options)
        assert alone.hidden is None
        for name in methods:
            expected, found = METHODS[name].scores(alone), one.methods[name]
            scale = np.abs(expected.scores).max(initial=1e-9)
            np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5, atol=1e-6 * scale, err_msg=name)
            np.testing.assert_allclose(found.outside, expected.outside, rtol=1e-5, atol=1e-6)
            assert found.passes == expected.passes


def test_attention_costs_no_pass_of_its_own(
    make_coder: MakeCoder, note: str, other_note: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    coder, encoded = make_coder(), []
    notes = [Admission(str(n), text, ()) for n, text in enumerate((note, other_note, note))]
    plain = coder.model.encode_chunks
    monkeypatch.setattr(
        coder.model, "encode_chunks", lambda inputs: encoded.append(len(inputs["attention_mask"])) or plain(inputs)
    )
    list(predict(coder, notes))
    predicted = sum(encoded)
    encoded.clear()
    list(collect(coder, notes, choices=("all",), methods=("attention", "att_grad", "other_code")))
    assert sum(encoded) == predicted > 0


def test_hidden_states_are_kept_only_where_a_method_reads_them(
    make_coder: MakeCoder, note: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    coder, asked = make_coder(), []
    monkeypatch.setattr(
        "explain.collect.predict", lambda *given, hidden, **more: asked.append(hidden) or predict(*given, **more)
    )
    for methods in (("attention",), ("saliency", "other_code"), ("saliency", "random"), ("occlusion",)):
        list(collect(coder, [Admission("1", note, ())], choices=("428.0",), methods=methods))
    assert asked == [True, True, False, False]

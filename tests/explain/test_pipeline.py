"""The pipeline against `predict` and `explain`, which compute the same in other ways."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import explain.pipeline
from explain import explain as explain_text
from explain.pipeline import CodeScore, CodingPipeline
from hilat.admissions import Admission, HilatError
from hilat.coder import predict, save_coder


@pytest.fixture(scope="module")
def coder(make_coder):  # type: ignore[no-untyped-def]
    return make_coder()


def values(scores: list[CodeScore]) -> np.ndarray:
    return np.array([[one.score, one.logit, *(w.score for w in one.evidence)] for one in scores])


def test_it_says_what_predict_says(coder, note, other_note):  # type: ignore[no-untyped-def]
    pipeline = CodingPipeline(coder)
    for text, said in zip((note, other_note), pipeline([note, other_note], threshold=0.0), strict=True):
        prediction = next(predict(coder, [text]))
        order = sorted(range(5), key=lambda k: (-prediction.probabilities[k], coder.code_book.codes[k]))
        assert [one.code for one in said] == [coder.code_book.codes[k] for k in order]
        np.testing.assert_allclose([one.score for one in said], prediction.probabilities[order], atol=1e-6)
        np.testing.assert_allclose([one.logit for one in said], prediction.logits[order], atol=1e-5)
    given = pipeline(note)
    assert [one.code for one in given] == [one.code for one in pipeline(note, threshold=0.0) if one.score >= 0.5]
    assert 0 < len(given) < 5
    assert all(one.given and one.threshold == 0.5 for one in given)


def test_top_k_and_threshold(coder, note):  # type: ignore[no-untyped-def]
    every = [one.score for one in CodingPipeline(coder, threshold=0.0, evidence=0)(note)]
    pipeline = CodingPipeline(replace(coder, thresholds=np.full(5, 0.999)), evidence=0)
    assert pipeline(note) == []
    top = pipeline(note, top_k=2)
    assert ([one.score for one in top], [one.given for one in top]) == (every[:2], [False, False])
    assert [one.score for one in pipeline(note, top_k=4, threshold=every[1])] == every[:2]
    assert [one.score for one in pipeline(note, top_k=9)] == every


@pytest.mark.parametrize("method", ["attention", "input_x_gradient", "random"])
@pytest.mark.parametrize("at_once", [True, False])
def test_evidence_is_that_of_explain(coder, note, method, at_once, monkeypatch):  # type: ignore[no-untyped-def]
    monkeypatch.setattr(explain.pipeline, "_AT_ONCE", 2**29 if at_once else 0)
    text = note.replace("\n", "\r\n").replace("fever", "fe\x00ver")
    for one in CodingPipeline(coder)(text, threshold=0.0, evidence=7, method=method):
        (words,) = explain_text(coder, text, [one.code], method=method)
        ranked = [i for i in words.top(7) if words.scores[i] > 0]
        assert len(one.evidence) == len(ranked) == 7
        np.testing.assert_allclose([w.score for w in one.evidence], words.scores[ranked], atol=1e-6)
        assert [(w.start, w.end) for w in one.evidence] == [tuple(words.word_spans[i]) for i in ranked]
        assert [w.word for w in one.evidence] == [text[w.start : w.end] for w in one.evidence]


def test_words_that_were_not_read_are_no_evidence(make_coder, note):  # type: ignore[no-untyped-def]
    coder = make_coder(chunks=1, tokens=8)
    (coded,) = CodingPipeline(coder).notes([note], top_k=1, evidence=500)
    read = coder.encode(note)
    seen = np.unique(read.word_index[read.word_index >= 0])
    assert coded.truncated_words == read.truncated_words > 0
    assert sorted((w.start, w.end) for w in coded.codes[0].evidence) == sorted(
        map(tuple, read.word_spans[seen].tolist())
    )


def test_order_and_batches_change_nothing(coder, note, other_note):  # type: ignore[no-untyped-def]
    texts = [(note if n % 3 else other_note)[: 60 + 23 * n] for n in range(19)]
    pipeline = CodingPipeline(coder, top_k=5, evidence=2)
    alone = [pipeline(text) for text in texts]
    for batch_size in (1, 5, 32):
        for one, same in zip(pipeline(texts, batch_size=batch_size), alone, strict=True):
            assert [s.code for s in one] == [s.code for s in same]
            np.testing.assert_allclose(values(one), values(same), atol=1e-5)
            assert [(w.start, w.end) for s in one for w in s.evidence] == [(w.start, w.end) for s in same for w in s.evidence]  # fmt: skip


def test_other_iterables_stream(coder, note):  # type: ignore[no-untyped-def]
    taken = []

    def endless():  # type: ignore[no-untyped-def]
        while True:
            taken.append(0)
            yield note

    stream = CodingPipeline(coder)(endless())
    assert next(stream)[0].code == next(stream)[0].code
    assert len(taken) <= 17
    named = CodingPipeline(coder).notes([Admission("7", note, ())])
    assert next(named).hadm_id == "7"


def test_a_folder_will_do_and_records_are_mappings(coder, note, tmp_path: Path):  # type: ignore[no-untyped-def]
    save_coder(coder, tmp_path / "m")
    (first, *_) = CodingPipeline(tmp_path / "m", device="cpu")(note)
    assert first["code"] == first.code
    assert dict(first.evidence[0])["word"] == first.evidence[0].word
    again = json.loads(json.dumps(first, default=dict))
    assert again["evidence"][0]["start"] == first.evidence[0].start
    assert first.evidence[0].word not in repr(first)
    with pytest.raises(KeyError):
        first["label"]


def test_what_is_wrong_is_said(coder, make_coder, note):  # type: ignore[no-untyped-def]
    pipeline = CodingPipeline(coder)
    for call, words in (
        (lambda: pipeline([note, " \n"]), "text 2 is empty"),
        (lambda: pipeline([note, 3]), "text 2 is a int"),
        (lambda: pipeline(note, topk=3), "topk are not known; expected some of top_k"),
        (lambda: pipeline(note, top_k=0), "top_k is 0"),
        (lambda: pipeline(note, threshold=2.0), "from 0 to 1"),
        (lambda: pipeline(note, method="magic"), "magic"),
        (lambda: CodingPipeline(make_coder(chunk_attention="max"))(note, top_k=1), "pools chunks by max"),
    ):
        with pytest.raises(HilatError, match=words) as caught:
            call()  # type: ignore[no-untyped-call]
        assert note[:30] not in str(caught.value)
    assert CodingPipeline(make_coder(chunk_attention="max"))(note, top_k=1, evidence=0)[0].evidence == ()
    occluded = CodingPipeline(make_coder(chunk_attention="max"))(note, top_k=1, method="input_x_gradient")
    assert occluded[0].evidence


def test_attention_takes_no_further_pass_of_the_encoder(coder, note, other_note, monkeypatch):  # type: ignore[no-untyped-def]
    passes = []
    hook = coder.model.encoder.register_forward_hook(lambda *_: passes.append(0))
    try:
        for at_once, evidence, expected in ((True, 0, 1), (True, 5, 1), (False, 5, 3)):
            passes.clear()
            monkeypatch.setattr(explain.pipeline, "_AT_ONCE", 2**29 if at_once else 0)
            CodingPipeline(coder, top_k=2, evidence=evidence)([note, other_note])
            assert len(passes) == expected  # one for both, and one for each where the attention is asked for afterwards
    finally:
        hook.remove()

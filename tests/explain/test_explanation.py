"""What explain() returns: a sequence of attributions that shows itself as the admission's page, and never in its repr."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from explain import Explanation, explain
from explain.attention import attend
from hilat.admissions import Admission, EvidenceSpan, HilatError, plain_text
from hilat.coder import Coder
from reports.notebook import frame, html, page_of

MakeCoder = Callable[..., Coder]
CODES = ("584.9", "401.9", "038.9")


@pytest.fixture(scope="module")
def coder(make_coder: MakeCoder) -> Coder:
    return make_coder()


@pytest.fixture(scope="module")
def admission(note: str) -> Admission:
    start = note.index("acute kidney failure")
    return Admission("4711", note, ("584.9", "428.0"), (EvidenceSpan("584.9", ((start, start + 20),)),))


def test_an_explanation_is_a_sequence_of_attributions_in_the_order_asked_for(coder: Coder, note: str) -> None:
    found = explain(coder, note, [*CODES, CODES[0]])
    assert isinstance(found, Explanation)
    assert [one.code for one in found] == [found[i].code for i in range(len(found))] == [*CODES, CODES[0]]
    assert [one.code for one in found[1:3]] == list(CODES[1:3])
    assert found[-1].code == CODES[0]
    assert found[1] in found
    ((_, words, outside),) = attend(coder, [note])
    for one in found:
        k = coder.code_book.column(one.code)
        np.testing.assert_allclose(one.scores, words[k], rtol=1e-5, atol=1e-9)
        assert one.outside == pytest.approx(outside[k], abs=1e-6)
    nothing = explain(coder, note, [])
    assert not nothing
    assert list(nothing) == []
    with pytest.raises(HilatError, match="'all'"):
        explain(coder, note, ["all"])
    with pytest.raises(HilatError, match="empty"):
        explain(coder, " \n")


def test_the_repr_and_the_logs_hold_no_word_of_the_note(
    coder: Coder, note: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.DEBUG):
        found = explain(coder, note + "Zyxcanary was seen.", CODES, method="input_x_gradient")
        html(found)
    ours = {"explanation", "of", "admission", "text", "by", "input_x_gradient", "codes", "words", "read"}
    written = (repr(found) + caplog.text + "".join(capfd.readouterr())).lower()
    assert "zyxcanary" not in written
    assert set(re.findall(r"[a-z_]+", repr(found).lower())) <= ours
    assert re.search(r"3 of 5 codes \(584\.9, 401\.9, 038\.9\), \d+ of \d+ words read", repr(found))


def test_word_spans_are_of_the_text_as_it_was_given(coder: Coder, note: str) -> None:
    given = note.replace("\n", "\r\n").replace("fever", "fe\x00ver\r\rcough")
    one, plain = explain(coder, given, CODES[:1]), explain(coder, plain_text(given), CODES[:1])
    np.testing.assert_array_equal(one[0].scores, plain[0].scores)
    words = [plain_text(given)[s:e] for s, e in plain[0].word_spans]
    assert [given[s:e].replace("\x00", "") for s, e in one[0].word_spans] == words
    assert "fever" in words
    assert page_of(one) == page_of(plain)


def test_the_page_shows_attention_as_fill_and_the_method_as_underline(coder: Coder, admission: Admission) -> None:
    ((prediction, words, _),) = attend(coder, [admission])
    for method in ("attention", "input_x_gradient", "random"):
        found = explain(coder, admission, CODES, method=method)
        page = page_of(found)
        assert page.text == admission.text
        assert not page.synthetic
        spans = found[0].word_spans
        place = {tuple(span): w for w, span in enumerate(spans.tolist())}
        for view in page.codes:
            k = coder.code_book.column(view.code)
            assert view.probability == pytest.approx(float(prediction.probabilities[k]))
            assert view.gold is (view.code in admission.codes)
            assert bool(len(view.scores)) is (view.code in CODES)
            if view.code not in CODES:
                continue
            order = [place[span] for span in page.words]
            np.testing.assert_allclose(np.asarray(view.scores), words[k][order], rtol=1e-5, atol=1e-9)
            assert [layer.method for layer in view.layers] == ([] if method == "attention" else [method])
            for layer in view.layers:
                np.testing.assert_array_equal(np.asarray(layer.scores), found[CODES.index(view.code)].scores[order])
        assert next(view for view in page.codes if view.code == "584.9").evidence


def test_a_bare_text_has_no_true_and_false(coder: Coder, note: str) -> None:
    page = page_of(explain(coder, note))
    assert {view.outcome for view in page.codes} <= {"predicted", "not predicted"}
    assert page.hadm_id == "text"


def test_description_words_and_cues_are_on_the_page(coder: Coder, admission: Admission) -> None:
    book = replace(coder.code_book, titles=("", "", "Acute kidney failure, unspecified", "", "Sepsis"))
    page = page_of(explain(replace(coder, code_book=book), admission, CODES))
    views = {view.code: view for view in page.codes}
    text = admission.text
    marked = {text[s:e].strip(".,;") for s, e, _ in views["584.9"].notes.keywords}
    assert marked == {"acute", "kidney", "failure"}
    assert {cue.kind for view in page.codes if view.outcome in ("FP", "FN") for cue in view.notes.cues}


def test_a_model_that_pools_chunks_shows_the_other_method_alone(make_coder: MakeCoder, note: str) -> None:
    coder = make_coder(chunk_attention="max")
    with pytest.raises(HilatError, match="pools chunks"):
        explain(coder, note, CODES)
    found = explain(coder, note, CODES, method="input_x_gradient")
    page = page_of(found)
    assert "nothing is filled, and the underline is input x gradient" in page.notes[0]
    shaded = [view for view in page.codes if len(view.scores)]
    assert len(shaded) == 3
    for view in shaded:
        assert not np.asarray(view.scores).any()
        assert np.asarray(view.layers[0].scores).any()
    note_markup = str(html(found)).split("id=&#34;note&#34;")[1]
    assert re.search(r"class=&#34;[^&]*[pm]\d", note_markup)
    assert page_of(explain(coder, note, [], method="input_x_gradient")).text == note


def test_a_notebook_finds_what_draws_the_page(
    coder: Coder, admission: Admission, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = explain(coder, admission, CODES)
    shown = found._repr_html_()
    assert shown is not None, "the entry point hilat.display is not installed; install the package again"
    assert shown == str(frame(page_of(found)))
    assert shown.startswith("<iframe ")
    monkeypatch.setattr("explain.explanation.entry_points", lambda **_: ())
    assert found._repr_html_() is None

"""build_page and what the page types refuse."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from hilat.admissions import Admission, CodeBook, EvidenceSpan, HilatError
from reports.build import AFTER_LAST_CHUNK, Outputs, Reading, RunLabel, build_page
from reports.page import CodeView, ReportPage
from reports.render import render_page

TEXT = "alpha 12 beta gamma delta epsilon"
#       0     6  9    14    20    26


def small_inputs() -> tuple[Admission, CodeBook, Reading, Outputs, RunLabel]:
    """Model order is gamma, alpha, beta, delta, epsilon; delta is in chunk 2, epsilon after the last chunk."""
    admission = Admission(
        "7",
        TEXT,
        ("A", "C"),
        (EvidenceSpan("A", ((0, 5), (9, 13))), EvidenceSpan("A", ((9, 19),), "lab")),
        (EvidenceSpan("B", ((20, 25),), "negated"),),
        split="test",
    )
    book = CodeBook(("A", "B", "C", "D"), ("a", "b", "c", "d"), ("diagnosis",) * 4)
    spans = np.array([[14, 19], [0, 5], [9, 13], [20, 25], [26, 33]])
    reading = Reading(spans, np.array([0, 0, 1, 1, -1]), 3, 6, np.array([[6, 8]]), ("no letter",))
    attention = np.array([0.4, 0.1, 0.2, 0.1, 0.0])
    outputs = Outputs(
        logits=np.array([2.0, 1.0, -1.0, -2.0]),
        probabilities=np.array([0.9, 0.7, 0.3, 0.1]),
        thresholds=np.full(4, 0.5),
        chunk_attention=np.array([[0.6, 0.4, 0.0]] * 4),
        word_attention={"A": attention, "B": attention},
    )
    return admission, book, reading, outputs, RunLabel("m", "0.50", True)


def test_build_page_puts_everything_in_raw_order() -> None:
    page = build_page(*small_inputs())
    assert [TEXT[s:e] for s, e in page.words] == ["alpha", "beta", "gamma", "delta"]
    assert page.word_chunks == (0, 1, 0, 1)  # alpha is split over chunks 0 and 1 and begins in 0
    assert page.chunk_words == (2, 2, 0)
    assert page.unseen == ((6, 8, "no letter"), (26, 33, AFTER_LAST_CHUNK))
    assert page.n_tokens == 6
    assert [(v.code, v.outcome) for v in page.codes] == [("B", "FP"), ("C", "FN"), ("A", "TP"), ("D", "TN")]
    view = page.codes[2]
    assert list(view.scores) == [0.1, 0.2, 0.4, 0.1]
    assert view.special_share == pytest.approx(0.2)
    assert view.evidence == ((0, 5, "evidence"), (9, 19, "evidence, lab"))
    assert page.codes[0].decoys == ((20, 25, "negated"),)
    assert page.codes[1].scores == ()


def test_build_page_without_gold_says_predicted() -> None:
    page = build_page(*small_inputs(), gold_known=False)
    assert [v.outcome for v in page.codes] == ["predicted", "predicted", "not predicted", "not predicted"]
    assert not page.gold_known


def test_a_model_without_chunk_attention_has_a_page() -> None:
    admission, book, reading, outputs, run = small_inputs()
    page = build_page(admission, book, reading, replace(outputs, chunk_attention=None), run)
    assert all(view.chunk_attention == () for view in page.codes)
    assert re.search(r'<span class="n">1</span><span class="s"></span>', render_page(page))


def test_reports_load_neither_torch_nor_captum_nor_transformers() -> None:
    code = "import sys, reports.corpus; print([m for m in ('torch', 'captum', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_removed_mark_inside_a_word_stays_with_the_word() -> None:
    admission, book, reading, outputs, run = small_inputs()
    reading = replace(reading, removed_spans=np.array([[15, 17], [6, 8]]), removed_reasons=("mark", "no letter"))
    assert (15, 17, "mark") not in build_page(admission, book, reading, outputs, run).unseen


def test_arrays_that_do_not_fit_are_refused() -> None:
    admission, book, reading, outputs, run = small_inputs()
    with pytest.raises(HilatError, match="logits has 3 rows"):
        build_page(admission, book, reading, replace(outputs, logits=np.zeros(3)), run)
    with pytest.raises(HilatError, match=r"expected \(5,\)"):
        build_page(admission, book, reading, replace(outputs, word_attention={"A": np.zeros(4)}), run)
    with pytest.raises(HilatError, match="expected one reason per piece"):
        build_page(admission, book, replace(reading, removed_reasons=()), outputs, run)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": (0.5, float("nan"))}, "negative or not finite"),
        ({"scores": (0.5, -0.1)}, "negative or not finite"),
        ({"scores": (0.9, 0.9)}, "sums to 1.8"),
        ({"logit": float("inf")}, "not finite"),
    ],
)
def test_code_views_refuse(change: dict[str, object], message: str) -> None:
    view = CodeView("A", "a", "diagnosis", 0.5, 0.0, 0.5, True, True)
    with pytest.raises(HilatError, match=message):
        replace(view, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"words": ((0, 5), (4, 9))}, "overlapping"),
        ({"words": ((6, 8), (0, 5))}, "out of order"),
        ({"words": ((0, 5), (9, 99))}, "outside the text"),
        ({"unseen": ((3, 8, "x"),)}, "overlapping"),
        ({"word_chunks": (0,)}, "2 words and 1 chunk"),
        ({"word_chunks": (0, 9)}, "outside its"),
        ({"text": "alpha\r\nbeta 1234567890"}, "CR, NUL"),
        ({"text": "alpha \ud800 1234567890"}, "surrogates"),
        ({"hadm_id": ""}, "empty hadm_id"),
    ],
)
def test_pages_refuse(change: dict[str, object], message: str) -> None:
    page = ReportPage("7", "alpha beta gamma", ((0, 5), (6, 10)), (0, 0), (2,), ())
    with pytest.raises(HilatError, match=message) as error:
        replace(page, **change)
    assert "alpha" not in str(error.value)


def test_pages_refuse_codes_that_do_not_fit(make_page: Callable[..., ReportPage]) -> None:
    page = make_page("alpha beta gamma")
    view = page.codes[0]
    with pytest.raises(HilatError, match="1 scores for 3 words"):
        replace(page, codes=(replace(view, scores=(0.1,)),))
    with pytest.raises(HilatError, match="chunk attention of 1 chunks"):
        replace(page, codes=(replace(view, chunk_attention=(1.0,)),))
    with pytest.raises(HilatError, match="evidence of code"):
        replace(page, codes=(replace(view, evidence=((0, 3, "e"), (2, 5, "e"))),))
    with pytest.raises(HilatError, match="twice"):
        replace(page, codes=(view, view))

"""The masking test on notes whose output is known: a fake model that reads one word, and a real small one."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from explain.cases import Case
from explain.cues import Cue, Passage
from explain.error_profile import PROFILE
from explain.hilat_target import HilatTarget
from explain.masking import (
    CONDITIONS,
    WHY_NONE,
    Masked,
    MaskingOptions,
    chosen_cases,
    masking_rows,
    removals,
    summarise_masking,
)
from explain.perturbation import NoteFunction
from explain.result import defined, undefined
from explain.subject import WordScores
from explain.table import Explained
from hilat.admissions import Admission, EvidenceSpan, HilatError

W = 12
TEXT = " ".join(f"w{n:02d}" for n in range(W))
SPANS = np.array([(4 * n, 4 * n + 3) for n in range(W)], dtype=np.int64)
SCORES = np.array([0.0, 0.0, 0.5, 0.0, 0.3, 0.1, 0.0, 0.05, 0.05, 0.0, 0.9, 0.0])  # word 10 was not read


def explained(hadm_id: str = "1", order: np.ndarray | None = None, probability: float = 0.9) -> Explained:
    order = np.arange(W) if order is None else order
    seen = np.where(order == 10, -1, 0)
    scores = WordScores(SCORES[order][None], False, "logit", np.zeros(1), None, 0)
    return Explained(
        hadm_id, ("486",), np.array([2.0]), np.array([probability]), np.array([0.5]), np.array([False]), None, ("486",),
        {"attention": scores}, SPANS[order], seen, np.ones(W, dtype=np.int64), np.zeros((0, 2), dtype=np.int64), (),
    )  # fmt: skip


def false_positive(hadm_id: str = "1", cues: tuple[Cue, ...] = (), probability: float = 0.9) -> Case:
    passages = (
        Passage(4, 19, (8, 11), 0.8, "", ((8, 11), (16, 19)), False),
        Passage(20, 35, (20, 23), 0.2, "", (), False),
    )
    return Case(hadm_id, "486", "FP", probability, 0.5, passages, cues, dict.fromkeys(PROFILE, math.nan), False)


def admission(hadm_id: str = "1", decoys: tuple[EvidenceSpan, ...] = ()) -> Admission:
    return Admission(hadm_id, TEXT, (), decoys=decoys)


def reads(word: int, order: np.ndarray | None = None):  # type: ignore[no-untyped-def]
    """A model that gives the code by one word only: probability 0.9 with it, 0.1 without."""
    where = word if order is None else int(np.flatnonzero(order == word)[0])
    return lambda keep: np.where(keep[:, [where]], math.log(9.0), -math.log(9.0))


def words_of(marked: np.ndarray, order: np.ndarray | None = None) -> list[int]:
    return sorted((np.arange(W) if order is None else order)[marked].tolist())


NEGATED = Cue("negated", "", 0, 0, 3)
OTHERS = (Cue("section", "", 1, 20, 23), Cue("borderline", ""))
DECOYS = (EvidenceSpan("486", ((12, 15), (40, 43)), "negated"), EvidenceSpan("401.9", ((28, 31),), "negated"))


@pytest.mark.parametrize("order", [None, np.array([5, 3, 10, 0, 11, 1, 2, 9, 4, 8, 7, 6])], ids=["text", "moved"])
def test_what_is_removed(order: np.ndarray | None) -> None:
    found = removals(
        false_positive(cues=(NEGATED, *OTHERS)),
        explained(order=order),
        admission(decoys=DECOYS),
        "attention",
        MaskingOptions(3),
    )
    assert list(found) == list(CONDITIONS)
    named = {name: words_of(marked, order) for name, marked in found.items()}
    assert named["top"] == [2, 4, 5]  # word 10 scores most and was not read
    assert named["half"] == [2]  # 0.5 of 1.0
    assert named["decoy"] == [3]  # of this code, and read
    assert named["governed"] == [2, 4]  # the description words of the passage with the negation
    assert named["modifier"] == [0]


def test_the_peak_is_governed_where_no_description_word_is_and_zero_scores_are_not_strong() -> None:
    found = removals(
        false_positive(cues=(replace(NEGATED, passage=1),)), explained(), admission(), "attention", MaskingOptions(50)
    )
    assert words_of(found["governed"]) == [5]
    assert words_of(found["top"]) == [2, 4, 5, 7, 8]
    assert not found["decoy"].any()


def test_description_words_of_another_sentence_are_not_governed() -> None:
    split = Admission("1", TEXT[:14] + ".\n" + "W" + TEXT[17:], ())  # a sentence ends after the fourth word
    found = removals(false_positive(cues=(NEGATED,)), explained(), split, "attention", MaskingOptions(3))
    assert words_of(found["governed"]) == [2]


def test_a_code_that_rests_on_one_word_goes_with_it_and_with_nothing_else() -> None:
    cases = [false_positive(cues=(NEGATED,))]
    rows = {
        row.condition: row
        for row in masking_rows(cases, explained(), admission(decoys=DECOYS), reads(2), options=MaskingOptions(3, 40))
    }
    assert list(rows) == list(CONDITIONS)
    for name in ("top", "half", "governed"):
        assert rows[name].flips.value == 1
        assert rows[name].drop.value == pytest.approx(0.8)
    for name in ("decoy", "modifier"):
        assert rows[name].flips.value == 0
        assert rows[name].drop.value == 0
    assert [rows[name].words for name in CONDITIONS] == [3, 1, 1, 2, 1]
    # of 11 words that were read, three at random hold the one word in 3 of 11 draws
    assert rows["top"].random_flips.value == pytest.approx(3 / 11, abs=0.22)  # three standard errors of 40 draws
    assert rows["top"].random_drop.value == pytest.approx(0.8 * rows["top"].random_flips.value)


def test_a_code_that_rests_on_the_decoy_goes_with_the_decoy() -> None:
    rows = {r.condition: r for r in masking_rows([false_positive()], explained(), admission(decoys=DECOYS), reads(3))}
    assert rows["decoy"].flips.value == 1
    assert rows["top"].flips.value == 0
    assert rows["governed"].flips.reason == WHY_NONE["governed"]
    assert rows["governed"].words == 0


def test_random_words_are_drawn_by_the_seed_and_among_those_that_were_read() -> None:
    asked: list[np.ndarray] = []

    def model(keep: np.ndarray) -> np.ndarray:
        asked.append(keep)
        return np.full((len(keep), 1), math.log(9.0))

    first = masking_rows([false_positive()], explained(), admission(), model, options=MaskingOptions(3, 5, 7))
    assert masking_rows([false_positive()], explained(), admission(), model, options=MaskingOptions(3, 5, 7)) == first
    masking_rows([false_positive()], explained(), admission(), model, options=MaskingOptions(3, 5, 8))
    assert (asked[0] == asked[1]).all()
    assert (asked[0] != asked[2]).any()
    assert asked[0][:, 10].all()  # never read, never removed
    assert asked[0].sum(axis=1).tolist() == [12, *[9] * 6, *[11] * 6]  # as many words in every draw


def test_another_model_is_refused_and_rounding_at_the_threshold_gives_no_flip() -> None:
    with pytest.raises(HilatError, match=r"probability 0\.900 and the explanations hold 0\.700") as caught:
        masking_rows([false_positive(probability=0.7)], explained(), admission(), reads(2))
    assert "w02" not in str(caught.value)
    near = replace(false_positive(probability=0.905), threshold=0.905)
    row = masking_rows([near], explained(), admission(), reads(2))[0]
    assert row.flips.reason is not None
    assert row.drop.value == pytest.approx(0.8)


def test_chosen_cases_are_false_positives_drawn_by_the_seed_in_their_order() -> None:
    cases = [replace(false_positive(str(n)), outcome="FP" if n % 2 else "TP") for n in range(40)]
    assert chosen_cases(cases, 99) == [c for c in cases if c.outcome == "FP"]
    drawn = chosen_cases(cases, 5, 3)
    assert drawn == chosen_cases(cases, 5, 3)
    assert drawn != chosen_cases(cases, 5, 4)
    assert len(drawn) == 5
    assert [int(c.hadm_id) for c in drawn] == sorted(int(c.hadm_id) for c in drawn)


def test_summaries_are_means_over_pairs_with_reasons_counted() -> None:
    rng = np.random.default_rng(0)
    rows = []
    for n in range(30):
        drop = float(rng.normal(0.5, 0.1))
        for condition in CONDITIONS:
            gone = condition == "decoy" and n % 3 == 0
            real = [undefined("no decoy")] * 4 if gone else [defined(drop), defined(1.0), defined(0.01), defined(0.0)]
            rows.append(Masked(str(n // 2), "486", condition, 0 if gone else 2, real[0], real[1], real[2], real[3]))
    found = {cell.condition: cell for cell in summarise_masking(rows, resamples=200)}
    top, decoy = found["top"], found["decoy"]
    values = [row.drop.value for row in rows if row.condition == "top"]
    assert top.drop.estimate == pytest.approx(sum(values) / 30)
    assert top.drop.low < top.drop.estimate < top.drop.high
    assert top.drop.clusters == 15
    assert top.flips.estimate == 1
    assert top.drop_test.difference == pytest.approx(sum(values) / 30 - 0.01)
    assert top.flip_test.p < 0.001
    assert top.p_corrected == pytest.approx(min(1.0, 5 * top.flip_test.p))
    assert decoy.reasons == {"no decoy": 10}
    assert (decoy.flips.n, decoy.flips.missing) == (20, 10)
    assert decoy.words == 2
    empty = summarise_masking([])
    assert all(math.isnan(cell.drop.estimate) and cell.drop.reason for cell in empty)


def test_on_a_model_the_drop_is_that_of_a_note_with_masked_words(make_coder, note: str) -> None:  # type: ignore[no-untyped-def]
    coder = make_coder("bert")
    document = coder.encode(note)
    target = HilatTarget(coder, [2])
    value = NoteFunction(target, document)
    width = document.n_words if hasattr(document, "n_words") else len(document.word_spans)
    inside = np.unique(document.word_index[document.word_index >= 0])
    chunk = np.full(width, -1)
    chunk[inside] = 0
    scores = np.where(chunk >= 0, np.random.default_rng(0).random(width), 0.0)
    p = float(1 / (1 + np.exp(-value(np.ones((1, width), dtype=bool))[0, 0])))
    one = Explained(
        "1", ("584.9",), np.zeros(1), np.array([p]), np.array([0.0]), np.array([False]), None, ("584.9",),
        {"attention": WordScores(scores[None], False, "logit", np.zeros(1), None, 0)}, document.word_spans, chunk,
        np.ones(width, dtype=np.int64), np.zeros((0, 2), dtype=np.int64), (),
    )  # fmt: skip
    case = Case("1", "584.9", "FP", p, 0.0, (), (), dict.fromkeys(PROFILE, math.nan), False)
    row = masking_rows([case], one, Admission("1", note, ()), value, options=MaskingOptions(2, 2))[0]
    top = np.argsort(-scores)[:2]
    ids = np.where(np.isin(document.word_index, top), coder.tokenizer.mask_token_id, document.input_ids)
    changed = replace(document, input_ids=ids)
    after = float(target.forward(target.inputs(changed)).logits.detach().sigmoid()[0, 0])
    assert row.drop.value == pytest.approx(p - after, abs=1e-6)
    assert row.flips.value == 0  # the threshold is 0

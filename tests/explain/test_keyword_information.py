"""Information between explanations and keywords: known answers, slow oracles, chance."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from explain.attribution import Attribution
from explain.code_information import (
    Attended,
    attended_words,
    identification_information,
    usable_information,
    word_code_table,
)
from explain.collect import collect
from explain.keyword_information import (
    Selection,
    overlap_information,
    position_information,
    rank_information,
    select_words,
    shifted_overlaps,
)
from explain.keyword_rows import (
    CORPUS_METRICS,
    KEYWORD_METRICS,
    KeywordOptions,
    corpus_information,
    keyword_rows,
    word_tables,
)
from explain.keywords import NOTE, KeywordMatches, KeywordSet, Term, keyword_sets
from explain.mutual_information import expected_mi_bits, mi_bits
from explain.result import defined
from hilat.admissions import Admission, CodeBook, HilatError
from hilat.coder import Coder

RNG = np.random.default_rng(5)


def attribution(scores: np.ndarray, code: str = "c") -> Attribution:
    spans = np.stack([np.arange(len(scores)) * 2, np.arange(len(scores)) * 2 + 1], axis=1)
    return Attribution("a", code, "m", "logit", True, np.asarray(scores, dtype=np.float64), spans)


def matches(keyword: np.ndarray) -> KeywordMatches:
    tier = keyword.astype(np.int64)
    return KeywordMatches(KeywordSet("c", (Term(("x",), 1, "title"),)), tier, tier - 1, np.array([1]))


def test_selection_by_number_and_by_mass() -> None:
    scores = np.array([0.1, 0.5, -1.0, 0.2, 0.2])
    assert select_words(scores, Selection(2)).tolist() == [False, True, False, True, False]
    assert select_words(scores, Selection(None, 0.5)).tolist() == [False, True, False, False, False]
    assert select_words(scores, Selection(None, 0.6)).tolist() == [False, True, False, True, False]
    assert not select_words(-np.abs(scores), Selection(None, 0.5)).any()
    for wrong in ((None, None), (3, 0.5), (0, None), (None, 1.0)):
        with pytest.raises(HilatError):
            Selection(*wrong)


def test_position_information_is_that_of_the_table(shared: Path) -> None:
    case = json.loads((shared / "vectors/mi_2x2.json").read_text())[0]
    selected = np.array([True] * 5 + [False] * 95)
    keyword = np.array([True] * 4 + [False] + [True] * 2 + [False] * 93)
    found = overlap_information(selected, keyword, defined(1.0))
    assert (found.n11, found.n10, found.n01, found.n00) == (case["n11"], case["n10"], case["n01"], case["n00"])
    assert found.bits.value == pytest.approx(case["mi_bits"], abs=1e-12)
    assert found.bits_above_chance.value == pytest.approx(case["mi_minus_expected"] / math.log(2), abs=1e-12)
    assert found.adjusted.value == pytest.approx(case["ami_max"], rel=1e-9)
    assert found.uncertainty.value == pytest.approx(case["mi_nats"] / case["H_description"], abs=1e-12)
    assert found.sign.value == 1
    assert found.note == NOTE


def test_circular_shifts_by_hand() -> None:
    selected, keyword = RNG.random(37) < 0.3, RNG.random(37) < 0.2
    slow = [int((np.roll(selected, s) & keyword).sum()) for s in range(37)]
    assert shifted_overlaps(selected, keyword).tolist() == slow
    found = overlap_information(selected, keyword, defined(1.0))
    assert found.p_more.value == pytest.approx(np.mean(np.array(slow) >= slow[0]))
    assert found.p_less.value == pytest.approx(np.mean(np.array(slow) <= slow[0]))


def test_random_scores_have_no_information_above_chance() -> None:
    keyword = np.zeros(200, dtype=bool)
    keyword[:12] = True
    above, raw = [], []
    for seed in range(400):
        found = position_information(
            attribution(np.random.default_rng(seed).random(200)), matches(keyword), np.ones(200, dtype=bool)
        )
        above.append(found.bits_above_chance.value)
        raw.append(found.bits.value)
    assert np.mean(raw) > 0.002  # the plug-in estimate is biased upward: the correction is what takes it off
    assert abs(np.mean(above)) < 4 * np.std(above) / 20
    table = [[1, 9], [11, 179]]
    assert np.mean(raw) == pytest.approx(expected_mi_bits(table), rel=0.2)


def test_only_words_the_model_read_count_and_text_order_rules() -> None:
    keyword = np.array([True, False, True, False, False, False])
    seen = np.array([True, True, False, True, True, True])
    scores = np.array([0.9, 0.1, 0.0, 0.2, 0.3, 0.05])
    found = position_information(attribution(scores), matches(keyword), seen, Selection(1))
    assert found.unseen == 1
    assert (found.n11, found.n10, found.n01, found.n00) == (1, 0, 0, 4)
    assert found.bits.value == pytest.approx(mi_bits([[1, 0], [0, 4]]))
    with pytest.raises(HilatError, match="Take the keyword set"):
        position_information(attribution(scores, "other"), matches(keyword), seen)


def test_what_is_undefined_says_why() -> None:
    none = np.zeros(8, dtype=bool)
    seen = np.ones(8, dtype=bool)
    scores = attribution(RNG.random(8))
    assert "no keyword" in str(position_information(scores, matches(none), seen).bits.reason)
    assert "no keyword" in str(rank_information(scores, matches(none), seen).bits.reason)
    assert "every word is a keyword" in str(position_information(scores, matches(~none), seen).bits.reason)
    some = none.copy()
    some[2] = True
    assert "every word is selected" in str(position_information(scores, matches(some), seen, Selection(8)).bits.reason)


def test_rank_information_finds_what_is_there_and_nothing_else() -> None:
    keyword = np.zeros(300, dtype=bool)
    keyword[[10, 50, 90, 130, 170, 210, 250, 290]] = True
    seen = np.ones(300, dtype=bool)
    noise = np.random.default_rng(1).random(300)
    high = rank_information(attribution(noise + 2 * keyword), matches(keyword), seen, shifts=99)
    low = rank_information(attribution(noise), matches(keyword), seen, shifts=99)
    assert high.bits_above_shifts.value > 0.1
    assert high.p.value == pytest.approx(0.01)
    assert high.auc.value == 1
    assert low.p.value > 0.05
    assert abs(low.auc.value - np.mean(noise[keyword][:, None] > noise[~keyword])) < 1e-12
    ties = rank_information(attribution(np.zeros(300)), matches(keyword), seen, shifts=99)
    assert ties.auc.value == 0.5
    assert ties.p.value > 0.02
    same = rank_information(attribution(np.zeros(300)), matches(keyword), seen, shifts=99)
    assert same.bits == ties.bits  # ties are broken by the seed


def pairs_of(words: dict[tuple[str, str], list[str]]) -> list[Attended]:
    return [Attended(h, c, tuple(w), tuple(1 / len(w) for _ in w) if w else ()) for (h, c), w in words.items()]


def slow_identification(pairs: list[Attended]) -> float:
    codes = sorted({p.code for p in pairs})
    words = sorted({w for p in pairs for w in p.words})
    joint = np.zeros((len(words), len(codes)))
    for p in pairs:
        for w, share in zip(p.words, p.shares, strict=True):
            joint[words.index(w), codes.index(p.code)] += share / len(pairs)
    return mi_bits(joint)


def test_identification_by_a_table_of_mass() -> None:
    words = {(f"a{n}", f"c{n % 3}"): [f"own{n % 3}", f"w{RNG.integers(4)}x", "common"] for n in range(30)}
    pairs = pairs_of({k: list(dict.fromkeys(v)) for k, v in words.items()})
    found = identification_information(pairs, shuffles=99)
    assert found.bits.value == pytest.approx(slow_identification(pairs))
    assert found.code_entropy_bits.value == pytest.approx(math.log2(3))
    assert found.p.value == pytest.approx(0.01)
    assert 0.3 / 3 * math.log2(3) < found.bits_above_null.value < math.log2(3)
    assert found.pairs == 30


def test_identification_of_own_words_alone_is_the_codes_entropy_and_shuffling_within_notes_asks_another_question() -> (
    None
):
    own = pairs_of({(f"a{n // 2}", f"c{n % 2}"): [f"own{n % 2}"] for n in range(40)})
    assert identification_information(own).bits.value == pytest.approx(1.0)
    assert identification_information(own, shuffle="admission").p.value == pytest.approx(0.005)
    notes = pairs_of({(f"a{n // 2}", f"c{n % 2}"): [f"note{n // 2}"] for n in range(40)})
    within = identification_information(notes, shuffle="admission")
    assert within.bits_above_null.value == pytest.approx(0, abs=1e-12)
    assert within.p.value == 1
    assert identification_information(pairs_of({("a", "c"): ["x"]})).bits.reason is not None


def test_usable_information_is_held_out() -> None:
    rng = np.random.default_rng(0)
    own = pairs_of({(f"a{n}", f"c{n % 4}"): [f"own{n % 4}", f"n{rng.integers(9)}"] for n in range(120)})
    found = usable_information(own)
    assert found.label_bits.value == pytest.approx(2.0, abs=0.05)
    assert found.bits.value > 1.2
    assert found.bits.value == pytest.approx(np.nanmean(found.pvi))
    noise = pairs_of({(f"a{n}", f"c{n % 4}"): [f"n{rng.integers(9)}"] for n in range(120)})
    assert usable_information(noise).bits.value < 0.1
    names = pairs_of({(f"a{n}", f"c{n % 4}"): [f"unique{n}"] for n in range(120)})
    assert usable_information(names).bits.value < 0.05  # what only a training note has says nothing of held-out notes
    assert usable_information(own[:3]).bits.reason is not None


def test_word_code_tables_and_attended_words() -> None:
    pairs = pairs_of({(f"a{n}", f"c{n % 2}"): [f"own{n % 2}", "common"] for n in range(20)})
    rows = word_code_table(pairs, min_count=5)
    assert {(r.code, r.word): r.joint for r in rows} == {
        ("c0", "own0"): 10, ("c0", "common"): 10, ("c1", "own1"): 10, ("c1", "common"): 10,
    }  # fmt: skip
    assert next(r for r in rows if r.word == "own0").pmi_bits == pytest.approx(1.0)
    assert next(r for r in rows if r.word == "common").pmi_bits == pytest.approx(0.0)
    got = attended_words(attribution(np.array([0.5, 0.1, 0.3, 0.0, 0.2])), ["CHF", "12", "chf", "x", "y"], k=3)
    assert got.words == ("chf", "y")
    assert got.shares == pytest.approx((0.8, 0.2))


def test_rows_of_every_method(make_coder: Callable[..., Coder], note: str) -> None:
    coder = make_coder()
    admission = Admission("a1", note, ("584.9",))
    (one,) = collect(coder, [admission], choices=("all",), methods=("attention", "saliency", "random"))
    titles = ("Hypertension", "Heart failure", "Acute kidney failure", "Diabetes", "Sepsis")
    book = CodeBook(coder.code_book.codes, titles, ("diagnosis",) * 5, "ICD-9")
    rows, attended = keyword_rows(one, admission, keyword_sets(book), KeywordOptions(shifts=5))
    assert len(rows) == 5 * 3 * len(KEYWORD_METRICS)
    assert {row.metric for row in rows} == set(KEYWORD_METRICS)
    assert {method: len(pairs) for method, pairs in attended.items()} == {"attention": 5, "saliency": 5, "random": 5}
    covered = {row.code: row.value.value for row in rows if row.metric == "keyword_coverage"}
    assert covered["584.9"] > 0.5
    found = corpus_information(attended["attention"], shuffles=9)
    assert set(found) == set(CORPUS_METRICS)
    assert found["within_note_p"].reason is None
    assert found["usable_bits"].reason is not None  # one admission
    assert all(method in attended for method, _ in word_tables(attended, min_count=1))

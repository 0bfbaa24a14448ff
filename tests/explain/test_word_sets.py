"""Sets of words against evidence: ERASER's, Edin's and MDACE's ways of counting, a threshold that is best."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from explain.collect import collect
from explain.word_sets import (
    KINDS,
    PairWords,
    counts,
    match_shares,
    pair_words,
    runs,
    set_scores,
    tuned_threshold,
)
from hilat.admissions import Admission, EvidenceSpan, HilatError
from hilat.coder import Coder


def pair(share: list[float], spans: list[tuple[int, int]], hadm_id: str = "a", words: str = "") -> PairWords:
    gold = np.zeros(len(share), dtype=bool)
    for a, b in spans:
        gold[a:b] = True
    text = tuple(words.split()) or tuple(f"w{n}" for n in range(len(share)))
    return PairWords(hadm_id, "TP", np.array(share), gold, tuple(spans), np.arange(1, len(share) + 1), text)


def chosen(n: int, spans: list[tuple[int, int]]) -> list[float]:
    return [float(any(a <= w < b for a, b in spans)) for w in range(n)]


def test_runs_are_maximal() -> None:
    assert runs(np.array([True, True, False, True])) == ((0, 2), (3, 4))
    assert runs(np.zeros(3, dtype=bool)) == ()


def test_eraser_vectors(shared: Path) -> None:
    case = json.loads((shared / "vectors/eraser_plausibility.json").read_text())
    pairs = [
        pair(chosen(20, [(a, b) for d, a, b in case["pred_spans"] if d == n]), [(a, b) for d, a, b in case["truth_spans"] if d == n])
        for n in (1, 2, 3)
    ]  # fmt: skip
    total = {kind: np.sum([counts(p, 0.5)[kind] for p in pairs], axis=0) for kind in KINDS}

    def prf(kind: str) -> tuple[float, float, float]:
        right, mine, theirs = total[kind]
        return right / mine, right / theirs, 2 * right / (mine + theirs)

    micro = case["token_micro"]
    assert prf("word") == pytest.approx((micro["p"], micro["r"], micro["f1"]), abs=1e-12)
    for one in case["iou_partial_match"]:
        want = one["micro"]
        assert prf(f"iou_{one['threshold']:g}") == pytest.approx((want["p"], want["r"], want["f1"]), abs=1e-12)


def test_edin_vectors(shared: Path) -> None:
    case = json.loads((shared / "vectors/edin_plausibility.json").read_text())
    pairs = [
        pair(share, [(w, w + 1) for w in words])
        for share, words in zip(case["attributions"], case["evidence"], strict=True)
    ]
    for threshold in (0.05, 0.1, 0.2):
        want = case[f"threshold_{threshold:g}"]
        for n, p in enumerate(pairs):
            # theirs counts a word above the threshold, ours one that reaches it
            right, mine, theirs = counts(p, threshold + 1e-12)["word"]
            assert (right, mine - right, theirs - right) == (want["tp"][n], want["fp"][n], want["fn"][n])
    best = tuned_threshold(pairs)
    every = sorted({x for p in pairs for x in p.share})
    slow = {t: np.sum([counts(p, t)["word"] for p in pairs], axis=0) for t in every}
    top = max(2 * r / (m + g) for r, m, g in slow.values())
    right, mine, gold = np.sum([counts(p, best)["word"] for p in pairs], axis=0)
    assert 2 * right / (mine + gold) == pytest.approx(top)
    assert top >= case["threshold_0.1"]["micro_f1"] - 1e-9


def test_mdaces_four_ways_of_counting() -> None:
    words = "heart failure and later heart failure with gout"
    one = pair(chosen(8, [(4, 6), (7, 8)]), [(0, 2), (7, 8)], words=words)
    found = counts(one, 0.5)
    assert found["span"] == (1, 2, 2)  # gout
    assert found["span_text"] == (2, 2, 2)  # "heart failure" elsewhere
    assert found["word"] == (1, 3, 3)
    assert found["word_text"] == (3, 3, 3)
    assert found["token"] == (8, 5 + 6 + 8, 1 + 2 + 8)
    assert match_shares([one], 0.5)["proximate"] + match_shares([one], 0.5)["partial"] == 1


def test_scores_have_intervals_over_admissions_and_comparisons() -> None:
    rng = np.random.default_rng(0)
    good, bad = [], []
    for n in range(40):
        start = int(rng.integers(0, 15))
        good.append(pair(chosen(20, [(start, start + 3)]), [(start, start + 3)], f"a{n // 2}"))
        bad.append(pair(rng.random(20).tolist(), [(start, start + 3)], f"a{n // 2}"))
    found = {(s.method, s.kind): s for s in set_scores({"good": good, "bad": bad}, {"good": 0.5, "bad": 0.5})}
    assert found["good", "word"].f1.estimate == 1
    assert found["good", "span"].f1.estimate == 1
    other = found["bad", "word"]
    assert other.f1.low < other.f1.estimate < other.f1.high
    right = sum(counts(p, 0.5)["word"][0] for p in bad)
    assert other.precision == pytest.approx(right / sum(counts(p, 0.5)["word"][1] for p in bad))
    assert other.comparison is not None
    assert other.comparison.p < 0.01
    with pytest.raises(HilatError, match="same"):
        set_scores({"good": good, "bad": bad[:4]}, {"good": 0.5, "bad": 0.5})
    with pytest.raises(HilatError, match="evidence"):
        tuned_threshold([])


def test_pairs_of_an_admission(make_coder: Callable[..., Coder], note: str) -> None:
    start = note.index("kidney failure")
    admission = Admission("a1", note, ("584.9",), evidence=(EvidenceSpan("584.9", ((start, start + 14),)),))
    (one,) = collect(make_coder(), [admission], choices=("all",))
    (found,) = pair_words(one, admission, "attention")
    assert [found.words[w] for w in np.flatnonzero(found.gold)] == ["kidney", "failure"]
    assert found.share.sum() == pytest.approx(1)
    assert len(found.spans) == 1

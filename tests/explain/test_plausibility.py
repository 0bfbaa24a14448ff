"""Plausibility against the numbers of ERASER, of Edin et al., of ferret, and against loops."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from explain.plausibility import METRICS, Pair, chance, evidence_words, make_pair, match_class, precision_at, recall_at
from hilat.admissions import EvidenceSpan, HilatError


def read(shared: Path, name: str) -> Any:
    return json.loads((shared / "vectors" / f"{name}.json").read_text())


def pair(scores: Any, gold: Any, spans: Any = None) -> Pair:
    at = np.asarray(gold, dtype=bool)
    each = at[None] if spans is None else np.asarray(spans, dtype=bool)
    return Pair(np.asarray(scores, dtype=np.float64), at, each, np.arange(len(at)))


def later_first(scores: Any) -> np.ndarray:
    """The scores with equal ones told apart as those implementations do: the later word first."""
    return np.asarray(scores) + 1e-12 * np.arange(len(scores))


def value(name: str, one: Pair) -> float:
    return METRICS[name].of(one).value


def test_ranking_measures_are_those_of_eraser(shared: Path) -> None:
    d = read(shared, "eraser_plausibility")
    for i, (scores, truth) in enumerate(zip(d["soft_scores"], d["soft_truth"], strict=True)):
        one = pair(scores, truth)
        for name, key in (("auprc", "per_instance_auprc_trapezoid"), ("average_precision", "per_instance_average_precision"), ("roc_auc", "per_instance_roc_auc")):  # fmt: skip
            if all(truth):
                assert METRICS[name].of(one).reason == "every word is evidence"
            else:
                assert value(name, one) == pytest.approx(d[key][i], abs=1e-12)


def test_measures_at_k_and_divergences_are_those_of_edin(shared: Path) -> None:
    d = read(shared, "edin_plausibility")
    pairs = []
    for scores, evidence in zip(d["attributions"], d["evidence"], strict=True):
        gold = np.zeros(len(scores), dtype=bool)
        gold[evidence] = True
        pairs.append(pair(scores, gold))
    sizes = [int(p.gold.sum()) for p in pairs]
    untied = [pair(later_first(p.scores), p.gold) for p in pairs]
    for k in (1, 3, 5):
        assert np.mean([precision_at(k)(p).value for p in untied]) == pytest.approx(d[f"at_{k}"]["precision"], abs=1e-9)
        recall = sum(recall_at(k)(p).value * n for p, n in zip(untied, sizes, strict=True)) / sum(
            sizes
        )  # theirs is pooled
        assert recall == pytest.approx(d[f"at_{k}"]["recall"], abs=1e-9)
    for i, one in enumerate(pairs):
        assert value("kl_nats", one) == pytest.approx(d["kl_evidence_to_attr"][i], abs=1e-8)
        assert value("entropy", one) == pytest.approx(d["normalized_entropy"][i], abs=1e-9)
    pooled = pair(np.concatenate([p.scores for p in pairs]), np.concatenate([p.gold for p in pairs]))
    assert value("auprc", pooled) == pytest.approx(d["auprc_exact_trapezoid"], abs=1e-9)
    assert value("average_precision", pooled) == pytest.approx(d["average_precision_exact"], abs=1e-9)


def test_top_sets_are_those_of_ferret(shared: Path) -> None:
    for case in read(shared, "ferret")["plausibility"]:
        one = pair(case["scores"], case["gold"])
        if sum(case["gold"]) == 2:
            untied = pair(later_first(case["scores"]), case["gold"])
            assert value("word_f1_at_size", untied) == pytest.approx(case["token_f1_top2"], abs=1e-9)
            assert value("word_iou_at_size", untied) == pytest.approx(case["token_iou_top2"], abs=1e-9)
        assert value("auprc", one) == pytest.approx(case["auprc_all"], abs=1e-9)


def test_mass_and_pointing_game_are_those_of_quantus(shared: Path) -> None:
    d = read(shared, "quantus")
    for i, (scores, gold) in enumerate(zip(d["abs_attr"], d["mask"], strict=True)):
        assert value("evidence_mass", pair(scores, gold)) == pytest.approx(d["relevance_mass_accuracy"][i], abs=1e-6)
        assert value("pointing_game", pair(scores, gold)) == d["pointing_game"][i]
        assert value("word_f1_at_size", pair(scores, gold)) == pytest.approx(d["relevance_rank_accuracy"][i], abs=1e-6)


def test_match_classes_are_those_of_beckh(shared: Path) -> None:
    d = read(shared, "beckh_match")
    names = {number: name.replace("_", " ") for name, number in d["codes"].items()}
    for case in d["cases"]:
        assert match_class(case["gold"], case["pred"], d["context_window"]) == names[case["match"]], case


def test_spans_count_one_by_one() -> None:
    spans = [[1, 1, 0, 0, 0, 0, 0], [0, 0, 0, 1, 1, 1, 1]]
    one = pair([9, 1, 8, 7, 6, 5, 0], [1, 1, 0, 1, 1, 1, 1], spans)
    assert value("span_recall_at_5", one) == 1.0
    assert value("span_cover_at_5", one) == pytest.approx((1 / 2 + 3 / 4) / 2)


def test_equal_scores_go_by_text_order_and_not_by_model_order() -> None:
    one = Pair(np.ones(4), np.array([True, False, False, False]), np.zeros((1, 4), bool), np.array([3, 0, 1, 2]))
    assert value("hit_at_3", one) == 0.0
    assert value("precision_at_5", one) == 0.25


def test_undefined_has_a_reason_and_is_never_a_number() -> None:
    nothing = pair([0.5, 0.2, 0.1], [0, 0, 0])
    for name, metric in METRICS.items():
        found = metric.of(nothing)
        assert math.isnan(found.value) == (name != "entropy")
    for name in ("evidence_mass", "js_bits", "kl_nats", "entropy"):
        assert METRICS[name].of(pair([-1, -2, 0], [1, 0, 0])).reason == "no positive score"


def test_evidence_is_words_of_the_raw_text_that_touch_it() -> None:
    spans = np.array([[0, 4], [5, 9], [10, 14], [20, 24]])
    evidence = (
        EvidenceSpan("x", ((3, 6),)),
        EvidenceSpan("x", ((9, 10), (12, 13), (21, 22))),
        EvidenceSpan("y", ((0, 24),)),
    )
    found = evidence_words(evidence, "x", spans)
    assert found.tolist() == [[True, True, False, False], [False, False, True, True]]
    seen = np.array([True, True, False, False])
    one = make_pair(np.array([1.0, 2, 3, 4]), found, spans, seen)
    assert (one.unseen, one.gold.tolist(), one.scores.tolist()) == (1, [True, True], [1.0, 2.0])
    with pytest.raises(HilatError, match="do not fit together"):
        make_pair(np.ones(3), found, spans, seen)


def test_random_scores_reach_chance_and_the_evidence_itself_the_best() -> None:
    rng = np.random.default_rng(0)
    gold = np.zeros(60, dtype=bool)
    gold[[3, 4, 5, 20]] = True
    spans = np.zeros((2, 60), dtype=bool)
    spans[0, 3:6], spans[1, 20] = True, True
    expected = chance(pair(gold, gold, spans))
    drawn = {name: [value(name, pair(rng.random(60), gold, spans)) for _ in range(1500)] for name in expected}
    for name, values in drawn.items():
        assert np.mean(values) == pytest.approx(expected[name], abs=5 * np.std(values) / math.sqrt(1500)), name
    perfect = pair(gold.astype(float), gold, spans)
    for name, metric in METRICS.items():
        best = metric.of(perfect).value
        if name in ("precision_at_5",):
            assert best == 4 / 5
        elif name != "entropy":
            assert best == pytest.approx(1.0 if metric.up else 0.0, abs=1e-9), name

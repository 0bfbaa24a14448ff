"""From explanations to rows and tables: the right pairs, the right words, the right comparisons."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from explain.collect import collect
from explain.explaining import judge
from explain.faithfulness import METRICS as FAITHFULNESS
from explain.faithfulness import FaithfulnessOptions
from explain.judging import agreement_rows, faithfulness_of, groups_of, plausibility_rows
from explain.plausibility import METRICS as PLAUSIBILITY
from explain.result import defined, undefined
from explain.rows import MeasuredNote, Row, outcome_of, summarise, summarise_by_code, write_rows
from explain.table import Explained
from hilat.admissions import Admission, EvidenceSpan, HilatError
from hilat.coder import Coder
from hilat.significance import benjamini_hochberg

MakeCoder = Callable[..., Coder]
METHODS = ("attention", "saliency", "random")


@pytest.fixture(scope="module")
def admission(note: str) -> Admission:
    def at(words: str) -> tuple[tuple[int, int], ...]:
        start = note.index(words)
        return ((start, start + len(words)),)

    evidence = (EvidenceSpan("584.9", at("kidney failure")), EvidenceSpan("038.9", at("sepsis")))
    return Admission("a1", note, ("584.9", "038.9"), evidence=evidence)


def explained(coder: Coder, admission: Admission) -> Explained:
    (one,) = collect(coder, [admission], choices=("all",), methods=METHODS)
    return one


def test_plausibility_looks_at_each_codes_own_evidence(make_coder: MakeCoder, admission: Admission) -> None:
    one = explained(make_coder(), admission)
    rows = list(plausibility_rows(one, admission))
    assert len(rows) == 5 * 3 * len(PLAUSIBILITY)
    by = {(r.code, r.method, r.metric): r for r in rows}
    scores = one.of("saliency")["584.9"]
    inside = [admission.text[s:e] in ("kidney", "failure") for s, e in one.word_spans]
    start = admission.text.index("kidney failure")
    inside = [flag and start <= s < start + 14 for flag, (s, _) in zip(inside, one.word_spans, strict=True)]
    assert sum(inside) == 2
    assert by["584.9", "saliency", "evidence_mass"].value.value == pytest.approx(scores[inside].sum() / scores.sum())
    assert by["401.9", "saliency", "evidence_mass"].value.reason == "no evidence that the model read"
    k = one.codes.index("584.9")
    assert by["584.9", "random", "roc_auc"].outcome == outcome_of(bool(one.probabilities[k] >= 0.5), True)


def test_agreement_compares_every_pair_of_methods(make_coder: MakeCoder, admission: Admission) -> None:
    rows = list(agreement_rows(explained(make_coder(), admission)))
    assert {r.method for r in rows} == {"attention × saliency", "attention × random", "saliency × random"}


def test_faithfulness_measures_all_methods_and_refuses_another_models_words(
    make_coder: MakeCoder, admission: Admission
) -> None:
    coder = make_coder()
    one = explained(coder, admission)
    options = FaithfulnessOptions(steps=4, groups=3)
    found = faithfulness_of(coder, one, admission, options)
    rows, passes = found.rows, found.passes
    assert len(rows) == 5 * 3 * len(FAITHFULNESS)
    assert passes > 0
    assert len(found.curves) == 5 * (3 + 1)
    full_note = {row.code: row for row in found.curves if row.method == "random order"}
    for curve in found.curves:
        assert (curve.fractions[0], curve.fractions[-1]) == (0.0, 1.0)
        assert curve.deletion[0] == pytest.approx(curve.insertion[-1], abs=1e-6)
        assert curve.deletion[-1] == pytest.approx(full_note[curve.code].deletion[-1], abs=1e-6)
    full = {r.code: r.value.value for r in rows if r.method == "random" and r.metric == "comprehensiveness"}
    assert len(full) == 5
    again = faithfulness_of(coder, one, admission, options).rows
    assert [r.value.value for r in again if r.value.reason is None] == [r.value.value for r in rows if r.value.reason is None]  # fmt: skip
    other = replace(one, word_spans=one.word_spans + 1)
    with pytest.raises(HilatError, match="Explain again"):
        faithfulness_of(coder, other, admission, options)
    assert faithfulness_of(coder, replace(one, scored=(), methods={}), admission, options) == MeasuredNote()


def test_judging_in_one_call(make_coder: MakeCoder, admission: Admission) -> None:
    coder = make_coder()
    rows = judge(coder, admission, methods=("attention", "random"), codes=("584.9",))
    assert {row.metric for row in rows} == set(FAITHFULNESS) | set(PLAUSIBILITY)
    options = FaithfulnessOptions(steps=20)
    (one,) = collect(coder, [admission], choices=("584.9",), methods=("attention", "random"))
    slow = {(r.method, r.metric): r.value for r in faithfulness_of(coder, one, admission, options).rows}
    for row in rows:
        if row.metric in FAITHFULNESS and slow[row.method, row.metric].reason is None:
            assert row.value == slow[row.method, row.metric]
    bare = judge(coder, admission.text, methods=("attention",), codes=("584.9",))
    assert {row.metric for row in bare} == set(FAITHFULNESS)


def rows_of(numbers: dict[str, list[float]]) -> list[Row]:
    return [
        Row(f"a{n // 2}", f"c{n % 2}", "TP", method, "m", undefined("why") if math.isnan(x) else defined(x))
        for method, values in numbers.items()
        for n, x in enumerate(values)
    ]


def test_a_table_has_intervals_comparisons_and_reasons() -> None:
    rng = np.random.default_rng(0)
    base = rng.random(60)
    numbers = {"first": base.tolist(), "better": (base + 0.1).tolist(), "same": (base + 1e-3 * rng.normal(size=60)).tolist()}  # fmt: skip
    numbers["same"][7] = math.nan
    cells = {s.method: s for s in summarise(rows_of(numbers), {"m": True})}
    assert cells["first"].comparison is None
    assert cells["first"].interval.estimate == pytest.approx(base.mean())
    assert cells["first"].interval.low < base.mean() < cells["first"].interval.high
    assert cells["first"].interval.clusters == 30
    better = cells["better"].comparison
    assert better is not None
    assert better.difference == pytest.approx(0.1)
    assert cells["better"].p_corrected == pytest.approx(2 / 10_001)
    same = cells["same"]
    assert same.reasons == {"why": 1}
    assert same.interval.missing == 1
    assert same.comparison is not None
    pairs = [n for n in range(60) if n != 7]  # compared on the pairs that both have
    expected = np.mean(np.array(numbers["same"])[pairs]) - base[pairs].mean()
    assert same.comparison.difference == pytest.approx(expected)


def test_a_table_of_codes_is_corrected_by_benjamini_hochberg() -> None:
    rng = np.random.default_rng(0)
    base = rng.random(60)
    numbers = {"first": base.tolist(), "better": (base + 0.1 * (np.arange(60) % 2)).tolist()}
    found = summarise_by_code(rows_of(numbers), {"m": True})
    assert set(found) == {"c0", "c1"}
    plain = {code: cells[1].comparison.p for code, cells in found.items()}  # type: ignore[union-attr]
    wanted = benjamini_hochberg(list(plain.values()))
    assert [cells[1].p_corrected for cells in found.values()] == wanted
    assert plain["c0"] == 1
    assert found["c1"][1].p_corrected < 0.001
    assert found["c1"][0].interval.n == 30


def test_groups_are_by_outcome() -> None:
    rows = [Row("a", c, o, "m", "x", defined(1.0)) for c, o in zip("abcd", ("TP", "FP", "FN", "TN"), strict=True)]
    found = {name: "".join(r.code for r in part) for name, part in groups_of(rows).items()}
    assert found == {"all": "abcd", "gold": "ac", "predicted": "ab", "TP": "a", "FP": "b", "FN": "c"}
    assert [outcome_of(p, g) for p, g in ((True, True), (True, False), (False, True), (False, False), (True, None))] == ["TP", "FP", "FN", "TN", ""]  # fmt: skip


def test_rows_are_kept_as_a_table(tmp_path: Path) -> None:
    rows = rows_of({"first": [1.0, math.nan, 0.5, 0.25]})
    write_rows(tmp_path / "out", rows, {"all": summarise(rows, {"m": True})}, {"x": 1})
    table = pq.read_table(tmp_path / "out/rows.parquet").to_pylist()
    assert [row["reason"] for row in table] == [None, "why", None, None]
    assert math.isnan(table[1]["value"])
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["all"][0]["interval"]["missing"] == 1

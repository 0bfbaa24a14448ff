"""The study as a whole on planted notes with invented explanations: its numbers against loops, and its files."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.stats import kendalltau

from explain.cases import find_cases
from explain.confusion import Edge
from explain.cues import CUES
from explain.error_contrast import Contrast
from explain.error_prediction import PredictionOptions
from explain.error_profile import (
    PROFILE,
    STRENGTH,
    WHY_UNDEFINED,
    Profiling,
    read_strength,
    studied,
)
from explain.error_study import (
    ErrorStudy,
    Ground,
    StudyOptions,
    study_errors,
    summary_of,
    undefined_numbers,
    write_study,
)
from explain.error_tables import SCHEMAS, read_table
from explain.keyword_rows import KeywordOptions, keyword_rows
from explain.keywords import KeywordSources, keyword_sets
from explain.result import defined, undefined
from explain.rows import Row, write_rows
from explain.subject import WordScores
from explain.table import Explained
from hilat.admissions import Admission, HilatError
from hilat.cli.error_printing import Terminal, tell_study
from hilat.codes import siblings
from hilat.corpora.planted import PlantedSettings, make_planted

FAST = StudyOptions(least=2, resamples=50, draws=50, prediction=PredictionOptions(resamples=20, refits=3))


def explained(admission: Admission, codes: Sequence[str], seed: int) -> Explained:
    """Random probabilities, raised for the coders' codes, and random word scores by four methods."""
    rng = np.random.default_rng(seed)
    spans = np.array([match.span() for match in re.finditer(r"\S+", admission.text)], dtype=np.int64)
    order = np.roll(np.arange(len(spans)), 7)  # model order is not that of the text
    gold = np.array([code in admission.codes for code in codes])
    p = np.clip(0.6 * gold + 0.7 * rng.random(len(codes)) - 0.12, 0.01, 0.99)
    scored = tuple(c for c, given, coded in zip(codes, p >= 0.5, gold, strict=True) if given or coded)
    methods = {
        name: WordScores(
            rng.random((len(scored), len(spans))) ** 8 - (0.2 if signed else 0.0),
            signed, "logit", rng.random(len(scored)) * 0.2, None, 0,
        )
        for name, signed in (("attention", False), ("input_x_gradient", True), ("occlusion", True), ("random", False))
    }  # fmt: skip
    return Explained(
        admission.hadm_id, tuple(codes), np.log(p / (1 - p)), p, np.full(len(codes), 0.5), gold, None, scored, methods,
        spans[order], np.where(rng.random(len(spans)) < 0.95, 0, -1), np.ones(len(spans), dtype=np.int64),
        np.zeros((0, 2), dtype=np.int64), (),
    )  # fmt: skip


@pytest.fixture(scope="module")
def given() -> tuple[list[Explained], Ground]:
    made = make_planted(PlantedSettings(seed=3, train=1, val=1, test=25))
    notes = [a for a in made.admissions if a.split == "test"]
    ground = Ground({a.hadm_id: a for a in notes}, made.code_book, keyword_sets(made.code_book, KeywordSources()))
    return [explained(a, made.code_book.codes, n) for n, a in enumerate(notes)], ground


@pytest.fixture(scope="module")
def study(given: tuple[list[Explained], Ground]) -> ErrorStudy:
    return study_errors(given[0], given[1], FAST)


def test_every_true_and_false_positive_and_miss_is_a_case(
    given: tuple[list[Explained], Ground], study: ErrorStudy
) -> None:
    expected = []
    for one in given[0]:
        for code in one.scored:
            k = one.codes.index(code)
            predicted, coded = one.probabilities[k] >= 0.5, code in given[1].admissions[one.hadm_id].codes
            expected.append((one.hadm_id, code, "TP" if predicted and coded else "FP" if predicted else "FN"))
    assert [(c.hadm_id, c.code, c.outcome) for c in study.cases] == expected
    assert {outcome for *_, outcome in expected} == {"TP", "FP", "FN"}
    assert study.not_explained == {"FP": 0, "FN": 0, "TP": 0}


def test_agreement_is_that_of_loops_over_methods_that_are_no_controls(
    given: tuple[list[Explained], Ground], study: ErrorStudy
) -> None:
    at = 0
    for one in given[0][:3]:
        words = sorted(np.flatnonzero(one.word_chunk >= 0).tolist(), key=lambda w: one.word_spans[w, 0])
        for i, _ in enumerate(one.scored):
            scores = {name: m.scores[i] for name, m in one.methods.items()}
            best = {name: sorted(words, key=lambda w, s=s: -s[w])[:10] for name, s in scores.items()}  # type: ignore[misc]
            overlap = [len(set(best["attention"]) & set(best[name])) / 10 for name in ("input_x_gradient", "occlusion")]
            tau = [
                kendalltau(scores["attention"][words], scores[n][words]).statistic
                for n in ("input_x_gradient", "occlusion")
            ]
            profile = study.cases[at].profile
            assert profile["agreement_overlap"] == pytest.approx(sum(overlap) / 2)
            assert profile["agreement_tau"] == pytest.approx(sum(tau) / 2)
            at += 1


def test_information_is_that_of_hilat_keywords(given: tuple[list[Explained], Ground], study: ErrorStudy) -> None:
    one = given[0][0]
    rows, _ = keyword_rows(one, given[1].admissions[one.hadm_id], given[1].keywords, KeywordOptions(shifts=1))
    named = {"position_bits_above_chance": "keyword_bits", "position_ami": "keyword_ami", "rank_auc": "keyword_auc"}
    cases = {(c.hadm_id, c.code): c for c in study.cases}
    seen = [row for row in rows if row.method == "attention" and row.metric in named]
    assert len(seen) == 3 * len(one.scored)
    for row in seen:
        value = cases[row.hadm_id, row.code].profile[named[row.metric]]
        assert value == pytest.approx(row.value.value, nan_ok=True)
    assert any(math.isfinite(row.value.value) for row in seen)


def test_without_other_methods_agreement_is_undefined(given: tuple[list[Explained], Ground]) -> None:
    one, ground = given[0][0], given[1]
    alone = replace(one, methods={name: one.methods[name] for name in ("attention", "random")})
    admission = ground.admissions[one.hadm_id]
    case = find_cases(alone, admission, ground.keywords, ground.book)[0]
    found = studied(case, alone, admission, ground.keywords[case.code], Profiling(ground.book))
    assert list(found.profile) == list(PROFILE)
    assert math.isnan(found.profile["agreement_tau"])
    assert math.isnan(found.profile["comprehensiveness"])
    assert found.keywords == ()


def test_true_positives_have_the_cue_of_siblings_too(given: tuple[list[Explained], Ground], study: ErrorStudy) -> None:
    book = given[1].book
    counts = {"TP": 0, "FP": 0}
    for case in study.cases:
        coded = given[1].admissions[case.hadm_id].codes
        kind = book.kinds[book.column(case.code)]
        near = [c for c in siblings(case.code, kind, coded) if book.kinds[book.column(c)] == kind]
        assert ("sibling" in case.kinds) == bool(near)
        if near and case.outcome in counts:
            counts[case.outcome] += 1
    assert min(counts.values()) > 0


def test_strength_comes_from_folders_of_faithfulness(given: tuple[list[Explained], Ground], tmp_path: Path) -> None:
    one = given[0][0]
    rows = [
        Row(one.hadm_id, code, "TP", method, metric, defined(n / 10 if method == "attention" else 99.0))
        for n, code in enumerate(one.scored)
        for method in ("attention", "random")
        for metric in ("comprehensiveness", "sufficiency", "acu")
    ]
    rows.append(Row(one.hadm_id, one.scored[0], "TP", "attention", "normalised_aopc", undefined("flat")))
    write_rows(tmp_path / "faith", rows, {}, {})
    found = read_strength([tmp_path / "faith"], "attention")
    assert {pair: values["comprehensiveness"] for pair, values in found.items()} == {
        (one.hadm_id, code): n / 10 for n, code in enumerate(one.scored)
    }
    assert "acu" not in found[one.hadm_id, one.scored[0]]
    assert math.isnan(found[one.hadm_id, one.scored[0]]["normalised_aopc"])
    done = study_errors([one], replace(given[1], strength=found), FAST)
    assert [c.profile["sufficiency"] for c in done.cases] == [n / 10 for n in range(len(one.scored))]
    with pytest.raises(
        HilatError, match=r"none of comprehensiveness.*for method 'occlusion'; its methods are attention, random"
    ):
        read_strength([tmp_path / "faith"], "occlusion")
    with pytest.raises(HilatError, match=r"holds no rows\.parquet"):
        read_strength([tmp_path], "attention")
    assert read_strength([], "attention") == {}


def test_tables_hold_the_cases_cues_and_passages(study: ErrorStudy, tmp_path: Path) -> None:
    write_study(tmp_path / "out", study, {"seed": 0})
    cases, cues, passages = (read_table(tmp_path / "out", name) for name in ("cases", "cues", "passages"))
    assert list(cases[0]) == ["hadm_id", "code", "outcome", "probability", "threshold", "weak", *PROFILE]
    at_cue = at_passage = 0
    for row, case in zip(cases, study.cases, strict=True):
        assert (row["hadm_id"], row["code"], row["outcome"], row["weak"]) == (
            case.hadm_id,
            case.code,
            case.outcome,
            case.weak,
        )
        assert (row["probability"], row["threshold"]) == (case.probability, case.threshold)
        assert all(row[name] == pytest.approx(case.profile[name], nan_ok=True) for name in PROFILE)
        for cue in case.cues:
            found = cues[at_cue]
            assert (found["hadm_id"], found["code"], found["kind"], found["says"]) == (
                case.hadm_id,
                case.code,
                cue.kind,
                cue.says,
            )
            assert (found["start"], found["end"]) == (cue.start, cue.end)
            assert found["passage"] == (-1 if cue.passage is None else cue.passage)
            at_cue += 1
        for rank, p in enumerate(case.passages):
            found = passages[at_passage]
            assert (found["hadm_id"], found["code"], found["rank"]) == (case.hadm_id, case.code, rank)
            assert (found["start"], found["end"], found["peak_start"], found["peak_end"]) == (p.start, p.end, *p.peak)
            assert (found["share"], found["section"], found["on_evidence"]) == (p.share, p.section, p.on_evidence)
            assert found["keyword"] == bool(p.keywords)
            at_passage += 1
    assert (at_cue, at_passage) == (len(cues), len(passages))
    with pytest.raises(HilatError, match=r"cases\.parquet is missing"):
        read_table(tmp_path, "cases")
    with pytest.raises(HilatError, match="exists already"):
        write_study(tmp_path / "out", study, {})


def test_results_are_kept_as_flat_tables_and_in_the_summary(study: ErrorStudy, tmp_path: Path) -> None:
    write_study(tmp_path / "out", study, {"seed": 0})
    flat = pq.read_table(tmp_path / "out" / "contrast.parquet").to_pylist()
    rows = (*study.contrasts.pooled, *study.contrasts.by_code)
    assert [(r["code"], r["feature"], r["n_fp"]) for r in flat] == [(r.code, r.feature, r.n_fp) for r in rows]
    assert [r["difference_low"] for r in flat] == pytest.approx([r.difference.low for r in rows], nan_ok=True)
    assert [r["difference_reason"] for r in flat] == [r.difference.reason for r in rows]
    edges = pq.read_table(tmp_path / "out" / "confusion.parquet").to_pylist()
    assert [(e["false_positive"], e["count"], e["lift"]) for e in edges] == [
        (e.false_positive, e.count, e.lift.estimate) for e in study.edges
    ]
    assert pq.read_table(tmp_path / "out" / "code_cues.parquet").num_rows == len(study.cues)
    masking = pq.read_table(tmp_path / "out" / "masking.parquet")
    assert masking.num_rows == 0
    assert {"condition", "flips", "flips_reason", "random_drop"} <= set(masking.column_names)
    for kind in (Contrast, Edge):
        assert {f.name for f in fields(kind)} <= set(flat[0]) | set(edges[0])
    said = json.loads((tmp_path / "out" / "summary.json").read_text("utf-8"))
    assert said["pairs"]["counts"] == {
        **{o: sum(c.outcome == o for c in study.cases) for o in ("FP", "FN", "TP")},
        "weak": sum(c.weak for c in study.cases),
    }
    assert said["contrast"]["pooled"][0]["feature"] == "margin"
    assert said["masking"]["reason"].startswith("not asked for")
    assert set(said["cues"]["says"]) == set(CUES)
    assert "NaN" not in (tmp_path / "out" / "summary.json").read_text("utf-8")
    assert json.loads((tmp_path / "out" / "manifest.json").read_text("utf-8")) == {"seed": 0}


def test_no_word_of_a_note_is_kept(given: tuple[list[Explained], Ground], tmp_path: Path) -> None:
    """A word that only notes hold is in no file; what the code itself says may share words with notes."""
    canary = "zyxcanary"
    ones = [replace(one) for one in given[0][:8]]
    notes = {}
    for one in ones:
        admission = given[1].admissions[one.hadm_id]
        text = re.sub(r"\b(patient|was|the|with)\b", lambda m: canary[: len(m.group())], admission.text)
        assert len(text) == len(admission.text)
        notes[one.hadm_id] = replace(admission, text=text)
    assert all(canary[:3] in a.text for a in notes.values())
    write_study(tmp_path / "out", study_errors(ones, replace(given[1], admissions=notes), FAST), {})
    for file in (tmp_path / "out").iterdir():
        kept = str(pq.read_table(file).to_pylist()) if file.suffix == ".parquet" else file.read_text("utf-8")
        assert canary[:3] not in kept, file.name


def test_outcomes_choose_what_the_tables_hold_and_not_what_is_compared(
    given: tuple[list[Explained], Ground], study: ErrorStudy, tmp_path: Path
) -> None:
    some = study_errors(given[0], given[1], replace(FAST, outcomes=("FP", "weak")))
    assert some.contrasts == study.contrasts or str(some.contrasts) == str(study.contrasts)  # NaN differs from itself
    write_study(tmp_path / "out", some, {})
    rows = read_table(tmp_path / "out", "cases")
    assert {(r["outcome"], r["weak"]) for r in rows} == {("FP", False), ("TP", True)}
    assert len(rows) == sum(c.outcome == "FP" or c.weak for c in study.cases)
    assert summary_of(some)["listed"]["cases"] == len(rows)
    with pytest.raises(HilatError, match="outcome 'TN' is not known; expected some of FP, FN, weak, TP"):
        StudyOptions(outcomes=("FP", "TN"))


def test_undefined_numbers_are_counted_with_their_reason(study: ErrorStudy) -> None:
    found = undefined_numbers(study.cases)
    assert set(WHY_UNDEFINED) == set(PROFILE)
    for name in PROFILE:
        missing = sum(math.isnan(c.profile[name]) for c in study.cases)
        assert (name in found) == (missing > 0)
        if missing:
            assert found[name] == {"undefined": missing, "of": len(study.cases), "reason": WHY_UNDEFINED[name]}
    assert all(found[name]["undefined"] == len(study.cases) for name in STRENGTH)


def test_what_cannot_be_studied_is_refused(given: tuple[list[Explained], Ground]) -> None:
    one, ground = given[0][0], given[1]
    with pytest.raises(HilatError, match=r"coders' codes of admission \S+ are unknown"):
        study_errors([replace(one, gold=None)], ground, FAST)
    with pytest.raises(HilatError, match="is not in the corpus"):
        study_errors([replace(one, hadm_id="elsewhere")], ground, FAST)
    with pytest.raises(HilatError, match=r"has no explanations by 'saliency'"):
        study_errors([one], ground, replace(FAST, method="saliency"))
    bare = replace(one, scored=(), methods={})
    with pytest.raises(HilatError, match="none of the 1 admissions has an explained code"):
        study_errors([bare], ground, FAST)


def test_pairs_without_an_explanation_are_counted(given: tuple[list[Explained], Ground]) -> None:
    one, ground = given[0][0], given[1]
    kept = [i for i, _ in enumerate(one.scored) if i % 2]
    half = replace(
        one,
        scored=tuple(one.scored[i] for i in kept),
        methods={name: replace(m, scores=m.scores[kept], outside=m.outside[kept]) for name, m in one.methods.items()},
    )
    done = study_errors([half], ground, FAST)
    assert sum(done.not_explained.values()) == len(one.scored) - len(kept)


def test_a_model_without_errors_is_studied_and_printed(
    given: tuple[list[Explained], Ground], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    right = []
    for one in given[0][:6]:
        assert one.gold is not None
        p = np.where(one.gold, 0.9, 0.1)
        kept = [i for i, code in enumerate(one.scored) if one.gold[one.codes.index(code)]]
        methods = {n: replace(m, scores=m.scores[kept], outside=m.outside[kept]) for n, m in one.methods.items()}
        right.append(replace(one, probabilities=p, scored=tuple(one.scored[i] for i in kept), methods=methods))
    done = study_errors(right, given[1], FAST)
    assert {case.outcome for case in done.cases} == {"TP"}
    assert done.edges == ()
    tell_study(done, Terminal())
    said = capsys.readouterr().out
    assert "0 false positives of 0 codes, 0 misses" in said
    assert "not fitted" in said
    assert "no code has a false and a true positive" in said
    write_study(tmp_path / "out", done, {})
    assert read_table(tmp_path / "out", "cases")


def test_schemas_hold_offsets_and_numbers_only() -> None:
    text = {name for schema in SCHEMAS.values() for name in schema.names if str(schema.field(name).type) == "string"}
    assert text == {"hadm_id", "code", "outcome", "kind", "says", "section"}

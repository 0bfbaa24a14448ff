"""Cases made by hand: which passages, which numbers, which cues, and nothing that depends on the order of words or chance."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest

from explain.cases import FEATURES, Case, find_cases
from explain.cues import CUES, CaseOptions
from explain.keywords import KeywordSources, keyword_sets
from explain.snippets import breaks_of, snippets
from explain.subject import WordScores
from explain.table import Explained
from hilat.admissions import Admission, CodeBook, EvidenceSpan, HilatError

BOOK = CodeBook(
    ("584.9", "038.9", "427.31"),
    ("Acute kidney failure", "Septicemia", "Atrial fibrillation"),
    ("diagnosis", "diagnosis", "diagnosis"),
)
WORDS = keyword_sets(BOOK, KeywordSources())
TEXT = (
    "Chief Complaint:\nweakness \U0001f600\n"
    "Past Medical History:\nNo atrial fibrillation. Gout for ten years.\n"
    "Brief Hospital Course:\nThe creatinine rose and the kidney failure was treated with fluids; possible septicemia was treated too.\n"
)


def explained(
    weights: Mapping[str, Mapping[str, float]],
    text: str = TEXT,
    *,
    probabilities: Sequence[float] = (0.9, 0.9, 0.9),
    gold: Sequence[bool] | None = (True, False, False),
    unread: Sequence[str] = (),
    outside: float = 0.1,
    shuffled: bool = False,
) -> Explained:
    """Explanations whose words have the given scores (code -> word -> score) and 0 elsewhere; unread words have no chunk."""
    spans = np.array([match.span() for match in re.finditer(r"\S+", text)], dtype=np.int64)
    names = [text[s:e].strip(".,;:").lower() for s, e in spans]
    scores = np.array([[weights[code].get(name, 0.0) for name in names] for code in weights]).reshape(
        len(weights), len(spans)
    )
    chunk = np.array([-1 if name in unread else 0 for name in names], dtype=np.int64)
    if shuffled:
        order = np.random.default_rng(0).permutation(len(spans))
        spans, scores, chunk = spans[order], scores[:, order], chunk[order]
    return Explained(
        "7", BOOK.codes, np.zeros(3), np.array(probabilities), np.full(3, 0.5), None if gold is None else np.array(gold), None,
        tuple(weights), {"attention": WordScores(scores, False, "probability", np.full(len(weights), outside))},
        spans, chunk, np.ones(len(spans), dtype=np.int64), np.zeros((0, 2), dtype=np.int64), (),
    )  # fmt: skip


def admission(text: str = TEXT, evidence: Sequence[tuple[str, str]] = (), codes: Sequence[str] = ("584.9",)) -> Admission:  # fmt: skip
    spans = tuple(
        EvidenceSpan(code, ((text.index(words), text.index(words) + len(words)),)) for code, words in evidence
    )
    return Admission("7", text, tuple(codes), spans)


def the_case(one: Explained, note: Admission | None = None, options: CaseOptions = CaseOptions()) -> Case:  # noqa: B008 (frozen)
    (case,) = find_cases(one, note or admission(), WORDS, BOOK, options)
    return case


def kinds(case: Case) -> set[str]:
    return {cue.kind for cue in case.cues}


# ---------------------------------------------------------------- passages and profile


def test_passages_are_the_strongest_runs_with_raw_offsets() -> None:
    one = explained({"584.9": {"kidney": 0.5, "failure": 0.3, "gout": 0.2}})
    case = the_case(one, admission(evidence=[("584.9", "kidney failure")]))
    spans = one.word_spans
    expected = snippets(one.methods["attention"].scores[0], breaks_of(spans), count=3)
    assert [(p.start, p.end) for p in case.passages] == [(spans[s.first, 0], spans[s.last, 1]) for s in expected]
    first, second = case.passages
    assert TEXT[slice(*first.peak)] == "kidney"
    assert TEXT[slice(*second.peak)] == "Gout"
    assert (first.section, second.section) == ("hospital_course", "past_medical_history")
    assert [TEXT[s:e] for s, e in first.keywords] == ["kidney", "failure"]
    assert (first.on_evidence, second.on_evidence) == (True, False)
    assert (first.share, second.share) == pytest.approx((0.8, 0.2))


def test_the_profile_by_hand() -> None:
    one = explained({"584.9": {"kidney": 0.5, "failure": 0.3, "gout": 0.2}}, probabilities=(0.8, 0, 0), outside=0.25)
    case = the_case(one, admission(evidence=[("584.9", "failure")]))
    n = len(one.word_spans)
    entropy = -(0.5 * math.log(0.5) + 0.3 * math.log(0.3) + 0.2 * math.log(0.2)) / math.log(n)
    assert dict(case.profile) == pytest.approx(
        {
            "margin": 0.3, "top_share": 0.8, "half_words": 1, "outside_words": 0.25, "entropy": entropy,
            "keyword_share": 0.8, "keyword_lift": 0.8 / (2 / n), "evidence_share": 0.3,
        }
    )  # fmt: skip
    assert set(case.profile) == set(FEATURES)


def test_what_is_undefined_is_nan_and_no_passage_is_no_cue_about_one() -> None:
    case = the_case(explained({"427.31": {}}), admission("Gout was seen and treated.", codes=()))
    assert case.passages == ()
    for name in ("top_share", "half_words", "entropy", "keyword_share", "keyword_lift", "evidence_share"):
        assert math.isnan(case.profile[name])
    assert case.cues == ()


def test_negative_scores_count_as_none() -> None:
    case = the_case(explained({"584.9": {"kidney": 0.5, "gout": -9.0}}))
    assert [p.share for p in case.passages] == [1.0]


def test_words_that_were_not_read_are_in_no_passage() -> None:
    one = explained({"584.9": {"kidney": 0.5, "gout": 0.4}}, unread=("gout",))
    assert [TEXT[slice(*p.peak)] for p in the_case(one).passages] == ["kidney"]


def test_description_words_of_the_whole_note_are_told_with_term_and_tier() -> None:
    case = the_case(explained({"584.9": {"kidney": 0.5}}))
    assert [TEXT[s:e] for s, e, _ in case.keywords] == ["kidney", "failure"]
    assert all(re.fullmatch(r"[a-z ]+ \([a-z ]+\)", says) for _, _, says in case.keywords)


# ---------------------------------------------------------------- cues


def test_cues_of_context_section_and_duration() -> None:
    case = the_case(explained({"427.31": {"fibrillation": 0.6, "gout": 0.3}}), admission(codes=()))
    found = {(cue.kind, cue.passage, TEXT[cue.start : cue.end] if cue.start >= 0 else "") for cue in case.cues}
    assert ("negated", 0, "No") in found
    assert ("section", 0, "fibrillation") in found or ("section", 0, "fibrillation.") in found
    case = the_case(explained({"427.31": {"gout": 0.3}}), admission(codes=()))
    assert ("duration", "ten years") in {(cue.kind, TEXT[cue.start : cue.end]) for cue in case.cues}
    assert "duration" not in kinds(the_case(explained({"038.9": {"septicemia": 1.0}})))


def test_uncertain_and_its_near_miss() -> None:
    assert "uncertain" in kinds(the_case(explained({"038.9": {"septicemia": 1.0}})))
    assert "uncertain" not in kinds(the_case(explained({"584.9": {"kidney": 1.0}})))


def test_symptom_only() -> None:
    assert "symptom_only" in kinds(the_case(explained({"584.9": {"gout": 1.0}})))
    assert "symptom_only" not in kinds(the_case(explained({"584.9": {"gout": 1.0, "kidney": 0.5}})))


def test_borderline_depends_on_the_option() -> None:
    one = explained({"584.9": {"kidney": 1.0}}, probabilities=(0.62, 0.9, 0.9))
    assert "borderline" not in kinds(the_case(one))
    assert "borderline" in kinds(the_case(one, options=CaseOptions(near=0.12)))


def test_diffuse_and_leaked() -> None:
    many = " ".join(f"word{n}" for n in range(120))
    even = {f"word{n}": 1.0 for n in range(120)}
    assert "diffuse" in kinds(the_case(explained({"038.9": even}, many), admission(many)))
    few = {f"word{n}": 1.0 for n in range(100)}
    assert "diffuse" not in kinds(the_case(explained({"038.9": few}, many), admission(many)))  # fifty words: not more
    assert "diffuse" in kinds(the_case(explained({"584.9": {"kidney": 1.0}}, outside=0.5)))


def test_evidence_elsewhere_by_the_coders_and_by_text_that_was_not_read() -> None:
    marked = admission(evidence=[("584.9", "kidney failure")])
    assert "evidence_elsewhere" in kinds(the_case(explained({"584.9": {"gout": 1.0}}), marked))
    assert "evidence_elsewhere" not in kinds(the_case(explained({"584.9": {"failure": 1.0}}), marked))
    other = admission(evidence=[("038.9", "septicemia")])  # of another code
    assert "evidence_elsewhere" not in kinds(the_case(explained({"584.9": {"gout": 1.0}}), other))
    assert "evidence_elsewhere" in kinds(the_case(explained({"584.9": {"gout": 1.0}}, unread=("failure",))))
    assert "evidence_elsewhere" not in kinds(the_case(explained({"584.9": {"gout": 1.0}}, unread=("weakness",))))


def test_sibling_and_rule_pair_ask_for_codes_of_the_stay() -> None:
    with_sibling = admission(codes=("427.1",))
    case = the_case(explained({"427.31": {"gout": 1.0}}, gold=(False, False, False)), with_sibling)
    assert "427.1 was coded" in [cue.says for cue in case.cues if cue.kind == "sibling"]
    predicted = explained({"038.9": {"septicemia": 1.0}}, gold=(False, False, False))
    assert "rule_pair" not in kinds(the_case(predicted, admission(codes=())))
    assert "rule_pair" in kinds(the_case(predicted, admission(codes=("995.92",))))


# ---------------------------------------------------------------- outcomes and weak true positives


@pytest.mark.parametrize(
    ("probability", "gold", "outcome"),
    [(0.9, True, "TP"), (0.9, False, "FP"), (0.1, True, "FN"), (0.1, False, "TN"), (0.5, True, "TP")],
)
def test_outcomes(probability: float, gold: bool, outcome: str) -> None:
    one = explained({"584.9": {"kidney": 1.0}}, probabilities=(probability, 0, 0), gold=(gold, False, False))
    case = the_case(one)
    assert (case.outcome, case.probability, case.threshold) == (outcome, probability, 0.5)


def test_a_weak_true_positive_has_neither_description_word_nor_evidence() -> None:
    gout = {"584.9": {"gout": 1.0}}
    assert the_case(explained(gout)).weak
    assert not the_case(explained(gout), admission(evidence=[("584.9", "Gout")])).weak
    assert not the_case(explained({"584.9": {"gout": 1.0, "kidney": 0.5}})).weak
    assert not the_case(explained(gout, gold=(False, False, False))).weak  # a false positive is not weak but wrong
    assert not the_case(explained(gout, gold=None)).weak


# ---------------------------------------------------------------- order and determinism


def test_cases_come_in_the_order_of_the_explained_codes_whatever_the_order_of_the_words() -> None:
    weights = {"038.9": {"septicemia": 1.0}, "584.9": {"kidney": 0.5, "failure": 0.3, "gout": 0.2}}
    cases = find_cases(explained(weights), admission(), WORDS, BOOK)
    assert [case.code for case in cases] == ["038.9", "584.9"]
    again = find_cases(explained(weights, shuffled=True), admission(), WORDS, BOOK)
    for case, other in zip(cases, again, strict=True):
        assert case.profile == pytest.approx(other.profile, nan_ok=True)
        assert replace(case, profile={}) == replace(other, profile={})


def test_kinds_are_told_once_in_the_order_of_the_table() -> None:
    case = the_case(explained({"427.31": {"fibrillation": 0.6, "gout": 0.3}}), admission(codes=()))
    assert list(case.kinds) == [kind for kind in CUES if kind in kinds(case)]
    assert len(set(case.kinds)) == len(case.kinds)


def test_another_method_has_to_be_there() -> None:
    one = explained({"584.9": {"kidney": 1.0}})
    with pytest.raises(HilatError, match="'lime'; it has attention"):
        find_cases(one, admission(), WORDS, BOOK, method="lime")
    assert find_cases(explained({}), admission(), WORDS, BOOK, method="lime") == []

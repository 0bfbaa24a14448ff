"""The cue benchmark's known causes: passages on planted marks, and what an error points at."""

from __future__ import annotations

from collections import Counter

import pytest

from explain.cases import find_cases
from explain.cues import CaseOptions
from explain.keywords import KeywordSources, keyword_sets
from hilat.admissions import Admission, EvidenceSpan
from hilat.corpora.planted import PlantedSettings, make_planted, planted_code_book

cue_cases = pytest.importorskip("benchmarks.cue_cases")  # benchmarks are in the checkout, not in the package
BOOK = planted_code_book()
WORDS = keyword_sets(BOOK, KeywordSources())


def test_every_mark_gets_a_passage_of_its_own_and_decoys_are_named() -> None:
    notes = make_planted(PlantedSettings(seed=11, train=12, val=0, test=0)).admissions
    marks = [m for note in notes for m in cue_cases.marked_passages(note, BOOK, WORDS, CaseOptions())]
    planted = Counter(span.kind for note in notes for span in (*note.evidence, *note.decoys))
    assert Counter(m.kind for m in marks) == planted
    decoys = [m for m in marks if m.kind in ("negated", "uncertain", "family", "history")]
    named = sum(bool(m.cues & set(cue_cases.NAMES[m.kind])) for m in decoys)
    assert len(decoys) >= 15
    assert named >= 0.9 * len(decoys)
    evidence = [m for m in marks if m.kind == "evidence"]
    assert sum(bool(m.cues & {"negated", "uncertain", "family"}) for m in evidence) <= 0.02 * len(evidence)


TEXT = "Brief Hospital Course:\nNo sepsis was seen. Intubated for airway protection. Treated for afib today.\n"


def marked(code: str, words: str, kind: str = "evidence") -> EvidenceSpan:
    at = TEXT.index(words)
    return EvidenceSpan(code, ((at, at + len(words)),), kind)


@pytest.mark.parametrize(
    ("code", "words", "cause"),
    [
        ("038.9", "sepsis", "negated"),
        ("427.31", "afib", "evidence"),
        ("428.0", "afib", "evidence of another code"),
        ("428.0", "Treated", "nothing that was planted"),
        ("96.71", "Intubated", "duration of ventilation"),
    ],
)
def test_what_an_error_points_at(code: str, words: str, cause: str) -> None:
    evidence = (marked("427.31", "afib"),)
    note = Admission("1", TEXT, ("427.31", "96.72"), evidence, (marked("038.9", "sepsis", "negated"),))
    one = cue_cases.pointing_at(note, BOOK, [marked(code, words)])
    (case,) = find_cases(one, note, WORDS, BOOK)
    found = cue_cases.caused(case, note)
    assert found.kind == cause
    assert found.outcome == ("TP" if code == "427.31" else "FP")
    assert ("negated" in found.cues) == (cause == "negated")

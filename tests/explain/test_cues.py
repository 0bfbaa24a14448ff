"""Each kind of cue: fires on a case made for it, and not on its near miss. Sentences were invented here."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from explain.cues import (
    ASIDE,
    BACKENDS,
    CONTEXTS,
    CUES,
    CaseOptions,
    Cue,
    Passage,
    code_cues,
    context_cues,
    place_cues,
    profile_cues,
)
from explain.past_years import past_years
from explain.rule_pairs import RulePair
from explain.sentences import sentences
from hilat.admissions import CodeBook, HilatError
from hilat.sections import HEADINGS

BOOK = CodeBook(
    ("96.71", "96.72", "96.04", "401.9", "403.90", "427.31", "427.1", "995.92"),
    ("",) * 8,
    ("procedure", "procedure", "procedure", *["diagnosis"] * 5),
)
PROFILE = {"margin": 0.4, "half_words": 3.0, "outside_words": 0.1}


def passage(text: str, peak: str, *, words: tuple[str, ...] = (), section: str = "", on_evidence: bool = False) -> Passage:  # fmt: skip
    """A passage of the whole text with its peak word and description words, each found by its letters."""
    at = text.index(peak)
    keywords = tuple((text.index(word), text.index(word) + len(word)) for word in words)
    return Passage(0, len(text), (at, at + len(peak)), 0.9, section, keywords, on_evidence)


def contexts(text: str, peak: str, words: tuple[str, ...] = (), language: str = "en") -> list[Cue]:
    return context_cues(text, [passage(text, peak, words=words)], sentences(text, language), language)


# ---------------------------------------------------------------- context


@pytest.mark.parametrize(
    ("text", "peak", "kinds"),
    [
        ("There is no pneumonia.", "pneumonia", ["negated"]),
        ("No fever. There is pneumonia.", "pneumonia", []),
        ("Possible septic physiology.", "septic", ["uncertain"]),
        ("Septic as soon as possible.", "Septic", []),
        ("h/o stroke", "stroke", ["historical"]),
        ("History of present illness: stroke", "stroke", []),
        ("Mother had stroke.", "stroke", ["family"]),
        ("Mother reports stroke.", "stroke", []),
        ("Return if bleeding occurs.", "bleeding", ["hypothetical"]),
        ("Bleeding occurred, return visit done.", "Bleeding", []),
        ("No family history of stroke.", "stroke", ["negated", "family"]),
    ],
)
def test_context_of_the_peak_word(text: str, peak: str, kinds: list[str]) -> None:
    assert [cue.kind for cue in contexts(text, peak)] == kinds


def test_description_words_of_the_peaks_sentence_are_looked_at_before_the_peak() -> None:
    text = "No sepsis but renal failure was treated. No gout."
    assert [cue.kind for cue in contexts(text, "sepsis", ("renal",))] == []  # the description word, not the peak
    assert [cue.kind for cue in contexts(text, "sepsis")] == ["negated"]
    assert [cue.kind for cue in contexts(text, "treated", ("gout",))] == []  # it stands in another sentence
    assert [cue.kind for cue in contexts(text, "gout", ("renal",))] == ["negated"]


def test_a_cue_tells_its_words_and_its_passage_once() -> None:
    text = "\U0001f600 Fine.\nThere is no sepsis, no gout."
    first, second = passage(text, "Fine"), passage(text, "sepsis", words=("sepsis", "gout"))
    assert context_cues(text, [first, second], sentences(text)) == [
        Cue("negated", CUES["negated"], 1, text.index("no"), text.index("no") + 2)
    ]


def test_spanish_context() -> None:
    assert [cue.kind for cue in contexts("Se descartó neumonía.", "neumonía", language="es")] == ["negated"]
    assert [cue.kind for cue in contexts("Cáncer en una tía materna.", "Cáncer", language="es")] == ["family"]


@pytest.mark.parametrize("kind", CONTEXTS)
def test_every_context_is_a_kind_of_cue(kind: str) -> None:
    assert CUES[kind]


# ---------------------------------------------------------------- dates before the stay

STAY = "Admission Date:  [**2151-7-16**]\n"


@pytest.mark.parametrize(
    ("text", "past"),
    [
        (STAY + "AF in [**2140**], resolved.", ["[**2140**]"]),
        (STAY + "AF in [**2151**].", []),
        (STAY + "Seen on [**2150-12-30**] and [**2151-3-1**].", ["[**2150-12-30**]"]),  # seven months, four months
        (STAY + "Seen on [**2151-2-1**].", []),
        (STAY + "Follow up [**2152-1-3**].", []),
        (STAY + "HD since [**2140**], MI in [**2141**].", ["[**2141**]"]),
        (STAY + "HD since about [**2140**].", []),
        ("Date of Birth: none. MI in 2003. Admitted in 2012.", ["in 2003"]),
        ("MI en 2003. Ingresa en 2012. HTA desde 2001.", ["en 2003"]),
        ("Given 2000 ml, then 1900 more in 2012.", []),
        ("Filled in 2000 ml in 2012.", []),
        (STAY + "Ticket [**Numeric Identifier 2140**], [**Location (un) 1999**].", []),
        ("No date at all.", []),
    ],
)
def test_dates_before_the_stay(text: str, past: list[str]) -> None:
    assert [text[start:end] for start, end in past_years(text)] == past


def test_a_past_date_makes_a_historical_cue_in_its_sentence_only() -> None:
    text = STAY + "Stroke in [**2140**]. Gout was treated."
    at = text.index("[**2140")
    assert contexts(text, "Stroke") == [Cue("historical", CUES["historical"], 0, at, at + len("[**2140**]"))]
    assert contexts(text, "Gout") == []
    ended = STAY + "Stroke in [**2140**], now with gout."
    assert contexts(ended, "gout") == []  # a termination phrase ends it like any other


@pytest.mark.parametrize(
    ("title", "there"),
    [
        ("", True),
        ("Old myocardial infarction", False),
        ("Personal history of tobacco use", False),
        ("Postsurgical aortocoronary bypass status", False),
        ("Status asthmaticus", True),
        ("Threshold", True),
    ],
)
def test_a_code_of_the_past_is_not_doubted_for_it(title: str, there: bool) -> None:
    text = "Prior MI. No prior stroke."
    (at,) = [passage(text, "MI")]
    kinds = [cue.kind for cue in context_cues(text, [at], sentences(text), title=title)]
    assert kinds == (["historical"] if there else [])
    kinds = [cue.kind for cue in context_cues(text, [passage(text, "stroke")], sentences(text), title=title)]
    assert kinds == (["negated", "historical"] if there else ["negated"])


# ---------------------------------------------------------------- place: section and duration


def test_aside_sections_are_known_ones() -> None:
    assert set(ASIDE) <= set(HEADINGS.values())


def test_section_of_the_peak() -> None:
    text = "Stroke."
    (cue,) = place_cues(text, [passage(text, "Stroke", section="family_history")], sentences(text))
    assert cue == Cue("section", "in family history", 0, 0, 6)
    assert place_cues(text, [passage(text, "Stroke", section="hospital_course")], sentences(text)) == []


@pytest.mark.parametrize(
    ("text", "peak", "words"),
    [
        ("He was intubated for two days.", "intubated", "two days"),
        ("Ventilated 96hours in the unit.", "Ventilated", "96hours"),
        ("Extubated on POD#3.", "Extubated", "POD#3"),
        ("Extubated on POD 3.", "Extubated", "POD 3"),
        ("Extubated after 7 days.", "Extubated", "7 days"),
        ("Ventilated. Seven days later he died.", "Ventilated", None),  # another sentence
        ("Grade 3 disease.", "disease", None),
        ("A 65 year old with gout.", "gout", None),
        ("A 65-year-old with gout.", "gout", None),
        ("Aged 65 years with gout for 10 years.", "gout", "10 years"),
        ("Ventilación mecánica durante tres días.", "Ventilación", "tres días"),
        ("Ventilado 12 horas.", "Ventilado", "12 horas"),
        ("Varón de 65 años con gota.", "gota", None),
        ("Gota de 10 años de evolución.", "Gota", "10 años"),
        ("Mujer de 40 años de edad con gota de 3 meses.", "gota", "3 meses"),
    ],
)
def test_duration_in_the_sentence_of_the_peak(text: str, peak: str, words: str | None) -> None:
    found = place_cues(text, [passage(text, peak)], sentences(text))
    assert [text[cue.start : cue.end] for cue in found] == ([] if words is None else [words])
    assert all(cue.kind == "duration" and cue.passage == 0 for cue in found)


# ---------------------------------------------------------------- codes: sibling and rule pair


@pytest.mark.parametrize(
    ("code", "outcome", "coded", "says"),
    [
        ("427.31", "FP", ("427.1",), "427.1 was coded"),
        ("427.31", "FN", ("427.1", "427.31"), "427.1 was coded"),
        ("427.31", "TP", ("427.1", "427.31"), None),
        ("427.31", "FP", ("428.0",), None),
        ("427.31", "FP", (), None),
        ("96.71", "FP", ("96.72",), "96.72 was coded"),
        ("96.71", "FP", ("427.1",), None),
    ],
)
def test_sibling(code: str, outcome: str, coded: tuple[str, ...], says: str | None) -> None:
    found = code_cues(code, outcome, BOOK, (coded, (code,)), ())
    assert [(cue.kind, cue.says) for cue in found] == ([] if says is None else [("sibling", says)])


RULES = (
    RulePair("401.9", ("403.*",), "exclusive", "one or the other"),
    RulePair("995.92", ("038.*",), "together", "both"),
)


@pytest.mark.parametrize(
    ("code", "coded", "predicted", "says"),
    [
        ("401.9", ("403.90",), (), "403.90 was coded; one or the other"),
        ("403.90", (), ("401.9",), "401.9 was predicted; one or the other"),  # the other way round
        ("403.90", ("401.9",), ("401.9",), "401.9 was coded; one or the other"),
        ("401.9", ("404.00",), (), None),
        ("401.9", (), ("401.9",), None),  # itself
        ("995.92", ("038.9",), (), "038.9 was coded; both"),
        ("427.31", ("401.9", "403.90"), (), None),
    ],
)
def test_rule_pair(code: str, coded: tuple[str, ...], predicted: tuple[str, ...], says: str | None) -> None:
    found = code_cues(code, "FP", BOOK, (coded, predicted), RULES)
    assert [(cue.kind, cue.says) for cue in found if cue.kind != "sibling"] == ([] if says is None else [("rule_pair", says)])  # fmt: skip


# ---------------------------------------------------------------- profile


def kinds(passages: list[Passage], known: tuple[bool, bool, bool] = (False, False, False), **profile: float) -> list[str]:  # fmt: skip
    return [cue.kind for cue in profile_cues({**PROFILE, **profile}, passages, known, CaseOptions())]


def test_symptom_only_needs_description_words_that_are_nowhere_among_the_passages() -> None:
    bare, named = passage("dyspnea", "dyspnea"), passage("failure", "failure", words=("failure",))
    assert kinds([bare], (True, False, False)) == ["symptom_only"]
    assert kinds([bare, named], (True, False, False)) == []
    assert kinds([bare], (False, False, False)) == []  # a code without description words
    assert kinds([], (True, False, False)) == []


@pytest.mark.parametrize(("margin", "there"), [(0.1, True), (-0.1, True), (0.0, True), (0.1001, False), (-0.1001, False)])  # fmt: skip
def test_borderline_edges(margin: float, there: bool) -> None:
    assert kinds([], margin=margin) == (["borderline"] if there else [])


@pytest.mark.parametrize(
    ("half", "outside", "there"),
    [(51.0, 0.0, True), (50.0, 0.4, False), (50.0, 0.41, True), (float("nan"), float("nan"), False)],
)
def test_diffuse_and_leaked_attention(half: float, outside: float, there: bool) -> None:
    assert kinds([], half_words=half, outside_words=outside) == (["diffuse"] if there else [])


def test_diffuse_and_leaked_are_told_once_with_their_number() -> None:
    profile = {**PROFILE, "half_words": 60.0, "outside_words": 0.5}
    (cue,) = profile_cues(profile, [], (False, False, False), CaseOptions())
    assert cue.says == "half of it takes 60 words"
    (cue,) = profile_cues({**profile, "half_words": 2.0}, [], (False, False, False), CaseOptions())
    assert cue.says == "50 % of it is on special and padding tokens"


def test_evidence_elsewhere() -> None:
    off, on = passage("a b", "a"), passage("a b", "a", on_evidence=True)
    assert kinds([off], (False, True, False)) == ["evidence_elsewhere"]
    assert kinds([off, on], (False, True, False)) == []
    assert kinds([off], (False, False, False)) == []
    assert kinds([off], (False, False, True)) == ["evidence_elsewhere"]  # a mention that the model never read
    says = [profile_cues(PROFILE, [off], (False, *rest), CaseOptions())[0].says for rest in ((True, True), (False, True))]  # fmt: skip
    assert says == [
        "the coders' evidence is elsewhere",
        "a word of the description stands in text that the model did not read",
    ]


# ---------------------------------------------------------------- backends


def test_an_unknown_backend_is_refused_with_those_there_are() -> None:
    assert CaseOptions().backend == "own"
    with pytest.raises(HilatError, match="own or medspacy"):
        CaseOptions(backend="negspacy")
    assert set(BACKENDS) == {"own", "medspacy"}


def test_the_backend_that_is_asked_for_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module in its place gets the targets, the sentences and the dates."""
    asked: dict[str, object] = {}
    stub = ModuleType("explain.context_medspacy")

    def context_of(text: str, targets: list[tuple[int, int]], language: str, **given: object) -> list[tuple[object, ...]]:  # fmt: skip
        asked.update(given, text=text, targets=targets, language=language)
        return [() for _ in targets]

    stub.context_of = context_of  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "explain.context_medspacy", stub)
    monkeypatch.setattr("explain.context_medspacy", stub, raising=False)
    text = STAY + "No stroke in [**2140**]."
    ranges = sentences(text)
    assert context_cues(text, [passage(text, "stroke")], ranges, "en", "medspacy") == []
    at = text.index("stroke")
    assert asked == {
        "text": text, "targets": [(at, at + 6)], "language": "en", "within": ranges, "past": past_years(text),
    }  # fmt: skip

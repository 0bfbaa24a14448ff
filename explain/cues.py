"""Cues: reasons why a predicted code may be wrong, each with the words that matched; reasons to look, never verdicts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from explain import context
from explain.past_years import past_years
from explain.rule_pairs import RulePair, built_in_rule_pairs
from hilat.admissions import CodeBook, HilatError
from hilat.codes import siblings

# Kind of cue -> what it says. A cue is a reason to look, never a verdict.
CUES: dict[str, str] = {
    "negated": "a negation governs the words",
    "uncertain": "the words are said to be possible only",
    "historical": "the words are about the past",
    "family": "the words are about a relative",
    "hypothetical": "the words are about what may come",
    "section": "the words stand in a section that is not about this stay's findings",
    "symptom_only": "no word of the code's description or its synonyms is among the strongest passages",
    "sibling": "another code of the same category was coded",
    "rule_pair": "a coding rule ties the code to another one of the stay",
    "duration": "a duration stands in the sentence",
    "borderline": "the probability is near the threshold",
    "diffuse": "half of the attention takes many words, or much of it is on no word",
    "evidence_elsewhere": "what speaks for the code stands where the explanation does not point, or was never read",
}
CONTEXTS = ("negated", "uncertain", "historical", "family", "hypothetical")
# Sections whose mentions are mostly not what this stay is coded for.
ASIDE: dict[str, str] = {
    "past_medical_history": "past medical history",
    "past_surgical_history": "past surgical history",
    "family_history": "family history",
    "social_history": "social history",
    "allergies": "allergies",
    "medications_on_admission": "medications on admission",
    "pertinent_results": "results",
    "discharge_instructions": "discharge instructions",
    "followup_instructions": "followup instructions",
}
_NUMBER = r"(?:\d+(?:\.\d+)?|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|several|un|una|dos|tres|cuatro|cinco|seis|siete|ocho|nueve|diez)"
_DURATION = re.compile(
    rf"\b{_NUMBER}[\s-]*(?:hours?|hrs?|h|days?|d|weeks?|wks?|months?|years?|horas?|d[ií]as?|semanas?|mes(?:es)?|años?)\b(?!-?\s?(?:old|of age|de edad)\b)|\bPOD\s?#?\d+\b",
    re.IGNORECASE,
)
# Before a number of years that is an age; "65 year old" is left out by _DURATION itself.
_AGE = re.compile(
    r"(?:\b(?:aged?(?: of)?|mujer de|var[oó]n de|hombre de|paciente de|ni[ñn][oa] de|edad de|tiene)\s+)$", re.IGNORECASE
)
# Titles of codes for what is over: a mention in the past is what they ask for.
_PAST_CODE = re.compile(r"\bhistory\b|\bold\b|\bstatus$|\bacquired absence\b|\bantecedentes?\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Cue:
    """Why a code may be wrong. kind: of CUES. passage: the number of the passage it was seen in, None for the code as a
    whole. start, end: the matched words in the raw text, -1 where there are none. says: in words, none of the note's."""

    kind: str
    says: str
    passage: int | None = None
    start: int = -1
    end: int = -1


@dataclass(frozen=True, slots=True)
class Passage:
    """A strong passage [start, end) with its peak word and its share of the scores; section: its heading's name or "".

    keywords: the raw ranges of description words in it. on_evidence: whether it touches the coders' evidence.
    """

    start: int
    end: int
    peak: tuple[int, int]
    share: float
    section: str
    keywords: tuple[tuple[int, int], ...]
    on_evidence: bool


BACKENDS: dict[str, str] = {
    "own": "explain.context: ConText with phrases of our own",
    "medspacy": "explain.context_medspacy: ConText of medspaCy, which has to be installed",
}


@dataclass(frozen=True, slots=True)
class CaseOptions:
    """What counts as a cue: passages looked at, distance from the threshold, words for half, share on no word. backend: of
    BACKENDS, what tells the context of words."""

    passages: int = 3
    near: float = 0.1
    half_words: int = 50
    outside: float = 0.4
    language: str = "en"
    rules: tuple[RulePair, ...] = field(default_factory=built_in_rule_pairs)
    backend: str = "own"

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise HilatError(
                f"the context backend is {self.backend!r}; expected {' or '.join(BACKENDS)}. Choose one of them"
            )


def context_cues(
    text: str,
    passages: Sequence[Passage],
    sentences: Sequence[tuple[int, int]],
    language: str = "en",
    backend: str = "own",
    title: str = "",
) -> list[Cue]:
    """What governs the passages: the description words in the sentence of the peak or, where it has none, the peak word.

    Description words of the passage's other sentences do not count: what governs them is not where the explanation points.
    title: of the code; one that is itself of the past ("Old myocardial infarction") has no cue "historical".
    """
    targets: list[tuple[int, tuple[int, int]]] = []
    for n, passage in enumerate(passages):
        start, end = _sentence(sentences, passage.peak[0])
        near = [span for span in passage.keywords if start <= span[0] < end]
        targets += [(n, span) for span in (near or [passage.peak])]
    spans = [span for _, span in targets]
    if backend == "medspacy":
        from explain import context_medspacy  # only where it is asked for: medspaCy is not among the requirements

        governing = context_medspacy.context_of(text, spans, language, within=sentences, past=past_years(text))
    else:
        governing = context.context_of(text, spans, language, within=sentences, past=past_years(text))
    found: dict[tuple[str, int], Cue] = {}
    for (n, _), cues in zip(targets, governing, strict=True):
        for cue in cues:
            if cue.kind == "historical" and _PAST_CODE.search(title):
                continue
            found.setdefault((cue.kind, n), Cue(cue.kind, CUES[cue.kind], n, cue.start, cue.end))
    return list(found.values())


def place_cues(text: str, passages: Sequence[Passage], sentences: Sequence[tuple[int, int]]) -> list[Cue]:
    """Sections that are not about this stay, and durations in the sentence of a peak."""
    found = []
    for n, passage in enumerate(passages):
        if passage.section in ASIDE:
            found.append(Cue("section", f"in {ASIDE[passage.section]}", n, *passage.peak))
        match = _duration(text, *_sentence(sentences, passage.peak[0]))
        if match is not None:
            found.append(Cue("duration", CUES["duration"], n, match.start(), match.end()))
    return found


def _sentence(sentences: Sequence[tuple[int, int]], place: int) -> tuple[int, int]:
    """The sentence in which a character stands; an empty range there where it is in none."""
    return next(((start, end) for start, end in sentences if start <= place < end), (place, place))


def _duration(text: str, start: int, end: int) -> re.Match[str] | None:
    """The first duration in text[start:end] that is no age."""
    for match in _DURATION.finditer(text, start, end):
        if not _AGE.search(text, max(start, match.start() - 30), match.start()):
            return match
    return None


def code_cues(
    code: str, outcome: str, book: CodeBook, given: tuple[tuple[str, ...], tuple[str, ...]], rules: Sequence[RulePair]
) -> list[Cue]:
    """Siblings that were coded, and coding rules; given: the coders' codes and the predicted ones."""
    coded, predicted = given
    found = []
    kind = book.kinds[book.column(code)]
    near = [c for c in siblings(code, kind, coded) if c not in book or book.kinds[book.column(c)] == kind]
    if near and outcome in ("FP", "FN"):
        found.append(Cue("sibling", f"{', '.join(near)} was coded"))
    for rule in rules:
        partner = rule.partner(code, tuple(dict.fromkeys((*coded, *predicted))))
        if partner is not None:
            how = "coded" if partner in coded else "predicted"
            found.append(Cue("rule_pair", f"{partner} was {how}; {rule.says}"))
    return found


def profile_cues(
    profile: Mapping[str, float], passages: Sequence[Passage], known: tuple[bool, bool, bool], options: CaseOptions
) -> list[Cue]:
    """Cues from numbers; known: the code has description words, the coders marked evidence, the model missed a mention."""
    has_words, has_evidence, unread = known
    found = []
    if passages and has_words and not any(p.keywords for p in passages):
        found.append(Cue("symptom_only", CUES["symptom_only"]))
    if abs(profile["margin"]) <= options.near:
        found.append(Cue("borderline", f"{abs(profile['margin']):.2f} from the threshold"))
    if profile["half_words"] > options.half_words:
        found.append(Cue("diffuse", f"half of it takes {profile['half_words']:.0f} words"))
    elif profile["outside_words"] > options.outside:
        found.append(Cue("diffuse", f"{100 * profile['outside_words']:.0f} % of it is on special and padding tokens"))
    if has_evidence and passages and not any(p.on_evidence for p in passages):
        found.append(Cue("evidence_elsewhere", "the coders' evidence is elsewhere"))
    elif unread:
        found.append(Cue("evidence_elsewhere", "a word of the description stands in text that the model did not read"))
    return found

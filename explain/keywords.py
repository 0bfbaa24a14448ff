"""Keywords of a code: the words of its description, and where a note holds them.

Three tiers: 1 "exact", a word of the title or a whole inclusion term as written; 2 "lemma", the same up to inflection;
3 "synonym", a whole term from a user's file or a common abbreviation. To find a code's keyword among a model's words
says that the explanation looks plausible, not that the model works that way (`NOTE`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from explain.lemmas import LANGUAGES, fold, lemma, word_parts
from explain.result import Value, defined, undefined
from explain.synonyms import built_in_abbreviations
from hilat.admissions import CodeBook, HilatError
from hilat.stopwords import ENGLISH_STOP_WORDS

NOTE = (
    "Agreement with a code's description is plausibility, not faithfulness: it says that the explanation points at words a "
    "reader expects, not that the model's decision rests on them."
)
EXACT, LEMMA, SYNONYM = 1, 2, 3
TIERS = {EXACT: "exact", LEMMA: "lemma", SYNONYM: "synonym"}
ABBREVIATION = "abbreviation"

_SPANISH_STOP_WORDS = frozenset(
    [
        "a",
        "al",
        "ante",
        "bajo",
        "como",
        "con",
        "contra",
        "cual",
        "de",
        "del",
        "desde",
        "donde",
        "e",
        "el",
        "ella",
        "en",
        "entre",
        "es",
        "esta",
        "este",
        "la",
        "las",
        "le",
        "lo",
        "los",
        "mas",
        "ni",
        "no",
        "o",
        "para",
        "pero",
        "por",
        "que",
        "se",
        "segun",
        "si",
        "sin",
        "sobre",
        "son",
        "su",
        "sus",
        "tras",
        "u",
        "un",
        "una",
        "uno",
        "unos",
        "unas",
        "y",
        "ya",
    ]
)
STOP_WORDS: Mapping[str, frozenset[str]] = {"en": ENGLISH_STOP_WORDS, "es": _SPANISH_STOP_WORDS}
# Words of titles that name what the code leaves open, or count: alone in a note they say nothing about it.
FILLER: Mapping[str, frozenset[str]] = {
    "en": frozenset(
        [
            "nos",
            "nec",
            "nfs",
            "unspecified",
            "unspec",
            "other",
            "oth",
            "others",
            "specified",
            "classified",
            "elsewhere",
            "otherwise",
            "stated",
            "mention",
            "without",
            "type",
            "types",
            "form",
            "forms",
            "kind",
            "site",
            "sites",
            "organism",
            "part",
            "parts",
            "stage",
            "status",
            "due",
            "less",
            "using",
            "one",
            "two",
            "three",
        ]
    ),
    "es": frozenset(
        [
            "otro",
            "otra",
            "otros",
            "otras",
            "especificado",
            "especificada",
            "especificados",
            "especificadas",
            "inespecificado",
            "sin",
            "especificar",
            "neom",
            "clasificado",
            "clasificada",
            "parte",
            "tipo",
            "forma",
            "sitio",
            "organismo",
            "estadio",
            "debido",
            "debida",
            "mencion",
        ]
    ),
}
# Clauses that say what is absent or left open go as a whole: "without mention of complication", "not stated as ...".
_CLAUSES = {
    "en": re.compile(r"(?<!or )\bwithout\b[^,;()\[\]]*|\bnot (?:stated|specified|elsewhere|otherwise|classified)\b[^,;()\[\]]*"),
    "es": re.compile(r"(?<!o )\bsin (?:mencion|especificar|otra)\b[^,;()\[\]]*|\bno (?:especificad|clasificad)[^,;()\[\]]*"),
}  # fmt: skip
_ROMAN = re.compile(r"(?=[ivx])x{0,3}(?:ix|iv|v?i{0,3})")


@dataclass(frozen=True, slots=True)
class Term:
    """One keyword: its folded word parts, in order; tier EXACT (of the description) or SYNONYM; where it comes from."""

    words: tuple[str, ...]
    tier: int
    source: str


@dataclass(frozen=True, slots=True)
class KeywordSet:
    """The keywords of one code. language: whose inflections are undone, "en" or "es"."""

    code: str
    terms: tuple[Term, ...]
    language: str = "en"

    def __post_init__(self) -> None:
        if self.language not in LANGUAGES:
            raise HilatError(
                f"keywords of code {self.code} are in language {self.language!r}; expected {' or '.join(LANGUAGES)}. "
                "Choose one of them"
            )
        for term in self.terms:
            if not term.words or term.tier not in (EXACT, SYNONYM):
                raise HilatError(
                    f"a keyword of code {self.code} has {len(term.words)} words and tier {term.tier}; expected one word or "
                    f"more and tier {EXACT} or {SYNONYM}. Build it with keyword_sets"
                )

    def up_to(self, tier: int) -> tuple[Term, ...]:
        """The terms that can match at this tier or a better one."""
        return tuple(term for term in self.terms if term.tier <= tier)


@dataclass(frozen=True, slots=True)
class KeywordSources:
    """Where keywords come from, besides the titles.

    inclusion: code -> inclusion terms of the classification, or others that count as its description.
    synonyms: name of a source ("umls", ...) -> code -> terms, from the readers of `explain.synonyms`.
    abbreviations: whether common abbreviations of MIMIC-III's 50 built-in codes count (ICD-9 code books only).
    drop: further title words to leave out.
    """

    inclusion: Mapping[str, Sequence[str]] = field(default_factory=dict)
    synonyms: Mapping[str, Mapping[str, Sequence[str]]] = field(default_factory=dict)
    abbreviations: bool = True
    language: str = "en"
    drop: frozenset[str] = frozenset()


def title_words(title: str, language: str = "en", drop: frozenset[str] = frozenset()) -> tuple[str, ...]:
    """The content words of a title, folded, in order, each once: without stop words, NOS, NEC, unspecified, other and the
    like, single letters, numbers (Roman ones too), and clauses that say what is absent or left open."""
    _check_language(language)
    out = STOP_WORDS[language] | FILLER[language] | {fold(word) for word in drop}
    words = word_parts(_CLAUSES[language].sub(" ", fold(title)))
    kept = [w for w in words if len(w) > 1 and w not in out and not w.isdigit() and not _ROMAN.fullmatch(w)]
    return tuple(dict.fromkeys(kept))


def keyword_sets(book: CodeBook, sources: KeywordSources = KeywordSources()) -> dict[str, KeywordSet]:
    """The keyword set of every code of the book; empty for a code without title and other sources.

    Every content word of a title is a keyword of its own. All other terms match as a whole, word for word.

    Raises:
        HilatError: for a code of `inclusion` or `synonyms` that is not in the book, or another language.
    """
    _check_language(sources.language)
    for name, given in {"inclusion": sources.inclusion, **sources.synonyms}.items():
        strange = [code for code in given if code not in book]
        if strange:
            raise HilatError(
                f"the {name} terms name code {strange[0]!r}, which is not among the {len(book)} codes of the code book; "
                "expected codes of the book. Check the dots, or leave the code out"
            )
    short = built_in_abbreviations(book.codes) if sources.abbreviations and "ICD-9" in book.system else {}
    return {code: _keyword_set(book, code, sources, short.get(code, ())) for code in book.codes}


def _keyword_set(book: CodeBook, code: str, sources: KeywordSources, short: Sequence[str]) -> KeywordSet:
    language = sources.language
    terms = [Term((w,), EXACT, "title") for w in title_words(book.title(code), language, sources.drop)]
    terms += _phrases(sources.inclusion.get(code, ()), EXACT, "inclusion", language)
    terms += _phrases(short, SYNONYM, ABBREVIATION, language)
    for name, given in sources.synonyms.items():
        terms += _phrases(given.get(code, ()), SYNONYM, name, language)
    first: dict[tuple[str, ...], Term] = {}
    for term in terms:
        first.setdefault(term.words, term)
    return KeywordSet(code, tuple(first.values()), language)


def _phrases(texts: Sequence[str], tier: int, source: str, language: str) -> list[Term]:
    """Terms of these texts; filler at either end is cut ("Hypertension NOS"), what is left must hold a content word."""
    found = []
    for text in texts:
        words = word_parts(_CLAUSES[language].sub(" ", fold(text)))
        while words and words[0] in FILLER[language]:
            words = words[1:]
        while words and words[-1] in FILLER[language]:
            words = words[:-1]
        if any(len(word) > 1 and word not in STOP_WORDS[language] and not word.isdigit() for word in words):
            found.append(Term(tuple(words), tier, source))
    return found


@dataclass(frozen=True, slots=True, eq=False)
class KeywordMatches:
    """Where a note holds a code's keywords. tier (W,): 0 none, else EXACT, LEMMA or SYNONYM, the best of each word.

    term (W,): the index in keyword_set.terms of the term that matched, -1 for none. found (terms,): the best tier at which
    each term occurs, 0 for not at all; a term may occur inside a better one.
    """

    keyword_set: KeywordSet
    tier: NDArray[np.int64]
    term: NDArray[np.int64]
    found: NDArray[np.int64]

    def words(self, up_to: int = SYNONYM) -> NDArray[np.bool_]:
        """(W,): the words of a keyword at this tier or a better one."""
        return np.asarray((self.tier > 0) & (self.tier <= up_to))

    def coverage(self, up_to: int = SYNONYM) -> Value:
        """The share of the code's keywords (title words and whole terms) that occur in the note."""
        terms = len(self.keyword_set.up_to(up_to))
        if not terms:
            return undefined("the code has no keyword")
        return defined(((self.found > 0) & (self.found <= up_to)).sum() / terms)


def match_keywords(words: Sequence[str], keyword_set: KeywordSet) -> KeywordMatches:
    """Tier (W,) and term (W,) of each word of a note; case, accents, punctuation and possessive 's do not count.

    words: W words in the order in which neighbours are neighbours. A term of several words matches a run of them; of
    several terms on a word the better tier wins, then the longer, then the first. Abbreviations match as written only.
    """
    note = _note_parts(tuple(words), keyword_set.language)
    best: dict[int, tuple[int, int, int]] = {}  # word -> (tier, -length, term)
    found = np.zeros(len(keyword_set.terms), dtype=np.int64)
    for t, term in enumerate(keyword_set.terms):
        stems = () if term.source == ABBREVIATION else tuple(lemma(word, keyword_set.language) for word in term.words)
        for sought, here, places, reached in (
            (term.words, note.parts, note.places, EXACT),
            (stems, note.stems, note.stem_places, LEMMA),
        ):
            for start in places.get(sought[0], ()) if sought else ():
                stop = start + len(sought)
                if here[start:stop] != sought:
                    continue
                tier = max(reached, term.tier)
                found[t] = min(found[t], tier) if found[t] else tier
                for w in note.owner[start:stop]:
                    best[w] = min(best.get(w, (tier + 1, 0, 0)), (tier, -len(sought), t))
    tier_of, term_of = np.zeros(len(words), dtype=np.int64), np.full(len(words), -1, dtype=np.int64)
    for w, (tier, _, t) in best.items():
        tier_of[w], term_of[w] = tier, t
    return KeywordMatches(keyword_set, tier_of, term_of, found)


@dataclass(frozen=True, slots=True)
class _NoteParts:
    """A note's words in parts: "end-stage" is one word and two parts. owner: the word of each part. places and
    stem_places: part or stem -> where it stands."""

    parts: tuple[str, ...]
    stems: tuple[str, ...]
    owner: tuple[int, ...]
    places: Mapping[str, list[int]]
    stem_places: Mapping[str, list[int]]


@lru_cache(maxsize=2)  # the codes of a note are matched one after the other
def _note_parts(words: tuple[str, ...], language: str) -> _NoteParts:
    found = [(part, w) for w, word in enumerate(words) for part in word_parts(word)]
    parts = tuple(part for part, _ in found)
    stems = tuple(lemma(part, language) for part in parts)
    places: dict[str, list[int]] = {}
    stem_places: dict[str, list[int]] = {}
    for at, (part, stem) in enumerate(zip(parts, stems, strict=True)):
        places.setdefault(part, []).append(at)
        stem_places.setdefault(stem, []).append(at)
    return _NoteParts(parts, stems, tuple(w for _, w in found), places, stem_places)


def _check_language(language: str) -> None:
    if language not in LANGUAGES:
        raise HilatError(
            f"keywords cannot be in language {language!r}; expected {' or '.join(LANGUAGES)}. Choose one of them"
        )

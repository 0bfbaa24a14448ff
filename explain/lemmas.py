"""Word forms that count as the same word: a small rule-based stemmer for English and Spanish clinical text.

It is rules and short lists, no dictionary: what comes out need not be a word ("fracture", "fractures" and "fractured"
all give "fractur"). It joins inflections only. Derived words (thrombocytopenia, thrombocytopenic; smoke, smoker) and
words of other roots (kidney, renal) stay apart: the latter are synonyms, which come from files.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from hilat.admissions import HilatError

LANGUAGES = ("en", "es")
_PART = re.compile(r"[^\W_]+")
_POSSESSIVE = re.compile(r"['’]s\b")
_SHORT = 3  # words up to this length have one form
# Singular nouns that look like plurals, and words that look like verb forms or adverbs.
_AS_IT_IS = frozenset(
    [
        "ascites",
        "biceps",
        "caries",
        "diabetes",
        "feces",
        "forceps",
        "herpes",
        "mumps",
        "pancreas",
        "perhaps",
        "rabies",
        "scabies",
        "series",
        "species",
        "triceps",
        "anything",
        "during",
        "evening",
        "everything",
        "morning",
        "nothing",
        "something",
        "anomaly",
        "assembly",
        "early",
        "family",
        "supply",
    ]
)
_IRREGULAR = {
    "atria": "atrium",
    "bacteria": "bacterium",
    "crises": "crisis",
    "criteria": "criterion",
    "diverticula": "diverticulum",
    "emphases": "emphasis",
    "feet": "foot",
    "ganglia": "ganglion",
    "men": "man",
    "ova": "ovum",
    "purposes": "purpos",
    "septa": "septum",
    "sera": "serum",
    "teeth": "tooth",
    "used": "use",
    "using": "use",
    "women": "woman",
}
_GREEK_PLURALS = ("oses", "eses", "yses", "tases")  # diagnoses, prostheses, dialyses, metastases: -sis in the singular
_LATIN_PLURALS = ("boli", "ombi", "onchi", "cilli", "occi", "eoli", "ungi", "uclei", "imuli", "ulci", "adii", "lculi")
_SPANISH_AS_IT_IS = frozenset(
    ["diabetes", "caries", "herpes", "ascitis", "antes", "despues", "entonces", "menos", "tres", "jueves"]
)


def fold(text: str) -> str:
    """The text in lower case, without accents, ligatures taken apart."""
    apart = unicodedata.normalize("NFKD", text.casefold())
    return "".join(c for c in apart if not unicodedata.combining(c))


@lru_cache(maxsize=1 << 16)
def word_parts(text: str) -> tuple[str, ...]:
    """The runs of letters and digits in a text, folded: "Crohn's end-stage" gives crohn, end, stage."""
    return tuple(_PART.findall(_POSSESSIVE.sub("", fold(text))))


@lru_cache(maxsize=1 << 16)
def lemma(part: str, language: str = "en") -> str:
    """The stem of one folded word part; the same for its inflections, see the rules below.

    English: plurals -s, -es, -ies, Latin and Greek -ae, -i, -ses (-sis), -ed, -ing, -ly, British ae and oe (anaemia),
    final e. Spanish: plurals -s, -es, -ces, adverbs on -mente, final o, a and e (gender). Words of up to 3 letters and
    words with digits keep their form.

    Raises:
        HilatError: for another language.
    """
    if language not in LANGUAGES:
        raise HilatError(
            f"no word forms are known for language {language!r}; expected one of {', '.join(LANGUAGES)}. Choose one of them"
        )
    if len(part) <= _SHORT or not part.isalpha():
        return part
    return _english(part) if language == "en" else _spanish(part)


def _english(word: str) -> str:
    if word in _AS_IT_IS:
        return word
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    word = _english_singular(word)
    word = _without_ly(word)
    word = _without_ed_ing(word)
    if len(word) > 5:
        word = word.replace("ae", "e").replace("oe", "e")
    return word[:-1] if len(word) > 4 and word.endswith("e") else word


def _english_singular(word: str) -> str:
    if word.endswith("ies"):
        return f"{word[:-3]}y" if len(word) > 4 else word[:-1]
    if len(word) > 6 and word.endswith(_GREEK_PLURALS):
        return f"{word[:-2]}is"
    if len(word) > 5 and word.endswith("ae"):
        return word[:-1]
    if len(word) > 4 and word.endswith(_LATIN_PLURALS):
        return f"{word[:-1]}us"
    if word.endswith("xes") or (len(word) > 5 and word.endswith(("ses", "zes", "ches", "shes"))):
        return word[:-2]
    if word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word


def _without_ly(word: str) -> str:
    if len(word) < 6 or not word.endswith("ly") or word in _AS_IT_IS:
        return word
    if word.endswith("ically"):
        return word[:-4]
    return f"{word[:-3]}y" if word.endswith("ily") else word[:-2]


def _without_ed_ing(word: str) -> str:
    if word in _AS_IT_IS or word.endswith("eed"):
        return word
    if word.endswith("ied") and len(word) > 4:
        return f"{word[:-3]}y"
    stem = word[:-2] if word.endswith("ed") else word[:-3] if word.endswith("ing") else word
    if stem == word or len(stem) < _SHORT or not re.search("[aeiouy]", stem):
        return word
    doubled = len(stem) > 3 and stem[-1] == stem[-2] and stem[-1] not in "aeiou"
    if doubled and (stem[-1] not in "lsz" or len(stem) > 6):
        return stem[:-1]  # stopped, controlled; but filled, passed
    if len(stem) == _SHORT and re.fullmatch("[^aeiou][aeiou][^aeiouwxy]", stem):
        return f"{stem}e"  # dosed, noted: the final e of a short word is kept
    return stem


def _spanish(word: str) -> str:
    if word in _SPANISH_AS_IT_IS:
        return word
    if len(word) > 7 and word.endswith("mente"):
        word = word[:-5]
    if word.endswith("ces") and len(word) > 4:
        word = f"{word[:-3]}z"
    elif word.endswith("es") and len(word) > 4 and word[-3] not in "aeiou":
        word = word[:-2]
    elif word.endswith("s") and word[-2] in "aeo":
        word = word[:-1]
    return word[:-1] if len(word) > 4 and word[-1] in "oae" else word

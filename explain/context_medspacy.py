"""medspaCy's ConText (Eyre et al. 2021) in the place of our own: the same call, its rules and its scopes, our sentences.

medspaCy is not among hilat's requirements: on Python 3.11 it needs a spaCy that needs numpy below 2. Its sentence splitter
(PyRuSH) writes every token to stderr; it is not used here, and silenced where something else in the process uses it.
"""

from __future__ import annotations

import importlib
from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from explain.context import ContextCue
from explain.lemmas import LANGUAGES
from explain.sentences import sentences
from hilat.admissions import HilatError

# medspaCy's category -> kind of explain.context.
CATEGORIES: dict[str, str] = {
    "NEGATED_EXISTENCE": "negated",
    "POSSIBLE_EXISTENCE": "uncertain",
    "HISTORICAL": "historical",
    "FAMILY": "family",
    "HYPOTHETICAL": "hypothetical",
}


def context_of(
    text: str,
    targets: Sequence[tuple[int, int]],
    language: str = "en",
    *,
    within: Sequence[tuple[int, int]] | None = None,
    past: Sequence[tuple[int, int]] = (),
) -> list[tuple[ContextCue, ...]]:
    """The cues that govern each target by medspaCy's rules; arguments and answer as of `explain.context.context_of`.

    Dates before the stay (past) are added by us: a date in the target's sentence that does not touch the target.

    Raises:
        HilatError: medspaCy is not installed, the language is not en or es, or a target is outside the text.
    """
    for start, end in targets:
        if not 0 <= start < end <= len(text):
            raise HilatError(
                f"a target is ({start}, {end}) in a text of {len(text)} characters; expected 0 <= start < end <= "
                f"{len(text)}. Give offsets into the raw text"
            )
    tokenize, annotate = _pipeline(language)
    ranges = sentences(text, language) if within is None else within
    starts = [start for start, _ in ranges]
    found: list[tuple[ContextCue, ...]] = []
    for target in targets:
        i = bisect_right(starts, target[0]) - 1
        if i < 0 or target[0] >= ranges[i][1]:  # between sentences
            found.append(())
            continue
        cues = _in_sentence(text, ranges[i], target, (tokenize, annotate))
        cues += [
            ContextCue("historical", *span)
            for span in past
            if ranges[i][0] <= span[0] and span[1] <= ranges[i][1] and (span[1] <= target[0] or span[0] >= target[1])
        ]
        found.append(tuple(sorted(dict.fromkeys(cues), key=lambda cue: (cue.start, cue.end))))
    return found


def _in_sentence(
    text: str,
    sentence: tuple[int, int],
    target: tuple[int, int],
    pipeline: tuple[Callable[[str], Any], Callable[[Any], Any]],
) -> list[ContextCue]:
    """The cues of a target in its sentence, with raw offsets."""
    tokenize, annotate = pipeline
    line, places = _one_line(text, *sentence)
    doc = tokenize(line)
    for token in doc:
        token.is_sent_start = token.i == 0  # the sentence is ours: one, whatever stands in it
    inside = [n for n, place in enumerate(places[:-1]) if target[0] <= place < target[1]]
    span = doc.char_span(inside[0], inside[-1] + 1, label="TARGET", alignment_mode="expand") if inside else None
    if span is None:  # nothing but white space
        return []
    doc.ents = [span]
    cues = []
    for _, modifier in annotate(doc)._.context_graph.edges:
        first, end = modifier.modifier_span
        start, stop = places[doc[first].idx], places[doc[end - 1].idx + len(doc[end - 1].text) - 1] + 1
        apart = stop <= target[0] or start >= target[1]
        if modifier.category in CATEGORIES and apart:
            cues.append(ContextCue(CATEGORIES[modifier.category], start, stop))
    return cues


def _one_line(text: str, start: int, end: int) -> tuple[str, list[int]]:
    """The sentence with every run of white space as one space, and where each character stands in the raw text; one more
    place for the end. Phrases of several words do not match over a line end or two spaces otherwise."""
    letters: list[str] = []
    places: list[int] = []
    for place in range(start, end):
        letter = " " if text[place].isspace() else text[place]
        if letter != " " or (letters and letters[-1] != " "):
            letters.append(letter)
            places.append(place)
    return "".join(letters), [*places, end]


@lru_cache(maxsize=len(LANGUAGES))
def _pipeline(language: str) -> tuple[Callable[[str], Any], Callable[[Any], Any]]:
    """medspaCy's tokens of a line, and its ConText on them."""
    if language not in LANGUAGES:
        raise HilatError(
            f"medspaCy's context is not set up for language {language!r}; expected {' or '.join(LANGUAGES)}. Choose one of them"
        )
    try:
        # Before medspaCy: PyRuSH logs note text at level DEBUG, to stderr unless it is told not to.
        importlib.import_module("loguru").logger.disable("PyRuSH")
        spacy = importlib.import_module("spacy")
        context = importlib.import_module("medspacy.context").ConText
    except ImportError as error:
        raise HilatError(
            f"the context backend medspacy was asked for and {error.name or 'medspacy'} is not installed; expected medspaCy in this "
            "environment. Run `pip install medspacy` (on Python 3.11 it wants numpy below 2, which hilat does not: use a newer "
            "Python), or leave the backend at own"
        ) from None
    nlp = spacy.blank(language)
    return nlp.make_doc, context(nlp, language_code=language)

"""Context of a mention: whether the words around it deny it, doubt it, or speak of the past, of a relative, of what may come.

The method is ConText (Harkema, Dowling, Thornblade and Chapman 2009, J Biomed Inform 42:839): lists of cue phrases, each with
the direction it works in; a cue governs what stands on that side of it, up to the end of the sentence or a termination
phrase; pseudo-cues are phrases that only look like a cue. Differences: the phrases are our own, English and Spanish;
uncertainty is a kind beside the paper's negation, historical, hypothetical and experiencer (here "family"); a kind counts
wherever a cue of it does, also beside others; dates before the stay, where they are given (`explain.past_years`), count as
historical. A cue is a reason to look, not a verdict: sections and grammar are not read.

"Consistent with" and "compatible with" are left out of the uncertain phrases: in notes they mostly affirm.
"""

from __future__ import annotations

import csv
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path

from explain.lemmas import LANGUAGES
from explain.sentences import sentences
from hilat.admissions import HilatError

KINDS = ("negated", "uncertain", "historical", "family", "hypothetical")
DIRECTIONS = ("forward", "backward", "both")
TERMINATE, PSEUDO = "terminate", "pseudo:"
# "terminate:family" ends the scope of family cues only: the paper has a list of termination terms per property.
_RULE_KINDS = (*KINDS, TERMINATE, *(f"{TERMINATE}:{kind}" for kind in KINDS), *(f"{PSEUDO}{kind}" for kind in KINDS))
_COLUMNS = ("phrase", "kind", "direction")
# Where a phrase may begin: a run of letters and digits, or a sign that does not follow one ("?pneumonia", not "fever?").
_FIRST = re.compile(r"[^\W_]+|(?<![^\W_])(?:_|[^\w\s])")
# Spanish "sí" (yes) is no "si" (if), the one accent that tells two cue words apart; written with one sign or two.
_YES = re.compile("s(?:í|i\u0301)(?![^\\W_])", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ContextCue:
    """A cue that governs a target. kind: of KINDS. start, end: where the cue's words stand in the raw text."""

    kind: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Rule:
    """One phrase of the lists. phrase: lower case, words separated by one space.

    kind: of KINDS; "terminate" (ends every scope) or "terminate:<kind>" (of that kind); "pseudo:<kind>" for what only looks
    like that kind. direction: "forward" governs what follows, "backward" what precedes, "both"; only cues use it.
    """

    phrase: str
    kind: str
    direction: str

    def __post_init__(self) -> None:
        if self.phrase != " ".join(self.phrase.lower().split()) or not _FIRST.match(_folded(self.phrase)[0]):
            raise HilatError(
                f"a context rule has the phrase {self.phrase!r}; expected words in lower case with one space between them. "
                "Write it so"
            )
        if self.kind not in _RULE_KINDS:
            raise HilatError(
                f"a context rule has kind {self.kind!r}; expected one of {', '.join(_RULE_KINDS)}. Choose one of them"
            )
        if self.direction not in DIRECTIONS:
            raise HilatError(
                f"a context rule has direction {self.direction!r}; expected one of {', '.join(DIRECTIONS)}. Choose one of them"
            )


@dataclass(frozen=True, slots=True)
class _Match:
    """A rule's phrase in the raw text."""

    start: int
    end: int
    rule: Rule


# First word or sign of a phrase, folded -> the phrase from there, and its rules.
_Phrases = Mapping[str, Sequence[tuple[re.Pattern[str], tuple[Rule, ...]]]]


@lru_cache(maxsize=len(LANGUAGES))
def rules(language: str = "en") -> tuple[Rule, ...]:
    """The built-in rules of a language, in the order of explain/data/context_<language>.csv.

    Raises:
        HilatError: for a language other than "en" and "es".
    """
    if language not in LANGUAGES:
        raise HilatError(
            f"no context rules are known for language {language!r}; expected {' or '.join(LANGUAGES)}. Choose one of them, "
            "or give rules of your own"
        )
    with resources.as_file(resources.files("explain") / "data" / f"context_{language}.csv") as path:
        return read_rules(path)


def read_rules(path: Path) -> tuple[Rule, ...]:
    """Rules from a CSV file with a header and the columns phrase, kind and direction (see `Rule`); more columns are ignored.

    They stand in the place of the built-in ones; for both, join the tuples: `(*rules("en"), *read_rules(path))`.

    Raises:
        HilatError: missing file or column, a row with too few fields or a wrong value (by its number), the same phrase and
            kind twice, no rule at all.
    """
    found: dict[tuple[str, str], Rule] = {}
    number = 1
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            places = _places(path, [name.strip() for name in next(reader, [])])
            for row in reader:
                number = reader.line_num
                if not any(cell.strip() for cell in row):
                    continue
                rule = _rule(row, places, f"{path}, row {number}")
                if (rule.phrase, rule.kind) in found:
                    raise HilatError(
                        f"{path}, row {number} repeats the phrase {rule.phrase!r} of kind {rule.kind}; expected each once. "
                        "Delete the row"
                    )
                found[rule.phrase, rule.kind] = rule
    except OSError as error:
        raise HilatError(f"cannot read {path}: {error.strerror}; expected context rules. Check the path") from None
    except UnicodeDecodeError:
        raise HilatError(f"{path}, after row {number}, is not UTF-8; expected UTF-8. Save it so") from None
    except csv.Error as error:
        raise HilatError(
            f"{path}, row {number + 1} is broken ({error}); expected a well-formed CSV file. Repair it"
        ) from None
    if not found:
        raise HilatError(f"{path} holds no rule; expected at least one row under the header. Add one")
    return tuple(found.values())


def _places(path: Path, header: list[str]) -> list[int]:
    lacking = [name for name in _COLUMNS if name not in header]
    if lacking:
        raise HilatError(
            f"{path} has no column {lacking[0]!r}; found: {', '.join(header[:12]) or 'nothing'}. Expected a header with "
            f"{', '.join(_COLUMNS)}"
        )
    return [header.index(name) for name in _COLUMNS]


def _rule(row: list[str], places: list[int], where: str) -> Rule:
    if len(row) <= max(places):
        raise HilatError(f"{where} has {len(row)} fields; expected at least {max(places) + 1}. Repair the row")
    phrase, kind, direction = (row[place].strip() for place in places)
    try:
        return Rule(" ".join(phrase.lower().split()), kind, direction)
    except HilatError as error:
        raise HilatError(f"{where}: {error}") from None


def context_of(
    text: str,
    targets: Sequence[tuple[int, int]],
    language: str = "en",
    *,
    own_rules: Sequence[Rule] | None = None,
    within: Sequence[tuple[int, int]] | None = None,
    past: Sequence[tuple[int, int]] = (),
) -> list[tuple[ContextCue, ...]]:
    """The cues that govern each target, in the order of the text; () for none.

    targets: half-open character ranges of the raw text; the sentence is the one a target begins in.
    own_rules: in place of the built-in rules of the language. within: the sentences, where they are known already. past:
    ranges that tell of the past, such as those of `explain.past_years`; they govern both sides like a historical phrase.
    Where phrases overlap, the longest counts, whatever its kind; phrases that touch the target do not count at all.
    Case, accents and the white space between words (line ends too) do not matter; words match as a whole.

    Raises:
        HilatError: for a target outside the text, or another language without own rules and sentences.
    """
    for start, end in targets:
        if not 0 <= start < end <= len(text):
            raise HilatError(
                f"a target is ({start}, {end}) in a text of {len(text)} characters; expected 0 <= start < end <= "
                f"{len(text)}. Give offsets into the raw text"
            )
    ready = _ready(tuple(rules(language) if own_rules is None else own_rules))
    ranges = sentences(text, language) if within is None else within
    starts = [start for start, _ in ranges]
    matched: dict[int, tuple[list[_Match], list[_Match]]] = {}  # sentence -> all matches, those that count
    found: list[tuple[ContextCue, ...]] = []
    for target in targets:
        i = bisect_right(starts, target[0]) - 1
        if i < 0 or target[0] >= ranges[i][1]:  # between sentences
            found.append(())
            continue
        if i not in matched:
            every = _matches(text, ranges[i], ready)
            every += [_Match(*span, _DATED) for span in past if ranges[i][0] <= span[0] and span[1] <= ranges[i][1]]
            matched[i] = every, _longest(every)
        every, kept = matched[i]
        apart = [m for m in every if m.end <= target[0] or m.start >= target[1]]
        found.append(_governing(kept if len(apart) == len(every) else _longest(apart), target))
    return found


def _governing(matches: Sequence[_Match], target: tuple[int, int]) -> tuple[ContextCue, ...]:
    """The cues among the matches that govern the target: on the right side of it, and no termination phrase between."""
    before = _reaching([m for m in reversed(matches) if m.end <= target[0]], "forward")
    after = _reaching([m for m in matches if m.start >= target[1]], "backward")
    return tuple(dict.fromkeys((*reversed(before), *after)))


def _reaching(matches: Sequence[_Match], direction: str) -> list[ContextCue]:
    """The cues that reach the target, of the matches on one side of it, the nearest first."""
    cues: list[ContextCue] = []
    ended: set[str] = set()  # kinds whose scope a termination phrase has ended
    for match in matches:
        name, _, of = match.rule.kind.partition(":")
        if name == TERMINATE:
            ended.update((of,) if of else KINDS)
        elif name in KINDS and name not in ended and match.rule.direction in (direction, "both"):
            cues.append(ContextCue(name, match.start, match.end))
    return cues


def _longest(matches: Sequence[_Match]) -> list[_Match]:
    """The matches in the order of the text; of overlapping ones the longest phrase, then the first; same range: all."""
    kept: list[_Match] = []
    taken: dict[int, tuple[int, int]] = {}  # character -> range of the match on it
    for match in sorted(matches, key=lambda m: (-len(m.rule.phrase), m.start)):
        here = (match.start, match.end)
        if {taken[place] for place in range(*here) if place in taken} <= {here}:
            taken.update(dict.fromkeys(range(*here), here))
            kept.append(match)
    return sorted(kept, key=lambda m: m.start)


@lru_cache(maxsize=8)
def _ready(given: tuple[Rule, ...]) -> _Phrases:
    """The rules as patterns on folded text, by their first word."""
    by_phrase: dict[str, list[Rule]] = {}
    for rule in given:
        by_phrase.setdefault(_folded(rule.phrase)[0], []).append(rule)
    ready: dict[str, list[tuple[re.Pattern[str], tuple[Rule, ...]]]] = {}
    for phrase, same in by_phrase.items():
        first = _FIRST.match(phrase)
        end = r"(?![^\W_])" if phrase[-1].isalnum() else ""
        pattern = re.compile(r"\s+".join(map(re.escape, phrase.split(" "))) + end)
        ready.setdefault(first.group() if first else "", []).append((pattern, tuple(same)))
    return ready


def _matches(text: str, sentence: tuple[int, int], phrases: _Phrases) -> list[_Match]:
    """All phrases in the sentence, overlapping ones too."""
    folded, places = _folded(text[slice(*sentence)])
    found: list[_Match] = []
    for first in _FIRST.finditer(folded):
        for pattern, same in phrases.get(first.group(), ()):
            match = pattern.match(folded, first.start())
            if match is None:
                continue
            start, end = (sentence[0] + places[match.start()], sentence[0] + places[match.end()])
            if not _YES.match(text, start):
                found += [_Match(start, end, rule) for rule in same]
    return found


def _folded(text: str) -> tuple[str, Sequence[int]]:
    """The text in lower case without accents, and where each of its characters comes from; one more place for the end.

    Canonical forms only, unlike `explain.lemmas.fold`: the Spanish "nº" must not become "no".
    """
    if text.isascii():
        return text.lower(), range(len(text) + 1)
    letters: list[str] = []
    places: list[int] = []
    for place, character in enumerate(text):
        for letter in unicodedata.normalize("NFD", character.casefold().replace("’", "'")):
            if not unicodedata.combining(letter):
                letters.append(letter)
                places.append(place)
    return "".join(letters), [*places, len(text)]


_DATED = Rule("a date before the stay", "historical", "both")

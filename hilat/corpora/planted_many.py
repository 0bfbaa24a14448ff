"""The planted corpus with as many codes as asked for: a long tail of invented codes, each told by an invented word.

It shows what thousands of codes cost and how rare ones are scored: the codes' shares fall as in a full label set, so that
many are never in train and most are not in test. The words belong to no language; no patient's text is in it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from hilat.admissions import Admission, CodeBook, CodeKind, EvidenceSpan, HilatError
from hilat.corpora.folder import Corpus

MEAN_INVENTED = 12.0  # invented codes per admission; with the planted ones about MIMIC-III's 16
_SYLLABLES = tuple(a + b for a in "bdfgklmnprstvz" for b in "aeiou")
_STRIDE = 104_729  # a prime: the words of neighbouring codes have nothing in common
_OFFSET, _MOST_SHARE = 10, 0.3
_NEGATED = 1.0  # invented words per note that are only there to be ruled out
_AFFIRMING: tuple[str, ...] = (
    "Also found to have {}.",
    "{} is noted on this admission.",
    "Course was complicated by {}.",
)
_DENYING: tuple[str, ...] = ("There was no evidence of {}.", "{} was ruled out.")


def most_codes() -> int:
    """How many invented codes there can be: words of three syllables."""
    return len(_SYLLABLES) ** 3


def with_invented_codes(corpus: Corpus, codes: int, *, seed: int = 0) -> Corpus:
    """The corpus with a label set of `codes`: its own, and invented ones after them, most frequent first.

    Invented code r (from 0) is given to a note with probability proportional to 1 / (r + 10), at most 0.3, whatever else
    is given; 12 per note on average. Its word is written once, at the note's end, and is its evidence; other words
    stand there negated, as decoys. A note's draws depend on the seed, its split and its place in it only.

    Raises:
        HilatError: for fewer codes than the corpus has, or more than there are words.
    """
    own = len(corpus.code_book)
    if not own <= codes <= own + most_codes():
        raise HilatError(
            f"{codes} codes were asked for; expected {own} to {own + most_codes():,}. Choose a number in between"
        )
    if codes == own:
        return corpus
    book = _extended(corpus.code_book, codes - own)
    shares = code_shares(codes - own)
    places: dict[str | None, int] = {}
    admissions = []
    for admission in corpus.admissions:
        place = places.get(admission.split, 0)
        places[admission.split] = place + 1
        rng = np.random.default_rng([seed, place, *(admission.split or "").encode()])
        admissions.append(_with_codes(admission, book, own, shares, rng))
    count = max(len(admissions), 1)
    kinds = Counter(span.kind for admission in admissions for span in admission.decoys)
    notes = {
        **corpus.notes,
        "mean_words": round(sum(len(admission.text.split()) for admission in admissions) / count, 2),
        "mean_codes": round(sum(len(admission.codes) for admission in admissions) / count, 3),
        "mean_decoys": round(sum(kinds.values()) / count, 3),
        "decoys_by_kind": dict(sorted(kinds.items())),
        "invented_codes": codes - own,
        "invented_codes_seed": seed,
    }
    return Corpus(tuple(admissions), book, corpus.source, notes)


def code_shares(codes: int) -> NDArray[np.float64]:
    """The share (k,) of notes that have each invented code, falling."""
    weights = 1.0 / (np.arange(codes) + _OFFSET)
    shares: NDArray[np.float64] = np.minimum(MEAN_INVENTED * weights / weights.sum(), _MOST_SHARE)
    return shares


def invented_word(n: int) -> str:
    """The word of invented code n: letters only, another one for every n below `most_codes()`."""
    size = len(_SYLLABLES)
    place = n * _STRIDE % size**3
    stem = "".join(_SYLLABLES[place // size**power % size] for power in range(3))
    return stem + ("otomy" if _kind(n) == "procedure" else "osis")


def _kind(n: int) -> CodeKind:
    """Every fourth invented code is a procedure."""
    return "procedure" if n % 4 == 3 else "diagnosis"


def _extended(book: CodeBook, invented: int) -> CodeBook:
    numbers = range(invented)
    return CodeBook(
        (*book.codes, *(f"X{n:06d}" for n in numbers)),
        (*book.titles, *(invented_word(n).capitalize() for n in numbers)),
        (*book.kinds, *(_kind(n) for n in numbers)),
        book.system,
    )


def _with_codes(
    admission: Admission, book: CodeBook, own: int, shares: NDArray[np.float64], rng: np.random.Generator
) -> Admission:
    """The admission with invented codes drawn, and their words written after its text."""
    given = rng.random(len(shares)) < shares  # (k,)
    denied = [n for n in rng.integers(0, len(shares), rng.poisson(_NEGATED)).tolist() if not given[n]]
    lines = [(n, _AFFIRMING, "evidence") for n in np.flatnonzero(given).tolist()]
    lines += [(n, _DENYING, "negated") for n in dict.fromkeys(denied)]
    text = admission.text.rstrip("\n")
    spans: list[EvidenceSpan] = []
    for i in rng.permutation(len(lines)).tolist():
        n, frames, kind = lines[i]
        before, after = frames[int(rng.integers(len(frames)))].split("{}")
        word = invented_word(n) if before else invented_word(n).capitalize()
        start = len(text) + 1 + len(before)
        spans.append(EvidenceSpan(book.codes[own + n], ((start, start + len(word)),), kind))
        text += f"\n{before}{word}{after}"
    added = tuple(book.codes[own + n] for n in np.flatnonzero(given).tolist())
    return replace(
        admission,
        text=text + "\n",
        codes=(*admission.codes, *added),
        evidence=(*admission.evidence, *(span for span in spans if span.kind == "evidence")),
        decoys=(*admission.decoys, *(span for span in spans if span.kind != "evidence")),
    )

"""The data that enters: admissions, the evidence in them, and the code book that names the columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

CodeKind = Literal["diagnosis", "procedure"]


class HilatError(ValueError):
    """A wrong input, said in one sentence: what was given, what was expected, what to do.

    The message never holds a note's text. The command line prints it without a traceback.
    """


@dataclass(frozen=True, slots=True)
class EvidenceSpan:
    """One mention in the raw text that speaks for (or, as a decoy, only seems to speak for) a code.

    segments: half-open character ranges `[start, end)` in the raw text, in order; more than one when the mention
        is discontinuous (CodiEsp writes `10 14;30 41`).
    kind: "evidence" for what licenses the code; for decoys the reason ("negated", "uncertain", "family", "history",
        "rule", "shortcut").
    """

    code: str
    segments: tuple[tuple[int, int], ...]
    kind: str = "evidence"

    def __post_init__(self) -> None:
        if not self.segments:
            raise HilatError(f"evidence span of code {self.code} has no segment; give at least one (start, end)")
        for start, end in self.segments:
            if not 0 <= start < end:
                raise HilatError(
                    f"evidence span of code {self.code} has segment ({start}, {end}); expected 0 <= start < end"
                )

    @property
    def start(self) -> int:
        """First character of the first segment."""
        return min(start for start, _ in self.segments)

    @property
    def end(self) -> int:
        """One past the last character of the last segment."""
        return max(end for _, end in self.segments)


@dataclass(frozen=True, slots=True)
class NoteSpan:
    """One note of an admission of several: characters `[start, end)` of the admission's text.

    note_id: its id in the source. category, description: what kind of note it is.
    skipped: how many characters of the note, as `plain_text`, were dropped before `start` (blank lines at a seam), so
        that position p of the note is position `start + p - skipped` of the admission.
    """

    start: int
    end: int
    note_id: str = ""
    category: str = ""
    description: str = ""
    skipped: int = 0


@dataclass(frozen=True, slots=True)
class Admission:
    """One hospital stay: its raw note text (never edited) and what is known of it.

    text: the note with line ends as LF and without NUL (`plain_text`); everything else as it was written.
    codes: the codes that the coders gave, dotted, without repeats.
    evidence: spans that license codes. decoys: spans that look like evidence and are not (planted corpus only).
    notes: where each note lies in the text, in order, where the source tells; empty where it does not.
    """

    hadm_id: str
    text: str
    codes: tuple[str, ...]
    evidence: tuple[EvidenceSpan, ...] = ()
    decoys: tuple[EvidenceSpan, ...] = ()
    split: str | None = None
    subject_id: str | None = None
    notes: tuple[NoteSpan, ...] = ()

    def __post_init__(self) -> None:
        if not self.hadm_id:
            raise HilatError("an admission has an empty hadm_id; every admission needs one")
        if not self.text.strip():
            raise HilatError(f"admission {self.hadm_id} has an empty text; drop it or fill the text column")
        if "\r" in self.text or "\x00" in self.text:
            raise HilatError(
                f"admission {self.hadm_id} holds CR or NUL characters; pass the text through plain_text first"
            )
        if len(set(self.codes)) != len(self.codes):
            raise HilatError(f"admission {self.hadm_id} lists a code twice; give each code once")
        for span in (*self.evidence, *self.decoys):
            if span.end > len(self.text):
                raise HilatError(
                    f"admission {self.hadm_id} has a span of code {span.code} that ends at {span.end}; "
                    f"the text has {len(self.text)} characters"
                )
        borders = [0, *(place for note in self.notes for place in (note.start, note.end)), len(self.text)]
        if borders != sorted(borders) or any(note.start == note.end for note in self.notes):
            raise HilatError(
                f"admission {self.hadm_id} has notes that are empty, overlap or leave its text of {len(self.text)} "
                "characters; expected spans in order. Join the notes again"
            )


def plain_text(text: str) -> str:
    """The text with CRLF and lone CR as LF, NUL removed: what a browser would show, so that offsets agree."""
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\x00", "")


@dataclass(frozen=True, slots=True)
class CodeBook:
    """The one owner of "column k means code ...".

    codes: dotted codes in column order, unique. titles: one per code ("" where unknown).
    kinds: "diagnosis" or "procedure" per code. system: for example "ICD-9-CM".
    """

    codes: tuple[str, ...]
    titles: tuple[str, ...]
    kinds: tuple[CodeKind, ...]
    system: str = "ICD-9-CM"
    _column: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(set(self.codes)) != len(self.codes):
            repeated = sorted({c for c in self.codes if self.codes.count(c) > 1})
            raise HilatError(f"the code book lists {', '.join(repeated[:5])} more than once; give each code once")
        if not len(self.codes) == len(self.titles) == len(self.kinds):
            raise HilatError(
                f"the code book has {len(self.codes)} codes, {len(self.titles)} titles and {len(self.kinds)} kinds; "
                "expected one of each per code"
            )
        object.__setattr__(self, "_column", {code: k for k, code in enumerate(self.codes)})

    def __len__(self) -> int:
        return len(self.codes)

    def __contains__(self, code: object) -> bool:
        return code in self._column

    def column(self, code: str) -> int:
        """The column of a code. Raises HilatError for a code that is not in the book."""
        try:
            return self._column[code]
        except KeyError:
            raise HilatError(
                f"code {code!r} is not among the {len(self)} codes of this code book "
                f"({', '.join(self.codes[:5])}, ...); check the dots and the label set"
            ) from None

    def title(self, code: str) -> str:
        """The title of a code."""
        return self.titles[self.column(code)]

    def targets(self, code_lists: Iterable[Sequence[str]]) -> NDArray[np.float32]:
        """Multi-hot targets (N, K), float32; codes outside the book are left out."""
        rows = [[self._column[c] for c in codes if c in self._column] for codes in code_lists]
        out = np.zeros((len(rows), len(self)), dtype=np.float32)  # (N, K)
        for n, columns in enumerate(rows):
            out[n, columns] = 1.0
        return out

    def restricted_to(self, codes: Sequence[str]) -> CodeBook:
        """The book with only these codes, in the order given."""
        ks = [self.column(c) for c in codes]
        return CodeBook(
            tuple(self.codes[k] for k in ks),
            tuple(self.titles[k] for k in ks),
            tuple(self.kinds[k] for k in ks),
            self.system,
        )

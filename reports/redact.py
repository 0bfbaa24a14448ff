"""A page without note text: the layout of scores stays, the words go."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import replace
from itertools import pairwise

from hilat.sections import HEADINGS
from reports.page import CodeView, NoteView, ReportPage, SectionView, Span

BLOCK = "▪▪▪"  # stands for any word, however long, so that lengths tell nothing


def without_text(page: ReportPage) -> ReportPage:
    """The page with every word replaced by the same block and white space by a single space or line break.

    All ranges move along. Headings of sections stay where they come from the fixed list; the line of birth date and sex,
    which counts as a heading too, does not. Keywords keep the term of the code's description that matched. Notes of an admission keep their number, not their
    kind.
    """
    spans = [*page.words, *((s, e) for s, e, _ in page.unseen), *((s.start, s.end) for s in page.sections)]
    for view in page.codes:
        spans += [(s, e) for s, e, _ in (*view.evidence, *view.decoys, *view.notes.keywords)]
        spans += [(cue.start, cue.end) for cue in view.notes.cues if cue.start >= 0]
    cuts = sorted(
        {0, len(page.text), *(offset for span in spans for offset in span), *(part.start for part in page.parts)}
    )
    pieces = [_blocked(page.text[start:end]) for start, end in pairwise(cuts)]
    at, ends = 0, [0]
    for piece in pieces:
        at += len(piece)
        ends.append(at)

    def moved(offset: int) -> int:
        return ends[bisect_left(cuts, offset)]

    def several(found: tuple[Span, ...]) -> tuple[Span, ...]:
        return tuple((moved(s), moved(e), says) for s, e, says in found)

    def view_of(view: CodeView) -> CodeView:
        cues = tuple(
            replace(cue, start=moved(cue.start), end=moved(cue.end)) if cue.start >= 0 else cue
            for cue in view.notes.cues
        )
        notes = replace(view.notes, keywords=several(view.notes.keywords), cues=cues)
        return replace(view, evidence=several(view.evidence), decoys=several(view.decoys), notes=notes)

    return replace(
        page,
        text="".join(pieces),
        words=tuple((moved(s), moved(e)) for s, e in page.words),
        unseen=several(page.unseen),
        sections=tuple(SectionView(_heading(s.title), moved(s.start), moved(s.end), s.place) for s in page.sections),
        parts=tuple(NoteView(moved(part.start)) for part in page.parts),
        codes=tuple(view_of(view) for view in page.codes),
    )


def _heading(title: str) -> str:
    """A title of the fixed list as written; what else a heading's line may hold is the note's."""
    return title if not title or title.lower() in HEADINGS else "Section:"


def _blocked(piece: str) -> str:
    """A block for every run of other characters, one space or line break for every run of white space."""
    out = ""
    for part in _runs(piece):
        out += BLOCK if not part.isspace() else "\n" if "\n" in part else " "
    return out


def _runs(piece: str) -> list[str]:
    """The piece cut where white space begins and ends."""
    runs: list[str] = []
    for ch in piece:
        if runs and runs[-1][-1].isspace() == ch.isspace():
            runs[-1] += ch
        else:
            runs.append(ch)
    return runs

"""What a page shows, worked out once for every plan of what it leaves out."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from markupsafe import Markup

from reports.compare import PassageRow, passage_rows, ranked
from reports.highlight import Words, note_html, utf16_offsets, words_of
from reports.page import CodeView, ReportPage
from reports.payload import CodeData, Units, block_pieces, code_data, code_text, least_length

FOLDED = ("TN", "not predicted")


@dataclass(frozen=True, slots=True)
class Detail:
    """How much a page holds: shades of folded codes or not, how many of them it lists, how many words per code."""

    shade_folded: bool
    folded_rows: int
    words_per_code: int | None


PLANS = (Detail(True, 1000, None), Detail(False, 1000, None), Detail(False, 1000, 500), Detail(False, 50, 500))


@dataclass(frozen=True, slots=True, eq=False)
class Draft:
    """What serves every plan; passages, codes and notes are filled as plans ask for them.

    units: offsets in UTF-16 units. words: `words_of` the page. block: `block_pieces`. passages: by code. codes: by
    (code, shaded or not). notes: the marked-up note, by (first code, shaded or not).
    """

    page: ReportPage
    reasons: list[str]
    units: Units
    words: Words
    block: tuple[str, str]
    passages: dict[str, tuple[PassageRow, ...]] = field(default_factory=dict)
    codes: dict[tuple[str, bool], CodeData] = field(default_factory=dict)
    notes: dict[tuple[str, bool], Markup] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """What a page shows under a plan: its codes, the data of each, which of them is first and how, and the note.

    first: an index of codes, None without any. view: the first code, without scores where the page holds none for it.
    """

    codes: list[CodeView]
    data: list[CodeData]
    first: int | None
    view: CodeView | None
    note: Markup


def draft_of(page: ReportPage) -> Draft:
    """A draft of the page in which no code is worked out yet."""
    words, units = words_of(page), utf16_offsets(page.text)
    reasons = sorted({reason for _, _, reason in page.unseen})
    return Draft(page, reasons, units, words, block_pieces(page, reasons, units, words.bounds))


def is_shaded(view: CodeView, plan: Detail) -> bool:
    """Whether the page holds the code's scores."""
    return bool(view.scores) and (plan.shade_folded or view.outcome not in FOLDED)


def shown_under(draft: Draft, plan: Detail) -> Shown:
    """What the page shows under the plan."""
    page = draft.page
    folded = [v for v in page.codes if v.outcome in FOLDED]
    codes = [v for v in page.codes if v.outcome not in FOLDED] + folded[: plan.folded_rows]
    data = [_data_of(draft, view, is_shaded(view, plan)) for view in codes]
    first = next((i for i, view in enumerate(codes) if is_shaded(view, plan)), 0 if codes else None)
    view = None if first is None else codes[first]
    if view is not None and not is_shaded(view, plan):
        view = replace(view, scores=(), layers=())
    named = ("", False) if view is None else (view.code, bool(view.scores))
    if named not in draft.notes:
        draft.notes[named] = note_html(page, view, draft.reasons)
    return Shown(codes, data, first, view, draft.notes[named])


def data_block(draft: Draft, shown: Shown, plan: Detail) -> Markup:
    """The data block as JSON that stands safely between script tags."""
    before, after = draft.block
    codes = ", ".join(code_text(code, plan.words_per_code) for code in shown.data)
    return Markup(f"{before}{codes}{after}")  # each piece was escaped by itself


def least_bytes(draft: Draft, shown: Shown, plan: Detail) -> int:
    """Bytes of the note and of the data block at least; quickly, since nothing is put together."""
    codes = sum(least_length(code, plan.words_per_code) for code in shown.data)
    return codes + sum(map(len, draft.block)) + len(shown.note)


def _data_of(draft: Draft, view: CodeView, shaded: bool) -> CodeData:
    """What the data block says of a code."""
    if (view.code, shaded) not in draft.codes:
        methods = ranked(view) if shaded else ()
        if shaded:
            draft.passages[view.code] = passage_rows(view, draft.page, draft.words, methods)
        parts = draft.passages[view.code] if shaded else ()
        draft.codes[view.code, shaded] = code_data(view, draft.words.bounds, parts, draft.units, methods)
    return draft.codes[view.code, shaded]

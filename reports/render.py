"""One ReportPage to one self-contained HTML file."""

from __future__ import annotations

import base64
import hashlib
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from explain.snippets import quantise, words_for_half
from reports.compare import LISTED, PassageRow
from reports.draft import FOLDED, PLANS, Detail, Draft, Shown, data_block, draft_of, is_shaded, least_bytes, shown_under
from reports.highlight import shade_levels, share_on
from reports.page import OUTCOME_ORDER, CodeView, CueView, ReportPage

SIZE_LIMIT = 1_000_000  # bytes of one page
OUTCOME_TEXT = {
    "FP": "false positive",
    "FN": "false negative",
    "TP": "true positive",
    "TN": "true negative",
    "predicted": "predicted",
    "not predicted": "not predicted",
}
VERDICTS = (
    ("model error", "Model error"),
    ("coder omission", "Coder omission: the code is right"),
    ("coding rule", "Coding rule"),
    ("unclear", "Unclear"),
)
OUTCOME_TAG = {"predicted": "PRED", "not predicted": "NOT"}


@dataclass(frozen=True, slots=True)
class Neighbours:
    """File names of the previous and the next page, None at an end, and of the index."""

    previous: str | None = None
    next: str | None = None
    index: str | None = "index.html"


@dataclass(frozen=True, slots=True)
class CodeRow:
    """A code in the list. i: its place there. spark: the path of its attention per chunk, spark_width wide."""

    i: int
    view: CodeView
    spark: str
    spark_width: int

    @property
    def bar(self) -> float:
        """The probability in percent."""
        return round(100 * self.view.probability, 1)

    @property
    def tick(self) -> float:
        """The threshold in percent."""
        return round(100 * self.view.threshold, 1)

    @property
    def cues(self) -> int:
        """How many kinds of cues the code has."""
        return len({cue.kind for cue in self.view.notes.cues})


def render_page(page: ReportPage, neighbours: Neighbours = Neighbours(), *, size_limit: int = SIZE_LIMIT) -> str:
    """The HTML of one admission's page, the same for the same page; see `page_bytes`."""
    return page_bytes(page, neighbours, size_limit=size_limit).decode()


def page_bytes(page: ReportPage, neighbours: Neighbours = Neighbours(), *, size_limit: int = SIZE_LIMIT) -> bytes:
    """One admission's page in UTF-8, the same bytes for the same page.

    Above size_limit bytes the page leaves out, in this order and saying so: the shades of the folded codes (true
    negatives), then all but the 500 strongest words of each code, then all but 50 rows of the folded codes. The note
    is never shortened.
    """
    html, draft = b"", draft_of(page)
    style, script = _style(page), asset("page.js") + asset("page_tools.js")
    for plan in PLANS:
        last = plan is PLANS[-1]
        shaded = sum(bool(v.scores) + len(v.layers) for v in page.codes if is_shaded(v, plan))
        if not last and plan.words_per_code is None and shaded * len(page.words) * 4 // 3 >= size_limit:
            continue
        shown = shown_under(draft, plan)
        if not last and least_bytes(draft, shown, plan) + len(style) + len(script) >= size_limit:
            continue
        html = _render(draft, shown, plan, (style, script), neighbours)
        if len(html) <= size_limit:
            break
    return html


@lru_cache(maxsize=1)
def environment() -> jinja2.Environment:
    """The template environment: everything escaped, unknown names refused."""
    env = jinja2.Environment(
        loader=jinja2.PackageLoader("reports", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    env.filters["thousands"] = lambda number: f"{number:,}"
    env.filters["percent"] = lambda share: f"{100 * share:.1f} %"
    env.filters["plural"] = lambda number, noun: f"{number:,} {noun}" + ("" if number == 1 else "s")
    return env


@lru_cache(maxsize=8)
def asset(name: str) -> Markup:
    """A style sheet or script of the package, ready to stand between its tags."""
    text, _, _ = jinja2.PackageLoader("reports", "templates").get_source(environment(), name)
    if "</s" in text:
        raise AssertionError(f"{name} would end its own element")
    return Markup(text)  # our own file


def content_policy(style: str, script: str) -> str:
    """The content security policy that allows exactly this style element and this script element."""

    def digest(text: str) -> str:
        return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()

    return (
        f"default-src 'none'; script-src '{digest(script)}'; style-src '{digest(style)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _render(draft: Draft, shown: Shown, plan: Detail, assets: tuple[Markup, Markup], neighbours: Neighbours) -> bytes:
    page = draft.page
    style, script = assets
    folded = [v for v in page.codes if v.outcome in FOLDED]
    methods = page.methods
    pieces = (
        environment()
        .get_template("page.html.j2")
        .generate(
            page=page,
            neighbours=neighbours,
            counts=[(o, page.count(o), OUTCOME_TEXT[o]) for o in OUTCOME_ORDER if page.count(o)],
            groups=_rows(shown.codes, page),
            folded_total=len(folded),
            folded_left_out=len(folded) - min(len(folded), plan.folded_rows),
            reduced=_reductions(plan, page, folded),
            unseen=[(reason, sum(r == reason for _, _, r in page.unseen)) for reason in draft.reasons],
            note=shown.note,
            right_to_left=_right_to_left(page.text),
            first=_first(draft, shown.view, shown.first),
            data=data_block(draft, shown, plan),
            style=style,
            script=script,
            policy=content_policy(style, script),
            tag=OUTCOME_TAG,
            marked=(
                any(v.evidence for v in page.codes),
                any(v.decoys for v in page.codes),
                any(v.notes.keywords for v in page.codes),
            ),
            methods=[name for name, _ in methods],
            signed=any(signed for _, signed in methods[:1]),
            moved=_moved(page),
            verdicts=VERDICTS,
        )
    )
    return b"".join(piece.encode() for piece in pieces)  # the large ones are ASCII, and by themselves encoded quickly


def _right_to_left(text: str) -> bool:
    """Whether any letter runs from right to left; finding the direction costs a browser half of its time, so it is asked
    only then."""
    return not text.isascii() and any(unicodedata.bidirectional(c) in ("R", "AL") for c in set(text))


def _moved(page: ReportPage) -> str:
    """Titles of the sections that the model read earlier than the note has them."""
    read = [section for section in page.sections if section.place >= 0]
    early = [s for n, s in enumerate(read) if any(before.place > s.place for before in read[:n])]
    return ", ".join(dict.fromkeys(s.title.strip().rstrip(":") or "the beginning" for s in early))


def _rows(shown: Sequence[CodeView], page: ReportPage) -> list[tuple[bool, list[CodeRow]]]:
    """The rows of the code list in two groups: (folded, rows)."""
    width = max(1, 5 * len(page.chunk_words) - 1)
    rows = [CodeRow(i, view, _spark(view.chunk_attention), width) for i, view in enumerate(shown)]
    groups = [(folded, [row for row in rows if (row.view.outcome in FOLDED) is folded]) for folded in (False, True)]
    return [(folded, group) for folded, group in groups if group]


def _spark(chunk_attention: Sequence[float]) -> str:
    """The path of a bar per chunk, the highest 8 high."""
    top = max(chunk_attention, default=0.0)
    cells = [round(8 * x / top) if top > 0 else 0 for x in chunk_attention]
    return "".join(f"M{5 * c} 8v-{h}h4v{h}z" for c, h in enumerate(cells) if h)


def _first(draft: Draft, view: CodeView | None, number: int | None) -> dict[str, Any] | None:
    """What the page shows of its first code before any script runs; None without a code."""
    if view is None:
        return None
    page, words = draft.page, draft.words.bounds
    shaded = bool(view.scores)
    parts = draft.passages[view.code] if shaded else ()
    levels = shade_levels(quantise(view.scores)[0]) if shaded else np.zeros(len(page.words), dtype=np.int64)
    top = max(view.chunk_attention, default=0.0)
    rows = []
    for part in parts[:LISTED]:
        start, end = page.words[part.first][0], page.words[part.last][1]
        peak_start, peak_end = page.words[part.peak]
        rows.append(
            {
                "before": page.text[start:peak_start],
                "word": page.text[peak_start:peak_end],
                "after": page.text[peak_end:end],
                "level": int(levels[part.peak]),
                "where": _where(page, part),
                "cues": list(dict.fromkeys(c.kind for c in view.notes.cues if c.start >= start and c.end <= end)),
            }
        )
    attention = view.chunk_attention or (0.0,) * len(page.chunk_words)
    holds = _chunk_sections(page, words)
    chunks = [
        {
            "number": c + 1,
            "share": a,
            "height": round(100 * a / top, 1) if top > 0 else 0,
            "empty": page.chunk_words[c] == 0,
            "holds": holds[c],
        }
        for c, a in enumerate(attention)
    ]
    return {
        "view": view,
        "number": number,
        "label": OUTCOME_TEXT[view.outcome],
        "shaded": shaded,
        "maximum": max(view.scores, default=0.0),
        "half": words_for_half(view.scores) if shaded else 0,
        "parts": rows,
        "chunks": chunks,
        "cues": [_cue(cue, page.text) for cue in view.notes.cues],
        "spans": [
            (name, [(page.text[s:e], kind) for s, e, kind in spans])
            for name, spans in (("e", view.evidence), ("d", view.decoys))
        ],
        "on": share_on(view.scores, words, view.evidence),
        "terms": sorted(Counter(term for _, _, term in view.notes.keywords).items(), key=lambda t: (-t[1], t[0])),
        "on_terms": share_on(view.scores, words, view.notes.keywords),
    }


def _cue(cue: CueView, text: str) -> dict[str, str]:
    return {"kind": cue.kind, "says": cue.says, "words": text[cue.start : cue.end] if cue.start >= 0 else ""}


def _where(page: ReportPage, part: PassageRow) -> str:
    """Section, chunk, share and ranks of a passage, in words; the page's script writes the same."""
    title = page.sections[part.section].title.strip().rstrip(":").rstrip() if part.section >= 0 else ""
    words = [title] if title else []
    words += [f"chunk {page.word_chunks[part.peak] + 1}", f"{100 * part.by[0][1]:.1f} % of the attention"]
    ranks = zip(page.methods, part.by[1:], strict=True)
    return " · ".join([*words, *(f"{name.replace('_', ' ')} rank {rank}" for (name, _), (rank, _) in ranks)])


def _chunk_sections(page: ReportPage, words: NDArray[np.int64]) -> list[str]:
    """For each chunk the titles of the sections that its words, with bounds (W, 2), come from."""
    found: list[dict[str, None]] = [{} for _ in page.chunk_words]
    if not page.sections:
        return [""] * len(found)
    starts = [section.start for section in page.sections]
    section = np.searchsorted(starts, words[:, 0], side="right") - 1  # (W,)
    pairs = np.stack([np.array(page.word_chunks, dtype=np.int64), section], axis=1)  # (W, 2)
    changes = np.flatnonzero((np.diff(pairs, axis=0, prepend=-2) != 0).any(axis=1))
    for chunk, n in pairs[changes].tolist():
        if n >= 0 and page.sections[n].title:
            found[chunk][page.sections[n].title.strip().rstrip(":")] = None
    return [", ".join(titles) for titles in found]


def _reductions(plan: Detail, page: ReportPage, folded: Sequence[CodeView]) -> list[str]:
    """What the page leaves out, in sentences."""
    out = []
    if not plan.shade_folded and any(view.scores for view in folded):
        out.append("To keep the page small, the codes that were rightly not predicted are listed without shading.")
    if plan.words_per_code is not None and plan.words_per_code < len(page.words):
        out.append(
            f"To keep the page small, only the {plan.words_per_code} strongest words of each code and method are shown."
        )
    if len(folded) > plan.folded_rows:
        out.append(f"Of the {len(folded):,} codes not predicted, the {plan.folded_rows:,} most probable are listed.")
    return out


def _style(page: ReportPage) -> Markup:
    """The style sheets of the page, and the widths of its chunk cells, by words; a style element holds them because the
    policy forbids style attributes."""
    widths = "".join(f".strip .k{c}{{flex-grow:{max(count, 1)}}}\n" for c, count in enumerate(page.chunk_words, 1))
    return asset("report.css") + asset("page.css") + (asset("borders.css") if page.parts else "") + widths

"""One ReportPage to one self-contained HTML file."""

from __future__ import annotations

import base64
import hashlib
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from explain.snippets import breaks_of, quantise, words_for_half
from reports.compare import LISTED, PassageRow, passage_rows
from reports.highlight import note_html, shade_levels, share_on, utf16_offsets
from reports.page import OUTCOME_ORDER, CodeView, CueView, ReportPage
from reports.payload import code_payload, page_payload

SIZE_LIMIT = 1_000_000  # bytes of one page
FOLDED = ("TN", "not predicted")
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
class Detail:
    """How much a page holds: shades of folded codes or not, how many of them it lists, how many words per code."""

    shade_folded: bool
    folded_rows: int
    words_per_code: int | None


PLANS = (Detail(True, 1000, None), Detail(False, 1000, None), Detail(False, 1000, 500), Detail(False, 50, 500))


@dataclass(frozen=True, slots=True)
class Neighbours:
    """File names of the previous and the next page, None at an end, and of the index."""

    previous: str | None = None
    next: str | None = None
    index: str | None = "index.html"


def render_page(page: ReportPage, neighbours: Neighbours = Neighbours(), *, size_limit: int = SIZE_LIMIT) -> str:
    """The HTML of one admission's page, the same bytes for the same page.

    Above size_limit bytes the page leaves out, in this order and saying so: the shades of the folded codes (true
    negatives), then all but the 500 strongest words of each code, then all but 50 rows of the folded codes. The note
    is never shortened.
    """
    html = ""
    passages: dict[str, tuple[PassageRow, ...]] = {}  # what is found for one plan serves the next
    for plan in PLANS:
        rows = sum(bool(v.scores) + len(v.layers) for v in page.codes if plan.shade_folded or v.outcome not in FOLDED)
        enough = plan is PLANS[-1] or plan.words_per_code or rows * len(page.words) * 4 // 3 < size_limit
        if not enough:
            continue
        html = _render(page, neighbours, plan, passages)
        if len(html.encode()) <= size_limit:
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


def _render(page: ReportPage, neighbours: Neighbours, plan: Detail, passages: dict[str, tuple[PassageRow, ...]]) -> str:
    folded = [v for v in page.codes if v.outcome in FOLDED]
    shown = [v for v in page.codes if v.outcome not in FOLDED] + folded[: plan.folded_rows]
    with_scores = [bool(v.scores) and (plan.shade_folded or v.outcome not in FOLDED) for v in shown]
    first = next((i for i, shaded in enumerate(with_scores) if shaded), 0 if shown else None)
    reasons = sorted({reason for _, _, reason in page.unseen})
    units = utf16_offsets(page.text)
    payloads, found = [], []
    breaks = breaks_of(page.words)
    for view, shaded in zip(shown, with_scores, strict=True):
        if shaded and view.code not in passages:
            passages[view.code] = passage_rows(view, page, breaks)
        parts = passages[view.code] if shaded else ()
        found.append(parts)
        payloads.append(code_payload(view, page, parts, units, plan.words_per_code if shaded else 0))
    first_view = None if first is None else shown[first] if with_scores[first] else _unshaded(shown[first])
    borders = asset("borders.css") if page.parts else ""
    style = asset("report.css") + asset("page.css") + borders + _strip_style(page)
    script = asset("page.js") + asset("page_tools.js")
    methods = page.methods
    return (
        environment()
        .get_template("page.html.j2")
        .render(
            page=page,
            neighbours=neighbours,
            counts=[(o, page.count(o), OUTCOME_TEXT[o]) for o in OUTCOME_ORDER if page.count(o)],
            groups=_rows(shown, page),
            folded_total=len(folded),
            folded_left_out=len(folded) - min(len(folded), plan.folded_rows),
            reduced=_reductions(plan, page, folded),
            unseen=[(reason, sum(r == reason for _, _, r in page.unseen)) for reason in reasons],
            note=note_html(page, first_view, reasons),
            right_to_left=_right_to_left(page.text),
            first=None if first_view is None or first is None else _first(page, first_view, first, found[first]),
            data=page_payload(page, payloads, reasons, units),
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


def _right_to_left(text: str) -> bool:
    """Whether any letter runs from right to left; finding the direction costs a browser half of its time, so it is asked
    only then."""
    return not text.isascii() and any(unicodedata.bidirectional(c) in ("R", "AL") for c in set(text))


def _unshaded(view: CodeView) -> CodeView:
    """The view without scores, where the page holds none for it."""
    return replace(view, scores=(), layers=())


def _moved(page: ReportPage) -> str:
    """Titles of the sections that the model read earlier than the note has them."""
    read = [section for section in page.sections if section.place >= 0]
    early = [s for n, s in enumerate(read) if any(before.place > s.place for before in read[:n])]
    return ", ".join(dict.fromkeys(s.title.strip().rstrip(":") or "the beginning" for s in early))


def _rows(shown: Sequence[CodeView], page: ReportPage) -> list[tuple[bool, list[dict[str, Any]]]]:
    """The rows of the code list in two groups: (folded, rows)."""
    rows = []
    for i, view in enumerate(shown):
        top = max(view.chunk_attention, default=0.0)
        cells = [round(8 * x / top) if top > 0 else 0 for x in view.chunk_attention]
        spark = "".join(f"M{5 * c} 8v-{h}h4v{h}z" for c, h in enumerate(cells) if h)
        rows.append(
            {
                "i": i,
                "view": view,
                "bar": round(100 * view.probability, 1),
                "tick": round(100 * view.threshold, 1),
                "spark": spark,
                "spark_width": max(1, 5 * len(page.chunk_words) - 1),
                "label": OUTCOME_TEXT[view.outcome],
                "folded": view.outcome in FOLDED,
                "cues": len({cue.kind for cue in view.notes.cues}),
            }
        )
    groups = [(False, [r for r in rows if not r["folded"]]), (True, [r for r in rows if r["folded"]])]
    return [(folded, group) for folded, group in groups if group]


def _first(page: ReportPage, view: CodeView, number: int, parts: Sequence[PassageRow]) -> dict[str, Any]:
    """What the page shows of its first code before any script runs."""
    shaded = bool(view.scores)
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
    holds = _chunk_sections(page)
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
        "on": share_on(view.scores, page.words, view.evidence),
        "terms": sorted(Counter(term for _, _, term in view.notes.keywords).items(), key=lambda t: (-t[1], t[0])),
        "on_terms": share_on(view.scores, page.words, view.notes.keywords),
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


def _chunk_sections(page: ReportPage) -> list[str]:
    """For each chunk the titles of the sections that its words come from."""
    found: list[dict[str, None]] = [{} for _ in page.chunk_words]
    if not page.sections:
        return [""] * len(found)
    starts = [section.start for section in page.sections]
    firsts = np.array([start for start, _ in page.words], dtype=np.int64)
    section = np.searchsorted(starts, firsts, side="right") - 1  # (W,)
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


def _strip_style(page: ReportPage) -> str:
    """The widths of the chunk cells, by words; in the style element because the policy forbids style attributes."""
    widths = [max(count, 1) for count in page.chunk_words]
    return "".join(f".strip .k{c + 1}{{flex-grow:{width}}}\n" for c, width in enumerate(widths))

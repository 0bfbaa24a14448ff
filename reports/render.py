"""One ReportPage to one self-contained HTML file."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from explain.snippets import HIDE_BELOW, Snippet, quantise, snippets, words_for_half
from reports.highlight import COMMON_MAXIMUM, note_html, shade_levels, share_on, utf16_offsets
from reports.page import OUTCOME_ORDER, CodeView, ReportPage

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
    for plan in PLANS:
        shaded = sum(bool(v.scores) for v in page.codes if plan.shade_folded or v.outcome not in FOLDED)
        enough = plan is PLANS[-1] or plan.words_per_code or shaded * len(page.words) * 4 // 3 < size_limit
        if not enough:
            continue
        html = _render(page, neighbours, plan)
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


def _render(page: ReportPage, neighbours: Neighbours, plan: Detail) -> str:
    folded = [v for v in page.codes if v.outcome in FOLDED]
    shown = [v for v in page.codes if v.outcome not in FOLDED] + folded[: plan.folded_rows]
    with_scores = [bool(v.scores) and (plan.shade_folded or v.outcome not in FOLDED) for v in shown]
    first = next((i for i, shaded in enumerate(with_scores) if shaded), 0 if shown else None)
    reasons = sorted({reason for _, _, reason in page.unseen})
    units = utf16_offsets(page.text)
    payloads, found = [], []
    for view, shaded in zip(shown, with_scores, strict=True):
        parts = snippets(view.scores, page.words) if shaded else ()
        found.append(parts)
        payloads.append(_code_payload(view, page, parts, units, plan.words_per_code if shaded else 0))
    first_view = shown[first] if first is not None else None
    shaded_first = first_view if first is not None and with_scores[first] else None
    style = asset("report.css") + asset("page.css") + _strip_style(page)
    script = asset("page.js")
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
            note=note_html(page, _with_marks(first_view, shaded_first), reasons),
            first=None if first is None else _first(page, shown[first], first, shaded_first, found[first]),
            data=_payload(page, payloads, reasons, units),
            style=style,
            script=script,
            policy=content_policy(style, script),
            tag=OUTCOME_TAG,
            marked=(any(v.evidence for v in page.codes), any(v.decoys for v in page.codes)),
        )
    )


def _with_marks(view: CodeView | None, shaded: CodeView | None) -> CodeView | None:
    """The view whose spans and shades the note starts with; without shades where the page holds none for it."""
    if view is None or shaded is not None:
        return view
    return CodeView(**{**{name: getattr(view, name) for name in view.__slots__}, "scores": ()})


def _payload(page: ReportPage, codes: list[dict[str, Any]], reasons: Sequence[str], units: Any) -> dict[str, Any]:
    """The data block of the page; offsets in UTF-16 units, words as pairs (gap, length)."""
    bounds = units[np.asarray(page.words, dtype=np.int64).reshape(-1, 2)]  # (W, 2)
    ends = np.concatenate([[0], bounds[:-1, 1]]) if len(bounds) else np.zeros(0, dtype=np.int64)
    pairs = np.stack([bounds[:, 0] - ends, bounds[:, 1] - bounds[:, 0]], axis=1)  # (W, 2)
    runs: list[list[int]] = []
    for chunk in page.word_chunks:
        if runs and runs[-1][0] == chunk:
            runs[-1][1] += 1
        else:
            runs.append([chunk, 1])
    return {
        "words": pairs.ravel().tolist(),
        "chunks": [number for run in runs for number in run],
        "empty": [int(n == 0) for n in page.chunk_words],
        "reasons": list(reasons),
        "hide": HIDE_BELOW,
        "common": COMMON_MAXIMUM,
        "codes": codes,
    }


def _code_payload(
    view: CodeView, page: ReportPage, parts: Sequence[Snippet], units: Any, keep: int | None
) -> dict[str, Any]:
    """One code of the data block; keep: None for all words, 0 for no scores, else the number of words kept."""
    shaded = bool(view.scores) and keep != 0
    quantised, maximum = quantise(view.scores if shaded else ())
    share, touched = share_on(view, page.words, view.evidence)
    out: dict[str, Any] = {
        "code": view.code,
        "title": view.title,
        "outcome": view.outcome,
        "p": round(view.probability, 4),
        "t": round(view.threshold, 4),
        "max": float(f"{maximum:.5g}"),
        "half": words_for_half(view.scores) if shaded else 0,
        "special": round(view.special_share, 5),
        "chunk": [round(x, 4) for x in view.chunk_attention],
        "parts": [[s.first, s.last, s.peak, round(s.share, 5)] for s in parts],
        "e": [[int(units[s]), int(units[e]), kind] for s, e, kind in view.evidence],
        "d": [[int(units[s]), int(units[e]), kind] for s, e, kind in view.decoys],
        "on": [round(share, 5), touched],
    }
    if shaded and keep is not None and keep < len(quantised):
        top = np.sort(np.argsort(-quantised.astype(np.int64), kind="stable")[:keep]).astype("<u4")
        out["at"] = base64.b64encode(top.tobytes()).decode()
        out["q"] = base64.b64encode(quantised[top].tobytes()).decode()
    elif shaded:
        out["q"] = base64.b64encode(quantised.tobytes()).decode()
    return out


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
            }
        )
    groups = [(False, [r for r in rows if not r["folded"]]), (True, [r for r in rows if r["folded"]])]
    return [(folded, group) for folded, group in groups if group]


def _first(
    page: ReportPage, view: CodeView, number: int, shaded: CodeView | None, parts: Sequence[Snippet]
) -> dict[str, Any]:
    """What the page shows of its first code before any script runs."""
    levels = shade_levels(quantise(view.scores)[0]) if shaded is not None else np.zeros(len(page.words), dtype=np.int64)
    top = max(view.chunk_attention, default=0.0)
    share, touched = share_on(view, page.words, view.evidence)
    rows = []
    for part in parts:
        spans = [page.words[w] for w in range(part.first, part.last + 1)]
        peak_start, peak_end = page.words[part.peak]
        rows.append(
            {
                **asdict(part),
                "before": page.text[spans[0][0] : peak_start],
                "word": page.text[peak_start:peak_end],
                "after": page.text[peak_end : spans[-1][1]],
                "level": int(levels[part.peak]),
                "chunk": page.word_chunks[part.peak] + 1,
            }
        )
    attention = view.chunk_attention or (0.0,) * len(page.chunk_words)
    chunks = [
        {
            "number": c + 1,
            "share": a,
            "height": round(100 * a / top, 1) if top > 0 else 0,
            "empty": page.chunk_words[c] == 0,
        }
        for c, a in enumerate(attention)
    ]
    return {
        "view": view,
        "number": number,
        "label": OUTCOME_TEXT[view.outcome],
        "shaded": shaded is not None,
        "maximum": max(view.scores, default=0.0) if shaded is not None else 0.0,
        "half": words_for_half(view.scores) if shaded is not None else 0,
        "parts": rows,
        "chunks": chunks,
        "spans": [
            (name, [(page.text[s:e], kind) for s, e, kind in spans])
            for name, spans in (("e", view.evidence), ("d", view.decoys))
        ],
        "on": (share, touched),
    }


def _reductions(plan: Detail, page: ReportPage, folded: Sequence[CodeView]) -> list[str]:
    """What the page leaves out, in sentences."""
    out = []
    if not plan.shade_folded and any(view.scores for view in folded):
        out.append("To keep the page small, the codes that were rightly not predicted are listed without shading.")
    if plan.words_per_code is not None and plan.words_per_code < len(page.words):
        out.append(f"To keep the page small, only the {plan.words_per_code} strongest words of each code are shaded.")
    if len(folded) > plan.folded_rows:
        out.append(f"Of the {len(folded):,} codes not predicted, the {plan.folded_rows:,} most probable are listed.")
    return out


def _strip_style(page: ReportPage) -> str:
    """The widths of the chunk cells, by words; in the style element because the policy forbids style attributes."""
    widths = [max(count, 1) for count in page.chunk_words]
    return "".join(f".strip .k{c + 1}{{flex-grow:{width}}}\n" for c, width in enumerate(widths))

"""The data block of a page: numbers for its script, packed small, offsets in UTF-16 units as browsers count."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from explain.snippets import HIDE_BELOW, quantise, words_for_half
from reports.compare import LISTED, PassageRow, overlap_at
from reports.highlight import COMMON_MAXIMUM, quantise_signed, share_on
from reports.page import CodeView, ReportPage, Span

Units = NDArray[np.int64]


def page_payload(page: ReportPage, codes: list[dict[str, Any]], reasons: Sequence[str], units: Units) -> dict[str, Any]:
    """The data block; words as pairs (gap, length), chunks as runs (chunk, words)."""
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
        "hadm": page.hadm_id,
        "model": page.model,
        "words": pairs.ravel().tolist(),
        "chunks": [number for run in runs for number in run],
        "empty": [int(n == 0) for n in page.chunk_words],
        "reasons": list(reasons),
        "methods": [list(method) for method in page.methods],
        "sections": [[s.title, int(units[s.start]), int(units[s.end]), s.place] for s in page.sections],
        "reordered": page.reordered,
        "hide": HIDE_BELOW,
        "common": COMMON_MAXIMUM,
        "codes": codes,
    }


def code_payload(
    view: CodeView, page: ReportPage, parts: Sequence[PassageRow], units: Units, keep: int | None
) -> dict[str, Any]:
    """One code of the data block; keep: None for all words, 0 for no scores, else the number of words kept per layer."""
    shaded = bool(view.scores) and keep != 0
    values, maximum = quantise(view.scores if shaded else ())
    on, on_terms = (share_on(view.scores, page.words, s) for s in (view.evidence, view.notes.keywords))
    out: dict[str, Any] = {
        "code": view.code,
        "title": view.title,
        "outcome": view.outcome,
        "weak": int(view.notes.weak),
        "p": round(view.probability, 4),
        "t": round(view.threshold, 4),
        "logit": round(view.logit, 4),
        "max": float(f"{maximum:.5g}"),
        "half": words_for_half(view.scores) if shaded else 0,
        "special": round(view.special_share, 5),
        "chunk": [round(x, 4) for x in view.chunk_attention],
        "parts": [_part(row) for row in parts],
        "listed": min(LISTED, len(parts)),
        "overlap": [round(x, 3) for x in overlap_at(view)] if shaded else [],
        "e": _spans(view.evidence, units),
        "d": _spans(view.decoys, units),
        "w": _spans(view.notes.keywords, units),
        "cues": [[c.kind, c.says, *(_place(c.start, c.end, units))] for c in view.notes.cues],
        "nums": [[n.measure, int(n.up), [[m, _short(v)] for m, v in n.values]] for n in view.notes.numbers],
        "cv": [[c.method, [round(x, 4) for x in c.fractions], [round(x, 4) for x in c.probabilities]] for c in view.notes.curves],
        "on": [round(on[0], 5), on[1]],
        "won": [round(on_terms[0], 5), on_terms[1]],
    }  # fmt: skip
    if shaded:
        out |= _packed(values, keep)
    if shaded and view.layers:
        packed = [(quantise_signed(layer.scores), layer) for layer in view.layers]
        out["l"] = [{**_packed(q, keep), "max": float(f"{most:.5g}")} for (q, most), _ in packed]
    return out


def _packed(values: NDArray[Any], keep: int | None) -> dict[str, str]:
    """One byte per word in base64 ("q"); with `keep`, those of the strongest words and their places ("at")."""
    if keep is None or keep >= len(values):
        return {"q": base64.b64encode(values.tobytes()).decode()}
    size = np.abs(values.astype(np.int64))
    top = np.sort(np.argsort(-size, kind="stable")[:keep]).astype("<u4")
    return {"at": base64.b64encode(top.tobytes()).decode(), "q": base64.b64encode(values[top].tobytes()).decode()}


def _part(row: PassageRow) -> list[Any]:
    by = [[rank, round(share, 5)] for rank, share in row.by]
    return [row.first, row.last, row.peak, row.section, int(row.keyword), int(row.evidence), by]


def _spans(spans: Sequence[Span], units: Units) -> list[list[Any]]:
    return [[int(units[s]), int(units[e]), says] for s, e, says in spans]


def _place(start: int, end: int, units: Units) -> tuple[int, int]:
    return (int(units[start]), int(units[end])) if start >= 0 else (-1, -1)


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, 5)

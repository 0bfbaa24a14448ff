"""The data block of a page: numbers for its script, packed small, offsets in UTF-16 units as browsers count."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from jinja2.utils import htmlsafe_json_dumps
from numpy.typing import NDArray

from explain.snippets import HIDE_BELOW, quantise, words_for_half
from reports.compare import LISTED, PassageRow, Ranked, overlap_at
from reports.highlight import COMMON_MAXIMUM, quantise_signed, share_on
from reports.page import CodeView, ReportPage, Span

Units = NDArray[np.int64]
PLACE = '{"": 0}'  # an object with an empty key, which the data block has nowhere; no string holds it, quotes in one are escaped
_EMPTY = {"": 0}
_JSON = json.JSONEncoder(sort_keys=True, check_circular=False)


@dataclass(frozen=True, slots=True, eq=False)
class CodeData:
    """One code of the data block, whatever a plan leaves out.

    pieces: its JSON, cut where scores go. scores: its quantised scores (W,) with their maximum, layers first and attention
    last, as they stand in the JSON; none where the page shades nothing.
    """

    pieces: tuple[str, ...]
    scores: tuple[tuple[NDArray[Any], float], ...]


def block_pieces(page: ReportPage, reasons: Sequence[str], units: Units, words: NDArray[np.int64]) -> tuple[str, str]:
    """The data block as JSON, before and after its codes; words, with bounds (W, 2), as pairs (gap, length), chunks as runs
    (chunk, words)."""
    bounds = units[words]  # (W, 2)
    ends = np.concatenate([[0], bounds[:-1, 1]]) if len(bounds) else np.zeros(0, dtype=np.int64)
    pairs = np.stack([bounds[:, 0] - ends, bounds[:, 1] - bounds[:, 0]], axis=1)  # (W, 2)
    before, after = _pieces(
        {
            "hadm": page.hadm_id,
            "model": page.model,
            "words": pairs.ravel().tolist(),
            "chunks": [number for chunk, run in groupby(page.word_chunks) for number in (chunk, len(list(run)))],
            "empty": [int(n == 0) for n in page.chunk_words],
            "reasons": list(reasons),
            "methods": [list(method) for method in page.methods],
            "sections": [[s.title, int(units[s.start]), int(units[s.end]), s.place] for s in page.sections],
            "reordered": page.reordered,
            "hide": HIDE_BELOW,
            "common": COMMON_MAXIMUM,
            "codes": [_EMPTY],
        }
    )
    return before, after


def code_data(
    view: CodeView,
    words: NDArray[np.int64],
    parts: Sequence[PassageRow],
    units: Units,
    methods: Sequence[Ranked],
) -> CodeData:
    """One code of the data block; words: their bounds (W, 2). methods: its scores `ranked`, none for a code that is not
    shaded."""
    on, on_terms = (share_on(view.scores, words, s) for s in (view.evidence, view.notes.keywords))
    attention = [quantise(method.scores) for method in methods[:1]]
    layers = [quantise_signed(method.scores) for method in methods[1:]]
    facts: dict[str, Any] = {
        "code": view.code,
        "title": view.title,
        "outcome": view.outcome,
        "weak": int(view.notes.weak),
        "p": round(view.probability, 4),
        "t": round(view.threshold, 4),
        "shown": [f"{view.probability:.2f}", f"{view.threshold:.2f}"],  # as the list of codes: not rounded twice
        "logit": round(view.logit, 4),
        "max": _five_digits(attention[0][1]) if attention else 0.0,
        "half": words_for_half(methods[0].scores, methods[0].rising) if methods else 0,
        "special": round(view.special_share, 5),
        "chunk": [round(x, 4) for x in view.chunk_attention],
        "parts": [_part(row) for row in parts],
        "listed": min(LISTED, len(parts)),
        "overlap": [round(x, 3) for x in overlap_at(view, highest=[m.highest for m in methods])] if methods else [],
        "e": _spans(view.evidence, units),
        "d": _spans(view.decoys, units),
        "w": _spans(view.notes.keywords, units),
        "cues": [[c.kind, c.says, *(_place(c.start, c.end, units))] for c in view.notes.cues],
        "nums": [[n.measure, int(n.up), [[m, _short(v)] for m, v in n.values]] for n in view.notes.numbers],
        "cv": [[c.method, [round(x, 4) for x in c.fractions], [round(x, 4) for x in c.probabilities]] for c in view.notes.curves],
        "on": [round(on[0], 5), on[1]],
        "won": [round(on_terms[0], 5), on_terms[1]],
    }  # fmt: skip
    if layers:
        facts["l"] = [_EMPTY for _ in layers]
    if attention:
        facts["q"] = _EMPTY
    return CodeData(_pieces(facts), (*layers, *attention))


def code_text(code: CodeData, keep: int | None) -> str:
    """The JSON of a code with its scores; keep: None for all words, else the number of words kept per layer."""
    if not code.scores:
        return code.pieces[0]
    *layers, (attention, _) = code.scores
    at, q = _packed(attention, keep)
    texts = [code.pieces[0] if at is None else f'{{"at": {at}, {code.pieces[0][1:]}']  # the first key of all
    for (values, most), piece in zip(layers, code.pieces[1:-1], strict=True):
        layer_at, layer_q = _packed(values, keep)
        named = "" if layer_at is None else f'"at": {layer_at}, '
        texts += [f'{{{named}"max": {_five_digits(most)!r}, "q": {layer_q}}}', piece]
    return "".join([*texts, q, code.pieces[-1]])


def least_length(code: CodeData, keep: int | None) -> int:
    """Characters of a code's JSON at least, without writing it."""
    length = sum(map(len, code.pieces))
    for values, _ in code.scores:
        packed = [len(values)] if keep is None or keep >= len(values) else [keep, 4 * keep]  # as in `_packed`
        length += sum(4 * -(-size // 3) for size in packed)
    return length


def _pieces(given: dict[str, Any]) -> tuple[str, ...]:
    """The JSON of an object, escaped to stand between script tags, cut at its empty objects."""
    return tuple(str(htmlsafe_json_dumps(given, dumps=_JSON.encode)).split(PLACE))


def _packed(values: NDArray[Any], keep: int | None) -> tuple[str | None, str]:
    """Places and bytes as JSON strings of base64: None and a byte per word, or with `keep` those of the strongest words.

    Base64 is not escaped: none of its characters means anything to JSON or HTML, and looking for some that do among hundreds
    of thousands takes longer than all the rest.
    """
    if keep is None or keep >= len(values):
        return None, _base64(values)
    sizes = np.abs(values).astype(np.uint8)  # (W,)
    upto = np.cumsum(np.bincount(sizes, minlength=256)[::-1])  # (256,): words of at least 255, 254 and so on
    least = 255 - int(np.searchsorted(upto, keep))
    kept = sizes > least
    kept[np.flatnonzero(sizes == least)[: keep - np.count_nonzero(kept)]] = True  # of equal ones the first
    top = np.flatnonzero(kept)
    return _base64(top.astype("<u4")), _base64(values[top])


def _base64(values: NDArray[Any]) -> str:
    return f'"{base64.b64encode(values.tobytes()).decode()}"'


def _five_digits(value: float) -> float:
    return float(f"{value:.5g}")


def _part(row: PassageRow) -> list[Any]:
    by = [[rank, round(share, 5)] for rank, share in row.by]
    return [row.first, row.last, row.peak, row.section, int(row.keyword), int(row.evidence), by]


def _spans(spans: Sequence[Span], units: Units) -> list[list[Any]]:
    return [[int(units[s]), int(units[e]), says] for s, e, says in spans]


def _place(start: int, end: int, units: Units) -> tuple[int, int]:
    return (int(units[start]), int(units[end])) if start >= 0 else (-1, -1)


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, 5)

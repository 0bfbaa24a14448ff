"""The index of a run: what is counted, drawn and told, against loops over the pages."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from reports.index import (
    AdmissionRow,
    MeanCurve,
    MeasureCell,
    MeasureTable,
    RunHeader,
    Tally,
    admission_row,
    curve_paths,
    render_index,
)
from reports.page import CodeNotes, CueView, ReportPage

PageMaker = Callable[..., ReportPage]
KINDS = ("negated", "uncertain", "evidence_elsewhere", "borderline")


class Cells(HTMLParser):
    """The tables of a page by their id or the heading before them: rows of cells as (text, classes)."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tables: dict[str, list[list[tuple[str, str]]]] = {}
        self.heading, self.inside, self.name, self.classes = "", "", "", ""
        self.text: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in ("h2", "h3"):
            self.inside, self.text = tag, []
        elif tag == "table":
            self.name = given.get("id") or self.heading
            self.tables[self.name] = []
        elif tag == "tr":
            self.tables[self.name].append([])
        elif tag in ("td", "th"):
            self.inside, self.classes, self.text = tag, given.get("class") or "", []
        elif tag == "span" and given.get("class") == "interval":
            self.text.append(" | ")

    def handle_endtag(self, tag: str) -> None:
        if tag != self.inside:
            return
        words = " ".join("".join(self.text).split())
        if tag in ("h2", "h3"):
            self.heading = words
        else:
            self.tables[self.name][-1].append((words, self.classes))
        self.inside = ""

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def text_of(rows: list[list[tuple[str, str]]]) -> list[list[str]]:
    return [[text for text, _ in row] for row in rows]


def some_pages(make_page: PageMaker, n: int = 8, *, gold: bool = True) -> list[ReportPage]:
    """Pages whose codes are given, predicted and cued by lot; every third was cut at the last chunk."""
    rng = np.random.default_rng(5)
    pages = []
    for number in range(n):
        text = "alpha beta gamma delta 12 epsilon zeta " * 4
        evidence = ((0, 5, "lab"),) if number % 2 else ()
        page = make_page(
            text, codes=6, layers=("occlusion",), seed=number, hadm_id=str(500 + number), evidence=evidence
        )
        views = []
        for view in page.codes:
            chosen = [kind for kind in KINDS if rng.random() < 0.4]
            cues = tuple(CueView(kind, kind) for kind in [*chosen, *chosen[:1]])  # the first one twice
            given, said = bool(rng.random() < 0.5), bool(rng.random() < 0.5)
            views.append(replace(view, predicted=said, gold=given if gold else None, notes=CodeNotes(cues=cues)))
        cut = tuple((s, e, "after the last chunk") for s, e, _ in page.unseen) if number % 3 == 0 else page.unseen
        pages.append(replace(page, codes=tuple(views), unseen=cut))
    return pages


def tally_of(pages: list[ReportPage], *, text: bool = True) -> Tally:
    tally = Tally()
    for page in pages:
        tally.add(page, f"admission-{page.hadm_id}.html", text=text)
    return tally


def test_codes_and_errors_against_a_loop(make_page: PageMaker) -> None:
    pages = some_pages(make_page)
    tally = tally_of(pages)
    counts: dict[str, dict[str, int]] = {}
    cues: dict[str, dict[str, int]] = {}
    errors = []
    for page in pages:
        for view in page.codes:
            here = counts.setdefault(view.code, {"TP": 0, "FP": 0, "FN": 0, "TN": 0})
            here[view.outcome] += 1
            if view.outcome == "FP":
                kinds = {cue.kind for cue in view.notes.cues}
                errors.append((page.hadm_id, view.code, kinds))
                for kind in kinds:
                    cues.setdefault(view.code, {}).setdefault(kind, 0)
                    cues[view.code][kind] += 1
    rows = tally.codes()
    assert {(r.code, r.true_positives, r.false_positives, r.false_negatives) for r in rows} == {
        (code, c["TP"], c["FP"], c["FN"]) for code, c in counts.items()
    }
    assert [r.support for r in rows] == sorted((r.support for r in rows), reverse=True)
    for row in rows:
        found = cues.get(row.code, {})
        assert len(row.cues) == min(3, len(found))
        assert [found[kind] for kind in row.cues] == sorted(found.values(), reverse=True)[: len(row.cues)]
    assert [(e.hadm_id, e.code, set(e.cues)) for e in tally.errors] == errors
    assert all(len(e.cues) == len(set(e.cues)) for e in tally.errors)
    texts = {page.hadm_id: " ".join(page.text.split()) for page in pages}
    for error in tally.errors:
        assert error.address == f"admission-{error.hadm_id}.html#c={error.code}&e=1"
        assert error.snippet.strip("… ") in texts[error.hadm_id]
        assert error.snippet
    assert not any(error.snippet for error in tally_of(pages, text=False).errors)


def test_admission_rows_against_a_loop(make_page: PageMaker) -> None:
    pages = some_pages(make_page)
    for page, row in zip(pages, tally_of(pages).rows, strict=True):
        outcomes = [view.outcome for view in page.codes]
        tp, fp, fn = (outcomes.count(name) for name in ("TP", "FP", "FN"))  # type: ignore[arg-type]
        assert (row.true_positives, row.false_positives, row.false_negatives) == (tp, fp, fn)
        assert row.predicted == tp + fp
        precision, recall = tp / max(1, tp + fp), tp / max(1, tp + fn)
        assert row.f1 == pytest.approx(2 * precision * recall / (precision + recall) if tp else 0.0)
        shares = []
        for view in page.codes:
            ranked = [sorted(range(len(s)), key=lambda w, s=s: (-s[w], w))[:20] for s in (view.scores, view.layers[0].scores)]  # type: ignore[misc] # fmt: skip
            shares.append(len(set(ranked[0]) & set(ranked[1])) / 20)
        assert row.overlap == pytest.approx(sum(shares) / len(shares))
        wrong = [kind for view in page.codes if view.outcome == "FP" for kind in {c.kind for c in view.notes.cues}]
        assert wrong.count(row.cue) == max((wrong.count(kind) for kind in KINDS), default=0) or not wrong
        assert row.after_last_chunk is (int(page.hadm_id) % 3 == 500 % 3)
        assert row.evidence is (int(page.hadm_id) % 2 == 1)


def test_an_admission_without_codes_has_no_f1(make_page: PageMaker) -> None:
    page = make_page("alpha beta")
    assert admission_row(replace(page, codes=page.codes[3:]), "f").f1 is None
    assert admission_row(make_page("alpha", gold=False), "f").f1 is None
    assert AdmissionRow("1", "f", "", 1, 0, 1, 0, 1, 0).f1 == 0.0


def test_the_heat_table_counts_codes_by_cue(make_page: PageMaker) -> None:
    pages = some_pages(make_page)
    tally = tally_of(pages)
    head, *rows = Cells(render_index(tally, RunHeader("Run"))).tables["False positives by code and cue"]
    kinds = [text for text, _ in head][3:]
    most = 0
    counted: dict[tuple[str, str], int] = {}
    for error in tally.errors:
        for kind in error.cues:
            counted[error.code, kind.replace("_", " ")] = counted.get((error.code, kind.replace("_", " ")), 0) + 1
    most = max(counted.values())
    assert sorted(kinds) == sorted({kind for _, kind in counted})
    totals = [int(row[2][0]) for row in rows]
    assert totals == sorted(totals, reverse=True)
    for (code, _), _, (total, _), *cells in rows:
        assert int(total) == sum(error.code == code for error in tally.errors)
        for kind, (count, classes) in zip(kinds, cells, strict=True):
            n = counted.get((code, kind), 0)
            assert count == (str(n) if n else "")
            shade = next(s for s in range(9) if 8 * n <= s * most)  # the lowest step that holds it
            assert classes == ("num" if not n else f"num a{shade}")


def test_flags_keep_some_rows_and_not_all(make_page: PageMaker) -> None:
    pages = some_pages(make_page)
    html = render_index(tally_of(pages), RunHeader("Run"))
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert data is not None
    table: dict[str, Any] = json.loads(data[1])["t-admissions"]
    names = re.findall(r'data-only="t-admissions" data-flag="(\d+)">([^<]*)<', html)
    kept = {name: [table["rows"][i][0][0] for i in table["flags"][int(n)]] for n, name in names}
    with_errors = [p.hadm_id for p in pages if p.count("FP")]
    if len(with_errors) < len(pages):
        assert kept["With false positives"] == with_errors
    else:
        assert "With false positives" not in kept
    assert kept["Cut at the last chunk"] == ["500", "503", "506"]
    assert kept["With known evidence"] == ["501", "503", "505", "507"]
    plain = render_index(tally_of([make_page("alpha beta")]), RunHeader("Run"))
    assert 'data-only="t-admissions"' not in plain


def test_measures_are_told_with_intervals_stars_and_dashes(make_page: PageMaker) -> None:
    cells = (
        (MeasureCell(0.5, 0.4, 0.6), MeasureCell(None)),
        (MeasureCell(0.25, 0.2, 0.3, True), MeasureCell(0.125)),
    )
    rows = (("attention", cells[0]), ("input_x_gradient", cells[1]))
    table = MeasureTable(
        "faithfulness, TP pairs (n = 7)", ("comprehensiveness", "rank_auc"), (True, False), rows, "A <note>"
    )
    html = render_index(tally_of([make_page("alpha")]), RunHeader("Run", tables=(table,)))
    assert text_of(Cells(html).tables[table.title]) == [
        ["Method", "comprehensiveness ↑", "rank auc ↓"],
        ["attention", "0.500 | 0.400 to 0.600", "–"],
        ["input x gradient", "0.250* | 0.200 to 0.300", "0.125"],
    ]
    assert "A &lt;note&gt;" in html
    assert "nan" not in html.lower().replace("finance", "")


def test_curves_are_drawn_where_the_numbers_are() -> None:
    fractions, mean = (0.0, 0.25, 1.0), (0.9, 0.5, 0.1)
    (drawn,) = curve_paths([MeanCurve("att_grad", fractions, mean, (0.8, 0.4, 0.05), (1.0, 0.6, 0.2))])
    assert drawn["method"] == "att grad"

    def points(path: str) -> list[tuple[float, float]]:
        return [(float(x), float(y)) for x, y in re.findall(r"([\d.]+) ([\d.]+)", path)]

    def place(x: float, y: float) -> tuple[float, float]:
        return pytest.approx(40 + x * (390 - 40), abs=0.06), pytest.approx(10 + (1 - y) * (180 - 10), abs=0.06)  # type: ignore[return-value]

    assert points(drawn["line"]) == [place(x, y) for x, y in zip(fractions, mean, strict=True)]
    there = [place(0, 0.8), place(0.25, 0.4), place(1, 0.05)]
    back = [place(1, 0.2), place(0.25, 0.6), place(0, 1)]
    assert points(drawn["band"]) == [*there, *back]
    assert (drawn["line"][0], drawn["line"].count("L"), drawn["band"][0], drawn["band"][-1]) == ("M", 2, "M", "Z")
    assert curve_paths([]) == []


def test_without_gold_there_are_neither_errors_nor_codes(make_page: PageMaker) -> None:
    tally = tally_of(some_pages(make_page, gold=False))
    assert tally.errors == []
    html = render_index(tally, RunHeader("Run"))
    assert set(Cells(html).tables) == {"t-admissions"}


def test_the_same_rows_give_the_same_bytes(make_page: PageMaker) -> None:
    run = RunHeader("Run", (("Micro-F1", "0.90"),), about=(("Seed", "0"),))
    first, second = (render_index(tally_of(some_pages(make_page)), run) for _ in range(2))
    assert first == second
    assert first != render_index(tally_of(some_pages(make_page)[1:]), run)

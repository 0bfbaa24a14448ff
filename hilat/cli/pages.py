"""From stored explanations and measures to pages: what `hilat report` puts together."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hilat.admissions import HilatError

if TYPE_CHECKING:
    from explain.cases import Case
    from explain.cues import CaseOptions
    from explain.keywords import KeywordSet
    from explain.rows import Curve
    from explain.table import Explained
    from hilat.admissions import Admission, CodeBook
    from reports.build import RunLabel
    from reports.index import MeanCurve, MeasureTable
    from reports.page import CodeNotes, NumberRow, ReportPage

CONTROLS = ("random", "uniform", "position", "frequent_words", "other_code")  # columns of numbers, never a layer
# Measures that a page lists, of those in the folders given.
LISTED = (
    "comprehensiveness", "sufficiency", "normalised_aopc", "decision_flip", "average_precision", "evidence_mass", "position_ami",
    "rank_auc", "kendall_tau_b", "overlap_at_10",
)  # fmt: skip
MOST_TABLE = 6  # measures of a table in the index

Pair = tuple[str, str]


@dataclass(frozen=True)
class Measures:
    """What folders of measures say: numbers and deletion curves by (admission, code), and tables for the index."""

    numbers: Mapping[Pair, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)
    up: Mapping[str, bool] = field(default_factory=dict)
    curves: Mapping[Pair, Sequence[Curve]] = field(default_factory=dict)
    tables: tuple[MeasureTable, ...] = ()
    mean_curves: tuple[MeanCurve, ...] = ()


def read_measures(folders: Sequence[Path], seed: int = 0) -> Measures:
    """The folders that `--out` of faithfulness, plausibility, keywords and agreement wrote.

    Raises:
        HilatError: a folder that is none.
    """
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from explain.rows import read_curves
    from hilat.files import read_json

    numbers: dict[Pair, dict[str, dict[str, float]]] = {}
    up: dict[str, bool] = {}
    curves: dict[Pair, list[Curve]] = {}
    tables: list[MeasureTable] = []
    for folder in folders:
        if not (folder / "rows.parquet").exists() or not (folder / "summary.json").exists():
            raise HilatError(
                f"{folder} holds no rows.parquet and summary.json; expected a folder that --out of faithfulness, "
                "plausibility, keywords or agreement wrote. Correct --measures"
            )
        table = pq.read_table(folder / "rows.parquet", columns=["hadm_id", "code", "method", "metric", "value"])
        table = table.filter(pc.is_in(table["metric"], value_set=_strings(LISTED)))
        for row in table.to_pylist():
            method = str(row["method"]).removeprefix(
                "attention × "
            )  # a comparison with attention is the other's number
            if " × " in method:
                continue
            value = math.nan if row["value"] is None else float(row["value"])
            numbers.setdefault((row["hadm_id"], row["code"]), {}).setdefault(row["metric"], {})[method] = value
        summary, manifest = (
            read_json(folder / "summary.json", what="summary"),
            read_json(folder / "manifest.json", what="manifest"),
        )
        up |= {cell["metric"]: bool(cell["up"]) for cells in summary.values() for cell in cells}
        tables += _tables(summary, str(manifest.get("measure", folder.name)))
        for curve in read_curves(folder):
            curves.setdefault((curve.hadm_id, curve.code), []).append(curve)
    every = [curve for part in curves.values() for curve in part]
    return Measures(numbers, up, curves, tuple(tables), mean_curves(every, seed))


def _strings(values: Sequence[str]) -> Any:
    import pyarrow as pa

    return pa.array(values)


def _tables(summary: Mapping[str, Sequence[Mapping[str, Any]]], kind: str) -> list[MeasureTable]:
    """One table per group of pairs that holds errors or hits apart: predicted, TP and FP; all where those are missing."""
    from reports.index import MeasureCell, MeasureTable

    found = []
    for group in [name for name in ("predicted", "TP", "FP") if name in summary] or list(summary)[:1]:
        cells = {(c["method"], c["metric"]): c for c in summary[group]}
        metrics = list(dict.fromkeys(c["metric"] for c in summary[group]))
        chosen = ([m for m in metrics if m in LISTED] or metrics)[:MOST_TABLE]
        rows = []
        for method in dict.fromkeys(c["method"] for c in summary[group]):
            line = []
            for metric in chosen:
                cell = cells.get((method, metric))
                span = cell["interval"] if cell else {}
                p = cell.get("p_corrected") if cell else None
                star = p is not None and p < 0.05
                line.append(MeasureCell(span.get("estimate"), span.get("low"), span.get("high"), star))
            rows.append((method, tuple(line)))
        n = max((int(c["interval"]["n"]) + int(c["interval"]["missing"]) for c in summary[group]), default=0)
        ups = tuple(bool(next(c["up"] for c in summary[group] if c["metric"] == m)) for m in chosen)
        found.append(MeasureTable(f"{kind}, {group} pairs (n = {n:,})", tuple(chosen), ups, tuple(rows)))
    return found


def mean_curves(curves: Sequence[Curve], seed: int = 0) -> tuple[MeanCurve, ...]:
    """Each method's mean deletion curve on a common grid of 21 points, with 95 % bands over admissions."""
    import numpy as np

    from hilat.significance import interval_of_mean
    from reports.index import MeanCurve

    grid = np.linspace(0, 1, 21)
    found = []
    for method in dict.fromkeys(curve.method for curve in curves):
        part = [curve for curve in curves if curve.method == method]
        values = np.array([np.interp(grid, curve.fractions, curve.deletion) for curve in part])  # (n, S)
        names = [curve.hadm_id for curve in part]
        spans = [interval_of_mean(column, names, resamples=1000, seed=seed) for column in values.T]
        line = tuple(span.estimate for span in spans)
        low = tuple(span.low if math.isfinite(span.low) else span.estimate for span in spans)
        high = tuple(span.high if math.isfinite(span.high) else span.estimate for span in spans)
        found.append(MeanCurve(method, tuple(grid.tolist()), line, low, high))
    return tuple(found)


@dataclass(frozen=True)
class PageMaker:
    """What all pages of a run share."""

    known: Mapping[str, Admission]
    book: CodeBook
    label: RunLabel
    chunks: int
    keywords: Mapping[str, KeywordSet]
    options: CaseOptions
    measures: Measures = field(default_factory=Measures)

    def page(self, one: Explained) -> ReportPage:
        """The page of one explained admission.

        Raises:
            HilatError: an admission that the corpus does not hold.
        """
        from explain.cases import find_cases
        from reports.build import Outputs, Reading, build_page

        if one.hadm_id not in self.known:
            raise HilatError(
                f"admission {one.hadm_id} was explained and is not in the corpus; give the corpus that was explained"
            )
        admission = self.known[one.hadm_id]
        cases = find_cases(one, admission, self.keywords, self.book, self.options)
        tokens = int(one.word_tokens.sum())
        reading = Reading(one.word_spans, one.word_chunk, self.chunks, tokens, one.removed, one.removed_reasons)
        layers = tuple(
            (name, words.signed, one.of(name))
            for name, words in one.methods.items()
            if name not in ("attention", *CONTROLS)
        )
        notes = {case.code: self._notes(case) for case in cases}
        outputs = Outputs(
            one.logits, one.probabilities, one.thresholds, one.chunk_attention, one.of("attention"), layers, notes
        )  # fmt: skip
        return build_page(admission, self.book, reading, outputs, self.label, gold_known=one.gold is not None)

    def _notes(self, case: Case) -> CodeNotes:
        from reports.page import CodeNotes, CueView, CurveView

        curves = self.measures.curves.get((case.hadm_id, case.code), ())
        cues = case.cues if case.outcome not in ("TP", "TN") else ()  # a hit needs no reason to be wrong
        return CodeNotes(
            case.keywords,
            tuple(CueView(cue.kind, cue.says, cue.start, cue.end) for cue in cues),
            self._numbers((case.hadm_id, case.code)),
            tuple(CurveView(c.method, c.fractions, c.deletion) for c in curves),
            case.weak,
        )

    def _numbers(self, pair: Pair) -> tuple[NumberRow, ...]:
        from reports.page import NumberRow

        found = self.measures.numbers.get(pair, {})
        methods = list(dict.fromkeys(method for values in found.values() for method in values))
        return tuple(
            NumberRow(
                metric, self.measures.up.get(metric, True), tuple((m, _finite(found[metric].get(m))) for m in methods)
            )
            for metric in LISTED
            if metric in found
        )


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def chosen_ids(explanations: Path, wanted: str | None, seed: int = 0) -> list[str] | None:
    """The admissions that `--admissions` names, in the order of the explanations: "all" (None), "fp:N", "worst:N",
    "random:N", or ids with commas between.

    Raises:
        HilatError: a choice that is not understood, or one that asks for errors where the coders' codes are unknown.
    """
    import numpy as np

    text = (wanted or "all").strip()
    kind, colon, number = text.partition(":")
    if text == "all":
        return None
    if not colon or kind not in ("fp", "worst", "random"):
        return [name.strip() for name in text.split(",") if name.strip()]
    if not number.isdigit() or int(number) < 1:
        raise HilatError(
            f"--admissions {text} was given; expected a number of 1 or more after the colon, such as {kind}:20"
        )
    ids, counts = _outcome_counts(explanations)
    n = min(int(number), len(ids))
    if kind == "random":
        picked = np.random.default_rng(seed).choice(len(ids), n, replace=False)
    elif counts is None:
        raise HilatError(f"--admissions {text} needs the coders' codes, which are unknown here; give random:{n} or ids")
    else:
        tp, fp, fn = counts.T  # (N,) each
        f1 = 2 * tp / np.maximum(1, 2 * tp + fp + fn)
        key = -fp if kind == "fp" else np.where(tp + fp + fn == 0, 1.0, f1)
        picked = np.argsort(key, kind="stable")[:n]
    return [ids[i] for i in sorted(picked.tolist())]


def _outcome_counts(explanations: Path) -> tuple[list[str], Any]:
    """Ids in order, and (N, 3) counts of TP, FP and FN; None where the coders' codes are unknown."""
    import numpy as np
    import pyarrow.parquet as pq

    table = pq.read_table(explanations / "pairs.parquet", columns=["hadm_id", "predicted", "gold"])
    ids = list(dict.fromkeys(table["hadm_id"].to_pylist()))
    if not ids or table["gold"].null_count:
        return ids, None
    predicted, gold = (
        table[name].to_numpy(zero_copy_only=False).reshape(len(ids), -1) for name in ("predicted", "gold")
    )
    return ids, np.stack([(predicted & gold).sum(1), (predicted & ~gold).sum(1), (~predicted & gold).sum(1)], axis=1)


def numbered(pages: Iterator[ReportPage]) -> Iterator[ReportPage]:
    """Pages without note text, whose admissions are called by running numbers."""
    from reports.redact import without_text

    for n, page in enumerate(pages, start=1):
        yield replace(without_text(page), hadm_id=f"note-{n:05d}")

"""The index of a run: admissions, codes, false positives, measures, settings. It works without any admission page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reports.compare import overlap_at, strongest_passage
from reports.highlight import words_of
from reports.page import CodeView, Outcome, ReportPage
from reports.render import OUTCOME_TEXT, asset, content_policy, environment
from reports.tables import ROWS, Column, Table, kept_flags, table_data

SNIPPET = 70  # characters of a false positive's strongest passage


@dataclass(frozen=True, slots=True)
class MeasureCell:
    """A mean with its 95 % interval, None where undefined; star: differs from the first method's."""

    value: float | None
    low: float | None = None
    high: float | None = None
    star: bool = False


@dataclass(frozen=True, slots=True)
class MeasureTable:
    """Methods by measures. title: what was measured on which pairs. up: of each measure, whether higher is better."""

    title: str
    measures: tuple[str, ...]
    up: tuple[bool, ...]
    rows: tuple[tuple[str, tuple[MeasureCell, ...]], ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class MeanCurve:
    """A method's mean deletion curve: probability (S,) after the share (S,) of the words is gone, with its interval."""

    method: str
    fractions: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class RunHeader:
    """What the index says of the run: label and value pairs, in order: facts at the top, about (settings, versions, data
    fingerprint) at the end. text: whether the pages and the index hold note text."""

    title: str
    facts: tuple[tuple[str, str], ...] = ()
    synthetic: bool = False
    about: tuple[tuple[str, str], ...] = ()
    tables: tuple[MeasureTable, ...] = ()
    curves: tuple[MeanCurve, ...] = ()
    text: bool = True


@dataclass(frozen=True, slots=True)
class AdmissionRow:
    """One admission in the index; true_positives and so on are None where the coders' codes are unknown.

    overlap: mean share of attention's 20 highest words that the first other method has too, over its codes; None without.
    """

    hadm_id: str
    file: str
    split: str
    predicted: int
    true_positives: int | None
    false_positives: int | None
    false_negatives: int | None
    words: int
    unseen: int
    overlap: float | None = None
    cue: str = ""
    evidence: bool = False
    after_last_chunk: bool = False

    @property
    def f1(self) -> float | None:
        """Example F1, 2TP / (2TP + FP + FN); None where there is neither a coder's nor a predicted code, or no gold."""
        return f1_of(self.true_positives, self.false_positives, self.false_negatives)


@dataclass(frozen=True, slots=True)
class CodeRow:
    """One code over the admissions of the folder; only admissions whose codes are known are counted."""

    code: str
    title: str
    true_positives: int
    false_positives: int
    false_negatives: int
    cues: tuple[str, ...] = ()

    @property
    def support(self) -> int:
        """Admissions that the coders gave the code."""
        return self.true_positives + self.false_negatives

    @property
    def precision(self) -> float | None:
        """TP / (TP + FP), None where nothing was predicted."""
        predicted = self.true_positives + self.false_positives
        return self.true_positives / predicted if predicted else None

    @property
    def recall(self) -> float | None:
        """TP / (TP + FN), None where no coder gave the code."""
        return self.true_positives / self.support if self.support else None

    @property
    def f1(self) -> float | None:
        """2TP / (2TP + FP + FN), None where the code is neither given nor predicted."""
        return f1_of(self.true_positives, self.false_positives, self.false_negatives)


@dataclass(frozen=True, slots=True)
class ErrorRow:
    """A false positive, with its cues and its strongest passage (empty without text)."""

    hadm_id: str
    address: str
    code: str
    title: str
    probability: float
    cues: tuple[str, ...]
    snippet: str


@dataclass(slots=True)
class Tally:
    """What the index needs of the pages; grows while they are written."""

    rows: list[AdmissionRow] = field(default_factory=list)
    errors: list[ErrorRow] = field(default_factory=list)
    titles: dict[str, str] = field(default_factory=dict)
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    cues: dict[str, Counter[str]] = field(default_factory=dict)

    def add(self, page: ReportPage, file: str, *, text: bool = True) -> None:
        """Count a page that was written to the file."""
        here: Counter[str] = Counter()
        breaks = words_of(page).breaks
        for view in page.codes:
            self.titles.setdefault(view.code, view.title)
            self.counts.setdefault(view.code, Counter())[view.outcome] += 1
            kinds = tuple(dict.fromkeys(cue.kind for cue in view.notes.cues))
            if view.outcome in ("FP", "predicted"):
                here.update(kinds)
            if view.outcome != "FP":
                continue
            self.cues.setdefault(view.code, Counter()).update(kinds)
            snippet = _snippet(page, view, breaks) if text else ""
            address = f"{file}#c={view.code}&e=1"
            self.errors.append(ErrorRow(page.hadm_id, address, view.code, view.title, view.probability, kinds, snippet))
        found = [x for x in (_overlap(view) for view in page.codes) if x is not None]
        self.rows.append(admission_row(page, file, sum(found) / len(found) if found else None, here))

    def codes(self) -> list[CodeRow]:
        """One row per code, most frequent first."""
        rows = []
        for code, title in self.titles.items():
            tp, fp, fn = (self.counts[code][outcome] for outcome in ("TP", "FP", "FN"))
            top = tuple(kind for kind, _ in self.cues.get(code, Counter()).most_common(3))
            rows.append(CodeRow(code, title, tp, fp, fn, top))
        return sorted(rows, key=lambda r: (-r.support, r.code))


def _snippet(page: ReportPage, view: CodeView, breaks: bytes) -> str:
    """About SNIPPET characters of the strongest passage, around its peak word, cut between words."""
    found = strongest_passage(view, breaks)
    if found is None:
        return ""
    first, last, peak = found
    low = high = peak
    while (low, high) != (first, last):
        wider = max(low - 1, first), min(high + 1, last)
        if page.words[wider[1]][1] - page.words[wider[0]][0] > SNIPPET:
            break
        low, high = wider
    words = " ".join(page.text[page.words[low][0] : page.words[high][1]].split())
    return (
        f"{'… ' if low > first else ''}{words[: 2 * SNIPPET]}{' …' if high < last or len(words) > 2 * SNIPPET else ''}"
    )


def _overlap(view: CodeView) -> float | None:
    shares = overlap_at(view) if view.scores and view.layers else []
    return float(shares[0]) if len(shares) else None


def admission_row(
    page: ReportPage, file: str, overlap: float | None = None, cues: Mapping[str, int] | None = None
) -> AdmissionRow:
    """The index's row of a page."""
    outcomes: tuple[Outcome, ...] = ("TP", "FP", "FN")
    true_positives, false_positives, false_negatives = (
        page.count(outcome) if page.gold_known else None for outcome in outcomes
    )
    return AdmissionRow(
        hadm_id=page.hadm_id,
        file=file,
        split=page.split or "",
        predicted=sum(view.predicted for view in page.codes),
        true_positives=true_positives,
        false_positives=false_positives,
        false_negatives=false_negatives,
        words=len(page.words),
        unseen=len(page.unseen),
        overlap=overlap,
        cue=max(cues, key=lambda kind: (cues[kind], kind)) if cues else "",
        evidence=any(view.evidence for view in page.codes),
        after_last_chunk=any(reason == "after the last chunk" for _, _, reason in page.unseen),
    )


def render_index(tally: Tally, run: RunHeader) -> str:
    """The HTML of the index, the same bytes for the same rows."""
    known = any(row.true_positives is not None for row in tally.rows)
    tables = [_admissions(tally.rows, known)]
    if known:
        tables += [_codes(tally.codes()), *([_errors(tally.errors)] if tally.errors else [])]
    style = asset("report.css") + asset("index.css")
    script = asset("index.js")
    return (
        environment()
        .get_template("index.html.j2")
        .render(
            run=run,
            tables=tables,
            data=table_data(tables),
            most=ROWS,
            heat=_heat(tally) if known and tally.errors else None,
            curves=curve_paths(run.curves),
            style=style,
            script=script,
            policy=content_policy(style, script),
            outcome_text=OUTCOME_TEXT,
        )
    )


def _admissions(rows: Sequence[AdmissionRow], known: bool) -> Table:
    columns = [Column("Admission", "link"), Column("Split", "text"), Column("Predicted", "num")]
    if known:
        columns += [Column("TP", "num", "true positives"), Column("FP", "num", "false positives")]
        columns += [Column("FN", "num", "false negatives"), Column("F1", "real", "F1 of this admission")]
    columns += [Column("Words read", "num"), Column("Not seen", "num", "pieces of the note that the model did not see")]
    with_overlap, with_cues = any(r.overlap is not None for r in rows), any(r.cue for r in rows)
    columns += [
        Column("Overlap", "real", "share of attention's 20 highest words that the next method has too")
    ] * with_overlap
    columns += [Column("Top cue", "text", "most frequent cue of its false positives")] * with_cues
    cells = []
    for r in rows:
        counts = (r.true_positives, r.false_positives, r.false_negatives, _rounded(r.f1)) if known else ()
        more = ((_rounded(r.overlap),) if with_overlap else ()) + ((r.cue.replace("_", " "),) if with_cues else ())
        cells.append(((r.hadm_id, r.file), r.split, r.predicted, *counts, r.words, r.unseen, *more))
    flags = {
        "With false positives": [bool(r.false_positives) for r in rows],
        "Cut at the last chunk": [r.after_last_chunk for r in rows],
        "With known evidence": [r.evidence for r in rows],
    }
    return Table("t-admissions", "Admissions", tuple(columns), tuple(cells), kept_flags(flags))


def _codes(rows: Sequence[CodeRow]) -> Table:
    columns = (
        Column("Code", "text"), Column("Title", "text"), Column("Support", "num", "admissions that the coders gave the code"),
        Column("TP", "num"), Column("FP", "num"), Column("FN", "num"), Column("Precision", "real"), Column("Recall", "real"),
        Column("F1", "real"), Column("Cues of its false positives", "text"),
    )  # fmt: skip
    cells = tuple(
        (r.code, r.title, r.support, r.true_positives, r.false_positives, r.false_negatives, _rounded(r.precision),
         _rounded(r.recall), _rounded(r.f1), ", ".join(r.cues).replace("_", " "))
        for r in rows
    )  # fmt: skip
    hint = (
        "Counted over the admissions listed above. A dash stands where a number is not defined: no prediction (precision), "
        "no admission with the code (recall), neither (F1)."
    )
    flags = kept_flags({"With false positives": [bool(r.false_positives) for r in rows]})
    return Table("t-codes", "Codes", columns, cells, flags, hint)


def _errors(rows: Sequence[ErrorRow]) -> Table:
    with_text = any(r.snippet for r in rows)
    columns = (
        Column("Admission", "link"), Column("Code", "text"), Column("Title", "text"), Column("p", "real", "probability"),
        Column("Cues", "text"), *([Column("Strongest passage", "text")] if with_text else []),
    )  # fmt: skip
    cells = tuple(
        ((r.hadm_id, r.address), r.code, r.title, _rounded(r.probability), ", ".join(r.cues).replace("_", " "),
         *((r.snippet,) if with_text else ()))
        for r in rows
    )  # fmt: skip
    hint = "Codes that the model gives and the coders did not. Cues are reasons to look, not verdicts."
    return Table("t-errors", "False positives", columns, cells, (), hint)


def _heat(tally: Tally) -> dict[str, Any]:
    """False positives by code and cue: counts with a shade from 0 to 8."""
    totals = Counter(row.code for row in tally.errors)
    kinds = Counter(kind for counts in tally.cues.values() for kind in counts.elements())
    names = [kind for kind, _ in kinds.most_common()]
    most = max((n for counts in tally.cues.values() for n in counts.values()), default=0)
    rows = [
        (
            code,
            tally.titles[code],
            n,
            [(tally.cues[code][k], -(-8 * tally.cues[code][k] // max(1, most))) for k in names],
        )
        for code, n in totals.most_common()
    ]
    return {"kinds": [name.replace("_", " ") for name in names], "rows": rows}


def curve_paths(curves: Sequence[MeanCurve]) -> list[dict[str, str]]:
    """SVG paths of the mean curves and their intervals, in a box of 400 by 200."""

    def path(xs: Sequence[float], ys: Sequence[float]) -> str:
        return "L".join(f"{40 + 350 * x:.1f} {180 - 170 * y:.1f}" for x, y in zip(xs, ys, strict=True))

    return [
        {
            "method": curve.method.replace("_", " "),
            "line": "M" + path(curve.fractions, curve.mean),
            "band": f"M{path(curve.fractions, curve.low)}L{path(curve.fractions[::-1], curve.high[::-1])}Z",
        }
        for curve in curves
    ]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def f1_of(tp: int | None, fp: int | None, fn: int | None) -> float | None:
    """2TP / (2TP + FP + FN); None where a count is unknown or all are 0."""
    if tp is None or fp is None or fn is None or tp + fp + fn == 0:
        return None
    return 2 * tp / (2 * tp + fp + fn)

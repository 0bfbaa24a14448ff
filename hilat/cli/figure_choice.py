"""What the figure commands share: where a figure goes, which pairs it shows, and what is read for it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hilat.admissions import HilatError
from hilat.cli.console import emit_json, out

if TYPE_CHECKING:
    from explain.cases import Case
    from explain.rows import Curve, Row
    from explain.table import Explained
    from hilat.admissions import Admission, CodeBook
    from reports.figures.panels import Choice, CueLine, Panel
    from reports.figures.saving import Drawing

Pair = tuple[str, str]
_SEARCHED = 60  # admissions that are searched for a true positive with weak evidence
_NAMED = 8  # names that an error lists of a long list


@dataclass(frozen=True, slots=True)
class Output:
    """Where a figure goes, in which formats, how wide, and how the command answers."""

    path: Path
    formats: tuple[str, ...]
    width_mm: float
    overwrite: bool
    json: bool


def output_of(path: Path, formats: str, width: str, overwrite: bool, json: bool) -> Output:
    """The checked options; an existing file is told before any work is done."""
    from reports.figures.saving import checked_formats, paths_of

    checked = checked_formats(formats)
    files, caption = paths_of(path, checked)
    there = [file for file in (*files.values(), caption) if file.exists()]
    if there and not overwrite:
        raise HilatError(f"{there[0]} exists already; expected new files. Choose another --out or pass --overwrite")
    return Output(path, checked, width_of(width), overwrite, json)


def width_of(text: str) -> float:
    """Millimetres of "85mm", "8.5cm", "3.35in" or "85". Raises HilatError for anything else, or under 60 or over 600 mm."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(mm|cm|in|)\s*", text)
    value = float(match[1]) * {"": 1.0, "mm": 1.0, "cm": 10.0, "in": 25.4}[match[2]] if match else 0.0
    if not 60.0 <= value <= 600.0:
        raise HilatError(
            f"--width {text} was given; expected 60 to 600 mm, as 85mm, 8.5cm or 3.35in. One column of a journal is about "
            "85mm, both are 170mm"
        )
    return value


def finish(drawing: Drawing, output: Output, manifest: dict[str, Any]) -> None:
    """Save the drawing and say where; data count as restricted unless the corpus is the planted one."""
    from reports.figures.saving import save

    synthetic = manifest.get("source") == "planted"
    files = save(drawing, output.path, formats=output.formats, synthetic=synthetic, overwrite=output.overwrite)
    if output.json:
        emit_json({"files": [str(path) for path in files], "title": drawing.title, "caption": list(drawing.caption)})
    else:
        out.print(f"{drawing.title}: {', '.join(str(path) for path in files)}", soft_wrap=True, markup=False)


def listed(text: str | None) -> list[str]:
    """Names with commas between."""
    return list(dict.fromkeys(part.strip() for part in (text or "").split(",") if part.strip()))


def choice_of(method: str, manifest: dict[str, Any], explanations: Path, words: int, passages: int, scale: str) -> Choice:  # fmt: skip
    """How panels are drawn, by at most one method that fills words and one signed method that underlines them."""
    import pyarrow.parquet as pq

    from reports.figures.panels import Choice

    if scale not in ("code", "common"):
        raise HilatError(f"--scale {scale} was given; expected code or common. Choose one of them")
    table = pq.read_table(explanations / "methods.parquet", columns=["method", "signed"])
    signed = dict(zip(table["method"].to_pylist(), table["signed"].to_pylist(), strict=True))
    asked = listed(method)
    unknown = [name for name in asked if name not in signed]
    if unknown or not asked:
        raise HilatError(
            f"method {unknown[0] if unknown else method!r} is not in {explanations}; it has "
            f"{', '.join(manifest['methods'])}. Correct --method, or explain again"
        )
    fills, lines = ([name for name in asked if signed[name] == kind] for kind in (False, True))
    if len(fills) > 1 or len(lines) > 1:
        raise HilatError(
            f"--method {method} was given; expected at most one method that is signed and one that is not (signed here: "
            f"{', '.join(name for name, is_signed in signed.items() if is_signed) or 'none'}). Draw two figures"
        )
    return Choice("".join(fills), "".join(lines), words, passages, "common" if scale == "common" else "code")


@dataclass(frozen=True, slots=True)
class Candidate:
    """An explained pair. outcome: TP, FP, FN, TN; "" where the coders' codes are unknown."""

    hadm_id: str
    code: str
    outcome: str
    logit: float
    margin: float


def candidates(explanations: Path, admissions: Sequence[str], codes: Sequence[str]) -> list[Candidate]:
    """The explained pairs of these admissions and codes (all where none is named), in the order of the folder.

    Raises:
        HilatError: an admission or code that was not explained, or none together.
    """
    import pyarrow.parquet as pq

    from explain.rows import outcome_of

    scored = pq.read_table(explanations / "methods.parquet", columns=["hadm_id", "code"])
    there = set(zip(scored["hadm_id"].to_pylist(), scored["code"].to_pylist(), strict=True))
    for what, asked, known in (
        ("admission", admissions, sorted({hadm_id for hadm_id, _ in there})),
        ("code", codes, sorted({code for _, code in there})),
    ):
        wrong = [name for name in asked if name not in known]
        if wrong:
            more = f" and {len(known) - _NAMED} more" if what == "admission" and len(known) > _NAMED else ""
            shown = known[:_NAMED] if more else known
            raise HilatError(
                f"{what} {wrong[0]} was not explained in {explanations}; explained were {', '.join(shown) or 'none'}{more}. "
                f"Correct --{what}s, or explain it"
            )
    names = ["hadm_id", "code", "predicted", "gold", "logit", "probability", "threshold"]
    rows = pq.read_table(explanations / "pairs.parquet", columns=names).to_pylist()
    found = [
        Candidate(
            r["hadm_id"], r["code"], outcome_of(r["predicted"], r["gold"]), r["logit"], r["probability"] - r["threshold"]
        )
        for r in rows
        if (r["hadm_id"], r["code"]) in there
        and (not admissions or r["hadm_id"] in admissions)
        and (not codes or r["code"] in codes)
    ]  # fmt: skip
    if not found:
        raise HilatError(
            f"no explained pair has one of these admissions and one of these codes in {explanations}; expected one or more. "
            "Name other --admissions or --codes, or explain with --codes all"
        )
    return found


def chosen_text(found: Sequence[Candidate], admissions: Sequence[str], codes: Sequence[str], count: int) -> list[Pair]:
    """Pairs of one admission: the named codes in that order, or its strongest true positives (any pair where it has none).

    The admission is the one with the most true positives, unless admissions are named: then they are all drawn from.
    """
    if codes:
        mine = list(found) if admissions else _most_of(found, lambda one: 1 + (one.outcome == "TP"))
        mine.sort(key=lambda one: codes.index(one.code))
        return [(one.hadm_id, one.code) for one in mine]
    hits = [one for one in found if one.outcome == "TP"] or [one for one in found if one.margin >= 0] or list(found)
    best = hits if admissions else _most_of(hits, lambda _: 1)
    return [(one.hadm_id, one.code) for one in sorted(best, key=lambda one: -one.logit)[:count]]


def _most_of(found: Sequence[Candidate], worth: Callable[[Candidate], int]) -> list[Candidate]:
    """The pairs of the admission whose pairs are worth most together; the first such admission."""
    by: dict[str, list[Candidate]] = {}
    for one in found:
        by.setdefault(one.hadm_id, []).append(one)
    return max(by.values(), key=lambda part: sum(worth(one) for one in part))


def chosen_worked(explanations: Path, found: Sequence[Candidate], named: bool) -> Pair:
    """The pair of a worked example: the named one's first, else the true positive whose strongest chunk has nearest to 60 %
    of the chunk attention, so that the product of equation 10 shows."""
    import pyarrow.parquet as pq

    hits = {(one.hadm_id, one.code) for one in found if one.outcome in ("TP", "")}
    if named or not hits:
        return found[0].hadm_id, found[0].code
    rows = pq.read_table(explanations / "pairs.parquet", columns=["hadm_id", "code", "chunk_attention"]).to_pylist()
    away = {
        (r["hadm_id"], r["code"]): abs(max(r["chunk_attention"] or [1.0]) - 0.6)
        for r in rows
        if (r["hadm_id"], r["code"]) in hits
    }
    return min(away, key=lambda pair: away[pair])


def chosen_errors(found: Sequence[Candidate], named: bool, count: int) -> list[Pair]:
    """False positives by falling logit, a code once before any comes twice; where codes are named, all their pairs that
    are false positives, or simply all if none is."""
    wrong = sorted((one for one in found if one.outcome == "FP"), key=lambda one: -one.logit)
    if named:
        return [(one.hadm_id, one.code) for one in (wrong or list(found))]
    seen: dict[str, int] = {}
    turns = []
    for one in wrong:
        seen[one.code] = seen.get(one.code, 0) + 1
        turns.append((seen[one.code], one))
    return [(one.hadm_id, one.code) for _, one in sorted(turns, key=lambda turn: turn[0])[:count]]


@dataclass(frozen=True)
class Notes:
    """What panels are made from: explanations, admissions by id, the code book of the label set."""

    explanations: Path
    manifest: dict[str, Any]
    known: dict[str, Admission]
    book: CodeBook

    def explained(self, ids: Sequence[str] | None = None) -> Iterator[tuple[Explained, Admission]]:
        """The explained admissions with their texts."""
        from explain.table import read_explanations
        from hilat.cli.measured import known_admission

        for one in read_explanations(self.explanations, ids):
            yield one, known_admission(self.known, one.hadm_id)

    def panels(self, pairs: Sequence[Pair], choice: Choice) -> list[Panel]:
        """The panels of the pairs, in their order, without cues."""
        from reports.figures.panels import panel_of

        made = {}
        for one, admission in self.explained([hadm_id for hadm_id, _ in pairs]):
            for pair in pairs:
                if pair[0] == one.hadm_id:
                    made[pair] = panel_of(one, admission, self.book, pair[1], choice)
        return [made[pair] for pair in pairs]

    def cases(self, ids: Sequence[str], language: str, method: str) -> Iterator[tuple[Explained, Admission, Case]]:
        """Every explained pair of these admissions as a reviewer meets it."""
        from explain.cases import find_cases
        from explain.cues import CaseOptions
        from explain.keywords import keyword_sets
        from hilat.cli.keywords import sources_of

        words = keyword_sets(self.book, sources_of(self.book, None, {}, True, language))
        for one, admission in self.explained(ids):
            for case in find_cases(one, admission, words, self.book, CaseOptions(language=language), method):
                yield one, admission, case


def read_notes(explanations: Path, corpus: Path) -> Notes:
    """Manifest, admissions of the split that was explained, and the code book."""
    from explain.table import read_manifest
    from hilat.corpora import read_corpus

    manifest = read_manifest(explanations)
    data = read_corpus(corpus, splits=[str(manifest["split"])])
    book = data.code_book.restricted_to(manifest["label_set"])
    return Notes(explanations, manifest, {a.hadm_id: a for a in data.admissions}, book)


def error_panels(notes: Notes, pairs: Sequence[Pair], choice: Choice, language: str) -> list[Panel]:
    """The panels of the pairs with their cues."""
    from reports.figures.panels import panel_of

    made = {}
    for one, admission, case in notes.cases([hadm_id for hadm_id, _ in pairs], language, choice.methods[0]):
        if (case.hadm_id, case.code) in pairs:
            cues = cue_lines(case, admission.text)
            made[case.hadm_id, case.code] = panel_of(one, admission, notes.book, case.code, choice, cues)
    return [made[pair] for pair in pairs]


def weak_panel(notes: Notes, found: Sequence[Candidate], choice: Choice, language: str) -> list[Panel]:
    """The surest true positive whose strong passages hold neither a description word nor evidence; [] where none is
    among the admissions of the surest ones."""
    from reports.figures.panels import panel_of

    sure = sorted((one for one in found if one.outcome == "TP"), key=lambda one: -one.logit)
    ids = list(dict.fromkeys(one.hadm_id for one in sure))[:_SEARCHED]
    weak = [(case.probability, one, admission, case) for one, admission, case in notes.cases(ids, language, choice.methods[0]) if case.weak]  # fmt: skip
    if not weak:
        return []
    _, one, admission, case = max(weak, key=lambda part: part[0])
    return [panel_of(one, admission, notes.book, case.code, choice, cue_lines(case, admission.text))]


def cue_lines(case: Case, text: str) -> list[CueLine]:
    """The cues of a case, those of its strongest passage first; of a hit only that its evidence is weak."""
    from reports.figures.panels import CueLine

    if case.outcome == "TP":
        says = "rightly given, but no word of the description and no evidence is among the strongest passages"
        return [CueLine("weak evidence", says)] if case.weak else []
    order = sorted(case.cues, key=lambda cue: {0: 0, None: 1}.get(cue.passage, 2))
    lines = []
    for cue in order:
        if cue.start < 0 or cue.kind == "section":  # the section's words are the peak itself
            lines.append(CueLine(cue.kind, cue.says))
        else:
            lines.append(CueLine(cue.kind, cue.says, text[cue.start : cue.end], cue.start, cue.end))
    return list(dict.fromkeys(lines))


def read_rows(folder: Path, metric: str) -> list[Row]:
    """The rows of one measure of a folder of measures.

    Raises:
        HilatError: a folder that is none.
    """
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from explain.result import Value
    from explain.rows import Row

    path = folder / "rows.parquet"
    if not path.exists():
        raise HilatError(
            f"{folder} holds no rows.parquet; expected a folder that --out of `hilat agreement` wrote. Correct --measures"
        )
    table = pq.read_table(path)
    table = table.filter(pc.equal(table["metric"], metric))
    return [
        Row(
            row["hadm_id"], row["code"], row["outcome"], row["method"], row["metric"],
            Value(math.nan if row["value"] is None else row["value"], row["reason"]),
        )
        for row in table.to_pylist()
    ]  # fmt: skip


def read_chosen_curves(folder: Path, pairs: str, wanted: tuple[list[str], list[str], list[str]]) -> list[Curve]:
    """Curves of a group of pairs; wanted: admissions, codes and methods, none named for all.

    Raises:
        HilatError: a folder without curves, an unknown group, or a name that no curve has.
    """
    import pyarrow.parquet as pq

    from explain.judging import GROUPS
    from explain.rows import read_curves

    if pairs not in GROUPS:
        raise HilatError(f"there are no pairs {pairs!r}; expected one of {', '.join(GROUPS)}. Correct --pairs")
    curves = read_curves(folder)
    if not curves:
        raise HilatError(
            f"{folder} holds no curves; expected the folder that --out of `hilat faithfulness` wrote. Correct --measures"
        )
    for what, asked, known in zip(
        ("admissions", "codes", "method"), wanted,
        ({c.hadm_id for c in curves}, {c.code for c in curves}, {c.method for c in curves}), strict=True,
    ):  # fmt: skip
        wrong = [name for name in asked if name not in known]
        if wrong:
            raise HilatError(
                f"{folder} has no curve for {wrong[0]}; it has {', '.join(sorted(known))}. Correct --{what}"
            )
    rows = pq.read_table(folder / "rows.parquet", columns=["hadm_id", "code", "outcome"]).to_pylist()
    outcome = {(row["hadm_id"], row["code"]): row["outcome"] for row in rows}
    group = None if wanted[0] or wanted[1] else GROUPS[pairs]
    return [
        c for c in curves
        if all(not asked or name in asked for asked, name in zip(wanted, (c.hadm_id, c.code, c.method), strict=True))
        and (group is None or outcome.get((c.hadm_id, c.code)) in group)
    ]  # fmt: skip

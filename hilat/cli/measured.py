"""What the commands that judge explanations share: reading them, summing rows up, the printed table."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial as bind
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hilat.admissions import HilatError
from hilat.cli.console import emit_json, out, progress, say, table
from hilat.processes import ALONE, Processes

Kind = Literal["percentile", "bca"]

if TYPE_CHECKING:
    from explain.rows import MeasuredNote, Row, Summary
    from explain.table import Explained
    from hilat.admissions import Admission


def admissions_of(explanations: Path, corpus: Path) -> tuple[dict[str, Admission], dict[str, Any]]:
    """The admissions of the split that was explained, by id, and the manifest of the explanations."""
    from explain.table import read_manifest
    from hilat.corpora import read_corpus

    manifest = read_manifest(explanations)
    data = read_corpus(corpus, splits=[str(manifest["split"])])
    return {admission.hadm_id: admission for admission in data.admissions}, manifest


def known_admission(admissions: Mapping[str, Admission], hadm_id: str) -> Admission:
    """The admission of this id; HilatError when the corpus does not hold it."""
    if hadm_id not in admissions:
        raise HilatError(
            f"admission {hadm_id} was explained and is not in the corpus; expected the corpus that was explained. Give that one"
        )
    return admissions[hadm_id]


def each_explained(
    explanations: Path, manifest: Mapping[str, Any], what: str, most: int = 0, processes: Processes = ALONE
) -> Iterator[Explained]:
    """The explained admissions with a progress bar; only the first `most` when that is above 0.

    Of several processes each gets its share, every so-manieth, and the first shows the bar of its own.
    """
    from explain.table import read_explanations

    total = min(most or int(manifest["admissions"]), int(manifest["admissions"]))
    stream = islice(read_explanations(explanations), processes.rank, total, processes.count)
    if not processes.first:
        return stream
    title = what if processes.count == 1 else f"{what}, process 1 of {processes.count}"
    return progress(stream, len(range(0, total, processes.count)), title)


def each_measured(
    each: Callable[[Processes], Iterator[Explained]],
    measure: Callable[[Explained], MeasuredNote],
    partial: Path | None,
    processes: Processes,
) -> Iterator[tuple[Explained, MeasuredNote]]:
    """Every explained admission with what `measure` gives, kept in the folder `partial` (see `explain.resuming`).

    Several processes first measure and keep their shares; then the first reads all of them back, and the others get none.
    each: gives the admissions of the processes it is called with.
    """
    from explain.resuming import kept

    if processes.count > 1:
        for one in each(processes):
            kept(partial, one.hadm_id, bind(measure, one))
        processes.wait()
    if processes.first:
        for one in each(ALONE):
            yield one, kept(partial, one.hadm_id, bind(measure, one))


def group_of(groups: Mapping[str, list[Row]], name: str) -> list[Row]:
    """The rows of the named group of pairs."""
    if name not in groups:
        raise HilatError(
            f"there are no pairs {name!r}; there are {', '.join(groups) or 'none'}. Choose one with --pairs"
        )
    return groups[name]


@dataclass(frozen=True, slots=True)
class View:
    """What a command shows and keeps: the pairs and measures of the printed table, the seed, and where all of it goes."""

    pairs: str
    measures: tuple[str, ...]
    seed: int
    folder: Path | None
    overwrite: bool
    json: bool
    by_code: str = ""
    interval: Kind = "percentile"


def checked_view(
    directions: Mapping[str, bool],
    shown: tuple[str, str],
    seed: int,
    where: tuple[Path | None, bool, bool],
    by_code: str = "",
    interval: str = "percentile",
) -> View:
    """The view of a command, checked before any work is done. shown: --pairs and --show; where: --out, --overwrite, --json.

    Raises:
        HilatError: for unknown pairs, measures or kind of interval, or a folder that is there and is not to be replaced.
    """
    from explain.judging import GROUPS

    (pairs, show), (folder, overwrite, json) = shown, where
    if pairs not in GROUPS:
        raise HilatError(f"there are no pairs {pairs!r}; expected one of {', '.join(GROUPS)}. Correct --pairs")
    asked = list(directions) if show == "all" else [name.strip() for name in show.split(",") if name.strip()]
    unknown = [name for name in [*asked, *([by_code] if by_code else [])] if name not in directions]
    if unknown:
        raise HilatError(
            f"measure {unknown[0]!r} is not known; expected some of {', '.join(directions)}. Correct --show or --by-code"
        )
    if interval not in ("percentile", "bca"):
        raise HilatError(f"--interval is {interval!r}; expected percentile or bca. Choose one of them")
    kind: Kind = "bca" if interval == "bca" else "percentile"
    if folder is not None and folder.exists() and not overwrite:
        raise HilatError(f"{folder} exists; expected a new folder. Give another --out, or --overwrite to replace it")
    return View(
        pairs, tuple(name for name in directions if name in asked), seed, folder, overwrite, json, by_code, kind
    )


def summed(
    kind: str,
    rows: Sequence[Row],
    directions: Mapping[str, bool],
    view: View,
    manifest: Mapping[str, Any],
    extra: Mapping[str, Callable[[Path], None]] | None = None,
) -> dict[str, list[Summary]]:
    """Summaries by group of pairs (all groups where they are kept or emitted); written to the view's folder.

    extra: further files of the folder, by name, and what writes each.
    """
    from explain.judging import groups_of
    from explain.rows import summarise, write_rows

    groups = groups_of(rows)
    group_of(groups, view.pairs)
    keep_all = view.folder is not None or view.json
    summaries = {
        name: summarise(part, directions, seed=view.seed, kind=view.interval)
        for name, part in groups.items()
        if keep_all or name == view.pairs
    }
    if view.folder is not None:
        said = {**manifest, "measure": kind, "interval": f"95 %, {view.interval}, over admissions"}
        write_rows(view.folder, rows, summaries, said, overwrite=view.overwrite, extra=extra)
        say(f"rows and summaries: {view.folder}")
    return summaries


def tell(
    title: str,
    kind: str,
    rows: Sequence[Row],
    directions: Mapping[str, bool],
    view: View,
    manifest: Mapping[str, Any],
    extra: Mapping[str, Callable[[Path], None]] | None = None,
) -> None:
    """Sum up, keep, and print or emit; extra: as for `summed`."""
    from explain.judging import groups_of

    summaries = summed(kind, rows, directions, view, manifest, extra)
    if view.json:
        emit_json({kind: {name: [asdict(cell) for cell in cells] for name, cells in summaries.items()}})
        return
    print_table(title, view.pairs, groups_of(rows)[view.pairs], summaries[view.pairs], view.measures)
    if view.by_code:
        print_by_code([row for row in groups_of(rows)[view.pairs] if row.metric == view.by_code], directions, view)


def print_by_code(rows: Sequence[Row], directions: Mapping[str, bool], view: View) -> None:
    """One measure, codes by methods, most frequent codes first."""
    from explain.rows import summarise_by_code

    found = summarise_by_code(rows, directions, seed=view.seed, kind=view.interval)
    methods = list(dict.fromkeys(row.method for row in rows))
    arrow = "↑" if directions[view.by_code] else "↓"
    table(
        f"{view.by_code.replace('_', ' ')} {arrow} by code · {view.pairs} · mean, ± half of its 95 % interval",
        ("code", "pairs", *methods),
        [
            (
                code,
                str(cells[0].interval.n + cells[0].interval.missing),
                *(cell_text(cell).replace("\n", " ") for cell in cells),
            )
            for code, cells in found.items()
        ],
    )
    if len(methods) > 1:
        out.print(
            f"* differs from {methods[0]} (paired randomisation over admissions, Benjamini-Hochberg over this table, 0.05)"
        )


def print_table(title: str, pairs: str, rows: Sequence[Row], cells: Iterable[Summary], wanted: Sequence[str]) -> None:
    """Methods by measures, with intervals, stars, and why values are missing."""
    by = {(cell.method, cell.metric): cell for cell in cells}
    methods = list(dict.fromkeys(row.method for row in rows))
    n = len({(row.hadm_id, row.code) for row in rows})
    notes = len({row.hadm_id for row in rows})
    ups = {metric: by[methods[0], metric].up for metric in wanted}
    table(
        f"{title} · {pairs}: {n} pairs in {notes} admissions · mean, ± half of its 95 % interval over admissions",
        ("method", *(f"{name.replace('_', ' ')} {'↑' if ups[name] else '↓'}" for name in wanted)),
        [(method, *(cell_text(by[method, name]) for name in wanted)) for method in methods],
    )
    if len(methods) > 1:
        out.print(f"* differs from {methods[0]} (paired randomisation over admissions, Holm over the table, p < 0.05)")
    missing = {
        name: (by[method, name].interval.missing, by[method, name].reasons)
        for method in methods[:1]
        for name in wanted
        if by[method, name].interval.missing
    }
    for name, (count, reasons) in missing.items():
        why = ", ".join(f"{reason} ({times})" for reason, times in reasons.items())
        out.print(f"{name}: {count} of {n} pairs undefined for {methods[0]}: {why}", style="dim", soft_wrap=True)


def cell_text(cell: Summary) -> str:
    """A mean with its interval, and a star where it differs from the first method's."""
    span = cell.interval
    if not math.isfinite(span.estimate):
        return "–"
    star = "*" if math.isfinite(cell.p_corrected) and cell.p_corrected < 0.05 else ""
    if not math.isfinite(span.low):
        return f"{span.estimate:.3f}{star}"
    return f"{span.estimate:.3f}{star}\n±{(span.high - span.low) / 2:.3f}"

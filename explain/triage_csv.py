"""Triage tables: a CSV file per reviewer, with empty columns for verdict, cues and comment, safe to open in a spreadsheet."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from explain.cues import Cue
from explain.triage import Drawn, ListedCase, Pair
from hilat.admissions import HilatError

FILLED = ("verdict", "cues", "comment")
# "case" is the key: a spreadsheet would read the code 038.9 as the number 38.9 and 250.00 as 250.
COLUMNS = ("case", "reviewer", "hadm_id", "code", "title", "outcome", "weak", "probability", "threshold", "page", "cues_shown", *FILLED, "why")  # fmt: skip
BETWEEN = "|"
CONTEXT = 60  # characters of the note on each side of a passage
_ACTIVE = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True, slots=True)
class Beside:
    """What stands beside the study's own columns. texts: hadm_id -> raw note, empty for a table without note text.
    titles: code -> title. page: (hadm_id, code) -> address of the admission's page, "" where there is none."""

    texts: Mapping[str, str] = field(default_factory=dict)
    titles: Mapping[str, str] = field(default_factory=dict)
    page: Callable[[str, str], str] = lambda hadm_id, code: ""  # noqa: ARG005 (the signature)


def case_key(pair: Pair) -> str:
    """(hadm_id, code) as one cell that no spreadsheet takes for a number."""
    return BETWEEN.join(pair)


def inert(cell: str) -> str:
    """The cell with an apostrophe in front where a spreadsheet would take it for a formula (OWASP, "CSV Injection")."""
    return f"'{cell}" if cell.startswith(_ACTIVE) else cell


def plain(cell: str) -> str:
    """What stood in a cell before `inert`, without the spaces around it."""
    cell = cell.strip()
    return cell[1:] if cell[:1] == "'" and cell[1:].startswith(_ACTIVE) else cell


def write_triage(
    path: Path, reviewer: str, drawn: Sequence[Drawn], cases: Mapping[Pair, ListedCase], beside: Beside = Beside()
) -> int:
    """Write the reviewer's cases as CSV, readable by the owner only, and return how many there are.

    Rows are in the order of the study, so that the cases of one note are together. Columns: COLUMNS, then per strong
    passage its section, its share of the scores and, where texts are known, the passage between » « with what stands
    around it. UTF-8 with a byte order mark, without which a spreadsheet misreads accents.
    """
    mine = [cases[case.pair] for case in drawn if reviewer in case.reviewers]
    most = max((len(case.passages) for case in cases.values()), default=0)
    parts = ("section", "share", "text") if beside.texts else ("section", "share")
    header = [*COLUMNS, *(f"{part}_{n}" for n in range(1, most + 1) for part in parts)]
    try:
        with open(
            os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8-sig", newline=""
        ) as file:
            writer = csv.writer(file)
            writer.writerow(header)
            for case in mine:
                cells = [*_cells(case, reviewer, beside), *_passages(case, most, beside)]
                writer.writerow([inert(cell) for cell in cells])
    except OSError as error:
        raise HilatError(f"cannot write {path}: {error.strerror}; free space or choose another folder") from None
    return len(mine)


def _cells(case: ListedCase, reviewer: str, beside: Beside) -> list[str]:
    text = beside.texts.get(case.hadm_id, "")
    return [
        case_key(case.pair),
        reviewer,
        case.hadm_id,
        case.code,
        beside.titles.get(case.code, ""),
        case.outcome,
        "yes" if case.weak else "",
        f"{case.probability:.3f}",
        f"{case.threshold:.3f}",
        beside.page(case.hadm_id, case.code),
        ", ".join(case.kinds),
        *("" for _ in FILLED),
        "; ".join(dict.fromkeys(_why(cue, text) for cue in case.cues)),
    ]


def _why(cue: Cue, text: str) -> str:
    words = f" »{_line(text[cue.start : cue.end])}«" if text and cue.start >= 0 else ""
    where = "" if cue.passage is None else f" (passage {cue.passage + 1})"
    return f"{cue.kind}: {cue.says}{words}{where}"


def _passages(case: ListedCase, most: int, beside: Beside) -> list[str]:
    text = beside.texts.get(case.hadm_id, "")
    cells = []
    for n in range(most):
        there = n < len(case.passages)
        p = case.passages[n] if there else None
        cells += ["" if p is None else p.section, "" if p is None else f"{p.share:.3f}"]
        if beside.texts:
            cells.append("" if p is None else _shown(text, p.start, p.end))
    return cells


def _shown(text: str, start: int, end: int) -> str:
    """The passage between » «, and up to CONTEXT characters on each side, cut between words."""
    before, after = text[max(0, start - CONTEXT) : start], text[end : end + CONTEXT]
    if start > CONTEXT and " " in before:
        before = f"… {before.split(' ', 1)[1]}"
    if end + CONTEXT < len(text) and " " in after:
        after = f"{after.rsplit(' ', 1)[0]} …"
    return _line(f"{before}»{text[start:end]}«{after}")


def _line(text: str) -> str:
    return " ".join(text.split())

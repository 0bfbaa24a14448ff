"""What reviewers said: verdict files that admission pages saved, and filled triage tables, read strictly.

Messages name the file and the row, never what stands in a cell: a cell out of place could be note text.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from explain.cues import CUES
from explain.triage import ListedCase, Pair
from explain.triage_csv import BETWEEN, FILLED, plain
from hilat.admissions import HilatError
from hilat.files import read_json

VERDICTS = ("model error", "coder omission", "coding rule", "unclear")
FORMAT = 1
_NEEDED = ("case", "reviewer", "cues_shown", *FILLED)
_WORDS = ("hadm_id", "code", "outcome", "verdict", "comment")  # what a page writes of a case
_LISTS = ("cues_shown", "cues")


@dataclass(frozen=True, slots=True)
class Judgement:
    """What one reviewer says of a case. verdict: of VERDICTS, or "" where none was given yet. cues_shown, cues: kinds of
    CUES that were shown, and those that the reviewer confirmed. outcome: as the page showed it, "" from a table.
    source: file, and row where there is one."""

    reviewer: str
    hadm_id: str
    code: str
    outcome: str
    verdict: str
    cues_shown: tuple[str, ...]
    cues: tuple[str, ...]
    comment: str
    source: str

    @property
    def pair(self) -> Pair:
        """(hadm_id, code)."""
        return self.hadm_id, self.code


def verdict_files(given: Sequence[Path]) -> list[Path]:
    """The files among `given`, and of folders among them every triage*.csv and verdicts*.json, by name.

    Raises:
        HilatError: a path that is not there, or no file at all.
    """
    found: list[Path] = []
    for path in map(Path, given):
        if path.is_dir():
            found += sorted(p for pattern in ("triage*.csv", "verdicts*.json") for p in path.glob(pattern))
        elif path.is_file():
            found.append(path)
        else:
            raise HilatError(
                f"{path} does not exist; expected a verdict file, a triage table or a folder of them. Check the path"
            )
    if not found:
        raise HilatError(
            f"{', '.join(map(str, given)) or 'nothing'} holds no triage*.csv and no verdicts*.json; expected at least one. Give "
            "the files by name"
        )
    return list(dict.fromkeys(found))


def read_verdicts(paths: Sequence[Path]) -> tuple[list[Judgement], int]:
    """All judgements in the files, those without a verdict too, and the number of rows of tables that were left blank.

    Raises:
        HilatError: a file that is neither JSON of a page nor a triage table, or a verdict, cue or reviewer that is not known.
    """
    found: list[Judgement] = []
    blank = 0
    for path in map(Path, paths):
        if path.suffix.lower() == ".json":
            found += _of_page(path)
        else:
            rows, empty = _of_table(path)
            found += rows
            blank += empty
    return _same_names(found), blank


def check_verdicts(judgements: Sequence[Judgement], cases: Mapping[Pair, ListedCase]) -> None:
    """Refuse judgements that do not belong to the study's cases, and two of the same case by the same reviewer.

    Raises:
        HilatError: which ones, and where they stand.
    """
    seen: dict[tuple[str, Pair], str] = {}
    for one in judgements:
        if one.pair not in cases:
            raise HilatError(
                f"{one.source}: {_named(one)} is no case of the study; expected one of its {len(cases)} cases. Merge with the "
                "study that the pages or the table were made from, or list more outcomes in it"
            )
        outcome = cases[one.pair].outcome
        if one.outcome not in ("", outcome):
            raise HilatError(
                f"{one.source}: {_named(one)} is {one.outcome} there and {outcome} in the study; expected pages of the explanations "
                "that were studied. Make the pages again, or study their explanations"
            )
        key = (one.reviewer, one.pair)
        if key in seen:
            raise HilatError(
                f"{one.reviewer} judged {_named(one)} twice, in {seen[key]} and in {one.source}; expected one judgement of a case by "
                "a reviewer. Delete one of the two"
            )
        seen[key] = one.source


def _named(one: Judgement) -> str:
    """The case in words, or a stand-in where the cell holds something else."""
    tame = re.fullmatch(r"[\w.:-]{1,40}", one.hadm_id) and re.fullmatch(r"[\w.]{1,12}", one.code)
    return f"admission {one.hadm_id}, code {one.code}," if tame else "its case"


def _same_names(found: Sequence[Judgement]) -> list[Judgement]:
    """A reviewer who writes the name in two ways is one: the first way is kept."""
    first: dict[str, str] = {}
    return [replace(one, reviewer=first.setdefault(one.reviewer.casefold(), one.reviewer)) for one in found]


def _of_page(path: Path) -> list[Judgement]:
    """The judgements in a file that a page saved."""
    given: Any = read_json(path, what="a verdict file that a page saved")
    entries = given.get("verdicts") if isinstance(given, dict) and given.get("format") == FORMAT else None
    reviewer = given.get("reviewer") if isinstance(given, dict) else None
    if not isinstance(entries, list) or not isinstance(reviewer, str) or not reviewer.strip():
        raise HilatError(
            f"{path} is no verdict file of format {FORMAT} with a reviewer; expected one that an admission page saved. Save the "
            "verdicts again"
        )
    found = []
    for number, entry in enumerate(entries, start=1):
        where = f"{path.name}, verdict {number}"
        if not _well_formed(entry):
            raise HilatError(
                f"{where} lacks a field or has one of another form; expected {', '.join((*_WORDS, *_LISTS))}. Save it again"
            )
        shown = _kinds(entry["cues_shown"], CUES, where)
        cues, verdict = _kinds(entry["cues"], shown, where), _verdict(entry["verdict"], where)
        names = (entry["hadm_id"], entry["code"], entry["outcome"])
        found.append(Judgement(reviewer.strip(), *names, verdict, shown, cues, entry["comment"], where))
    return found


def _well_formed(entry: Any) -> bool:
    """Whether a page's entry has its words and its lists of words."""
    if not isinstance(entry, dict) or not all(isinstance(entry.get(name), str) for name in _WORDS):
        return False
    lists = [entry.get(name) for name in _LISTS]
    return all(isinstance(value, list) and all(isinstance(word, str) for word in value) for value in lists)


def _of_table(path: Path) -> tuple[list[Judgement], int]:
    """The filled rows of a triage table, and the number of blank ones."""
    header, rows = _table(path)
    lacking = [name for name in _NEEDED if name not in header]
    if lacking:
        raise HilatError(
            f"{path} has no column {lacking[0]!r}; expected a triage table that `hilat errors sample` wrote, with {', '.join(_NEEDED)}. "
            "Keep its first row"
        )
    found, blank = [], 0
    for number, row in enumerate(rows, start=2):
        cells = dict(zip(header, (plain(cell) for cell in row), strict=False))
        where = f"{path.name}, row {number}"
        if not any(cells.get(name) for name in FILLED):
            blank += any(cells.values())
            continue
        hadm_id, between, code = cells.get("case", "").rpartition(BETWEEN)
        if not between or not cells.get("reviewer"):
            raise HilatError(
                f"{where} lacks its case or its reviewer; expected both as they were written. Copy the row from the table as "
                "`hilat errors sample` wrote it"
            )
        shown = _kinds(_split(cells.get("cues_shown", "")), CUES, where)
        asked = _split(cells.get("cues", ""))
        kinds = shown if asked == ["all"] else () if asked == ["none"] else _kinds(asked, shown, where)
        verdict = _verdict(cells.get("verdict", ""), where)
        found.append(
            Judgement(cells["reviewer"], hadm_id, code, "", verdict, shown, kinds, cells.get("comment", ""), where)
        )
    return found, blank


def _table(path: Path) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a CSV file with commas, semicolons or tabs, as spreadsheets write them."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
        first = text.split("\n", 1)[0]
        delimiter = max(",;\t", key=first.count)
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    except OSError as error:
        raise HilatError(f"cannot read {path}: {error.strerror}; expected a triage table. Check the path") from None
    except UnicodeDecodeError:
        raise HilatError(
            f"{path} is not UTF-8; expected a CSV file in UTF-8. Save it as 'CSV UTF-8' in the spreadsheet"
        ) from None
    except csv.Error as error:
        raise HilatError(f"{path} is no well-formed CSV ({error}); expected a triage table. Save it again") from None
    return ([name.strip() for name in rows[0]], rows[1:]) if rows else ([], [])


def _split(cell: str) -> list[str]:
    return [part.strip() for part in re.split(r"[,;\n]", cell) if part.strip()]


def _kinds(given: Sequence[str], known: Mapping[str, str] | Sequence[str], where: str) -> tuple[str, ...]:
    """The kinds in the order of CUES; spaces, hyphens and capitals do not matter."""
    names = {"_".join(re.split(r"[\s_-]+", name.strip().lower())) for name in given}
    allowed = [kind for kind in CUES if kind in known]
    if names - set(allowed):
        raise HilatError(
            f"{where} has a cue that is not among {', '.join(allowed) or 'its cues: it has none'}; expected cues that were shown, "
            "comma between, or all, or none. Correct it"
        )
    return tuple(kind for kind in allowed if kind in names)


def _verdict(given: str, where: str) -> str:
    name = " ".join(re.split(r"[\s_-]+", given.strip().lower()))
    if name and name not in VERDICTS:
        raise HilatError(
            f"{where} has a verdict that is not known; expected one of {', '.join(VERDICTS)}, or nothing. Correct it"
        )
    return name

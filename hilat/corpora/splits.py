"""Splits: from files of admission ids, as CAML released them, or drawn by subject."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from hilat.admissions import HilatError

SPLIT_NAMES = ("train", "val", "test")
_CAML_NAMES = {"train": "train", "val": "dev", "test": "test"}
_SPLIT_SYNONYMS = {"train": "train", "val": "val", "dev": "val", "validation": "val", "test": "test"}


@dataclass(frozen=True, slots=True)
class SplitFiles:
    """Three files of admission ids: one id per line, no header. val: what CAML calls dev."""

    train: Path
    val: Path
    test: Path


@dataclass(frozen=True, slots=True)
class SubjectSplit:
    """A split to be drawn by subject. fractions: share of the subjects per split name; they sum to 1."""

    fractions: Mapping[str, float] = field(default_factory=lambda: {"train": 0.8, "val": 0.1, "test": 0.1})
    seed: int = 0


@dataclass(frozen=True, slots=True)
class SplitTable:
    """One file of two columns, id and split, as Edin et al. 2023 released theirs (Feather; also Parquet or CSV)."""

    path: Path


@dataclass(frozen=True, slots=True)
class StratifiedSplit:
    """A split to be drawn by subject so that every code has its share in each. fractions: shares of the admissions."""

    fractions: Mapping[str, float] = field(default_factory=lambda: {"train": 0.75, "val": 0.10, "test": 0.15})
    seed: int = 0


Splits = SplitFiles | SplitTable | SubjectSplit | StratifiedSplit


def caml_split_files(folder: Path, suffix: str = "50") -> SplitFiles:
    """The files `train_<suffix>_hadm_ids.csv`, `dev_...` (the val split here), `test_...` in a folder.

    Arguments:
        suffix: "50" or "full" in the released files.

    Raises:
        HilatError: one of the three is missing.
    """
    paths = {name: Path(folder) / f"{caml}_{suffix}_hadm_ids.csv" for name, caml in _CAML_NAMES.items()}
    missing = [path.name for path in paths.values() if not path.is_file()]
    if missing:
        found = ", ".join(sorted(p.name for p in Path(folder).glob("*_hadm_ids.csv"))) or "none"
        raise HilatError(
            f"{folder} has no {', '.join(missing)}; files of ids there: {found}. "
            "Give the folder of CAML's split files and the suffix 50 or full, or name the three files"
        )
    return SplitFiles(**paths)


def read_id_file(path: Path) -> tuple[str, ...]:
    """The admission ids of a file in order, each once. One id per line, no header; blank lines are skipped.

    Raises:
        HilatError: no such file, not text, empty, a header, or more than one field on a line (with its number).
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise HilatError(
            f"{path} does not exist; expected a file with one admission id per line. Check the path"
        ) from None
    except (OSError, UnicodeDecodeError):
        raise HilatError(
            f"{path} cannot be read as text; expected one admission id per line. Write it as UTF-8"
        ) from None
    ids: dict[str, None] = {}
    for number, line in enumerate(lines, 1):
        word = line.strip().strip('"')
        if not word:
            continue
        if not re.fullmatch(r"[0-9]{1,18}", word):
            what = "a header" if number == 1 else "not an admission id"
            raise HilatError(
                f"{path} line {number} is {what}; expected one whole number (hadm_id) per line and no header. "
                "Keep only the column of admission ids"
            )
        ids[word] = None
    if not ids:
        raise HilatError(f"{path} holds no id; expected one admission id per line. Check the file")
    return tuple(ids)


def read_split_files(files: SplitFiles) -> dict[str, str]:
    """Split name ("train", "val", "test") by admission id.

    Raises:
        HilatError: a file that cannot be read, or an id in two of them.
    """
    assigned: dict[str, str] = {}
    twice: list[tuple[str, str, str]] = []
    for name in SPLIT_NAMES:
        for hadm_id in read_id_file(getattr(files, name)):
            if hadm_id in assigned:
                twice.append((hadm_id, assigned[hadm_id], name))
            assigned[hadm_id] = name
    if twice:
        some = ", ".join(f"{hadm_id} in {first} and {second}" for hadm_id, first, second in twice[:5])
        raise HilatError(
            f"{len(twice)} admission ids are in two split files ({some}); expected each in one. "
            "Give three files that do not overlap, all with the same suffix"
        )
    return assigned


def read_split_table(path: Path) -> dict[str, str]:
    """Split name ("train", "val", "test") by admission id, of a table with a column of ids and a column `split`.

    The column of ids is `_id` (Edin et al. 2023) or `hadm_id`; "dev" and "validation" are val. The file's content tells
    whether it is Feather, Parquet or CSV. An id that comes twice with one split counts once.

    Raises:
        HilatError: no such file, not such a table, a split of another name, or an id in two splits.
    """
    path = Path(path)
    columns = _split_columns(path)
    named = {column.lower(): column for column in columns}
    id_column = named.get("_id") or named.get("hadm_id")
    if id_column is None or "split" not in named:
        raise HilatError(
            f"{path} has the columns {', '.join(columns) or 'none'}; expected _id (or hadm_id) and split. "
            "Give a released split file, or rename the columns"
        )
    assigned: dict[str, str] = {}
    for raw_id, raw_name in zip(columns[id_column], columns[named["split"]], strict=True):
        hadm_id = re.sub(r"\.0+$", "", str(raw_id))  # pandas writes a column with gaps so
        name = _SPLIT_SYNONYMS.get(str(raw_name).strip().lower())
        if name is None or not re.fullmatch(r"[0-9]{1,18}", hadm_id):
            fault = "an id that is no whole number" if name else "a split of another name"
            raise HilatError(f"{path} has {fault}; expected hadm_ids and the splits train, val, test. Correct the file")
        if assigned.setdefault(hadm_id, name) != name:
            raise HilatError(
                f"{path} has admission {hadm_id} in {assigned[hadm_id]} and in {name}; expected each in one. Correct the file"
            )
    if not assigned:
        raise HilatError(f"{path} holds no id; expected one admission per row. Check the file")
    return assigned


def _split_columns(path: Path) -> dict[str, list[object]]:
    """The columns of a Feather (Arrow), Parquet or CSV file."""
    try:
        start = path.read_bytes()[:6]
        if start == b"ARROW1":
            with pa.memory_map(str(path)) as source:
                found = pa.ipc.open_file(source).read_all()
        elif start[:4] == b"PAR1":
            found = pq.read_table(path)
        else:
            text = pa_csv.ConvertOptions(column_types={"_id": pa.string(), "hadm_id": pa.string()})
            found = pa_csv.read_csv(path, convert_options=text)
    except FileNotFoundError:
        raise HilatError(f"{path} does not exist; expected a table of ids and splits. Check the path") from None
    except (OSError, pa.ArrowException):
        raise HilatError(
            f"{path} cannot be read as Feather, Parquet or CSV; expected a table of ids and splits. Download it again"
        ) from None
    return {name: found[name].to_pylist() for name in found.column_names}


def split_by_subject(
    ids: Sequence[str], subjects: Sequence[str], fractions: Mapping[str, float], seed: int
) -> dict[str, str]:
    """Split name by admission id, drawn so that all admissions of a subject are in one split.

    The draw depends on the set of subjects and the seed, not on the order of the arguments.

    Arguments:
        ids, subjects: admission ids and the subject of each, equally long.
        fractions: share of the SUBJECTS per split name, summing to 1; shares of admissions follow only roughly.

    Raises:
        HilatError: lengths differ, an empty or repeated id, an empty subject, fractions that are negative or do not
            sum to 1, or fewer subjects than it takes to give every split one.
    """
    check_fractions(fractions)
    if len(ids) != len(subjects):
        raise HilatError(f"got {len(ids)} ids and {len(subjects)} subjects; expected one subject per id")
    if len(set(ids)) != len(ids):
        raise HilatError("an admission id comes twice; expected each once. Drop the repeats before splitting")
    unknown = sum(not subject for subject in subjects)
    if unknown:
        raise HilatError(f"{unknown} admissions have no subject; expected one each. Fill subject_id or use split files")
    people = sorted(set(subjects))
    shuffled = [people[i] for i in np.random.default_rng(seed).permutation(len(people))]
    ends = np.rint(np.cumsum(list(fractions.values())) * len(people)).astype(int)
    split_of_subject: dict[str, str] = {}
    for name, start, end in zip(fractions, [0, *ends[:-1]], ends, strict=True):
        if fractions[name] > 0 and start == end:
            raise HilatError(
                f"{len(people)} subjects are too few for a split {name!r} of {fractions[name]:g}; "
                "expected at least one subject per split. Give more admissions or a larger fraction"
            )
        split_of_subject.update(dict.fromkeys(shuffled[start:end], name))
    return {hadm_id: split_of_subject[subject] for hadm_id, subject in zip(ids, subjects, strict=True)}


def check_fractions(fractions: Mapping[str, float]) -> None:
    """Raises HilatError for shares that are negative or do not sum to 1."""
    values = list(fractions.values())
    if not values or min(values) < 0 or abs(sum(values) - 1) > 1e-9:
        shown = ", ".join(f"{name}={value:g}" for name, value in fractions.items()) or "none"
        raise HilatError(
            f"split fractions are {shown}; expected shares of 0 or more that sum to 1, such as 0.8, 0.1, 0.1"
        )

"""A study: one base of settings, named rows that change some of them, several seeds, one corpus. Read from YAML."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from hilat.admissions import HilatError
from hilat.corpora.folder import read_manifest
from hilat.settings import TrainingSettings, settings_from

_KEYS = ("title", "corpus", "unlabelled", "split", "seeds", "reference", "settings", "rows")
_ROW_KEYS = ("name", "label", "settings")
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class StudyRow:
    """One row of the table. changed: the settings that differ from the base; settings: all of them (with seed 0)."""

    name: str
    label: str
    changed: Mapping[str, Any]
    settings: TrainingSettings


@dataclass(frozen=True, slots=True)
class Study:
    """What is to be trained and compared.

    corpus: a corpus folder. unlabelled: a folder of .txt files, for a new encoder's vocabulary. split: the split that is
    scored. reference: the row that differences are taken from, or None.
    """

    title: str
    corpus: Path
    unlabelled: Path | None
    split: str
    seeds: tuple[int, ...]
    reference: str | None
    rows: tuple[StudyRow, ...]

    def __post_init__(self) -> None:
        names = [row.name for row in self.rows]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise HilatError(
                f"the study has two rows of the name {', '.join(twice)}; expected every name once. Rename one of them"
            )
        if not self.rows or not self.seeds:
            raise HilatError(
                f"the study has {len(self.rows)} rows and {len(self.seeds)} seeds; expected one or more of each. Add them"
            )
        if len(set(self.seeds)) != len(self.seeds):
            raise HilatError(
                f"the study's seeds are {', '.join(map(str, self.seeds))}; expected each once. Take out the repeats"
            )
        if self.reference is not None and self.reference not in names:
            raise HilatError(
                f"the study's reference is {self.reference!r}; its rows are {', '.join(names)}. Name one of them"
            )


@dataclass(frozen=True, slots=True)
class StudyRun:
    """One training with its scores. key: what it is recognised by: its settings, corpus, split and unlabelled texts."""

    row: str
    seed: int
    settings: TrainingSettings
    key: str

    @property
    def folder_name(self) -> str:
        """Readable, and found again by its key."""
        plain = "".join(c if c.isalnum() or c in "+-" else "-" for c in self.row.lower())
        return f"{plain}-seed{self.seed}-{self.key}"


def read_study(path: Path, overrides: Mapping[str, Any] | None = None) -> Study:
    """The study in a YAML file; overrides (flags) of its keys win, and those of `settings` are added to the base.

    Raises:
        HilatError: no such file, not YAML, a key or a setting that is not known or has the wrong type, two rows of one
            name, no corpus, a reference that is no row.
    """
    given = _mapping(_loaded(Path(path)), str(path), _KEYS)
    over = {name: value for name, value in (overrides or {}).items() if value is not None}
    base = {**_settings(given.get("settings"), f"{path}: settings"), **over.pop("settings", {})}
    given = {**given, **over}
    settings_from(base, origin=f"{path}: settings")  # so that a wrong base is not blamed on the first row
    rows = given.get("rows")
    if not isinstance(rows, list):
        raise HilatError(
            f"{path} has {'no rows' if rows is None else f'rows that are a {type(rows).__name__}'}; expected a list such as "
            "`- {name: mean pooling, settings: {chunk_attention: mean}}`. Write one row per line"
        )
    if not isinstance(given.get("corpus"), str | Path):
        raise HilatError(f"{path} names no corpus; expected a corpus folder. Add `corpus: FOLDER` or pass --corpus")
    unlabelled = given.get("unlabelled")
    return Study(
        title=str(given.get("title") or Path(path).stem),
        corpus=Path(given["corpus"]),
        unlabelled=None if unlabelled is None else Path(str(unlabelled)),
        split=str(given.get("split") or "test"),
        seeds=_seeds(given.get("seeds", [0]), str(path)),
        reference=None if given.get("reference") is None else str(given["reference"]),
        rows=tuple(_row(row, base, f"{path}: row {n}") for n, row in enumerate(rows, 1)),
    )


def plan_runs(study: Study) -> tuple[StudyRun, ...]:
    """The study's runs, all rows of the first seed first, so that a stopped study has pairs to compare.

    Raises:
        HilatError: no such corpus, a split that it lacks, or no unlabelled text where a folder of it is named.
    """
    manifest = read_manifest(study.corpus)
    for name in ("train", study.split):
        if name not in manifest["splits"]:
            known = ", ".join(filter(None, manifest["splits"])) or "none"
            raise HilatError(f"{study.corpus} has no split {name!r}; it has {known}. Set split to one of them")
    made_of = {
        "format": _FORMAT,
        "corpus": manifest["sha256"],
        "unlabelled": None if study.unlabelled is None else _digest(unlabelled_files(study.unlabelled)),
        "split": study.split,
    }
    runs = []
    for seed in study.seeds:
        for row in study.rows:
            settings = replace(row.settings, seed=seed)
            text = json.dumps({**made_of, "settings": settings.to_dict()}, sort_keys=True)
            runs.append(StudyRun(row.name, seed, settings, hashlib.sha256(text.encode()).hexdigest()[:12]))
    return tuple(runs)


def unlabelled_files(folder: Path) -> tuple[Path, ...]:
    """The .txt files of a folder, by name."""
    files = tuple(sorted(folder.glob("*.txt"))) if folder.is_dir() else ()
    if not files:
        raise HilatError(f"{folder} holds no .txt file; expected a folder of notes, one per file. Check the path")
    return files


def _digest(files: Sequence[Path]) -> str:
    total = hashlib.sha256()
    for file in files:
        total.update(hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()


def _loaded(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise HilatError(f"{path} does not exist; expected a YAML file of a study. Check the path") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        raise HilatError(
            f"{path} cannot be read as YAML; expected keys such as `rows:`. See examples/studies"
        ) from None


def _mapping(value: Any, origin: str, known: Sequence[str]) -> dict[str, Any]:
    """The value, if it is keys and values with known keys only."""
    if not isinstance(value, dict):
        raise HilatError(f"{origin} holds a {type(value).__name__}; expected keys such as {known[0]}: ...")
    unknown = [str(key) for key in value if key not in known]
    if unknown:
        raise HilatError(
            f"{origin} has unknown key{'s' if len(unknown) > 1 else ''} {', '.join(unknown)}; "
            f"known: {', '.join(known)}. Correct the name or take it out"
        )
    return value


def _settings(value: Any, origin: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise HilatError(f"{origin} are a {type(value).__name__}; expected settings by name, such as `steps: 2500`")
    if "seed" in value:
        raise HilatError(f"{origin} set a seed; expected none, since every row runs with the study's `seeds`. Move it")
    return value


def _row(value: Any, base: Mapping[str, Any], origin: str) -> StudyRow:
    row = _mapping(value, origin, _ROW_KEYS)
    name = row.get("name")
    if name is None or not str(name).strip():
        raise HilatError(f"{origin} has no name; expected one to tell it from the others. Add `name: ...`")
    origin = f"{origin} ({name})"
    changed = _settings(row.get("settings"), f"{origin}: settings")
    settings = settings_from({**base, **changed}, origin=origin)
    return StudyRow(str(name), str(row.get("label") or ""), dict(changed), settings)


def _seeds(value: Any, origin: str) -> tuple[int, ...]:
    seeds = list(range(value)) if type(value) is int else value
    if not isinstance(seeds, Sequence) or not all(type(seed) is int and seed >= 0 for seed in seeds):
        raise HilatError(f"{origin} has seeds {value!r}; expected a list such as [0, 1, 2], or how many. Correct them")
    return tuple(seeds)

"""A split that stays on disk: its admissions are read each time they are gone through, so that no job holds all notes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hilat.admissions import Admission
from hilat.corpora.folder import checked_manifest, stored_admissions


@dataclass(frozen=True, slots=True)
class StoredSplit:
    """The admissions of one split of a corpus folder, in order. source: where they come from."""

    folder: Path
    name: str
    source: str
    length: int

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Admission]:
        return stored_admissions(self.folder, [self.name])


def open_split(folder: Path, name: str) -> StoredSplit:
    """The split of a corpus folder.

    Raises:
        HilatError: no such folder, a file missing or changed since it was written, or a split that is not there.
    """
    manifest = checked_manifest(folder, [name])
    return StoredSplit(Path(folder), name, manifest["source"], manifest["splits"][name])

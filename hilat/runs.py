"""The folder of a run: whether it may be begun there, or gone on with, and by whom."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from hilat.admissions import HilatError
from hilat.files import read_json

SETTINGS_FILE = "settings.json"


def is_begun(out: Path, settings: Mapping[str, Any], resume: bool) -> bool:
    """Whether `out` holds a run of these settings, which `resume` asks to go on with.

    Raises:
        HilatError: a run that nobody asked to resume, or one of other settings.
    """
    record = out / SETTINGS_FILE
    if not record.exists():
        return False
    if not resume:
        raise HilatError(f"{out} holds a run already; pass --resume to go on with it, or another --out")
    before = read_json(record, what="the settings of the run")["settings"]
    changed = sorted(name for name, value in settings.items() if before.get(name) != value)
    if changed:
        raise HilatError(
            f"{out} was begun with other settings ({', '.join(changed)} differ); resume with the same ones, "
            "or start anew with another --out"
        )
    return True


def make_writable(folder: Path) -> None:
    """Make a folder of the run, if it is not there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HilatError(f"cannot write {folder}: {error.strerror}; choose a folder that you may write to") from None


@contextmanager
def alone_in(folder: Path, what: str) -> Iterator[None]:
    """Be the only such command at work in the folder, which is made; a command that is killed leaves it free.

    Raises:
        HilatError: another one is at work there.
    """
    make_writable(folder)
    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout:
        raise HilatError(
            f"another {what} is at work in {folder}; expected to be the only one. Wait for it, or choose another --out"
        ) from None

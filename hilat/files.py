"""Writing so that nothing is ever half-written: beside first, then renamed."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hilat.admissions import HilatError


@contextmanager
def new_folder(path: Path, *, overwrite: bool = False, what: str = "folder") -> Iterator[Path]:
    """A temporary folder beside `path` that takes its name when the block ends well, and vanishes when it does not.

    Raises HilatError when `path` exists and `overwrite` is off, or when it cannot be written.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise HilatError(f"{path} exists already; expected a new {what}. Choose another name or pass --overwrite")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise HilatError(f"cannot write {path}: {error.strerror}; choose a folder that you may write to") from None
    try:
        yield beside
        if path.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
            os.replace(path, old / path.name)
            os.replace(beside, path)
            shutil.rmtree(old)
        else:
            os.replace(beside, path)
        path.chmod(0o700)
    finally:
        if beside.exists():
            shutil.rmtree(beside, ignore_errors=True)


@contextmanager
def new_file(path: Path, *, overwrite: bool = False, what: str = "file") -> Iterator[Path]:
    """A temporary file beside `path` that takes its name when the block ends well, and vanishes when it does not.

    Only its owner can read it. Raises HilatError when `path` is a folder, when it exists and `overwrite` is off, or when it
    cannot be written.
    """
    path = Path(path)
    if path.is_dir():
        raise HilatError(f"{path} is a folder; expected the name of a {what}. Give another name")
    if path.exists() and not overwrite:
        raise HilatError(f"{path} exists already; expected a new {what}. Choose another name or pass --overwrite")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise HilatError(f"cannot write {path}: {error.strerror}; choose a folder that you may write to") from None
    os.close(handle)
    beside = Path(name)
    try:
        yield beside
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a small file atomically, UTF-8."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, path)
    except OSError as error:
        raise HilatError(f"cannot write {path}: {error.strerror}; free space or choose another folder") from None
    finally:
        beside.unlink(missing_ok=True)


def without_nan(value: Any) -> Any:
    """The value with NaN and infinities as None, since JSON has no word for them."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return value


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically; NaN becomes null."""
    write_text(path, json.dumps(without_nan(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path, *, what: str) -> Any:
    """The JSON in a file. Raises HilatError when it is missing or not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise HilatError(f"{path} does not exist; expected {what}. Check the path") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError):
        raise HilatError(f"{path} cannot be read as JSON; expected {what}. Write it again") from None

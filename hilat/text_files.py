"""Notes as plain text files: found in a folder, read one at a time, and what is wrong with one said without losing the others."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from hilat.admissions import Admission, HilatError, plain_text

LARGEST = 16 * 2**20  # bytes; above that a file is no single note


@dataclass(frozen=True, slots=True)
class Failure:
    """A file that is not read, and why: what was found, what was expected, what to do."""

    name: str
    error: str


@dataclass(frozen=True, slots=True)
class TextFiles:
    """The notes of a folder: (id, file) in order of the ids, what cannot be a note, and how many files are of other kinds."""

    files: tuple[tuple[str, Path], ...]
    failures: tuple[Failure, ...]
    others: int


def find_texts(folder: Path) -> TextFiles:
    """The .txt files of a folder and its sub-folders; an id is the path in the folder without .txt ("ward3/1017").

    Hidden files and folders are left out, and links to folders are not followed. Files whose ids are equal, or whose names
    are not UTF-8, and folders that cannot be listed, are failures.

    Raises:
        HilatError: no .txt file.
    """
    folder = Path(folder)
    failures: list[Failure] = []

    def unlisted(error: OSError) -> None:
        name = Path(error.filename or folder)
        where = "" if name == folder else _shown(name.relative_to(folder))
        why = f"{_shown(name)} cannot be listed ({error.strerror}); expected a folder of notes. Check its permissions"
        failures.append(Failure(where, why))

    found: dict[str, Path] = {}
    others = 0
    for path in _files(folder, unlisted):
        if path.suffix.lower() != ".txt":
            others += 1
            continue
        name = path.relative_to(folder).with_suffix("").as_posix()
        if _shown(name) != name:
            why = f"{_shown(path)} has a name that is not UTF-8; expected one, as it is the note's id. Rename the file"
            failures.append(Failure(_shown(name), why))
        elif path.exists() and not path.is_file():
            failures.append(Failure(name, f"{path} is no regular file; expected one with a note. Move it elsewhere"))
        elif name in found:
            why = f"{path} and {found[name].name} have the same id {name!r}; expected one file per note. Rename one of them"
            failures.append(Failure(name, why))
        else:
            found[name] = path
    if not found and not failures:
        raise HilatError(
            f"{folder} holds no .txt file ({others} others); expected one note per file. Check the path, or rename the files"
        )
    return TextFiles(tuple(sorted(found.items())), tuple(failures), others)


def read_texts(found: TextFiles, failures: list[Failure], encoding: str = "utf-8") -> Iterator[Admission]:
    """The notes, each read when it is asked for; those that cannot be read are added to `failures`.

    Raises:
        HilatError: an encoding that is not known.
    """
    check_encoding(encoding)
    for name, path in found.files:
        try:
            yield Admission(name, read_text(path, encoding), ())
        except HilatError as error:
            failures.append(Failure(name, str(error)))


def read_text(file: Path | BinaryIO, encoding: str = "utf-8") -> str:
    """The note in a file, or in standard input's bytes, as `plain_text`: LF line ends, no NUL.

    Raises:
        HilatError: no such file, a folder, one that may not be read or is too large, another encoding, or no text.
    """
    check_encoding(encoding)
    name = str(file) if isinstance(file, Path) else "standard input"
    try:
        if isinstance(file, Path):
            with file.open("rb") as stream:
                raw = stream.read(LARGEST + 1)
        else:
            raw = file.read(LARGEST + 1)
    except FileNotFoundError:
        raise HilatError(f"{name} does not exist; expected a text file with one note. Check the path") from None
    except IsADirectoryError:
        raise HilatError(f"{name} is a folder; expected a text file with one note. Give the file") from None
    except OSError as error:
        raise HilatError(
            f"{name} cannot be read ({error.strerror}); expected a text file with one note. Check its permissions"
        ) from None
    if len(raw) > LARGEST:
        raise HilatError(
            f"{name} is larger than {LARGEST // 2**20} MB; expected one note per file. Divide it into notes"
        )
    try:
        text = plain_text(raw.decode(encoding))
    except UnicodeDecodeError as error:
        raise HilatError(
            f"{name} is not {encoding} (byte {error.start}); expected text in that encoding. Pass --encoding latin-1, say"
        ) from None
    if not text.strip():
        raise HilatError(f"{name} is empty; expected the text of a note. Give a file with text")
    return text


def check_encoding(name: str) -> None:
    """Raises HilatError for an encoding that Python does not know."""
    try:
        "".encode(name)
    except LookupError:
        raise HilatError(f"encoding {name!r} is not known; expected utf-8, latin-1, ... Correct --encoding") from None


def _files(folder: Path, unlisted: Callable[[OSError], None]) -> Iterator[Path]:
    """The files under a folder that are not hidden, in order of their names, folder by folder."""
    for place, folders, names in os.walk(folder, onerror=unlisted):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place) / name for name in sorted(names) if not name.startswith("."))


def _shown(name: object) -> str:
    """A file's name with what is not UTF-8 escaped, so that it can be printed."""
    return str(name).encode("utf-8", "backslashreplace").decode()

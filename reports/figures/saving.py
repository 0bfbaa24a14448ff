"""From a drawing to files that are the same, byte by byte, when they are made again."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from hilat.admissions import HilatError
from hilat.files import write_text
from reports.figures.style import paper

FORMATS = ("svg", "pdf", "png")
DPI = 300
RESTRICTED = (
    "derived from restricted data: keep and publish it only as the data-use agreement of the notes allows (short quotes "
    "and aggregate numbers: check the agreement)"
)
SYNTHETIC = "drawn from a synthetic corpus: no patient's data"


@dataclass(frozen=True, slots=True, eq=False)
class Drawing:
    """A figure and what is to be said under it. title: one line, without a note's words."""

    figure: Figure
    title: str
    caption: tuple[str, ...]


def stamp(synthetic: bool) -> str:
    """What the files' metadata and the caption say of the data."""
    return SYNTHETIC if synthetic else RESTRICTED


def checked_formats(formats: str) -> tuple[str, ...]:
    """The formats of a list with commas between. Raises HilatError for one that is not known, or none."""
    asked = tuple(dict.fromkeys(name.strip().lower().lstrip(".") for name in formats.split(",") if name.strip()))
    wrong = [name for name in asked if name not in FORMATS]
    if wrong or not asked:
        raise HilatError(
            f"format {wrong[0] if wrong else formats!r} was given; expected some of {', '.join(FORMATS)}. Correct --format"
        )
    return asked


def paths_of(out: Path, formats: Sequence[str]) -> tuple[dict[str, Path], Path]:
    """The file of each format, and the caption's. A suffix of `out` that is one of FORMATS is not part of the name."""
    base = out.with_suffix("") if out.suffix.lower().lstrip(".") in FORMATS else out
    return {name: base.with_name(f"{base.name}.{name}") for name in formats}, base.with_name(f"{base.name}.txt")


def save(
    drawing: Drawing, out: Path, *, formats: Sequence[str] = FORMATS, synthetic: bool = False, overwrite: bool = False
) -> list[Path]:
    """Write the figure in each format, and its caption as .txt beside it; returns their paths, the caption last.

    No file tells the time, the program or its version. Files from patients' notes are the owner's to read only.

    Raises:
        HilatError: a file that is there, without `overwrite`; a folder that cannot be written.
    """
    files, caption = paths_of(Path(out), formats)
    every = [*files.values(), caption]
    there = [path for path in every if path.exists()]
    if there and not overwrite:
        raise HilatError(f"{there[0]} exists already; expected new files. Choose another --out or pass --overwrite")
    try:
        caption.parent.mkdir(parents=True, exist_ok=True)
        for name, path in files.items():
            _write(drawing, path, name, stamp(synthetic))
    except OSError as error:
        raise HilatError(f"cannot write {out}: {error.strerror}; choose a folder that you may write to") from None
    write_text(caption, "\n\n".join((f"{drawing.title}.", *drawing.caption, f"Data: {stamp(synthetic)}.")) + "\n")
    for path in every:
        path.chmod(0o644 if synthetic else 0o600)
    return every


def _write(drawing: Drawing, path: Path, name: str, says: str) -> None:
    """One format, beside first and then renamed."""
    metadata: dict[str, dict[str, str | None]] = {
        "svg": {"Date": None, "Creator": None, "Title": drawing.title, "Description": says},
        "pdf": {"CreationDate": None, "Creator": None, "Producer": None, "Title": drawing.title, "Subject": says},
        "png": {"Software": None, "Title": drawing.title, "Description": says},
    }
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with paper(), open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as stream:
            drawing.figure.savefig(stream, format=name, dpi=DPI, metadata=metadata[name])
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)

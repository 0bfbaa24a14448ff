"""A folder of pages: one file per admission, and the index."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from hilat.admissions import HilatError
from reports.index import RunHeader, Tally, render_index
from reports.page import ReportPage
from reports.render import Neighbours, page_bytes

README_PHI = """This folder holds patients' notes or text derived from them.

Keep it inside the environment that your data-use agreement covers. Do not put it into version control, e-mail,
cloud storage or a third party's service, and do not show it to people who are not covered by the agreement.
Delete it when it is no longer needed: the pages can be made again from the corpus and the model.
"""


def write_report(pages: Iterable[ReportPage], folder: Path, run: RunHeader) -> Path:
    """Writes one page per admission and index.html into folder, and returns the index's path.

    Pages are taken one at a time (two are held, for the links to the neighbours), so the iterable may be lazy.
    Previous and next are set here, in the order given. Files are written beside and renamed, the index last; folder
    0700, files 0600. The folder also gets a .gitignore of everything and, unless run.synthetic, README-PHI.txt.

    Raises:
        HilatError: an admission given twice, no admission at all, a patient's page in a synthetic run, or a folder
            that cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.chmod(0o700)
    except OSError as error:
        raise HilatError(f"{folder} cannot be made a folder ({error.strerror}); give another --out folder") from None
    write_private(folder / ".gitignore", "*\n")
    if not run.synthetic:
        write_private(folder / "README-PHI.txt", README_PHI)
    tally = Tally()
    for page, names in _with_neighbours(pages):
        if run.synthetic and not page.synthetic:
            raise HilatError(
                f"admission {page.hadm_id} is not synthetic in a run marked synthetic; mark the run as clinical text"
            )
        write_private(folder / names[1], page_bytes(page, Neighbours(names[0], names[2])))
        tally.add(page, names[1], text=run.text)
    if not tally.rows:
        raise HilatError("no admission was given for the report; expected at least one; choose another split or ids")
    write_private(folder / "index.html", render_index(tally, run))
    return folder / "index.html"


def file_name(hadm_id: str, taken: dict[str, str]) -> str:
    """A file name for an admission that stays in its folder and differs from those in `taken` (which it joins).

    An id of letters, digits, "." , "_" and "-" keeps its form; any other gets its safe characters and a digest. Names
    that differ only in case count as the same (some file systems say so). `taken` maps lower-case names to ids.

    Raises:
        HilatError: the id was named before.
    """
    safe = re.sub(r"[^A-Za-z0-9._-]+", "_", hadm_id)[:60]
    digest = hashlib.sha256(hadm_id.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    plain, marked = f"admission-{safe}.html", f"admission-{safe}-{digest}.html"
    if hadm_id in taken.values():
        raise HilatError(f"admission {hadm_id} was given twice for one report; give each admission once")
    for name in [plain, marked] if safe == hadm_id else [marked]:
        if name.lower() not in taken:
            taken[name.lower()] = hadm_id
            return name
    raise HilatError(f"admission {hadm_id} has the same file name as {taken[marked.lower()]}; rename one of them")


def _with_neighbours(
    pages: Iterable[ReportPage],
) -> Iterator[tuple[ReportPage, tuple[str | None, str, str | None]]]:
    """Each page with previous and next set, and the file names of (previous, itself, next)."""
    taken: dict[str, str] = {}
    before: tuple[ReportPage, str] | None = None
    here: tuple[ReportPage, str] | None = None
    for page in pages:
        after = (page, file_name(page.hadm_id, taken))
        if here is not None:
            yield _linked(before, here, after)
        before, here = here, after
    if here is not None:
        yield _linked(before, here, None)


def _linked(
    before: tuple[ReportPage, str] | None, here: tuple[ReportPage, str], after: tuple[ReportPage, str] | None
) -> tuple[ReportPage, tuple[str | None, str, str | None]]:
    page = replace(here[0], previous=before[0].hadm_id if before else None, next=after[0].hadm_id if after else None)
    return page, (before[1] if before else None, here[1], after[1] if after else None)


def write_private(path: Path, text: str | bytes) -> None:
    """Writes text beside path, readable by the owner only, and renames it into place.

    Raises:
        HilatError: the file cannot be written.
    """
    beside = path.with_name(f".{path.name[:100]}.{os.getpid()}.part")
    try:
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
            out.write(text if isinstance(text, bytes) else text.encode())
        beside.chmod(0o600)
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise HilatError(f"{path} cannot be written ({error.strerror}); free space or choose another folder") from None

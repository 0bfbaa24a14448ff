"""`hilat errors study --page`: the study as one page, with every case."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from hilat.admissions import Admission
from hilat.cli.error_printing import tell_study

if TYPE_CHECKING:
    from explain.cases import Case
    from explain.confusion import Edge
    from explain.cues import Passage
    from explain.error_study import ErrorStudy, Ground
    from reports.study import Link, Listing, StudyCase

PASSAGES = 3  # of a case
AROUND = 60  # characters of a passage on either side of its peak word


@dataclass
class Page:
    """Collects tables and notes for a page; notes before the first table are the page's own."""

    notes: list[str] = field(default_factory=list)
    listings: list[Listing] = field(default_factory=list)
    under: list[list[str]] = field(default_factory=list)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> None:
        """A section of the page; what follows the first "·" of the title stands below it."""
        from reports.study import Listing

        short, _, detail = title.partition(" · ")
        name = f"s{len(self.listings) + 1}"
        self.listings.append(Listing(name, short, tuple(columns), tuple(map(tuple, rows)), detail, left=left))
        self.under.append([])

    def note(self, text: str) -> None:
        """A sentence under the table before."""
        (self.under[-1] if self.under else self.notes).append(text[0].upper() + text[1:])


@dataclass(frozen=True)
class PagePlan:
    """page: the file to write. pages: a folder of `hilat report` to link to. text: whether passages are shown."""

    page: Path
    pages: Path | None = None
    text: bool = True


def write_study_page(study: ErrorStudy, ground: Ground, manifest: Mapping[str, Any], plan: PagePlan) -> None:
    """Write the page of a study, readable by its owner only.

    Raises:
        HilatError: the file cannot be written.
    """
    from dataclasses import replace

    from reports.corpus import write_private
    from reports.study import StudyPage, render_study

    told = Page()
    tell_study(study, told)
    listings = tuple(replace(made, notes=tuple(notes)) for made, notes in zip(told.listings, told.under, strict=True))
    order = {"FP": 0, "FN": 1, "TP": 2}
    wanted = [case for case in study.cases if case.outcome in ("FP", "FN") or case.weak]
    wanted.sort(key=lambda case: (order[case.outcome], -case.probability, case.hadm_id, case.code))
    ids = {name: f"note-{n:05d}" for n, name in enumerate(dict.fromkeys(case.hadm_id for case in wanted), start=1)}
    shown = {name: name if plan.text else number for name, number in ids.items()}
    titles = dict(zip(ground.book.codes, ground.book.titles, strict=True))
    page = StudyPage(
        f"Errors · {manifest['split']} · {manifest['source']}",
        tuple(_facts(study, manifest)),
        tuple(told.notes),
        listings,
        tuple(_link(edge) for edge in study.edges),
        tuple(_case(case, (shown[case.hadm_id], titles[case.code]), ground.admissions[case.hadm_id], plan) for case in wanted),
        tuple(titles.items()),
        tuple((name.replace("_", " "), _said(value)) for name, value in manifest["study"].items()),
        plan.text,
        manifest["source"] == "planted",
    )  # fmt: skip
    plan.page.parent.mkdir(parents=True, exist_ok=True)
    write_private(plan.page, render_study(page))


def _said(value: Any) -> str:
    """A setting in words."""
    if isinstance(value, dict):
        return ", ".join(f"{name.replace('_', ' ')} {one}" for name, one in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def _facts(study: ErrorStudy, manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        ("Split", str(manifest["split"])),
        ("Admissions", f"{study.admissions:,}"),
        ("Threshold", str(manifest["threshold_source"])),
        ("Passages by", study.options.method.replace("_", " ")),
        ("Model", str(manifest["settings"]["model"])),
    ]


def _link(edge: Edge) -> Link:
    from reports.study import Link

    missed = edge.relation == "missed"
    lift = f", {edge.lift.estimate:.1f} times what chance gives" if edge.expected > 0 else ""
    says = f"{edge.false_positive} given, {edge.other} {'missed' if missed else 'coded'}: {edge.count} of {edge.notes:,} notes{lift}"
    return Link(edge.false_positive, edge.other, edge.label, missed, edge.count, says)


def _case(case: Case, names: tuple[str, str], admission: Admission, plan: PagePlan) -> StudyCase:
    """names: what the admission is called on the page, and the code's title."""
    from reports.study import StudyCase

    text = admission.text if plan.text else None
    cues: dict[str, str] = {}
    for cue in case.cues:
        words = f" “{text[cue.start : cue.end]}”" if text is not None and cue.start >= 0 else ""
        cues.setdefault(cue.kind, cue.kind + words)
    passages = tuple(_passage(p, text) for p in case.passages[:PASSAGES]) if text is not None else ()
    address = _address(case, plan)
    return StudyCase(
        names[0], address, case.code, names[1], case.outcome, case.probability, case.weak, tuple(cues.values()), passages
    )  # fmt: skip


def _address(case: Case, plan: PagePlan) -> str:
    """The case on its admission's page, as seen from the page; "" where there is none, or where it would tell the id."""
    from reports.corpus import file_name

    if plan.pages is None or not plan.text:
        return ""
    page = plan.pages / file_name(case.hadm_id, {})
    if not page.exists():
        return ""
    return f"{quote(Path(os.path.relpath(page, plan.page.parent)).as_posix())}#c={quote(case.code)}&e=1"


def _passage(passage: Passage, text: str) -> str:
    """One line: section, share, and the words around the peak, which stands in brackets."""
    start, end = passage.peak
    before = " ".join(text[max(passage.start, start - AROUND) : start].split())
    after = " ".join(text[end : min(passage.end, end + AROUND)].split())
    section = f"{passage.section.replace('_', ' ')}, " if passage.section else ""
    return f"{section}{100 * passage.share:.0f} %: {before} [{text[start:end]}] {after}"

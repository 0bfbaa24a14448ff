"""Sections of a discharge summary: headings as the published HiLAT preprocessing knows them."""

from __future__ import annotations

import re
from dataclasses import dataclass

# Heading at the start of a line -> section. Facts of the published code (Liu et al. 2022), read from its output.
# Two headings are ours: "admission date:" opens a note and each addendum (the published code knows notes apart), and the
# line "date of birth: ... sex: ..." is what the published code keeps under the name "sex".
HEADINGS: dict[str, str] = {
    "admission date:": "",
    "service:": "service",
    "allergies:": "allergies",
    "chief complaint:": "chief_complaint",
    "major surgical or invasive procedure:": "major_procedure",
    "history of present illness:": "history_present_illness",
    "past medical history:": "past_medical_history",
    "past surgical history:": "past_surgical_history",
    "social history:": "social_history",
    "family history:": "family_history",
    "physical exam:": "physical_exam",
    "physical examination:": "physical_exam",
    "pertinent results:": "pertinent_results",
    "laboratory data:": "pertinent_results",
    "initial laboratory:": "pertinent_results",
    "brief hospital course:": "hospital_course",
    "hospital course:": "hospital_course",
    "summary of hospital course:": "hospital_course",
    "medications on admission:": "medications_on_admission",
    "discharge medications:": "discharge_medications",
    "medications on discharge:": "discharge_medications",
    "discharge disposition:": "discharge_disposition",
    "discharge diagnosis:": "discharge_diagnosis",
    "discharge diagnoses:": "discharge_diagnosis",
    "preoperative diagnosis:": "discharge_diagnosis",
    "postoperative diagnosis:": "discharge_diagnosis",
    "diagnosis:": "discharge_diagnosis",
    "surgical procedure:": "procedure",
    "procedure:": "procedure",
    "discharge condition:": "discharge_condition",
    "condition on discharge:": "discharge_condition",
    "condition at discharge:": "discharge_condition",
    "discharge instructions:": "discharge_instructions",
    "followup instructions:": "followup_instructions",
    "addendum:": "addendum",
}
_SEX = r"date of birth:[^\n]*\bsex:"

# The sections that move to the front, in the published order.
MOVED = ("discharge_disposition", "discharge_diagnosis", "discharge_condition")

# Sections per chunk of the paper's ablation d (Supplementary Table S2), in the published order.
SECTION_CHUNKS: tuple[tuple[str, ...], ...] = (
    ("sex", "service", "allergies", "chief_complaint", "major_procedure"),
    ("history_present_illness",),
    ("past_medical_history", "past_surgical_history", "social_history", "family_history"),
    ("physical_exam",),
    ("pertinent_results",),
    ("hospital_course",),
    ("medications_on_admission", "discharge_medications"),
    MOVED,
    ("discharge_instructions", "followup_instructions"),
    ("addendum",),
)
PUBLISHED_ORDER: tuple[str, ...] = (*MOVED, *(name for chunk in SECTION_CHUNKS if chunk != MOVED for name in chunk))

# The published code loses the section "procedure" and what stands before the first heading; here they go to the first
# chunk, so that only what a full chunk cannot hold is truncated.
CHUNK_OF_SECTION: dict[str, int] = {name: c for c, names in enumerate(SECTION_CHUNKS) for name in names} | {
    "": 0,
    "procedure": 0,
}

_HEADING = re.compile(
    r"^(?:" + "|".join([*map(re.escape, sorted(HEADINGS, key=len, reverse=True)), _SEX]) + ")",
    re.IGNORECASE | re.MULTILINE | re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Section:
    """A stretch of the text [start, end) under one heading, up to the next known heading.

    name: "" for what stands before the first heading and for the opening of a note. title: the heading as written.
    moved: whether cleaning moved it to the front.
    """

    name: str
    title: str
    start: int
    end: int
    moved: bool = False


def find_sections(text: str) -> tuple[Section, ...]:
    """The sections of a text, in order, without gaps: together they are the whole text."""
    heads = list(_HEADING.finditer(text))
    starts = [head.start() for head in heads]
    sections = []
    if not starts or starts[0] > 0:
        sections.append(Section("", "", 0, starts[0] if starts else len(text)))
    for head, end in zip(heads, [*starts, len(text)][1:], strict=True):
        title = head.group()
        sections.append(Section(HEADINGS.get(title.lower(), "sex"), title, head.start(), end))
    return tuple(sections)

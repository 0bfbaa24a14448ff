"""One planted discharge summary: where evidence and decoys stand, the headings, the filler up to the wanted length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hilat.admissions import EvidenceSpan
from hilat.corpora.planted_codes import BY_CODE, PLANTED_CODES, Form, PlantedCode
from hilat.corpora.planted_filler import filler_phrases
from hilat.corpora.planted_frames import AFFIRMED, DECOYS
from hilat.corpora.planted_phrases import Patient, Phrase, capitalised, choose_form, expand, fill_frame, joined, pick
from hilat.corpora.planted_profiles import Profile

VENTILATION = ("96.71", "96.72")
LINE_WIDTH = 78
_DECOY_WEIGHTS = np.cumsum([np.sqrt(entry.prevalence) for entry in PLANTED_CODES])
Sections = dict[str, list[Phrase]]


@dataclass(frozen=True, slots=True)
class NotePlan:
    """What one note is to hold.

    target_words: white-space words; extra_mentions: mean mentions of a code after its first; decoy_rate: mean planted
    decoys; shortcut: (code, word) when the note gets the shortcut word.
    """

    patient: Patient
    profile: Profile
    target_words: int
    extra_mentions: float
    decoy_rate: float
    addendum: bool
    shortcut: tuple[str, str] | None


@dataclass(frozen=True, slots=True)
class Heading:
    """A section: its title, filler group ("" for none), layout and share of the filler words."""

    key: str
    title: str
    group: str
    layout: str
    share: float
    when_empty: str


HEADINGS: tuple[Heading, ...] = (
    Heading("procedure", "Major Surgical or Invasive Procedure:", "", "lines", 0.0, "None"),
    Heading("hpi", "History of Present Illness:", "history", "prose", 0.15, ""),
    Heading("pmh", "Past Medical History:", "past", "numbered", 0.03, "None"),
    Heading("social", "Social History:", "social", "prose", 0.03, ""),
    Heading("family", "Family History:", "family", "prose", 0.03, "Noncontributory."),
    Heading("exam", "Physical Exam:", "exam", "lines", 0.12, ""),
    Heading("results", "Pertinent Results:", "results", "lines", 0.22, ""),
    Heading("course", "Brief Hospital Course:", "course", "prose", 0.22, ""),
    Heading("admission drugs", "Medications on Admission:", "drugs", "numbered", 0.05, ""),
    Heading("discharge drugs", "Discharge Medications:", "drugs", "numbered", 0.07, ""),
    Heading("disposition", "Discharge Disposition:", "", "lines", 0.0, ""),
    Heading("diagnosis", "Discharge Diagnosis:", "", "lines", 0.0, ""),
    Heading("condition", "Discharge Condition:", "", "lines", 0.0, ""),
    Heading("instructions", "Discharge Instructions:", "instructions", "prose", 0.05, ""),
    Heading("followup", "Followup Instructions:", "followup", "lines", 0.03, ""),
    Heading("addendum", "Addendum:", "course", "prose", 0.0, ""),
)


def write_note(
    plan: NotePlan, rng: np.random.Generator
) -> tuple[str, tuple[EvidenceSpan, ...], tuple[EvidenceSpan, ...]]:
    """The raw text of the note, its evidence spans and its decoy spans, each in the order of the text."""
    sections: Sections = {heading.key: [] for heading in HEADINGS}
    _add_evidence(sections, plan, rng)
    _add_rule_decoys(sections, plan, rng)
    for _ in range(int(rng.poisson(plan.decoy_rate))):
        _add_decoy(sections, plan, rng)
    _add_fixed_lines(sections, plan, rng)
    if plan.shortcut is not None:
        code, word = plan.shortcut
        before, after = "Seen by the ", " team."
        mark = (code, len(before), len(before) + len(word), "shortcut")
        sections[pick(rng, ("hpi", "course", "instructions"))].append(Phrase(before + word + after, (mark,)))
    _add_filler(sections, plan, rng)
    for key in ("hpi", "pmh", "social", "family", "results", "course", "procedure", "admission drugs"):
        first = sections[key][:1] if key == "hpi" else []  # the opening sentence stays in front
        rest = sections[key][len(first) :]
        sections[key] = first + [rest[i] for i in rng.permutation(len(rest))]
    note = _rendered(sections, plan, rng)
    spans = [EvidenceSpan(code, ((start, end),), kind) for code, start, end, kind in sorted(note.marks, key=_by_place)]
    evidence = tuple(span for span in spans if span.kind == "evidence")
    return _wrapped(note.text), evidence, tuple(span for span in spans if span.kind != "evidence")


def _by_place(mark: tuple[str, int, int, str]) -> tuple[int, int, str]:
    return mark[1], mark[2], mark[0]


def _add_evidence(sections: Sections, plan: NotePlan, rng: np.random.Generator) -> None:
    """At least one affirming mention of each code; part of the further ones go into the addendum."""
    for entry in PLANTED_CODES:
        if entry.code not in plan.patient.codes:
            continue
        mentions = 1 if entry.code in VENTILATION else 1 + min(int(rng.poisson(plan.extra_mentions)), 4)
        used: set[str] = set()
        for mention in range(mentions):
            form = choose_form(entry.forms, rng)
            key, frames = _place(entry, form, rng)
            if mention and key in used and key in ("pmh", "diagnosis", "procedure"):
                continue
            used.add(key)
            phrase = fill_frame(pick(rng, AFFIRMED[frames]), form, entry.code, "evidence", (plan.patient, rng))
            if plan.addendum and key == "course" and rng.random() < 0.25:
                key = "addendum"
            sections[key].append(phrase)


def _place(entry: PlantedCode, form: Form, rng: np.random.Generator) -> tuple[str, str]:
    """The section and the frame group (a key of `AFFIRMED`) for an affirming mention."""
    u = rng.random()
    match form.grammar:
        case "drug":
            return ("admission drugs" if u < 0.5 else "discharge drugs"), "drug"
        case "lab":
            return ("results" if u < 0.5 else "course"), "lab"
        case "person" | "former":
            return "social", form.grammar
        case "regimen":
            return ("pmh", "list") if u < 0.5 else ("hpi" if u < 0.65 else "course", "regimen")
        case "state":
            told = entry.code == "96.04" and rng.random() < 0.35
            return ("hpi" if u < 0.3 else "course"), ("intubation" if told else "state")
        case "procedure" | "device" | "therapy":
            if u < 0.35:
                return "procedure", "listed procedure"
            return ("hpi" if u < 0.45 else "course"), form.grammar
    if entry.role == "social":
        return "social", "habit"
    if entry.role == "historic":
        if u < 0.85:
            return ("pmh" if u < 0.65 else "diagnosis"), "historic"
        return ("hpi" if u < 0.92 else "course"), "historic prose"
    if entry.role == "chronic":
        if u < 0.75:
            return ("pmh", "list") if u < 0.47 else ("diagnosis", "diagnosis")
        return ("hpi" if u < 0.85 else "course"), "chronic"
    if u < 0.36:
        return "diagnosis", "diagnosis"
    return ("hpi" if u < 0.55 else "course"), "finding"


def _add_rule_decoys(sections: Sections, plan: NotePlan, rng: np.random.Generator) -> None:
    """Mentions that a coding rule excludes: intubation before ventilation (96.04), hypertension coded as 403.90."""
    codes, drawn = plan.patient.codes, (plan.patient, rng)
    if any(code in codes for code in VENTILATION) and rng.random() < 0.7:
        form = choose_form(BY_CODE["96.04"].forms, rng)
        frame = pick(rng, AFFIRMED[form.grammar])
        sections["hpi" if rng.random() < 0.4 else "course"].append(fill_frame(frame, form, "96.04", "rule", drawn))
    if "403.90" in codes and rng.random() < 0.4:
        form = choose_form(BY_CODE["401.9"].forms, rng)
        sections["pmh"].append(fill_frame(pick(rng, AFFIRMED["list"]), form, "401.9", "rule", drawn))


def _add_decoy(sections: Sections, plan: NotePlan, rng: np.random.Generator) -> None:
    """One negated, uncertain, family or past mention, mostly of a code that the note does not have."""
    while True:
        k = int(np.searchsorted(_DECOY_WEIGHTS, rng.random() * _DECOY_WEIGHTS[-1], side="right"))
        entry = PLANTED_CODES[k]
        kind = pick(rng, entry.decoys)
        if entry.code not in plan.patient.codes or (kind != "negated" and rng.random() < 0.35):
            break
    grammars = set(DECOYS[kind]) - ({"state"} if entry.code in VENTILATION and kind != "history" else set())
    form = choose_form([form for form in entry.forms if form.grammar in grammars], rng)
    phrase = fill_frame(pick(rng, DECOYS[kind][form.grammar]), form, entry.code, kind, (plan.patient, rng))
    sections[_decoy_section(entry, form, kind, rng)].append(phrase)


def _decoy_section(entry: PlantedCode, form: Form, kind: str, rng: np.random.Generator) -> str:
    u = rng.random()
    if kind == "family":
        return "family" if u < 0.85 else "hpi"
    if kind == "history":
        return "pmh" if u < 0.7 else "hpi"
    if entry.role == "social":
        return "social"
    if form.grammar == "finding":
        return "hpi" if u < 0.35 else "course" if u < 0.7 else "results"
    return "course" if u < 0.75 else "hpi"


def _add_fixed_lines(sections: Sections, plan: NotePlan, rng: np.random.Generator) -> None:
    """What every note has, whatever its length, so that no section that a reader expects stands empty."""
    patient = plan.patient
    opening = pick(rng, ("<He> presented with {}.", "<He> came in with {}.", "This <age> year old presents with {}."))
    opening = opening.format(plan.profile.complaint.lower())
    sections["hpi"].insert(0, Phrase(expand(opening, patient, rng)))
    if plan.target_words >= 150:
        for heading in HEADINGS:
            if heading.key in ("exam", "social", "admission drugs", "discharge drugs", "instructions", "followup"):
                sections[heading.key].append(next(filler_phrases(heading.group, patient, rng)))
    dispositions = ("Home", "Home With Service", "Extended Care", "Rehab facility")
    sections["disposition"].append(Phrase(pick(rng, dispositions)))
    conditions = ("Stable.", "Good.", "Improved, alert and ambulatory.", "Mental status clear, out of bed with help.")
    sections["condition"].append(Phrase(pick(rng, conditions)))
    if not sections["diagnosis"]:
        unspecific = ("As above.", "See hospital course.", "Weakness", "Fall", "Dehydration")
        sections["diagnosis"].append(Phrase(pick(rng, unspecific)))
    if plan.addendum:
        sections["addendum"].append(next(filler_phrases("course", patient, rng)))


def _add_filler(sections: Sections, plan: NotePlan, rng: np.random.Generator) -> None:
    """Filler by share until the note has its words; a section's overshoot is taken from the next one."""
    written = len(_rendered(sections, plan, np.random.default_rng(0)).text.split())
    missing = plan.target_words - written
    given, cumulative = 0, 0.0
    total = sum(heading.share for heading in HEADINGS)
    for heading in HEADINGS:
        cumulative += heading.share / total
        phrases = filler_phrases(heading.group, plan.patient, rng)
        while heading.share and given < missing * cumulative:
            phrase = next(phrases)
            sections[heading.key].append(phrase)
            given += len(phrase.text.split()) + (heading.layout == "numbered")


def _rendered(sections: Sections, plan: NotePlan, rng: np.random.Generator) -> Phrase:
    """The whole note with its marks, lines not yet wrapped."""
    patient, service = plan.patient, plan.profile.service
    sex, born = ("F" if patient.female else "M"), patient.year - patient.age
    month, last_day = f"{patient.year}-{patient.month}", patient.day + patient.stay_days
    allergies = pick(rng, ("Penicillins", "No Known Allergies", "Sulfa"))
    header = (
        f"Admission Date:  [**{month}-{patient.day}**]           Discharge Date:   [**{month}-{last_day}**]\n\n"
        f"Date of Birth:  [**{born}-{patient.month}-3**]             Sex:   {sex}\n\nService: {service}\n\n"
        f"Allergies:\n{allergies}\n\nAttending:[**First Name3 (LF) {int(rng.integers(100, 999))}**]\n\n"
        f"Chief Complaint:\n{plan.profile.complaint}\n"
    )
    blocks = [Phrase(header)]
    for heading in HEADINGS:
        phrases = sections[heading.key]
        if heading.key == "addendum" and phrases:
            blocks.append(Phrase(f"Completed by:[**Name6 (MD) {int(rng.integers(100, 999))}**]\n"))
        if not phrases and (not heading.when_empty or plan.target_words < 200):
            continue
        body = _laid_out(phrases or [Phrase(heading.when_empty)], heading.layout)
        blocks.append(joined([Phrase(heading.title), body, Phrase("")], "\n"))
    return joined(blocks, "\n")


def _laid_out(phrases: Sequence[Phrase], layout: str) -> Phrase:
    if layout == "lines":
        return joined([capitalised(phrase) for phrase in phrases], "\n")
    if layout == "numbered":
        numbered = [joined([Phrase(f"{n}."), capitalised(phrase)]) for n, phrase in enumerate(phrases, start=1)]
        return joined(numbered, "\n")
    paragraphs: list[list[Phrase]] = []
    for phrase in phrases:
        if not paragraphs or phrase.text.startswith("#") or len(paragraphs[-1]) >= 6:
            paragraphs.append([])
        paragraphs[-1].append(phrase)
    return joined([joined(paragraph) for paragraph in paragraphs], "\n")


def _wrapped(text: str) -> str:
    """The text with lines broken at `LINE_WIDTH`: a space becomes a line end, so that every offset stays."""
    lines: list[str] = []
    for line in text.split("\n"):
        rest = line
        while len(rest) > LINE_WIDTH:
            cut = rest.rfind(" ", 1, LINE_WIDTH + 1)
            if cut < 0:
                cut = rest.find(" ", LINE_WIDTH)
            if cut < 0:
                break
            lines.append(rest[:cut])
            rest = rest[cut + 1 :]
        lines.append(rest)
    return "\n".join(lines)

"""The 50 codes of the planted corpus: how often each is given, the words that license it, and the decoys it may have.

Forms are grouped by grammar, because a sentence that fits "pneumonia" does not fit "intubated". In a form, `#2-9`
stands for a number from 2 to 9 (laboratory evidence); the letters around it decide alone, so that a reader who drops
numbers can still tell. Prevalences are near the codes' shares of the MIMIC-III admissions that have at least one of
the 50 codes, rounded; except 96.04, which falls when it is kept to intubation without ventilation.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from hilat.corpora.planted_ventilation import LONG_VENTILATION, SHORT_VENTILATION

GRAMMARS = ("finding", "state", "procedure", "device", "therapy", "person", "former", "regimen", "drug", "lab")


@dataclass(frozen=True, slots=True)
class Form:
    """One surface form. text: as written inside a sentence; grammar: one of `GRAMMARS`."""

    text: str
    grammar: str


@dataclass(frozen=True, slots=True)
class PlantedCode:
    """What the generator knows of one code.

    prevalence: target share of the notes, in [0, 1]. role: "acute", "chronic", "historic", "procedure" or "social"; it
    chooses the sections. decoys: the decoy kinds that make sense for the code. forms: usual ones first.
    """

    code: str
    prevalence: float
    role: str
    decoys: tuple[str, ...]
    forms: tuple[Form, ...]


def _code(code: str, prevalence: float, role: str, decoys: str, **forms: str) -> PlantedCode:
    kinds = {"n": "negated", "u": "uncertain", "f": "family", "h": "history"}
    listed = tuple(Form(text, grammar) for grammar, texts in forms.items() for text in texts.split("|"))
    return PlantedCode(code, prevalence, role, tuple(kinds[letter] for letter in decoys), listed)


PLANTED_CODES: tuple[PlantedCode, ...] = (
    _code(
        "401.9", 0.38, "chronic", "nf",
        finding="hypertension|HTN|essential hypertension|high blood pressure|elevated BP"
    ),
    _code(
        "38.93", 0.27, "procedure", "nuh",
        device="central line|PICC line|central venous catheter|right IJ line|subclavian line|triple lumen catheter|CVL",
        procedure="venous catheterization|central line placement|PICC placement",
    ),
    _code(
        "428.0", 0.24, "chronic", "nuf",
        finding="congestive heart failure|CHF|heart failure|CHF exacerbation|decompensated heart failure"
        "|volume overload from CHF",
    ),
    _code(
        "427.31", 0.24, "chronic", "nufh",
        finding="atrial fibrillation|afib|AF|afib w/ RVR|paroxysmal atrial fibrillation|a-fib|atrial fib",
    ),
    _code(
        "414.01", 0.23, "chronic", "nuf",
        finding="coronary artery disease|CAD|three vessel disease|coronary atherosclerosis|3VD|native vessel disease",
    ),
    _code(
        "96.04", 0.12, "procedure", "nuh",
        state="intubated|emergently intubated|intubated in the field",
        procedure="endotracheal intubation|endotracheal tube placement|rapid sequence intubation|ETT placement",
    ),
    _code(
        "96.6", 0.17, "procedure", "nuh",
        therapy="tube feeds|tube feeding|enteral nutrition|tubefeeds|Dobhoff feeds|enteral feeding|nutrition via NGT",
    ),
    _code(
        "584.9", 0.17, "acute", "nuh",
        finding="acute renal failure|ARF|acute kidney injury|AKI|acute kidney failure|acute renal insufficiency",
        lab="creatinine bumped to #2-5.#0-9|creatinine acutely up to #2-6.#0-9",
    ),
    _code(
        "250.00", 0.17, "chronic", "nuf",
        finding="type II diabetes|diabetes mellitus|DM2|diabetes|NIDDM|T2DM",
        drug="metformin|glipizide|glyburide",
    ),
    _code("96.71", 0.16, "procedure", "nuh", **SHORT_VENTILATION),
    _code("272.4", 0.16, "chronic", "nf", finding="hyperlipidemia|HLD|dyslipidemia|hyperlipemia|elevated lipids"),
    _code(
        "518.81", 0.14, "acute", "nuh",
        finding="respiratory failure|acute respiratory failure|hypoxic respiratory failure|hypercarbic failure"
        "|hypoxemic respiratory failure",
        lab="pCO2 up to #60-95 with obtundation",
    ),
    _code(
        "99.15", 0.12, "procedure", "nuh",
        therapy="TPN|total parenteral nutrition|parenteral nutrition|hyperalimentation|intravenous nutrition",
    ),
    _code(
        "39.61", 0.13, "procedure", "nh",
        therapy="cardiopulmonary bypass|CPB|extracorporeal circulation|the heart lung machine|the bypass pump",
    ),
    _code(
        "599.0", 0.12, "acute", "nuh",
        finding="urinary tract infection|UTI|urine infection|E coli UTI|pyuria with dysuria",
        lab="urine culture grew >100,000 E coli",
    ),
    _code(
        "530.81", 0.12, "chronic", "nuf",
        finding="GERD|esophageal reflux|gastroesophageal reflux|acid reflux|reflux disease",
    ),
    _code("96.72", 0.11, "procedure", "nuh", **LONG_VENTILATION),
    _code(
        "272.0", 0.11, "chronic", "nf",
        finding="hypercholesterolemia|high cholesterol|elevated cholesterol|pure hypercholesterolemia|hyperchol",
    ),
    _code(
        "285.9", 0.10, "chronic", "nufh",
        finding="anemia|chronic anemia|normocytic anemia|low blood counts",
        state="anemic",
        lab="hematocrit chronically low at #27-33",
    ),
    _code(
        "88.56", 0.10, "procedure", "nuh",
        procedure="coronary angiography|coronary angiogram|coronary arteriography|selective coronary angiography"
        "|arteriography of both coronaries",
    ),
    _code(
        "486", 0.09, "acute", "nuh",
        finding="pneumonia|PNA|community acquired pneumonia|left lower lobe pneumonia|RLL consolidation",
    ),
    _code(
        "244.9", 0.09, "chronic", "nuf",
        finding="hypothyroidism|acquired hypothyroidism|underactive thyroid",
        state="hypothyroid",
        drug="levothyroxine|Synthroid",
    ),
    _code(
        "38.91", 0.09, "procedure", "nuh",
        device="arterial line|a-line|radial arterial line|arterial catheter|radial a line|femoral arterial line",
    ),
    _code(
        "285.1", 0.085, "acute", "nuh",
        finding="acute blood loss anemia|posthemorrhagic anemia|acute anemia from bleeding|blood loss anemia",
        lab="hematocrit dropped sharply to #19-25",
    ),
    _code(
        "36.15", 0.083, "procedure", "nuf",
        procedure="CABG|CABG x3 with LIMA to LAD|coronary artery bypass grafting|LIMA to LAD bypass"
        "|internal mammary artery grafting",
    ),
    _code(
        "276.2", 0.082, "acute", "nuh",
        finding="metabolic acidosis|lactic acidosis|acidosis|acidemia|anion gap acidosis",
        state="acidotic",
        lab="lactate elevated to #3-9.#0-9",
    ),
    _code(
        "496", 0.081, "chronic", "nuf",
        finding="COPD|chronic obstructive pulmonary disease|chronic airway obstruction|obstructive lung disease"
        "|COPD on home oxygen",
        drug="tiotropium|Spiriva",
    ),
    _code(
        "99.04", 0.08, "procedure", "nuh",
        procedure="transfusion of packed cells|red cell transfusion|PRBC transfusion|pRBC transfusion x2",
        state="transfused|given two units of PRBCs",
    ),
    _code(
        "V58.61", 0.076, "chronic", "nuf",
        regimen="long term anticoagulation|chronic anticoagulation|lifelong anticoagulation",
        drug="warfarin|Coumadin",
    ),
    _code(
        "507.0", 0.07, "acute", "nuh",
        finding="aspiration pneumonia|aspiration pneumonitis|pneumonitis from vomitus|aspiration PNA",
        lab="gastric contents suctioned from the airway",
    ),
    _code(
        "038.9", 0.075, "acute", "nuh",
        finding="sepsis|septicemia|urosepsis|sepsis of unclear source|blood stream infection",
        state="septic",
    ),
    _code(
        "88.72", 0.068, "procedure", "nuh",
        procedure="TTE|echocardiogram|transthoracic echocardiogram|echo|cardiac ultrasound|TEE",
    ),
    _code(
        "585.9", 0.082, "chronic", "nuf",
        finding="CKD|chronic kidney disease|chronic renal insufficiency|CRI|chronic renal failure",
        lab="baseline creatinine chronically #1-2.#4-9",
    ),
    _code(
        "403.90", 0.066, "chronic", "nu",
        finding="hypertensive kidney disease|hypertensive CKD|hypertensive nephropathy|HTN nephropathy"
        "|hypertensive nephrosclerosis|CKD due to hypertension",
    ),
    _code(
        "311", 0.066, "chronic", "nufh",
        finding="depression|depressive disorder|depressed mood|major depression",
        drug="sertraline|citalopram",
    ),
    _code(
        "305.1", 0.065, "social", "nuf",
        finding="tobacco abuse|tobacco use disorder|active tobacco use|nicotine dependence|ongoing tobacco use",
        person="current smoker|heavy smoker|pack a day smoker",
    ),
    _code(
        "37.22", 0.064, "procedure", "nuh",
        procedure="left heart catheterization|left heart cath|LHC|retrograde left heart cath",
    ),
    _code(
        "412", 0.063, "historic", "nuf",
        finding="old MI|prior MI|old myocardial infarction|previous MI|remote MI|MI many years ago",
    ),
    _code(
        "33.24", 0.062, "procedure", "nuh",
        procedure="bronchoscopy with BAL|bronchoalveolar lavage|transbronchial biopsy|bronchial biopsy"
        "|bronchoscopy with biopsy",
    ),
    _code(
        "39.95", 0.06, "procedure", "nuf",
        therapy="hemodialysis|HD|dialysis|CVVH|renal replacement therapy",
        state="dialyzed",
    ),
    _code(
        "287.5", 0.059, "acute", "nufh",
        finding="thrombocytopenia|low platelets|low platelet count",
        state="thrombocytopenic",
        lab="platelets fell to #31-90|platelets low at #31-90",
    ),
    _code(
        "410.71", 0.058, "acute", "nuf",
        finding="NSTEMI|non-ST elevation MI|subendocardial infarction|non Q wave MI|non-STEMI",
        lab="troponin peaked at #0-9.#1-9 with ST depressions",
    ),
    _code(
        "276.1", 0.058, "acute", "nuh",
        finding="hyponatremia|low sodium|hyposmolality",
        state="hyponatremic",
        lab="sodium low at #119-130|Na fell to #119-130",
    ),
    _code(
        "V45.81", 0.057, "historic", "nuf",
        finding="s/p CABG|prior CABG|previous bypass surgery|status post CABG|prior coronary bypass"
    ),
    _code(
        "424.0", 0.056, "chronic", "nuf",
        finding="mitral regurgitation|mitral valve prolapse|mitral insufficiency|mitral valve disease|MVP"
        "|moderate mitral regurgitation",
    ),
    _code(
        "V15.82", 0.055, "social", "nuf",
        finding="past tobacco use|prior tobacco use|remote tobacco history",
        former="former smoker|ex-smoker|ex smoker",
    ),
    _code(
        "45.13", 0.054, "procedure", "nuh",
        procedure="EGD|esophagogastroduodenoscopy|upper endoscopy|endoscopy of the duodenum|push enteroscopy",
    ),
    _code(
        "511.9", 0.053, "acute", "nuh",
        finding="pleural effusion|bilateral pleural effusions|left pleural effusion|right sided effusion"
        "|pleural effusions",
    ),
    _code(
        "37.23", 0.052, "procedure", "nuh",
        procedure="right and left heart catheterization|right and left heart cath|combined right and left heart study"
        "|R and L heart cath",
    ),
    _code(
        "995.92", 0.052, "acute", "nuh",
        finding="severe sepsis|septic shock|sepsis with organ dysfunction|sepsis with hypotension",
    ),
)  # fmt: skip

BY_CODE: dict[str, PlantedCode] = {entry.code: entry for entry in PLANTED_CODES}

INNER_EVIDENCE: dict[str, str] = {"995.92": "038.9", "403.90": "585.9"}
"""Codes whose wording also licenses another code, which is then always given with them."""


@cache
def form_pattern(text: str) -> re.Pattern[str]:
    """The pattern that finds a form in a note: any case, any white space between words, any digits for `#2-9`."""
    escaped = re.sub(r"\\#\d+\\-\d+", r"\\d+", re.escape(text)).replace(r"\ ", r"\s+")
    return re.compile(rf"(?<!\w){escaped}(?!\w)", re.IGNORECASE)


@cache
def inner_forms(form: Form, owner: str) -> tuple[tuple[str, int, int], ...]:
    """The forms of other codes inside this form: (code, start, end) offsets in `form.text`, outermost per code."""
    found: list[tuple[str, int, int]] = []
    for entry in PLANTED_CODES:
        if entry.code == owner:
            continue
        hits = {hit.span() for other in entry.forms for hit in form_pattern(other.text).finditer(form.text)}
        for start, end in sorted(hits):
            if not any(s <= start and end <= e and (s, e) != (start, end) for s, e in hits):
                found.append((entry.code, start, end))
    return tuple(found)

"""The rest of a planted note: vitals, laboratory tables, drug lists, examination, instructions.

None of it depends on the codes (laboratory values are drawn near normal for everyone), and none of it holds a code's
surface form: what licenses a code, or seems to, is only ever what is marked. Negations, doubts, relatives, earlier
years and durations occur here too, so that these words alone tell nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from hilat.corpora.planted_phrases import Patient, Phrase, date_mark, expand

FILLER: dict[str, tuple[str, ...]] = {
    "history": (
        "<He> was in <his> usual state of health until <n:2-9> days before arrival.",
        "Symptoms had been present for <dur>.",
        "<He> denied chills, cough or abdominal pain.",
        "In the ED, initial vitals were T 9<n:7-9> BP 1<n:10-58>/<n:55-89> P <n:62-118>.",
        "EMS was called by <his> family.",
        "<He> was seen by <his> PCP on <date> and sent in.",
        "Recent travel: none. No sick contacts.",
        "Review of systems was otherwise negative.",
        "<He> received IV fluids and was admitted to the floor.",
        "History was obtained from the chart and the family.",
        "<He> had last eaten the evening before.",
        "Of note, <he> had a similar but milder spell in <year>.",
        "At [**Hospital1 <n:11-99>**] an initial evaluation was unrevealing.",
        "<He> uses a walker at baseline.",
        "Per <his> <relative>, <he> had seemed tired for <dur>.",
        "There was no trauma and no loss of consciousness.",
        "<He> took <his> usual medicines that morning, possibly twice.",
        "Appetite has been fair, weight unchanged.",
    ),
    "past": (
        "Cataract surgery in <year>",
        "Appendectomy",
        "Osteoarthritis",
        "Seasonal allergies",
        "Hernia repair <year>",
        "Gout, no recent flares",
        "Kidney stones in <year>, resolved",
        "Glaucoma",
        "Right knee replacement <year>",
    ),
    "social": (
        "Lives with <his> spouse in [**Location (un) <n:100-999>**].",
        "Retired teacher.",
        "Rare alcohol, no drugs.",
        "Independent in daily tasks.",
        "Has <n:2-4> children nearby.",
        "Worked in an office until <year>.",
        "Walks with a cane.",
        "Widowed, <his> <relative> helps at home.",
    ),
    "family": (
        "<Relative> alive and well.",
        "No sudden death.",
        "<Relative> with breast cancer.",
        "<Relative> had a stroke.",
        "Otherwise noncontributory.",
        "<Relative> died at age <n:61-93> of unknown cause.",
        "No clotting disorders.",
    ),
    "exam": (
        "T 9<n:6-9>.<n:0-9> BP 1<n:10-48>/<n:55-89> HR <n:58-104> RR <n:12-24> O2 9<n:2-9>% RA.",
        "Gen: NAD, alert.",
        "HEENT: PERRL, EOMI, moist mucosa.",
        "Neck: supple, no LAD, JVP flat.",
        "Lungs: coarse at the bases, no wheeze.",
        "CV: normal S1 S2, no gallops.",
        "Abd: soft, NT/ND, bowel sounds present.",
        "Ext: warm, trace ankle swelling.",
        "Neuro: oriented x3, CN II-XII intact, strength 5/5.",
        "Skin: no rash, old bruises over the forearms.",
        "Back: no spinal tenderness.",
        "Pulses 2+ throughout.",
        "Rectal: guaiac not done.",
        "Psych: pleasant, calm.",
        "Gait not tested.",
        "GU: Foley in place, clear urine.",
    ),
    "results": (
        "EKG <date>: normal axis, no acute changes.",
        "CXR <date>: lungs clear, heart size unchanged.",
        "KUB: nonspecific bowel gas pattern.",
        "CT head <date>: no bleed, no mass, mild atrophy.",
        "RUQ ultrasound: gallbladder normal, no stones.",
        "Blood cultures <date>: no growth to date.",
        "Urinalysis: clear, no nitrite.",
        "Sputum culture: sparse oral flora.",
        "C diff toxin negative.",
        "CT abdomen: no free air, tiny renal cysts, possible hepatic cyst.",
        "LENIs: no clot in either leg.",
        "MRI spine: mild degenerative change, unchanged from <year>.",
        "Stool studies pending.",
    ),
    "course": (
        "Pain was controlled with acetaminophen.",
        "Diet was advanced as tolerated.",
        "Received antibiotics for <dur>.",
        "Physical therapy saw the patient and cleared <him>.",
        "<He> remained on the floor for <dur>.",
        "Electrolytes were repleted as needed.",
        "Prophylaxis: heparin SC, bowel regimen.",
        "Code status: full.",
        "Communication was with <his> <relative>.",
        "<He> was transferred to the unit for close monitoring for <dur>.",
        "Home medications were held at first and resumed on <date>.",
        "<He> had no further complaints.",
        "The family was updated daily, and questions were answered.",
        "Cultures remained negative at <n:24-72> hours.",
        "A social worker met with the patient.",
        "Foley was removed and <he> voided.",
        "Vitals stayed stable overnight.",
        "Consultants agreed with the plan and signed off.",
        "Constipation, possibly from narcotics, responded to senna.",
        "Steroids were given for <dur> and stopped.",
        "# FEN: regular diet, no restrictions.",
        "# Dispo: home when able.",
        "Nausea was treated with ondansetron, with prior doses adjusted.",
        "<He> ambulated with assistance by <date>.",
        "Diuretics were continued for <dur> after transfer.",
        "A bedside swallow study was passed.",
    ),
    "drugs": (
        "Aspirin 81 mg PO DAILY",
        "Metoprolol Tartrate <n:1-9>5 mg PO BID",
        "Furosemide <n:2-8>0 mg PO DAILY",
        "Lisinopril <n:1-4>0 mg PO DAILY",
        "Docusate Sodium 100 mg PO BID",
        "Senna 8.6 mg PO BID PRN",
        "Acetaminophen 325 mg Tablet Sig: 1-2 Tablets PO Q6H as needed",
        "Atorvastatin <n:1-8>0 mg PO QHS",
        "Multivitamin 1 TAB PO DAILY",
        "Pantoprazole 40 mg PO Q24H",
        "Folic Acid 1 mg PO DAILY",
        "Vitamin D 400 unit PO DAILY",
        "Amlodipine 5 mg PO DAILY",
        "Gabapentin <n:1-6>00 mg PO TID",
        "Zolpidem 5 mg PO HS PRN",
        "Oxycodone 5 mg PO Q4H PRN pain",
        "Potassium Chloride 20 mEq PO DAILY",
        "Calcium Carbonate 500 mg PO TID",
        "Ferrous Sulfate 325 mg PO DAILY",
    ),
    "instructions": (
        "Take all medicines as prescribed.",
        "Call your doctor for fever, chills or chest discomfort.",
        "Weigh yourself daily.",
        "No heavy lifting for <dur>.",
        "Return to the ED if you feel worse.",
        "Keep your wound clean and dry.",
        "You may shower but no baths.",
        "Do not drive while taking narcotics.",
        "Eat a balanced diet, low in salt.",
        "Please stop your water pill until seen.",
        "It was a pleasure caring for you.",
        "Drink plenty of fluids.",
        "Your blood will be checked on <date>.",
        "Avoid strenuous activity until your visit.",
    ),
    "followup": (
        "Dr. [**Last Name (STitle) <n:100-2900>**] on <date>.",
        "PCP within <n:1-4> weeks, call [**Telephone/Fax (1) <n:1000-9999>**].",
        "Clinic visit <date> at <n:8-12>:30 AM.",
        "Provider: [**First Name8 (NamePattern2) <n:100-999>**], [**Hospital1 <n:11-99>**].",
        "Blood work at the lab in <n:1-3> weeks.",
        "No other appointments were made.",
    ),
}
"""Sentences per section group; slots as in `planted_phrases.expand`."""

_PANELS: tuple[tuple[tuple[str, float, float, int], ...], ...] = (
    (("WBC", 4.5, 11.5, 1), ("RBC", 3.4, 5.0, 2), ("Hgb", 10.0, 14.5, 1), ("Hct", 31.0, 43.0, 1), ("MCV", 82, 98, 0),
     ("RDW", 12.5, 16.5, 1), ("Plt Ct", 155, 390, 0)),
    (("Glucose", 80, 165, 0), ("UreaN", 9, 28, 0), ("Creat", 0.6, 1.3, 1), ("Na", 135, 145, 0), ("K", 3.5, 5.1, 1),
     ("Cl", 97, 108, 0), ("HCO3", 22, 30, 0), ("AnGap", 8, 17, 0)),
    (("PT", 11.0, 15.0, 1), ("PTT", 23.0, 36.0, 1), ("INR(PT)", 0.9, 1.4, 1)),
    (("ALT", 9, 48, 0), ("AST", 12, 51, 0), ("LD(LDH)", 130, 290, 0), ("AlkPhos", 41, 120, 0),
     ("TotBili", 0.2, 1.2, 1)),
    (("Calcium", 8.2, 10.1, 1), ("Phos", 2.4, 4.6, 1), ("Mg", 1.6, 2.5, 1)),
)  # fmt: skip


def laboratory_line(patient: Patient, rng: np.random.Generator) -> Phrase:
    """One line of the laboratory table, as printed: `[**2151-7-16**] 05:30AM BLOOD WBC-9.2 ...`."""
    panel = _PANELS[int(rng.integers(len(_PANELS)))]
    draws = rng.random(len(panel))
    values = [
        f"{name}-{low + (high - low) * draw:.{digits}f}{'*' if draw < 0.15 or draw > 0.9 else ''}"
        for (name, low, high, digits), draw in zip(panel, draws, strict=True)
    ]
    hour, minute = int(rng.integers(1, 12)), int(rng.integers(0, 60))
    half = "AM" if rng.random() < 0.7 else "PM"
    return Phrase(f"{date_mark(patient, rng)} {hour:02d}:{minute:02d}{half} BLOOD {' '.join(values)}")


def filler_phrases(group: str, patient: Patient, rng: np.random.Generator) -> Iterator[Phrase]:
    """Endless sentences (table lines, list items) of a group of `FILLER`, none again before all had their turn."""
    sentences = FILLER[group]
    while True:
        for i in rng.permutation(len(sentences)):
            while group == "results" and rng.random() < 0.55:
                yield laboratory_line(patient, rng)
            yield Phrase(expand(sentences[i], patient, rng))

"""MIMIC-IV and MIMIC-IV-Note as downloaded: discharge summaries with addenda, codes of one version of the ICD.

Hospital stays up to about 2015 are coded in ICD-9-CM, later ones in ICD-10-CM and -PCS. A corpus holds one of the two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hilat.admissions import HilatError
from hilat.corpora.folder import Corpus
from hilat.corpora.mimic import MimicSettings, MimicSource, read_mimic, source_places, write_mimic
from hilat.corpora.mimic_codes import SYSTEMS, IcdVersion
from hilat.corpora.mimic_notes import stage_discharge
from hilat.corpora.mimic_tables import Release, Table, find_tables

CITATION = (
    "Johnson et al. 2023, MIMIC-IV, a freely accessible electronic health record dataset, Scientific Data 10:1; "
    "Johnson et al. 2023, MIMIC-IV-Note, PhysioNet"
)
_HOSP = ("DIAGNOSES_ICD", "PROCEDURES_ICD", "D_ICD_DIAGNOSES", "D_ICD_PROCEDURES")
MIMIC4 = Release(
    name="MIMIC-IV with MIMIC-IV-Note",
    required={
        "DISCHARGE": (
            "note_id",
            "subject_id",
            "hadm_id",
            "note_type",
            "note_seq",
            "charttime",
            "storetime",
            "text",
        ),
        "DIAGNOSES_ICD": ("hadm_id", "seq_num", "icd_code", "icd_version"),
        "PROCEDURES_ICD": ("hadm_id", "seq_num", "icd_code", "icd_version"),
        "D_ICD_DIAGNOSES": ("icd_code", "icd_version", "long_title"),
        "D_ICD_PROCEDURES": ("icd_code", "icd_version", "long_title"),
    },
    schemas={"DISCHARGE": "mimiciv_note", **dict.fromkeys(_HOSP, "mimiciv_hosp")},
    folders=(".", "hosp", "note"),
)


def convert_mimic4(
    source: Sequence[Path] | Mapping[str, Table],
    out: Path,
    version: IcdVersion,
    settings: MimicSettings | None = None,
    *,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Stream MIMIC-IV into a corpus folder, and return the corpus's manifest.

    Arguments:
        source: the folders of MIMIC-IV and of MIMIC-IV-Note (or one that holds both; `hosp` and `note` within them are
            found), or the tables of a database (`hilat.corpora.postgresql`).
        version: of the ICD. Admissions with codes of the other are left out and counted.

    Raises:
        HilatError: a table missing or damaged, a version that is neither 9 nor 10, a split file or label set that does
            not fit, or an existing `out` without `overwrite`.
    """
    return write_mimic(_source(source, version), Path(out), settings or MimicSettings(), overwrite=overwrite)


def read_mimic4(
    source: Sequence[Path] | Mapping[str, Table], version: IcdVersion, settings: MimicSettings | None = None
) -> Corpus:
    """The same corpus in memory: 3 GB of text and more for the whole of MIMIC-IV. Raises HilatError likewise."""
    return read_mimic(_source(source, version), settings or MimicSettings())


def _source(source: Sequence[Path] | Mapping[str, Table], version: IcdVersion) -> MimicSource:
    if version not in SYSTEMS:
        raise HilatError(f"ICD version {version} is given; expected 9 or 10. MIMIC-IV is coded in these two")
    tables = source if isinstance(source, Mapping) else find_tables(source_places(source), MIMIC4)
    stage = partial(stage_discharge, table=tables["DISCHARGE"])
    return MimicSource(f"mimic4-icd{version}", CITATION, tables, stage, version, {"icd_version": version})

"""MIMIC-III v1.4 as downloaded: discharge summaries with addenda, ICD-9-CM codes, label sets, splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hilat.corpora.folder import Corpus
from hilat.corpora.mimic import MimicSettings, MimicSource, read_mimic, write_mimic
from hilat.corpora.mimic_notes import DISCHARGE, stage_noteevents
from hilat.corpora.mimic_tables import MIMIC3, Table, find_tables

SOURCE = "mimic3"
CITATION = "Johnson et al. 2016, MIMIC-III, a freely accessible critical care database, Scientific Data 3:160035"


def convert_mimic3(
    source: Path | Mapping[str, Table],
    out: Path,
    settings: MimicSettings | None = None,
    *,
    categories: Sequence[str] = (DISCHARGE,),
    overwrite: bool = False,
) -> dict[str, Any]:
    """Stream MIMIC-III v1.4 into a corpus folder, and return the corpus's manifest.

    manifest["notes"] holds the counts of all that was left out, joined or changed, and the statistics.

    Arguments:
        source: the folder of the tables, or the tables of a database (`hilat.corpora.postgresql`).
        categories: of the notes that are joined, in this order; admissions need a note of the first.

    Raises:
        HilatError: a table missing or damaged, a split file or label set that does not fit, or an existing `out`
            without `overwrite`.
    """
    return write_mimic(_source(source, categories), Path(out), settings or MimicSettings(), overwrite=overwrite)


def read_mimic3(
    source: Path | Mapping[str, Table],
    settings: MimicSettings | None = None,
    *,
    categories: Sequence[str] = (DISCHARGE,),
) -> Corpus:
    """The same corpus in memory: 0.6 GB of text and more for the whole of MIMIC-III. Raises HilatError likewise."""
    return read_mimic(_source(source, categories), settings or MimicSettings())


def _source(source: Path | Mapping[str, Table], categories: Sequence[str]) -> MimicSource:
    tables = source if isinstance(source, Mapping) else find_tables([Path(source)], MIMIC3)
    stage = partial(stage_noteevents, table=tables["NOTEEVENTS"], categories=tuple(categories))
    return MimicSource(SOURCE, CITATION, tables, stage, shown={"categories": list(categories)})

"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:0, ... or mps.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Admissions per forward pass.")]
Workers = Annotated[
    int, typer.Option(min=0, help="Processes that clean and tokenise notes ahead of the model; 0: none.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
ModelFolder = Annotated[Path, typer.Option("--model", help="A model folder that `hilat train` wrote (RUN/model).")]
CorpusFolder = Annotated[Path, typer.Option("--corpus", help="A corpus folder that `hilat corpus` wrote.")]
Split = Annotated[str, typer.Option(help="Which split of the corpus.")]
Interval = Annotated[
    str, typer.Option(help="95 % bootstrap interval over admissions: percentile, or bca (corrected for bias and skew).")
]
Seed = Annotated[int, typer.Option(help="Seed of what is drawn.")]
Language = Annotated[str, typer.Option(help="Language of the notes and descriptions: en or es.")]
Synonyms = Annotated[Path | None, typer.Option(help="Synonyms: a table with the columns code and term.")]
Umls = Annotated[Path | None, typer.Option(help="Synonyms: UMLS's MRCONSO.RRF, or .gz.")]
SnomedMap = Annotated[Path | None, typer.Option(help="Synonyms: an ICD-9-CM to SNOMED CT map file of the NLM.")]
RulePairs = Annotated[
    Path | None, typer.Option(help="Coding rules: a YAML file of pairs.", show_default="the built-in ICD-9-CM pairs")
]
Context = Annotated[
    str, typer.Option("--context", help="What tells negated, uncertain, ... words: own, or medspacy (to be installed).")
]

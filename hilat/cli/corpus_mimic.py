"""`hilat corpus mimic3`, `mimic4`, `mdace` and `overlap`: corpora of MIMIC, from downloads or from PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hilat.admissions import HilatError
from hilat.cli.console import emit_json, out
from hilat.cli.corpus_told import told
from hilat.cli.options import Json, Overwrite, Seed

if TYPE_CHECKING:
    from hilat.admissions import Admission
    from hilat.corpora.mimic_tables import Release, Table
    from hilat.corpora.overlap import Overlap
    from hilat.corpora.splits import Splits

OutFolder = Annotated[Path, typer.Option("--out", help="The corpus folder to write.")]
Source = Annotated[
    str | None,
    typer.Option(
        help="postgresql://user@host/database in place of a folder (keep the password in PGPASSWORD or ~/.pgpass)."
    ),
]
Labels = Annotated[
    str,
    typer.Option(
        help="A number K (the K most frequent codes), all, caml-50, laat-50, or a file with one code per line."
    ),
]
MinCount = Annotated[int, typer.Option(min=1, help="Leave out codes that fewer admissions have (10: the clean split).")]
CountOn = Annotated[str, typer.Option(help="Where K counts: summaries, coded or train.")]
SplitPath = Annotated[
    Path | None,
    typer.Option(
        "--splits",
        help="A folder of id files in CAML's format, or a table of _id and split as Edin et al. released it. Without it, "
        "splits are drawn.",
    ),
]
Suffix = Annotated[str, typer.Option(help="Which id files of the folder: 50 or full.")]
Draw = Annotated[
    str | None,
    typer.Option(
        show_default="subject",
        help="How splits are drawn: subject (0.8, 0.1, 0.1 by patient), stratified (0.75, 0.10, 0.15 by patient, each code "
        "with its share), or none.",
    ),
]
MemoryMb = Annotated[int, typer.Option(min=256, help="What DuckDB may use; the process needs more.")]
Categories = Annotated[
    str, typer.Option(help="Which notes are joined, in this order, comma between; admissions need one of the first.")
]


def mimic3(
    out_folder: OutFolder,
    folder: Annotated[
        Path | None, typer.Argument(help="The folder of NOTEEVENTS, DIAGNOSES_ICD, ... (csv, csv.gz, parquet).")
    ] = None,
    source: Source = None,
    schema: Annotated[str, typer.Option(help="The schema in PostgreSQL.")] = "mimiciii",
    labels: Labels = "50",
    min_count: MinCount = 1,
    count_on: CountOn = "summaries",
    splits: SplitPath = None,
    suffix: Suffix = "50",
    draw: Draw = None,
    categories: Categories = "Discharge summary",
    seed: Seed = 0,
    memory_mb: MemoryMb = 512,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Convert MIMIC-III v1.4: discharge summaries with addenda, ICD-9 codes. From the download, or from PostgreSQL.

    Examples:

      [bold]hilat corpus mimic3 /data/mimic-iii --out corpora/mimic50 --splits /data/caml-splits[/]

      [bold]hilat corpus mimic3 /data/mimic-iii --out corpora/mimic-full --labels all --splits /data/caml --suffix full[/]

      [bold]hilat corpus mimic3 /data/mimic-iii --out corpora/clean --labels all --min-count 10 --splits mimiciii_clean_splits.feather[/]

      [bold]hilat corpus mimic3 --source postgresql://me@localhost/mimic --out corpora/mimic50[/]
    """
    from hilat.corpora.mimic import MimicSettings
    from hilat.corpora.mimic3 import convert_mimic3
    from hilat.corpora.mimic_tables import MIMIC3

    settings = MimicSettings(
        labels=int(labels) if labels.isdigit() else labels,
        min_count=min_count,
        count_labels_on=count_on,  # type: ignore[arg-type]
        splits=_splits(splits, suffix, draw, seed),
        memory_limit_mb=memory_mb,
    )
    with _tables([folder] if folder else [], source, MIMIC3, dict.fromkeys(MIMIC3.required, schema)) as tables:
        manifest = convert_mimic3(tables, out_folder, settings, categories=_listed(categories), overwrite=overwrite)
    told(manifest, out_folder, json)


def mimic4(
    out_folder: OutFolder,
    icd: Annotated[
        int, typer.Option(min=9, max=10, help="9 or 10: admissions coded in the other are left out and counted.")
    ],
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            help="The folders of MIMIC-IV (with hosp/) and MIMIC-IV-Note (with note/); one if it holds both."
        ),
    ] = None,
    source: Source = None,
    hosp_schema: Annotated[str, typer.Option(help="The schema of the codes in PostgreSQL.")] = "mimiciv_hosp",
    note_schema: Annotated[str, typer.Option(help="The schema of the notes in PostgreSQL.")] = "mimiciv_note",
    labels: Labels = "50",
    min_count: MinCount = 1,
    count_on: CountOn = "summaries",
    splits: SplitPath = None,
    suffix: Suffix = "50",
    draw: Draw = None,
    seed: Seed = 0,
    memory_mb: MemoryMb = 512,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Convert MIMIC-IV with MIMIC-IV-Note: discharge summaries with addenda, codes of one version of the ICD.

    Examples:

      [bold]hilat corpus mimic4 /data/mimiciv /data/mimic-iv-note --icd 10 --out corpora/mimic4-50[/]

      [bold]hilat corpus mimic4 /data/mimiciv /data/mimic-iv-note --icd 10 --labels all --min-count 10 --draw stratified --out corpora/mimic4-icd10[/]

      [bold]hilat corpus mimic4 --source postgresql://me@localhost/mimiciv --icd 9 --out corpora/mimic4-icd9[/]
    """
    from hilat.corpora.mimic import MimicSettings
    from hilat.corpora.mimic4 import MIMIC4, convert_mimic4

    settings = MimicSettings(
        labels=int(labels) if labels.isdigit() else labels,
        min_count=min_count,
        count_labels_on=count_on,  # type: ignore[arg-type]
        splits=_splits(splits, suffix, draw, seed),
        memory_limit_mb=memory_mb,
    )
    schemas = {name: note_schema if name == "DISCHARGE" else hosp_schema for name in MIMIC4.required}
    with _tables(folders or [], source, MIMIC4, schemas) as tables:
        manifest = convert_mimic4(tables, out_folder, 9 if icd == 9 else 10, settings, overwrite=overwrite)
    told(manifest, out_folder, json)


def mdace(
    annotations: Annotated[
        Path, typer.Argument(help="A folder of MDACE's JSON files of one version, such as data/Inpatient/ICD-9/1.0.")
    ],
    out_folder: OutFolder,
    mimic: Annotated[Path | None, typer.Option(help="The folder of MIMIC-III's NOTEEVENTS.")] = None,
    source: Source = None,
    schema: Annotated[str, typer.Option(help="The schema in PostgreSQL.")] = "mimiciii",
    splits: Annotated[Path | None, typer.Option(help="MDACE's folder splits/Inpatient; without it, no splits.")] = None,
    split_set: Annotated[str, typer.Option(help="Which of its splits: ev or code-ev.")] = "ev",
    categories: Annotated[
        str, typer.Option(help="Which notes are joined, comma between, or all.")
    ] = "Discharge summary",
    codes_of: Annotated[
        Path | None, typer.Option(help="A corpus folder whose label set is taken: that of the model to be judged.")
    ] = None,
    against: Annotated[
        Path | None, typer.Option(help="The corpus folder that the model was trained on, to be checked for leaks.")
    ] = None,
    trained_split: Annotated[str, typer.Option(help="Its split that the model was trained on.")] = "train",
    leaks: Annotated[
        str, typer.Option(help="Admissions that were trained on: refuse, drop (leave them out), or keep (only count).")
    ] = "refuse",
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Make a corpus of MDACE: the annotated notes of MIMIC-III with the coders' spans as evidence.

    Example: [bold]hilat corpus mdace MDACE/data/Inpatient/ICD-9/1.0 --mimic /data/mimic-iii --splits MDACE/splits/Inpatient --codes-of corpora/mimic50 --against corpora/mimic50 --leaks drop --out corpora/mdace[/]
    """
    from dataclasses import replace

    from hilat.corpora import read_code_book, write_corpus
    from hilat.corpora.mdace_corpus import NOTES, MdaceSettings, mdace_split_files, read_mdace_corpus
    from hilat.corpora.overlap import overlap

    if leaks not in ("refuse", "drop", "keep"):
        raise typer.BadParameter(f"{leaks!r} is none of refuse, drop, keep", param_hint="--leaks")
    if split_set not in ("ev", "code-ev"):
        raise typer.BadParameter(f"{split_set!r} is neither ev nor code-ev", param_hint="--split-set")
    files = mdace_split_files(splits, "ev" if split_set == "ev" else "code-ev") if splits else None
    settings = MdaceSettings(
        categories=() if categories == "all" else _listed(categories),
        codes=read_code_book(codes_of) if codes_of else None,
    )
    trained = _opened(against, trained_split) if against else None  # a wrong name is told before the long reading
    with _tables([mimic] if mimic else [], source, NOTES, {"NOTEEVENTS": schema}) as tables:
        corpus = read_mdace_corpus(annotations, tables["NOTEEVENTS"], settings, files)
    notes = dict(corpus.notes)
    admissions = corpus.admissions
    if trained is not None:
        found = overlap(admissions, trained)
        notes["leaks"] = {**found.counts(), "then": leaks}
        if found.leaks and leaks == "refuse":
            raise HilatError(_leaked(found, f"MDACE's {found.judged} admissions", "--leaks drop or --leaks keep"))
        if leaks == "drop":
            admissions = tuple(a for a in admissions if a.hadm_id not in found.leaks)
    corpus = replace(corpus, admissions=admissions, notes=notes)
    manifest = write_corpus(
        out_folder, corpus.admissions, corpus.code_book, source=corpus.source, notes=corpus.notes, overwrite=overwrite
    )
    told(manifest, out_folder, json)


def overlap_(
    judged: Annotated[Path, typer.Argument(help="The corpus folder that a model is judged on.")],
    trained: Annotated[Path, typer.Argument(help="The corpus folder that it was trained on.")],
    split: Annotated[str, typer.Option(help="The split that it is judged on, or all.")] = "test",
    trained_split: Annotated[str, typer.Option(help="The split that it was trained on, or all.")] = "train",
    check: Annotated[bool, typer.Option("--check", help="Fail when anything was trained on.")] = False,
    json: Json = False,
) -> None:
    """Count the admissions of one corpus that are in the training split of another: as such, by text, or by patient.

    Both must be of the same database, so that ids mean the same.

    Example: [bold]hilat corpus overlap corpora/mdace corpora/mimic50 --check[/]
    """
    from hilat.corpora.overlap import overlap

    found = overlap(_opened(judged, split), _opened(trained, trained_split))
    if check and found.leaks:
        raise HilatError(_leaked(found, f"{found.judged} admissions of split {split}", "another split or corpus"))
    if json:
        emit_json(found.counts())
        return
    for name, count in found.counts().items():
        out.print(f"{name.replace('_', ' ')}: {count:,}")


def _opened(corpus: Path, split: str) -> Iterable[Admission]:
    """The admissions of a split, or of all, read as they are gone through."""
    from hilat.corpora.folder import checked_manifest, stored_admissions
    from hilat.corpora.streaming import open_split

    if split != "all":
        return open_split(corpus, split)
    checked_manifest(corpus, None)
    return stored_admissions(corpus, None)


def _leaked(found: Overlap, of: str, remedy: str) -> str:
    counts = found.counts()
    return (
        f"{len(found.leaks)} of {of} are in the training split: {counts['same_admission']} as such, {counts['same_text']} by "
        f"their text, {counts['same_subject']} by another stay of the patient; expected none, as measures on notes that "
        f"a model was trained on are too good. Choose {remedy}"
    )


def _splits(path: Path | None, suffix: str, draw: str | None, seed: int) -> Splits | None:
    from hilat.corpora.splits import SplitTable, StratifiedSplit, SubjectSplit, caml_split_files

    if draw not in (None, "subject", "stratified", "none"):
        raise typer.BadParameter(f"{draw!r} is none of subject, stratified, none", param_hint="--draw")
    if path is not None and draw is not None:
        raise HilatError("got --splits and --draw; expected splits from files or drawn. Give one of them")
    if path is not None:
        return SplitTable(path) if path.is_file() else caml_split_files(path, suffix)
    if draw == "none":
        return None
    return StratifiedSplit(seed=seed) if draw == "stratified" else SubjectSplit(seed=seed)


@contextmanager
def _tables(
    folders: Sequence[Path], source: str | None, release: Release, schemas: Mapping[str, str]
) -> Iterator[dict[str, Table]]:
    """The tables of folders, or of a database while the block lasts."""
    from hilat.corpora.mimic_tables import find_tables
    from hilat.corpora.postgresql import database_tables

    if bool(folders) == (source is not None):
        raise HilatError(
            "expected either a folder of tables or --source postgresql://...; got "
            f"{'both' if folders else 'neither'}. Give one of them"
        )
    if source is None:
        yield find_tables(folders, release)
        return
    with database_tables(source, release, schemas) as tables:
        yield tables


def _listed(text: str) -> tuple[str, ...]:
    """Names between commas."""
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise HilatError("no category of notes is given; expected at least one, such as 'Discharge summary'. Name one")
    return names

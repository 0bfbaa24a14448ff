"""`hilat corpus`: make, convert and describe corpora."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hilat.cli.console import emit_json, number, out, table
from hilat.cli.options import Json, Overwrite, Seed

app = typer.Typer(no_args_is_help=True, help="Make, convert and describe corpora.", pretty_exceptions_enable=False)

OutFolder = Annotated[Path, typer.Option("--out", help="The corpus folder to write.")]


@app.command("planted")
def planted(
    out_folder: OutFolder,
    train: Annotated[int, typer.Option(min=1, help="Admissions in train.")] = 1200,
    val: Annotated[int, typer.Option(min=0, help="Admissions in val.")] = 200,
    test: Annotated[int, typer.Option(min=0, help="Admissions in test.")] = 250,
    length: Annotated[str, typer.Option(help="short (about 215 words) or paper (mean 2,188 words).")] = "short",
    decoy_rate: Annotated[float, typer.Option(min=0.0, help="Mean planted decoys per note.")] = 2.0,
    shortcut: Annotated[
        str | None, typer.Option(help="Plant a harmless word: CODE:WORD:RATE_WITH_CODE:RATE_WITHOUT.")
    ] = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Make the built-in corpus: invented discharge summaries with known evidence and decoys.

    Example: [bold]hilat corpus planted --out corpora/planted --length paper --shortcut 428.0:lavender:0.8:0.05[/]
    """
    from hilat.corpora.planted import PlantedSettings, Shortcut, make_planted

    planted_shortcut = None
    if shortcut:
        parts = shortcut.split(":")
        try:
            planted_shortcut = Shortcut(parts[0], parts[1], float(parts[2]), float(parts[3]))
        except (IndexError, ValueError) as error:
            if not isinstance(error, IndexError) and "could not convert" not in str(error):
                raise
            raise typer.BadParameter(
                f"{shortcut!r} is not CODE:WORD:RATE_WITH_CODE:RATE_WITHOUT", param_hint="--shortcut"
            ) from None
    if length not in ("short", "paper"):
        raise typer.BadParameter(f"{length!r} is neither short nor paper", param_hint="--length")
    settings = PlantedSettings(
        seed=seed,
        train=train,
        val=val,
        test=test,
        length="paper" if length == "paper" else "short",
        decoy_rate=decoy_rate,
        shortcut=planted_shortcut,
    )
    _write(make_planted(settings), out_folder, overwrite, json)


@app.command("codiesp")
def codiesp(
    folder: Annotated[Path, typer.Argument(help="The folder of CodiEsp as released (with train/, dev/).")],
    out_folder: OutFolder,
    kinds: Annotated[str, typer.Option(help="D (diagnoses), P (procedures) or DP.")] = "D",
    top: Annotated[int | None, typer.Option(min=1, help="The most frequent codes in train.", show_default=True)] = 50,
    all_codes: Annotated[bool, typer.Option("--all-codes", help="Every code instead of the top ones.")] = False,
    granularity: Annotated[str, typer.Option(help="full or category (3 characters).")] = "full",
    language: Annotated[str, typer.Option(help="es, or en (machine translation, without spans).")] = "es",
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Convert CodiEsp (Spanish clinical cases with evidence spans).

    Example: [bold]hilat corpus codiesp downloads/codiesp --out corpora/codiesp[/]
    """
    from hilat.corpora.codiesp import CodiespSettings, read_codiesp

    settings = CodiespSettings(
        kinds=kinds,  # type: ignore[arg-type]
        top_k=None if all_codes else top,
        granularity=granularity,  # type: ignore[arg-type]
        language=language,  # type: ignore[arg-type]
    )
    _write(read_codiesp(folder, settings), out_folder, overwrite, json)


@app.command("table")
def table_(
    file: Annotated[Path, typer.Argument(help="A .csv, .jsonl (also .gz) or .parquet file, one row per admission.")],
    out_folder: OutFolder,
    id_column: Annotated[str, typer.Option(help="The column of ids.")] = "hadm_id",
    text_column: Annotated[str, typer.Option(help="The column of notes.")] = "text",
    codes_column: Annotated[str, typer.Option(help="The column of codes (a list, or ; between).")] = "codes",
    evidence_column: Annotated[str, typer.Option(help="The column of evidence spans (JSON), if any.")] = "evidence",
    split_column: Annotated[str, typer.Option(help="The column of splits, if any.")] = "split",
    subject_column: Annotated[str, typer.Option(help="The column of patients, if any.")] = "subject_id",
    encoding: Annotated[str, typer.Option(help="The file's encoding.")] = "utf-8",
    titles: Annotated[Path | None, typer.Option(help="A CSV of code,title,kind.")] = None,
    system: Annotated[str, typer.Option(help="The coding system, as a name.")] = "ICD-9-CM",
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Convert your own table of notes and codes.

    Example: [bold]hilat corpus table notes.csv --out corpora/mine --id-column stay --titles codes.csv[/]
    """
    from hilat.corpora.tables import TableColumns, read_table

    columns = TableColumns(id_column, text_column, codes_column, evidence_column, split_column, subject_column)
    _write(read_table(file, columns, encoding=encoding, system=system, titles=titles), out_folder, overwrite, json)


@app.command("describe")
def describe(
    folder: Annotated[Path, typer.Argument(help="A corpus folder.")],
    most: Annotated[int, typer.Option(min=0, help="How many of the most frequent codes to list.")] = 15,
    json: Json = False,
) -> None:
    """Tell what a corpus holds: sizes, lengths, codes, evidence, decoys.

    Example: [bold]hilat corpus describe out/demo/corpus[/]
    """
    from hilat.corpora import read_corpus
    from hilat.corpora.describe import describe as run

    found = run(read_corpus(folder), most=most)
    if json:
        emit_json(found.to_dict())
        return

    def spread(value: Any) -> str:
        return f"{value.mean:,.1f} ({value.min}–{value.max:,})"

    table(
        f"{found.source} · {found.label_set} codes of {found.system}",
        ("", *(s.name for s in found.splits)),
        [
            ("admissions", *(f"{s.admissions:,}" for s in found.splits)),
            ("subjects", *(f"{s.subjects:,}" for s in found.splits)),
            ("notes", *(f"{s.notes:,}" for s in found.splits)),
            ("words, mean (min–max)", *(spread(s.words) for s in found.splits)),
            ("codes, mean (min–max)", *(spread(s.codes) for s in found.splits)),
            ("unique codes", *(f"{s.unique_codes:,}" for s in found.splits)),
            ("without a code", *(f"{s.without_code:,}" for s in found.splits)),
            ("evidence spans", *(f"{s.evidence_spans:,}" for s in found.splits)),
            ("decoys", *(", ".join(f"{n} {k}" for k, n in s.decoys.items()) or "–" for s in found.splits)),
        ],
    )
    if found.frequent:
        table(
            "Most frequent codes",
            ("code", "title", "share of admissions"),
            [(code, title, number(share)) for code, title, share in found.frequent],
            left=2,
        )


@app.command("mimic3")
def mimic3(
    folder: Annotated[
        Path, typer.Argument(help="The folder of NOTEEVENTS, DIAGNOSES_ICD, ... (csv, csv.gz, parquet).")
    ],
    out_folder: OutFolder,
    labels: Annotated[
        str,
        typer.Option(
            help="A number K (the K most frequent codes), all, caml-50, laat-50, or a file with one code per line."
        ),
    ] = "50",
    count_on: Annotated[str, typer.Option(help="Where K counts: summaries, coded or train.")] = "summaries",
    splits: Annotated[
        Path | None,
        typer.Option(help="A folder of id files in CAML's format; without it, splits are drawn by subject."),
    ] = None,
    suffix: Annotated[str, typer.Option(help="Which id files: 50 or full.")] = "50",
    seed: Seed = 0,
    memory_mb: Annotated[int, typer.Option(min=256, help="What DuckDB may use; the process needs more.")] = 512,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Convert MIMIC-III v1.4 as downloaded: discharge summaries with addenda, ICD-9 codes. No database server.

    Examples:

      [bold]hilat corpus mimic3 /data/mimic-iii --out corpora/mimic50 --splits /data/caml-splits[/]

      [bold]hilat corpus mimic3 /data/mimic-iii --out corpora/mimic-full --labels all --splits /data/caml --suffix full[/]
    """
    from hilat.corpora.mimic import MimicSettings
    from hilat.corpora.mimic3 import convert_mimic3
    from hilat.corpora.splits import SubjectSplit, caml_split_files

    settings = MimicSettings(
        labels=int(labels) if labels.isdigit() else labels,
        count_labels_on=count_on,  # type: ignore[arg-type]
        splits=caml_split_files(splits, suffix) if splits else SubjectSplit(seed=seed),
        memory_limit_mb=memory_mb,
    )
    manifest = convert_mimic3(folder, out_folder, settings, overwrite=overwrite)
    _told(manifest, out_folder, json)
    if not json:
        _differences(manifest["notes"]["labels"].get("differs_from", {}))


def _differences(differences: dict[str, dict[str, list[str]]]) -> None:
    """Say how the label set differs from the published lists."""
    for name, difference in differences.items():
        if difference["only_here"]:
            here, there = ", ".join(difference["only_here"]), ", ".join(difference["only_there"])
            out.print(f"  against {name}: only here {here}; only there {there}", style="yellow", soft_wrap=True)
        else:
            out.print(f"  the same codes as {name}", style="dim")


def _write(corpus: Any, folder: Path, overwrite: bool, json: bool) -> None:
    from hilat.corpora import write_corpus

    manifest = write_corpus(
        folder, corpus.admissions, corpus.code_book, source=corpus.source, notes=corpus.notes, overwrite=overwrite
    )
    _told(manifest, folder, json)


def _told(manifest: dict[str, Any], folder: Path, json: bool) -> None:
    if json:
        emit_json(manifest)
        return
    splits = ", ".join(f"{name or 'no split'} {count}" for name, count in manifest["splits"].items())
    out.print(f"{manifest['admissions']} admissions ({splits}), {manifest['codes']} codes: {folder}", soft_wrap=True)
    for name, value in manifest["notes"].items():
        if name not in ("statistics", "settings"):
            out.print(f"  {name}: {_plain(value)}", style="dim", soft_wrap=True, markup=False)


def _plain(value: Any) -> str:
    """A note's counts as text: `name count, name count`; what is told elsewhere left out."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_plain(inner)}" for name, inner in value.items() if name != "differs_from")
    if isinstance(value, list):
        return " ".join(map(str, value)) if value else "none"
    return str(value)

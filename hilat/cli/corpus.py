"""`hilat corpus`: make, convert and describe corpora."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hilat.cli import corpus_mimic
from hilat.cli.console import emit_json, number, table
from hilat.cli.corpus_told import told
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
    codes: Annotated[int, typer.Option(help="Codes: 50, or a long tail of invented ones besides, such as 8929.")] = 50,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Make the built-in corpus: invented discharge summaries with known evidence and decoys.

    Example: [bold]hilat corpus planted --out corpora/planted --length paper --shortcut 428.0:lavender:0.8:0.05[/]
    """
    from hilat.corpora.planted import PlantedSettings, Shortcut, make_planted
    from hilat.corpora.planted_many import with_invented_codes

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
    _write(with_invented_codes(make_planted(settings), codes, seed=seed), out_folder, overwrite, json)


@app.command("codiesp")
def codiesp(
    folder: Annotated[Path, typer.Argument(help="The folder of CodiEsp as released (with train/, dev/).")],
    out_folder: OutFolder,
    kinds: Annotated[str, typer.Option(help="D (diagnoses), P (procedures) or DP.")] = "D",
    top: Annotated[int | None, typer.Option(min=1, help="The most frequent codes in train.", show_default=True)] = 50,
    all_codes: Annotated[bool, typer.Option("--all-codes", help="Every code instead of the top ones.")] = False,
    granularity: Annotated[str, typer.Option(help="full or category (3 characters).")] = "full",
    language: Annotated[str, typer.Option(help="es, or en (machine translation, without spans).")] = "es",
    titles: Annotated[
        Path | None,
        typer.Option(help="Titles, which CodiEsp lacks: CMS's icd10cm_codes_2018.txt, or a CSV of code,title."),
    ] = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Convert CodiEsp (Spanish clinical cases with evidence spans).

    Example: [bold]hilat corpus codiesp downloads/codiesp --out corpora/codiesp[/]
    """
    from hilat.corpora.codiesp import CodiespSettings, read_codiesp
    from hilat.corpora.titles import with_titles

    settings = CodiespSettings(
        kinds=kinds,  # type: ignore[arg-type]
        top_k=None if all_codes else top,
        granularity=granularity,  # type: ignore[arg-type]
        language=language,  # type: ignore[arg-type]
    )
    corpus = read_codiesp(folder, settings)
    _write(with_titles(corpus, titles) if titles else corpus, out_folder, overwrite, json)


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


app.command("mimic3")(corpus_mimic.mimic3)
app.command("mimic4")(corpus_mimic.mimic4)
app.command("mdace")(corpus_mimic.mdace)
app.command("overlap")(corpus_mimic.overlap_)


def _write(corpus: Any, folder: Path, overwrite: bool, json: bool) -> None:
    from hilat.corpora import write_corpus

    manifest = write_corpus(
        folder, corpus.admissions, corpus.code_book, source=corpus.source, notes=corpus.notes, overwrite=overwrite
    )
    told(manifest, folder, json)

"""`hilat evidence`: judge another system's attributions, and exchange evidence spans in MDACE's format."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from hilat.admissions import EvidenceSpan, HilatError
from hilat.cli.console import emit_json, out
from hilat.cli.options import CorpusFolder, Json, Overwrite, Split

app = typer.Typer(
    no_args_is_help=True,
    help="Bring another system's attributions in, exchange evidence spans as MDACE JSON.",
    pretty_exceptions_enable=False,
)
Explanations = Annotated[Path, typer.Option("--explanations", help="A folder that `hilat explain` wrote.")]


@app.command("import")
def bring(
    explanations: Explanations,
    out_folder: Annotated[Path, typer.Option("--out", help="The explanation folder to write.")],
    name: Annotated[str, typer.Option(help="What to call the method.")],
    table: Annotated[
        Path | None, typer.Option(help="CSV or Parquet with hadm_id, code, start, end, score (characters of the text).")
    ] = None,
    mdace: Annotated[Path | None, typer.Option(help="Or a folder of MDACE JSON files: each span scores 1.")] = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Put another system's scores beside the methods of an explanation folder, to be judged by the same measures.

    Pairs that the other system does not score are left out for all methods.

    Example: [bold]hilat evidence import --explanations e --table theirs.csv --name plm-icd --out e2[/]
    """
    from explain.foreign import read_score_table, scores_of_mdace, with_foreign
    from explain.table import read_explanations, read_manifest
    from explain.writing import Run, write_explanations
    from hilat.corpora.mdace import read_mdace

    if (table is None) == (mdace is None):
        raise HilatError("expected either --table FILE or --mdace FOLDER; give one of them")
    manifest = read_manifest(explanations)
    foreign = read_score_table(table) if table is not None else scores_of_mdace(list(read_mdace(mdace or Path())))
    count, before = 0, 0
    for one in read_explanations(explanations):
        count += 1
        before += len(one.scored)
        kept_here = sum((one.hadm_id, code) in foreign for code in one.scored)
        manifest["foreign_pairs"] = int(manifest.get("foreign_pairs", 0)) + kept_here
    kept = int(manifest["foreign_pairs"])
    if not kept:
        raise HilatError(
            f"none of the {len(foreign)} scored pairs is among the {before} that were explained; expected the same ids and "
            "dotted codes. Check hadm_id and code"
        )
    stream = with_foreign(read_explanations(explanations), foreign, name, "sum" if table is not None else "max")
    said = {**manifest, "methods": {**manifest["methods"], name: f"imported from {(table or mdace or Path()).name}"}}
    shutil.rmtree(out_folder.with_name(f"{out_folder.name}.partial"), ignore_errors=True)  # an import starts anew
    write_explanations(out_folder, count, lambda _: stream, said, Run({"import": name}, overwrite))
    if json:
        emit_json({"explanations": str(out_folder), "pairs": kept, "left_out": before - kept, "method": name})
    else:
        out.print(f"{kept} pairs with {name}, {before - kept} left out: {out_folder}", soft_wrap=True)


@app.command("join")
def join(
    corpus: CorpusFolder,
    mdace: Annotated[Path, typer.Option(help="A folder of MDACE JSON files.")],
    out_folder: Annotated[Path, typer.Option("--out", help="The corpus folder to write.")],
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Give the admissions of a corpus the spans of MDACE JSON files as their evidence; what they had is replaced.

    A corpus of MIMIC-III knows its notes, and spans go to the note they were made on; those on other notes are left out.
    In another corpus each admission's text must be that of its one annotated note: offsets count from its first character.

    Example: [bold]hilat evidence join --corpus c --mdace MDACE/Inpatient/ICD-9/1.0 --out c2[/]
    """
    from hilat.corpora import read_corpus, write_corpus
    from hilat.corpora.mdace import read_mdace, with_mdace_evidence

    data = read_corpus(corpus)
    admissions, left_out = with_mdace_evidence(data.admissions, read_mdace(mdace), data.code_book)
    there, spans = sum(bool(a.evidence) for a in admissions), sum(len(a.evidence) for a in admissions)
    if not spans:
        raise HilatError(
            f"no admission of {corpus} has a span in {mdace} ({left_out} spans are of codes outside the code book, or of other notes); expected "
            "the same hadm_id and codes in both. Check the ids, and ICD-9 against ICD-10"
        )
    notes = {**data.notes, "mdace": {"admissions": there, "spans": spans, "left_out": left_out}}
    write_corpus(out_folder, admissions, data.code_book, source=data.source, notes=notes, overwrite=overwrite)
    if json:
        emit_json({"corpus": str(out_folder), "admissions": there, "spans": spans, "left_out": left_out})
    else:
        out.print(
            f"{spans} spans for {there} admissions, {left_out} of other codes or notes left out: {out_folder}",
            soft_wrap=True,
        )


@app.command("export")
def export(
    corpus: CorpusFolder,
    out_folder: Annotated[Path, typer.Option("--out", help="The folder of MDACE JSON files to write.")],
    explanations: Annotated[
        Path | None, typer.Option("--explanations", help="Export a method's top words; without: the coders' spans.")
    ] = None,
    method: Annotated[str, typer.Option(help="Which method of the explanations.")] = "attention",
    top: Annotated[int, typer.Option(min=1, help="How many words per code.")] = 5,
    split: Split = "test",
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Write evidence as MDACE JSON, one file per admission: the coders' spans, or the top words of a method.

    Example: [bold]hilat evidence export --corpus c --explanations e --method att_in_grad --top 5 --out mdace[/]
    """
    import numpy as np

    from explain.table import read_explanations
    from hilat.corpora import read_corpus
    from hilat.corpora.mdace import write_mdace

    data = read_corpus(corpus, splits=[split])
    spans: list[tuple[str, list[EvidenceSpan]]] = []
    if explanations is None:
        spans = [(a.hadm_id, list(a.evidence)) for a in data.admissions if a.evidence]
    else:
        for one in read_explanations(explanations):
            found = []
            for code, scores in one.of(method).items():
                best = np.lexsort((one.word_spans[:, 0], -scores))[:top]
                chosen = sorted(tuple(int(x) for x in one.word_spans[w]) for w in best if scores[w] > 0)
                found += [EvidenceSpan(code, ((start, end),)) for start, end in chosen]
            spans.append((one.hadm_id, found))
    if not spans:
        raise HilatError(
            f"split {split} of {corpus} has no evidence spans; expected some. Export a method's words instead"
        )
    kind = "Human" if explanations is None else f"hilat {method}"
    count = write_mdace(out_folder, spans, data.code_book, kind=kind, overwrite=overwrite)
    if json:
        emit_json({"mdace": str(out_folder), "admissions": len(spans), "spans": count})
    else:
        out.print(f"{count} spans of {len(spans)} admissions: {out_folder}", soft_wrap=True)

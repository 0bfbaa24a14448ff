"""`hilat report`: one HTML page per admission, and an index."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hilat.admissions import HilatError
from hilat.cli.console import emit_json, number, out, progress
from hilat.cli.options import CorpusFolder, Json, Overwrite

if TYPE_CHECKING:
    from explain.table import Explained
    from hilat.admissions import Admission, CodeBook
    from hilat.corpora import Corpus
    from reports.page import ReportPage, RunLabel


def report(
    explanations: Annotated[Path, typer.Option("--explanations", help="A folder that `hilat explain` wrote.")],
    corpus: CorpusFolder,
    out_folder: Annotated[Path, typer.Option("--out", help="The folder of pages to write.")],
    admissions: Annotated[
        str | None, typer.Option(help="Only these admissions: hadm_ids with commas between.", show_default="all")
    ] = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Write a self-contained page per explained admission, and index.html.

    The pages hold note text: treat them as the notes. They load nothing from outside.

    Example: [bold]hilat report --explanations runs/xlnet/explain --corpus corpora/mimic50 --out out/pages[/]
    """
    from explain.table import read_manifest
    from hilat.corpora import read_corpus

    manifest = read_manifest(explanations)
    data = read_corpus(corpus, splits=[manifest["split"]])
    ids = [name.strip() for name in admissions.split(",") if name.strip()] if admissions else None
    index, count = write(explanations, data, out_folder, ids=ids, overwrite=overwrite)
    if json:
        emit_json({"index": str(index), "pages": count})
    else:
        out.print(f"{count} pages written; open {index}", soft_wrap=True)


def write(
    explanations: Path, corpus: Corpus, folder: Path, *, ids: Sequence[str] | None = None, overwrite: bool = False
) -> tuple[Path, int]:
    """Write pages and index of explained admissions; returns the index's path and the number of pages."""
    from explain.table import read_explanations, read_manifest
    from hilat.files import new_folder
    from reports.corpus import RunHeader, write_report
    from reports.page import RunLabel

    manifest = read_manifest(explanations)
    known = {admission.hadm_id: admission for admission in corpus.admissions}
    missing = [name for name in ids or () if name not in known]
    if missing:
        raise HilatError(
            f"admission {missing[0]} is not in split {manifest['split']} of the corpus ({len(known)} admissions); "
            "check the id, or explain the split that holds it"
        )
    synthetic = corpus.source == "planted"
    label = RunLabel(
        model=str(manifest["settings"]["model"]),
        threshold=str(manifest["threshold_source"]),
        synthetic=synthetic,
    )
    book = corpus.code_book.restricted_to(manifest["label_set"])
    total = len(ids) if ids is not None else int(manifest["admissions"])
    pages = (
        _page(known, one, book, label, int(manifest["chunks"]))
        for one in progress(read_explanations(explanations, ids), total, "writing pages")
    )
    with new_folder(folder, overwrite=overwrite, what="folder of pages") as beside:
        index = write_report(
            pages, beside, RunHeader("hilat report", tuple(_facts(manifest, book)), synthetic=synthetic)
        )
        name = index.name
    return folder / name, total


def _page(known: dict[str, Admission], one: Explained, book: CodeBook, label: RunLabel, chunks: int) -> ReportPage:
    from reports.page import Outputs, Reading, build_page

    if one.hadm_id not in known:
        raise HilatError(
            f"admission {one.hadm_id} was explained and is not in the corpus; give the corpus that was explained"
        )
    return build_page(
        known[one.hadm_id],
        book,
        Reading(
            one.word_spans,
            one.word_chunk,
            chunks,
            int(one.word_tokens.sum()),
            one.removed,
            one.removed_reasons,
        ),
        Outputs(one.logits, one.probabilities, one.thresholds, one.chunk_attention, one.of("attention")),
        label,
    )


def _facts(manifest: dict[str, Any], book: CodeBook) -> Iterator[tuple[str, str]]:
    metrics = manifest.get("metrics")
    yield "Split", str(manifest["split"])
    yield "Label set", f"{len(book)} codes, {book.system}"
    if metrics:
        yield "Micro-F1", number(metrics.get("micro_f1"))
        yield "Macro-F1 (mean of codes)", number(metrics.get("macro_f1_mean_of_codes"))
    yield "Threshold", str(manifest["threshold_source"])
    yield "Shading", "global token attention (Liu et al. 2022, eq. 10), summed per word"
    yield "hilat", str(manifest["versions"].get("hilat"))
    yield "Revision", str(manifest.get("git_revision") or "not from a checkout")[:12]

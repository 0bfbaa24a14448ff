"""`hilat report`: one HTML page per admission, and an index."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hilat.cli.console import emit_json, number, out, progress
from hilat.cli.options import (
    Context,
    CorpusFolder,
    Json,
    Language,
    Overwrite,
    RulePairs,
    Seed,
    SnomedMap,
    Synonyms,
    Umls,
)

if TYPE_CHECKING:
    from hilat.admissions import CodeBook
    from hilat.corpora import Corpus


@dataclass(frozen=True)
class ReportPlan:
    """What to write besides the pages' attention. admissions: as for --admissions; measures: folders of measures;
    synonyms: files by kind ("synonyms", "umls", "snomed_map"); context: of explain.cues.BACKENDS; text: False for pages
    without note text."""

    admissions: str | None = None
    measures: tuple[Path, ...] = ()
    language: str = "en"
    synonyms: tuple[tuple[str, Path | None], ...] = ()
    rule_pairs: Path | None = None
    context: str = "own"
    text: bool = True
    seed: int = 0


def report(
    explanations: Annotated[Path, typer.Option("--explanations", help="A folder that `hilat explain` wrote.")],
    corpus: CorpusFolder,
    out_folder: Annotated[Path, typer.Option("--out", help="The folder of pages to write.")],
    admissions: Annotated[
        str | None,
        typer.Option(
            help="fp:N (most false positives), worst:N (lowest F1), random:N, or hadm_ids with commas between.",
            show_default="all",
        ),
    ] = None,
    measures: Annotated[
        list[Path] | None,
        typer.Option(
            help="A folder that --out of faithfulness, plausibility, keywords or agreement wrote; may be repeated."
        ),
    ] = None,
    no_text: Annotated[
        bool, typer.Option("--no-text", help="Leave the note text and the admissions' ids out of pages and index.")
    ] = False,
    language: Language = "en",
    synonyms: Synonyms = None,
    umls: Umls = None,
    snomed_map: SnomedMap = None,
    rule_pairs: RulePairs = None,
    context: Context = "own",
    seed: Seed = 0,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Write a self-contained page per explained admission, and index.html.

    The pages hold note text: treat them as the notes. They load nothing from outside.

    Examples:

      [bold]hilat report --explanations runs/xlnet/explain --corpus corpora/mimic50 --out out/pages[/]

      [bold]hilat report --explanations e --corpus c --out p --admissions fp:20 --measures faith --measures keywords[/]
    """
    from explain.table import read_manifest
    from hilat.corpora import read_corpus

    manifest = read_manifest(explanations)
    data = read_corpus(corpus, splits=[manifest["split"]])
    files = (("synonyms", synonyms), ("umls", umls), ("snomed_map", snomed_map))
    plan = ReportPlan(admissions, tuple(measures or ()), language, files, rule_pairs, context, not no_text, seed)
    index, count = write(explanations, data, out_folder, plan, overwrite=overwrite)
    if json:
        emit_json({"index": str(index), "pages": count})
    else:
        out.print(f"{count} pages written; open {index}", soft_wrap=True)


def write(
    explanations: Path, corpus: Corpus, folder: Path, plan: ReportPlan = ReportPlan(), *, overwrite: bool = False
) -> tuple[Path, int]:
    """Write pages and index of explained admissions; returns the index's path and the number of pages.

    Raises:
        HilatError: an admission that is not in the corpus, explanations without attention, wrong files of `plan`.
    """
    from explain.cues import CaseOptions
    from explain.keywords import keyword_sets
    from explain.rule_pairs import built_in_rule_pairs, read_rule_pairs
    from explain.table import read_explanations, read_manifest
    from hilat.cli.keywords import sources_of
    from hilat.cli.pages import chosen_ids, numbered, read_measures
    from hilat.files import new_folder
    from reports.build import RunLabel
    from reports.corpus import write_report
    from reports.index import RunHeader
    from reports.maker import PageMaker

    manifest = read_manifest(explanations)
    known = {admission.hadm_id: admission for admission in corpus.admissions}
    ids = chosen_ids(explanations, plan.admissions, plan.seed)
    book = corpus.code_book.restricted_to(manifest["label_set"])
    synthetic = corpus.source == "planted"
    label = RunLabel(str(manifest["settings"]["model"]), str(manifest["threshold_source"]), synthetic)
    rules = built_in_rule_pairs() if plan.rule_pairs is None else read_rule_pairs(plan.rule_pairs)
    maker = PageMaker(
        known, book, label, int(manifest["chunks"]),
        keyword_sets(book, sources_of(book, None, dict(plan.synonyms), True, plan.language)),
        CaseOptions(language=plan.language, rules=rules, backend=plan.context), read_measures(plan.measures, plan.seed),
    )  # fmt: skip
    total = len(ids) if ids is not None else int(manifest["admissions"])
    pages = (maker.page(one) for one in progress(read_explanations(explanations, ids), total, "writing pages"))
    header = RunHeader(
        f"{manifest['split']} · {corpus.source}", tuple(_facts(manifest, book)), synthetic, tuple(_about(manifest, plan)),
        maker.measures.tables, maker.measures.mean_curves, plan.text,
    )  # fmt: skip
    with new_folder(folder, overwrite=overwrite, what="folder of pages") as beside:
        index = write_report(pages if plan.text else numbered(pages), beside, header)
        name = index.name
    return folder / name, total


def _facts(manifest: dict[str, Any], book: CodeBook) -> Iterator[tuple[str, str]]:
    metrics = manifest.get("metrics")
    yield "Split", str(manifest["split"])
    yield "Label set", f"{len(book)} codes, {book.system}"
    if metrics:
        yield "Micro-F1", number(metrics.get("micro_f1"))
        yield "Macro-F1 (mean of codes)", number(metrics.get("macro_f1_mean_of_codes"))
    yield "Threshold", str(manifest["threshold_source"])
    yield "Shading", "global token attention (Liu et al. 2022, eq. 10), summed per word"


def _about(manifest: dict[str, Any], plan: ReportPlan) -> Iterator[tuple[str, str]]:
    """Settings, versions and fingerprints, as the explanations were made."""
    settings = manifest["settings"]
    yield "Model", str(settings["model"])
    yield "Model fingerprint", str(manifest.get("model_fingerprint", "not recorded"))
    yield "Data fingerprint", str(manifest.get("data_fingerprint", "not recorded"))
    yield "Admissions explained", str(manifest["admissions"])
    chosen = plan.admissions or "all"
    by_id = chosen.partition(":")[0] not in ("all", "fp", "worst", "random")
    yield "Admissions shown", "chosen by id" if by_id and not plan.text else chosen
    yield "Codes explained", ", ".join(settings["codes"])
    for name, says in manifest["methods"].items():
        yield f"Method {name.replace('_', ' ')}", str(says)
    yield "Options of the methods", ", ".join(f"{name} {value}" for name, value in settings["options"].items())
    yield "Language", plan.language
    yield "Seed", str(manifest["seed"])
    yield "Revision", str(manifest.get("git_revision") or "not from a checkout")
    yield "Python, system", f"{manifest['python']}, {manifest['system']}"
    yield "Versions", ", ".join(f"{name} {version}" for name, version in manifest["versions"].items() if version)

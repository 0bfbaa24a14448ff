"""`hilat keywords`: how far explanations agree with the words of the codes' descriptions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hilat.admissions import HilatError
from hilat.cli.console import emit_json, out, table
from hilat.cli.measured import (
    admissions_of,
    checked_view,
    each_explained,
    group_of,
    known_admission,
    print_table,
    summed,
)
from hilat.cli.options import CorpusFolder, Interval, Json, Overwrite, Seed

if TYPE_CHECKING:
    from explain.keywords import KeywordSources
    from explain.result import Value
    from explain.rows import Row
    from hilat.admissions import CodeBook

_SHOWN = "position_bits_above_chance,position_ami,position_uncertainty,rank_bits_above_shifts,rank_auc,keyword_coverage"


def keywords(
    explanations: Annotated[Path, typer.Option("--explanations", help="A folder that `hilat explain` wrote.")],
    corpus: CorpusFolder,
    out_folder: Annotated[
        Path | None, typer.Option("--out", help="Keep rows.parquet, summary.json and corpus.json in this folder.")
    ] = None,
    pairs: Annotated[str, typer.Option(help="Pairs of the printed table: all, gold, predicted, TP, FP or FN.")] = "TP",
    show: Annotated[str, typer.Option(help="Measures to print, comma between, or all.")] = _SHOWN,
    top: Annotated[int, typer.Option(min=1, help="A method selects its k highest words ...")] = 10,
    mass: Annotated[
        float | None, typer.Option(help="... or the fewest words that hold this share of its positive scores.")
    ] = None,
    tier: Annotated[
        str, typer.Option(help="Keywords that count: exact, lemma (and exact) or synonym (all).")
    ] = "synonym",
    inclusion: Annotated[
        Path | None, typer.Option(help="Inclusion terms: a table (.csv, .tsv) with the columns code and term.")
    ] = None,
    synonyms: Annotated[Path | None, typer.Option(help="Synonyms: a table with the columns code and term.")] = None,
    umls: Annotated[Path | None, typer.Option(help="Synonyms: UMLS's MRCONSO.RRF, or .gz.")] = None,
    snomed_map: Annotated[
        Path | None, typer.Option(help="Synonyms: an ICD-9-CM to SNOMED CT map file of the NLM.")
    ] = None,
    abbreviations: Annotated[bool, typer.Option(help="Use the built-in abbreviations of MIMIC-III-50's codes.")] = True,
    language: Annotated[str, typer.Option(help="Language of the descriptions: en or es.")] = "en",
    words: Annotated[
        bool, typer.Option("--words", help="Also keep words.parquet: PMI of words and codes. It holds words of notes.")
    ] = False,
    interval: Interval = "percentile",
    seed: Seed = 0,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Mutual information of explanations with the words of the code's description, method beside method.

    Per pair: does being among the selected words tell whether a word is a keyword? Over the corpus: how much do the
    attended words tell about the code? It measures plausibility, not faithfulness.

    Example: [bold]hilat keywords --explanations e --corpus c --pairs FP --umls META/MRCONSO.RRF[/]
    """
    from explain.judging import groups_of
    from explain.keyword_information import Selection
    from explain.keyword_rows import KEYWORD_METRICS, KeywordOptions, corpus_information, keyword_rows, word_tables
    from explain.keywords import NOTE, TIERS, keyword_sets
    from hilat.corpora.folder import read_code_book

    tiers = {name: number for number, name in TIERS.items()}
    if tier not in tiers:
        raise HilatError(f"--tier is {tier!r}; expected {', '.join(tiers)}. Choose one of them")
    if words and out_folder is None:
        raise HilatError("--words asks for a table of words and there is no --out; expected a folder. Add --out FOLDER")
    directions = {name: up for name, (up, _) in KEYWORD_METRICS.items()}
    view = checked_view(directions, (pairs, show), seed, (out_folder, overwrite, json), interval=interval)
    known, manifest = admissions_of(explanations, corpus)
    book = read_code_book(corpus)
    paths = {"synonyms": synonyms, "umls": umls, "snomed_map": snomed_map}
    sets = keyword_sets(book, sources_of(book, inclusion, paths, abbreviations, language))
    selection = Selection(top) if mass is None else Selection(None, mass)
    options = KeywordOptions(selection=selection, up_to=tiers[tier], seed=seed)
    rows: list[Row] = []
    attended: dict[str, list[Any]] = {}
    for one in each_explained(explanations, manifest, "matching"):
        found, read = keyword_rows(one, known_admission(known, one.hadm_id), sets, options)
        rows += found
        for method, more in read.items():
            attended.setdefault(method, []).extend(more)
    shown = group_of(groups_of(rows), pairs)
    chosen = {(row.hadm_id, row.code) for row in shown}
    attended = {m: [p for p in part if (p.hadm_id, p.code) in chosen] for m, part in attended.items()}
    corpus_wide = {method: corpus_information(part, seed=seed) for method, part in attended.items()}
    said = {
        **manifest,
        "keywords": {"tier": tier, "top": None if mass is not None else top, "mass": mass, "note": NOTE},
    }
    extra: dict[str, Callable[[Path], None]] = {"corpus.json": lambda path: _write_corpus(path, pairs, corpus_wide)}
    if words:
        extra["words.parquet"] = lambda path: _write_words(path, word_tables(attended))
    cells = summed("keywords", rows, directions, view, said, extra)
    if json:
        emit_json(
            {"keywords": {name: [asdict(c) for c in part] for name, part in cells.items()}, "corpus": _plain(corpus_wide), "pairs": pairs, "note": NOTE}
        )  # fmt: skip
        return
    print_table("Agreement with the code's description", pairs, shown, cells[pairs], view.measures)
    _print_corpus(corpus_wide)
    without = sum(not sets[code].terms for code in book.codes)
    if without:
        out.print(f"{without} of {len(book)} codes have no keyword (no title in the code book)", style="dim")
    out.print(NOTE, style="dim", soft_wrap=True)


def sources_of(
    book: CodeBook, inclusion: Path | None, paths: Mapping[str, Path | None], abbreviations: bool, language: str
) -> KeywordSources:
    from explain.keywords import KeywordSources
    from explain.synonyms import read_snomed_map, read_term_table, read_umls

    readers: dict[str, Callable[..., Any]] = {
        "synonyms": read_term_table,
        "umls": read_umls,
        "snomed_map": read_snomed_map,
    }
    speaks = {"umls": {"languages": ("SPA",) if language == "es" else ("ENG",)}}
    return KeywordSources(
        inclusion={} if inclusion is None else read_term_table(inclusion, book.codes),
        synonyms={
            name: readers[name](path, book.codes, **speaks.get(name, {}))
            for name, path in paths.items()
            if path is not None
        },
        abbreviations=abbreviations,
        language=language,
    )


def _plain(found: Mapping[str, Mapping[str, Value]]) -> dict[str, Any]:
    return {method: {name: asdict(value) for name, value in part.items()} for method, part in found.items()}


def _write_corpus(path: Path, pairs: str, found: Mapping[str, Mapping[str, Value]]) -> None:
    from hilat.files import write_json

    write_json(path, {"pairs": pairs, "methods": _plain(found)})


def _write_words(path: Path, rows: Sequence[tuple[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = ("code", "word", "joint", "word_count", "code_count", "pmi_bits", "npmi")
    columns: dict[str, list[Any]] = {"method": [method for method, _ in rows]}
    columns.update({name: [getattr(row, name) for _, row in rows] for name in names})
    pq.write_table(pa.table(columns), path, compression="zstd")


def _print_corpus(found: Mapping[str, Mapping[str, Value]]) -> None:
    from explain.keyword_rows import CORPUS_METRICS

    def text(value: Value) -> str:
        return "–" if math.isnan(value.value) else f"{value.value:.3f}"

    table(
        "What the attended words tell about the code, over all these pairs",
        ("method", *(name.replace("_", " ") for name in CORPUS_METRICS)),
        [(method, *(text(part[name]) for name in CORPUS_METRICS)) for method, part in found.items()],
    )
    for name, says in CORPUS_METRICS.items():
        out.print(f"{name.replace('_', ' ')}: {says}", style="dim", soft_wrap=True)
    reasons = {
        value.reason: name for part in found.values() for name, value in part.items() if value.reason is not None
    }
    for reason, name in reasons.items():
        out.print(f"{name} undefined: {reason}", style="dim", soft_wrap=True)

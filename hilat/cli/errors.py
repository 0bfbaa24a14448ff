"""`hilat errors`: why a model gives codes that the coders did not, and what a reader says of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hilat.admissions import HilatError
from hilat.cli import review
from hilat.cli.console import emit_json, say
from hilat.cli.measured import each_explained
from hilat.cli.options import (
    Context,
    CorpusFolder,
    Device,
    Interval,
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
    from explain.error_study import ErrorStudy, Ground, StudyOptions

app = typer.Typer(
    no_args_is_help=True,
    help="False positives: what tells them from true ones, what they rest on, which codes are confused.",
    pretty_exceptions_enable=False,
)


@app.callback()
def _errors() -> None:
    """False positives: what tells them from true ones, what they rest on, which codes are confused."""


@dataclass(frozen=True)
class _Masking:
    """Of --model, --masking, --top, --draws and --device."""

    model: Path | None
    most: int
    top: int
    draws: int
    device: str


@app.command("study")
def study(
    explanations: Annotated[Path, typer.Option("--explanations", help="A folder that `hilat explain` wrote.")],
    corpus: CorpusFolder,
    out_folder: Annotated[
        Path | None, typer.Option("--out", help="Keep cases, cues, passages, results and summary.json in this folder.")
    ] = None,
    page: Annotated[
        Path | None, typer.Option(help="Write the study as a page too: an .html file, with the passages of every case.")
    ] = None,
    pages: Annotated[
        Path | None, typer.Option(help="A folder that `hilat report` wrote: the page links each case to it.")
    ] = None,
    no_text: Annotated[bool, typer.Option("--no-text", help="Leave note text and ids out of the page.")] = False,
    method: Annotated[str, typer.Option(help="The method whose strong passages are studied.")] = "attention",
    outcomes: Annotated[
        str,
        typer.Option(
            help="Cases that the tables hold: FP, FN, weak (true positives without support), TP; comma between."
        ),
    ] = "FP,FN,weak,TP",
    least: Annotated[
        int, typer.Option(min=2, help="False and true positives that a code needs to be compared on its own.")
    ] = 5,
    measures: Annotated[
        list[Path] | None,
        typer.Option(help="A folder that `hilat faithfulness --out` wrote: adds evidence strength; may be repeated."),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option("--model", help="The model that was explained (RUN/model), for the masking test only."),
    ] = None,
    masking: Annotated[
        int, typer.Option(min=0, help="False positives of the masking test, drawn by the seed; 0: none.")
    ] = 100,
    top: Annotated[int, typer.Option(min=1, help="Strongest words that the masking test removes.")] = 5,
    draws: Annotated[int, typer.Option(min=1, help="Random removals beside each removal.")] = 10,
    device: Device = "auto",
    language: Language = "en",
    synonyms: Synonyms = None,
    umls: Umls = None,
    snomed_map: SnomedMap = None,
    rule_pairs: RulePairs = None,
    context: Context = "own",
    interval: Interval = "percentile",
    seed: Seed = 0,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Study false positives: what tells them from true positives of the same code, and what they rest on.

    Compares profiles of explanations within codes, predicts errors from them, counts cues beside their rate among true
    positives, joins false positives to the codes that were missed or assigned instead and, with --model, removes words to
    see whether the error goes. Without --out nothing is kept.

    Examples:

      [bold]hilat errors study --explanations e --corpus c --out out/errors --measures faith[/]

      [bold]hilat errors study --explanations e --corpus c --model run/model --masking 200 --page errors.html[/]
    """
    from explain.error_study import StudyOptions, study_errors, summary_of, write_study
    from hilat.cli.error_page import PagePlan, write_study_page
    from hilat.cli.error_printing import Terminal, tell_study

    if out_folder is not None and out_folder.exists() and not overwrite:
        raise HilatError(
            f"{out_folder} exists; expected a new folder. Give another --out, or --overwrite to replace it"
        )
    files = {"synonyms": synonyms, "umls": umls, "snomed_map": snomed_map}
    options = StudyOptions(
        method,
        tuple(name.strip() for name in outcomes.split(",") if name.strip()),
        least,
        seed=seed,
        kind=_kind(interval),
        case=_case_options(language, rule_pairs, context),
    )
    ground, manifest = _ground(explanations, corpus, (tuple(measures or ()), method), (files, language))
    done = study_errors(each_explained(explanations, manifest, "reading"), ground, options)
    asked = _Masking(model, masking, top, draws, device)
    if model is not None and masking:
        done = _masked(done, (explanations, manifest), ground, asked, seed)
    said = {**manifest, "measure": "errors", "study": _settings(options, asked, measures or [], corpus)}
    if out_folder is not None:
        write_study(out_folder, done, said, overwrite=overwrite)
        say(f"cases, results and summary: {out_folder}")
    if page is not None:
        write_study_page(done, ground, said, PagePlan(page, pages, not no_text))
        say(f"page: {page}")
    if json:
        emit_json(summary_of(done))
    else:
        tell_study(done, Terminal())


app.command("sample")(review.sample)
app.command("merge")(review.merge)


def _kind(interval: str) -> Any:
    if interval not in ("percentile", "bca"):
        raise HilatError(f"--interval is {interval!r}; expected percentile or bca. Choose one of them")
    return interval


def _case_options(language: str, rule_pairs: Path | None, context: str) -> Any:
    from explain.cues import CaseOptions
    from explain.rule_pairs import built_in_rule_pairs, read_rule_pairs

    rules = built_in_rule_pairs() if rule_pairs is None else read_rule_pairs(rule_pairs)
    return CaseOptions(language=language, rules=rules, backend=context)


def _ground(
    explanations: Path,
    corpus: Path,
    measured: tuple[tuple[Path, ...], str],
    words: tuple[Mapping[str, Path | None], str],
) -> tuple[Ground, dict[str, Any]]:
    """What the study reads besides explanations, and their manifest. measured: folders and the method; words: files of
    synonyms by kind, and the language."""
    from explain.error_profile import read_strength
    from explain.error_study import Ground
    from explain.keywords import keyword_sets
    from explain.table import read_manifest
    from hilat.cli.keywords import sources_of
    from hilat.corpora import read_corpus

    manifest = read_manifest(explanations)
    method = measured[1]
    if method not in manifest["methods"]:
        raise HilatError(
            f"{explanations} has no method {method!r}; it has {', '.join(manifest['methods'])}. Correct --method, or explain "
            f"again with --method {method}"
        )
    strength = read_strength(*measured)
    data = read_corpus(corpus, splits=[str(manifest["split"])])
    book = data.code_book.restricted_to(manifest["label_set"])
    sets = keyword_sets(book, sources_of(book, None, words[0], True, words[1]))
    return Ground({a.hadm_id: a for a in data.admissions}, book, sets, strength), manifest


def _masked(
    done: ErrorStudy, explained: tuple[Path, Mapping[str, Any]], ground: Ground, asked: _Masking, seed: int
) -> ErrorStudy:
    """The study with its masking test. explained: the folder of explanations and its manifest."""
    from explain.collect import fingerprint
    from explain.error_study import mask_errors
    from explain.masking import MaskingOptions, chosen_cases
    from explain.table import read_explanations
    from hilat.cli.console import progress
    from hilat.coder import load_coder

    assert asked.model is not None  # asked for by the caller
    folder, manifest = explained
    coder = load_coder(asked.model, asked.device)
    if manifest.get("model_fingerprint", fingerprint(coder)) != fingerprint(coder):
        raise HilatError(
            f"{asked.model} is not the model that {folder} explains (their fingerprints differ); expected that one. "
            f"The explanations were made with {manifest['settings']['model']}"
        )
    chosen = chosen_cases(done.cases, asked.most, seed)
    ids = sorted({case.hadm_id for case in chosen})
    stream = progress(read_explanations(folder, ids), len(ids), "masking")
    return mask_errors(done, chosen, stream, ground, coder, MaskingOptions(asked.top, asked.draws, seed))


def _settings(options: StudyOptions, asked: _Masking, measures: list[Path], corpus: Path) -> dict[str, Any]:
    """What was asked for, for manifest.json."""
    return {
        "method": options.method,
        "outcomes": list(options.outcomes),
        "least": options.least,
        "resamples": options.resamples,
        "draws": options.draws,
        "seed": options.seed,
        "interval": f"95 %, {options.kind}, over admissions",
        "language": options.case.language,
        "context": options.case.backend,
        "rule_pairs": len(options.case.rules),
        "measures": [str(folder) for folder in measures],
        "corpus": str(corpus),
        "model": None if asked.model is None else str(asked.model),
        "masking": {"most": asked.most, "top": asked.top, "random_draws": asked.draws},
    }

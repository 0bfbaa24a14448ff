"""`hilat figure`: figures for a paper, as SVG, PDF and PNG with a caption."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hilat.admissions import HilatError
from hilat.cli.options import CorpusFolder, Device, Json, Language, ModelFolder, Overwrite, Seed

app = typer.Typer(
    no_args_is_help=True,
    help="Draw figures for a paper: SVG with editable text, PDF with TrueType fonts, PNG at 300 dpi, and a caption.",
    pretty_exceptions_enable=False,
)

Explanations = Annotated[Path, typer.Option("--explanations", help="A folder that `hilat explain` wrote.")]
Out = Annotated[Path, typer.Option("--out", help="The files' name without suffix; the caption is NAME.txt.")]
Admissions = Annotated[
    str | None, typer.Option(help="hadm_ids, comma between.", show_default="chosen: see above")
]  # fmt: skip
Codes = Annotated[str | None, typer.Option(help="Codes, comma between.", show_default="chosen: see above")]
Formats = Annotated[str, typer.Option("--format", help="svg, pdf, png; comma between.")]
Page = Annotated[str, typer.Option("--width", help="Width, as 170mm, 8.5cm or 3.35in.")]
Fill = Annotated[
    str, typer.Option(help="What shades the words: one method, or one unsigned and one signed, comma between.")
]
Length = Annotated[int, typer.Option("--words", min=5, help="Words of a passage.")]
ScaleOption = Annotated[
    str, typer.Option(help="code: darkest is the code's highest word; common: darkest is 10 % of the scores.")
]
EVERY = "svg,pdf,png"


@app.command("text")
def text(
    explanations: Explanations,
    corpus: CorpusFolder,
    out_path: Out,
    admissions: Admissions = None,
    codes: Codes = None,
    count: Annotated[int, typer.Option(min=1, help="Codes that are chosen where none is named.")] = 3,
    method: Fill = "attention",
    words: Length = 44,
    passages: Annotated[int, typer.Option(min=1, help="Passages of each code.")] = 1,
    scale: ScaleOption = "code",
    width: Page = "170mm",
    formats: Formats = EVERY,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Codes of a note, each with the passage around its strongest word (Liu et al. 2022, Fig. 3).

    Where no code is named: the surest true positives of the admission that has most of them. A signed method, such as
    input_x_gradient, underlines: solid blue for the code, dashed pink against it.

    Examples:

      [bold]hilat figure text --explanations e --corpus c --out out/fig3[/]

      [bold]hilat figure text --explanations e --corpus c --out f --admissions 100345 --codes 276.2,428.0 --width 85mm[/]

      [bold]hilat figure text --explanations e --corpus c --out f --method attention,input_x_gradient --passages 2[/]
    """
    from hilat.cli.figure_choice import candidates, choice_of, chosen_text, finish, listed, output_of, read_notes
    from reports.figures.text import draw_text

    output = output_of(out_path, formats, width, overwrite, json)
    notes = read_notes(explanations, corpus)
    choice = choice_of(method, notes.manifest, explanations, words, passages, scale)
    ids, named = listed(admissions), listed(codes)
    pairs = chosen_text(candidates(explanations, ids, named), ids, named, count)
    model = str(notes.manifest["settings"]["model"])
    panels = notes.panels(pairs, choice)
    finish(draw_text(panels, choice, output.width_mm, str(notes.manifest["threshold_source"]), model), output, notes.manifest)  # fmt: skip


@app.command("errors")
def errors(
    explanations: Explanations,
    corpus: CorpusFolder,
    out_path: Out,
    admissions: Admissions = None,
    codes: Codes = None,
    count: Annotated[int, typer.Option(min=1, help="False positives that are chosen where no code is named.")] = 4,
    weak: Annotated[
        bool, typer.Option(help="Add a true positive whose passages hold no evidence, where no code is named.")
    ] = True,
    method: Fill = "attention",
    words: Length = 36,
    scale: ScaleOption = "code",
    language: Language = "en",
    width: Page = "170mm",
    formats: Formats = EVERY,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Wrong codes: outcome, probability, threshold, the passage, and cues why it may be wrong (Liu et al. 2022, Fig. 4).

    Where no code is named: the surest false positives, each of another code, and a true positive with weak evidence.

    Examples:

      [bold]hilat figure errors --explanations e --corpus c --out out/fig4[/]

      [bold]hilat figure errors --explanations e --corpus c --out f --admissions 100345,100352 --codes 518.81,96.04[/]
    """
    from hilat.cli.figure_choice import (
        candidates,
        choice_of,
        chosen_errors,
        error_panels,
        finish,
        listed,
        output_of,
        read_notes,
        weak_panel,
    )  # fmt: skip
    from reports.figures.text import draw_errors

    output = output_of(out_path, formats, width, overwrite, json)
    notes = read_notes(explanations, corpus)
    choice = choice_of(method, notes.manifest, explanations, words, 1, scale)
    named = listed(codes)
    found = candidates(explanations, listed(admissions), named)
    panels = error_panels(notes, chosen_errors(found, bool(named), count), choice, language)
    if weak and not named:
        panels += weak_panel(notes, found, choice, language)
    model = str(notes.manifest["settings"]["model"])
    finish(draw_errors(panels, choice, output.width_mm, str(notes.manifest["threshold_source"]), model), output, notes.manifest)  # fmt: skip


@app.command("worked")
def worked(
    model: ModelFolder,
    explanations: Explanations,
    corpus: CorpusFolder,
    out_path: Out,
    admissions: Annotated[
        str | None, typer.Option("--admission", help="A hadm_id.", show_default="chosen: see above")
    ] = None,
    codes: Annotated[str | None, typer.Option("--code", help="A code.", show_default="chosen: see above")] = None,
    device: Device = "auto",
    width: Page = "170mm",
    formats: Formats = EVERY,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """From chunk and token attention to the attention of words, with the numbers (Liu et al. 2022, Fig. 2 and equation 10).

    It runs the model on one note. Where no code is named: a true positive whose attention is spread over chunks.

    Example: [bold]hilat figure worked --model m --explanations e --corpus c --out out/fig2 --admission 100345 --code 428.0[/]
    """
    from hilat.cli.figure_choice import candidates, chosen_worked, finish, listed, output_of, read_notes
    from hilat.cli.figure_model import attended
    from reports.figures.worked import draw_worked

    output = output_of(out_path, formats, width, overwrite, json)
    notes = read_notes(explanations, corpus)
    ids, named = listed(admissions), listed(codes)
    if len(ids) > 1 or len(named) > 1:
        raise HilatError(f"{len(ids)} admissions and {len(named)} codes were given; expected one of each. Draw one figure each")  # fmt: skip
    pair = chosen_worked(explanations, candidates(explanations, ids, named), bool(named))
    shown = attended(model, device, notes, pair)
    source = str(notes.manifest["threshold_source"])
    finish(draw_worked(shown, output.width_mm, source, str(model)), output, notes.manifest)


@app.command("curves")
def curves(
    measures: Annotated[Path, typer.Option(help="A folder that `hilat faithfulness --out` wrote.")],
    out_path: Out,
    pairs: Annotated[
        str, typer.Option(help="Which pairs are averaged: all, gold, predicted, TP, FP or FN.")
    ] = "predicted",
    admissions: Annotated[str | None, typer.Option(help="Only these hadm_ids, comma between.")] = None,
    codes: Annotated[str | None, typer.Option(help="Only these codes, comma between.")] = None,
    method: Annotated[str | None, typer.Option(help="Only these methods, comma between.")] = None,
    seed: Seed = 0,
    width: Page = "170mm",
    formats: Formats = EVERY,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Deletion and insertion curves: means with 95 % bands, or those of a single admission and code.

    Examples:

      [bold]hilat figure curves --measures faithfulness --out out/curves[/]

      [bold]hilat figure curves --measures faithfulness --out out/one --admissions 100345 --codes 428.0[/]
    """
    from hilat.cli.figure_choice import finish, listed, output_of, read_chosen_curves
    from hilat.files import read_json
    from reports.figures.curves import draw_curves

    output = output_of(out_path, formats, width, overwrite, json)
    chosen = read_chosen_curves(measures, pairs, (listed(admissions), listed(codes), listed(method)))
    manifest = read_json(measures / "manifest.json", what="the manifest of a folder of measures")
    named = "the named" if admissions or codes else pairs
    said = {"pairs": named, "removal": f"each replaced by: {manifest.get('removal', 'mask')}", "model": str(manifest["settings"]["model"])}  # fmt: skip
    finish(draw_curves(chosen, output.width_mm, said, seed), output, manifest)


@app.command("agreement")
def agreement(
    out_path: Out,
    measures: Annotated[Path | None, typer.Option(help="A folder that `hilat agreement --out` wrote.")] = None,
    explanations: Annotated[
        Path | None, typer.Option("--explanations", help="Or a folder of explanations by several methods.")
    ] = None,
    pairs: Annotated[str, typer.Option(help="Which pairs: all, gold, predicted, TP, FP or FN.")] = "all",
    metric: Annotated[
        str, typer.Option(help="kendall_tau_b, overlap_at_5, jaccard_at_5, spearman, ...")
    ] = "kendall_tau_b",
    seed: Seed = 0,
    width: Page = "110mm",
    formats: Formats = EVERY,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """A matrix of how far the methods agree, with half of its 95 % interval in every cell.

    Examples:

      [bold]hilat figure agreement --measures agreement --out out/agreement[/]

      [bold]hilat figure agreement --explanations e --metric overlap_at_5 --pairs FP --out out/overlap[/]
    """
    from explain.agreement import METRICS
    from explain.judging import agreement_rows, groups_of
    from explain.table import read_manifest
    from hilat.cli.figure_choice import finish, output_of, read_rows
    from hilat.cli.measured import each_explained, group_of
    from hilat.files import read_json
    from reports.figures.matrix import agreement_of, draw_agreement

    output = output_of(out_path, formats, width, overwrite, json)
    if metric not in METRICS:
        raise HilatError(f"measure {metric!r} is not known; expected one of {', '.join(METRICS)}. Correct --metric")
    if (measures is None) == (explanations is None):
        raise HilatError("expected either --measures FOLDER or --explanations FOLDER; give one of them")
    if measures is not None:
        rows = read_rows(measures, metric)
        manifest = read_json(measures / "manifest.json", what="the manifest of a folder of measures")
    else:
        folder = explanations or Path()
        manifest = read_manifest(folder)
        rows = [row for one in each_explained(folder, manifest, "comparing") for row in agreement_rows(one)]
    found = agreement_of(group_of(groups_of(rows), pairs) if rows else [], metric, seed)
    said = (pairs, str(manifest["settings"]["model"]))
    finish(draw_agreement(found, metric, output.width_mm, said), output, manifest)


@app.command("f1-support")
def f1_support(
    explanations: Explanations,
    corpus: CorpusFolder,
    out_path: Out,
    width: Page = "110mm",
    formats: Formats = EVERY,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """F1 of every code against how many admissions have it, on a logarithmic axis.

    Example: [bold]hilat figure f1-support --explanations e --corpus c --out out/f1[/]
    """
    from explain.table import read_manifest
    from hilat.cli.figure_choice import finish, output_of
    from hilat.corpora.folder import read_code_book
    from reports.figures.f1_support import code_scores, draw_f1_support
    from reports.figures.pairs import read_pairs

    output = output_of(out_path, formats, width, overwrite, json)
    manifest = read_manifest(explanations)
    book = read_code_book(corpus).restricted_to(manifest["label_set"])
    scores = code_scores(read_pairs(explanations))
    kinds = [book.kinds[book.column(code)] for code in scores.codes]
    model, source = str(manifest["settings"]["model"]), str(manifest["threshold_source"])
    finish(draw_f1_support(scores, kinds, output.width_mm, source, model), output, manifest)


@app.command("calibration")
def calibration(
    explanations: Explanations,
    out_path: Out,
    bins: Annotated[int, typer.Option(min=1, max=50, help="Bins of equal width.")] = 10,
    seed: Seed = 0,
    width: Page = "85mm",
    formats: Formats = EVERY,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """A reliability diagram over all (admission, code) pairs, with the expected calibration error and the bins' counts.

    Example: [bold]hilat figure calibration --explanations e --out out/calibration --bins 15[/]
    """
    from explain.table import read_manifest
    from hilat.cli.figure_choice import finish, output_of
    from reports.figures.calibration import draw_calibration, reliability
    from reports.figures.pairs import read_pairs

    output = output_of(out_path, formats, width, overwrite, json)
    manifest = read_manifest(explanations)
    pairs = read_pairs(explanations)
    found = reliability(pairs, bins, seed)
    finish(draw_calibration(found, pairs, output.width_mm, str(manifest["settings"]["model"])), output, manifest)


@app.command("sections")
def sections(
    explanations: Explanations,
    corpus: CorpusFolder,
    out_path: Out,
    method: Annotated[str, typer.Option(help="Whose scores; of a signed method the positive ones.")] = "attention",
    seed: Seed = 0,
    width: Page = "110mm",
    formats: Formats = EVERY,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Where in the note the scores of true and of false positives fall: mean share per section.

    Example: [bold]hilat figure sections --explanations e --corpus c --out out/sections[/]
    """
    from hilat.cli.figure_choice import finish, output_of, read_notes
    from reports.figures.sections import draw_sections, pair_shares, section_means

    output = output_of(out_path, formats, width, overwrite, json)
    notes = read_notes(explanations, corpus)
    shares = [pair for one, admission in notes.explained() for pair in pair_shares(one, admission, method)]
    manifest = notes.manifest
    said = (str(manifest["threshold_source"]), str(manifest["settings"]["model"]))
    finish(draw_sections(section_means(shares, seed), method, output.width_mm, said), output, manifest)

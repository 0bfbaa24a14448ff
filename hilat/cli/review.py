"""`hilat errors sample` and `hilat errors merge`: cases for reviewers, and what they said."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hilat.admissions import HilatError
from hilat.cli.console import emit_json, number, out, table
from hilat.cli.options import Json, Overwrite, Seed

if TYPE_CHECKING:
    from explain.review import Agreement, Review, Share
    from explain.triage import Drawn, ListedCase, SampleOptions
    from explain.triage_csv import Beside
    from explain.verdicts import Judgement
    from hilat.corpora import Corpus

Study = Annotated[Path, typer.Option("--study", help="A folder that `hilat errors study --out` wrote.")]


def sample(
    study: Study,
    out_folder: Annotated[Path, typer.Option("--out", help="The folder of triage tables to write.")],
    n: Annotated[int, typer.Option("--n", min=1, help="Cases to draw.")] = 100,
    by: Annotated[
        str, typer.Option(help="Strata: code, cue (the rarest one of the case) or outcome; outcomes are always apart.")
    ] = "code",
    allocation: Annotated[
        str, typer.Option(help="proportional (by the strata's size, at least one each) or equal.")
    ] = "proportional",
    outcomes: Annotated[
        str, typer.Option(help="Cases drawn from: FP, FN, weak (true positives without support), TP; comma between.")
    ] = "FP",
    reviewers: Annotated[str, typer.Option(help="Names or initials, comma between; a table each.")] = "reviewer",
    overlap: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the cases that every reviewer reads, for agreement.")
    ] = 0.0,
    corpus: Annotated[
        Path | None,
        typer.Option(help="The corpus that was explained: adds titles and the passages' text to the tables."),
    ] = None,
    no_text: Annotated[bool, typer.Option("--no-text", help="Leave note text out, also with --corpus.")] = False,
    pages: Annotated[
        Path | None, typer.Option(help="A folder that `hilat report` wrote: adds links to its pages.")
    ] = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Draw cases of an error study for reviewers: stratified, with weights, a triage table (CSV) for each reviewer.

    Fill in the columns verdict (model error, coder omission, coding rule, unclear), cues (those that are right, comma
    between, or all, or none) and comment, in a spreadsheet or on the admission pages; `hilat errors merge` reads both.

    Examples:

      [bold]hilat errors sample --study out/errors --out out/triage --n 200 --corpus c --pages out/pages[/]

      [bold]hilat errors sample --study out/errors --out t --by cue --reviewers ab,cd --overlap 0.3[/]
    """  # fmt: skip
    from explain.triage import SampleOptions, draw, read_cases

    names = tuple(name.strip() for name in reviewers.split(",") if name.strip())
    wanted = tuple(name.strip() for name in outcomes.split(",") if name.strip())
    options = SampleOptions(n, by, allocation, wanted, names, overlap, seed)
    cases = read_cases(study)
    drawn = draw(cases, options)
    beside, clinical = _beside(study, (corpus, not no_text), (pages, out_folder), cases)
    counts = _write_sample(out_folder, (cases, drawn, options), beside, (study, clinical), overwrite=overwrite)
    if json:
        emit_json({"drawn": len(drawn), "strata": _strata(drawn), "reviewers": counts})
        return
    of = sum(row["population"] for row in _strata(drawn).values())
    out.print(
        f"{len(drawn)} of {of} cases drawn, {len(_strata(drawn))} strata by {by}, {allocation}; "
        + ", ".join(f"{name} reads {count}" for name, count in counts.items())
        + f"; {sum(len(case.reviewers) > 1 for case in drawn)} are read by all",
        soft_wrap=True,
        highlight=False,
    )
    out.print(f"fill in verdict, cues and comment in {out_folder}/triage-*.csv", soft_wrap=True, highlight=False)


def merge(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="Verdict files that pages saved, filled triage tables, or folders of them.", show_default=False
        ),
    ],
    study: Study,
    drawn: Annotated[
        Path | None,
        typer.Option("--sample", help="The folder that `hilat errors sample` wrote: adds weighted estimates."),
    ] = None,
    out_folder: Annotated[
        Path | None, typer.Option("--out", help="Keep verdicts.parquet and summary.json in this folder.")
    ] = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Merge what reviewers said: how often each cue is right, what the errors are, and how far reviewers agree.

    Refuses unknown verdicts, cues that were not shown, cases that are not the study's, and a case judged twice by the same
    reviewer.

    Example: [bold]hilat errors merge out/triage ~/Downloads/verdicts-*.json --study out/errors --sample out/triage[/]
    """  # fmt: skip
    from explain.review import review
    from explain.triage import read_cases, read_sample
    from explain.verdicts import check_verdicts, read_verdicts, verdict_files

    if out_folder is not None and out_folder.exists() and not overwrite:
        raise HilatError(
            f"{out_folder} exists; expected a new folder. Give another --out, or --overwrite to replace it"
        )
    cases = {case.pair: case for case in read_cases(study)}
    sampled = [] if drawn is None else read_sample(drawn)
    paths = verdict_files(files)
    judgements, blank = read_verdicts(paths)
    check_verdicts(judgements, cases)
    if not judgements:
        raise HilatError(
            f"the {len(paths)} files hold no judgement; expected at least one filled row. Fill in the tables"
        )
    found = review(judgements, cases, sampled, seed=seed)
    summary = {
        "what": "Verdicts of reviewers on the cases of an error study",
        "intervals": "95 %: share by Wilson, cases as independent; weighted and kappa by percentile bootstrap over admissions",
        "files": len(paths),
        "blank_rows": blank,
        "cues_shown_otherwise_than_in_the_study": sum(one.cues_shown != cases[one.pair].kinds for one in judgements),
        **asdict(found),
    }
    if out_folder is not None:
        _write_merged(
            out_folder, (judgements, cases, sampled), summary, _record(study, drawn, seed), overwrite=overwrite
        )
    if json:
        emit_json(summary)
    else:
        _print(found, blank)


def _beside(
    study: Path,
    text: tuple[Path | None, bool],
    linked: tuple[Path | None, Path],
    cases: Sequence[ListedCase],
) -> tuple[Beside, bool]:
    """What stands beside the study's columns, and whether it holds patients' text. text: the corpus, and whether its notes
    are shown. linked: folder of pages, and the folder of the tables."""
    from explain.triage_csv import Beside

    pages, folder = linked
    page = _pages(pages, folder, cases) if pages is not None else None
    corpus, shown = text
    texts: dict[str, str] = {}
    titles: dict[str, str] = {}
    clinical = False
    if corpus is not None:
        data = _corpus(study, corpus)
        titles = dict(zip(data.code_book.codes, data.code_book.titles, strict=True))
        if shown:
            texts = _texts(data, corpus, cases)
            clinical = data.source != "planted"
    return (Beside(texts, titles) if page is None else Beside(texts, titles, page)), clinical


def _corpus(study: Path, corpus: Path) -> Corpus:
    from hilat.corpora import read_corpus
    from hilat.files import read_json

    manifest = read_json(study / "manifest.json", what="the manifest of an error study")
    return read_corpus(corpus, splits=[str(manifest["split"])] if "split" in manifest else None)


def _texts(data: Corpus, corpus: Path, cases: Iterable[ListedCase]) -> dict[str, str]:
    """The notes of the cases. Raises HilatError where one is not there or too short for a passage of it."""
    texts = {admission.hadm_id: admission.text for admission in data.admissions}
    for case in cases:
        last = max([p.end for p in case.passages] + [cue.end for cue in case.cues], default=0)
        if case.hadm_id not in texts or last > len(texts[case.hadm_id]):
            raise HilatError(
                f"{corpus} does not hold admission {case.hadm_id} as it was studied; expected the corpus that was explained. Give that "
                "one, or leave --corpus out"
            )
    return {case.hadm_id: texts[case.hadm_id] for case in cases}


def _pages(pages: Path, folder: Path, cases: Iterable[ListedCase]) -> Callable[[str, str], str]:
    """Address of a case's page, seen from the folder of the tables; "" where the admission has no page."""
    from urllib.parse import quote

    from reports.corpus import file_name

    ids = list(dict.fromkeys(case.hadm_id for case in cases))
    there = {hadm_id: path for hadm_id in ids if (path := pages / file_name(hadm_id, {})).is_file()}
    if not there:
        raise HilatError(
            f"{pages} holds no page of the study's {len(ids)} admissions; expected a folder that `hilat report` wrote with text (pages "
            "without text are named by running numbers). Correct --pages"
        )
    near = Path(os.path.relpath(pages.resolve(), folder.resolve())).as_posix()

    def address(hadm_id: str, code: str) -> str:
        name = f"{quote(near)}/{quote(there[hadm_id].name)}" if hadm_id in there else ""
        return name and f"{name}#c={quote(code)}&e=1"

    return address


def _strata(drawn: Sequence[Drawn]) -> dict[str, dict[str, int]]:
    return {case.stratum: {"population": case.population, "drawn": case.drawn} for case in drawn}


def _write_sample(
    folder: Path,
    what: tuple[Sequence[ListedCase], Sequence[Drawn], SampleOptions],
    beside: Beside,
    where: tuple[Path, bool],
    *,
    overwrite: bool,
) -> dict[str, int]:
    """Write the folder of triage tables; returns how many cases each reviewer reads. where: the study, and whether the
    tables hold patients' text."""
    from explain.triage import ALLOCATIONS, BY, write_sample
    from explain.triage_csv import write_triage
    from hilat.files import new_folder, write_json, write_text
    from hilat.provenance import run_record
    from reports.corpus import README_PHI

    cases, drawn, options = what
    study, clinical = where
    known = {case.pair: case for case in cases}
    with new_folder(folder, overwrite=overwrite, what="folder of triage tables") as made:
        counts = {
            name: write_triage(made / f"triage-{name}.csv", name, drawn, known, beside) for name in options.reviewers
        }
        write_sample(made / "sample.parquet", drawn)
        write_text(made / ".gitignore", "*\n")
        if clinical:
            write_text(made / "README-PHI.txt", README_PHI)
        said = {"by": BY[options.by], "allocation": ALLOCATIONS[options.allocation], "weight": "population / drawn"}
        write_json(made / "summary.json", {**said, "strata": _strata(drawn), "reviewers": counts})
        settings = {**asdict(options), "study": str(study), "note_text": bool(beside.texts)}
        write_json(made / "manifest.json", run_record("errors sample", settings, options.seed))
    return counts


def _record(study: Path, drawn: Path | None, seed: int) -> dict[str, Any]:
    from hilat.provenance import run_record

    return run_record("errors merge", {"study": str(study), "sample": None if drawn is None else str(drawn)}, seed)


def _write_merged(
    folder: Path,
    what: tuple[Sequence[Judgement], Mapping[tuple[str, str], ListedCase], Sequence[Drawn]],
    summary: Mapping[str, Any],
    manifest: Mapping[str, Any],
    *,
    overwrite: bool,
) -> None:
    from explain.review import write_verdicts
    from hilat.files import new_folder, write_json, write_text

    with new_folder(folder, overwrite=overwrite, what="folder of verdicts") as made:
        write_verdicts(made / "verdicts.parquet", *what)
        write_json(made / "summary.json", dict(summary))
        write_json(made / "manifest.json", dict(manifest))
        write_text(made / ".gitignore", "*\n")


def _print(found: Review, blank: int) -> None:
    read = ", ".join(f"{name} {count}" for name, count in found.reviewers.items()) or "nobody"
    note = f"{found.cases} cases judged ({read}); {found.unfinished} judgements without a verdict and {blank} blank rows left out"
    out.print(note, soft_wrap=True, highlight=False, markup=False)
    _print_shares("Verdicts", "given", found.verdicts)
    _print_shares("Cues: how often a shown one is right", "right", found.cues)
    if found.agreements:
        table(
            "Agreement of reviewers",
            ("reviewers", "on", "shared", "agree", "Cohen's kappa"),
            [(f"{a.first}, {a.second}", a.what, str(a.shared), number(a.raw), _kappa(a)) for a in found.agreements],
            left=2,
        )
    notes = [f"no case was read of: {name} ({count} cases)" for name, count in found.unread_strata.items()]
    notes += [
        f"{'no interval of kappa' if math.isfinite(a.kappa.estimate) else 'no kappa'} of {a.first} and {a.second} on {a.what}: {a.kappa.reason}"
        for a in found.agreements
        if a.kappa.reason
    ]
    notes.append(
        "precision: right / shown, interval by Wilson; weighted: for all cases drawn from, interval over admissions"
    )
    for line in notes:
        out.print(line, style="dim", soft_wrap=True, highlight=False, markup=False)


def _kappa(one: Agreement) -> str:
    from hilat.cli.error_printing import span

    return span(one.kappa, 2)


def _print_shares(title: str, hits: str, rows: Sequence[Share]) -> None:
    from hilat.cli.error_printing import span

    table(
        title,
        ("", "outcome", hits, "of", "share [95 %]", "weighted [95 %]"),
        [
            (
                row.name.replace("_", " "),
                row.outcome or "all",
                f"{row.hits:g}",
                str(row.n),
                number(row.share, 2) + (f" [{row.low:.2f}, {row.high:.2f}]" if row.n else ""),
                span(row.weighted, 2),
            )
            for row in rows
        ],
        left=2,
    )

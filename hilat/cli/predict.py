"""`hilat predict`: codes for one's own notes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hilat.admissions import Admission, HilatError
from hilat.cli.code_table import code_table, note_rows, table_kind
from hilat.cli.console import emit_json, fail, number, out, progress, say, table
from hilat.cli.options import BatchSize, Device, Json, ModelFolder, Overwrite, Workers

if TYPE_CHECKING:
    from explain.pipeline import CodedNote, CodingPipeline
    from hilat.text_files import Failure

_WORDS = 5  # of --words without --evidence
_TOLD = 20  # failures that are told one by one


def predict(
    model: ModelFolder,
    note: Annotated[
        Path | None,
        typer.Argument(
            help="A text file, or a folder of .txt files, one note each; without it, or for -, standard input is read."
        ),
    ] = None,
    text: Annotated[Path | None, typer.Option("--text", help="The same as NOTE.")] = None,
    out_file: Annotated[
        Path | None, typer.Option("--out", help="Write a table: a name that ends in .csv, .jsonl or .parquet.")
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", "--all-codes", help="Every code, not only those that reach their threshold.")
    ] = False,
    top: Annotated[
        int | None, typer.Option(min=1, help="The N most probable codes, whether or not they reach their threshold.")
    ] = None,
    evidence: Annotated[
        int, typer.Option(min=0, help="Add the positions of the N strongest words of each code, by --method.")
    ] = 0,
    words: Annotated[
        bool,
        typer.Option(
            "--words",
            help="Add the words themselves. They are the patient's text: treat what holds them as you treat the notes.",
        ),
    ] = False,
    method: Annotated[str, typer.Option(help="What --evidence asks; `hilat explain --list-methods`.")] = "attention",
    encoding: Annotated[str, typer.Option(help="The files' encoding.")] = "utf-8",
    batch_size: BatchSize = 8,
    workers: Workers = 0,
    device: Device = "auto",
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Give the codes of a note, or of a folder of notes, with probabilities.

    Positions count characters from 0, in the text with LF line ends. A file that cannot be read is told at the end, with
    exit code 1; the others are coded.

    Examples:

      [bold]hilat predict --model out/demo/run/model note.txt[/]

      [bold]cat note.txt | hilat predict --model out/demo/run/model --json[/]

      [bold]hilat predict --model out/demo/run/model --text notes/ --out codes.csv --evidence 5[/]
    """
    from explain.pipeline import CodingPipeline
    from hilat.coder import load_coder
    from hilat.text_files import check_encoding

    source = _source(note, text)
    if every and top is not None:
        raise typer.BadParameter("expected one of the two", param_hint="--all / --top")
    check_encoding(encoding)
    if out_file is not None:
        table_kind(out_file)  # a wrong name is told before the work begins
    evidence = evidence or (_WORDS if words else 0)
    single = None if source is not None and source.is_dir() else _read(source, encoding)
    coder = load_coder(model, device)
    pipeline = CodingPipeline(
        coder,
        top_k=len(coder.code_book) if every else top,
        evidence=evidence,
        method=method,
        batch_size=batch_size,
        workers=workers,
    )
    if single is not None and out_file is None:
        _show(pipeline, next(pipeline.notes([single])), words, json)
        return
    failures: list[Failure] = []
    reading, given = _Reading(), source if single is None else single
    notes = reading.follow(_notes(pipeline, given, encoding, failures, quiet=not (json or out_file)))
    if out_file is not None:
        with code_table(out_file, evidence=evidence > 0, words=words, overwrite=overwrite) as write:
            for coded in notes:
                write(note_rows(coded, evidence > 0, words))
            _some(reading, failures)
        result: dict[str, Any] = {"table": str(out_file), "notes": reading.notes}
    elif json:
        whole = [{"id": coded.hadm_id, **_record(pipeline, coded, words)} for coded in notes]
        _some(reading, failures)
        result = {"notes": whole}
    else:
        for coded in notes:
            out.print(_line(coded), soft_wrap=True, markup=False, highlight=False)
        _some(reading, failures)
    if json:
        told = [{"id": failure.name, "error": failure.error} for failure in failures]
        truncated = {"notes": reading.truncated, "words": reading.truncated_words}
        emit_json({**result, "threshold_source": coder.threshold_source, "truncated": truncated, "failed": told})
    elif out_file is not None:
        out.print(f"{reading.notes} notes coded: {out_file}", soft_wrap=True)
    if reading.truncated:
        say(f"{reading.truncated} notes were longer than the chunks; {reading.truncated_words} words were not read")
    _tell(failures)


@dataclass
class _Reading:
    """How many notes were coded, how many of them were longer than the chunks, and the words of those that were not read."""

    notes: int = 0
    truncated: int = 0
    truncated_words: int = 0

    def follow(self, stream: Iterator[CodedNote]) -> Iterator[CodedNote]:
        """The notes as they come, counted."""
        for coded in stream:
            self.notes += 1
            self.truncated += coded.truncated_words > 0
            self.truncated_words += coded.truncated_words
            yield coded


def _source(note: Path | None, text: Path | None) -> Path | None:
    """The file or folder asked for; None for standard input."""
    if note is not None and text is not None:
        raise typer.BadParameter("expected one of the two", param_hint="NOTE / --text")
    given = text if note is None else note
    return None if given is None or str(given) == "-" else given


def _read(source: Path | None, encoding: str) -> Admission:
    """The one note in a file, whose name without its ending is the id, or on standard input."""
    from hilat.text_files import read_text

    if source is None:
        return Admission("stdin", read_text(sys.stdin.buffer, encoding), ())
    return Admission(source.stem, read_text(source, encoding), ())


def _notes(
    pipeline: CodingPipeline, source: Admission | Path | None, encoding: str, failures: list[Failure], *, quiet: bool
) -> Iterator[CodedNote]:
    """The notes of a folder, coded one after another, with a bar unless `quiet`; or the one note that was given."""
    from hilat.text_files import find_texts, read_texts

    if isinstance(source, Admission):
        yield from pipeline.notes([source])
        return
    assert source is not None  # standard input is one note
    found = find_texts(source)
    failures.extend(found.failures)
    if found.others:
        say(f"{found.others} files that are not .txt are passed over")
    coded = pipeline.notes(read_texts(found, failures, encoding))
    yield from coded if quiet else progress(coded, len(found.files), "coding")


def _some(reading: _Reading, failures: list[Failure]) -> None:
    """Refuse to write a table of nothing."""
    if not reading.notes:
        _told(failures)
        raise HilatError(f"none of the {len(failures)} notes can be read; expected one at least. Correct the files")


def _tell(failures: list[Failure]) -> None:
    """Say which notes were not read, and end with exit code 1 where there are any."""
    if failures:
        _told(failures)
        fail(f"{len(failures)} notes were not read, the others were; correct these files and give the command again")
        raise typer.Exit(1)


def _told(failures: list[Failure]) -> None:
    for failure in failures[:_TOLD]:
        say(failure.error)
    if len(failures) > _TOLD:
        say(f"and {len(failures) - _TOLD} more (--json lists all)")


def _line(coded: CodedNote) -> str:
    """A note and its codes in one line."""
    codes = ", ".join(f"{one.code} {number(one.score)}" for one in coded.codes)
    return f"{coded.hadm_id}: {codes or 'no code reaches its threshold'}"


def _record(pipeline: CodingPipeline, coded: CodedNote, words: bool) -> dict[str, Any]:
    """What --json says of a note."""
    evidence = pipeline.options.evidence > 0
    names = {"given": "predicted"}  # as in the tables of `hilat explain`
    rows = [
        {names.get(name, name): value for name, value in row.items() if name != "id"}
        for row in note_rows(coded, evidence, words)
    ]
    return {"codes": rows, "truncated_words": coded.truncated_words}


def _show(pipeline: CodingPipeline, coded: CodedNote, words: bool, json: bool) -> None:
    """Print the codes of one note."""
    source = pipeline.coder.threshold_source
    if json:
        emit_json({**_record(pipeline, coded, words), "threshold_source": source})
        return
    evidence = pipeline.options.evidence > 0
    head = ("code", "title", *(("evidence",) if evidence else ()), "probability", "logit", "threshold", "")
    rows = [
        (
            one.code,
            one.title,
            *((", ".join(w.word if words else f"{w.start}–{w.end}" for w in one.evidence),) if evidence else ()),
            number(one.score),
            number(one.logit, 2),
            number(one.threshold),
            "given" if one.given else "",
        )
        for one in coded.codes
    ]
    table(f"Codes · threshold {source}", head, rows, left=3 if evidence else 2)
    if not coded.codes:
        out.print("No code reaches its threshold; --all lists every code.")
    if coded.truncated_words:
        lost = coded.truncated_words
        out.print(f"The last {lost} words did not fit the model's chunks and were not read.", style="yellow")

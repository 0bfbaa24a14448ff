"""`hilat predict`: codes for one's own note."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from hilat.admissions import HilatError, plain_text
from hilat.cli.console import emit_json, number, out, table
from hilat.cli.options import Device, Json, ModelFolder


def predict(
    model: ModelFolder,
    note: Annotated[
        Path | None, typer.Argument(help="A text file, UTF-8; without it, or for -, standard input is read.")
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="List every code, not only those above their threshold.")
    ] = False,
    encoding: Annotated[str, typer.Option(help="The file's encoding.")] = "utf-8",
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Give the codes of a note, with probabilities.

    Examples:

      [bold]hilat predict --model out/demo/run/model note.txt[/]

      [bold]cat note.txt | hilat predict --model out/demo/run/model --json[/]
    """
    from hilat.coder import load_coder
    from hilat.coder import predict as run

    text = _read(note, encoding)
    coder = load_coder(model, device)
    prediction = next(run(coder, [text]))
    rows = sorted(
        (
            {
                "code": code,
                "title": coder.code_book.titles[k],
                "probability": float(prediction.probabilities[k]),
                "logit": float(prediction.logits[k]),
                "threshold": float(coder.thresholds[k]),
                "predicted": bool(prediction.probabilities[k] >= coder.thresholds[k]),
            }
            for k, code in enumerate(coder.code_book.codes)
        ),
        key=lambda row: (-float(str(row["probability"])), str(row["code"])),
    )
    shown = rows if every else [row for row in rows if row["predicted"]]
    lost = prediction.document.truncated_words
    if json:
        emit_json({"codes": shown, "threshold_source": coder.threshold_source, "truncated_words": lost})
        return
    table(
        f"Codes · threshold {coder.threshold_source}",
        ("code", "title", "probability", "logit", "threshold", ""),
        [
            (
                str(r["code"]),
                str(r["title"]),
                number(float(str(r["probability"]))),
                number(float(str(r["logit"])), 2),
                number(float(str(r["threshold"]))),
                "given" if r["predicted"] else "",
            )
            for r in shown
        ],
        left=2,
    )
    if not shown:
        out.print("No code reaches its threshold; --all lists every code.")
    if lost:
        out.print(f"The last {lost} words did not fit the model's chunks and were not read.", style="yellow")


def _read(note: Path | None, encoding: str) -> str:
    piped = note is None or str(note) == "-"
    name = "standard input" if piped else str(note)
    try:
        raw = sys.stdin.buffer.read() if note is None or piped else note.read_bytes()
    except FileNotFoundError:
        raise HilatError(f"{name} does not exist; expected a text file with one note. Check the path") from None
    except IsADirectoryError:
        raise HilatError(f"{name} is a folder; expected a text file with one note. Give the file") from None
    try:
        text = plain_text(raw.decode(encoding))
    except UnicodeDecodeError as error:
        raise HilatError(
            f"{name} is not {encoding} (byte {error.start}); expected text in that encoding. Pass --encoding latin-1, say"
        ) from None
    except LookupError:
        raise HilatError(
            f"encoding {encoding!r} is not known; expected utf-8, latin-1, ... Correct --encoding"
        ) from None
    if not text.strip():
        raise HilatError(f"{name} is empty; expected the text of a note. Give a file with text")
    return text

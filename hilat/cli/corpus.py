"""`hilat corpus`: make, convert and describe corpora."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Make, convert and describe corpora.", pretty_exceptions_enable=False)


@app.command()
def describe(path: Annotated[str, typer.Argument()]) -> None:
    """x."""
    del path

"""`hilat corpus`: make, convert and describe corpora."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hilat.cli.console import emit_json, number, out, table
from hilat.cli.options import Json, Overwrite

app = typer.Typer(no_args_is_help=True, help="Make, convert and describe corpora.", pretty_exceptions_enable=False)

OutFolder = Annotated[Path, typer.Option("--out", help="The corpus folder to write.")]

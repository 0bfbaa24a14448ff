"""`hilat errors`: why a model gives codes that the coders did not, and what a reader says of them."""

from __future__ import annotations

import typer

app = typer.Typer(
    no_args_is_help=True,
    help="False positives: what tells them from true ones, what they rest on, which codes are confused.",
    pretty_exceptions_enable=False,
)


@app.callback()
def _errors() -> None:
    """False positives: what tells them from true ones, what they rest on, which codes are confused."""

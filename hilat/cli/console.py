"""Where the commands write: results and tables to standard output, progress and errors to standard error."""

from __future__ import annotations

import json
import logging
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from hilat.files import without_nan

# Where output goes to a file or a pipe, tables are as wide as they need to be read, unless COLUMNS says otherwise.
out = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160)
err = Console(stderr=True)

Item = TypeVar("Item")


def fail(message: str) -> None:
    """Say what went wrong, in one sentence."""
    several = os.environ.get("WORLD_SIZE", "1") != "1"
    who = f"process {os.environ.get('RANK', '?')}: " if several else ""
    err.print(f"[bold red]{escape(who)}error:[/] {escape(message)}", soft_wrap=True, highlight=False)


def say(message: str) -> None:
    """Tell progress."""
    err.print(escape(message), soft_wrap=True, highlight=False)


def emit_json(value: Any) -> None:
    """Write a result as JSON to standard output."""
    print(json.dumps(without_nan(value), indent=1, ensure_ascii=False, allow_nan=False))


def number(value: float | None, digits: int = 3) -> str:
    """A number for a table; an undefined one is a dash."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1) -> None:
    """Print a table whose first `left` columns are text and the others numbers."""
    made = Table(title=title, title_justify="left", header_style="bold")
    for i, column in enumerate(columns):
        made.add_column(column, justify="left" if i < left else "right", overflow="fold", no_wrap=i == 0)
    for row in rows:
        made.add_row(*(escape(cell) for cell in row))
    out.print(made)


@contextmanager
def counting(total: int | None, what: str) -> Iterator[Callable[[int], None]]:
    """A bar on standard error; what it gives is called with how many more are done."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=err,
    )
    with bar:
        task = bar.add_task(what, total=total)
        yield lambda n: bar.advance(task, n)


def progress(items: Iterable[Item], total: int | None, what: str) -> Iterator[Item]:
    """The items, with a bar on standard error."""
    with counting(total, what) as tick:
        for item in items:
            yield item
            tick(1)


@contextmanager
def training_progress() -> Iterator[Callable[[int, int, dict[str, Any]], None]]:
    """A bar for training; what it gives is called with (step, steps, log line)."""
    bar = Progress(
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
        console=err,
    )
    shown = {"loss": "", "val": ""}
    with bar:
        task = bar.add_task("", total=None)

        def tell(step: int, steps: int, log: dict[str, Any]) -> None:
            if "loss" in log:
                shown["loss"] = f"loss {float(log['loss']):.4f}"
            if "eval_micro_f1" in log:
                shown["val"] = f"val micro-F1 {float(log['eval_micro_f1']):.3f}"
            bar.update(task, completed=step, total=steps, description="  ".join(filter(None, shown.values())))

        yield tell


def quiet_libraries() -> None:
    """Keep other libraries' chatter off the screen: it can quote input."""
    import transformers

    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    for name in ("torch", "accelerate", "huggingface_hub", "py.warnings"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.simplefilter("ignore")

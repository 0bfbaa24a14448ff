"""Tables that a reader sorts and filters, as the index and the error study show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ROWS = 200  # of a table at a time


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: kind "text", "lines" (text that keeps its line ends), "num" (whole), "real" (two decimals), "link"
    (to the row's address, "" for none)."""

    name: str
    kind: str
    title: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """A table as the page shows it. rows: cells, in the order of the columns; a link's cell is (text, address).

    flags: (name, the rows it keeps, as indices): buttons that narrow the table.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Any, ...], ...]
    flags: tuple[tuple[str, tuple[int, ...]], ...] = ()
    hint: str = ""


def table_data(tables: Sequence[Table]) -> dict[str, dict[str, Any]]:
    """The data block of a page's tables: rows and, for each flag, the rows it keeps."""
    return {t.name: {"rows": t.rows, "flags": [list(keep) for _, keep in t.flags]} for t in tables}


def kept_flags(flags: Mapping[str, Sequence[bool]]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Those flags that keep some rows and not all."""
    kept = ((name, tuple(i for i, keep in enumerate(keeps) if keep)) for name, keeps in flags.items())
    return tuple((name, rows) for name, rows in kept if 0 < len(rows) < len(flags[name]))

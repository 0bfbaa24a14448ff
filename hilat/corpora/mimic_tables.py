"""MIMIC tables as downloaded: found, checked, and read by DuckDB in bounded memory.

No message here repeats what DuckDB says of a bad line: it quotes the line, and the line is a patient's note.
"""

from __future__ import annotations

import csv
import gzip
import re
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, Protocol

import duckdb
import pyarrow as pa
import pyarrow.csv as pa_csv

from hilat.admissions import HilatError

SUFFIXES = (".csv", ".csv.gz", ".parquet")
_TEXT_COLUMNS = ("icd9_code", "icd_code", "text")
_MAX_HEADER = 1 << 16
_BLOCK = 1 << 23
_UNCLOSED = (
    "{what} has an unclosed quote{where}: the file is cut off or damaged; expected a whole CSV. Download it again"
)


@dataclass(frozen=True, slots=True)
class Release:
    """A release of MIMIC. name: for messages. required: the columns that each table must have.

    optional: columns that are read where a table has them. folders: the subfolders of a download in which tables lie.
    schemas: the schema of each table in a PostgreSQL database, as the official build scripts name it.
    """

    name: str
    required: Mapping[str, tuple[str, ...]]
    schemas: Mapping[str, str]
    optional: tuple[str, ...] = ()
    folders: tuple[str, ...] = (".",)

    def wanted(self, table: str) -> tuple[str, ...]:
        """The columns that are read of a table, the optional ones last."""
        return (*self.required[table], *self.optional)


MIMIC3 = Release(
    name="MIMIC-III v1.4",
    required={
        "NOTEEVENTS": (
            "row_id",
            "subject_id",
            "hadm_id",
            "chartdate",
            "charttime",
            "category",
            "description",
            "iserror",
            "text",
        ),
        "DIAGNOSES_ICD": ("hadm_id", "seq_num", "icd9_code"),
        "PROCEDURES_ICD": ("hadm_id", "seq_num", "icd9_code"),
        "D_ICD_DIAGNOSES": ("icd9_code", "long_title"),
        "D_ICD_PROCEDURES": ("icd9_code", "long_title"),
    },
    schemas=dict.fromkeys(
        ("NOTEEVENTS", "DIAGNOSES_ICD", "PROCEDURES_ICD", "D_ICD_DIAGNOSES", "D_ICD_PROCEDURES"), "mimiciii"
    ),
    optional=("row_id",),
)


class Readable(Protocol):
    """A binary stream, read in order."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; none at the end."""


@dataclass(frozen=True, slots=True)
class Table:
    """One table, wherever it lies.

    place: what messages call it. file: what the manifest calls it, without what names a person's machine.
    columns: name as written, in order, by lower-case name. opened: gives the table as CSV with a header; None: `path`
    is a Parquet file.
    """

    name: str
    release: Release
    place: str
    file: str
    columns: Mapping[str, str]
    opened: Callable[[], AbstractContextManager[Readable]] | None
    path: Path | None = None


def find_tables(folders: Sequence[Path], release: Release) -> dict[str, Table]:
    """The tables of a release by name, each file opened as far as its header.

    File names and headers may be upper- or lower-case. Where a table is there in several forms the plain CSV is
    taken before the .csv.gz, and that before the Parquet file. Each folder is searched itself and in the subfolders of
    the release.

    Raises:
        HilatError: no such folder, a missing table, a missing column, or a file that is not what its name says.
    """
    for folder in folders:
        if not Path(folder).is_dir():
            raise HilatError(f"{folder} is not a folder; expected the folder with the MIMIC tables. Check the path")
    places = [Path(folder) / inner for folder in folders for inner in release.folders]
    files = [path for place in places if place.is_dir() for path in sorted(place.iterdir()) if path.is_file()]
    by_name = {path.name.lower(): path for path in reversed(files)}
    found: dict[str, Path] = {}
    for table in release.required:
        paths = [by_name[name] for suffix in SUFFIXES if (name := table.lower() + suffix) in by_name]
        if paths:
            found[table] = paths[0]
    missing = [table for table in release.required if table not in found]
    if missing:
        there = ", ".join(path.name for path in files[:30]) or "no file"
        raise HilatError(
            f"{' and '.join(map(str, folders))} lacks {', '.join(missing)}; it holds {there}. Expected "
            f"{', '.join(release.required)}, each as {', '.join(SUFFIXES)}, names in upper or lower case. "
            f"Download {release.name} into one folder"
        )
    return {table: _open_table(table, path, release) for table, path in found.items()}


@contextmanager
def database(temp_parent: Path | None, *, memory_limit_mb: int, threads: int) -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB database in a private temporary folder that is removed at the end, whatever happens.

    The folder holds note text while it lives: it is readable by its owner only.

    Arguments:
        temp_parent: where the folder is made; it needs about the size of the discharge summaries twice (2 GB for
            MIMIC-III, 7 GB for MIMIC-IV). None: the system's.
        memory_limit_mb: DuckDB's own limit, in MB; the process takes a few hundred MB more.
    """
    if memory_limit_mb < 256 or threads < 1:
        raise HilatError(
            f"memory_limit_mb is {memory_limit_mb} and threads {threads}; expected at least 256 MB and 1 thread"
        )
    try:
        folder = tempfile.TemporaryDirectory(prefix=".hilat-mimic.", dir=temp_parent, ignore_cleanup_errors=True)
    except OSError as error:
        raise HilatError(
            f"cannot make a temporary folder in {temp_parent}: {error.strerror}; choose a folder that you may write to"
        ) from None
    with folder as name:
        config: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": f"{memory_limit_mb}MB",
            "threads": threads,
            "temp_directory": f"{name}/spill",
            "preserve_insertion_order": False,
            "autoinstall_known_extensions": False,
        }
        with duckdb.connect(f"{name}/tables.duckdb", config=config) as connection:
            connection.execute("SET enable_progress_bar = false")
            yield connection


@contextmanager
def told_plainly(what: str) -> Iterator[None]:
    """Turns the errors of DuckDB and Arrow into one sentence about `what` that quotes none of the data."""
    try:
        yield
    except (duckdb.Error, pa.ArrowInvalid, OSError) as error:
        raise HilatError(_reason(error, what)) from None


@contextmanager
def rows_of(connection: duckdb.DuckDBPyConnection, table: Table) -> Iterator[str]:
    """What to write after FROM to read the table once; columns are text for CSV, and as typed for Parquet.

    DuckDB's own CSV reader splits a file into parts, and a part that starts within a note cannot tell so: on notes with
    line breaks and quotes it fails, and with `parallel = false` it keeps the whole file in memory. Arrow's reader goes
    through the file in order, block by block.

    Raises:
        HilatError: the file is damaged, cut off or not UTF-8, also when that shows only while the rows are read.
    """
    with told_plainly(table.place):
        if table.opened is None:
            yield f"read_parquet({_sql_path(table.path or Path())})"
            return
        with table.opened() as stream:
            counted = _QuoteCounter(stream)
            names = [table.columns[column] for column in table.release.wanted(table.name) if column in table.columns]
            reader = pa_csv.open_csv(
                pa.PythonFile(counted, mode="r"),
                read_options=pa_csv.ReadOptions(use_threads=False, block_size=_BLOCK),
                parse_options=pa_csv.ParseOptions(newlines_in_values=True),
                convert_options=pa_csv.ConvertOptions(
                    column_types=dict.fromkeys(names, pa.string()), include_columns=list(dict.fromkeys(names))
                ),
            )
            connection.register("csv_rows", reader)
            try:
                yield "csv_rows"
            finally:
                connection.unregister("csv_rows")
        if counted.quotes % 2:
            raise HilatError(_UNCLOSED.format(what=table.place, where=""))


class _QuoteCounter:
    """A binary stream that counts the quote marks that pass: a whole CSV holds an even number."""

    def __init__(self, stream: Readable) -> None:
        self.stream = stream
        self.quotes = 0
        self.closed = False

    def read(self, size: int) -> bytes:
        block: bytes = self.stream.read(size)
        self.quotes += block.count(b'"')
        return block

    def close(self) -> None:
        self.closed = True


def column_sql(table: Table, name: str) -> str:
    """A column as a quoted SQL name. Raises KeyError for a column that the table has not."""
    return '"' + table.columns[name].replace('"', '""') + '"'


def id_sql(table: Table, name: str) -> str:
    """An id as text, NULL when blank; 145834.0, as pandas writes a column with gaps, is 145834."""
    return f"nullif(regexp_replace(trim(CAST({column_sql(table, name)} AS VARCHAR)), '\\.0+$', ''), '')"


def text_sql(table: Table, name: str) -> str:
    """A column as trimmed text, NULL when blank."""
    return f"nullif(trim(CAST({column_sql(table, name)} AS VARCHAR)), '')"


def time_sql(table: Table, name: str) -> str:
    """A date or time as TIMESTAMP, NULL when absent or not a time."""
    return f"TRY_CAST({text_sql(table, name)} AS TIMESTAMP)"


def _open_table(name: str, path: Path, release: Release) -> Table:
    try:
        with path.open("rb") as stream:
            start = stream.read(512)
    except OSError as error:
        raise HilatError(f"{path} cannot be read: {error.strerror}; check its permissions") from None
    if not start:
        raise HilatError(f"{path} is empty; expected the table {name} of {release.name}. Download it again")
    opened: Callable[[], AbstractContextManager[Readable]] | None = None
    if start.startswith(b"PAR1"):
        columns = _parquet_columns(path)
    else:
        form: Literal["csv", "gzip"] = "gzip" if start.startswith(b"\x1f\x8b") else "csv"
        if form == "csv" and path.suffix.lower() in (".gz", ".parquet") and not _is_html(start):
            raise HilatError(f"{path} is not what its name says; expected {path.suffix}. Download or convert it again")
        columns = _csv_columns(name, path, form, release)
        opened = partial(pa.input_stream, str(path), compression="gzip" if form == "gzip" else None)
    return checked_table(Table(name, release, str(path), path.name, by_lower_name(columns), opened, path), columns)


def checked_table(table: Table, header: Sequence[str]) -> Table:
    """The table, if its header names every required column and none of those read twice. Raises HilatError if not."""
    times = Counter(column.strip().lower() for column in header)
    twice = [column for column in dict.fromkeys(table.release.wanted(table.name)) if times[column] > 1]
    if twice:
        raise HilatError(
            f"{table.place} names {', '.join(twice)} twice in its header; expected each column once. "
            f"Use {table.release.name}'s own file"
        )
    required = table.release.required[table.name]
    missing = [column for column in required if column not in table.columns]
    if missing:
        # A file without a header would show a note here: only what looks like a column name is repeated.
        names = [column for column in table.columns.values() if re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,30}", column)]
        raise HilatError(
            f"{table.place} has no column {', '.join(missing)}; found {', '.join(names[:20]) or 'no column names'}. "
            f"Expected {', '.join(required)}, comma-separated, in upper or lower case. Use {table.release.name}'s own file"
        )
    return table


def by_lower_name(header: Sequence[str]) -> dict[str, str]:
    """Column names as written by their lower-case form."""
    return {column.strip().lower(): column for column in header}


def _csv_columns(name: str, path: Path, form: Literal["csv", "gzip"], release: Release) -> list[str]:
    try:
        with gzip.open(path) if form == "gzip" else path.open("rb") as stream:
            start = stream.read(_MAX_HEADER)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise HilatError(
            f"{path} is a damaged or truncated gzip file; expected a whole one. Download it again"
        ) from None
    if not start:
        raise HilatError(f"{path} is empty; expected the table {name} of {release.name}. Download it again")
    if _is_html(start):
        raise HilatError(
            f"{path} is a web page, not a table; expected {name} of {release.name} as CSV. "
            "The download was answered with a page (not logged in?): log in to PhysioNet and download it again"
        )
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise HilatError(f"{path} is encoded in UTF-16; expected UTF-8. Convert it, or download it again")
    lines = iter(start.decode("utf-8-sig", errors="replace").splitlines(keepends=True))
    try:
        header = next(csv.reader(lines), [])
    except csv.Error:
        header = []
    return header


def _parquet_columns(path: Path) -> list[str]:
    with told_plainly(str(path)), duckdb.connect(":memory:") as connection:
        rows = connection.execute(f"DESCRIBE SELECT * FROM read_parquet({_sql_path(path)})").fetchall()
    for name, kind, *_ in rows:
        if name.lower() in _TEXT_COLUMNS and kind != "VARCHAR":
            raise HilatError(
                f"{path} has column {name} of type {kind}; expected text. {not_text(name)}Convert the CSV again with the "
                "column as text"
            )
    return [row[0] for row in rows]


def not_text(column: str) -> str:
    """Why a column that is no text cannot be read: a sentence for codes, nothing for notes."""
    if column.lower() == "text":
        return ""
    return (
        "ICD codes are text: as numbers they have lost their zeros (0389 and 389 become one), and nothing brings them "
        "back. "
    )


def _is_html(start: bytes) -> bool:
    return start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<")


def _sql_path(path: Path) -> str:
    # DuckDB globs: a folder named "data[1]" must mean itself.
    return quoted(re.sub(r"([\[*?])", r"[\1]", str(path)))


def quoted(text: str) -> str:
    """A text as an SQL string."""
    return "'" + text.replace("'", "''") + "'"


def _reason(error: Exception, what: str) -> str:
    said = str(error)
    low = said.lower()
    if isinstance(error, duckdb.OutOfMemoryException):
        if "memory_limit" not in said:
            return f"no space is left for temporary files of {what}; expected about 2 GB. Choose another temp_folder"
        return f"the memory limit does not suffice for reading {what}; raise memory_limit_mb or lower threads"
    row = re.search(r"Row #(\d+)", said)
    where = f" near row {row[1]}" if row else ""
    again = "Download it again"
    if "gzip" in low or "zlib" in low or "compressed stream" in low:
        return f"{what} is a damaged or truncated gzip file; expected a whole one. {again}"
    if "utf8" in low or "utf-8" in low:
        return f"{what} is not UTF-8{where}; expected UTF-8. Convert it, or download it again"
    if "straddling" in low or "out of sync" in low:
        return _UNCLOSED.format(what=what, where=where)
    if re.search(r"expected \d+ columns", low):
        return f"{what} has too many or too few fields{where}; expected one per column. {again}"
    if "parquet" in low or "thrift" in low or "magic bytes" in low:
        return f"{what} is a damaged or truncated Parquet file; expected a whole one. Download or convert it again"
    return f"{what} cannot be read{where} ({type(error).__name__}); expected a table of MIMIC. {again}"

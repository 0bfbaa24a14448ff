"""The five MIMIC-III tables as downloaded: found, checked, and read by DuckDB in bounded memory.

No message here repeats what DuckDB says of a bad line: it quotes the line, and the line is a patient's note.
"""

from __future__ import annotations

import csv
import gzip
import re
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import duckdb
import pyarrow as pa
import pyarrow.csv as pa_csv

from hilat.admissions import HilatError

SUFFIXES = (".csv", ".csv.gz", ".parquet")
REQUIRED: Mapping[str, tuple[str, ...]] = {
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
}
_TEXT_COLUMNS = ("icd9_code", "text")
OPTIONAL = ("row_id",)
_MAX_HEADER = 1 << 16
_BLOCK = 1 << 23
_UNCLOSED = (
    "{what} has an unclosed quote{where}: the file is cut off or damaged; expected a whole CSV. Download it again"
)


@dataclass(frozen=True, slots=True)
class TableFile:
    """One table: its file, how it is packed (by content, not by name), and its columns.

    columns: name as written, in file order, by lower-case name.
    """

    name: str
    path: Path
    form: Literal["csv", "gzip", "parquet"]
    columns: Mapping[str, str]


def find_tables(folder: Path) -> dict[str, TableFile]:
    """The five tables by name, each file opened as far as its header.

    File names and headers may be upper- or lower-case. Where a table is there in several forms the plain CSV is
    taken before the .csv.gz, and that before the Parquet file.

    Raises:
        HilatError: no such folder, a missing table, a missing column, or a file that is not what its name says.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise HilatError(f"{folder} is not a folder; expected the folder with the MIMIC-III tables. Check the path")
    files = sorted(path for path in folder.iterdir() if path.is_file())
    by_name = {path.name.lower(): path for path in reversed(files)}
    found: dict[str, Path] = {}
    for table in REQUIRED:
        paths = [by_name[name] for suffix in SUFFIXES if (name := table.lower() + suffix) in by_name]
        if paths:
            found[table] = paths[0]
    missing = [table for table in REQUIRED if table not in found]
    if missing:
        there = ", ".join(path.name for path in files[:30]) or "no file"
        raise HilatError(
            f"{folder} lacks {', '.join(missing)}; it holds {there}. Expected {', '.join(REQUIRED)}, each as "
            f"{', '.join(SUFFIXES)}, names in upper or lower case. Download MIMIC-III v1.4 into one folder"
        )
    return {table: _open_table(table, path) for table, path in found.items()}


@contextmanager
def database(temp_parent: Path | None, *, memory_limit_mb: int, threads: int) -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB database in a private temporary folder that is removed at the end, whatever happens.

    The folder holds note text while it lives: it is readable by its owner only.

    Arguments:
        temp_parent: where the folder is made; it needs about the size of the discharge summaries twice (2 GB for
            MIMIC-III). None: the system's.
        memory_limit_mb: DuckDB's own limit, in MB; the process takes a few hundred MB more.
    """
    if memory_limit_mb < 256 or threads < 1:
        raise HilatError(
            f"memory_limit_mb is {memory_limit_mb} and threads {threads}; expected at least 256 MB and 1 thread"
        )
    try:
        folder = tempfile.TemporaryDirectory(prefix=".hilat-mimic3.", dir=temp_parent, ignore_cleanup_errors=True)
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
def told_plainly(what: Path | str) -> Iterator[None]:
    """Turns the errors of DuckDB and Arrow into one sentence about `what` that quotes none of the data."""
    try:
        yield
    except (duckdb.Error, pa.ArrowInvalid, OSError) as error:
        raise HilatError(_reason(error, what)) from None


@contextmanager
def rows_of(connection: duckdb.DuckDBPyConnection, table: TableFile) -> Iterator[str]:
    """What to write after FROM to read the table once; columns are text for CSV, and as typed for Parquet.

    DuckDB's own CSV reader splits a file into parts, and a part that starts within a note cannot tell so: on notes with
    line breaks and quotes it fails, and with `parallel = false` it keeps the whole file in memory. Arrow's reader goes
    through the file in order, block by block.

    Raises:
        HilatError: the file is damaged, cut off or not UTF-8, also when that shows only while the rows are read.
    """
    with told_plainly(table.path):
        if table.form == "parquet":
            yield f"read_parquet({_sql_path(table.path)})"
            return
        with pa.input_stream(str(table.path), compression="gzip" if table.form == "gzip" else None) as stream:
            counted = _QuoteCounter(stream)
            names = [table.columns[column] for column in (*REQUIRED[table.name], *OPTIONAL) if column in table.columns]
            reader = pa_csv.open_csv(
                pa.PythonFile(counted, mode="r"),
                read_options=pa_csv.ReadOptions(use_threads=False, block_size=_BLOCK),
                parse_options=pa_csv.ParseOptions(newlines_in_values=True),
                convert_options=pa_csv.ConvertOptions(
                    column_types=dict.fromkeys(names, pa.string()), include_columns=names
                ),
            )
            connection.register("csv_rows", reader)
            try:
                yield "csv_rows"
            finally:
                connection.unregister("csv_rows")
        if counted.quotes % 2:
            raise HilatError(_UNCLOSED.format(what=table.path, where=""))


class _QuoteCounter:
    """A binary stream that counts the quote marks that pass: a whole CSV holds an even number."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.quotes = 0
        self.closed = False

    def read(self, size: int) -> bytes:
        block: bytes = self.stream.read(size)
        self.quotes += block.count(b'"')
        return block

    def close(self) -> None:
        self.closed = True


def column_sql(table: TableFile, name: str) -> str:
    """A column as a quoted SQL name. Raises KeyError for a column that the table has not."""
    return '"' + table.columns[name].replace('"', '""') + '"'


def id_sql(table: TableFile, name: str) -> str:
    """An id as text, NULL when blank; 145834.0, as pandas writes a column with gaps, is 145834."""
    return f"nullif(regexp_replace(trim(CAST({column_sql(table, name)} AS VARCHAR)), '\\.0+$', ''), '')"


def text_sql(table: TableFile, name: str) -> str:
    """A column as trimmed text, NULL when blank."""
    return f"nullif(trim(CAST({column_sql(table, name)} AS VARCHAR)), '')"


def time_sql(table: TableFile, name: str) -> str:
    """A date or time as TIMESTAMP, NULL when absent or not a time."""
    return f"TRY_CAST({text_sql(table, name)} AS TIMESTAMP)"


def _open_table(name: str, path: Path) -> TableFile:
    try:
        with path.open("rb") as stream:
            start = stream.read(512)
    except OSError as error:
        raise HilatError(f"{path} cannot be read: {error.strerror}; check its permissions") from None
    if not start:
        raise HilatError(f"{path} is empty; expected the table {name} of MIMIC-III v1.4. Download it again")
    if start.startswith(b"PAR1"):
        table = TableFile(name, path, "parquet", _parquet_columns(name, path))
    else:
        form: Literal["csv", "gzip"] = "gzip" if start.startswith(b"\x1f\x8b") else "csv"
        if form == "csv" and path.suffix.lower() in (".gz", ".parquet") and not _is_html(start):
            raise HilatError(f"{path} is not what its name says; expected {path.suffix}. Download or convert it again")
        table = TableFile(name, path, form, _csv_columns(name, path, form))
    missing = [column for column in REQUIRED[name] if column not in table.columns]
    if missing:
        # A file without a header would show a note here: only what looks like a column name is repeated.
        names = [column for column in table.columns.values() if re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,30}", column)]
        raise HilatError(
            f"{path} has no column {', '.join(missing)}; found {', '.join(names[:20]) or 'no column names'}. "
            f"Expected {', '.join(REQUIRED[name])}, comma-separated, in upper or lower case. Use MIMIC-III v1.4's own file"
        )
    return table


def _csv_columns(name: str, path: Path, form: Literal["csv", "gzip"]) -> dict[str, str]:
    try:
        with gzip.open(path) if form == "gzip" else path.open("rb") as stream:
            start = stream.read(_MAX_HEADER)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise HilatError(
            f"{path} is a damaged or truncated gzip file; expected a whole one. Download it again"
        ) from None
    if not start:
        raise HilatError(f"{path} is empty; expected the table {name} of MIMIC-III v1.4. Download it again")
    if _is_html(start):
        raise HilatError(
            f"{path} is a web page, not a table; expected {name} of MIMIC-III v1.4 as CSV. "
            "The download was answered with a page (not logged in?): log in to PhysioNet and download it again"
        )
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise HilatError(f"{path} is encoded in UTF-16; expected UTF-8. Convert it, or download it again")
    lines = iter(start.decode("utf-8-sig", errors="replace").splitlines(keepends=True))
    try:
        header = next(csv.reader(lines), [])
    except csv.Error:
        header = []
    return _by_lower_name(name, path, header)


def _parquet_columns(name: str, path: Path) -> dict[str, str]:
    with told_plainly(path), duckdb.connect(":memory:") as connection:
        rows = connection.execute(f"DESCRIBE SELECT * FROM read_parquet({_sql_path(path)})").fetchall()
    columns = _by_lower_name(name, path, [row[0] for row in rows])
    for row in rows:
        column, kind = row[0].lower(), row[1]
        if column in _TEXT_COLUMNS and kind != "VARCHAR":
            why = (
                "ICD-9 codes are text: as numbers they have lost their zeros (0389 and 389 become one), and nothing "
                "brings them back. Convert the CSV again with the code column read as text"
                if column == "icd9_code"
                else "Convert the CSV again with the column as text"
            )
            raise HilatError(f"{path} has column {row[0]} of type {kind}; expected text. {why}")
    return columns


def _by_lower_name(name: str, path: Path, header: Sequence[str]) -> dict[str, str]:
    columns = {column.strip().lower(): column for column in header}
    times = Counter(column.strip().lower() for column in header)
    twice = [column for column in (*REQUIRED[name], *OPTIONAL) if times[column] > 1]
    if twice:
        raise HilatError(
            f"{path} names {', '.join(twice)} twice in its header; expected each column once. "
            "Use MIMIC-III v1.4's own file"
        )
    return columns


def _is_html(start: bytes) -> bool:
    return start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<")


def _sql_path(path: Path) -> str:
    # DuckDB globs: a folder named "data[1]" must mean itself.
    return _quoted(re.sub(r"([\[*?])", r"[\1]", str(path)))


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _reason(error: Exception, what: Path | str) -> str:
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
    return f"{what} cannot be read{where} ({type(error).__name__}); expected a table of MIMIC-III v1.4. {again}"

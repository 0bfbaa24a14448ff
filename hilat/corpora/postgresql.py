"""PostgreSQL as a source: MIMIC as its official scripts restore it, read table by table in bounded memory.

Each table is read with COPY ... TO STDOUT as CSV, a stream that goes through the same reader as a downloaded file, so that a database
and a download give the same corpus. All tables are read in one read-only transaction. What libpq says of a failed
connection is not repeated: it may hold parts of the password.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from hilat.admissions import HilatError
from hilat.corpora.mimic_tables import Readable, Release, Table, by_lower_name, checked_table, not_text

if TYPE_CHECKING:
    import psycopg

_TEXT_TYPES = ("text", "character varying", "character")
_CODE_COLUMNS = ("icd9_code", "icd_code", "text")
# user and password are not captured; anything that does not fit wholly is not shown at all.
_PLAIN_URL = re.compile(r"postgres(?:ql)?://(?:[^@/?#]*@)?([\w.-]*(?::\d+)?)(?:/([\w-]*))?(?:\?[^@]*)?")
_CAUSES: tuple[tuple[str, str], ...] = (
    ("password authentication failed", "the server refuses the user or the password"),
    ("no password supplied", "the server asks for a password; set PGPASSWORD or write it in ~/.pgpass"),
    ("could not translate host name", "there is no such host"),
    ("failed to resolve host", "there is no such host"),
    ("connection refused", "nothing listens there"),
    ("no such file or directory", "no server listens on that socket"),
    ("timeout expired", "the server does not answer"),
    ('" does not exist', "the server has no such database or user"),
)


@contextmanager
def database_tables(url: str, release: Release, schemas: Mapping[str, str] | None = None) -> Iterator[dict[str, Table]]:
    """The tables of a release in a PostgreSQL database, open while the block lasts.

    Arguments:
        url: postgresql://user@host:port/database. A password is better kept in PGPASSWORD or ~/.pgpass than in it, since
            a command line is seen by others; it is written nowhere.
        schemas: schema by table, where they differ from the official scripts' (mimiciii; mimiciv_hosp and mimiciv_note).

    Raises:
        HilatError: psycopg is not installed, no connection, a table or column missing, or a column of the wrong type.
    """
    shown = shown_url(url)
    with _connection(url, shown) as connection:
        places = {**release.schemas, **(schemas or {})}
        yield {name: _table(connection, release, name, places[name], shown) for name in release.required}


def shown_url(url: str) -> str:
    """What may be told of a database's address: host and database, never user or password.

    Raises:
        HilatError: not an address of this kind.
    """
    if not re.match(r"postgres(ql)?://", url):
        raise HilatError("--source is no address of a database; expected postgresql://user@host/database. Correct it")
    found = _PLAIN_URL.fullmatch(url)
    return f"postgresql://{found[1]}/{found[2] or ''}" if found else "the database"


@contextmanager
def _connection(url: str, shown: str) -> Iterator[psycopg.Connection[Any]]:
    try:
        import psycopg
    except ImportError:
        raise HilatError(
            "reading from PostgreSQL needs psycopg, which is not installed; expected psycopg 3. "
            "Install it: pip install 'hilat[postgres]'"
        ) from None
    connection = None
    cause = ""
    try:
        connection = psycopg.connect(url, options="-c DateStyle=ISO", client_encoding="UTF8")
    except (psycopg.Error, UnicodeError, ValueError) as error:
        said = str(error).lower()
        cause = next((told for sign, told in _CAUSES if sign in said), "the address or the server is not as expected")
    if connection is None:  # raised out here, so that the error of libpq hangs on it nowhere
        raise HilatError(f"no connection to {shown}: {cause}; expected postgresql://user@host/database. Check it")
    with connection:
        connection.read_only = True
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        yield connection


def _table(connection: psycopg.Connection[Any], release: Release, name: str, schema: str, shown: str) -> Table:
    where = f"{schema}.{name.lower()}"
    rows = connection.execute(
        "SELECT column_name, data_type FROM information_schema.columns "
        "WHERE table_schema = %s AND table_name = %s ORDER BY ordinal_position",
        (schema, name.lower()),
    ).fetchall()
    if not rows:
        option = "--schema" if len(set(release.schemas.values())) == 1 else "--hosp-schema and --note-schema"
        raise HilatError(
            f"{shown} has no table {where} that this user may read; expected {release.name} as its official scripts "
            f"restore it. Load the table, or pass {option}"
        )
    for column, kind in rows:
        if column.lower() in _CODE_COLUMNS and kind not in _TEXT_TYPES:
            raise HilatError(
                f"{where} of {shown} has column {column} of type {kind}; expected text. {not_text(column)}Load the table again"
            )
    columns = by_lower_name([column for column, _ in rows])
    wanted = [columns[column] for column in dict.fromkeys(release.wanted(name)) if column in columns]
    opened = partial(_copied, connection, (schema, name.lower()), wanted)
    return checked_table(Table(name, release, f"{where} of {shown}", where, columns, opened), list(columns.values()))


@contextmanager
def _copied(connection: psycopg.Connection[Any], table: tuple[str, str], columns: list[str]) -> Iterator[Readable]:
    from psycopg import sql

    query = sql.SQL("COPY (SELECT {} FROM {}) TO STDOUT (FORMAT csv, HEADER true, ENCODING 'UTF8')").format(
        sql.SQL(", ").join(map(sql.Identifier, columns)), sql.Identifier(*table)
    )
    with _told_as_broken(), connection.cursor() as cursor, cursor.copy(query) as copy:
        yield _Blocks(copy)


@contextmanager
def _told_as_broken() -> Iterator[None]:
    """Turns an error of the database into an OSError that quotes nothing of it."""
    import psycopg

    try:
        yield
    except psycopg.Error:
        raise OSError("the database broke off") from None


class _Blocks:
    """The rows of a COPY, which come one at a time, as a stream of blocks."""

    def __init__(self, copy: psycopg.Copy) -> None:
        self.copy = copy
        self.rest = b""

    def read(self, size: int, /) -> bytes:
        parts, length = [self.rest], len(self.rest)
        while length < size:
            with _told_as_broken():
                row = bytes(self.copy.read())
            if not row:
                break
            parts.append(row)
            length += len(row)
        block = b"".join(parts)
        self.rest = block[size:]
        return block[:size]

"""Discharge summaries of MIMIC-III: staged from NOTEEVENTS in one streaming pass, joined per admission."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import duckdb
import pyarrow as pa

from hilat.admissions import HilatError, plain_text
from hilat.corpora.mimic3_tables import TableFile, column_sql, id_sql, rows_of, text_sql, time_sql, told_plainly

# A character that is neither space nor control, in Unicode's sense: at least as strict as Python's str.strip.
_HAS_TEXT = "regexp_matches(text, '[^\\s\\p{Z}\\p{C}]')"
_READING_ORDER = (
    "hadm_number, hadm_id, is_report DESC, charttime ASC NULLS LAST, chartdate ASC NULLS LAST, row_number, row_id"
)
_STAGED = "the staged discharge summaries"
_SLICE = 4096  # texts in memory at a time, some 50 MB


@dataclass(frozen=True, slots=True)
class JoinedNote:
    """The discharge summary of one admission with its addenda.

    notes: texts joined. identical: texts left out because an earlier one says the same. changed: texts in which line
        ends became LF or NUL was removed.
    """

    hadm_id: str
    text: str
    notes: int
    identical: int
    changed: int


def stage_notes(connection: duckdb.DuckDBPyConnection, table: TableFile) -> dict[str, int]:
    """Copy the discharge summaries into the database's table `notes`, and return the counts of rows.

    NOTEEVENTS is read once, as a stream. Of rows that are not used only the row id and the reason stay.

    Returns:
        rows; other_categories; discharge_summaries; of these dropped_error (iserror = 1), then dropped_without_hadm_id,
        then dropped_blank; used; unreadable_times (a chartdate or charttime that is no time, in used rows).

    Raises:
        HilatError: a damaged file, no rows (as in the open demo), a row id that is absent or comes twice, no usable
            discharge summary, or an admission of two subjects.
    """
    with rows_of(connection, table) as source:
        connection.execute(
            f"""
            CREATE TABLE notes AS
            WITH named AS (
                SELECT {id_sql(table, "row_id")} AS row_id, {id_sql(table, "subject_id")} AS subject_id,
                    {id_sql(table, "hadm_id")} AS hadm_id,
                    {text_sql(table, "charttime")} AS charttime_text, {time_sql(table, "charttime")} AS charttime,
                    {text_sql(table, "chartdate")} AS chartdate_text, {time_sql(table, "chartdate")} AS chartdate,
                    lower({text_sql(table, "category")}) IS NOT DISTINCT FROM 'discharge summary' AS is_summary,
                    lower({text_sql(table, "description")}) IS NOT DISTINCT FROM 'report' AS is_report,
                    coalesce(lower({text_sql(table, "iserror")}) IN ('1', '1.0', 'true'), false) AS is_error,
                    {column_sql(table, "text")} AS text
                FROM {source}
            ), judged AS (
                SELECT *, CASE WHEN NOT is_summary THEN 'other_categories' WHEN is_error THEN 'dropped_error'
                    WHEN hadm_id IS NULL THEN 'dropped_without_hadm_id'
                    WHEN text IS NULL OR NOT {_HAS_TEXT} THEN 'dropped_blank' ELSE 'used' END AS fate
                FROM named
            )
            SELECT row_id, TRY_CAST(row_id AS BIGINT) AS row_number, subject_id, hadm_id,
                TRY_CAST(hadm_id AS BIGINT) AS hadm_number, charttime, chartdate, is_report, fate,
                (charttime IS NULL AND charttime_text IS NOT NULL)
                    OR (chartdate IS NULL AND chartdate_text IS NOT NULL) AS unreadable_time,
                CASE WHEN fate = 'used' THEN text END AS text
            FROM judged
            """
        )
    with told_plainly(table.path):
        fates = dict(connection.execute("SELECT fate, count(*) FROM notes GROUP BY fate").fetchall())
    _check_notes(connection, table.path, fates)
    reasons = ("dropped_error", "dropped_without_hadm_id", "dropped_blank", "used")
    unreadable = _one(connection, "SELECT count(*) FROM notes WHERE fate = 'used' AND unreadable_time")
    return {
        "rows": sum(fates.values()),
        "other_categories": fates.get("other_categories", 0),
        "discharge_summaries": sum(fates.get(reason, 0) for reason in reasons),
        **{reason: fates.get(reason, 0) for reason in reasons},
        "unreadable_times": unreadable,
    }


def noted_admissions(connection: duckdb.DuckDBPyConnection) -> dict[str, str]:
    """Subject by admission ("" where none is given) of all admissions with a usable summary, by ascending hadm_id."""
    rows = connection.execute(
        "SELECT hadm_id, coalesce(min(subject_id), '') FROM notes WHERE fate = 'used' "
        "GROUP BY hadm_number, hadm_id ORDER BY hadm_number, hadm_id"
    ).fetchall()
    return dict(rows)


def joined_notes(connection: duckdb.DuckDBPyConnection, hadm_ids: Iterable[str]) -> Iterator[JoinedNote]:
    """The joined notes of these admissions, by ascending hadm_id, a batch in memory at a time.

    Order within an admission: Report first, then the rest; within each by charttime, then chartdate, then row id, those
    without a time last.
    """
    with told_plainly(_STAGED):
        chosen = pa.table({"hadm_id": pa.array(list(hadm_ids), pa.string())})
        connection.register("chosen_rows", chosen)
        connection.execute("CREATE OR REPLACE TEMP TABLE chosen AS SELECT hadm_id FROM chosen_rows")
        connection.unregister("chosen_rows")
    for hadm_id, rows in groupby(_ordered_texts(connection), key=lambda row: row[0]):
        yield join_texts(hadm_id, [text for _, text in rows])


def join_texts(hadm_id: str, texts: list[str]) -> JoinedNote:
    """Texts in reading order as one: each once, one blank line between them, nothing else touched.

    Two texts are identical when they are after `plain_text` and without the blanks around them.
    """
    kept: dict[str, str] = {}
    for text in texts:
        plain = plain_text(text)
        kept.setdefault(plain.strip(), plain)
    parts = list(kept.values())
    # Blank lines at a seam would make the gap wider than one line; the outer ends of the note stay as written.
    parts = [part.rstrip() if n < len(parts) - 1 else part for n, part in enumerate(parts)]
    parts = [part.lstrip("\n") if n > 0 else part for n, part in enumerate(parts)]
    changed = sum(plain_text(text) != text for text in texts)
    return JoinedNote(hadm_id, "\n\n".join(parts), len(parts), len(texts) - len(parts), changed)


def _ordered_texts(connection: duckdb.DuckDBPyConnection) -> Iterator[tuple[str, str]]:
    # Sorting the texts themselves does not fit a small memory limit. The order is found without them, and they are
    # fetched in slices of it.
    with told_plainly(_STAGED):
        order = connection.execute(
            f"SELECT rowid, hadm_id FROM notes SEMI JOIN chosen USING (hadm_id) WHERE fate = 'used' ORDER BY {_READING_ORDER}"
        ).fetchall()
    for start in range(0, len(order), _SLICE):
        part = order[start : start + _SLICE]
        with told_plainly(_STAGED):
            wanted = [number for number, _ in part]
            text_of = dict(
                connection.execute(
                    "SELECT rowid, text FROM notes WHERE rowid IN (SELECT unnest(?))", [wanted]
                ).fetchall()
            )
        for number, hadm_id in part:
            yield hadm_id, text_of.pop(number)


def _check_notes(connection: duckdb.DuckDBPyConnection, path: Path, fates: dict[str, int]) -> None:
    if not fates:
        raise HilatError(
            f"{path} holds a header and no row; expected discharge summaries. The open MIMIC-III demo comes without "
            "notes: use the full MIMIC-III v1.4, which needs a PhysioNet account"
        )
    unnumbered = _one(connection, "SELECT count(*) FROM notes WHERE row_id IS NULL")
    if unnumbered:
        raise HilatError(f"{path} has {unnumbered} rows without row_id; expected one each. Download it again")
    twice = connection.execute(
        "SELECT row_id FROM notes GROUP BY row_id HAVING count(*) > 1 ORDER BY min(row_number), row_id"
    ).fetchall()
    if twice:
        some = ", ".join(row_id for (row_id,) in twice[:5])
        raise HilatError(
            f"{path} has {len(twice)} row ids that come twice or more ({some}); expected each once. "
            "Was a file joined to itself? Download it again"
        )
    if not fates.get("used"):
        raise HilatError(
            f"{path} has {sum(fates.values())} rows and no usable discharge summary; expected rows with CATEGORY "
            "'Discharge summary', a HADM_ID and ISERROR not 1. Use MIMIC-III v1.4's own file"
        )
    shared = connection.execute(
        "SELECT hadm_id FROM notes WHERE fate = 'used' GROUP BY hadm_id HAVING count(DISTINCT subject_id) > 1"
    ).fetchall()
    if shared:
        raise HilatError(
            f"{path} gives {len(shared)} admissions to two subjects ({', '.join(row[0] for row in shared[:5])}); "
            "expected one subject each. Download it again"
        )


def _one(connection: duckdb.DuckDBPyConnection, sql: str) -> int:
    row = connection.execute(sql).fetchone()
    return int(row[0]) if row else 0

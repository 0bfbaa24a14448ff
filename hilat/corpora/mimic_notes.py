"""Notes of MIMIC: staged from one table in one streaming pass, joined per admission with their borders kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import duckdb
import pyarrow as pa

from hilat.admissions import HilatError, NoteSpan, plain_text
from hilat.corpora.mimic_tables import Table, column_sql, id_sql, quoted, rows_of, text_sql, time_sql, told_plainly

DISCHARGE = "Discharge summary"
# A character that is neither space nor control, in Unicode's sense: at least as strict as Python's str.strip.
_HAS_TEXT = "regexp_matches(text, '[^\\s\\p{Z}\\p{C}]')"
_READING_ORDER = (
    "hadm_number, hadm_id, rank, first_time ASC NULLS LAST, second_time ASC NULLS LAST, note_number, note_id"
)
_STAGED = "the staged notes"
_SLICE = 4096  # texts in memory at a time, some 50 MB
_SEAM = "\n\n"


@dataclass(frozen=True, slots=True)
class NoteText:
    """One note as the source holds it."""

    note_id: str
    category: str
    description: str
    text: str


@dataclass(frozen=True, slots=True)
class JoinedNote:
    """The notes of one admission as one text.

    notes: where each of them lies. identical: texts left out because an earlier one says the same. changed: texts in which
        line ends became LF or NUL was removed.
    """

    hadm_id: str
    text: str
    notes: tuple[NoteSpan, ...]
    identical: int
    changed: int


def stage_noteevents(
    connection: duckdb.DuckDBPyConnection, table: Table, categories: Sequence[str] = (DISCHARGE,)
) -> dict[str, int]:
    """Copy the notes of these categories into the database's table `notes`, and return the counts of rows.

    NOTEEVENTS is read once, as a stream. Of rows that are not used only the row id and the reason stay.

    Arguments:
        categories: in the order in which they are joined; within each, reports come before the rest. Only admissions with
            a note of the first are kept. Upper or lower case.

    Returns:
        rows; other_categories; considered; of these dropped_error (iserror = 1), then dropped_without_hadm_id,
        then dropped_blank; used; unreadable_times (a chartdate or charttime that is no time, in used rows).

    Raises:
        HilatError: a damaged file, no rows (as in the open demo), a row id that is absent or comes twice, no usable
            note of the first category, or an admission of two subjects.
    """
    position = f"list_position([{', '.join(quoted(name.strip().lower()) for name in categories)}], "
    position += f"lower({text_sql(table, 'category')}))"
    is_report = f"lower({text_sql(table, 'description')}) IS NOT DISTINCT FROM 'report'"
    _stage(
        connection,
        table,
        f"""
        SELECT {id_sql(table, "row_id")} AS note_id, {id_sql(table, "row_id")} AS note_order,
            {id_sql(table, "subject_id")} AS subject_id, {id_sql(table, "hadm_id")} AS hadm_id,
            {text_sql(table, "charttime")} AS first_text, {time_sql(table, "charttime")} AS first_time,
            {text_sql(table, "chartdate")} AS second_text, {time_sql(table, "chartdate")} AS second_time,
            {text_sql(table, "category")} AS category, {text_sql(table, "description")} AS description,
            2 * {position} + CAST(NOT {is_report} AS INTEGER) AS rank,
            coalesce(lower({text_sql(table, "iserror")}) IN ('1', '1.0', 'true'), false) AS is_error,
            {column_sql(table, "text")} AS text
        FROM source
        """,
    )
    return _counted(
        connection,
        table,
        "expected discharge summaries. The open MIMIC-III demo comes without notes: use the full MIMIC-III v1.4, which "
        "needs a PhysioNet account",
        f"expected rows with CATEGORY {categories[0]!r}, a HADM_ID and ISERROR not 1",
    )


def stage_discharge(connection: duckdb.DuckDBPyConnection, table: Table) -> dict[str, int]:
    """The same for MIMIC-IV-Note's `discharge`: summaries (note_type DS) and after them addenda (AD), by charttime.

    dropped_error is always 0: the table has no such mark.
    """
    position = f"list_position(['ds', 'ad'], lower({text_sql(table, 'note_type')}))"
    _stage(
        connection,
        table,
        f"""
        SELECT {text_sql(table, "note_id")} AS note_id, {id_sql(table, "note_seq")} AS note_order,
            {id_sql(table, "subject_id")} AS subject_id, {id_sql(table, "hadm_id")} AS hadm_id,
            {text_sql(table, "charttime")} AS first_text, {time_sql(table, "charttime")} AS first_time,
            {text_sql(table, "storetime")} AS second_text, {time_sql(table, "storetime")} AS second_time,
            '{DISCHARGE}' AS category, CASE WHEN {position} = 1 THEN 'Report' ELSE 'Addendum' END AS description,
            {position} + 1 AS rank, false AS is_error, {column_sql(table, "text")} AS text
        FROM source
        """,
    )
    return _counted(
        connection,
        table,
        "expected discharge summaries. Download MIMIC-IV-Note, which needs a PhysioNet account",
        "expected rows of note_type DS with a hadm_id",
    )


def noted_admissions(connection: duckdb.DuckDBPyConnection) -> dict[str, str]:
    """Subject by admission ("" where none is given) of all admissions with a usable note of the first category.

    By ascending hadm_id.
    """
    rows = connection.execute(
        "SELECT hadm_id, coalesce(min(subject_id), '') FROM notes WHERE fate = 'used' "
        "GROUP BY hadm_number, hadm_id HAVING min(rank) <= 3 ORDER BY hadm_number, hadm_id"
    ).fetchall()
    return dict(rows)


def joined_notes(connection: duckdb.DuckDBPyConnection, hadm_ids: Iterable[str]) -> Iterator[JoinedNote]:
    """The joined notes of these admissions, by ascending hadm_id, a batch in memory at a time.

    Order within an admission: by category, Report first, then the rest; within each by charttime, then chartdate
    (MIMIC-IV: storetime), then row id (MIMIC-IV: note_seq), those without a time last.
    """
    with told_plainly(_STAGED):
        chosen = pa.table({"hadm_id": pa.array(list(hadm_ids), pa.string())})
        connection.register("chosen_rows", chosen)
        connection.execute("CREATE OR REPLACE TEMP TABLE chosen AS SELECT hadm_id FROM chosen_rows")
        connection.unregister("chosen_rows")
    for hadm_id, rows in groupby(_ordered_texts(connection), key=lambda row: row[0]):
        yield join_texts(hadm_id, [note for _, note in rows])


def join_texts(hadm_id: str, notes: Sequence[NoteText], *, each_once: bool = True) -> JoinedNote:
    """Notes in reading order as one text: one blank line between them, nothing else touched, their borders kept.

    Arguments:
        each_once: leave out texts that are identical to an earlier one after `plain_text` and without the blanks around them.
    """
    kept: dict[object, tuple[NoteText, str]] = {}
    for n, note in enumerate(notes):
        plain = plain_text(note.text)
        kept.setdefault(plain.strip() if each_once else n, (note, plain))
    parts: list[str] = []
    spans: list[NoteSpan] = []
    start = 0
    for n, (note, plain) in enumerate(kept.values()):
        # Blank lines at a seam would make the gap wider than one line; the outer ends of the text stay as written.
        part = plain.rstrip() if n < len(kept) - 1 else plain
        skipped = len(part) - len(part.lstrip("\n")) if n > 0 else 0
        parts.append(part[skipped:])
        end = start + len(parts[-1])
        spans.append(NoteSpan(start, end, note.note_id, note.category, note.description, skipped))
        start = end + len(_SEAM)
    changed = sum(plain_text(note.text) != note.text for note in notes)
    return JoinedNote(hadm_id, _SEAM.join(parts), tuple(spans), len(notes) - len(kept), changed)


def _stage(connection: duckdb.DuckDBPyConnection, table: Table, named: str) -> None:
    with rows_of(connection, table) as source:
        connection.execute(
            f"""
            CREATE TABLE notes AS
            WITH source AS (SELECT * FROM {source}),
            named AS ({named}),
            judged AS (
                SELECT *, CASE WHEN rank IS NULL THEN 'other_categories' WHEN is_error THEN 'dropped_error'
                    WHEN hadm_id IS NULL THEN 'dropped_without_hadm_id'
                    WHEN text IS NULL OR NOT {_HAS_TEXT} THEN 'dropped_blank' ELSE 'used' END AS fate
                FROM named
            )
            SELECT note_id, TRY_CAST(note_order AS BIGINT) AS note_number, subject_id, hadm_id,
                TRY_CAST(hadm_id AS BIGINT) AS hadm_number, first_time, second_time, rank, category, description, fate,
                (first_time IS NULL AND first_text IS NOT NULL)
                    OR (second_time IS NULL AND second_text IS NOT NULL) AS unreadable_time,
                CASE WHEN fate = 'used' THEN text END AS text
            FROM judged
            """
        )


def _counted(
    connection: duckdb.DuckDBPyConnection, table: Table, where_empty: str, where_unusable: str
) -> dict[str, int]:
    with told_plainly(table.place):
        fates = dict(connection.execute("SELECT fate, count(*) FROM notes GROUP BY fate").fetchall())
    if not fates:
        raise HilatError(f"{table.place} holds a header and no row; {where_empty}")
    _check_notes(connection, table)
    if not _one(connection, "SELECT count(*) FROM notes WHERE fate = 'used' AND rank <= 3"):
        raise HilatError(
            f"{table.place} has {sum(fates.values())} rows and no usable discharge summary; {where_unusable}. "
            "Use the release's own file"
        )
    reasons = ("dropped_error", "dropped_without_hadm_id", "dropped_blank", "used")
    unreadable = _one(connection, "SELECT count(*) FROM notes WHERE fate = 'used' AND unreadable_time")
    return {
        "rows": sum(fates.values()),
        "other_categories": fates.get("other_categories", 0),
        "considered": sum(fates.get(reason, 0) for reason in reasons),
        **{reason: fates.get(reason, 0) for reason in reasons},
        "unreadable_times": unreadable,
    }


def _ordered_texts(connection: duckdb.DuckDBPyConnection) -> Iterator[tuple[str, NoteText]]:
    # Sorting the texts themselves does not fit a small memory limit. The order is found without them, and they are
    # fetched in slices of it.
    with told_plainly(_STAGED):
        order = connection.execute(
            f"SELECT rowid, hadm_id FROM notes SEMI JOIN chosen USING (hadm_id) WHERE fate = 'used' ORDER BY {_READING_ORDER}"
        ).fetchall()
    for start in range(0, len(order), _SLICE):
        part = order[start : start + _SLICE]
        with told_plainly(_STAGED):
            rows = connection.execute(
                "SELECT rowid, note_id, coalesce(category, ''), coalesce(description, ''), text FROM notes "
                "WHERE rowid IN (SELECT unnest(?))",
                [[number for number, _ in part]],
            ).fetchall()
        note_of = {number: NoteText(*rest) for number, *rest in rows}
        del rows
        for number, hadm_id in part:
            yield hadm_id, note_of.pop(number)


def _check_notes(connection: duckdb.DuckDBPyConnection, table: Table) -> None:
    id_name = table.release.wanted(table.name)[0]
    unnumbered = _one(connection, "SELECT count(*) FROM notes WHERE note_id IS NULL")
    if unnumbered:
        raise HilatError(f"{table.place} has {unnumbered} rows without {id_name}; expected one each. Download it again")
    twice = connection.execute(
        "SELECT note_id FROM notes GROUP BY note_id HAVING count(*) > 1 ORDER BY min(note_number), note_id"
    ).fetchall()
    if twice:
        some = ", ".join(note_id for (note_id,) in twice[:5])
        raise HilatError(
            f"{table.place} has {len(twice)} {id_name.replace('_', ' ')}s that come twice or more ({some}); expected each "
            "once. Was a file joined to itself? Download it again"
        )
    shared = connection.execute(
        "SELECT hadm_id FROM notes WHERE fate = 'used' GROUP BY hadm_id HAVING count(DISTINCT subject_id) > 1"
    ).fetchall()
    if shared:
        raise HilatError(
            f"{table.place} gives {len(shared)} admissions to two subjects ({', '.join(row[0] for row in shared[:5])}); "
            "expected one subject each. Download it again"
        )


def _one(connection: duckdb.DuckDBPyConnection, sql: str) -> int:
    row = connection.execute(sql).fetchone()
    return int(row[0]) if row else 0

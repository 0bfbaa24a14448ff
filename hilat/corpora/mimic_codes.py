"""ICD codes of MIMIC: read as text, dotted by kind, gathered per admission, and chosen as a label set.

A corpus holds one version of the ICD. Rows of another version are counted, and an admission that has any is left out: codes of
two versions are never mixed, and half of an admission's codes are not its codes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Literal

import duckdb

from hilat.admissions import CodeBook, CodeKind, HilatError
from hilat.codes import add_dot
from hilat.corpora.labelsets import PUBLISHED, published_label_set, top_k
from hilat.corpora.mimic_tables import Table, id_sql, rows_of, text_sql, told_plainly

KINDS: tuple[CodeKind, ...] = ("diagnosis", "procedure")
IcdVersion = Literal[9, 10]
_CODE_TABLES: Mapping[CodeKind, str] = {"diagnosis": "DIAGNOSES_ICD", "procedure": "PROCEDURES_ICD"}
_TITLE_TABLES: Mapping[CodeKind, str] = {"diagnosis": "D_ICD_DIAGNOSES", "procedure": "D_ICD_PROCEDURES"}
SYSTEMS: Mapping[IcdVersion, str] = {9: "ICD-9-CM", 10: "ICD-10-CM/PCS"}
_USUAL_FORM: Mapping[IcdVersion, Mapping[CodeKind, re.Pattern[str]]] = {
    9: {"diagnosis": re.compile(r"(\d{3}|V\d{2})\d{0,2}|E\d{3}\d?"), "procedure": re.compile(r"\d{2}\d{0,2}")},
    10: {
        "diagnosis": re.compile(r"[A-Z]\d[0-9A-Z][0-9A-Z]{0,4}"),
        "procedure": re.compile(r"[0-9A-HJ-NP-Z]{7}"),  # no I and no O, which would look like 1 and 0
    },
}
_DOTTED: Mapping[IcdVersion, re.Pattern[str]] = {
    9: re.compile(r"((\d{2,3}|V\d{2})(\.\d{1,2})?|E\d{3}(\.\d)?)"),
    10: re.compile(r"[A-Z]\d[0-9A-Z](\.[0-9A-Z]{1,4})?|[0-9A-HJ-NP-Z]{7}"),
}
_ROWS = 10_000  # code rows in memory at a time
_STAGED = "the staged codes"


@dataclass(frozen=True, slots=True)
class CodedAdmissions:
    """What the coders gave, in one version of the ICD.

    codes: dotted codes by admission; diagnoses by seq_num, then procedures by seq_num. repeats: by admission, the codes that
    stand on more than one row (a procedure done twice), with the number of further rows. kinds, titles: by dotted code,
    title "" where D_ICD has none. counts: rows read, left out and odd, by kind. other_version: admissions with rows of
    another version; mixed: those of them that have rows of this one too, which are left out of `codes`.
    """

    version: IcdVersion
    codes: Mapping[str, tuple[str, ...]]
    repeats: Mapping[str, Mapping[str, int]]
    kinds: Mapping[str, CodeKind]
    titles: Mapping[str, str]
    counts: Mapping[str, Mapping[str, int]]
    other_version: frozenset[str] = frozenset()
    mixed: frozenset[str] = frozenset()

    def rows(self, hadm_id: str) -> Counter[str]:
        """On how many rows of an admission each of its codes stands."""
        return Counter(self.codes[hadm_id]) + Counter(self.repeats.get(hadm_id, {}))

    def book(self, codes: Sequence[str]) -> CodeBook:
        """A code book of these dotted codes in this order.

        A code that neither the data nor D_ICD knows has the title "", and its kind follows from its form.
        """
        kinds = tuple(self.kinds.get(code) or _kind_of(code, self.version) for code in codes)
        titles = tuple(self.titles.get(code, "") for code in codes)
        return CodeBook(tuple(codes), titles, kinds, SYSTEMS[self.version])


def read_codes(
    connection: duckdb.DuckDBPyConnection, tables: Mapping[str, Table], version: IcdVersion = 9
) -> CodedAdmissions:
    """The codes of all admissions with their titles.

    Left out and counted per kind: rows of another version, rows without a code, rows without hadm_id, a code that an
    admission has already. Kept and counted: rows whose code has not the form of a code of its kind, and codes without
    a title.

    Raises:
        HilatError: a damaged or empty table, row ids that come twice, a version that is neither 9 nor 10, codes with a
            dot, codes that have lost their zeros, or a dotted string that is both a diagnosis and a procedure.
    """
    codes: dict[str, tuple[str, ...]] = {}
    repeats: dict[str, dict[str, int]] = {}
    kinds: dict[str, CodeKind] = {}
    titles: dict[CodeKind, dict[str, str]] = {}
    counts: dict[str, dict[str, int]] = {}
    other: set[str] = set()
    for kind in KINDS:
        table = tables[_CODE_TABLES[kind]]
        undotted_titles = _titles(connection, tables[_TITLE_TABLES[kind]], version)
        titles[kind] = {add_dot(code, kind, version): title for code, title in undotted_titles.items()}
        of_other = _stage_rows(connection, table, version, other)
        _check_codes(table, _unique_codes(connection), undotted_titles, _USUAL_FORM[version][kind])
        dotted, counts[kind] = _gather(_staged_rows(connection), kind, version, codes, repeats)
        if _versioned(table):
            counts[kind] |= {"of_other_version": of_other}
        both = sorted(code for code in dotted if code in kinds)
        if both:
            raise HilatError(
                f"{table.place} and the table of diagnoses both give {', '.join(both[:5])} once dotted; expected "
                "diagnoses (three characters before the dot) and procedures (two) to differ. Correct the codes"
            )
        kinds.update(dict.fromkeys(dotted, kind))
        counts[kind]["unique_without_title"] = sum(not titles[kind].get(code) for code in dotted)
    mixed = frozenset(hadm_id for hadm_id in other if hadm_id in codes)
    for hadm_id in mixed:
        del codes[hadm_id]
    for kind in KINDS:
        for code in titles[kind]:
            kinds.setdefault(code, kind)
    all_titles = {code: titles[kind].get(code, "") for code, kind in kinds.items()}
    return CodedAdmissions(version, codes, repeats, kinds, all_titles, counts, frozenset(other), mixed)


def _gather(
    rows: Iterable[tuple[str | None, str | None]],
    kind: CodeKind,
    version: IcdVersion,
    codes: dict[str, tuple[str, ...]],
    repeats: dict[str, dict[str, int]],
) -> tuple[set[str], dict[str, int]]:
    """Add the rows' dotted codes to `codes`, admission by admission; the codes met, and the counts."""
    tally = dict.fromkeys(("rows", "without_code", "without_hadm_id", "duplicates", "of_unusual_form"), 0)
    dotted: dict[str, str] = {}
    odd: set[str] = set()
    for hadm_id, group in groupby(rows, key=lambda row: row[0]):
        own = dict.fromkeys(codes.get(hadm_id or "", ()))
        for _, code in group:
            tally["rows"] += 1
            if not code or not hadm_id:
                tally["without_hadm_id" if code else "without_code"] += 1
                continue
            if code not in dotted:
                dotted[code] = add_dot(code, kind, version)
                if not _USUAL_FORM[version][kind].fullmatch(code):
                    odd.add(code)
            tally["of_unusual_form"] += code in odd
            if (full := dotted[code]) in own:
                tally["duplicates"] += 1
                again = repeats.setdefault(hadm_id, {})
                again[full] = again.get(full, 0) + 1
            own[full] = None
        if hadm_id and own:
            codes[hadm_id] = tuple(own)
    tally["unique"] = len(set(dotted.values()))
    return set(dotted.values()), tally


def most_frequent(code_lists: Sequence[Sequence[str]], k: int) -> tuple[str, ...]:
    """The k codes that most admissions have, most frequent first, equals by code.

    Raises:
        HilatError: k below 1, or above the number of codes there are.
    """
    there = len({code for codes in code_lists for code in codes})
    if not 1 <= k <= there:
        raise HilatError(
            f"asked for the {k} most frequent codes of {there} that the {len(code_lists)} counted admissions have; "
            f"expected 1 to {there}. Choose a smaller label set, or count on more admissions"
        )
    return top_k(code_lists, k)


def most_frequent_rows(rows: Sequence[Mapping[str, int]], k: int) -> tuple[str, ...]:
    """The k codes that stand on most rows, repeats within an admission counted, most frequent first, equals by code.

    The label set of LAAT's released preprocessing (Vu et al. 2020) is counted so, which is how it differs from CAML's.

    Raises:
        HilatError: fewer codes than k.
    """
    total: Counter[str] = Counter()
    for one in rows:
        total.update(one)
    if len(total) < k:
        raise HilatError(
            f"asked for the {k} codes on most rows; the {len(rows)} counted admissions have {len(total)}. "
            "Choose a smaller label set, or count on more admissions"
        )
    return tuple(sorted(total, key=lambda code: (-total[code], code))[:k])


def listed_codes(labels: str | Path, version: IcdVersion = 9) -> tuple[str, ...]:
    """The codes of a published list by its name, or of a file with one dotted code per line.

    Raises:
        HilatError: neither a list's name nor a file, a list of another version, or a file that is no list of codes.
    """
    if not Path(labels).is_file():
        if version != 9 and labels in PUBLISHED:
            raise HilatError(
                f"label set {labels!r} is of {SYSTEMS[9]}; expected codes of {SYSTEMS[version]}. Give a number, 'all', or "
                "a file with one code per line"
            )
        return published_label_set(str(labels))
    try:
        lines = Path(labels).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError):
        raise HilatError(f"{labels} cannot be read as text; expected one dotted code per line, in UTF-8") from None
    codes = [line.strip().upper() for line in lines if line.strip()]
    odd = [number for number, code in enumerate(codes, 1) if not _DOTTED[version].fullmatch(code)]
    if not codes or odd or len(set(codes)) != len(codes):
        fault = (
            f"entry {odd[0]} is no dotted {SYSTEMS[version]} code"
            if odd
            else "a code comes twice"
            if codes
            else "it is empty"
        )
        such = "428.0 or 38.93" if version == 9 else "I50.9 or 5A1955Z"
        raise HilatError(f"{labels} is no list of codes: {fault}; expected one such as {such} per line, each once")
    return tuple(codes)


def _kind_of(code: str, version: IcdVersion) -> CodeKind:
    whole = code.split(".")[0]
    return "procedure" if len(whole) == (2 if version == 9 else 7) else "diagnosis"


def _versioned(table: Table) -> bool:
    return "icd_version" in table.release.required[table.name]


def _code_sql(table: Table) -> str:
    return f"upper({text_sql(table, 'icd_code' if _versioned(table) else 'icd9_code')})"


def _version_sql(table: Table) -> str:
    return f"TRY_CAST({id_sql(table, 'icd_version')} AS INTEGER)" if _versioned(table) else "9"


def _stage_rows(connection: duckdb.DuckDBPyConnection, table: Table, version: IcdVersion, other: set[str]) -> int:
    """Put the rows of this version into `code_rows`; the number of rows of the other, whose admissions `other` gets."""
    row_id = id_sql(table, "row_id") if "row_id" in table.columns else "CAST(NULL AS VARCHAR)"
    with rows_of(connection, table) as source:
        connection.execute(
            f"""
            CREATE OR REPLACE TEMP TABLE code_rows AS
            SELECT {id_sql(table, "hadm_id")} AS hadm_id, {_code_sql(table)} AS code, {_version_sql(table)} AS version,
                TRY_CAST({text_sql(table, "seq_num")} AS DOUBLE) AS seq_num, {row_id} AS row_id
            FROM {source}
            """
        )
    with told_plainly(_STAGED):
        by_version = dict(connection.execute("SELECT version, count(*) FROM code_rows GROUP BY version").fetchall())
        twice = connection.execute(
            "SELECT row_id FROM code_rows WHERE row_id IS NOT NULL GROUP BY row_id HAVING count(*) > 1 ORDER BY row_id"
        ).fetchall()
        foreign = connection.execute(
            "SELECT DISTINCT hadm_id FROM code_rows WHERE version <> ? AND hadm_id IS NOT NULL", [version]
        ).fetchall()
        connection.execute("DELETE FROM code_rows WHERE version <> ?", [version])
    if not by_version:
        raise HilatError(
            f"{table.place} holds a header and no row; expected codes. Download {table.release.name} again"
        )
    unknown = sum(rows for number, rows in by_version.items() if number not in SYSTEMS)
    if unknown:
        raise HilatError(
            f"{table.place} has {unknown} rows whose icd_version is neither 9 nor 10; expected one of them. "
            "Use the release's own file"
        )
    if twice:
        raise HilatError(
            f"{table.place} has {len(twice)} row ids that come twice or more ({', '.join(row[0] for row in twice[:5])}); "
            "expected each once. Was a file joined to itself? Download it again"
        )
    other.update(row[0] for row in foreign)
    return sum(rows for number, rows in by_version.items() if number != version)


def _unique_codes(connection: duckdb.DuckDBPyConnection) -> set[str]:
    with told_plainly(_STAGED):
        rows = connection.execute("SELECT DISTINCT code FROM code_rows WHERE code IS NOT NULL").fetchall()
    return {code for (code,) in rows}


def _staged_rows(connection: duckdb.DuckDBPyConnection) -> Iterator[tuple[str | None, str | None]]:
    with told_plainly(_STAGED):
        rows = connection.execute(
            "SELECT hadm_id, code FROM code_rows ORDER BY hadm_id, seq_num NULLS LAST, code, row_id"
        )
        while part := rows.fetchmany(_ROWS):
            yield from part


def _titles(connection: duckdb.DuckDBPyConnection, table: Table, version: IcdVersion) -> dict[str, str]:
    with rows_of(connection, table) as source:
        rows = connection.execute(
            f"SELECT {_code_sql(table)} AS code, max({text_sql(table, 'long_title')}) FROM {source} "
            f"WHERE {_version_sql(table)} = {version} GROUP BY code HAVING code IS NOT NULL ORDER BY code"
        ).fetchall()
    if not rows:
        raise HilatError(
            f"{table.place} holds no code title of {SYSTEMS[version]}; expected some. Download {table.release.name} again"
        )
    return {code: title or "" for code, title in rows}


def _check_codes(table: Table, codes: set[str], title_of: Mapping[str, str], form: re.Pattern[str]) -> None:
    with_dot = sorted(code for code in codes if "." in code)
    if with_dot:
        raise HilatError(
            f"{table.place} has {len(with_dot)} codes with a dot ({', '.join(with_dot[:5])}); expected undotted text as in "
            f"{table.release.name} (99591). A number read as decimal looks so too. Use the release's own file"
        )
    shortened = sorted(
        code
        for code in codes
        if code not in title_of
        and any(form.fullmatch(zeros + code) and zeros + code in title_of for zeros in ("0", "00"))
    )
    # One odd code proves nothing; that no code at all starts with a zero, while some lack one, does.
    if shortened and not any(code.startswith("0") for code in codes):
        raise HilatError(
            f"{table.place} has codes that have lost their leading zeros ({', '.join(shortened[:5])}): it went through a "
            "program that read codes as numbers. Expected text as in the release (0389). Use the release's own file"
        )

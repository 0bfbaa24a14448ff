"""ICD-9-CM codes of MIMIC-III: read as text, dotted by kind, gathered per admission, and chosen as a label set."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb

from hilat.admissions import CodeBook, CodeKind, HilatError
from hilat.codes import add_dot
from hilat.corpora.labelsets import published_label_set, top_k
from hilat.corpora.mimic3_tables import TableFile, id_sql, rows_of, text_sql

KINDS: tuple[CodeKind, ...] = ("diagnosis", "procedure")
_CODE_TABLES: Mapping[CodeKind, str] = {"diagnosis": "DIAGNOSES_ICD", "procedure": "PROCEDURES_ICD"}
_TITLE_TABLES: Mapping[CodeKind, str] = {"diagnosis": "D_ICD_DIAGNOSES", "procedure": "D_ICD_PROCEDURES"}
_USUAL_FORM: Mapping[CodeKind, re.Pattern[str]] = {
    "diagnosis": re.compile(r"(\d{3}|V\d{2})\d{0,2}|E\d{3}\d?"),
    "procedure": re.compile(r"\d{2}\d{0,2}"),
}
_DOTTED = re.compile(r"((\d{2,3}|V\d{2})(\.\d{1,2})?|E\d{3}(\.\d)?)")


@dataclass(frozen=True, slots=True)
class CodedAdmissions:
    """What the coders gave.

    rows: by admission, on how many rows each dotted code stands (a procedure done twice stands on two).
    codes: dotted codes by admission; diagnoses by seq_num, then procedures by seq_num. kinds, titles: by dotted code,
    title "" where D_ICD has none. counts: rows read, left out and odd, by kind.
    """

    codes: Mapping[str, tuple[str, ...]]
    kinds: Mapping[str, CodeKind]
    titles: Mapping[str, str]
    counts: Mapping[str, Mapping[str, int]]
    rows: Mapping[str, Mapping[str, int]]

    def book(self, codes: Sequence[str]) -> CodeBook:
        """A code book of these dotted codes in this order.

        A code that neither the data nor D_ICD knows has the title "", and its kind follows from its form.
        """
        by_form: dict[bool, CodeKind] = {True: "procedure", False: "diagnosis"}
        kinds = (self.kinds.get(code) or by_form[len(code.split(".")[0]) == 2] for code in codes)
        return CodeBook(tuple(codes), tuple(self.titles.get(code, "") for code in codes), tuple(kinds))


def read_codes(connection: duckdb.DuckDBPyConnection, tables: Mapping[str, TableFile]) -> CodedAdmissions:
    """The codes of all admissions with their titles.

    Left out and counted per kind: rows without a code, rows without hadm_id, a code that an admission has already.
    Kept and counted: rows whose code has not the form of an ICD-9-CM code of its kind, and codes without a title.

    Raises:
        HilatError: a damaged or empty table, row ids that come twice, codes with a dot, codes that have lost their
            zeros, or a dotted string that is both a diagnosis and a procedure.
    """
    per_admission: dict[str, dict[str, int]] = {}
    kinds: dict[str, CodeKind] = {}
    titles: dict[CodeKind, dict[str, str]] = {}
    counts: dict[str, dict[str, int]] = {}
    for kind in KINDS:
        table = tables[_CODE_TABLES[kind]]
        undotted_titles = _titles(connection, tables[_TITLE_TABLES[kind]])
        rows = _code_rows(connection, table)
        _check_codes(table, {code for _, code in rows if code}, undotted_titles, _USUAL_FORM[kind])
        titles[kind] = {add_dot(code, kind): title for code, title in undotted_titles.items()}
        dotted, counts[kind] = _gather(rows, kind, per_admission)
        both = sorted(code for code in dotted if code in kinds)
        if both:
            raise HilatError(
                f"{table.path} and the table of diagnoses both give {', '.join(both[:5])} once dotted; expected "
                "diagnoses (three characters before the dot) and procedures (two) to differ. Correct the codes"
            )
        kinds.update(dict.fromkeys(dotted, kind))
        counts[kind]["unique_without_title"] = sum(not titles[kind].get(code) for code in dotted)
    for kind in KINDS:
        for code in titles[kind]:
            kinds.setdefault(code, kind)
    return CodedAdmissions(
        {hadm_id: tuple(codes) for hadm_id, codes in per_admission.items()},
        kinds,
        {code: titles[kind].get(code, "") for code, kind in kinds.items()},
        counts,
        per_admission,
    )


def _gather(
    rows: Sequence[tuple[str | None, str | None]], kind: CodeKind, per_admission: dict[str, dict[str, int]]
) -> tuple[set[str], dict[str, int]]:
    """Add the rows' dotted codes to `per_admission`, which keeps their order; the codes met, and the counts."""
    tally = dict.fromkeys(("rows", "without_code", "without_hadm_id", "duplicates", "of_unusual_form"), 0)
    dotted: dict[str, str] = {}
    for hadm_id, code in rows:
        tally["rows"] += 1
        if not code or not hadm_id:
            tally["without_hadm_id" if code else "without_code"] += 1
            continue
        if code not in dotted:
            dotted[code] = add_dot(code, kind)
        tally["of_unusual_form"] += not _USUAL_FORM[kind].fullmatch(code)
        admission = per_admission.setdefault(hadm_id, {})
        tally["duplicates"] += dotted[code] in admission
        admission[dotted[code]] = admission.get(dotted[code], 0) + 1
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


def listed_codes(labels: str | Path) -> tuple[str, ...]:
    """The codes of a published list by its name, or of a file with one dotted code per line.

    Raises:
        HilatError: neither a list's name nor a file, or a file that is no list of codes.
    """
    if not Path(labels).is_file():
        return published_label_set(str(labels))
    try:
        lines = Path(labels).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError):
        raise HilatError(f"{labels} cannot be read as text; expected one dotted code per line, in UTF-8") from None
    codes = [line.strip().upper() for line in lines if line.strip()]
    odd = [number for number, code in enumerate(codes, 1) if not _DOTTED.fullmatch(code)]
    if not codes or odd or len(set(codes)) != len(codes):
        fault = (
            f"entry {odd[0]} is no dotted ICD-9-CM code" if odd else "a code comes twice" if codes else "it is empty"
        )
        raise HilatError(
            f"{labels} is no list of codes: {fault}; expected one such as 428.0 or 38.93 per line, each once"
        )
    return tuple(codes)


def _code_rows(connection: duckdb.DuckDBPyConnection, table: TableFile) -> list[tuple[str | None, str | None]]:
    row_id = id_sql(table, "row_id") if "row_id" in table.columns else "NULL"
    with rows_of(connection, table) as source:
        rows = connection.execute(
            f"""
            SELECT {id_sql(table, "hadm_id")} AS hadm_id, upper({text_sql(table, "icd9_code")}) AS code, {row_id} AS row_id
            FROM {source}
            ORDER BY TRY_CAST({text_sql(table, "seq_num")} AS DOUBLE) NULLS LAST, code, row_id
            """
        ).fetchall()
    if not rows:
        raise HilatError(f"{table.path} holds a header and no row; expected codes. Download MIMIC-III v1.4 again")
    times = Counter(row[2] for row in rows if row[2] is not None)
    twice = sorted(row_id for row_id, n in times.items() if n > 1)
    if twice:
        raise HilatError(
            f"{table.path} has {len(twice)} row ids that come twice or more ({', '.join(twice[:5])}); "
            "expected each once. Was a file joined to itself? Download it again"
        )
    return [(hadm_id, code) for hadm_id, code, _ in rows]


def _titles(connection: duckdb.DuckDBPyConnection, table: TableFile) -> dict[str, str]:
    with rows_of(connection, table) as source:
        rows = connection.execute(
            f"SELECT upper({text_sql(table, 'icd9_code')}) AS code, max({text_sql(table, 'long_title')}) "
            f"FROM {source} GROUP BY code HAVING code IS NOT NULL ORDER BY code"
        ).fetchall()
    if not rows:
        raise HilatError(f"{table.path} holds a header and no row; expected code titles. Download MIMIC-III v1.4 again")
    return {code: title or "" for code, title in rows}


def _check_codes(table: TableFile, codes: set[str], title_of: Mapping[str, str], form: re.Pattern[str]) -> None:
    with_dot = sorted(code for code in codes if "." in code)
    if with_dot:
        raise HilatError(
            f"{table.path} has {len(with_dot)} codes with a dot ({', '.join(with_dot[:5])}); expected undotted text as in "
            "MIMIC-III v1.4 (99591). A number read as decimal looks so too. Use MIMIC-III's own file"
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
            f"{table.path} has codes that have lost their leading zeros ({', '.join(shortened[:5])}): it went through a "
            "program that read codes as numbers. Expected text as in MIMIC-III v1.4 (0389). Use MIMIC-III's own file"
        )

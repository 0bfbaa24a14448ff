"""Synonyms of codes from a user's files: UMLS MRCONSO.RRF, NLM's ICD-9-CM to SNOMED CT maps, a plain table.

All readers stream and keep only what belongs to the codes asked for. Codes are compared as text, with their dots: without
them a diagnosis and a procedure may be the same string. None of these files is part of the project; UMLS and SNOMED CT
need a licence, which users have or ask for themselves.
"""

from __future__ import annotations

import csv
import gzip
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import IO, Literal

from hilat.admissions import HilatError

Terms = dict[str, tuple[str, ...]]  # code -> terms, in the order of the file
_CUI, _LAT, _SAB, _CODE, _STR, _SUPPRESS = 0, 1, 11, 13, 14, 16  # UMLS Reference Manual, table "MRCONSO.RRF"
_MRCONSO_FIELDS = 18
_SEMANTIC_TAG = re.compile(r"\s*\((?:[a-z/+ -]+)\)\s*$")
_MISSING = frozenset({"", "NULL", "--", "-"})
_REPORT_EVERY = 1 << 24  # bytes between two calls of `progress`


def read_umls(
    path: Path,
    codes: Collection[str],
    vocabularies: Sequence[str] = ("ICD9CM", "ICD10CM", "ICD10PCS"),
    languages: Sequence[str] = ("ENG",),
    progress: Callable[[int], object] | None = None,
) -> Terms:
    """Code -> the strings of the concepts (CUI) that hold the code, of all source vocabularies, from MRCONSO.RRF or .gz.

    vocabularies: where the code itself is looked up (SAB). languages: of the strings (LAT), such as ENG, SPA.
    progress: called with the number of bytes read since its last call. The file is read twice, line by line; suppressed
    strings (SUPPRESS other than N) are left out. Source: UMLS Reference Manual, chapter 3, table of MRCONSO.RRF.

    Raises:
        HilatError: file and row of a line that is not of the 18 fields or not UTF-8; no code found.
    """
    wanted, sources = {code.encode() for code in codes}, {name.encode() for name in vocabularies}
    spoken = {name.encode() for name in languages}
    codes_of: dict[bytes, list[str]] = {}  # CUI -> codes
    for _, fields in _umls_rows(path, progress):
        if fields[_SAB] in sources and fields[_CODE] in wanted:
            found = codes_of.setdefault(fields[_CUI], [])
            if fields[_CODE].decode() not in found:
                found.append(fields[_CODE].decode())
    if not codes_of:
        raise HilatError(
            f"{path} holds none of the {len(wanted)} codes under {', '.join(vocabularies)}; expected dotted codes such as "
            "428.0. Check the vocabularies (SAB) and that the UMLS subset was made with them"
        )
    terms: dict[str, dict[str, None]] = {}
    for number, fields in _umls_rows(path, progress):
        if fields[_CUI] in codes_of and fields[_LAT] in spoken and fields[_SUPPRESS] == b"N":
            try:
                term = fields[_STR].decode("utf-8")
            except UnicodeDecodeError:
                raise HilatError(
                    f"{path}, row {number} is not UTF-8; expected UMLS's own encoding. Take the original"
                ) from None
            for code in codes_of[fields[_CUI]]:
                terms.setdefault(code, {})[term] = None
    return {code: tuple(found) for code, found in terms.items()}


def read_snomed_map(path: Path, codes: Collection[str], encoding: str = "utf-8-sig") -> Terms:
    """Code -> SNOMED CT names from NLM's ICD-9-CM map files (ICD9CM_SNOMED_MAP_1TO1_*.txt and _1TOM_), without their tag.

    Tab-separated with the columns ICD_CODE and SNOMED_FSN (fully specified name, "Essential hypertension (disorder)")
    among others. The concepts of a one-to-many file are narrower or wider than the code: read it knowingly.

    Raises:
        HilatError: missing column or file, short row (file and row), wrong encoding, no code found.
    """
    rows = _table_rows(path, "\t", encoding, ("ICD_CODE", "SNOMED_FSN"), quoting=csv.QUOTE_NONE)
    return _collect(path, ((code, _SEMANTIC_TAG.sub("", term)) for code, term in rows), codes)


def read_term_table(path: Path, codes: Collection[str], encoding: str = "utf-8-sig") -> Terms:
    """Code -> terms from a table with a header and the columns code and term: .csv with commas, .tsv or .txt with tabs.

    Raises:
        HilatError: missing column or file, short row (file and row), wrong encoding, no code found.
    """
    return _collect(path, _table_rows(path, _delimiter(path), encoding, ("code", "term")), codes)


def built_in_abbreviations(codes: Collection[str]) -> Terms:
    """Code -> common clinical abbreviations, of the codes among MIMIC-III's 50 built-in ones (explain/data)."""
    with resources.as_file(resources.files("explain") / "data" / "abbreviations.csv") as path:
        rows = list(_table_rows(path, ",", "utf-8", ("code", "abbreviation")))
    terms: dict[str, list[str]] = {}
    for code, term in rows:
        if code in codes:
            terms.setdefault(code, []).append(term)
    return {code: tuple(found) for code, found in terms.items()}


def _collect(path: Path, rows: Iterator[tuple[str, str]], codes: Collection[str]) -> Terms:
    wanted, terms = set(codes), dict[str, dict[str, None]]()
    for code, term in rows:
        if code in wanted and term not in _MISSING:
            terms.setdefault(code, {})[term] = None
    if not terms:
        raise HilatError(
            f"{path} holds a term for none of the {len(wanted)} codes; expected codes with their dots, such as "
            f"{', '.join(sorted(wanted)[:3])}. Check the code column"
        )
    return {code: tuple(found) for code, found in terms.items()}


def _delimiter(path: Path) -> str:
    names = {".csv": ",", ".tsv": "\t", ".txt": "\t"}
    suffix = Path(path).suffix.lower()
    if suffix not in names:
        raise HilatError(f"{path} ends with {suffix!r}; expected .csv, .tsv or .txt. Rename it")
    return names[suffix]


def _table_rows(
    path: Path, delimiter: str, encoding: str, columns: tuple[str, str], quoting: Literal[0, 3] = csv.QUOTE_MINIMAL
) -> Iterator[tuple[str, str]]:
    number = 0
    try:
        with Path(path).open(encoding=encoding, newline="") as file:
            reader = csv.reader(file, delimiter=delimiter, quoting=quoting, strict=quoting != csv.QUOTE_NONE)
            header = [name.strip() for name in next(reader, [])]
            lacking = [name for name in columns if name not in header]
            if lacking:
                raise HilatError(
                    f"{path} has no column {lacking[0]!r}; found: {', '.join(header[:12]) or 'nothing'}. Expected a header "
                    f"with {' and '.join(columns)}"
                )
            places = [header.index(name) for name in columns]
            number = reader.line_num
            for row in reader:
                number = reader.line_num
                if not any(cell.strip() for cell in row):
                    continue
                if len(row) <= max(places):
                    raise HilatError(
                        f"{path}, row {number} has {len(row)} fields; expected at least {max(places) + 1}. Repair the row"
                    )
                yield row[places[0]].strip(), row[places[1]].strip()
    except OSError as error:
        raise HilatError(
            f"cannot read {path}: {error.strerror}; expected a table of codes and terms. Check the path"
        ) from None
    except UnicodeDecodeError:
        raise HilatError(
            f"{path}, after row {number}, is not {encoding}; expected that encoding. Save it as UTF-8"
        ) from None
    except csv.Error as error:
        raise HilatError(
            f"{path}, row {number + 1} is broken ({error}); expected a well-formed table. Repair it"
        ) from None


def _umls_rows(path: Path, progress: Callable[[int], object] | None) -> Iterator[tuple[int, list[bytes]]]:
    read = 0
    try:
        with _opened(Path(path)) as file:
            for number, line in enumerate(file, start=1):
                fields = line.split(b"|")
                if len(fields) != _MRCONSO_FIELDS + 1:
                    raise HilatError(
                        f"{path}, row {number} has {len(fields) - 1} fields that end with |; MRCONSO.RRF has "
                        f"{_MRCONSO_FIELDS}. Give the MRCONSO.RRF of a full UMLS release"
                    )
                read += len(line)
                if progress is not None and read >= _REPORT_EVERY:
                    progress(read)
                    read = 0
                yield number, fields
    except (OSError, EOFError) as error:
        raise HilatError(
            f"cannot read {path}: {getattr(error, 'strerror', None) or error}; expected MRCONSO.RRF or MRCONSO.RRF.gz. "
            "Check the path and that the download is complete"
        ) from None
    if progress is not None:
        progress(read)


def _opened(path: Path) -> IO[bytes]:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]

"""Titles for the codes of a corpus that comes without: from a table of your own or a code list of CMS."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from hilat.admissions import HilatError
from hilat.corpora.folder import Corpus


def with_titles(corpus: Corpus, file: Path) -> Corpus:
    """The corpus with the titles in the file for those of its codes that have none; codes that the file lacks keep "".

    A code that the file has only in longer forms (T14.90: T1490XA, T1490XD, ...) takes the title of the first of them.

    Raises:
        HilatError: a file that cannot be read, or that has no title for any of the codes.
    """
    known, book = read_titles(file), corpus.code_book
    titles = tuple(title or _title(code, known) for code, title in zip(book.codes, book.titles, strict=True))
    if titles == book.titles:
        raise HilatError(
            f"{file} has {len(known)} titles, none of which is for one of the corpus' {len(book)} codes without a title; "
            f"expected titles of codes such as {', '.join(book.codes[:3])}. Check the coding system"
        )
    return replace(corpus, code_book=replace(book, titles=titles))


def _title(code: str, known: Mapping[str, str]) -> str:
    plain = code.replace(".", "").upper()
    longer = min((other for other in known if other.startswith(plain)), default="")
    return known.get(plain) or known.get(longer, "")


def read_titles(file: Path) -> dict[str, str]:
    """Titles by undotted upper-case code, from a CSV with the columns code and title, or a code list of CMS (icd10cm_codes_*.txt:
    an undotted code, spaces, its title).

    Raises:
        HilatError: no such file, not UTF-8, or neither of the two.
    """
    try:
        lines = Path(file).read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise HilatError(f"{file} does not exist; expected a file of code titles. Check the path") from None
    except (OSError, UnicodeDecodeError):
        raise HilatError(f"{file} cannot be read as text; expected a file of code titles. Write it as UTF-8") from None
    if file.suffix.lower() == ".csv":
        rows = csv.DictReader(lines)
        if not {"code", "title"} <= set(rows.fieldnames or ()):
            raise HilatError(
                f"{file} has the columns {', '.join(rows.fieldnames or ()) or '(none)'}; expected code and title. Rename them"
            )
        pairs = [(row["code"] or "", row["title"] or "") for row in rows]
    else:
        split = [line.split(None, 1) for line in lines if line.strip()]
        if not split or any(len(pair) != 2 for pair in split):
            raise HilatError(
                f"{file} has lines that are not a code, spaces and a title; expected a code list of CMS such as "
                "icd10cm_codes_2018.txt, or a .csv with the columns code and title. Give one of these"
            )
        pairs = [(code, title) for code, title in split]
    return {code.strip().replace(".", "").upper(): title.strip() for code, title in pairs if title.strip()}

"""Forms of ICD codes: dots, categories, chapters, siblings. A code is text: read as a number it loses its zeros."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from hilat.admissions import CodeKind, HilatError

# First and last category of each chapter of the ICD-9-CM diagnoses.
_ICD9_CHAPTERS: tuple[tuple[str, str, str], ...] = (
    ("001", "139", "Infectious and parasitic diseases"),
    ("140", "239", "Neoplasms"),
    ("240", "279", "Endocrine, nutritional and metabolic diseases, and immunity disorders"),
    ("280", "289", "Diseases of the blood and blood-forming organs"),
    ("290", "319", "Mental disorders"),
    ("320", "389", "Diseases of the nervous system and sense organs"),
    ("390", "459", "Diseases of the circulatory system"),
    ("460", "519", "Diseases of the respiratory system"),
    ("520", "579", "Diseases of the digestive system"),
    ("580", "629", "Diseases of the genitourinary system"),
    ("630", "679", "Complications of pregnancy, childbirth, and the puerperium"),
    ("680", "709", "Diseases of the skin and subcutaneous tissue"),
    ("710", "739", "Diseases of the musculoskeletal system and connective tissue"),
    ("740", "759", "Congenital anomalies"),
    ("760", "779", "Certain conditions originating in the perinatal period"),
    ("780", "799", "Symptoms, signs, and ill-defined conditions"),
    ("800", "999", "Injury and poisoning"),
    ("E000", "E999", "External causes of injury and poisoning"),
    ("V01", "V91", "Factors influencing health status and contact with health services"),
)


def add_dot(code: str, kind: CodeKind, version: Literal[9, 10] = 9) -> str:
    """An undotted code with its dot.

    ICD-9-CM: after 3 characters (4 for E codes) in a diagnosis, after 2 in a procedure. ICD-10-CM: after 3, whatever the
    first letter (E11.9 is diabetes there); ICD-10-PCS procedures have no dot.
    """
    text = _text(code)
    if "." in text or (version == 10 and kind == "procedure"):
        return text
    if version == 10:
        return f"{text[:3]}.{text[3:]}" if len(text) > 3 else text
    whole = 2 if kind == "procedure" else 4 if text.startswith("E") else 3
    return f"{text[:whole]}.{text[whole:]}" if len(text) > whole else text


def remove_dot(code: str) -> str:
    """The code without its dot; a diagnosis and a procedure may then be the same string."""
    return _text(code).replace(".", "")


def category(code: str, kind: CodeKind) -> str:
    """What stands before the dot of an ICD-9-CM code: 3 characters (4 for E codes), 2 for a procedure."""
    return add_dot(code, kind).split(".")[0]


def icd9_chapter(code: str) -> str:
    """The chapter title of an ICD-9-CM diagnosis. Raises HilatError for a code outside of all chapters."""
    found = category(code, "diagnosis")
    for first, last, title in _ICD9_CHAPTERS:
        if len(found) == len(first) and first <= found <= last and found[0].isdigit() == first[0].isdigit():
            return title
    raise HilatError(
        f"code {code!r} is in no chapter of the ICD-9-CM diagnoses; expected such as 428.0, V58.61 or E878.1"
    )


def siblings(code: str, kind: CodeKind, codes: Iterable[str]) -> tuple[str, ...]:
    """The other codes that share what ICD-9-CM splits last, in the order given.

    Of diagnoses the category. Of procedures the first three digits, since two of them hold most unlike things together:
    96.71 and 96.72 (ventilation) are siblings, 96.6 (enteral nutrition) is none of theirs.
    """

    def family(one: str) -> str:
        return remove_dot(one)[:3] if kind == "procedure" else category(one, kind)

    mine = family(code)
    return tuple(other for other in codes if other != code and family(other) == mine)


def _text(code: object) -> str:
    if not isinstance(code, str):
        raise HilatError(
            f"a code is a {type(code).__name__}; expected text, since a number has lost its zeros (038.9, 03.31). "
            "Read the code column as text"
        )
    text = code.strip().upper()
    if not text:
        raise HilatError("a code is empty; expected such as 428.0. Drop the row or fill it in")
    return text

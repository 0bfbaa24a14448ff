"""CodiEsp v4 (CLEF eHealth 2020): Spanish clinical cases with ICD-10 codes and the spans of their evidence.

Miranda-Escalada et al. 2020, CC BY 4.0, Zenodo 3837305. Folder layout as released: `train/`, `dev/` (and `test/`), each
with `text_files/`, `text_files_en/` and the tables `<split>D.tsv`, `<split>P.tsv`, `<split>X.tsv`; `background/`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from hilat.admissions import Admission, CodeBook, CodeKind, EvidenceSpan, HilatError, plain_text
from hilat.corpora.folder import Corpus

CITATION = "CodiEsp corpus, Barcelona Supercomputing Center, CC BY 4.0, Zenodo 3837305"
Kinds = Literal["D", "P", "DP"]
Language = Literal["es", "en"]
Granularity = Literal["full", "category"]
_KIND_OF_TABLE: dict[str, CodeKind] = {"D": "diagnosis", "P": "procedure"}
_KIND_OF_WORD = {"DIAGNOSTICO": "D", "PROCEDIMIENTO": "P"}


@dataclass(frozen=True, slots=True)
class CodiespSettings:
    """What to read: diagnosis (D) and/or procedure (P) codes, whole or cut to 3 characters; the top_k most frequent in
    train (ties by code), or all; Spanish, or the English machine translation (which has no spans)."""

    kinds: Kinds = "D"
    top_k: int | None = 50
    granularity: Granularity = "full"
    language: Language = "es"
    splits: tuple[str, ...] = ("train", "dev")

    def __post_init__(self) -> None:
        for name, value, choices in (
            ("kinds", self.kinds, get_args(Kinds)),
            ("granularity", self.granularity, get_args(Granularity)),
            ("language", self.language, get_args(Language)),
        ):
            if value not in choices:
                raise HilatError(f"CodiEsp setting {name} is {value!r}; expected one of {', '.join(choices)}")
        if self.top_k is not None and self.top_k < 1:
            raise HilatError(f"CodiEsp setting top_k is {self.top_k}; expected 1 or more, or none for all codes")


def read_codiesp(folder: Path, settings: CodiespSettings | None = None) -> Corpus:
    """The corpus of a CodiEsp folder; hadm_id is the file's name, subject_id the article it was taken from.

    Codes are written in upper case. Cases without a code of the label set are kept. Zero-length segments of the
    release (four) are dropped and counted. In English, spans are left out: they index the Spanish text.

    Raises:
        HilatError: a folder or table that is missing, a table row that does not fit, a case without text.
    """
    settings = settings or CodiespSettings()
    folder = Path(folder)
    given: dict[str, dict[str, list[tuple[str, CodeKind]]]] = {}
    for split in settings.splits:
        _require(folder, split)
        given[split] = _codes(folder, split, settings)
    book = _book(given, settings)
    counts: Counter[str] = Counter()
    admissions = [
        admission
        for split in settings.splits
        for admission in _split(folder, split, given[split], book, settings, counts)
    ]
    notes = {
        "citation": CITATION,
        "kinds": settings.kinds,
        "granularity": settings.granularity,
        "language": settings.language,
        "top_k": settings.top_k,
        "label_set": f"{len(book)} codes most frequent in train" if settings.top_k else "all codes of the splits read",
        **counts,
    }
    return Corpus(tuple(admissions), book, "codiesp", notes)


def background_texts(folder: Path) -> Iterator[str]:
    """The 2,751 uncoded background cases, as plain texts, in the order of their names."""
    texts = sorted((Path(folder) / "background" / "text_files").glob("*.txt"))
    if not texts:
        raise HilatError(f"{folder} has no background/text_files/*.txt; expected CodiEsp's background cases. Check it")
    for path in texts:
        yield _text(path)


def article(name: str) -> str:
    """The article that a case was taken from: its file name without the last number."""
    return name.rsplit("-", 1)[0]


def _require(folder: Path, split: str) -> None:
    texts, table = folder / split / "text_files", folder / split / f"{split}X.tsv"
    for path in (texts, table):
        if not path.exists():
            have = ", ".join(sorted(p.name for p in folder.iterdir())) if folder.is_dir() else "nothing"
            raise HilatError(
                f"{path} does not exist; expected the folder of CodiEsp as released (found here: {have}). Check the path"
            )


def _code(code: str, settings: CodiespSettings, table: str) -> str:
    code = code.strip().upper()
    return code.split(".")[0][: 3 if table == "D" else 4] if settings.granularity == "category" else code


def _codes(folder: Path, split: str, settings: CodiespSettings) -> dict[str, list[tuple[str, CodeKind]]]:
    """Codes of each case, without repeats, in the tables' order."""
    found: dict[str, list[tuple[str, CodeKind]]] = {}
    for table in settings.kinds:
        path = folder / split / f"{split}{table}.tsv"
        for number, row in enumerate(_lines(path), 1):
            if len(row) < 2:
                raise HilatError(f"{path}, line {number} has {len(row)} columns; expected case and code, tab between")
            entry = (_code(row[1], settings, table), _KIND_OF_TABLE[table])
            codes = found.setdefault(row[0], [])
            if entry not in codes:
                codes.append(entry)
    return found


def _book(given: dict[str, dict[str, list[tuple[str, CodeKind]]]], settings: CodiespSettings) -> CodeBook:
    counted = Counter(
        entry
        for split, cases in given.items()
        if split == "train" or "train" not in given
        for c in cases.values()
        for entry in c
    )
    others = (
        {entry for cases in given.values() for c in cases.values() for entry in c} if settings.top_k is None else set()
    )
    ranked = sorted(set(counted) | others, key=lambda entry: (-counted[entry], entry))[: settings.top_k]
    return CodeBook(
        tuple(code for code, _ in ranked),
        ("",) * len(ranked),
        tuple(kind for _, kind in ranked),
        "ICD-10-CM/PCS (CodiEsp)",
    )


def _split(
    folder: Path,
    split: str,
    given: dict[str, list[tuple[str, CodeKind]]],
    book: CodeBook,
    settings: CodiespSettings,
    counts: Counter[str],
) -> Iterator[Admission]:
    spans = _spans(folder, split, book, settings, counts) if settings.language == "es" else {}
    texts = folder / split / ("text_files" if settings.language == "es" else "text_files_en")
    for path in sorted(texts.glob("*.txt")):
        name = path.stem
        codes = tuple(code for code, _ in given.get(name, []) if code in book)
        counts[f"{split}_without_code"] += not codes
        yield Admission(
            hadm_id=name,
            text=_text(path),
            codes=codes,
            evidence=tuple(span for span in spans.get(name, []) if span.code in codes),
            split=split,
            subject_id=article(name),
        )


def _spans(
    folder: Path, split: str, book: CodeBook, settings: CodiespSettings, counts: Counter[str]
) -> dict[str, list[EvidenceSpan]]:
    """Evidence of each case; `start end;start end` are the segments of one discontinuous mention."""
    path = folder / split / f"{split}X.tsv"
    found: dict[str, list[EvidenceSpan]] = {}
    for number, row in enumerate(_lines(path), 1):
        try:
            name, word, code, _, where = row[:5]
            table = _KIND_OF_WORD[word]
            segments = [tuple(int(x) for x in part.split()) for part in where.split(";") if part.strip()]
            pairs = [(start, end) for start, end in segments]
        except (ValueError, KeyError):
            raise HilatError(
                f"{path}, line {number} does not fit; expected case, DIAGNOSTICO or PROCEDIMIENTO, code, words and offsets"
            ) from None
        kept = tuple((start, end) for start, end in sorted(pairs) if start < end)
        code = _code(code, settings, table)
        if table in settings.kinds and code in book:
            counts["zero_length_segments_dropped"] += len(pairs) - len(kept)
            if kept:
                found.setdefault(name, []).append(EvidenceSpan(code, kept))
    return found


def _lines(path: Path) -> Iterator[Sequence[str]]:
    if not path.is_file():
        raise HilatError(f"{path} does not exist; expected a table of CodiEsp as released. Check the folder")
    for line in path.read_text(encoding="utf-8").splitlines():
        yield line.rstrip("\n").split("\t")


def _text(path: Path) -> str:
    try:
        raw = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise HilatError(f"{path} is not UTF-8 (byte {error.start}); expected CodiEsp's files as released") from None
    return plain_text(raw)

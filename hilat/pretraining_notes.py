"""The notes that pretraining reads, from any source, as a stream."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from hilat.admissions import HilatError, plain_text
from hilat.corpora.folder import read_manifest

KINDS = ("auto", "mimic3", "codiesp", "texts", "table", "corpus")
DISCHARGE = "discharge summary"
_TABLES = (".csv", ".csv.gz", ".jsonl", ".jsonl.gz", ".parquet")
_BATCH = 500
_BLOCK = 1 << 23
_LONGEST_FIELD = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Note:
    """One note. name: what it is called in its source. group: whom it is of (the patient, where known): notes of one
    group are held out together. admission: its hadm_id, where it has one."""

    name: str
    text: str
    category: str = "note"
    group: str = ""
    admission: str = ""


@dataclass(frozen=True, slots=True)
class NoteSource:
    """Where notes come from.

    kind: "mimic3" (NOTEEVENTS, a file or the folder that holds it), "codiesp" (its background cases), "texts" (a folder
        of .txt), "table" (CSV, JSONL or Parquet), "corpus" (a corpus folder of hilat), or "auto", told from what is there.
    categories: of MIMIC-III's notes, in any case; ("all",) for the paper's MIMIC-III-CN, ("all-but-discharge",) for its
        MIMIC-III-CN-DS.
    splits: of a corpus folder; by default train only, so that the notes a model is judged on are not learned from.
    text_column, id_column: of a table.
    """

    path: str
    kind: str = "auto"
    categories: tuple[str, ...] = ("all",)
    splits: tuple[str, ...] = ("train",)
    text_column: str = "text"
    id_column: str = "hadm_id"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise HilatError(f"the kind of notes is {self.kind!r}; expected one of {', '.join(KINDS)}. Correct it")

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def kind_of(source: NoteSource) -> str:
    """The kind of a source, told from what is there where it is "auto".

    Raises:
        HilatError: nothing there, or nothing that is known.
    """
    path = Path(source.path)
    if source.kind != "auto":
        return source.kind
    if path.name.lower().startswith("noteevents") or (path.is_dir() and _noteevents(path) is not None):
        return "mimic3"
    if path.is_file() and path.name.lower().endswith(_TABLES):
        return "table"
    if (path / "manifest.json").is_file():
        return "corpus"
    if (path / "background" / "text_files").is_dir():
        return "codiesp"
    if path.is_dir() and next(path.glob("*.txt"), None) is not None:
        return "texts"
    have = ", ".join(sorted(p.name for p in path.iterdir())[:20]) or "nothing" if path.is_dir() else "no such folder"
    raise HilatError(
        f"{path} holds no notes that are known (found: {have}); expected MIMIC-III's NOTEEVENTS, CodiEsp's folder, a folder "
        f"of .txt files, a table ({', '.join(_TABLES)}) or a corpus folder of hilat. Check the path"
    )


def read_notes(source: NoteSource, without: frozenset[str] = frozenset()) -> Iterator[Note]:
    """The notes of a source, one after the other, in its order; those without text are passed over.

    without: ids of admissions whose notes are left out.

    Raises:
        HilatError: a source that is missing, damaged or lacks a column.
    """
    kind, path = kind_of(source), Path(source.path)
    readers = {
        "mimic3": lambda: _mimic3(path, source.categories),
        "codiesp": lambda: _texts(path / "background" / "text_files", "background case"),
        "texts": lambda: _texts(path, "note"),
        "table": lambda: _table(path, source),
        "corpus": lambda: _corpus(path, source.splits),
    }
    for note in readers[kind]():
        if note.admission not in without and note.text.strip():
            yield note


def judged_admissions(corpora: Sequence[Path]) -> frozenset[str]:
    """The admissions of these corpora that are not in their train split: those that models are judged on."""
    found: set[str] = set()
    for corpus in corpora:
        read_manifest(corpus)
        with pq.ParquetFile(Path(corpus) / "admissions.parquet") as parquet:
            for batch in parquet.iter_batches(batch_size=_BATCH, columns=["hadm_id", "split"]):
                found.update(row["hadm_id"] for row in batch.to_pylist() if row["split"] != "train")
    return frozenset(found)


def _texts(folder: Path, category: str) -> Iterator[Note]:
    files = sorted(folder.glob("*.txt")) if folder.is_dir() else []
    if not files:
        raise HilatError(f"{folder} holds no .txt file; expected a folder of notes, one per file. Check the path")
    for file in files:
        yield Note(file.stem, plain_text(file.read_text(encoding="utf-8", errors="replace")), category, file.stem)


def _corpus(folder: Path, splits: Sequence[str]) -> Iterator[Note]:
    have = sorted(read_manifest(folder).get("splits", {}))
    missing = sorted(set(splits) - set(have))
    if missing:
        raise HilatError(
            f"the corpus {folder} has no split {', '.join(missing)}; it has {', '.join(have)}. Name one of those"
        )
    columns = ["hadm_id", "subject_id", "split", "text"]
    with pq.ParquetFile(folder / "admissions.parquet") as parquet:
        for batch in parquet.iter_batches(batch_size=_BATCH, columns=columns):
            for row in batch.to_pylist():
                if row["split"] in splits:
                    who = row["subject_id"] or row["hadm_id"]
                    yield Note(row["hadm_id"], row["text"], str(row["split"]), who, row["hadm_id"])


def _noteevents(folder: Path) -> Path | None:
    """The folder's NOTEEVENTS, of several forms the plain CSV first."""
    names = {path.name.lower(): path for path in sorted(folder.iterdir(), reverse=True) if path.is_file()}
    forms = [names[name] for name in ("noteevents.csv", "noteevents.csv.gz", "noteevents.parquet") if name in names]
    return forms[0] if forms else None


def _mimic3(path: Path, categories: Sequence[str]) -> Iterator[Note]:
    """Notes of NOTEEVENTS, those marked as errors too, as in the paper's counts."""
    file = path if path.is_file() else _noteevents(path) if path.is_dir() else None
    if file is None:
        raise HilatError(f"{path} holds no NOTEEVENTS (.csv, .csv.gz or .parquet); expected that table of MIMIC-III")
    wanted = {category.strip().lower() for category in categories}
    found: set[str] = set()
    rows = 0
    for row in _columns(file, {"row_id", "subject_id", "hadm_id", "category", "text"}):
        rows += 1
        category = (row["category"] or "").strip().lower()
        found.add(category)
        every = "all" in wanted or ("all-but-discharge" in wanted and category != DISCHARGE)
        if (every or category in wanted) and row["text"]:
            admission = _id(row["hadm_id"])
            yield Note(_id(row["row_id"]), plain_text(row["text"]), category, _id(row["subject_id"]), admission)
    unknown = sorted(wanted - found - {"all", "all-but-discharge"})
    if rows and unknown:
        raise HilatError(
            f"{file} has no notes of category {', '.join(unknown)}; it has {', '.join(sorted(found))}. Correct --categories"
        )


def _id(value: Any) -> str:
    """An id as text; 145834.0, as pandas writes a column with gaps, is 145834."""
    text = "" if value is None else str(value).strip()
    return text[:-2] if text.endswith(".0") else text


def _columns(file: Path, wanted: set[str]) -> Iterator[dict[str, Any]]:
    """Rows of a MIMIC table with these columns by lower-case name, a block in memory at a time."""
    with _told(file):
        if file.name.lower().endswith(".parquet"):
            with pq.ParquetFile(file) as parquet:
                names = _named(file, parquet.schema_arrow.names, wanted)
                for batch in parquet.iter_batches(batch_size=_BATCH, columns=list(names)):
                    yield from _lowered(batch, names)
            return
        packed = "gzip" if file.name.lower().endswith(".gz") else None
        with pa.input_stream(str(file), compression=packed) as stream:
            options = pa_csv.ReadOptions(use_threads=False, block_size=_BLOCK)
            parse = pa_csv.ParseOptions(newlines_in_values=True)
            header = _header(file)
            names = _named(file, header, wanted)
            convert = pa_csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), include_columns=list(names))
            for batch in pa_csv.open_csv(stream, options, parse, convert):
                yield from _lowered(batch, names)


def _lowered(batch: Any, names: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    for row in batch.to_pylist():
        yield {names[name]: value for name, value in row.items()}


def _header(file: Path) -> list[str]:
    with _open(file, "utf-8-sig") as stream:
        return next(csv.reader(stream), [])


def _named(file: Path, columns: Sequence[str], wanted: set[str]) -> dict[str, str]:
    """Lower-case name by name as written."""
    names = {column: column.strip().lower() for column in columns if column.strip().lower() in wanted}
    missing = sorted(wanted - set(names.values()))
    if missing:
        raise HilatError(
            f"{file} has no column {', '.join(missing)}; expected {', '.join(sorted(wanted))}. Use MIMIC-III's own file"
        )
    return names


def _table(path: Path, source: NoteSource) -> Iterator[Note]:
    known = False
    for number, row in enumerate(_rows(path), 1):
        if not known and source.text_column not in row:
            have = ", ".join(str(name) for name in row)
            raise HilatError(
                f"{path} has no column {source.text_column!r}; found: {have}. Rename the column or pass --text-column NAME"
            )
        known = True
        text, name = row.get(source.text_column), _id(row.get(source.id_column))
        if isinstance(text, str):
            who = _id(row.get("subject_id")) or name or str(number)
            yield Note(name or str(number), plain_text(text), "note", who, name)


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a table, as they are read."""
    low = path.name.lower()
    if not path.is_file() or not low.endswith(_TABLES):
        raise HilatError(f"{path} is not a table; expected a file of {', '.join(_TABLES)}. Check the path")
    with _told(path):
        if low.endswith(".parquet"):
            with pq.ParquetFile(path) as parquet:
                for batch in parquet.iter_batches(batch_size=_BATCH):
                    yield from batch.to_pylist()
            return
        with _open(path, "utf-8-sig") as stream:
            if ".jsonl" in low:
                yield from (json.loads(line) for line in stream if line.strip())
                return
            before = csv.field_size_limit(_LONGEST_FIELD)
            try:
                yield from csv.DictReader(stream, strict=True)
            finally:
                csv.field_size_limit(before)


def _open(path: Path, encoding: str) -> IO[str]:
    if path.name.lower().endswith(".gz"):
        return cast(IO[str], gzip.open(path, "rt", encoding=encoding, newline=""))
    return path.open(encoding=encoding, newline="")


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Errors of reading in one sentence that quotes none of the data."""
    try:
        yield
    except HilatError:
        raise
    except (OSError, EOFError, UnicodeDecodeError, ValueError, csv.Error, pa.ArrowException) as error:
        kind = type(error).__name__
        raise HilatError(
            f"{path} cannot be read to its end ({kind}); expected a whole UTF-8 table. Export or download it again"
        ) from None

"""MIMIC-III v1.4 as downloaded: discharge summaries with addenda, ICD-9-CM codes, label sets, splits.

The steps are Mullenbach et al. 2018 (CAML), section 3, which the HiLAT paper follows. Where this reader differs: rows
marked as errors and identical texts are left out, addenda come after the report, and everything left out is counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from hilat.admissions import Admission, CodeBook, HilatError
from hilat.corpora.folder import Corpus, write_corpus
from hilat.corpora.labelsets import compare_label_sets
from hilat.corpora.mimic3_codes import CodedAdmissions, listed_codes, most_frequent, most_frequent_rows, read_codes
from hilat.corpora.mimic3_notes import JoinedNote, joined_notes, noted_admissions, stage_notes
from hilat.corpora.mimic3_statistics import SplitStatistics
from hilat.corpora.mimic3_tables import database, find_tables
from hilat.corpora.splits import SplitFiles, SubjectSplit, read_split_files, split_by_subject

SOURCE = "mimic3"
CITATION = "Johnson et al. 2016, MIMIC-III, a freely accessible critical care database, Scientific Data 3:160035"
Keep = Literal["labelled", "coded", "all"]
LAAT_50 = "laat-50"
CountOn = Literal["summaries", "coded", "train"]


@dataclass(frozen=True, slots=True)
class Mimic3Settings:
    """What is made of the tables.

    labels: the label set. A number K: the K codes that most admissions have; "all": every code of the counted
        admissions; "laat-50": the 50 codes on most rows, repeats within an admission counted, which is the rule by which
        LAAT's released code makes its list (it publishes no list); otherwise the name of a published list ("caml-50") or a file with one dotted code per line.
    count_labels_on: the admissions on which K or "all" counts: "summaries" those with a discharge summary, "coded" all
        that have codes, "train" the train split.
    keep: "labelled" admissions with at least one code of the label set (MIMIC-III-50 of the papers), "coded" those with
        any code, "all" also those without codes. None: "labelled", and "coded" when labels is "all".
    splits: files of ids (admissions outside them are left out), a draw by subject, or None for no splits.
    memory_limit_mb: DuckDB's limit; the process takes up to 0.8 GB more. threads: DuckDB's.
    temp_folder: where staged notes lie while it runs, in a private folder that is then removed. None: beside the
        corpus folder.
    """

    labels: int | str | Path = 50
    count_labels_on: CountOn = "summaries"
    keep: Keep | None = None
    splits: SplitFiles | SubjectSplit | None = field(default_factory=SubjectSplit)
    memory_limit_mb: int = 512
    threads: int = 2
    temp_folder: Path | None = None

    def __post_init__(self) -> None:
        choices: tuple[tuple[str, str | None, tuple[str | None, ...]], ...] = (
            ("count_labels_on", self.count_labels_on, ("summaries", "coded", "train")),
            ("keep", self.keep, ("labelled", "coded", "all", None)),
        )
        for name, value, expected in choices:
            if value not in expected:
                known = ", ".join(str(choice) for choice in expected)
                raise HilatError(f"{name} is {value!r}; expected one of {known}. Choose one of those")
        if isinstance(self.labels, int) and self.labels < 1:
            raise HilatError(
                f"labels is {self.labels}; expected 1 or more, 'all', or a list's name. Choose one of those"
            )


@dataclass(frozen=True, slots=True)
class Mimic3Stream:
    """A corpus on its way. notes: settings and counts; complete only when `admissions` has been read to its end."""

    admissions: Iterator[Admission]
    code_book: CodeBook
    notes: dict[str, Any]


def convert_mimic3(
    folder: Path, out: Path, settings: Mimic3Settings | None = None, *, overwrite: bool = False
) -> dict[str, Any]:
    """Stream MIMIC-III v1.4 from the folder of its tables into a corpus folder, and return the corpus's manifest.

    manifest["notes"] holds the counts of all that was left out, joined or changed, and the statistics.

    Raises:
        HilatError: a table missing or damaged, a split file or label set that does not fit, or an existing `out`
            without `overwrite`.
    """
    settings = settings or Mimic3Settings()
    out = Path(out)
    if out.exists() and not overwrite:  # said before the long reading, not after
        raise HilatError(f"{out} exists already; expected a new corpus folder. Choose another name or pass --overwrite")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HilatError(f"cannot write {out}: {error.strerror}; choose a folder that you may write to") from None
    with mimic3_stream(folder, settings, temp_parent=out.parent) as stream:
        # write_corpus copies the notes after the last admission, when the counts in them are complete.
        return write_corpus(
            out, stream.admissions, stream.code_book, source=SOURCE, notes=stream.notes, overwrite=overwrite
        )


def read_mimic3(folder: Path, settings: Mimic3Settings | None = None) -> Corpus:
    """The same corpus in memory: 0.6 GB of text and more for the whole of MIMIC-III. Raises HilatError likewise."""
    with mimic3_stream(folder, settings or Mimic3Settings()) as stream:
        return Corpus(tuple(stream.admissions), stream.code_book, SOURCE, stream.notes)


@contextmanager
def mimic3_stream(folder: Path, settings: Mimic3Settings, *, temp_parent: Path | None = None) -> Iterator[Mimic3Stream]:
    """Stage the tables, choose admissions and labels, and give the admissions one by one, by ascending hadm_id.

    Arguments:
        temp_parent: where staged notes lie when the settings name no temp_folder; None: the system's place.

    Raises:
        HilatError: as `convert_mimic3`; about a damaged table on entering.
    """
    assigned = read_split_files(settings.splits) if isinstance(settings.splits, SplitFiles) else None
    if not isinstance(settings.labels, int) and settings.labels not in ("all", LAAT_50):
        listed_codes(settings.labels)  # a wrong name is told before the long reading
    tables = find_tables(folder)
    with database(
        settings.temp_folder or temp_parent, memory_limit_mb=settings.memory_limit_mb, threads=settings.threads
    ) as connection:
        coded = read_codes(connection, tables)
        note_rows = stage_notes(connection, tables["NOTEEVENTS"])
        subjects = noted_admissions(connection)
        splits, split_notes = _splits(subjects, coded, settings, assigned)
        labels, label_notes = choose_labels(coded, subjects, splits, settings)
        chosen, admission_counts = _choose_admissions(subjects, coded, splits, frozenset(labels), settings)
        notes: dict[str, Any] = {
            "citation": CITATION,
            "settings": _shown(settings),
            "files": {name: table.path.name for name, table in tables.items()},
            "note_rows": note_rows,
            "code_rows": {kind: dict(tally) for kind, tally in coded.counts.items()},
            "admissions": admission_counts,
            "labels": label_notes,
            "splits": split_notes,
        }
        joined = joined_notes(connection, chosen)
        described = _described(_admissions(joined, subjects, coded, splits), frozenset(labels), notes)
        yield Mimic3Stream(described, coded.book(labels), notes)


def choose_labels(
    coded: CodedAdmissions, subjects: Mapping[str, str], splits: Mapping[str, str | None], settings: Mimic3Settings
) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The codes of the label set in column order, and what to note about it.

    Arguments:
        subjects: the admissions with a discharge summary. splits: split by admission, of those to be considered.

    Raises:
        HilatError: a name that is no list, more codes asked for than there are, or no train split to count on.
    """
    among: dict[CountOn, Callable[[str], bool]] = {
        "summaries": lambda hadm_id: hadm_id in subjects,
        "coded": lambda _: True,
        "train": lambda hadm_id: splits.get(hadm_id) == "train",
    }
    ids = [hadm_id for hadm_id in coded.codes if among[settings.count_labels_on](hadm_id)]
    counted = [coded.codes[hadm_id] for hadm_id in ids]
    if not counted:
        raise HilatError(
            f"no admission with codes is there to count labels on (count_labels_on={settings.count_labels_on!r}); expected "
            "at least one. With 'train', ask for splits that have a train split"
        )
    there = {code for codes in counted for code in codes}
    notes: dict[str, Any] = {"counted_on": settings.count_labels_on, "counted_admissions": len(counted)}
    if isinstance(settings.labels, int):
        labels = most_frequent(counted, settings.labels)
    elif settings.labels == "all":
        labels = most_frequent(counted, len(there))
    elif settings.labels == LAAT_50:
        labels = most_frequent_rows([coded.rows[hadm_id] for hadm_id in ids], 50)
    else:
        labels = listed_codes(settings.labels)
        notes = {"not_in_data": sorted(code for code in labels if code not in there)}
    if settings.labels != "all":
        notes["differs_from"] = compare_label_sets(labels)
    notes |= {"codes": len(labels), "without_title": sorted(code for code in labels if not coded.titles.get(code))}
    return labels, notes


def _splits(
    subjects: Mapping[str, str],
    coded: CodedAdmissions,
    settings: Mimic3Settings,
    assigned: Mapping[str, str] | None,
) -> tuple[dict[str, str | None], dict[str, Any]]:
    """The split of every admission that may be kept (None where none is asked for), and what to note about it."""
    with_codes = [hadm_id for hadm_id in subjects if hadm_id in coded.codes]
    eligible = list(subjects) if settings.keep == "all" else with_codes
    if isinstance(settings.splits, SubjectSplit):
        fractions = dict(settings.splits.fractions)
        drawn = split_by_subject(eligible, [subjects[i] for i in eligible], fractions, settings.splits.seed)
        return dict(drawn), {"by": "subject", "fractions": fractions, "seed": settings.splits.seed}
    if assigned is None:
        return dict.fromkeys(eligible), {"by": "none"}
    kept: dict[str, str | None] = {hadm_id: assigned[hadm_id] for hadm_id in eligible if hadm_id in assigned}
    if not kept:
        raise HilatError(
            f"none of the {len(assigned)} ids of the split files is among the {len(eligible)} admissions that could be "
            "kept; expected hadm_ids of these tables. Check that files and tables belong together"
        )
    without_summary = [hadm_id for hadm_id in assigned if hadm_id not in subjects]
    notes = {
        "by": "files",
        "ids": dict(Counter(assigned.values())),
        "ids_not_in_data": dict(Counter(assigned[i] for i in without_summary if i not in coded.codes)),
        "ids_without_summary": dict(Counter(assigned[i] for i in without_summary if i in coded.codes)),
        "ids_without_codes": dict(Counter(s for i, s in assigned.items() if i in subjects and i not in coded.codes)),
        "admissions_outside": len(eligible) - len(kept),
    }
    return kept, notes


def _choose_admissions(
    subjects: Mapping[str, str],
    coded: CodedAdmissions,
    splits: Mapping[str, str | None],
    labels: frozenset[str],
    settings: Mimic3Settings,
) -> tuple[list[str], dict[str, int]]:
    """The admissions to be written, by ascending hadm_id, and the counts of those that are not."""
    keep = settings.keep or ("coded" if settings.labels == "all" else "labelled")
    considered = [hadm_id for hadm_id in subjects if hadm_id in splits]
    unlabelled = [i for i in considered if labels.isdisjoint(coded.codes.get(i, ()))]
    left_out = set(unlabelled) if keep == "labelled" else set()
    chosen = [hadm_id for hadm_id in considered if hadm_id not in left_out]
    if not chosen:
        raise HilatError(
            f"no admission is left of {len(subjects)} with a discharge summary, {len(considered)} of them with codes and "
            "in the splits; expected at least one with a code of the label set. Check the label set, or pass keep='coded'"
        )
    with_codes = sum(hadm_id in coded.codes for hadm_id in subjects)
    return chosen, {
        "with_summary": len(subjects),
        "with_codes": len(coded.codes),
        "with_summary_without_codes": len(subjects) - with_codes,
        "with_codes_without_summary": len(coded.codes) - with_codes,
        "in_splits": len(considered),
        "in_splits_without_label": len(unlabelled),
        "kept": len(chosen),
    }


def _admissions(
    joined: Iterator[JoinedNote],
    subjects: Mapping[str, str],
    coded: CodedAdmissions,
    splits: Mapping[str, str | None],
) -> Iterator[tuple[Admission, JoinedNote]]:
    for note in joined:
        hadm_id = note.hadm_id
        yield (
            Admission(
                hadm_id=hadm_id,
                text=note.text,
                codes=coded.codes.get(hadm_id, ()),
                split=splits[hadm_id],
                subject_id=subjects[hadm_id] or None,
            ),
            note,
        )


def _described(
    admissions: Iterator[tuple[Admission, JoinedNote]], labels: frozenset[str], notes: dict[str, Any]
) -> Iterator[Admission]:
    """The admissions; with the last one, `notes` gets what was joined and the statistics of all and of each split."""
    joined = Counter(admissions_with_several_notes=0, identical_texts_left_out=0, texts_with_changed_line_ends=0)
    statistics = {"all": SplitStatistics(labels)}
    for admission, note in admissions:
        joined["admissions_with_several_notes"] += note.notes > 1
        joined["identical_texts_left_out"] += note.identical
        joined["texts_with_changed_line_ends"] += note.changed
        for name in ("all", *filter(None, [admission.split])):
            one = statistics.setdefault(name, SplitStatistics(labels))
            one.add(admission.text, note.notes, admission.codes, admission.subject_id)
        yield admission
    notes["joined"] = dict(joined)
    notes["statistics"] = {name: one.table() for name, one in statistics.items()}


def _shown(settings: Mimic3Settings) -> dict[str, Any]:
    """The settings as JSON; of paths the last part only, since the rest names a person's machine."""
    splits = settings.splits
    if isinstance(splits, SplitFiles):
        shown: Any = {name: Path(path).name for name, path in asdict(splits).items()}
    else:
        shown = None if splits is None else {"fractions": dict(splits.fractions), "seed": splits.seed}
    return {
        "labels": settings.labels if isinstance(settings.labels, int) else Path(settings.labels).name,
        "count_labels_on": settings.count_labels_on,
        "keep": settings.keep or ("coded" if settings.labels == "all" else "labelled"),
        "splits": shown,
    }

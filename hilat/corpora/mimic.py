"""What MIMIC-III and MIMIC-IV have in common: from staged notes and codes to a corpus with label set and splits.

The steps are Mullenbach et al. 2018 (CAML), section 3, which the HiLAT paper follows. Where this reader differs: rows
marked as errors and identical texts are left out, addenda come after the report, and everything left out is counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import duckdb

from hilat.admissions import Admission, CodeBook, HilatError
from hilat.corpora.folder import Corpus, write_corpus
from hilat.corpora.mimic_codes import CodedAdmissions, listed_codes, read_codes
from hilat.corpora.mimic_labels import LAAT_50, choose_labels
from hilat.corpora.mimic_notes import JoinedNote, joined_notes, noted_admissions
from hilat.corpora.mimic_splits import Considered, assign_splits, read_assigned
from hilat.corpora.mimic_statistics import SplitStatistics
from hilat.corpora.mimic_tables import Table, database
from hilat.corpora.splits import SplitFiles, Splits, SplitTable, StratifiedSplit, SubjectSplit

Keep = Literal["labelled", "coded", "all"]
CountOn = Literal["summaries", "coded", "train"]


@dataclass(frozen=True, slots=True)
class MimicSettings:
    """What is made of the tables.

    labels: the label set. A number K: the K codes that most admissions have; "all": every code of the counted
        admissions; "laat-50": the 50 codes on most rows, repeats within an admission counted, which is the rule by which
        LAAT's released code makes its list (it publishes no list); otherwise the name of a published list ("caml-50") or a file with one dotted code per line.
    min_count: codes that fewer of the counted admissions have are left out of K and "all" (10 in Edin et al. 2023).
    count_labels_on: the admissions on which K or "all" counts: "summaries" those with a discharge summary, "coded" all
        that have codes, "train" the train split.
    keep: "labelled" admissions with at least one code of the label set (MIMIC-III-50 of the papers), "coded" those with
        any code, "all" also those without codes. None: "labelled", and "coded" when labels is "all" without min_count.
    splits: files of ids (admissions outside them are left out), a draw by subject, a stratified draw by subject, or None
        for no splits.
    memory_limit_mb: DuckDB's limit; the process takes up to 0.8 GB more. threads: DuckDB's.
    temp_folder: where staged notes lie while it runs, in a private folder that is then removed. None: beside the
        corpus folder.
    """

    labels: int | str | Path = 50
    min_count: int = 1
    count_labels_on: CountOn = "summaries"
    keep: Keep | None = None
    splits: Splits | None = field(default_factory=SubjectSplit)
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
        if self.min_count < 1 or (self.min_count > 1 and not self.counts):
            raise HilatError(
                f"min_count is {self.min_count} with labels {self.labels}; expected 1 or more, and more only with a number "
                "or 'all'. Count the codes, or take a list as it is"
            )
        if isinstance(self.splits, StratifiedSplit) and self.count_labels_on == "train":
            raise HilatError(
                "labels are counted on train and splits are stratified by labels; expected one to come first. "
                "Count on summaries, or give the splits as files"
            )

    @property
    def counts(self) -> bool:
        """Whether the label set is counted, and not a list."""
        return isinstance(self.labels, int) or self.labels == "all"

    @property
    def kept(self) -> Keep:
        """Which admissions are kept, the default worked out."""
        return self.keep or ("coded" if self.labels == "all" and self.min_count == 1 else "labelled")


@dataclass(frozen=True, slots=True)
class MimicSource:
    """A release to be read: its tables, how its notes are staged, and what the manifest says of it.

    version: of the ICD. shown: settings of the release for the manifest. stage: copies notes into DuckDB's table `notes`
    and returns the counts of rows.
    """

    name: str
    citation: str
    tables: Mapping[str, Table]
    stage: Callable[[duckdb.DuckDBPyConnection], dict[str, int]]
    version: Literal[9, 10] = 9
    shown: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MimicStream:
    """A corpus on its way. notes: settings and counts; complete only when `admissions` has been read to its end."""

    admissions: Iterator[Admission]
    code_book: CodeBook
    notes: dict[str, Any]


def new_corpus_folder(out: Path, overwrite: bool) -> None:
    """Check that a corpus folder can be made, before the long reading and not after. Raises HilatError if not."""
    if out.exists() and not overwrite:
        raise HilatError(f"{out} exists already; expected a new corpus folder. Choose another name or pass --overwrite")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HilatError(f"cannot write {out}: {error.strerror}; choose a folder that you may write to") from None


def write_mimic(source: MimicSource, out: Path, settings: MimicSettings, *, overwrite: bool) -> dict[str, Any]:
    """Stream a release into a corpus folder, and return the corpus's manifest.

    manifest["notes"] holds the counts of all that was left out, joined or changed, and the statistics.

    Raises:
        HilatError: a damaged table, a split file or label set that does not fit, or an existing `out` without `overwrite`.
    """
    new_corpus_folder(out, overwrite)
    with mimic_stream(source, settings, temp_parent=out.parent) as stream:
        # write_corpus copies the notes after the last admission, when the counts in them are complete.
        return write_corpus(
            out, stream.admissions, stream.code_book, source=source.name, notes=stream.notes, overwrite=overwrite
        )


def read_mimic(source: MimicSource, settings: MimicSettings) -> Corpus:
    """The same corpus in memory: 0.6 GB of text and more for the whole of MIMIC-III. Raises HilatError likewise."""
    with mimic_stream(source, settings) as stream:
        return Corpus(tuple(stream.admissions), stream.code_book, source.name, stream.notes)


@contextmanager
def mimic_stream(
    source: MimicSource, settings: MimicSettings, *, temp_parent: Path | None = None
) -> Iterator[MimicStream]:
    """Stage the tables, choose admissions and labels, and give the admissions one by one, by ascending hadm_id.

    Arguments:
        temp_parent: where staged notes lie when the settings name no temp_folder; None: the system's place.

    Raises:
        HilatError: as `write_mimic`; about a damaged table on entering.
    """
    assigned = read_assigned(settings.splits)
    if not settings.counts and settings.labels != LAAT_50:
        listed_codes(str(settings.labels), source.version)  # a wrong name is told before the long reading
    with database(
        settings.temp_folder or temp_parent, memory_limit_mb=settings.memory_limit_mb, threads=settings.threads
    ) as connection:
        coded = read_codes(connection, source.tables, source.version)
        note_rows = source.stage(connection)
        subjects = noted_admissions(connection)
        plan = _planned(Considered(subjects, coded, settings.kept), settings, assigned)
        notes: dict[str, Any] = {
            "citation": source.citation,
            "settings": {**_shown(settings), **source.shown},
            "files": {name: table.file for name, table in source.tables.items()},
            "note_rows": note_rows,
            "code_rows": {kind: dict(tally) for kind, tally in coded.counts.items()},
            "admissions": plan.counts,
            "labels": plan.label_notes,
            "splits": plan.split_notes,
        }
        joined = joined_notes(connection, plan.chosen)
        described = _described(_admissions(joined, subjects, coded, plan.splits), frozenset(plan.labels), notes)
        yield MimicStream(described, coded.book(plan.labels), notes)


@dataclass(frozen=True, slots=True)
class _Plan:
    labels: tuple[str, ...]
    label_notes: dict[str, Any]
    splits: Mapping[str, str | None]
    split_notes: dict[str, Any]
    chosen: list[str]
    counts: dict[str, int]


def _planned(considered: Considered, settings: MimicSettings, assigned: Mapping[str, str] | None) -> _Plan:
    """Labels, splits and the admissions to be written.

    Labels may be counted on the train split, and a stratified split needs the labels: which comes first depends.
    """
    if isinstance(settings.splits, StratifiedSplit):
        labels, label_notes = _labels(considered, {}, settings)
        splits, split_notes = assign_splits(considered, settings.splits, assigned, frozenset(labels))
    else:
        splits, split_notes = assign_splits(considered, settings.splits, assigned, frozenset())
        labels, label_notes = _labels(considered, splits, settings)
    chosen, counts = _choose_admissions(considered, splits, frozenset(labels))
    return _Plan(labels, label_notes, splits, split_notes, chosen, counts)


def _labels(
    considered: Considered, splits: Mapping[str, str | None], settings: MimicSettings
) -> tuple[tuple[str, ...], dict[str, Any]]:
    coded, subjects = considered.coded, considered.subjects
    among: dict[CountOn, Callable[[str], bool]] = {
        "summaries": lambda hadm_id: hadm_id in subjects,
        "coded": lambda _: True,
        "train": lambda hadm_id: splits.get(hadm_id) == "train",
    }
    ids = [hadm_id for hadm_id in coded.codes if among[settings.count_labels_on](hadm_id)]
    if not ids:
        raise HilatError(
            f"no admission with codes is there to count labels on (count_labels_on={settings.count_labels_on!r}); expected "
            "at least one. With 'train', ask for splits that have a train split"
        )
    labels, notes = choose_labels(coded, ids, settings.labels, settings.min_count)
    if settings.counts or settings.labels == LAAT_50:
        notes = {"counted_on": settings.count_labels_on, "counted_admissions": len(ids), **notes}
    return labels, notes


def _choose_admissions(
    considered: Considered, splits: Mapping[str, str | None], labels: frozenset[str]
) -> tuple[list[str], dict[str, int]]:
    """The admissions to be written, by ascending hadm_id, and the counts of those that are not."""
    subjects, coded = considered.subjects, considered.coded
    in_splits = [hadm_id for hadm_id in subjects if hadm_id in splits]
    unlabelled = [i for i in in_splits if labels.isdisjoint(coded.codes.get(i, ()))]
    left_out = set(unlabelled) if considered.keep == "labelled" else set()
    chosen = [hadm_id for hadm_id in in_splits if hadm_id not in left_out]
    if not chosen:
        raise HilatError(
            f"no admission is left of {len(subjects)} with a discharge summary, {len(in_splits)} of them with codes and "
            "in the splits; expected at least one with a code of the label set. Check the label set, or pass keep='coded'"
        )
    with_codes = sum(hadm_id in coded.codes for hadm_id in subjects)
    counts = {
        "with_summary": len(subjects),
        "with_codes": len(coded.codes),
        "with_summary_without_codes": len(subjects) - with_codes,
        "with_codes_without_summary": len(coded.codes) - with_codes,
        "in_splits": len(in_splits),
        "in_splits_without_label": len(unlabelled),
        "kept": len(chosen),
    }
    if coded.other_version:
        only_other = coded.other_version - coded.mixed
        counts["with_summary_of_other_icd_version"] = sum(i in only_other for i in subjects)
        counts["with_summary_of_both_icd_versions"] = sum(i in coded.mixed for i in subjects)
    return chosen, counts


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
                notes=note.notes,
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
        joined["admissions_with_several_notes"] += len(note.notes) > 1
        joined["identical_texts_left_out"] += note.identical
        joined["texts_with_changed_line_ends"] += note.changed
        for name in ("all", *filter(None, [admission.split])):
            one = statistics.setdefault(name, SplitStatistics(labels))
            one.add(admission.text, len(note.notes), admission.codes, admission.subject_id)
        yield admission
    notes["joined"] = dict(joined)
    notes["statistics"] = {name: one.table() for name, one in statistics.items()}


def _shown(settings: MimicSettings) -> dict[str, Any]:
    """The settings as JSON; of paths the last part only, since the rest names a person's machine."""
    splits = settings.splits
    if isinstance(splits, SplitFiles):
        shown: Any = {name: Path(path).name for name, path in asdict(splits).items()}
    elif isinstance(splits, SplitTable):
        shown = Path(splits.path).name
    else:
        shown = None if splits is None else {"fractions": dict(splits.fractions), "seed": splits.seed}
    return {
        "labels": settings.labels if isinstance(settings.labels, int) else Path(settings.labels).name,
        "min_count": settings.min_count,
        "count_labels_on": settings.count_labels_on,
        "keep": settings.kept,
        "splits": shown,
    }


def source_places(folders: Sequence[Path]) -> list[Path]:
    """Folders as paths. Raises HilatError when there is none."""
    if not folders:
        raise HilatError("no folder of tables is given; expected one, or --source postgresql://... Give one of them")
    return [Path(folder) for folder in folders]

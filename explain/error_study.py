"""The study of errors: every case of an explanation folder, and what the false positives have in common."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from explain.cases import Case, find_cases
from explain.confusion import LABELS, RELATIONS, Edge, EdgeOptions, NoteCodes, confusion, note_codes
from explain.cues import CUES, CaseOptions
from explain.error_contrast import Contrast, ContrastOptions, Contrasts, contrast
from explain.error_cues import CueOptions, CueRow, cue_table
from explain.error_prediction import ErrorPrediction, PredictionOptions, predict_errors
from explain.error_profile import PROFILE, WHY_UNDEFINED, Pair, Profiling, studied
from explain.error_tables import write_cases, write_flat
from explain.hilat_target import HilatTarget
from explain.judging import checked_document
from explain.keywords import KeywordSet
from explain.masking import CONDITIONS, Masked, MaskingOptions, MaskingSummary, masking_rows, summarise_masking
from explain.perturbation import NoteFunction
from explain.table import Explained
from hilat.admissions import Admission, CodeBook, HilatError
from hilat.coder import Coder
from hilat.files import new_folder, write_json

# Cases that the tables may hold; "weak" are true positives whose strong passages hold no support.
OUTCOMES: dict[str, str] = {
    "FP": "given by the model, not by the coders",
    "FN": "given by the coders, not by the model",
    "weak": "given by both, and neither a description word nor evidence is among the strong passages",
    "TP": "given by both",
}


@dataclass(frozen=True, slots=True, eq=False)
class Ground:
    """What all notes share: admissions by id, code book, description words by code, and the measures that were read."""

    admissions: Mapping[str, Admission]
    book: CodeBook
    keywords: Mapping[str, KeywordSet]
    strength: Mapping[Pair, Mapping[str, float]] = field(default_factory=dict)

    def admission(self, hadm_id: str) -> Admission:
        """The admission of this id; HilatError when the corpus does not hold it."""
        if hadm_id not in self.admissions:
            raise HilatError(
                f"admission {hadm_id} was explained and is not in the corpus; expected the corpus that was explained. Give that one"
            )
        return self.admissions[hadm_id]


@dataclass(frozen=True, slots=True)
class StudyOptions:
    """method: whose passages and profile are studied. outcomes: of OUTCOMES, the cases that the tables hold. least: false
    and true positives that a code needs to be compared on its own. draws: shuffles of the tests. case: what is a cue."""

    method: str = "attention"
    outcomes: tuple[str, ...] = tuple(OUTCOMES)
    least: int = 5
    resamples: int = 2000
    draws: int = 10_000
    seed: int = 0
    kind: Literal["percentile", "bca"] = "percentile"
    case: CaseOptions = field(default_factory=CaseOptions)
    prediction: PredictionOptions = field(default_factory=PredictionOptions)

    def __post_init__(self) -> None:
        unknown = [name for name in self.outcomes if name not in OUTCOMES]
        if unknown or not self.outcomes:
            given = f"outcome {unknown[0]!r} is not known" if unknown else "no outcome was given"
            raise HilatError(f"{given}; expected some of {', '.join(OUTCOMES)}, comma between. Correct --outcomes")


@dataclass(frozen=True, slots=True, eq=False)
class ErrorStudy:
    """cases: all explained true and false positives and false negatives. not_explained: outcome -> pairs without an
    explanation. masked: empty where no model was asked."""

    options: StudyOptions
    cases: tuple[Case, ...]
    admissions: int
    not_explained: Mapping[str, int]
    contrasts: Contrasts
    prediction: ErrorPrediction
    cues: tuple[CueRow, ...]
    edges: tuple[Edge, ...]
    masked: tuple[Masked, ...] = ()
    masking: tuple[MaskingSummary, ...] = ()

    def listed(self) -> list[Case]:
        """The cases of the outcomes that were asked for."""
        wanted = self.options.outcomes
        return [case for case in self.cases if case.outcome in wanted or (case.weak and "weak" in wanted)]


def study_errors(explained: Iterable[Explained], ground: Ground, options: StudyOptions = StudyOptions()) -> ErrorStudy:
    """All but the masking test, from explained admissions one at a time.

    Raises:
        HilatError: admissions whose coders' codes are unknown, a method that was not stored, or nothing explained.
    """
    cases: list[Case] = []
    notes: list[NoteCodes] = []
    gone: Counter[str] = Counter()
    profiling = Profiling(ground.book, options.method, ground.strength)
    for one in explained:
        admission = ground.admission(one.hadm_id)
        codes = note_codes(one, admission)
        if codes is None:
            raise HilatError(
                f"the coders' codes of admission {one.hadm_id} are unknown; expected them, since an error is told by them. "
                "Explain a corpus with codes"
            )
        notes.append(codes)
        found = find_cases(one, admission, ground.keywords, ground.book, options.case, options.method)
        gone.update(_not_explained(one))
        cases += [
            studied(case, one, admission, ground.keywords[case.code], profiling)
            for case in found
            if case.outcome != "TN"
        ]
    if not cases:
        raise HilatError(
            f"none of the {len(notes)} admissions has an explained code that was predicted or coded; expected explanations of "
            "those. Explain with --codes predicted,gold"
        )
    seed, kind = options.seed, options.kind
    return ErrorStudy(
        options,
        tuple(cases),
        len(notes),
        dict(gone),
        contrast(cases, ContrastOptions(options.least, options.resamples, options.draws, seed, kind)),
        predict_errors(cases, replace(options.prediction, seed=seed)),
        tuple(cue_table(cases, CueOptions(options.least, options.resamples, seed))),
        tuple(confusion(notes, ground.book, EdgeOptions(seed=seed, kind=kind, rules=options.case.rules))),
    )


def _not_explained(one: Explained) -> Counter[str]:
    """Pairs that were predicted or coded and have no explanation, by outcome."""
    assert one.gold is not None  # note_codes has seen to it
    outside = ~np.isin(np.array(one.codes, dtype=object), list(one.scored))
    given = one.probabilities >= one.thresholds
    kinds = {"FP": given & ~one.gold, "FN": ~given & one.gold, "TP": given & one.gold}
    return Counter({name: int((which & outside).sum()) for name, which in kinds.items()})


def mask_errors(
    study: ErrorStudy,
    chosen: Sequence[Case],
    explained: Iterable[Explained],
    ground: Ground,
    coder: Coder,
    options: MaskingOptions = MaskingOptions(),  # noqa: B008 (frozen)
) -> ErrorStudy:
    """The study with the masking test of these cases; explained: at least their admissions."""
    of: dict[str, list[Case]] = {}
    for case in chosen:
        of.setdefault(case.hadm_id, []).append(case)
    rows: list[Masked] = []
    options = replace(options, language=study.options.case.language)
    for one in explained:
        cases = of.get(one.hadm_id, [])
        if cases:
            admission = ground.admission(one.hadm_id)
            target = HilatTarget(coder, [coder.code_book.column(case.code) for case in cases])
            value = NoteFunction(target, checked_document(coder, one, admission))
            rows += masking_rows(cases, one, admission, value, study.options.method, options)
    given = study.options
    cells = summarise_masking(rows, seed=given.seed, resamples=given.resamples, kind=given.kind)
    return replace(study, masked=tuple(rows), masking=tuple(cells))


def undefined_numbers(cases: Sequence[Case]) -> dict[str, dict[str, Any]]:
    """Number of the profile -> how many cases lack it, of how many, and why; those that no case lacks are left out."""
    missing = {name: sum(bool(np.isnan(case.profile[name])) for case in cases) for name in PROFILE}
    return {
        name: {"undefined": count, "of": len(cases), "reason": WHY_UNDEFINED[name]}
        for name, count in missing.items()
        if count
    }


def summary_of(study: ErrorStudy) -> dict[str, Any]:
    """What summary.json holds: every result with the words that explain it, and none of a note's."""
    counts = Counter(case.outcome for case in study.cases)
    pairs = {name: counts[name] for name in ("FP", "FN", "TP")} | {"weak": sum(case.weak for case in study.cases)}
    return {
        "what": "Errors of a coding model: false positives against true positives of the same code",
        "method": study.options.method,
        "interval": f"95 %, {study.options.kind}, over admissions",
        "admissions": study.admissions,
        "pairs": {"counts": pairs, "says": OUTCOMES, "not_explained": dict(study.not_explained)},
        "listed": {"outcomes": list(study.options.outcomes), "cases": len(study.listed())},
        "numbers": {"says": PROFILE, "undefined": undefined_numbers(study.cases)},
        "contrast": {
            "says": "difference: mean of false positives minus mean of true positives, compared within codes",
            **asdict(study.contrasts),
        },
        "prediction": {"says": "out of fold; by chance auc is 0.5 and average_precision the share; percentile intervals over admissions", **asdict(study.prediction)},
        "cues": {"says": CUES, "rows": [asdict(row) for row in study.cues]},
        "masking": {"says": CONDITIONS, "pairs": len({(m.hadm_id, m.code) for m in study.masked}),
                    "rows": [asdict(cell) for cell in study.masking],
                    "reason": None if study.masking else "not asked for (it needs a model), or no false positive"},
        "confusion": {"relations": RELATIONS, "labels": LABELS, "edges": [asdict(edge) for edge in study.edges]},
    }  # fmt: skip


def write_study(folder: Path, study: ErrorStudy, manifest: Mapping[str, Any], *, overwrite: bool = False) -> None:
    """Write cases, cues and passages (`error_tables.write_cases`), contrast, code_cues, confusion and masking as Parquet,
    summary.json and manifest.json into a new folder. No note text.

    Raises:
        HilatError: the folder exists and `overwrite` is off.
    """
    with new_folder(Path(folder), overwrite=overwrite, what="folder of an error study") as beside:
        write_cases(beside, study.listed())
        write_flat(beside / "contrast.parquet", Contrast, (*study.contrasts.pooled, *study.contrasts.by_code))
        write_flat(beside / "code_cues.parquet", CueRow, study.cues)
        write_flat(beside / "confusion.parquet", Edge, study.edges)
        write_flat(beside / "masking.parquet", Masked, study.masked)
        write_json(beside / "summary.json", summary_of(study))
        write_json(beside / "manifest.json", dict(manifest))

"""The tables of an error study, told to whoever shows them: the terminal, or a page."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

from hilat.cli.console import number, out, table

if TYPE_CHECKING:
    from explain.error_contrast import Contrast
    from explain.error_study import ErrorStudy
    from hilat.significance import Interval

MOST = 15  # rows of the tables that could be long; all are in the folder
NARROW = 120  # columns of a terminal


class Teller(Protocol):
    """Who shows tables, each followed by the notes that belong to it."""

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> None:
        """A table whose first `left` columns are text and the others numbers."""

    def note(self, text: str) -> None:
        """A sentence about the table before."""


class Terminal:
    """Shows tables on standard output."""

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> None:
        """Print the table; in a narrow terminal an interval stands under its estimate."""
        narrow = out.width < NARROW
        table(
            title, columns, [[cell.replace(" [", "\n[") if narrow else cell for cell in row] for row in rows], left=left
        )

    def note(self, text: str) -> None:
        """Print the sentence, dim."""
        out.print(text, style="dim", soft_wrap=True, markup=False, highlight=False)


def tell_study(study: ErrorStudy, tell: Teller) -> None:
    """Counts, contrast, prediction, cues, masking and confusion, each with what is undefined."""
    for part in (_counts, _contrast, _by_code, _prediction, _cues, _masking, _confusion):
        part(study, tell)


def span(value: Interval, digits: int = 3) -> str:
    """An estimate with its interval in brackets."""
    if not math.isfinite(value.estimate):
        return "–"
    if not math.isfinite(value.low):
        return number(value.estimate, digits)
    high = "∞" if value.high == math.inf else f"{value.high:.{digits}f}"
    return f"{value.estimate:.{digits}f} [{value.low:.{digits}f}, {high}]"


def _p(p: float) -> str:
    return "–" if not math.isfinite(p) else "<0.001" if p < 0.001 else f"{p:.3f}"


def _counts(study: ErrorStudy, tell: Teller) -> None:
    counts = Counter(case.outcome for case in study.cases)
    weak = sum(case.weak for case in study.cases)
    codes = len({case.code for case in study.cases if case.outcome == "FP"})
    tell.note(
        f"{counts['FP']} false positives of {codes} codes, {counts['FN']} misses, {counts['TP']} true positives "
        f"({weak} of them weak: no description word and no evidence among the strong passages) in {study.admissions} admissions; "
        f"passages by {study.options.method}"
    )
    gone = {name: count for name, count in study.not_explained.items() if count}
    if gone:
        tell.note("not explained and left out: " + ", ".join(f"{count} {name}" for name, count in gone.items()))


def _contrast(study: ErrorStudy, tell: Teller) -> None:
    from explain.error_profile import WHY_UNDEFINED

    found = study.contrasts
    shown = [row for row in found.pooled if row.reason is None]
    if not shown:
        tell.note("contrast: no code has a false and a true positive")
        return
    tell.table(
        f"False against true positives of the same code · {found.pooled_codes} codes with both · 95 % interval over admissions",
        ("number", "FP", "TP", "FP - TP", "effect", "pairs FP/TP", "p", "p adj."),
        [(row.feature.replace("_", " "), *_contrast_cells(row)) for row in shown],
    )
    tell.note(
        "effect: in standard deviations within codes. p: outcomes shuffled within codes, or signs of admissions flipped, the larger; "
        "adjusted by Benjamini-Hochberg over the table; * below 0.05"
    )
    why: dict[tuple[int, str], list[str]] = {}
    for row in found.pooled:
        if row.difference.missing:
            reason = WHY_UNDEFINED[row.feature] + ("" if row.reason is None else f"; {row.reason}")
            why.setdefault((row.difference.missing, reason), []).append(row.feature.replace("_", " "))
    for (count, reason), features in why.items():
        tell.note(f"undefined for {count} pairs: {', '.join(features)} ({reason})")


def _contrast_cells(row: Contrast) -> tuple[str, ...]:
    p = max(value for value in (row.p, row.p_admissions) if math.isfinite(value))
    star = "*" if row.p_corrected < 0.05 else ""
    return (
        number(row.false_positives),
        number(row.true_positives),
        span(row.difference) + star,
        number(row.effect, 2),
        f"{row.n_fp}/{row.n_tp}",
        _p(p),
        _p(row.p_corrected),
    )


def _by_code(study: ErrorStudy, tell: Teller) -> None:
    found = study.contrasts
    shown = sorted((row for row in found.by_code if row.reason is None), key=lambda row: row.p_corrected)[:MOST]
    if shown:
        tell.table(
            f"By code, smallest p first · {len({row.code for row in found.by_code})} codes with {found.least} of both",
            ("code", "number", "FP", "TP", "FP - TP", "effect", "pairs FP/TP", "p", "p adj."),
            [(row.code, row.feature.replace("_", " "), *_contrast_cells(row)) for row in shown],
            left=2,
        )
    with_errors = [code for code in found.left_out if code.n_fp]
    if with_errors:
        named = ", ".join(f"{code.code} ({code.n_fp}/{code.n_tp})" for code in with_errors[:MOST])
        more = f" and {len(with_errors) - MOST} more" if len(with_errors) > MOST else ""
        tell.note(f"not compared on their own, {with_errors[0].reason} (FP/TP): {named}{more}")


def _prediction(study: ErrorStudy, tell: Teller) -> None:
    found = study.prediction
    if found.reason is not None:
        tell.note(f"error prediction: not fitted, {found.reason}")
        return
    tell.table(
        f"What predicts a false positive · {found.n_fp} of {found.n_fp + found.n_tp} predicted pairs · {found.folds} folds over admissions",
        ("features", "ROC-AUC", "within codes", "average precision", "AUC over the margin's"),
        [
            ("chance", "0.500", "0.500", number(found.share), ""),
            *(
                (s.name, span(s.auc), span(s.within_code_auc), span(s.average_precision), span(s.over_margin) if s.name != "margin" else "")
                for s in found.sets
            ),
        ],
    )  # fmt: skip
    last = found.sets[-1]
    tell.table(
        f"Coefficients of '{last.name}' · log odds of a false positive per standard deviation, the others held",
        ("feature", "coefficient"),
        [(c.feature.replace("_", " "), span(c.value, 2) + _apart(c.value)) for c in last.coefficients[:MOST]],
    )
    tell.note("* the interval leaves 0 out. Predicts errors of this model on these data; it is no cause")
    by_reason: dict[str, list[str]] = {}
    for name, reason in found.left_out.items():
        by_reason.setdefault(reason, []).append(name.replace("_", " "))
    for reason, names in by_reason.items():
        tell.note(f"left out of the prediction, {reason}: {', '.join(names)}")


def _apart(value: Interval, at: float = 0.0) -> str:
    return "*" if value.low > at or value.high < at else ""


def _cues(study: ErrorStudy, tell: Teller) -> None:
    rows = [row for row in study.cues if not row.code and (row.fp_with or row.tp_with or row.fn_with)]
    tell.table(
        "Cues · how often with false positives, with true positives and with misses",
        ("cue", "FP", "TP", "FN", "FP rate", "TP rate", "odds ratio within codes"),
        [
            (row.kind.replace("_", " ") + ("†" if row.asks_coders else ""), f"{row.fp_with}/{row.fp}", f"{row.tp_with}/{row.tp}",
             f"{row.fn_with}/{row.fn}", number(row.fp_rate), number(row.tp_rate), span(row.odds_ratio, 2) + _apart(row.odds_ratio, 1.0))
            for row in rows
        ],
    )  # fmt: skip
    tell.note(
        "odds ratio: Mantel-Haenszel over codes; 1 says nothing of the error; * its interval leaves 1 out. "
        "† depends on the coders' codes or evidence itself"
    )
    for row in rows:
        if row.odds_ratio.reason is not None:
            tell.note(f"{row.kind.replace('_', ' ')}: no odds ratio, {row.odds_ratio.reason}")
    by_code = [row for row in study.cues if row.code and math.isfinite(row.odds_ratio.estimate) and row.fp_with]
    by_code.sort(key=lambda row: -row.odds_ratio.low)
    if by_code:
        tell.table(
            "Cues by code, surest first",
            ("code", "cue", "FP", "TP", "odds ratio"),
            [
                (row.code, row.kind.replace("_", " ") + ("†" if row.asks_coders else ""), f"{row.fp_with}/{row.fp}",
                 f"{row.tp_with}/{row.tp}", span(row.odds_ratio, 2) + _apart(row.odds_ratio, 1.0))
                for row in by_code[:MOST]
            ],
            left=2,
        )  # fmt: skip
        tell.note(
            "odds ratio with 0.5 added to each count; * its interval, not corrected for the number of rows, leaves 1 out"
        )


def _masking(study: ErrorStudy, tell: Teller) -> None:
    if not study.masking:
        tell.note("masking test: not done; --model gives it the model that was explained")
        return
    pairs = {(row.hadm_id, row.code) for row in study.masked}
    tell.table(
        f"Masking test · {len(pairs)} false positives in {len({name for name, _ in pairs})} admissions · random: as many words",
        ("removed", "pairs", "words", "drop", "random drop", "flips", "random flips", "p adj."),
        [
            (cell.condition, str(cell.flips.n), number(cell.words, 1), span(cell.drop), span(cell.random_drop), span(cell.flips, 2),
             span(cell.random_flips, 2), _p(cell.p_corrected))
            for cell in study.masking
        ],
    )  # fmt: skip
    tell.note(
        "drop: of the probability. flips: share of pairs whose code is no longer given. p: flips against random ones, paired "
        "randomisation over admissions, Holm over the table"
    )
    for cell in study.masking:
        tell.note(f"{cell.condition}: {cell.says}" + _reasons(cell.reasons.items()))


def _reasons(reasons: Iterable[tuple[str, int]]) -> str:
    return "".join(f"; {count} pairs without: {reason}" for reason, count in reasons)


def _confusion(study: ErrorStudy, tell: Teller) -> None:
    for relation, title in (
        ("missed", "Given instead of a missed code"),
        ("assigned", "Given beside an assigned sibling, or a code that a rule ties to it"),
    ):
        edges = [edge for edge in study.edges if edge.relation == relation]
        if not edges:
            tell.note(f"{title.lower()}: none")
            continue
        tell.table(
            f"{title} · {len(edges)} pairs of codes in {study.admissions} admissions",
            ("FP", "other", "tie", "notes", "FP notes", "other notes", "expected", "lift", "p adj."),
            [
                (e.false_positive, e.other, e.label, str(e.count), str(e.false_positives), str(e.others), number(e.expected, 2),
                 span(e.lift, 1), _p(e.p_corrected))
                for e in edges[:MOST]
            ],
            left=3,
        )  # fmt: skip
        few = sum(edge.lift.reason is not None for edge in edges)
        if few:
            tell.note(f"{few} pairs of codes have no interval: fewer than 3 notes")

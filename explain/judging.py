"""From stored explanations to metric rows: plausibility, faithfulness and agreement of every method on every pair."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from explain import agreement as agree
from explain import faithfulness as faith
from explain import plausibility as plaus
from explain.hilat_target import HilatTarget
from explain.perturbation import NoteFunction, Removal
from explain.rows import Row, outcome_of
from explain.table import Explained
from hilat.admissions import Admission, HilatError
from hilat.coder import Coder


def _outcome(one: Explained, code: str) -> str:
    k = one.codes.index(code)
    predicted = bool(one.probabilities[k] >= one.thresholds[k])
    return outcome_of(predicted, None if one.gold is None else bool(one.gold[k]))


def _seen(one: Explained) -> NDArray[np.bool_]:
    return one.word_chunk >= 0


def _place(one: Explained) -> NDArray[np.int64]:
    return np.argsort(np.argsort(one.word_spans[:, 0], kind="stable"), kind="stable").astype(np.int64)


def plausibility_rows(one: Explained, admission: Admission) -> Iterator[Row]:
    """Every method against the admission's evidence, for the codes that were explained; over the words the model read."""
    for i, code in enumerate(one.scored):
        spans = plaus.evidence_words(admission.evidence, code, one.word_spans)
        for method, words in one.methods.items():
            pair = plaus.make_pair(words.scores[i], spans, one.word_spans, _seen(one))
            for name, metric in plaus.METRICS.items():
                yield Row(one.hadm_id, code, _outcome(one, code), method, name, metric.of(pair))


def agreement_rows(one: Explained) -> Iterator[Row]:
    """Every pair of methods, for the codes that were explained; over the words the model read, in text order."""
    words = np.flatnonzero(_seen(one))
    words = words[np.argsort(one.word_spans[words, 0], kind="stable")]
    for i, code in enumerate(one.scored):
        scores = {method: rows.scores[i, words] for method, rows in one.methods.items()}
        for first, second, name, value in agree.agreement(scores):
            yield Row(one.hadm_id, code, _outcome(one, code), f"{first} × {second}", name, value)


def faithfulness_rows(
    coder: Coder,
    one: Explained,
    admission: Admission,
    options: faith.FaithfulnessOptions,
    removal: Removal = "mask",
) -> tuple[list[Row], int]:
    """Every method's faithfulness for the codes that were explained, and how many chunks were encoded for it.

    Raises:
        HilatError: explanations of another text or another layout than this model reads.
    """
    if not one.scored:
        return [], 0
    document = coder.encode(admission)
    if document.word_spans.shape != one.word_spans.shape or (document.word_spans != one.word_spans).any():
        raise HilatError(
            f"admission {one.hadm_id} was explained on {len(one.word_spans)} words that differ from the "
            f"{len(document.word_spans)} this model reads; expected its own explanations. Explain again with this model"
        )
    columns = [coder.code_book.column(code) for code in one.scored]
    target = HilatTarget(coder, columns)
    value = NoteFunction(target, document, removal)
    methods = list(one.methods)
    scores = np.concatenate([one.methods[method].scores for method in methods])  # (methods x k, W)
    which = np.tile(np.arange(len(columns)), len(methods))
    words = faith.Words(_seen(one), _place(one))
    measured = faith.measure(value, scores, which, target.thresholds, words, options)
    rows = []
    for n, m in enumerate(measured):
        code = one.scored[n % len(columns)]
        for name, metric in faith.METRICS.items():
            rows.append(Row(one.hadm_id, code, _outcome(one, code), methods[n // len(columns)], name, metric.of(m)))
    return rows, value.passes


def groups_of(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of all pairs, of those the coders gave, of those the model gave, and of each outcome that occurs."""
    kinds = {"all": None, "gold": ("TP", "FN"), "predicted": ("TP", "FP"), "TP": ("TP",), "FP": ("FP",), "FN": ("FN",)}
    found = {name: [row for row in rows if wanted is None or row.outcome in wanted] for name, wanted in kinds.items()}
    return {name: part for name, part in found.items() if part}

"""From a saved coder and a note to word scores, in one call."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from explain.attribution import Attribution
from explain.hilat_target import HilatTarget
from explain.methods import METHODS, checked_methods
from explain.subject import MethodOptions, Subject
from hilat.admissions import Admission
from hilat.coder import Coder, predict


def explain(
    coder: Coder,
    admission: Admission | str,
    codes: Sequence[str] | None = None,
    *,
    method: str = "attention",
    options: MethodOptions = MethodOptions(),  # noqa: B008 (frozen)
) -> list[Attribution]:
    """Word scores of one admission (or bare text), one Attribution per code; by default the codes the model gives.

    Raises:
        HilatError: for an unknown code or method, or a method that this model does not allow.
    """
    checked_methods([method])
    prediction = next(predict(coder, [admission]))
    if codes is None:
        columns = [int(k) for k in np.flatnonzero(prediction.probabilities >= coder.thresholds)]
    else:
        columns = [coder.code_book.column(code) for code in codes]
    if not columns:
        return []
    text = admission if isinstance(admission, str) else admission.text
    subject = Subject(HilatTarget(coder), prediction.document, text, columns, options)
    words = METHODS[method].scores(subject)
    return [
        Attribution(
            hadm_id=prediction.document.hadm_id,
            code=code,
            method=method,
            target=words.target,
            signed=words.signed,
            scores=words.scores[i],
            word_spans=prediction.document.word_spans,
            outside=float(words.outside[i]),
        )
        for i, code in enumerate(subject.codes)
    ]

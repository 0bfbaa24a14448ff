"""From a saved coder and a note to word scores, and to what they are worth, in one call each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from explain.attribution import Attribution
from explain.collect import collect
from explain.faithfulness import FaithfulnessOptions
from explain.hilat_target import HilatTarget
from explain.judging import faithfulness_of, plausibility_rows
from explain.methods import METHODS, checked_methods
from explain.rows import Row
from explain.subject import MethodOptions, Subject
from hilat.admissions import Admission, plain_text
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


def judge(
    coder: Coder,
    admission: Admission | str,
    methods: Sequence[str] = ("attention", "random"),
    codes: Sequence[str] = ("predicted",),
    options: FaithfulnessOptions = FaithfulnessOptions(steps=20),  # noqa: B008 (frozen)
) -> list[Row]:
    """Faithfulness of the methods on one admission or bare text, and plausibility where the admission has evidence spans.

    codes: as for `hilat explain`, such as "predicted", "gold" or codes. One row per code, method and measure; the
    measures are explain.faithfulness.METRICS and explain.plausibility.METRICS.

    Raises:
        HilatError: for an unknown code or method, or a method that this model does not allow.
    """
    whole = Admission("note", plain_text(admission), ()) if isinstance(admission, str) else admission
    (one,) = collect(coder, [whole], choices=codes, methods=methods)
    return [
        *faithfulness_of(coder, one, whole, options).rows,
        *(plausibility_rows(one, whole) if whole.evidence else ()),
    ]

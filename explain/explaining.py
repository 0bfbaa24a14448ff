"""From a saved coder and a note to word scores, and to what they are worth, in one call each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from explain.attribution import Attribution
from explain.collect import collect
from explain.explanation import Explanation, Origin
from explain.faithfulness import FaithfulnessOptions
from explain.judging import faithfulness_of, plausibility_rows
from explain.methods import checked_methods
from explain.rows import Row
from explain.subject import MethodOptions
from hilat.admissions import Admission, plain_text
from hilat.coder import Coder

POOLS = ("max", "flat")  # chunk pooling without a weight per chunk, so that equation 10 is not defined


def explain(
    coder: Coder,
    admission: Admission | str,
    codes: Sequence[str] | None = None,
    *,
    method: str = "attention",
    options: MethodOptions = MethodOptions(),  # noqa: B008 (frozen)
) -> Explanation:
    """Word scores of one admission (or bare text), one Attribution per code; by default the codes the model gives.

    The result is a sequence of Attribution that shows itself as the admission's page in a notebook. For that page
    attention is computed beside any other method, which costs one more pass through the encoder at most.

    Raises:
        HilatError: for an unknown code or method, an empty text, or a method that this model does not allow.
    """
    checked_methods([method])
    for code in codes or ():
        coder.code_book.column(code)
    whole = Admission("text", plain_text(admission), ()) if isinstance(admission, str) else admission
    shaded = method != "attention" and coder.model.config.chunk_attention not in POOLS
    methods = ("attention", method) if shaded else (method,)
    choices = ("predicted",) if codes is None else tuple(codes)
    (one,) = collect(coder, [whole], choices=choices, methods=methods, options=options)
    if not whole.codes:  # nobody's word on this note, as far as is known here
        one = replace(one, gold=None)
    spans = one.word_spans if isinstance(admission, Admission) else in_given_text(one.word_spans, admission)
    words = one.methods.get(method)  # None where no code is explained
    attributions = tuple(
        Attribution(
            hadm_id=one.hadm_id,
            code=code,
            method=method,
            target=words.target,
            signed=words.signed,
            scores=words.scores[i],
            word_spans=spans,
            outside=float(words.outside[i]),
        )
        for code in (one.scored if codes is None else codes)
        if words is not None
        for i in [one.scored.index(code)]
    )
    origin = Origin(str(coder.model.name_or_path), coder.threshold_source, coder.layout.chunks)
    return Explanation(attributions, method, whole, one, coder.code_book, origin)


def in_given_text(spans: NDArray[np.int64], text: str) -> NDArray[np.int64]:
    """Word spans (W, 2) of plain_text(text) as spans of the text as it was given."""
    kept = [i for i, ch in enumerate(text) if ch != "\x00" and not (ch == "\r" and text[i + 1 : i + 2] == "\n")]
    if len(kept) == len(text):
        return spans
    place = np.array(kept)  # of each character of the plain text
    return np.stack([place[spans[:, 0]], place[spans[:, 1] - 1] + 1], axis=1).astype(np.int64)  # (W, 2)


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

"""What the worked example needs of the model: one note's attentions as plain arrays."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hilat.admissions import HilatError

if TYPE_CHECKING:
    from hilat.cli.figure_choice import Notes
    from reports.figures.worked import Attended


def attended(model: Path, device: str, notes: Notes, pair: tuple[str, str]) -> Attended:
    """Run the model on one admission and take one code's attentions.

    Raises:
        HilatError: an admission that the corpus does not hold, or a model that pools chunks.
    """
    import numpy as np

    from explain.attention import attend
    from hilat.cli.measured import known_admission
    from hilat.coder import load_coder
    from reports.figures.worked import Attended

    coder = load_coder(model, device)
    hadm_id, code = pair
    admission = known_admission(notes.known, hadm_id)
    k = coder.code_book.column(code)
    ((prediction, _, _),) = attend(coder, [admission], columns=[k])
    document = prediction.document
    if prediction.token_attention is None or prediction.chunk_attention is None:
        raise HilatError("the model gave no attention; expected one with chunk_attention: shared or per_code. Train such a one")  # fmt: skip
    tokens = tuple(tuple(coder.tokenizer.convert_ids_to_tokens(row.tolist())) for row in document.input_ids)
    return Attended(
        hadm_id, code, coder.code_book.titles[k], float(prediction.probabilities[k]), float(prediction.logits[k]),
        float(coder.thresholds[k]), prediction.token_attention[0].astype(np.float64),
        prediction.chunk_attention[k].astype(np.float64), document.word_index, tokens,
        tuple(admission.text[start:end] for start, end in document.word_spans.tolist()),
        np.asarray((document.word_index < 0).all(axis=1)),
    )  # fmt: skip

"""From a coder and admissions to what the explanation tables hold."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import tee
from typing import Any

import numpy as np
from numpy.typing import NDArray

from explain.hilat_target import HilatTarget
from explain.methods import METHODS, checked_methods, reads_states
from explain.subject import MethodOptions, Subject
from explain.table import Explained
from hilat.admissions import Admission
from hilat.coder import Coder, Prediction, predict

CHOICES = ("all", "predicted", "gold", "false-positive", "false-negative")


def chosen_columns(
    choices: Sequence[str], coder: Coder, predicted: NDArray[np.bool_], gold: NDArray[np.bool_]
) -> list[int]:
    """Columns of the codes that any of the choices names: a word of CHOICES, or a code. Unknown ones raise HilatError."""
    named = {
        "all": np.ones_like(predicted),
        "predicted": predicted,
        "gold": gold,
        "false-positive": predicted & ~gold,
        "false-negative": ~predicted & gold,
    }
    wanted = np.zeros(len(coder.code_book), dtype=bool)  # (K,)
    for choice in choices:
        if choice in CHOICES:
            wanted |= named[choice]
        else:
            wanted[coder.code_book.column(choice)] = True
    return [int(k) for k in np.flatnonzero(wanted)]


def fingerprint(coder: Coder) -> str:
    """A short digest of the model's weights and thresholds: the same model gives the same one."""
    digest = hashlib.blake2b(digest_size=12)
    for name, tensor in sorted(coder.model.state_dict().items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensor.detach().float().cpu().numpy()).tobytes())
    digest.update(coder.thresholds.tobytes())
    return digest.hexdigest()


def collect(
    coder: Coder,
    admissions: Iterable[Admission],
    *,
    choices: Sequence[str] = ("predicted", "gold"),
    methods: Sequence[str] = ("attention",),
    options: MethodOptions = MethodOptions(),  # noqa: B008 (frozen)
    batch_size: int = 8,
    workers: int = 0,
) -> Iterator[Explained]:
    """One Explained per admission, in order: predictions in windows (`hilat.coder.predict`), then every method on every note.

    Only a window of admissions is held, with the hidden states of its predictions where a method reads them: attention costs
    no second pass. workers: processes that clean and tokenise ahead.

    Raises:
        HilatError: for an unknown method or code, or a method that this model does not allow.
    """
    checked_methods(methods)
    target = HilatTarget(coder)
    pooled = coder.model.config.chunk_attention not in ("shared", "per_code")
    # Chunk attention for the tables; token attention of the chosen codes only is the methods' own affair.
    given, ahead = tee(admissions)
    predictions = predict(
        coder,
        ahead,
        batch_size=batch_size,
        attentions=not pooled,
        attention_codes=(),
        hidden=any(map(reads_states, methods)),
        workers=workers,
    )
    for admission, prediction in zip(given, predictions, strict=True):
        gold = coder.code_book.targets([admission.codes])[0] > 0.5  # (K,)
        predicted = prediction.probabilities >= coder.thresholds  # (K,)
        columns = chosen_columns(choices, coder, predicted, gold)
        subject = Subject(target, prediction.document, admission.text, columns, options, prediction.hidden)
        yield explained(coder, admission, prediction, {name: METHODS[name].scores(subject) for name in methods} if columns else {}, columns)  # fmt: skip


def explained(
    coder: Coder, admission: Admission, prediction: Prediction, methods: dict[str, Any], columns: Sequence[int]
) -> Explained:
    """What the tables keep of one admission."""
    document = prediction.document
    text = prediction.cleaned
    words = document.word_index[document.word_index >= 0]
    return Explained(
        hadm_id=admission.hadm_id,
        codes=coder.code_book.codes,
        logits=prediction.logits,
        probabilities=prediction.probabilities,
        thresholds=coder.thresholds,
        gold=coder.code_book.targets([admission.codes])[0] > 0.5,
        chunk_attention=None if prediction.chunk_attention is None else prediction.chunk_attention.astype(np.float64),
        scored=tuple(coder.code_book.codes[k] for k in columns),
        methods=methods,
        word_spans=document.word_spans,
        word_chunk=first_chunk(document.word_index, len(document.word_spans)),
        word_tokens=np.bincount(words, minlength=len(document.word_spans)),
        removed=text.removed,
        removed_reasons=text.removed_reasons,
    )


def first_chunk(word_index: NDArray[np.int64], n_words: int) -> NDArray[np.int64]:
    """The chunk in which each word begins, (W,), from word_index (C, T); -1 for words after the last chunk."""
    chunks = np.broadcast_to(np.arange(word_index.shape[0])[:, None], word_index.shape)  # (C, T)
    first = np.full(n_words, word_index.shape[0], dtype=np.int64)
    inside = word_index >= 0
    np.minimum.at(first, word_index[inside], chunks[inside])
    return np.where(first == word_index.shape[0], -1, first)

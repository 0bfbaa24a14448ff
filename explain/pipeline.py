"""A trained coder with the calling convention of a transformers pipeline: texts in, codes with probabilities and evidence out.

It does not inherit from transformers' Pipeline, whose batches are padded by a tokenizer and unpacked tensor by tensor, under
no_grad, and put on GPU 0 by default: here a text is several chunks, a batch is made of notes of similar length, and some
methods need gradients. It is called in the same way.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import tee
from pathlib import Path
from typing import Any, TypedDict, Unpack, overload

import numpy as np
from numpy.typing import NDArray

from explain.attention import global_token_attention
from explain.explaining import in_given_text
from explain.hilat_target import HilatTarget
from explain.methods import METHODS, checked_methods
from explain.subject import MethodOptions, Subject
from hilat.admissions import Admission, HilatError, plain_text
from hilat.coder import WINDOW, Coder, Prediction, load_coder, predict
from hilat.encoding import tokens_to_words

_AT_ONCE = (
    2**29
)  # bytes of token attention of all codes for a window of notes, up to which it comes with the prediction


@dataclass(frozen=True, slots=True)
class EvidenceWord(Mapping[str, Any]):
    """A word that speaks for a code: its characters [start, end) in the text that was given, and its score.

    Read as an object or as a mapping. `word` is the patient's text, so it is not in the repr.
    """

    word: str = field(repr=False)
    start: int
    end: int
    score: float

    def __getitem__(self, name: str) -> Any:
        return _value(self, name)

    def __iter__(self) -> Iterator[str]:
        return (one.name for one in fields(self))

    def __len__(self) -> int:
        return len(fields(self))


@dataclass(frozen=True, slots=True)
class CodeScore(Mapping[str, Any]):
    """One code of one text. score: its probability. given: whether that reaches the threshold.

    evidence: the words that score highest, best first; words without a positive score are none. Read as an object or as a
    mapping; `json.dumps(scores, default=dict)` writes it.
    """

    code: str
    title: str
    score: float
    logit: float
    threshold: float
    given: bool
    evidence: tuple[EvidenceWord, ...] = ()

    def __getitem__(self, name: str) -> Any:
        return _value(self, name)

    def __iter__(self) -> Iterator[str]:
        return (one.name for one in fields(self))

    def __len__(self) -> int:
        return len(fields(self))


def _value(record: EvidenceWord | CodeScore, name: str) -> Any:
    if name not in tuple(record):
        raise KeyError(name)
    return getattr(record, name)


@dataclass(frozen=True, slots=True)
class CodedNote:
    """One text with its codes, by falling probability. truncated_words: those after the last chunk, which were not read."""

    hadm_id: str
    codes: tuple[CodeScore, ...]
    truncated_words: int


@dataclass(frozen=True, slots=True)
class CodingOptions:
    """What a pipeline gives.

    top_k: this many codes, the most probable ones, whether or not they reach their threshold; None: those that do.
    threshold: one probability for all codes instead of the model's own thresholds; with top_k, both hold, and 0 is all codes.
    evidence: how many words per code at most; 0: none, which is the fastest. method: of explain.METHODS.
    workers: processes that clean and tokenise ahead.
    """

    top_k: int | None = None
    threshold: float | None = None
    evidence: int = 5
    method: str = "attention"
    batch_size: int = 8
    workers: int = 0
    method_options: MethodOptions = MethodOptions()  # noqa: RUF009 (frozen)

    def __post_init__(self) -> None:
        checked_methods([self.method])
        for name, least in (("top_k", 1), ("evidence", 0), ("batch_size", 1), ("workers", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise HilatError(f"{name} is {value}; expected a whole number of {least} or more. Correct it")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise HilatError(
                f"threshold is {self.threshold}; expected a probability from 0 to 1, or None for the model's own. Correct it"
            )


class Changes(TypedDict, total=False):
    """Options of a pipeline by name, see `CodingOptions`."""

    top_k: int | None
    threshold: float | None
    evidence: int
    method: str
    batch_size: int
    workers: int
    method_options: MethodOptions


class CodingPipeline:
    """Codes, probabilities and evidence words of texts.

        pipeline = CodingPipeline("runs/xlnet/model")
        pipeline("Admitted with sepsis ...")          -> list of CodeScore
        pipeline([text, text])                        -> list of such lists
        pipeline(text for text in stream, top_k=5)    -> iterator of them, which reads a window of texts ahead

    A text is a str or an Admission; offsets are those of the text that was given. Options of the constructor can be changed
    for each call.
    """

    def __init__(self, model: Coder | Path | str, *, device: str = "auto", **options: Unpack[Changes]) -> None:
        """model: a coder, which stays on its device, or a model folder, which is loaded on `device`.

        Raises:
            HilatError: a folder that is no model, or an option that is not known or out of range.
        """
        self.coder = model if isinstance(model, Coder) else load_coder(Path(model), device)
        self.options = _changed(CodingOptions(), options)
        self._target = HilatTarget(self.coder)
        self._rank = np.argsort(
            np.argsort(np.array(self.coder.code_book.codes))
        )  # (K,) place of each code in text order

    @overload
    def __call__(self, texts: str | Admission, **options: Unpack[Changes]) -> list[CodeScore]: ...

    @overload
    def __call__(
        self, texts: list[str] | tuple[str, ...] | list[Admission], **options: Unpack[Changes]
    ) -> list[list[CodeScore]]: ...

    @overload
    def __call__(self, texts: Iterator[str | Admission], **options: Unpack[Changes]) -> Iterator[list[CodeScore]]: ...

    def __call__(
        self, texts: str | Admission | Iterable[str | Admission], **options: Unpack[Changes]
    ) -> list[CodeScore] | list[list[CodeScore]] | Iterator[list[CodeScore]]:
        """The codes of a text; of each text of a list, in its order; or, of any other iterable, one text's after another.

        Raises:
            HilatError: an empty text, something that is no text, an option out of range, or a method that this model does
                not allow.
        """
        if isinstance(texts, str | Admission):
            return list(next(self.notes([texts], **options)).codes)
        stream = (list(note.codes) for note in self.notes(texts, **options))
        return list(stream) if isinstance(texts, list | tuple) else stream

    def notes(self, texts: Iterable[str | Admission], **options: Unpack[Changes]) -> Iterator[CodedNote]:
        """The same, one CodedNote per text, which also says what was not read."""
        return self._coded(texts, _changed(self.options, options))

    def _coded(self, texts: Iterable[str | Admission], options: CodingOptions) -> Iterator[CodedNote]:
        book, limits = self.coder.code_book, self._limits(options)
        given, ahead = tee((text, _admission(text, n)) for n, text in enumerate(texts, 1))
        predictions = predict(
            self.coder,
            (admission for _, admission in ahead),
            batch_size=options.batch_size,
            attentions=self._at_once(options),
            attention_codes=range(len(book)),
            workers=options.workers,
        )
        for (text, admission), prediction in zip(given, predictions, strict=True):
            columns = self._columns(prediction.probabilities, limits, options)
            words = self._evidence(text, admission, prediction, columns, options)
            codes = tuple(
                CodeScore(
                    code=book.codes[k],
                    title=book.titles[k],
                    score=float(prediction.probabilities[k]),
                    logit=float(prediction.logits[k]),
                    threshold=float(limits[k]),
                    given=bool(prediction.probabilities[k] >= limits[k]),
                    evidence=words[i],
                )
                for i, k in enumerate(columns)
            )
            yield CodedNote(admission.hadm_id, codes, prediction.document.truncated_words)

    def _limits(self, options: CodingOptions) -> NDArray[np.float64]:
        """The threshold of each code, (K,)."""
        own = self.coder.thresholds
        return own if options.threshold is None else np.full_like(own, options.threshold)

    def _columns(
        self, probabilities: NDArray[np.float64], limits: NDArray[np.float64], options: CodingOptions
    ) -> list[int]:
        """The columns of the codes to give, by falling probability, equal ones by code."""
        order = np.lexsort((self._rank, -probabilities))  # (K,)
        if options.top_k is None or options.threshold is not None:
            order = order[probabilities[order] >= limits[order]]
        return [int(k) for k in order[: options.top_k]]

    def _at_once(self, options: CodingOptions) -> bool:
        """Whether the evidence comes with the prediction: one pass of the encoder less for each text."""
        if not options.evidence or options.method != "attention":
            return False
        config, layout = self.coder.model.config, self.coder.layout
        numbers = max(WINDOW, options.batch_size) * len(self.coder.code_book) * layout.chunks * layout.tokens
        return config.chunk_attention in ("shared", "per_code") and 4 * numbers <= _AT_ONCE

    def _evidence(
        self,
        text: str | Admission,
        admission: Admission,
        prediction: Prediction,
        columns: Sequence[int],
        options: CodingOptions,
    ) -> list[tuple[EvidenceWord, ...]]:
        """The strongest words for each of k columns."""
        if not options.evidence or not columns:
            return [()] * len(columns)
        if prediction.token_attention is not None and prediction.chunk_attention is not None:
            chosen = list(columns)
            tokens = global_token_attention(prediction.token_attention[chosen], prediction.chunk_attention[chosen])
            scores = tokens_to_words(tokens, prediction.document, how=options.method_options.join)  # (k, W)
        else:
            subject = Subject(self._target, prediction.document, admission.text, columns, options.method_options)
            scores = METHODS[options.method].scores(subject).scores  # (k, W)
        plain = prediction.document.word_spans  # (W, 2)
        spans, raw = (in_given_text(plain, text), text) if isinstance(text, str) else (plain, text.text)
        return [_strongest(row, spans, raw, options.evidence) for row in scores]


def _strongest(scores: NDArray[np.float64], spans: NDArray[np.int64], text: str, most: int) -> tuple[EvidenceWord, ...]:
    """The words with the highest positive scores (W,), best first, equal ones in text order."""
    order = np.lexsort((spans[:, 0], -scores))[:most]
    return tuple(
        EvidenceWord(text[start:end], start, end, float(scores[w]))
        for w in order[scores[order] > 0]
        for start, end in [spans[w].tolist()]
    )


def _admission(text: str | Admission, n: int) -> Admission:
    """The n-th text, from 1, as an admission."""
    if isinstance(text, Admission):
        return text
    if not isinstance(text, str):
        raise HilatError(f"text {n} is a {type(text).__name__}; expected a str or an Admission. Pass the note's text")
    plain = plain_text(text)
    if not plain.strip():
        raise HilatError(f"text {n} is empty; expected the text of a note. Leave it out")
    return Admission("text", plain, ())


def _changed(options: CodingOptions, changes: Changes) -> CodingOptions:
    """The options with some changed."""
    known = [one.name for one in fields(CodingOptions)]
    unknown = sorted(set(changes) - set(known))
    if unknown:
        raise HilatError(
            f"options {', '.join(unknown)} are not known; expected some of {', '.join(known)}. Correct them"
        )
    return replace(options, **changes)

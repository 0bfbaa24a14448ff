"""From clean words to chunks of token ids, every token knowing its word and every word its place in the raw note."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from hilat.admissions import Admission, HilatError
from hilat.cleaning import CleaningRules, CleanText, clean
from hilat.sections import CHUNK_OF_SECTION, SECTION_CHUNKS
from hilat.tokens import SpecialIds, TokenRules, TokenText, owners

SPECIAL_TOKENS = 2
# Segment ids of an XLNet chunk `A <sep> <cls> <pad>...` in the published runs.
_XLNET_TEXT, _XLNET_CLS, _XLNET_PAD = 0, 2, 3


@dataclass(frozen=True, slots=True)
class ChunkLayout:
    """C chunks of T tokens, the two special tokens included; by_section: one chunk per group of sections (ablation d)."""

    chunks: int = 10
    tokens: int = 512
    by_section: bool = False

    def __post_init__(self) -> None:
        if self.chunks < 1 or self.tokens < SPECIAL_TOKENS + 1:
            raise HilatError(
                f"the layout has {self.chunks} chunks of {self.tokens} tokens; expected at least 1 chunk of 3 tokens"
            )
        if self.by_section and self.chunks != len(SECTION_CHUNKS):
            raise HilatError(
                f"chunks by section need {len(SECTION_CHUNKS)} chunks, one per group of sections; the layout has "
                f"{self.chunks}. Set chunks to {len(SECTION_CHUNKS)}"
            )


@dataclass(frozen=True, slots=True, eq=False)
class EncodedDocument:
    """A note as the model reads it; the arrays are read-only.

    input_ids, attention_mask, token_type_ids: (C, T). word_index: (C, T), the word of each token, -1 for special tokens
    and padding. word_spans: (W, 2) raw-text offsets of all clean words in model order, those without a token too.
    truncated_words: words that have tokens, none of which fitted into the chunks.
    """

    hadm_id: str
    input_ids: NDArray[np.int64]
    attention_mask: NDArray[np.int64]
    token_type_ids: NDArray[np.int64]
    word_index: NDArray[np.int64]
    word_spans: NDArray[np.int64]
    truncated_words: int

    def __post_init__(self) -> None:
        shape, who = self.input_ids.shape, f"encoded admission {self.hadm_id}"
        if len(shape) != 2:
            raise HilatError(f"{who}: input_ids has shape {shape}; expected (chunks, tokens)")
        for name in ("attention_mask", "token_type_ids", "word_index"):
            if getattr(self, name).shape != shape:
                raise HilatError(
                    f"{who}: {name} has shape {getattr(self, name).shape}, input_ids {shape}; they must agree"
                )
        n_words = len(self.word_spans)
        if self.word_spans.shape != (n_words, 2) or (self.word_spans < 0).any():
            raise HilatError(f"{who}: word_spans has shape {self.word_spans.shape}; expected (W, 2) of offsets from 0")
        if (self.word_spans[:, 0] >= self.word_spans[:, 1]).any():
            raise HilatError(f"{who}: a word span is empty or backwards; expected start < end")
        if ((self.word_index < -1) | (self.word_index >= n_words)).any():
            raise HilatError(f"{who}: word_index points past its {n_words} words; expected -1 to {n_words - 1}")
        if (self.attention_mask[self.word_index >= 0] != 1).any():
            raise HilatError(f"{who}: a token of a word is masked out; expected attention_mask 1 on every word")
        if not 0 <= self.truncated_words <= n_words:
            raise HilatError(f"{who}: {self.truncated_words} of {n_words} words are truncated; expected 0 to {n_words}")
        for name in ("input_ids", "attention_mask", "token_type_ids", "word_index", "word_spans"):
            getattr(self, name).flags.writeable = False

    @property
    def filled_chunks(self) -> int:
        """Chunks that hold a word."""
        return int((self.word_index >= 0).any(axis=1).sum())

    @property
    def n_content_tokens(self) -> int:
        """Tokens in the chunks that belong to words."""
        return int((self.word_index >= 0).sum())


@dataclass(frozen=True, slots=True)
class SpecialFrame:
    """The special tokens before and after a chunk's content, the padding, and whether segment ids are XLNet's."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    pad: int
    xlnet: bool


def encode(
    admission: Admission | str,
    tokenizer: PreTrainedTokenizerBase,
    layout: ChunkLayout,
    rules: CleaningRules = CleaningRules(),  # noqa: B008 (frozen)
) -> EncodedDocument:
    """The admission (or a bare text) in chunks.

    The clean words, joined by single spaces, are tokenised once by the encoder's own tokenizer; the tokens then fill
    the chunks one after the other (section 3.3.1), so that a word may begin in one chunk and end in the next. With
    `layout.by_section` each chunk takes the tokens of one group of sections (ablation d): text under an unknown
    heading stays with the section it follows, and text before the first heading goes to the first chunk.

    Raises:
        HilatError: for a tokenizer without padding or without two special tokens around a sequence.
    """
    hadm_id, text = ("text", admission) if isinstance(admission, str) else (admission.hadm_id, admission.text)
    cleaned = clean(text, rules)
    read = TokenText(cleaned, *tokenise(cleaned.words, tokenizer))
    return in_chunks(hadm_id, read, layout, special_frame(tokenizer))


def in_chunks(hadm_id: str, read: TokenText, layout: ChunkLayout, frame: SpecialFrame) -> EncodedDocument:
    """A note that is cut into tokens already, in chunks (see `encode`)."""
    room = layout.tokens - SPECIAL_TOKENS
    ids, words = read.ids, read.words
    pieces: Sequence[slice | NDArray[np.int64]] = (
        _section_pieces(read.cleaned, words, room) if layout.by_section else _pieces(len(ids), layout.chunks, room)
    )
    input_ids, mask, types = fill_chunks([ids[piece] for piece in pieces], layout.tokens, frame)
    index = np.full(input_ids.shape, -1, dtype=np.int64)  # (C, T)
    first = len(frame.before)
    for c, piece in enumerate(pieces):
        own = words[piece]
        index[c, first : first + len(own)] = own
    n_words = len(read.cleaned.words)
    with_tokens = np.bincount(words, minlength=n_words) > 0
    truncated = np.count_nonzero(with_tokens) - np.count_nonzero(np.bincount(index[index >= 0], minlength=n_words))
    return EncodedDocument(hadm_id, input_ids, mask, types, index, read.cleaned.spans, int(truncated))


def token_rules(tokenizer: PreTrainedTokenizerBase) -> TokenRules:
    """What `hilat.tokens` needs to know of a fast tokenizer."""
    return TokenRules(tokenizer.backend_tokenizer.to_str(), _special_ids(tokenizer))


def _special_ids(tokenizer: PreTrainedTokenizerBase) -> SpecialIds:
    unknown = cast("int | None", tokenizer.unk_token_id)
    return SpecialIds(tuple(i for i in tokenizer.all_special_ids if i != unknown), unknown)


def special_frame(tokenizer: PreTrainedTokenizerBase) -> SpecialFrame:
    """How this tokenizer frames a sequence, read off an empty one.

    Raises:
        HilatError: when it does not add exactly two special tokens, or has no padding token.
    """
    empty = tuple(tokenizer("", padding=False, truncation=False)["input_ids"])
    if len(empty) != SPECIAL_TOKENS:
        raise HilatError(
            f"the tokenizer adds {len(empty)} special tokens to a sequence; expected {SPECIAL_TOKENS}, such as [CLS] and "
            "[SEP]. Use the encoder's own tokenizer"
        )
    pad = tokenizer.pad_token_id
    if pad is None:
        raise HilatError(
            "the tokenizer has no pad_token; expected one to fill chunks with. Set it and save the tokenizer"
        )
    if empty[-1] == tokenizer.cls_token_id and empty[0] != tokenizer.cls_token_id:
        return SpecialFrame((), empty, cast(int, pad), xlnet=True)  # A <sep> <cls>
    return SpecialFrame(empty[:1], empty[1:], cast(int, pad), xlnet=False)


def tokenise(words: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Token ids of the words joined by spaces, without special tokens, and the word of each token; both (N,).

    Which word a token belongs to: `hilat.tokens.owners`. A word that is spelt like a special token ("<sep>") is unknown,
    not special.
    """
    if not words:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    encoding = tokenizer(
        " ".join(words),
        add_special_tokens=False,
        return_offsets_mapping=True,
        padding=False,
        truncation=False,  # also where tokenizer.json asks for it
        split_special_tokens=True,
        verbose=False,  # the whole note is longer than the encoder's positions; the chunks are not
    )
    return owners(encoding["input_ids"], encoding["offset_mapping"], words, _special_ids(tokenizer))


def fill_chunks(
    contents: Sequence[NDArray[np.int64]], tokens: int, frame: SpecialFrame
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Input ids, attention mask and token type ids, each (C, T), of C chunks' content ids (at most T - 2 each).

    Padding stands right. An empty chunk is its two special tokens, attended to, and padding, as published.
    """
    shape = (len(contents), tokens)
    input_ids = np.full(shape, frame.pad, dtype=np.int64)  # (C, T)
    mask = np.zeros(shape, dtype=np.int64)
    types = np.full(shape, _XLNET_PAD if frame.xlnet else 0, dtype=np.int64)
    first = len(frame.before)
    for c, content in enumerate(contents):
        after = first + len(content)
        end = after + len(frame.after)
        input_ids[c, :first] = frame.before
        input_ids[c, first:after] = content
        input_ids[c, after:end] = frame.after
        mask[c, :end] = 1
        if frame.xlnet:
            types[c, :end] = _XLNET_TEXT
            types[c, end - 1] = _XLNET_CLS
    return input_ids, mask, types


def _pieces(tokens: int, chunks: int, room: int) -> list[slice]:
    """Token positions per chunk, filled one after the other; empty ones where the note is over."""
    return [slice(min(c * room, tokens), min((c + 1) * room, tokens)) for c in range(chunks)]


def _section_pieces(cleaned: CleanText, words: NDArray[np.int64], room: int) -> list[NDArray[np.int64]]:
    """Token positions per chunk when each chunk holds one group of sections, cut where it is full."""
    chunk_of_section = np.array([CHUNK_OF_SECTION[section.name] for section in cleaned.sections], dtype=np.int64)
    chunk = chunk_of_section[cleaned.word_sections[words]]  # (N,)
    return [np.flatnonzero(chunk == c)[:room] for c in range(len(SECTION_CHUNKS))]


def collate(documents: Sequence[EncodedDocument]) -> dict[str, torch.Tensor]:
    """Model inputs (B, C, T), int64, of documents of one layout.

    Raises:
        HilatError: for no document, or documents of several layouts.
    """
    shapes = sorted({document.input_ids.shape for document in documents})
    if len(shapes) != 1:
        raise HilatError(
            f"a batch of {len(documents)} documents has chunk shapes {shapes}; expected one document or more, all of one "
            "shape. Encode them with the same layout"
        )
    return {
        name: torch.from_numpy(np.stack([getattr(document, name) for document in documents]))  # (B, C, T)
        for name in ("input_ids", "attention_mask", "token_type_ids")
    }


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> None:
    """Refuse a tokenizer that cannot belong to an encoder with `vocab_size` embeddings.

    transformers 5 loads some tokenizers with an empty vocabulary and no error; its ids would all be <unk>.

    Raises:
        HilatError: for a slow tokenizer, an empty vocabulary, another size, or a missing pad, cls or sep token.
    """
    if not tokenizer.is_fast:
        raise HilatError(
            "the tokenizer is a slow one, without offsets; expected a fast one. Load it from a folder with a tokenizer.json"
        )
    size = len(tokenizer)
    if size <= len(set(tokenizer.all_special_ids)):
        raise HilatError(
            f"the tokenizer has an empty vocabulary ({size} tokens, all special); expected {vocab_size} tokens. "
            "Load it with AutoTokenizer.from_pretrained from a folder with a tokenizer.json"
        )
    if size != vocab_size:
        raise HilatError(
            f"the tokenizer has {size} tokens and the encoder {vocab_size} embeddings; they do not belong together. "
            "Load the tokenizer from the encoder's own folder"
        )
    for name in ("pad_token", "cls_token", "sep_token"):
        if getattr(tokenizer, f"{name}_id") is None:
            raise HilatError(
                f"the tokenizer has no {name}; expected pad, cls and sep tokens. Use the encoder's own tokenizer"
            )


def seen_words(document: EncodedDocument) -> NDArray[np.bool_]:
    """(W,): whether the model read at least one token of each word."""
    return np.bincount(document.word_index[document.word_index >= 0], minlength=len(document.word_spans)) > 0


def tokens_to_words(
    scores: NDArray[Any], document: EncodedDocument, how: Literal["sum", "mean", "max"] = "sum"
) -> NDArray[np.float64]:
    """Word scores (..., W) from token scores (..., C, T); a word without a token gets 0 (see `seen_words`).

    Fig. 2 d of Liu et al. 2022 sums. Scores on special tokens and padding are left out (see `outside_words`).

    Raises:
        HilatError: for another `how`, or scores that do not end with the document's (C, T).
    """
    _check_scores(scores, document)
    if how not in ("sum", "mean", "max"):
        raise HilatError(f"token scores cannot be joined by {how!r}; expected sum, mean or max. Choose one of them")
    inside = document.word_index >= 0  # (C, T)
    words = document.word_index[inside]  # (N,)
    values = np.asarray(scores[..., inside], dtype=np.float64)  # (..., N)
    n_words = len(document.word_spans)
    out = np.full((*values.shape[:-1], n_words), -np.inf if how == "max" else 0.0)  # (..., W)
    for place in np.ndindex(values.shape[:-1]):
        if how == "max":
            np.maximum.at(out[place], words, values[place])
        else:
            out[place] = np.bincount(words, weights=values[place], minlength=n_words)
    if how == "mean":
        out /= np.maximum(np.bincount(words, minlength=n_words), 1)
    return np.where(seen_words(document), out, 0.0)


def outside_words(scores: NDArray[Any], document: EncodedDocument) -> NDArray[np.float64]:
    """The sum (...) of token scores (..., C, T) on special tokens and padding."""
    _check_scores(scores, document)
    return np.asarray(scores[..., document.word_index < 0].sum(axis=-1, dtype=np.float64), dtype=np.float64)


def _check_scores(scores: NDArray[Any], document: EncodedDocument) -> None:
    if scores.shape[-2:] != document.word_index.shape:
        raise HilatError(
            f"token scores have shape {scores.shape}; expected (..., {', '.join(map(str, document.word_index.shape))}) for "
            f"admission {document.hadm_id}. Pass the scores of this document"
        )

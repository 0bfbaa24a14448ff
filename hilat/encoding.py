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


@dataclass(frozen=True, slots=True)
class EncodedDocument:
    """A note as the model reads it.

    input_ids, attention_mask, token_type_ids: (C, T). word_index: (C, T), the word of each token, -1 for special tokens
    and padding. word_spans: (W, 2) raw-text offsets of all clean words in model order; words after the last chunk have
    no token. truncated_words: words of which no token fitted.
    """

    hadm_id: str
    input_ids: NDArray[np.int64]
    attention_mask: NDArray[np.int64]
    token_type_ids: NDArray[np.int64]
    word_index: NDArray[np.int64]
    word_spans: NDArray[np.int64]
    truncated_words: int

    def __post_init__(self) -> None:
        shape = self.input_ids.shape
        for name in ("attention_mask", "token_type_ids", "word_index"):
            if getattr(self, name).shape != shape:
                raise HilatError(
                    f"encoded admission {self.hadm_id}: {name} has shape {getattr(self, name).shape}, input_ids {shape}; "
                    "they must agree"
                )
        if self.word_index.size and int(self.word_index.max()) >= len(self.word_spans):
            raise HilatError(f"encoded admission {self.hadm_id}: word_index points past its {len(self.word_spans)} words")
        for name in ("input_ids", "attention_mask", "token_type_ids", "word_index", "word_spans"):
            getattr(self, name).flags.writeable = False

    @property
    def filled_chunks(self) -> int:
        """Chunks that hold a word."""
        return int((self.word_index >= 0).any(axis=1).sum())

    @property
    def content_tokens(self) -> int:
        """Tokens that belong to words."""
        return int((self.word_index >= 0).sum())


def encode(
    admission: Admission | str,
    tokenizer: PreTrainedTokenizerBase,
    layout: ChunkLayout,
    rules: CleaningRules,
) -> EncodedDocument:
    """The admission (or a bare text) in chunks.

    The clean words, joined by single spaces, are tokenised once by the encoder's own tokenizer; the tokens then fill
    the chunks one after the other (section 3.3.1), so that a word may begin in one chunk and end in the next.
    """
    hadm_id, text = ("text", admission) if isinstance(admission, str) else (admission.hadm_id, admission.text)
    cleaned = clean(text, rules)
    ids, words = tokenise(cleaned.words, tokenizer)
    room = layout.tokens - SPECIAL_TOKENS
    pieces = _section_pieces(cleaned, words, room) if layout.by_section else _pieces(len(ids), layout.chunks, room)
    frame = special_frame(tokenizer)
    shape = (layout.chunks, layout.tokens)
    input_ids = np.full(shape, cast(int, tokenizer.pad_token_id), dtype=np.int64)  # (C, T)
    mask = np.zeros(shape, dtype=np.int64)
    types = np.full(shape, _XLNET_PAD if frame.xlnet else 0, dtype=np.int64)
    index = np.full(shape, -1, dtype=np.int64)
    for c, piece in enumerate(pieces):
        chosen = ids[piece]
        row = [*frame.before, *chosen.tolist(), *frame.after]
        input_ids[c, : len(row)] = row
        mask[c, : len(row)] = 1
        if frame.xlnet:
            types[c, : len(row)] = _XLNET_TEXT
            types[c, len(row) - 1] = _XLNET_CLS
        first = len(frame.before)
        index[c, first : first + len(chosen)] = words[piece]
    seen = np.unique(index[index >= 0])
    return EncodedDocument(hadm_id, input_ids, mask, types, index, cleaned.spans, len(cleaned.words) - len(seen))


@dataclass(frozen=True, slots=True)
class SpecialFrame:
    """The special tokens before and after a chunk's content; xlnet: with XLNet's segment ids."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    xlnet: bool


def special_frame(tokenizer: PreTrainedTokenizerBase) -> SpecialFrame:
    """How this tokenizer frames a sequence, read off an empty one.

    Raises:
        HilatError: when it does not add exactly two special tokens.
    """
    backend = tokenizer.backend_tokenizer
    empty = tuple(backend.encode("", add_special_tokens=True).ids)
    if len(empty) != SPECIAL_TOKENS:
        raise HilatError(
            f"the tokenizer adds {len(empty)} special tokens to a sequence; expected {SPECIAL_TOKENS}, such as [CLS] and "
            "[SEP]. Use the encoder's own tokenizer"
        )
    if empty[-1] == tokenizer.cls_token_id and empty[0] != tokenizer.cls_token_id:
        return SpecialFrame((), empty, xlnet=True)  # A <sep> <cls>
    return SpecialFrame(empty[:1], empty[1:], xlnet=False)


def tokenise(
    words: Sequence[str], tokenizer: PreTrainedTokenizerBase
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Token ids of the words joined by spaces, without special tokens, and the word of each token; both (N,).

    A token belongs to the word that holds its last character; one that covers only the space before a word (a lone
    sentence-piece mark) belongs to that word.
    """
    if not words:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    encoding = tokenizer.backend_tokenizer.encode(" ".join(words), add_special_tokens=False)
    ids = np.array(encoding.ids, dtype=np.int64)  # (N,)
    offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)  # (N, 2) into the joined text
    lengths = np.array([len(word) for word in words])
    ends = np.cumsum(lengths + 1) - 1  # exclusive end of each word in the joined text
    last = np.maximum(offsets[:, 1] - 1, offsets[:, 0])  # the token's last character
    owner = np.minimum(np.searchsorted(ends, last, side="right"), len(words) - 1)
    return ids, owner.astype(np.int64)


def _pieces(tokens: int, chunks: int, room: int) -> list[slice]:
    """The slices of the token sequence that fill the chunks; empty ones where the note is over."""
    return [slice(min(c * room, tokens), min((c + 1) * room, tokens)) for c in range(chunks)]


def _section_pieces(cleaned: CleanText, words: NDArray[np.int64], room: int) -> list[NDArray[np.int64]]:
    """Token positions per chunk when each chunk holds one group of sections, cut where it is full.

    What stands before the first heading goes to the first chunk, so nothing is lost but what does not fit.
    """
    names = [section.name for section in cleaned.sections]
    chunk_of_section = np.array([CHUNK_OF_SECTION.get(name, 0) for name in names], dtype=np.int64)
    chunk = chunk_of_section[cleaned.word_sections[words]] if len(words) else words
    return [np.flatnonzero(chunk == c)[:room] for c in range(len(SECTION_CHUNKS))]


def collate(documents: Sequence[EncodedDocument]) -> dict[str, torch.Tensor]:
    """Model inputs (B, C, T), int64, of documents of one layout."""
    shapes = {document.input_ids.shape for document in documents}
    if len(shapes) != 1:
        raise HilatError(f"a batch holds documents of {len(shapes)} layouts; encode them all with the same one")
    return {
        name: torch.from_numpy(np.stack([getattr(document, name) for document in documents]))  # (B, C, T)
        for name in ("input_ids", "attention_mask", "token_type_ids")
    }


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> None:
    """Refuse a tokenizer that cannot belong to an encoder with that many embeddings.

    transformers 5 loads some tokenizers with an empty vocabulary and no error; its ids would all be <unk>.
    """
    if not tokenizer.is_fast:
        raise HilatError("the tokenizer is a slow one, without offsets; expected a fast one. Save it with a tokenizer.json")
    size = len(tokenizer)
    if size != vocab_size:
        raise HilatError(
            f"the tokenizer has {size} tokens and the encoder {vocab_size} embeddings; they do not belong together. "
            "Load the tokenizer from the encoder's own folder"
        )
    for name in ("pad_token_id", "cls_token_id", "sep_token_id"):
        if getattr(tokenizer, name) is None:
            raise HilatError(f"the tokenizer has no {name.removesuffix('_id')}; use the encoder's own tokenizer")


def tokens_to_words(
    scores: NDArray[Any], document: EncodedDocument, how: Literal["sum", "mean", "max"] = "sum"
) -> NDArray[np.float64]:
    """Word scores (..., W) from token scores (..., C, T); words without a token get 0."""
    inside = document.word_index >= 0  # (C, T)
    words = document.word_index[inside]  # (N,)
    values = scores[..., inside].astype(np.float64)  # (..., N)
    n_words = len(document.word_spans)
    if how == "max":
        out = np.full((*values.shape[:-1], n_words), -np.inf)
        np.maximum.at(out, (..., words), values)
        return np.where(np.isneginf(out), 0.0, out)
    flat = values.reshape(-1, len(words))  # (M, N)
    sums = np.stack([np.bincount(words, weights=row, minlength=n_words) for row in flat]) if len(flat) else flat
    if how == "mean":
        sums = sums / np.maximum(np.bincount(words, minlength=n_words), 1)
    return sums.reshape(*values.shape[:-1], n_words)


def outside_words(scores: NDArray[Any], document: EncodedDocument) -> NDArray[np.float64]:
    """The sum (...) of token scores (..., C, T) on special tokens and padding."""
    return np.asarray(scores[..., document.word_index < 0].sum(axis=-1), dtype=np.float64)

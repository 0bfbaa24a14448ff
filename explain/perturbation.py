"""The one place where inputs are changed: a note as a set function of its words.

Chunks are encoded independently of each other, so what the model makes of a chunk depends on which of this chunk's words
are kept and on nothing else. It is computed once per chunk and pattern of kept words, remembered, and shared by all
samples, codes and methods that ask the same `NoteFunction`. Of a chunk only its terms are kept (two numbers per code
where chunks are joined by attention), and a changed note is a softmax over them. What is encoded is counted in
`passes`, in chunks.
"""

from __future__ import annotations

from itertools import groupby
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from explain.target import Target
from hilat.admissions import HilatError
from hilat.encoding import EncodedDocument

Removal = Literal["mask", "pad", "unk", "delete"]
_SAMPLES = 1024  # that are looked up at a time, at most
_HEAD_NUMBERS = 2**22  # terms that are handed to the head at a time
_ENTRY_NUMBERS = 256  # the memory of one entry of the cache beside its terms, in float32 numbers

Key = tuple[int, bytes]  # a chunk, and its kept words as bits


class NoteFunction:
    """keep masks (S, W) over a note's words -> logits (S, K), all codes at once.

    removal: what becomes of the tokens of a removed word.
        "mask", "unk": the tokenizer's mask or unknown token stands in their place; the text keeps its length.
        "pad": padding in place: the position stays, and nobody attends to it.
        "delete": the rest of the chunk closes up; the other chunks stay as they are (cutting the note into chunks anew
        would mix the removal with a shift of all chunk borders).
    Words that the model never read (after the last chunk) change nothing. Special tokens are never removed.

    batch_size: chunks that are encoded at a time, those of about one length together. cache_numbers: how much is
    remembered, in float32 numbers; what was not asked for the longest goes first.
    words_of_chunks: per chunk, the words (n,) that have a token in it.
    """

    def __init__(
        self,
        target: Target,
        document: EncodedDocument,
        removal: Removal = "mask",
        *,
        batch_size: int = 32,
        cache_numbers: int = 2**25,
    ) -> None:
        if removal not in get_args(Removal):
            raise HilatError(f"removal {removal!r} is not known; expected one of {', '.join(get_args(Removal))}")
        self.target = target
        self.document = document
        self.removal = removal
        self.batch_size = batch_size
        self.passes = 0
        self._filler = target.baseline_id("pad" if removal == "delete" else removal)
        self.words_of_chunks = [np.unique(row[row >= 0]) for row in document.word_index]
        self._size = len(target.codes) * target.term_width  # numbers of a chunk's terms
        self._most = max(1, cache_numbers // (self._size + _ENTRY_NUMBERS))
        self._known: dict[Key, Tensor] = {}  # terms (K, M), the least recently used first
        self._read = target.chunks_read(document.attention_mask[None])[0]  # (C,)

    @property
    def n_words(self) -> int:
        """W: the words of the note, in model order."""
        return len(self.document.word_spans)

    def __call__(self, keep: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Logits (S, K) of the samples keep (S, W)."""
        if keep.ndim != 2 or keep.shape[1] != self.n_words or keep.dtype != np.bool_:
            raise HilatError(
                f"keep has shape {keep.shape} and type {keep.dtype}; expected (samples, {self.n_words}) booleans, one "
                "column per word of the document"
            )
        block = max(1, min(_SAMPLES, self._most // len(self.words_of_chunks)))
        parts = [self._block(keep[start : start + block]) for start in range(0, len(keep), block)]
        return np.concatenate(parts) if parts else np.zeros((0, len(self.target.codes)))

    def _block(self, keep: NDArray[np.bool_]) -> NDArray[np.float64]:
        found = [_unique_rows(keep[:, words]) for words in self.words_of_chunks]
        patterns = [unique for unique, _ in found]  # per chunk: (P_c, words of the chunk)
        which = np.stack([inverse for _, inverse in found], axis=1)  # (S, C): the row of its pattern
        read, lengths = self._seen(patterns, which)  # (S, C); per chunk, (P_c,)
        needed = [np.unique(which[read[:, c], c]) for c in range(len(patterns))]  # per chunk: patterns that are read
        keys = {(c, int(p)): (c, np.packbits(patterns[c][p]).tobytes()) for c, rows in enumerate(needed) for p in rows}
        todo = [place for place, key in keys.items() if key not in self._known]
        todo.sort(key=lambda place: (-int(lengths[place[0]][place[1]]), place))
        for start in range(0, len(todo), self.batch_size):
            part = sorted(todo[start : start + self.batch_size])  # in the order of the chunks
            for place, terms in zip(part, self._encoded(part, patterns), strict=True):
                self._known[keys[place]] = terms.clone()
        terms = []
        rows = np.zeros_like(which)  # (S, C): into the terms; any where the chunk is not read
        for n, ((c, p), key) in enumerate(keys.items()):
            terms.append(self._known.pop(key))
            self._known[key] = terms[-1]  # the most recently used
            rows[which[:, c] == p, c] = n
        while len(self._known) > self._most:
            self._known.pop(next(iter(self._known)))
        return self._head(torch.stack(terms), rows, read)

    def _head(self, terms: Tensor, rows: NDArray[np.int64], read: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Logits (S, K) from terms (N, K, M) and which of them each sample's chunks have, (S, C)."""
        at_once = max(1, _HEAD_NUMBERS // (self._size * rows.shape[1]))
        logits = []
        with torch.no_grad():
            for start in range(0, len(rows), at_once):
                index, kept = (torch.from_numpy(x[start : start + at_once]).to(terms.device) for x in (rows, read))
                logits.append(self.target.logits_of_terms(terms[index], kept))  # from (S, C, K, M)
        return torch.cat(logits).double().cpu().numpy()

    def _seen(
        self, patterns: list[NDArray[np.bool_]], which: NDArray[np.int64]
    ) -> tuple[NDArray[np.bool_], list[NDArray[np.int64]]]:
        """Which chunks (S, C) are read, and per chunk how many tokens (P_c,) its patterns leave up to the last one."""
        if self.removal in ("mask", "unk"):  # the text keeps its length
            ends = [
                np.full(len(rows), mask.sum())
                for rows, mask in zip(patterns, self.document.attention_mask, strict=True)
            ]
            return np.tile(self._read, (len(which), 1)), ends
        masks = [self._changed(c, rows)[1] for c, rows in enumerate(patterns)]  # (P_c, T)
        parts = []
        for start in range(0, len(which), self.batch_size):
            part = which[start : start + self.batch_size]
            parts.append(self.target.chunks_read(np.stack([m[part[:, c]] for c, m in enumerate(masks)], axis=1)))
        ends = [(mask * np.arange(1, mask.shape[1] + 1)).max(axis=1) for mask in masks]
        return np.concatenate(parts), ends

    def _encoded(self, places: list[tuple[int, int]], patterns: list[NDArray[np.bool_]]) -> Tensor:
        """Terms (N, K, M) of these (chunk, pattern), in the order of the chunks."""
        changed = [self._changed(c, patterns[c][[p for _, p in part]]) for c, part in groupby(places, lambda x: x[0])]
        fields = (np.concatenate(values) for values in zip(*changed, strict=True))
        inputs = {
            name: torch.from_numpy(values).to(self.target.device)
            for name, values in zip(("input_ids", "attention_mask", "token_type_ids"), fields, strict=True)
        }
        self.passes += len(places)
        with torch.no_grad():
            return self.target.chunk_terms(self.target.chunk_vectors(inputs, np.array([c for c, _ in places])))

    def _changed(
        self, c: int, patterns: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Ids, mask and types, each (P, T), of chunk c under patterns (P, words of the chunk)."""
        document = self.document
        index = document.word_index[c]  # (T,)
        gone = np.zeros((len(patterns), len(index)), dtype=bool)  # (P, T)
        inside = index >= 0
        gone[:, inside] = ~patterns[:, np.searchsorted(self.words_of_chunks[c], index[inside])]
        ids, mask, types = (
            np.repeat(values[c][None], len(patterns), axis=0)
            for values in (document.input_ids, document.attention_mask, document.token_type_ids)
        )
        if self.removal in ("mask", "unk"):
            return np.where(gone, self._filler, ids), mask, types
        if self.removal == "pad":
            return np.where(gone, self._filler, ids), np.where(gone, 0, mask), types
        real = mask[0] == 1
        length = int(real.sum())
        after = np.argsort(np.where(gone, 1, np.where(real, 0, 2)), axis=1, kind="stable")  # kept, gone, padding
        closed = [np.take_along_axis(values, after, axis=1) for values in (ids, mask, types)]
        past = np.arange(len(index))[None] >= (length - gone.sum(axis=1))[:, None]  # (P, T)
        padding = types[0, -1] if not real[-1] else _padding_type(document)
        return (
            np.where(past, self._filler, closed[0]),
            np.where(past, 0, closed[1]),
            np.where(past, padding, closed[2]),
        )


def _padding_type(document: EncodedDocument) -> int:
    """The token type of padding, from any padding of the note; else that of XLNet where its types are used."""
    padding = document.token_type_ids[document.attention_mask == 0]
    if padding.size:
        return int(padding[0])
    return 3 if document.token_type_ids.max() == 2 else 0


def _unique_rows(rows: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """The different rows of a boolean matrix and, for each row, which one it is."""
    packed = np.packbits(rows, axis=1) if rows.shape[1] else np.zeros((len(rows), 1), dtype=np.uint8)
    keys = np.ascontiguousarray(packed).view(np.dtype((np.void, packed.shape[1]))).reshape(-1)
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    return rows[first], inverse.astype(np.int64)

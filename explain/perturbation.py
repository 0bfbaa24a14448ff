"""The one place where inputs are changed: a note as a set function of its words.

Chunks are encoded independently of each other, so a sample that keeps all words of a chunk reuses that chunk as it
was, and samples that agree on a chunk share it. What is left to encode is counted in `passes`, in chunks.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from explain.target import Target
from hilat.admissions import HilatError
from hilat.encoding import EncodedDocument

Removal = Literal["mask", "pad", "unk", "delete"]


class NoteFunction:
    """keep masks (S, W) over a note's words -> logits (S, K), all codes at once.

    removal: what becomes of the tokens of a removed word.
        "mask", "unk": the tokenizer's mask or unknown token stands in their place; the text keeps its length.
        "pad": padding in place: the position stays, and nobody attends to it.
        "delete": the rest of the chunk closes up; the other chunks stay as they are (cutting the note into chunks anew
        would mix the removal with a shift of all chunk borders).
    Words that the model never read (after the last chunk) change nothing. Special tokens are never removed.
    """

    def __init__(
        self, target: Target, document: EncodedDocument, removal: Removal = "mask", *, batch_size: int = 32
    ) -> None:
        if removal not in get_args(Removal):
            raise HilatError(f"removal {removal!r} is not known; expected one of {', '.join(get_args(Removal))}")
        self.target = target
        self.document = document
        self.removal = removal
        self.batch_size = batch_size
        self.passes = 0
        self._filler = target.baseline_id("pad" if removal == "delete" else removal)
        inside = document.word_index >= 0
        self._words = [np.unique(row[row >= 0]) for row in np.where(inside, document.word_index, -1)]  # per chunk
        self._whole: dict[int, Tensor] = {}  # chunk -> its vectors (K, D) with every word kept

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
        block = max(1, self.batch_size)
        parts = [self._block(keep[start : start + block]) for start in range(0, len(keep), block)]
        return np.concatenate(parts) if parts else np.zeros((0, len(self.target.codes)))

    def _block(self, keep: NDArray[np.bool_]) -> NDArray[np.float64]:
        patterns: list[NDArray[np.bool_]] = []  # per chunk: (P_c, words of the chunk)
        which = np.zeros((len(keep), len(self._words)), dtype=np.int64)  # (S, C): the row of its pattern
        masks = np.zeros((len(keep), *self.document.input_ids.shape), dtype=np.int64)  # (S, C, T)
        changed = []
        for c, words in enumerate(self._words):
            unique, inverse = _unique_rows(keep[:, words])
            patterns.append(unique)
            which[:, c] = inverse.reshape(-1)
            ids, mask, types = self._changed(c, unique)
            masks[:, c] = mask[which[:, c]]
            changed.append((ids, mask, types))
        read = self.target.chunks_read(masks)  # (S, C)
        vectors = self._vectors(patterns, changed, which, read)
        with torch.no_grad():
            stacked = torch.stack([vectors[c][which[:, c]] for c in range(len(vectors))], dim=1)  # (S, C, K, D)
            logits = self.target.logits(stacked, torch.from_numpy(read).to(stacked.device))
        return logits.double().cpu().numpy()

    def _vectors(
        self,
        patterns: list[NDArray[np.bool_]],
        changed: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]],
        which: NDArray[np.int64],
        read: NDArray[np.bool_],
    ) -> list[Tensor]:
        """Per chunk, the vectors (P_c, K, D) of its patterns; encoded where they are read and not known."""
        todo = [
            (c, p)
            for c, rows in enumerate(patterns)
            for p in range(len(rows))
            if read[which[:, c] == p, c].any() and not (rows[p].all() and c in self._whole)
        ]
        fresh: dict[tuple[int, int], Tensor] = {}
        for start in range(0, len(todo), self.batch_size):
            part = todo[start : start + self.batch_size]  # in the order of the chunks
            rows = [np.stack([changed[c][field][p] for c, p in part]) for field in range(3)]
            inputs = {
                name: torch.from_numpy(values).to(self.target.device)
                for name, values in zip(("input_ids", "attention_mask", "token_type_ids"), rows, strict=True)
            }
            with torch.no_grad():
                encoded = self.target.chunk_vectors(inputs, np.array([c for c, _ in part]))  # (n, K, D)
            fresh.update(zip(part, encoded, strict=True))
            self.passes += len(part)
        for (c, p), vector in fresh.items():
            if patterns[c][p].all():
                self._whole[c] = vector.clone()
        known = next(iter(fresh.values())) if fresh else next(iter(self._whole.values()))
        empty = torch.zeros_like(known)  # of chunks that are not read
        return [
            torch.stack(
                [self._whole.get(c, empty) if row.all() else fresh.get((c, p), empty) for p, row in enumerate(rows)]
            )
            for c, rows in enumerate(patterns)
        ]

    def _changed(
        self, c: int, patterns: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Ids, mask and types, each (P, T), of chunk c under patterns (P, words of the chunk)."""
        document = self.document
        index = document.word_index[c]  # (T,)
        gone = np.zeros((len(patterns), len(index)), dtype=bool)  # (P, T)
        inside = index >= 0
        gone[:, inside] = ~patterns[:, np.searchsorted(self._words[c], index[inside])]
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

"""What a sequence asks of the model: permutation language modelling (XLNet) and masked modelling (BERT and kin).

Axis letters: B sequences, T tokens (special ones included), n content tokens of a sequence, P predicted tokens, V vocabulary.

Not transformers' `DataCollatorForPermutationLanguageModeling`: it puts <mask> in place of the targets in the content stream,
so that no target ever sees those before it in the order, which is what the permutation is for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hilat.admissions import HilatError
from hilat.encoding import SpecialFrame, special_frame

IGNORED = -100  # a label that has no loss
_CONTEXT = -1  # the rank of a token that is not predicted
_XLNET_CLS, _XLNET_PAD = 2, 3
_MASKED, _RANDOM = 0.8, 0.1  # of the chosen tokens (Devlin et al. 2019, section 3.1); the rest stay as they are


@dataclass(frozen=True, slots=True, eq=False)
class Vocabulary:
    """What the objectives need to know of a tokenizer.

    separator: the token between two notes. never: (V,) tokens that are never predicted, the special ones. begins_word:
    (V,). ordinary: ids to draw a random token from.
    """

    frame: SpecialFrame
    separator: int
    mask: int | None
    never: NDArray[np.bool_]
    begins_word: NDArray[np.bool_]
    ordinary: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Aim:
    """What is predicted: the objective, the share of tokens, the longest span (permutation), whole words or not."""

    objective: str
    share: float
    max_span: int = 5
    whole_words: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One sequence with its question. ids: (T,), masked already under "masked". labels: (T,), IGNORED where not predicted.

    ranks: (T,), the place of each predicted token in the factorisation order, -1 for the others, which come first.
    """

    ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    ranks: NDArray[np.int64]


def vocabulary_of(tokenizer: PreTrainedTokenizerBase) -> Vocabulary:
    """What the objectives need to know of this tokenizer.

    The separator is <eod> where the vocabulary has it, as in XLNet's own pretraining, else the tokenizer's sep token, as
    RoBERTa's authors pack notes.

    Raises:
        HilatError: no sep token.
    """
    pieces = cast("list[str]", tokenizer.convert_ids_to_tokens(list(range(len(tokenizer)))))
    known = tokenizer.get_vocab()
    separator = known.get("<eod>", tokenizer.sep_token_id)
    if separator is None:
        raise HilatError(
            "the tokenizer has no sep token; expected one to set notes apart. Use the encoder's own tokenizer"
        )
    special = {*tokenizer.all_special_ids, separator, *(known[t] for t in ("<eod>", "<eop>") if t in known)}
    never = np.zeros(len(pieces), dtype=bool)
    never[[i for i in special if i != tokenizer.unk_token_id]] = True
    marks = tuple(mark for mark in ("▁", "Ġ") if any(piece.startswith(mark) for piece in pieces))
    if marks:
        begins = [piece.startswith(marks) for piece in pieces]
    else:  # WordPiece marks the parts that do not begin a word
        begins = [not piece.startswith("##") for piece in pieces]
    ordinary = np.flatnonzero(~never)
    mask = cast("int | None", tokenizer.mask_token_id)
    return Vocabulary(special_frame(tokenizer), int(separator), mask, never, np.array(begins) | never, ordinary)


def question(content: NDArray[np.int64], vocabulary: Vocabulary, aim: Aim, rng: np.random.Generator) -> Row:
    """The sequence in its frame, with what is to be predicted drawn from `rng`."""
    allowed = ~vocabulary.never[content]  # (n,)
    goal = min(int(allowed.sum()), max(1, round(len(content) * aim.share)))
    begins = vocabulary.begins_word[content] if aim.whole_words else np.ones(len(content), dtype=bool)
    words = np.cumsum(begins, dtype=np.int64)  # (n,), the word of each token
    if aim.objective == "permutation":
        chosen = chosen_spans(allowed, words, goal, aim, rng)
    else:
        chosen = chosen_words(np.zeros_like(allowed), allowed, words, goal, rng)
    frame = vocabulary.frame
    ids = np.array([*frame.before, *content.tolist(), *frame.after], dtype=np.int64)  # (T,)
    place = len(frame.before) + np.flatnonzero(chosen)  # (P,)
    labels = np.full(len(ids), IGNORED, dtype=np.int64)
    labels[place] = ids[place]
    ranks = np.full(len(ids), _CONTEXT, dtype=np.int64)
    if aim.objective == "permutation":
        ranks[place] = rng.permutation(len(place))
    else:
        ids[place] = _disguised(ids[place], vocabulary, rng)
    return Row(ids, labels, ranks)


def chosen_spans(
    allowed: NDArray[np.bool_], words: NDArray[np.int64], goal: int, aim: Aim, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Which tokens (n,) are predicted: spans of 1 to max_span tokens L, each within L / share tokens of its own.

    Exactly `goal` tokens (more by the ends of words, with whole words): what spans leave over is filled with single ones,
    as in XLNet's released code with a fixed number of predictions. Source: Yang et al. 2019, section 3.1. (The released code
    draws short spans more often and begins them at a word.)
    """
    n = len(allowed)
    chosen = np.zeros(n, dtype=bool)
    word_begins = np.searchsorted(words, words, side="left")  # (n,), where the word of each token begins
    word_ends = np.searchsorted(words, words, side="right")
    draws = rng.random((n, 2))
    count = start_of_context = 0
    for of_length, of_place in draws.tolist():
        if start_of_context >= n or count >= goal:
            break
        length = min(1 + int(of_length * aim.max_span), goal - count)
        context = max(length, round(length / aim.share))
        first = start_of_context + int(of_place * (context - length + 1))
        if first < n:
            span = slice(word_begins[first], word_ends[min(first + length, n) - 1])
            count += int((allowed[span] & ~chosen[span]).sum())
            chosen[span] |= allowed[span]
        start_of_context += context
    return chosen_words(chosen, allowed, words, goal, rng)


def chosen_words(
    chosen: NDArray[np.bool_],
    allowed: NDArray[np.bool_],
    words: NDArray[np.int64],
    goal: int,
    rng: np.random.Generator,
) -> NDArray[np.bool_]:
    """The chosen tokens (n,) and as many more, by whole `words`, as make `goal` of them."""
    chosen = chosen.copy()
    missing = goal - int(chosen.sum())
    if missing <= 0:
        return chosen
    free = np.unique(words[allowed & ~chosen])
    drawn = rng.permutation(free)
    sizes = np.bincount(words[allowed & ~chosen], minlength=int(words.max()) + 1)[drawn]
    enough = int(np.searchsorted(np.cumsum(sizes), missing)) + 1
    chosen |= np.isin(words, drawn[:enough]) & allowed
    return chosen


def _disguised(ids: NDArray[np.int64], vocabulary: Vocabulary, rng: np.random.Generator) -> NDArray[np.int64]:
    """The chosen ids (P,): four in five as <mask>, one in ten as a random token, the rest as they are."""
    assert vocabulary.mask is not None  # checked before the run
    fate = rng.random(len(ids))
    other = rng.choice(vocabulary.ordinary, len(ids))
    return np.where(fate < _MASKED, vocabulary.mask, np.where(fate < _MASKED + _RANDOM, other, ids))


def hidden_by_order(ranks: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(T, T): whether token i may not see token j: j is predicted, and not before i in the order.

    Tokens that are not predicted see each other and no predicted one. A predicted token does not see itself; the model's
    content stream adds that (Yang et al. 2019, section 2.3: g sees z_<t, h sees z_<=t). As in the released code, and unlike
    the paper's formula, the tokens that are not predicted are not ordered among themselves.
    """
    return (ranks[None, :] > _CONTEXT) & (ranks[:, None] <= ranks[None, :])


@dataclass(frozen=True)
class Questions:
    """Batches rows as the model of an objective reads them."""

    objective: str
    frame: SpecialFrame

    def __call__(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        longest = max(len(row.ids) for row in rows)
        shape = (len(rows), longest)
        ids = np.full(shape, self.frame.pad, dtype=np.int64)  # (B, T)
        mask = np.zeros(shape, dtype=np.int64)
        for b, row in enumerate(rows):
            ids[b, : len(row.ids)] = row.ids
            mask[b, : len(row.ids)] = 1
        batch: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
        if self.frame.xlnet:
            batch["token_type_ids"] = _segments(rows, shape)
        if self.objective == "permutation":
            batch |= self._in_order(rows, longest)
        else:
            labels = np.full(shape, IGNORED, dtype=np.int64)  # (B, T)
            for b, row in enumerate(rows):
                labels[b, : len(row.ids)] = row.labels
            batch["labels"] = labels
        return {name: torch.from_numpy(values) for name, values in batch.items()}

    def _in_order(self, rows: Sequence[Row], longest: int) -> dict[str, NDArray[Any]]:
        """perm_mask (B, T, T), target_mapping (B, P, T) and labels (B, P) as XLNet reads them."""
        most = max(int((row.ranks >= 0).sum()) for row in rows)
        hidden = np.zeros((len(rows), longest, longest), dtype=np.float32)
        mapping = np.zeros((len(rows), most, longest), dtype=np.float32)
        labels = np.full((len(rows), most), IGNORED, dtype=np.int64)
        for b, row in enumerate(rows):
            size, place = len(row.ids), np.flatnonzero(row.ranks >= 0)
            hidden[b, :size, :size] = hidden_by_order(row.ranks)
            mapping[b, np.arange(len(place)), place] = 1.0
            labels[b, : len(place)] = row.labels[place]
        return {"perm_mask": hidden, "target_mapping": mapping, "labels": labels}


def _segments(rows: Sequence[Row], shape: tuple[int, int]) -> NDArray[np.int64]:
    """Segment ids (B, T) of rows framed as XLNet frames them, as `hilat.encoding.fill_chunks` gives them in training."""
    types = np.full(shape, _XLNET_PAD, dtype=np.int64)
    for b, row in enumerate(rows):
        types[b, : len(row.ids) - 1] = 0
        types[b, len(row.ids) - 1] = _XLNET_CLS
    return types

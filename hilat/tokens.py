"""From raw notes to tokens, here or in processes of their own that run ahead of the model; loads neither torch nor transformers."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from hilat.admissions import HilatError
from hilat.cleaning import CleaningRules, CleanText, clean

_BUNDLE = 8  # notes that go to a process at a time
_AHEAD = 4  # bundles per process that are prepared or wait to be taken


@dataclass(frozen=True, slots=True)
class SpecialIds:
    """special: ids that a word must not have; one that is spelt like such a token becomes `unknown` (None: stays as it is)."""

    special: tuple[int, ...]
    unknown: int | None


@dataclass(frozen=True, slots=True)
class TokenRules:
    """How words become tokens. vocabulary: a tokenizer of the library tokenizers, as its JSON text."""

    vocabulary: str
    special: SpecialIds


@dataclass(frozen=True, slots=True, eq=False)
class TokenText:
    """A cleaned note as tokens, without special ones: ids (N,), and the index of the clean word of each token (N,)."""

    cleaned: CleanText
    ids: NDArray[np.int64]
    words: NDArray[np.int64]


def owners(
    ids: Sequence[int], offsets: Sequence[tuple[int, int]], words: Sequence[str], rules: SpecialIds
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Token ids (N,), and the index of the word of each token (N,), from a tokenizer's answer on the words joined by spaces.

    A token belongs to the word that holds its last character; one that covers only the space before a word (a lone
    sentence-piece mark) belongs to that word. offsets: of each token in the joined text.
    """
    own = np.array(ids, dtype=np.int64)  # (N,)
    if rules.unknown is not None:
        own[np.isin(own, rules.special)] = rules.unknown
    places = np.fromiter(chain.from_iterable(offsets), np.int64, 2 * len(own)).reshape(-1, 2)  # (N, 2)
    lengths = np.fromiter(map(len, words), np.int64, len(words))
    ends = np.cumsum(lengths + 1) - 1  # exclusive end of each word in the joined text
    last = np.maximum(places[:, 1] - 1, places[:, 0])  # the token's last character
    return own, np.minimum(np.searchsorted(ends, last, side="right"), max(0, len(words) - 1)).astype(np.int64)


def token_text(text: str, cleaning: CleaningRules, rules: TokenRules) -> TokenText:
    """The raw text cleaned and cut into tokens."""
    cleaned = clean(text, cleaning)
    found = _tokenizer(rules.vocabulary).encode(" ".join(cleaned.words), add_special_tokens=False)
    return TokenText(cleaned, *owners(found.ids, found.offsets, cleaned.words, rules.special))


def token_texts(
    texts: Iterable[str], cleaning: CleaningRules, rules: TokenRules, *, workers: int = 0
) -> Iterator[TokenText]:
    """The texts, each cleaned and cut into tokens, in their order.

    workers: processes that do it ahead of who takes the results; 0 for none. They are started anew (not forked, so that
    they share no threads or locks with the model), and hold at most 32 notes each.

    Raises:
        HilatError: a process was killed.
    """
    if workers < 1:
        for text in texts:
            yield token_text(text, cleaning, rules)
        return
    stream = iter(texts)
    bundles = iter(lambda: tuple(islice(stream, _BUNDLE)), ())
    waiting: deque[Future[list[TokenText]]] = deque()
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start_worker, (cleaning, rules))
    try:
        for bundle in islice(bundles, _AHEAD * workers):
            waiting.append(pool.submit(_bundle, bundle))
        while waiting:
            done = waiting.popleft().result()
            waiting.extend(pool.submit(_bundle, bundle) for bundle in islice(bundles, 1))
            yield from done
    except BrokenProcessPool:
        raise HilatError(
            f"one of the {workers} processes that prepare notes was stopped from outside (out of memory?); expected all of "
            "them to live. Give the same command again with --workers 0"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_given: list[tuple[CleaningRules, TokenRules]] = []  # of a worker process: how it prepares its notes


def _start_worker(cleaning: CleaningRules, rules: TokenRules) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one note at a time; the processes are the parallelism
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process hears an interrupt and stops the workers
    _given[:] = [(cleaning, rules)]


def _bundle(texts: tuple[str, ...]) -> list[TokenText]:
    ((cleaning, rules),) = _given
    return [token_text(text, cleaning, rules) for text in texts]


@lru_cache(maxsize=4)
def _tokenizer(vocabulary: str) -> Tokenizer:
    """The tokenizer, without truncation and padding, that takes a word spelt like a special token as a word."""
    tokenizer = Tokenizer.from_str(vocabulary)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return tokenizer

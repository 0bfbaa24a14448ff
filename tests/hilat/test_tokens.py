"""Tokens made ahead of the model, here or in other processes, are those of the tokenizer itself."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerBase

from hilat.admissions import HilatError
from hilat.cleaning import CleaningRules, clean
from hilat.encoding import ChunkLayout, encode, in_chunks, special_frame, token_rules, tokenise
from hilat.tokens import _BUNDLE, token_text, token_texts
from hilat.vocabulary import train_sentencepiece

NOTES = [
    "heart failure and fever, treated with water tablets",
    "",
    "no <sep> pain [MASK] <unk> ﬁne é e\u0301 日本",
    "kidney failure after sepsis; fever again " * 30,
]
RULES = CleaningRules(words="all", order="raw")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    return train_sentencepiece([n for n in NOTES if n], tmp_path_factory.mktemp("t") / "t", vocab_size=60, seed=0)


def test_tokens_are_the_tokenizers_own(tokenizer: PreTrainedTokenizerBase) -> None:
    rules = token_rules(tokenizer)
    tokenizer.backend_tokenizer.enable_truncation(4)  # as some tokenizer.json ask for
    asking = token_rules(tokenizer)
    for note in NOTES:
        ids, words = tokenise(clean(note, RULES).words, tokenizer)
        for given in (rules, asking):
            found = token_text(note, RULES, given)
            np.testing.assert_array_equal(found.ids, ids)
            np.testing.assert_array_equal(found.words, words)
        for layout in (ChunkLayout(3, 10), ChunkLayout(2, 64)):
            ours, expected = (
                in_chunks("text", found, layout, special_frame(tokenizer)),
                encode(note, tokenizer, layout, RULES),
            )
            for name in ("input_ids", "attention_mask", "token_type_ids", "word_index", "word_spans"):
                np.testing.assert_array_equal(getattr(ours, name), getattr(expected, name))
            lost = np.setdiff1d(words, expected.word_index)  # words none of whose tokens fitted
            assert ours.truncated_words == len(lost)


def test_worker_processes_give_the_same_in_order_and_not_all_at_once(tokenizer: PreTrainedTokenizerBase) -> None:
    rules = token_rules(tokenizer)
    taken = 0

    def texts() -> Iterator[str]:
        nonlocal taken
        for n in range(12 * _BUNDLE):
            taken += 1
            yield f"note {n} {NOTES[n % 4]}"

    stream = token_texts(texts(), RULES, rules, workers=1)
    first = next(stream)
    assert taken <= 6 * _BUNDLE  # the others wait to be asked for
    found = [first, *stream]
    for one, expected in zip(found, token_texts(texts(), RULES, rules), strict=True):
        assert one.cleaned.words == expected.cleaned.words
        np.testing.assert_array_equal(one.ids, expected.ids)
        np.testing.assert_array_equal(one.words, expected.words)


def test_a_worker_that_is_killed_is_told(tokenizer: PreTrainedTokenizerBase) -> None:
    def texts() -> Iterator[str]:
        for n in range(200 * _BUNDLE):
            if n == 20 * _BUNDLE:
                (child,) = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()[-1:]
                os.kill(int(child), signal.SIGKILL)
            yield "secret canary"

    if not Path("/proc/self/task").exists():
        pytest.skip("children are looked up in /proc")
    with pytest.raises(HilatError, match="--workers 0") as told:
        list(token_texts(texts(), RULES, token_rules(tokenizer), workers=1))
    assert "canary" not in str(told.value)

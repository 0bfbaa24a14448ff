"""What pretraining asks: which token sees which, how many are asked for, and the loss, each against a slow second version."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DataCollatorForPermutationLanguageModeling,
    PreTrainedTokenizerBase,
    XLNetConfig,
    XLNetLMHeadModel,
)

from hilat.pretraining_models import token_loss
from hilat.pretraining_targets import (
    IGNORED,
    Aim,
    Questions,
    Row,
    Vocabulary,
    chosen_spans,
    hidden_by_order,
    question,
    vocabulary_of,
)
from hilat.vocabulary import train_sentencepiece

TEXTS = [
    "acute renal failure with fever and cough",
    "no fever, chronic cough after renal transplant",
    "cough cough fever",
]
PERMUTATION, MASKED = Aim("permutation", 1 / 6), Aim("masked", 0.15)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    """A tiny vocabulary."""
    return train_sentencepiece(TEXTS, tmp_path_factory.mktemp("vocabulary") / "t", vocab_size=60)


@pytest.fixture(scope="module")
def vocabulary(tokenizer: PreTrainedTokenizerBase) -> Vocabulary:
    """What the objectives know of it."""
    return vocabulary_of(tokenizer)


def content(tokenizer: PreTrainedTokenizerBase, size: int, seed: int = 0) -> NDArray[np.int64]:
    """Random ordinary tokens with a separator among them."""
    ids = np.random.default_rng(seed).integers(9, len(tokenizer), size)
    ids[size // 2] = tokenizer.get_vocab()["<eod>"]
    return ids.astype(np.int64)


def seen(order: list[int], context: set[int], token: int, *, itself: bool) -> set[int]:
    """What a token sees, from Yang et al. 2019, sections 2.2 and 2.3: the context (the cut's first part, one block here),
    and of the predicted tokens those before it in the order; the content stream sees itself too."""
    if token in context:
        return set(context)
    before: set[int] = set()
    for other in order:
        if other == token:
            break
        before.add(other)
    return context | before | ({token} if itself else set())


def xlnet(size: int) -> XLNetLMHeadModel:
    """Two layers, without dropout; float32, since transformers' positions are float32 in this pass."""
    torch.manual_seed(0)
    config = XLNetConfig(
        vocab_size=size, d_model=16, n_layer=2, n_head=2, d_inner=32, dropout=0.0, initializer_range=0.3
    )
    return XLNetLMHeadModel(config).eval()


# ------------------------------------------------------------------------------------------------------------ permutation
@pytest.mark.parametrize("seed", range(5))
def test_who_sees_whom_is_that_of_the_paper(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ranks = np.full(9, -1)
    targets = rng.choice(9, size=4, replace=False)
    ranks[targets] = rng.permutation(4)
    order = sorted(targets.tolist(), key=lambda t: ranks[t])
    context = set(range(9)) - set(order)
    hidden = hidden_by_order(ranks)
    for i in range(9):
        assert {j for j in range(9) if not hidden[i, j]} == seen(order, context, i, itself=False)
        # XLNet's content stream shows each token itself (`non_tgt_mask` in transformers).
        shown = {j for j in range(9) if not hidden[i, j] or i == j}
        assert shown == seen(order, context, i, itself=True)


def test_a_target_depends_on_the_context_and_the_targets_before_it_alone(
    tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary
) -> None:
    """Through two layers: change one token of the input, and see whose logits move."""
    row = question(content(tokenizer, 20), vocabulary, PERMUTATION, np.random.default_rng(3))
    batch = Questions("permutation", vocabulary.frame)([row])
    model = xlnet(len(tokenizer))
    places = np.flatnonzero(row.ranks >= 0)
    batch.pop("labels")
    with torch.no_grad():
        before = model(**batch).logits[0]  # (P, V)
        for j in range(len(row.ids)):
            changed = batch["input_ids"].clone()
            changed[0, j] = (changed[0, j] + 7) % len(tokenizer)
            moved = (model(**{**batch, "input_ids": changed}).logits[0] - before).abs().amax(-1) > 1e-6
            expected = [row.ranks[j] == -1 or row.ranks[j] < row.ranks[i] for i in places]
            assert moved.tolist() == expected, j


def test_the_loss_is_that_of_predicting_one_token_after_the_other(
    tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary
) -> None:
    """An explicit loop: a pass of its own for every target, its mask written out from the order."""
    rows = [question(content(tokenizer, n, n), vocabulary, PERMUTATION, np.random.default_rng(n)) for n in (20, 13)]
    model = xlnet(len(tokenizer))
    total, count = 0.0, 0
    for row in rows:
        size = len(row.ids)
        order = sorted(np.flatnonzero(row.ranks >= 0).tolist(), key=lambda t: row.ranks[t])
        context = set(range(size)) - set(order)
        hidden = torch.ones(1, size, size)
        for i in range(size):
            for j in seen(order, context, i, itself=False):
                hidden[0, i, j] = 0.0
        for target in order:
            mapping = torch.zeros(1, 1, size)
            mapping[0, 0, target] = 1.0
            types = torch.tensor([[0] * (size - 1) + [2]])
            ids = torch.tensor(row.ids)[None]
            with torch.no_grad():
                logits = model(ids, perm_mask=hidden, target_mapping=mapping, token_type_ids=types).logits[0, 0]
            total -= float(logits[row.ids[target]] - torch.logsumexp(logits, 0))
            count += 1
    batch = Questions("permutation", vocabulary.frame)(rows)  # the second row is padded
    labels = batch.pop("labels")
    with torch.no_grad():
        loss = token_loss(model(**batch).logits, labels)
    assert int((labels != IGNORED).sum()) == count
    assert float(loss) == pytest.approx(total, rel=1e-5)


def test_transformers_own_collator_hides_the_targets_from_each_other(tokenizer: PreTrainedTokenizerBase) -> None:
    """Why there is one of our own: theirs replaces every target in the content stream."""
    torch.manual_seed(0)
    collator = DataCollatorForPermutationLanguageModeling(tokenizer)
    batch = collator([{"input_ids": torch.arange(10, 34)}])
    asked = batch["labels"] != IGNORED
    assert bool(asked.any())
    assert bool((batch["input_ids"][asked] == tokenizer.mask_token_id).all())


def test_spans_are_as_many_as_asked_and_never_on_special_tokens(
    tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary
) -> None:
    ids = content(tokenizer, 510)
    allowed, words = ~vocabulary.never[ids], np.arange(510)
    rng = np.random.default_rng(0)
    drawn = np.array([chosen_spans(allowed, words, 85, PERMUTATION, rng) for _ in range(400)])
    assert (drawn.sum(axis=1) == 85).all()
    assert not drawn[:, ~allowed].any()
    # Every place is asked for about as often, but the last ones: half of the time the spans end before.
    assert drawn[:, :400].mean(axis=0)[allowed[:400]].max() < 0.3
    assert abs(drawn[:, :400].mean() - 1 / 6) < 0.01
    runs = [len(run) for row in drawn for run in "".join("x" if x else " " for x in row).split()]
    assert 1.8 < np.mean(runs) < 4  # spans of 1 to 5, some side by side, some filled up with single tokens


def test_the_settings_of_the_paper_predict_85_of_512(
    tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary
) -> None:
    row = question(content(tokenizer, 510), vocabulary, PERMUTATION, np.random.default_rng(0))
    assert len(row.ids) == 512
    assert int((row.ranks >= 0).sum()) == 85
    assert sorted(row.ranks[row.ranks >= 0].tolist()) == list(range(85))


# ----------------------------------------------------------------------------------------------------------------- masked
def test_masked_modelling_has_its_rates(tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary) -> None:
    ids = content(tokenizer, 400)
    framed = np.array([*vocabulary.frame.before, *ids.tolist(), *vocabulary.frame.after])
    masked = other = kept = asked = 0
    for seed in range(60):
        row = question(ids, vocabulary, MASKED, np.random.default_rng(seed))
        places = np.flatnonzero(row.labels != IGNORED)
        assert len(places) == 60  # 15 % of 400
        assert (row.labels[places] == framed[places]).all()
        untouched = np.setdiff1d(np.arange(len(framed)), places)
        assert (row.ids[untouched] == framed[untouched]).all()
        assert not vocabulary.never[framed[places]].any()
        asked += len(places)
        masked += int((row.ids[places] == tokenizer.mask_token_id).sum())
        kept += int((row.ids[places] == framed[places]).sum())
        other += int(((row.ids[places] != tokenizer.mask_token_id) & (row.ids[places] != framed[places])).sum())
    same_by_chance = 0.1 / len(vocabulary.ordinary)
    for found, expected in ((masked, 0.8), (other, 0.1 - same_by_chance), (kept, 0.1 + same_by_chance)):
        assert abs(found / asked - expected) < 4 * math.sqrt(expected * (1 - expected) / asked)


@pytest.mark.parametrize("objective", ["masked", "permutation"])
def test_whole_words_are_whole(objective: str, tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary) -> None:
    ids = np.array(tokenizer(" ".join(TEXTS * 6), add_special_tokens=False)["input_ids"])
    word = -1
    words = []
    for piece in tokenizer.convert_ids_to_tokens(ids.tolist()):
        word += piece.startswith("▁")
        words.append(word)
    for seed in range(10):
        aim = Aim(objective, 0.15, whole_words=True)
        row = question(ids, vocabulary, aim, np.random.default_rng(seed))
        chosen = (row.labels != IGNORED)[: len(ids)]
        for w in range(word + 1):
            parts = chosen[np.array(words) == w]
            assert parts.all() or not parts.any()
        assert round(0.15 * len(ids)) <= chosen.sum() <= round(0.15 * len(ids)) + 20


def test_masked_loss_against_an_explicit_loop(tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary) -> None:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=64, pad_token_id=tokenizer.pad_token_id, initializer_range=0.3, type_vocab_size=4,
    )  # fmt: skip
    model = BertForMaskedLM(config).double().eval()
    rows = [question(content(tokenizer, n, n), vocabulary, MASKED, np.random.default_rng(n)) for n in (30, 17)]
    batch = Questions("masked", vocabulary.frame)(rows)
    labels = batch.pop("labels")
    with torch.no_grad():
        loss = float(token_loss(model(**batch).logits, labels))
        total = 0.0
        for row in rows:
            types = torch.tensor([[0] * (len(row.ids) - 1) + [2]])
            logits = model(torch.tensor(row.ids)[None], token_type_ids=types).logits[0]
            for place, label in enumerate(row.labels.tolist()):
                if label != IGNORED:
                    total -= float(logits[place, label] - torch.logsumexp(logits[place], 0))
    assert loss == pytest.approx(total, rel=1e-6)


def test_the_first_piece_of_a_word_is_known_for_every_kind_of_vocabulary(tmp_path: Path) -> None:
    """SentencePiece marks what begins a word, byte-level BPE too, WordPiece what does not."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    del tmp_path
    special = {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "[PAD]": 3, "[MASK]": 4}
    for pieces, begins in (
        (["ab", "##c"], [True, False]),
        (["Ġab", "c"], [True, False]),
        (["▁ab", "c"], [True, False]),
    ):
        vocabulary = {**special, **{piece: n for n, piece in enumerate(pieces, 5)}}
        made = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
        made.pre_tokenizer = pre_tokenizers.Whitespace()
        made.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
        )
        fast = PreTrainedTokenizerFast(
            tokenizer_object=made, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]",
            mask_token="[MASK]",
        )  # fmt: skip
        known = vocabulary_of(fast)
        assert known.begins_word[5:].tolist() == begins
        assert known.separator == 2
        assert known.never.tolist() == [False, True, True, True, True, False, False]


def test_a_batch_pads_to_its_longest_row(vocabulary: Vocabulary) -> None:
    rows = [Row(np.arange(9, 9 + n), np.full(n, IGNORED), np.full(n, -1)) for n in (4, 6)]
    rows[1].ranks[2] = 0
    rows[1].labels[2] = 11
    batch = Questions("permutation", vocabulary.frame)(rows)
    assert batch["input_ids"].tolist()[0] == [9, 10, 11, 12, vocabulary.frame.pad, vocabulary.frame.pad]
    assert batch["attention_mask"].sum(1).tolist() == [4, 6]
    assert batch["token_type_ids"].tolist() == [[0, 0, 0, 2, 3, 3], [0, 0, 0, 0, 0, 2]]
    assert batch["labels"].tolist() == [[IGNORED], [11]]
    assert batch["target_mapping"].nonzero().tolist() == [[1, 0, 2]]

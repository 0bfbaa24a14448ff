"""BERT, RoBERTa, Longformer and BigBird under the head: what HilatModel gives is what the encoder gives, called by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerBase

from explain.hilat_target import HilatTarget
from explain.methods import scores
from explain.subject import MethodOptions, Subject
from hilat.admissions import CodeBook, HilatError
from hilat.cleaning import CleaningRules
from hilat.coder import Coder, forward
from hilat.encoding import ChunkLayout
from hilat.model import HilatConfig, HilatModel, build_model
from hilat.vocabulary import train_sentencepiece

CODES = 3
COMMON: dict[str, Any] = {"vocab_size": 90, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
                          "intermediate_size": 24, "initializer_range": 0.3, "hidden_dropout_prob": 0.0,
                          "attention_probs_dropout_prob": 0.0}  # fmt: skip
KINDS: dict[str, tuple[dict[str, Any], int]] = {  # config, tokens per chunk
    "bert": ({"model_type": "bert", "max_position_embeddings": 64, "pad_token_id": 0, "type_vocab_size": 4}, 60),
    "roberta": ({"model_type": "roberta", "max_position_embeddings": 66, "pad_token_id": 1, "type_vocab_size": 4}, 60),
    "longformer": ({"model_type": "longformer", "max_position_embeddings": 66, "pad_token_id": 1, "attention_window": [8, 8],
                    "type_vocab_size": 4}, 60),
    "bigbird_full": ({"model_type": "big_bird", "max_position_embeddings": 64, "pad_token_id": 0, "type_vocab_size": 4,
                      "block_size": 8, "num_random_blocks": 1}, 56),
    "bigbird_sparse": ({"model_type": "big_bird", "max_position_embeddings": 64, "pad_token_id": 0, "type_vocab_size": 4,
                        "block_size": 4, "num_random_blocks": 1}, 60),
}  # fmt: skip


def config_of(kind: str, vocabulary: int = 90) -> tuple[dict[str, Any], int]:
    own, tokens = KINDS[kind]
    return {**COMMON, **own, "vocab_size": vocabulary}, tokens


def model_of(kind: str, **settings: Any) -> HilatModel:
    config, tokens = config_of(kind)
    return build_model(
        config, CODES, seed=1, **{"chunks": 2, "tokens": tokens, "init_std": 0.5, "dropout": 0.0, **settings}
    )


def batch(kind: str, lengths: tuple[tuple[int, ...], ...], tokens: int, seed: int = 0) -> dict[str, Tensor]:
    """Documents (B, C, T) whose chunks have these many tokens, special ones included; padded on the right."""
    pad = KINDS[kind][0]["pad_token_id"]
    shape = (len(lengths), len(lengths[0]), tokens)
    ids = torch.randint(5, 90, shape, generator=torch.Generator().manual_seed(seed))
    mask = torch.zeros(shape, dtype=torch.long)
    for b, row in enumerate(lengths):
        for c, length in enumerate(row):
            mask[b, c, :length] = 1
    return {"input_ids": torch.where(mask.bool(), ids, pad), "attention_mask": mask}


def by_hand(kind: str, model: HilatModel, ids: Tensor) -> Tensor:
    """Last hidden states (1, n, D) of one chunk of n real tokens, from a fresh encoder of transformers with these weights.

    BigBird gets the chunk padded to the model's size, as its blocks need; the others get it bare.
    """
    config, tokens = config_of(kind)
    if kind == "bigbird_full":
        config["attention_type"] = "original_full"
    encoder = AutoModel.from_config(AutoConfig.for_model(**config)).eval()
    encoder.load_state_dict(model.encoder.state_dict())
    n, mask, given = ids.shape[1], torch.ones_like(ids), {}
    if kind == "bigbird_sparse":
        ids = torch.nn.functional.pad(ids, (0, tokens - n), value=config["pad_token_id"])
        mask = torch.nn.functional.pad(mask, (0, tokens - n))
    if kind == "longformer":
        given["global_attention_mask"] = torch.tensor([[1] + [0] * (n - 1)])
    hidden: Tensor = encoder(input_ids=ids, attention_mask=mask, **given).last_hidden_state
    return hidden[:, :n]


def head_by_hand(model: HilatModel, chunks: list[Tensor]) -> Tensor:
    """Logits (K,) from the chunks' hidden states (n, D): equations 1 to 8, one code and one chunk at a time."""
    token, chunk, last = model.token_attention, model.chunk_attention, model.classifier
    assert chunk is not None
    out = []
    for k in range(CODES):
        vectors = torch.stack(
            [torch.softmax(torch.tanh(h @ token.projection.T) @ token.labels[k], 0) @ h for h in chunks]
        )
        weights = torch.softmax(torch.tanh(vectors @ chunk.projection.T) @ chunk.query[0], 0)
        out.append(last.weight[k] @ (weights @ vectors) + last.bias[k])
    return torch.stack(out)


@pytest.mark.parametrize("kind", KINDS)
def test_logits_and_gradients_are_those_of_the_encoder_called_by_hand(kind: str) -> None:
    model, tokens = model_of(kind).eval(), KINDS[kind][1]
    given = batch(kind, ((tokens, 21), (9, 2)), tokens)
    output = model(**given)
    for b, chunks in enumerate(((tokens, 21), (9,))):  # two special tokens alone are an empty chunk
        hidden = [by_hand(kind, model, given["input_ids"][b, c : c + 1, :n])[0] for c, n in enumerate(chunks)]
        torch.testing.assert_close(output.logits[b], head_by_hand(model, hidden), rtol=1e-4, atol=1e-4)
    output.logits.square().sum().backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert bool(torch.isfinite(parameter.grad).all()), name
    used = [p for n, p in model.encoder.named_parameters() if "query_global" in n or ".query." in n]
    assert all(float(p.grad.abs().max()) > 0 for p in used if p.dim() > 1)


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_note_gives_does_not_depend_on_padding_or_on_the_batch(kind: str) -> None:
    model, tokens = model_of(kind).eval(), KINDS[kind][1]
    short, long = batch(kind, ((12, 7),), tokens), batch(kind, ((tokens, tokens),), tokens, seed=3)
    with torch.no_grad():
        alone = model(**short, output_attentions=True)
        cut = model(**{name: values[..., :12] for name, values in short.items()}, output_attentions=True)
        together = model(**{name: torch.cat([short[name], long[name]]) for name in short}, output_attentions=True)
        again = model(**long)
    torch.testing.assert_close(cut.logits, alone.logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(together.logits[:1], alone.logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(together.logits[1:], again.logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(together.token_attention[:1], alone.token_attention, rtol=1e-5, atol=1e-5)
    real = short["attention_mask"].bool()[:, None].expand_as(alone.token_attention)
    assert float(alone.token_attention[~real].abs().sum()) == 0
    torch.testing.assert_close(alone.token_attention.sum(-1), torch.ones(1, CODES, 2))


@pytest.mark.parametrize("kind", KINDS)
def test_embeddings_in_the_place_of_ids_give_the_same(kind: str) -> None:
    model, tokens = model_of(kind).eval(), KINDS[kind][1]
    given = batch(kind, ((tokens, 14),), tokens)
    embeds = model.get_input_embeddings()(given["input_ids"]).detach().requires_grad_()
    by_embeds = model(inputs_embeds=embeds, attention_mask=given["attention_mask"])
    torch.testing.assert_close(by_embeds.logits, model(**given).logits, rtol=1e-5, atol=1e-5)
    (gradient,) = torch.autograd.grad(by_embeds.logits[0, 1], embeds)
    real = given["attention_mask"].bool()
    assert float(gradient[~real].abs().max()) == 0
    assert float(gradient[real].abs().sum(-1).min()) > 0


@pytest.mark.parametrize("kind", KINDS)
def test_it_trains_in_one_long_chunk_and_comes_back_from_its_folder(kind: str, tmp_path: Path) -> None:
    tokens = KINDS[kind][1]
    model = model_of(kind, chunks=1).train()
    given = batch(kind, ((tokens,), (20,), (33,)), tokens)
    labels = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(8):
        optimiser.zero_grad()
        loss = model(**given, labels=labels).loss
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    model.eval().save_pretrained(tmp_path / "m")
    with torch.no_grad():
        back = HilatModel.from_pretrained(tmp_path / "m").eval()(**given).logits
        torch.testing.assert_close(back, model(**given).logits)


def test_bigbird_attends_in_blocks_only_where_its_chunks_are_long_enough() -> None:
    assert model_of("bigbird_full").encoder.attention_type == "original_full"
    assert model_of("bigbird_sparse").encoder.attention_type == "block_sparse"
    at_the_limit = (5 + 2) * 4  # transformers: full attention up to (5 + 2 r) blocks
    assert model_of("bigbird_sparse", tokens=at_the_limit).encoder.attention_type == "original_full"
    assert model_of("bigbird_sparse", tokens=at_the_limit + 1).encoder.attention_type == "block_sparse"


@pytest.mark.parametrize(("kind", "limit"), [("longformer", 64), ("bigbird_sparse", 64), ("roberta", 64)])
def test_the_longest_chunk_fits_and_a_longer_one_is_refused(kind: str, limit: int) -> None:
    model = model_of(kind, tokens=limit, chunks=1).eval()
    assert torch.isfinite(model(**batch(kind, ((limit,),), limit)).logits).all()
    config, _ = config_of(kind)
    with pytest.raises(HilatError, match=f"Set tokens to {limit} or less"):
        HilatConfig(config, CODES, tokens=limit + 1)


def test_a_folder_of_a_long_encoder_is_read(tmp_path: Path) -> None:
    for kind in ("longformer", "bigbird_sparse"):
        model = model_of(kind).eval()
        model.encoder.save_pretrained(tmp_path / kind)
        again = build_model(tmp_path / kind, CODES, seed=1, chunks=2, tokens=KINDS[kind][1], init_std=0.5, dropout=0.0)
        given = batch(kind, ((40, 30),), KINDS[kind][1])
        with torch.no_grad():
            found = again.eval().encoder(**{n: v[:, 0] for n, v in given.items()}).last_hidden_state
            torch.testing.assert_close(found, model.encoder(**{n: v[:, 0] for n, v in given.items()}).last_hidden_state)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    folder = tmp_path_factory.mktemp("tokenizer") / "t"
    return train_sentencepiece([NOTE.lower()], folder, vocab_size=80, seed=0)


NOTE = (
    "History of Present Illness: this man with known hypertension came with acute kidney failure and had no pain. "
    "Blood cultures grew bacteria and the sepsis was treated for ten days. Creatinine rose and then fell."
)


@pytest.mark.parametrize("kind", ["roberta", "longformer", "bigbird_full", "bigbird_sparse"])
def test_explanations_of_a_long_encoder(kind: str, tokenizer: PreTrainedTokenizerBase) -> None:
    config, tokens = config_of(kind, len(tokenizer))
    config["pad_token_id"] = tokenizer.pad_token_id
    model = build_model(config, CODES, seed=1, chunks=4, tokens=tokens, init_std=0.5, dropout=0.0).eval()
    names = ("401.9", "584.9", "038.9")
    book = CodeBook(names, names, ("diagnosis",) * 3, "ICD-9")
    coder = Coder(model, tokenizer, book, CleaningRules(), ChunkLayout(4, tokens), np.full(3, 0.5), "fixed 0.5")
    document = coder.encode(NOTE)
    target = HilatTarget(coder)
    subject = Subject(target, document, NOTE, [0, 2], MethodOptions(steps=100))
    whole = forward(model, [document], attentions=True)
    joint = whole.token_attention[0] * whole.chunk_attention[0][:, :, None]  # (K, C, T)
    attention = scores(subject, "attention")
    inside = torch.from_numpy(document.word_index >= 0)
    np.testing.assert_allclose(attention.scores.sum(1), joint[[0, 2]][:, inside].sum(1), rtol=1e-4)
    path = scores(subject, "integrated_gradients")
    assert path.completeness_gap is not None
    assert float(path.completeness_gap.max()) < 0.05
    assert np.isfinite(scores(subject, "occlusion").scores).all()
    if kind in ("longformer", "bigbird_sparse"):
        with pytest.raises(HilatError, match="does not give its whole attention"):
            target.encoder_attentions(document)
    else:
        rows = target.encoder_attentions(document)[0, 0, 0].sum(-1)
        torch.testing.assert_close(rows, torch.ones_like(rows))

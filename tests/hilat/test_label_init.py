"""Label vectors from code titles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, PreTrainedConfig, RobertaConfig, XLNetConfig

from hilat.admissions import HilatError
from hilat.label_init import initialise_from_titles, title_vectors
from hilat.model import HilatModel, build_model

D, K, C, T, VOCABULARY = 8, 5, 3, 12, 40


def _encoder(kind: str = "xlnet", layers: int = 2, dropout: float = 0.1) -> PreTrainedConfig:
    if kind == "xlnet":
        return XLNetConfig(
            vocab_size=VOCABULARY, d_model=D, n_layer=layers, n_head=2, d_inner=16, pad_token_id=5, dropout=dropout
        )
    bert: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": D,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": dropout,
    }
    if kind == "bert":
        return BertConfig(**bert, max_position_embeddings=64)
    return RobertaConfig(**bert, max_position_embeddings=66, type_vocab_size=1)


def _model(kind: str = "xlnet", seed: int = 0, **settings: Any) -> HilatModel:
    """A model with weights large enough for differences to show."""
    encoder = settings.pop("encoder", None) or _encoder(kind)
    model = build_model(encoder, K, seed=seed, **{"chunks": C, "tokens": T, "init_std": 0.5, **settings})
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in model.encoder.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


class _Letters:
    """A tokenizer of one token per letter, with XLNet's or BERT's two special tokens."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __call__(self, text: str, truncation: bool, max_length: int) -> dict[str, list[int]]:
        assert truncation
        letters = [6 + ord(letter) % 30 for letter in text][: max_length - 2]
        return {"input_ids": [*letters, 4, 3] if self.kind == "xlnet" else [2, *letters, 3]}


TITLES = ["Acute kidney failure", "Sepsis", "Coronary atherosclerosis of native vessel", "Atrial fibrillation", "x"]


@pytest.mark.parametrize("kind", ["xlnet", "bert"])
@pytest.mark.parametrize("token_kind", ["shared", "per_chunk"])
def test_label_vectors_come_from_the_titles_and_stay(tmp_path: Path, kind: str, token_kind: str) -> None:
    model = _model(kind, token_attention=token_kind, tokens=20).train()
    tokenizer: Any = _Letters(kind)
    initialise_from_titles(model, tokenizer, TITLES)
    assert model.training
    model.eval()
    rows = model.token_attention.labels.detach()
    for k, title in enumerate(TITLES):  # one title at a time, without padding
        ids = torch.tensor([tokenizer(title, truncation=True, max_length=20)["input_ids"]])
        types = {"token_type_ids": torch.tensor([[0] * (ids.shape[1] - 1) + [2]])} if kind == "xlnet" else {}
        with torch.no_grad():
            states = model.encoder(input_ids=ids, **types).last_hidden_state[0]
        mean = sum(states) / len(states)
        for row in [rows[k]] if token_kind == "shared" else [rows[c, k] for c in range(C)]:
            torch.testing.assert_close(row, mean, rtol=1e-5, atol=1e-6)
    model.save_pretrained(tmp_path)
    assert torch.equal(HilatModel.from_pretrained(tmp_path).token_attention.labels, rows)
    torch.testing.assert_close(title_vectors(model, tokenizer, TITLES, batch_size=2), rows.view(-1, K, D)[0])


def test_titles_that_do_not_fit_are_refused() -> None:
    tokenizer: Any = _Letters("xlnet")
    with pytest.raises(HilatError, match="2 titles for 5 codes"):
        initialise_from_titles(_model(), tokenizer, TITLES[:2])
    with pytest.raises(HilatError, match=r"1 of 5 titles have no text \(columns 3\)"):
        initialise_from_titles(_model(), tokenizer, [*TITLES[:3], " ", "x"])

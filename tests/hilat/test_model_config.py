"""HilatConfig: what it keeps, what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, BertConfig, PreTrainedConfig, RobertaConfig, XLNetConfig

from hilat.admissions import HilatError
from hilat.model import HilatConfig

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


def test_config_is_what_was_given_after_json(tmp_path: Path) -> None:
    config = HilatConfig(_encoder("bert"), K, chunks=7, tokens=33, token_attention="per_chunk", fine_tune="last")
    config.save_pretrained(tmp_path)
    for again in (HilatConfig.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
        assert isinstance(again, HilatConfig)
        for name in ("num_codes", "chunks", "tokens", "token_attention", "chunk_attention", "fine_tune", "dropout"):
            assert getattr(again, name) == getattr(config, name)
        assert isinstance(again.encoder, BertConfig)
        assert again.encoder.hidden_size == D
        assert again.encoder.num_hidden_layers == 2
    assert HilatConfig(_encoder(), 3) != HilatConfig(_encoder(), 4)


def test_config_leaves_the_encoder_s_config_alone() -> None:
    given = _encoder("bert")
    config = HilatConfig(given, K, tokens=T)
    config.encoder.vocab_size = 7
    assert given.vocab_size == VOCABULARY


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"token_attention": "multi"}, "token_attention is 'multi'; expected one of shared, per_chunk"),
        ({"chunk_attention": "sum"}, "expected one of shared, per_code, mean, max, flat"),
        ({"fine_tune": "first"}, "expected one of all, last, none"),
        ({"attend_padding": "yes"}, "attend_padding is 'yes'"),
        ({"num_codes": 0}, "num_codes is 0"),
        ({"num_codes": None}, "num_codes is None"),
        ({"chunks": 1.5}, "chunks is 1.5"),
        ({"tokens": 2}, "tokens is 2"),
        ({"tokens": 65}, "has 64 positions"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"init_std": -1.0}, "init_std is -1.0"),
        ({"encoder": {"hidden_size": 8}}, "'model_type'"),
        ({"encoder": {"model_type": "nonsense"}}, "model_type 'nonsense'"),
        ({"encoder": None}, "the encoder is NoneType"),
    ],
)
def test_config_refuses(settings: dict[str, Any], message: str) -> None:
    values = {"encoder": _encoder("bert"), "num_codes": K, "tokens": T, **settings}
    with pytest.raises(HilatError, match=message):
        HilatConfig(**values)


def test_roberta_has_two_positions_less_than_it_says() -> None:
    HilatConfig(_encoder("roberta"), K, tokens=64)
    with pytest.raises(HilatError, match="has 64 positions"):
        HilatConfig(_encoder("roberta"), K, tokens=65)

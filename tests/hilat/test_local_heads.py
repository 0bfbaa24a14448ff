"""Local heads: with the content taken out, each head looks where it was told."""

from __future__ import annotations

import pytest
import torch
from transformers import BertConfig, BertModel, XLNetConfig, XLNetModel

from hilat.admissions import HilatError
from hilat.local_heads import OFFSETS, look_nearby


def test_each_head_looks_at_its_offset() -> None:
    torch.manual_seed(0)
    encoder = XLNetModel(XLNetConfig(vocab_size=30, d_model=64, n_layer=2, n_head=4, d_inner=64, dropout=0.0)).eval()
    look_nearby(encoder)
    with torch.no_grad():
        for layer in encoder.layer:
            layer.rel_attn.q.zero_()  # no content: only the positions speak
        attentions = encoder(torch.randint(0, 30, (2, 12)), output_attentions=True).attentions
    for layer_attention in attentions:  # (B, heads, T, T)
        for head in range(4):
            for i in range(3, 9):
                weights = layer_attention[0, head, i]
                assert int(weights.argmax()) == i - OFFSETS[head]
                assert float(weights.max()) > 0.3


def test_only_xlnet_and_only_so_many_heads() -> None:
    bert = BertModel(
        BertConfig(vocab_size=30, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    )
    with pytest.raises(HilatError, match="XLNet's relative positions"):
        look_nearby(bert)
    many = XLNetModel(XLNetConfig(vocab_size=30, d_model=64, n_layer=1, n_head=16, d_inner=64))
    with pytest.raises(HilatError, match="16 of 4"):
        look_nearby(many)

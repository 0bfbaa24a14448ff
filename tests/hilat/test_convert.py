"""The converter: every variant on both encoders against a slow second version, and refusals of what does not fit."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModel, BertConfig, PreTrainedConfig, RobertaConfig, XLNetConfig

from hilat.admissions import HilatError
from hilat.convert import convert_published
from hilat.model import HilatModel

D, K, C, T = 8, 4, 3, 10
ENCODERS: dict[str, PreTrainedConfig] = {
    "xlnet": XLNetConfig(vocab_size=40, d_model=D, n_layer=2, n_head=2, d_inner=16, pad_token_id=5),
    "bert": BertConfig(
        vocab_size=40,
        hidden_size=D,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=T,
    ),
    "roberta": RobertaConfig(
        vocab_size=40,
        hidden_size=D,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=T + 2,
        type_vocab_size=1,
    ),
}
TOKEN_KINDS = ("shared", "per_chunk")
CHUNK_KINDS = ("shared", "per_code", "mean", "max", "flat")


def _published_state(encoder: str, token_kind: str, chunk_kind: str, seed: int = 0) -> dict[str, Tensor]:
    """A state dict with the published key names, random weights."""
    torch.manual_seed(seed)
    model = AutoModel.from_config(ENCODERS[encoder])
    state = {f"transformer_layer.{name}": torch.randn_like(p) * 0.3 for name, p in model.named_parameters()}
    for c in [f"{c}." for c in range(C)] if token_kind == "per_chunk" else [""]:
        state[f"label_wise_attention_layer.{c}l1_linear.weight"] = torch.randn(D, D)
        state[f"label_wise_attention_layer.{c}l2_linear.weight"] = torch.randn(K, D)
    if chunk_kind in ("shared", "per_code"):
        for k in [f"{k}." for k in range(K)] if chunk_kind == "per_code" else [""]:
            state[f"chunk_attention_layer.{k}l1_linear.weight"] = torch.randn(D, D)
            state[f"chunk_attention_layer.{k}l2_linear.weight"] = torch.randn(1, D)
    state["classifier_layer.weight"] = torch.randn(K, C * D if chunk_kind == "flat" else D)
    state["classifier_layer.bias"] = torch.randn(K)
    return state


def _convert(encoder: str, state: Any, chunk_kind: str, **settings: Any) -> HilatModel:
    pooling: Any = chunk_kind if chunk_kind in ("mean", "max") else None
    return convert_published(state, ENCODERS[encoder], pooling=pooling, chunks=C, tokens=T, **settings)


def _inputs(encoder: str) -> dict[str, Tensor]:
    """Four documents: full; half a chunk then an empty one; one word; none. Chunks as the encoding makes them."""
    torch.manual_seed(7)
    lengths = torch.tensor([[T, T, T], [T, 6, 2], [3, 2, 2], [2, 2, 2]])
    mask = (torch.arange(T) < lengths[..., None]).long()  # (B, C, T)
    pad = ENCODERS[encoder].pad_token_id
    ids = torch.randint(6, 40, mask.shape).masked_fill(mask == 0, pad)
    inputs = {"input_ids": ids, "attention_mask": mask}
    if encoder == "xlnet":
        last = torch.arange(1, T + 1) == lengths[..., None]
        inputs["token_type_ids"] = torch.where(mask == 0, 3, torch.where(last, 2, 0))
    return inputs


def _slow(
    model: HilatModel, state: dict[str, Tensor], inputs: dict[str, Tensor], kinds: tuple[str, str], pads: bool
) -> tuple[Tensor, Tensor]:
    """Logits (B, K) and token attention (B, K, C, T) from the equations, one document, chunk, code at a time.

    pads: the published behaviour; otherwise padding is left out and empty chunks are skipped.
    """
    state = {name: value.double() for name, value in state.items()}
    token_kind, chunk_kind = kinds
    mask = inputs["attention_mask"]
    logits, attention = torch.zeros(len(mask), K).double(), torch.zeros(len(mask), K, C, T).double()
    for b in range(len(mask)):
        chunks = [c for c in range(C) if pads or mask[b, c].sum() > 2] or [0]
        hidden = {}
        for c in chunks:
            n = T if pads else int(mask[b, c].sum())
            one = {name: values[b, c, :n][None] for name, values in inputs.items()}
            hidden[c] = model.encoder(**one).last_hidden_state[0]  # (n, D)
        for k in range(K):
            vectors = {}
            for c in chunks:
                part = f"{c}." if token_kind == "per_chunk" else ""
                w = state[f"label_wise_attention_layer.{part}l1_linear.weight"]
                u = state[f"label_wise_attention_layer.{part}l2_linear.weight"][k]
                scores = torch.stack([u @ torch.tanh(w @ h) for h in hidden[c]])
                a = scores.exp() / scores.exp().sum()
                attention[b, k, c, : len(a)] = a
                vectors[c] = sum(a[t] * hidden[c][t] for t in range(len(a)))
            if chunk_kind in ("shared", "per_code"):
                part = f"{k}." if chunk_kind == "per_code" else ""
                w, v = (state[f"chunk_attention_layer.{part}l{i}_linear.weight"] for i in (1, 2))
                o = {c: (v[0] @ torch.tanh(w @ vectors[c])).exp() for c in chunks}
                d = sum(o[c] / sum(o.values()) * vectors[c] for c in chunks)
            elif chunk_kind == "mean":
                d = sum(vectors.values()) / len(vectors)
            elif chunk_kind == "max":
                d = torch.tensor([max(float(v[j]) for v in vectors.values()) for j in range(D)], dtype=torch.float64)
            else:
                d = torch.cat([vectors.get(c, torch.zeros(D).double()) for c in range(C)])
            logits[b, k] = state["classifier_layer.weight"][k] @ d + state["classifier_layer.bias"][k]
    return logits, attention


@pytest.mark.parametrize("attend_padding", [True, False])
@pytest.mark.parametrize("chunk_kind", CHUNK_KINDS)
@pytest.mark.parametrize("token_kind", TOKEN_KINDS)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_every_variant_loads_and_agrees_with_loops(
    encoder: str, token_kind: str, chunk_kind: str, attend_padding: bool
) -> None:
    state = _published_state(encoder, token_kind, chunk_kind)
    model = _convert(encoder, state, chunk_kind, attend_padding=attend_padding).double()
    assert (model.config.token_attention, model.config.chunk_attention) == (token_kind, chunk_kind)
    assert (model.config.num_codes, model.config.chunks, model.config.encoder.hidden_size) == (K, C, D)
    inputs = _inputs(encoder)
    with torch.no_grad():
        output = model(**inputs, output_attentions=True)
        logits, attention = _slow(model, state, inputs, (token_kind, chunk_kind), attend_padding)
    torch.testing.assert_close(output.logits, logits, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(output.token_attention, attention, rtol=1e-11, atol=1e-12)


def test_chunk_number_and_pooling_are_read_from_the_weights_where_they_tell() -> None:
    state = _published_state("bert", "shared", "flat")
    assert convert_published(state, ENCODERS["bert"], tokens=T).config.chunks == C
    state = _published_state("bert", "per_chunk", "shared")
    assert convert_published(state, ENCODERS["bert"], tokens=T).config.chunks == C
    state = _published_state("bert", "shared", "shared")
    assert convert_published(state, ENCODERS["bert"], tokens=T).config.chunks == 10
    assert convert_published(state, ENCODERS["bert"], tokens=T).config.attend_padding is True


def test_old_encoder_keys_are_left_out() -> None:
    state = _published_state("bert", "shared", "shared")
    reference = _convert("bert", state, "shared")
    state["transformer_layer.embeddings.position_ids"] = torch.arange(T)[None]
    older = _convert("bert", state, "shared")
    for (name, one), (_, other) in zip(reference.named_parameters(), older.named_parameters(), strict=True):
        assert torch.equal(one, other), name
    state = _published_state("xlnet", "shared", "shared") | {"transformer_layer.pooler.dense.bias": torch.zeros(D)}
    _convert("xlnet", state, "shared")


def test_files_and_folders_load_as_the_state_dict_does(tmp_path: Path) -> None:
    state = _published_state("xlnet", "shared", "per_code")
    inputs = _inputs("xlnet")
    expected = _convert("xlnet", state, "per_code")(**inputs).logits
    save_file(state, tmp_path / "weights.safetensors")
    torch.save(state, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(json.dumps(ENCODERS["xlnet"].to_dict()))
    for source in (tmp_path / "weights.safetensors", str(tmp_path / "pytorch_model.bin"), tmp_path):
        assert torch.equal(_convert("xlnet", source, "per_code")(**inputs).logits, expected)
    # The folder's own config.json, and a config given as a folder.
    for config in (None, tmp_path):
        model = convert_published(tmp_path, config, chunks=C, tokens=T)
        assert torch.equal(model(**inputs).logits, expected)


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:
    class Bad:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps({"a": Bad()}, protocol=2))
    with pytest.raises(HilatError, match="does not read as a file of weights"):
        convert_published(tmp_path, ENCODERS["bert"])
    torch.save({"a": Bad()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(HilatError, match="does not read as a file of weights"):
        convert_published(tmp_path, ENCODERS["bert"])
    assert not (tmp_path / "ran").exists()


def test_unknown_and_missing_keys_are_listed() -> None:
    state = _published_state("bert", "per_chunk", "shared")
    state["classifier_layer.extra"] = torch.zeros(1)
    del state["label_wise_attention_layer.1.l2_linear.weight"]
    del state["transformer_layer.encoder.layer.0.output.dense.bias"]
    with pytest.raises(HilatError) as error:
        _convert("bert", state, "shared")
    for key in (
        "classifier_layer.extra",
        "label_wise_attention_layer.1.l2_linear.weight",
        "transformer_layer.encoder.layer.0.output.dense.bias",
    ):
        assert key in str(error.value)


def test_what_does_not_fit_is_refused_in_one_sentence(tmp_path: Path) -> None:
    plain = _published_state("bert", "shared", "shared")
    pooled = _published_state("bert", "shared", "mean")
    nan = plain | {"classifier_layer.bias": torch.full((K,), torch.nan)}
    wide = plain | {"label_wise_attention_layer.l2_linear.weight": torch.zeros(K + 1, D)}
    for source, settings, message in (
        (pooled, {}, "do not tell mean from max"),
        (plain, {"pooling": "max"}, "pooling is 'max'"),
        (pooled, {"pooling": "flat"}, "pooling is 'flat'; expected mean or max"),
        (_published_state("bert", "shared", "flat"), {"chunks": C + 1}, "number of chunks is 3 or 4"),
        (_published_state("bert", "per_chunk", "shared"), {"chunks": 2}, "number of chunks is 2 or 3"),
        (nan, {}, "NaN or infinite: classifier_layer.bias"),
        (wide, {}, r"label_wise_attention_layer.l2_linear.weight \(5, 8\) instead of \(4, 8\)"),
        ({"weight": torch.zeros(2)}, {}, "found 1 tensors, such as weight"),
        ({}, {}, "found 0 tensors"),
        (tmp_path / "nowhere", {}, "is not there"),
        (tmp_path, {}, "neither model.safetensors nor pytorch_model.bin"),
    ):
        with pytest.raises(HilatError, match=message):
            convert_published(source, ENCODERS["bert"], tokens=T, **settings)
    with pytest.raises(HilatError, match="expected encoder_config"):
        convert_published(plain)
    with pytest.raises(HilatError, match="holds no config"):
        convert_published(plain, tmp_path)
    other = BertConfig(**{**ENCODERS["bert"].to_dict(), "intermediate_size": 12})
    with pytest.raises(HilatError, match=r"intermediate.dense.weight \(16, 8\) instead of \(12, 8\)"):
        convert_published(plain, other, tokens=T)
    (tmp_path / "model.safetensors").write_bytes(b"\x00" * 40)
    with pytest.raises(HilatError, match="does not read as a file of weights"):
        convert_published(tmp_path, ENCODERS["bert"], tokens=T)

"""HilatModel: saving, loading, pretrained encoders, seeds and starting values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModel, BertConfig, PreTrainedConfig, RobertaConfig, XLNetConfig

from hilat.admissions import HilatError
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


def _inputs(kind: str = "xlnet", lengths: Any = None, tokens: int = T) -> dict[str, Tensor]:
    """Documents: full; a part and an empty chunk; one word; no text."""
    generator = torch.Generator().manual_seed(3)
    lengths = torch.tensor(lengths or [[T, T, T], [T, 7, 2], [3, 2, 2], [2, 2, 2]])
    # Drawn for T tokens first, so that more padding leaves the text as it is.
    ids = torch.randint(6, VOCABULARY, (*lengths.shape, T), generator=generator)
    ids = torch.nn.functional.pad(ids, (0, tokens - T), value=6)
    mask = (torch.arange(tokens) < lengths[..., None]).long()  # (B, C, T)
    pad = {"xlnet": 5, "bert": 0, "roberta": 1}[kind]
    return {"input_ids": ids.masked_fill(mask == 0, pad), "attention_mask": mask}


@pytest.mark.parametrize("kind", ["xlnet", "bert", "roberta"])
@pytest.mark.parametrize(("token_kind", "chunk_kind"), [("shared", "shared"), ("per_chunk", "per_code")])
def test_save_and_load_is_exact(tmp_path: Path, kind: str, token_kind: str, chunk_kind: str) -> None:
    model = _model(kind, token_attention=token_kind, chunk_attention=chunk_kind, fine_tune="last")
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    assert not list(tmp_path.glob("*.bin"))
    expected = model(**_inputs(kind)).logits
    for again in (HilatModel.from_pretrained(tmp_path), AutoModel.from_pretrained(tmp_path)):
        assert isinstance(again, HilatModel)
        assert torch.equal(again(**_inputs(kind)).logits, expected)
        trained = [name for name, p in again.named_parameters() if p.requires_grad]
        assert trained == [name for name, p in model.named_parameters() if p.requires_grad]
    half = HilatModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    torch.testing.assert_close(half(**_inputs(kind)).logits.float(), expected, rtol=0.1, atol=0.3)


def test_damaged_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(HilatError, match="does not load as a HiLAT model"):
        HilatModel.from_pretrained(tmp_path / "nowhere")
    model = _model()
    model.save_pretrained(tmp_path)
    weights, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    whole, settings = weights.read_bytes(), json.loads(config.read_text())
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(HilatError, match="does not load as a HiLAT model"):
        HilatModel.from_pretrained(tmp_path)
    weights.write_bytes(whole)
    config.write_text(json.dumps(settings | {"token_attention": "multi"}))
    with pytest.raises(HilatError, match="expected one of shared, per_chunk"):
        HilatModel.from_pretrained(tmp_path)
    config.write_text(json.dumps(settings | {"chunk_attention": "mean"}))
    with pytest.raises(HilatError, match=r"unknown: chunk_attention\.projection"):
        HilatModel.from_pretrained(tmp_path)
    config.write_text(json.dumps(settings | {"num_codes": K + 1}))
    with pytest.raises(HilatError, match=r"of another shape: .*token_attention\.labels"):
        HilatModel.from_pretrained(tmp_path)
    config.write_text("{")
    with pytest.raises(HilatError, match="does not load as a HiLAT model"):
        HilatModel.from_pretrained(tmp_path)
    config.write_text(json.dumps(settings))
    with torch.no_grad():
        model.classifier.bias[0] = torch.nan
    model.save_pretrained(tmp_path)
    with pytest.raises(HilatError, match=r"not finite: classifier\.bias"):
        HilatModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("kind", ["xlnet", "bert"])
def test_a_pretrained_encoder_keeps_its_weights(tmp_path: Path, kind: str) -> None:
    torch.manual_seed(5)
    encoder = AutoModel.from_config(_encoder(kind)).eval()
    encoder.save_pretrained(tmp_path)
    model = build_model(tmp_path, K, seed=1, chunks=C, tokens=T, fine_tune="none")
    for name, parameter in encoder.named_parameters():
        assert torch.equal(model.encoder.get_parameter(name), parameter), name
    assert not any(p.requires_grad for p in model.encoder.parameters())
    model.save_pretrained(tmp_path / "hilat")
    again = HilatModel.from_pretrained(tmp_path / "hilat")
    inputs = _inputs(kind)
    assert torch.equal(again(**inputs).logits, model.eval()(**inputs).logits)
    with pytest.raises(HilatError, match="does not load as a pretrained encoder"):
        build_model(tmp_path / "nowhere", K)
    (tmp_path / "model.safetensors").write_bytes(b"no")
    with pytest.raises(HilatError, match="does not load as a pretrained encoder"):
        build_model(tmp_path, K)


def test_same_seed_same_model_and_same_training() -> None:
    def loss_after_steps(seed: int) -> list[float]:
        model = _model(seed=seed).train()
        torch.manual_seed(seed)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        losses = []
        for _ in range(3):
            loss = model(**_inputs(), labels=torch.ones(4, K)).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        return losses

    assert loss_after_steps(1) == loss_after_steps(1)
    assert loss_after_steps(1) != loss_after_steps(2)
    state = torch.get_rng_state()
    build_model(_encoder(), K, seed=9)
    assert torch.equal(state, torch.get_rng_state())


def test_the_head_starts_as_published() -> None:
    model = build_model(_encoder(), 3000, seed=0, chunk_attention="per_code")
    for parameter in (
        model.token_attention.labels,
        model.chunk_attention.projection,  # type: ignore[union-attr]
        model.chunk_attention.query,  # type: ignore[union-attr]
        model.classifier.weight,
    ):
        values = parameter.detach()
        assert float(values.mean()) == pytest.approx(0, abs=1e-3)
        assert float(values.std()) == pytest.approx(0.03, rel=0.02)
    assert not model.classifier.bias.any()

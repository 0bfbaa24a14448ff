"""HilatModel: outputs, padding, precision, input embeddings, wrong inputs, freezing, checkpointing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AlbertConfig,
    AutoModel,
    BertConfig,
    DistilBertConfig,
    PreTrainedConfig,
    RobertaConfig,
    XLNetConfig,
)

from hilat.admissions import HilatError
from hilat.encoders import transformer_layers
from hilat.model import _CHECKPOINTED_CHUNKS, HilatConfig, HilatModel, build_model

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


ALL_KINDS = [(t, c) for t in ("shared", "per_chunk") for c in ("shared", "per_code", "mean", "max", "flat")]


# ------------------------------------------------------------------------------------------------------------- output
@pytest.mark.parametrize(("token_kind", "chunk_kind"), ALL_KINDS)
def test_attentions_sum_to_one_over_real_positions(token_kind: str, chunk_kind: str) -> None:
    model = _model(token_attention=token_kind, chunk_attention=chunk_kind)
    inputs = _inputs()
    output = model(**inputs, output_attentions=True)
    read = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0], [1, 0, 0]])  # chunks with text, or the first
    assert output.logits.shape == (4, K)
    assert output.token_attention.shape == (4, K, C, T)
    torch.testing.assert_close(output.token_attention.sum(-1), read[:, None].expand(4, K, C).float())
    assert not output.token_attention.masked_select(inputs["attention_mask"][:, None] == 0).any()
    if chunk_kind in ("max", "flat"):
        assert output.chunk_attention is None
    else:
        assert output.chunk_attention.shape == (4, K, C)
        torch.testing.assert_close(output.chunk_attention.sum(-1), torch.ones(4, K))
        assert not output.chunk_attention.masked_select(read[:, None] == 0).any()
    assert model(**inputs).token_attention is None
    assert model(**inputs).chunk_attention is None


@pytest.mark.parametrize("kind", ["xlnet", "bert", "roberta"])
@pytest.mark.parametrize(("token_kind", "chunk_kind"), ALL_KINDS)
def test_more_padding_changes_nothing(kind: str, token_kind: str, chunk_kind: str) -> None:
    model = _model(kind, token_attention=token_kind, chunk_attention=chunk_kind).double()
    expected = model(**_inputs(kind), output_attentions=True)
    wider = model(**_inputs(kind, tokens=T + 9), output_attentions=True)
    torch.testing.assert_close(wider.logits, expected.logits, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(wider.token_attention[..., :T], expected.token_attention, rtol=1e-12, atol=1e-12)
    assert not wider.token_attention[..., T:].any()
    # One document alone, without the batch's longer ones.
    inputs = {name: values[2:3] for name, values in _inputs(kind).items()}
    torch.testing.assert_close(model(**inputs).logits, expected.logits[2:3], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("chunk_kind", ["shared", "per_code", "mean", "max"])
def test_more_empty_chunks_change_nothing(chunk_kind: str) -> None:
    model = _model(chunk_attention=chunk_kind).double()
    expected = model(**_inputs())
    empty = _inputs(lengths=[[2, 2]] * 4)
    inputs = {name: torch.cat([values, empty[name]], 1) for name, values in _inputs().items()}
    torch.testing.assert_close(model(**inputs).logits, expected.logits, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["xlnet", "bert"])
def test_attend_padding_lets_padding_count(kind: str) -> None:
    masked, published = _model(kind), _model(kind, attend_padding=True)
    inputs = _inputs(kind)
    difference = (masked(**inputs).logits - published(**inputs).logits).abs().amax(1)
    assert float(difference[0].detach()) < 1e-5  # the full document
    assert float(difference[1:].min().detach()) > 1e-3
    attention = published(**inputs, output_attentions=True)
    torch.testing.assert_close(attention.token_attention.sum(-1), torch.ones(4, K, C))
    torch.testing.assert_close(attention.chunk_attention.sum(-1), torch.ones(4, K))


def test_empty_chunks_are_not_encoded() -> None:
    model = _model()
    shapes: list[tuple[int, ...]] = []
    hook = model.encoder.register_forward_pre_hook(
        lambda _m, _a, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    model(**_inputs(lengths=[[7, 5, 2], [3, 2, 2], [2, 2, 2]]))
    hook.remove()
    assert shapes == [(2 + 1 + 1, 7)]


def test_loss_is_the_mean_over_documents_and_codes() -> None:
    model = _model()
    labels = torch.randint(0, 2, (4, K), generator=torch.Generator().manual_seed(0))
    output = model(**_inputs(), labels=labels)
    p = torch.sigmoid(output.logits.double()).tolist()
    terms = [
        -torch.log(torch.tensor(p[b][k] if labels[b, k] else 1 - p[b][k], dtype=torch.float64)).item()
        for b in range(4)
        for k in range(K)
    ]
    assert float(output.loss.detach()) == pytest.approx(sum(terms) / len(terms), rel=1e-5)


@pytest.mark.parametrize("kind", ["xlnet", "bert"])
@pytest.mark.parametrize("attend_padding", [True, False])
def test_gradients_are_finite_with_empty_chunks(kind: str, attend_padding: bool) -> None:
    model = _model(kind, attend_padding=attend_padding).train()
    model(**_inputs(kind), labels=torch.zeros(4, K)).loss.backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == (not parameter.requires_grad), name
        if parameter.grad is not None:
            assert torch.isfinite(parameter.grad).all(), name


def test_bfloat16_runs_and_keeps_its_attentions_in_float32() -> None:
    model = _model()
    expected = model(**_inputs(), output_attentions=True)
    output = model.bfloat16()(**_inputs(), labels=torch.ones(4, K), output_attentions=True)
    assert output.token_attention.dtype == output.chunk_attention.dtype == output.loss.dtype == torch.float32
    torch.testing.assert_close(output.token_attention.sum(-1)[0], torch.ones(K, C))
    torch.testing.assert_close(output.logits.float(), expected.logits, rtol=0.1, atol=0.3)


@pytest.mark.parametrize("kind", ["xlnet", "bert"])
@pytest.mark.parametrize(("token_kind", "chunk_kind"), ALL_KINDS)
def test_mixed_precision_trains(kind: str, token_kind: str, chunk_kind: str) -> None:
    """As the trainer does with bf16: float32 weights under autocast."""
    model = _model(kind, token_attention=token_kind, chunk_attention=chunk_kind).train()
    with torch.autocast("cpu", torch.bfloat16):
        output = model(**_inputs(kind), labels=torch.ones(4, K), output_attentions=True)
    output.loss.backward()
    assert output.loss.dtype == output.token_attention.dtype == torch.float32
    torch.testing.assert_close(output.token_attention.sum(-1)[0], torch.ones(K, C))
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("kind", ["xlnet", "bert", "roberta"])
@pytest.mark.parametrize("attend_padding", [True, False])
def test_word_embeddings_instead_of_ids(kind: str, attend_padding: bool) -> None:
    model = _model(kind, attend_padding=attend_padding).double()
    inputs = _inputs(kind)
    expected = model(**inputs, output_attentions=True)
    embeds = model.get_input_embeddings()(inputs["input_ids"]).detach().requires_grad_()
    output = model(inputs_embeds=embeds, attention_mask=inputs["attention_mask"], output_attentions=True)
    for name in ("logits", "token_attention", "chunk_attention"):
        torch.testing.assert_close(output[name], expected[name], rtol=1e-12, atol=1e-12)
    output.logits[1, 2].backward()
    assert embeds.grad is not None
    assert embeds.grad[1, :2].abs().sum() > 0
    assert not embeds.grad[[0, 2, 3]].any()
    if not attend_padding:
        assert not embeds.grad.masked_select(inputs["attention_mask"][..., None] == 0).any()


def test_dropout_is_at_the_three_published_places() -> None:
    model = _model(encoder=_encoder(dropout=0.0), dropout=0.5).train()
    shapes: list[tuple[int, ...]] = []
    hook = model.dropout.register_forward_hook(lambda _m, args, _o: shapes.append(tuple(args[0].shape)))
    model(**_inputs(lengths=[[T, T, T]]))
    hook.remove()
    assert shapes == [(C, T, D), (1, K, C, D), (1, K, D)]


# --------------------------------------------------------------------------------------------------------- bad inputs
def test_forward_refuses_what_does_not_fit() -> None:
    model, inputs = _model(), _inputs()
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    cases: list[tuple[dict[str, Any], str]] = [
        ({"attention_mask": mask}, "either input_ids or inputs_embeds"),
        ({"input_ids": ids}, "attention_mask has shape None"),
        ({"input_ids": ids[0], "attention_mask": mask}, r"input_ids \(B, C, T\) has shape \(3, 12\)"),
        ({"input_ids": ids, "attention_mask": mask[:, :2]}, r"attention_mask has shape \(4, 2, 12\)"),
        ({"input_ids": ids, "attention_mask": mask, "token_type_ids": ids[0]}, "token_type_ids has shape"),
        ({"inputs_embeds": torch.zeros(1, C, T, D + 1), "attention_mask": mask[:1]}, "D = 8"),
        ({"input_ids": ids + VOCABULARY, "attention_mask": mask}, "the encoder knows 0 to 39"),
        ({"input_ids": ids - 50, "attention_mask": mask}, "the encoder knows 0 to 39"),
        ({"input_ids": ids, "attention_mask": mask * 0}, "has no token in its attention_mask"),
        ({"input_ids": ids, "attention_mask": mask, "labels": torch.zeros(4, K + 1)}, r"labels have shape \(4, 6\)"),
    ]
    for arguments, message in cases:
        with pytest.raises(HilatError, match=message):
            model(**arguments)
    for settings in ({"token_attention": "per_chunk"}, {"chunk_attention": "flat"}):
        with pytest.raises(HilatError, match="weights for exactly 3"):
            _model(**settings)(ids[:, :2], mask[:, :2])
    with pytest.raises(HilatError, match="64 positions"):
        _model("bert")(**_inputs("bert", tokens=65))


def test_other_chunk_numbers_and_lengths_are_fine_where_no_weight_depends_on_them() -> None:
    inputs = _inputs()
    logits = _model()(inputs["input_ids"][:, :2, :9], inputs["attention_mask"][:, :2, :9]).logits
    assert torch.isfinite(logits).all()


# ------------------------------------------------------------------------------------------------------------ freezing
@pytest.mark.parametrize("layers", [1, 2, 12, 24])
@pytest.mark.parametrize(
    ("kind", "prefix"), [("xlnet", "layer"), ("bert", "encoder.layer"), ("roberta", "encoder.layer")]
)
def test_last_trains_the_last_layer_at_any_depth(kind: str, prefix: str, layers: int) -> None:
    with torch.device("meta"):
        model = HilatModel(HilatConfig(_encoder(kind, layers), K, tokens=T, fine_tune="last"))
    trained = {name for name, p in model.encoder.named_parameters() if p.requires_grad}
    assert trained == {n for n, _ in model.encoder.named_parameters() if n.startswith(f"{prefix}.{layers - 1}.")}
    assert trained
    assert all(p.requires_grad for n, p in model.named_parameters() if not n.startswith("encoder."))


def test_all_and_none() -> None:
    trained = {name for name, p in _model("bert").encoder.named_parameters() if p.requires_grad}
    assert trained == {n for n, _ in _model("bert").encoder.named_parameters() if not n.startswith("pooler.")}
    model = _model("bert", fine_tune="none").train()
    model(**_inputs("bert"), labels=torch.ones(4, K)).loss.backward()
    assert all(p.grad is None for p in model.encoder.parameters())
    assert all(p.grad is not None for n, p in model.named_parameters() if not n.startswith("encoder."))


@pytest.mark.parametrize("attention", ["uniform", "frozen"])
def test_attention_that_is_not_learned_stays_as_it_was(attention: str) -> None:
    model = _model("bert", attention=attention, dropout=0.0).train()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    model(**_inputs("bert"), labels=torch.ones(4, K)).loss.backward()
    optimiser.step()
    for name, parameter in model.named_parameters():
        of_attention = name.startswith(("token_attention.", "chunk_attention."))
        if of_attention or name.startswith("classifier."):
            assert torch.equal(parameter, before[name]) == of_attention, name
    output = model.train(False)(**_inputs("bert"), output_attentions=True)
    read = output.chunk_attention > 0  # (B, K, C)
    weights = output.token_attention[read].detach()  # (n, T)
    spread = [float(row[row > 0].max() - row[row > 0].min()) for row in weights]
    if attention == "uniform":
        assert max(spread) < 1e-6
        even = read / read.sum(-1, keepdim=True)
        torch.testing.assert_close(output.chunk_attention, even.to(output.chunk_attention.dtype))
    else:
        assert max(spread) > 1e-3


def test_layers_of_other_encoders() -> None:
    small = {"vocab_size": 20, "hidden_size": D, "num_attention_heads": 2, "intermediate_size": 8}
    distil = AutoModel.from_config(DistilBertConfig(vocab_size=20, dim=D, n_layers=3, n_heads=2, hidden_dim=8))
    assert len(transformer_layers(distil)) == 3
    albert = AlbertConfig(**small, num_hidden_layers=3, embedding_size=4)
    with pytest.raises(HilatError, match="Set fine_tune to all or none"):
        build_model(albert, K, fine_tune="last")


# ------------------------------------------------------------------------------------------------------ checkpointing
@pytest.mark.parametrize("kind", ["xlnet", "bert"])
@pytest.mark.parametrize("fine_tune", ["all", "last"])
def test_gradient_checkpointing_gives_the_same_gradients(
    kind: str, fine_tune: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(_CHECKPOINTED_CHUNKS, "cpu", 2)
    calls: list[int] = []

    def gradients(checkpointing: bool) -> dict[str, Tensor]:
        model = _model(kind, encoder=_encoder(kind, dropout=0.0), dropout=0.0, fine_tune=fine_tune).double().train()
        if checkpointing:
            model.activation_checkpointing_enable()
            assert model.is_activation_checkpointing
        model.encoder.register_forward_pre_hook(lambda *_: calls.append(1))
        model(**_inputs(kind), labels=torch.ones(4, K)).loss.backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    plain = gradients(False)
    assert len(calls) == 1
    again = gradients(True)
    assert len(calls) == 1 + 2 * 4  # seven chunks, two at a time, each group twice
    assert plain.keys() == again.keys()
    for name, value in plain.items():
        torch.testing.assert_close(again[name], value, rtol=1e-10, atol=1e-14, msg=name)


def test_gradient_checkpointing_repeats_the_dropout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_CHECKPOINTED_CHUNKS, "cpu", 8)

    def gradient(checkpointing: bool) -> Tensor:
        model = _model().train()
        if checkpointing:
            model.activation_checkpointing_enable()
        torch.manual_seed(0)
        model(**_inputs(), labels=torch.ones(4, K)).loss.backward()
        found = model.get_input_embeddings().weight.grad
        assert isinstance(found, Tensor)
        return found

    torch.testing.assert_close(gradient(True), gradient(False))  # seven chunks: one group, so the same noise

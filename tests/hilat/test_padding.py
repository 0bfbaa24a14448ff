"""No work on padding: shared empty chunks and groups by length against `benchmarks.plain`, which encodes every chunk."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import BertConfig, XLNetConfig

from hilat import attention, chunk_rows
from hilat.batches import ByLength
from hilat.chunk_rows import groups_by_length, one_empty_chunk
from hilat.encoders import products, relative_attention, shared_calls, xlnet_token_types
from hilat.encoders.shared_calls import Fixed
from hilat.model import HilatModel, build_model

plain = pytest.importorskip("benchmarks.plain")  # in the checkout, not in the package

D, K, C, T = 8, 5, 4, 20
ALL_KINDS = [(t, c) for t in ("shared", "per_chunk") for c in ("shared", "per_code", "mean", "max", "flat")]
# A full document; a part and an empty chunk; chunks by section, an empty one in between; one word; no text.
LENGTHS = ((20, 20, 20, 20), (20, 20, 7, 2), (5, 2, 11, 13), (3, 2, 2, 2), (2, 2, 2, 2))


def _model(kind: str = "xlnet", **settings: Any) -> HilatModel:
    """A float64 model with weights large enough for differences to show."""
    if kind == "xlnet":
        encoder: Any = XLNetConfig(
            vocab_size=40, d_model=D, n_layer=2, n_head=2, d_inner=16, pad_token_id=5, dropout=0.0
        )
    else:
        encoder = BertConfig(
            vocab_size=40, hidden_size=D, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
            hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, max_position_embeddings=32,
        )  # fmt: skip
    model = build_model(encoder, K, seed=0, **{"chunks": C, "tokens": T, "init_std": 0.5, "dropout": 0.0, **settings})
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model.double().train()


def _inputs(kind: str = "xlnet") -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    mask = (torch.arange(T) < torch.tensor(LENGTHS)[..., None]).long()  # (B, C, T)
    ids = torch.randint(6, 38, mask.shape, generator=generator)
    empty = (mask.sum(-1) == 2)[..., None] & (mask > 0)
    ids = ids.masked_fill(mask == 0, 5).masked_fill(empty, 38)
    types = xlnet_token_types(mask.flatten(0, 1)).view_as(mask) if kind == "xlnet" else torch.zeros_like(mask)
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}


def _labels() -> Tensor:
    return torch.randint(0, 2, (len(LENGTHS), K), generator=torch.Generator().manual_seed(4)).double()


def _gradients(model: torch.nn.Module, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    torch.autograd.backward(loss)
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def _same(got: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-10) -> None:
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        if not name.endswith("key.bias"):  # its gradient is 0: a softmax does not see it
            assert float((got[name] - value).abs().max()) <= tolerance * (1 + float(value.abs().max())), name


# ---------------------------------------------------------------------------------------------- the function is the same
@pytest.mark.parametrize("block", [None, 2])
@pytest.mark.parametrize("attend_padding", [True, False])
@pytest.mark.parametrize(("token_kind", "chunk_kind"), ALL_KINDS)
def test_outputs_and_gradients_are_those_of_every_chunk_encoded(
    token_kind: str, chunk_kind: str, attend_padding: bool, block: int | None
) -> None:
    model = _model(
        token_attention=token_kind, chunk_attention=chunk_kind, attend_padding=attend_padding, code_block=block
    )
    slow, inputs, labels = plain.PlainHilat(model), _inputs(), _labels()
    expected, got = slow(**inputs), model(**inputs, labels=labels)
    torch.testing.assert_close(got.logits, expected, rtol=1e-10, atol=1e-10)
    _same(_gradients(model, got.loss), _gradients(slow, F.binary_cross_entropy_with_logits(expected, labels)))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("block", [None, 2])
@pytest.mark.parametrize("attend_padding", [True, False])
@pytest.mark.parametrize(("token_kind", "chunk_kind"), ALL_KINDS)
def test_so_without_gradients_in_many_calls_and_parts(
    monkeypatch: pytest.MonkeyPatch,
    token_kind: str,
    chunk_kind: str,
    attend_padding: bool,
    block: int | None,
    mode: Any,
) -> None:
    """States are written where they belong as they come, and the head looks at one chunk at a time."""
    monkeypatch.setitem(chunk_rows._CALL_TOKENS, "cpu", 0)
    monkeypatch.setitem(chunk_rows._MOST_TOKENS, "cpu", 2 * T)
    monkeypatch.setattr(attention, "_TOKENS_AT_ONCE", 1)
    model = _model(
        token_attention=token_kind, chunk_attention=chunk_kind, attend_padding=attend_padding, code_block=block
    )
    slow, inputs = plain.PlainHilat(model), _inputs()
    with_gradients = model(**inputs, output_hidden=True)
    with mode():
        expected, got = slow(**inputs), model(**inputs, output_hidden=True)
    torch.testing.assert_close(got.logits, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(got.hidden, with_gradients.hidden, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("attend_padding", [True, False])
def test_so_under_bert(attend_padding: bool) -> None:
    model = _model("bert", attend_padding=attend_padding)
    slow, inputs, labels = plain.PlainHilat(model), _inputs("bert"), _labels()
    expected, got = slow(**inputs), model(**inputs, labels=labels)
    torch.testing.assert_close(got.logits, expected, rtol=1e-10, atol=1e-10)
    _same(_gradients(model, got.loss), _gradients(slow, F.binary_cross_entropy_with_logits(expected, labels)))


@pytest.mark.parametrize("attend_padding", [True, False])
@pytest.mark.parametrize(("token_kind", "chunk_kind"), ALL_KINDS)
def test_attentions_stand_in_their_places(token_kind: str, chunk_kind: str, attend_padding: bool) -> None:
    """Of one document at a time, whose chunks are all encoded by word embeddings, which are never shared."""
    model = _model(token_attention=token_kind, chunk_attention=chunk_kind, attend_padding=attend_padding).eval()
    inputs = _inputs()
    got = model(**inputs, output_attentions=True)
    assert got.token_attention.shape == (len(LENGTHS), K, C, T)
    for b in range(len(LENGTHS)):
        one = {name: values[b : b + 1] for name, values in inputs.items()}
        embeds = model.get_input_embeddings()(one.pop("input_ids"))
        expected = model(inputs_embeds=embeds, **one, output_attentions=True)
        torch.testing.assert_close(got.logits[b], expected.logits[0], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(got.token_attention[b], expected.token_attention[0], rtol=1e-12, atol=1e-12)
        assert (got.chunk_attention is None) == (chunk_kind in ("max", "flat"))
        if got.chunk_attention is not None:
            torch.testing.assert_close(got.chunk_attention[b], expected.chunk_attention[0], rtol=1e-12, atol=1e-12)


def test_dropout_of_the_head_is_drawn_for_each_empty_chunk() -> None:
    """Without dropout in the encoder the logits' mean and spread are the plain path's, over 3,000 documents without text."""
    copies = 3000
    model = _model(attend_padding=True, chunk_attention="shared")
    model.dropout.p = 0.4
    inputs = {name: values[-1:].expand(copies, -1, -1) for name, values in _inputs().items()}
    slow = plain.PlainHilat(model)
    slow.dropout.p = 0.4
    torch.manual_seed(0)
    with torch.no_grad():
        # One chunk of hidden states for all documents: what the encoder would give for each.
        mask, ids, types = (inputs[name][:1, 0] for name in ("attention_mask", "input_ids", "token_type_ids"))
        states = slow.encoder(ids, attention_mask=mask, token_type_ids=types, use_mems=False).last_hidden_state
        slow.encoder.forward = lambda *_, **__: type("Output", (), {"last_hidden_state": states.expand(copies, -1, -1)})
        expected, got = slow(**inputs), model(**inputs).logits
    error = expected.std(0) * (2 / copies) ** 0.5
    assert ((got.mean(0) - expected.mean(0)).abs() < 4.5 * error).all()
    torch.testing.assert_close(got.std(0), expected.std(0), rtol=0.1, atol=0)


# --------------------------------------------------------------------------------------------------- what is left undone
def _encoded(model: HilatModel, inputs: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of what the encoder is called with."""
    shapes, run = [], model.encode_chunks

    def watched(rows: Any) -> Tensor:
        shapes.append(tuple(rows["attention_mask"].shape))
        return run(rows)

    monkeypatch.setattr(model, "encode_chunks", watched)
    model(**inputs)
    return shapes


def test_one_empty_chunk_is_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    filled = sum(length > 2 for row in LENGTHS for length in row)
    assert _encoded(_model(attend_padding=True), _inputs(), monkeypatch) == [(filled + 1, T)]


def test_empty_chunks_that_differ_are_encoded_each() -> None:
    inputs = _inputs()
    inputs["input_ids"][1, 3, 0] = 7
    inputs["token_type_ids"][4, 2, 5] = 0
    places = torch.arange(len(LENGTHS) * C).view(-1, C).t().flatten()
    encoded, row = one_empty_chunk(inputs, places)
    assert row is not None
    filled = sum(length > 2 for lengths in LENGTHS for length in lengths)
    assert len(encoded) == filled + 3
    for name, values in inputs.items():
        flat = values.flatten(0, 1)
        assert torch.equal(flat[encoded][row], flat[places]), name
    model = _model(attend_padding=True)
    torch.testing.assert_close(model(**inputs).logits, plain.PlainHilat(model)(**inputs), rtol=1e-10, atol=1e-10)


def test_word_embeddings_get_a_gradient_in_every_empty_chunk() -> None:
    model, inputs = _model(attend_padding=True), _inputs()
    embeds = model.get_input_embeddings()(inputs.pop("input_ids")).detach().requires_grad_()
    torch.autograd.backward(model(inputs_embeds=embeds, **inputs).logits.square().sum())
    assert embeds.grad is not None
    assert (embeds.grad.abs().sum((-1, -2)) > 0).all()


def test_masked_chunks_are_encoded_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(chunk_rows._CALL_TOKENS, "cpu", 0)
    monkeypatch.setattr(products, "missing", lambda: "another processor")
    shapes = _encoded(_model(), _inputs(), monkeypatch)
    # 20 (six of them); 13 and 11; 7, 5, 3 and 2, whose lengths count in steps of eight.
    assert shapes == [(6, 20), (2, 13), (4, 7)]


def test_where_onednn_is_taken_lengths_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut to multiples, here of 8, and to no more than a chunk has; the numbers are the same."""
    monkeypatch.setitem(chunk_rows._CALL_TOKENS, "cpu", 0)
    model, inputs = _model(), _inputs()
    expected = plain.PlainHilat(model)(**inputs)
    monkeypatch.setattr(products, "missing", lambda: None)
    monkeypatch.setattr(products, "_EVEN", 8)
    torch.testing.assert_close(model(**inputs).logits, expected, rtol=1e-10, atol=1e-10)
    assert _encoded(model, inputs, monkeypatch) == [(6, 20), (2, 16), (4, 8)]


@pytest.mark.parametrize("serves", [True, False])
def test_a_call_has_no_more_tokens_than_it_may(serves: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """62 chunks of 33 tokens, which are cut to 64 where oneDNN is taken; and chunks of every length up to 512."""
    monkeypatch.setattr(products, "missing", lambda: None if serves else "another processor")
    for lengths in ([33] * 62, [1 + 511 * n // 99 for n in range(100)]):
        mask, shapes = (torch.arange(512) < torch.tensor(lengths)[:, None]).long(), list[tuple[int, ...]]()

        def encode(inputs: Mapping[str, Tensor], shapes: list[tuple[int, ...]] = shapes) -> Tensor:
            shapes.append(tuple(inputs["attention_mask"].shape))
            return torch.zeros(*shapes[-1], 1)

        chunk_rows.encode_by_length(encode, {"attention_mask": mask})
        assert sum(rows for rows, _ in shapes) == len(lengths)
        assert all(rows * length <= 2048 for rows, length in shapes)
        assert all(length % 64 == 0 for _, length in shapes) == serves


def test_groups_share_relative_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Computed once a layer for the three groups of a pass, anew in the next pass, where weights may be others."""
    monkeypatch.setitem(chunk_rows._CALL_TOKENS, "cpu", 0)
    made, of = [], Fixed.of
    monkeypatch.setattr(Fixed, "of", lambda own, positions: made.append(len(positions)) or of(own, positions))
    model = _model()
    slow, inputs, labels = plain.PlainHilat(model), _inputs(), _labels()
    expected, got = slow(**inputs), model(**inputs, labels=labels)
    assert made == [40, 40]
    torch.testing.assert_close(got.logits, expected, rtol=1e-10, atol=1e-10)
    _same(_gradients(model, got.loss), _gradients(slow, F.binary_cross_entropy_with_logits(expected, labels)))
    with torch.no_grad():
        for parameter in (*model.encoder.layer[0].parameters(), *slow.encoder.layer[0].parameters()):
            parameter.mul_(1.5)
        torch.testing.assert_close(model(**inputs).logits, slow(**inputs), rtol=1e-10, atol=1e-10)
    assert made == [40] * 4
    # Outside a pass each call is alone, a longer one after a shorter one too.
    with shared_calls.shared_calls():
        short, long = (
            model.encode_chunks({name: v.flatten(0, 1)[:3, :n] for name, v in inputs.items()}) for n in (5, 9)
        )
    alone = [model.encode_chunks({name: v.flatten(0, 1)[:3, :n] for name, v in inputs.items()}) for n in (5, 9)]
    torch.testing.assert_close([short, long], alone, rtol=1e-12, atol=1e-12)
    assert made == [40] * 4 + [10, 10, 18, 18] * 2


def test_weights_of_attention_are_kept_while_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two layers and groups of 6 x 20, 2 x 13 and 4 x 7 tokens; which ones are kept changes no bit of the gradients."""
    monkeypatch.setitem(chunk_rows._CALL_TOKENS, "cpu", 0)
    monkeypatch.setattr(products, "missing", lambda: "another processor")
    inputs, labels = _inputs(), _labels()
    heads, apply = 2, relative_attention.RelativeAttention.apply
    sizes = [8 * heads * chunks * tokens**2 for chunks, tokens in ((6, 20), (2, 13), (4, 7))]  # bytes
    told: list[bool] = []
    monkeypatch.setattr(
        relative_attention.RelativeAttention, "apply", lambda *given: told.append(given[7]) or apply(*given)
    )
    found = []
    for room in (0, sizes[0] + sizes[2], 10**9):
        monkeypatch.setattr(shared_calls, "KEPT_WEIGHTS", room)
        model = _model(dropout=0.1)
        for part in model.encoder.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.1
        torch.manual_seed(0)
        found.append(_gradients(model.train(), model(**inputs, labels=labels).loss))
    assert told == [False] * 6 + [True, False, False, False, True, False] + [True] * 6
    for gradients in found[1:]:
        for name, gradient in gradients.items():
            assert torch.equal(gradient, found[0][name]), name
    told.clear()
    with torch.no_grad():
        model(**inputs)
    model.activation_checkpointing_enable()
    _gradients(model, model(**inputs, labels=labels).loss)  # chunks are encoded again, one at a time
    assert not any(told)


def test_hooks_see_one_call() -> None:
    model, calls = _model(), []
    model.encoder.layer[0].register_forward_hook(lambda *_: calls.append(1))
    model(**_inputs())
    assert calls == [1]


def test_gradient_checkpointing_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(chunk_rows._CALL_TOKENS, "cpu", 0)
    found = []
    for checkpointing in (False, True):
        model = _model(token_attention="per_chunk")
        if checkpointing:
            model.activation_checkpointing_enable()
        found.append(_gradients(model, model(**_inputs(), labels=_labels()).loss))
    _same(found[1], found[0], 1e-12)


# ----------------------------------------------------------------------------------------------------------------- groups
def _tokens(groups: list[list[int]], lengths: list[int], call: int) -> int:
    return sum(len(rows) * max(lengths[n] for n in rows) + call for rows in groups)


@pytest.mark.parametrize("call", [0, 1, 5, 30, 10_000])
def test_groups_take_the_fewest_tokens(call: int) -> None:
    """Against all ways to cut the sorted lengths."""
    generator = torch.Generator().manual_seed(call)
    for size in range(1, 9):
        lengths = torch.randint(1, 20, (size,), generator=generator).tolist()
        groups = groups_by_length(lengths, call)
        assert sorted(n for rows in groups for n in rows) == list(range(size))
        assert all(rows == sorted(rows) for rows in groups)
        order = sorted(range(size), key=lambda n: -lengths[n])
        least = min(
            _tokens([order[i:j] for i, j in itertools.pairwise([0, *cuts, size])], lengths, call)
            for count in range(size)
            for cuts in itertools.combinations(range(1, size), count)
        )
        assert _tokens(groups, lengths, call) == least


def test_few_tokens_are_encoded_at_realistic_lengths() -> None:
    """The counts in docs/performance.md: 2,000 documents of lognormal length in batches of 16; two processes with 8 each."""
    drawn = np.exp(np.random.default_rng(0).normal(np.log(2450), 0.55, 2000))
    lengths = np.clip(drawn, 50, 5100).astype(int)

    def rows(n: int) -> list[int]:
        full, rest = divmod(int(lengths[n]), 510)
        return [512] * full + [rest + 2] * (rest > 0)

    found = {}
    for name, order in (("random", np.arange(2000)), ("by_length", np.array(list(ByLength(lengths.tolist(), 16, 0))))):
        batches = [[rows(n) for n in batch] for batch in order.reshape(-1, 16)]
        joined = [[length for document in batch for length in document] for batch in batches]
        real = sum(map(sum, joined))
        grouped = sum(_tokens(groups_by_length(batch, 64), batch, 0) for batch in joined)
        even = [[-(-length // 64) * 64 for length in batch] for batch in joined]  # as oneDNN is given them
        evened = sum(_tokens(groups_by_length(batch, 64), batch, 0) for batch in even)
        halves = [[sum(map(sum, batch[i : i + 8])) for i in (0, 8)] for batch in batches]
        slower = float(np.mean([max(two) / np.mean(two) for two in halves]))
        found[name] = grouped / real, sum(len(batch) * max(batch) for batch in joined) / real, slower
        assert 1.005 < evened / real < 1.015
    assert found["random"][0] < 1.01
    assert found["random"][1] > 1.08
    assert found["by_length"][0] < 1.01
    assert found["random"][2] > 1.05 > 1.03 > found["by_length"][2]
    assert 10 * 512 * 2000 / sum(sum(rows(n)) for n in range(2000)) > 1.85

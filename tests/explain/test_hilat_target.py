"""What the explain layer sees of a model is what the model computes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from explain.hilat_target import HilatTarget
from hilat.admissions import HilatError
from hilat.coder import Coder, forward

MakeCoder = Callable[..., Coder]


@pytest.mark.parametrize("kind", ["xlnet", "bert"])
@pytest.mark.parametrize("head", ["shared", "per_code", "mean"])
@pytest.mark.parametrize("attend_padding", [False, True])
def test_frozen_states_give_the_logits_back(
    make_coder: MakeCoder, note: str, kind: str, head: str, attend_padding: bool
) -> None:
    coder = make_coder(kind, chunk_attention=head, attend_padding=attend_padding)
    document = coder.encode(note)
    whole = forward(coder.model, [document], attentions=True)
    states = HilatTarget(coder).frozen(document)
    torch.testing.assert_close(states.token_attention, whole.token_attention[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(states.chunk_attention, whole.chunk_attention[0], rtol=1e-5, atol=1e-6)
    logits = [
        sum(
            float(states.chunk_attention[k, c] * states.token_attention[k, c, t] * (states.classifier[k] @ states.hidden[c, t]))
            for c in range(states.hidden.shape[0])
            for t in range(states.hidden.shape[1])
        )
        + float(states.bias[k])
        for k in range(5)
    ]  # fmt: skip
    np.testing.assert_allclose(logits, whole.logits[0].numpy(), rtol=1e-4, atol=1e-4)
    vectors = torch.einsum("kct,ctd->kcd", states.token_attention, states.hidden)
    again = states.chunk_attention_of(vectors[None])[0]
    torch.testing.assert_close(again, states.chunk_attention, rtol=1e-4, atol=1e-5)


def test_forward_is_the_models_own_and_columns_cut_it(make_coder: MakeCoder, note: str) -> None:
    coder = make_coder(chunk_attention="per_code")
    document = coder.encode(note)
    whole = forward(coder.model, [document], attentions=True)
    target = HilatTarget(coder, [4, 0])
    assert target.codes == ("038.9", "401.9")
    inputs = target.inputs(document)
    part = target.forward(inputs)
    torch.testing.assert_close(part.logits, whole.logits[:, [4, 0]])
    torch.testing.assert_close(part.token_attention, whole.token_attention[:, [4, 0]])
    embeds = target.embeddings(inputs["input_ids"]).detach().requires_grad_()
    by_embeds = target.forward({**{k: v for k, v in inputs.items() if k != "input_ids"}, "inputs_embeds": embeds})
    torch.testing.assert_close(by_embeds.logits, part.logits)
    (gradient,) = torch.autograd.grad(by_embeds.logits[0, 0], embeds)
    assert float(gradient.abs().sum()) > 0
    assert all(p.grad is None for p in coder.model.parameters())


@pytest.mark.parametrize("kind", ["xlnet", "bert"])
def test_encoder_attentions_sum_to_one_on_real_tokens_of_read_chunks(
    make_coder: MakeCoder, other_note: str, kind: str
) -> None:
    coder = make_coder(kind)
    document = coder.encode(other_note)
    before = coder.model.encoder.config._attn_implementation
    attentions = HilatTarget(coder).encoder_attentions(document)
    assert coder.model.encoder.config._attn_implementation == before
    chunks, tokens = document.input_ids.shape
    assert attentions.shape == (2, chunks, 1, tokens, tokens)
    for c in range(chunks):
        read = (document.word_index[c] >= 0).any()
        rows = attentions[:, c][:, :, torch.from_numpy(document.attention_mask[c] == 1)]
        torch.testing.assert_close(rows.sum(-1), torch.full(rows.shape[:-1], float(read)), rtol=1e-4, atol=1e-4)
        padding = torch.from_numpy(document.attention_mask[c] == 0)
        assert float(rows[..., padding].abs().sum()) < 1e-6  # padding itself looks at itself in XLNet


@pytest.mark.parametrize("head", ["max", "flat"])
def test_heads_without_chunk_weights_have_no_frozen_states(make_coder: MakeCoder, note: str, head: str) -> None:
    coder = make_coder(chunk_attention=head)
    with pytest.raises(HilatError, match=head):
        HilatTarget(coder).frozen(coder.encode(note))


def test_baseline_ids_come_from_the_tokenizer(make_coder: MakeCoder) -> None:
    coder = make_coder()
    target = HilatTarget(coder)
    assert target.baseline_id("pad") == coder.tokenizer.pad_token_id
    assert target.baseline_id("mask") == coder.tokenizer.mask_token_id

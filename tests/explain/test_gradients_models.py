"""Gradient attributions of whole models: against captum, a slow second version, and what each must leave as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import captum.attr
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from explain.gradients import (
    GradientOptions,
    TokenScores,
    baseline_embeddings,
    deep_lift,
    embedding_gradients,
    gradient_shap,
    input_x_gradient,
    integrated_gradients,
    saliency,
    state_x_gradient,
)
from explain.hilat_target import HilatTarget
from explain.note_gradients import prepare, walk
from hilat.coder import Coder
from hilat.encoding import EncodedDocument

MakeCoder = Callable[..., Coder]
METHODS: dict[str, Callable[..., TokenScores]] = {
    "saliency": saliency,
    "input_x_gradient": input_x_gradient,
    "state_x_gradient": state_x_gradient,
    "integrated_gradients": integrated_gradients,
    "gradient_shap": gradient_shap,
    "deep_lift": deep_lift,
}
LOOSE = GradientOptions(bound=1e9)


def _hilat(make_coder: MakeCoder, kind: str, **settings: Any) -> HilatTarget:
    """In float64; the last chunk with text is partly padding, and some are empty."""
    coder = make_coder(kind, chunks=8, tokens=32, **settings)
    coder.model.double()
    return HilatTarget(coder)


def _through_captum(target: HilatTarget, document: EncodedDocument) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """Embeddings (B, C, T, D) -> logits (B, K), by the model's own forward, and the note's embeddings (1, C, T, D)."""
    inputs = target.inputs(document)

    def run(embeds: Tensor) -> Tensor:
        more = {n: inputs[n].expand(len(embeds), -1, -1) for n in ("attention_mask", "token_type_ids")}
        return target.forward({"inputs_embeds": embeds, **more}).logits

    return run, target.embeddings(inputs["input_ids"]).detach()


@pytest.mark.parametrize("kind", ["xlnet", "bert"])
@pytest.mark.parametrize("head", ["shared", "per_code", "max"])
@pytest.mark.parametrize("at_once", [1, None])
def test_captum_agrees_code_by_code(
    make_coder: MakeCoder, note: str, kind: str, head: str, at_once: int | None
) -> None:
    target = _hilat(make_coder, kind, chunk_attention=head)
    document = target.encode(note)
    run, embeds = _through_captum(target, document)
    columns, options = [3, 0], GradientOptions(bound=1e9, chunks_at_once=at_once)
    start = baseline_embeddings(target, document, "mask")[None]
    size = saliency(target, document, columns, options=options)
    l1 = saliency(target, document, columns, "l1", options)
    mean = saliency(target, document, columns, "mean", options)
    product = input_x_gradient(target, document, columns, options=options)
    path = integrated_gradients(target, document, columns, "mask", 4, options)
    for i, k in enumerate(columns):
        raw = captum.attr.Saliency(run).attribute(embeds.clone().requires_grad_(), target=k, abs=False)[0]
        np.testing.assert_allclose(size.scores[i], raw.norm(dim=-1), rtol=1e-8, atol=1e-12)
        np.testing.assert_allclose(l1.scores[i], raw.abs().sum(-1), rtol=1e-8, atol=1e-12)
        np.testing.assert_allclose(mean.scores[i], raw.abs().mean(-1), rtol=1e-8, atol=1e-12)
        times = captum.attr.InputXGradient(run).attribute(embeds.clone().requires_grad_(), target=k)[0].sum(-1)
        np.testing.assert_allclose(product.scores[i], times.detach(), rtol=1e-8, atol=1e-12)
        ig = captum.attr.IntegratedGradients(run).attribute(embeds, start, k, n_steps=4, method="gausslegendre")
        np.testing.assert_allclose(path.scores[i], ig[0].sum(-1), rtol=1e-5, atol=1e-8)  # its points are float32


def test_probability_is_the_chain_rule(make_coder: MakeCoder, note: str) -> None:
    target = _hilat(make_coder, "bert")
    document = target.encode(note)
    _, by_logit = embedding_gradients(target, document, [2])
    _, by_probability = embedding_gradients(target, document, [2], "probability")
    run, embeds = _through_captum(target, document)
    p = float(torch.sigmoid(run(embeds)[0, 2]).detach())
    np.testing.assert_allclose(by_probability, p * (1 - p) * by_logit, rtol=1e-9)


@pytest.mark.filterwarnings("ignore:Setting forward, backward hooks")
@pytest.mark.parametrize("kind", ["xlnet", "bert"])
@pytest.mark.parametrize("head", ["shared", "per_code", "mean"])
def test_deep_lift_adds_up_on_transformers_and_captums_does_not(
    make_coder: MakeCoder, note: str, kind: str, head: str
) -> None:
    target = _hilat(make_coder, kind, chunk_attention=head)
    document = target.encode(note)
    columns = list(range(5))
    found = deep_lift(target, document, columns, options=GradientOptions(bound=0.01))
    grouped = deep_lift(target, document, columns, options=GradientOptions(chunks_at_once=1))
    np.testing.assert_allclose(grouped.scores, found.scores, rtol=1e-7, atol=1e-10)
    deep_lift(target, document, columns, options=GradientOptions("probability", bound=0.01))
    run, embeds = _through_captum(target, document)
    start = baseline_embeddings(target, document, "mask")[None]
    change = (run(embeds) - run(start))[0].detach().numpy()

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = target.coder.model

        def forward(self, x: Tensor) -> Tensor:
            return run(x)

    _, gradients = embedding_gradients(target, document, columns)
    plain = (gradients * (embeds - start)[0].numpy()).sum(-1)
    for k in columns:
        other = (
            captum.attr.DeepLift(Whole())
            .attribute(embeds.clone().requires_grad_(), start, target=k)[0]
            .sum(-1)
            .detach()
            .numpy()
        )
        np.testing.assert_allclose(other, plain[k], rtol=1e-8, atol=1e-12)  # none of its rules applied
    assert (np.abs(plain.sum((1, 2)) - change) / np.abs(change)).max() > 0.1


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kind", ["xlnet", "bert"])
def test_the_model_is_left_as_it_was(make_coder: MakeCoder, note: str, name: str, kind: str) -> None:
    target = HilatTarget(make_coder(kind))
    model = target.coder.model
    for parameter in model.get_input_embeddings().parameters():
        parameter.requires_grad_(False)  # frozen embeddings: the gradient at their output is there all the same
    before = [p.detach().clone() for p in model.parameters()]
    wanted = [p.requires_grad for p in model.parameters()]
    found = METHODS[name](target, target.encode(note), [0, 4], options=LOOSE)
    assert np.abs(found.scores).sum() > 0
    assert found.scores.dtype == np.float64
    assert all(p.grad is None for p in model.parameters())
    assert [p.requires_grad for p in model.parameters()] == wanted
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    assert not model.training
    if found.completeness_gap is not None and name != "gradient_shap":  # which draws
        assert found.completeness_gap.max() < 0.05  # in float32, with the default settings


def test_baselines_keep_special_tokens(make_coder: MakeCoder, note: str) -> None:
    target = HilatTarget(make_coder("bert"))
    document = target.encode(note)
    embeds = target.embeddings(target.inputs(document)["input_ids"][0]).detach()
    table = target.coder.model.get_input_embeddings().weight.detach()
    for kind, filler in (("mask", target.coder.tokenizer.mask_token_id), ("pad", target.coder.tokenizer.pad_token_id)):
        start = baseline_embeddings(target, document, kind)
        for c, t in np.ndindex(document.input_ids.shape):
            word = document.word_index[c, t] >= 0
            torch.testing.assert_close(start[c, t], table[filler] if word else embeds[c, t])
    assert not baseline_embeddings(target, document, "zero").any()
    found = integrated_gradients(target, document, [0], "mask", options=LOOSE)
    assert not found.scores[:, document.word_index < 0].any()


def test_notes_without_words(make_coder: MakeCoder) -> None:
    target = HilatTarget(make_coder("xlnet"))
    document = target.encode(" . ")
    for name in ("integrated_gradients", "deep_lift"):
        found = METHODS[name](target, document, [0, 1])
        assert found.completeness_gap is not None
        assert np.isfinite(found.scores).all()


# ------------------------------------------------------------------------------------------------ slow second version
def _slow(target: HilatTarget, document: EncodedDocument, k: int, output: str) -> NDArray[np.float64]:
    """The gradient (C, T, D) of one code by a forward pass of its own over every chunk, transformers' own encoder."""
    run, embeds = _through_captum(target, document)
    leaf = embeds.clone().requires_grad_()
    encoder = target.coder.model.encoder
    before = getattr(encoder, "path", None)
    if before is not None:
        encoder.path = "plain"
    value = run(leaf)[0, k]
    (gradient,) = torch.autograd.grad(torch.sigmoid(value) if output == "probability" else value, leaf)
    if before is not None:
        encoder.path = before
    return np.asarray(gradient[0].numpy())


@pytest.mark.parametrize("kind", ["xlnet", "bert", "roberta"])
@pytest.mark.parametrize("output", ["logit", "probability"])
@pytest.mark.parametrize("attend_padding", [False, True])
def test_a_slow_second_version_agrees(
    make_coder: MakeCoder, note: str, kind: str, output: Any, attend_padding: bool
) -> None:
    target = _hilat(make_coder, kind, attend_padding=attend_padding)
    document = target.encode(note)
    lengths = document.attention_mask.sum(1)
    assert {2, 32} < set(lengths.tolist())  # an empty chunk, a full one, and one that is short
    for options in (GradientOptions(output), GradientOptions(output, chunks_at_once=2)):
        product = input_x_gradient(target, document, [4, 1], options=options)
        norm = input_x_gradient(target, document, [4, 1], "l2", options)
        for i, k in enumerate((4, 1)):
            slow = _slow(target, document, k, output)
            embeds = target.embeddings(target.inputs(document)["input_ids"])[0].detach().numpy()
            np.testing.assert_allclose(product.scores[i], (slow * embeds).sum(-1), rtol=1e-9, atol=1e-13)
            np.testing.assert_allclose(norm.scores[i], np.linalg.norm(slow * embeds, axis=-1), rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("kind", ["xlnet", "bert"])
def test_points_of_a_path_in_one_call_or_one_by_one(make_coder: MakeCoder, other_note: str, kind: str) -> None:
    target = _hilat(make_coder, kind)
    document = target.encode(other_note)
    assert prepare(target, document, [0], LOOSE).points > 5
    one = GradientOptions(bound=1e9, chunks_at_once=1)
    assert prepare(target, document, [0], one).points == 1
    together, apart = (integrated_gradients(target, document, [2, 0], "mask", 5, options) for options in (LOOSE, one))
    np.testing.assert_allclose(together.scores, apart.scores, rtol=1e-9, atol=1e-13)
    assert together.passes == (5 + 2) * int((document.attention_mask.sum(1) > 2).sum())


def test_the_fast_xlnet_computes_nothing_for_its_parameters(make_coder: MakeCoder, note: str) -> None:
    target = _hilat(make_coder, "xlnet")
    document = target.encode(note)
    inputs = {name: values[0, :1] for name, values in target.inputs(document).items()}
    leaf = target.embeddings(inputs.pop("input_ids")).detach().requires_grad_()
    output = target.chunk_vectors({"inputs_embeds": leaf, **inputs}, np.array([0]))
    own = set(target.coder.model.encoder.parameters())
    assert all(p.requires_grad for name, p in target.coder.model.encoder.named_parameters() if name != "mask_emb")
    seen, todo, leaves = set(), [output.grad_fn], []
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            leaves += [node.variable] if hasattr(node, "variable") else []
            todo += [following for following, _ in node.next_functions]
    assert any(leaf is found for found in leaves)
    assert not own & set(leaves)


# ------------------------------------------------------------------------------------------------- groups left out
def test_chunks_without_weight_are_left_out_and_the_bound_holds(make_coder: MakeCoder, note: str) -> None:
    target = _hilat(make_coder, "bert")
    head = target.coder.model.chunk_attention
    assert head is not None
    with torch.no_grad():
        head.query.mul_(400)  # all attention on one chunk: that of others is exactly 0, or nearly
    document = target.encode(note)
    walked: list[tuple[int, int]] = []

    def sizes(negligible: float) -> NDArray[np.float64]:
        walked.clear()
        chosen = prepare(target, document, range(5), GradientOptions(chunks_at_once=1, negligible=negligible))
        found = np.zeros((5, len(document.input_ids)))

        def take(i: int, rows: NDArray[np.int64], gradient: Tensor) -> None:
            walked.append((i, int(rows[0])))
            found[i, rows] = gradient[0].norm(dim=(1, 2)).numpy()

        walk(chosen, chosen.embeds[None], take)
        return found

    exact = sizes(0.0)
    for i in range(5):
        slow = np.linalg.norm(_slow(target, document, i, "logit"), axis=(1, 2))
        np.testing.assert_allclose(exact[i], slow, rtol=1e-8, atol=1e-13)
    every = set(walked)
    assert len(walked) < 5 * int((document.attention_mask.sum(1) > 2).sum())  # exact zeros
    loose = sizes(0.5)
    assert set(walked) < every
    for i, c in every - set(walked):
        assert loose[i, c] == 0
        assert exact[i, c] <= exact[i].max()  # never the chunk with the most
    assert all(loose[i, c] == exact[i, c] for i, c in walked)


# ------------------------------------------------------------------------------------------------------ head only
@pytest.mark.parametrize("head", ["shared", "per_code", "mean", "max", "flat"])
@pytest.mark.parametrize("token_attention", ["shared", "per_chunk"])
@pytest.mark.parametrize("output", ["logit", "probability"])
def test_at_the_states_captum_on_the_head_alone_agrees(
    make_coder: MakeCoder, note: str, head: str, token_attention: str, output: Any
) -> None:
    target = _hilat(make_coder, "xlnet", chunk_attention=head, token_attention=token_attention)
    document = target.encode(note)
    columns, options = [3, 0], GradientOptions(output)
    model = target.coder.model
    inputs = {name: values[0] for name, values in target.inputs(document).items()}  # (C, T)
    mask = inputs["attention_mask"]
    read = mask.sum(1) > 2  # (C,)
    with torch.no_grad():
        hidden = model.encode_chunks(inputs)[None]  # (1, C, T, D), every chunk at its full length

    def run(states: Tensor) -> Tensor:
        vectors, _ = model.token_attention(states[0], mask.bool(), [1] * len(mask))  # (C, K, D)
        stacked = torch.where(read[:, None, None], vectors, 0.0).transpose(0, 1)[None]  # (1, K, C, D)
        if head in ("shared", "per_code"):
            pooled = model.chunk_attention(stacked, read[None])[0]
        elif head == "flat":
            pooled = stacked.flatten(2)
        else:
            pooled = stacked[:, :, read].mean(2) if head == "mean" else stacked[:, :, read].amax(2)
        logits: Tensor = model.classifier(pooled)
        return torch.sigmoid(logits) if output == "probability" else logits

    signed = state_x_gradient(target, document, columns, options=options)
    norm = state_x_gradient(target, document, columns, "l2", options)
    assert (signed.signed, norm.signed, signed.target) == (True, False, output)
    assert signed.passes == int(read.sum())
    for i, k in enumerate(columns):
        other = captum.attr.InputXGradient(run).attribute(hidden.clone().requires_grad_(), target=k)[0].detach()
        np.testing.assert_allclose(signed.scores[i], other.sum(-1), rtol=1e-8, atol=1e-12)
        np.testing.assert_allclose(norm.scores[i], other.norm(dim=-1), rtol=1e-8, atol=1e-12)

"""Gradient attributions: against the reference numbers, captum, finite differences, and what each must satisfy.

On a head written from its formulas; whole models are in test_gradients_models.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import captum.attr
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from explain.gradients import (
    GradientOptions,
    ShapSampling,
    TokenScores,
    baseline_embeddings,
    deep_lift,
    embedding_gradients,
    gradient_shap,
    input_x_gradient,
    integrated_gradients,
    saliency,
)
from explain.target import Filler, HeadOutput
from hilat.admissions import HilatError
from hilat.coder import Coder
from hilat.encoding import EncodedDocument

MakeCoder = Callable[..., Coder]
METHODS: dict[str, Callable[..., TokenScores]] = {
    "saliency": saliency,
    "input_x_gradient": input_x_gradient,
    "integrated_gradients": integrated_gradients,
    "gradient_shap": gradient_shap,
    "deep_lift": deep_lift,
}
LOOSE = GradientOptions(bound=1e9)


class MiniTarget:
    """The label-wise head of the reference numbers on the word embeddings themselves, written from its formulas."""

    def __init__(self, numbers: Mapping[str, Any], attend_padding: bool = False) -> None:
        self.E, self.W, self.U, self.K, self.v, self.beta, self.b = (
            torch.tensor(numbers[name], dtype=torch.float64) for name in ("E", "W", "U", "K", "v", "beta", "b")
        )
        self.attend_padding = attend_padding
        self.codes = tuple(f"c{k}" for k in range(len(self.U)))
        self.thresholds = np.full(len(self.U), 0.5)
        self.device = torch.device("cpu")

    def inputs(self, document: EncodedDocument) -> dict[str, Tensor]:
        names = ("input_ids", "attention_mask", "token_type_ids")
        return {name: torch.from_numpy(getattr(document, name).copy())[None] for name in names}

    def embeddings(self, input_ids: Tensor) -> Tensor:
        return self.E[input_ids]

    def baseline_id(self, kind: Filler) -> int:
        return {"mask": 1, "pad": 0}[kind]

    def token_weights(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        h = inputs["inputs_embeds"] if "inputs_embeds" in inputs else self.E[inputs["input_ids"]]  # (N, T, D)
        scores = torch.tanh(h @ self.W.T) @ self.U.T  # (N, T, K)
        if not self.attend_padding:
            scores = scores.masked_fill(inputs["attention_mask"][..., None] == 0, -1e30)
        return h, torch.softmax(scores, dim=1)

    def chunk_vectors(self, inputs: Mapping[str, Tensor], chunk: NDArray[np.int64]) -> Tensor:
        del chunk
        h, weights = self.token_weights(inputs)
        return weights.transpose(1, 2) @ h  # (N, K, D)

    def hidden_states(self, inputs: Mapping[str, Tensor]) -> Tensor:
        raise NotImplementedError

    def vectors_of_states(self, hidden: Tensor, attention_mask: Tensor, chunk: NDArray[np.int64]) -> Tensor:
        raise NotImplementedError

    def chunks_read(self, attention_mask: NDArray[np.int64]) -> NDArray[np.bool_]:
        return np.ones(attention_mask.shape[:2], dtype=bool)

    def logits(self, vectors: Tensor, kept: Tensor) -> Tensor:
        del kept
        weights = torch.softmax(torch.tanh(vectors @ self.K.T) @ self.v, dim=1)  # (S, C, K)
        return torch.einsum("sck,sckd,kd->sk", weights, vectors, self.beta) + self.b

    def output(self, embeds: Tensor, mask: Tensor) -> Tensor:
        """Logits (K,) of one document from embeddings (C, T, D)."""
        vectors = self.chunk_vectors({"inputs_embeds": embeds, "attention_mask": mask}, np.arange(len(embeds)))
        return self.logits(vectors[None], mask.any(-1)[None])[0]

    def encode(self, admission: Any) -> EncodedDocument:
        raise NotImplementedError

    def forward(self, inputs: Mapping[str, Tensor]) -> HeadOutput:
        raise NotImplementedError

    def frozen(self, document: EncodedDocument) -> Any:
        raise NotImplementedError

    def encoder_attentions(self, document: EncodedDocument) -> Tensor:
        raise NotImplementedError


def document_of(ids: NDArray[np.int64], mask: NDArray[np.int64]) -> EncodedDocument:
    """Each real token is a word."""
    index = np.where(mask == 1, np.cumsum(mask).reshape(mask.shape) - 1, -1)
    n = int(mask.sum())
    spans = np.stack([2 * np.arange(n), 2 * np.arange(n) + 1], axis=1)
    return EncodedDocument("mini", ids, mask, np.zeros_like(ids), index, spans, 0)


@pytest.fixture(scope="module")
def numbers(shared: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((shared / "vectors" / "hilat_mini.json").read_text())
    return values


@pytest.fixture(scope="module")
def mini(numbers: dict[str, Any]) -> tuple[MiniTarget, EncodedDocument]:
    return MiniTarget(numbers), document_of(np.array(numbers["ids"]), np.array(numbers["attention_mask"]))


def expected(numbers: dict[str, Any], name: str) -> NDArray[np.float64]:
    return np.array([label[name] for label in numbers["per_label"]])


# ------------------------------------------------------------------------------------------------- reference numbers
@pytest.mark.parametrize("at_once", [1, 2])
def test_reference_gradients(numbers: dict[str, Any], mini: tuple[MiniTarget, EncodedDocument], at_once: int) -> None:
    options = GradientOptions(chunks_at_once=at_once)
    close = {"rtol": 0, "atol": 1e-9}
    size = saliency(*mini, [0, 1], options=options)
    np.testing.assert_allclose(size.scores, expected(numbers, "saliency_l2"), **close)
    assert (size.signed, size.target, size.completeness_gap, size.passes) == (
        False,
        "logit",
        None,
        3 if at_once == 1 else 2,  # the graph of the last group stays
    )
    product = input_x_gradient(*mini, [0, 1], options=options)
    np.testing.assert_allclose(product.scores, expected(numbers, "ixg_sum"), **close)
    norm = input_x_gradient(*mini, [0, 1], "l2", options)
    np.testing.assert_allclose(norm.scores, expected(numbers, "ixg_l2"), **close)
    assert product.signed
    assert not norm.signed


@pytest.mark.parametrize(
    ("name", "baseline", "steps", "output"),
    [
        ("ig50_mask_baseline_sum", "mask", 50, "logit"),
        ("ig200_mask_baseline_sum", "mask", 200, "logit"),
        ("ig200_zero_baseline_sum", "zero", 200, "logit"),
        ("ig200_prob_output_sum", "mask", 200, "probability"),
    ],
)
def test_reference_integrated_gradients(
    numbers: dict[str, Any], mini: tuple[MiniTarget, EncodedDocument], name: str, baseline: Any, steps: int, output: Any
) -> None:
    found = integrated_gradients(*mini, [1, 0], baseline, steps, GradientOptions(output))
    np.testing.assert_allclose(found.scores[::-1], expected(numbers, name), rtol=0, atol=1e-6)
    assert found.passes == 2 * steps + 4
    assert found.target == output
    if name.endswith("mask_baseline_sum"):
        change = np.array([label["logit_minus_baseline_logit"] for label in numbers["per_label"]])
        np.testing.assert_allclose(found.scores[::-1].sum((1, 2)), change, rtol=0, atol=1e-6)
    assert found.completeness_gap is not None
    assert (found.completeness_gap < 1e-6).all()


def test_with_attention_on_padding_padding_has_a_gradient(numbers: dict[str, Any]) -> None:
    target = MiniTarget(numbers, attend_padding=True)
    document = document_of(np.array(numbers["ids"]), np.array(numbers["attention_mask"]))
    mask = torch.from_numpy(document.attention_mask.copy())
    embeds, gradients = embedding_gradients(target, document, [0, 1])
    logits = target.output(torch.from_numpy(embeds), mask)
    np.testing.assert_allclose(logits, numbers["unmasked"]["logits"], atol=1e-9)
    _, weights = target.token_weights({"inputs_embeds": torch.from_numpy(embeds), "attention_mask": mask})
    np.testing.assert_allclose(weights, numbers["unmasked"]["token_attention_CTL"], atol=1e-9)
    for place in np.ndindex(embeds.shape):
        step = np.zeros_like(embeds)
        step[place] = 1e-6
        up, down = (target.output(torch.from_numpy(embeds + s * step), mask).numpy() for s in (1, -1))
        np.testing.assert_allclose(gradients[(slice(None), *place)], (up - down) / 2e-6, atol=1e-8)
    assert np.abs(gradients[:, 1, 3]).sum(-1).min() > 0.01  # padding
    masked = embedding_gradients(MiniTarget(numbers), document, [0, 1])[1]
    assert not masked[:, 1, 3].any()


def test_gradient_shap_has_captums_expectation(
    numbers: dict[str, Any], mini: tuple[MiniTarget, EncodedDocument]
) -> None:
    """Exact: the mean of integrated gradients over the baselines. Captum draws, so that it comes near only."""
    target, document = mini
    found = gradient_shap(target, document, [0, 1], ShapSampling(("mask", "zero"), 100, seed=1))
    exact = (expected(numbers, "ig200_mask_baseline_sum") + expected(numbers, "ig200_zero_baseline_sum")) / 2
    np.testing.assert_allclose(found.scores, exact, atol=1e-4)
    assert found.passes == 2 * (400 + 3)
    embeds = target.embeddings(torch.from_numpy(document.input_ids.copy()))
    mask = torch.from_numpy(document.attention_mask.copy())
    starts = torch.stack([baseline_embeddings(target, document, "mask"), torch.zeros_like(embeds)])
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 (captum draws from it)
    shap = captum.attr.GradientShap(lambda x: torch.stack([target.output(one, mask) for one in x]))
    drawn = shap.attribute(embeds[None], starts, n_samples=600, stdevs=0.0, target=1)[0].sum(-1)
    np.testing.assert_allclose(found.scores[1], drawn, atol=0.1)


def test_gradient_shap_seed_and_noise(mini: tuple[MiniTarget, EncodedDocument]) -> None:
    def run(seed: int, noise: float) -> NDArray[np.float64]:
        return gradient_shap(*mini, [0], ShapSampling(("mask",), 5, noise, seed), LOOSE).scores

    assert np.array_equal(run(0, 0.1), run(0, 0.1))
    assert not np.array_equal(run(0, 0.1), run(1, 0.1))
    assert not np.array_equal(run(0, 0.1), run(0, 0.0))
    assert not run(0, 0.1)[:, 1, 3].any()  # padding


# ---------------------------------------------------------------------------------------------------------- DeepLift
class Network(nn.Module):
    """Linear layers and activations of torch.nn only: where captum's DeepLift is right."""

    def __init__(self, chunk_major: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(3, 7), nn.ReLU(), nn.Linear(7, 6), nn.Tanh(), nn.Linear(6, 2)).double()
        self.last = nn.Sigmoid()
        self.chunk_major = chunk_major

    def forward(self, embeds: Tensor) -> Tensor:
        if self.chunk_major:
            vectors = self.layers(embeds.transpose(0, 1).flatten(0, 1)).mean(1)  # (C * B, K)
            vectors = vectors.unflatten(0, (embeds.shape[1], embeds.shape[0])).transpose(0, 1)  # (B, C, K)
        else:
            vectors = self.layers(embeds).mean(2)
        return self.last(vectors.sum(1))


class NetworkTarget(MiniTarget):
    """The Network as a target: a code's chunk vector has one number, its place in the mean."""

    def __init__(self, numbers: Mapping[str, Any], last: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__(numbers)
        self.network = Network(False)
        self.last = last or self.network.last

    def chunk_vectors(self, inputs: Mapping[str, Tensor], chunk: NDArray[np.int64]) -> Tensor:
        del chunk
        return self.network.layers(inputs["inputs_embeds"]).mean(1)[..., None]  # type: ignore[no-any-return]

    def logits(self, vectors: Tensor, kept: Tensor) -> Tensor:
        del kept
        return self.last(vectors[..., 0].sum(1))


@pytest.mark.filterwarnings("ignore:Setting forward, backward hooks")
def test_deep_lift_is_captums_where_captum_is_right(
    numbers: dict[str, Any], mini: tuple[MiniTarget, EncodedDocument]
) -> None:
    target, document = NetworkTarget(numbers), mini[1]
    found = deep_lift(target, document, [0, 1])
    assert found.completeness_gap is not None
    assert found.completeness_gap.max() < 1e-9
    embeds = target.embeddings(torch.from_numpy(document.input_ids.copy()))[None]
    start = baseline_embeddings(target, document, "mask")[None]
    for k in (0, 1):
        other = (
            captum.attr.DeepLift(target.network)
            .attribute(embeds.clone().requires_grad_(), start, target=k)[0]
            .sum(-1)
            .detach()
        )
        np.testing.assert_allclose(found.scores[k], other, rtol=1e-9, atol=1e-12)
        # Gathered chunk by chunk, the same function: captum compares one chunk with another.
        wrong = (
            captum.attr.DeepLift(Network(True))
            .attribute(embeds.clone().requires_grad_(), start, target=k)[0]
            .sum(-1)
            .detach()
        )
        change = float((target.network(embeds) - target.network(start))[0, k].detach())
        assert abs(float(wrong.sum()) - change) > 0.01 * abs(change)


def test_deep_lift_refuses_what_it_has_no_rule_for(
    numbers: dict[str, Any], mini: tuple[MiniTarget, EncodedDocument]
) -> None:
    def sine(values: Tensor) -> Tensor:
        return torch.sin(5 * values)

    with pytest.raises(HilatError, match="no rule for: use integrated_gradients"):
        deep_lift(NetworkTarget(numbers, sine), mini[1], [0, 1])
    integrated_gradients(NetworkTarget(numbers, sine), mini[1], [0, 1])

    calls = []

    def fickle(values: Tensor) -> Tensor:
        calls.append(1)
        return torch.tanh(values) if len(calls) % 2 else torch.exp(values)

    with pytest.raises(HilatError, match="in other steps"):
        deep_lift(NetworkTarget(numbers, fickle), mini[1], [0])


# -------------------------------------------------------------------------------------------------------- properties
@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000))
def test_methods_add_up_and_leave_padding_out_on_random_heads(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shapes = {"E": (9, 3), "W": (3, 3), "U": (4, 3), "K": (3, 3), "v": (3,), "beta": (4, 3), "b": (4,)}
    target = MiniTarget({name: 0.7 * rng.normal(size=shape) for name, shape in shapes.items()})
    lengths = rng.integers(1, 6, size=3)
    mask = (np.arange(5) < lengths[:, None]).astype(np.int64)
    document = document_of(rng.integers(2, 9, size=(3, 5)) * mask, mask)
    columns = rng.permutation(4)[:3].tolist()
    real = torch.from_numpy(mask.copy())
    embeds = target.embeddings(torch.from_numpy(document.input_ids.copy()))
    start = baseline_embeddings(target, document, "mask")
    change = (target.output(embeds, real) - target.output(start, real))[columns].numpy()
    for name, method in METHODS.items():
        found = method(target, document, columns, options=LOOSE)
        assert found.scores.shape == (3, 3, 5)
        assert not found.scores[:, mask == 0].any()
        assert found.signed or (found.scores >= 0).all()
        again = method(target, document, columns[::-1], options=LOOSE)
        np.testing.assert_allclose(again.scores[::-1], found.scores, rtol=1e-9, atol=1e-12)
        if name in ("integrated_gradients", "deep_lift"):
            np.testing.assert_allclose(found.scores.sum((1, 2)), change, atol=2e-2)


# ------------------------------------------------------------------------------------------------------------- errors
def test_a_gap_above_the_bound_is_an_error(numbers: dict[str, Any], mini: tuple[MiniTarget, EncodedDocument]) -> None:
    found = integrated_gradients(*mini, [0, 1], steps=1, options=LOOSE)
    change = np.array([label["logit_minus_baseline_logit"] for label in numbers["per_label"]])
    gap = np.abs(found.scores.sum((1, 2)) - change) / np.abs(change)
    np.testing.assert_allclose(found.completeness_gap, gap, rtol=1e-9)
    assert gap.max() > 0.01
    with pytest.raises(HilatError, match=r"do not add up.*Raise the number of steps \(now 1\) or take"):
        integrated_gradients(*mini, [0, 1], steps=1, options=GradientOptions(bound=float(gap.max()) * 0.99))
    with pytest.raises(HilatError, match=r"number of pairs \(now 1\) or lower the noise"):
        gradient_shap(*mini, [0, 1], ShapSampling(("mask",), 1, 2.0), GradientOptions(bound=1e-6))


def test_wrong_arguments(mini: tuple[MiniTarget, EncodedDocument]) -> None:
    for columns in ([], [2], [-1], [0, 0]):
        with pytest.raises(HilatError, match="different ones from 0 to 1"):
            saliency(*mini, columns)
    with pytest.raises(HilatError, match="expected one of l2, l1, mean"):
        saliency(*mini, [0], "l3")  # type: ignore[arg-type]
    with pytest.raises(HilatError, match="expected one of sum, l2"):
        input_x_gradient(*mini, [0], "max")  # type: ignore[arg-type]
    with pytest.raises(HilatError, match="expected one of mask, pad, zero"):
        integrated_gradients(*mini, [0], "unk")  # type: ignore[arg-type]
    with pytest.raises(HilatError, match="steps is 0"):
        integrated_gradients(*mini, [0], steps=0)
    with pytest.raises(HilatError, match="logit, probability"):
        GradientOptions("odds")  # type: ignore[arg-type]
    with pytest.raises(HilatError, match="negligible 1"):
        GradientOptions(negligible=1)
    with pytest.raises(HilatError, match="bound 0"):
        GradientOptions(bound=0)
    with pytest.raises(HilatError, match="1 or more"):
        ShapSampling((), 1)

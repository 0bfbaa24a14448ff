"""Attention times gradients: against the reference numbers and finite differences."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from explain.combined import (
    att_grad,
    att_in_grad,
    attention_x_gradient,
    attention_x_norm,
    global_attention_gradients,
    token_attention_gradients,
)
from explain.hilat_target import HilatTarget
from explain.target import FrozenStates
from hilat.admissions import HilatError
from hilat.coder import Coder

MakeCoder = Callable[..., Coder]


@pytest.fixture(scope="module")
def numbers(shared: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((shared / "vectors" / "hilat_mini.json").read_text())
    return values


def states_of(numbers: dict[str, Any]) -> FrozenStates:
    def tensor(name: str) -> Tensor:
        return torch.tensor(numbers[name], dtype=torch.float64)

    def chunk_attention_of(vectors: Tensor) -> Tensor:  # (S, K, C, D) -> (S, K, C)
        return torch.softmax(torch.tanh(vectors @ tensor("K").T) @ tensor("v"), dim=-1)

    return FrozenStates(
        tensor("E")[torch.tensor(numbers["ids"])],
        torch.tensor(numbers["attention_mask"]).bool(),
        torch.tensor([True, True]),
        tensor("token_attention_CTL").permute(2, 0, 1),
        tensor("chunk_attention_CL").T,
        tensor("beta"),
        tensor("b"),
        chunk_attention_of,
    )


def expected(numbers: dict[str, Any], name: str) -> np.ndarray[Any, Any]:
    return np.array([label[name] for label in numbers["per_label"]])


def test_reference_numbers(numbers: dict[str, Any]) -> None:
    states = states_of(numbers)
    attention = states.token_attention.numpy()
    gradients = token_attention_gradients(states)
    np.testing.assert_allclose(gradients, expected(numbers, "dlogit_dtokenattention"), rtol=0, atol=1e-9)
    signed = attention_x_gradient(attention, gradients)
    np.testing.assert_allclose(signed, expected(numbers, "attention_times_grad"), rtol=0, atol=1e-9)
    np.testing.assert_allclose(att_grad(attention, gradients), np.abs(signed))
    whole = np.array(numbers["global_attention_CTL"]).transpose(2, 0, 1)
    found = att_in_grad(whole, expected(numbers, "ixg_l2"))
    np.testing.assert_allclose(found, expected(numbers, "attingrad"), rtol=0, atol=1e-9)
    by_size = attention_x_norm(whole, expected(numbers, "saliency_l2"))
    assert by_size.shape == (2, 2, 4)


def test_global_attention_times_its_gradient_sums_to_the_logit(numbers: dict[str, Any]) -> None:
    states = states_of(numbers)
    whole = np.array(numbers["global_attention_CTL"]).transpose(2, 0, 1)
    gradients = global_attention_gradients(states)
    for k, c, t in np.ndindex(gradients.shape):
        assert gradients[k, c, t] == pytest.approx(float(states.classifier[k] @ states.hidden[c, t]), abs=1e-12)
    total = attention_x_gradient(whole, gradients).sum((1, 2)) + numbers["b"]
    np.testing.assert_allclose(total, numbers["logits"], rtol=0, atol=1e-9)
    # It is not the gradient by token attention, which also moves the chunk attention.
    assert np.abs(gradients - token_attention_gradients(states)).max() > 0.1


@pytest.mark.parametrize("head", ["shared", "per_code", "mean"])
@pytest.mark.parametrize("kind", ["xlnet", "bert"])
def test_finite_differences_on_a_model(make_coder: MakeCoder, note: str, kind: str, head: str) -> None:
    coder = make_coder(kind, chunks=8, tokens=32, chunk_attention=head)
    coder.model.double()
    states = HilatTarget(coder).frozen(coder.encode(note))
    weights = states.token_attention.double()

    def logit(alpha: Tensor, k: int) -> float:
        vectors = torch.stack(
            [sum((alpha[k, c, t] * states.hidden[c, t] for t in range(alpha.shape[2])), torch.zeros(16).double())
             for c in range(alpha.shape[1])]
        )  # fmt: skip
        every = torch.einsum("kct,ctd->kcd", alpha, states.hidden)
        o = states.chunk_attention_of(every[None])[0, k].detach()
        return float(sum(o[c] * (states.classifier[k] @ vectors[c]) for c in range(len(vectors))))

    gradients = token_attention_gradients(states)
    assert all(p.grad is None for p in coder.model.parameters())
    rng = np.random.default_rng(0)
    for _ in range(6):
        k, c, t = (int(rng.integers(n)) for n in weights.shape)
        step = torch.zeros_like(weights)
        step[k, c, t] = 1e-5
        slope = (logit(weights + step, k) - logit(weights - step, k)) / 2e-5
        assert gradients[k, c, t] == pytest.approx(slope, abs=1e-7)
    unread = ~states.kept.numpy()
    assert unread.any()
    assert not gradients[:, unread].any()


def test_products_keep_zero_attention_at_zero_and_refuse_mismatches() -> None:
    rng = np.random.default_rng(0)
    attention, gradients = rng.random((3, 2, 4)), rng.normal(size=(3, 2, 4))
    attention[:, 1, 3] = 0
    for scores in (
        attention_x_gradient(attention, gradients),
        att_grad(attention, gradients),
        att_in_grad(attention, np.abs(gradients)),
    ):
        assert not scores[:, 1, 3].any()
        assert scores.dtype == np.float64
    assert (att_grad(attention, gradients) >= 0).all()
    with pytest.raises(HilatError, match=r"\(3, 2, 4\) and the gradients \(2, 2, 4\)"):
        attention_x_gradient(attention, gradients[:2])
    with pytest.raises(HilatError, match="negative"):
        att_in_grad(attention, gradients)

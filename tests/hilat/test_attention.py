"""The label-wise head against explicit loops over documents, chunks and codes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from hilat.attention import ChunkAttention, CodeClassifier, TokenAttention, masked_softmax, pool_chunks

D, K, C, T, B = 5, 4, 3, 6, 2


def _filled(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.7, generator=generator)
    return module.double()


def _random(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _softmax(values: list[float]) -> list[float]:
    powers = [math.exp(v - max(values)) for v in values]
    return [p / sum(powers) for p in powers]


def test_masked_softmax_is_the_softmax_of_the_real_positions() -> None:
    scores = torch.tensor([[1.0, 2.0, 3.0, 4.0], [0.5, -0.5, 9.0, 1.0]], dtype=torch.float64)
    mask = torch.tensor([[True, True, False, True], [False, True, True, False]])
    got = masked_softmax(scores, mask)
    for row in range(2):
        real = [i for i in range(4) if mask[row, i]]
        for i, value in zip(real, _softmax([float(scores[row, j]) for j in real]), strict=True):
            assert float(got[row, i]) == pytest.approx(value, rel=1e-14)
        assert all(float(got[row, i]) == 0.0 for i in range(4) if i not in real)


def test_masked_softmax_without_a_real_position_is_zero_with_finite_gradient() -> None:
    scores = torch.randn(2, 3, requires_grad=True)
    got = masked_softmax(scores, torch.tensor([[False] * 3, [True] * 3]))
    (got * torch.arange(3.0)).sum().backward()
    assert got[0].tolist() == [0.0, 0.0, 0.0]
    assert scores.grad is not None
    assert scores.grad[0].tolist() == [0.0, 0.0, 0.0]
    assert torch.isfinite(scores.grad).all()


def test_masked_softmax_works_in_float32_under_bfloat16() -> None:
    scores = torch.randn(4, 700).bfloat16()
    got = masked_softmax(scores, None)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, torch.softmax(scores.double(), -1).float(), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("per_chunk", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_token_attention_is_equations_1_to_3(per_chunk: bool, masked: bool) -> None:
    layer = _filled(TokenAttention(D, K, C if per_chunk else None))
    counts = [2, 1, 2]  # two first chunks, one second, two third ones
    chunk_of_row = [0, 0, 1, 2, 2]
    hidden = _random(5, T, D)
    lengths = [6, 4, 3, 6, 1] if masked else [T] * 5
    mask = torch.tensor([[t < length for t in range(T)] for length in lengths]) if masked else None
    parameters = layer.state_dict()
    with torch.no_grad():
        vectors, weights = layer(hidden, mask, counts)
    for n, c in enumerate(chunk_of_row):
        w = parameters["projection"][c] if per_chunk else parameters["projection"]
        u = parameters["labels"][c] if per_chunk else parameters["labels"]
        for k in range(K):
            scores = []
            for t in range(lengths[n]):
                z = [math.tanh(sum(float(w[i, j] * hidden[n, t, j]) for j in range(D))) for i in range(D)]  # eq. 1
                scores.append(sum(float(u[k, i]) * z[i] for i in range(D)))
            a = _softmax(scores) + [0.0] * (T - lengths[n])  # equation 2
            assert weights[n, k].tolist() == pytest.approx(a, rel=1e-12, abs=0)
            m = [sum(a[t] * float(hidden[n, t, j]) for t in range(T)) for j in range(D)]  # equation 3
            assert vectors[n, k].tolist() == pytest.approx(m, rel=1e-12, abs=1e-14)


@pytest.mark.parametrize("per_code", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_chunk_attention_is_equations_5_to_7(per_code: bool, masked: bool) -> None:
    layer = _filled(ChunkAttention(D, K if per_code else None))
    vectors = _random(B, K, C, D)
    keep = torch.tensor([[True, False, True], [True, True, True]])
    parameters = layer.state_dict()
    with torch.no_grad():
        documents, weights = layer(vectors, keep if masked else None)
    for b in range(B):
        kept = [c for c in range(C) if keep[b, c] or not masked]
        for k in range(K):
            projection = parameters["projection"][k] if per_code else parameters["projection"]
            query = parameters["query"][k if per_code else 0]
            scores = []
            for c in kept:
                s = [
                    math.tanh(sum(float(projection[i, j] * vectors[b, k, c, j]) for j in range(D))) for i in range(D)
                ]  # equation 5
                scores.append(sum(float(query[i]) * s[i] for i in range(D)))
            o = dict(zip(kept, _softmax(scores), strict=True))  # equation 6
            assert weights[b, k].tolist() == pytest.approx([o.get(c, 0.0) for c in range(C)], rel=1e-12, abs=0)
            d = [sum(o[c] * float(vectors[b, k, c, j]) for c in kept) for j in range(D)]  # equation 7
            assert documents[b, k].tolist() == pytest.approx(d, rel=1e-12, abs=1e-14)


@pytest.mark.parametrize("masked", [False, True])
def test_pooling_is_over_the_kept_chunks(masked: bool) -> None:
    vectors = _random(B, K, C, D)
    keep = torch.tensor([[True, False, True], [False, True, False]]) if masked else torch.ones(B, C, dtype=torch.bool)
    given = keep if masked else None
    mean, weights = pool_chunks(vectors, given, "mean")
    largest, none_for_max = pool_chunks(vectors, given, "max")
    flat, none_for_flat = pool_chunks(vectors, given, "flat")
    assert none_for_max is None
    assert none_for_flat is None
    assert weights is not None
    assert weights.shape == (B, K, C)
    for b in range(B):
        kept = [c for c in range(C) if keep[b, c]]
        for k in range(K):
            assert weights[b, k].tolist() == [1 / len(kept) if c in kept else 0.0 for c in range(C)]
            for j in range(D):
                values = [float(vectors[b, k, c, j]) for c in kept]
                assert float(mean[b, k, j]) == pytest.approx(sum(values) / len(values), rel=1e-12)
                assert float(largest[b, k, j]) == max(values)
            assert flat[b, k].tolist() == [float(vectors[b, k, c, j]) for c in range(C) for j in range(D)]


def test_classifier_is_equation_8() -> None:
    classifier = _filled(CodeClassifier(D, K))
    documents = _random(B, K, D)
    weight, bias = classifier.weight.tolist(), classifier.bias.tolist()
    logits = classifier(documents).tolist()
    for b in range(B):
        for k in range(K):
            by_hand = sum(float(documents[b, k, j]) * weight[k][j] for j in range(D)) + bias[k]
            assert logits[b][k] == pytest.approx(by_hand, rel=1e-12)


def test_a_chunk_without_a_token_gives_zeros_and_finite_gradients() -> None:
    layer = _filled(TokenAttention(D, K))
    hidden = _random(2, T, D).requires_grad_()
    vectors, weights = layer(hidden, torch.tensor([[False] * T, [True] * T]), [2])
    vectors.square().sum().backward()
    assert not vectors[0].any()
    assert not weights[0].any()
    assert hidden.grad is not None
    assert not hidden.grad[0].any()
    for gradient in (hidden.grad, layer.projection.grad, layer.labels.grad):
        assert torch.isfinite(gradient).all()


def test_the_head_has_no_loop_over_codes() -> None:
    """The number of autograd steps does not grow with the number of codes."""

    def steps(codes: int) -> int:
        vectors, _ = _filled(TokenAttention(D, codes))(_random(2, T, D), None, [2])
        documents, _ = _filled(ChunkAttention(D, codes))(vectors[None].transpose(1, 2), None)
        seen, todo = set(), [_filled(CodeClassifier(D, codes))(documents).sum().grad_fn]
        while todo:
            node = todo.pop()
            if node is not None and node not in seen:
                seen.add(node)
                todo.extend(parent for parent, _ in node.next_functions)
        return len(seen)

    assert steps(3) == steps(40)

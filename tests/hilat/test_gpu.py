"""XLNet's GPU kernels against transformers' own XLNet in float64; skipped where there is no NVIDIA GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import XLNetConfig, XLNetModel

from hilat.encoders import encoder_path, kernels
from hilat.encoders.seeded_dropout import Dropout
from hilat.encoders.xlnet import FastXLNetModel
from hilat.model import build_model

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


def pair(dropout: float = 0.0, **settings: Any) -> tuple[FastXLNetModel, XLNetModel]:
    """Ours and transformers' XLNet with the same weights, in float32 on the CPU; biases and segments not 0."""
    torch.manual_seed(0)
    config = XLNetConfig(vocab_size=50, d_model=128, n_layer=2, n_head=2, d_inner=256, dropout=dropout, **settings)
    theirs = XLNetModel(config)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "r_" in name or "seg_embed" in name or "bias" in name:
                parameter.normal_(std=0.5)
    ours = FastXLNetModel(config)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def inputs(tokens: int, padded: bool) -> dict[str, Any]:
    """Ids, mask and types (3, T) of chunks as HiLAT's are."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 50, (3, tokens), generator=generator)
    mask = torch.ones_like(ids)
    types = torch.zeros_like(ids)
    types[:, -1] = 2
    if padded:
        for row, length in enumerate((tokens, tokens // 2, 5)):
            mask[row, length:] = 0
            types[row, length - 1] = 2
            types[row, length:] = 3
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types, "use_mems": False}


def gap(found: Tensor, expected: Tensor) -> float:
    """The norm of the difference over that of what was expected."""
    found, expected = found.double().cpu(), expected.double().cpu()
    return float((found - expected).norm() / expected.norm().clamp(min=1e-12))


def slow_attention(qkv: Tensor, r: Tensor, vectors: Tensor, kinds: Tensor, seen: Tensor) -> Tensor:
    """Output (B, T, H * E) from the equations, score by score."""
    q, k, v = qkv.unbind(2)  # (B, T, H, E)
    tokens = q.shape[1]
    u, w, s, g = vectors  # (H, E)
    content = torch.einsum("bihe,bjhe->bhij", q + u, k)
    place = torch.arange(tokens, device=q.device)
    near = r[tokens - place[:, None] + place[None, :]]  # (T, T, H, E): of i - j at [i, j]
    position = torch.einsum("bihe,ijhe->bhij", q + w, near)
    other = (kinds[:, :, None] != kinds[:, None, :])[:, None]  # (B, 1, T, T)
    scores = content + position + other * torch.einsum("bihe,he->bhi", q + s, g)[..., None]
    visible = seen[:, None, :] | torch.eye(tokens, dtype=torch.bool, device=q.device)
    scores = (scores / q.shape[-1] ** 0.5).masked_fill(~visible[:, None], -torch.inf)
    return torch.einsum("bhij,bjhe->bihe", scores.softmax(-1), v).flatten(2)


@pytest.mark.parametrize("tokens", [64, 100, 256])
@pytest.mark.parametrize("marks", ["none", "hilat", "mixed"])
@pytest.mark.parametrize(("dtype", "size", "bound"), [(torch.float32, 32, 3e-3), (torch.bfloat16, 64, 0.01)])
def test_the_attention_kernels_are_the_equations(
    tokens: int, marks: str, dtype: torch.dtype, size: int, bound: float
) -> None:
    from hilat.encoders.relative_attention_triton import Marks, Scores, TritonAttention

    torch.manual_seed(0)
    qkv = torch.randn((3, tokens, 3, 2, size), device="cuda").to(dtype).requires_grad_()
    r = torch.randn((2 * tokens, 2, size), device="cuda").to(dtype).requires_grad_()
    vectors = torch.randn((4, 2, size), device="cuda", requires_grad=True)
    kinds = torch.zeros((3, tokens), dtype=torch.long, device="cuda")
    seen = torch.ones((3, tokens), dtype=torch.bool, device="cuda")
    if marks == "hilat":
        given = inputs(tokens, padded=True)
        kinds, seen = given["token_type_ids"].cuda(), given["attention_mask"].cuda() > 0
    elif marks == "mixed":
        kinds = torch.randint(0, 3, kinds.shape, device="cuda")
        seen[1, ::3] = False
    marked = None if marks == "none" and tokens % 64 == 0 else Marks.of(kinds, seen, qkv)
    found = TritonAttention.apply(qkv, r, vectors, Scores(size**-0.5, marked, 0.0, 0))
    exact = [tensor.detach().double().requires_grad_() for tensor in (qkv, r, vectors)]
    expected = slow_attention(*exact, kinds, seen)
    assert gap(found, expected) < bound  # products of float32 numbers are taken in TF32, with 10 bits; bfloat16 has 7
    down = torch.randn_like(found)
    slopes = torch.autograd.grad(found, (qkv, r, vectors), down)
    for slope, other in zip(
        slopes, torch.autograd.grad(expected, exact, down.double(), allow_unused=True), strict=True
    ):
        assert other is not None
        assert gap(slope, other) < bound


@pytest.mark.parametrize("tokens", [64, 100, 512])
@pytest.mark.parametrize("padded", [False, True])
def test_a_whole_xlnet_is_as_near_as_transformers_own_in_the_same_type(tokens: int, padded: bool) -> None:
    ours, theirs = pair()
    given = inputs(tokens, padded)
    weight = torch.randn(3, tokens, 128, generator=torch.Generator().manual_seed(2))
    expected = theirs.double()(**given).last_hidden_state
    (expected * weight.double()).sum().backward()
    slopes = {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None and p.grad.norm() > 1e-3}

    ours = ours.cuda()
    on_gpu = {name: value.cuda() if isinstance(value, Tensor) else value for name, value in given.items()}
    gaps: dict[str, dict[str, float]] = {}
    for path in ("plain", "auto"):
        ours.path = path  # type: ignore[assignment]
        ours.zero_grad()
        with torch.autocast("cuda", torch.bfloat16):
            found = ours(**on_gpu).last_hidden_state
        (found.float() * weight.cuda()).sum().backward()
        named = {name: p.grad for name, p in ours.named_parameters() if name in slopes}
        gaps[path] = {name: gap(grad, slopes[name]) for name, grad in named.items() if grad is not None}
        gaps[path]["output"] = gap(found, expected)
    assert "Triton" in encoder_path(ours)
    assert set(gaps["auto"]) == {*slopes, "output"}
    worse = {
        name: (own, gaps["plain"][name]) for name, own in gaps["auto"].items() if own > 3 * gaps["plain"][name] + 0.01
    }
    assert not worse


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_fused_steps_are_torchs(dropout: float) -> None:
    from hilat.encoders.fused_triton import GeluDropout, NormAfter

    torch.manual_seed(0)
    x, residual = torch.randn((2, 37, 24), device="cuda").unbind(0)
    weight, bias = torch.randn((2, 24), device="cuda").unbind(0)
    given = [tensor.clone().requires_grad_() for tensor in (x, residual, weight, bias)]
    exact = [tensor.double().requires_grad_() for tensor in (x, residual, weight, bias)]
    found = NormAfter.apply(*given, 1e-5, dropout, 9)
    # What dropout did shows where the normalised sum is asked for alone: x = 1, nothing added, no weight.
    ones = torch.ones_like(x)
    kept = GeluDropout.apply(ones, 0.0, 0) * 0 + 1.0
    if dropout:
        level = NormAfter.apply(
            ones, torch.zeros_like(x), torch.ones_like(weight), torch.zeros_like(bias), 1e-12, dropout, 9
        )
        kept = (level > level.mean(-1, keepdim=True)).float() / (1 - dropout)
    expected = torch.nn.functional.layer_norm(exact[0] * kept + exact[1], (24,), exact[2], exact[3], 1e-5)
    assert gap(found, expected) < 1e-5
    down = torch.randn_like(found)
    for slope, other in zip(
        torch.autograd.grad(found, given, down), torch.autograd.grad(expected, exact, down.double()), strict=True
    ):
        assert gap(slope, other) < 1e-5

    curve, straight = x.clone().requires_grad_(), x.double().requires_grad_()
    bent = GeluDropout.apply(curve, dropout, 9)
    share = (bent != 0) / (1 - dropout)
    assert abs(float((bent == 0).float().mean()) - dropout) < 0.05
    other = torch.nn.functional.gelu(straight) * share
    assert gap(bent, other) < 1e-6
    assert gap(torch.autograd.grad(bent, curve, down)[0], torch.autograd.grad(other, straight, down.double())[0]) < 1e-6


def test_dropout_is_the_same_in_both_passes_and_has_its_rate() -> None:
    from hilat.encoders.relative_attention_triton import Scores, TritonAttention

    torch.manual_seed(0)
    tokens = 256
    shape = (2, tokens, 3, 2, 64)
    qkv = (0.1 * torch.randn(shape, device="cuda")).to(torch.bfloat16)
    qkv[:, :, 2] = 1.0  # values of 1: an output is the share that was kept, over 1 - p
    r = torch.zeros((2 * tokens, 2, 64), dtype=torch.bfloat16, device="cuda")
    vectors = torch.zeros((4, 2, 64), device="cuda")
    scores = Scores(0.125, None, 0.3, 7)
    out = TritonAttention.apply(qkv.requires_grad_(), r, vectors, scores)
    assert abs(float(out.float().mean()) - 1) < 0.01
    spread = float(out.float()[..., 0].std())
    assert 0.8 < spread / (0.3 / 0.7 / tokens) ** 0.5 < 1.2  # of a mean of `tokens` draws
    assert torch.equal(out, TritonAttention.apply(qkv, r, vectors, scores))
    assert not torch.equal(out, TritonAttention.apply(qkv, r, vectors, Scores(0.125, None, 0.3, 8)))
    # Linear in the values: the gradient with respect to them gives the output's sum back only with the same mask.
    down = torch.randn_like(out)
    (slope,) = torch.autograd.grad(out, qkv, down)
    inner = (slope[:, :, 2].double() * qkv[:, :, 2].double()).sum()
    assert abs(float(inner - (out.double() * down.double()).sum())) < 0.02 * float(
        (out.double() * down.double()).abs().sum()
    )


def test_the_same_seed_gives_the_same_gradients() -> None:
    ours, _ = pair(dropout=0.1)
    ours = ours.cuda().train()
    given = {n: v.cuda() if isinstance(v, Tensor) else v for n, v in inputs(512, True).items()}

    def slopes() -> list[Tensor]:
        torch.manual_seed(5)
        ours.zero_grad()
        with torch.autocast("cuda", torch.bfloat16):
            ours(**given).last_hidden_state.float().square().mean().backward()
        return [p.grad.clone() for name, p in ours.named_parameters() if p.grad is not None and "word" not in name]

    assert all(torch.equal(a, b) for a, b in zip(slopes(), slopes(), strict=True))


def test_a_whole_model_trains_on_the_gpu_with_many_codes() -> None:
    encoder = {"model_type": "xlnet", "vocab_size": 50, "d_model": 128, "n_layer": 1, "n_head": 2, "d_inner": 128}
    model = build_model(encoder, 300, chunks=3, tokens=64, seed=0).cuda()
    given = {n: v.cuda()[None] for n, v in inputs(64, True).items() if isinstance(v, Tensor)}  # (1, 3, 64)
    labels = (torch.rand(1, 300) < 0.1).float().cuda()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(20):
        with torch.autocast("cuda", torch.bfloat16):
            loss = model(**given, labels=labels).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(float(loss))
    assert losses[-1] < 0.8 * losses[0]


def test_masks_on_the_gpu_come_again_from_their_seed() -> None:
    places = torch.empty(3, 1000, 100, device="cuda")
    first, again = Dropout(0.3, (4, 2)).masks(), Dropout(0.3, (4, 2)).masks()
    one = first(places[0])
    assert torch.equal(one, again(places[1]))
    assert not torch.equal(one, first(places[2]))
    assert abs(float(one.mean()) - 0.7) < 0.01


def test_triton_works_here() -> None:
    assert all(kernels.missing(size, torch.bfloat16, torch.device("cuda")) is None for size in (16, 32, 64))

"""Whole models and layers by oneDNN against torch's products: numbers, gradients, few shapes, and what is told."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig, PreTrainedConfig, XLNetConfig

from hilat import attention, chunk_rows
from hilat.encoders import encoder_path, products
from hilat.encoders.active_product import ActiveProduct
from hilat.encoders.seeded_dropout import Dropout
from hilat.model import build_model

needs_onednn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN to compare with"
)
ENCODERS: dict[str, PreTrainedConfig] = {
    "xlnet": XLNetConfig(vocab_size=40, d_model=24, n_layer=2, n_head=3, d_inner=56, dropout=0.0),
    "bert": BertConfig(
        vocab_size=40, hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=56,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    ),
}  # fmt: skip


@needs_onednn
@pytest.mark.parametrize(("codes", "block", "documents"), [(8, None, 2), (24, 8, 6)])
def test_few_shapes(
    codes: int, block: int | None, documents: int, onednn: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """oneDNN keeps memory for each: a model that reads chunks of any length, in batches of any size, asks for few."""
    most, own_sides = (
        48,
        {24, 56, 72},
    )  # what is split; the model's width, that of its feed-forward layers, queries, keys and values
    monkeypatch.setattr(products, "_EVEN", 8)
    for name in ("_MOST_ROWS", "_ROWS_AT_ONCE"):
        monkeypatch.setattr(products, name, most)
    monkeypatch.setitem(chunk_rows._MOST_TOKENS, "cpu", most)
    monkeypatch.setattr(attention, "_TOKENS_AT_ONCE", most)
    seen: set[tuple[tuple[int, ...], ...]] = set()
    own = products._onednn

    def noted(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        seen.add((tuple(x.shape), tuple(weight.shape)))
        return own(x, weight, bias)

    monkeypatch.setattr(products, "_onednn", noted)
    model = build_model(ENCODERS["xlnet"], codes, seed=0, chunks=4, tokens=32, dropout=0.0, code_block=block).train()
    rng = torch.Generator().manual_seed(0)
    counts = []
    for _ in range(60):
        lengths = torch.randint(3, 33, (int(torch.randint(1, documents + 1, (), generator=rng)), 4), generator=rng)
        mask = (torch.arange(32) < lengths[..., None]).long()
        given = {"input_ids": torch.randint(6, 40, mask.shape, generator=rng), "attention_mask": mask}
        model(**given, labels=torch.ones(len(mask), codes)).loss.backward()
        with torch.no_grad():
            model(**given)
        counts.append(len(seen))
    sides = {side for shapes in seen for shape in shapes for side in shape}
    assert sides <= {*range(8, most + 1, 8)} | own_sides
    assert 10 < counts[-1] < 80
    if documents == 2:
        assert counts[-1] == counts[30]  # no new ones in the last 30 of 60
    del onednn


@needs_onednn
@pytest.mark.parametrize("block", [None, 3])
@pytest.mark.parametrize("kind", ENCODERS)
@pytest.mark.parametrize(("tokens", "even"), [(16, 1), (13, 8)])
def test_a_whole_model(
    kind: str, block: int | None, tokens: int, even: int, onednn: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loss, logits without and with gradients, and all gradients, against torch's products; rows filled up, and not."""
    monkeypatch.setattr(products, "_EVEN", even)
    model = build_model(ENCODERS[kind], 7, seed=0, chunks=3, tokens=tokens, dropout=0.0, code_block=block).train()
    torch.manual_seed(0)
    shape = (2, 3, tokens)
    given = {"input_ids": torch.randint(6, 40, shape), "attention_mask": torch.ones(shape, dtype=torch.long)}
    labels = (torch.rand(2, 7) < 0.5).float()

    def run() -> list[Tensor]:
        model.zero_grad()
        output = model(**given, labels=labels)
        output.loss.backward()
        with torch.no_grad():
            again = model(**given).logits
        return [output.loss.detach(), output.logits.detach(), again, *(p.grad for p in model.parameters() if p.grad is not None)]  # fmt: skip

    got = run()
    assert onednn.count > 20
    with products.by("torch"):
        for one, other in zip(got, run(), strict=True):
            assert float((one - other).abs().max()) <= 2e-5 * max(1.0, float(other.abs().max()))


@needs_onednn
@pytest.mark.parametrize("noise", [None, Dropout(0.3, (1, 2))])
def test_the_second_half_of_a_feed_forward_layer(noise: Dropout | None, onednn: SimpleNamespace) -> None:
    torch.manual_seed(0)
    leaves = [torch.randn(shape, requires_grad=True) for shape in ((30, 80), (20, 80), (20,))]
    taken = torch.autograd.grad(ActiveProduct.apply(*leaves, F.gelu, noise).sin().sum(), leaves)  # type: ignore[no-untyped-call]
    assert onednn.count == 3
    with products.by("torch"):
        own = torch.autograd.grad(ActiveProduct.apply(*leaves, F.gelu, noise).sin().sum(), leaves)  # type: ignore[no-untyped-call]
    for one, other in zip(taken, own, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@needs_onednn
def test_linear_layers_of_an_encoder(onednn: SimpleNamespace) -> None:
    model = nn.Sequential(nn.Linear(50, 20), nn.ReLU(), nn.Linear(20, 4, bias=False), nn.Bilinear(4, 4, 2))
    weights, x = model.state_dict(), torch.randn(9, 50)
    expected = model[:3](x)
    assert onednn.count == 0
    products.set_linear(model, fast=True)
    assert [type(part) for part in model] == [products.Linear, nn.ReLU, products.Linear, nn.Bilinear]
    assert model.state_dict().keys() == weights.keys()
    for same in (model, copy.deepcopy(model)):
        torch.testing.assert_close(same[:3](x), expected, rtol=1e-5, atol=1e-5)
    assert onednn.count == 4
    products.set_linear(model, fast=False)
    assert torch.equal(model[:3](x), expected)
    assert onednn.count == 4


@needs_onednn
def test_it_is_told(onednn: SimpleNamespace) -> None:
    del onednn
    for kind, config in ENCODERS.items():
        fast = build_model(config, 7, seed=0, chunks=3, tokens=16)
        assert encoder_path(fast.encoder).endswith(", large products by oneDNN")
        with products.by("torch"):
            assert not encoder_path(fast.encoder).endswith(", large products by oneDNN")
        assert not encoder_path(fast.double().encoder).endswith(", large products by oneDNN")
        slow = build_model(config, 7, seed=0, chunks=3, tokens=16, fast_encoder=False)
        assert encoder_path(slow.encoder).startswith(f"transformers' {kind}")
        assert not encoder_path(slow.encoder).endswith(", large products by oneDNN")


def test_where_it_is_missing_linear_layers_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "missing", lambda: "another processor")
    model = nn.Sequential(nn.Linear(50, 20))
    products.set_linear(model, fast=True)
    assert type(model[0]) is nn.Linear
    assert not products.takes(torch.ones(2048, 1024), torch.ones(1024, 1024))

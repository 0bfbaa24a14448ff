"""The fast XLNet against transformers' own: outputs, gradients, dropout, and when it gives way to the other."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import XLNetConfig, XLNetModel
from transformers.activations import ACT2FN

from explain.deep_lift import with_multipliers
from hilat.encoders import (
    encoder_path,
    load_encoder,
    new_encoder,
    products,
    relative_attention,
    xlnet,
    xlnet_token_types,
)
from hilat.encoders.active_product import ActiveProduct
from hilat.encoders.seeded_dropout import Dropout
from hilat.encoders.xlnet import FastXLNetModel
from hilat.model import build_model

VOCABULARY, D, HEADS, LAYERS = 50, 24, 3, 2
PATHS = ["blocks", "bias"]
# In float32 the first is compiled, where a C compiler is there.
PATHS_FLOAT32 = ["auto", *PATHS]
INPUTS = ["plain", "left padding", "right padding", "types", "one type", "scattered types"]


def _config(**settings: Any) -> XLNetConfig:
    return XLNetConfig(
        **{
            "vocab_size": VOCABULARY,
            "d_model": D,
            "n_layer": LAYERS,
            "n_head": HEADS,
            "d_inner": 40,
            "dropout": 0.0,
            **settings,
        }
    )


def _pair(dtype: torch.dtype, path: str, spread: float, **settings: Any) -> tuple[XLNetModel, FastXLNetModel]:
    """transformers' model and ours, with the same weights, `spread` around their start."""
    torch.manual_seed(0)
    plain = XLNetModel(_config(**settings)).to(dtype).train()
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.add_(spread * torch.randn_like(parameter))
    fast = FastXLNetModel(_config(**settings)).to(dtype).train()
    fast.load_state_dict(plain.state_dict())
    fast.path = path  # type: ignore[assignment]
    return plain, fast


@pytest.mark.parametrize(("missing", "kind"), [(None, products.Linear), ("another processor", nn.Linear)])
def test_linear_layers_by_the_faster_library(
    missing: str | None, kind: type[nn.Linear], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "missing", lambda: missing)
    parts = FastXLNetModel(_config()).modules()
    assert {type(part) for part in parts if isinstance(part, nn.Linear)} == {kind}


def _inputs(kind: str, chunks: int, tokens: int) -> dict[str, Tensor]:
    torch.manual_seed(1)
    lengths = torch.randint(1, tokens + 1, (chunks,))
    place = torch.arange(tokens)
    right = (place < lengths[:, None]).long()  # (B, T)
    inputs: dict[str, Tensor] = {} if kind in ("plain", "one type") else {"attention_mask": right}
    if kind in ("left padding", "scattered types"):
        inputs["attention_mask"] = right.flip(1)
    if kind == "types":
        inputs["token_type_ids"] = xlnet_token_types(right)
    if kind == "scattered types":
        inputs["token_type_ids"] = torch.randint(0, 5, (chunks, tokens))
    if kind == "one type":
        inputs["token_type_ids"] = torch.full((chunks, tokens), 2)
    return inputs


def _run(model: XLNetModel, inputs: dict[str, Tensor], embeds: Tensor) -> dict[str, Tensor]:
    """The output, and the gradients of a weighted sum of it at the embeddings and at every parameter."""
    model.zero_grad()
    leaf = embeds.clone().requires_grad_()
    output = model(inputs_embeds=leaf, use_mems=False, **inputs).last_hidden_state
    (output * torch.linspace(-1, 2, output.numel(), dtype=output.dtype).view_as(output)).sum().backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert leaf.grad is not None
    return {"output": output.detach(), "embeds": leaf.grad, **found}


def _relative(got: Tensor, expected: Tensor, least: float = 0.0) -> float:
    """Largest difference, as a part of the largest expected value, or of `least` where that is larger."""
    return float((got - expected).abs().max() / max(float(expected.abs().max()), least))


def _compare(got: dict[str, Tensor], expected: dict[str, Tensor], bound: float) -> None:
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        # Gradients that are 0 in theory are rounding noise: of segments when all are one, of scores when there is one key.
        noise = "seg_embed" in name or "r_s_bias" in name or expected["output"].shape[1] == 1
        least = float(expected["embeds"].abs().max()) if noise else 0.0
        assert _relative(got[name], value, least) < bound, name


# ------------------------------------------------------------------------------------------------------------ the same
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize(("chunks", "tokens", "spread"), [(1, 7, 0.0), (3, 33, 0.1), (2, 12, 0.4), (1, 1, 0.1)])
def test_float64_outputs_and_gradients(path: str, kind: str, chunks: int, tokens: int, spread: float) -> None:
    plain, fast = _pair(torch.float64, path, spread)
    inputs, embeds = _inputs(kind, chunks, tokens), torch.randn(chunks, tokens, D, dtype=torch.float64)
    _compare(_run(fast, inputs, embeds), _run(plain, inputs, embeds), 1e-11)


@pytest.mark.parametrize("path", PATHS_FLOAT32)
@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("spread", [0.0, 0.1])
def test_float32_outputs_and_gradients(path: str, kind: str, spread: float) -> None:
    plain, fast = _pair(torch.float32, path, spread)
    inputs, embeds = _inputs(kind, 3, 33), torch.randn(3, 33, D)
    _compare(_run(fast, inputs, embeds), _run(plain, inputs, embeds), 2e-5)


@pytest.mark.parametrize(("queries", "scores"), [(8, 8 * 33 * 4), (8, 8 * 33 * 2), (5, 1), (16, 16 * 33 * 100)])
def test_any_cut_into_blocks(queries: int, scores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One head of all chunks, of some, of one at a time; a last block of other sizes."""
    monkeypatch.setattr(relative_attention, "QUERIES", queries)
    monkeypatch.setattr(relative_attention, "BLOCK_SCORES", scores)
    plain, fast = _pair(torch.float64, "blocks", 0.2)
    inputs, embeds = _inputs("scattered types", 3, 33), torch.randn(3, 33, D, dtype=torch.float64)
    _compare(_run(fast, inputs, embeds), _run(plain, inputs, embeds), 1e-11)


@pytest.mark.parametrize("path", PATHS)
def test_ids_states_and_tuples(path: str) -> None:
    plain, fast = (model.eval() for model in _pair(torch.float64, path, 0.1, clamp_len=6))
    ids = torch.randint(0, VOCABULARY, (2, 9))
    mask = torch.ones(2, 9).double().index_fill(1, torch.tensor([0, 1]), 0.0)
    for given in ({"attention_mask": mask}, {"input_mask": 1 - mask}, {}):
        arguments: dict[str, Any] = {**given, "use_mems": False, "output_hidden_states": True}
        expected, got = plain(ids, **arguments), fast(ids, **arguments)
        torch.testing.assert_close(got.last_hidden_state, expected.last_hidden_state, rtol=1e-11, atol=1e-11)
        assert len(got.hidden_states) == LAYERS + 1
        for one, other in zip(got.hidden_states, expected.hidden_states, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)
    assert torch.equal(fast(ids, use_mems=False, return_dict=False)[0], fast(ids, use_mems=False).last_hidden_state)
    with pytest.raises(ValueError, match="expected one of them"):
        fast(ids, attention_mask=mask, input_mask=1 - mask, use_mems=False)
    for both in ({}, {"input_ids": ids, "inputs_embeds": torch.zeros(2, 9, D).double()}):
        with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
            fast(**both, use_mems=False)


class _Around(torch.nn.Module):
    """A module put around another, as LoRA does."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.inner(x)
        return output


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("kind", ["", "wrapped", "training", "relu", "no bias"])
@pytest.mark.parametrize("path", PATHS)
def test_without_gradients_what_was_given_and_returned_stays(
    path: str, kind: str, mode: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Layers write over what they need no more; that is nothing of the caller's."""
    monkeypatch.setattr(xlnet, "_ROWS_AT_ONCE", 7)
    plain, fast = _pair(torch.float64, path, 0.1, ff_activation="relu" if kind == "relu" else "gelu")
    for model in (plain, fast):
        model.train(kind == "training")
        for layer in model.layer:
            if kind == "no bias":
                layer.ff.layer_2.bias = None
            if kind == "wrapped":
                layer.ff.layer_1 = _Around(layer.ff.layer_1)
    embedded = torch.randn(2, 9, D).double()
    before, arguments = embedded.clone(), {"use_mems": False, "output_hidden_states": True}
    with mode():
        first = fast(inputs_embeds=embedded, **arguments).hidden_states
        kept = [states.clone() for states in first]
        fast(inputs_embeds=embedded + 1, **arguments)
        expected = plain(inputs_embeds=embedded, **arguments).hidden_states
    assert torch.equal(embedded, before)
    for states, copy, other in zip(first, kept, expected, strict=True):
        assert torch.equal(states, copy)
        torch.testing.assert_close(states, other, rtol=1e-11, atol=1e-11)


def test_a_wrong_shift_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """That these comparisons can fail."""
    right = relative_attention.Block.by_key
    monkeypatch.setattr(relative_attention.Block, "by_key", lambda block, scores: right(block, scores.roll(1, -1)))
    plain, fast = _pair(torch.float64, "blocks", 0.1)
    inputs, embeds = _inputs("plain", 2, 12), torch.randn(2, 12, D, dtype=torch.float64)
    with pytest.raises(AssertionError):
        _compare(_run(fast, inputs, embeds), _run(plain, inputs, embeds), 1e-5)


@pytest.mark.parametrize("path", PATHS_FLOAT32)
@pytest.mark.parametrize("autocast", [True, False])
def test_bfloat16(path: str, autocast: bool) -> None:
    plain, fast = _pair(torch.float32, path, 0.0)
    embeds, inputs = torch.randn(2, 12, D), _inputs("types", 2, 12)
    expected = _run(plain, inputs, embeds)
    if autocast:
        with torch.autocast("cpu", torch.bfloat16):
            got = _run(fast, inputs, embeds)
    else:
        got = _run(fast.bfloat16(), inputs, embeds.bfloat16())
    assert _relative(got["output"].float(), expected["output"]) < 0.05
    assert _relative(got["embeds"].float(), expected["embeds"]) < 0.2


# ------------------------------------------------------------------------------------------------------------- dropout
def _product(function: nn.Module, noise: Dropout | None, *parts: Tensor) -> Tensor:
    product: Tensor = ActiveProduct.apply(*parts, function, noise)  # type: ignore[no-untyped-call]
    return product


@pytest.mark.parametrize("name", ["gelu", "relu", "swish", "linear"])
@pytest.mark.parametrize("noise", [None, Dropout(0.4, (5,))])
@pytest.mark.parametrize("learned", [(True, True), (True, False), (False, True), (False, False)])
def test_feed_forward_gradients(name: str, noise: Dropout | None, learned: tuple[bool, bool]) -> None:
    """Finite differences, whichever of weight and bias has a gradient; and transformers' steps with the seed's mask."""
    torch.manual_seed(0)
    shapes = ((3, 5), True), ((2, 5), learned[0]), ((2,), learned[1])
    inner, weight, bias = (torch.randn(*size, dtype=torch.float64).requires_grad_(moves) for size, moves in shapes)
    function = ACT2FN[name]
    assert torch.autograd.gradcheck(partial(_product, function, noise), (inner, weight, bias))  # type: ignore[no-untyped-call]
    kept, scale = (1.0, 1.0) if noise is None else (noise.masks()(torch.empty(3, 5)), noise.scale)
    expected = (function(inner) * kept * scale) @ weight.t() + bias
    torch.testing.assert_close(_product(function, noise, inner, weight, bias), expected)


def test_feed_forward_keeps_one_tensor_of_its_inner_width() -> None:
    _, fast = _pair(torch.float64, "blocks", 0.1, n_layer=1, dropout=0.1)
    kept: list[tuple[int, ...]] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(tuple(x.shape)) or x, lambda x: x):  # type: ignore[func-returns-value]
        fast(inputs_embeds=torch.randn(2, 7, D, dtype=torch.float64, requires_grad=True), use_mems=False)
    assert sum(shape in ((14, 40), (2, 7, 40)) for shape in kept) == 1


def test_torch_counts_the_operations_of_a_training_step() -> None:
    """Its counter watches all modules, in the backward pass too, and fails where that one starts another."""
    _, fast = _pair(torch.float64, "blocks", 0.1, n_layer=1, dropout=0.1)
    with FlopCounterMode(display=False) as seen:
        torch.autograd.backward(fast(torch.zeros(2, 7, dtype=torch.long), use_mems=False).last_hidden_state.sum())
    with_biases = D * 3 * D + 2 * D * 40  # queries, keys and values; the two of the feed-forward layer
    assert seen.get_flop_counts()["Global"][torch.ops.aten.addmm] == 2 * 2 * 7 * with_biases


def test_dropout_follows_torchs_seed() -> None:
    _, fast = _pair(torch.float64, "blocks", 0.1, dropout=0.3)
    inputs, embeds = _inputs("types", 3, 33), torch.randn(3, 33, D, dtype=torch.float64)
    runs = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        runs.append(_run(fast, inputs, embeds))
    _compare(runs[0], runs[1], 1e-13)
    assert _relative(runs[2]["output"], runs[0]["output"]) > 1e-2
    fast.eval()
    assert torch.equal(_run(fast, inputs, embeds)["output"], _run(fast, inputs, embeds)["output"])


@pytest.mark.parametrize("path", ["auto", "blocks"])
def test_dropout_has_the_mean_and_spread_of_transformers(path: str) -> None:
    """Over many draws: the mean and the spread of the output, place by place."""
    plain, fast = _pair(torch.float32, path, 0.1, dropout=0.2, n_layer=1)
    embeds = torch.randn(1, 4, D).expand(2000, -1, -1)
    with torch.no_grad():
        # The relative positions' mask is shared by a batch of ours: as many calls as it takes to average over it.
        ours = torch.cat([fast(inputs_embeds=embeds[:20], use_mems=False).last_hidden_state for _ in range(100)])
        theirs = plain(inputs_embeds=embeds, use_mems=False).last_hidden_state
    spread = theirs.std(0)  # (T, D)
    assert float(((ours.mean(0) - theirs.mean(0)).abs() / spread).max()) < 0.25
    assert float((ours.std(0) / spread - 1).abs().max()) < 0.15


# ------------------------------------------------------------------------------------------------ when it is not taken
def test_calls_that_only_transformers_serves(caplog: pytest.LogCaptureFixture) -> None:
    plain, fast = (model.eval() for model in _pair(torch.float64, "auto", 0.1))
    ids = torch.randint(0, VOCABULARY, (2, 6))
    calls: list[tuple[str, dict[str, Any]]] = [
        ("use_mems", {}),
        ("output_attentions", {"use_mems": False, "output_attentions": True}),
        ("perm_mask", {"use_mems": False, "perm_mask": torch.ones(2, 6, 6).triu()}),
    ]
    for word, arguments in calls:
        caplog.clear()
        with caplog.at_level(logging.INFO, "hilat"):
            got = [fast(ids, **arguments) for _ in range(2)][-1]
        assert [word in record.message for record in caplog.records] == [True], word  # told once
        expected = plain(ids, **arguments)
        assert torch.equal(got.last_hidden_state, expected.last_hidden_state)
        assert (got.attentions is None) == (expected.attentions is None)
        assert (got.mems is None) == (expected.mems is None)


def test_reasons_that_lie_in_the_model() -> None:
    for settings, word in (
        ({"attn_type": "uni"}, "attn_type 'uni'"),
        ({"bi_data": True}, "bi_data"),
        ({"chunk_size_feed_forward": 2}, "chunk_size_feed_forward"),
        ({"dropout": 1.0}, "a dropout of 1"),
        ({"output_attentions": True}, "output_attentions"),
    ):
        path = encoder_path(FastXLNetModel(_config(**settings)))
        assert path.startswith("transformers' xlnet")
        assert word in path
    model = FastXLNetModel(_config())
    assert encoder_path(model.double()) == "fast xlnet, attention in blocks of queries"
    model.path = "bias"
    assert (
        encoder_path(model).removesuffix(", large products by oneDNN")
        == "fast xlnet, relative scores as a bias of sdpa"
    )
    hook = model.layer[0].register_forward_hook(lambda *_: None)
    assert "hooks" in encoder_path(model)
    hook.remove()
    model.path = "plain"
    assert "path is 'plain'" in encoder_path(model)


def test_functions_that_watch_calls_see_transformers_steps() -> None:
    """DeepLift multiplies step by step: it needs the steps."""

    class Names(TorchFunctionMode):
        seen: set[str] = set()  # noqa: RUF012

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.seen.add(getattr(func, "__name__", ""))
            return func(*args, **(kwargs or {}))

    _, fast = _pair(torch.float64, "auto", 0.1)
    fast.eval()
    value, reference = torch.randn(2, 1, 6, D, dtype=torch.float64)
    with Names():
        fast(inputs_embeds=value, use_mems=False)
    assert "softmax" in Names.seen
    with torch.device("cpu"):
        assert fast(inputs_embeds=value, use_mems=False).attentions is None

    def total(embeds: Tensor) -> Tensor:
        return fast(inputs_embeds=embeds, use_mems=False).last_hidden_state[0, 0, :3].sum()  # type: ignore[no-any-return]

    leaf = value.clone().requires_grad_()
    (multiplier,) = torch.autograd.grad(with_multipliers(total, leaf, reference), leaf)
    change = float((total(value) - total(reference)).detach())
    assert float((multiplier * (value - reference)).sum()) == pytest.approx(change, rel=0.02)


# ------------------------------------------------------------------------------------------------------------ in HiLAT
def test_a_checkpoint_of_transformers_loads_and_goes_back(tmp_path: Path) -> None:
    plain, _ = _pair(torch.float32, "auto", 0.1)
    plain.save_pretrained(tmp_path / "theirs")
    fast = load_encoder(tmp_path / "theirs")
    assert isinstance(fast, FastXLNetModel)
    fast.save_pretrained(tmp_path / "ours")
    back = XLNetModel.from_pretrained(tmp_path / "ours")
    for name, value in plain.state_dict().items():
        assert torch.equal(back.state_dict()[name], value), name


def test_hilat_takes_it_unless_told_not_to(tmp_path: Path) -> None:
    config = _config(pad_token_id=5)
    assert isinstance(new_encoder(config), FastXLNetModel)
    fast = build_model(config, 4, seed=0, chunks=2, tokens=9).eval()
    plain = build_model(config, 4, seed=0, chunks=2, tokens=9, fast_encoder=False).eval()
    assert encoder_path(fast.encoder).startswith("fast")
    assert encoder_path(plain.encoder).startswith("transformers")
    ids = torch.randint(6, VOCABULARY, (2, 2, 9))
    torch.testing.assert_close(fast(ids, torch.ones_like(ids)).logits, plain(ids, torch.ones_like(ids)).logits)
    plain.save_pretrained(tmp_path / "model")
    again = type(plain).from_pretrained(tmp_path / "model")
    assert not again.config.fast_encoder
    assert encoder_path(again.encoder).startswith("transformers")
    plain.encoder.save_pretrained(tmp_path / "encoder")
    from_folder = build_model(tmp_path / "encoder", 4, chunks=2, tokens=9, fast_encoder=False)
    assert encoder_path(from_folder.encoder).startswith("transformers")
    assert encoder_path(nn.ModuleList([build_model(tmp_path / "encoder", 4).encoder])[0]).startswith("fast")  # type: ignore[arg-type]

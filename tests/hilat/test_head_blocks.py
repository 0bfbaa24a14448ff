"""The head in blocks of codes against the head of all codes at once, which `test_attention` holds against loops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import BertConfig

from hilat.admissions import HilatError
from hilat.attention import ChunkAttention, CodeClassifier, TokenAttention
from hilat.head import Asked, Head, block_size, blocked, in_blocks, plain
from hilat.head_blocks import Rows
from hilat.model import HilatModel, build_model

D, K, C, T, B = 8, 7, 3, 9, 3
ALL_KINDS = [(t, c) for t in ("shared", "per_chunk") for c in ("shared", "per_code", "mean", "max", "flat")]


def _model(block: int | None, dropout: float = 0.0, **settings: Any) -> HilatModel:
    """The same float64 weights for every block; an encoder without dropout."""
    encoder = BertConfig(
        vocab_size=40, hidden_size=D, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, max_position_embeddings=32,
    )  # fmt: skip
    given = {"chunks": C, "tokens": T, "init_std": 0.6, "dropout": dropout, **settings}
    return build_model(encoder, K, seed=0, code_block=block, **given).double().train()


def _batch() -> dict[str, Tensor]:
    """A full document; one with a part and an empty chunk; one without text."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.tensor([[T, T, T], [T, 5, 2], [2, 2, 2]])
    mask = (torch.arange(T) < lengths[..., None]).long()  # (B, C, T)
    ids = torch.randint(1, 40, (B, C, T), generator=generator) * mask
    labels = torch.randint(0, 2, (B, K), generator=generator).double()
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def _gradients(model: HilatModel, value: Callable[[Any], Tensor]) -> dict[str, Tensor]:
    """Of every parameter, the encoder's among them, for some function of the output."""
    model.zero_grad()
    torch.autograd.backward(value(model(**_batch())))
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def _weighted(output: Any) -> Tensor:
    return (output.logits * torch.linspace(-1, 2, B * K, dtype=output.logits.dtype).view(B, K)).sum()


VALUES: dict[str, Callable[[Any], Tensor]] = {
    "loss": lambda output: output.loss * 3.0,  # gradients come with the forward pass
    "logits": _weighted,  # blocks are computed again
    "both": lambda output: output.loss * 3.0 + _weighted(output).square(),
}


def _agree(got: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        if name.endswith("key.bias"):  # its gradient is 0: a softmax does not see it
            continue
        assert float((got[name] - value).abs().max()) <= tolerance * float(value.abs().max()) + 1e-14, name


# ----------------------------------------------------------------------------------------------------------- equality
@pytest.mark.parametrize("attend_padding", [False, True])
@pytest.mark.parametrize(("token_kind", "chunk_kind"), ALL_KINDS)
def test_blocks_are_the_same_function(token_kind: str, chunk_kind: str, attend_padding: bool) -> None:
    kinds = {"token_attention": token_kind, "chunk_attention": chunk_kind, "attend_padding": attend_padding}
    whole, parts = _model(None, **kinds), _model(3, **kinds)  # K = 7: blocks of 3, 3 and 1
    expected, got = whole(**_batch()), parts(**_batch())
    assert type(got.logits.grad_fn).__name__ == "BlockedHeadBackward"
    torch.testing.assert_close(got.logits, expected.logits, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(got.loss, expected.loss, rtol=1e-13, atol=0)
    for value in VALUES.values():
        _agree(_gradients(parts, value), _gradients(whole, value), 1e-11)


@pytest.mark.parametrize(("token_kind", "chunk_kind"), ALL_KINDS)
def test_a_chunk_that_no_document_has(token_kind: str, chunk_kind: str) -> None:
    """The last two of three are empty in both documents, and are not encoded."""
    lengths = torch.tensor([[T, 2, 2], [5, 2, 2]])
    mask = (torch.arange(T) < lengths[..., None]).long()
    given = {"input_ids": torch.randint(1, 40, mask.shape) * mask, "attention_mask": mask}
    results = []
    for block in (None, 3):
        model = _model(block, token_attention=token_kind, chunk_attention=chunk_kind)
        output = model(**given, labels=torch.eye(2, K).double())
        torch.autograd.backward(output.loss)
        with torch.no_grad():
            results.append([output.logits, model(**given).logits, *(p.grad for p in model.parameters())])
    torch.testing.assert_close(results[1], results[0], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("token_kind", "chunk_kind"), ALL_KINDS)
def test_float32_differs_by_rounding_only(token_kind: str, chunk_kind: str) -> None:
    exact = _model(None, token_attention=token_kind, chunk_attention=chunk_kind)
    single = _model(2, token_attention=token_kind, chunk_attention=chunk_kind).float()
    torch.testing.assert_close(single(**_batch()).logits.double(), exact(**_batch()).logits, rtol=1e-5, atol=1e-5)
    for value in VALUES.values():
        _agree({n: g.double() for n, g in _gradients(single, value).items()}, _gradients(exact, value), 2e-5)


def test_frozen_attention_gets_no_gradient_and_the_rest_the_same() -> None:
    whole, parts = (_model(block, attention="frozen", fine_tune="none") for block in (None, 2))
    got = _gradients(parts, VALUES["loss"])
    assert set(got) == {"classifier.weight", "classifier.bias"}
    _agree(got, _gradients(whole, VALUES["loss"]), 1e-11)


def test_bfloat16_autocast_works_in_blocks_too() -> None:
    whole, parts = _model(None).float(), _model(2).float()
    with torch.autocast("cpu", torch.bfloat16):
        expected, got = whole(**_batch()), parts(**_batch())
    torch.testing.assert_close(got.logits.float(), expected.logits.float(), rtol=0.05, atol=0.1)
    for output in (expected, got):
        torch.autograd.backward(output.loss)
    for (name, p), q in zip(parts.named_parameters(), whole.parameters(), strict=True):
        if q.grad is not None and "key.bias" not in name:  # 0 but for rounding
            assert p.grad is not None
            assert float((p.grad - q.grad).norm()) <= 0.1 * float(q.grad.norm()), name


def test_a_second_backward_pass_adds_the_same_gradients_again() -> None:
    model = _model(2)
    once = _gradients(model, VALUES["loss"])
    model.zero_grad()
    loss = VALUES["loss"](model(**_batch()))
    torch.autograd.backward(loss, retain_graph=True)
    torch.autograd.backward(loss)
    _agree({n: p.grad for n, p in model.named_parameters() if p.grad is not None}, {n: 2 * g for n, g in once.items()}, 1e-12)  # fmt: skip


def test_the_benchmark_s_loop_over_codes_computes_the_same() -> None:
    speed_head = pytest.importorskip("benchmarks.speed_head")  # in the checkout, not in the package
    given = speed_head.inputs(8, speed_head.Case(8, False, 0.0, 1))
    with torch.no_grad():
        expected = speed_head.loop(given)
        for way in ("vectorised", "blocks"):
            got = speed_head.step_of(way, speed_head.Case(8, False, 0.0, 1))(given)
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


# --------------------------------------------------------------------------------------------------------- on its own
def _head(pooling: str = "shared", dropout: float = 0.0, width: int = 6, codes: int = 5) -> Head:
    generator = torch.Generator().manual_seed(2)
    over = (
        ChunkAttention(width, codes if pooling == "per_code" else None) if pooling in ("shared", "per_code") else None
    )
    own = TokenAttention(width, codes)
    head = Head(own, over, CodeClassifier(width * (2 if pooling == "flat" else 1), codes), nn.Dropout(dropout), pooling)
    for part in (head.token_attention, head.chunk_attention, head.classifier):
        for parameter in () if part is None else part.parameters():
            nn.init.normal_(parameter, std=0.7, generator=generator)
        if part is not None:
            part.double()
    return head


def _rows(documents: int, tokens: int) -> Rows:
    """Two chunks of each document but the first, which has one; the last row half padding."""
    document = torch.cat([torch.arange(documents), torch.arange(1, documents)])
    column = torch.cat([torch.zeros(documents, dtype=torch.long), torch.ones(documents - 1, dtype=torch.long)])
    seen = torch.ones(len(document), tokens, dtype=torch.bool)
    seen[-1, tokens // 2 :] = False
    return Rows(document, column, (documents, documents - 1), documents, seen)


def _hidden(rows: Rows, tokens: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(len(rows.document), tokens, width, generator=generator, dtype=torch.float64, requires_grad=True)


def test_keys_folded_into_sums_over_tokens_give_the_same() -> None:
    """40 x (16 - 4) > 4 x 16: cheaper by sums over tokens."""
    head, rows = _head(width=16, codes=40), _rows(3, 4)
    hidden = _hidden(rows, 4, 16)
    keep = torch.tensor([[True, False], [True, True], [True, True]])
    inputs = [hidden, *head.token_attention.parameters(), *head.chunk_attention.parameters()]  # type: ignore[union-attr]
    targets = (torch.arange(120).view(3, 40) % 3 == 0).double()
    expected = F.binary_cross_entropy_with_logits(plain(head, hidden, rows, keep, Asked()).logits, targets)
    got = blocked(head, hidden, rows, 16, Asked(targets)).loss
    assert got is not None
    torch.testing.assert_close(got, expected, rtol=1e-13, atol=0)
    for one, other in zip(torch.autograd.grad(got, inputs), torch.autograd.grad(expected, inputs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("pooling", ["shared", "per_code", "mean", "max", "flat"])
def test_gradients_are_those_of_finite_differences(pooling: str, dropout: float) -> None:
    """With dropout: the backward pass draws the forward pass's masks again. First and second derivatives."""
    head, rows = _head(pooling, dropout, width=2, codes=3), _rows(2, 3)
    parameters = [p for part in (head.token_attention, head.chunk_attention, head.classifier) if part for p in part.parameters()]  # fmt: skip
    targets = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]], dtype=torch.float64)

    def function(hidden: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
        torch.manual_seed(5)
        output = blocked(head, hidden, rows, 2, Asked(targets))
        assert output.loss is not None
        return output.loss, output.logits

    given = (_hidden(rows, 3, 2), *parameters)
    assert torch.autograd.gradcheck(function, given, fast_mode=pooling == "per_code")
    assert torch.autograd.gradgradcheck(function, given, fast_mode=True)


@pytest.mark.parametrize("pooling", ["shared", "mean", "max", "flat"])
def test_dropout_has_the_plain_path_s_distribution(pooling: str) -> None:
    """Mean and spread of each code's logit over 4,000 draws: so many copies of one document, each with its own mask."""
    copies, tokens = 4000, 3
    head = _head(pooling, 0.3, width=4, codes=4)
    document = torch.arange(copies)
    rows = Rows(torch.cat([document, document]), document.new_zeros(2 * copies), (copies, copies), copies, None)
    rows.column[copies:] = 1
    generator = torch.Generator().manual_seed(3)
    one = torch.randn(2, 1, tokens, 4, generator=generator, dtype=torch.float64)
    hidden = one.expand(2, copies, tokens, 4).flatten(0, 1)  # (N, T, D)
    torch.manual_seed(0)
    with torch.no_grad():
        expected = plain(head, hidden, rows, None, Asked()).logits
        got = blocked(head, hidden, rows, 2, Asked()).logits
    error = expected.std(0) * (2 / copies) ** 0.5
    assert ((got.mean(0) - expected.mean(0)).abs() < 4.5 * error).all()
    torch.testing.assert_close(got.std(0), expected.std(0), rtol=0.08, atol=0)
    assert float(torch.corrcoef(got.t())[0, 2]) == pytest.approx(float(torch.corrcoef(expected.t())[0, 2]), abs=0.08)


def test_dropout_of_the_model_is_the_same_for_loss_and_logits() -> None:
    """The gradients that come with the forward pass, and those of blocks that are computed again."""
    model = _model(2, dropout=0.3)
    labels = _batch()["labels"]
    ways = {"loss": lambda o: o.loss, "logits": lambda o: F.binary_cross_entropy_with_logits(o.logits, labels)}
    found = []
    for way in ways.values():
        torch.manual_seed(9)
        found.append(_gradients(model, way))
    _agree(found[0], found[1], 1e-11)
    torch.manual_seed(10)
    other = _gradients(model, ways["loss"])
    assert float((other["classifier.weight"] - found[0]["classifier.weight"]).abs().max()) > 1e-4


# -------------------------------------------------------------------------------------------------- memory and choice
class _Largest(TorchDispatchMode):
    """The size of the largest tensor that any operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        for tensor in output if isinstance(output, tuple | list) else (output,):
            if isinstance(tensor, Tensor):
                self.numbers = max(self.numbers, tensor.numel())
        return output


@pytest.mark.parametrize("pooling", ["shared", "mean", "max", "flat"])
def test_no_tensor_grows_with_codes_times_chunks(pooling: str) -> None:
    tokens, width, codes, block = 20, 6, 300, 8
    head, rows = _head(pooling, 0.1, width, codes), _rows(4, tokens)
    hidden = _hidden(rows, tokens, width)
    with _Largest() as seen:
        output = blocked(head, hidden, rows, block, Asked(torch.zeros(4, codes)))
        assert output.loss is not None
        torch.autograd.backward(output.loss + output.logits.sum())
    assert seen.numbers <= max(codes * width * (2 if pooling == "flat" else 1), len(hidden) * tokens * block)
    with _Largest() as whole:
        plain(head, hidden, rows, None, Asked())
    assert whole.numbers >= len(hidden) * tokens * codes  # the measure sees it where it is


def test_blocks_follow_the_size() -> None:
    one, many = (torch.empty((n, 512, 768), device="meta") for n in (10, 160))
    assert block_size(one, None) == 128
    assert block_size(many, None) == 64
    assert block_size(one, 17) == 17


def test_what_others_watch_is_computed_in_one() -> None:
    head, asked = _head(codes=5), Asked(attentions=True)
    assert in_blocks(head, 4, Asked())
    assert not in_blocks(head, 5, Asked())
    assert not in_blocks(head, 4, asked)  # attentions with a gradient
    with torch.no_grad():
        assert in_blocks(head, 4, asked)
        assert not in_blocks(_head(codes=5, dropout=0.1), 4, asked)
    hook = head.token_attention.register_forward_hook(lambda *_: None)
    assert not in_blocks(head, 4, Asked())
    hook.remove()
    assert in_blocks(head, 4, Asked())


# --------------------------------------------------------------------------------------------------------- attentions
@pytest.mark.parametrize(("token_kind", "chunk_kind"), ALL_KINDS)
def test_attentions_are_the_same_and_of_the_codes_asked_for(token_kind: str, chunk_kind: str) -> None:
    whole, parts = (_model(b, token_attention=token_kind, chunk_attention=chunk_kind).eval() for b in (None, 2))
    inputs = {name: values for name, values in _batch().items() if name != "labels"}
    with torch.no_grad():
        expected = whole(**inputs, output_attentions=True)
        for model in (whole, parts):
            for codes in (None, [6, 0, 3], []):
                got = model(**inputs, output_attentions=True, attention_codes=codes)
                chosen = expected.token_attention[:, list(range(K)) if codes is None else codes]
                torch.testing.assert_close(got.token_attention, chosen, rtol=1e-12, atol=1e-12)
                torch.testing.assert_close(got.logits, expected.logits, rtol=1e-12, atol=1e-12)
                if expected.chunk_attention is None:
                    assert got.chunk_attention is None
                else:
                    torch.testing.assert_close(got.chunk_attention, expected.chunk_attention, rtol=1e-12, atol=1e-12)
        assert parts(**inputs).token_attention is None


def test_attention_codes_outside_the_model_are_refused() -> None:
    with pytest.raises(HilatError, match=r"attention_codes has \[7\]; expected columns from 0 to 6"):
        _model(2)(**_batch(), output_attentions=True, attention_codes=[0, 7])

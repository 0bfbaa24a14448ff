"""XLNet's attention in C: against attention in blocks in float64, whatever vectors it is compiled for; and what happens where
it cannot be compiled."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import XLNetConfig

from hilat.admissions import HilatError
from hilat.encoders import compiled, encoder_path, new_encoder
from hilat.encoders import relative_attention_compiled as ours
from hilat.encoders.relative_attention import RelativeAttention
from hilat.encoders.relative_attention_compiled import CompiledAttention
from hilat.encoders.seeded_dropout import Dropout

needs_a_compiler = pytest.mark.skipif(ours.missing() is not None, reason=f"not compiled: {ours.missing()}")
# Chunks, tokens, heads, size: one strip, more than one, the last one short, vectors that are not full, no key but oneself.
SHAPES = [(2, 130, 2, 64), (3, 37, 2, 8), (2, 96, 1, 16), (1, 97, 3, 20), (1, 1, 1, 4), (2, 2, 1, 3)]
_FLAGS = (
    ("-DLANES=4",),
    ("-DLANES=8",),
    ("-DLANES=16",),
    ("-O0", "-Wall", "-Wextra", "-Werror", "-Wno-unused-command-line-argument"),
)


@pytest.fixture(params=_FLAGS, ids=lambda flags: flags[0])
def _lanes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Compiled for other vectors; a compiler makes two of one where the processor's are narrower."""
    monkeypatch.setattr(compiled, "_FLAGS", (*compiled._FLAGS, *request.param))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    ours._library.cache_clear()
    yield
    ours._library.cache_clear()


def _parts(chunks: int, tokens: int, heads: int, size: int) -> list[Tensor]:
    """qkv, r, shift and segments."""
    drawn = torch.Generator().manual_seed(0)
    shapes = [(chunks, tokens, 3, heads, size), (2 * tokens, heads, size), (heads, size), (2, heads, size)]
    return [(torch.randn(shape, generator=drawn) * size**-0.25).requires_grad_() for shape in shapes]


def _marks(chunks: int, tokens: int, kind: str) -> tuple[Tensor | None, Tensor | None]:
    """kinds and padding: (B, T) each, or None."""
    drawn = torch.Generator().manual_seed(1)
    kinds = torch.randint(0, 3, (chunks, tokens), generator=drawn, dtype=torch.int32)
    padding = torch.zeros(chunks, tokens).masked_fill_(torch.rand(chunks, tokens, generator=drawn) < 0.3, -torch.inf)
    return (kinds if "kinds" in kind else None), (padding if "padding" in kind else None)


def _in_blocks(parts: list[Tensor], kinds: Tensor | None, padding: Tensor | None) -> Tensor:
    """The same in float64."""
    hidden, one_hot = None, None
    if padding is not None:
        hidden = padding.double()[:, None].repeat(1, padding.shape[1], 1)
        hidden.diagonal(dim1=1, dim2=2).zero_()
    if kinds is not None:
        one_hot = F.one_hot(kinds.long()).double()
    output: Tensor = RelativeAttention.apply(*(part.double() for part in parts), one_hot, hidden, None)  # type: ignore[no-untyped-call]
    return output


def _masked(parts: list[Tensor], kinds: Tensor | None, padding: Tensor | None, kept: Tensor, scale: float) -> Tensor:
    """The attention (B, T, H, E) written out, with a mask of dropout (H, B, T, T), in float64."""
    qkv, r, shift, (s, g) = (part.double() for part in parts)
    (q, k, v), place = qkv.unbind(2), torch.arange(qkv.shape[1])
    near = r[len(place) - place[:, None] + place]  # (T, T, H, E)
    scores = torch.einsum("bthe,bshe->hbts", q, k) + torch.einsum("bthe,tshe->hbts", q + shift, near)
    if kinds is not None:
        other = torch.einsum("bthe,he->hbt", q + s, g)
        scores = scores + other[..., None] * (kinds[:, :, None] != kinds[:, None])
    if padding is not None:
        itself = torch.eye(len(place), dtype=torch.bool)
        scores = scores + padding.double()[:, None].masked_fill(itself, 0.0)
    return torch.einsum("hbts,bshe->bthe", torch.softmax(scores, -1) * kept * scale, v)


def _close(found: Tensor, expected: Tensor, least: float = 0.0) -> None:
    found, expected = found.detach(), expected.detach()
    assert float((found - expected).abs().max()) <= 1e-5 * max(float(expected.abs().max()), least)


def _run(parts: list[Tensor], *marks: Any, dropout: Dropout | None = None, keep: bool = False) -> tuple[Tensor, ...]:
    """The output, gradients of its sum of squares, and the tensors that were kept."""
    output = CompiledAttention.apply(*parts, *marks, dropout, keep)  # type: ignore[no-untyped-call]
    kept = [x for x in output.grad_fn.saved_tensors if x is not None]
    asked = [part for part in parts if part.requires_grad]
    slopes = torch.autograd.grad(output.square().sum(), asked, allow_unused=True)
    return output.detach(), *slopes, kept[-1]


def _compare(shape: tuple[int, ...], kind: str, keep: bool) -> None:
    parts, marks = _parts(*shape), _marks(*shape[:2], kind)
    expected = _in_blocks(parts, *marks)
    slopes = torch.autograd.grad(expected.square().sum(), parts, allow_unused=True)
    output, *found, _ = _run(parts, *marks, keep=keep)
    _close(output, expected)
    for mine, other in zip(found, slopes, strict=True):
        assert (mine is None) == (other is None)
        if other is not None:  # what is 0 in theory is not in float32
            _close(mine, other, least=float(slopes[0].abs().max()))


# ------------------------------------------------------------------------------------------------------------ the same
@needs_a_compiler
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("kind", ["", "kinds", "padding", "kinds and padding"])
@pytest.mark.parametrize("shape", SHAPES)
def test_outputs_and_gradients(shape: tuple[int, ...], kind: str, keep: bool) -> None:
    _compare(shape, kind, keep)


@needs_a_compiler
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.usefixtures("_lanes")
def test_vectors_of_other_widths(shape: tuple[int, ...]) -> None:
    _compare(shape, "kinds and padding", False)
    _compare(shape, "kinds and padding", True)


@needs_a_compiler
def test_a_wrong_number_is_seen() -> None:
    """That these comparisons can fail: with the relative keys of one place further."""
    parts = _parts(*SHAPES[0])
    expected, (output, *_) = (
        _in_blocks(parts, None, None),
        _run([parts[0], parts[1].roll(1, 0), *parts[2:]], None, None),
    )
    with pytest.raises(AssertionError):
        _close(output, expected)


@needs_a_compiler
def test_inputs_alone() -> None:
    """As in explanations: weights are kept for many backward passes, and nothing is added up for the fixed parts."""
    shape = SHAPES[0]
    parts, marks = _parts(*shape), _marks(*shape[:2], "kinds")
    expected = torch.autograd.grad(_in_blocks(parts, *marks).square().sum(), parts[0])[0]
    for part in parts[1:]:
        part.requires_grad_(False)
    _, to_qkv, weights = _run(parts, *marks)
    _close(to_qkv, expected)
    assert weights.shape[:3] == (shape[2], shape[0], shape[1])
    torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:3]))


@needs_a_compiler
@pytest.mark.parametrize("shape", SHAPES[:4])
@pytest.mark.parametrize("p", [0.1, 0.5])
def test_dropout(shape: tuple[int, ...], p: float) -> None:
    """With the mask that kept weights tell; drawn again in the backward pass, to the last bit, where they are not kept."""
    parts, marks, noise = _parts(*shape), _marks(*shape[:2], "kinds and padding"), Dropout(p, (3, 1))
    output, *found, weights = _run(parts, *marks, dropout=noise, keep=True)
    kept = (~torch.signbit(weights[..., : shape[1]])).double()
    seen = weights[..., : shape[1]] != 0
    assert abs(float(1 - kept[seen].mean()) - p) < 4 * (p * (1 - p) / float(seen.sum())) ** 0.5
    expected = _masked(parts, *marks, kept, noise.scale)
    slopes = torch.autograd.grad(expected.square().sum(), parts)
    for mine, other in zip((output, *found), (expected, *slopes), strict=True):
        _close(mine, other)
    again = _run(parts, *marks, dropout=noise)
    for one, other in zip((output, *found), again, strict=False):
        assert torch.equal(one, other)
    other_seed = _run(parts, *marks, dropout=Dropout(p, (3, 2)))[0]
    assert float((other_seed - output).abs().max()) > 0.01


@needs_a_compiler
def test_draws_are_independent() -> None:
    """Of neighbours in a row, of rows, of chunks and of heads."""
    p, shape = 0.3, (3, 128, 2, 8)
    *_, weights = _run(_parts(*shape), None, None, dropout=Dropout(p, (5,)), keep=True)
    dropped = torch.signbit(weights).float()  # (H, B, T, P)
    for dim, lags in ((3, (1, 2, 3, 4, 8, 16)), (2, (1, 2)), (1, (1,)), (0, (1,))):
        for lag in lags:
            n = dropped.shape[dim] - lag
            both = float((dropped.narrow(dim, 0, n) * dropped.narrow(dim, lag, n)).mean())
            assert abs(both - p * p) < 6 * (p * (1 - p) / dropped.numel()) ** 0.5, (dim, lag)


@needs_a_compiler
@pytest.mark.parametrize("threads", [2, 3, 5, 16])
@pytest.mark.parametrize("shape", [(2, 60, 3, 8), (7, 20, 3, 8), (1, 50, 5, 8), (5, 20, 1, 8)])
@pytest.mark.parametrize("whose", ["torch's", "our own"])
def test_threads(shape: tuple[int, ...], threads: int, whose: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs to the last bit, sums within rounding; more threads than heads and chunks too."""
    if whose == "our own":
        monkeypatch.setattr(compiled, "_openmp_start", lambda: None)
    elif compiled._openmp_start() is None:
        pytest.skip("torch's threads are not OpenMP's here")
    noise, before = Dropout(0.2, (1,)), torch.get_num_threads()
    parts, marks = _parts(*shape), _marks(*shape[:2], "kinds and padding")
    alone = _run(parts, *marks, dropout=noise)
    torch.set_num_threads(threads)
    try:
        together = _run(parts, *marks, dropout=noise)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(together[0], alone[0])
    assert torch.equal(together[1], alone[1])
    for mine, other in zip(together[2:5], alone[2:5], strict=True):
        _close(mine, other)


@needs_a_compiler
def test_memory_of_a_thread_serves_other_sizes_and_modes() -> None:
    given = [[part.detach() for part in _parts(*shape)] for shape in SHAPES] * 4
    expected = [_in_blocks(parts, None, None) for parts in given]

    def run(parts: list[Tensor]) -> Tensor:
        output: Tensor = CompiledAttention.apply(*parts, None, None, None)  # type: ignore[no-untyped-call]
        return output

    with ThreadPoolExecutor(4) as several:
        for found in (several.map(torch.inference_mode()(run), given), several.map(run, given)):
            for mine, other in zip(found, expected, strict=True):
                _close(mine.clone(), other)


@needs_a_compiler
def test_nans_stay_where_they_are() -> None:
    """A chunk with NaN, or infinite ones, says NaN; the others and the next call what they said before."""
    parts, marks = _parts(*SHAPES[0]), _marks(*SHAPES[0][:2], "kinds")
    first = _run(parts, *marks)
    for bad in (torch.nan, torch.inf):
        spoilt = [parts[0].detach().clone(), *parts[1:]]
        spoilt[0][1, 50] = bad
        output, *_ = _run([spoilt[0].requires_grad_(), *spoilt[1:]], *marks)
        assert bool(output[1].isnan().all())
        assert torch.equal(output[0], first[0][0])
    assert all(torch.equal(one, other) for one, other in zip(first, _run(parts, *marks), strict=True))


@needs_a_compiler
def test_other_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"qkv is torch\.float64 on cpu; expected float32"):
        CompiledAttention.apply(*(part.double() for part in _parts(1, 2, 1, 4)), None, None, None)  # type: ignore[no-untyped-call]


# -------------------------------------------------------------------------------------------------------- the compiler
@pytest.fixture
def _anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """As in a process that has compiled nothing yet, with a cache folder of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    ours._library.cache_clear()
    ours.missing.cache_clear()
    yield
    ours._library.cache_clear()
    ours.missing.cache_clear()


def _attention_of(model: Any) -> str:
    """What the record says of it, without the library of products, which depends on the processor."""
    return encoder_path(model).removesuffix(", large products by oneDNN")


def _xlnet() -> Any:
    torch.manual_seed(0)
    return new_encoder(XLNetConfig(vocab_size=20, d_model=8, n_layer=1, n_head=2, d_inner=8)).eval()


@pytest.mark.parametrize(
    ("compiler", "said"),
    [
        ("", "no C compiler is there"),
        ("no-such-compiler", "no-such-compiler does not run"),
        ("false", "false does not run as a C compiler"),
    ],
)
@pytest.mark.usefixtures("_anew")
def test_without_a_compiler(
    compiler: str, said: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Attention in blocks, told once."""
    if compiler:
        monkeypatch.setenv("CC", compiler)
    else:
        monkeypatch.delenv("CC", raising=False)
        monkeypatch.setattr(compiled.shutil, "which", lambda _name: None)
    model = _xlnet()
    with caplog.at_level(logging.INFO, "hilat"):
        for _ in range(2):
            model(torch.zeros(1, 5, dtype=torch.long), use_mems=False)
    assert [said in record.getMessage() for record in caplog.records] == [True]
    assert _attention_of(model) == "fast xlnet, attention in blocks of queries"


@needs_a_compiler
@pytest.mark.usefixtures("_anew")
def test_what_the_compiler_made_serves_again(tmp_path: Path) -> None:
    model = _xlnet()
    output = model(torch.zeros(1, 5, dtype=torch.long), use_mems=False).last_hidden_state
    assert _attention_of(model) == "fast xlnet, attention compiled for the processor"
    (found,) = (tmp_path / "cache" / "hilat").iterdir()
    written = found.stat().st_mtime_ns
    ours._library.cache_clear()
    assert torch.equal(model(torch.zeros(1, 5, dtype=torch.long), use_mems=False).last_hidden_state, output)
    assert [path.stat().st_mtime_ns for path in found.parent.iterdir()] == [written]


@needs_a_compiler
@pytest.mark.usefixtures("_anew")
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_first_call_may_be_anywhere(mode: Any) -> None:
    """Without gradients, and where what is kept is counted, as that pass is computed again."""
    model, ids = _xlnet(), torch.zeros(1, 5, dtype=torch.long)

    def run(embedded: Tensor) -> Tensor:
        output: Tensor = model(inputs_embeds=embedded, use_mems=False).last_hidden_state
        return output

    with mode():
        embedded = model.word_embedding(ids)
        output = checkpoint(run, embedded, use_reentrant=False)
        if torch.is_grad_enabled():
            torch.autograd.backward(output.sum())
    assert _attention_of(model) == "fast xlnet, attention compiled for the processor"
    assert torch.equal(run(model.word_embedding(ids)), output)


@needs_a_compiler
@pytest.mark.parametrize("damage", [b"", b"not a library"])
def test_a_damaged_library_is_made_again(damage: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = tmp_path / "seven.c"
    source.write_text("int seven(void) { return 7; }")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    _, found = compiled.place_of(source)
    found.parent.mkdir()
    found.write_bytes(damage)
    assert compiled.library(source).seven() == 7
    assert [path.name for path in found.parent.iterdir()] == [found.name]


@needs_a_compiler
def test_a_cache_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = tmp_path / "seven.c"
    source.write_text("int seven(void) { return 7; }")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert compiled.library(source).seven() == 7


@needs_a_compiler
def test_a_header_or_a_flag_that_changes_makes_another_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source, header = tmp_path / "number.c", tmp_path / "number.h"
    source.write_text('#include "number.h"\nint number(void) { return NUMBER; }')
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for number in (1, 2):
        header.write_text(f"#define NUMBER {number}")
        library: ctypes.CDLL = compiled.library(source)
        assert library.number() == number
    _, before = compiled.place_of(source)
    monkeypatch.setattr(compiled, "_FLAGS", (*compiled._FLAGS, "-DMORE"))
    assert compiled.place_of(source)[1] != before


@needs_a_compiler
def test_a_file_that_does_not_compile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = tmp_path / "wrong.c"
    source.write_text("int wrong(void) { return }")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(HilatError, match=r"failed with status 1: .*wrong\.c"):
        compiled.library(source)
    assert not list((tmp_path / "hilat").iterdir())


@needs_a_compiler
@pytest.mark.usefixtures("_anew")
def test_wrong_numbers_are_found_before_use(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """By a compiler that takes infinity for 0."""
    monkeypatch.setattr(compiled, "_FLAGS", (*compiled._FLAGS, "-D__builtin_inff()=0.0f"))
    with caplog.at_level(logging.INFO, "hilat"):
        assert "of the largest number, expected under 0.0001" in str(ours.missing())
    assert "set CC" in caplog.text

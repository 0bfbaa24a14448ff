"""transformers' XLNet, the same function in less time and memory: same weights, names and files, another forward pass.

Batch first; queries, keys and values in one product; relative keys once per layer, not once per chunk; the relative shift
as a view; segments only where they differ; attention in blocks of queries, in C where a compiler is there, computed again in
the backward pass where its weights are not kept (`hilat.encoders.relative_attention`, `relative_attention_compiled`,
`shared_calls`); dropout masks drawn again from a seed instead of being kept.

What differs in training is the noise, not its distribution: the dropout of the relative positions is drawn once for all
chunks of a batch, not once for each, and shares of dropped numbers are rounded to 16 bits (0.1 is 0.100006).

Axis letters: B chunks, T tokens, D width, H heads, E = D / H, S kinds of segments in the batch.
"""

from __future__ import annotations

import itertools
import logging
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F
from transformers import XLNetConfig, XLNetModel
from transformers.models.xlnet.modeling_xlnet import (
    XLNetFeedForward,
    XLNetLayer,
    XLNetModelOutput,
    XLNetRelativeAttention,
)

from hilat.encoders import kernels, products, relative_attention_compiled
from hilat.encoders.active_product import ActiveProduct, in_place
from hilat.encoders.relative_attention import RelativeAttention
from hilat.encoders.relative_attention_compiled import CompiledAttention
from hilat.encoders.seeded_dropout import Dropout, SeededDropout
from hilat.encoders.shared_calls import Fixed, projection, room_for_weights, shared
from hilat.watched import calls_are_watched, nothing_is_kept

if TYPE_CHECKING:
    from hilat.encoders.relative_attention_triton import Marks

Way = Literal["compiled", "blocks", "kernel", "bias", "plain"]

_ON_CPU: tuple[Way, ...] = ("compiled", "blocks")
_ROWS_AT_ONCE = 1024  # of the feed-forward layer's inner numbers, where none is kept

_LOG = logging.getLogger(__name__)
# Arguments of XLNetModel.forward that only transformers' own forward pass serves.
_PLAIN_ARGUMENTS = ("mems", "perm_mask", "target_mapping", "output_attentions")


class FastXLNetModel(XLNetModel):  # type: ignore[no-untyped-call]
    """An XLNetModel whose forward pass is fast where it can be, and transformers' own where it cannot (`plain_reason`).

    path: "auto" (and "compiled") takes "compiled" on the CPU, in float32 and where a C compiler is there
    (`hilat.encoders.relative_attention_compiled`), and "blocks" there otherwise; "kernel"
    (`hilat.encoders.relative_attention_triton`) in half precision on an NVIDIA GPU with Triton, and "bias"
    (scaled_dot_product_attention with the relative scores as its bias) elsewhere; "plain" is always transformers' own.
    """

    path: Way | Literal["auto"] = "auto"

    def __init__(self, config: XLNetConfig) -> None:
        super().__init__(config)
        products.set_linear(self, fast=True)

    def forward(self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None, **rest: Any) -> Any:
        """As transformers' XLNetModel.forward, with the same arguments by name."""
        reason = plain_reason(self, rest)
        if reason is not None:
            tell_once(self, reason)
            return super().forward(input_ids, attention_mask, **rest)
        if (input_ids is None) == (rest.get("inputs_embeds") is None):
            raise ValueError(
                "both or none of input_ids and inputs_embeds are given; pass either input_ids or inputs_embeds"
            )
        states = self.word_embedding(input_ids) if rest.get("inputs_embeds") is None else rest["inputs_embeds"]
        wanted, as_output = rest.get("output_hidden_states"), rest.get("return_dict")
        wanted = self.config.output_hidden_states if wanted is None else wanted
        found = _states(self, states, _chunks(self, states, attention_mask, rest))
        kept = deque(found, maxlen=None if wanted else 1)
        last = kept.pop()
        output = XLNetModelOutput(last_hidden_state=last, hidden_states=tuple(kept) if wanted else None)
        return output if (self.config.return_dict if as_output is None else as_output) else output.to_tuple()


def plain_reason(model: FastXLNetModel, arguments: dict[str, Any]) -> str | None:
    """Why this call takes transformers' own forward pass, or None when it takes the fast one."""
    config = model.config
    asked = [name for name in _PLAIN_ARGUMENTS if arguments.get(name) is not None and arguments[name] is not False]
    if config.output_attentions and "output_attentions" not in asked and arguments.get("output_attentions") is None:
        asked.append("output_attentions")
    use_mems = arguments.get("use_mems")
    if use_mems is None:
        use_mems = config.use_mems_train if model.training else config.use_mems_eval
    reasons = {
        "path is 'plain'": model.path == "plain",
        f"{', '.join(asked)} asked for": bool(asked),
        "use_mems, which XLNet's config has on by default in evaluation": bool(use_mems),
        f"attn_type {config.attn_type!r}": config.attn_type != "bi",
        "bi_data": config.bi_data,
        "chunk_size_feed_forward": config.chunk_size_feed_forward != 0,
        "a dropout of 1": any(isinstance(part, nn.Dropout) and part.p >= 1 for part in model.modules()),
        "hooks on layers": any(part._forward_hooks or part._forward_pre_hooks for part in model.layer.modules()),
        "another function watches the calls (DeepLift)": calls_are_watched(),
        "forward-mode derivatives": forward_ad._current_level >= 0,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def tell_once(model: FastXLNetModel, reason: str) -> None:
    """Log, once per model and reason, that transformers' own forward pass is taken."""
    told = model.__dict__.setdefault("_told", set())
    if reason not in told:
        told.add(reason)
        _LOG.info("XLNet runs transformers' own, slower forward pass: %s", reason)


@dataclass(frozen=True, slots=True)
class _Chunks:
    """What all layers are given beside the states.

    kinds: (B, T, S), the segment of each token as 0s and one 1, S = 1 when all are equal; None without segments. hidden:
    (B, T, T), 0 where query i sees key j, -inf where not; None when all see all. In C ("compiled"), kinds: the numbers of
    the segments (B, T), or (0,) when all are equal; hidden: (B, T), what others see of a key. seeds: of the dropout masks,
    one after the other; None where torch draws all of them. marks: segments and padding as the kernel wants them.
    """

    kinds: Tensor | None
    hidden: Tensor | None
    seeds: Iterator[tuple[int, int]] | None
    way: Way
    marks: Marks | None = None


def _chunks(model: FastXLNetModel, states: Tensor, attention_mask: Tensor | None, rest: dict[str, Any]) -> _Chunks:
    input_mask = rest.get("input_mask")
    if attention_mask is not None and input_mask is not None:
        raise ValueError("attention_mask and input_mask are both given; expected one of them. Leave input_mask out")
    padding = input_mask > 0 if input_mask is not None else None if attention_mask is None else attention_mask < 1
    way = model.__dict__["_taken"] = way_of(model, states.dtype)
    if way == "compiled" and (type(states) is not Tensor or torch.compiler.is_compiling()):
        way = "blocks"  # numbers that are not there yet
    seeds = None
    if way in _ON_CPU and model.training:
        seeds = zip(itertools.repeat(int(torch.randint(2**62, ()))), itertools.count())
    types = rest.get("token_type_ids")
    if way == "kernel":
        from hilat.encoders.relative_attention_triton import Marks

        marks = Marks.of(types, None if padding is None else ~padding, states)
        return _Chunks(None, None, None, way, marks)
    if way == "compiled":
        return _Chunks(_segment_numbers(types), _padded_keys(padding, states), seeds, way)
    return _Chunks(_segment_kinds(types, states), _hidden_keys(padding, states), seeds, way)


def way_of(model: FastXLNetModel, dtype: torch.dtype) -> Way:
    """How the fast forward pass computes attention for states of that type, on the model's device."""
    device = model.device.type
    if model.path != "auto" and model.path != "compiled":
        return model.path
    if device == "cpu":
        exact = dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        return "compiled" if exact and relative_attention_compiled.missing() is None else "blocks"
    size = int(model.layer[0].rel_attn.d_head)  # type: ignore[arg-type, union-attr]
    if device != "cuda" or size < 16 or size & (size - 1):
        return "bias"
    dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else dtype
    half = dtype in (torch.bfloat16, torch.float16)
    return "kernel" if half and kernels.missing(size, dtype, model.device) is None else "bias"


def _padded_keys(padding: Tensor | None, states: Tensor) -> Tensor | None:
    """0 or -inf (B, T): no token sees padding, but each padding itself; None when there is none."""
    if padding is None or not bool(padding.any()):
        return None
    return torch.zeros(padding.shape, dtype=states.dtype, device=states.device).masked_fill_(padding, -torch.inf)


def _hidden_keys(padding: Tensor | None, states: Tensor) -> Tensor | None:
    """0 or -inf (B, T, T): no token sees padding, but each padding itself; None when there is none (told on the CPU)."""
    if padding is None or (padding.device.type == "cpu" and not bool(padding.any())):
        return None
    itself = torch.eye(padding.shape[1], dtype=torch.bool, device=padding.device)
    unseen = padding[:, None, :] & ~itself  # (B, T, T)
    return torch.zeros(unseen.shape, dtype=states.dtype, device=states.device).masked_fill_(unseen, -torch.inf)


def _segment_numbers(types: Tensor | None) -> Tensor | None:
    """(B, T), int32; (0,) where all are equal, as a softmax sees no difference then."""
    if types is None:
        return None
    return types.new_empty(0, dtype=torch.int32) if bool((types == types.flatten()[0]).all()) else types.to(torch.int32)


def _segment_kinds(types: Tensor | None, states: Tensor) -> Tensor | None:
    if types is None:
        return None
    known, kind = torch.unique(types, return_inverse=True)
    return F.one_hot(kind, len(known)).to(states.dtype)  # (B, T, S)


def _states(model: FastXLNetModel, embedded: Tensor, given: _Chunks) -> Iterator[Tensor]:
    """The states (B, T, D) before the first layer and after each, and the output."""
    state = _drop(embedded, model.dropout, given)
    yield state
    if given.way == "kernel":
        positions = _positions(model, state, given)
        for layer in model.layer:
            state = _layer_by_kernels(cast(XLNetLayer, layer), state, positions, given)
            yield state
    else:
        for layer, fixed in zip(model.layer, _fixed(model, state, given), strict=True):
            state = _layer(cast(XLNetLayer, layer), state, fixed, given)
            yield state
    yield _drop(state, model.dropout, given)


def _fixed(model: FastXLNetModel, states: Tensor, given: _Chunks) -> list[Fixed]:
    """Of each layer, for chunks as long as states (B, T, D)."""
    calls, tokens = shared(), states.shape[1]
    key = id(model), torch.is_grad_enabled()
    known = None if calls is None else calls.fixed.get(key)
    if known is None or len(known[0].r) < 2 * tokens:
        positions = _positions(model, states, given)
        known = [Fixed.of(cast(XLNetLayer, layer).rel_attn, positions) for layer in model.layer]
        if calls is not None:
            calls.fixed[key] = known
    return [fixed.cut(tokens) for fixed in known]


def _positions(model: FastXLNetModel, states: Tensor, given: _Chunks) -> Tensor:
    """(2T, D), the sinusoids of i - j = T, T - 1, ..., 1 - T, after dropout."""
    tokens = states.shape[1]
    sinusoids: Tensor = model.relative_positional_encoding(tokens, tokens, device=states.device)  # type: ignore[no-untyped-call]
    return _drop(sinusoids[:, 0], model.dropout, given)


def _drop(x: Tensor, module: nn.Dropout, given: _Chunks) -> Tensor:
    noise = _next_noise(module, given)
    if noise is not None:
        dropped: Tensor = SeededDropout.apply(x, noise)  # type: ignore[no-untyped-call]
        return dropped
    return F.dropout(x, module.p, module.training)


def _next_noise(module: nn.Dropout, given: _Chunks) -> Dropout | None:
    return Dropout(module.p, next(given.seeds)) if given.seeds is not None and module.training and module.p else None


def _layer(layer: XLNetLayer, states: Tensor, fixed: Fixed, given: _Chunks) -> Tensor:
    """The layer's output (B, T, D)."""
    own, feed = layer.rel_attn, layer.ff
    mixed = _attention(own, states, fixed, given)  # (B, T, H E)
    if _may_write_over(layer, states, given):
        return _rest_in_place(layer, mixed.flatten(0, 1), states.reshape(-1, states.shape[2])).view_as(states)
    after = own.layer_norm(_drop(products.linear(mixed, own.o.flatten(1)), own.dropout, given) + states)  # (B, T, D)
    output: Tensor = feed.layer_norm(_drop(_fed_forward(feed, after, given), feed.dropout, given) + after)
    return output


def _may_write_over(layer: XLNetLayer, states: Tensor, given: _Chunks) -> bool:
    """Whether nothing of the layer is needed later: on the CPU, without gradients and dropout. Not where a module was put
    around one of its products (LoRA), or types of numbers differ."""
    linears = (layer.ff.layer_1, layer.ff.layer_2)
    if given.way not in _ON_CPU or not nothing_is_kept() or torch.is_autocast_enabled("cpu"):
        return False
    if any(part.training and part.p for part in (layer.rel_attn.dropout, layer.ff.dropout)):
        return False
    if not all(products.is_linear(linear) and linear.bias is not None for linear in linears):
        return False
    return all(weight.dtype == states.dtype for weight in (layer.rel_attn.o, *(linear.weight for linear in linears)))


def _rest_in_place(layer: XLNetLayer, mixed: Tensor, states: Tensor) -> Tensor:
    """What follows attention, (B T, D), from mixed (B T, H E) and states (B T, D): products are added to what they are added
    to anyway, and the inner numbers are written where those of the layer before were."""
    own, first, last = layer.rel_attn, layer.ff.layer_1, layer.ff.layer_2
    after = own.layer_norm(products.add_times(states.clone(), mixed, own.o.flatten(1).t()))
    for part in torch.split(after, _ROWS_AT_ONCE):
        inner = products.times(part, first.weight.t(), first.bias, place="feed-forward's inner")
        active = in_place(layer.ff.activation_function, inner)
        products.add_times(part.add_(last.bias), active, last.weight.t())
    output: Tensor = layer.ff.layer_norm(after)
    return output


def _layer_by_kernels(layer: XLNetLayer, states: Tensor, positions: Tensor, given: _Chunks) -> Tensor:
    """The same on a GPU in half precision, fused; the output has the type of the products."""
    own, feed = layer.rel_attn, layer.ff
    mixed = _attention_by_kernel(own, states, positions, given)  # (B, T, H E)
    drop = own.dropout.p * own.dropout.training
    after = kernels.norm_after(F.linear(mixed, own.o.flatten(1)), states, own.layer_norm, drop)  # (B, T, D)
    drop = feed.dropout.p * feed.dropout.training
    inner = kernels.activated(feed.layer_1(after), feed.activation_function, drop)  # (B, T, d_inner)
    return kernels.norm_after(feed.layer_2(inner), after, feed.layer_norm, drop)  # (B, T, D)


def _attention_by_kernel(own: XLNetRelativeAttention, states: Tensor, positions: Tensor, given: _Chunks) -> Tensor:
    """What the heads bring (B, T, H * E), by `hilat.encoders.relative_attention_triton`."""
    from hilat.encoders.relative_attention_triton import Scores, TritonAttention

    width, heads, size = own.q.shape
    weights = torch.cat([own.q.flatten(1), own.k.flatten(1), own.v.flatten(1)], 1)  # (D, 3 H E)
    parts = torch.mm(states.reshape(-1, width), weights).view(*states.shape[:2], 3, heads, size)  # (B, T, 3, H, E)
    r = torch.mm(positions.to(own.r.dtype), own.r.flatten(1)).view(-1, heads, size)  # (2T, H, E)
    between = own.seg_embed[1] - own.seg_embed[0]  # (H, E)
    vectors = torch.stack([own.r_w_bias, own.r_r_bias, own.r_s_bias, between]).float()  # (4, H, E)
    dropped = own.dropout.p * own.dropout.training
    scores = Scores(own.scale, given.marks, dropped, kernels.seed(dropped))
    attended: Tensor = TritonAttention.apply(parts, r.to(parts.dtype), vectors, scores)  # type: ignore[no-untyped-call]
    return attended


def _fed_forward(feed: XLNetFeedForward, x: Tensor, given: _Chunks) -> Tensor:
    """The feed-forward layer's products with what is between them (B, T, D); as modules where one was put around (LoRA)."""
    inner, last = feed.layer_1(x), feed.layer_2  # (B, T, d_inner)
    unwrapped = products.is_linear(last) and last.bias is not None and last.weight.dtype == inner.dtype
    if given.way not in _ON_CPU or not unwrapped or torch.is_autocast_enabled("cpu"):
        output: Tensor = last(_drop(feed.activation_function(inner), feed.dropout, given))
        return output
    noise = _next_noise(feed.dropout, given)
    output = ActiveProduct.apply(  # type: ignore[no-untyped-call]
        inner.flatten(0, 1), last.weight, last.bias, feed.activation_function, noise
    )
    return output.view_as(x)


def _attention(own: XLNetRelativeAttention, states: Tensor, fixed: Fixed, given: _Chunks) -> Tensor:
    """What the heads bring (B, T, H * E), before the output's product."""
    width, heads, size = own.q.shape
    weights = projection(own) if fixed.weights is None else fixed.weights
    flat = states.reshape(-1, width)
    if given.way in _ON_CPU and not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu"):
        qkv = products.times(flat, weights, fixed.biases, place="queries, keys and values")
    else:
        qkv = products.linear(flat, weights.t(), fixed.biases)
    qkv = qkv.view(*states.shape[:2], 3, heads, size)  # (B, T, 3, H, E)
    r, shift = fixed.r.to(qkv.dtype), fixed.shift.to(qkv.dtype)
    kinds = given.kinds if given.kinds is None or given.way == "compiled" else given.kinds.to(qkv.dtype)
    segments = None if kinds is None else fixed.segments.to(qkv.dtype)
    if given.way in _ON_CPU:
        function = CompiledAttention if given.way == "compiled" else RelativeAttention
        noise = _next_noise(own.dropout, given)
        keep = room_for_weights(qkv)
        attended: Tensor = function.apply(  # type: ignore[no-untyped-call]
            qkv, r, shift, segments, kinds, given.hidden, noise, keep
        )
    else:
        attended = biased_attention(
            qkv, (r, shift, segments), kinds, given.hidden, own.dropout.p * own.dropout.training
        )
    return attended.flatten(2)  # (B, T, H E)


def biased_attention(
    qkv: Tensor,
    fixed: tuple[Tensor, Tensor, Tensor | None],
    kinds: Tensor | None,
    hidden: Tensor | None,
    dropout: float,
) -> Tensor:
    """Output (B, T, H, E) by scaled_dot_product_attention, with the relative scores (H, B, T, T) as its bias.

    qkv, fixed (r, shift and segments), kinds and hidden as in `RelativeAttention`. With 2T + 1 relative keys (the last of
    zeros, for i - j = -T, which is never asked for) the scores by key start T numbers in and their rows lie 2T apart,
    aligned as the GPU's kernels want.
    """
    r, shift, segments = fixed
    q, k, v = qkv.permute(2, 3, 0, 1, 4).contiguous().unbind(0)  # (H, B, T, E)
    q_r = q + shift[:, None, None]
    if segments is not None and kinds is not None:
        s, g = segments[:, :, None, None]  # (H, 1, 1, E)
        other = ((q + s) * g).sum(-1, keepdim=True)  # (H, B, T, 1)
        kinds = kinds.expand(len(q), -1, -1, -1)  # (H, B, T, S)
        q, k = torch.cat([q, -other * kinds], -1), torch.cat([k, kinds], -1)
    heads, chunks, tokens, size = q_r.shape
    near = F.pad(r.transpose(0, 1), (0, 0, 0, 1))  # (H, 2T + 1, E)
    relative = torch.bmm(q_r.reshape(heads, -1, size), near.transpose(1, 2))  # (H, B T, 2T + 1)
    by_key = relative.view(heads, chunks, -1)[..., tokens:].view(heads, chunks, tokens, -1)[..., :tokens]
    bias = by_key if hidden is None else by_key + hidden.to(by_key.dtype)  # (H, B, T, T)
    return F.scaled_dot_product_attention(q, k, v, bias, dropout, scale=1.0).permute(1, 2, 0, 3)

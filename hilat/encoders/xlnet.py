"""transformers' XLNet, the same function in less time and memory: same weights, names and files, another forward pass.

Batch first; queries, keys and values in one product; relative keys once per layer, not once per chunk; the relative shift
as a view; segments only where they differ; attention in blocks of queries, computed again in the backward pass
(`hilat.encoders.relative_attention`); dropout masks drawn again from a seed instead of being kept.

What differs in training is the noise, not its distribution: the dropout of the relative positions is drawn once for all
chunks of a batch, not once for each, and shares of dropped numbers are rounded to 16 bits (0.1 is 0.100006).

Axis letters: B chunks, T tokens, D width, H heads, E = D / H, S kinds of segments in the batch.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext
from transformers import XLNetModel
from transformers.activations import GELUActivation
from transformers.models.xlnet.modeling_xlnet import (
    XLNetFeedForward,
    XLNetLayer,
    XLNetModelOutput,
    XLNetRelativeAttention,
)

from hilat.encoders import kernels
from hilat.encoders.active_product import ActiveProduct
from hilat.encoders.relative_attention import Dropout, RelativeAttention, SeededDropout

if TYPE_CHECKING:
    from hilat.encoders.relative_attention_triton import Marks

Path = Literal["auto", "blocks", "kernel", "bias", "plain"]

_LOG = logging.getLogger(__name__)
# Arguments of XLNetModel.forward that only transformers' own forward pass serves.
_PLAIN_ARGUMENTS = ("mems", "perm_mask", "target_mapping", "output_attentions")


class FastXLNetModel(XLNetModel):  # type: ignore[no-untyped-call]
    """An XLNetModel whose forward pass is fast where it can be, and transformers' own where it cannot (`plain_reason`).

    path: "auto" takes "blocks" on the CPU, "kernel" (`hilat.encoders.relative_attention_triton`) in half precision on an
    NVIDIA GPU with Triton, and "bias" (scaled_dot_product_attention with the relative scores as its bias) elsewhere;
    "plain" is always transformers' own.
    """

    path: Path = "auto"

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
        kept = _all_states(self, states, _chunks(self, states, attention_mask, rest))
        wanted, as_output = rest.get("output_hidden_states"), rest.get("return_dict")
        hidden = tuple(kept[:-1]) if (self.config.output_hidden_states if wanted is None else wanted) else None
        output = XLNetModelOutput(last_hidden_state=kept[-1], hidden_states=hidden)
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
        "another function watches the calls (DeepLift)": any(
            not isinstance(mode, DeviceContext)
            for mode in _get_current_function_mode_stack()  # type: ignore[no-untyped-call]
        ),
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

    positions: (2T, D), the sinusoids of i - j = T, T - 1, ..., 1 - T. kinds: (B, T, S), the segment of each token as 0s
    and one 1; None without segments, S = 1 when all are equal. hidden: (B, T, T), 0 where query i sees key j, -inf where
    not; None when all see all. seeds: of the dropout masks, one after the other; None where torch draws all of them.
    marks: segments and padding as the kernel wants them.
    """

    positions: Tensor
    kinds: Tensor | None
    hidden: Tensor | None
    seeds: Iterator[tuple[int, int]] | None
    way: Path
    marks: Marks | None = None


def _chunks(model: FastXLNetModel, states: Tensor, attention_mask: Tensor | None, rest: dict[str, Any]) -> _Chunks:
    input_mask = rest.get("input_mask")
    if attention_mask is not None and input_mask is not None:
        raise ValueError("attention_mask and input_mask are both given; expected one of them. Leave input_mask out")
    padding = input_mask > 0 if input_mask is not None else None if attention_mask is None else attention_mask < 1
    way = model.__dict__["_taken"] = way_of(model, states.dtype)
    seeds = None
    if way == "blocks" and model.training:
        seeds = zip(itertools.repeat(int(torch.randint(2**62, ()))), itertools.count())
    tokens = states.shape[1]
    positions = model.relative_positional_encoding(tokens, tokens, device=states.device)  # type: ignore[no-untyped-call]
    positions = positions[:, 0]  # (2T, D)
    types = rest.get("token_type_ids")
    if way == "kernel":
        from hilat.encoders.relative_attention_triton import Marks

        marks = Marks.of(types, None if padding is None else ~padding, states)
        return _Chunks(positions, None, None, None, way, marks)
    return _Chunks(positions, _segment_kinds(types, states), _hidden_keys(padding, states), seeds, way)


def way_of(model: FastXLNetModel, dtype: torch.dtype) -> Path:
    """How the fast forward pass computes attention for states of that type, on the model's device."""
    device = model.device.type
    if model.path != "auto":
        return model.path
    if device == "cpu":
        return "blocks"
    size = int(model.layer[0].rel_attn.d_head)  # type: ignore[arg-type, union-attr]
    if device != "cuda" or size < 16 or size & (size - 1):
        return "bias"
    dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else dtype
    half = dtype in (torch.bfloat16, torch.float16)
    return "kernel" if half and kernels.missing(size, dtype, model.device) is None else "bias"


def _hidden_keys(padding: Tensor | None, states: Tensor) -> Tensor | None:
    """0 or -inf (B, T, T): no token sees padding, but each padding itself; None when there is none (told on the CPU)."""
    if padding is None or (padding.device.type == "cpu" and not bool(padding.any())):
        return None
    itself = torch.eye(padding.shape[1], dtype=torch.bool, device=padding.device)
    unseen = padding[:, None, :] & ~itself  # (B, T, T)
    return torch.zeros(unseen.shape, dtype=states.dtype, device=states.device).masked_fill_(unseen, -torch.inf)


def _segment_kinds(types: Tensor | None, states: Tensor) -> Tensor | None:
    if types is None:
        return None
    known, kind = torch.unique(types, return_inverse=True)
    return F.one_hot(kind, len(known)).to(states.dtype)  # (B, T, S)


def _all_states(model: FastXLNetModel, embedded: Tensor, given: _Chunks) -> list[Tensor]:
    """The states (B, T, D) before the first layer and after each, and the output."""
    states = [_drop(embedded, model.dropout, given)]
    positions = _drop(given.positions, model.dropout, given)
    one_layer = _layer_by_kernels if given.way == "kernel" else _layer
    for layer in model.layer:
        states.append(one_layer(cast(XLNetLayer, layer), states[-1], positions, given))
    return [*states, _drop(states[-1], model.dropout, given)]


def _drop(x: Tensor, module: nn.Dropout, given: _Chunks) -> Tensor:
    noise = _next_noise(module, given)
    if noise is not None:
        dropped: Tensor = SeededDropout.apply(x, noise)  # type: ignore[no-untyped-call]
        return dropped
    return F.dropout(x, module.p, module.training)


def _next_noise(module: nn.Dropout, given: _Chunks) -> Dropout | None:
    return Dropout(module.p, next(given.seeds)) if given.seeds is not None and module.training and module.p else None


def _layer(layer: XLNetLayer, states: Tensor, positions: Tensor, given: _Chunks) -> Tensor:
    """The layer's output (B, T, D)."""
    own, feed = layer.rel_attn, layer.ff
    mixed = _attention(own, states, positions, given)  # (B, T, D)
    after = own.layer_norm(_plus(_drop(F.linear(mixed, own.o.flatten(1)), own.dropout, given), states))
    output: Tensor = feed.layer_norm(
        _plus(_drop(_fed_forward(feed, after, given), feed.dropout, given), after)
    )  # (B, T, D)
    return output


def _plus(x: Tensor, y: Tensor) -> Tensor:
    """x + y; where no gradient is asked for in the place of x, which nothing else needs then."""
    return x + y if torch.is_grad_enabled() or x.dtype != y.dtype else x.add_(y)


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
    unwrapped = type(last) is nn.Linear and last.bias is not None and last.weight.dtype == inner.dtype
    if given.way != "blocks" or not unwrapped or torch.is_autocast_enabled("cpu"):
        output: Tensor = last(_drop(feed.activation_function(inner), feed.dropout, given))
        return output
    noise = _next_noise(feed.dropout, given)
    if noise is None and not torch.is_grad_enabled():
        return F.linear(_active(feed.activation_function, inner), last.weight, last.bias)
    output = ActiveProduct.apply(  # type: ignore[no-untyped-call]
        inner.flatten(0, 1), last.weight, last.bias, feed.activation_function, noise
    )
    return output.view_as(x)


def _active(function: Callable[[Tensor], Tensor], inner: Tensor) -> Tensor:
    """function(inner); XLNet's own in the place of inner, of which nothing else needs a number."""
    if isinstance(function, GELUActivation) and function.act is F.gelu:
        return torch.ops.aten.gelu.out(inner, out=inner)  # type: ignore[no-any-return]
    return function(inner)


def _attention(own: XLNetRelativeAttention, states: Tensor, positions: Tensor, given: _Chunks) -> Tensor:
    """What the heads bring (B, T, H * E), before the output's product."""
    width, heads, size = own.q.shape
    weights = torch.cat([own.q.flatten(1) * own.scale, own.k.flatten(1), own.v.flatten(1)], 1)  # (D, 3 H E)
    content = own.r_w_bias * own.scale  # (H, E)
    biases = F.pad(content.flatten(), (0, 2 * heads * size))  # (3 H E,)
    parts = torch.addmm(biases, states.reshape(-1, width), weights)  # (B T, 3 H E)
    parts = parts.view(*states.shape[:2], 3, heads, size).permute(2, 3, 0, 1, 4).contiguous()
    q, k, v = parts.unbind(0)  # (H, B, T, E)
    r = torch.mm(positions.to(own.r.dtype), own.r.flatten(1)).view(-1, heads, size).transpose(0, 1)  # (H, 2T, E)
    q_r = q + _of_heads(own.r_r_bias * own.scale - content, q)
    if given.kinds is not None:
        q, k, q_r = _with_segments(own, (q, k, q_r), given.kinds)
    r = r.to(q.dtype).contiguous()
    if given.way == "blocks":
        noise = _next_noise(own.dropout, given)
        attended: Tensor = RelativeAttention.apply(q, k, v, q_r, r, given.hidden, noise)  # type: ignore[no-untyped-call]
    else:
        attended = biased_attention((q, k, v, q_r, r), given.hidden, own.dropout.p * own.dropout.training)
        attended = attended.permute(1, 2, 0, 3)
    return attended.flatten(2)  # (B, T, H E)


def _of_heads(vectors: Tensor, like: Tensor) -> Tensor:
    """(H, E) as (H, 1, 1, E)."""
    return vectors.to(like.dtype)[:, None, None]


def _with_segments(
    own: XLNetRelativeAttention, parts: tuple[Tensor, Tensor, Tensor], kinds: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """q and k (H, B, T, E + S) whose product has the segment term in it, but for what is equal for all keys of a query.

    The term is one of two numbers, for keys of the query's segment and for others; a softmax sees their difference only,
    d_i = (q_i + r_s) . (seg_1 - seg_0), and -d_i for equal segments is a product of S more numbers.
    """
    q, k, q_r = parts
    if kinds.shape[-1] == 1:  # no difference to see; the parameters still get their gradient, which is 0
        return q, k, q_r + 0.0 * _of_heads(own.r_s_bias + own.seg_embed.sum(0), q_r)
    between = own.seg_embed[1] - own.seg_embed[0]  # (H, E)
    query = q + _of_heads((own.r_s_bias - own.r_w_bias) * own.scale, q)
    difference = torch.bmm(query.flatten(1, 2), between.to(q.dtype)[..., None]).view(q.shape[:3])  # (H, B, T)
    kinds = kinds.to(q.dtype).expand(len(q), -1, -1, -1)  # (H, B, T, S)
    return torch.cat([q, -difference[..., None] * kinds], -1), torch.cat([k, kinds], -1), q_r


def biased_attention(parts: tuple[Tensor, ...], hidden: Tensor | None, dropout: float) -> Tensor:
    """Output (H, B, T, E) by scaled_dot_product_attention, with the relative scores (H, B, T, T) as its bias.

    parts: q, k, v, q_r and r as in `RelativeAttention`. With 2T + 1 relative keys (the last of zeros, for i - j = -T, which
    is never asked for) the scores by key start T numbers in and their rows lie 2T apart, aligned as the GPU's kernels want.
    """
    q, k, v, q_r, r = parts
    heads, chunks, tokens, size = q_r.shape
    near = F.pad(r, (0, 0, 0, 1))  # (H, 2T + 1, E)
    relative = torch.bmm(q_r.reshape(heads, -1, size), near.transpose(1, 2))  # (H, B T, 2T + 1)
    by_key = relative.view(heads, chunks, -1)[..., tokens:].view(heads, chunks, tokens, -1)[..., :tokens]
    bias = by_key if hidden is None else by_key + hidden.to(by_key.dtype)  # (H, B, T, T)
    return F.scaled_dot_product_attention(q, k, v, bias, dropout, scale=1.0)

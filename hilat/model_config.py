"""What a HiLAT is made of: `HilatConfig`, checked when made."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Literal, get_args

from transformers import AutoConfig, PreTrainedConfig

from hilat.admissions import HilatError

TokenAttentionKind = Literal["shared", "per_chunk"]
ChunkAttentionKind = Literal["shared", "per_code", "mean", "max", "flat"]
Attention = Literal["learned", "uniform", "frozen"]
FineTune = Literal["all", "last", "none"]

# An empty chunk is its two special tokens and padding.
SPECIAL_TOKENS = 2
# These number their positions from pad_token_id + 1 on, and tell padding by its id.
OFFSET_POSITIONS = ("roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "camembert", "longformer")


class HilatConfig(PreTrainedConfig):  # type: ignore[no-untyped-call]
    """What a HiLAT is made of.

    encoder: the encoder's own transformers config, or its dict with "model_type".
    num_codes: K. chunks: C, binding only where weights depend on it ("per_chunk", "flat"). tokens: T, special tokens
        included.
    token_attention: one attention for all chunks ("shared", the paper's), or one per chunk (ablation g).
    chunk_attention: one for all codes ("shared", the paper's), "per_code", or pooling instead (ablation h, i, j).
    attention: "learned"; or "uniform" (label vectors and chunk query stay 0, so that every token and chunk weighs the same)
        or "frozen" (both attentions stay at their start), to ask what learned attention is worth (Wiegreffe and Pinter 2019,
        section 3.2).
    attend_padding: True lets padding and empty chunks take attention, as in the published code; False masks them.
    dropout: on the encoder's output, the chunk vectors and the document vectors.
    fine_tune: which encoder layers are trained: "all", "last" (ablation e; the head always is), "none".
    init_std: attention and classifier weights start as N(0, init_std).
    fast_encoder: an XLNet's own forward pass in less time and memory (`hilat.encoders.xlnet`), and the faster library for linear
        layers of any encoder (`hilat.encoders.products`); False for transformers' and torch's.
        The function is the same.
    code_block: the head computes so many codes at a time (`hilat.head_blocks`); None chooses by size. Again the same function.

    Raises:
        HilatError: for a value outside these lists or ranges, or tokens beyond the encoder's positions.
    """

    model_type = "hilat"
    has_no_defaults_at_init = True

    encoder: PreTrainedConfig
    num_codes: int
    chunks: int = 10
    tokens: int = 512
    token_attention: TokenAttentionKind = "shared"
    chunk_attention: ChunkAttentionKind = "shared"
    attention: Attention = "learned"
    attend_padding: bool = False
    dropout: float = 0.1
    fine_tune: FineTune = "all"
    init_std: float = 0.03
    fast_encoder: bool = True
    code_block: int | None = None

    def __init__(
        self,
        encoder: Mapping[str, Any] | PreTrainedConfig | None = None,
        num_codes: int | None = None,
        *,
        chunks: int = 10,
        tokens: int = 512,
        token_attention: TokenAttentionKind = "shared",
        chunk_attention: ChunkAttentionKind = "shared",
        attention: Attention = "learned",
        attend_padding: bool = False,
        dropout: float = 0.1,
        fine_tune: FineTune = "all",
        init_std: float = 0.03,
        fast_encoder: bool = True,
        code_block: int | None = None,
        **kwargs: Any,
    ) -> None:
        self.encoder = _encoder_config(encoder)
        self.num_codes = _whole("num_codes", num_codes, 1)
        self.chunks = _whole("chunks", chunks, 1)
        self.tokens = _whole("tokens", tokens, SPECIAL_TOKENS + 1)
        self.token_attention = _one_of("token_attention", token_attention, get_args(TokenAttentionKind))
        self.chunk_attention = _one_of("chunk_attention", chunk_attention, get_args(ChunkAttentionKind))
        self.attention = _one_of("attention", attention, get_args(Attention))
        self.attend_padding = _one_of("attend_padding", attend_padding, (True, False))
        self.dropout = _in_range("dropout", dropout, 0.0, 1.0)
        self.fine_tune = _one_of("fine_tune", fine_tune, get_args(FineTune))
        self.init_std = _in_range("init_std", init_std, 0.0, float("inf"))
        self.fast_encoder = _one_of("fast_encoder", fast_encoder, (True, False))
        self.code_block = None if code_block is None else _whole("code_block", code_block, 1)
        limit = longest_chunk(self.encoder)
        if limit is not None and self.tokens > limit:
            raise HilatError(
                f"chunks of {self.tokens} tokens do not fit the {self.encoder.model_type} encoder, which has {limit} "
                f"positions. Set tokens to {limit} or less"
            )
        super().__init__(**kwargs)


def longest_chunk(encoder: PreTrainedConfig) -> int | None:
    """How many tokens the encoder has positions for; None where positions are relative, as in XLNet.

    A BigBird's are rounded down to whole blocks, since transformers pads to them.
    """
    positions = getattr(encoder, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions <= 0:
        return None
    if encoder.model_type == "big_bird" and positions >= encoder.block_size:
        return positions - positions % int(encoder.block_size)
    return positions - (encoder.pad_token_id + 1) if encoder.model_type in OFFSET_POSITIONS else positions


def _encoder_config(given: Mapping[str, Any] | PreTrainedConfig | None) -> PreTrainedConfig:
    if isinstance(given, PreTrainedConfig):
        config = copy.deepcopy(given)
    elif isinstance(given, Mapping) and "model_type" in given:
        values = copy.deepcopy(dict(given))
        name = values.pop("model_type")
        try:
            config = AutoConfig.for_model(name, **values)
        except (KeyError, ValueError, TypeError) as error:
            raise HilatError(
                f"the encoder's config has model_type {name!r} with values that transformers refuses "
                f"({str(error).splitlines()[0][:200]}). Give the config of an encoder such as xlnet, bert or roberta"
            ) from None
    else:
        raise HilatError(
            f"the encoder is {type(given).__name__}; expected a transformers config, or its dict with 'model_type'. "
            "Pass for example XLNetConfig(...)"
        )
    if not isinstance(getattr(config, "hidden_size", None), int):
        raise HilatError(
            f"the {config.model_type} config has no hidden_size; expected the config of one text encoder. "
            "Give an encoder such as xlnet, bert or roberta"
        )
    config.dtype = None  # the precision is the whole model's, not the encoder's own
    return config


def _whole(name: str, value: int | None, least: int) -> int:
    if value is None or isinstance(value, bool) or int(value) != value or value < least:
        raise HilatError(f"{name} is {value!r}; expected a whole number of at least {least}. Set {name}")
    return int(value)


def _in_range(name: str, value: float, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value < high:
        raise HilatError(f"{name} is {value!r}; expected a number from {low} to below {high}. Change {name}")
    return float(value)


def _one_of(name: str, value: Any, options: tuple[Any, ...]) -> Any:
    if value not in options:
        raise HilatError(f"{name} is {value!r}; expected one of {', '.join(map(str, options))}. Change {name}")
    return value


AutoConfig.register("hilat", HilatConfig, exist_ok=True)

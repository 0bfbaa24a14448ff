"""HiLAT: a Transformer encoder per chunk under a hierarchical label-wise attention head (Liu et al. 2022, section 3.3).

Axis letters: B documents, C chunks, T tokens per chunk, K codes, D width, N chunks that are encoded (of all documents).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from os import PathLike
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.utils.generic import ModelOutput

from hilat.admissions import HilatError
from hilat.attention import ChunkAttention, CodeClassifier, TokenAttention
from hilat.chunk_rows import chunks_that_count, encode_by_length, has_hooks, one_empty_chunk
from hilat.encoders import (
    UNUSED,
    first_line,
    load_encoder,
    new_encoder,
    not_finite,
    set_encoder_path,
    transformer_layers,
    xlnet_token_types,
)
from hilat.encoders.long import long_inputs, settle_attention
from hilat.encoders.shared_calls import shared_calls
from hilat.head import Asked, Head, HeadOutput, block_size, blocked, in_blocks, plain
from hilat.head_blocks import Rows
from hilat.model_config import OFFSET_POSITIONS, HilatConfig, longest_chunk

__all__ = ["HilatConfig", "HilatModel", "HilatOutput", "build_model"]

# With gradient checkpointing, so many chunks are encoded again at a time in the backward pass; 8 where not on the CPU.
_CHECKPOINTED_CHUNKS = {"cpu": 1}


@dataclass
class HilatOutput(ModelOutput):
    """loss: scalar, with labels only. logits: (B, K). Attentions only when asked for:

    token_attention (B, K, C, T), equation 2: sums to 1 over the real tokens of each chunk that was read, 0 in empty
    chunks. chunk_attention (B, K, C), equation 6: sums to 1 over the chunks; the equal weights of "mean"; None for
    "max" and "flat". Both are float32 (float64 in a float64 model). hidden (B, C, T', D): the encoder's last states, T' the
    longest chunk; zeros where nothing was encoded.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    token_attention: Tensor | None = None
    chunk_attention: Tensor | None = None
    hidden: Tensor | None = None


class HilatModel(PreTrainedModel):  # type: ignore[no-untyped-call]
    """The encoder on every chunk, then `token_attention`, `chunk_attention` (or pooling) and `classifier`."""

    config_class = HilatConfig
    config: HilatConfig
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    # The encoder chooses its own attention implementation; the label-wise head has none to choose.
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True

    def __init__(self, config: HilatConfig) -> None:
        super().__init__(config)
        width, codes = config.encoder.hidden_size, config.num_codes
        self.encoder = new_encoder(config.encoder)
        set_encoder_path(self.encoder, config.fast_encoder)
        settle_attention(self.encoder, config.tokens)
        self.token_attention = TokenAttention(
            width, codes, config.chunks if config.token_attention == "per_chunk" else None
        )
        self.chunk_attention = None
        if config.chunk_attention in ("shared", "per_code"):
            self.chunk_attention = ChunkAttention(width, codes if config.chunk_attention == "per_code" else None)
        self.classifier = CodeClassifier(width * (config.chunks if config.chunk_attention == "flat" else 1), codes)
        self.dropout = nn.Dropout(config.dropout)
        self.gradient_checkpointing = False
        self._gradient_checkpointing_func: Callable[..., Any] = checkpoint
        self.post_init()  # type: ignore[no-untyped-call]
        self.freeze()

    def _init_weights(self, module: nn.Module) -> None:
        # The published classifier bias starts as nn.Linear's uniform noise; zero says the same without the noise.
        if isinstance(module, TokenAttention | ChunkAttention | CodeClassifier):
            for name, parameter in module.named_parameters(recurse=False):
                even = self.config.attention == "uniform" and name in ("labels", "query")
                if name == "bias" or even:
                    init.zeros_(parameter)
                else:
                    init.normal_(parameter, mean=0.0, std=self.config.init_std)

    def _set_gradient_checkpointing(
        self,
        enable: bool = True,
        gradient_checkpointing_func: Callable[..., Any] = checkpoint,
        every_n_layers: int = 1,  # noqa: ARG002
    ) -> None:
        # Not handed down: XLNet does not support it, and whole encoder calls on few chunks need less memory than
        # layers on all chunks.
        self.gradient_checkpointing = enable
        self._gradient_checkpointing_func = gradient_checkpointing_func

    def get_input_embeddings(self) -> nn.Module:
        """The encoder's word embeddings."""
        embeddings: nn.Module = self.encoder.get_input_embeddings()
        return embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the encoder's word embeddings."""
        self.encoder.set_input_embeddings(value)

    def freeze(self) -> None:
        """Train what `config` says: of the encoder all, the last layer or none; both attentions if learned; the classifier.

        Encoder parameters that are never used (a pooler, XLNet's mask embedding) are frozen too, so that training on
        several processes does not wait for their gradients. The last layer is found at any depth; the published code
        takes the layer numbered 11, so that its "last" trains no layer of a shallow encoder and a middle one of a deep.
        """
        kind = self.config.fine_tune
        for name, parameter in self.encoder.named_parameters():
            parameter.requires_grad_(kind == "all" and not name.startswith(UNUSED))
        if kind == "last":
            for parameter in transformer_layers(self.encoder)[-1].parameters():
                parameter.requires_grad_(True)
        for part in (self.token_attention, self.chunk_attention):
            for parameter in () if part is None else part.parameters():
                parameter.requires_grad_(self.config.attention == "learned")

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *model_args: Any, **kwargs: Any) -> Any:
        """The model that `save_pretrained` wrote; arguments as in transformers.

        Raises:
            HilatError: no such folder, a damaged or incomplete file, weights that are missing, unknown, of another
                shape or not finite. (transformers would start missing weights at random and go on.)
        """
        asked_for_info = kwargs.pop("output_loading_info", False)
        kwargs.setdefault("ignore_mismatched_sizes", True)  # to report the shapes in one message below
        try:
            loaded: Any = super().from_pretrained(
                pretrained_model_name_or_path, *model_args, output_loading_info=True, **kwargs
            )
        except HilatError:
            raise
        except (OSError, SafetensorError, RuntimeError, ValueError, KeyError, TypeError) as error:
            raise HilatError(
                f"{pretrained_model_name_or_path} does not load as a HiLAT model ({first_line(error)}). "
                "Give a folder with config.json and model.safetensors as save_pretrained writes them, or restore it"
            ) from None
        model, info = loaded
        model.to(
            model.classifier.weight.dtype
        )  # transformers leaves XLNet's attention in float32 whatever is asked for
        problems = {
            "missing": sorted(info["missing_keys"]),
            "unknown": sorted(info["unexpected_keys"]),
            "of another shape": sorted(key for key, *_ in info["mismatched_keys"]),
            "not finite": not_finite(model.state_dict()),
        }
        if any(problems.values()):
            found = "; ".join(f"{what}: {', '.join(keys)}" for what, keys in problems.items() if keys)
            raise HilatError(
                f"the weights in {pretrained_model_name_or_path} do not fit its config ({found}). "
                "Restore both files from the same training, or train again"
            )
        model.freeze()  # loading makes new parameters
        return (model, info) if asked_for_info else model

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool = False,
        attention_codes: Sequence[int] | None = None,
        output_hidden: bool = False,
    ) -> HilatOutput:
        """Logits, the loss when labels are given, and the attentions and hidden states when asked for.

        input_ids, attention_mask, token_type_ids: (B, C, T). Without token_type_ids, XLNet gets those of its chunks
            (0 for text, 2 for the closing <cls>, 3 for padding), the others their default.
        inputs_embeds: (B, C, T, D) word embeddings instead of input_ids.
        labels: (B, K) of 0 and 1. The loss is the mean over documents and codes, as in the published code;
            equation 9 is the sum over codes: K times this.
        attention_codes: columns whose token attention is wanted, in this order, instead of all K (which take
            B x K x C x T numbers); chunk attention comes for all. Only with output_attentions.

        Many codes are computed in blocks (`hilat.head`), where the attentions are not asked for with gradients.

        Unless `attend_padding`: padding takes no attention, and an empty chunk (no token but its two special ones) is
        not even encoded and takes none. A document without any text keeps its first chunk. Neither way is padding
        encoded more than it must (`hilat.chunk_rows`), which changes nothing in what real tokens see.

        Raises:
            HilatError: for shapes that do not agree, ids outside the vocabulary (checked on the CPU), or a document
                with no token at all.
        """
        inputs, mask = self._checked(input_ids, attention_mask, token_type_ids, inputs_embeds)
        documents, chunks, tokens = mask.shape
        keep, places = chunks_that_count(mask, self.config.attend_padding)  # chunk by chunk: all first ones, then ...
        hidden, row = self._hidden_states(inputs, places)  # (N, T', D)
        column = places % chunks
        placed = Rows(
            document=torch.div(places, chunks, rounding_mode="floor"),
            column=column,
            counts=tuple(torch.bincount(column, minlength=chunks).tolist()),
            documents=documents,
            seen=None if self.config.attend_padding else mask.flatten(0, 1)[places, : hidden.shape[1]].bool(),
            row=row,
        )
        asked = Asked(labels, output_attentions, self._attention_codes(attention_codes))
        if labels is not None:
            self._check_labels(labels, documents)
        found = self._apply_head(hidden, placed, keep, asked)

        loss = self._loss(found.logits, labels) if found.loss is None and labels is not None else found.loss
        output = HilatOutput(loss=loss, logits=found.logits)
        if found.token_weights is not None:
            padded = F.pad(found.token_weights, (0, tokens - hidden.shape[1]))  # (N, K, T)
            output["token_attention"] = placed.place(padded, 0.0).transpose(1, 2)  # (B, K, C, T)
            if found.chunk_weights is not None:
                output["chunk_attention"] = found.chunk_weights
        if output_hidden:
            output["hidden"] = placed.place(hidden, 0.0)  # (B, C, T', D)
        return output

    def _apply_head(self, hidden: Tensor, rows: Rows, keep: Tensor | None, asked: Asked) -> HeadOutput:
        head = Head(
            self.token_attention, self.chunk_attention, self.classifier, self.dropout, self.config.chunk_attention
        )
        block = block_size(hidden, self.config.code_block)
        if in_blocks(head, block, asked):
            return blocked(head, hidden, rows, block, asked)
        return plain(head, hidden, rows, keep, asked)

    def _attention_codes(self, codes: Sequence[int] | None) -> Tensor | None:
        """The columns as a tensor on the model's device."""
        if codes is None:
            return None
        wrong = [k for k in codes if not 0 <= k < self.config.num_codes]
        if wrong:
            raise HilatError(
                f"attention_codes has {wrong[:5]}; expected columns from 0 to {self.config.num_codes - 1}. "
                "Take them from the model's own code book"
            )
        return torch.tensor(list(codes), dtype=torch.long, device=self.classifier.weight.device)

    def _hidden_states(self, inputs: Mapping[str, Tensor], places: Tensor) -> tuple[Tensor, Tensor | None]:
        """Hidden states (N, T', D) after dropout, and the row of each place (P,), None where N = P."""
        per_place = self.config.token_attention == "per_chunk" or self.config.chunk_attention == "flat"
        encoded, row = one_empty_chunk(inputs, places) if self.config.attend_padding else (places, None)
        rows = {name: values.flatten(0, 1)[encoded] for name, values in inputs.items()}  # (N, T, ...)
        cut, watched = not self.config.attend_padding, has_hooks(self.encoder)
        with nullcontext() if self._again else shared_calls():  # what is encoded again is encoded alone
            hidden = encode_by_length(self.encode_chunks, rows, cut=cut, in_one_call=watched)
        if row is not None and (per_place or (self.dropout.training and self.dropout.p > 0)):
            # Each empty chunk has its own weights or its own noise from here on.
            hidden, row = hidden.index_select(0, row), None  # (P, T', D)
        return self.dropout(hidden), row

    @property
    def _again(self) -> bool:
        """Whether chunks are encoded again in the backward pass."""
        return self.gradient_checkpointing and self.training

    def encode_chunks(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Last hidden states (N, T, D) of N chunks, from the encoder's inputs by name, each (N, T, ...)."""
        names = tuple(inputs)
        if not self._again:
            return self._run_encoder(names, *inputs.values())
        size = _CHECKPOINTED_CHUNKS.get(self.classifier.weight.device.type, 8)
        groups = zip(*(torch.split(values, size) for values in inputs.values()), strict=True)
        return torch.cat([self._gradient_checkpointing_func(self._run_encoder, names, *group) for group in groups])

    def _run_encoder(self, names: tuple[str, ...], *values: Tensor) -> Tensor:
        inputs: dict[str, Any] = dict(zip(names, values, strict=True))
        kind = self.encoder.config.model_type
        mask = inputs["attention_mask"]
        if kind == "xlnet":
            inputs["use_mems"] = False  # would keep every layer's states for nothing
            if "token_type_ids" not in inputs:
                inputs["token_type_ids"] = xlnet_token_types(mask)
        elif kind in OFFSET_POSITIONS and "inputs_embeds" in inputs:
            inputs["position_ids"] = mask.cumsum(-1) * mask + self.encoder.config.pad_token_id  # as from the ids
        hidden: Tensor = self.encoder(**long_inputs(self.encoder, inputs, self.config.tokens)).last_hidden_state
        return hidden[:, : mask.shape[1]]

    def _checked(
        self, ids: Tensor | None, mask: Tensor | None, types: Tensor | None, embeds: Tensor | None
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The encoder's inputs by name, each (B, C, T, ...), and the attention mask (B, C, T) as 0 and 1."""
        if (ids is None) == (embeds is None):
            raise HilatError("pass either input_ids or inputs_embeds, and not both; got both or neither")
        given = ids if ids is not None else embeds
        assert given is not None
        axes = 3 if ids is not None else 4
        name = "input_ids (B, C, T)" if ids is not None else "inputs_embeds (B, C, T, D)"
        width = self.config.encoder.hidden_size
        if given.dim() != axes or 0 in given.shape or (axes == 4 and given.shape[-1] != width):
            raise HilatError(
                f"{name} has shape {tuple(given.shape)}; expected {axes} axes, none of them empty, D = {width}. "
                "Collate the documents with hilat.encoding.collate"
            )
        for what, values in (("attention_mask", mask), ("token_type_ids", types)):
            if (values is None and what == "attention_mask") or (
                values is not None and values.shape != given.shape[:3]
            ):
                shape = None if values is None else tuple(values.shape)
                raise HilatError(
                    f"{what} has shape {shape}; expected {tuple(given.shape[:3])}, that of {name}. Pass it"
                )
        assert mask is not None
        self._check_size(given, ids)
        mask = (mask > 0).long()
        inputs = {"input_ids" if ids is not None else "inputs_embeds": given, "attention_mask": mask}
        if types is not None:
            inputs["token_type_ids"] = types
        return inputs, mask

    def _check_size(self, given: Tensor, ids: Tensor | None) -> None:
        chunks, tokens = given.shape[1:3]
        config, limit = self.config, longest_chunk(self.config.encoder)
        if chunks != config.chunks and (config.token_attention == "per_chunk" or config.chunk_attention == "flat"):
            raise HilatError(
                f"the documents have {chunks} chunks; this model has weights for exactly {config.chunks} "
                f"(token_attention {config.token_attention}, chunk_attention {config.chunk_attention}). "
                f"Encode with {config.chunks} chunks"
            )
        if limit is not None and tokens > limit:
            raise HilatError(
                f"the chunks have {tokens} tokens; the {config.encoder.model_type} encoder has {limit} positions. "
                f"Encode with at most {limit} tokens per chunk"
            )
        if ids is not None and ids.device.type == "cpu":
            low, high = ids.aminmax()
            if int(low) < 0 or int(high) >= config.encoder.vocab_size:
                raise HilatError(
                    f"the token ids go from {int(low)} to {int(high)}; the encoder knows 0 to "
                    f"{config.encoder.vocab_size - 1}. Use the tokenizer that belongs to this model"
                )

    def _check_labels(self, labels: Tensor, documents: int) -> None:
        expected = (documents, self.config.num_codes)
        if labels.shape != expected:
            raise HilatError(
                f"labels have shape {tuple(labels.shape)}; expected (B, K) = {expected}. "
                "Make them with the model's own code book"
            )

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        dtype = torch.promote_types(logits.dtype, torch.float32)
        return F.binary_cross_entropy_with_logits(logits.to(dtype), labels.to(dtype))


AutoModel.register(HilatConfig, HilatModel, exist_ok=True)


def build_model(
    encoder: str | PathLike[str] | Mapping[str, Any] | PreTrainedConfig,
    num_codes: int,
    *,
    seed: int | None = None,
    **settings: Any,
) -> HilatModel:
    """A new HiLAT: a config or its dict starts the encoder from scratch, a folder or name takes its pretrained weights.

    seed: of the random weights; the global generators are left as they were. None draws from the global ones.
    settings: those of `HilatConfig`.

    Raises:
        HilatError: settings outside their range, or an encoder that cannot be read, is incomplete or not finite.
    """
    pretrained = load_encoder(encoder) if isinstance(encoder, str | PathLike) else None
    config = HilatConfig(encoder if pretrained is None else pretrained.config, num_codes, **settings)  # type: ignore[arg-type]
    with torch.random.fork_rng() if seed is not None else nullcontext():
        if seed is not None:
            torch.manual_seed(seed)
        model = HilatModel(config)
    if pretrained is not None:
        model.encoder = pretrained
        set_encoder_path(pretrained, config.fast_encoder)
        settle_attention(pretrained, config.tokens)
        model.freeze()
    return model

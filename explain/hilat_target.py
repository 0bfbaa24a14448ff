"""A trained HiLAT as a Target of the explain layer, for all of its codes or for some of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call

from explain.target import Filler, FrozenStates, HeadOutput
from hilat.admissions import Admission, HilatError
from hilat.attention import chunk_scores, masked_softmax, pool_chunks
from hilat.chunk_rows import encode_by_length, has_hooks
from hilat.coder import Coder
from hilat.encoders.shared_calls import shared_calls
from hilat.encoding import SPECIAL_TOKENS, EncodedDocument, collate
from hilat.model import HilatModel

_ENCODER_INPUTS = ("input_ids", "inputs_embeds", "attention_mask", "token_type_ids")


class HilatTarget:
    """The explain layer's view of a Coder; with `columns`, of these codes only, so that the head computes no other."""

    def __init__(self, coder: Coder, columns: Sequence[int] | None = None) -> None:
        self.coder = coder
        self.columns = np.arange(len(coder.code_book)) if columns is None else np.array(columns, dtype=np.int64)
        self.codes: tuple[str, ...] = tuple(coder.code_book.codes[int(k)] for k in self.columns)
        self.thresholds: NDArray[np.float64] = coder.thresholds[self.columns]
        coder.model.eval()  # type: ignore[no-untyped-call]
        self._head = _head_of_columns(coder.model, None if columns is None else self.columns)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.coder.device

    def restricted(self, columns: Sequence[int]) -> HilatTarget:
        """The same model, of these of its codes only."""
        return HilatTarget(self.coder, self.columns[np.array(columns, dtype=np.int64)].tolist())

    def encode(self, admission: Admission | str) -> EncodedDocument:
        """The admission (or a bare text) as this model's input."""
        return self.coder.encode(admission)

    def inputs(self, document: EncodedDocument) -> dict[str, Tensor]:
        """input_ids, attention_mask, token_type_ids, each (1, C, T), on the model's device."""
        return {name: tensor.to(self.device) for name, tensor in collate([document]).items()}

    def embeddings(self, input_ids: Tensor) -> Tensor:
        """Word embeddings (..., D) of token ids (...)."""
        vectors: Tensor = self.coder.model.get_input_embeddings()(input_ids)
        return vectors

    def forward(self, inputs: Mapping[str, Tensor]) -> HeadOutput:
        """The differentiable pass over a batch of documents; the parameters are those of the model, not a copy."""
        parameters = {f"{part}.{name}": value for part, own in self._head.items() for name, value in own.items()}
        output: Any = functional_call(
            self.coder.model, parameters, (), {**inputs, "output_attentions": True}, strict=False
        )
        return HeadOutput(output.logits, output.token_attention, output.chunk_attention)

    def baseline_id(self, kind: Filler) -> int:
        """The id of the tokenizer's mask, padding or unknown token."""
        found = getattr(self.coder.tokenizer, f"{kind}_token_id", None)
        if found is None:
            raise HilatError(
                f"the tokenizer has no {kind} token; expected one to put in the place of a removed word. "
                "Choose another removal or baseline (mask, pad, unk, delete, zero)"
            )
        return int(found)

    def chunk_vectors(self, inputs: Mapping[str, Tensor], chunk: NDArray[np.int64]) -> Tensor:
        """Per-code vectors (N, K, D) of N chunks on their own (equations 1 to 3)."""
        return self.vectors_of_states(self.hidden_states(inputs), inputs["attention_mask"], chunk)

    def hidden_states(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """The encoder's last states (N, T', D) of N chunks on their own; no gradients of its parameters."""
        return self._encode(inputs)

    def vectors_of_states(self, hidden: Tensor, attention_mask: Tensor, chunk: NDArray[np.int64]) -> Tensor:
        """The same from the encoder's last states (N, T', D) and the chunks' masks (N, T)."""
        if (np.diff(chunk) < 0).any():
            raise HilatError("the chunks are not in the order of their places; expected first chunks first. Sort them")
        seen = self._seen(attention_mask)[:, : hidden.shape[1]]
        vectors, _ = self._token_attention(hidden, seen, chunk)
        return vectors

    def chunks_read(self, attention_mask: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Chunks (S, C) that hold more than their two special tokens; the first one where there is no other."""
        if self.coder.model.config.attend_padding:
            return np.ones(attention_mask.shape[:-1], dtype=bool)
        kept: NDArray[np.bool_] = attention_mask.sum(axis=-1) > SPECIAL_TOKENS  # (S, C)
        kept[..., 0] |= ~kept.any(axis=-1)
        return kept

    def logits(self, vectors: Tensor, kept: Tensor) -> Tensor:
        """Logits (S, K) from chunk vectors (S, C, K, D) and the chunks that are read (equations 5 to 8)."""
        model = self.coder.model
        stacked = torch.where(kept[:, :, None, None], vectors, 0.0).transpose(1, 2)  # (S, K, C, D)
        if model.chunk_attention is None:
            pooled, _ = pool_chunks(stacked, kept, model.config.chunk_attention)  # type: ignore[arg-type]
        else:
            pooled, _ = functional_call(model.chunk_attention, self._head["chunk_attention"], (stacked, kept))
        logits: Tensor = functional_call(model.classifier, self._head["classifier"], (pooled,))
        return logits

    @property
    def term_width(self) -> int:
        """M: 2, a chunk's score and what it gives the classifier; D where chunks are pooled by max or flat."""
        model = self.coder.model
        return model.config.encoder.hidden_size if model.config.chunk_attention in ("max", "flat") else 2

    def chunk_terms(self, vectors: Tensor) -> Tensor:
        """(N, K, M) of chunk vectors (N, K, D): what the softmax of equation 6 takes (0 for the mean), and w . c."""
        if self.term_width != 2:
            return vectors
        wide = torch.promote_types(vectors.dtype, torch.float32)
        given = (vectors.to(wide) * self._head["classifier"]["weight"].to(wide)).sum(dim=-1)  # (N, K)
        if self.coder.model.chunk_attention is None:
            return torch.stack([torch.zeros_like(given), given], dim=-1)
        own = self._head["chunk_attention"]
        scores = chunk_scores(vectors.transpose(0, 1)[None], own["projection"], own["query"])[0]  # (K, N)
        return torch.stack([scores.T.to(wide), given], dim=-1)

    def logits_of_terms(self, terms: Tensor, kept: Tensor) -> Tensor:
        """Logits (S, K) of the chunks' terms (S, C, K, M): a softmax over C numbers per code."""
        if self.term_width != 2:
            return self.logits(terms, kept)
        weights = masked_softmax(terms[..., 0].transpose(1, 2), kept[:, None, :])  # (S, K, C)
        return (weights * terms[..., 1].transpose(1, 2)).sum(dim=-1) + self._head["classifier"]["bias"]

    def frozen(self, document: EncodedDocument, hidden: Tensor | None = None) -> FrozenStates:
        """The states of one forward pass, without gradients; from hidden (C, T', D) where the encoder's are known."""
        model = self.coder.model
        if model.config.chunk_attention in ("max", "flat"):
            raise HilatError(
                f"the model pools chunks by {model.config.chunk_attention} and has no weights over chunks; expected "
                "chunk attention (or mean). Tests of attention do not apply to it: use gradients or perturbation"
            )
        inputs = {name: values[0] for name, values in self.inputs(document).items()}  # (C, T)
        kept = torch.from_numpy(self.chunks_read(document.attention_mask)).to(self.device)  # (C,)
        seen = self._seen(inputs["attention_mask"]) & kept[:, None]  # (C, T)
        with torch.no_grad():
            rows = {name: values[kept] for name, values in inputs.items()}
            read = self._encode(rows) if hidden is None else hidden[kept]  # (N, T', D)
            vectors, weights = self._token_attention(
                read, seen[kept][:, : read.shape[1]], np.flatnonzero(kept.cpu().numpy())
            )
            chunks, tokens = document.input_ids.shape
            states = read.new_zeros((chunks, tokens, read.shape[-1]))
            states[kept, : read.shape[1]] = read
            token_attention = weights.new_zeros((chunks, len(self.codes), tokens))
            token_attention[kept, :, : read.shape[1]] = weights
            stacked = vectors.new_zeros((chunks, *vectors.shape[1:]))  # (C, K, D)
            stacked[kept] = vectors
            chunk_attention = self._chunk_attention(stacked.transpose(0, 1)[None], kept)[0]  # (K, C)
        return FrozenStates(
            states,
            seen,
            kept,
            token_attention.transpose(0, 1),  # (K, C, T)
            chunk_attention,
            self._head["classifier"]["weight"].detach(),
            self._head["classifier"]["bias"].detach(),
            lambda vectors: self._chunk_attention(vectors, kept),
        )

    def encoder_attentions(self, document: EncodedDocument) -> Tensor:
        """The encoder's own attention, mean over heads (L, C, 1, T, T); zeros in chunks that are not read.

        Chunk by chunk: all heads of ten chunks of 512 tokens would take 1.5 GB in a base-sized encoder, and twice.

        Raises:
            HilatError: for a Longformer or a BigBird in blocks, which see only part of a chunk.
        """
        encoder = self.coder.model.encoder
        kind = encoder.config.model_type
        if kind == "longformer" or getattr(encoder, "attention_type", None) == "block_sparse":
            raise HilatError(
                f"the {kind} encoder does not give its whole attention (T, T), since each token sees only some others; "
                "rollout needs it. Use attention, gradients or perturbation"
            )
        read = np.flatnonzero(self.chunks_read(document.attention_mask))
        inputs = {name: values[0] for name, values in self.inputs(document).items()}  # (C, T)
        extra = {"use_mems": False} if encoder.config.model_type == "xlnet" else {}
        before = encoder.config._attn_implementation
        if before != "eager" and encoder.config.model_type != "xlnet":
            encoder.set_attn_implementation("eager")  # the others return no weights
        full: Tensor | None = None
        try:
            with torch.no_grad():
                for c in read:
                    rows: dict[str, Any] = {name: values[c : c + 1] for name, values in inputs.items()}
                    layers = encoder(**rows, **extra, output_attentions=True).attentions  # L of (1, H, T, T)
                    mean = torch.stack([layer.mean(dim=1) for layer in layers])  # (L, 1, T, T)
                    if full is None:
                        full = mean.new_zeros((len(mean), len(document.input_ids), 1, *mean.shape[2:]))
                    full[:, c] = mean
        finally:
            if before != encoder.config._attn_implementation:
                encoder.set_attn_implementation(before)
        assert full is not None  # chunks_read keeps at least one
        return full

    def _encode(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Hidden states (N, T', D); padding beyond the longest chunk is cut unless the model attends to it."""
        given = {name: inputs[name] for name in _ENCODER_INPUTS if name in inputs}
        model = self.coder.model
        cut, watched = not model.config.attend_padding, has_hooks(model.encoder)
        with _frozen_parameters(model.encoder), shared_calls():
            return encode_by_length(model.encode_chunks, given, cut=cut, in_one_call=watched)

    def _seen(self, mask: Tensor) -> Tensor:
        return torch.ones_like(mask, dtype=torch.bool) if self.coder.model.config.attend_padding else mask.bool()

    def _token_attention(self, hidden: Tensor, seen: Tensor, chunk: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        counts = np.bincount(chunk, minlength=self.coder.layout.chunks).tolist()
        given: tuple[Tensor, Tensor] = functional_call(
            self.coder.model.token_attention, self._head["token_attention"], (hidden, seen, counts)
        )
        return given

    def _chunk_attention(self, vectors: Tensor, kept: Tensor) -> Tensor:
        """Chunk weights (S, K, C) of chunk vectors (S, K, C, D)."""
        model = self.coder.model
        keep = kept[None].expand(len(vectors), -1)
        if model.chunk_attention is None:
            _, weights = pool_chunks(vectors, keep, "mean")
        else:
            dtype = model.classifier.weight.dtype
            own = {
                name: value.to(torch.promote_types(dtype, vectors.dtype))
                for name, value in self._head["chunk_attention"].items()
            }
            _, weights = functional_call(model.chunk_attention, own, (vectors, keep))
        assert weights is not None
        return weights


@contextmanager
def _frozen_parameters(module: nn.Module) -> Iterator[None]:
    """No graph that is built here leads to the module's parameters: gradients at the inputs take no work for them."""
    learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
    try:
        for parameter in learning:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


def _head_of_columns(model: HilatModel, columns: NDArray[np.int64] | None) -> dict[str, dict[str, Tensor]]:
    """The parameters of the head's parts, by name, for these columns; shared ones and all columns as they are."""
    index = None if columns is None else torch.from_numpy(columns).to(model.classifier.weight.device)
    per_code = {"token_attention": {"labels": -2}, "chunk_attention": {}, "classifier": {"weight": 0, "bias": 0}}
    if model.config.chunk_attention == "per_code":
        per_code["chunk_attention"] = {"projection": 0, "query": 0}
    head: dict[str, dict[str, Tensor]] = {}
    for part, axes in per_code.items():
        module = getattr(model, part)
        head[part] = {}
        for name, value in () if module is None else module.named_parameters():
            cut = index is not None and name in axes
            head[part][name] = value.index_select(axes[name], index) if cut and index is not None else value
    return head

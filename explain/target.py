"""What the explain layer asks of a model: a label-attention coder, whatever its encoder or its head are called.

Axis letters: B documents, C chunks, T tokens per chunk, K codes, D width, N chunks on their own, S samples, L layers,
H attention heads of the encoder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hilat.admissions import Admission
from hilat.encoding import EncodedDocument

Filler = Literal["mask", "pad", "unk"]


@dataclass(frozen=True, slots=True)
class HeadOutput:
    """logits (B, K); token_attention (B, K, C, T); chunk_attention (B, K, C), None where the model pools chunks."""

    logits: Tensor
    token_attention: Tensor
    chunk_attention: Tensor | None


@dataclass(frozen=True, slots=True)
class FrozenStates:
    """One document after the encoder: everything that the label-wise head saw and said, on which attention is tested.

    hidden (C, T, D): zeros in chunks that were not read. seen (C, T): positions that may take token attention.
    kept (C,): chunks that may take chunk attention. token_attention (K, C, T), chunk_attention (K, C).
    classifier (K, D) and bias (K,): logit_k = sum_c o_kc sum_t a_kct (w_k . h_ct) + b_k.
    chunk_attention_of: chunk vectors (S, K, C, D) -> the model's own chunk attention on them, (S, K, C).
    """

    hidden: Tensor
    seen: Tensor
    kept: Tensor
    token_attention: Tensor
    chunk_attention: Tensor
    classifier: Tensor
    bias: Tensor
    chunk_attention_of: Callable[[Tensor], Tensor]


class Target(Protocol):
    """A label-attention coder: K codes, each with its logit and its attention over the tokens of a chunked note."""

    @property
    def codes(self) -> tuple[str, ...]:
        """The K codes, in the order of the logits."""
        ...

    @property
    def thresholds(self) -> NDArray[np.float64]:
        """(K,) probabilities from which a code is given."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        ...

    def restricted(self, columns: Sequence[int]) -> Target:
        """The same model, of these codes only, so that its head computes no other."""
        ...

    def encode(self, admission: Admission | str) -> EncodedDocument:
        """The admission (or a bare text) as this model's input."""
        ...

    def inputs(self, document: EncodedDocument) -> dict[str, Tensor]:
        """input_ids, attention_mask, token_type_ids, each (1, C, T), on the model's device."""
        ...

    def embeddings(self, input_ids: Tensor) -> Tensor:
        """Word embeddings (..., D) of token ids (...)."""
        ...

    def forward(self, inputs: Mapping[str, Tensor]) -> HeadOutput:
        """The differentiable pass: attention_mask, token_type_ids and either input_ids (B, C, T) or inputs_embeds."""
        ...

    def baseline_id(self, kind: Filler) -> int:
        """The id of the tokenizer's mask, padding or unknown token; HilatError where it has none."""
        ...

    def chunk_vectors(self, inputs: Mapping[str, Tensor], chunk: NDArray[np.int64]) -> Tensor:
        """Per-code vectors (N, K, D) of N chunks on their own, from (N, T) inputs; chunk (N,): their places."""
        ...

    def hidden_states(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """The encoder's last states (N, T', D) of N chunks, from (N, T) inputs; T' is T, or less where the rest is padding."""
        ...

    def vectors_of_states(self, hidden: Tensor, attention_mask: Tensor, chunk: NDArray[np.int64]) -> Tensor:
        """What `chunk_vectors` gives, from hidden states (N, T', D) and attention masks (N, T)."""
        ...

    def chunks_read(self, attention_mask: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which chunks (S, C) the model reads, from attention masks (S, C, T)."""
        ...

    def logits(self, vectors: Tensor, kept: Tensor) -> Tensor:
        """Logits (S, K) from chunk vectors (S, C, K, D) and the chunks that are read, (S, C)."""
        ...

    @property
    def term_width(self) -> int:
        """M: the numbers that `chunk_terms` keeps of a chunk for each code."""
        ...

    def chunk_terms(self, vectors: Tensor) -> Tensor:
        """All that `logits_of_terms` needs of chunk vectors (N, K, D), as few numbers as can be: (N, K, M)."""
        ...

    def logits_of_terms(self, terms: Tensor, kept: Tensor) -> Tensor:
        """What `logits` gives, (S, K), from the chunks' terms (S, C, K, M) and the chunks that are read, (S, C)."""
        ...

    def frozen(self, document: EncodedDocument, hidden: Tensor | None = None) -> FrozenStates:
        """The states of one forward pass, without gradients; HilatError for a model without chunk attention.

        hidden: the encoder's last states of the document, (C, T', D), where they are known already: no pass then.
        """
        ...

    def encoder_attentions(self, document: EncodedDocument) -> Tensor:
        """The encoder's own attention, mean over heads (L, C, 1, T, T); zeros in chunks that are not read."""
        ...

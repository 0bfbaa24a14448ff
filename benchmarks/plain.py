"""A HiLAT computed the plain way: chunk by chunk and code by code, every chunk encoded, transformers' own encoder.

A slow second version of `hilat.model`, written from the equations (Liu et al. 2022, section 3.3) and the published code's
order of work: what the benchmarks measure against, and what tests compare with. Nothing of ours computes in it; a
HilatModel only gives its weights.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModel

from hilat.model import HilatModel


class PlainHilat(nn.Module):
    """The function of a HilatModel, with copies of its weights under the same names.

    Padding takes attention where the model's config says so, as in the published code; else both softmaxes leave it out.
    """

    def __init__(self, model: HilatModel) -> None:
        super().__init__()
        self.config = model.config
        self.encoder = AutoModel.from_config(copy.deepcopy(model.config.encoder))
        self.encoder.load_state_dict(model.encoder.state_dict())
        self.token_attention = copy.deepcopy(model.token_attention)
        self.chunk_attention = copy.deepcopy(model.chunk_attention)
        self.classifier = copy.deepcopy(model.classifier)
        self.dropout = nn.Dropout(model.config.dropout)
        for own, theirs in zip(self.encoder.parameters(), model.encoder.parameters(), strict=True):
            own.requires_grad_(theirs.requires_grad)
        self.to(model.classifier.weight.device, model.classifier.weight.dtype).train(model.training)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """Logits (B, K) of chunks (B, C, T)."""
        seen = torch.ones_like(attention_mask) if self.config.attend_padding else attention_mask
        read = seen.sum(-1) > 2  # (B, C): more than the two special tokens
        read[:, 0] |= ~read.any(1)
        vectors = []
        for c in range(input_ids.shape[1]):
            extra: dict[str, Any] = {} if token_type_ids is None else {"token_type_ids": token_type_ids[:, c]}
            if self.encoder.config.model_type == "xlnet":
                extra["use_mems"] = False
            states = self.encoder(input_ids[:, c], attention_mask=attention_mask[:, c], **extra).last_hidden_state
            vectors.append(self._chunk_vectors(self.dropout(states), seen[:, c] > 0, c))  # (B, K, D)
        stacked = self.dropout(torch.stack(vectors, 1))  # (B, C, K, D)
        logits = []
        for k in range(stacked.shape[2]):
            document = self.dropout(self._document_vector(stacked[:, :, k], read, k))  # (B, D) or (B, C*D)
            logits.append(F.linear(document, self.classifier.weight[k : k + 1], self.classifier.bias[k : k + 1]))
        return torch.cat(logits, 1)

    def _chunk_vectors(self, hidden: Tensor, seen: Tensor, c: int) -> Tensor:
        """Equations 1 to 3 for chunk c: (B, K, D) from hidden (B, T, D) and seen (B, T)."""
        projection, labels = self.token_attention.projection, self.token_attention.labels
        if projection.dim() == 3:
            projection, labels = projection[c], labels[c]
        scores = F.linear(torch.tanh(F.linear(hidden, projection)), labels)  # (B, T, K)
        weights = torch.softmax(scores.masked_fill(~seen[..., None], -torch.inf), 1)
        return weights.transpose(1, 2) @ hidden

    def _document_vector(self, chunks: Tensor, read: Tensor, k: int) -> Tensor:
        """Equations 5 to 7 for code k, or the pooling in their place: (B, D) from chunks (B, C, D) and read (B, C)."""
        how = self.config.chunk_attention
        if how == "flat":
            return torch.where(read[..., None], chunks, 0.0).flatten(1)
        if how == "max":
            return torch.where(read[..., None], chunks, -torch.inf).amax(1)
        if how == "mean":
            return torch.where(read[..., None], chunks, 0.0).sum(1) / read.sum(1, keepdim=True)
        assert self.chunk_attention is not None
        projection, query = self.chunk_attention.projection, self.chunk_attention.query
        if projection.dim() == 3:
            projection, query = projection[k], query[k : k + 1]
        scores = F.linear(torch.tanh(F.linear(chunks, projection)), query)  # (B, C, 1)
        weights = torch.softmax(scores.masked_fill(~read[..., None], -torch.inf), 1)
        return (weights * chunks).sum(1)

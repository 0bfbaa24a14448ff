"""Label vectors from code titles instead of noise (ablation f of Liu et al. 2022, section 4.2.3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hilat.admissions import HilatError
from hilat.model import HilatModel


def title_vectors(
    model: HilatModel, tokenizer: PreTrainedTokenizerBase, titles: Sequence[str], *, batch_size: int = 64
) -> Tensor:
    """One vector per title, (K, D): the mean of the encoder's output over its tokens, special ones included.

    Raises:
        HilatError: for a title without text.
    """
    empty = [k for k, title in enumerate(titles) if not title.strip()]
    if empty or not titles:
        raise HilatError(
            f"{len(empty)} of {len(titles)} titles have no text (columns {', '.join(map(str, empty[:10]))}); "
            "label vectors need a title per code. Complete the code book, or start them at random"
        )
    device = model.classifier.weight.device
    ids = [tokenizer(title, truncation=True, max_length=model.config.tokens)["input_ids"] for title in titles]
    training = model.training
    model.train(False)
    try:
        with torch.no_grad():
            vectors = [
                _mean_states(model, ids[start : start + batch_size], device) for start in range(0, len(ids), batch_size)
            ]
    finally:
        model.train(training)
    return torch.cat(vectors)  # (K, D)


def _mean_states(model: HilatModel, ids: Sequence[list[int]], device: torch.device) -> Tensor:
    # Padded here and on the right: XLNet's tokenizer pads on the left, and its segment ids count from the end.
    longest = max(len(row) for row in ids)
    pad = model.config.encoder.pad_token_id or 0
    tokens = torch.tensor([row + [pad] * (longest - len(row)) for row in ids], device=device)  # (N, T)
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in ids], device=device)  # (N, T)
    hidden = model.encode_chunks({"input_ids": tokens, "attention_mask": mask})  # (N, T, D)
    weights = mask.to(hidden.dtype)
    return torch.einsum("ntd,nt->nd", hidden, weights) / weights.sum(1, keepdim=True)


def initialise_from_titles(model: HilatModel, tokenizer: PreTrainedTokenizerBase, titles: Sequence[str]) -> None:
    """Set the model's label vectors (U of equation 2) to the title vectors, one title per code in column order.

    With attention per chunk, every chunk starts from the same ones. Call it after the model is built: the published
    code did it before its random initialisation, which overwrote every row, so that this ablation never ran.

    Raises:
        HilatError: for another number of titles than codes, or a title without text.
    """
    if len(titles) != model.config.num_codes:
        raise HilatError(
            f"{len(titles)} titles for {model.config.num_codes} codes; expected one per code, in column order. "
            "Pass the titles of the model's code book"
        )
    vectors = title_vectors(model, tokenizer, titles)  # (K, D)
    labels = model.token_attention.labels  # (K, D) or (C, K, D)
    with torch.no_grad():
        labels.copy_(vectors.expand_as(labels))

"""Label vectors from the tokens that go with each code in the training notes, instead of noise.

Trained from nothing on a few hundred notes, some codes' attention never settles on their keyword, others for each seed.
Here every code's attention starts on the tokens whose presence tells most about the code (Dunning's log-likelihood
ratio over training notes), as the encoder sees them in their places. Training may move it anywhere from there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor
from torch.nn import functional as F

from hilat.admissions import HilatError
from hilat.encoding import EncodedDocument, collate
from hilat.model import HilatModel

_BATCH = 16  # documents that are encoded at a time


def association(documents: Sequence[EncodedDocument], targets: NDArray[np.float32], size: int) -> NDArray[np.float64]:
    """Signed log-likelihood ratio G2 (K, V), in nats, of "the note holds the token" and "the note has the code".

    documents: N. targets: (N, K) of 0 and 1. Negative where the token is rarer in notes with the code; 0 for tokens
    never seen. Source: Dunning 1993, section 4, with presence instead of counts.
    """
    held = [np.unique(document.input_ids[document.word_index >= 0]) for document in documents]
    rows = np.repeat(np.arange(len(held)), [len(ids) for ids in held])
    columns = np.concatenate(held) if held else np.zeros(0, dtype=np.int64)
    present = sparse.csr_matrix((np.ones(len(columns)), (rows, columns)), shape=(len(held), size))
    n = len(documents)
    with_token = np.asarray(present.sum(axis=0)).ravel()[None, :]  # (1, V)
    with_code = targets.sum(axis=0, dtype=np.float64)[:, None]  # (K, 1)
    both = np.asarray(present.T.dot(targets.astype(np.float64))).T  # (K, V)
    cells = (both, with_code - both, with_token - both, n - with_code - with_token + both)
    margins = (
        with_code * with_token,
        with_code * (n - with_token),
        (n - with_code) * with_token,
        (n - with_code) * (n - with_token),
    )
    g2 = np.zeros(both.shape)
    for cell, margin in zip(cells, margins, strict=True):
        inside = cell > 0
        g2[inside] += 2.0 * cell[inside] * np.log(cell[inside] * n / margin[inside])
    return np.where(both * n >= with_code * with_token, g2, -g2)


def initialise_from_associations(
    model: HilatModel,
    documents: Sequence[EncodedDocument],
    targets: NDArray[np.float32],
    *,
    tokens: int = 3,
    gap: float = 4.0,
    shift: float = 2.0,
) -> NDArray[np.int64]:
    """Start every code's attention and classifier on its most associated tokens, in place; returns them, (K, tokens).

    tokens: how many per code. gap: how much higher than the average token they score at the start (equation 2, before
    the softmax). shift: how much their mean state moves the code's logit, compared with the average state.
    A code with no positively associated token keeps its random start, and -1 in the result.

    Raises:
        HilatError: with attention per chunk or flat pooling, whose label vectors belong to one chunk each.
    """
    config = model.config
    if config.token_attention == "per_chunk" or config.chunk_attention == "flat":
        raise HilatError(
            "label_init associations needs label vectors shared by all chunks; the model has token_attention "
            f"{config.token_attention} and chunk_attention {config.chunk_attention}. Set label_init to random"
        )
    scores = association(documents, targets, config.encoder.vocab_size)  # (K, V)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :tokens]  # (K, n)
    found = np.take_along_axis(scores, best, axis=1) > 0
    states, projected, seen = _mean_states(model, documents)  # (V, D), (V, D), (V,)
    weights = seen / seen.sum()
    centre, centre_projected = weights @ states, weights @ projected  # (D,)
    with torch.no_grad():
        for k in np.flatnonzero(found.any(axis=1)):
            rows = torch.from_numpy(best[k][found[k]])
            mean = states[rows].mean(dim=0) - centre  # (D,)
            direction = projected[rows].mean(dim=0) - centre_projected
            labels, classifier = model.token_attention.labels, model.classifier.weight
            labels[k] = (gap * direction / direction.square().sum()).to(labels)
            classifier[k] = (shift * mean / mean.square().sum()).to(classifier)
    return np.where(found, best, -1)


def _mean_states(model: HilatModel, documents: Sequence[EncodedDocument]) -> tuple[Tensor, Tensor, Tensor]:
    """Per token id: the mean of its hidden states, of tanh(W h) (equation 1), both (V, D), and how often it stands."""
    size, width = model.config.encoder.vocab_size, model.config.encoder.hidden_size
    states, projected = torch.zeros(size, width), torch.zeros(size, width)
    counts = torch.zeros(size)
    device = model.classifier.weight.device
    training = model.training
    model.train(False)
    try:
        with torch.no_grad():
            for start in range(0, len(documents), _BATCH):
                part = documents[start : start + _BATCH]
                inside = torch.from_numpy(np.stack([document.word_index >= 0 for document in part]))  # (B, C, T)
                read = inside.any(dim=-1)  # (B, C)
                inputs = {name: values[read].to(device) for name, values in collate(part).items()}  # (N, T)
                hidden = model.encode_chunks(inputs)  # (N, T, D)
                words = inside[read].to(device)  # (N, T)
                ids, chosen = inputs["input_ids"][words].cpu(), hidden[words].float()  # (n,), (n, D)
                states.index_add_(0, ids, chosen.cpu())
                projected.index_add_(
                    0, ids, torch.tanh(F.linear(chosen, model.token_attention.projection.float())).cpu()
                )
                counts += torch.bincount(ids, minlength=size)
    finally:
        model.train(training)
    once = counts.clamp(min=1)[:, None]
    return states / once, projected / once, counts

"""Attention weighted by gradients: token scores (K, C, T) of methods that multiply the two."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from explain.target import FrozenStates
from hilat.admissions import HilatError

Scores = NDArray[np.float64]


def token_attention_gradients(states: FrozenStates) -> Scores:
    """d logit_k / d alpha_kct, (K, C, T) float64: by the token attention weights, encoder states frozen.

    The weights are taken as free numbers (no softmax). They make the chunk vectors, so their gradient runs through the
    chunk attention too. Positions that may not take attention have a gradient as well; their weight is 0.
    """
    hidden = states.hidden.detach().double()  # (C, T, D)
    weights = states.token_attention.detach().double()  # (K, C, T)
    vectors = torch.einsum("kct,ctd->kcd", weights, hidden).requires_grad_()
    with torch.enable_grad():
        chunks = states.chunk_attention_of(vectors[None])[0].double()  # (K, C)
        logits = torch.einsum("kc,kcd,kd->k", chunks, vectors, states.classifier.detach().double())
    # A code's logit depends on its own vectors only, so the gradient of the sum holds that of each.
    (slopes,) = torch.autograd.grad(logits.sum(), vectors)  # (K, C, D)
    return _array(torch.einsum("kcd,ctd->kct", slopes, hidden))


def global_attention_gradients(states: FrozenStates) -> Scores:
    """d logit_k / d g_kct = w_k . h_ct, (K, C, T) float64: by the global attention g = alpha * o (equation 10).

    With both attentions and the states frozen, logit_k = sum_ct g_kct (w_k . h_ct) + b_k, so that g times this sums to
    logit_k - b_k. It leaves out that other token weights would move the chunk attention.
    """
    return _array(torch.einsum("kd,ctd->kct", states.classifier.double(), states.hidden.double()))


def attention_x_gradient(attention: Scores, gradients: Scores) -> Scores:
    """Attention times its own gradient, (K, C, T), signed (Serrano and Smith 2019, section 4.2).

    Token attention with `token_attention_gradients`, or global attention with `global_attention_gradients`.

    Raises:
        HilatError: shapes that differ.
    """
    _check(attention, gradients, "gradients")
    return np.asarray(attention * gradients, dtype=np.float64)


def att_grad(attention: Scores, gradients: Scores) -> Scores:
    """AttGrad, (K, C, T), unsigned: attention times the absolute value of its own gradient.

    As in the released code of Edin et al. 2024, up to its division by the sum, which changes no order. (It is not the
    norm of the gradient at the embeddings that is taken there; for that product see `attention_x_norm`.)

    Raises:
        HilatError: shapes that differ.
    """
    return np.abs(attention_x_gradient(attention, gradients))


def attention_x_norm(attention: Scores, norm: Scores) -> Scores:
    """Attention times a size per token, (K, C, T), unsigned: such as the L2 norm of the gradient at the embedding.

    Raises:
        HilatError: shapes that differ, or a negative number in either.
    """
    _check(attention, norm, "sizes")
    if (attention < 0).any() or (norm < 0).any():
        raise HilatError(
            "attention or the sizes to weight it with hold negative numbers; expected 0 or more. Pass norms, not signed scores"
        )
    return np.asarray(attention * norm, dtype=np.float64)


def att_in_grad(attention: Scores, input_x_gradient_l2: Scores) -> Scores:
    """AttInGrad, (K, C, T), unsigned: global attention times the L2 norm of input x gradient (Edin et al. 2024).

    Raises:
        HilatError: shapes that differ, or a negative number in either.
    """
    return attention_x_norm(attention, input_x_gradient_l2)


def _check(attention: Scores, other: Scores, what: str) -> None:
    if attention.ndim != 3 or attention.shape != other.shape:
        raise HilatError(
            f"attention has shape {attention.shape} and the {what} {other.shape}; expected (codes, chunks, tokens) twice. "
            "Pick the rows of the same codes from both"
        )


def _array(values: torch.Tensor) -> Scores:
    return np.asarray(values.detach().cpu().numpy(), dtype=np.float64)

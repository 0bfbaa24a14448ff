"""Is attention explanation? What a code's probability does when its attention is changed and everything else is not.

All of it works on the frozen states of one forward pass (`FrozenStates`): no test needs the encoder again. The global
attention g = alpha * o of a code is a distribution over the tokens of the note, and logit = sum g (w . h) + b.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from explain.note_gradients import known
from explain.result import Value, defined, undefined
from explain.target import FrozenStates

Level = Literal["token", "chunk", "both"]
Chunks = Literal["recomputed", "frozen"]


@dataclass(frozen=True, slots=True, eq=False)
class Attentions:
    """What the tests change, float64. token (K, C, T), chunk (K, C), values (K, C, T): w_k . h_ct; bias (K,)."""

    states: FrozenStates
    hidden: Tensor
    token: Tensor
    chunk: Tensor
    values: Tensor
    bias: Tensor

    @property
    def everywhere(self) -> Tensor:
        """Global attention (K, C, T), equation 10."""
        return self.token * self.chunk[..., None]


def attentions_of(states: FrozenStates) -> Attentions:
    """The frozen states in float64, with what each token adds to each code's logit per unit of attention."""
    hidden, classifier = states.hidden.double(), states.classifier.double()
    values = torch.einsum("kd,ctd->kct", classifier, hidden)
    return Attentions(
        states, hidden, states.token_attention.double(), states.chunk_attention.double(), values, states.bias.double()
    )


def probabilities(at: Attentions, token: Tensor, chunk: Tensor | None = None) -> Tensor:
    """(K,) under another token attention (K, C, T); chunk (K, C), or None for the model's own on the new chunk vectors."""
    if chunk is None:
        vectors = torch.einsum("kct,ctd->kcd", token, at.hidden)
        dtype = at.states.hidden.dtype
        chunk = at.states.chunk_attention_of(vectors[None].to(dtype))[0].double().detach()
    return torch.sigmoid((token * chunk[..., None] * at.values).sum(dim=(1, 2)) + at.bias)


def permuted(weights: Tensor, mask: Tensor, generator: torch.Generator) -> Tensor:
    """The weights (..., n) shuffled over the positions of the mask (n,), or (..., n), independently for each row."""
    mask = mask.expand(weights.shape)
    here = torch.argsort((~mask).to(torch.int8), dim=-1, stable=True)  # the mask's positions first, in order
    draws = torch.rand(weights.shape, generator=generator, dtype=torch.float64).masked_fill(~mask, 2.0)
    drawn = torch.argsort(draws, dim=-1)  # the mask's positions first, at random
    return torch.zeros_like(weights).scatter(-1, here, torch.gather(weights, -1, drawn))


def permutation(
    at: Attentions, level: Level, *, trials: int = 100, seed: int = 0, chunks: Chunks = "recomputed"
) -> NDArray[np.float64]:
    """|change of the probability| (K, trials) under shuffled attention (Jain and Wallace 2019, section 4.2.1).

    level: token attention within each chunk, chunk attention over the chunks that are read, or both. chunks: whether
    the model's chunk attention answers to the new chunk vectors, as it would, or stays; it says nothing at "chunk".
    """
    known("level", level, get_args(Level))
    known("chunks", chunks, get_args(Chunks))
    generator = torch.Generator().manual_seed(seed)
    before = probabilities(at, at.token, at.chunk)
    changes = []
    for _ in range(trials):
        token = at.token if level == "chunk" else permuted(at.token, at.states.seen.cpu(), generator)
        if level == "token":
            chunk = at.chunk if chunks == "frozen" else None
        else:
            chunk = permuted(at.chunk, at.states.kept.cpu(), generator)
        changes.append((probabilities(at, token, chunk) - before).abs())
    return torch.stack(changes, dim=1).cpu().numpy()


def uniform(at: Attentions, level: Level, *, chunks: Chunks = "recomputed") -> NDArray[np.float64]:
    """|change of the probability| (K,) under even attention at that level."""
    known("level", level, get_args(Level))
    seen = at.states.seen.double()
    even = (seen / seen.sum(dim=1, keepdim=True).clamp(min=1)).expand_as(at.token)
    kept = at.states.kept.double()
    even_chunks = (kept / kept.sum().clamp(min=1)).expand_as(at.chunk)
    token = at.token if level == "chunk" else even
    chunk = even_chunks if level != "token" else at.chunk if chunks == "frozen" else None
    return (probabilities(at, token, chunk) - probabilities(at, at.token, at.chunk)).abs().cpu().numpy()


def without(at: Attentions, gone: Tensor) -> Tensor:
    """(K,) probabilities when the global attention of the tokens gone (K, C, T) is 0 and the rest is scaled to sum to 1
    (Serrano and Smith 2019, section 3). NaN where nothing is left."""
    left = at.everywhere.masked_fill(gone, 0.0)
    total = left.sum(dim=(1, 2), keepdim=True)
    logits = (left / total * at.values).sum(dim=(1, 2)) + at.bias
    return torch.sigmoid(logits)


def js_nats(p: Tensor, q: Tensor) -> Tensor:
    """Jensen-Shannon divergence of two yes-or-no outputs, nats."""

    def entropy(x: Tensor) -> Tensor:
        both: Tensor = torch.special.entr(x) + torch.special.entr(1 - x)
        return both

    return (entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2).clamp(min=0)


@dataclass(frozen=True, slots=True)
class ZeroOut:
    """One code: JS divergence, nats, without the most attended token and without another one drawn at random, their
    difference, and whether each flips the decision."""

    top_js_nats: Value
    random_js_nats: Value
    difference: Value
    top_flips: Value
    random_flips: Value


def zero_out(at: Attentions, thresholds: NDArray[np.float64], *, seed: int = 0) -> list[ZeroOut]:
    """The most attended token against a random other one, for each code (Serrano and Smith 2019, section 4.1)."""
    flat, (codes, chunks, tokens) = at.everywhere.flatten(1), at.token.shape
    places = torch.nonzero(at.states.seen.cpu().flatten()).flatten()
    nothing = undefined("fewer than two tokens")
    if len(places) < 2:
        return [ZeroOut(nothing, nothing, nothing, nothing, nothing)] * codes
    rng = np.random.default_rng(seed)
    top = flat.argmax(dim=1).cpu()
    others = [int(rng.choice(places[places != t].numpy())) for t in top]
    before = probabilities(at, at.token, at.chunk)
    cut = torch.as_tensor(thresholds, dtype=torch.float64)
    found = []
    for which in (top.tolist(), others):
        gone = torch.zeros(codes, chunks * tokens, dtype=torch.bool)
        gone[torch.arange(codes), torch.as_tensor(which)] = True
        after = without(at, gone.view(codes, chunks, tokens).to(flat.device))
        found.append((js_nats(before, after).cpu(), ((after.cpu() >= cut) != (before.cpu() >= cut)).double()))
    (top_js, top_flips), (random_js, random_flips) = found
    return [
        ZeroOut(
            _value(top_js[k]),
            _value(random_js[k]),
            _value(top_js[k] - random_js[k]),
            _value(top_flips[k]),
            _value(random_flips[k]),
        )
        for k in range(codes)
    ]


def _value(x: Tensor) -> Value:
    return defined(float(x)) if bool(torch.isfinite(x)) else undefined("all attention is on one token")


def share_until_flip(at: Attentions, ranking: NDArray[np.float64], thresholds: NDArray[np.float64]) -> list[Value]:
    """Smallest share of the tokens, highest of the ranking (K, C, T) first, whose attention must go for the decision to
    flip (Serrano and Smith 2019, section 4.2); undefined for codes that are not given or never flip."""
    seen = at.states.seen.cpu().flatten()
    places = torch.nonzero(seen).flatten()
    before = probabilities(at, at.token, at.chunk).cpu()
    flat, values = at.everywhere.flatten(1).cpu(), at.values.flatten(1).cpu()
    out = []
    for k in range(len(before)):
        if before[k] < thresholds[k]:
            out.append(undefined("the code is not given"))
            continue
        order = places[np.argsort(-ranking[k].reshape(-1)[places.numpy()], kind="stable")]
        left = flat[k, order].flip(0).cumsum(0).flip(0)[1:]  # attention left after 1, 2, ... tokens are gone
        weighted = (flat[k, order] * values[k, order]).flip(0).cumsum(0).flip(0)[1:]
        after = torch.sigmoid(weighted / left + at.bias[k].cpu())
        flipped = torch.nonzero((after < thresholds[k]) & (left > 0)).flatten()
        out.append(defined((int(flipped[0]) + 1) / len(places)) if len(flipped) else undefined("it never flips"))
    return out


@dataclass(frozen=True, slots=True)
class Adversary:
    """One code: the most different attention found that moves the probability by at most the bound.

    js_nats: its Jensen-Shannon divergence from the model's, at most log 2 = 0.69. change: of the probability."""

    js_nats: Value
    change: Value


def adversarial(
    at: Attentions, *, bound: float = 0.01, starts: int = 3, steps: int = 300, seed: int = 0
) -> list[Adversary]:
    """Attention as different as can be with the same output (Jain and Wallace 2019, section 4.2.2), states frozen.

    Adam on the logits of a distribution over the note's tokens, all codes at once, maximising the divergence minus a
    penalty on what the probability moves beyond the bound; the best of several starts that keeps the bound.
    """
    seen = at.states.seen.cpu().flatten()
    own, values = at.everywhere.flatten(1).cpu()[:, seen], at.values.flatten(1).cpu()[:, seen]
    bias, before = at.bias.cpu(), probabilities(at, at.token, at.chunk).cpu()
    codes = len(own)
    best, moved = torch.zeros(codes, dtype=torch.float64), torch.zeros(codes, dtype=torch.float64)
    if own.shape[1] < 2:
        return [Adversary(undefined("fewer than two tokens"), undefined("fewer than two tokens"))] * codes
    generator = torch.Generator().manual_seed(seed)
    for _ in range(starts):
        logits = torch.randn(own.shape, generator=generator, dtype=torch.float64).requires_grad_()
        optimiser = torch.optim.Adam([logits], lr=0.1)
        for _ in range(steps):
            with torch.enable_grad():
                attention = torch.softmax(logits, dim=1)
                change = (torch.sigmoid((attention * values).sum(1) + bias) - before).abs()
                divergence = _js_of_rows(attention, own)
                loss = (100.0 * torch.relu(change - 0.9 * bound) - divergence).sum()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            better = (change.detach() <= bound) & (divergence.detach() > best)
            best = torch.where(better, divergence.detach(), best)
            moved = torch.where(better, change.detach(), moved)
            optimiser.step()
    return [Adversary(defined(float(b)), defined(float(m))) for b, m in zip(best, moved, strict=True)]


def _js_of_rows(p: Tensor, q: Tensor) -> Tensor:
    """Jensen-Shannon divergence of distributions (K, n), nats."""
    entropy: Callable[[Tensor], Tensor] = lambda x: torch.special.entr(x).sum(dim=1)  # noqa: E731
    return entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2

"""Gradient attributions of 15 codes, next to captum called once per code: a part of `benchmarks.speed`.

    OMP_NUM_THREADS=1 python -m benchmarks.speed --only attribution [--quick]

The baseline is captum's InputXGradient, and IntegratedGradients with Gauss-Legendre points, at the word embeddings of
all ten chunks of 512 tokens, through transformers' own XLNet and a head without padding in its softmaxes (equations 1 to
8, all codes at once, which favours it). "by chunk": the encoder is called chunk by chunk, as in the published code; "in one
call": with all ten chunks, as `HilatModel` with `fast_encoder=False` did. Ours: `explain.gradients` on the fast XLNet. All
have the same weights (random; time does not depend on them) and are the same function, with padding masked, so that their
numbers must agree: "difference" is the largest between two scores, as a share of the largest score of that code. (The
published code lets padding take attention; with `attend_padding` ours encodes all chunks too.)

Notes of 1,370, 2,159, 3,076 and 4,825 kept tokens, 2,858 on average. A captum call knows one code, so that k codes cost k
of them: `calls` of them are timed, each another code, and their median times 15 is captum's time. Time is CPU time of the
process on one thread: ways take turns, medians. "forwards": in units of one forward pass of the same way without a graph.
"head only": `state_x_gradient` for all codes, another quantity, in forward passes of ours.
"""

from __future__ import annotations

import platform
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import captum.attr
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import XLNetModel

from explain.gradients import (
    GradientOptions,
    baseline_embeddings,
    input_x_gradient,
    integrated_gradients,
    state_x_gradient,
)
from explain.hilat_target import HilatTarget
from hilat.admissions import CodeBook
from hilat.cleaning import CleaningRules
from hilat.cli.console import say, table
from hilat.coder import Coder
from hilat.encoders import products
from hilat.encoding import SPECIAL_TOKENS, ChunkLayout, EncodedDocument, fill_chunks, special_frame
from hilat.model import build_model
from hilat.vocabulary import train_sentencepiece

CHUNKS, TOKENS, CODES = 10, 512, 15
LENGTHS = (1370, 2159, 3076, 4825)
LOOSE = GradientOptions(bound=np.inf)
Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Case:
    """One size of XLNet, one method and one note. steps: of integrated gradients. calls: of captum that are timed."""

    method: str
    width: int
    layers: int
    length: int
    calls: int
    steps: int = 4

    @property
    def name(self) -> str:
        """The case in words."""
        how = f", {self.steps} points" if self.method == "integrated gradients" else ""
        return f"{self.method}{how}, {self.layers} x {self.width}, {self.length:,} tokens"


CASES = (
    *(Case("input x gradient", 256, 4, length, 3) for length in LENGTHS),
    *(Case("input x gradient", 768, 2, length, 3) for length in LENGTHS[::2]),
    *(Case("integrated gradients", 256, 4, length, 2) for length in LENGTHS[::2]),
)
QUICK = (
    Case("input x gradient", 256, 4, LENGTHS[1], 1),
    Case("integrated gradients", 256, 4, LENGTHS[0], 1, 2),
)


def make_target(width: int, layers: int) -> HilatTarget:
    """An XLNet with heads of 64 under the shared head, random weights."""
    letters = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = train_sentencepiece([letters] * 20, Path(folder) / "tokenizer", vocab_size=60, seed=0)
    encoder = {"model_type": "xlnet", "vocab_size": len(tokenizer), "d_model": width, "n_layer": layers,
               "n_head": width // 64, "d_inner": 4 * width, "pad_token_id": int(tokenizer.pad_token_id or 0)}  # fmt: skip
    model = build_model(encoder, CODES, seed=0, chunks=CHUNKS, tokens=TOKENS, init_std=0.05)
    codes = tuple(f"{n:03d}.0" for n in range(CODES))
    book = CodeBook(codes, codes, ("diagnosis",) * CODES, "ICD-9")
    layout = ChunkLayout(CHUNKS, TOKENS)
    return HilatTarget(Coder(model, tokenizer, book, CleaningRules(), layout, np.full(CODES, 0.5), "fixed 0.5"))


def make_document(target: HilatTarget, length: int) -> EncodedDocument:
    """A note of so many random tokens, each a word, in chunks as `hilat.encoding` fills them."""
    tokenizer = target.coder.tokenizer
    drawn = np.random.default_rng(0).integers(10, len(tokenizer), size=length)
    room = TOKENS - 2
    pieces = [drawn[c * room : (c + 1) * room] for c in range(CHUNKS)]
    ids, mask, types = fill_chunks(pieces, TOKENS, special_frame(tokenizer))
    index = np.full(ids.shape, -1, dtype=np.int64)  # (C, T)
    for c, piece in enumerate(pieces):
        index[c, : len(piece)] = c * room + np.arange(len(piece))
    starts = 2 * np.arange(length)
    return EncodedDocument("note", ids, mask, types, index, np.stack([starts, starts + 1], 1), 0)


def plain(target: HilatTarget, document: EncodedDocument, at_once: int) -> Callable[[Tensor], Tensor]:
    """Embeddings (1, C, T, D) -> logits (1, K): all chunks, at_once a call, through transformers' XLNet; equations 1 to 8."""
    model = target.coder.model
    inputs = target.inputs(document)
    mask, types = inputs["attention_mask"][0], inputs["token_type_ids"][0]  # (C, T)
    keep = (mask.sum(-1) > SPECIAL_TOKENS)[None]  # (1, C)

    def vectors(embeds: Tensor, first: int) -> Tensor:
        rows = slice(first, first + at_once)
        given = {"attention_mask": mask[rows], "token_type_ids": types[rows]}
        states = XLNetModel.forward(model.encoder, inputs_embeds=embeds[0, rows], use_mems=False, **given)  # type: ignore[arg-type]
        counts = [int(first <= c < first + at_once) for c in range(CHUNKS)]
        found: Tensor = model.token_attention(states.last_hidden_state, mask[rows].bool(), counts)[0]
        return found  # (n, K, D)

    def run(embeds: Tensor) -> Tensor:
        with products.by("torch"):
            stacked = torch.cat([vectors(embeds, first) for first in range(0, CHUNKS, at_once)])  # (C, K, D)
            assert model.chunk_attention is not None
            documents = model.chunk_attention(stacked.transpose(0, 1)[None], keep)[0]  # (1, K, D)
            logits: Tensor = model.classifier(documents)
            return logits

    return run


@dataclass(frozen=True)
class Ways:
    """Functions of one case: captum's for one code, (C, T), by how it calls the encoder; ours for all, (K, C, T).

    forwards: a forward pass of each. states: the attribution at the head's input, for all codes.
    """

    captum: dict[str, Callable[[int], Scores]]
    ours: Callable[[], Scores]
    forwards: dict[str, Callable[[], Any]]
    states: Callable[[], Any]


def ways(case: Case) -> Ways:
    """The functions of a case."""
    target = make_target(case.width, case.layers)
    document = make_document(target, case.length)
    inputs = target.inputs(document)
    embeds = target.embeddings(inputs["input_ids"]).detach()  # (1, C, T, D)
    start = baseline_embeddings(target, document, "mask")[None]
    columns = range(CODES)
    runs = {"by chunk": plain(target, document, 1), "in one call": plain(target, document, CHUNKS)}

    def by_captum(run: Callable[[Tensor], Tensor], k: int) -> Scores:
        if case.method == "input x gradient":
            found = captum.attr.InputXGradient(run).attribute(embeds.clone().requires_grad_(), target=k)
        else:
            found = captum.attr.IntegratedGradients(run).attribute(
                embeds, start, k, n_steps=case.steps, method="gausslegendre", internal_batch_size=1
            )
        return np.asarray(found[0].sum(-1).detach().double())

    def ours() -> Scores:
        if case.method == "input x gradient":
            return input_x_gradient(target, document, columns).scores
        return integrated_gradients(target, document, columns, "mask", case.steps, LOOSE).scores

    forwards = {way: partial(run, embeds) for way, run in runs.items()} | {"ours": partial(target.forward, inputs)}
    return Ways(
        {way: partial(by_captum, run) for way, run in runs.items()},
        ours,
        {way: torch.no_grad()(step) for way, step in forwards.items()},
        lambda: state_x_gradient(target, document, columns),
    )


def seconds(step: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds of this process, and what the step gave."""
    before = time.process_time()
    found = step()
    return time.process_time() - before, found


def row_of(case: Case) -> dict[str, Any]:
    """What a case costs in all ways, and how far their numbers lie apart."""
    given = ways(case)
    taken: dict[str, list[float]] = defaultdict(list)
    apart = 0.0
    for step in (*given.forwards.values(), given.states):
        step()  # once without being counted
    for k in np.linspace(0, CODES - 1, case.calls).astype(int).tolist():
        for way, step in given.forwards.items():
            taken[f"{way} forward"].append(seconds(step)[0])
        spent, every = seconds(given.ours)
        taken["ours"].append(spent)
        for way, call in given.captum.items():
            spent, one = seconds(partial(call, k))
            taken[way].append(spent * CODES)
            apart = max(apart, float(np.abs(every[k] - one).max() / np.abs(one).max()))
        taken["states"].append(seconds(given.states)[0])
    row: dict[str, Any] = {"case": case.name, "calls": case.calls, "difference": apart}
    middle = {name: median(values) for name, values in taken.items()}
    for way in ("by chunk", "in one call", "ours", "states"):
        forward = middle[f"{'ours' if way == 'states' else way} forward"]
        row[way] = {
            "seconds": middle[way],
            "forwards": middle[way] / forward,
            "x ours": middle[way] / middle["ours"],
        }
    return row


def measure(quick: bool) -> list[dict[str, Any]]:
    """One row per case. quick: two short notes, the small encoder, one call each."""
    rows = []
    for case in QUICK if quick else CASES:
        say(case.name)
        rows.append(row_of(case))
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    """Print the rows as a table."""
    columns = ("method, encoder, note", "captum by chunk: x ours", "in one call: x ours", "ours, CPU s", "forwards of captum, ours", "head only", "difference")  # fmt: skip
    cells = [
        [
            r["case"],
            f"{r['by chunk']['x ours']:.2f}",
            f"{r['in one call']['x ours']:.2f}",
            f"{r['ours']['seconds']:.1f}",
            f"{r['by chunk']['forwards']:.1f}, {r['ours']['forwards']:.1f}",
            f"{r['states']['forwards']:.2f}",
            f"{r['difference']:.0e}",
        ]
        for r in rows
    ]
    table(f"Attributions of {CODES} codes, one thread, {platform.machine()}, torch {torch.__version__}", columns, cells)


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Time of captum, by chunk as published, against ours."""
    return [
        {
            "what": f"attributions of {CODES} codes, {row['case']}",
            "plain": f"{row['by chunk']['seconds']:.1f} s",
            "ours": f"{row['ours']['seconds']:.1f} s",
            "ratio": row["by chunk"]["x ours"],
            "target": "5",
        }
        for row in rows
    ]

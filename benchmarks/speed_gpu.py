"""What training and explaining cost on an NVIDIA GPU: a part of `benchmarks.speed`, where there is one.

    python -m benchmarks.speed_gpu [--quick] [--only NAME] [--out gpu.json]

Base-sized encoders (12 layers x 768, 12 heads, chunks of 512, vocabulary 32,000), random weights, weights in float32 and
products in bfloat16 (autocast), dropout 0.1 in training, fused AdamW. XLNet is given HiLAT's token types (0, and 2 for
<cls>). "full": 16 documents of ten full chunks. "realistic": 16 documents of 1,370 to 4,825 tokens, 2,858 on average.

Milliseconds: medians of the wall time of a step between two waits for the GPU, after three steps that do not count. Tokens
are those of documents, special ones included, padding not. TFLOP/s counts what a BERT of that size needs for the tokens
that were asked for (per token and layer 24 D^2 + 4 T D forward, three times that in training), and the head's products
with the codes; XLNet's relative scores and what is computed twice are not counted. The share is of the matrix peak: what
torch reaches here in a product of two 8192 x 8192 bfloat16 matrices, and the peak that NVIDIA states for an H100 SXM, 989.
Peak GB: of torch's allocator, 10^9 bytes.

Explaining: one note at a time, float32 (TF32 off), 15 codes.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import BertConfig, BertModel, XLNetConfig, XLNetModel

from benchmarks.speed_attribution import LENGTHS, make_document, make_target
from explain.gradients import input_x_gradient, state_x_gradient
from hilat.cli.console import quiet_libraries, say, table
from hilat.encoders.xlnet import FastXLNetModel
from hilat.files import write_json
from hilat.model import build_model

LAYERS, WIDTH, HEADS, TOKENS, CHUNKS, DOCUMENTS, VOCABULARY = 12, 768, 12, 512, 10, 16, 32_000
STATED_PEAK = 989e12
PAPER_STEPS, PAPER_HOURS = 2500, 8.7  # of 16 documents, on eight TPU v3 cores (Liu et al. 2022, Table 2: 8.68)


@dataclass(frozen=True)
class Case:
    """way: the encoder and how it runs. chunks: of an encoder alone. codes: of a whole HiLAT, 0 for an encoder alone."""

    way: str
    chunks: int = CHUNKS * DOCUMENTS
    codes: int = 0
    full: bool = True
    code_block: int | None = None
    runs: int = 7

    @property
    def name(self) -> str:
        """The case in words."""
        if not self.codes:
            return f"{self.way}, {self.chunks} chunks"
        block = "" if self.code_block is None else f", blocks of {self.code_block}"
        return f"HiLAT on {self.way}, {self.codes:,} codes, {'full' if self.full else 'realistic'}{block}"


ENCODERS = (Case("bert"), Case("xlnet fast"), Case("xlnet bias", 40), Case("xlnet transformers", 40))
MODELS = (
    Case("bert", codes=50),
    Case("xlnet fast", codes=50),
    Case("bert", codes=50, full=False),
    Case("xlnet fast", codes=50, full=False),
    Case("bert", codes=8929),
    Case("xlnet fast", codes=8929),
    Case("xlnet fast", codes=8929, full=False),
)


def encoder_config(way: str) -> XLNetConfig | BertConfig:
    """A base-sized BERT or XLNet."""
    if way == "bert":
        return BertConfig(vocab_size=VOCABULARY)
    return XLNetConfig(
        vocab_size=VOCABULARY, d_model=WIDTH, n_layer=LAYERS, n_head=HEADS, d_inner=4 * WIDTH, dropout=0.1
    )


def make(case: Case) -> nn.Module:
    """The model, on the GPU, in training mode."""
    torch.manual_seed(0)
    config = encoder_config(case.way)
    if case.codes:
        model: nn.Module = build_model(config, case.codes, seed=0, code_block=case.code_block)
    elif case.way == "bert":
        model = BertModel(config, add_pooling_layer=False)
    else:
        model = (XLNetModel if case.way == "xlnet transformers" else FastXLNetModel)(config)
        if case.way == "xlnet bias":
            model.path = "bias"  # type: ignore[assignment]
    return model.cuda().train()


def inputs(case: Case) -> dict[str, Any]:
    """Random ids with mask and token types, of chunks (N, T) or documents (B, C, T), on the GPU."""
    if not case.codes:
        room = torch.full((case.chunks,), TOKENS)
    elif case.full:
        room = torch.full((DOCUMENTS, CHUNKS), TOKENS)
    else:
        each = [min(TOKENS, max(2, n - c * TOKENS)) for n in 4 * LENGTHS for c in range(CHUNKS)]
        room = torch.tensor(each).view(DOCUMENTS, CHUNKS)
    place = torch.arange(TOKENS)
    mask = (place < room[..., None]).long()
    ids = torch.randint(10, VOCABULARY, mask.shape, generator=torch.Generator().manual_seed(0)) * mask
    types = 2 * (place == room[..., None] - 1).long() + 3 * (place >= room[..., None]).long()
    given: dict[str, Any] = {"input_ids": ids.cuda(), "attention_mask": mask.cuda()}
    if case.way != "bert":
        given["token_type_ids"] = types.cuda()
    if case.codes:
        labels = torch.rand((DOCUMENTS, case.codes), generator=torch.Generator().manual_seed(1)) < 0.002
        return given | {"labels": labels.float().cuda()}
    return given | ({} if case.way == "bert" else {"use_mems": False})


def step_of(case: Case, given: dict[str, Any]) -> tuple[Callable[[], None], Callable[[], None]]:
    """A training step, and a forward pass in evaluation mode."""
    model = make(case)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

    def forward() -> Tensor:
        with torch.autocast("cuda", torch.bfloat16):
            output = model(**given)
            found: Tensor = output.loss if case.codes else output.last_hidden_state.float().square().mean()
        return found

    def train() -> None:
        model.train()
        forward().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        optimiser.zero_grad()

    def infer() -> None:
        model.eval()
        with torch.no_grad():
            forward()

    return train, infer


def seconds(step: Callable[[], None], runs: int) -> float:
    """The median wall time of a step; the first three do not count."""
    taken = []
    for i in range(runs + 3):
        torch.cuda.synchronize()
        start = time.perf_counter()
        step()
        torch.cuda.synchronize()
        if i >= 3:
            taken.append(time.perf_counter() - start)
    return median(taken)


def operations(case: Case, given: dict[str, Any]) -> float:
    """Of one forward pass over the tokens that are not padding, as the module's first lines say."""
    mask = given["attention_mask"]
    tokens = int(mask.sum()) if case.codes else mask.numel()
    encoder = LAYERS * tokens * (24 * WIDTH**2 + 4 * TOKENS * WIDTH)
    # Label-wise head: scores and vectors, 4 D per token and code; tanh(W h) per token, keys per chunk and code, 2 D^2.
    chunks = int((mask.sum(-1) > 2).sum())
    head = 4 * tokens * case.codes * WIDTH + 2 * WIDTH**2 * (tokens + chunks * case.codes) if case.codes else 0
    return float(encoder + head)


def peak() -> float:
    """Operations a second that a product of two 8192 x 8192 bfloat16 matrices reaches here."""
    left, right = torch.randn((2, 8192, 8192), device="cuda", dtype=torch.bfloat16).unbind(0)

    def ten() -> None:
        for _ in range(10):
            torch.mm(left, right)

    return 10 * 2 * 8192**3 / seconds(ten, 5)


def measure_steps(cases: tuple[Case, ...]) -> list[dict[str, Any]]:
    """One row per case; a case that does not fit in the GPU's memory is a row without numbers."""
    here = peak()
    rows = []
    for case in cases:
        say(case.name)
        row: dict[str, Any] = {"case": case.name, "measured_peak": here, "train_ms": None}
        try:
            given = inputs(case)
            train, infer = step_of(case, given)
            torch.cuda.reset_peak_memory_stats()
            taken = seconds(train, case.runs)
            row["peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
            tokens = int(given["attention_mask"].sum()) if case.codes else case.chunks * TOKENS
            count = operations(case, given)
            row |= {"train_ms": 1e3 * taken, "tokens_per_second": tokens / taken, "train_flops": 3 * count / taken}
            row |= {"infer_ms": 1e3 * seconds(infer, case.runs), "chunks": case.chunks}
            del train, infer, given
        except torch.cuda.OutOfMemoryError:
            row["problem"] = "out of memory"
        gc.collect()
        torch.cuda.empty_cache()
        rows.append(row)
    return rows


def measure_explaining(runs: int) -> list[dict[str, Any]]:
    """Milliseconds a note, by method, for notes of realistic length."""
    target = make_target(WIDTH, LAYERS)
    target.coder.model.cuda()
    columns = list(range(len(target.codes)))
    rows = []
    for name in ("attention", "state_x_gradient", "input_x_gradient"):
        say(f"explaining by {name}")
        taken = []
        for length in LENGTHS:
            document = make_document(target, length)
            ways = {
                "attention": partial(target.frozen, document),
                "state_x_gradient": partial(state_x_gradient, target, document, columns),
                "input_x_gradient": partial(input_x_gradient, target, document, columns),
            }
            taken.append(seconds(ways[name], runs))
        rows.append({"method": name, "ms": 1e3 * sum(taken) / len(taken), "codes": len(columns)})
    return rows


def measure(quick: bool, only: str = "") -> list[dict[str, Any]]:
    """Rows of steps, then of explaining; none without an NVIDIA GPU."""
    if not torch.cuda.is_available():
        say("no NVIDIA GPU here: its part is left out")
        return []
    cases = tuple(case for case in (*ENCODERS, *MODELS) if only in case.name)
    if quick:
        cases = tuple(replace(case, runs=2) for case in cases)
    return [*measure_steps(cases), *measure_explaining(2 if quick else 5)]


def show(rows: list[dict[str, Any]]) -> None:
    """Print both tables, and the paper's run at the speed that was measured."""
    steps = [row for row in rows if "case" in row]
    if not steps:
        return
    columns = ("step", "training ms", "tokens / s", "TFLOP/s", "of product", "of stated", "inference ms", "peak GB")
    cells = []
    for row in steps:
        if row["train_ms"] is None:
            cells.append([row["case"], row["problem"], *("–" for _ in columns[2:])])
            continue
        speed = row["train_flops"]
        cells.append(
            [row["case"], f"{row['train_ms']:.1f}", f"{row['tokens_per_second']:,.0f}", f"{speed / 1e12:.0f}",
             f"{100 * speed / row['measured_peak']:.0f} %", f"{100 * speed / STATED_PEAK:.0f} %",
             f"{row['infer_ms']:.1f}", f"{row['peak_gb']:.1f}"]
        )  # fmt: skip
    name = f"{torch.cuda.get_device_name()}, torch {torch.__version__}, transformers {transformers.__version__}"
    table(f"{name}; product of matrices {steps[0]['measured_peak'] / 1e12:.0f} TFLOP/s", columns, cells)
    explaining = [[row["method"], f"{row['ms']:.0f}"] for row in rows if "method" in row]
    table("Explaining 15 codes of a note, 2,858 tokens on average", ("method", "ms a note"), explaining)
    for row in steps:
        if row["train_ms"] is not None and " 50 codes" in row["case"]:
            minutes = PAPER_STEPS * row["train_ms"] / 6e4
            say(
                f"{row['case']}: the paper's {PAPER_STEPS:,} steps take {minutes:.1f} minutes ({PAPER_HOURS} hours there)"
            )


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """XLNet next to BERT, and ours next to transformers', a step of 160 chunks each."""
    each = {
        row["case"]: 160 / row["chunks"] * row["train_ms"]
        for row in rows
        if row.get("train_ms") and "codes" not in row["case"]
    }
    ours = each.get("xlnet fast, 160 chunks")
    others = {"bert, 160 chunks": ("GPU: XLNet's training step through BERT's", "0.77"),
              "xlnet transformers, 40 chunks": ("GPU: XLNet's training step, transformers' through ours", "–")}  # fmt: skip
    return [
        {
            "what": what,
            "plain": f"{each[name]:.0f} ms",
            "ours": f"{ours:.0f} ms",
            "ratio": each[name] / ours,
            "target": target,
        }
        for name, (what, target) in others.items()
        if ours is not None and name in each
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed_gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="2 runs of each case")
    parser.add_argument("--only", default="", help="cases with this in their name, such as '50 codes'")
    parser.add_argument("--out", type=Path, help="write the rows there as JSON too")
    asked = parser.parse_args()
    quiet_libraries()
    rows = measure(asked.quick, asked.only)
    show(rows)
    if asked.out is not None:
        write_json(asked.out, {"gpu": rows})


if __name__ == "__main__":
    main()

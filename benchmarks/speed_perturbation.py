"""What explanations by changed notes cost: a note of 12 chunks of 512 tokens, 15 codes, XLNet (4 layers of width 256).

    OMP_NUM_THREADS=1 python -m benchmarks.speed_perturbation [--quick] [--out perturbation.json]

"plain" is the way of published tools: every code is explained on its own, and every sample is a forward pass of the whole
note through transformers' XLNet. Its passes are counted, and its seconds extrapolated from a few such forwards. LIME and
KernelSHAP take 9,000 samples per code there and here: 15 codes x 2 methods x 9,000 samples are 270,000 notes. "ours" is
`NoteFunction`: passes are counted while it runs, in one process for all methods, which share what they encode.

Ours is timed to the end. With --quick, passes are counted on a small encoder of the same chunks, and the seconds of the
big one extrapolated from one batch of chunks; everything beside the encoder is still timed. Seconds are CPU time of one
thread. Weights are random. First, both ways answer the same changed notes: the largest difference of a logit.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.measuring import cpu_medians
from explain.curves import Curves, removal_counts, removal_curves
from explain.hilat_target import HilatTarget
from explain.occlusion import SetFunction, occlusion
from explain.perturbation import NoteFunction
from explain.sampling import Pool
from explain.surrogates import kernel_shap, lime, neighbour_groups
from hilat.admissions import CodeBook
from hilat.cleaning import CleaningRules
from hilat.cli.console import quiet_libraries, say, table
from hilat.coder import Coder, forward
from hilat.corpora.planted import PlantedSettings, make_planted
from hilat.encoders import products
from hilat.encoding import ChunkLayout, EncodedDocument
from hilat.files import write_json
from hilat.model import build_model
from hilat.vocabulary import train_sentencepiece

CHUNKS, TOKENS, CODES, SAMPLES, GROUPS, POOL, STEPS = 12, 512, 15, 9000, 200, 200, 20
Rows = list[dict[str, Any]]


class Timed(HilatTarget):
    """Counts the CPU seconds that go into chunks."""

    spent = 0.0

    def chunk_vectors(self, inputs: Mapping[str, Tensor], chunk: NDArray[np.int64]) -> Tensor:
        """Those of HilatTarget."""
        start = time.process_time()
        vectors = super().chunk_vectors(inputs, chunk)
        self.spent += time.process_time() - start
        return vectors


def make_coders(quick: bool) -> tuple[Coder, Coder, Coder, EncodedDocument]:
    """Ours, the same weights in transformers' XLNet, one to count passes on (ours, unless quick), and the note."""
    corpus = make_planted(PlantedSettings(train=40, val=0, test=0))
    text = " ".join(admission.text for admission in corpus.admissions)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = train_sentencepiece([text.lower()], Path(folder) / "t", vocab_size=400, seed=0)
    codes = tuple(f"{n:03d}.0" for n in range(CODES))
    book = CodeBook(codes, codes, ("diagnosis",) * CODES, "ICD-9")

    def make(width: int, layers: int, fast: bool) -> Coder:
        encoder = {"model_type": "xlnet", "vocab_size": len(tokenizer), "d_model": width, "n_layer": layers,
                   "n_head": max(1, width // 64), "d_inner": 4 * width, "pad_token_id": int(tokenizer.pad_token_id or 0)}  # fmt: skip
        model = build_model(encoder, CODES, seed=0, chunks=CHUNKS, tokens=TOKENS, fast_encoder=fast).eval()
        layout = ChunkLayout(CHUNKS, TOKENS)
        return Coder(model, tokenizer, book, CleaningRules(), layout, np.full(CODES, 0.5), "fixed 0.5")

    ours, plain = make(256, 4, fast=True), make(256, 4, fast=False)
    plain.model.load_state_dict(ours.model.state_dict())
    return ours, plain, make(16, 1, fast=True) if quick else ours, ours.encode(text)


def changed(coder: Coder, document: EncodedDocument, keep: np.ndarray) -> EncodedDocument:
    """The note with a mask token for every token of the words that are not kept (W,)."""
    gone = (document.word_index >= 0) & ~keep[np.maximum(document.word_index, 0)]
    return replace(document, input_ids=np.where(gone, coder.tokenizer.mask_token_id, document.input_ids))


def methods(document: EncodedDocument) -> dict[str, tuple[int, Callable[[SetFunction], Any]]]:
    """What is run: by name, the notes that it takes per code, and the call."""
    seen = np.isin(np.arange(len(document.word_spans)), document.word_index)
    words = np.flatnonzero(seen)
    groups = neighbour_groups(words, len(seen), GROUPS)
    pool = Pool(POOL, [np.unique(row[row >= 0]) for row in document.word_index])
    counts = removal_counts(len(words), STEPS)
    scores = np.random.default_rng(0).random((CODES, len(seen)))  # a ranking per code that has nothing in common
    each = np.where(seen, np.arange(len(seen)), -1)

    def curves(value: SetFunction, counts: NDArray[np.int64]) -> Curves:
        return removal_curves(value, scores, np.arange(CODES), words, np.arange(len(seen)), counts, random_orders=0)

    return {
        "occlusion, each word": (len(words) + 1, lambda value: occlusion(value, each)),
        "LIME": (SAMPLES, lambda value: lime(value, groups, SAMPLES, 0, pool=pool)),
        "KernelSHAP": (SAMPLES, lambda value: kernel_shap(value, groups, SAMPLES, 0, pool=pool)),
        "curves, first 100 words": (2 * 101, lambda value: curves(value, np.arange(101))),
        "curves, 20 steps": (2 * len(counts), lambda value: curves(value, counts)),
    }


def measure(quick: bool) -> Rows:
    """One row per method, both ways in chunk passes and CPU seconds."""
    ours, plain, counted, document = make_coders(quick)
    keep = np.random.default_rng(0).random((2, len(document.word_spans))) < 0.5
    slow = np.stack([forward(plain.model, [changed(plain, document, row)]).logits[0].numpy() for row in keep])
    apart = float(np.abs(NoteFunction(HilatTarget(ours), document)(keep) - slow).max())
    say(f"two changed notes, both ways: logits up to {np.abs(slow).max():.3f}, at most {apart:.1e} apart")
    batch = {name: values[0, :8] for name, values in HilatTarget(ours).inputs(document).items()}

    def encode() -> None:
        with torch.no_grad():
            HilatTarget(ours).chunk_vectors(batch, np.arange(8))

    def slowly() -> None:
        with products.by("torch"):
            forward(plain.model, [document])

    taken = cpu_medians({"plain": slowly, "ours": encode}, 2 if quick else 5)
    chunk = {"plain": taken["plain"] / CHUNKS, "ours": taken["ours"] / 8}
    say(", ".join(f"{name}: {1e3 * seconds:.1f} ms a chunk" for name, seconds in chunk.items()))
    target = Timed(counted)
    value = NoteFunction(target, document)
    rows: Rows = []
    for name, (notes, run) in methods(document).items():
        say(name)
        passes, spent, start = value.passes, target.spent, time.process_time()
        run(value)
        passes, seconds = value.passes - passes, time.process_time() - start
        beside = seconds - (target.spent - spent)
        rows.append({
            "method": name, "notes": CODES * notes, "plain_passes": CODES * notes * CHUNKS, "passes": passes,
            "plain_seconds": CODES * notes * CHUNKS * chunk["plain"],
            "seconds": passes * chunk["ours"] + beside if quick else seconds,
            "beside_encoder": beside, "extrapolated": quick, "apart": apart,
            "tokens": int(document.attention_mask.sum()),
        })  # fmt: skip
    return rows


def summary(rows: Rows) -> Rows:
    """LIME and KernelSHAP together, as lines of the table of all speeds."""
    both = [row for row in rows if row["method"] in ("LIME", "KernelSHAP")]
    plain, ours = (sum(row[name] for row in both) for name in ("plain_passes", "passes"))
    slow, fast = (sum(row[name] for row in both) for name in ("plain_seconds", "seconds"))
    what = f"LIME and KernelSHAP, {CODES} codes, {SAMPLES} samples each"
    return [
        {"what": f"{what}: chunk passes", "plain": f"{plain:,}", "ours": f"{ours:,}", "ratio": plain / ours, "target": 100},
        {"what": f"{what}: CPU time", "plain": f"{slow:,.0f} s (extrapolated)", "ours": f"{fast:,.0f} s", "ratio": slow / fast},
    ]  # fmt: skip


def show(rows: Rows) -> None:
    """Print the rows as a table."""
    columns = (
        "method",
        "notes",
        "passes, plain",
        "ours",
        "x fewer",
        "CPU s, plain*",
        "ours",
        "x faster",
        "beside encoder, s",
    )
    cells = [
        [row["method"], f"{row['notes']:,}", f"{row['plain_passes']:,}", f"{row['passes']:,}",
         f"{row['plain_passes'] / row['passes']:.1f}", f"{row['plain_seconds']:,.0f}",
         f"{row['seconds']:,.0f}" + ("*" if row["extrapolated"] else ""),
         f"{row['plain_seconds'] / row['seconds']:.1f}", f"{row['beside_encoder']:.1f}"]
        for row in rows
    ]  # fmt: skip
    table(f"A note of {rows[0]['tokens']} tokens, {CODES} codes; * extrapolated", columns, cells, left=1)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed_perturbation", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--quick", action="store_true", help="count on a small encoder, extrapolate ours too")
    parser.add_argument("--out", type=Path, help="write the rows there as JSON too")
    asked = parser.parse_args()
    quiet_libraries()
    torch.set_num_threads(1)
    rows = measure(asked.quick)
    show(rows)
    if asked.out is not None:
        write_json(asked.out, {"perturbation": rows})


if __name__ == "__main__":
    main()

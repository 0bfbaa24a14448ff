"""How much memory and how many encoder passes an explanation takes: one note of 5,120 tokens, 50 codes, XLNet-base's size.

    python -m benchmarks.explain_limits --methods attention,saliency

Each method runs in a process of its own, on a model with random weights; printed are seconds, chunks encoded and the peak of
the process's resident memory, the model included.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import time
from typing import Any

import numpy as np
import torch

from explain.hilat_target import HilatTarget
from explain.methods import METHODS
from explain.subject import MethodOptions, Subject
from hilat.admissions import CodeBook
from hilat.cleaning import CleaningRules
from hilat.cli.console import quiet_libraries, table
from hilat.coder import Coder
from hilat.corpora.planted import PlantedSettings, make_planted
from hilat.encoding import ChunkLayout
from hilat.model import build_model
from hilat.vocabulary import train_sentencepiece


def _measure(method: str, given: dict[str, Any], answer: Any) -> None:
    import tempfile
    from pathlib import Path

    quiet_libraries()
    torch.set_num_threads(given["threads"])
    corpus = make_planted(PlantedSettings(train=40, val=0, test=0))
    words = " ".join(admission.text for admission in corpus.admissions)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = train_sentencepiece([words.lower()], Path(folder) / "t", vocab_size=400, seed=0)
    encoder = {"model_type": "xlnet", "vocab_size": len(tokenizer), "d_model": given["width"], "n_layer": given["layers"],
               "n_head": given["width"] // 64, "d_inner": 4 * given["width"], "pad_token_id": int(tokenizer.pad_token_id or 0)}  # fmt: skip
    codes = tuple(f"{n:03d}.0" for n in range(given["codes"]))
    model = build_model(encoder, len(codes), seed=0, chunks=10, tokens=512)
    book = CodeBook(codes, codes, ("diagnosis",) * len(codes), "ICD-9")
    coder = Coder(model.eval(), tokenizer, book, CleaningRules(), ChunkLayout(10, 512), np.full(len(codes), 0.5), "0.5")
    document = coder.encode(words)
    options = MethodOptions(steps=given["steps"], samples=given["samples"], bound=1e9, sampled_bound=1e9)
    subject = Subject(HilatTarget(coder), document, words, list(range(len(codes))), options)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun = time.perf_counter()
    scores = METHODS[method].scores(subject)
    seconds = time.perf_counter() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    answer.send({"method": method, "tokens": int(document.attention_mask.sum()), "seconds": seconds, "passes": scores.passes, "peak_mb": peak / 1024, "before_mb": before / 1024})  # fmt: skip


def main() -> None:
    """Measure every method in its own process and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--methods", default="attention,attention_x_gradient,attention_rollout,occlusion_sentence,saliency"
    )
    parser.add_argument("--codes", type=int, default=50)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    given = vars(parser.parse_args())
    rows = []
    context = multiprocessing.get_context("spawn")
    for method in str(given["methods"]).split(","):
        here, there = context.Pipe()
        process = context.Process(target=_measure, args=(method, given, there))
        process.start()
        there.close()
        try:
            found = here.recv()
        except EOFError:
            found = {"method": method, "error": "the process died"}
        process.join()
        print(json.dumps(found), flush=True)
        rows.append(found)
    table(
        f"One note of {rows[0].get('tokens')} tokens, {given['codes']} codes, {given['layers']} layers of width {given['width']}",
        ("method", "seconds", "chunks encoded", "peak memory, MB"),
        [
            (r["method"], f"{r['seconds']:.1f}", str(r["passes"]), f"{r['peak_mb']:.0f}") if "seconds" in r else (r["method"], "–", "–", "–")
            for r in rows
        ],
    )  # fmt: skip


if __name__ == "__main__":
    main()

"""How near LIME and KernelSHAP come for what they cost: samples of their own against samples from a pool of masks.

    hilat demo --out demo; OMP_NUM_THREADS=1 python -m benchmarks.pool_accuracy --model demo/run/model --corpus demo/corpus

On the longest test notes, every word on its own, for the five likeliest codes of each: the distance from the scores of a
reference run with many independent samples, as a share of the length of the reference (Euclidean over words, mean over
notes and codes), the share of the reference's ten best words among the ten best, and the chunks encoded.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from explain.hilat_target import HilatTarget
from explain.perturbation import NoteFunction
from explain.sampling import Pool
from explain.surrogates import kernel_shap, lime
from hilat.cli.console import quiet_libraries, say, table
from hilat.coder import load_coder
from hilat.corpora import read_corpus

METHODS = {"LIME": lime, "KernelSHAP": kernel_shap}
OWN = (64, 200, 400, 1000)  # samples
POOLS = (64, 200, 400)  # masks per chunk
BEST = 10


def compare(found: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
    """Distance and share of the best words, of scores (k, W), mean over codes."""
    distance = np.linalg.norm(found - reference, axis=1) / np.linalg.norm(reference, axis=1)
    best = [np.isin(np.argsort(-a)[:BEST], np.argsort(-b)[:BEST]).mean() for a, b in zip(found, reference, strict=True)]
    return float(distance.mean()), float(np.mean(best))


def measure(model: Path, corpus: Path, notes: int, samples: int, reference: int) -> list[dict[str, Any]]:
    """One row per method and design, means over notes."""
    coder = load_coder(model, "cpu")
    test = read_corpus(corpus, splits=["test"]).split("test")
    documents = [coder.encode(admission) for admission in test]
    documents.sort(key=lambda document: -int(document.attention_mask.sum()))
    whole = HilatTarget(coder)
    found: dict[tuple[str, str, int], list[tuple[float, float, int]]] = {}
    for n, document in enumerate(documents[:notes]):
        logits = NoteFunction(whole, document)(np.ones((1, len(document.word_spans)), dtype=bool))[0]
        target = whole.restricted(np.argsort(-logits)[:5].tolist())
        seen = np.isin(np.arange(len(document.word_spans)), document.word_index)
        groups = np.where(seen, np.cumsum(seen) - 1, -1)
        say(f"note {n}: {int(seen.sum())} words in {document.filled_chunks} chunks")
        for name, method in METHODS.items():
            near = method(NoteFunction(target, document), groups, reference, 99).scores[:, seen]
            for design, sizes in (("own", OWN), ("pool", POOLS)):
                for size in sizes:
                    value = NoteFunction(target, document)
                    pool = Pool(size, value.words_of_chunks) if design == "pool" else None
                    scores = method(value, groups, size if pool is None else samples, n, pool=pool).scores[:, seen]
                    found.setdefault((name, design, size), []).append((*compare(scores, near), value.passes))
    return [
        {"method": name, "design": design, "size": size, "error": error, "best": best, "passes": passes}
        for (name, design, size), values in found.items()
        for error, best, passes in [np.mean(values, axis=0).tolist()]
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pool_accuracy", description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--notes", type=int, default=6)
    parser.add_argument("--samples", type=int, default=4000, help="put together from a pool")
    parser.add_argument("--reference", type=int, default=20_000, help="independent samples of the reference")
    asked = parser.parse_args()
    quiet_libraries()
    torch.set_num_threads(1)
    rows = measure(asked.model, asked.corpus, asked.notes, asked.samples, asked.reference)
    table(
        f"{asked.notes} notes; reference: {asked.reference:,} independent samples; pooled: {asked.samples:,} samples",
        ("method", "samples", "chunks encoded", "distance from the reference", f"its {BEST} best words found"),
        [
            [row["method"], f"{row['size']} of their own" if row["design"] == "own" else f"from a pool of {row['size']}",
             f"{row['passes']:.0f}", f"{row['error']:.2f}", f"{row['best']:.2f}"]
            for row in rows
        ],
        left=2,
    )  # fmt: skip


if __name__ == "__main__":
    main()

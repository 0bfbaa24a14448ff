"""Products of matrices by torch's own library and by oneDNN, in the shapes of XLNet's linear layers.

    OMP_NUM_THREADS=1 python -m benchmarks.speed_products [--tokens 2048] [--runs 15] [--out products.json]

2,048 tokens, as many as an encoder call has at most on the CPU, float32: a layer's product, and the gradients of its inputs
and of its weights. A number of tokens that is no multiple of 64 is filled up for oneDNN, which is part of its time. The two take turns; CPU
seconds of one thread, medians. The ratio is torch's time over oneDNN's. Which of the two ours take on this machine is said
below the table (`hilat.encoders.products`).
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from benchmarks.measuring import cpu_medians
from hilat.cli.console import quiet_libraries, say, table
from hilat.encoders import products
from hilat.files import write_json

LAYERS = {
    "queries, keys, values": (1, 3),
    "attention's output": (1, 1),
    "feed-forward, first": (1, 4),
    "feed-forward, last": (4, 1),
}  # widths in and out, in multiples of the encoder's


def products_of(tokens: int, width: int, layer: str) -> dict[str, Callable[[], Tensor]]:
    """The layer's product and those of its backward pass."""
    into, out = (width * times for times in LAYERS[layer])
    x, weight, bias, down = (torch.randn(*shape) for shape in ((tokens, into), (out, into), (out,), (tokens, out)))
    return {
        "output": lambda: products.times(x, weight.t(), bias),
        "gradient of inputs": lambda: products.times(down, weight),
        "gradient of weights": lambda: products.turned_times(down, x),
    }


def by(library: products.Library, product: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """The product by that library."""

    def run() -> Tensor:
        with products.by(library):
            return product()

    return run


def measure(tokens: int, runs: int) -> list[dict[str, Any]]:
    """One row per width, layer and product."""
    rows = []
    for width in (256, 768):
        for layer, (into, out) in LAYERS.items():
            operations = 2 * tokens * into * out * width**2 / 1e9
            for name, product in products_of(tokens, width, layer).items():
                taken = cpu_medians({library: by(library, product) for library in get_args(products.Library)}, runs)
                rates = {f"{library}_gflops": operations / seconds for library, seconds in taken.items()}
                ratio = taken["torch"] / taken["onednn"]
                rows.append({"width": width, "layer": layer, "product": name, **rates, "ratio": ratio})
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed_products", description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=2048, help="rows of the products")
    parser.add_argument("--runs", type=int, default=15, help="products of each kind that count")
    parser.add_argument("--out", type=Path, help="write the rows there as JSON")
    asked = parser.parse_args()
    if not torch.backends.mkldnn.is_available():
        raise SystemExit("this torch was built without oneDNN: there is nothing to compare")
    quiet_libraries()
    rows = measure(asked.tokens, asked.runs)
    if asked.out is not None:
        write_json(asked.out, {"rows": rows})
    cells = [
        [str(row["width"]), row["layer"], row["product"], f"{row['torch_gflops']:.0f}", f"{row['onednn_gflops']:.0f}", f"{row['ratio']:.2f}"]
        for row in rows
    ]  # fmt: skip
    columns = ("width", "layer", "product", "torch, 10^9 / s", "oneDNN, 10^9 / s", "times as fast")
    table(
        f"{asked.tokens:,} tokens, one thread, {platform.machine()}, torch {torch.__version__}", columns, cells, left=3
    )
    say(f"taken here: {'oneDNN' if products.missing() is None else f'torch ({products.missing()})'}")


if __name__ == "__main__":
    main()

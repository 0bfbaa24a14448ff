"""Model randomisation: an explanation that does not change when the model's weights do explains something else."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import nn

from hilat.encoders import transformer_layers
from hilat.model import HilatModel


def cascade(model: HilatModel, *, seed: int = 0) -> Iterator[tuple[str, HilatModel]]:
    """(what was randomised last, the model) from the classifier down, each stage with all before it (Adebayo et al. 2018).

    One copy of the model is changed and handed out again and again; the given one stays as it is. Each weight matrix is
    drawn anew, normal with its own standard deviation, so that the scale of what follows stays; biases and
    normalisation weights stay. By seed. Parts without weights (pooling instead of chunk attention) are skipped.
    """
    changed = copy.deepcopy(model)
    parts: list[tuple[str, nn.Module | None]] = [
        ("classifier", changed.classifier),
        ("chunk attention", changed.chunk_attention),
        ("token attention", changed.token_attention),
    ]
    layers = list(transformer_layers(changed.encoder))
    parts += [(f"encoder layer {n + 1}", layers[n]) for n in reversed(range(len(layers)))]
    parts.append(("embeddings", changed.get_input_embeddings()))
    for number, (name, part) in enumerate(parts):
        if part is None:
            continue
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + number)
            for module in part.modules():
                for parameter in module.parameters(recurse=False):
                    parameter.requires_grad_(False)
                    spread = float(parameter.float().std()) if parameter.numel() > 1 else 0.0
                    if parameter.ndim > 1:
                        parameter.copy_(torch.randn(parameter.shape).to(parameter) * spread)
        yield name, changed

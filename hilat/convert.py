"""Published HiLAT checkpoints (leiboliu/HiLAT) as a `HilatModel`: the same weights, the same numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig

from hilat.admissions import HilatError
from hilat.encoders import first_line, not_finite
from hilat.model import HilatConfig, HilatModel

_ENCODER, _TOKEN, _CHUNK, _CLASSIFIER = (
    "transformer_layer.",
    "label_wise_attention_layer.",
    "chunk_attention_layer.",
    "classifier_layer.",
)
_CHECKPOINT_FILES = ("model.safetensors", "pytorch_model.bin")
# What older versions of transformers kept in a state dict and newer ones do not, or the reverse; never used here.
_OLD_ENCODER_KEYS = re.compile(r"(^|\.)(position_ids|token_type_ids)$|^pooler\.")


def convert_published(
    source: Mapping[str, Tensor] | str | PathLike[str],
    encoder_config: PreTrainedConfig | Mapping[str, Any] | str | PathLike[str] | None = None,
    *,
    pooling: Literal["mean", "max"] | None = None,
    chunks: int | None = None,
    attend_padding: bool = True,
    **settings: Any,
) -> HilatModel:
    """The published weights in a `HilatModel`, variant and sizes read from their names and shapes.

    source: a state dict, a `.safetensors` or `.bin` file, or a checkpoint folder (model.safetensors or
        pytorch_model.bin; the latter is read as weights only, so that nothing in it runs).
    encoder_config: the encoder's transformers config, its dict, or a folder or file that holds it; may be left out
        for a folder with the encoder's config.json in it.
    pooling: "mean" or "max" for a checkpoint without chunk attention; nothing in the weights tells them apart.
    chunks: C (default 10), where the weights do not tell it.
    attend_padding: True, as the weights were trained; False masks padding and empty chunks.
    settings: further settings of `HilatConfig` (tokens, dropout, fine_tune, ...).

    Raises:
        HilatError: unreadable files, unknown, missing, misshapen or non-finite weights (all are listed), or a pooling
            that the weights leave open.
    """
    state = dict(source) if isinstance(source, Mapping) else _read_state(Path(source))
    encoder = _read_encoder_config(encoder_config, None if isinstance(source, Mapping) else Path(source))
    found = _infer(state, pooling, chunks)
    config = HilatConfig(encoder, attend_padding=attend_padding, **found, **settings)
    model = HilatModel(config)
    mapping = _published_names(model)
    known = {name for names in mapping.values() for name in names}
    unknown = sorted(key for key in state.keys() - known if not _is_old_encoder_key(key))
    missing = sorted(known - state.keys())
    if unknown or missing:
        raise HilatError(
            f"the checkpoint does not fit a HiLAT of {config.num_codes} codes on {config.encoder.model_type}; "
            f"unknown: {', '.join(unknown) or 'none'}; missing: {', '.join(missing) or 'none'}. "
            "Give the whole state dict and the config of the encoder it was trained with"
        )
    _check_values(state, known)
    _copy(state, model, mapping)
    model.train(False)
    return model


def _published_names(model: HilatModel) -> dict[str, list[str]]:
    """For each of our tensors the published one, or the published ones that are stacked along its first axis."""
    config = model.config
    per_chunk = [f"{c}." for c in range(config.chunks)] if config.token_attention == "per_chunk" else [""]
    names = {
        "token_attention.projection": [f"{_TOKEN}{c}l1_linear.weight" for c in per_chunk],
        "token_attention.labels": [f"{_TOKEN}{c}l2_linear.weight" for c in per_chunk],
        "classifier.weight": [f"{_CLASSIFIER}weight"],
        "classifier.bias": [f"{_CLASSIFIER}bias"],
    }
    if model.chunk_attention is not None:
        per_code = [f"{k}." for k in range(config.num_codes)] if config.chunk_attention == "per_code" else [""]
        names["chunk_attention.projection"] = [f"{_CHUNK}{k}l1_linear.weight" for k in per_code]
        names["chunk_attention.query"] = [f"{_CHUNK}{k}l2_linear.weight" for k in per_code]
    for name in model.encoder.state_dict():
        names[f"encoder.{name}"] = [_ENCODER + name]
    return names


def _copy(state: Mapping[str, Tensor], model: HilatModel, mapping: Mapping[str, list[str]]) -> None:
    """Put the published tensors into the model. Raises HilatError, before any is copied, if shapes do not fit."""
    wrong = [
        f"{name} {tuple(state[name].shape)} instead of {_part_shape(model, target)}"
        for target, names in mapping.items()
        for name in names
        if tuple(state[name].shape) != _part_shape(model, target)
    ]
    if wrong:
        raise HilatError(
            f"weights of another shape than the encoder's config and {model.config.num_codes} codes call for: "
            f"{', '.join(wrong)}. Give the config of the encoder that the checkpoint was trained with"
        )
    parameters = model.state_dict()
    with torch.no_grad():
        for target, names in mapping.items():
            parameters[target].copy_(torch.stack([state[name] for name in names]).view_as(parameters[target]))


def _part_shape(model: HilatModel, target: str) -> tuple[int, ...]:
    """The shape of each published tensor that goes into ours."""
    shape = tuple(model.state_dict()[target].shape)
    if target == "chunk_attention.query":
        return (1, shape[-1])
    stacked = target.startswith(("token_attention.", "chunk_attention.")) and len(shape) == 3
    return shape[1:] if stacked else shape


def _infer(state: Mapping[str, Tensor], pooling: str | None, chunks: int | None) -> dict[str, Any]:
    """num_codes, chunks and the two kinds of attention."""
    weight, bias = state.get(f"{_CLASSIFIER}weight"), state.get(f"{_CLASSIFIER}bias")
    token_parts, chunk_parts = _parts(state, _TOKEN), _parts(state, _CHUNK)
    first = state.get(f"{_TOKEN}{'0.' if token_parts else ''}l1_linear.weight")
    if weight is None or bias is None or first is None or weight.dim() != 2 or first.dim() != 2:
        raise HilatError(
            f"the checkpoint has no {_CLASSIFIER}weight, {_CLASSIFIER}bias and {_TOKEN}l1_linear.weight of two, one "
            f"and two axes; found {len(state)} tensors, such as {', '.join(sorted(state)[:5]) or 'none'}. "
            "Give a checkpoint of the published HiLAT code"
        )
    codes, (features, width) = bias.numel(), (weight.shape[1], first.shape[0])
    if pooling not in (None, "mean", "max"):
        raise HilatError(
            f"pooling is {pooling!r}; expected mean or max, or none where the weights tell. Change pooling"
        )
    kind = "shared"
    if chunk_parts:
        kind = "per_code"
    elif not any(key.startswith(_CHUNK) for key in state):
        kind = pooling or ""
        if features != width:
            kind = "flat"
        elif pooling is None:
            raise HilatError(
                "the checkpoint has no chunk attention, and its weights do not tell mean from max pooling. "
                "Pass pooling='mean' or pooling='max', as it was trained"
            )
    if pooling is not None and kind != pooling:
        raise HilatError(
            f"pooling is {pooling!r}, but the checkpoint holds the weights of chunk_attention {kind!r}. "
            "Leave pooling out"
        )
    told = {len(token_parts)} if token_parts else set()
    if kind == "flat" and features % width == 0:
        told.add(features // width)
    if chunks is not None:
        told.add(chunks)
    if len(told) > 1:
        raise HilatError(
            f"the number of chunks is {' or '.join(map(str, sorted(told)))}: the weights and the argument do not "
            "agree. Leave chunks out, or give the whole checkpoint"
        )
    return {
        "num_codes": codes,
        "chunks": told.pop() if told else 10,
        "token_attention": "per_chunk" if token_parts else "shared",
        "chunk_attention": kind,
    }


def _parts(state: Mapping[str, Tensor], prefix: str) -> set[int]:
    """0 to the largest number that follows the prefix in a key; empty where none does."""
    numbers = [
        int(match[1]) for match in (re.match(re.escape(prefix) + r"(\d+)\.", key) for key in state) if match is not None
    ]
    return set(range(max(numbers) + 1)) if numbers else set()


def _is_old_encoder_key(key: str) -> bool:
    return key.startswith(_ENCODER) and _OLD_ENCODER_KEYS.search(key.removeprefix(_ENCODER)) is not None


def _check_values(state: Mapping[str, Tensor], known: set[str]) -> None:
    bad = not_finite({name: state[name] for name in known})
    if bad:
        raise HilatError(
            f"weights that are NaN or infinite: {', '.join(bad)}. The checkpoint is of a failed training; take another"
        )


def _read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint file or folder. A pickle is read as weights only: it cannot run code."""
    file = path
    if path.is_dir():
        present = [path / name for name in _CHECKPOINT_FILES if (path / name).is_file()]
        if not present:
            raise HilatError(
                f"{path} has neither {' nor '.join(_CHECKPOINT_FILES)}; expected a published checkpoint folder. "
                "Check the path"
            )
        file = present[0]
    elif not path.is_file():
        raise HilatError(
            f"{path} is not there; expected a checkpoint folder, .safetensors or .bin file. Check the path"
        )
    try:
        state = (
            load_file(file)
            if file.suffix == ".safetensors"
            else torch.load(file, map_location="cpu", weights_only=True)
        )
    except (OSError, SafetensorError, RuntimeError, EOFError, ValueError, KeyError, UnpicklingError) as error:
        raise HilatError(
            f"{file} does not read as a file of weights ({first_line(error)}). Expected safetensors, or a state dict "
            "that torch.load(weights_only=True) accepts; download it again or convert it to safetensors"
        ) from None
    if not isinstance(state, Mapping) or not all(isinstance(values, Tensor) for values in state.values()):
        raise HilatError(
            f"{file} holds {type(state).__name__} with more than tensors; expected a state dict. "
            "Save model.state_dict() of the published model"
        )
    return dict(state)


def _read_encoder_config(
    given: PreTrainedConfig | Mapping[str, Any] | str | PathLike[str] | None, source: Path | None
) -> PreTrainedConfig | Mapping[str, Any]:
    if isinstance(given, PreTrainedConfig | Mapping):
        return given
    place = Path(given) if given is not None else source
    if place is None:
        raise HilatError(
            "a state dict does not say how its encoder is made; expected encoder_config. Pass the encoder's config"
        )
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(place)
    except (OSError, ValueError, KeyError) as error:
        raise HilatError(
            f"{place} holds no config of a transformers encoder ({first_line(error)}). Pass encoder_config: the "
            "folder, name or config of the encoder that the checkpoint was trained with"
        ) from None
    return config

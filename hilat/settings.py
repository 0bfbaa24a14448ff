"""The settings of a training run: the paper's values as defaults, YAML in and out, unknown keys refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import yaml

from hilat.admissions import HilatError

Kind = TypeVar("Kind")

NEW_ENCODERS = ("new:xlnet", "new:bert")

_CHOICES: dict[str, tuple[str, ...]] = {
    "words": ("alphabetic", "all", "no_stop_words"),
    "order": ("diagnosis_first", "raw", "published"),
    "token_attention": ("shared", "per_chunk"),
    "chunk_attention": ("shared", "per_code", "mean", "max", "flat"),
    "attention": ("learned", "uniform", "frozen"),
    "label_init": ("random", "titles", "associations"),
    "bias_init": ("zero", "prevalence"),
    "new_embeddings": ("random", "cooccurrence"),
    "fine_tune": ("all", "last", "none"),
    "batches": ("random", "by_length"),
    "schedule": ("linear", "cosine", "constant_with_warmup"),
    "precision": ("auto", "float32", "bf16"),
    "threshold": ("fixed", "global", "per_code"),
    "best": ("micro_f1", "macro_f1", "micro_auc", "macro_auc", "map", "loss"),
}


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """Everything that shapes a training run. Defaults are those of the paper (section 4.2.1) where it gives one.

    encoder: a model name or folder for AutoModel, or "new:xlnet" / "new:bert" for one from scratch with its own
        SentencePiece vocabulary, shaped by the `new_*` settings. new_embeddings: where its embeddings start, at random or
        from the co-occurrence of its tokens in the training (and unlabelled) text; new_embedding_std and new_init_std:
        standard deviation of its embeddings and of all other weights at the start, by default 1 / sqrt(new_width);
        new_local_heads: start XLNet's heads as windows on near neighbours; new_feed_forward: width of the inner layer
        in multiples of new_width. bias_init: classifier biases start at 0, or at the codes' log-odds in train.
    chunks, tokens: C and T, T with the two special tokens. words, order, sections: how a note is read (section 3.1).
    attention: "learned", or a control that is not: "uniform", or "frozen" at its start (see `HilatConfig`).
    label_init: label vectors start at random, from the encoded code titles (ablation f), or from the tokens most associated
        with the code in the training notes ("associations"; not in the paper, see `hilat.associations`).
    batches: documents of a batch at random, as published, or of similar length ("by_length"), which spreads the work evenly
        over several processes; on one it makes no difference, as no work is done for empty chunks and padding.
    learning_rate: for all; embedding_learning_rate and head_learning_rate, where given, for those parts.
    init_std: standard deviation of the attention and classifier weights at the start (0.03 in the published code, for a
        width of 768; narrow models start better near 0.1).
    steps: optimiser steps; epochs, where given, counts passes over the training split instead.
    warmup: steps when 1 or more, a share of the steps below 1.
    threshold: "fixed" (0.5), or tuned on the validation split, one for all codes or one per code.
    best: the validation measure that picks the checkpoint. patience: evaluations without a gain before stopping; 0: never.
    token_dropout: share of the training tokens replaced by the mask token, drawn anew at each step (not in the paper).
    """

    encoder: str = "xlnet-base-cased"
    new_layers: int = 2
    new_width: int = 128
    new_heads: int = 4
    new_vocabulary: int = 4000
    new_embeddings: str = "random"
    new_embedding_std: float | None = None
    new_init_std: float | None = None
    new_local_heads: bool = False
    new_feed_forward: int = 4
    chunks: int = 10
    tokens: int = 512
    words: str = "alphabetic"
    order: str = "diagnosis_first"
    sections: bool = False
    token_attention: str = "shared"
    chunk_attention: str = "shared"
    attention: str = "learned"
    attend_padding: bool = False
    label_init: str = "random"
    bias_init: str = "zero"
    fine_tune: str = "all"
    dropout: float = 0.1
    init_std: float = 0.03
    batch_size: int = 16
    batches: str = "random"
    accumulate: int = 1
    steps: int = 2500
    epochs: float | None = None
    learning_rate: float = 5e-5
    embedding_learning_rate: float | None = None
    head_learning_rate: float | None = None
    weight_decay: float = 0.1
    warmup: float = 500.0
    schedule: str = "linear"
    max_grad_norm: float = 1.0
    token_dropout: float = 0.0
    checkpointing: bool = False
    precision: str = "auto"
    evaluate_every: int = 250
    best: str = "micro_f1"
    patience: int = 0
    threshold: str = "fixed"
    keep_checkpoints: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise HilatError(
                    f"setting {name} is {getattr(self, name)!r}; expected one of {', '.join(choices)}. Correct it"
                )
        for name in ("new_layers", "new_width", "new_heads", "new_vocabulary", "new_feed_forward", "chunks", "batch_size", "accumulate",
                     "steps", "evaluate_every", "keep_checkpoints"):  # fmt: skip
            if getattr(self, name) < 1:
                raise HilatError(f"setting {name} is {getattr(self, name)}; expected a whole number of 1 or more")
        if self.tokens < 3:
            raise HilatError(f"setting tokens is {self.tokens}; expected 3 or more, since two are special tokens")
        for name in ("dropout", "token_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise HilatError(f"setting {name} is {getattr(self, name)}; expected a share from 0 to below 1")
        if not self.learning_rate > 0:
            raise HilatError(f"setting learning_rate is {self.learning_rate}; expected a positive number such as 5e-5")
        if self.encoder.startswith("new:") and self.encoder not in NEW_ENCODERS:
            raise HilatError(f"setting encoder is {self.encoder!r}; new encoders are {', '.join(NEW_ENCODERS)}")
        if self.attention == "uniform" and self.label_init != "random":
            raise HilatError(
                f"setting attention is uniform and label_init {self.label_init}, which would start an attention; "
                "expected one of the two. Set label_init: random, or attention: frozen"
            )
        if self.new_width % self.new_heads:
            raise HilatError(
                f"setting new_width is {self.new_width}, not a multiple of new_heads {self.new_heads}; make it one"
            )

    def to_dict(self) -> dict[str, Any]:
        """All settings by name."""
        return dataclasses.asdict(self)


def settings_from(values: Mapping[str, Any], *, origin: str = "the settings") -> TrainingSettings:
    """Settings from names and values; whole numbers stand for floats, and numbers written as text (5e-5) are read.

    Raises:
        HilatError: an unknown name (the known ones are listed) or a value of the wrong type.
    """
    return typed_settings(TrainingSettings, values, origin=origin)


def read_settings(path: Path, overrides: Mapping[str, Any] | None = None) -> TrainingSettings:
    """Settings from a YAML file; `overrides` (flags) win."""
    return settings_from({**read_yaml_settings(path), **(overrides or {})}, origin=str(path))


def typed_settings(kind: type[Kind], values: Mapping[str, Any], *, origin: str) -> Kind:
    """The same for any dataclass of settings."""
    types = get_type_hints(kind)
    unknown = sorted(str(name) for name in values if name not in types)
    if unknown:
        raise HilatError(
            f"{origin} has unknown setting{'s' if len(unknown) > 1 else ''} {', '.join(unknown)}; "
            f"known: {', '.join(types)}. Correct the name or take it out"
        )
    return kind(**{name: _typed(name, value, types[name], origin) for name, value in values.items()})


def read_yaml_settings(path: Path) -> dict[str, Any]:
    """The names and values in a YAML file of settings."""
    try:
        loaded = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise HilatError(f"{path} does not exist; expected a YAML file of training settings. Check the path") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        raise HilatError(f"{path} cannot be read as YAML; expected lines such as `steps: 2500`") from None
    if loaded is None:
        loaded = {}
    if not isinstance(loaded, dict):
        raise HilatError(f"{path} holds a {type(loaded).__name__}; expected settings by name, such as `steps: 2500`")
    return loaded


def _typed(name: str, value: Any, hint: Any, origin: str) -> Any:
    kinds = get_args(hint) or (hint,)
    if value is None and type(None) in kinds:
        return None
    if float in kinds and not isinstance(value, bool):
        try:
            return float(value)  # YAML 1.1 reads 5e-5 as text
        except (TypeError, ValueError):
            pass
    elif any(type(value) is kind for kind in kinds):
        return value
    wanted = " or ".join("nothing" if kind is type(None) else kind.__name__ for kind in kinds)
    raise HilatError(f"{origin} sets {name} to a {type(value).__name__}; expected {wanted}. Correct the value")

"""The language model of an encoder: XLNet's two streams, or a masked language model, from a checkpoint or from scratch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    XLNetLMHeadModel,
    set_seed,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from hilat.admissions import HilatError
from hilat.building import XLNET_SEGMENTS, new_encoder, start_encoder
from hilat.encoders import first_line, not_finite, products
from hilat.encoding import check_tokenizer
from hilat.model_config import longest_chunk
from hilat.pretraining_settings import PretrainingSettings
from hilat.pretraining_targets import IGNORED
from hilat.vocabulary import load_tokenizer

# Names of dropout in the configurations of encoders.
_DROPOUTS = ("dropout", "hidden_dropout_prob", "attention_probs_dropout_prob", "attention_dropout")
# Families with a masked language model in transformers that are no encoders.
_WITH_DECODER = ("bart", "mbart", "mvp", "perceiver", "t5", "mt5", "led", "pegasus", "marian", "blenderbot")
_UNUSED = ("pooler", "embeddings.position_ids")


def encoder_config(settings: PretrainingSettings) -> PreTrainedConfig | None:
    """The configuration of the checkpoint, or None for a new encoder.

    Raises:
        HilatError: nothing of that name or in that folder.
    """
    if settings.encoder.startswith("new:"):
        return None
    try:
        return cast(PreTrainedConfig, AutoConfig.from_pretrained(settings.encoder, trust_remote_code=False))
    except (OSError, ValueError, KeyError) as error:
        raise HilatError(
            f"{settings.encoder} does not load as an encoder ({first_line(error)}). Give a folder that transformers' "
            "save_pretrained wrote, the name of a published encoder, new:xlnet or new:bert"
        ) from None


def objective_of(model_type: str, asked: str) -> str:
    """The objective for a family of encoders.

    Raises:
        HilatError: a family that has none (T5, GPT, BART, ...), or one that is asked for another's.
    """
    masked = MODEL_FOR_MASKED_LM_MAPPING_NAMES.keys()
    encodes = model_type in masked and model_type not in _WITH_DECODER
    own = "permutation" if model_type == "xlnet" else "masked" if encodes else None
    if own is None:
        raise HilatError(
            f"the encoder is a {model_type}; expected XLNet, or an encoder that transformers has a masked language model for, "
            "such as bert, roberta, distilbert, electra, longformer or big_bird. Choose one of those"
        )
    if asked not in ("auto", own):
        raise HilatError(f"objective {asked} does not go with a {model_type}; expected {own}. Set objective: auto")
    return own


def checked_objective(settings: PretrainingSettings) -> str:
    """The objective of a run, after looking at its encoder without loading the weights.

    Raises:
        HilatError: no such encoder, a family without an objective, fewer positions than a sequence, or a tokenizer of
            another vocabulary.
    """
    config = encoder_config(settings)
    if config is None:
        return objective_of(settings.encoder.removeprefix("new:"), settings.objective)
    _check(config, settings)
    if settings.tokenizer == "keep":
        check_tokenizer(load_tokenizer(settings.encoder), config.vocab_size)
    return objective_of(config.model_type, settings.objective)


def language_model(
    settings: PretrainingSettings, tokenizer: PreTrainedTokenizerBase, notes: Iterable[NDArray[np.int64]]
) -> tuple[PreTrainedModel, tuple[str, ...]]:
    """The language model before its first step, and the names of the weights that start anew in it.

    notes: token ids, read only where new embeddings start from co-occurrence.

    Raises:
        HilatError: an encoder that does not load, of an unknown family, with fewer positions than a sequence, or of
            another vocabulary than the tokenizer.
    """
    set_seed(settings.seed)
    config = encoder_config(settings)
    start = settings.of_the_start()
    if config is None:
        made = new_encoder(start, len(tokenizer), cast(int, tokenizer.pad_token_id))
        config = AutoConfig.for_model(**made)
        _check(config, settings)
        make: Any = XLNetLMHeadModel if config.model_type == "xlnet" else AutoModelForMaskedLM.from_config
        model: PreTrainedModel = make(config)
        start_encoder(cast(PreTrainedModel, model.base_model), notes, start)
        products.set_linear(model, fast=True)
        return model, ("all",)
    _check(config, settings)
    for name in _DROPOUTS:
        if isinstance(getattr(config, name, None), float):
            setattr(config, name, settings.dropout)
    renewed = settings.tokenizer == "new"
    if renewed:
        config.vocab_size = len(tokenizer)
        if 0 < getattr(config, "type_vocab_size", 0) < XLNET_SEGMENTS:
            config.type_vocab_size = XLNET_SEGMENTS  # the new vocabulary's frame has segments of its own
        for name in ("pad", "bos", "eos", "cls", "sep"):
            if getattr(config, f"{name}_token_id", None) is not None:
                setattr(config, f"{name}_token_id", getattr(tokenizer, f"{name}_token_id"))
    check_tokenizer(tokenizer, config.vocab_size)
    loaded, anew = _loaded(settings.encoder, config, renewed)
    if renewed and settings.new_embeddings != "random":
        start_encoder(cast(PreTrainedModel, loaded.base_model), notes, start)
    products.set_linear(loaded, fast=True)
    return loaded, anew


def token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """The sum over predicted tokens of -ln p(token), in nats; logits (..., V), labels (...), IGNORED where nothing is asked."""
    return F.cross_entropy(
        logits.float().reshape(-1, logits.shape[-1]), labels.reshape(-1), ignore_index=IGNORED, reduction="sum"
    )


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """AdamW's groups: no decay on biases and normalisation weights, as in the released code of XLNet and BERT."""
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        plain = parameter.ndim > 1 and "norm" not in name.lower() and "bias" not in name
        (decayed if plain else free).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]


def _check(config: PreTrainedConfig, settings: PretrainingSettings) -> None:
    objective_of(config.model_type, settings.objective)
    most = longest_chunk(config)
    if most is not None and settings.sequence > most:
        raise HilatError(
            f"setting sequence is {settings.sequence}; the {config.model_type} encoder has positions for {most} tokens. "
            "Set sequence to at most that"
        )


def _loaded(source: str, config: PreTrainedConfig, renewed: bool) -> tuple[PreTrainedModel, tuple[str, ...]]:
    """The checkpoint as a language model. renewed: its vocabulary is another one, so that what depends on it starts anew."""
    kind: Any = XLNetLMHeadModel if config.model_type == "xlnet" else AutoModelForMaskedLM
    try:
        model, info = kind.from_pretrained(
            source, config=config, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=renewed
        )
    except (OSError, SafetensorError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise HilatError(
            f"{Path(source)} does not load as a pretrained encoder ({first_line(error)}). Give a folder that "
            "transformers' save_pretrained wrote, or the name of a published encoder"
        ) from None
    model.to(torch.float32)
    inside = f"{model.base_model_prefix}."
    missing = [key for key in info["missing_keys"] if not any(part in key for part in _UNUSED)]
    lost = sorted(key for key in missing if key.startswith(inside)) + not_finite(model.state_dict())
    if lost:
        raise HilatError(
            f"{Path(source)} lacks weights of its {config.model_type} encoder or holds NaN in them: "
            f"{', '.join(lost[:10])}. Restore the folder"
        )
    shapes = [key for key, *_ in info["mismatched_keys"]]
    return model, tuple(sorted({*missing, *shapes}))

"""What stands under the label-wise head: any encoder of transformers, and what differs between their families."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from hilat.admissions import HilatError
from hilat.encoders import products
from hilat.encoders.xlnet import FastXLNetModel, plain_reason, way_of

# Encoder parameters that this model never uses: XLNet's mask embedding, and the poolers of BERT and kin.
UNUSED = ("mask_emb", "pooler.")


def load_encoder(source: str | PathLike[str]) -> PreTrainedModel:
    """The encoder in that folder (or of that name), float32."""
    try:
        config = AutoConfig.from_pretrained(source)
        kind: Any = FastXLNetModel if config.model_type == "xlnet" else AutoModel
        encoder, info = kind.from_pretrained(source, config=config, dtype=torch.float32, output_loading_info=True)
    except HilatError:
        raise
    except (OSError, SafetensorError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise HilatError(
            f"{Path(source)} does not load as a pretrained encoder ({first_line(error)}). Give a folder that "
            "transformers' save_pretrained wrote, or the name of a published encoder"
        ) from None
    wrong = sorted(key for key in info["missing_keys"] if not key.startswith(UNUSED)) + not_finite(encoder.state_dict())
    if wrong:
        raise HilatError(
            f"{Path(source)} lacks weights of its {config.model_type} encoder or holds NaN in them: "
            f"{', '.join(wrong[:10])}. Restore the folder"
        )
    loaded: PreTrainedModel = encoder
    return loaded


def new_encoder(config: PreTrainedConfig) -> PreTrainedModel:
    """An encoder of that kind with random weights; an XLNet is a `FastXLNetModel`."""
    make: Any = FastXLNetModel._from_config if config.model_type == "xlnet" else AutoModel.from_config
    encoder: PreTrainedModel = make(config)
    return encoder


def set_encoder_path(encoder: PreTrainedModel, fast: bool) -> None:
    """Let an XLNet take the fast forward pass where it can, and the linear layers of any encoder the faster library
    (`hilat.encoders.products`); or all of them always transformers' own."""
    products.set_linear(encoder, fast)
    if isinstance(encoder, FastXLNetModel):
        encoder.path = "auto" if fast else "plain"


def encoder_path(encoder: PreTrainedModel) -> str:
    """How the encoder's forward pass was last computed, or would be, in words, for the record of a run."""
    reason = plain_reason(encoder, {"use_mems": False}) if isinstance(encoder, FastXLNetModel) else None
    says = {
        "compiled": "attention compiled for the processor",
        "blocks": "attention in blocks of queries",
        "kernel": "attention by a Triton kernel",
        "bias": "relative scores as a bias of sdpa",
    }
    if isinstance(encoder, FastXLNetModel) and reason is None:
        said = f"fast xlnet, {says[encoder.__dict__.get('_taken') or way_of(encoder, encoder.dtype)]}"
    else:
        said = f"transformers' {encoder.config.model_type}" + (f" ({reason})" if reason else "")
    faster = any(isinstance(module, products.Linear) for module in encoder.modules()) and products.serves()
    here = encoder.dtype == torch.float32 and encoder.device.type == "cpu"
    return said + (", large products by oneDNN" if faster and here else "")


def xlnet_token_types(mask: Tensor) -> Tensor:
    """XLNet's segment ids (N, T) of right-padded chunks `A <sep> <cls> <pad>...`: 0..0, 2, 3..3.

    transformers 5 gives them only when asked, and 0 for padding; published checkpoints were trained with these.
    """
    position = torch.arange(1, mask.shape[-1] + 1, device=mask.device).expand_as(mask)
    last = (position * mask).amax(-1, keepdim=True)
    return 2 * (position == last).long() + 3 * (position > last).long()


def transformer_layers(encoder: PreTrainedModel) -> nn.ModuleList:
    """The encoder's stack of Transformer layers (XLNet `layer`, BERT and RoBERTa `encoder.layer`), at any depth.

    Raises:
        HilatError: where the encoder keeps no such list (ALBERT shares one layer).
    """
    depth = encoder.config.num_hidden_layers
    for _, module in encoder.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return module
    raise HilatError(
        f"the {encoder.config.model_type} encoder has no list of its {depth} layers, so its last layer cannot be "
        "trained alone. Set fine_tune to all or none"
    )


def not_finite(state: Mapping[str, Tensor]) -> list[str]:
    """The names of the tensors that hold NaN or infinity."""
    return sorted(name for name, values in state.items() if not bool(torch.isfinite(values).all()))


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its kind where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]

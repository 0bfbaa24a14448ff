"""Start an XLNet's attention heads as windows on near neighbours, where there is little text to learn that from.

In relative attention, the score of key j for query i has a part that depends on i - j alone: u . (W_r R_{i-j}) (Dai et al.
2019, Transformer-XL, equation (d); `r_r_bias` and `r` in transformers). With W_r picking sine and cosine of some
frequencies, and u set to the same code of an offset k, it becomes the sum over frequencies of cos(f (i - j - k)), which is
largest at i - j = k: the head looks k words back. Training may move it anywhere from there.
"""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from hilat.admissions import HilatError

# i - j for head 1, 2, ...: the word before, the word after, and so on.
OFFSETS = (1, -1, 2, -2, 0, 3, -3, 4)


def look_nearby(encoder: PreTrainedModel, strength: float = 8.0) -> None:
    """Set the heads of every layer of an XLNet to look at OFFSETS, one head each; in place.

    strength: the score at the offset, per frequency, before the division by sqrt(d_head).

    Raises:
        HilatError: for an encoder other than XLNet, more heads than offsets, or an odd head width.
    """
    config = encoder.config
    if config.model_type != "xlnet":
        raise HilatError(
            f"local heads need XLNet's relative positions; the encoder is {config.model_type}. Set new_local_heads to false"
        )
    width, heads = config.d_model, config.n_head
    half = width // heads // 2
    if heads > len(OFFSETS) or (width // heads) % 2:
        raise HilatError(
            f"local heads are known for up to {len(OFFSETS)} heads of even width; the encoder has {heads} of "
            f"{width // heads}. Change new_heads or new_width"
        )
    frequencies = 1.0 / 10000 ** (torch.arange(0, width, 2.0) / width)  # (D / 2,), transformers' sinusoids
    chosen = torch.arange(half) * max(1, (width // 2) // (width // heads))  # spread over the quicker half
    with torch.no_grad():
        for layer in encoder.layer:  # type: ignore[union-attr]
            attention = layer.rel_attn
            attention.r.zero_()  # (D, heads, D / heads)
            for head in range(heads):
                for j, f in enumerate(chosen.tolist()):
                    attention.r[f, head, j] = 1.0  # the sine of frequency f
                    attention.r[width // 2 + f, head, half + j] = 1.0  # its cosine
                phase = OFFSETS[head] * frequencies[chosen]  # (half,)
                attention.r_r_bias[head] = strength * torch.cat([phase.sin(), phase.cos()])

"""Infidelity, max-sensitivity, soft comprehensiveness and sufficiency: what needs other inputs than whole words removed.

Infidelity asks the set function for random subsets of words; the two others disturb the word embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from explain.faithfulness import normalised_comprehensiveness, normalised_sufficiency, sigmoid
from explain.hilat_target import HilatTarget
from explain.methods import METHODS
from explain.occlusion import SetFunction
from explain.result import Value, defined, undefined
from explain.subject import MethodOptions, Subject
from hilat.admissions import HilatError
from hilat.coder import Coder
from hilat.encoding import EncodedDocument

Array = NDArray[np.float64]

# Whether higher is better, and what it is.
ROBUSTNESS_METRICS: dict[str, tuple[bool, str]] = {
    "infidelity_logit": (False, "mean squared error of the scores' sum over removed words against the logit's drop"),
    "infidelity_normalised_logit": (False, "the same after the best scaling of the scores, as a share of the drops' square"),
    "soft_comprehensiveness": (True, "embeddings blanked in proportion to the scores: drop, normalised (Zhao and Aletras 2023)"),
    "soft_sufficiency": (True, "embeddings kept in proportion to the scores, normalised (Zhao and Aletras 2023)"),
    "max_sensitivity": (False, "largest relative change of the scores when the embeddings move a little (Yeh et al. 2019)"),
}  # fmt: skip


def infidelity(dots: Array, drops: Array) -> tuple[Value, Value]:
    """Infidelity (Yeh et al. 2019, definition 2.1) of S perturbations, and the same after the best scaling.

    dots (S,): perturbation times attribution, summed. drops (S,): f(x) - f(x - perturbation).
    The second is min over b of mean (b dots - drops)^2: scores are compared by shape, whatever their unit.
    """
    if not len(dots):
        return undefined("not measured"), undefined("not measured")
    square = float((dots**2).mean())
    scale = float((dots * drops).mean()) / square if square > 0 else 0.0
    return defined(float(((dots - drops) ** 2).mean())), defined(float(((scale * dots - drops) ** 2).mean()))


def random_removals(removable: NDArray[np.int64], words: int, samples: int, seed: int) -> NDArray[np.bool_]:
    """Keep masks (S, W): each sample removes a share of the words, itself drawn evenly from (0, 1/2], at least one."""
    rng = np.random.default_rng(seed)
    keep = np.ones((samples, words), dtype=bool)
    for row in keep:
        count = max(1, int(np.ceil(rng.random() / 2 * len(removable))))
        row[rng.permutation(removable)[:count]] = False
    return keep


def infidelities(
    value: SetFunction,
    scores: Array,
    columns: NDArray[np.int64],
    seen: NDArray[np.bool_],
    *,
    samples: int,
    seed: int = 0,
) -> list[tuple[Value, Value]]:
    """Infidelity of r rankings (r, W) of the codes columns (r,), on the logit; all share the same changed notes.

    The normalised one is divided by the mean square of the drops: 1 is what scores of 0 reach, 0 is best.
    """
    keep = random_removals(np.flatnonzero(seen), len(seen), samples, seed)
    whole = value(np.ones((1, len(seen)), dtype=bool))[0]  # (k,)
    drops = whole - value(keep)  # (S, k)
    found = []
    for row, k in zip(scores, columns, strict=True):
        raw, scaled = infidelity((~keep) @ row, drops[:, k])
        size = float((drops[:, k] ** 2).mean())
        share = defined(scaled.value / size) if size > 0 else undefined("no removal changes the logit")
        found.append((raw, share))
    return found


class ShiftedTarget(HilatTarget):
    """The same model, with noise (C, T, D) added to the word embeddings of one document."""

    def __init__(
        self, coder: Coder, document: EncodedDocument, noise: Tensor, columns: Sequence[int] | None = None
    ) -> None:
        super().__init__(coder, columns)
        self.document = document
        self.noise = noise
        self._ids = self.inputs(document)["input_ids"][0]  # (C, T)

    def restricted(self, columns: Sequence[int]) -> ShiftedTarget:
        """The same, of these of its codes only."""
        chosen = self.columns[np.array(columns, dtype=np.int64)].tolist()
        return ShiftedTarget(self.coder, self.document, self.noise, chosen)

    def embeddings(self, input_ids: Tensor) -> Tensor:
        """Word embeddings; those of the document's own tokens are moved, those of a baseline are not."""
        vectors = super().embeddings(input_ids)
        if input_ids.shape != self._ids.shape:
            raise HilatError(
                f"shifted embeddings were asked for ids of shape {tuple(input_ids.shape)}; expected the document's "
                f"{tuple(self._ids.shape)}. Methods that change words cannot run on a shifted model"
            )
        return vectors + self.noise * (input_ids == self._ids)[..., None]

    def _encode(self, inputs: Mapping[str, Tensor]) -> Tensor:
        if "input_ids" not in inputs:
            return super()._encode(inputs)
        given: dict[str, Any] = dict(inputs)
        ids = given.pop("input_ids")
        kept = torch.from_numpy(self.chunks_read(self.document.attention_mask)).to(ids.device)
        if ids.shape != self._ids[kept].shape:
            raise HilatError(
                "a shifted model was given other chunks than its document's; expected one pass over the document. Use "
                "attention or gradient methods"
            )
        given["inputs_embeds"] = super().embeddings(ids) + self.noise[kept]
        return super()._encode(given)


SENSITIVITY_FAMILIES = ("attention", "combined", "gradient")


def relative_change(before: Array, after: Array) -> float:
    """||after - before|| / ||before||, Euclidean over words; NaN where the scores before are all 0."""
    size = float(np.linalg.norm(before))
    return float(np.linalg.norm(after - before)) / size if size > 0 else float("nan")


def max_sensitivity(
    coder: Coder,
    document: EncodedDocument,
    text: str,
    columns: Sequence[int],
    methods: Sequence[str],
    *,
    samples: int,
    radius: float = 0.02,
    options: MethodOptions = MethodOptions(),  # noqa: B008 (frozen)
) -> dict[str, list[Value]]:
    """Method -> largest relative change (k,) of its word scores over `samples` random moves of the embeddings.

    Each number of an embedding moves by up to radius times the standard deviation of the embedding table, evenly drawn
    (Yeh et al. 2019, definition 4.1, by sampling as captum does). For the families of SENSITIVITY_FAMILIES except
    attention rollout; other methods get a reason.
    """
    with torch.no_grad():
        plain = HilatTarget(coder)
        embeds = plain.embeddings(plain.inputs(document)["input_ids"][0])  # (C, T, D)
        step = radius * float(next(coder.model.get_input_embeddings().parameters()).std())
    can = [m for m in methods if METHODS[m].family in SENSITIVITY_FAMILIES and m != "attention_rollout"]
    base = Subject(plain, document, text, columns, options)
    before = {method: METHODS[method].scores(base).scores for method in can}
    most = {method: np.zeros(len(columns)) for method in can}
    generator = torch.Generator().manual_seed(options.seed)
    for _ in range(samples):
        noise = ((torch.rand(embeds.shape, generator=generator) * 2 - 1) * step).to(embeds)
        moved = Subject(ShiftedTarget(coder, document, noise), document, text, columns, options)
        for method in can:
            after = METHODS[method].scores(moved).scores
            change = [relative_change(b, a) for b, a in zip(before[method], after, strict=True)]
            most[method] = np.maximum(most[method], change)
    found = {}
    for method in methods:
        if method not in can:
            found[method] = [undefined("the method cannot run on moved embeddings")] * len(columns)
        else:
            found[method] = [undefined("all scores are 0") if np.isnan(x) else defined(x) for x in most[method]]
    return found


def soft_scores(
    target: HilatTarget, document: EncodedDocument, scores: Array, column: int, *, samples: int, seed: int = 0
) -> tuple[Value, Value]:
    """Soft normalised comprehensiveness and sufficiency of one ranking (W,) for the code at `column` of the target.

    Importance a = max(score, 0) / max: every number of a word's embeddings is kept with chance a (sufficiency) or
    1 - a (comprehensiveness), and the probability is averaged over the samples; "nothing" is all words at 0 (Zhao and
    Aletras 2023, sections 3.1 and 3.2). Special tokens stay. Undefined where no score is positive.
    """
    positive = np.maximum(scores, 0.0)
    if positive.max(initial=0.0) <= 0:
        return undefined("no positive score"), undefined("no positive score")
    share = positive / positive.max()  # (W,)
    index = document.word_index  # (C, T)
    weight = np.where(index >= 0, share[np.maximum(index, 0)], 1.0)
    inside = torch.from_numpy(index >= 0).to(target.device)[..., None]
    importance = torch.from_numpy(weight).float().to(target.device)[..., None]  # (C, T, 1)
    part = target.restricted([column])
    inputs = {name: values[0] for name, values in part.inputs(document).items()}
    with torch.no_grad():
        embeds = part.embeddings(inputs.pop("input_ids"))  # (C, T, D)
        generator = torch.Generator().manual_seed(seed)
        even = [torch.rand(embeds.shape, generator=generator).to(embeds) for _ in range(samples)]
        kept = [embeds * ((draw < importance) | ~inside) for draw in even]
        blanked = [embeds * ((draw >= importance) | ~inside) for draw in even]
        nothing = embeds * ~inside
        rows = [embeds, nothing, *kept, *blanked]
        p = sigmoid(np.array([_logit(part, inputs, row) for row in rows]))
    suff, comp = float(p[2 : 2 + samples].mean()), float(p[2 + samples :].mean())
    return (
        normalised_comprehensiveness(float(p[0]), comp, float(p[1])),
        normalised_sufficiency(float(p[0]), suff, float(p[1])),
    )


def _logit(part: HilatTarget, inputs: Mapping[str, Tensor], embeds: Tensor) -> float:
    given = {name: values[None] for name, values in inputs.items()}
    return float(part.forward({"inputs_embeds": embeds[None], **given}).logits[0, 0])

"""The settings of a pretraining run: those of ClinicalplusXLNet as defaults."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hilat.admissions import HilatError
from hilat.settings import TrainingSettings, read_yaml_settings, typed_settings

OBJECTIVES = ("permutation", "masked")
_CHOICES: dict[str, tuple[str, ...]] = {
    "tokenizer": ("keep", "new"),
    "objective": ("auto", *OBJECTIVES),
    "documents": ("packed", "apart"),
}
_OF_THE_START = ("encoder", "new_layers", "new_width", "new_heads", "new_vocabulary", "new_embeddings", "new_embedding_std",
                 "new_init_std", "new_local_heads", "new_feed_forward", "words", "order", "dropout", "seed")  # fmt: skip


@dataclass(frozen=True, slots=True)
class PretrainingSettings:
    """Everything that shapes a pretraining run.

    Defaults: Liu et al. 2022, section 4.1 (a million steps of 64 sequences of 512 tokens, learning rate 4e-4, weight decay
    0.01, dropout 0.1); what the paper does not say is as in the authors' script (github.com/leiboliu/ClinicalplusXLNet,
    run_pretrain_xlnet.sh): 40,000 steps of warmup, Adam's epsilon 1e-6, one token in six predicted (85 of 512) in spans of
    up to five, a checkpoint every 50,000 steps.

    encoder: a model name or folder, or "new:xlnet" / "new:bert" for one from scratch, shaped by the `new_*` settings as in
        `TrainingSettings`. tokenizer: "keep" the checkpoint's, or a "new" SentencePiece vocabulary of `new_vocabulary`
        pieces, with which the embeddings start anew; vocabulary_notes: how many notes, drawn by the seed, it is learned from.
    objective: "permutation" (XLNet) or "masked" (BERT and kin); "auto" takes the one of the encoder's family.
    words, order: how a note is read (`hilat.cleaning`); the paper keeps all words here. shortest_sentence: sentences of
        fewer words are dropped (2 in the authors' script; the paper does not say so).
    sequence: T, with the two special tokens. documents: "packed" fills every sequence, a separator between notes; "apart"
        begins a new sequence with every note.
    predict: share of the tokens that are predicted; by default 1/6 (permutation) or 0.15 (masked). max_span: the longest
        span of the permutation's targets, in tokens. whole_words: never predict a part of a word.
    batch_size: sequences per step of all processes together, times `accumulate`. epochs: passes over the notes instead of
        `steps`. warmup: steps when 1 or more, a share of the steps below 1.
    held_out: share of the notes, by patient where known, that is only measured on; held_out_sequences: at most so many.
    evaluate_every: steps between checkpoints, each with its held-out loss. workers: processes that make the batches.
    """

    encoder: str = "xlnet-base-cased"
    tokenizer: str = "keep"
    new_layers: int = 12
    new_width: int = 768
    new_heads: int = 12
    new_vocabulary: int = 32000
    new_embeddings: str = "random"
    new_embedding_std: float | None = None
    new_init_std: float | None = None
    new_local_heads: bool = False
    new_feed_forward: int = 4
    vocabulary_notes: int = 100_000
    objective: str = "auto"
    words: str = "all"
    order: str = "raw"
    shortest_sentence: int = 1
    sequence: int = 512
    documents: str = "packed"
    predict: float | None = None
    max_span: int = 5
    whole_words: bool = False
    dropout: float = 0.1
    batch_size: int = 64
    accumulate: int = 1
    steps: int = 1_000_000
    epochs: float | None = None
    learning_rate: float = 4e-4
    weight_decay: float = 0.01
    adam_epsilon: float = 1e-6
    warmup: float = 40_000.0
    schedule: str = "linear"
    max_grad_norm: float = 1.0
    precision: str = "auto"
    held_out: float = 0.01
    held_out_sequences: int = 1000
    evaluate_every: int = 50_000
    keep_checkpoints: int = 2
    workers: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise HilatError(
                    f"setting {name} is {getattr(self, name)!r}; expected one of {', '.join(choices)}. Correct it"
                )
        for name in ("vocabulary_notes", "shortest_sentence", "max_span", "batch_size", "accumulate", "steps",
                     "held_out_sequences", "evaluate_every", "keep_checkpoints"):  # fmt: skip
            if getattr(self, name) < 1:
                raise HilatError(f"setting {name} is {getattr(self, name)}; expected a whole number of 1 or more")
        if self.sequence < 8:
            raise HilatError(f"setting sequence is {self.sequence}; expected 8 tokens or more, two of them special")
        if not 0 <= self.held_out < 1:
            raise HilatError(f"setting held_out is {self.held_out}; expected a share of the notes from 0 to below 1")
        if self.predict is not None and not 0 < self.predict <= 0.5:
            raise HilatError(f"setting predict is {self.predict}; expected a share of the tokens, at most 0.5")
        if not (self.learning_rate > 0 and self.adam_epsilon > 0 and self.workers >= 0 and self.warmup >= 0):
            raise HilatError(
                f"settings learning_rate {self.learning_rate} and adam_epsilon {self.adam_epsilon} must be positive, workers "
                f"{self.workers} and warmup {self.warmup} not negative. Correct them"
            )
        self.of_the_start()  # checks the settings that are shared with training

    def to_dict(self) -> dict[str, Any]:
        """All settings by name."""
        return dataclasses.asdict(self)

    def of_the_start(self) -> TrainingSettings:
        """The settings that shape the encoder at its start, as those of a training run."""
        shared = {name: getattr(self, name) for name in (*_OF_THE_START, "schedule", "precision")}
        return TrainingSettings(tokens=self.sequence, **shared)

    def share_predicted(self, objective: str) -> float:
        """The share of the tokens that are predicted under an objective.

        Sources: Yang et al. 2019, section 3.1 (K = 6); Devlin et al. 2019, section 3.1 (15 %).
        """
        return self.predict if self.predict is not None else 1 / 6 if objective == "permutation" else 0.15


def pretraining_settings(config: Path | None, given: dict[str, Any]) -> PretrainingSettings:
    """Settings from a YAML file, if any, with what was `given` by name instead of the file's.

    Raises:
        HilatError: an unknown name or a wrong value.
    """
    values = {**(read_yaml_settings(config) if config else {}), **given}
    return typed_settings(PretrainingSettings, values, origin=str(config or "the settings"))

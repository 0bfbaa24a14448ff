"""Training batches of documents of similar length, drawn anew in each epoch from a seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Sampler
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

_POOL = 50  # batches whose documents are sorted together


class ByLength(Sampler[int]):
    """All documents once an epoch, in batches of similar length: sorted within pools of 50 random batches, then shuffled.

    The order depends on lengths, batch, seed and epoch only, so that a resumed run and every process draw the same.
    A last batch with fewer documents stays last.
    """

    def __init__(self, lengths: Sequence[int], batch: int, seed: int) -> None:
        self.lengths, self.batch, self.seed = np.asarray(lengths), batch, seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.lengths)

    def set_epoch(self, epoch: int) -> None:
        """Which epoch is drawn next."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = np.random.default_rng((self.seed, self.epoch))
        drawn = generator.permutation(len(self.lengths))
        whole = len(drawn) - len(drawn) % self.batch
        pools = np.split(drawn[:whole], range(_POOL * self.batch, whole, _POOL * self.batch))
        batches = np.concatenate([pool[np.argsort(self.lengths[pool], kind="stable")] for pool in pools])
        batches = generator.permutation(batches.reshape(-1, self.batch))
        yield from [*batches.flatten().tolist(), *drawn[whole:].tolist()]


class _TellEpoch(TrainerCallback):
    """Tells the sampler its epoch; what wraps it on several processes does not, in a run that is resumed."""

    def __init__(self, sampler: ByLength) -> None:
        self.sampler = sampler

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Before an epoch's first batch, or the first that a resumed run has left of it."""
        del args, control, kwargs
        self.sampler.set_epoch(int(state.epoch or 0))


class LengthTrainer(Trainer):
    """A Trainer whose training batches, those of all processes together, are of similar length."""

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        split: Any = self.train_dataset if train_dataset is None else train_dataset
        batch = self.args.train_batch_size * self.args.world_size
        sampler = ByLength([document.n_content_tokens for document in split.documents], batch, self.args.seed)
        self.add_callback(_TellEpoch(sampler))
        return sampler

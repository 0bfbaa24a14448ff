"""A Trainer for the trials of a search: each has settings, data, model and optimiser of its own."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from transformers import (
    EarlyStoppingCallback,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_utils import SaveStrategy

from hilat.admissions import HilatError
from hilat.batches import LengthTrainer
from hilat.building import cleaning_of, layout_of, make_tokenizer, optimiser_of
from hilat.corpora import Corpus
from hilat.model import HilatConfig, HilatModel
from hilat.settings import TrainingSettings
from hilat.training import (
    Collator,
    EncodedSplit,
    collator_of,
    optimiser_steps,
    start_model,
    training_arguments,
    validation_measures,
)
from hilat.tuning_space import Search, drawn

if TYPE_CHECKING:
    import optuna

REASON = "reason"  # the attribute of a trial that failed on its own account, with what was said
# The Trainer's arguments that the settings of a trial may change.
_ARGUMENTS = (
    "per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps", "max_steps", "max_grad_norm",
    "eval_steps", "logging_steps",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class TrialRow:
    """One trial. state: "running", "finished", "pruned" (cut short) or "failed" (reason says why).

    values: the settings that vary. measure: the best of its evaluations on val, at step `step`; None before the first.
    """

    number: int
    state: str
    values: Mapping[str, Any]
    measure: float | None = None
    step: int | None = None
    seconds: float | None = None
    reason: str = ""


Tell = Callable[[TrialRow], None]


@dataclass(frozen=True, slots=True)
class TrialData:
    """The corpus as the model of a trial reads it."""

    key: tuple[Any, ...]
    tokenizer: PreTrainedTokenizerBase
    train_set: EncodedSplit
    val_set: EncodedSplit
    collator: Collator


class Material:
    """What trials are made of; the data that the last one read serves the next, where it reads the same."""

    def __init__(self, corpus: Corpus, search: Search, out: Path, unlabelled: tuple[str, ...]) -> None:
        self.corpus, self.search, self.out = corpus, search, out
        self.texts = [*(admission.text for admission in corpus.split("train")), *unlabelled]
        self._last: TrialData | None = None

    def data(self, settings: TrainingSettings) -> TrialData:
        """The splits, encoded as the settings say."""
        made_of = (settings.encoder, settings.new_vocabulary, cleaning_of(settings))
        key = (made_of, layout_of(settings), settings.token_dropout)
        if self._last is None or self._last.key != key:
            folder = self.out / "tokenizers" / hashlib.sha256(repr(made_of).encode()).hexdigest()[:12]
            tokenizer = make_tokenizer(settings, self.texts, folder)
            made = [
                EncodedSplit(
                    self.corpus.split(name),
                    tokenizer,
                    layout_of(settings),
                    cleaning_of(settings),
                    self.corpus.code_book,
                )
                for name in ("train", "val")
            ]
            self._last = TrialData(key, tokenizer, made[0], made[1], collator_of(tokenizer, settings))
        return self._last

    def model(self, settings: TrainingSettings, data: TrialData) -> HilatModel:
        """A new model; the random state after it is that at the first step of `hilat train`."""
        model = start_model(settings, data.tokenizer, self.corpus, self.texts, data.train_set)
        set_seed(settings.seed)
        return model


class Judge:
    """The best measure of a trial so far, which is what the Trainer reports to Optuna at each evaluation."""

    def __init__(self, search: Search) -> None:
        self.name, self.sign = f"eval_{search.base.best}", 1 if search.direction == "maximize" else -1
        self.best = -math.inf

    def begin(self) -> None:
        """A new trial."""
        self.best = -math.inf

    def __call__(self, metrics: Mapping[str, float]) -> float:
        """Of one evaluation."""
        value = float(metrics[self.name])
        if not math.isfinite(value):
            raise HilatError(
                f"{self.name.removeprefix('eval_')} is undefined on val; expected a number. Choose another `best`"
            )
        self.best = max(self.best, self.sign * value)
        return self.sign * self.best


class _Telling(TrainerCallback):
    """Tells of a trial at each of its evaluations."""

    def __init__(self, tell: Tell | None, search: Search) -> None:
        self.tell, self.search = tell, search
        self.trial: optuna.Trial | None = None

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """After each evaluation."""
        del args, control
        metrics = kwargs.get("metrics") or {}
        if self.trial is not None and self.tell is not None:
            measure = metrics.get(f"eval_{self.search.base.best}")
            self.tell(TrialRow(self.trial.number, "running", dict(self.trial.params), measure, state.global_step))


class TuningTrainer(LengthTrainer):
    """A Trainer whose every trial has settings, data, model and optimiser of its own."""

    settings: TrainingSettings

    def begin(self, settings: TrainingSettings, data: TrialData) -> None:
        """Take over what the next trial trains with."""
        self.settings = settings
        self.data_collator, self.train_dataset, self.eval_dataset = data.collator, data.train_set, data.val_set
        self.remove_callback(EarlyStoppingCallback)  # its count is of one trial
        if settings.patience:
            self.add_callback(EarlyStoppingCallback(settings.patience))

    def train(self, resume_from_checkpoint: Any = None, trial: Any = None, ignore_keys_for_eval: Any = None) -> Any:
        """As the Trainer does; what made a trial fail is kept with it."""
        try:
            return super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)
        except HilatError as error:
            trial.set_user_attr(REASON, str(error))
            raise
        except torch.OutOfMemoryError:
            said = (
                "the memory of the device is too small for this trial; expected it to fit. Lower batch_size or chunks"
            )
            trial.set_user_attr(REASON, said)
            raise HilatError(said) from None

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The optimiser and, with it, the schedule of `hilat train`."""
        self.optimizer, self.lr_scheduler = optimiser_of(
            cast(HilatModel, model or self.model), self.settings, self.args.max_steps
        )
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The schedule that was made with the optimiser."""
        del num_training_steps, optimizer
        return self.lr_scheduler

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if self.settings.batches == "random":
            return Trainer._get_train_sampler(self, train_dataset)
        return super()._get_train_sampler(train_dataset)


def tuning_trainer(
    material: Material, judge: Judge, folder: Path, device: torch.device, tell: Tell | None
) -> TuningTrainer:
    """The Trainer of all trials; `model_init` draws the settings of each."""
    search = material.search
    telling = _Telling(tell, search)
    arguments = training_arguments(search.base, folder, device, search.base.steps, validates=True)
    arguments.save_strategy, arguments.load_best_model_at_end, arguments.report_to = SaveStrategy.NO, False, []

    def begin(trial: optuna.Trial | None) -> HilatModel:
        if trial is None:  # asked once before there is a trial, to see what kind of model it will be
            return _stand_in(len(material.corpus.code_book))
        judge.begin()
        telling.trial = trial
        settings = drawn(search, trial)
        data = material.data(settings)
        trainer.begin(settings, data)
        return material.model(settings, data)

    trainer = TuningTrainer(
        model_init=begin,
        args=arguments,
        eval_dataset=cast(Any, []),  # the data come with each trial; the Trainer wants to see that there will be some
        compute_metrics=validation_measures,
        callbacks=[telling],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def changed_arguments(material: Material, trial: optuna.Trial, device: torch.device) -> dict[str, Any]:
    """The Trainer's arguments in which the trial differs from the others: the hook's `hp_space`."""
    settings = drawn(material.search, trial)
    steps = optimiser_steps(settings, len(material.corpus.split("train")))
    made = training_arguments(settings, material.out, device, steps, validates=True)
    return {name: getattr(made, name) for name in _ARGUMENTS}


def _stand_in(codes: int) -> HilatModel:
    """A HilatModel as small as can be."""
    tiny = {"hidden_size": 2, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 2, "vocab_size": 2}
    return HilatModel(HilatConfig({"model_type": "bert", **tiny}, codes))

"""Fine-tuning HiLAT on a corpus with transformers' Trainer."""

from __future__ import annotations

import contextlib
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset
from transformers import (
    EarlyStoppingCallback,
    EvalPrediction,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from hilat.admissions import Admission, CodeBook, HilatError
from hilat.associations import initialise_from_associations
from hilat.batches import LengthTrainer
from hilat.building import (
    cleaning_of,
    layout_of,
    make_model,
    make_tokenizer,
    optimiser_of,
    start_biases,
    start_new_encoder,
)
from hilat.cleaning import CleaningRules
from hilat.coder import Coder, checked_device, save_coder
from hilat.corpora import Corpus
from hilat.encoders import encoder_path
from hilat.encoding import ChunkLayout, EncodedDocument, collate, encode
from hilat.files import read_json, write_json
from hilat.metrics import evaluate_codes
from hilat.model import HilatModel
from hilat.model_card import label_support, validation_at
from hilat.processes import folder_to_make, rank_and_count
from hilat.provenance import run_record
from hilat.runs import SETTINGS_FILE, is_begun, make_writable
from hilat.settings import TrainingSettings
from hilat.thresholds import tune_threshold

Tell = Callable[[int, int, dict[str, Any]], None]
DIVERGED = "training diverged: the model no longer gives finite numbers; lower learning_rate or raise warmup"
_TRAINING = "training"  # the folder of checkpoints and logs inside a run folder


class EncodedSplit(Dataset[dict[str, Any]]):
    """The admissions of a split as model inputs with their targets, encoded once."""

    def __init__(
        self,
        admissions: Sequence[Admission],
        tokenizer: PreTrainedTokenizerBase,
        layout: ChunkLayout,
        rules: CleaningRules,
        code_book: CodeBook,
    ) -> None:
        self.documents = [encode(admission, tokenizer, layout, rules) for admission in admissions]
        self._codes, self._code_book = [admission.codes for admission in admissions], code_book

    def __len__(self) -> int:
        return len(self.documents)

    def __getitem__(self, n: int) -> dict[str, Any]:
        return {"document": self.documents[n], "targets": self._code_book.targets([self._codes[n]])[0]}

    @property
    def targets(self) -> NDArray[np.float32]:
        """Multi-hot (N, K), made when asked for: 1.7 GB for the whole train split of MIMIC-III, all codes."""
        return self._code_book.targets(self._codes)

    @property
    def truncated(self) -> tuple[int, int]:
        """Documents that lost words after the last chunk, and the words lost."""
        lost = [document.truncated_words for document in self.documents]
        return sum(count > 0 for count in lost), sum(lost)


@dataclass(frozen=True)
class Collator:
    """Batches encoded documents; with `token_dropout`, masks that share of the words' tokens, drawn anew each time."""

    mask_token_id: int | None = None
    token_dropout: float = 0.0

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        documents: list[EncodedDocument] = [row["document"] for row in rows]
        batch = collate(documents)
        if self.token_dropout and self.mask_token_id is not None and torch.is_grad_enabled():
            in_words = torch.from_numpy(np.stack([document.word_index for document in documents]) >= 0)  # (B, C, T)
            drawn = torch.rand(in_words.shape) < self.token_dropout  # (B, C, T)
            batch["input_ids"] = batch["input_ids"].masked_fill(drawn & in_words, self.mask_token_id)
        batch["labels"] = torch.from_numpy(np.stack([row["targets"] for row in rows]))  # (B, K)
        return batch


class Watcher(TrainerCallback):
    """Tells a function of each step (done, of how many) and of each line of the log."""

    def __init__(self, tell: Tell) -> None:
        self.tell = tell

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """After each optimiser step."""
        if state.is_world_process_zero:
            self.tell(state.global_step, state.max_steps, {})

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """After each loss or evaluation."""
        if state.is_world_process_zero:
            self.tell(state.global_step, state.max_steps, kwargs.get("logs") or {})


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """What came of a run: the coder, the steps taken, the loss by step, and the validation measures by step."""

    coder: Coder
    steps: int
    losses: tuple[tuple[int, float], ...]
    evaluations: tuple[dict[str, float], ...]
    best_step: int | None


def optimiser_steps(settings: TrainingSettings, documents: int) -> int:
    """How many optimiser steps the run takes."""
    if settings.epochs is None:
        return settings.steps
    per_epoch = math.ceil(documents / (settings.batch_size * settings.accumulate))
    return max(1, math.ceil(settings.epochs * per_epoch))


def complete_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end; those cut off by a kill are passed over."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rsplit("-", 1)[1]), reverse=True)
    for path in found:
        try:  # the Trainer writes this file last
            read_json(path / "trainer_state.json", what="a checkpoint's state")
        except HilatError:
            continue
        if (path / "model.safetensors").is_file() and (path / "optimizer.pt").is_file():
            return path
    return None


def train(
    corpus: Corpus,
    settings: TrainingSettings,
    out: Path,
    *,
    unlabelled: Sequence[str] = (),
    device: str = "auto",
    resume: bool = False,
    tell: Tell | None = None,
) -> TrainingResult:
    """Train a coder on the corpus' train split and write it to `out/model`.

    `out` also gets `training/` (checkpoints and TensorBoard logs, for `resume`), `settings.json` and, at the end,
    `training.json` (losses and validation measures by step). Under `accelerate launch` or `torchrun` every process
    calls this; the batch size is that of all processes together. `unlabelled` are raw texts without codes: a new
    encoder's vocabulary and co-occurrence embeddings are learned from them too. `tell` is called with each step.

    Raises:
        HilatError: no train split, no val split where one is needed, an existing run without `resume`, or other
            settings than those of the run that is to be resumed.
    """
    out = Path(out)
    splits = corpus.splits
    validates = "val" in splits
    if settings.threshold != "fixed" and not validates:
        raise HilatError(
            f"setting threshold is {settings.threshold!r}, tuned on a val split; the corpus has {', '.join(splits)}. "
            "Add a val split or set threshold: fixed"
        )
    training_admissions = corpus.split("train")
    _begin(out, settings, resume)
    texts = [*(admission.text for admission in training_admissions), *unlabelled]
    try:
        with folder_to_make(out / _TRAINING / "tokenizer", kept=resume) as folder:
            tokenizer = make_tokenizer(settings, texts, folder)
        layout, rules = layout_of(settings), cleaning_of(settings)
        train_set = EncodedSplit(training_admissions, tokenizer, layout, rules, corpus.code_book)
        val_set = EncodedSplit(corpus.split("val"), tokenizer, layout, rules, corpus.code_book) if validates else None
        model = start_model(settings, tokenizer, corpus, texts, train_set)
    except HilatError:
        if not resume and rank_and_count()[0] == 0:  # nothing was trained: leave nothing behind that asks for --resume
            _undo(out)
        raise
    trainer = _trainer(model, tokenizer, settings, train_set, val_set, out / _TRAINING, checked_device(device))
    if tell is not None:
        trainer.add_callback(Watcher(tell))
    checkpoint = complete_checkpoint(out / _TRAINING) if resume else None
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    losses, evaluations = _history(trainer.state.log_history)
    if not all(bool(torch.isfinite(p).all()) for p in model.parameters()):
        raise HilatError(DIVERGED)
    thresholds, source = _thresholds(trainer, val_set, settings, len(corpus.code_book))
    card = {
        **run_record("train", settings.to_dict(), settings.seed),
        "corpus": {"source": corpus.source, "train": len(train_set), "val": len(val_set) if val_set else 0},
        "label_set": label_support([admission.codes for admission in training_admissions], corpus.code_book),
        "truncated": dict(zip(("train_documents", "train_words"), train_set.truncated, strict=True)),
        "encoder_path": encoder_path(model.encoder),
        "steps": trainer.state.global_step,
        "best": {"measure": settings.best, "value": trainer.state.best_metric, "step": trainer.state.best_global_step},
        "validation": validation_at(evaluations, trainer.state.best_global_step),
    }
    coder = Coder(model, tokenizer, corpus.code_book, rules, layout, thresholds, source, card)
    if trainer.is_world_process_zero():
        save_coder(coder, out / "model", overwrite=True)
        record = {"losses": [list(pair) for pair in losses], "evaluations": list(evaluations), "card": card}
        write_json(out / "training.json", record)
    trainer.accelerator.wait_for_everyone()
    return TrainingResult(coder, trainer.state.global_step, losses, evaluations, trainer.state.best_global_step)


def start_model(
    settings: TrainingSettings,
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    texts: Sequence[str],
    train_set: EncodedSplit,
) -> HilatModel:
    """The model before its first step, started as the settings say."""
    model = make_model(settings, tokenizer, corpus.code_book)
    if settings.encoder.startswith("new:"):
        start_new_encoder(model, tokenizer, texts, settings)
    if settings.bias_init == "prevalence":
        start_biases(model, train_set.targets)
    if settings.label_init == "associations":
        initialise_from_associations(model, train_set.documents, train_set.targets)
    return model


def _undo(out: Path) -> None:
    """Take back what `_begin` wrote; the folder too where nothing else is in it."""
    shutil.rmtree(out / _TRAINING, ignore_errors=True)
    (out / SETTINGS_FILE).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        out.rmdir()


def _begin(out: Path, settings: TrainingSettings, resume: bool) -> None:
    """Check that `out` may be used and write the settings there."""
    if rank_and_count()[0] > 0:
        return  # the first process checks and writes for all
    if not is_begun(out, settings.to_dict(), resume):
        shutil.rmtree(out / _TRAINING, ignore_errors=True)
    make_writable(out / _TRAINING)
    write_json(out / SETTINGS_FILE, run_record("train", settings.to_dict(), settings.seed))


def _trainer(
    model: HilatModel,
    tokenizer: PreTrainedTokenizerBase,
    settings: TrainingSettings,
    train_set: EncodedSplit,
    val_set: EncodedSplit | None,
    folder: Path,
    device: torch.device,
) -> Trainer:
    """The Trainer of the run, with our optimiser groups."""
    steps = optimiser_steps(settings, len(train_set))
    arguments = training_arguments(settings, folder, device, steps, validates=val_set is not None)
    if settings.batch_size % arguments.world_size:
        raise HilatError(
            f"setting batch_size is {settings.batch_size}, for {arguments.world_size} processes together; "
            "make it a multiple of their number"
        )
    collator = collator_of(tokenizer, settings)
    stopping = [EarlyStoppingCallback(settings.patience)] if settings.patience and val_set is not None else []
    trainer = (LengthTrainer if settings.batches == "by_length" else Trainer)(
        model=model,
        args=arguments,
        data_collator=collator,
        train_dataset=train_set,
        eval_dataset=val_set,
        compute_metrics=validation_measures if val_set is not None else None,
        callbacks=list(stopping),
        optimizers=optimiser_of(model, settings, steps),
    )
    trainer.remove_callback(PrinterCallback)  # it prints every log line; `tell` is ours
    return trainer


def collator_of(tokenizer: PreTrainedTokenizerBase, settings: TrainingSettings) -> Collator:
    """What makes the batches; masks tokens where the settings say so."""
    mask = cast("int | None", tokenizer.mask_token_id)
    if settings.token_dropout and mask is None:
        raise HilatError("setting token_dropout needs a mask token; this tokenizer has none. Set token_dropout: 0")
    return Collator(mask, settings.token_dropout)


def training_arguments(
    settings: TrainingSettings, folder: Path, device: torch.device, steps: int, *, validates: bool
) -> TrainingArguments:
    """The Trainer's arguments that the settings describe, for a run of so many steps in `folder`."""
    _, processes = rank_and_count()
    every = min(settings.evaluate_every, steps)
    on_gpu = device.type == "cuda"
    bf16 = settings.precision == "bf16" or (
        settings.precision == "auto" and on_gpu and torch.cuda.is_bf16_supported(including_emulation=False)
    )
    if settings.precision == "bf16" and device.type == "mps":
        raise HilatError("setting precision is bf16 on mps; expected float32 or auto there")
    # Passed only when asked for: transformers 5.17 knows it by another name.
    checkpointing: dict[str, Any] = {"activation_checkpointing": True} if settings.checkpointing else {}
    return TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=max(1, settings.batch_size // processes),
        per_device_eval_batch_size=max(1, settings.batch_size // processes),
        gradient_accumulation_steps=settings.accumulate,
        max_steps=steps,
        max_grad_norm=settings.max_grad_norm,
        bf16=bf16,
        **checkpointing,
        eval_strategy="steps" if validates else "no",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=settings.keep_checkpoints,
        load_best_model_at_end=validates,
        metric_for_best_model=f"eval_{settings.best}" if validates else None,
        greater_is_better=settings.best != "loss",
        logging_steps=max(1, min(50, steps // 20)),
        report_to=["tensorboard"],
        disable_tqdm=True,
        seed=settings.seed,
        data_seed=settings.seed,
        use_cpu=device.type == "cpu",
        remove_unused_columns=False,
        label_names=["labels"],
        dataloader_pin_memory=on_gpu,
        ddp_find_unused_parameters=False,
    )


def validation_measures(prediction: EvalPrediction) -> dict[str, float]:
    """The measures a checkpoint can be picked by, at threshold 0.5."""
    logits = prediction.predictions[0] if isinstance(prediction.predictions, tuple) else prediction.predictions
    if not np.isfinite(logits).all():
        raise HilatError(DIVERGED)
    probabilities = 1.0 / (1.0 + np.exp(-logits.astype(np.float64)))  # (N, K)
    targets = np.asarray(prediction.label_ids)
    measured = evaluate_codes(probabilities, targets, 0.5, threshold_source="fixed 0.5")
    return {
        "micro_f1": measured.micro_f1,
        "macro_f1": measured.macro_f1_mean_of_codes,
        "micro_auc": measured.micro_auc,
        "macro_auc": measured.macro_auc,
        "map": measured.mean_average_precision,
    }


def _thresholds(
    trainer: Trainer, val_set: EncodedSplit | None, settings: TrainingSettings, codes: int
) -> tuple[NDArray[np.float64], str]:
    if settings.threshold == "fixed" or val_set is None:
        return np.full(codes, 0.5), "fixed 0.5"
    logits = trainer.predict(val_set).predictions
    logits = logits[0] if isinstance(logits, tuple) else logits
    probabilities = 1.0 / (1.0 + np.exp(-np.asarray(logits, dtype=np.float64)))  # (N, K)
    tuned = tune_threshold(probabilities, val_set.targets, how=settings.threshold, tuned_on="val")  # type: ignore[arg-type]
    return tuned.values, f"{tuned.how}, tuned on val for {tuned.objective}"


def _history(log: Sequence[dict[str, Any]]) -> tuple[tuple[tuple[int, float], ...], tuple[dict[str, float], ...]]:
    losses = tuple((int(row["step"]), float(row["loss"])) for row in log if "loss" in row)
    evaluations = tuple(
        {key: float(value) for key, value in row.items() if key == "step" or key.startswith("eval_")}
        for row in log
        if "eval_loss" in row
    )
    return losses, evaluations

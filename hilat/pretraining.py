"""Continual pretraining of an encoder on clinical notes with transformers' Trainer (Liu et al. 2022, sections 3.1, 3.2, 4.1)."""

# ruff: noqa: ARG002 (a callback's signature is the Trainer's)
from __future__ import annotations

import contextlib
import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    get_scheduler,
)

from hilat.admissions import HilatError
from hilat.coder import checked_device
from hilat.files import new_folder, write_json
from hilat.pretraining_data import (
    HeldOutRows,
    Notes,
    PreparedNotes,
    Sequences,
    TrainingRows,
    cut_into_sequences,
    prepare_notes,
    read_prepared,
)
from hilat.pretraining_models import checked_objective, decay_groups, language_model, token_loss
from hilat.pretraining_settings import PretrainingSettings
from hilat.pretraining_targets import Aim, Questions, vocabulary_of
from hilat.processes import rank_and_count
from hilat.provenance import run_record
from hilat.runs import SETTINGS_FILE, is_begun, make_writable
from hilat.training import Tell, Watcher, complete_checkpoint

DIVERGED = "pretraining diverged: the loss is no longer a finite number; lower learning_rate or raise warmup"
ENCODER = "encoder"  # the folder in a run folder that `hilat train` takes as its encoder
_TRAINING, _DATA = "training", "data"
_PAUSE = 0.5  # seconds between looks for what the first process prepares


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The mean loss per predicted token (nats) on held-out notes after so many steps, and exp of it; NaN with a reason
    where nothing is held out. Under masked and permutation modelling alike the perplexity is that of the predicted
    tokens given the others, not of whole notes."""

    step: int
    loss: float
    perplexity: float
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class PretrainingResult:
    """What came of a run: the encoder's folder, the steps, the training loss by step, held-out losses by step, the card."""

    encoder: Path
    steps: int
    losses: tuple[tuple[int, float], ...]
    held_out: tuple[HeldOut, ...]
    card: dict[str, Any]


def pretrain(
    notes: Notes,
    settings: PretrainingSettings,
    out: Path,
    *,
    device: str = "auto",
    resume: bool = False,
    tell: Tell | None = None,
    tell_notes: Callable[[int], None] = lambda _: None,
) -> PretrainingResult:
    """Pretrain an encoder on notes and write it, with its tokenizer and language-model head, to `out/encoder`.

    `out` also gets `data/` (token ids, written once), `statistics.json`, `settings.json`, `training/` (checkpoints and
    TensorBoard logs, for `resume`) and, at the end, `pretraining.json`. Under `accelerate launch` or `torchrun` every
    process calls this; the batch size is that of all processes together. The last weights are the result, as in the paper.

    Raises:
        HilatError: no notes, an encoder of an unknown family or that does not fit its tokenizer, an existing run without
            `resume` or of other settings, or a loss that is no longer finite.
    """
    out = Path(out)
    objective = checked_objective(settings)  # wrong settings are told before anything is written
    _begin(out, settings, resume)
    try:
        prepared = _prepared(out, notes, settings, tell_notes)
        model, anew = language_model(settings, prepared.tokenizer, prepared.train.notes())
    except HilatError:
        with contextlib.suppress(OSError):  # not empty: notes are there, or a run
            out.rmdir()
        raise
    share = settings.share_predicted(objective)
    run = _Run(model, prepared, settings, Aim(objective, share, settings.max_span, settings.whole_words))
    _record(out, settings, notes, prepared)
    trainer = _trainer(run, out / _TRAINING, checked_device(device))
    watch = _Watch(trainer, run)
    trainer.add_callback(watch)
    if tell is not None:
        trainer.add_callback(Watcher(tell))
    checkpoint = complete_checkpoint(out / _TRAINING) if resume else None
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if not all(bool(torch.isfinite(p).all()) for p in model.parameters()):
        raise HilatError(DIVERGED)
    losses, held_out = _history(trainer.state.log_history, run.held_out_reason)
    card = _card(run, notes, anew, trainer.state.global_step, held_out)
    if trainer.is_world_process_zero():
        save_encoder(model, prepared.tokenizer, out / ENCODER, card)
        write_json(out / "pretraining.json", {"losses": [list(pair) for pair in losses], "card": card})
    trainer.accelerator.wait_for_everyone()
    return PretrainingResult(out / ENCODER, trainer.state.global_step, losses, held_out, card)


class _Run:
    """What a run works on: the model, the rows it reads and those it is measured on."""

    def __init__(
        self, model: PreTrainedModel, prepared: PreparedNotes, settings: PretrainingSettings, aim: Aim
    ) -> None:
        self.model, self.prepared, self.settings, self.aim = model, prepared, settings, aim
        vocabulary = vocabulary_of(prepared.tokenizer)
        if aim.objective == "masked" and vocabulary.mask is None:
            raise HilatError(
                "the tokenizer has no mask token, which masked modelling needs. Use the encoder's own tokenizer"
            )
        room = settings.sequence - len(vocabulary.frame.before) - len(vocabulary.frame.after)
        self.sequences = cut_into_sequences(prepared.train, room, settings.documents)
        held_out: Sequences = cut_into_sequences(prepared.held_out, room, settings.documents)
        self.steps = optimiser_steps(settings, len(self.sequences))
        rows = self.steps * settings.batch_size * settings.accumulate
        self.train = TrainingRows(self.sequences, vocabulary, aim, rows, settings.seed)
        self.held_out = HeldOutRows(held_out, vocabulary, aim, settings.held_out_sequences, settings.seed)
        self.questions = Questions(aim.objective, vocabulary.frame)

    @property
    def held_out_reason(self) -> str | None:
        """Why there is no held-out loss, if there is none."""
        if len(self.held_out):
            return None
        read = sum(int(row["notes"]) for row in self.prepared.statistics[-1:])
        return f"no note is held out (held_out is {self.settings.held_out}, of {read} notes)"


def optimiser_steps(settings: PretrainingSettings, sequences: int) -> int:
    """How many optimiser steps the run takes."""
    if settings.epochs is None:
        return settings.steps
    return max(1, math.ceil(settings.epochs * sequences / (settings.batch_size * settings.accumulate)))


def held_out_loss(model: PreTrainedModel, rows: HeldOutRows, questions: Questions, batch_size: int) -> Tensor:
    """The summed loss (nats) and the number of predicted tokens, (2,) float64, on this process's share of the rows.

    The model is in evaluation, so that nothing is drawn and the run goes on as if nothing had been measured.
    """
    device = next(model.parameters()).device
    rank, processes = rank_and_count()
    total = torch.zeros(2, dtype=torch.float64)
    mine = range(rank, len(rows), processes)
    was_training = model.training
    model.eval()  # type: ignore[no-untyped-call]
    try:
        with torch.no_grad():
            for start in range(0, len(mine), batch_size):
                batch = questions([rows[n] for n in mine[start : start + batch_size]])
                labels = batch.pop("labels").to(device)
                logits = model(**{name: values.to(device) for name, values in batch.items()}).logits
                total += torch.stack([token_loss(logits, labels), (labels >= 0).sum()]).double().cpu()
    finally:
        model.train(was_training)
    return total


class _Watch(TrainerCallback):
    """Measures held-out loss before, during and after, and stops a run whose loss is not finite."""

    def __init__(self, trainer: Trainer, run: _Run) -> None:
        self.trainer, self.run = trainer, run

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Before the first step."""
        if state.global_step == 0:
            self._measure()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """With every checkpoint and after the last step."""
        if state.global_step % args.save_steps == 0 or state.global_step == state.max_steps:
            self._measure()

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """After each loss."""
        logged = kwargs.get("logs") or {}
        if not all(math.isfinite(logged.get(name, 0.0)) for name in ("loss", "held_out_loss")):
            raise HilatError(DIVERGED)

    def _measure(self) -> None:
        if not len(self.run.held_out):
            return
        accelerator, settings = self.trainer.accelerator, self.run.settings
        with accelerator.autocast():
            share = held_out_loss(self.run.model, self.run.held_out, self.run.questions, settings.batch_size)
        if accelerator.num_processes > 1:
            share = cast(Tensor, accelerator.reduce(share.to(accelerator.device), "sum")).cpu()
        loss = float(share[0] / share[1])
        control = self.trainer.control
        due = control.should_log  # which logging takes back
        self.trainer.log({"held_out_loss": loss, "held_out_perplexity": math.exp(min(loss, 700.0))})
        control.should_log = due


def _loss(outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
    """The mean over all predicted tokens of a step, on however many processes and accumulated batches."""
    count = (labels >= 0).sum() if num_items_in_batch is None else num_items_in_batch
    return token_loss(outputs["logits"], labels) / count


def _trainer(run: _Run, folder: Path, device: torch.device) -> Trainer:
    settings = run.settings
    arguments = _arguments(settings, folder, device, run.steps)
    if settings.batch_size % arguments.world_size:
        raise HilatError(
            f"setting batch_size is {settings.batch_size}, for {arguments.world_size} processes together; "
            "make it a multiple of their number"
        )
    optimizer = torch.optim.AdamW(
        decay_groups(run.model, settings.weight_decay), lr=settings.learning_rate, eps=settings.adam_epsilon
    )
    warmup = int(settings.warmup if settings.warmup >= 1 else settings.warmup * run.steps)
    scheduler = get_scheduler(settings.schedule, optimizer, num_warmup_steps=warmup, num_training_steps=run.steps)
    trainer = Trainer(
        model=run.model,
        args=arguments,
        data_collator=cast(Any, run.questions),
        train_dataset=run.train,
        compute_loss_func=_loss,
        optimizers=(optimizer, cast(LambdaLR, scheduler)),
    )
    trainer.remove_callback(PrinterCallback)  # it prints every log line; `tell` is ours
    return trainer


def _arguments(settings: PretrainingSettings, folder: Path, device: torch.device, steps: int) -> TrainingArguments:
    on_gpu = device.type == "cuda"
    bf16 = settings.precision == "bf16" or (
        settings.precision == "auto" and on_gpu and torch.cuda.is_bf16_supported(including_emulation=False)
    )
    return TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=max(1, settings.batch_size // rank_and_count()[1]),
        gradient_accumulation_steps=settings.accumulate,
        max_steps=steps,
        max_grad_norm=settings.max_grad_norm,
        bf16=bf16,
        save_strategy="steps",
        save_steps=min(settings.evaluate_every, steps),
        save_total_limit=settings.keep_checkpoints,
        logging_steps=max(1, min(50, steps // 20)),
        logging_nan_inf_filter=False,
        report_to=["tensorboard"],
        disable_tqdm=True,
        seed=settings.seed,
        data_seed=settings.seed,
        train_sampling_strategy="sequential",  # the rows come in their order
        dataloader_num_workers=settings.workers,
        use_cpu=device.type == "cpu",
        remove_unused_columns=False,
        label_names=["labels"],
        dataloader_pin_memory=on_gpu,
        ddp_find_unused_parameters=False,
    )


def _begin(out: Path, settings: PretrainingSettings, resume: bool) -> None:
    """Check that `out` may be used, and take away what a killed beginning left there."""
    if rank_and_count()[0] > 0 or is_begun(out, settings.to_dict(), resume):
        return  # the first process checks and writes for all
    make_writable(out)
    for left in (out / _TRAINING, out / _DATA, *out.glob(f".{_DATA}.*")):
        shutil.rmtree(left, ignore_errors=True)


def _prepared(out: Path, notes: Notes, settings: PretrainingSettings, tell: Callable[[int], None]) -> PreparedNotes:
    """The run's notes, prepared by the first process where they are not there yet."""
    folder = out / _DATA
    if rank_and_count()[0] > 0:
        while not (out / SETTINGS_FILE).is_file():  # torchrun ends this process when the first one fails
            time.sleep(_PAUSE)
        return read_prepared(folder)
    if not (folder / "data.json").is_file():
        prepare_notes(folder, notes, settings, tell)
    return read_prepared(folder)


def _record(out: Path, settings: PretrainingSettings, notes: Notes, prepared: PreparedNotes) -> None:
    """Write the settings and the statistics: from here on there is a run that can be resumed."""
    if rank_and_count()[0] > 0 or (out / SETTINGS_FILE).is_file():
        return
    write_json(out / "statistics.json", prepared.statistics)
    record = run_record("pretrain", settings.to_dict(), settings.seed)
    write_json(out / SETTINGS_FILE, {**record, "notes": [source.to_dict() for source in notes.sources]})


def _history(
    log: Sequence[dict[str, Any]], reason: str | None
) -> tuple[tuple[tuple[int, float], ...], tuple[HeldOut, ...]]:
    losses = tuple((int(row["step"]), float(row["loss"])) for row in log if "loss" in row)
    if reason is not None:
        return losses, (HeldOut(0, math.nan, math.nan, reason),)
    measured = [row for row in log if "held_out_loss" in row]
    by_step = {
        int(row["step"]): HeldOut(int(row["step"]), row["held_out_loss"], row["held_out_perplexity"])
        for row in measured
    }
    return losses, tuple(by_step.values())


def _card(run: _Run, notes: Notes, anew: Sequence[str], steps: int, held_out: Sequence[HeldOut]) -> dict[str, Any]:
    """What the encoder was pretrained on and how, as plain values."""
    settings = run.settings
    vocabulary = "a new one, learned from these notes" if settings.tokenizer == "new" else "the checkpoint's"
    if settings.encoder.startswith("new:"):
        vocabulary = "learned from these notes"
    return {
        **run_record("pretrain", settings.to_dict(), settings.seed),
        "family": run.model.config.model_type,
        "objective": run.aim.objective,
        "share_predicted": run.aim.share,
        "vocabulary": {"origin": vocabulary, "size": len(run.prepared.tokenizer)},
        "started_anew": list(anew),
        "parameters": sum(p.numel() for p in run.model.parameters()),
        "sequences": {"train": len(run.sequences), "held_out": len(run.held_out), "tokens": settings.sequence},
        "notes": [source.to_dict() for source in notes.sources],
        "admissions_left_out": len(notes.without),
        "statistics": run.prepared.statistics,
        "steps": steps,
        "held_out": [
            {"step": m.step, "loss": m.loss, "perplexity": m.perplexity, "reason": m.reason} for m in held_out
        ],
    }


def save_encoder(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, card: dict[str, Any] | None = None
) -> None:
    """Write a language model with its tokenizer, and its card where given, as a folder that loads as an encoder."""
    with new_folder(folder, overwrite=True, what="encoder folder") as beside:
        model.save_pretrained(beside)
        tokenizer.save_pretrained(beside)
        if card is not None:
            write_json(beside / "pretraining.json", card)

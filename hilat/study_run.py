"""One run of a study in a folder of its own: train, score, and measure what it took."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from hilat.admissions import HilatError, plain_text
from hilat.coder import Coder, checked_device, load_coder
from hilat.corpora.folder import read_corpus, read_manifest
from hilat.evaluation import evaluate
from hilat.files import read_json, write_json
from hilat.provenance import run_record
from hilat.settings import settings_from
from hilat.study import Study, StudyRun, unlabelled_files
from hilat.training import train

RUN, RESULT, PROGRESS, PREDICTIONS = "run.json", "result.json", "progress.json", "predictions.safetensors"
_TOLD_EVERY = 2.0  # seconds


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What does not change a result: the device, admissions per forward pass of the scoring, whether to keep the model."""

    device: str = "auto"
    batch_size: int = 8
    keep_model: bool = True


@dataclass(frozen=True, slots=True)
class RunScores:
    """What a finished run left: the record in result.json, and the predictions behind it (N, K)."""

    record: dict[str, Any]
    hadm_ids: tuple[str, ...]
    probabilities: NDArray[np.float64]
    targets: NDArray[np.bool_]
    thresholds: NDArray[np.float64]


def begin_run(folder: Path, study: Study, run: StudyRun, options: RunOptions) -> None:
    """Write what `run_in` needs to know into the run's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "key": run.key,
        "row": run.row,
        "corpus": str(study.corpus),
        "unlabelled": None if study.unlabelled is None else str(study.unlabelled),
        "split": study.split,
        "settings": run.settings.to_dict(),
        "device": options.device,
        "batch_size": options.batch_size,
        "keep_model": options.keep_model,
    }
    write_json(folder / RUN, record)


def run_in(folder: Path) -> None:
    """Train and score the run that `begin_run` described, from where an earlier attempt stopped; writes result.json.

    Raises:
        HilatError: what `hilat.training.train` raises, or a GPU whose memory is too small.
    """
    run = read_json(folder / RUN, what="the description of a run of a study")
    try:
        _run(folder, run)
    except torch.OutOfMemoryError:
        raise HilatError(
            f"the memory of {run['device']} is too small for this run; lower batch_size and raise accumulate by as much, set "
            "checkpointing: true, or run fewer at a time (--jobs)"
        ) from None


def _run(folder: Path, run: dict[str, Any]) -> None:
    settings = settings_from(run["settings"], origin=str(folder / RUN))
    device = checked_device(run["device"])
    manifest = read_manifest(Path(run["corpus"]))
    wanted = [name for name in ("train", "val", run["split"]) if name in manifest["splits"]]
    corpus = read_corpus(Path(run["corpus"]), splits=tuple(dict.fromkeys(wanted)))
    clock = _Clock(folder / PROGRESS)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    if (folder / "model").is_dir() and (folder / "training.json").is_file():  # stopped while it was scored
        coder = load_coder(folder / "model", device)
    else:
        texts = _texts(run["unlabelled"])
        resume = (folder / "settings.json").is_file()
        coder = train(
            corpus, settings, folder, unlabelled=texts, device=str(device), resume=resume, tell=clock.tell
        ).coder
        clock.write()
    trained = peak_memory(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    admissions = corpus.split(run["split"])
    begun = time.monotonic()
    found = evaluate(coder, admissions, batch_size=run["batch_size"])
    seconds = time.monotonic() - begun
    save_file(
        {
            "probabilities": found.probabilities,
            "targets": (found.targets > 0.5).astype(np.uint8),
            "thresholds": np.ascontiguousarray(coder.thresholds),
        },
        folder / PREDICTIONS,
    )
    metrics = {name: value for name, value in found.metrics.to_dict().items() if name != "per_code"}
    write_json(
        folder / RESULT,
        {
            **run_record("study", settings.to_dict(), settings.seed),
            "key": run["key"],
            "split": run["split"],
            "hadm_ids": list(found.hadm_ids),
            "metrics": metrics,
            "truncated": {"documents": found.truncated_documents, "words": found.truncated_words},
            "best": coder.card.get("best"),
            "cost": {
                **_cost(coder, clock, seconds / len(admissions)),
                "training_memory": trained,
                "scoring_memory": peak_memory(device) if device.type == "cuda" else None,  # cannot be told apart
            },
        },
    )
    shutil.rmtree(folder / "training", ignore_errors=True)  # checkpoints
    if not run["keep_model"]:
        shutil.rmtree(folder / "model", ignore_errors=True)


def _cost(coder: Coder, clock: _Clock, seconds_per_document: float) -> dict[str, Any]:
    """What the run took. training_seconds: wall time of the training command, work repeated after a stop included."""
    device = coder.device
    return {
        "parameters": sum(p.numel() for p in coder.model.parameters()),
        "trained_parameters": sum(p.numel() for p in coder.model.parameters() if p.requires_grad),
        "training_seconds": clock.seconds,
        "training_cpu_seconds": clock.cpu_seconds,
        "seconds_per_document": seconds_per_document,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "threads": torch.get_num_threads(),
        "encoder_path": coder.card.get("encoder_path"),
    }


def peak_memory(device: torch.device) -> dict[str, Any]:
    """Bytes of the most memory so far, and what was measured: tensors on the GPU, or the resident set of this process."""
    if device.type == "cuda":
        return {"bytes": torch.cuda.max_memory_allocated(device), "of": "tensors on the GPU"}
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"bytes": most * (1 if sys.platform == "darwin" else 1024), "of": "resident set of the process"}


class _Clock:
    """Time spent on a run, over its attempts; kept in a file, which the command that started the run reads too."""

    def __init__(self, file: Path) -> None:
        before: dict[str, Any] = {}
        with contextlib.suppress(HilatError):
            before = read_json(file, what="the progress of a run")
        self.file = file
        self._parent = os.getppid()
        self.state = {"step": 0, "steps": 0, **before}
        self._wall = time.monotonic() - float(before.get("seconds") or 0)
        self._cpu = time.process_time() - float(before.get("cpu_seconds") or 0)
        self._told = 0.0
        self.seconds, self.cpu_seconds = float(before.get("seconds") or 0), float(before.get("cpu_seconds") or 0)

    def tell(self, step: int, steps: int, log: dict[str, Any]) -> None:
        """Of each step and each line of the log; written now and then.

        Raises:
            HilatError: the command that started this process is gone; its next call starts the run again.
        """
        if os.getppid() != self._parent:
            raise HilatError("the study that started this run has ended; run the same command again to go on with it")
        self.state |= {"step": step, "steps": steps}
        for name in ("loss", "eval_micro_f1"):
            if name in log:
                self.state[name] = float(log[name])
        if time.monotonic() - self._told > _TOLD_EVERY:
            self.write()

    def write(self) -> None:
        """Write the state."""
        self._told = time.monotonic()
        self.seconds, self.cpu_seconds = self._told - self._wall, time.process_time() - self._cpu
        write_json(self.file, {**self.state, "seconds": self.seconds, "cpu_seconds": self.cpu_seconds})


def _texts(folder: str | None) -> Sequence[str]:
    files = () if folder is None else unlabelled_files(Path(folder))
    return [plain_text(file.read_text(encoding="utf-8", errors="replace")) for file in files]


def finished(folder: Path, key: str) -> bool:
    """Whether the folder holds the result of the run of that key."""
    try:
        return bool(read_json(folder / RESULT, what="the result of a run")["key"] == key)
    except (HilatError, KeyError, TypeError):
        return False


def read_scores(folder: Path) -> RunScores:
    """The result of a finished run.

    Raises:
        HilatError: a file missing or damaged.
    """
    record = read_json(folder / RESULT, what="the result of a run")
    try:
        arrays = load_file(folder / PREDICTIONS)
        scores = RunScores(
            {name: value for name, value in record.items() if name != "hadm_ids"},
            tuple(record["hadm_ids"]),
            arrays["probabilities"],
            arrays["targets"] > 0,
            arrays["thresholds"],
        )
    except (OSError, SafetensorError, KeyError):
        raise HilatError(
            f"{folder} lacks the predictions of its result, or they are damaged; remove the folder and run again"
        ) from None
    return scores

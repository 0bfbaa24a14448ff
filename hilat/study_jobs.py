"""The runs of a study, some at a time, each in a process of its own; finished ones are kept, failed ones reported."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from hilat.admissions import HilatError
from hilat.files import read_json
from hilat.study import Study, StudyRun
from hilat.study_run import PROGRESS, RUN, RunOptions, begin_run, finished

_POLL, _TOLD_EVERY = 0.2, 30.0  # seconds
LOG = "log.txt"


@dataclass(frozen=True, slots=True)
class RunEvent:
    """What happened to a run. what: "kept" (finished before), "started", "finished", "failed" (reason says why).

    at: steps done and in all of the runs under way, on "progress" events, which come twice a minute with run None.
    """

    what: str
    run: StudyRun | None
    folder: Path | None
    seconds: float = 0.0
    reason: str = ""
    at: str = ""


Tell = Callable[[RunEvent], None]


@dataclass(slots=True)
class _Slot:
    run: StudyRun
    folder: Path
    process: subprocess.Popen[bytes]
    log: IO[bytes]
    begun: float
    device: str


def run_folder(out: Path, run: StudyRun) -> Path:
    """Where the run is or is to be: the folder of its key, also where another row had the same settings."""
    found = sorted((out / "runs").glob(f"*-{run.key}"))
    return found[0] if found else out / "runs" / run.folder_name


def state_of(out: Path, run: StudyRun) -> str:
    """ "finished", "begun" or "to run"."""
    folder = run_folder(out, run)
    if finished(folder, run.key):
        return "finished"
    return "begun" if (folder / RUN).is_file() else "to run"


def run_all(
    study: Study, runs: Sequence[StudyRun], out: Path, *, jobs: int, options: RunOptions, tell: Tell
) -> dict[str, str]:
    """Run what is not finished yet, `jobs` at a time; gives the reason of each run that failed, by its key.

    options.device may be several, comma between: the processes take them in turn. The machine's threads are divided among
    the processes. When interrupted, the processes are stopped; a later call goes on from their checkpoints.
    """
    if jobs < 1:
        raise HilatError(f"{jobs} jobs were asked for; expected 1 or more at a time. Correct --jobs")
    devices = [name.strip() for name in options.device.split(",") if name.strip()] or ["auto"]
    waiting: list[StudyRun] = []
    for run in runs:
        if finished(run_folder(out, run), run.key):
            tell(RunEvent("kept", run, run_folder(out, run)))
        elif run.key not in {other.key for other in waiting}:
            waiting.append(run)
    threads = max(1, _cores() // min(jobs, max(1, len(waiting))))
    failed: dict[str, str] = {}
    slots: list[_Slot] = []
    told = time.monotonic()
    try:
        while waiting or slots:
            while waiting and len(slots) < jobs:
                device = min(
                    devices, key=lambda name: (sum(slot.device == name for slot in slots), devices.index(name))
                )
                slots.append(_start(study, waiting.pop(0), out, replace(options, device=device), threads))
                tell(RunEvent("started", slots[-1].run, slots[-1].folder))
            time.sleep(_POLL)
            for slot in [slot for slot in slots if slot.process.poll() is not None]:
                slots.remove(slot)
                event = _ended(slot)
                if event.what == "failed":
                    failed[slot.run.key] = event.reason
                tell(event)
            if slots and time.monotonic() - told > _TOLD_EVERY:
                told = time.monotonic()
                tell(RunEvent("progress", None, None, at=", ".join(_progress(slot) for slot in slots)))
    finally:
        _stop(slots)
    return failed


def _cores() -> int:
    """Threads to divide: OMP_NUM_THREADS where it is set, or the cores that this process may use."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isdigit() and int(given) > 0:
        return int(given)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start(study: Study, run: StudyRun, out: Path, options: RunOptions, threads: int) -> _Slot:
    folder = run_folder(out, run)
    device, visible = visible_gpu(options.device, os.environ.get("CUDA_VISIBLE_DEVICES"))
    begin_run(folder, study, run, replace(options, device=device))
    environment = {
        **os.environ,
        **visible,
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "COLUMNS": "400",
    }
    log = (folder / LOG).open("wb")
    process = subprocess.Popen(
        command_of(folder),
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    return _Slot(run, folder, process, log, time.monotonic(), options.device)


def visible_gpu(device: str, already: str | None) -> tuple[str, dict[str, str]]:
    """For "cuda:N" the device "cuda" and the variable that shows a process only that GPU, since the Trainer takes every GPU it
    sees; `already` is the variable's value now. Other devices as they are."""
    kind, _, number = device.partition(":")
    if kind != "cuda" or not number.isdigit():
        return device, {}
    names = [name.strip() for name in already.split(",")] if already else []
    if already is not None and int(number) >= len(names):
        raise HilatError(
            f"device {device} was asked for, but CUDA_VISIBLE_DEVICES shows {len(names)} GPUs; expected a lower number. "
            "Correct --device"
        )
    return "cuda", {"CUDA_VISIBLE_DEVICES": names[int(number)] if names else number}


def command_of(folder: Path) -> list[str]:
    """What runs one run."""
    return [sys.executable, "-m", "hilat", "study-run", str(folder)]


def _ended(slot: _Slot) -> RunEvent:
    slot.log.close()
    seconds = time.monotonic() - slot.begun
    if slot.process.returncode == 0 and finished(slot.folder, slot.run.key):
        return RunEvent("finished", slot.run, slot.folder, seconds)
    return RunEvent("failed", slot.run, slot.folder, seconds, _reason(slot))


def _reason(slot: _Slot) -> str:
    """The error that the process told, in one line; or the signal that ended it."""
    said = (slot.folder / LOG).read_text(encoding="utf-8", errors="replace").split("error:")
    if len(said) > 1:
        return " ".join(said[-1].split())
    code = slot.process.returncode
    if code < 0:
        return f"ended by signal {-code}" + (" (perhaps out of memory; run fewer at a time)" if code == -9 else "")
    return f"ended with exit code {code} and no message; see {slot.folder / LOG}"


def _progress(slot: _Slot) -> str:
    try:
        state = read_json(slot.folder / PROGRESS, what="the progress of a run")
        return f"{slot.run.row} {state['step']}/{state['steps']}"
    except (HilatError, KeyError, TypeError):
        return f"{slot.run.row} starting"


def _stop(slots: Sequence[_Slot]) -> None:
    for slot in slots:
        slot.process.terminate()
    for slot in slots:
        try:
            slot.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            slot.process.kill()
            slot.process.wait()
        slot.log.close()

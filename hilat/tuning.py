"""A search for settings: Optuna through the hook of transformers' Trainer, judged on the val split only."""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import yaml

from hilat.admissions import HilatError
from hilat.coder import checked_device
from hilat.corpora import Corpus
from hilat.files import read_json, write_json, write_text
from hilat.provenance import run_record
from hilat.settings import TrainingSettings
from hilat.tuning_space import Search, with_values
from hilat.tuning_trainer import REASON, Judge, Material, Tell, TrialRow, changed_arguments, tuning_trainer

if TYPE_CHECKING:
    import optuna

SEARCH, STORAGE, TABLE, BEST = "search.json", "trials.log", "trials.csv", "best.yaml"
_NAME = "hilat"


@dataclass(frozen=True, slots=True)
class TuningResult:
    """All trials, and the best finished one with its settings."""

    trials: tuple[TrialRow, ...]
    best: TrialRow
    settings: TrainingSettings


def tune(
    corpus: Corpus,
    search: Search,
    out: Path,
    *,
    unlabelled: Sequence[str] = (),
    device: str = "auto",
    tell: Tell | None = None,
) -> TuningResult:
    """Try settings and write `out/trials.csv` (every trial) and `out/best.yaml` (settings that `hilat train` takes).

    A trial trains on the train split and its measure is the setting `best` on val, at its best evaluation, which is the
    checkpoint that `train` would keep. Each trial has a sampler seeded by its number, so that a search that was stopped and
    called again goes on as if it had not been; a trial that was cut off is run anew. `tell` is called at each evaluation
    and at each trial's end. No model is kept.

    Raises:
        HilatError: Optuna is not installed, no train or val split, another search in `out`, several processes, or no trial
            that finished.
    """
    _check_installed()
    _check_corpus(corpus)
    out = Path(out)
    _begin(out, search, corpus, unlabelled)
    place, judge = checked_device(device), Judge(search)
    material = Material(corpus, search, out, tuple(unlabelled))
    trainer = tuning_trainer(material, judge, out / "training", place, tell)
    study = _open(out, search)

    def one(done: int) -> None:
        """One trial of the hook, with the sampler of its number."""
        import optuna

        seed = int(np.random.SeedSequence((search.seed, done)).generate_state(1)[0])
        after = search.prune_after
        trainer.hyperparameter_search(
            hp_space=lambda trial: changed_arguments(material, trial, place),
            compute_objective=judge,
            n_trials=1,
            direction=search.direction,
            backend="optuna",
            storage=_storage(out),
            study_name=_NAME,
            load_if_exists=True,
            sampler=optuna.samplers.TPESampler(seed=seed),
            pruner=optuna.pruners.NopPruner() if after is None else optuna.pruners.MedianPruner(after),
            catch=(HilatError,),
        )

    while (done := sum(_ended(trial) for trial in study.get_trials(deepcopy=False))) < search.trials:
        try:
            one(done)
        except ValueError:  # the hook asks for the best of the trials, where none was finished yet
            if not _ended(study.get_trials(deepcopy=False)[-1]):
                raise
        if tell is not None:
            tell(_row(study.get_trials(deepcopy=False)[-1], search))
    return _write(study, search, out)


def _check_installed() -> None:
    if importlib.util.find_spec("optuna") is None:
        raise HilatError(
            "searching for settings needs Optuna, which is not installed; expected Optuna 4 or later. "
            "Install it: pip install 'hilat[tune]'"
        )


def _check_corpus(corpus: Corpus) -> None:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise HilatError(
            f"the search was started in {os.environ['WORLD_SIZE']} processes; expected one. Start it without a launcher"
        )
    missing = [name for name in ("train", "val") if name not in corpus.splits]
    if missing:
        raise HilatError(
            f"the corpus has no {' and no '.join(missing)} split; it has {', '.join(corpus.splits) or 'none'}. Trials are "
            "trained on train and judged on val, never on test: add the split"
        )


def _begin(out: Path, search: Search, corpus: Corpus, unlabelled: Sequence[str]) -> None:
    """Check that `out` holds this search or none, and write what it is."""
    digest = hashlib.sha256()
    for admission in (*corpus.split("train"), *corpus.split("val")):
        digest.update(repr((admission.hadm_id, admission.text, admission.codes)).encode())
    digest.update(repr(tuple(unlabelled)).encode())
    made_of = {**search.to_dict(), "corpus": digest.hexdigest()}
    if (out / SEARCH).exists():
        before = read_json(out / SEARCH, what="the record of a search")["search"]
        changed = sorted(name for name, value in made_of.items() if before.get(name) != value)
        if changed:
            raise HilatError(
                f"{out} holds another search ({', '.join(changed)} differ); expected the same one to go on with. Repeat "
                "it, or choose another --out"
            )
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HilatError(f"cannot write {out}: {error.strerror}; choose a folder that you may write to") from None
    record = run_record("tune", search.base.to_dict(), search.base.seed)
    write_json(out / SEARCH, {**record, "search": made_of})


def _open(out: Path, search: Search) -> optuna.Study:
    """The search in `out`; trials that a kill left unfinished are ended, to be run anew."""
    import optuna

    study = optuna.create_study(
        storage=_storage(out), study_name=_NAME, direction=search.direction, load_if_exists=True
    )
    for trial in study.get_trials(deepcopy=False):
        if trial.state == optuna.trial.TrialState.RUNNING:
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    return study


def _storage(out: Path) -> optuna.storages.JournalStorage:
    import optuna
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)  # trials are told by `tell`
    return optuna.storages.JournalStorage(JournalFileBackend(str(out / STORAGE)))


def _ended(trial: optuna.trial.FrozenTrial) -> bool:
    """Whether the trial came to an end of its own, rather than by a kill or a fault elsewhere."""
    return trial.state.name in ("COMPLETE", "PRUNED") or REASON in trial.user_attrs


def _row(trial: optuna.trial.FrozenTrial, search: Search) -> TrialRow:
    states = {"COMPLETE": "finished", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running", "WAITING": "waiting"}
    reached = sorted(trial.intermediate_values.items())  # (step, best so far)
    best = (max if search.direction == "maximize" else min)((value for _, value in reached), default=None)
    step = next((step for step, value in reached if value == best), None)
    seconds = trial.duration.total_seconds() if trial.duration else None
    reason = str(trial.user_attrs.get(REASON, ""))
    return TrialRow(trial.number, states[trial.state.name], dict(trial.params), best, step, seconds, reason)


def _write(study: optuna.Study, search: Search, out: Path) -> TuningResult:
    """Write the table of trials and the best settings.

    Raises:
        HilatError: no trial was finished.
    """
    rows = tuple(_row(trial, search) for trial in study.get_trials(deepcopy=False) if _ended(trial))
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["trial", "state", search.base.best, "step", "seconds", *search.space, "reason"])
    for row in rows:
        values = [row.values.get(name, "") for name in search.space]
        seconds = "" if row.seconds is None else round(row.seconds, 1)
        writer.writerow([row.number, row.state, row.measure, row.step, seconds, *values, row.reason])
    write_text(out / TABLE, table.getvalue())
    finished = [row for row in rows if row.state == "finished"]
    if not finished:
        reasons = "; ".join(dict.fromkeys(row.reason for row in rows if row.reason)) or "all were pruned"
        raise HilatError(
            f"none of the {len(rows)} trials was finished ({reasons}); expected one or more. Change the space, or run more "
            "trials (--trials)"
        )
    sign = 1 if search.direction == "maximize" else -1
    best = max(finished, key=lambda row: (sign * (row.measure or 0.0), -row.number))
    settings = with_values(search, best.values)
    head = f"# Trial {best.number} of {len(rows)}: {search.base.best} {best.measure} on val, at step {best.step}.\n"
    write_text(out / BEST, head + yaml.safe_dump(settings.to_dict(), sort_keys=False, allow_unicode=True))
    return TuningResult(rows, best, settings)

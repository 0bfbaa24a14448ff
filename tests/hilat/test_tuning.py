"""The search for settings: what its file means, trials, a stop in the middle, and that test is never read."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from hilat import tuning
from hilat.admissions import HilatError
from hilat.corpora import Corpus, read_corpus, write_corpus
from hilat.corpora.planted import PlantedSettings, make_planted
from hilat.settings import TrainingSettings, read_settings
from hilat.training import train
from hilat.tuning import tune
from hilat.tuning_space import FIXED, Choices, Range, Search, drawn, read_search
from hilat.tuning_trainer import TrialRow

TINY = TrainingSettings(
    encoder="new:xlnet",
    new_layers=1,
    new_width=16,
    new_heads=2,
    new_vocabulary=300,
    chunks=3,
    tokens=48,
    steps=4,
    batch_size=4,
    warmup=2,
    evaluate_every=2,
    best="micro_auc",
)
SPACE: dict[str, Range | Choices] = {
    "learning_rate": Range(1e-4, 1e-2, whole=False, log=True),
    "chunks": Range(2, 4, whole=True, step=2),
    "batches": Choices(("random", "by_length")),
}
GIVEN: dict[str, Any] = {
    "settings": {"steps": 4},
    "space": {
        "learning_rate": {"low": "1e-5", "high": 1e-3, "log": True},
        "batch_size": {"low": 8, "high": 24, "step": 8},
        "embedding_learning_rate": [None, 1e-3],
        "chunk_attention": ["shared", "mean"],
    },
    "trials": 7,
    "prune_after": None,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = make_planted(PlantedSettings(seed=1, train=16, val=8, test=4))
    path = tmp_path_factory.mktemp("tuning") / "corpus"
    write_corpus(path, made.admissions, made.code_book, source=made.source)
    return path


@pytest.fixture(scope="module")
def corpus(folder: Path) -> Corpus:
    return read_corpus(folder, splits=("train", "val"))


@pytest.fixture
def optuna() -> Any:
    """Optuna, which the extra `tune` installs."""
    return pytest.importorskip("optuna", reason="Optuna is not installed: pip install 'hilat[tune]'")


@pytest.fixture
def written(tmp_path: Path) -> Callable[[Any], Path]:
    def write(value: Any) -> Path:
        path = tmp_path / "search.yaml"
        path.write_text(value if isinstance(value, str) else yaml.safe_dump(value), encoding="utf-8")
        return path

    return write


def compared(rows: tuple[TrialRow, ...]) -> list[tuple[Any, ...]]:
    """What two searches must have in common."""
    return [(row.state, dict(row.values), row.measure, row.step) for row in rows]


def test_the_file_says_what_varies_and_flags_win(written: Callable[[Any], Path]) -> None:
    search = read_search(written(GIVEN), {"steps": 9}, trials=3)
    assert (search.trials, search.base.steps, search.prune_after, search.seed) == (3, 9, None, 0)
    assert search.space == {
        "learning_rate": Range(1e-5, 1e-3, whole=False, log=True),
        "batch_size": Range(8, 24, whole=True, step=8),
        "embedding_learning_rate": Choices((None, 1e-3)),
        "chunk_attention": Choices(("shared", "mean")),
    }
    assert search.direction == "maximize"
    assert replace(search, base=replace(search.base, best="loss")).direction == "minimize"


def with_space(**space: Any) -> dict[str, Any]:
    return {"space": space}


WRONG: dict[str, tuple[Any, str]] = {
    "unknown key": ({**GIVEN, "trial": 3}, "unknown key trial; known: settings, space, trials"),
    "unknown setting": (with_space(learning_rates=[1]), "unknown setting learning_rates; those that may vary: encoder"),
    "unknown base setting": ({**GIVEN, "settings": {"stepps": 1}}, "unknown setting stepps"),
    "no space": ({"settings": {}}, "empty space; expected one setting or more"),
    "empty space": ({"space": {}}, "empty space; expected one setting or more"),
    "no choices": (with_space(dropout=[]), "0 choices; expected one or more"),
    "a choice twice": (with_space(dropout=[0.1, 0.1]), "2 choices; expected one or more, each once"),
    "a choice of another type": (with_space(chunks=["many"]), "chunks to a str; expected int"),
    "an impossible choice": (with_space(chunk_attention=["median"]), "expected one of shared, per_code, mean"),
    "one value": (with_space(dropout=0.1), "a float; expected a list of choices, or {low"),
    "a range of names": (with_space(words={"low": "all", "high": "alphabetic"}), "low and high for a number"),
    "half a range": (with_space(dropout={"low": 0.1}), "expected low and high for a number"),
    "unknown key of a range": (with_space(dropout={"low": 0.1, "hi": 1}), "unknown key hi; known: low, high, log, step"),
    "upside down": (with_space(dropout={"low": 0.2, "high": 0.1}), "from 0.2 to 0.1; expected low up to high"),
    "log of nothing": (with_space(dropout={"low": 0, "high": 0.1, "log": True}), "above 0 with log"),
    "a step of fractions": (with_space(dropout={"low": 0, "high": 0.1, "step": 1}), "expected whole numbers without log"),
    "an odd step": (with_space(chunks={"low": 2, "high": 5, "step": 2}), "high reached in whole steps"),
    "out of bounds": (with_space(dropout={"low": 0.5, "high": 1.0}), "expected a share from 0 to below 1"),
    "set and varied": ({"settings": {"dropout": 0.1}, "space": {"dropout": [0.1, 0.2]}}, "both sets and varies dropout"),
    "trials": ({**GIVEN, "trials": 0}, "trials 0; expected a whole number of 1 or more"),
    "a list for a space": ({"space": [1]}, "space is a list; expected settings by name"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said(written: Callable[[Any], Path], name: str) -> None:
    given, words = WRONG[name]
    with pytest.raises(HilatError, match=words):
        read_search(written(given))


@pytest.mark.parametrize("name", FIXED)
def test_what_must_be_the_same_in_all_trials_may_not_vary(written: Callable[[Any], Path], name: str) -> None:
    with pytest.raises(HilatError, match="must be the same in all trials"):
        read_search(written(with_space(**{name: [getattr(TrainingSettings(), name)]})))


def test_the_example_is_a_search() -> None:
    search = read_search(Path(__file__).resolve().parents[2] / "examples" / "search.yaml")
    assert len(search.space) >= 3
    assert search.trials == 20


def test_what_is_drawn_lies_in_the_space_and_is_drawn_evenly_in_the_logarithm(optuna: Any) -> None:
    search = Search(TINY, SPACE)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    made = []
    for _ in range(200):
        trial = study.ask()
        made.append(drawn(search, trial))
        assert drawn(search, trial) == made[-1]
        study.tell(trial, 0.0)
    assert {one.chunks for one in made} == {2, 4}
    assert {one.batches for one in made} == {"random", "by_length"}
    assert all(1e-4 <= one.learning_rate <= 1e-2 for one in made)
    # The middle of the logarithm halves them: 100 of 200, standard deviation 7.
    assert 70 < sum(one.learning_rate < 1e-3 for one in made) < 130
    assert {one.steps for one in made} == {TINY.steps}


def test_the_best_trial_is_what_training_with_its_settings_gives(optuna: Any, corpus: Corpus, tmp_path: Path) -> None:
    """The whole way: the measure of each trial is that of `train`, and a search that was stopped ends as one that was not."""
    search = Search(TINY, SPACE, trials=3, prune_after=None)
    told: list[TrialRow] = []
    whole = tune(corpus, search, tmp_path / "whole", device="cpu", tell=told.append)
    assert [row.state for row in whole.trials] == ["finished"] * 3
    assert [row.number for row in told if row.state == "finished"] == [0, 1, 2]
    assert [row.step for row in told if row.state == "running"] == [2, 4] * 3
    assert whole.best.measure == max(row.measure for row in whole.trials if row.measure is not None)

    settings = read_settings(tmp_path / "whole" / "best.yaml")
    assert settings == whole.settings == replace(TINY, **whole.best.values)
    trained = train(corpus, settings, tmp_path / "run", device="cpu")
    assert trained.coder.card["best"] == {
        "measure": "micro_auc",
        "value": whole.best.measure,
        "step": whole.best.step,
    }
    with (tmp_path / "whole" / "trials.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["micro_auc"]) for row in rows] == [row.measure for row in whole.trials]
    assert [int(row["chunks"]) for row in rows] == [row.values["chunks"] for row in whole.trials]

    def stop(row: TrialRow) -> None:
        if row.number == 1 and row.state == "running":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(corpus, search, tmp_path / "stopped", device="cpu", tell=stop)
    # What a kill leaves behind: a trial that is forever running.
    study = optuna.load_study(study_name="hilat", storage=tuning._storage(tmp_path / "stopped"))
    study.ask()
    resumed = tune(corpus, search, tmp_path / "stopped", device="cpu")
    assert compared(resumed.trials) == compared(whole.trials)
    assert [row.number for row in resumed.trials] == [0, 3, 4]

    with pytest.raises(HilatError, match=r"holds another search \(seed, space differ\)"):
        tune(corpus, replace(search, seed=1, space={"dropout": Choices((0.0,))}), tmp_path / "whole")
    assert len(tune(corpus, search, tmp_path / "whole").trials) == 3  # nothing to do


def test_trials_that_fail_or_are_pruned_are_told_and_the_search_goes_on(
    optuna: Any, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measures are given here, by the learning rate: higher is better, and far too high gives no number."""
    del optuna
    from hilat import tuning_trainer

    current: list[TrainingSettings] = []
    begin = tuning_trainer.TuningTrainer.begin

    def noted(self: Any, settings: TrainingSettings, data: Any) -> None:
        current.append(settings)
        begin(self, settings, data)

    def measured(prediction: Any) -> dict[str, float]:
        del prediction
        rate = current[-1].learning_rate
        return {"micro_auc": float("nan") if rate == 3e-3 else rate}

    monkeypatch.setattr(tuning_trainer.TuningTrainer, "begin", noted)
    monkeypatch.setattr(tuning_trainer, "validation_measures", measured)
    rates = {"learning_rate": Choices((1e-3, 2e-3, 3e-3))}
    search = Search(replace(TINY, steps=2, evaluate_every=1), rates, trials=6, seed=2, prune_after=1)
    result = tune(corpus, search, tmp_path / "search", device="cpu")
    finished: list[float] = []
    for row in result.trials:
        rate = row.values["learning_rate"]
        if rate == 3e-3:
            assert (row.state, row.measure) == ("failed", None)
            assert "micro_auc is undefined on val" in row.reason
            continue
        cut = bool(finished) and rate < statistics.median(finished)  # after the first finished one, as prune_after says
        assert (row.state, row.measure, row.step) == ("pruned" if cut else "finished", rate, 1)
        finished += [] if cut else [rate]
    assert {row.state for row in result.trials} == {"finished", "pruned", "failed"}
    assert result.best.values == {"learning_rate": 2e-3}

    none = replace(search, space={"learning_rate": Choices((3e-3,))}, trials=2)
    with pytest.raises(HilatError, match=r"none of the 2 trials was finished \(micro_auc is undefined"):
        tune(corpus, none, tmp_path / "none", device="cpu")


def test_what_it_cannot_run_with_is_said(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    search = Search(TINY, SPACE)
    with monkeypatch.context() as patched:
        patched.setattr(tuning.importlib.util, "find_spec", lambda _: None)
        with pytest.raises(HilatError, match=r"Optuna, which is not installed; .* pip install 'hilat\[tune\]'"):
            tune(corpus, search, tmp_path / "out")
    monkeypatch.setattr(tuning, "_check_installed", lambda: None)
    bare = Corpus(corpus.split("train"), corpus.code_book, corpus.source)
    with pytest.raises(HilatError, match=r"no val split; it has train\. Trials are trained on train and judged on val"):
        tune(bare, search, tmp_path / "out")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(HilatError, match="started in 2 processes; expected one"):
        tune(corpus, search, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_reads_train_and_val_only(
    run: Callable[..., Any], written: Callable[[Any], Path], folder: Path, tmp_path: Path, optuna: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    del optuna
    import hilat.corpora

    read: list[Any] = []
    before = hilat.corpora.read_corpus

    def noted(path: Path, *, splits: Any = None) -> Corpus:
        read.append(splits)
        return before(path, splits=splits)

    monkeypatch.setattr(hilat.corpora, "read_corpus", noted)
    changed = {name: value for name, value in TINY.to_dict().items() if value != getattr(TrainingSettings(), name)}
    file = written({"settings": {**changed, "steps": 2}, "space": {"chunk_attention": ["mean", "max"]}, "trials": 5})
    answer = run("tune", file, "--corpus", folder, "--out", tmp_path / "out", "--trials", 1, "--device", "cpu")
    assert answer.code == 0, answer.said
    assert read == [("train", "val")]
    assert "best: trial 0" in answer.out
    assert "trial 0 finished" in answer.err
    wrong = run("tune", file, "--corpus", folder, "--out", tmp_path / "out", "--set", "stepps=1")
    assert wrong.code == 2
    assert "unknown setting stepps" in " ".join(wrong.err.split())

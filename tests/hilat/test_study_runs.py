"""A study's runs and tables: kept, resumed, reported; and what the tables say."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from hilat import study_jobs, study_run
from hilat.admissions import HilatError
from hilat.coder import load_coder
from hilat.corpora import read_corpus, write_corpus
from hilat.corpora.planted import PlantedSettings, make_planted
from hilat.evaluation import evaluate
from hilat.runs import alone_in
from hilat.significance import holm
from hilat.study import Study, StudyRun, plan_runs, read_study
from hilat.study_jobs import RunEvent, run_all, run_folder, state_of, visible_gpu
from hilat.study_run import RunOptions, begin_run, read_scores, run_in
from hilat.study_scores import MEASURES
from hilat.study_tables import as_json, gather, markdown, write_tables

STUDY = {
    "title": "Small",
    "reference": "full",
    "seeds": [0, 1],
    "settings": {"encoder": "new:xlnet", "new_layers": 1, "new_width": 16, "new_heads": 2, "new_vocabulary": 300, "chunks": 3,
                 "tokens": 48, "steps": 4, "batch_size": 4, "learning_rate": 1e-3, "warmup": 1, "evaluate_every": 2},
    "rows": [{"name": "full"}, {"name": "h", "label": "mean pooling", "settings": {"chunk_attention": "mean"}}],
}  # fmt: skip
CPU = RunOptions("cpu", 4)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """corpus/ and study.yaml."""
    folder = tmp_path_factory.mktemp("study")
    made = make_planted(PlantedSettings(seed=1, train=12, val=4, test=6))
    write_corpus(folder / "corpus", made.admissions, made.code_book, source=made.source)
    (folder / "study.yaml").write_text(yaml.safe_dump({**STUDY, "corpus": str(folder / "corpus")}), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def study(place: Path) -> Study:
    return read_study(place / "study.yaml")


@pytest.fixture(scope="module")
def done(place: Path, study: Study) -> Path:
    """A folder in which every run is finished, each run in this process."""
    out = place / "out"
    for run in plan_runs(study):
        begin_run(run_folder(out, run), study, run, CPU)
        run_in(run_folder(out, run))
    return out


def test_a_run_scores_as_evaluate_does_and_says_what_it_took(done: Path, study: Study, place: Path) -> None:
    run = plan_runs(study)[1]
    folder = run_folder(done, run)
    scores = read_scores(folder)
    coder = load_coder(folder / "model")
    found = evaluate(coder, read_corpus(place / "corpus").split("test"))
    np.testing.assert_allclose(scores.probabilities, found.probabilities, rtol=1e-6)
    assert scores.record["metrics"]["micro_f1"] == pytest.approx(found.metrics.micro_f1)
    assert scores.hadm_ids == found.hadm_ids
    cost = scores.record["cost"]
    assert cost["parameters"] == sum(p.numel() for p in coder.model.parameters())
    assert cost["training_seconds"] > 0
    assert cost["training_cpu_seconds"] > 0
    assert cost["seconds_per_document"] > 0
    assert 100 * 2**20 < cost["training_memory"]["bytes"] < 2**36  # torch alone takes more than 100 MB
    assert not (folder / "training").exists()


def stop(*_: Any, **__: Any) -> None:
    """What a kill looks like from inside."""
    raise KeyboardInterrupt


def test_a_run_that_was_stopped_while_it_was_scored_keeps_its_model(
    done: Path, study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = plan_runs(study)[0]
    folder = run_folder(tmp_path, run)
    begin_run(folder, study, run, replace(CPU, keep_model=False))
    with monkeypatch.context() as patched:
        patched.setattr(study_run, "evaluate", stop)
        with pytest.raises(KeyboardInterrupt):
            run_in(folder)
    assert state_of(tmp_path, run) == "begun"
    spent = json.loads((folder / "progress.json").read_text())["seconds"]
    with monkeypatch.context() as patched:
        patched.setattr(study_run, "train", None)  # not called again
        run_in(folder)
    assert state_of(tmp_path, run) == "finished"
    again, whole = read_scores(folder), read_scores(run_folder(done, run))
    np.testing.assert_array_equal(again.probabilities, whole.probabilities)
    assert again.record["cost"]["training_seconds"] == spent
    assert not (folder / "model").exists()


def test_a_run_that_was_stopped_while_it_trained_goes_on(done: Path, study: Study, tmp_path: Path) -> None:
    from hilat.training import train

    run = plan_runs(study)[0]
    folder = run_folder(tmp_path, run)
    begin_run(folder, study, run, CPU)

    def stop_at_3(*told: Any) -> None:
        if told[0] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(read_corpus(study.corpus), run.settings, folder, device="cpu", tell=stop_at_3)
    assert state_of(tmp_path, run) == "begun"
    run_in(folder)
    whole = read_scores(run_folder(done, run))
    np.testing.assert_array_equal(read_scores(folder).probabilities, whole.probabilities)


def test_a_run_ends_when_its_study_is_gone(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = plan_runs(study)[0]
    folder = run_folder(tmp_path, run)
    begin_run(folder, study, run, CPU)
    parents = iter([10] * 3 + [1] * 100)  # the clock's start, two steps, and then init
    monkeypatch.setattr(study_run.os, "getppid", lambda: next(parents))
    with pytest.raises(HilatError, match="has ended"):
        run_in(folder)
    assert state_of(tmp_path, run) == "begun"


FAKE = """
import json, pathlib, sys, os
folder = pathlib.Path(sys.argv[1])
run = json.loads((folder / "run.json").read_text())
(folder / "saw.json").write_text(json.dumps({"threads": os.environ["OMP_NUM_THREADS"], "device": run["device"],
                                         "gpu": os.environ.get("CUDA_VISIBLE_DEVICES")}))
if run["row"] == "h" and not (folder / "second").exists():
    (folder / "second").touch()
    print("error: the encoder is not there; expected one. Get it", file=sys.stderr)
    sys.exit(1)
(folder / "result.json").write_text(json.dumps({"key": run["key"]}))
"""


def test_failed_runs_are_told_the_others_go_on_and_only_what_is_missing_runs_again(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_jobs, "command_of", lambda folder: [sys.executable, "-c", FAKE, str(folder)])
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "6,7")
    events: list[RunEvent] = []
    runs = plan_runs(study)
    devices = replace(CPU, device="cuda:0, cuda:1")
    failed = run_all(study, runs, tmp_path, jobs=2, options=devices, tell=events.append)
    assert failed == {run.key: "the encoder is not there; expected one. Get it" for run in runs if run.row == "h"}
    assert [e.what for e in events].count("finished") == 2
    seen = [json.loads((run_folder(tmp_path, run) / "saw.json").read_text()) for run in runs]
    assert {s["threads"] for s in seen} == {"2"}
    assert {s["device"] for s in seen} == {"cuda"}
    assert {s["gpu"] for s in seen} == {"6", "7"}
    events.clear()
    assert run_all(study, runs, tmp_path, jobs=3, options=CPU, tell=events.append) == {}
    assert sorted(e.what for e in events) == ["finished", "finished", "kept", "kept", "started", "started"]
    same = (*runs, *(replace(run, row="another name") for run in runs))
    events.clear()
    run_all(study, same, tmp_path, jobs=1, options=CPU, tell=events.append)
    assert {e.what for e in events} == {"kept"}
    with pytest.raises(HilatError, match="expected 1 or more"):
        run_all(study, runs, tmp_path, jobs=0, options=CPU, tell=events.append)


def test_each_process_sees_its_own_gpu() -> None:
    assert visible_gpu("cuda:1", None) == ("cuda", {"CUDA_VISIBLE_DEVICES": "1"})
    assert visible_gpu("cuda:1", "4,GPU-x") == ("cuda", {"CUDA_VISIBLE_DEVICES": "GPU-x"})
    assert visible_gpu("cuda", "4") == ("cuda", {})
    assert visible_gpu("cpu", None) == ("cpu", {})
    for already in ("", "3"):
        with pytest.raises(HilatError, match="Correct --device"):
            visible_gpu("cuda:1", already)


def test_a_run_that_is_killed_is_told(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for code, words in (
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "signal 9"),
        ("pass", "no message"),
    ):
        monkeypatch.setattr(study_jobs, "command_of", lambda _, code=code: [sys.executable, "-c", code])
        failed = run_all(study, plan_runs(study)[:1], tmp_path, jobs=1, options=CPU, tell=lambda _: None)
        assert words in next(iter(failed.values()))


def told(_: str) -> None:
    """Nobody listens."""


def test_the_tables_say_what_the_runs_gave(done: Path, study: Study, tmp_path: Path) -> None:
    runs = plan_runs(study)
    result = gather(study, runs, done, {}, resamples=200, tell=told)
    assert result is not None
    by_row: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        record = json.loads((run_folder(done, run) / "result.json").read_text())
        by_row.setdefault(run.row, []).append(record["metrics"])
    for row in result.rows:
        for m, (mean, sd) in row.scores.items():
            values = [x["precision_at"][m[13:]] if m.startswith("precision_at") else x[m] for x in by_row[row.row.name]]
            values = [np.nan if v is None else v for v in values]
            np.testing.assert_allclose((mean, sd), (np.mean(values), np.std(values, ddof=1)), atol=1e-12)
    full, mean_row = result.rows
    for m in MEASURES:
        best = max(("full", "h"), key=lambda name: result.rows[name == "h"].scores[m][0])
        assert result.best[m] == best
        assert set(full.to_best if best == "h" else mean_row.to_best) >= {m}
        found = mean_row.to_reference[m]
        np.testing.assert_allclose(found.tested.difference, mean_row.scores[m][0] - full.scores[m][0], atol=1e-9)
        assert found.p_holm == holm([found.tested.p])[0]
    write_tables(result, tmp_path)
    text = (tmp_path / "table.md").read_text()
    assert "| h) mean pooling |" in text
    assert "6 admissions" in text
    assert "fixed 0.5" in text
    assert json.loads((tmp_path / "table.json").read_text())["rows"][1]["changed"] == {"chunk_attention": "mean"}
    lines = list(csv.DictReader(io.StringIO((tmp_path / "table.csv").read_text())))
    assert [(x["row"], x["measure"]) for x in lines] == [(name, m) for name in ("full", "h") for m in MEASURES]
    assert float(lines[8]["mean"]) == pytest.approx(full.scores["micro_f1"][0])
    assert (lines[0]["difference"], lines[0]["reference"]) == ("", "full")


def test_marks_follow_the_levels(done: Path, study: Study) -> None:
    result = gather(study, plan_runs(study), done, {}, resamples=200, tell=told)
    assert result is not None
    row = result.rows[1]
    one = row.to_reference["micro_f1"]
    text = {}
    for p in (0.2, 0.05, 0.01):
        marked = replace(one, p_holm=p)
        changed = replace(row, to_reference={"micro_f1": marked}, to_best={"micro_f1": marked})
        table = markdown(replace(result, rows=(result.rows[0], changed), best=dict.fromkeys(MEASURES, "full")))
        scores, differences, _ = (line for line in table.splitlines() if line.startswith("| h)"))
        text[p] = (scores.split(" | ")[9].endswith("*"), differences.split(" | ")[9].count("†"))
    assert text == {0.2: (True, 0), 0.05: (False, 1), 0.01: (False, 2)}


def test_missing_seeds_are_told_and_pairs_are_of_common_seeds(done: Path, study: Study, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(done, tmp_path / "part")
    runs = plan_runs(study)
    lost: StudyRun = runs[3]
    shutil.rmtree(run_folder(tmp_path / "part", lost))
    result = gather(study, runs, tmp_path / "part", {lost.key: "no memory"}, resamples=100, tell=told)
    assert result is not None
    assert (result.rows[1].seeds, result.rows[1].missing) == ((0,), (1,))
    assert len(result.rows[1].to_reference["micro_f1"].tested.by_seed) == 1
    assert "h: no result of seed 1." in markdown(result)
    assert as_json(result)["failed"] == [{"row": "h", "seed": 1, "reason": "no memory"}]
    assert gather(study, runs, tmp_path / "nothing", {}, resamples=100, tell=told) is None


def test_a_damaged_result_is_told(done: Path, study: Study, tmp_path: Path) -> None:
    import shutil

    run = plan_runs(study)[0]
    shutil.copytree(run_folder(done, run), tmp_path / "run")
    (tmp_path / "run" / "predictions.safetensors").write_bytes(b"xx")
    with pytest.raises(HilatError, match="damaged; remove the folder"):
        read_scores(tmp_path / "run")


def test_the_command_lists_shows_and_refuses(run: Callable[..., Any], place: Path, done: Path) -> None:
    file = place / "study.yaml"
    plan = run("study", file, "--out", done, "--dry-run", "--seeds", "0,1,2", "--json")
    assert plan.code == 0, plan.err
    assert [r["state"] for r in plan.json["runs"]] == ["finished"] * 4 + ["to run"] * 2
    listed = run("study", file, "--out", done, "--dry-run").out
    assert "4 runs (4 different): 2 rows x 2 seeds; 4 finished" in listed
    assert "chunk_attention=mean" in listed
    shown = run("study", file, "--out", done, "--resamples", "100")
    assert shown.code == 0, shown.err
    assert "micro F1" in shown.out
    assert shown.err.count("was finished before") == 4
    found = run("study", file, "--out", done, "--resamples", "100", "--rows", "h", "--json")
    assert [r["name"] for r in found.json["rows"]] == ["full", "h"]  # the reference stays
    for arguments, code, words in (
        (("--rows", "x"), 1, "has no row x; its rows are full, h"),
        (("--seeds", "a"), 2, "whole numbers"),
        (("--set", "stepps=2"), 1, "unknown setting stepps"),
        (("--corpus", place / "none"), 1, "expected a corpus folder"),
    ):
        answer = run("study", file, "--out", place / "new", *arguments)
        assert (answer.code, words in " ".join((answer.out + answer.err).split())) == (code, True), answer.err
        assert not (place / "new").exists()
    assert "Examples" in run("study", "--help").out


def test_a_second_study_in_a_folder_is_refused_while_one_is_at_work(
    run: Callable[..., Any], place: Path, done: Path
) -> None:
    arguments = ("study", place / "study.yaml", "--out", done, "--resamples", "100")
    with alone_in(done, "hilat study"):
        refused = run(*arguments)
        assert refused.code == 1
        assert "another hilat study is at work" in " ".join(refused.err.split())
    assert run(*arguments).code == 0


SMALL = {
    "new_width": 16,
    "new_heads": 2,
    "new_layers": 2,
    "new_vocabulary": 300,
    "steps": 2,
    "epochs": None,
    "batch_size": 4,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ablations-planted", "ablations-codiesp", "encoders-planted"])
def test_every_row_of_the_examples_runs(place: Path, tmp_path: Path, name: str) -> None:
    """Trained for two steps on a few built-in notes."""
    file = Path(__file__).resolve().parents[2] / "examples" / "studies" / f"{name}.yaml"
    given = yaml.safe_load(file.read_text(encoding="utf-8"))
    given |= {"corpus": str(place / "corpus"), "split": "test", "settings": given["settings"] | SMALL, "seeds": [0]}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(given), encoding="utf-8")
    study = read_study(tmp_path / "small.yaml")
    for run in plan_runs(study):
        begin_run(run_folder(tmp_path, run), study, run, CPU)
        run_in(run_folder(tmp_path, run))
    result = gather(study, plan_runs(study), tmp_path, {}, resamples=100, tell=told)
    assert result is not None
    assert all(row.seeds == (0,) and np.isfinite(row.scores["micro_f1"][0]) for row in result.rows)
    if name.startswith("ablations"):
        codes, width = result.codes, 16
        parameters = {row.row.name: row.costs["parameters"] - result.rows[0].costs["parameters"] for row in result.rows}
        chunks = given["settings"]["chunks"]
        assert parameters["g"] == (chunks - 1) * (width * width + codes * width)
        assert parameters["h"] == parameters["i"] == -(width * width + width)
        assert parameters["j"] == (chunks - 1) * codes * width - (width * width + width)
        assert {m for m, n in parameters.items() if n == 0} == {"full", "a", "b", "c", "d", "e", "f"}


@pytest.mark.slow
def test_two_processes_at_a_time_give_what_one_process_gives(
    run: Callable[..., Any], place: Path, done: Path, study: Study, tmp_path: Path
) -> None:
    broken = yaml.safe_load((place / "study.yaml").read_text())
    broken["rows"].append({"name": "broken", "settings": {"encoder": str(tmp_path / "nothing")}})
    (tmp_path / "broken.yaml").write_text(yaml.safe_dump(broken))
    answer = run(
        "study",
        tmp_path / "broken.yaml",
        "--out",
        tmp_path / "o",
        "--jobs",
        "2",
        "--device",
        "cpu",
        "--resamples",
        "100",
    )
    assert answer.code == 1
    assert "2 of 6 runs failed" in answer.err
    assert "expected one that holds a tokenizer" in (tmp_path / "o" / "table.md").read_text()
    for one in plan_runs(study):
        mine, theirs = read_scores(run_folder(tmp_path / "o", one)), read_scores(run_folder(done, one))
        np.testing.assert_allclose(mine.probabilities, theirs.probabilities, rtol=1e-4)

"""Two real processes give what one gives, bit for bit; one that fails is told, and nothing is left half-written."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from explain.resuming import begin
from hilat.admissions import HilatError
from hilat.cleaning import CleaningRules
from hilat.coder import Coder, save_coder
from hilat.corpora import write_corpus
from hilat.corpora.planted import PlantedSettings, make_planted
from hilat.encoding import ChunkLayout
from hilat.files import read_json
from hilat.model import build_model
from hilat.processes import ALONE, Processes, folder_to_make, rank_and_count
from hilat.vocabulary import train_sentencepiece

Run = Callable[..., Any]  # of conftest.py
ROOT = Path(__file__).parents[2]
# Runs several commands one after the other, each with a port of its own; with FAIL, the second part of notes fails.
SCRIPT = """
import json, os, sys
import explain.writing
from hilat.cli import main

if os.environ.get("FAIL") == os.environ["RANK"]:
    real, calls = explain.writing._write_part, []

    def fails(folder, *rest):
        calls.append(folder)
        if len(calls) == 2:
            raise OSError(28, "No space left on device", str(folder))
        real(folder, *rest)

    explain.writing._write_part = fails
for port, *arguments in json.loads(sys.argv[1]):
    os.environ["MASTER_PORT"], sys.argv = port, ["hilat", *arguments]
    try:
        main()
    except SystemExit as stop:
        if stop.code:
            raise
"""


def free_ports(count: int) -> list[str]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [str(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


def two_processes(commands: Sequence[Sequence[object]], fail: str = "") -> list[tuple[int, str, str]]:
    """Exit code, standard output and error of each of two processes that run the commands together, as torchrun starts them."""
    ports = free_ports(len(commands))
    given = json.dumps([[port, *map(str, command)] for port, command in zip(ports, commands, strict=True)])
    common = {**os.environ, "MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1", "FAIL": fail}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, given],
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [process.communicate(timeout=200) for process in started]
    return [(process.returncode, out, err) for process, (out, err) in zip(started, said, strict=True)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a corpus of 70 test notes and a model with random weights."""
    folder = tmp_path_factory.mktemp("processes")
    made = make_planted(PlantedSettings(seed=3, train=1, val=0, test=70))
    write_corpus(folder / "corpus", made.admissions, made.code_book, source="planted")
    tokenizer = train_sentencepiece([a.text.lower() for a in made.admissions], folder / "t", vocab_size=300, seed=0)
    encoder = {"model_type": "xlnet", "vocab_size": len(tokenizer), "d_model": 16, "n_layer": 1, "n_head": 2, "d_inner": 16, "pad_token_id": tokenizer.pad_token_id, "initializer_range": 0.3}  # fmt: skip
    n = len(made.code_book)
    model = build_model(encoder, n, chunks=4, tokens=130, seed=0, init_std=0.5).eval()
    coder = Coder(model, tokenizer, made.code_book, CleaningRules(), ChunkLayout(4, 130), np.full(n, 0.6), "fixed 0.6")
    save_coder(coder, folder / "model")
    return folder


def commands(place: Path, out: Path) -> list[list[object]]:
    model = ["--model", place / "model", "--corpus", place / "corpus", "--device", "cpu"]
    return [
        ["explain", *model, "--out", out / "explain", "--codes", "401.9,gold", "--batch-size", "4"],
        ["evaluate", *model, "--out", out / "scores.json"],
        ["faithfulness", *model, "--explanations", out / "explain", "--out", out / "faith", "--steps", "3",
         "--groups", "0", "--no-leave-one-out", "--admissions", "5"],
        ["attention-tests", *model, "--explanations", out / "explain", "--out", out / "tests", "--trials", "2",
         "--starts", "1", "--admissions", "3", "--randomise", "1"],
    ]  # fmt: skip


@pytest.fixture(scope="module")
def alone(place: Path, run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process gives."""
    out = tmp_path_factory.mktemp("alone")
    for command in commands(place, out):
        assert run(*command).code == 0
    return out


def test_two_processes_give_what_one_gives(place: Path, alone: Path, tmp_path: Path) -> None:
    first, second = two_processes(commands(place, tmp_path))
    assert (first[0], second[0]) == (0, 0), first[2] + second[2]
    assert second[1] == ""  # the first one tells the result
    assert "70 admissions explained" in first[1]
    names = sorted(path.relative_to(alone).as_posix() for path in alone.rglob("*.parquet"))
    assert len(names) == 5 + 2 + 1
    for name in names:
        assert (tmp_path / name).read_bytes() == (alone / name).read_bytes(), name
    assert scores(tmp_path / "scores.json") == scores(alone / "scores.json")
    assert summary(tmp_path / "faith") == summary(alone / "faith")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["explain", "faith", "scores.json", "tests"]


def scores(path: Path) -> Any:
    return read_json(path, what="scores")["metrics"]


def summary(folder: Path) -> Any:
    return read_json(folder / "summary.json", what="a summary")


def test_a_process_that_fails_is_told_and_the_run_goes_on_later(
    place: Path, alone: Path, run: Run, tmp_path: Path
) -> None:
    command = commands(place, tmp_path)[0]
    first, second = two_processes([command], fail="1")
    assert (first[0], second[0]) == (1, 1)
    assert "process 1: error: the system refused" in second[2]
    assert "process 0: error: another of the 2 processes was stopped" in first[2]
    assert "Traceback" not in first[2] + second[2]
    partial = tmp_path / "explain.partial"
    assert [path.name for path in tmp_path.iterdir()] == [partial.name]
    kept = sorted(path.name for path in partial.glob("*"))
    assert kept == ["key.json", "part-000000", "part-000001", "part-000002", "part-000004"]  # 3 was process 1's second
    before = {path: path.stat().st_mtime_ns for path in partial.glob("part-*")}
    answer = run(*command)  # one process goes on with what two began
    assert answer.code == 0
    assert "going on after 64 admissions" in answer.err
    assert len(before) == 4
    for name in ("pairs", "scores", "methods", "words", "unseen"):
        assert (tmp_path / f"explain/{name}.parquet").read_bytes() == (alone / f"explain/{name}.parquet").read_bytes()
    assert pq.ParquetFile(tmp_path / "explain/pairs.parquet").num_row_groups < 70


@pytest.mark.parametrize("kept", [False, True])
def test_only_the_first_process_makes_the_shared_folder(
    kept: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It clears what an earlier run left there, at any time before or after the others have come so far."""
    shared = tmp_path / "training" / "tokenizer"
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with folder_to_make(shared, kept=kept) as folder:
        assert folder == shared
    monkeypatch.setenv("RANK", "1")
    with folder_to_make(shared, kept=kept) as folder:
        assert folder.name == "tokenizer"
        assert tmp_path not in folder.parents
        folder.mkdir()
    assert not folder.exists()
    assert not shared.parent.exists()
    shared.mkdir(parents=True)
    with folder_to_make(shared, kept=kept) as folder:
        assert (folder == shared) == kept


def test_several_processes_need_a_folder_to_meet() -> None:
    with pytest.raises(HilatError, match="Pass --out"):
        begin(None, {}, processes=Processes(1, 2))


def test_shares_are_all_items_once() -> None:
    items = list(range(11))
    shares = [Processes(rank, 3).share(items) for rank in range(3)]
    assert sorted(item for share in shares for item in share) == items
    assert ALONE.share(items) == items
    assert [Processes(rank, 3).first for rank in range(3)] == [True, False, False]


def test_wrong_variables_are_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert rank_and_count() == (0, 1)
    before = signal.getsignal(signal.SIGTERM)
    for rank, count in (("2", "2"), ("one", "2"), ("0", "0")):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", count)
        answer = run("evaluate", "--model", "none", "--corpus", "none")
        assert answer.code == 1
        assert "Start with torchrun or accelerate launch" in answer.err
    assert signal.getsignal(signal.SIGTERM) == before

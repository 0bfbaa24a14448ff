"""The benchmark of all codes: what its step does, and that the numbers of a run are shown and written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

all_codes = pytest.importorskip("benchmarks.all_codes")  # in the checkout, not in the package


def small() -> Any:
    return all_codes.Size(codes=40, layers=1, width=64, chunks=2, tokens=16, vocabulary=60)


def test_a_step_trains_the_whole_model_and_tells_its_peak() -> None:
    torch.manual_seed(0)
    model, batch = all_codes.model_of(small()), all_codes.document(small())
    assert batch["labels"].sum() == 16
    assert batch["attention_mask"].all()
    before = {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    taken = [all_codes.step(model, optimizer, batch) for _ in range(8)]
    assert taken[-1]["loss"] < taken[0]["loss"]
    assert all(one["peak_mb"] > 0 and one["cpu_s"] > 0 for one in taken)
    now = dict(model.named_parameters())
    assert [name for name, value in before.items() if torch.equal(value, now[name])] == []


def test_drawn_targets_have_the_shares_of_the_corpus() -> None:
    scores, targets = all_codes.drawn(500, 1000)
    assert targets.sum(axis=1).mean() == pytest.approx(all_codes.code_shares(1000).sum(), rel=0.05)
    assert scores.min() >= 0
    assert scores.max() <= 1


def test_numbers_are_shown_and_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["all_codes", "--quick", "--out", str(tmp_path / "out.json")])
    one = {"loss": 0.7, "cpu_s": 61.0, "wall_s": 62.0, "peak_mb": 12340.0}
    answers = {
        all_codes.two_steps: {"checkpointing": False, "parameters": 1_500_000, "first": one, "second": one},
        all_codes.scoring: {"admissions": 20, "given_mb": 1.0, "extra_mb": 2.0, "cpu_s": 3.0},
    }
    monkeypatch.setattr(all_codes, "in_new_process", lambda what, *_: answers[what])
    all_codes.main()
    assert json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))["steps"][0]["second"] == one
    assert "12.34" in capsys.readouterr().out

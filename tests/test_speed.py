"""The benchmark of speed: its parts, its ratios and its file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

speed = pytest.importorskip("benchmarks.speed")  # in the checkout, not in the package
document = pytest.importorskip("benchmarks.speed_document")
attention = pytest.importorskip("benchmarks.speed_attention")


def test_every_part_has_its_three_functions() -> None:
    for name, part in speed.PARTS.items():
        assert all(callable(getattr(part, job)) for job in ("measure", "show", "summary")), name


class _Part:
    """A part whose plain way took three seconds, and ours two."""

    @staticmethod
    def measure(quick: bool) -> list[dict[str, Any]]:
        return [{"plain": 3.0, "ours": 2.0, "quick": quick}]

    @staticmethod
    def show(rows: list[dict[str, Any]]) -> None:
        assert rows

    @staticmethod
    def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [
            {"what": "a step", "plain": "3 s", "ours": "2 s", "ratio": row["plain"] / row["ours"], "target": "2"}
            for row in rows
        ]


def test_numbers_are_shown_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    threads = torch.get_num_threads()
    monkeypatch.setattr(speed, "PARTS", {"one": _Part, "other": _Part})
    monkeypatch.setattr(speed, "quiet_libraries", lambda: None)
    monkeypatch.setattr(speed.torch, "set_num_threads", lambda _: None)
    monkeypatch.setattr("sys.argv", ["speed", "--quick", "--only", "one", "--out", str(tmp_path / "speed.json")])
    speed.main()
    written = json.loads((tmp_path / "speed.json").read_text(encoding="utf-8"))
    assert written["one"] == [{"plain": 3.0, "ours": 2.0, "quick": True}]
    assert written["summary"][0]["ratio"] == 1.5
    assert f"{threads} thread(s), torch {torch.__version__}" in written["machine"]
    assert "other" not in written
    line = next(line for line in capsys.readouterr().out.splitlines() if "a step" in line)
    assert "1.50" in line


@pytest.mark.skipif(
    attention.relative_attention_compiled.missing() is not None, reason="attention is not compiled here"
)
@pytest.mark.parametrize("case", attention.CASES, ids=lambda case: case.name)
def test_both_ways_of_attention_give_the_same(case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "TOKENS", 40)
    steps = attention.steps(case)
    assert set(steps) == {f"{direction} in {way}" for direction in ("forward", "backward") for way in ("C", "blocks")}
    for direction in ("forward", "backward") if not case.p else ():  # dropout draws other masks
        ours, blocks = steps[f"{direction} in C"](), steps[f"{direction} in blocks"]()
        torch.testing.assert_close(ours, blocks, rtol=1e-4, atol=1e-4)


def test_the_documents_have_their_lengths() -> None:
    inputs = document.documents(512)
    assert inputs["input_ids"].shape == (4, 10, 512)
    real = inputs["attention_mask"].sum((1, 2)) - 2 * 10  # two special tokens a chunk
    assert real.tolist() == list(document.LENGTHS)
    ids, types = inputs["input_ids"][0, 3], inputs["token_type_ids"][0, 3]  # an empty chunk
    assert ids[:4].tolist() == [4, 3, 5, 5]
    assert types[:4].tolist() == [0, 2, 3, 3]
    ids = inputs["input_ids"][0, 2]  # 350 tokens, then <sep> and <cls>
    assert ids[350:353].tolist() == [4, 3, 5]
    assert (ids[:350] > 5).all()


def test_the_summary_compares_with_the_plain_path() -> None:
    case = document.CASES[0].name
    rows = [
        {"case": case, "way": "plain", "seconds": 6.0, "ratio": 1.0, "peak_mb": 900.0},
        {"case": case, "way": "ours", "seconds": 1.5, "ratio": 4.0, "peak_mb": 300.0},
        {"case": case, "way": "at best", "seconds": 1.2, "ratio": 5.0, "peak_mb": None},
    ]
    time, memory = document.summary(rows)
    assert (time["plain"], time["ours"], time["ratio"], time["target"]) == ("6.00 s", "1.50 s", 4.0, "5")
    assert (memory["plain"], memory["ours"], memory["ratio"], memory["target"]) == ("900 MB", "300 MB", 3.0, "3")


@pytest.mark.slow
def test_ways_in_processes_of_their_own() -> None:
    apart = pytest.importorskip("benchmarks.speed_apart")
    row = apart.measure(document.Case(False, False, 0.0, 1, width=64, layers=1), 1)
    assert row["ratio"] == row["plain_seconds"] / row["ours_seconds"]
    assert min(row["plain_seconds"], row["ours_seconds"]) > 0
    assert {case.threads for case in apart.MASKED} == {1}
    assert not any(case.attend_padding for case in apart.MASKED)

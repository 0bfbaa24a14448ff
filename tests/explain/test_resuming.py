"""A measurement that is stopped goes on where it stopped, and another one does not take its rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from explain.result import defined, undefined
from explain.resuming import begin, finish, kept
from explain.rows import Curve, MeasuredNote, Row, read_curves, write_curves
from hilat.admissions import HilatError

ROWS = [Row("a/1", "428.0", "TP", "attention", "m", defined(0.1 + 0.2)), Row("a/1", "428.0", "TP", "attention", "n", undefined("why"))]  # fmt: skip
CURVE = Curve("a/1", "428.0", "attention", (0.0, 1.0), (0.1 + 0.2, 0.1), (0.1, 0.7))
NOTE = MeasuredNote(tuple(ROWS), 7, (CURVE,))


def test_rows_come_back_to_the_last_digit_and_are_measured_once(tmp_path: Path) -> None:
    calls = []

    def measure() -> MeasuredNote:
        calls.append(1)
        return NOTE

    def stopped() -> MeasuredNote:
        raise KeyboardInterrupt

    partial = begin(tmp_path / "out", {"x": 1})
    assert kept(partial, "a/1", measure) == NOTE
    with pytest.raises(KeyboardInterrupt):
        kept(partial, "a/2", stopped)
    again = begin(tmp_path / "out", {"x": 1})
    assert again == partial == tmp_path / "out.partial"
    found = kept(again, "a/1", measure)
    assert (len(calls), found.passes, found.curves) == (1, 7, (CURVE,))
    assert found.rows[0] == ROWS[0]
    assert found.rows[1].value.reason == "why"
    one = MeasuredNote(tuple(ROWS[:1]), 1)
    assert kept(again, "a/2", lambda: one) == one
    finish(again)
    assert not again.exists()
    assert begin(None, {}) is None
    assert kept(None, "a/1", measure).passes == 7
    assert len(calls) == 2


def test_another_run_does_not_take_the_rows(tmp_path: Path) -> None:
    partial = begin(tmp_path / "out", {"x": 1})
    kept(partial, "a", lambda: NOTE)
    with pytest.raises(HilatError, match="other settings"):
        begin(tmp_path / "out", {"x": 2})
    fresh = begin(tmp_path / "out", {"x": 2}, overwrite=True)
    assert fresh is not None
    assert [p.name for p in fresh.iterdir()] == ["key.json"]


def test_curves_there_and_back(tmp_path: Path) -> None:
    write_curves(tmp_path / "curves.parquet", [CURVE])
    assert read_curves(tmp_path) == [CURVE]
    assert read_curves(tmp_path / "nowhere") == []

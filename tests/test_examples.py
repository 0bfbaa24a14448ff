"""The notebooks of examples/ run from the first cell to the last."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest

from hilat.corpora import write_corpus
from hilat.corpora.planted import PlantedSettings, make_planted
from hilat.settings import settings_from
from hilat.training import train

NOTEBOOKS = sorted((Path(__file__).parent.parent / "examples").glob("*.ipynb"))


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small folder like the one that `hilat demo` leaves; the model has hardly learned anything."""
    from hilat.cli.demo import QUICK

    folder = tmp_path_factory.mktemp("demo")
    made = make_planted(PlantedSettings(train=80, val=8, test=20))
    write_corpus(folder / "corpus", made.admissions, made.code_book, source=made.source)
    train(made, settings_from({**QUICK, "steps": 30, "new_vocabulary": 800}), folder / "run", device="cpu")
    return folder


def test_there_are_notebooks_without_results_in_them() -> None:
    assert NOTEBOOKS
    for path in NOTEBOOKS:
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            assert not cell.get("outputs")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(
    path: Path, demo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(os.environ, "HILAT_DEMO", str(demo))
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    monkeypatch.setattr(plt, "show", lambda: plt.close("all"))
    names: dict[str, Any] = {}
    for n, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{path.name}, cell {n}", "exec"), names)
    assert "comprehensiveness" in capsys.readouterr().out

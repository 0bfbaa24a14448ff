"""The model card: what it says is what the run recorded; what it must not say it does not."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from hilat.admissions import CodeBook, HilatError
from hilat.coder import Coder, load_coder, save_coder
from hilat.corpora import read_corpus, write_corpus
from hilat.corpora.planted import PlantedSettings, make_planted
from hilat.evaluation import evaluate
from hilat.metrics import evaluate_codes
from hilat.model_card import evaluation_entry, label_support, last_name, model_card, record_evaluation, validation_at
from hilat.settings import settings_from
from hilat.training import train

CANARY = "zyxcanary"
SETTINGS = {"encoder": "new:xlnet", "new_layers": 1, "new_width": 16, "new_heads": 2, "new_vocabulary": 300, "chunks": 3, "tokens": 48, "steps": 4, "batch_size": 4, "warmup": 1, "evaluate_every": 2, "threshold": "global"}  # fmt: skip
Run = Callable[..., Any]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a corpus and a run that was trained on it."""
    folder = tmp_path_factory.mktemp("card")
    made = make_planted(PlantedSettings(seed=2, train=20, val=6, test=6))
    notes = [replace(a, text=f"{a.text}\nCalled {CANARY}.") for a in made.admissions]
    write_corpus(folder / "corpus", notes, made.code_book, source="planted")
    train(read_corpus(folder / "corpus"), settings_from(SETTINGS), folder / "run", device="cpu")
    return folder


@pytest.fixture
def coder(place: Path) -> Coder:
    return load_coder(place / "run/model")


def rows(card: str) -> dict[str, str]:
    """The first two cells of every table row, by the first."""
    cells = [line.split(" | ") for line in card.splitlines() if line.startswith("| ")]
    return {one[0].removeprefix("| "): one[1].removesuffix(" |") for one in cells if len(one) == 2}


def test_a_trained_model_has_a_card_that_says_what_was_recorded(place: Path, coder: Coder) -> None:
    card = (place / "run/model/README.md").read_text(encoding="utf-8")
    said = rows(card)
    record = json.loads((place / "run/training.json").read_text())
    best = max(record["evaluations"], key=lambda row: row["eval_micro_f1"])
    assert said["micro-F1"] == f"{best['eval_micro_f1']:.4f}"
    assert said["macro-F1 (mean of the codes' F1)"] == f"{best['eval_macro_f1']:.4f}"
    assert "threshold fixed 0.5, all 50 codes; this checkpoint was picked there by micro_f1" in card
    assert "own thresholds (global, tuned on val for micro-F1) were set afterwards" in card
    corpus = read_corpus(place / "corpus")
    cases = corpus.code_book.targets([a.codes for a in corpus.split("train")]).sum(axis=0)  # another way than counting
    assert said["codes with fewer than 10 training cases"] == str((cases < 10).sum())
    assert said["codes without any"] == str((cases == 0).sum())
    assert said["training cases of a code, median"] == f"{np.median(cases):g}"
    assert (said["training notes"], said["validation notes"], said["seed"]) == ("20", "6", "0")
    assert said["parameters"] == f"{sum(p.numel() for p in coder.model.parameters()):,}"
    assert f"{(cases < 10).sum()} of 50 codes had fewer than 10 training cases" in card
    assert "invented by hilat" in said["corpus"]
    for heading in ("## Intended use", "## Limits", "## Who may have it", "## How to use it", "## Made with"):
        assert f"\n{heading}\n" in card
    assert CANARY not in card.lower()
    assert str(place) not in card
    _, head, _ = card.split("---\n", 2)
    assert yaml.safe_load(head)["pipeline_tag"] == "text-classification"
    assert yaml.safe_load(head)["license"] == "unknown"


def test_the_same_coder_gives_the_same_card(place: Path, coder: Coder, tmp_path: Path) -> None:
    save_coder(coder, tmp_path / "m")
    assert (tmp_path / "m/README.md").read_bytes() == (place / "run/model/README.md").read_bytes()
    assert model_card(load_coder(tmp_path / "m")) == model_card(coder)


def test_of_paths_the_last_name_is_said(coder: Coder) -> None:
    for given, name in (
        ("/home/alice/runs/plus/encoder/", "encoder"), ("C:\\Users\\alice\\encoder", "encoder"), ("org/BERT", "BERT"),
        ("postgresql://alice:pw@host", "host"), ("mimic3", "mimic3"),
    ):  # fmt: skip
        assert last_name(given) == name
        told = {**coder.card, "corpus": {"source": given}}
        told["settings"] = {**coder.card["settings"], "encoder": given}
        card = model_card(replace(coder, card=told))
        assert "alice" not in card
        assert rows(card)["`encoder`"] == rows(card)["corpus"] == name
    assert rows(model_card(coder))["`encoder`"] == "new:xlnet"


def test_what_is_not_recorded_is_said_so(coder: Coder) -> None:
    book = CodeBook(coder.code_book.codes, coder.code_book.titles, coder.code_book.kinds, "ICD: 'x'\n- y")
    card = model_card(replace(coder, card={}, threshold_source="a | b", code_book=book))
    said = rows(card)
    assert said["training notes"] == said["seed"] == said["encoder"] == "not recorded"
    assert "none, or not recorded" in card
    assert "a \\| b |" in card
    assert "icd-x-y" in yaml.safe_load(card.split("---\n", 2)[1])["tags"]
    assert "\n# A HiLAT model for ICD: 'x' - y codes\n" in card


def test_validation_is_that_of_the_step() -> None:
    log = [{"step": 2.0, "eval_loss": 1.0, "eval_micro_f1": 0.5, "eval_map": 0.3}, {"step": 4.0, "eval_micro_f1": 0.4}]
    assert validation_at(log, 2) == {
        "step": 2, "threshold_source": "fixed 0.5", "micro_f1": 0.5, "mean_average_precision": 0.3,
    }  # fmt: skip
    assert validation_at(log, None) == {"step": 4, "threshold_source": "fixed 0.5", "micro_f1": 0.4}
    assert validation_at(log, 3) is validation_at([], None) is None
    book = CodeBook(("1", "2"), ("", ""), ("diagnosis",) * 2)
    assert label_support([("1", "9"), ("1",)], book) == {
        "codes": 2, "without_cases": 1, "under_10_cases": 2, "median_cases": 1.0,
    }  # fmt: skip


def test_evaluate_fills_the_card(run: Run, place: Path, coder: Coder, tmp_path: Path) -> None:
    save_coder(coder, tmp_path / "m")
    card = tmp_path / "m/README.md"
    card.write_text(card.read_text(encoding="utf-8") + "\nWritten by hand.\n", encoding="utf-8")
    before = card.read_text(encoding="utf-8")
    common = ("evaluate", "--model", tmp_path / "m", "--corpus", place / "corpus", "--device", "cpu", "--json")
    assert run(*common).code == 0
    assert card.read_text(encoding="utf-8") == before  # only where it is asked for
    told = run(*common, "--card")
    assert told.code == 0, told.err
    found = evaluate(coder, read_corpus(place / "corpus").split("test")).metrics
    text = card.read_text(encoding="utf-8")
    section = text.split("### planted, test\n")[1].split("<!--")[0]
    assert rows(section)["micro-F1"] == f"{found.micro_f1:.4f}"
    assert rows(section)["precision at 8"] == f"{found.precision_at[8]:.4f}"
    assert f"6 notes, 50 codes ({found.codes_without_positives} without a case there), threshold global" in section
    assert run(*common, "--card", "--split", "val").code == 0
    assert run(*common, "--card").code == 0
    text = card.read_text(encoding="utf-8")
    assert (text.count("### planted, test"), text.count("### planted, val")) == (1, 1)
    assert text.endswith("Written by hand.\n")
    assert text.split("<!--")[0] == before.split("<!--")[0]
    again = load_coder(tmp_path / "m")
    assert [one["split"] for one in again.card["evaluations"]] == ["test", "val"]
    assert model_card(again) == text.removesuffix("\nWritten by hand.\n")
    card.unlink()
    assert run(*common, "--card").code == 0
    assert card.read_text(encoding="utf-8") == model_card(again)


def test_a_card_without_a_place_for_evaluations_is_left_alone(coder: Coder, tmp_path: Path) -> None:
    save_coder(coder, tmp_path / "m")
    (tmp_path / "m/README.md").write_text("mine")
    record = (tmp_path / "m/hilat.json").read_bytes()
    scores = evaluate_codes(np.array([[0.9, 0.1]]), np.array([[1, 0]]), 0.5, threshold_source="fixed 0.5")
    with pytest.raises(HilatError, match="no place for evaluations"):
        record_evaluation(tmp_path / "m", coder, evaluation_entry(scores, "x", "test", 0))
    assert (tmp_path / "m/README.md").read_text() == "mine"
    assert (tmp_path / "m/hilat.json").read_bytes() == record

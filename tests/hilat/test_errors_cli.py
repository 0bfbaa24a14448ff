"""`hilat errors study` as its users meet it: files, tables, JSON, one sentence for what is wrong, and no note text anywhere."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from explain.error_tables import read_table
from explain.masking import CONDITIONS
from explain.result import defined
from explain.rows import Row, write_rows
from hilat.cleaning import CleaningRules
from hilat.coder import Coder, load_coder, save_coder
from hilat.corpora import read_corpus, write_corpus
from hilat.corpora.planted import PlantedSettings, make_planted
from hilat.encoding import ChunkLayout
from hilat.model import build_model
from hilat.vocabulary import train_sentencepiece

CANARY = "zyxcanary"
Run = Callable[..., Any]  # of conftest.py


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    """corpus, model (never trained, so that it errs), explain and faith of notes that hold a canary."""
    folder = tmp_path_factory.mktemp("errors")
    made = make_planted(PlantedSettings(seed=4, train=2, val=2, test=14))
    book = made.code_book.restricted_to(sorted({c for a in made.admissions for c in a.codes})[:8])
    notes = []
    for a in made.admissions:
        kept = {name: tuple(s for s in getattr(a, name) if s.code in book) for name in ("evidence", "decoys")}
        codes = tuple(c for c in a.codes if c in book)
        notes.append(replace(a, text=f"{a.text}\nNo {CANARY} was seen by {CANARY}.", codes=codes, **kept))
    write_corpus(folder / "corpus", notes, book, source="table")
    tokenizer = train_sentencepiece([a.text.lower() for a in notes], folder / "tokenizer", vocab_size=300, seed=0)
    pad = int(tokenizer.pad_token_id or 0)
    encoder = {"model_type": "xlnet", "vocab_size": len(tokenizer), "d_model": 16, "n_layer": 1, "n_head": 2, "d_inner": 24, "pad_token_id": pad}  # fmt: skip
    model = build_model(encoder, len(book), seed=0, chunks=3, tokens=48, init_std=0.5)
    half = np.full(len(book), 0.5)
    coder = Coder(model.eval(), tokenizer, book, CleaningRules(), ChunkLayout(3, 48), half, "fixed 0.5")
    save_coder(coder, folder / "model")
    save_coder(replace(coder, thresholds=half + 0.01), folder / "other")
    answer = run("explain", "--model", folder / "model", "--corpus", folder / "corpus", "--out", folder / "explain",
                 "--method", "attention,input_x_gradient", "--device", "cpu")  # fmt: skip
    assert answer.code == 0, answer.err
    rows = [
        Row(r["hadm_id"], r["code"], "FP", "attention", "comprehensiveness", defined(0.1))
        for r in pq.read_table(folder / "explain" / "pairs.parquet").to_pylist()
    ]
    write_rows(folder / "faith", rows, {}, {})
    return folder


def given(place: Path, *more: object) -> tuple[object, ...]:
    return ("errors", "study", "--explanations", place / "explain", "--corpus", place / "corpus", "--least", 2, *more)


def test_a_study_with_everything(place: Path, run: Run) -> None:
    out = place / "everything"
    answer = run(*given(place, "--out", out, "--measures", place / "faith", "--model", place / "model", "--masking", 6,
                        "--draws", 2, "--device", "cpu", "--seed", 3))  # fmt: skip
    assert answer.code == 0, answer.err
    assert CANARY not in (answer.out + answer.err).lower()
    for title in ("false positives of", "False against true positives", "Cues", "Masking test · 6 false positives"):
        assert title in answer.out
    files = {"cases", "cues", "passages", "contrast", "code_cues", "confusion", "masking"}
    assert {p.name for p in out.iterdir()} == {*(f"{name}.parquet" for name in files), "summary.json", "manifest.json"}
    cases = read_table(out, "cases")
    pairs = pq.read_table(place / "explain" / "pairs.parquet").to_pylist()
    for outcome, wanted in (("FP", (True, False)), ("FN", (False, True)), ("TP", (True, True))):
        there = {(p["hadm_id"], p["code"]) for p in pairs if (p["predicted"], p["gold"]) == wanted}
        assert {(c["hadm_id"], c["code"]) for c in cases if c["outcome"] == outcome} == there
        assert there
    assert all(c["comprehensiveness"] == 0.1 and -1 <= c["agreement_tau"] <= 1 for c in cases)
    masked = pq.read_table(out / "masking.parquet").to_pylist()
    assert len(masked) == 6 * len(CONDITIONS)
    said = json.loads((out / "summary.json").read_text("utf-8"))
    assert said["masking"]["pairs"] == 6
    study = json.loads((out / "manifest.json").read_text("utf-8"))["study"]
    assert (study["seed"], study["masking"]["most"], study["measures"]) == (3, 6, [str(place / "faith")])
    for file in out.iterdir():
        kept = str(pq.read_table(file).to_pylist()) if file.suffix == ".parquet" else file.read_text("utf-8")
        assert CANARY not in kept.lower(), file.name


def test_the_masking_test_agrees_with_the_model(place: Path, run: Run) -> None:
    """The drop without the strongest words, by masking their tokens by hand and reading the note again."""
    out = place / "masked"
    answer = run(
        *given(
            place, "--out", out, "--model", place / "model", "--masking", 3, "--draws", 1, "--device", "cpu", "--top", 4
        )
    )
    assert answer.code == 0, answer.err
    import torch

    from explain.hilat_target import HilatTarget
    from explain.table import read_explanations
    from hilat.corpora import read_corpus

    coder = load_coder(place / "model")
    known = {a.hadm_id: a for a in read_corpus(place / "corpus", splits=["test"]).admissions}
    ones = {one.hadm_id: one for one in read_explanations(place / "explain")}
    for row in pq.read_table(out / "masking.parquet").to_pylist():
        if row["condition"] != "top":
            continue
        one = ones[row["hadm_id"]]
        document = coder.encode(known[row["hadm_id"]])
        scores = one.of("attention")[row["code"]]
        best = sorted(range(len(scores)), key=lambda w, one=one, s=scores: (-s[w], one.word_spans[w, 0]))[:4]  # type: ignore[misc]
        ids = np.where(np.isin(document.word_index, best), coder.tokenizer.mask_token_id, document.input_ids)
        target, k = HilatTarget(coder), coder.code_book.column(row["code"])
        with torch.no_grad():
            before, after = (
                float(target.forward(target.inputs(d)).logits.sigmoid()[0, k])
                for d in (document, replace(document, input_ids=ids))
            )
        assert row["drop"] == pytest.approx(before - after, abs=1e-5)
        assert row["flips"] == float(after < 0.5)


def test_json_is_the_summary_and_outcomes_choose_the_cases(place: Path, run: Run) -> None:
    answer = run(*given(place, "--json", "--outcomes", "FP,weak", "--out", place / "some", "--interval", "bca"))
    assert answer.code == 0, answer.err
    said = json.loads(answer.out)
    assert said == json.loads((place / "some" / "summary.json").read_text("utf-8"))
    assert said["interval"] == "95 %, bca, over admissions"
    assert {(row["outcome"], row["weak"]) for row in read_table(place / "some", "cases")} <= {
        ("FP", False),
        ("TP", True),
    }
    again = run(*given(place, "--json", "--outcomes", "FP,weak", "--interval", "bca"))
    assert json.loads(again.out) == said


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--outcomes", "FP,TN"), "outcome 'TN' is not known; expected some of FP, FN, weak, TP"),
        (("--outcomes", ","), "no outcome was given; expected some of FP, FN, weak, TP"),
        (("--method", "saliency"), "has no method 'saliency'; it has attention, input_x_gradient"),
        (("--interval", "t"), "--interval is 't'; expected percentile or bca"),
        (("--measures", "nowhere"), "nowhere holds no rows.parquet"),
        (("--model", "nowhere"), "nowhere is not a folder"),
        (("--rule-pairs", "nowhere"), "nowhere cannot be read"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_sentence(place: Path, more: tuple[object, ...], message: str, run: Run) -> None:
    answer = run(*given(place, *more))
    assert answer.code == 1
    assert message in answer.err
    assert answer.out == ""


def test_a_folder_that_exists_and_another_model_are_refused(place: Path, run: Run) -> None:
    (place / "there").mkdir(exist_ok=True)
    answer = run(*given(place, "--out", place / "there"))
    assert answer.code == 1
    assert "exists; expected a new folder" in answer.err
    answer = run(*given(place, "--model", place / "other", "--device", "cpu"))
    assert answer.code == 1
    assert "is not the model that" in answer.err
    assert run(*given(place, "--out", place / "there", "--overwrite")).code == 0


def test_help_names_what_the_command_needs(run: Run) -> None:
    answer = run("errors", "study", "--help")
    assert answer.code == 0
    for option in ("--explanations", "--corpus", "--model", "--masking", "--measures", "--outcomes", "--rule-pairs"):
        assert option in answer.out


def test_the_page_shows_every_error_and_links_to_the_admissions(place: Path, run: Run) -> None:
    pages = place / "pages"
    answer = run("report", "--explanations", place / "explain", "--corpus", place / "corpus", "--out", pages)
    assert answer.code == 0, answer.err
    with_text, without = place / "study" / "errors.html", place / "bare.html"
    answer = run(*given(place, "--page", with_text, "--pages", pages))
    assert answer.code == 0, answer.err
    assert CANARY not in (answer.out + answer.err).lower()
    answer = run(*given(place, "--page", without, "--pages", pages, "--no-text"))
    assert answer.code == 0, answer.err

    pairs = pq.read_table(place / "explain" / "pairs.parquet").to_pylist()
    errors = [p for p in pairs if p["predicted"] != p["gold"]]
    html = with_text.read_text("utf-8")
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert data is not None
    rows = [row for row in json.loads(data[1])["t-cases"]["rows"] if not row[3].startswith("true")]
    assert sorted((row[0][0], row[1]) for row in rows) == sorted((p["hadm_id"], p["code"]) for p in errors)
    for name, address in {tuple(row[0]) for row in rows}:
        file, _, place_on_page = address.partition("#")
        assert (with_text.parent / file).resolve() == (pages / f"admission-{name}.html").resolve()
        assert place_on_page.startswith("c=")
    passages = [line for row in rows for line in row[6].split("\n") if line]
    assert passages
    notes = {a.hadm_id: " ".join(a.text.split()) for a in read_corpus(place / "corpus").admissions}
    for row in rows:
        for line in row[6].split("\n") if row[6] else ():
            peak = re.search(r"\[([^\[\]]+)\]", line)
            assert peak is not None
            assert peak[1] in notes[row[0][0]]
    bare = without.read_text("utf-8")
    assert "Strongest passages" in html
    assert "Strongest passages" not in bare
    assert CANARY not in bare.lower()
    assert not any(p["hadm_id"] in bare for p in errors)
    assert with_text.stat().st_mode & 0o777 == 0o600
    first = with_text.read_bytes()
    assert run(*given(place, "--page", with_text, "--pages", pages)).code == 0
    assert with_text.read_bytes() == first

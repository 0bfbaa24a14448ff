"""`hilat figure` as its users meet it: every command, its files, its choices, and one sentence for what is wrong."""

from __future__ import annotations

import io
import json
import shutil
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from hilat.admissions import Admission, CodeBook
from hilat.cleaning import CleaningRules
from hilat.cli import main
from hilat.coder import Coder, save_coder
from hilat.corpora.folder import write_corpus
from hilat.encoding import ChunkLayout
from hilat.model import build_model
from hilat.vocabulary import train_sentencepiece

CANARY = "zyxcanary"
CODES = ("276.2", "428.0", "88.56")
TITLES = ("Acidosis", "Congestive heart failure, unspecified", "Coronary arteriography using two catheters")
COMMANDS = ("text", "errors", "worked", "curves", "agreement", "f1-support", "calibration", "sections")


@dataclass(frozen=True)
class Answer:
    """What a command said."""

    code: int
    out: str
    err: str

    @property
    def files(self) -> list[str]:
        return [Path(name).name for name in json.loads(self.out)["files"]]

    @property
    def caption(self) -> str:
        return " ".join([json.loads(self.out)["title"], *json.loads(self.out)["caption"]])


def run(*arguments: object) -> Answer:
    """Run a command in this process, as the script would."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patched, warnings.catch_warnings():
        patched.setattr(sys, "argv", ["hilat", *map(str, arguments)])
        patched.setattr(sys, "stdout", out)
        patched.setattr(sys, "stderr", err)
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
    return Answer(code, out.getvalue(), err.getvalue())


def note(i: int) -> str:
    return (
        f"History of Present Illness: paid $5 for $x_1$, metabolic acidosis with \\frac{{1}}{{2}} lactate {i} {CANARY}, "
        "possible septic physiology, acute on chronic systolic heart failure, edema.\n"
        "Hospital Course: cardiac catheterization where two stents were placed; 97.3 was extubated after 7 days.\n"
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with corpus, model, explanations by two methods, faithfulness and agreement of six notes."""
    folder = tmp_path_factory.mktemp("figures")
    tokenizer = train_sentencepiece([note(0).lower()], folder / "tokenizer", vocab_size=90, seed=0)
    encoder = {"model_type": "xlnet", "vocab_size": len(tokenizer), "d_model": 16, "n_layer": 1, "n_head": 2, "d_inner": 24, "pad_token_id": int(tokenizer.pad_token_id or 0), "initializer_range": 0.3}  # fmt: skip
    model = build_model(encoder, 3, seed=0, chunks=4, tokens=32, init_std=0.5)
    book = CodeBook(CODES, TITLES, ("diagnosis", "diagnosis", "procedure"))
    coder = Coder(model.eval(), tokenizer, book, CleaningRules(), ChunkLayout(4, 32), np.zeros(3), "fixed 0")
    save_coder(coder, folder / "model")
    given = [CODES[:1], CODES[:2], CODES, CODES[:1], CODES[1:], CODES]
    notes = [Admission(f"{100 + i}", note(i), codes, split="test") for i, codes in enumerate(given)]
    write_corpus(folder / "corpus", notes, book, source="table")
    common = ("--model", folder / "model", "--corpus", folder / "corpus")
    steps = (
        ("explain", *common, "--out", folder / "explain", "--codes", "all", "--method", "attention,input_x_gradient"),
        ("faithfulness", *common, "--explanations", folder / "explain", "--out", folder / "faith", "--admissions", "3",
         "--steps", "3", "--groups", "0", "--no-leave-one-out", "--pairs", "all"),
        ("agreement", "--explanations", folder / "explain", "--out", folder / "agree"),
    )  # fmt: skip
    for step in steps:
        answer = run(*step, "--json")
        assert answer.code == 0, answer.err
    return folder


def arguments(place: Path, kind: str) -> list[object]:
    """What a command needs besides --out."""
    read: list[object] = ["--explanations", place / "explain"]
    if kind in ("text", "errors", "worked", "f1-support", "sections"):
        read += ["--corpus", place / "corpus"]
    if kind == "worked":
        read += ["--model", place / "model"]
    if kind in ("curves", "agreement"):
        read = ["--measures", place / ("faith" if kind == "curves" else "agree")]
    return ["figure", kind, *read]


@pytest.mark.parametrize("kind", COMMANDS)
def test_help_has_an_example(kind: str) -> None:
    answer = run("figure", kind, "--help")
    assert answer.code == 0
    assert "Example" in answer.out
    assert kind in run("figure", "--help").out


@pytest.mark.parametrize("kind", COMMANDS)
def test_every_command_writes_its_files_and_a_caption(kind: str, place: Path) -> None:
    asked = "svg,pdf,png" if kind == "worked" else "svg"
    out = place / "out" / f"{kind}.svg"
    answer = run(*arguments(place, kind), "--out", out, "--format", asked, "--json")
    assert answer.code == 0, answer.err
    assert answer.files == [f"{kind}.{name}" for name in (*asked.split(","), "txt")]
    caption = (place / "out" / f"{kind}.txt").read_text(encoding="utf-8")
    assert "derived from restricted data" in caption
    assert "Model: " in caption
    assert CANARY not in answer.err
    again = run(*arguments(place, kind), "--out", out, "--format", asked)
    assert again.code == 1
    assert "exists already" in again.err
    before = out.read_bytes()
    assert run(*arguments(place, kind), "--out", out, "--format", "svg", "--overwrite").code == 0
    assert out.read_bytes() == before


def test_named_admissions_and_codes_are_drawn(place: Path) -> None:
    one = [*arguments(place, "text"), "--format", "svg", "--json", "--overwrite", "--out", place / "n"]
    named = run(*one, "--admissions", "102", "--codes", "88.56,276.2", "--method", "attention,input_x_gradient", "--width", "8.5cm")  # fmt: skip
    assert named.caption.index("88.56 Coronary") < named.caption.index("276.2 Acidosis")
    assert "428.0" not in named.caption
    assert "admission 102" in named.caption
    assert "2 admissions" in run(*one, "--admissions", "102,103", "--codes", "276.2").caption
    assert run(*one, "--count", "2").caption.count("(admission 102") == 2  # the first with most true positives
    wrong = run(
        *arguments(place, "errors"), "--format", "svg", "--json", "--out", place / "e", "--no-weak", "--count", "2"
    )
    assert wrong.caption.count("FP, p ") == 2
    assert "uncertain (possible)" in wrong.caption or "Cues: " in wrong.caption
    hit = run(*arguments(place, "errors"), "--format", "svg", "--json", "--out", place / "h", "--admissions", "102", "--codes", "276.2")  # fmt: skip
    assert "TP, p " in hit.caption
    worked = run(*arguments(place, "worked"), "--format", "svg", "--json", "--out", place / "w", "--admission", "101", "--code", "428.0")  # fmt: skip
    assert "admission 101, code 428.0" in worked.caption
    curve = run(*arguments(place, "curves"), "--format", "svg", "--json", "--out", place / "c", "--admissions", "101", "--codes", "428.0")  # fmt: skip
    assert "admission 101, code 428.0" in curve.caption
    computed = run("figure", "agreement", "--explanations", place / "explain", "--metric", "overlap_at_5", "--format", "svg", "--json", "--out", place / "a")  # fmt: skip
    assert "overlap of the top 5" in computed.caption


def test_the_planted_corpus_is_not_restricted(place: Path) -> None:
    copy = place / "planted"
    shutil.copytree(place / "explain", copy)
    manifest = json.loads((copy / "manifest.json").read_text(encoding="utf-8"))
    (copy / "manifest.json").write_text(json.dumps({**manifest, "source": "planted"}), encoding="utf-8")
    assert run("figure", "calibration", "--explanations", copy, "--out", place / "p", "--format", "svg").code == 0
    for name in ("p.svg", "p.txt"):
        said = (place / name).read_text(encoding="utf-8")
        assert "synthetic" in said
        assert "restricted" not in said


@pytest.mark.parametrize(
    ("kind", "more", "says"),
    [
        ("text", ("--admissions", "7"), "explained were 100, 101, 102, 103, 104, 105"),
        ("text", ("--codes", "486"), "explained were 276.2, 428.0, 88.56"),
        ("text", ("--method", "lime"), "it has attention, input_x_gradient"),
        ("text", ("--scale", "log"), "code or common"),
        ("text", ("--width", "3in in"), "60 to 600 mm"),
        ("text", ("--width", "10mm"), "60 to 600 mm"),
        ("text", ("--format", "eps"), "svg, pdf, png"),
        ("worked", ("--code", "276.2,428.0"), "one of each"),
        ("curves", ("--pairs", "some"), "all, gold, predicted, TP, FP, FN"),
        ("curves", ("--method", "lime"), "attention, input_x_gradient, random order"),
        ("curves", ("--admissions", "105"), "it has 100, 101, 102"),
        ("agreement", ("--metric", "guess"), "kendall_tau_b, spearman"),
        ("agreement", ("--explanations", "e"), "either --measures FOLDER or --explanations FOLDER"),
        ("sections", ("--method", "lime"), "attention, input_x_gradient"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(kind: str, more: tuple[str, ...], says: str, place: Path) -> None:
    answer = run(*arguments(place, kind), "--out", place / "wrong", *more)
    assert answer.code == 1
    assert says in " ".join(answer.err.split())
    assert CANARY not in answer.err
    no_folder = run("figure", "curves", "--measures", place / "agree", "--out", place / "y")
    assert no_folder.code == 1
    assert "holds no curves" in no_folder.err

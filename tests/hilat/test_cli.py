"""The command line as its users meet it: help, exit codes, JSON, one sentence for what is wrong, and no note text anywhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hilat.corpora.planted import PlantedSettings, make_planted

CANARY = "zyxcanary"
TRAIN = ["encoder=new:xlnet", "new_layers=1", "new_width=16", "new_heads=2", "new_vocabulary=300", "chunks=3", "tokens=48", "steps=4", "batch_size=4", "warmup=1", "evaluate_every=2"]  # fmt: skip
COMMANDS = (
    (), ("demo",), ("doctor",), ("corpus",), ("corpus", "planted"), ("corpus", "table"), ("corpus", "mimic3"),
    ("corpus", "mimic4"), ("corpus", "mdace"), ("corpus", "overlap"), ("corpus", "codiesp"), ("corpus", "describe"), ("train",), ("evaluate",), ("predict",), ("explain",), ("report",),
    ("plausibility",), ("faithfulness",), ("agreement",), ("attention-tests",),
)  # fmt: skip


Run = Callable[..., Any]  # of conftest.py


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    """A folder in which everything has been run once: notes.csv, corpus, run, explain, pages."""
    folder = tmp_path_factory.mktemp("cli")
    made = make_planted(PlantedSettings(seed=2, train=20, val=6, test=6))
    codes = sorted({code for a in made.admissions for code in a.codes})[:8]
    lines = ["hadm_id,text,codes,split"]
    for a in made.admissions:
        text = (a.text + f"\nPatient is called {CANARY}.").replace('"', "'")
        lines.append(f'{a.hadm_id},"{text}",{";".join(c for c in a.codes if c in codes)},{a.split}')
    (folder / "notes.csv").write_text("\n".join(lines), encoding="utf-8")
    steps = (
        ("corpus", "table", folder / "notes.csv", "--out", folder / "corpus", "--json"),
        ("train", "--corpus", folder / "corpus", "--out", folder / "run", "--device", "cpu", "--json", *(a for s in TRAIN for a in ("--set", s))),
        ("explain", "--model", folder / "run/model", "--corpus", folder / "corpus", "--out", folder / "explain", "--codes", "all",
         "--method", "attention,input_x_gradient", "--json"),
        ("report", "--corpus", folder / "corpus", "--explanations", folder / "explain", "--out", folder / "pages", "--json"),
    )  # fmt: skip
    for step in steps:
        answer = run(*step)
        assert answer.code == 0, answer.err
        assert isinstance(answer.json, dict)
        assert CANARY not in answer.out + answer.err
    return folder


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_has_an_example(run: Run, command: tuple[str, ...]) -> None:
    answer = run(*command, "--help")
    assert answer.code == 0
    if command not in ((), ("corpus",)):
        assert "Example" in answer.out


def test_evaluate_predict_doctor_and_describe_answer_in_json_and_in_tables(run: Run, place: Path) -> None:
    model, corpus = place / "run/model", place / "corpus"
    assert "torch" in json.dumps(run("doctor", "--json").json)
    told = run("doctor", "--json").json["machine"]
    assert told["matrix products on the CPU"].startswith(("oneDNN", "torch's own ("))
    assert told["XLNet's attention on the CPU"].startswith(("compiled", "in blocks ("))
    assert run("corpus", "describe", corpus, "--json").code == 0
    scored = run("evaluate", "--model", model, "--corpus", corpus, "--per-code", "--json").json
    assert isinstance(scored, dict)
    assert scored["metrics"]["threshold_source"] == "fixed 0.5" if "metrics" in scored else "fixed 0.5" in str(scored)
    assert "macro" in run("evaluate", "--model", model, "--corpus", corpus).out
    banded = run("evaluate", "--model", model, "--corpus", corpus, "--bands", "--json").json["bands"]
    assert [band["training_admissions"] for band in banded] == ["0", "1-10", "11-50", "51-100", "101-500", ">500"]
    assert sum(band["codes"] for band in banded) == 8
    assert "11-50" in run("evaluate", "--model", model, "--corpus", corpus, "--bands").out
    note = place / "note.txt"
    note.write_text(f"Admitted with {CANARY} and chest pain.", encoding="utf-8")
    from_file = run("predict", "--model", model, note, "--all", "--json")
    assert from_file.code == 0
    assert len(from_file.json["codes"]) == 8  # type: ignore[index]
    for arguments in ((), ("-",)):
        piped = run("predict", "--model", model, *arguments, "--all", "--json", stdin=note.read_bytes())
        assert piped.json == from_file.json
    assert CANARY not in from_file.out + from_file.err


def test_explanations_are_judged_in_json_and_in_tables(run: Run, place: Path) -> None:
    corpus, explanations = place / "corpus", place / "explain"
    found = run("agreement", "--explanations", explanations, "--json")
    assert found.json["agreement"]["all"][0]["method"] == "attention × input_x_gradient"  # type: ignore[index]
    assert "input_x_gradient" in run("agreement", "--explanations", explanations).out
    common = ("--model", place / "run/model", "--explanations", explanations, "--corpus", corpus, "--admissions", "2", "--pairs", "all")  # fmt: skip
    options = ("--steps", "3", "--groups", "3", "--no-leave-one-out")
    out = place / "faithfulness"
    table = run("faithfulness", *common, *options, "--out", out)
    assert table.code == 0, table.err
    assert "chunks encoded" in table.out
    assert {path.name for path in out.iterdir()} == {"rows.parquet", "curves.parquet", "summary.json", "manifest.json"}
    assert isinstance(run("faithfulness", *common, *options, "--json").json, dict)
    tested = run("attention-tests", *common, "--trials", "3", "--starts", "1", "--randomise", "1")
    assert tested.code == 0, tested.err
    assert "after embeddings" in tested.out
    plain = run("plausibility", "--explanations", explanations, "--corpus", corpus, "--pairs", "all")
    assert plain.code == 0, plain.err
    assert "no evidence that the model read" in plain.out  # this table has no spans
    words = run("keywords", "--explanations", explanations, "--corpus", corpus, "--pairs", "all", "--out", place / "k", "--words")  # fmt: skip
    assert words.code == 0, words.err
    assert "plausibility, not faithfulness" in words.out
    assert {path.name for path in (place / "k").iterdir()} == {"rows.parquet", "summary.json", "manifest.json", "corpus.json", "words.parquet"}  # fmt: skip
    twice = run("keywords", "--explanations", explanations, "--corpus", corpus, "--out", place / "k")
    assert (twice.code, "--overwrite" in twice.err) == (1, True)
    same = run("compare", explanations, explanations, "--resamples", "100", "--json").json
    assert same["measures"]["micro_f1"]["comparison"]["difference"] == 0  # type: ignore[index]
    assert same["measures"]["micro_f1"]["comparison"]["p"] == 1  # type: ignore[index]
    seeds = run("over-seeds", place / "faithfulness", place / "faithfulness", "--pairs", "all", "--json").json
    assert all(row["sd"] in (0, None) for row in seeds["over_seeds"])  # type: ignore[index]
    assert "n - 1" in run("over-seeds", place / "faithfulness", place / "faithfulness", "--pairs", "all").out
    wrong = run(
        "plausibility", "--explanations", explanations, "--corpus", corpus, "--show", "niceness", "--pairs", "all"
    )
    assert (wrong.code, "average_precision" in wrong.err) == (1, True)


def test_no_note_text_is_written_but_where_notes_belong(place: Path) -> None:
    spoken = CANARY.encode()
    for path in sorted(place.rglob("*")):
        if not path.is_file() or path.name in ("notes.csv", "note.txt") or path.suffix == ".html":
            continue
        if path.parent == place / "corpus":
            continue  # the corpus is the notes
        if path.name == "tokenizer.json" or "tokenizer" in path.parent.name:
            continue  # a vocabulary learned from notes holds words that are frequent in them; the README says so
        assert spoken not in path.read_bytes().lower(), path
    import pyarrow.parquet as pq

    for path in (place / "explain").glob("*.parquet"):
        assert CANARY not in str(pq.read_table(path).to_pydict()).lower()
    assert any(CANARY in path.read_text(encoding="utf-8") for path in (place / "pages").glob("admission-*.html"))


def wrong(place: Path) -> dict[str, tuple[tuple[object, ...], int, str]]:
    """What is given, the exit code, and words of the sentence that answers."""
    model, corpus = place / "run/model", place / "corpus"
    notes = place / "notes.csv"
    (place / "latin.csv").write_bytes(notes.read_bytes() + "x,café,401.9,test\n".encode("latin-1"))
    (place / "empty.csv").write_text("hadm_id,text,codes\n1,,401.9\n")
    (place / "twice.csv").write_text(f"hadm_id,text,codes\n1,{CANARY} a,401.9\n1,{CANARY} b,401.9\n")
    (place / "column.csv").write_text(f"id,text,codes\n1,{CANARY},401.9\n")
    (place / "bad.yaml").write_text("stepps: 3\n")
    (place / "blank.txt").write_text("  \n")
    (place / "bytes.txt").write_bytes(CANARY.encode() + b" \xff\xfe")
    new = place / "new"
    return {
        "no such option": (("train", "--no-such"), 2, "No such option"),
        "no such command": (("trian",), 2, "trian"),
        "missing option": (("train", "--out", new), 2, "--corpus"),
        "unknown setting": (("train", "--corpus", corpus, "--out", new, "--set", "stepps=3"), 2, "stepps"),
        "unknown key": (("train", "--corpus", corpus, "--out", new, "--config", place / "bad.yaml"), 2, "stepps"),
        "no corpus": (("train", "--corpus", place / "nothing", "--out", new), 1, "corpus"),
        "run exists": (("train", "--corpus", corpus, "--out", place / "run"), 1, "--resume"),
        "not a model": (("evaluate", "--model", place, "--corpus", corpus), 1, "hilat.json"),
        "no split": (("evaluate", "--model", model, "--corpus", corpus, "--split", "tset"), 1, "train, val, test"),
        "device": (("evaluate", "--model", model, "--corpus", corpus, "--device", "abacus"), 1, "abacus"),
        "unknown code": (("explain", "--model", model, "--corpus", corpus, "--out", new, "--codes", "1.2"), 1, "1.2"),
        "unknown method": (("explain", "--model", model, "--corpus", corpus, "--out", new, "--method", "magic"), 1, "att_in_grad"),
        "column": (("corpus", "table", place / "column.csv", "--out", new), 1, "hadm_id"),
        "twice": (("corpus", "table", place / "twice.csv", "--out", new), 1, "1"),
        "empty text": (("corpus", "table", place / "empty.csv", "--out", new), 1, "row"),
        "encoding": (("corpus", "table", place / "latin.csv", "--out", new), 1, "utf-8"),
        "no note": (("predict", "--model", model, place / "none.txt"), 1, "does not exist"),
        "blank note": (("predict", "--model", model, place / "blank.txt"), 1, "empty"),
        "bytes": (("predict", "--model", model, place / "bytes.txt"), 1, "utf-8"),
        "no explanations": (("report", "--corpus", corpus, "--explanations", corpus, "--out", new), 1, "hilat explain"),
        "out exists": (("report", "--corpus", corpus, "--explanations", place / "explain", "--out", place / "pages"), 1, "--overwrite"),
    }  # fmt: skip


def test_what_is_wrong_is_answered_in_a_sentence_and_nothing_is_half_written(run: Run, place: Path) -> None:
    for name, (arguments, code, words) in wrong(place).items():
        answer = run(*arguments)
        said = " ".join((answer.out + answer.err).split())
        assert answer.code == code, (name, answer.err)
        assert words.lower() in said.lower(), (name, said)
        assert "Traceback" not in said, name
        assert CANARY not in said, name
        assert code == 2 or said.startswith("error:") or "error:" in said, name
        assert not (place / "new").exists(), name
        assert not list(place.glob(".new*")), name


def test_a_stopped_measurement_goes_on_where_it_stopped(run: Run, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from explain import judging

    plain = judging.faithfulness_of
    calls: list[str] = []
    given = ["faithfulness", "--model", place / "run/model", "--explanations", place / "explain", "--corpus", place / "corpus",
             "--admissions", "3", "--pairs", "all", "--steps", "3", "--groups", "0", "--no-leave-one-out", "--json"]  # fmt: skip

    def stopping(coder, one, *rest):  # type: ignore[no-untyped-def]
        calls.append(one.hadm_id)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return plain(coder, one, *rest)

    monkeypatch.setattr(judging, "faithfulness_of", stopping)
    out = place / "stopped"
    assert run(*given, "--out", out).code == 130
    assert not out.exists()
    assert (place / "stopped.partial").exists()
    other = run(*given, "--removal", "pad", "--out", out)
    assert other.code == 1
    assert "other settings" in other.err
    again = run(*given, "--out", out)
    assert again.code == 0, again.err
    assert len(calls) == 4  # the first admission once, the second twice, the third once
    assert not (place / "stopped.partial").exists()
    whole = run(*given, "--out", place / "whole")
    assert again.json == whole.json


def test_evidence_goes_out_as_mdace_and_comes_back(run: Run, tmp_path: Path) -> None:
    from hilat.corpora import read_corpus, write_corpus

    made = make_planted(PlantedSettings(seed=2, train=2, val=2, test=3))
    write_corpus(tmp_path / "c", made.admissions, made.code_book, source="planted")
    assert run("evidence", "export", "--corpus", tmp_path / "c", "--out", tmp_path / "m", "--json").code == 0
    joined = run(
        "evidence", "join", "--corpus", tmp_path / "c", "--mdace", tmp_path / "m", "--out", tmp_path / "c2", "--json"
    )
    assert joined.code == 0, joined.err
    assert joined.json["left_out"] == 0  # type: ignore[index]
    for a, b in zip(read_corpus(tmp_path / "c").admissions, read_corpus(tmp_path / "c2").admissions, strict=True):
        segments = {(s.code, segment) for s in a.evidence for segment in s.segments}
        assert {(s.code, segment) for s in b.evidence for segment in s.segments} == (
            segments if a.split == "test" else set()
        )
    (tmp_path / "empty").mkdir()
    assert (
        run(
            "evidence", "join", "--corpus", tmp_path / "c", "--mdace", tmp_path / "empty", "--out", tmp_path / "c3"
        ).code
        == 1
    )


def test_intervals_are_said(run: Run, place: Path) -> None:
    given = ("agreement", "--explanations", place / "explain", "--interval")
    bca, wrong = run(*given, "bca", "--json"), run(*given, "normal")
    assert (
        bca.json["agreement"]["all"][0]["interval"]
        != run(*given, "percentile", "--json").json["agreement"]["all"][0]["interval"]
    )  # type: ignore[index]
    assert (wrong.code, "percentile or bca" in wrong.err) == (1, True)

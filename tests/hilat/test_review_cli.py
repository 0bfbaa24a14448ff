"""`hilat errors sample` and `merge` from a study's folder to the summary; note text only where it was asked for."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from explain.cases import Case
from explain.cues import Cue, Passage
from explain.error_profile import PROFILE
from explain.error_tables import write_cases
from hilat.admissions import Admission, CodeBook
from hilat.corpora import write_corpus

CANARY = "zyxcanary"
BOOK = CodeBook(("401.9", "038.9"), ("Hypertension", "Septicemia"), ("diagnosis", "diagnosis"))
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def errors(run: Callable[..., Any]) -> Run:
    """Run a command of `hilat errors`: exit code, output, errors."""

    def go(*arguments: object) -> tuple[int, str, str]:
        answer = run("errors", *arguments)
        return answer.code, answer.out, answer.err

    return go


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a study of 12 false positives of six admissions, their corpus, and pages of all but the last."""
    profile = dict.fromkeys(PROFILE, 0.5)
    passage = Passage(0, 12, (3, 12), 0.8, "hospital_course", (), False)
    cues = (Cue("negated", "a negation governs the words", 0, 0, 2), Cue("borderline", "0.05 from the threshold"))
    cases = [
        Case(f"1{n}", code, "FP", 0.7, 0.5, (passage,), cues if n % 2 else cues[1:], profile, False)
        for n in range(6)
        for code in BOOK.codes
    ]
    study = tmp_path / "study"
    study.mkdir()
    write_cases(study, cases)
    (study / "manifest.json").write_text('{"split": "test"}')
    notes = [Admission(f"1{n}", f"No {CANARY} was seen.", ("401.9",), split="test") for n in range(6)]
    write_corpus(tmp_path / "corpus", notes, BOOK, source="table", notes={})
    (tmp_path / "pages").mkdir()
    for n in range(5):
        (tmp_path / "pages" / f"admission-1{n}.html").touch()
    return tmp_path


def fill(path: Path, verdict: str, cues: str) -> None:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows({**row, "verdict": verdict, "cues": cues} for row in rows)


def test_from_study_to_summary(errors: Run, place: Path) -> None:
    asked = ("--study", place / "study", "--out", place / "t", "--n", 8, "--reviewers", "ab,cd", "--overlap", 0.5)
    code, out, err = errors("sample", *asked, "--pages", place / "pages", "--json")
    assert (code, err) == (0, "")
    said = json.loads(out)
    assert said["drawn"] == 8
    assert said["strata"] == {"FP 038.9": {"population": 6, "drawn": 4}, "FP 401.9": {"population": 6, "drawn": 4}}
    assert said["reviewers"] == {"ab": 6, "cd": 6}
    assert (place / "t").stat().st_mode & 0o777 == 0o700
    assert not any(CANARY.encode() in path.read_bytes() for path in (place / "t").iterdir())
    with (place / "t" / "triage-ab.csv").open(encoding="utf-8-sig", newline="") as file:
        links = {row["hadm_id"]: row["page"] for row in csv.DictReader(file) if row["code"] == "038.9"}
    assert all(link == (f"../pages/admission-{name}.html#c=038.9&e=1" if name != "15" else "") for name, link in links.items())  # fmt: skip
    fill(place / "t" / "triage-ab.csv", "model error", "all")
    fill(place / "t" / "triage-cd.csv", "coder omission", "none")
    merged = ("merge", place / "t", "--study", place / "study", "--sample", place / "t")
    code, out, err = errors(*merged, "--out", place / "m", "--json")
    assert (code, err) == (0, "")
    summary = json.loads(out)
    assert summary == json.loads((place / "m" / "summary.json").read_text())
    assert (summary["cases"], summary["reviewers"]) == (8, {"ab": 6, "cd": 6})
    shares = {row["name"]: row for row in summary["verdicts"]}
    assert shares["model error"]["hits"] + shares["coder omission"]["hits"] == 8
    assert shares["model error"]["weighted"]["n"] == 8
    assert next((row["shared"], row["raw"], row["kappa"]["estimate"]) for row in summary["agreements"]) == (4, 0.0, 0.0)
    rows = pq.read_table(place / "m" / "verdicts.parquet")
    assert rows.num_rows == 12
    assert set(np.unique(rows["weight"].to_numpy())) == {1.5}
    code, out, _ = errors(*merged)
    assert code == 0
    assert "Agreement of reviewers" in out


def test_text_is_in_the_tables_only_when_asked_for(errors: Run, place: Path) -> None:
    asked = ("sample", "--study", place / "study", "--corpus", place / "corpus", "--n", 4)
    code, out, err = errors(*asked, "--out", place / "with")
    assert code == 0
    assert CANARY not in out + err
    table = (place / "with" / "triage-reviewer.csv").read_text(encoding="utf-8-sig")
    assert f"»No {CANARY}«" in table
    assert "Hypertension" in table
    assert (place / "with" / "README-PHI.txt").exists()
    assert errors(*asked, "--out", place / "without", "--no-text")[0] == 0
    assert not any(CANARY.encode() in path.read_bytes() for path in (place / "without").iterdir())
    assert "Hypertension" in (place / "without" / "triage-reviewer.csv").read_text(encoding="utf-8-sig")


def test_what_does_not_fit_is_one_sentence(errors: Run, place: Path) -> None:
    study = ("--study", place / "study")
    for arguments, says in (
        (("sample", "--study", place, "--out", place / "x"), "hilat errors study"),
        (("sample", *study, "--out", place / "x", "--by", "note"), "code, cue, outcome"),
        (("sample", *study, "--out", place / "x", "--outcomes", "TP"), "there are 12 FP"),
        (("sample", *study, "--out", place / "x", "--pages", place / "corpus"), "Correct --pages"),
        (("sample", *study, "--out", place / "corpus"), "exists already"),
        (("merge", place / "nothing", *study), "does not exist"),
        (("merge", place / "pages", *study), "no triage"),
        (("merge", place / "pages", *study, "--out", place / "corpus"), "--overwrite"),
    ):
        code, _, err = errors(*arguments)
        assert code == 1, arguments
        assert says in " ".join(err.split()), err
    assert not (place / "x").exists()
    write_corpus(place / "other", [Admission("10", "No.", ("401.9",), split="test")], BOOK, source="table", notes={})
    code, _, err = errors("sample", *study, "--out", place / "x", "--corpus", place / "other")
    assert code == 1
    assert "as it was studied" in err
    assert errors("sample", *study, "--out", place / "t", "--n", 3)[0] == 0
    code, _, err = errors("merge", place / "t", *study)
    assert (code, "hold no judgement" in err) == (1, True)

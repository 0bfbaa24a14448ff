"""Context rules of a user's own file: what is read, and how a wrong row is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from explain.context import Rule, context_of, read_rules, rules
from hilat.admissions import HilatError


def kinds_of(text: str, word: str, own: Sequence[Rule]) -> set[str]:
    at = text.index(word)
    (cues,) = context_of(text, [(at, at + len(word))], own_rules=own)
    return {cue.kind for cue in cues}


def test_own_rules_stand_in_the_place_of_the_built_in_ones(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text(
        "kind,phrase,direction,note\nnegated,  Nil   OF ,forward,mine\nterminate,save,both,\n\n", "utf-8-sig"
    )
    own = read_rules(path)
    assert own == (Rule("nil of", "negated", "forward"), Rule("save", "terminate", "both"))
    assert kinds_of("Nil of fever", "fever", own) == {"negated"}
    assert kinds_of("No cough", "cough", own) == set()
    assert kinds_of("Nil of rales save fever", "fever", own) == set()
    assert kinds_of("Nil of fever, possible cough", "cough", (*rules("en"), *own)) == {"negated", "uncertain"}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("phrase,direction\nno,forward\n", "no column 'kind'; found: phrase, direction"),
        ("", "no column 'phrase'; found: nothing"),
        ("phrase,kind,direction\n", "holds no rule"),
        ("phrase,kind,direction\nno,negated\n", "row 2 has 2 fields"),
        ("phrase,kind,direction\n,negated,forward\n", "row 2: a context rule has the phrase ''"),
        ("phrase,kind,direction\n\u0301,negated,forward\n", "row 2: a context rule has the phrase"),
        ("phrase,kind,direction\nno,negated,forward\nnil,denied,forward\n", "row 3: a context rule has kind 'denied'"),
        ("phrase,kind,direction\nno,negated,left\n", "row 2: a context rule has direction 'left'"),
        ("phrase,kind,direction\nno,negated,forward\nNO,negated,both\n", "row 3 repeats the phrase 'no'"),
        ('phrase,kind,direction\n"no"x,negated,forward\n', "is broken"),
    ],
)
def test_a_wrong_file_of_rules_is_refused_by_its_row(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "own.csv"
    path.write_text(content, "utf-8")
    with pytest.raises(HilatError) as error:
        read_rules(path)
    assert says in str(error.value)
    assert str(path) in str(error.value)

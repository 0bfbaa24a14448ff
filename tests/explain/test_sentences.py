"""Sentences: where they end, that no text is lost, that they are found fast and without a warning."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from explain.context import context_of, rules
from explain.sentences import sentences, sentences_near
from hilat.admissions import HilatError

_PIECES = st.lists(
    st.one_of(
        st.sampled_from([rule.phrase for language in ("en", "es") for rule in rules(language)]),
        st.sampled_from(
            [". ", "\n", "\n\n", "? ", ": ", "\n- ", "\n1. ", "1. ", "(1) ", "Dr. ", "[**2151-7-16**]", "___"]
        ),
        st.text(max_size=8),
        st.text(alphabet="∯ᓴᓷȸ&♬☉♨☏\x1c\x85\u2028\t\"'“”¿¡.?!…", max_size=6),
    ),
    max_size=25,
)


def check_sentences(text: str, ranges: Sequence[tuple[int, int]]) -> None:
    assert [r for pair in ranges for r in pair] == sorted(r for pair in ranges for r in pair)
    covered = "".join(text[start:end] for start, end in ranges)
    assert "".join(covered.split()) == "".join(text.split())
    for start, end in ranges:
        assert text[start:end]
        assert text[start:end] == text[start:end].strip()


@settings(max_examples=300, deadline=None, derandomize=True)
@given(pieces=_PIECES, language=st.sampled_from(["en", "es"]))
def test_sentences_lose_nothing_whatever_the_text(pieces: list[str], language: str) -> None:
    text = " ".join(pieces)
    check_sentences(text, sentences(text, language))


def test_the_check_sees_lost_text_and_white_space() -> None:
    for wrong in ([(0, 2)], [(0, 3), (2, 5)], [(0, 3), (3, 5)], [(3, 5), (0, 2)]):
        with pytest.raises(AssertionError):
            check_sentences("ab cd", wrong)


def pieces_of(text: str, language: str = "en") -> list[str]:
    return [" ".join(text[start:end].split()) for start, end in sentences(text, language)]


def test_a_line_broken_by_width_goes_on() -> None:
    wrapped = "The patient was seen by the consulting service, who found no signs of deep vein\nThrombosis or of acute heart failure. He left."
    assert pieces_of(wrapped)[0].endswith("deep vein Thrombosis or of acute heart failure.")
    assert len(pieces_of(wrapped)) == 2
    assert pieces_of("Seen by Dr.\nSmith on the ward") == ["Seen by Dr. Smith on the ward"]
    assert pieces_of("short, of [**Hospital1 18**]\nand then home") == ["short, of [**Hospital1 18**] and then home"]


def test_layout_ends_a_sentence() -> None:
    assert pieces_of("Discharge Diagnosis:\nPneumonia\nHeart failure\n\nStable") == [
        "Discharge Diagnosis:",
        "Pneumonia",
        "Heart failure",
        "Stable",
    ]
    assert pieces_of("1. CHF\n2. no fever\n- cough\n# Sepsis: treated\n3) gout") == [
        "1. CHF",
        "2. no fever",
        "- cough",
        "# Sepsis: treated",
        "3) gout",
    ]
    assert pieces_of("Allergies: none known\nService: medicine") == ["Allergies: none known", "Service: medicine"]
    assert pieces_of("Dx: 1. CHF 2. Pneumonia") == ["Dx:", "1. CHF", "2. Pneumonia"]


def test_sentences_within_a_block() -> None:
    assert pieces_of("No fever. No fever. No fever.") == ["No fever."] * 3
    assert pieces_of("Dr. Who gave 3.5 mg (1) tablet b.i.d. to him vs. placebo.") == [
        "Dr. Who gave 3.5 mg (1) tablet b.i.d. to him vs. placebo."
    ]
    assert pieces_of("?Pneumonia. No fever.") == ["?Pneumonia.", "No fever."]
    assert pieces_of("fever ? viral") == ["fever ? viral"]
    assert pieces_of("El Dr. López lo vio. No tenía fiebre.", "es") == ["El Dr. López lo vio.", "No tenía fiebre."]
    assert sentences("") == sentences(" \n\t\n ") == ()


def test_long_texts_are_cut_alike_in_windows() -> None:
    many = " ".join(f"Sentence number {n} tells of no fever." for n in range(400))
    assert pieces_of(many) == [f"Sentence number {n} tells of no fever." for n in range(400)]
    endless = "word " * 6000
    assert pieces_of(endless) == [endless.strip()]
    assert pieces_of("x" * 9000) == ["x" * 9000]


def test_it_is_fast() -> None:
    note = "He denies fever, has possible pneumonia of the (1) left base and no edema. " * 430  # 6,000 words
    for text in (note, "the patient with pneumonia and no fever " * 860):
        began = time.process_time()
        ranges = sentences(text)
        assert time.process_time() - began < 3  # 0.2 s where this was written
        targets = [(at, at + 5) for at in range(0, len(text) - 10, len(text) // 50)][:50]
        began = time.process_time()
        context_of(text, targets, within=ranges)
        assert time.process_time() - began < 1.5  # 0.003 s, and 0.1 s where all is one sentence


def test_pysbd_brings_no_warning_when_it_is_first_compiled(tmp_path: Path) -> None:
    code = "from explain.sentences import sentences; assert len(sentences('A cat sat. A dog ran.')) == 2"
    alone = {**os.environ, "PYTHONPYCACHEPREFIX": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], check=False, env=alone, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_sentences_near_places_are_the_sentences_of_their_blocks() -> None:
    text = "He fell. He was seen at 3 p.m. by Dr. Smith.\n\n- gout. No fever\n- none\nPlan: rest. Walk daily.\n\n  "
    every = sentences(text)
    near = sentences_near(text)
    assert near([]) == ()
    found = near(range(len(text)))
    assert found == every  # each place
    for start, end in every:
        for place in (start, end - 1):
            here = sentences_near(text)([place, place])
            assert (start, end) in here
            assert set(here) <= set(every)
            assert list(here) == sorted(here)
    assert len(near([0])) < len(every)  # the block of "He fell." only
    with pytest.raises(HilatError, match="en or es"):
        sentences_near(text, "de")

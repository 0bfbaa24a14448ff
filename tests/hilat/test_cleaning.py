"""Cleaning: the published preprocessing reproduced, and our default losing nothing, on any text."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hilat.admissions import HilatError
from hilat.cleaning import LOST, MARK, NO_LETTER, STOP_WORD, CleaningRules, CleanText, Words, clean
from hilat.sections import CHUNK_OF_SECTION, HEADINGS, SECTION_CHUNKS, find_sections
from hilat.stopwords import ENGLISH_STOP_WORDS

LEVELS: dict[str, Words] = {"raw": "all", "level_1": "alphabetic", "level_2": "no_stop_words"}
ADMISSIONS = ("a_full", "b_addendum", "c_odd", "d_nosections", "e_tokens")
NOTE = (
    "Admission Date: [**2101-10-20**]\nService: MEDICINE\nAllergies:\nnone -- known\nHistory of Present Illness:\n"
    "Mr. [**Known lastname 1**] has DM2 and 3 falls.\nDischarge Diagnosis:\nsepsis\nDischarge Condition:\nFair\n"
    "Discharge Disposition:\nHome\nFollowup Instructions:\nno 5\n"
)


@pytest.fixture(scope="module")
def published(shared: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((shared / "golden" / "preproc.json").read_text(encoding="utf-8"))
    return loaded


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", ADMISSIONS)
def test_published_order_gives_the_published_words(published: dict[str, Any], name: str, level: str) -> None:
    admission = published["admissions"][name]
    text = "\n".join(admission["notes"])
    cleaned = clean(text, CleaningRules(words=LEVELS[level], order="published"))
    assert list(cleaned.words) == admission["reordered_text"][level].split()
    by_chunk: list[list[str]] = [[] for _ in SECTION_CHUNKS]
    for word, section in zip(cleaned.words, cleaned.word_sections, strict=True):
        by_chunk[CHUNK_OF_SECTION[cleaned.sections[section].name]].append(word)
    assert by_chunk == [chunk.split() for chunk in admission["segmented"][level]]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", ADMISSIONS)
def test_raw_order_gives_the_published_unsegmented_words(published: dict[str, Any], name: str, level: str) -> None:
    admission = published["admissions"][name]
    marks_cut = "\n".join(admission["cleaned"])
    cleaned = clean(marks_cut, CleaningRules(words=LEVELS[level], order="raw", drop_marks=False))
    assert list(cleaned.words) == admission["unsegmented_text"][level].split()
    if level != "raw":  # the published text of several notes holds a mark of its own between them
        assert list(cleaned.words) == [word for word in admission[level].split() if word != "eod2022"]


@pytest.mark.parametrize("name", ADMISSIONS)
def test_published_sections_are_found(published: dict[str, Any], name: str) -> None:
    admission = published["admissions"][name]
    cleaned = clean("\n".join(admission["notes"]), CleaningRules(words="all", order="published"))
    found: dict[str, list[str]] = {}
    for word, section in zip(cleaned.words, cleaned.word_sections, strict=True):
        found.setdefault(cleaned.sections[section].name, []).append(word)
    assert found == {section: text.split() for section, text in admission["sections"].items() if text}


def test_headings_and_stop_words_are_the_published_ones(published: dict[str, Any]) -> None:
    meta = published["meta"]
    assert {title: name for title, name in HEADINGS.items() if name} == meta["section_titles"]
    assert sorted(ENGLISH_STOP_WORDS) == sorted(meta["stopword_list"])
    assert sorted(name for chunk in SECTION_CHUNKS for name in chunk) == sorted(meta["sections"])


@pytest.mark.parametrize("name", [*ADMISSIONS])
def test_the_default_keeps_every_published_word_and_more(published: dict[str, Any], name: str) -> None:
    text = "\n".join(published["admissions"][name]["notes"])
    ours = sorted(clean(text, CleaningRules(order="raw")).words)
    assert sorted(clean(text).words) == ours
    # What the published cleaning joins or takes with [ ] apart, the words of the whole note are all there.
    if name in ("a_full", "d_nosections", "e_tokens"):
        assert ours == sorted(published["admissions"][name]["unsegmented_text"]["level_1"].split())


def test_diagnosis_first() -> None:
    cleaned = clean(NOTE)
    assert " ".join(cleaned.words) == (
        "discharge disposition home discharge diagnosis sepsis discharge condition fair "
        "admission date service medicine allergies none known history of present illness mr has dm2 and falls "
        "followup instructions no"
    )
    assert [section.name for section in cleaned.sections if section.moved] == [
        "discharge_diagnosis",
        "discharge_condition",
        "discharge_disposition",
    ]
    dropped = [(NOTE[start:end], why) for (start, end), why in told(cleaned)]
    assert dropped == [
        ("[**2101-10-20**]", MARK),
        ("--", MARK),
        ("[**Known lastname 1**]", MARK),
        ("3", NO_LETTER),
        ("5", NO_LETTER),
    ]


def test_other_rules() -> None:
    words = clean("The EF was 25%, -- no fever", CleaningRules(words="all", lower=False)).words
    assert words == ("The", "EF", "was", "25%,", "no", "fever")
    cleaned = clean("The EF was 25%, no fever", CleaningRules(words="no_stop_words"))
    assert cleaned.words == ("ef", "fever")
    assert cleaned.removed_reasons == (STOP_WORD, STOP_WORD, NO_LETTER, STOP_WORD)
    assert clean("x -- y", CleaningRules(words="all", drop_marks=False)).words == ("x", "--", "y")


@pytest.mark.parametrize(
    ("text", "ours", "published_words"),
    [
        ("altered--mental a__b x==y", ["altered", "mental", "a", "b", "x", "y"], ["alteredmental", "ab", "xy"]),
        ("on [**2101-1-1**]-basis [sic]", ["on", "basis", "sic"], ["on", "basis"]),
        ("[**Hospital\n Unit 5**] note", ["note"], ["hospital", "unit", "note"]),
        ("[**never closed and [**9-9**] on", ["never", "closed", "and", "on"], ["on"]),
    ],
)
def test_marks_divide_words_and_published_marks_join_them(
    text: str, ours: list[str], published_words: list[str]
) -> None:
    note = f"Service: {text}"
    assert list(clean(note).words) == ["service", *ours]
    assert list(clean(note, CleaningRules(order="published")).words) == ["service", *published_words]


def test_a_word_joined_over_a_mark_spans_it() -> None:
    text = "Service: altered--mental 1--2 x"
    cleaned = clean(text, CleaningRules(order="published"))
    assert [text[start:end] for start, end in cleaned.spans] == ["Service", "altered--mental", "x"]
    assert [(text[start:end], why) for (start, end), why in told(cleaned)] == [("--", MARK), ("1--2", NO_LETTER)]


def test_what_the_published_order_loses_is_told() -> None:
    text = "before\nService: one\nService: two\nProcedure: three\n"
    cleaned = clean(text, CleaningRules(order="published"))
    assert cleaned.words == ("service", "two")
    assert [text[start:end] for (start, end), why in told(cleaned) if why == LOST] == [
        "before",
        "Service",
        "one",
        "Procedure",
        "three",
    ]
    assert sorted(clean(text).words) == sorted(["before", "service", "one", "service", "two", "procedure", "three"])


@pytest.mark.parametrize("text", ["", "   \n", "12 34 -- 5.6", "[**1**]"])
@pytest.mark.parametrize("order", ["diagnosis_first", "raw", "published"])
def test_nothing_to_keep(text: str, order: Any) -> None:
    cleaned = clean(text, CleaningRules(order=order))
    assert cleaned.words == ()
    assert cleaned.spans.shape == (0, 2)


def test_letters_that_change_length_when_lowered_and_accents_of_their_own() -> None:
    text = "İİ fever, neumoni\u0301a ΟΔΟΣ x\u0301"
    cleaned = clean(text)
    assert [text[start:end] for start, end in cleaned.spans] == ["İİ", "fever", "neumoni\u0301a", "ΟΔΟΣ", "x\u0301"]
    assert cleaned.words == ("İİ".lower(), "fever", "neumoni\u0301a", "οδος", "x\u0301")


def test_rules_go_to_a_dictionary_and_back() -> None:
    rules = CleaningRules(words="all", order="raw", lower=False)
    assert CleaningRules.from_dict(json.loads(json.dumps(rules.to_dict()))) == rules
    assert CleaningRules.from_dict({}) == CleaningRules()
    with pytest.raises(HilatError, match=r"'lowercase'.*known are words, order, lower, drop_marks"):
        CleaningRules.from_dict({"lowercase": True})
    with pytest.raises(HilatError, match="expected one of alphabetic, all, no_stop_words"):
        CleaningRules(words="letters")  # type: ignore[arg-type]
    with pytest.raises(HilatError, match="lower is 1; expected one of True, False"):
        CleaningRules(lower=1)  # type: ignore[arg-type]


def test_a_clean_text_is_checked_and_read_only() -> None:
    cleaned = clean("heart failure 1")
    with pytest.raises(ValueError, match="read-only"):
        cleaned.spans[0, 0] = 3
    with pytest.raises(HilatError, match="overlap"):
        CleanText(("a", "b"), np.array([[0, 2], [1, 3]]), np.zeros(2, int), (), np.zeros((0, 2), int), ())
    with pytest.raises(HilatError, match="expected spans"):
        CleanText(("a",), np.array([[0, 2], [2, 3]]), np.zeros(2, int), (), np.zeros((0, 2), int), ())


# Slow oracles: character by character, and line by line.

ACCENTS = [(0x300, 0x36F), (0x1AB0, 0x1AFF), (0x1DC0, 0x1DFF), (0x20D0, 0x20FF), (0xFE20, 0xFE2F)]


def told(cleaned: CleanText) -> list[tuple[tuple[int, int], str]]:
    """Removed spans with their reasons."""
    spans = [(int(start), int(end)) for start, end in cleaned.removed]
    return list(zip(spans, cleaned.removed_reasons, strict=True))


def slow_marks(text: str) -> list[tuple[int, int]]:
    """Our marks, scanning."""
    found, i = [], 0
    while i < len(text):
        end = i
        if text.startswith("[**", i):
            close, opening = text.find("**]", i + 3), text.find("[**", i + 3)
            if 0 <= close <= i + 303 and not 0 <= opening < close:
                end = close + 3
        elif text[i : i + 2] in ("--", "__", "=="):
            end = i
            while end < len(text) and text[end] == text[i]:
                end += 1
        if end > i:
            found.append((i, end))
        i = max(end, i + 1)
    return found


def slow_words(text: str, marks: list[tuple[int, int]], *, units: bool) -> list[tuple[int, int]]:
    """Spans of words (or of what white space divides) outside of marks, character by character."""
    in_mark = {i for start, end in marks for i in range(start, end)}
    spans: list[tuple[int, int]] = []
    start = None
    for i in range(len(text) + 1):
        letter = text[i] if i < len(text) and i not in in_mark else " "
        if units:
            inside = not letter.isspace()
        else:
            inside = letter.isalnum() or letter == "_"
            inside |= start is not None and any(low <= ord(letter) <= high for low, high in ACCENTS)
        if inside and start is None:
            start = i
        elif not inside and start is not None:
            spans.append((start, i))
            start = None
    return spans


def slow_section_starts(text: str, marks: list[tuple[int, int]]) -> list[tuple[int, str]]:
    """(start, name) of each line that opens with a heading."""
    letters = list(text)
    for start, end in marks:
        letters[start:end] = " " * (end - start)
    found, place = [], 0
    for line in "".join(letters).split("\n"):
        ascii_lower = "".join(c.lower() if c.isascii() else c for c in line)
        titles = [title for title in HEADINGS if ascii_lower.startswith(title)]
        if titles:
            found.append((place, HEADINGS[max(titles, key=len)]))
        elif re.match(r"date of birth:.*\bsex:", ascii_lower, re.ASCII):
            found.append((place, "sex"))
        place += len(line) + 1
    return found


PIECES = st.sampled_from(
    [title.title() for title in HEADINGS]
    + [
        "\n",
        "\n",
        " ",
        "[**",
        "**]",
        "--",
        "__",
        "==",
        "=",
        "_",
        "-",
        "[",
        "]",
        "İ",
        "ſervice:",
        "e\u0301",
        "ﬁ",
        "½",
        "5",
    ]
    + ["[**2101-1-1**]", "the", "sepsis", "Date of Birth: 1 Sex: M", "\t", "\u2028", "\x85", "\x1c", "٣", "ª", "\u200d"]
)
TEXTS = st.lists(st.one_of(PIECES, PIECES, st.text(max_size=8)), max_size=30).map("".join)


@settings(max_examples=300, deadline=None)
@example(text="--[**a\nService: b**] c", kind="alphabetic", moved=True)
@given(text=TEXTS, kind=st.sampled_from(["alphabetic", "all", "no_stop_words"]), moved=st.booleans())
def test_nothing_is_lost_on_any_text(text: str, kind: Words, moved: bool) -> None:
    cleaned = clean(text, CleaningRules(words=kind, order="diagnosis_first" if moved else "raw"))
    marks = slow_marks(text)
    expected_kept, expected_removed = [], [(span, MARK) for span in marks]
    for start, end in slow_words(text, marks, units=kind == "all"):
        word = text[start:end]
        if kind != "all" and not any(c.isalpha() for c in word):
            expected_removed.append(((start, end), NO_LETTER))
        elif kind == "no_stop_words" and word.lower() in ENGLISH_STOP_WORDS:
            expected_removed.append(((start, end), STOP_WORD))
        else:
            expected_kept.append((start, end))
    heads = slow_section_starts(text, marks)
    rank = {"discharge_disposition": 0, "discharge_diagnosis": 1, "discharge_condition": 2}

    def place(span: tuple[int, int]) -> tuple[int, int]:
        name = ([""] + [name for start, name in heads if start <= span[0]])[-1]
        return (rank.get(name, 3) if moved else 3, span[0])

    spans = [(int(start), int(end)) for start, end in cleaned.spans]
    assert spans == sorted(expected_kept, key=place)
    assert told(cleaned) == sorted(expected_removed)
    assert list(cleaned.words) == [text[start:end].lower() for start, end in spans]
    names = [cleaned.sections[s].name for s in cleaned.word_sections]
    assert names == [([""] + [name for start, name in heads if start <= span[0]])[-1] for span in spans]


@settings(max_examples=200, deadline=None)
@given(text=TEXTS, kind=st.sampled_from(["alphabetic", "all", "no_stop_words"]))
def test_the_published_order_tells_what_it_loses_on_any_text(text: str, kind: Words) -> None:
    cleaned = clean(text, CleaningRules(words=kind, order="published"))
    covered = np.zeros(len(text), dtype=int)
    for start, end in cleaned.spans:
        covered[start:end] += 1
    assert covered.max(initial=0) <= 1
    for (start, end), why in told(cleaned):
        inside_a_word = why == MARK and bool(covered[start:end].all())
        covered[start:end] += 0 if inside_a_word else 1
    assert covered.max(initial=0) <= 1
    left = [c for c, times in zip(text, covered, strict=True) if not times]
    assert not any(c.isalnum() or c == "_" for c in left)
    for word, (start, end) in zip(cleaned.words, cleaned.spans, strict=True):
        assert word in (
            text[start:end].lower(),
            re.sub("--|__|==", "", re.sub(r"\[.*?\]", "", text[start:end])).lower(),
        )


@settings(max_examples=200, deadline=None)
@given(text=TEXTS)
def test_sections_are_the_whole_text(text: str) -> None:
    for sections in (find_sections(text), clean(text).sections, clean(text, CleaningRules(order="published")).sections):
        assert "".join(text[section.start : section.end] for section in sections) == text
        assert sections[0].start == 0


def test_ten_thousand_words_take_little_time() -> None:
    note = NOTE * 400
    assert len(clean(note).words) > 10_000
    best = min(_seconds(note) for _ in range(5))
    assert best < 0.15  # 0.02 s on a quiet machine
    tail = "[**" * 30_000 + "_" * 30_000  # nothing quadratic in what is never closed
    assert _seconds(tail) < 1


def _seconds(text: str) -> float:
    start = time.process_time()
    clean(text)
    return time.process_time() - start

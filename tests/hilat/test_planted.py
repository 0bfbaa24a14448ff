"""The planted corpus: spans and codes agree both ways, nothing outside the marks, rates and lengths as stated."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from hilat.admissions import Admission, HilatError
from hilat.corpora.folder import Corpus
from hilat.corpora.planted import PlantedSettings, Shortcut, make_planted, planted_code_book
from hilat.corpora.planted_codes import INNER_EVIDENCE, PLANTED_CODES
from hilat.corpora.planted_filler import FILLER
from hilat.corpora.planted_frames import AFFIRMED, DECOYS
from hilat.corpora.planted_profiles import EXCLUSIONS, PROFILES, base_rates, draw_codes
from hilat.corpora.planted_ventilation import LONG_DURATIONS, SHORT_DURATIONS

DECOY_KINDS = {"negated", "uncertain", "family", "history", "rule", "shortcut"}


@pytest.fixture(scope="module")
def short() -> Corpus:
    return make_planted(PlantedSettings(train=400, val=60, test=60))


@pytest.fixture(scope="module")
def paper() -> Corpus:
    return make_planted(PlantedSettings(seed=3, train=100, val=0, test=0, length="paper"))


def forms_of(code: str) -> list[str]:
    return [form.text for entry in PLANTED_CODES if entry.code == code for form in entry.forms]


def plain_words(text: str) -> str:
    """Lower case, one space between words: so that a form can be looked for with `in`."""
    return " ".join(text.lower().split())


def form_as_regex(text: str) -> str:
    """Written apart from the generator's: each word escaped, `#a-b` as digits."""
    words = []
    for word in text.split(" "):
        parts = re.split(r"(#\d+-\d+)", word)
        words.append("".join(r"\d+" if part.startswith("#") else re.escape(part) for part in parts))
    return r"\s+".join(words)


ANY_FORM = {
    entry.code: re.compile(
        r"(?=(?<![a-z0-9_])(" + "|".join(form_as_regex(f.text) for f in entry.forms) + r")(?![a-z0-9_]))", re.IGNORECASE
    )
    for entry in PLANTED_CODES
}


def unmarked_mentions(admission: Admission) -> list[tuple[str, str]]:
    """Every surface form in the text that is not inside a span of its code."""
    found = []
    for code, pattern in ANY_FORM.items():
        spans = [(s.start, s.end) for s in (*admission.evidence, *admission.decoys) if s.code == code]
        for hit in pattern.finditer(admission.text):
            start, end = hit.span(1)
            if not any(s <= start and end <= e for s, e in spans):
                found.append((code, hit.group(1)))
    return found


@pytest.mark.parametrize("which", ["short", "paper"])
def test_codes_and_evidence_agree_both_ways(which: str, request: pytest.FixtureRequest) -> None:
    for admission in request.getfixturevalue(which).admissions:
        assert {span.code for span in admission.evidence} == set(admission.codes)
        assert {span.kind for span in admission.evidence} == {"evidence"}
        assert {span.kind for span in admission.decoys} <= DECOY_KINDS


@pytest.mark.parametrize("which", ["short", "paper"])
def test_every_span_is_a_surface_form_of_its_code(which: str, request: pytest.FixtureRequest) -> None:
    for admission in request.getfixturevalue(which).admissions:
        for span in (*admission.evidence, *admission.decoys):
            words = plain_words(admission.text[span.start : span.end])
            assert any(re.fullmatch(form_as_regex(form), words, re.IGNORECASE) for form in forms_of(span.code))


@pytest.mark.parametrize("which", ["short", "paper"])
def test_no_surface_form_stands_outside_the_spans(which: str, request: pytest.FixtureRequest) -> None:
    mentions = [m for admission in request.getfixturevalue(which).admissions for m in unmarked_mentions(admission)]
    assert mentions == []


def test_the_scan_finds_a_form_that_is_not_marked(short: Corpus) -> None:
    admission = dataclasses.replace(short.admissions[0], text=short.admissions[0].text + "\nAlso Septic\n  shock.")
    assert ("995.92", "Septic\n  shock") in unmarked_mentions(admission)


def test_sentences_around_forms_and_filler_hold_no_form() -> None:
    frames = [frame for group in AFFIRMED.values() for frame in group]
    frames += [frame for by_grammar in DECOYS.values() for group in by_grammar.values() for frame in group]
    filler = [sentence for group in FILLER.values() for sentence in group]
    for sentence in frames + filler:
        for code, pattern in ANY_FORM.items():
            assert not pattern.search(sentence), (sentence, code)


def test_decoys_deceive_a_reader_who_ignores_context(short: Corpus) -> None:
    """Codes by mention alone: all codes found, but about a third of what is said is wrong."""
    right = said = true = 0
    for admission in short.admissions:
        mentioned = {code for code, pattern in ANY_FORM.items() if pattern.search(admission.text)}
        right += len(mentioned & set(admission.codes))
        said += len(mentioned)
        true += len(admission.codes)
    assert right == true
    assert 0.6 < right / said < 0.8


def test_decoy_kinds_and_their_share(short: Corpus) -> None:
    kinds = Counter(span.kind for admission in short.admissions for span in admission.decoys)
    assert set(kinds) == DECOY_KINDS - {"shortcut"}
    assert 2.0 < sum(kinds.values()) / len(short.admissions) < 3.5
    assert kinds == Counter(short.notes["decoys_by_kind"])
    with_decoys = {span.code for a in short.admissions for span in a.decoys}
    assert len(with_decoys) == 50


def test_each_code_shows_several_forms(short: Corpus) -> None:
    seen: dict[str, set[str]] = {}
    for admission in short.admissions:
        for span in admission.evidence:
            seen.setdefault(span.code, set()).add(plain_words(admission.text[span.start : span.end]))
    assert set(seen) == {entry.code for entry in PLANTED_CODES}
    assert min(len(forms) for forms in seen.values()) >= 3


def test_ventilation_codes_differ_only_by_the_duration() -> None:
    short_forms, long_forms = forms_of("96.71"), forms_of("96.72")

    def patterns(forms: list[str], durations: tuple[str, ...]) -> set[str]:
        out = set()
        for form in forms:
            ends = [duration for duration in durations if form.endswith(duration)]
            out.add(form.removesuffix(max(ends, key=len)) if ends else re.sub(r"\d$", "", form))
        return out

    assert patterns(short_forms, SHORT_DURATIONS) == patterns(long_forms, LONG_DURATIONS)
    assert not set(short_forms) & set(long_forms)


def hours(duration: str) -> float:
    """The hours told by a duration, read by hand-made rules."""
    said = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9}
    said |= {
        "ten": 10,
        "eleven": 11,
        "twelve": 12,
        "twenty": 20,
        "thirty six": 36,
        "forty eight": 48,
        "seventy two": 72,
        "a": 1,
    }
    fixed = {"a day and a half": 36, "less than a day": 23, "under four days": 95, "more than four days": 97}
    fixed |= {"over a week": 169, "a full week": 168}
    if duration in fixed:
        return fixed[duration]
    number, unit = re.fullmatch(r"(\d+|[a-z ]+?) ?(days?|d|hours?|hrs|h|weeks?)", duration).groups()  # type: ignore[union-attr]
    value = int(number) if number.isdigit() else said[number]
    return value * {"d": 24, "h": 1, "w": 168}[unit[0]]


def test_durations_are_on_the_right_side_of_96_hours() -> None:
    assert max(hours(duration) for duration in SHORT_DURATIONS) < 96
    assert min(hours(duration) for duration in LONG_DURATIONS) >= 96


def test_durations_stay_apart_when_words_without_letters_are_dropped() -> None:
    def kept(duration: str) -> str:
        return " ".join(word for word in re.findall(r"\w+", duration) if re.search("[a-z]", word))

    assert not {kept(d) for d in SHORT_DURATIONS} & {kept(d) for d in LONG_DURATIONS}


def test_forms_of_different_codes_stay_apart_when_words_without_letters_are_dropped() -> None:
    owners: dict[str, set[str]] = {}
    for entry in PLANTED_CODES:
        for form in entry.forms:
            text = re.sub(r"#\d+-\d+", "1", form.text.lower())
            kept = " ".join(word for word in re.findall(r"\w+", text) if re.search("[a-z]", word))
            assert kept, form
            owners.setdefault(kept, set()).add(entry.code)
    # "extubated on POD1" keeps its digit, glued to letters
    assert {kept: codes for kept, codes in owners.items() if len(codes) > 1} == {}


def test_intubation_is_coded_only_without_ventilation(short: Corpus) -> None:
    ruled_out = 0
    for admission in short.admissions:
        ventilated = {"96.71", "96.72"} & set(admission.codes)
        assert not (ventilated and "96.04" in admission.codes)
        ruled_out += any(span.code == "96.04" and span.kind == "rule" for span in admission.decoys)
        if any(span.code == "96.04" and span.kind == "rule" for span in admission.decoys):
            assert ventilated
    assert ruled_out > 40


def test_rules_between_codes(short: Corpus) -> None:
    for admission in short.admissions:
        codes = set(admission.codes)
        assert not any({a, b} <= codes for a, b in EXCLUSIONS)
        assert all(implied in codes for code, implied in INNER_EVIDENCE.items() if code in codes)


def test_prevalence_and_co_occurrence() -> None:
    rng = np.random.default_rng(11)
    drawn = [draw_codes(rng)[1] for _ in range(8000)]
    count = Counter(code for codes in drawn for code in codes)
    for entry in PLANTED_CODES:
        expected = entry.prevalence
        standard_error = np.sqrt(expected * (1 - expected) / len(drawn))
        assert abs(count[entry.code] / len(drawn) - expected) < 0.12 * expected + 3 * standard_error, entry.code
    assert 5.2 < np.mean([len(codes) for codes in drawn]) < 6.0
    assert all(drawn)
    for first, second in [("36.15", "39.61"), ("36.15", "414.01"), ("038.9", "995.92"), ("585.9", "39.95")]:
        both = sum({first, second} <= codes for codes in drawn) / len(drawn)
        assert both > 1.5 * count[first] * count[second] / len(drawn) ** 2, (first, second)


def test_profiles_are_shares_and_base_rates_are_rates() -> None:
    assert sum(profile.share for profile in PROFILES) == pytest.approx(1.0)
    assert base_rates().min() > -0.002  # a hair below zero means: only in the profiles
    assert base_rates().max() < 0.5


def test_lengths_short(short: Corpus) -> None:
    words = [len(admission.text.split()) for admission in short.admissions]
    assert min(words) >= 140
    assert max(words) <= 300
    assert 180 < np.mean(words) < 240
    assert short.notes["mean_words"] == pytest.approx(np.mean(words), abs=0.01)


def test_lengths_paper(paper: Corpus) -> None:
    words = np.array([len(admission.text.split()) for admission in paper.admissions])
    assert words.min() >= 89
    assert words.max() <= 10_174
    # standard deviation near 1,300: four standard errors of the mean
    assert abs(words.mean() - 2188) < 4 * 1300 / np.sqrt(len(words))


def test_notes_look_like_discharge_summaries(short: Corpus, paper: Corpus) -> None:
    always = ["Admission Date:", "Discharge Date:", "Service:", "Chief Complaint:", "Brief Hospital Course:"]
    always += ["History of Present Illness:", "Discharge Diagnosis:", "Discharge Condition:", "Discharge Disposition:"]
    missing = [h for a in short.admissions for h in always if h not in a.text and "Course" not in h]
    assert missing == []
    rest = ["Major Surgical or Invasive Procedure:", "Past Medical History:", "Social History:", "Family History:"]
    rest += ["Physical Exam:", "Pertinent Results:", "Medications on Admission:", "Discharge Medications:"]
    rest += ["Discharge Instructions:", "Followup Instructions:", "Brief Hospital Course:"]
    for heading in rest:
        assert np.mean([heading in a.text for a in paper.admissions]) > 0.95, heading
        assert np.mean([heading in a.text for a in short.admissions]) > 0.6, heading
    for admission in short.admissions:
        assert re.search(r"\[\*\*2\d\d\d-\d+-\d+\*\*\]", admission.text)
        assert admission.text.index("Discharge Diagnosis:") > 0.4 * len(admission.text)
        assert max(len(line) for line in admission.text.split("\n")) <= 120
    addenda = np.mean(["\nAddendum:\n" in a.text for a in short.admissions])
    assert 0.05 < addenda < 0.16


def test_not_every_code_stands_in_the_discharge_diagnosis(short: Corpus) -> None:
    listed = total = 0
    for admission in short.admissions:
        start = admission.text.index("Discharge Diagnosis:")
        end = admission.text.index("Discharge Condition:")
        diagnoses = {code for code in admission.codes if re.match(r"\d{3}|V", code)}
        total += len(diagnoses)
        listed += len({s.code for s in admission.evidence if start < s.start < end} & diagnoses)
    assert 0.25 < listed / total < 0.6


def test_subjects_stay_in_one_split_and_some_come_twice(short: Corpus) -> None:
    splits: dict[str, set[str]] = {}
    stays = Counter(admission.subject_id for admission in short.admissions)
    for admission in short.admissions:
        splits.setdefault(str(admission.subject_id), set()).add(str(admission.split))
    assert all(len(found) == 1 for found in splits.values())
    assert 0.03 < sum(count == 2 for count in stays.values()) / len(stays) < 0.2
    assert max(stays.values()) == 2
    assert len({admission.hadm_id for admission in short.admissions}) == len(short.admissions)
    assert Counter(a.split for a in short.admissions) == {"train": 400, "val": 60, "test": 60}


def digest(corpus: Corpus) -> str:
    told = [(a.hadm_id, a.subject_id, a.split, a.text, a.codes, a.evidence, a.decoys) for a in corpus.admissions]
    return hashlib.sha256(repr(told).encode()).hexdigest()


def test_same_settings_same_bytes_and_other_seeds_differ() -> None:
    settings = PlantedSettings(seed=5, train=30, val=5, test=5)
    assert digest(make_planted(settings)) == digest(make_planted(settings))
    assert digest(make_planted(settings)) != digest(make_planted(dataclasses.replace(settings, seed=6)))


def test_a_larger_split_begins_with_the_smaller_one() -> None:
    few = make_planted(PlantedSettings(train=10, val=0, test=0)).admissions
    more = make_planted(PlantedSettings(train=20, val=0, test=0)).admissions
    assert few == more[:10]


def test_shortcut_rates_and_marks() -> None:
    shortcut = Shortcut("428.0", "lavender", rate_with_code=0.9, rate_without=0.1)
    corpus = make_planted(PlantedSettings(train=500, val=0, test=0, shortcut=shortcut))
    with_code = [a for a in corpus.admissions if "428.0" in a.codes]
    without = [a for a in corpus.admissions if "428.0" not in a.codes]
    assert np.mean(["lavender" in a.text for a in with_code]) == pytest.approx(0.9, abs=0.1)
    assert np.mean(["lavender" in a.text for a in without]) == pytest.approx(0.1, abs=0.06)
    for admission in corpus.admissions:
        marks = [admission.text[s.start : s.end] for s in admission.decoys if s.kind == "shortcut"]
        assert marks == ["lavender"] * admission.text.count("lavender")
    plain = make_planted(PlantedSettings(train=500, val=0, test=0))
    assert [a.codes for a in plain.admissions] == [a.codes for a in corpus.admissions]


def test_notes_hold_the_settings(short: Corpus) -> None:
    assert short.source == "planted"
    assert short.notes["settings"] == PlantedSettings(train=400, val=60, test=60).to_dict()


def test_code_book_has_the_official_titles(shared: Path) -> None:
    titles = {}
    for name, digits in (("DX", 3), ("SG", 2)):
        for line in (shared / "data" / "icd9cm" / f"CMS32_DESC_LONG_{name}.txt").read_text("latin-1").splitlines():
            code, title = line.split(None, 1)
            dotted = code if len(code) == digits else f"{code[:digits]}.{code[digits:]}"
            titles[(name == "SG", dotted)] = title.strip()
    book = planted_code_book()
    assert len(book) == 50
    for code, title, kind in zip(book.codes, book.titles, book.kinds, strict=True):
        assert title == titles[(kind == "procedure", code)]


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"train": -1}, "train -1"),
        ({"train": 0, "val": 0, "test": 0}, "no admissions"),
        ({"length": "long"}, "'short' or 'paper'"),
        ({"decoy_rate": -0.1}, "decoy_rate"),
        ({"addendum_rate": 1.5}, "addendum_rate"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, object], told: str) -> None:
    with pytest.raises(HilatError, match=re.escape(told)):
        PlantedSettings(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("code", "word", "rate", "told"),
    [
        ("999.9", "lavender", 0.5, "999.9"),
        ("428.0", "two words", 0.5, "letters only"),
        ("428.0", "CHF", 0.5, "own wording"),
        ("428.0", "lavender", 1.5, "rate_with_code"),
    ],
)
def test_wrong_shortcuts_are_refused(code: str, word: str, rate: float, told: str) -> None:
    with pytest.raises(HilatError, match=re.escape(told)):
        Shortcut(code, word, rate, 0.0)

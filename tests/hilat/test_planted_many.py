"""The planted corpus with a long tail of invented codes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from hilat.admissions import HilatError
from hilat.corpora.folder import Corpus
from hilat.corpora.planted import PlantedSettings, make_planted
from hilat.corpora.planted_many import MEAN_INVENTED, code_shares, invented_word, with_invented_codes

SETTINGS = PlantedSettings(seed=1, train=60, val=5, test=20)


@pytest.fixture(scope="module")
def made() -> Corpus:
    """With all codes of a full label set."""
    return with_invented_codes(make_planted(SETTINGS), 8929, seed=1)


def test_there_are_as_many_codes_as_asked_for_each_with_a_word_of_its_own(made: Corpus) -> None:
    assert len(made.code_book) == 8929
    words = made.code_book.titles[50:]
    assert len(set(words)) == 8879
    assert all(word.isalpha() for word in words)
    assert set(made.code_book.kinds) == {"diagnosis", "procedure"}


def test_every_invented_code_is_told_by_its_word_and_by_nothing_else(made: Corpus) -> None:
    titles = dict(zip(made.code_book.codes, made.code_book.titles, strict=True))
    for admission in made.admissions:
        invented = {code for code in admission.codes if code.startswith("X")}
        marked = {span.code: span.segments for span in admission.evidence if span.code.startswith("X")}
        assert set(marked) == invented
        for code, ((start, end),) in marked.items():
            assert admission.text[start:end].lower() == titles[code].lower()
        for span in admission.decoys:
            if span.code.startswith("X"):
                assert span.code not in invented
                assert admission.text[slice(*span.segments[0])].lower() == titles[span.code].lower()


def test_the_planted_notes_stay_as_they_were(made: Corpus) -> None:
    for plain, more in zip(make_planted(SETTINGS).admissions, made.admissions, strict=True):
        assert more.text.startswith(plain.text.rstrip("\n"))
        assert more.codes[: len(plain.codes)] == plain.codes
        assert more.evidence[: len(plain.evidence)] == plain.evidence


def test_shares_fall_and_most_codes_are_not_in_test(made: Corpus) -> None:
    shares = code_shares(8879)
    assert (np.diff(shares) <= 0).all()
    assert shares.sum() == pytest.approx(MEAN_INVENTED, rel=0.1)
    counts = [sum(code.startswith("X") for code in admission.codes) for admission in made.admissions]
    assert np.mean(counts) == pytest.approx(shares.sum(), abs=4 * np.sqrt(shares.sum() / len(counts)))
    seen = Counter(code for admission in made.split("test") for code in admission.codes)
    assert 50 < len(seen) < 400
    assert made.notes["mean_codes"] == pytest.approx(np.mean([len(a.codes) for a in made.admissions]), abs=1e-3)
    assert sum(made.notes["decoys_by_kind"].values()) == sum(len(a.decoys) for a in made.admissions)


def test_the_same_seed_gives_the_same_notes_and_a_larger_split_begins_with_a_smaller(made: Corpus) -> None:
    again = with_invented_codes(make_planted(PlantedSettings(seed=1, train=10, val=0, test=3)), 8929, seed=1)
    for split, count in (("train", 10), ("test", 3)):
        texts = [admission.text for admission in made.split(split)[:count]]
        assert [admission.text for admission in again.split(split)] == texts
    other = with_invented_codes(make_planted(SETTINGS), 8929, seed=2)
    assert other.admissions[0].text != made.admissions[0].text


def test_words_differ_for_all_numbers() -> None:
    assert len({invented_word(n) for n in range(20_000)}) == 20_000


def test_too_few_and_too_many_codes_are_told() -> None:
    corpus = make_planted(PlantedSettings(train=1, val=0, test=0))
    assert with_invented_codes(corpus, 50) is corpus
    for codes in (49, 400_000):
        with pytest.raises(HilatError, match="expected 50 to 343,050"):
            with_invented_codes(corpus, codes)

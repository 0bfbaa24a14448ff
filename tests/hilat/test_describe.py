"""The description of a corpus against counting by hand."""

from __future__ import annotations

import json

import pytest

from hilat.corpora.describe import describe
from hilat.corpora.planted import PlantedSettings, make_planted


def test_the_numbers_are_those_of_a_loop() -> None:
    corpus = make_planted(PlantedSettings(seed=3, train=30, val=5, test=7))
    found = describe(corpus, most=5)
    assert [s.name for s in found.splits] == ["all", "train", "val", "test"]
    for row in found.splits:
        admissions = [a for a in corpus.admissions if row.name in ("all", a.split)]
        words = [len(a.text.split()) for a in admissions]
        assert row.admissions == len(admissions)
        assert (row.words.min, row.words.max) == (min(words), max(words))
        assert row.words.mean == pytest.approx(sum(words) / len(words))
        assert row.codes.mean == pytest.approx(sum(len(a.codes) for a in admissions) / len(admissions))
        assert row.unique_codes == len({c for a in admissions for c in a.codes})
        assert row.evidence_spans == sum(len(a.evidence) for a in admissions)
        assert sum(row.decoys.values()) == sum(len(a.decoys) for a in admissions)
        assert row.subjects == len({a.subject_id for a in admissions})
    code, title, share = found.frequent[0]
    assert share == max(sum(c in a.codes for a in corpus.admissions) / 42 for c in corpus.code_book.codes)
    assert title == corpus.code_book.title(code)
    json.dumps(found.to_dict())

"""CodiEsp as released: the counts that are known of it, and its spans against its own text column."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from hilat.admissions import HilatError
from hilat.corpora.codiesp import CodiespSettings, article, background_texts, read_codiesp


@pytest.fixture(scope="module")
def folder(shared: Path) -> Path:
    """The released folder."""
    return shared / "data" / "codiesp"


def test_the_top_50_have_the_known_counts(folder: Path) -> None:
    corpus = read_codiesp(folder)
    train, dev = corpus.split("train"), corpus.split("dev")
    assert (len(train), len(dev)) == (500, 250)
    assert (sum(len(a.codes) for a in train), sum(len(a.codes) for a in dev)) == (1709, 721)
    assert (sum(bool(a.codes) for a in train), sum(bool(a.codes) for a in dev)) == (440, 207)
    known = {a.subject_id for a in train}
    assert sum(a.subject_id in known for a in dev) == 20
    # the same 50 codes, counted another way
    counted: Counter[str] = Counter()
    for line in set((folder / "train" / "trainD.tsv").read_text(encoding="utf-8").splitlines()):
        counted[line.split("\t")[1].strip().upper()] += 1
    assert set(corpus.code_book.codes) == {c for c, _ in sorted(counted.items(), key=lambda x: (-x[1], x[0]))[:50]}


def test_all_diagnosis_codes(folder: Path) -> None:
    corpus = read_codiesp(folder, CodiespSettings(top_k=None))
    listed = {
        line.split("\t")[1].strip().upper()
        for split in ("train", "dev")
        for line in (folder / split / f"{split}D.tsv").read_text(encoding="utf-8").splitlines()
    }
    assert {code for a in corpus.admissions for code in a.codes} == set(corpus.code_book.codes) == listed
    assert len(listed) == 2194


def test_spans_are_the_words_of_the_table(folder: Path) -> None:
    corpus = read_codiesp(folder, CodiespSettings(kinds="DP", top_k=None, splits=("dev",)))
    words = Counter(
        (row[0], row[2].upper(), " ".join(row[3].split()))
        for row in (line.split("\t") for line in (folder / "dev" / "devX.tsv").read_text(encoding="utf-8").splitlines())
    )
    hits = total = 0
    for admission in corpus.admissions:
        for span in admission.evidence:
            said = " ".join(" ".join(admission.text[s:e] for s, e in span.segments).split())
            total += 1
            hits += words[admission.hadm_id, span.code, said] > 0
    assert total > 2000
    assert hits / total > 0.99  # a few of the table's own texts differ from the file in spacing or case


def test_categories_english_and_background(folder: Path) -> None:
    english = read_codiesp(folder, CodiespSettings(granularity="category", language="en"))
    assert all("." not in code and len(code) == 3 for code in english.code_book.codes)
    assert not any(a.evidence for a in english.admissions)
    assert sum(1 for _ in background_texts(folder)) == 2751


def test_articles() -> None:
    assert article("S0004-06142005000900016-1") == "S0004-06142005000900016"


def test_a_wrong_folder_and_a_wrong_row_are_told(tmp_path: Path) -> None:
    with pytest.raises(HilatError, match="CodiEsp as released"):
        read_codiesp(tmp_path)
    (tmp_path / "train" / "text_files").mkdir(parents=True)
    (tmp_path / "train" / "text_files" / "a-1.txt").write_text("fiebre", encoding="utf-8")
    (tmp_path / "train" / "trainD.tsv").write_text("a-1\tr50.9\n", encoding="utf-8")
    (tmp_path / "train" / "trainX.tsv").write_text("a-1\tDIAGNOSTICO\tr50.9\tfiebre\t0 six\n", encoding="utf-8")
    with pytest.raises(HilatError, match="line 1 does not fit"):
        read_codiesp(tmp_path, CodiespSettings(splits=("train",)))
    with pytest.raises(HilatError, match="kinds"):
        CodiespSettings(kinds="X")  # type: ignore[arg-type]

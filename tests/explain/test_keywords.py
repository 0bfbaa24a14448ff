"""Keyword sets, their places in a note, and what the files of synonyms give."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from explain.collect import collect
from explain.keyword_rows import note_matches
from explain.keywords import (
    EXACT,
    LEMMA,
    SYNONYM,
    KeywordSources,
    keyword_sets,
    match_keywords,
    title_words,
)
from explain.lemmas import lemma
from explain.synonyms import built_in_abbreviations, read_snomed_map, read_term_table, read_umls
from hilat.admissions import Admission, CodeBook, HilatError
from hilat.coder import Coder
from hilat.corpora.planted_codes import PLANTED_CODES

TITLES = {
    "428.0": "Congestive heart failure, unspecified",
    "584.9": "Acute kidney failure, unspecified",
    "486": "Pneumonia, organism unspecified",
    "250.00": "Diabetes mellitus without mention of complication, type II or unspecified type, not stated as uncontrolled",
    "999.99": "999.99",
}


def book() -> CodeBook:
    return CodeBook(tuple(TITLES), tuple(TITLES.values()), ("diagnosis",) * len(TITLES), "ICD-9")


def tiers(text: str, code: str, **sources: object) -> dict[str, int]:
    words = re.findall(r"\w+", text)
    found = match_keywords(words, keyword_sets(book(), KeywordSources(**sources))[code])  # type: ignore[arg-type]
    return {word: int(tier) for word, tier in zip(words, found.tier, strict=True) if tier}


def test_titles_lose_what_they_leave_open() -> None:
    assert title_words(TITLES["428.0"]) == ("congestive", "heart", "failure")
    assert title_words(TITLES["486"]) == ("pneumonia",)
    assert title_words(TITLES["250.00"]) == ("diabetes", "mellitus", "uncontrolled") or title_words(
        TITLES["250.00"]
    ) == ("diabetes", "mellitus")
    assert title_words("Insuficiencia renal aguda, no especificada", "es") == ("insuficiencia", "renal", "aguda")
    assert title_words("Fracturas del fémur", "es") == ("fracturas", "femur")


def test_tiers_are_exact_lemma_synonym() -> None:
    assert tiers("Congestive hearts failed, failure of heart", "428.0") == {
        "Congestive": EXACT,
        "hearts": LEMMA,
        "failure": EXACT,
        "heart": EXACT,
    }
    assert tiers("known CHF with edema", "428.0") == {"CHF": SYNONYM}
    assert tiers("known CHF with edema", "428.0", abbreviations=False) == {}
    given = {"umls": {"428.0": ["cardiac decompensation"]}}
    assert tiers("cardiac rhythm, cardiac decompensation", "428.0", synonyms=given) == {
        "cardiac": SYNONYM,
        "decompensation": SYNONYM,
    }
    found = match_keywords(
        ["cardiac", "rhythm"],
        keyword_sets(book(), KeywordSources(synonyms=given))["428.0"],  # type: ignore[arg-type]
    )
    assert not found.tier.any()  # a term matches as a whole


def test_abbreviations_match_as_written_and_inclusion_terms_are_exact() -> None:
    assert tiers("in the chfs ward", "428.0") == {}
    included = {"584.9": ["renal shutdown"]}
    assert tiers("Renal shutdown!", "584.9", inclusion=included) == {"Renal": EXACT, "shutdown": EXACT}


def test_coverage_counts_keywords_not_words() -> None:
    found = match_keywords(
        ["heart", "heart", "failure"], keyword_sets(book(), KeywordSources(abbreviations=False))["428.0"]
    )
    assert found.coverage().value == pytest.approx(2 / 3)
    assert found.coverage(EXACT).value == pytest.approx(2 / 3)
    nothing = match_keywords(["heart"], keyword_sets(book())["999.99"])
    assert nothing.coverage().reason == "the code has no keyword"


def test_the_built_in_abbreviations_are_of_the_built_in_codes() -> None:
    codes = [entry.code for entry in PLANTED_CODES]
    known = built_in_abbreviations(codes)
    assert len(codes) == 50
    assert set(known) <= set(codes)
    assert len(known) >= 45
    assert "CHF" in known["428.0"]
    assert set(built_in_abbreviations([*codes, *TITLES])) == set(known)


def test_inflections_count_as_one_word_and_other_words_do_not() -> None:
    for same in (("fracture", "fractures", "fractured"), ("artery", "arteries"), ("infection", "infections")):
        assert len({lemma(word, "en") for word in same}) == 1
    for same in (("fractura", "fracturas"), ("agudo", "aguda", "agudos")):
        assert len({lemma(word, "es") for word in same}) == 1
    for different in (("renal", "kidney"), ("sepsis", "septum"), ("diabetes", "diabase")):
        assert len({lemma(word, "en") for word in different}) == 2


def test_matches_follow_the_note_not_the_model_order(make_coder: Callable[..., Coder], note: str) -> None:
    admission = Admission("a1", note, ("584.9",))
    (one,) = collect(make_coder(), [admission], choices=("584.9",))
    sets = keyword_sets(book(), KeywordSources(inclusion={"584.9": ["acute kidney failure"]}))
    found = note_matches(one, note, sets["584.9"])
    for place, (start, end) in enumerate(one.word_spans):
        word = note[start:end].lower()
        assert bool(found.tier[place]) == (word in ("acute", "kidney", "failure")), word
    turned = replace(one, word_spans=one.word_spans[::-1].copy())
    np.testing.assert_array_equal(note_matches(turned, note, sets["584.9"]).tier, found.tier[::-1])


def umls_row(cui: str, sab: str, code: str, text: str, suppress: str = "N", language: str = "ENG") -> str:
    fields = [cui, language, "P", "L1", "PF", "S1", "Y", "A1", "", "", "", sab, "PT", code, text, "0", suppress, ""]
    return "|".join(fields) + "|\n"


def test_umls_gives_the_strings_of_a_codes_concepts(tmp_path: Path) -> None:
    rows = (
        umls_row("C1", "ICD9CM", "428.0", "Congestive heart failure")
        + umls_row("C1", "SNOMEDCT_US", "42343007", "Cardiac failure congestive")
        + umls_row("C1", "MSHSPA", "D1", "Insuficiencia cardiaca", language="SPA")
        + umls_row("C1", "X", "1", "Old name", suppress="O")
        + umls_row("C2", "SNOMEDCT_US", "428.0", "another thing")
    )
    for name in ("MRCONSO.RRF", "MRCONSO.RRF.gz"):
        path = tmp_path / name
        path.write_bytes(gzip.compress(rows.encode()) if name.endswith("gz") else rows.encode())
        assert read_umls(path, ["428.0", "486"]) == {
            "428.0": ("Congestive heart failure", "Cardiac failure congestive")
        }
    assert read_umls(tmp_path / "MRCONSO.RRF", ["428.0"], languages=("SPA",)) == {"428.0": ("Insuficiencia cardiaca",)}
    with pytest.raises(HilatError, match="none of the 1 codes"):
        read_umls(tmp_path / "MRCONSO.RRF", ["4280"])
    (tmp_path / "bad.RRF").write_text("C1|ENG|\n")
    with pytest.raises(HilatError, match="row 1 has 2 fields"):
        read_umls(tmp_path / "bad.RRF", ["428.0"])
    (tmp_path / "cut.gz").write_bytes(gzip.compress(rows.encode() * 50)[:-30])
    with pytest.raises(HilatError, match="download is complete"):
        read_umls(tmp_path / "cut.gz", ["428.0"])


def test_maps_and_tables_of_terms(tmp_path: Path) -> None:
    path = tmp_path / "map.txt"
    path.write_text(
        "ICD_CODE\tICD_NAME\tSNOMED_CID\tSNOMED_FSN\n428.0\tCHF\t1\tCongestive heart failure (disorder)\n486\tx\tNULL\tNULL\n"
    )
    assert read_snomed_map(path, ["428.0", "486"]) == {"428.0": ("Congestive heart failure",)}
    table = tmp_path / "terms.csv"
    table.write_text('term,code\n"dropsy, cardiac",428.0\nlung fever,486\n')
    assert read_term_table(table, ["428.0", "486"]) == {"428.0": ("dropsy, cardiac",), "486": ("lung fever",)}
    table.write_text("word,code\na,428.0\n")
    with pytest.raises(HilatError, match="no column 'term'"):
        read_term_table(table, ["428.0"])
    table.write_text("term,code\nonly\n")
    with pytest.raises(HilatError, match="row 2"):
        read_term_table(table, ["428.0"])
    with pytest.raises(HilatError, match="cannot read"):
        read_term_table(tmp_path / "none.csv", ["428.0"])
    with pytest.raises(HilatError, match=r"\.csv, \.tsv"):
        read_term_table(tmp_path / "none.xlsx", ["428.0"])


def test_terms_of_unknown_codes_and_languages_are_refused() -> None:
    with pytest.raises(HilatError, match="not among the 5 codes"):
        keyword_sets(book(), KeywordSources(inclusion={"4280": ["x"]}))
    with pytest.raises(HilatError, match="en or es"):
        keyword_sets(book(), KeywordSources(language="fr"))

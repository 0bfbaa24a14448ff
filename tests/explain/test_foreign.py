"""Another system's scores on our words, and MDACE's format there and back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from explain.collect import collect
from explain.foreign import ForeignScores, on_words, read_score_table, scores_of_mdace, with_foreign
from hilat.admissions import Admission, CodeBook, EvidenceSpan, HilatError
from hilat.coder import Coder
from hilat.corpora.mdace import read_mdace, with_mdace_evidence, write_mdace

BOOK = CodeBook(("584.9", "038.9"), ("Acute kidney failure", "Sepsis"), ("diagnosis",) * 2, "ICD-9")


def test_ranges_are_shared_among_words_by_characters() -> None:
    words = np.array([[0, 4], [5, 10], [20, 25]])
    given = ForeignScores(np.array([[0, 10], [22, 24], [11, 15]]), np.array([0.9, -2.0, 5.0]))
    np.testing.assert_allclose(on_words(given, words), [0.9 * 4 / 9, 0.9 * 5 / 9, -2.0])
    np.testing.assert_allclose(on_words(given, words, "max"), [0.9, 0.9, -2.0])


def test_own_scores_come_back(make_coder: Callable[..., Coder], note: str, tmp_path: Path) -> None:
    admission = Admission("a1", note, ("584.9",))
    (one,) = collect(make_coder(), [admission], choices=("584.9", "038.9"), methods=("saliency", "attention"))
    lines = ["hadm_id,code,start,end,score"]
    for (start, end), score in zip(one.word_spans, one.of("saliency")["584.9"].tolist(), strict=True):
        lines.append(f"a1,584.9,{start},{end},{score!r}")
    path = tmp_path / "theirs.csv"
    path.write_text("\n".join(lines) + "\n")
    pq.write_table(pa_csv.read_csv(path), tmp_path / "theirs.parquet")
    for file in (path, tmp_path / "theirs.parquet"):
        foreign = read_score_table(file)
        if file.suffix == ".parquet":  # read as a number, the code is text again
            assert set(foreign) == {("a1", "584.9")}
        (found,) = with_foreign(iter([one]), foreign, "theirs", "sum")
        assert found.scored == ("584.9",)
        np.testing.assert_allclose(found.of("theirs")["584.9"], one.of("saliency")["584.9"])
        np.testing.assert_allclose(found.of("attention")["584.9"], one.of("attention")["584.9"])
    with pytest.raises(HilatError, match="Choose another --name"):
        list(with_foreign(iter([one]), foreign, "saliency", "sum"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("id,code,start,end,score\n1,2,0,1,1\n", "no column 'hadm_id'"),
        ("hadm_id,code,start,end,score\n1,2,5,3,1\n", "row 1"),
        ("hadm_id,code,start,end,score\n1,2,0,3,nan\n", "row 1"),
        ("hadm_id,code,start,end,score\n1,2,x,3,1\n", "cannot read"),
    ],
)
def test_wrong_tables_are_refused(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(HilatError, match=says):
        read_score_table(tmp_path / "t.csv")


def test_leading_zeros_of_codes_stay(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("hadm_id,code,start,end,score\n007,038.9,0,3,1\n")
    assert set(read_score_table(tmp_path / "t.csv")) == {("007", "038.9")}


def test_mdace_there_and_back(tmp_path: Path) -> None:
    text = "Sepsis with acute kidney failure."
    evidence = (EvidenceSpan("038.9", ((0, 6),)), EvidenceSpan("584.9", ((12, 24), (25, 32))))
    assert write_mdace(tmp_path / "m", [("a1", evidence)], BOOK) == 3
    (note,) = read_mdace(tmp_path / "m")
    assert [(s.begin, s.end, s.code) for s in note.spans] == [(0, 6, "038.9"), (12, 24, "584.9"), (25, 32, "584.9")]
    admission = Admission("a1", text, ("038.9", "584.9"))
    (found,), left = with_mdace_evidence([admission], [note], BOOK)
    assert left == 0
    assert found.evidence == (EvidenceSpan("038.9", ((0, 6),)), EvidenceSpan("584.9", ((12, 24),)), EvidenceSpan("584.9", ((25, 32),)))  # fmt: skip
    only = CodeBook(("038.9",), ("Sepsis",), ("diagnosis",), "ICD-9")
    assert with_mdace_evidence([admission], [note], only)[1] == 2
    scored = scores_of_mdace([note])
    assert scored["a1", "584.9"].spans.tolist() == [[12, 24], [25, 32]]
    with pytest.raises(HilatError, match="the note is the same"):
        with_mdace_evidence([Admission("a1", "short", ())], [note])
    with pytest.raises(HilatError, match="2 annotated notes"):
        with_mdace_evidence([admission], [note, note])


def test_released_files_are_read(shared: Path) -> None:
    folder = shared / "data/mdace/data/Inpatient/ICD-10/1.0"
    if not folder.exists():
        pytest.skip("the MDACE annotations are not here")
    notes = list(read_mdace(folder))
    assert len({note.hadm_id for note in notes}) == len(list(folder.glob("*.json")))
    spans = sum(len(json_note["annotations"]) for f in folder.glob("*.json") for json_note in json.loads(f.read_text())["notes"])  # fmt: skip
    assert sum(len(note.spans) for note in notes) == spans > 1000


def test_broken_mdace_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(HilatError, match=r"no \.json"):
        list(read_mdace(tmp_path))
    (tmp_path / "x.json").write_text(
        '{"hadm_id": 1, "notes": [{"note_id": 2, "annotations": [{"begin": 5, "end": 5, "code": "x"}]}]}'
    )
    with pytest.raises(HilatError, match="begin < end"):
        list(read_mdace(tmp_path))
    (tmp_path / "x.json").write_text('{"notes": 3}')
    with pytest.raises(HilatError, match="no list"):
        list(read_mdace(tmp_path))

"""The folder of pages and its index."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hilat.admissions import HilatError
from reports.corpus import file_name, write_report
from reports.index import CodeRow, RunHeader, admission_row
from reports.page import ReportPage

PageMaker = Callable[..., ReportPage]
RUN = RunHeader("Test run <1>", (("Micro-F1", "0.90"),), synthetic=True)


def test_a_folder_is_written_and_linked(make_page: PageMaker, tmp_path: Path) -> None:
    folder = tmp_path / "out" / "report"
    index = write_report((make_page("alpha beta", hadm_id=i) for i in ("1", "2", "3")), folder, RUN)
    assert index == folder / "index.html"
    assert sorted(p.name for p in folder.iterdir()) == [
        ".gitignore",
        "admission-1.html",
        "admission-2.html",
        "admission-3.html",
        "index.html",
    ]
    middle = (folder / "admission-2.html").read_text("utf-8")
    assert re.search(r'rel="prev" href="admission-1.html"', middle)
    assert re.search(r'rel="next" href="admission-3.html"', middle)
    assert 'rel="prev"' not in (folder / "admission-1.html").read_text("utf-8")
    assert 'rel="next"' not in (folder / "admission-3.html").read_text("utf-8")
    text = index.read_text("utf-8")
    files = ["admission-1.html", "admission-2.html", "admission-3.html"]
    links = [address for address in re.findall(r'href="([^"#]+)', text) if address]
    assert links == [*files, *files]  # the admissions, then the false positive of each
    assert "Test run &lt;1&gt;" in text
    assert (folder / ".gitignore").read_text() == "*\n"


def test_an_index_without_text_holds_no_note_text(make_page: PageMaker, tmp_path: Path) -> None:
    pages = [make_page("alpha beta", hadm_id="1")]
    assert "alpha" in write_report(pages, tmp_path / "with", RUN).read_text("utf-8")
    hidden = RunHeader("Run", synthetic=True, text=False)
    assert "alpha" not in write_report(pages, tmp_path / "without", hidden).read_text("utf-8")


def test_only_the_owner_may_read(make_page: PageMaker, tmp_path: Path) -> None:
    folder = tmp_path / "report"
    write_report([make_page("alpha", synthetic=False)], folder, RunHeader("Run"))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(p.stat().st_mode) for p in folder.iterdir()} == {0o600}
    assert "data-use agreement" in (folder / "README-PHI.txt").read_text()


def test_a_second_run_gives_the_same_bytes(make_page: PageMaker, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_report((make_page("alpha beta", hadm_id=i) for i in ("1", "2")), tmp_path / name, RUN)
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


@pytest.mark.parametrize(
    "hadm_id",
    [
        "../../etc/passwd",
        "a/b",
        "..",
        ".",
        "CON",
        "x" * 500,
        "é\u0301\U0001f9ea",
        "a b",
        "a\nb",
        "<i>",
        "%2e%2e",
        "-",
        "index",
    ],
)
def test_file_names_stay_in_the_folder(hadm_id: str) -> None:
    name = file_name(hadm_id, {})
    assert re.fullmatch(r"admission-[A-Za-z0-9._-]+\.html", name)
    assert len(name) < 100
    assert Path("/folder", name).resolve().parent == Path("/folder")


def test_file_names_differ() -> None:
    taken: dict[str, str] = {}
    ids = ["a", "A", "a/b", "a_b", "a:b", "x" * 70, "x" * 71]
    names = [file_name(i, taken) for i in ids]
    assert len({n.lower() for n in names}) == len(ids)
    assert names[0] == "admission-a.html"
    with pytest.raises(HilatError, match="twice"):
        file_name("a", taken)


def test_counts_of_the_index_against_a_loop(make_page: PageMaker, tmp_path: Path) -> None:
    pages = [make_page("alpha 1 beta", codes=5, hadm_id=str(i)) for i in range(3)]
    row = admission_row(pages[0], "f")
    assert (row.true_positives, row.false_positives, row.false_negatives) == (1, 1, 1)
    assert (row.predicted, row.words, row.unseen) == (2, 2, 1)
    assert row.f1 == pytest.approx(0.5)
    text = write_report(pages, tmp_path / "r", RUN).read_text("utf-8")
    table = re.search(r'<table id="t-codes">(.*?)</table>', text, re.DOTALL)
    assert table is not None
    rows = [re.findall(r"<td[^>]*>([^<>]*)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", table[1])[1:]]
    cells = {row[0]: row[1:] for row in rows}
    # title, support, TP, FP, FN, precision, recall, F1, cues; codes run FP, FN, TP, TN, TN on each of three pages
    assert cells["100.0"] == ["Title 0", "0", "0", "3", "0", "0.00", "–", "0.00", ""]
    assert cells["101.1"] == ["Title 1", "3", "0", "0", "3", "–", "0.00", "0.00", ""]
    assert cells["102.2"] == ["Title 2", "3", "3", "0", "0", "1.00", "1.00", "1.00", ""]
    assert cells["103.3"] == ["Title 3", "0", "0", "0", "0", "–", "–", "–", ""]
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert data is not None
    drawn = {row[0]: row[2:9] for row in json.loads(data[1])["t-codes"]["rows"]}
    assert drawn["100.0"] == [0, 0, 3, 0, 0.0, None, 0.0]
    assert drawn["102.2"] == [3, 3, 0, 0, 1.0, 1.0, 1.0]


def test_code_row_numbers() -> None:
    row = CodeRow("c", "t", 6, 2, 3)
    precision, recall = 6 / 8, 6 / 9
    assert (row.support, row.precision, row.recall) == (9, precision, recall)
    assert row.f1 == pytest.approx(2 * precision * recall / (precision + recall))


def test_without_gold_the_index_scores_nothing(make_page: PageMaker, tmp_path: Path) -> None:
    text = write_report([make_page("alpha", gold=False)], tmp_path / "r", RUN).read_text("utf-8")
    assert "Precision" not in text
    assert ">FP<" not in text


def test_wrong_input_is_refused(make_page: PageMaker, tmp_path: Path) -> None:
    with pytest.raises(HilatError, match="no admission"):
        write_report([], tmp_path / "empty", RUN)
    with pytest.raises(HilatError, match="twice"):
        write_report([make_page("alpha"), make_page("beta")], tmp_path / "twice", RUN)
    with pytest.raises(HilatError, match="not synthetic"):
        write_report([make_page("alpha", synthetic=False)], tmp_path / "mixed", RUN)
    (tmp_path / "file").write_text("")
    with pytest.raises(HilatError, match="cannot be made a folder"):
        write_report([make_page("alpha")], tmp_path / "file", RUN)
    assert not (tmp_path / "empty" / "index.html").exists()


def test_a_failure_leaves_no_half_written_file(make_page: PageMaker, tmp_path: Path) -> None:
    def pages() -> Iterator[ReportPage]:
        yield make_page("alpha", hadm_id="1")
        yield make_page("alpha", hadm_id="2")
        raise RuntimeError("the model failed")

    with pytest.raises(RuntimeError):
        write_report(pages(), tmp_path / "r", RUN)
    assert not [p for p in (tmp_path / "r").iterdir() if p.name.endswith(".part") or p.name == "index.html"]

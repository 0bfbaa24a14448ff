"""The page of an error study: hostile words, its network against a loop, and the page in Chromium with axe."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reports.study import LINKS, Link, Listing, StudyCase, StudyPage, network, render_study

Open = Callable[..., Any]
HOSTILE = "</td></script><script>window.hacked = 1</script> {{ x }} \U0001f9ea"

LISTING = Listing(
    "contrast", "False against true positives", ("number", "FP", "TP"), (("entropy", "0.1", "0.2"),), "a note"
)
CASES = (
    StudyCase("1", "pages/admission-1.html#c=486&e=1", "486", "Pneumonia", "FP", 0.9, False, ("negated", "rule_pair"), (HOSTILE, "b")),
    StudyCase("2", "", "428.0", HOSTILE, "TP", 0.8, True, (), ("c",)),
    StudyCase("2", "", "96.04", "Intubation", "FN", 0.2, False, ("borderline",), ()),
)  # fmt: skip
LINKED = (
    Link("486", "482.41", "sibling", True, 5, "486 given, 482.41 missed: 5 notes"),
    Link("486", "428.0", "co-occurring", True, 2, "2 notes"),
    Link("96.71", "96.72", "rule pair", False, 3, "3 notes"),
)
PAGE = StudyPage(
    "Errors",
    (("Split", "test"),),
    ("one error",),
    (LISTING,),
    LINKED,
    CASES,
    (("486", "Pneumonia"),),
    (("Seed", "0"),),
    synthetic=True,
)


def test_the_same_study_gives_the_same_bytes_and_nothing_hostile_runs() -> None:
    html = render_study(PAGE)
    assert html == render_study(PAGE)
    assert "<script>window" not in html
    assert not re.search(r'\sstyle="|https?://(?!www\.w3\.org)', html)
    assert 'href="pages/admission-1.html#c=486&amp;e=1"' in html
    assert "window.hacked" not in render_study(replace(PAGE, cases=()))


def test_the_network_draws_the_most_frequent_links() -> None:
    links = tuple(Link(f"a{n % 7}", f"b{n % 11}", "sibling", n % 2 == 0, n % 13, str(n)) for n in range(77))
    drawn = network(links, {"a1": "One"})
    assert drawn is not None
    assert len(drawn["lines"]) == LINKS
    assert drawn["left_out"] == 77 - LINKS
    counts = Counter({link.says: link.count for link in links})
    kept = [counts[line["says"]] for line in drawn["lines"]]
    assert kept == sorted(counts.values(), reverse=True)[:LINKS]
    widths = [line["width"] for line in drawn["lines"]]
    assert widths == [round(1 + 6 * n / 12, 2) for n in kept]
    for side, column in (("left", 0), ("right", 1)):
        codes = {(link.false_positive, link.other)[column] for link in links}
        assert {code for _, code, _ in drawn[side]} <= codes
        places = [y for y, _, _ in drawn[side]]
        assert len(set(places)) == len(places)
        assert max(places) < drawn["height"] + 24
    for line in drawn["lines"]:  # a line ends where its codes stand
        link = next(link for link in links if link.says == line["says"])
        y0, y1 = (int(n) for n in re.findall(r"^M\S+ (\d+)C.* (\d+)$", line["d"])[0])
        assert (y0 + 4, link.false_positive) in [(y, code) for y, code, _ in drawn["left"]]
        assert (y1 + 4, link.other) in [(y, code) for y, code, _ in drawn["right"]]


def test_without_links_there_is_no_network() -> None:
    assert network((), {}) is None
    assert "Codes confused" not in render_study(replace(PAGE, links=()))


@pytest.mark.parametrize("width", [1440, 400])
def test_in_a_browser(opened: Open, tmp_path: Path, width: int) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed").Axe()
    file = tmp_path / "errors.html"
    file.write_text(render_study(PAGE), "utf-8")
    with opened(file.as_uri(), width=width) as tab:
        assert tab.evaluate("window.hacked") is None
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        found = axe.run(tab).response["violations"]
        assert [(v["id"], [n["target"] for n in v["nodes"]]) for v in found] == []
        static = tab.evaluate("document.querySelector('#t-cases tbody').innerHTML.replace(/\\s+/g, ' ')")
        tab.click("#t-cases th:has-text('Code') button")
        codes = tab.evaluate("[...document.querySelectorAll('#t-cases tbody tr')].map(r => r.cells[1].textContent)")
        assert codes == ["96.04", "428.0", "486"]
        tab.click("button:has-text('False positives')")
        assert tab.evaluate("document.querySelectorAll('#t-cases tbody tr').length") == 1
        tab.click("button:has-text('False positives')")
        tab.fill("[data-filter='t-cases']", "borderline")
        assert tab.evaluate("document.querySelectorAll('#t-cases tbody tr').length") == 1
        assert "pages/admission-1.html" in static

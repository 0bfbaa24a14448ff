"""The page inside a notebook's output: a sandboxed frame that reaches nothing, in headless Chromium where there is one."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from reports.notebook import HEIGHT, SKIP_LINK, frame
from reports.page import ReportPage, SectionView
from reports.render import Neighbours, render_page

PageMaker = Callable[..., ReportPage]

HOSTILE = (
    '\n </pre><script>window.hacked = 1; parent.hacked = 1</script></iframe><img src=x onerror="parent.hacked=2">\n'
    "\"><script>parent.hacked = 3</script> &quot;&#34;&amp;quot; \U0001f9ea caf\u00e9 'single' `tick` {{ y }}\n"
    '<a class="skip" href="#note">Skip to the note</a>\n septic physiology 97.3 was considered; last\n'
)
NOTEBOOK = (
    "<!DOCTYPE html><html><head><meta charset=utf-8><title>notebook</title></head><body><h1>cell</h1>{}</body></html>"
)


class Frames(HTMLParser):
    """The attributes of every element of a markup."""

    def __init__(self, markup: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))


@pytest.fixture(scope="module")
def page(make_page: PageMaker) -> ReportPage:
    middle = HOSTILE.index("septic")
    sections = (SectionView("", 0, middle, 1), SectionView("Discharge Diagnosis:", middle, len(HOSTILE), 0))
    return make_page(HOSTILE, codes=6, title='"><b>', hadm_id='7"><i>', layers=("occlusion",), sections=sections)


def test_the_frame_is_one_element_and_holds_the_whole_page(page: ReportPage) -> None:
    markup = str(frame(page, height=321))
    ((tag, attributes),) = Frames(markup).elements
    assert tag == "iframe"
    assert set(attributes) == {"sandbox", "title", "width", "height", "style", "srcdoc"}
    assert (attributes["height"], attributes["title"]) == ("321", 'Admission 7"><i>: note with 6 explained codes')
    assert str(HEIGHT) == Frames(str(frame(page))).elements[0][1]["height"]
    tokens = set(str(attributes["sandbox"]).split())
    assert tokens == {
        "allow-scripts",
        "allow-downloads",
        "allow-modals",
    }  # no allow-same-origin, no allow-top-navigation
    alone = render_page(page, Neighbours(index=None))
    assert SKIP_LINK in alone
    assert SKIP_LINK not in html.escape(HOSTILE)
    assert attributes["srcdoc"] == alone.replace(SKIP_LINK, "")
    assert "Content-Security-Policy" in alone
    assert not re.search(r'rel="(prev|next)"|All admissions', alone)


def test_only_chunks_are_linked_inside_a_frame(page: ReportPage) -> None:
    inside = Frames(str(Frames(str(frame(page))).elements[0][1]["srcdoc"]))
    links = [attributes["href"] for _, attributes in inside.elements if attributes.get("href")]
    assert links  # the script answers their clicks: a link itself would lead to the notebook's address
    assert all(re.fullmatch(r"#k\d+", str(link)) for link in links)


class Notebook:
    """A tab with the frame among other output; it keeps what was asked for and what was complained about."""

    def __init__(self, browser: Any, page: ReportPage, folder: Path) -> None:
        file = folder / "notebook.html"
        file.write_text(NOTEBOOK.format(frame(page)), "utf-8")
        self.address = file.as_uri()
        self.context = browser.new_context(viewport={"width": 1200, "height": 900})
        self.tab = self.context.new_page()
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.tab.on("request", lambda request: self.requests.append(request.url))
        self.tab.on("console", lambda message: self.complaints.append(message.text))
        self.tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.tab.goto(self.address)
        self.tab.frame_locator("iframe").locator("html.scripted").wait_for(state="attached")
        (self.inside,) = [one for one in self.tab.frames if one != self.tab.main_frame]

    def __enter__(self) -> Notebook:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()
        assert self.complaints == []
        assert self.requests == [self.address]


def test_the_script_runs_and_the_note_does_not(browser: Any, page: ReportPage, tmp_path: Path) -> None:
    with Notebook(browser, page, tmp_path) as notebook:
        inside = notebook.inside
        assert inside.url == "about:srcdoc"
        assert inside.evaluate("origin") == "null"  # an origin of its own
        assert inside.evaluate("document.getElementById('note').textContent") == page.text
        assert inside.evaluate("[window.hacked, document.querySelectorAll('#note script, #note img, #note a').length]") == [None, 0]  # fmt: skip
        assert notebook.tab.evaluate("[window.hacked, document.querySelectorAll('script, img, iframe').length]") == [None, 1]  # fmt: skip
        assert notebook.tab.evaluate("document.querySelector('iframe').contentDocument") is None


def test_the_page_works_without_an_address_of_its_own(browser: Any, page: ReportPage, tmp_path: Path) -> None:
    with Notebook(browser, page, tmp_path) as notebook:
        inside = notebook.inside
        inside.click("[data-i='2']")
        assert page.codes[2].code in inside.inner_text("#name")
        inside.click("#scale")
        assert inside.get_attribute("#scale", "aria-pressed") == "true"
        inside.locator(".strip a[href]").nth(1).click()
        assert inside.evaluate("document.querySelectorAll('#note .at').length") <= 1
        inside.locator("body").press("n")
        assert inside.evaluate("document.querySelectorAll('#note .at').length") == 1
        inside.locator("body").press("t")
        assert inside.evaluate("document.getElementById('table').open")
        inside.locator("body").press("Escape")
        inside.locator("body").press("m")  # the model's order
        assert inside.evaluate("document.getElementById('note').textContent") != page.text
        with notebook.tab.expect_download() as saved:
            inside.locator("summary", has_text="Save").click()
            inside.click("#save-csv")
        lines = Path(saved.value.path()).read_text("utf-8").splitlines()
        assert lines[0].startswith("word,start,end")
        assert inside.url == "about:srcdoc"


def test_nothing_reaches_out_of_the_frame(browser: Any, make_page: PageMaker, tmp_path: Path) -> None:
    notebook = Notebook(browser, make_page("alpha beta"), tmp_path)
    blocked = notebook.inside.evaluate(
        """async () => {
        const refused = (act) => { try { act(); return false; } catch { return true; } };
        const script = document.createElement('script');
        script.textContent = 'window.injected = 1';
        document.body.append(script);
        return [
            refused(() => parent.document.title), refused(() => localStorage.length), refused(() => document.cookie),
            window.injected === undefined, await fetch('https://example.invalid/').then(() => false, () => true),
        ];
    }"""
    )
    notebook.context.close()
    assert blocked == [True] * 5
    assert notebook.complaints  # the policy said so
    assert notebook.requests == [notebook.address]

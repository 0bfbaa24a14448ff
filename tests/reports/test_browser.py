"""The pages in headless Chromium, through Playwright; skipped, saying so, where either is missing."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reports.corpus import write_report
from reports.index import RunHeader
from reports.page import ReportPage
from reports.render import Neighbours, render_page

PageMaker = Callable[..., ReportPage]
Open = Callable[..., Any]

HOSTILE = (
    "\n\n Leading newlines </pre><script>window.hacked = 1</script> <img src=x onerror=window.hacked=2>\n"
    'caf\u00e9 cafe\u0301 \U0001f9ea\U0001f468\u200d\U0001f469 line\u2028sep ${x} {{ y }} 12 &amp; &lt; "quoted"'
    " 'single' `tick`\n"
    "\tseptic physiology 97.3 was considered; last   \n"
)


@pytest.fixture(scope="module")
def page(make_page: PageMaker) -> ReportPage:
    start = HOSTILE.index("septic")
    spans = ((start, start + len("septic physiology 97"), "evidence"),)
    emoji = HOSTILE.index("\U0001f9ea")
    return make_page(HOSTILE, codes=6, evidence=spans, decoys=((emoji, emoji + 1, "<b>"),))


@pytest.fixture(scope="module")
def address(page: ReportPage, tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("pages") / "page.html"
    file.write_text(render_page(page, Neighbours("a.html", "b.html")), "utf-8")
    return file.as_uri()


def shades(tab: Any) -> list[int]:
    """The fill step of every word piece, as the document has it now."""
    found: list[int] = tab.evaluate(
        "[...document.querySelectorAll('#note i')].map(i => Number((/\\ba(\\d)/.exec(i.className) || [0, 0])[1]))"
    )
    return found


def test_the_note_is_shown_and_not_run(opened: Open, address: str, page: ReportPage) -> None:
    with opened(address) as tab:
        assert tab.evaluate("document.getElementById('note').textContent") == page.text
        assert tab.evaluate("window.hacked") is None
        assert tab.evaluate("performance.getEntriesByType('resource').length") == 0
        assert tab.evaluate("document.querySelectorAll('#note script, #note img').length") == 0


@pytest.mark.parametrize(
    "text",
    [
        "\nx",
        "\n\n\nx\n",
        "a\x0bb\x0cc\x1bd\x85e\u2028f\u2029g\ufeffh\ufdd0i\u202ej",
        "<!-- a --><![CDATA[b]]></pre></main></html>",
        "&lt;&amp;&notit;&#0;&#x1F9EA; \U0001f9ea",
        "${a}{{ b }}{% c %}`d`\\u0041</script>",
    ],
)
def test_the_browser_keeps_every_character(opened: Open, make_page: PageMaker, tmp_path: Path, text: str) -> None:
    file = tmp_path / "page.html"
    page = make_page(text, title=text, evidence=((0, len(text), text),))
    file.write_text(render_page(page), "utf-8", newline="")
    with opened(file.as_uri()) as tab:
        assert tab.evaluate("document.getElementById('note').textContent") == text
        assert tab.evaluate("[...document.querySelectorAll('#note i')].map(i => i.textContent)") == [
            text[s:e] for s, e in page.words
        ]


def test_the_script_paints_the_first_code_as_the_html_does(opened: Open, address: str) -> None:
    read = """[...document.querySelectorAll('#note *, .strip span, #legend, #name, .parts span, #spans .text')]
        .map(e => e.className + '|' + e.textContent.replace(/\\s+/g, ' '))"""
    with opened(address, script=False) as tab:
        static = tab.evaluate(read)
    with opened(address) as tab:
        assert tab.evaluate(read) == static


def test_a_click_changes_the_shading_and_the_boxes(opened: Open, address: str, page: ReportPage) -> None:
    with opened(address) as tab:
        before = shades(tab)
        boxed = tab.evaluate("[...document.querySelectorAll('#note .e')].map(e => e.textContent).join('')")
        assert boxed == "septic physiology 97"
        tab.click("[data-i='2']")
        assert shades(tab) != before
        assert 8 in shades(tab)
        assert tab.evaluate("document.querySelectorAll('#note .e').length") == 0
        assert (
            tab.evaluate("[...document.querySelectorAll('#note .d')].map(e => e.textContent).join('')") == "\U0001f9ea"
        )
        assert page.codes[2].code in tab.inner_text("#name")
        assert tab.get_attribute("[data-i='2']", "aria-current") == "true"
        assert tab.evaluate("location.hash") == f"#c={page.codes[2].code}"
        tab.click("[data-i='0']")
        assert shades(tab) == before


def test_keys_walk_codes_and_snippets(opened: Open, address: str, page: ReportPage) -> None:
    with opened(address) as tab:
        tab.keyboard.press("j")
        assert page.codes[1].code in tab.inner_text("#name")
        tab.keyboard.press("k")
        assert page.codes[0].code in tab.inner_text("#name")
        tab.keyboard.press("n")
        assert tab.evaluate("document.querySelectorAll('#note .at').length") == 1
        tab.keyboard.press("s")
        assert tab.get_attribute("#scale", "aria-pressed") == "true"
        assert "s=all" in tab.evaluate("location.hash")
        tab.keyboard.press("?")
        assert tab.evaluate("document.getElementById('help').open")
        tab.keyboard.press("Escape")
        assert not tab.evaluate("document.getElementById('help').open")
        tab.keyboard.press("/")
        tab.keyboard.type("jk TP")
        assert tab.evaluate("document.querySelectorAll('[data-i]').length") == 6
        assert tab.evaluate("[...document.querySelectorAll('.list li')].filter(r => !r.hidden).length") == 0
        tab.fill("#filter", "tp")
        assert tab.evaluate("[...document.querySelectorAll('.list li')].filter(r => !r.hidden).length") == 1


def test_a_deep_link_opens_its_code(opened: Open, address: str, page: ReportPage) -> None:
    with opened(f"{address}#c={page.codes[4].code}&s=all&t=64") as tab:
        assert page.codes[4].code in tab.inner_text("#name")
        assert tab.get_attribute("#scale", "aria-pressed") == "true"
        assert tab.input_value("#hide") == "64"
        assert tab.evaluate("document.querySelector('details.folded').open")
        tab.evaluate(f"location.hash = '#c={page.codes[2].code}'")
        tab.wait_for_function(f"document.getElementById('name').textContent.includes('{page.codes[2].code}')")


def test_nothing_injected_runs_or_loads(opened: Open, address: str) -> None:
    opened = opened(address)
    blocked = opened.tab.evaluate(
        """async () => {
        const out = [];
        const script = document.createElement('script');
        script.textContent = 'window.injected = 1';
        document.body.append(script);
        out.push(window.injected === undefined);
        out.push(await fetch('https://example.invalid/').then(() => false, () => true));
        document.body.setAttribute('style', 'color: red');
        out.push(getComputedStyle(document.body).color !== 'rgb(255, 0, 0)');
        return out;
    }"""
    )
    opened.context.close()
    assert blocked == [True, True, True]
    assert opened.complaints  # the policy said so


@pytest.mark.parametrize("width", [1440, 1000, 400])
def test_nothing_overflows_sideways(opened: Open, make_page: PageMaker, tmp_path: Path, width: int) -> None:
    long_words = make_page(
        ("x" * 300 + " alpha beta ") * 20, codes=50, chunks=10, title="A rather long title " * 6, hadm_id="9" * 60
    )
    file = tmp_path / "page.html"
    file.write_text(render_page(long_words, Neighbours("a.html", "b.html")), "utf-8")
    with opened(file.as_uri(), width=width) as tab:
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        assert tab.evaluate("document.querySelector('main').scrollWidth <= document.querySelector('main').clientWidth")


def test_the_print_holds_banner_and_legend(opened: Open, address: str) -> None:
    with opened(address) as tab:
        tab.emulate_media(media="print")
        assert tab.is_visible(".banner")
        assert tab.is_visible("#legend")
        assert not tab.is_visible("#filter")
        assert tab.pdf()[:5] == b"%PDF-"


def test_the_index_sorts_and_filters(opened: Open, make_page: PageMaker, tmp_path: Path) -> None:
    pages = [make_page("alpha beta " * (n + 1), hadm_id=str(100 + n), codes=1 + 2 * (n % 2)) for n in range(5)]
    index = write_report(pages, tmp_path / "r", RunHeader("Run", synthetic=True))
    ids = """[...document.querySelectorAll('#t-admissions tbody tr')]
        .filter(r => !r.hidden).map(r => r.cells[0].textContent)"""
    with opened(index.as_uri()) as tab:
        assert tab.evaluate(ids) == ["100", "101", "102", "103", "104"]
        tab.click("#t-admissions th:has-text('Words read') button")
        assert tab.evaluate(ids) == ["104", "103", "102", "101", "100"]
        tab.click("#t-admissions th:has-text('Words read') button")
        assert tab.evaluate(ids) == ["100", "101", "102", "103", "104"]
        tab.fill("[data-filter='t-admissions']", "103")
        assert tab.evaluate(ids) == ["103"]
        tab.fill("[data-filter='t-admissions']", "")
        tab.click("#t-admissions a:has-text('102')")
        assert re.search(r"admission-102\.html$", tab.url)
        tab.wait_for_load_state()  # keys pressed before the page's script runs are lost
        tab.keyboard.press("]")
        tab.wait_for_url("**/admission-103.html")  # waits for the page's load too
        tab.keyboard.press("u")
        tab.wait_for_url("**/index.html")


def test_a_word_under_the_pointer_tells_its_share(opened: Open, address: str, page: ReportPage) -> None:
    with opened(address) as tab:
        for w in (len(page.words) - 1, max(range(len(page.words)), key=lambda w: page.codes[0].scores[w])):
            start, end = page.words[w]
            tab.evaluate(
                """word => [...document.querySelectorAll('#note i')].filter(i => i.textContent === word).at(-1)
                .dispatchEvent(new MouseEvent('mouseover', {bubbles: true}))""",
                page.text[start:end],
            )
            word, share, chunk = tab.inner_text("#readout").split(" · ")
            assert word == page.text[start:end]
            assert float(share.removesuffix(" %")) == pytest.approx(100 * page.codes[0].scores[w], abs=0.1)  # 255 steps
            assert chunk == f"chunk {page.word_chunks[w] + 1}"

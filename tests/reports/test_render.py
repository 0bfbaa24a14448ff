"""The page as text: escaping, policy, sizes, what is told."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pytest

import reports.render as render_module
from explain.snippets import quantise
from reports.draft import PLANS, data_block, draft_of, least_bytes, shown_under
from reports.page import ReportPage
from reports.render import Neighbours, environment, page_bytes, render_page

PageMaker = Callable[..., ReportPage]

HOSTILE = {
    "script": "chest pain</script><script>alert(1)</script></pre><img src=x onerror=alert(1)> done",
    "quotes": "he said \"no\" & 'yes' <b>bold</b> &amp; &#39; end",
    "emoji": "pain \U0001f9ea scale \U0001f468\u200d\U0001f469 two emoji",
    "combining": "cafe\u0301 nai\u0308ve fin",
    "separators": "line\u2028sep\u2029par\u0085nel\x0cform\x0bfeed tail",
    "leading newline": "\n\n first line after two newlines",
    "template": "${alert(1)} {{ 7 * 7 }} {% raw %} `tick` \\u003c end",
    "trailing": "ends in spaces   \n\n",
    "comment": "a <!-- b --> c <![CDATA[ d ]]> e",
    "place of scores": '{"": 0} [{"": 0}] \\"\\": 0} {\\"\\": 0} "q": {"": 0}, done',
    "one word": "x",
    "numbers only": "12 34 56",
}


class Page(HTMLParser):
    """Collects the text of the note, the scripts, the styles and all attributes, as an HTML parser sees them."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.stack: list[str] = []
        self.note: list[str] = []
        self.raw: dict[str, list[str]] = {"script": [], "style": []}
        self.attributes: list[tuple[str, str, str | None]] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag in self.raw:
            self.raw[tag].append("")
        self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self.stack and self.stack.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self.stack and self.stack[-1] in self.raw:
            self.raw[self.stack[-1]][-1] += data
        if "pre" in self.stack:
            self.note.append(data)

    @property
    def note_text(self) -> str:
        text = "".join(self.note)
        assert text.startswith("\n")  # the newline that <pre> swallows
        return text[1:]

    @property
    def data(self) -> dict[str, Any]:
        out: dict[str, Any] = json.loads(self.raw["script"][0])
        return out


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_note_is_shown_and_not_run(make_page: PageMaker, name: str) -> None:
    text = HOSTILE[name]
    end = max(1, len(text) // 2)
    page = make_page(text, title=text, evidence=((0, end, text),), decoys=((0, end, text),), hadm_id=text)
    parsed = Page(render_page(page))
    assert parsed.note_text == text
    assert len(parsed.raw["script"]) == 2
    assert len(parsed.raw["style"]) == 1
    assert not [a for a in parsed.attributes if a[1].startswith("on") or a[1] == "style" or a[1] == "src"]
    assert not [a for a in parsed.attributes if a[0] == "img"]
    for w, (start, end) in enumerate(words_in(parsed.data)):
        s, e = page.words[w]
        assert text.encode("utf-16-le")[2 * start : 2 * end].decode("utf-16-le") == text[s:e]


def words_in(data: dict[str, Any]) -> list[tuple[int, int]]:
    """The words of the data block, read the way the script reads them."""
    out, at = [], 0
    for gap, length in zip(data["words"][::2], data["words"][1::2], strict=True):
        out.append((at + gap, at + gap + length))
        at += gap + length
    return out


def test_the_data_block_holds_the_scores(make_page: PageMaker) -> None:
    page = make_page("alpha beta 12 gamma delta epsilon zeta", codes=6)
    data = Page(render_page(page)).data
    assert [c["code"] for c in data["codes"]] == [v.code for v in page.codes]
    for view, code in zip(page.codes, data["codes"], strict=True):
        assert list(base64.b64decode(code["q"])) == quantise(view.scores)[0].tolist()
        assert code["max"] == pytest.approx(max(view.scores), rel=1e-4)
        assert code["outcome"] == view.outcome
    expanded = [c for c, n in zip(data["chunks"][::2], data["chunks"][1::2], strict=True) for _ in range(n)]
    assert expanded == list(page.word_chunks)
    assert data["empty"] == [0, 0, 1]


def test_the_policy_allows_exactly_the_page_s_own_style_and_script(make_page: PageMaker) -> None:
    html = render_page(make_page("alpha beta"))
    parsed = Page(html)
    policy = next(v for t, n, v in parsed.attributes if t == "meta" and n == "content" and v and "default-src" in v)

    def digest(text: str) -> str:
        return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()

    style = re.search(r"<style>(.*?)</style>", html, re.S)
    script = re.search(r"<script>(.*?)</script>", html, re.S)
    assert style is not None
    assert script is not None
    assert policy == (
        f"default-src 'none'; script-src 'sha256-{digest(script[1])}'; style-src 'sha256-{digest(style[1])}'; "
        "base-uri 'none'; form-action 'none'"
    )
    assert html.index("Content-Security-Policy") < html.index("<style>")


def test_nothing_points_outside(make_page: PageMaker) -> None:
    html = render_page(make_page("alpha beta gamma"), Neighbours("a.html", "b.html"))
    assert "http:" not in html.replace("http-equiv", "")
    assert "https:" not in html
    assert "//" not in "".join(v or "" for _, n, v in Page(html).attributes if n in ("href", "src"))
    assert not re.search(r"@import|url\(", html)


def test_the_same_page_gives_the_same_bytes(make_page: PageMaker) -> None:
    text = "alpha beta gamma " * 50
    assert render_page(make_page(text)) == render_page(make_page(text))
    assert render_page(make_page(text)) != render_page(make_page(text, seed=1))


def test_templates_escape_and_refuse_unknown_names() -> None:
    env = environment()
    assert env.from_string("{{ x }}").render(x="<&\"'") == "&lt;&amp;&#34;&#39;"
    with pytest.raises(jinja2.UndefinedError):
        env.from_string("{{ unknown }}").render()
    for file in Path(render_module.__file__).with_name("templates").glob("*.j2"):
        assert "|safe" not in file.read_text().replace(" ", ""), file.name


def test_order_outcomes_and_counts_are_told(make_page: PageMaker) -> None:
    html = render_page(make_page("alpha 1 2 beta", codes=6))
    tags = re.findall(r'data-i="(\d+)".*?<span class="tag (\w+)">(\w+)</span>', html)
    assert [t[1] for t in tags] == [t[2] for t in tags] == ["FP", "FN", "TP", "TN", "TN", "TN"]
    assert re.search(r"<details.*3 not predicted, rightly", html)
    assert "no letter (2)" in html
    assert "2 words read, 2 tokens in 3 chunks" in html


def test_without_gold_nothing_is_called_true_or_false(make_page: PageMaker) -> None:
    html = render_page(make_page("alpha beta", gold=False))
    body = html[html.index("<body") : html.index('<script type="application/json"')]
    assert not re.search(r"\b(TP|FP|FN|TN)\b", body.replace("Filter: code, title, FP", ""))
    assert ">PRED<" in body
    assert ">NOT<" in body


@pytest.mark.parametrize("synthetic", [True, False])
def test_the_banner_says_whose_note_it_is(make_page: PageMaker, synthetic: bool) -> None:
    html = render_page(make_page("alpha beta", synthetic=synthetic))
    assert ("Contains clinical text" in html) is not synthetic
    assert ("Synthetic note" in html) is synthetic


def test_the_first_code_is_in_the_html(make_page: PageMaker) -> None:
    text = "alpha beta gamma delta"
    page = make_page(text, evidence=((6, 10, "lab"),))
    html = render_page(page)
    static = html[: html.index("<script")]
    note = static[static.index('<pre id="note"') :]
    top = max(range(4), key=lambda w: page.codes[0].scores[w])
    s, e = page.words[top]
    assert re.search(rf'<i class="a8[^>]*>{text[s:e]}</i>', note)
    assert '<mark class="a8">' in static
    assert "Known evidence" in static


def test_no_code_predicted_or_no_code_at_all(make_page: PageMaker) -> None:
    page = make_page("alpha beta", codes=6)
    nothing = replace(page, codes=page.codes[3:])
    assert Page(render_page(nothing)).note_text == "alpha beta"
    empty = Page(render_page(replace(page, codes=())))
    assert empty.note_text == "alpha beta"
    assert empty.data["codes"] == []


def test_equal_weights_and_unscored_codes(make_page: PageMaker) -> None:
    page = make_page("alpha beta gamma delta")
    view = page.codes[0]
    html = render_page(replace(page, codes=(replace(view, scores=(0.2,) * 4),)))
    assert len(re.findall(r'<i class="a8"[^>]*>\w+</i>', html)) == 4
    bare = render_page(replace(page, codes=(replace(view, scores=(), special_share=0.0),)))
    assert "no attention stored for this code" in bare
    assert not re.search(r'<i class="a\d"[^>]*>\w+</i>', bare)


def test_a_large_page_stays_below_a_megabyte(make_page: PageMaker) -> None:
    html = render_page(make_page("dyspnea " * 5100, codes=50, chunks=10))
    assert len(html.encode()) < 1_000_000
    assert "To keep the page small" not in html


def test_above_the_limit_the_page_drops_in_order_and_says_so(make_page: PageMaker) -> None:
    page = make_page("dyspnea " * 3000, codes=20)
    whole = len(render_page(page).encode())
    less = render_page(page, size_limit=whole - 1)
    assert len(less.encode()) < whole
    assert "listed without shading" in less
    data = Page(less).data
    assert ["q" in c for c in data["codes"]] == [c["outcome"] != "TN" for c in data["codes"]]
    least = render_page(page, size_limit=1000)
    assert "only the 500 strongest words" in least
    code = Page(least).data["codes"][0]
    at = np.frombuffer(base64.b64decode(code["at"]), dtype="<u4")
    kept = np.frombuffer(base64.b64decode(code["q"]), dtype=np.uint8)
    full, _ = quantise(page.codes[0].scores)
    assert len(at) == 500
    assert full[at].tolist() == kept.tolist()
    assert min(kept) >= np.sort(full)[-500]
    assert Page(least).note_text == page.text


def test_a_page_has_the_first_plan_that_is_small_enough(make_page: PageMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    page = make_page("caf\u00e9 \U0001f9ea " + "dyspnea " * 3500, codes=80, layers=("occlusion",))
    alone = []
    for plan in PLANS:
        monkeypatch.setattr(render_module, "PLANS", (plan,))
        alone.append(page_bytes(page, size_limit=1))
    monkeypatch.undo()
    sizes = [len(html) for html in alone]
    assert sizes == sorted(set(sizes), reverse=True)
    for limit in (sizes[0] + 1, *(size + more for size in sizes for more in (0, -1)), 1):
        wanted = next((html for html in alone if len(html) <= limit), alone[-1])
        assert page_bytes(page, size_limit=limit) == wanted
        assert render_page(page, size_limit=limit) == wanted.decode()


def test_the_least_size_is_below_the_size(make_page: PageMaker) -> None:
    for words, layers in ((0, ()), (1, ("occlusion",)), (1501, ()), (1501, ("occlusion", "lime"))):
        page = make_page("12 " + "a<b " * words, codes=6, layers=layers)
        draft = draft_of(page)
        for plan in PLANS:
            shown = shown_under(draft, plan)
            whole = len(data_block(draft, shown, plan)) + len(shown.note)
            assert 0.7 * whole < least_bytes(draft, shown, plan) <= whole


def test_many_codes_stay_within_the_limit(make_page: PageMaker) -> None:
    page = make_page("alpha beta gamma", codes=8929)
    html = render_page(page)
    assert len(html.encode()) < 1_000_000
    assert "Of the 8,926 codes not predicted" in html


def test_only_a_note_with_letters_from_right_to_left_asks_for_its_direction(make_page: PageMaker) -> None:
    assert ' dir="auto"' in render_page(make_page("note \u05d0\u05d1\u05d2"))
    assert ' dir="auto"' not in render_page(make_page("caf\u00e9 \U0001f9ea"))

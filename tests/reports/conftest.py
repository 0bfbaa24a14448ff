"""A page maker for the tests: words are whitespace units, weights are drawn."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from reports.page import CodeNotes, CodeView, CueView, CurveView, Layer, NumberRow, ReportPage, SectionView, Span

PageMaker = Callable[..., ReportPage]


def page_of(
    text: str,
    *,
    codes: int = 4,
    chunks: int = 3,
    evidence: tuple[Span, ...] = (),
    decoys: tuple[Span, ...] = (),
    title: str = "Title",
    hadm_id: str = "100345",
    synthetic: bool = True,
    gold: bool = True,
    seed: int = 0,
    layers: tuple[str, ...] = (),
    notes: CodeNotes = CodeNotes(),  # noqa: B008 (frozen)
    sections: tuple[SectionView, ...] = (),
) -> ReportPage:
    """A page whose code list runs FP, FN, TP, TN, TN ...; numbers without a letter are unseen."""
    rng = np.random.default_rng(seed)
    units = [m.span() for m in re.finditer(r"\S+", text)]
    words = [(s, e) for s, e in units if any(c.isalpha() for c in text[s:e])]
    unseen = [(s, e, "no letter") for s, e in units if not any(c.isalpha() for c in text[s:e])]
    word_chunks = [w * (chunks - 1) // max(1, len(words)) for w in range(len(words))]  # the last chunk stays empty
    views = []
    for k in range(codes):
        weights = rng.gamma(0.2, size=len(words)) + 1e-9
        weights *= 0.8 / max(weights.sum(), 1e-9)
        predicted, coded = ((True, False), (False, True), (True, True), (False, False))[min(k, 3)]
        views.append(
            CodeView(
                code=f"{100 + k}.{k % 10}",
                title=f"{title} {k}",
                kind="diagnosis",
                probability=0.8 if predicted else 0.2,
                logit=1.4 if predicted else -1.4,
                threshold=0.5,
                predicted=predicted,
                gold=coded if gold else None,
                scores=tuple(weights.tolist()),
                chunk_attention=(*([1 / (chunks - 1)] * (chunks - 1)), 0.0),
                special_share=0.2,
                evidence=evidence if k == 0 else (),
                decoys=decoys if k == 2 else (),
                layers=tuple(
                    Layer(
                        name, True, tuple((rng.gamma(0.2, size=len(words)) * rng.choice([-1, 1], len(words))).tolist())
                    )
                    for name in layers
                ),
                notes=notes if k == 0 else CodeNotes(),
            )
        )
    return ReportPage(
        hadm_id=hadm_id,
        text=text,
        words=tuple(words),
        word_chunks=tuple(word_chunks),
        chunk_words=tuple(np.bincount(word_chunks, minlength=chunks).tolist()),
        codes=tuple(views),
        unseen=tuple(unseen),
        n_tokens=len(words),
        threshold="0.50",
        model="test model",
        split="test",
        synthetic=synthetic,
        sections=sections,
    )


def full_page(text: str, word: str = "septic") -> ReportPage:
    """A page with everything on it: two methods, keywords, cues, numbers, curves, and sections that the model moved."""
    at = text.index(word)
    middle = text.index(" ", len(text) // 2) + 1
    cues = (
        CueView("negated", "a negation governs the words", at, at + len(word)),
        CueView("borderline", "0.05 from the threshold"),
    )
    numbers = (NumberRow("comprehensiveness", True, (("attention", 0.5), ("random", None))),)
    curves = (
        CurveView("attention", (0.0, 0.5, 1.0), (0.8, 0.2, 0.1)),
        CurveView("random order", (0.0, 0.5, 1.0), (0.8, 0.6, 0.1)),
    )
    notes = CodeNotes(((at, at + len(word), "sepsis"),), cues, numbers, curves, True)
    sections = (SectionView("History:", 0, middle, 1), SectionView("Discharge Diagnosis:", middle, len(text), 0))
    return page_of(text, codes=6, layers=("input_x_gradient", "occlusion"), notes=notes, sections=sections)


@pytest.fixture(scope="session")
def make_page() -> PageMaker:
    return page_of


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="the playwright package is not installed")
    executable = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if executable is None:
        pytest.skip("no Chromium on this machine")
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


class Opened:
    """A tab that keeps what it asked for and what it complained about."""

    def __init__(
        self, browser: Any, address: str, *, width: int = 1440, height: int = 900, script: bool = True, first: str = ""
    ) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": height}, java_script_enabled=script)
        self.tab = self.context.new_page()
        self.tab.add_init_script(first)
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.tab.on("request", lambda request: self.requests.append(request.url))
        self.tab.on("console", lambda message: self.complaints.append(message.text))
        self.tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.tab.goto(address)

    def __enter__(self) -> Any:
        return self.tab

    def __exit__(self, *_: object) -> None:
        self.context.close()
        assert self.complaints == []
        assert all(url.startswith("file:") for url in self.requests)


@pytest.fixture(scope="session")
def opened(browser: Any) -> Callable[..., Opened]:
    """opened(address, width=..., script=..., first=...) opens a tab that must stay offline and without a complaint.

    `first` is script that runs before the page's own.
    """

    def open_tab(address: str, **options: Any) -> Opened:
        return Opened(browser, address, **options)

    return open_tab


@pytest.fixture(scope="session")
def make_full_page() -> PageMaker:
    return full_page

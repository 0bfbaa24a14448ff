"""What pages cost: bytes, CPU time to write, and, where a Chromium is found, time until ready and to switch codes.

    python -m benchmarks.pages

Invented words with drawn weights, which compress worst and shade most. Medians of several runs; the browser's times without
its own start.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hilat.admissions import Admission, CodeBook
from hilat.cli.console import table
from reports.build import Outputs, Reading, RunLabel, build_page
from reports.page import ReportPage
from reports.render import page_bytes

CASES = (("typical", 3417, 34, 1), ("worst", 5100, 50, 1), ("worst, three methods", 5100, 50, 2))
WRITES, RUNS = 41, 9  # of a page by the writer, and in the browser
CHUNKS = 10
SWITCH = """() => {
    const start = performance.now();
    document.querySelector('[data-i="2"]').click();
    document.body.offsetHeight;
    return performance.now() - start;
}"""


def invented_page(words: int, codes: int, methods: int, seed: int = 0) -> ReportPage:
    """A page of invented words; every code is shaded by attention and by so many other, signed methods."""
    rng = np.random.default_rng(seed)
    names = ["".join(rng.choice(list("abcdeilmnorstu"), rng.integers(3, 10))) for _ in range(2000)]
    chosen = [str(word) for word in rng.choice(names, words)]
    ends = np.cumsum([len(word) + 1 for word in chosen]) - 1
    spans = np.stack([ends - [len(word) for word in chosen], ends], axis=1)  # (W, 2)
    listed = tuple(f"{100 + k}.{k % 10}" for k in range(codes))
    book = CodeBook(listed, tuple(f"Title of code {code}" for code in listed), ("diagnosis",) * codes)
    weights = {code: rng.gamma(0.2, size=words) for code in listed}
    probabilities = rng.uniform(size=codes)
    gold = tuple(code for code in listed if rng.uniform() < 0.5)

    def signed(code: str) -> NDArray[np.float64]:
        return np.asarray(weights[code] * rng.choice([-1.0, 1.0], words))

    outputs = Outputs(
        np.log(probabilities / (1 - probabilities)),
        probabilities,
        np.full(codes, 0.5),
        np.full((codes, CHUNKS), 1 / CHUNKS),
        {code: 0.9 * w / w.sum() for code, w in weights.items()},
        tuple((f"method_{n}", True, {code: signed(code) for code in listed}) for n in range(methods)),
    )
    reading = Reading(spans, np.arange(words) * CHUNKS // words, CHUNKS, words, np.zeros((0, 2), dtype=np.int64), ())
    admission = Admission("invented", " ".join(chosen), gold)
    return build_page(admission, book, reading, outputs, RunLabel("none", "0.50", synthetic=True))


def in_browser(files: list[Path]) -> list[tuple[float, float]]:
    """Milliseconds until ready and to switch codes, medians, for each file; NaN without a browser."""
    executable = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        executable = None
    if executable is None:
        print("no Chromium or no Playwright: times in the browser are left out")
        return [(float("nan"), float("nan"))] * len(files)
    times: dict[Path, list[tuple[float, float]]] = {file: [] for file in files}
    with sync_playwright() as playwright:
        browser: Any = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox", "--disable-gpu"])
        for _ in range(RUNS):
            for file in files:
                tab = browser.new_page(viewport={"width": 1440, "height": 900})
                tab.goto(file.as_uri())
                ready = tab.evaluate("performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd")
                times[file].append((ready, tab.evaluate(SWITCH)))
                tab.close()
        browser.close()
    return [(median(ready for ready, _ in t), median(switch for _, switch in t)) for t in times.values()]


def main() -> None:
    """Print the table of docs/pages.md."""
    rows: list[list[str]] = []
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for n, (name, words, codes, methods) in enumerate(CASES):
            page = invented_page(words, codes, methods)
            html = page_bytes(page)  # the first page of a run also reads templates and style sheets
            times = []
            for _ in range(WRITES):
                begun = time.process_time()
                html = page_bytes(page)
                times.append(time.process_time() - begun)
            files.append(Path(folder) / f"{n}.html")
            files[-1].write_bytes(html)
            told = "yes" if b"To keep the page small" in html else "no"
            size = f"{len(html) / 1000:,.0f} kB"
            rows.append(
                [name, f"{words:,}", str(codes), str(1 + methods), size, told, f"{1000 * median(times):.0f} ms"]
            )
        for row, (ready, switch) in zip(rows, in_browser(files), strict=True):
            row += [f"{ready:.0f} ms", f"{switch:.0f} ms"]
    columns = ["case", "words", "codes", "methods", "size", "reduced", "writer", "ready", "switch of codes"]
    table("Pages", columns, rows)


if __name__ == "__main__":
    main()

"""Drawn passages and worked examples: where words stand, what the files hold, and that they are the same every time."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from hilat.admissions import HilatError
from reports.figures.panels import Choice, CueLine, Panel, panel_of
from reports.figures.saving import FORMATS, checked_formats, paths_of, save
from reports.figures.sheet import LACKING, Face, Words, broken, measure, paint, paragraph, shown
from reports.figures.style import AGAINST, ATTENTION, FOR, looks, percent
from reports.figures.text import draw_errors, draw_text
from reports.figures.worked import Attended, Snippet, draw_worked, number, snippet_of

ROOT = Path(__file__).resolve().parents[2]


def _material() -> ModuleType:
    spec = importlib.util.spec_from_file_location("figure_material", Path(__file__).with_name("figure_material.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


material = _material()
BOOK, HOSTILE = material.BOOK, material.HOSTILE
CUES = (
    CueLine("uncertain", "the words are said to be possible only", "possible", HOSTILE.index("possible"), HOSTILE.index("possible") + 8),
    CueLine("sibling", "276.4 was coded"),
)  # fmt: skip


def panels_of(choice: Choice, cues: tuple[CueLine, ...] = ()) -> list[Panel]:
    one, admission = material.explained_of(HOSTILE)
    return [panel_of(one, admission, BOOK, code, choice, cues) for code in BOOK.codes]


def attended(tokens: int = 16, chunks: int = 3, seed: int = 0) -> Attended:
    """Three chunks of pieces, a word of one to three of them; the last chunk has no word; positions 0 and -1 are special."""
    rng = np.random.default_rng(seed)
    index = np.full((chunks, tokens), -1)
    w = 0
    for c in range(chunks - 1):
        t = 1
        while t < tokens - 1:
            size = min(int(rng.integers(1, 4)), tokens - 1 - t)
            index[c, t : t + size] = w
            w, t = w + 1, t + size
    index[1, 1] = index[0, tokens - 2]  # a word that is cut by the end of a chunk
    alpha = rng.gamma(0.3, size=(chunks, tokens))
    alpha /= alpha.sum(axis=1, keepdims=True)
    pieces = tuple(tuple(f"▁w{i}" if i >= 0 else "<cls>" for i in row) for row in index.tolist())
    words = tuple(f"$w_{i}" for i in range(w))
    return Attended(
        "100345", "428.0", "Heart_failure $x$", 0.9, 2.2, 0.5, alpha, np.array([0.3, 0.7, 0.0]), index, pieces, words,
        (index < 0).all(axis=1),
    )  # fmt: skip


def drawings(width: float = 170.0) -> dict[str, tuple[object, list[str]]]:
    choice = Choice("attention", "input_x_gradient", 30, 2)
    return {
        "text": draw_text(panels_of(choice), choice, width, "fixed 0.5", "m"),
        "errors": draw_errors(panels_of(Choice(), CUES), Choice(), width, "fixed 0.5", "m"),
        "worked": draw_worked(attended(), width, "fixed 0.5", "m"),
    }  # type: ignore[return-value]


@pytest.mark.parametrize("width", [60.0, 85.0, 170.0, 300.0])
@pytest.mark.parametrize("kind", ["text", "errors", "worked"])
def test_words_stay_on_the_canvas_and_apart(kind: str, width: float) -> None:
    drawing = drawings(width)[kind]
    words, _, canvas = material.painted(drawing.figure)  # type: ignore[attr-defined]
    assert len(words) > 20
    for _, box in words:
        assert box.x0 >= 0
        assert box.x1 <= canvas.x1
        assert box.y0 >= 0
        assert box.y1 <= canvas.y1
    boxes = np.array([(b.x0, b.y0, b.x1, b.y1) for _, b in words])
    slack = 300 / 72 * 0.8  # pixels; the ink of a letter may reach a little over its advance
    for i in range(len(boxes)):
        x0, y0, x1, y1 = boxes[i]
        over = (boxes[:, 0] < x1 - slack) & (boxes[:, 2] > x0 + slack) & (boxes[:, 1] < y1 - slack) & (boxes[:, 3] > y0 + slack)  # fmt: skip
        assert over.sum() == (1 if x1 - x0 > 2 * slack and y1 - y0 > 2 * slack else 0)


@pytest.mark.parametrize("width", [60.0, 170.0])
def test_every_filled_rectangle_has_its_word_on_it(width: float) -> None:
    drawing = draw_text(panels_of(Choice(words=30)), Choice(words=30), width, "fixed 0.5", "m")
    words, rectangles, _ = material.painted(drawing.figure)
    axes = drawing.figure.axes[0]
    filled = [r for r in rectangles if mpl.colors.to_hex(r.get_facecolor()) in ATTENTION and r.get_height() > 9]
    assert filled
    found = 0
    for rectangle in filled:
        box = rectangle.get_window_extent()
        inside = [
            t for t, b in words if b.x0 >= box.x0 - 3 and b.x1 <= box.x1 + 3 and box.y0 < (b.y0 + b.y1) / 2 < box.y1
        ]
        assert len(inside) == 1
        found += 1
    expected = sum(p.fill > 0 for panel in panels_of(Choice(words=30)) for passage in panel.passages for unit in passage for p in unit)  # fmt: skip
    assert found >= expected  # a word that was broken has several
    assert axes.axison is False


def test_files_have_text_truetype_and_300_dpi(tmp_path: Path) -> None:
    files = save(drawings()["errors"], tmp_path / "fig4.svg")  # type: ignore[arg-type]
    assert [path.name for path in files] == ["fig4.svg", "fig4.pdf", "fig4.png", "fig4.txt"]
    svg, pdf, png, caption = files
    said = material.texts_of(svg)
    for word in ("$5", "$x_1$", "\\frac{1}{2}", "x^2_3,", "possible", "FP", "276.2 Acidosis"):
        assert word in " ".join(said) or word in "".join(said), word
    assert "two_catheters" in " ".join(said)
    source = svg.read_text(encoding="utf-8")
    assert "derived from restricted data" in source
    assert "<dc:date>" not in source
    assert "matplotlib" not in source.lower().replace("matplotlib.org", "")
    raw = pdf.read_bytes()
    assert b"/FontFile2" in raw
    assert b"/Type3" not in raw
    assert b"derived from restricted data" in raw
    assert not re.search(rb"/(CreationDate|Producer|Creator)", raw)
    with Image.open(png) as image:
        assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)
        assert "derived from restricted data" in image.info["Description"]
        assert "Software" not in image.info
        assert image.width == pytest.approx(170 / 25.4 * 300, abs=1)
    assert "derived from restricted data" in caption.read_text(encoding="utf-8")
    assert all(path.stat().st_mode & 0o077 == 0 for path in files)


def test_a_second_run_gives_the_same_bytes_whatever_the_users_settings(tmp_path: Path) -> None:
    first = {path.name: path.read_bytes() for path in save(drawings()["text"], tmp_path / "a" / "f")}  # type: ignore[arg-type]
    with mpl.rc_context({"font.size": 30, "svg.fonttype": "path", "text.hinting": "default", "savefig.dpi": 50}):
        before = dict(mpl.rcParams)
        second = {path.name: path.read_bytes() for path in save(drawings()["text"], tmp_path / "b" / "f")}  # type: ignore[arg-type]
        assert dict(mpl.rcParams) == before
    assert first == second


def test_another_process_with_other_hashes_gives_the_same_bytes(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from reports.figures.panels import Choice, Panel, Piece; "
        "from reports.figures.saving import save; from reports.figures.text import draw_text; "
        "units = tuple((Piece(word, n % 9, n % 9 - 4),) for n, word in enumerate('the $x_1$ αβ ≥ \\\\frac{ 中 sepsis'.split())); "
        "panel = Panel('1', '428.0', 'Heart failure', 'TP', 0.9, 0.5, (units,), 0.5, (('x', 0.5),), 1, ''); "
        "save(draw_text([panel], Choice('attention', 'lime'), 85.0, 'fixed 0.5', 'm'), Path(sys.argv[1])); "
        "assert 'torch' not in sys.modules"
    )
    made = []
    for seed in ("1", "77"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        folder = tmp_path / seed
        subprocess.run([sys.executable, "-c", program, str(folder / "f")], check=True, cwd=ROOT, env=environment)
        made.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert len(made[0]) == 4
    assert made[0] == made[1]


def test_the_stamp_files_and_formats(tmp_path: Path) -> None:
    drawing = drawings()["worked"]
    files = save(drawing, tmp_path / "w", formats=("png",), synthetic=True)  # type: ignore[arg-type]
    assert [path.name for path in files] == ["w.png", "w.txt"]
    assert "synthetic" in files[1].read_text(encoding="utf-8")
    assert "restricted" not in files[1].read_text(encoding="utf-8")
    with pytest.raises(HilatError, match="exists already"):
        save(drawing, tmp_path / "w", formats=("png",))  # type: ignore[arg-type]
    save(drawing, tmp_path / "w", formats=("png",), overwrite=True)  # type: ignore[arg-type]
    assert checked_formats("PDF, .svg,pdf") == ("pdf", "svg")
    for wrong in ("eps", "", "svg,jpg"):
        with pytest.raises(HilatError, match="svg, pdf, png"):
            checked_formats(wrong)
    assert paths_of(Path("o/fig.3"), FORMATS)[1] == Path("o/fig.3.txt")
    assert paths_of(Path("o/fig.PDF"), ("svg",))[0]["svg"] == Path("o/fig.svg")
    (tmp_path / "file").write_text("")
    with pytest.raises(HilatError, match="cannot write"):
        save(drawing, tmp_path / "file" / "w")  # type: ignore[arg-type]


def test_the_caption_says_scale_method_threshold_model_and_which_words_hold_how_much() -> None:
    one, admission = material.explained_of(HOSTILE)
    choice = Choice("attention", "input_x_gradient", 30, 2, "common")
    panel = panel_of(one, admission, BOOK, "428.0", choice)
    drawing = draw_text([panel], choice, 170.0, "fixed 0.5", "runs/m")
    caption = "\n".join(drawing.caption)
    for part in ("square root", "10 % of", "attention, input × gradient", "Threshold: fixed 0.5", "Model: runs/m", "admission 100345", "solid blue", "FP, p 0.900", "no proof"):  # fmt: skip
        assert part in caption, part
    # The slow way: share of each word that was read among those read, the highest first.
    read = [w for w in range(len(one.word_spans)) if one.word_chunk[w] >= 0]
    scores = {w: one.of("attention")["428.0"][w] for w in read}
    total = sum(scores.values())
    best = max(scores, key=lambda w: scores[w])
    word = HOSTILE[slice(*one.word_spans[best])]
    assert f"{word} {percent(scores[best] / total)}" in caption
    assert panel.top[0] == (word, pytest.approx(scores[best] / total))
    running, half = 0.0, 0
    for value in sorted(scores.values(), reverse=True):
        running, half = running + value, half + 1
        if running >= total / 2:
            break
    assert panel.half == half


def test_passages_are_the_note_as_written_around_the_strongest_words() -> None:
    one, admission = material.explained_of(HOSTILE)
    units = [m.span() for m in re.finditer(r"\S+", HOSTILE)]
    for code in BOOK.codes:
        scores = np.where(one.word_chunk >= 0, one.of("attention")[code], -1)
        peak = one.word_spans[scores.argmax(), 0]
        at = next(i for i, (start, end) in enumerate(units) if start <= peak < end)
        panel = panel_of(one, admission, BOOK, code, Choice(words=9))
        (passage,) = panel.passages
        said = ["".join(piece.text for piece in unit) for unit in passage]
        begin = min(max(0, at - 4), len(units) - 9)
        assert said == [HOSTILE[slice(*unit)] for unit in units[begin : begin + 9]]
        assert max(piece.fill for unit in passage for piece in unit) == 8
        assert panel.section in ("history_present_illness", "past_medical_history")
    whole = panel_of(one, admission, BOOK, "276.2", Choice(words=10_000))
    assert ["".join(p.text for p in unit) for unit in whole.passages[0]] == HOSTILE.split()
    assert whole.passages[0][0][0].seen is False  # its first word was not read
    several = panel_of(one, admission, BOOK, "276.2", Choice(words=5, passages=3)).passages
    assert 1 < len(several) <= 3


def test_fills_and_lines_follow_the_scores_by_a_slow_rule() -> None:
    one, admission = material.explained_of(HOSTILE, seed=3)
    choice = Choice("attention", "input_x_gradient", 10_000)
    (passage,) = panel_of(one, admission, BOOK, "428.0", choice).passages
    pieces = [piece for unit in passage for piece in unit]
    share, signed = one.of("attention")["428.0"], one.of("input_x_gradient")["428.0"]
    read = one.word_chunk >= 0
    for w in np.flatnonzero(read):
        text = HOSTILE[slice(*one.word_spans[w])]
        byte = round(255 * (share[w] / share[read].max()) ** 0.5)
        fill = 0 if byte < 32 else 1 + (byte - 32) * 8 // 224
        strength = 2 * round(127 * (abs(signed[w]) / np.abs(signed[read]).max()) ** 0.5)
        line = 0 if strength < 32 else (1 + (strength - 32) * 4 // 224) * int(np.sign(signed[w]))
        assert any((p.text, p.fill, p.line) == (text, fill, line) for p in pieces), text
    boxed = panel_of(one, admission, BOOK, "428.0", choice, CUES).passages[0]
    assert [piece.text for unit in boxed for piece in unit if piece.boxed] == ["possible"]


def test_what_cannot_be_drawn_is_said() -> None:
    one, admission = material.explained_of(HOSTILE)
    with pytest.raises(HilatError, match=r"276\.2, 428\.0, 88\.56"):
        panel_of(one, admission, BOOK, "486", Choice())
    with pytest.raises(HilatError, match="attention, input_x_gradient"):
        panel_of(one, admission, BOOK, "428.0", Choice("lime"))
    with pytest.raises(HilatError, match="signed"):
        panel_of(one, admission, BOOK, "428.0", Choice("input_x_gradient"))
    with pytest.raises(HilatError, match="no word"):
        panel_of(replace(one, word_chunk=np.full(len(one.word_chunk), -1)), admission, BOOK, "428.0", Choice())
    for draw in (draw_text, draw_errors):
        with pytest.raises(HilatError, match="no \\(admission, code\\) pair"):
            draw([], Choice(), 170.0, "fixed 0.5", "m")
    nothing = replace(attended(), word_index=np.full((3, 16), -1))
    with pytest.raises(HilatError, match="no word"):
        draw_worked(nothing, 170.0, "fixed 0.5", "m")


def test_equal_scores_and_all_zero_scores_are_drawn() -> None:
    one, admission = material.explained_of(HOSTILE)
    for value in (0.0, 0.01):
        words = replace(one.methods["attention"], scores=np.full_like(one.methods["attention"].scores, value))
        flat = replace(one, methods={"attention": words})
        panel = panel_of(flat, admission, BOOK, "428.0", Choice(passages=2))
        assert draw_text([panel], Choice(passages=2), 85.0, "fixed 0.5", "m").caption


def test_worked_example_by_a_slow_loop() -> None:
    given = attended(seed=5)
    found: Snippet = snippet_of(given, 300.0)
    products = {}
    words: dict[int, float] = {}
    for c in range(3):
        for t in range(16):
            products[c, t] = float(given.token_attention[c, t] * given.chunk_attention[c])
            w = int(given.word_index[c, t])
            if w >= 0:
                words[w] = words.get(w, 0.0) + products[c, t]
    best = max((place for place in products if given.word_index[place] >= 0), key=lambda place: products[place])
    assert found.chunk == best[0]
    assert found.first <= best[1] <= found.last
    assert found.total == pytest.approx(sum(words.values()))
    for t in range(found.first, found.last + 1):
        assert found.products[t - found.first] == pytest.approx(products[found.chunk, t])
    for i, w in enumerate(found.words):
        assert found.sums[i] == pytest.approx(words[w])
        assert found.shares[i] == pytest.approx(words[w] / sum(words.values()))
    # Whole words only: the tokens before and after belong to other words.
    row = given.word_index[found.chunk]
    assert row[found.first - 1] != row[found.first]
    assert row[found.last + 1] != row[found.last]
    assert len(snippet_of(given, 90.0).alpha) < len(found.alpha)
    drawing = draw_worked(given, 170.0, "fixed 0.5", "m")
    said = " ".join(drawing.caption)
    assert f"{found.products.max():.4f}" in said
    assert "1 empty" in said
    assert "probability 0.900 ≥ threshold 0.500, predicted" in said


def test_luminance_falls_along_every_ramp_and_the_pages_have_the_same_colours() -> None:
    css = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "reports/templates").glob("*.css"))
    assert all(colour in css for colour in ATTENTION)
    for ramp in (ATTENTION, FOR, AGAINST):
        values = []
        for colour in ramp:
            linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in mpl.colors.to_rgb(colour)]
            values.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
        assert values == sorted(values, reverse=True)
        assert len(set(values)) == 8
        assert (min(values) + 0.05) / (0.0056 + 0.05) > 4.5  # contrast of #111111 on it
    shown_as = looks([f"method{i}" for i in range(7)])
    assert len({(look.colour) for look in shown_as.values()}) == 7
    assert len({(str(look.line), look.marker) for look in shown_as.values()}) == 7


def test_measuring_breaking_and_what_the_font_lacks() -> None:
    face = Face(7.5)
    assert measure("mm", face) == pytest.approx(2 * measure("m", face), rel=0.02)
    assert measure("word", Face(15.0)) == pytest.approx(2 * measure("word", face), rel=0.02)
    pieces = broken("_" * 300, face, 50.0)
    assert "".join(pieces) == "_" * 300
    assert all(measure(piece, face) <= 50.0 for piece in pieces)
    assert broken("wide", face, 0.1) == list("wide")
    assert shown("a\x07b\u4e2d", face) == f"a{LACKING}b{LACKING}"
    assert shown("≥ α ▁ é", face) == "≥ α ▁ é"
    marks, height = paragraph("one two three four", 0.0, 0.0, 40.0, face)
    assert " ".join(m.text for m in marks if isinstance(m, Words)) == "one two three four"
    assert height == pytest.approx(len(marks) * 1.4 * 7.5)
    assert paragraph("", 0.0, 0.0, 40.0, face) == ([], 0.0)
    figure = paint([Words(1.0, 9.0, "$a$", face)], 60.0, 12.0)
    assert figure.axes[0].texts[0].get_parse_math() is False
    assert [number(x) for x in (0.0, 0.0001, 0.5)] == ["0.000", "< 0.001", "0.500"]
    assert [percent(x) for x in (0.0, 0.0001, 0.0251, 0.5)] == ["0.0 %", "< 0.1 %", "2.5 %", "50 %"]

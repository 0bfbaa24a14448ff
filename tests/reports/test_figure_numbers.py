"""The numbers in figures of a whole run, each against a slow loop, and what is said where there is nothing to draw."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from explain.result import Value
from explain.rows import Curve, Row
from explain.subject import WordScores
from explain.table import SCHEMAS, Explained
from hilat.admissions import Admission, HilatError
from reports.figures.calibration import draw_calibration, reliability
from reports.figures.curves import GRID, bands, draw_curves
from reports.figures.f1_support import code_scores, draw_f1_support, support_groups
from reports.figures.matrix import agreement_of, draw_agreement, signed
from reports.figures.pairs import Pairs, read_pairs
from reports.figures.saving import Drawing, save
from reports.figures.sections import MOST, OTHER, PairShares, draw_sections, pair_shares, section_means
from reports.figures.style import paper


def drawn_pairs(n: int = 40, k: int = 25, seed: int = 0) -> Pairs:
    """Probabilities spread over (0, 1), coders that follow them loosely, codes of very different support."""
    rng = np.random.default_rng(seed)
    base = np.linspace(-4, 1, k)
    p = 1 / (1 + np.exp(-(base + rng.normal(scale=2.0, size=(n, k)))))
    p[0, 0], p[0, 1] = 1.0, 0.0
    gold = rng.random((n, k)) < p**1.3
    gold[:, 3] = False
    return Pairs(tuple(f"a{i}" for i in range(n)), tuple(f"c_{j}$" for j in range(k)), p, p >= 0.4, gold)


def drawn_curves(n: int = 5, seed: int = 0) -> list[Curve]:
    rng = np.random.default_rng(seed)
    found = []
    for i in range(n):
        at = np.unique(np.concatenate([[0.0, 1.0], rng.random(5 + i)]))
        for method in ("attention", "input_x_gradient", "random order"):
            down, up = np.sort(rng.random(len(at)))[::-1], np.sort(rng.random(len(at)))
            found.append(Curve(f"a{i % 3}", f"c{i}", method, tuple(at), tuple(down), tuple(up)))
    return found


def drawn_rows(methods: tuple[str, ...] = ("attention", "occlusion", "random"), n: int = 6) -> list[Row]:
    rng = np.random.default_rng(1)
    return [
        Row(f"a{i % 4}", f"c{i}", "TP", f"{first} × {second}", metric, Value(math.nan, "none") if i == 5 else Value(float(rng.uniform(-1, 1))))
        for i in range(n)
        for a, first in enumerate(methods)
        for second in methods[a + 1 :]
        for metric in ("kendall_tau_b", "js_bits")
    ]  # fmt: skip


def shares_of(seed: int = 0, sections: int = 16, pairs: int = 20) -> list[PairShares]:
    rng = np.random.default_rng(seed)
    found = []
    for i in range(pairs):
        names = [f"section_{s}" for s in rng.permutation(sections)[: 8 + i % 5]]
        share, words = (rng.dirichlet(np.ones(len(names))) for _ in range(2))
        found.append(PairShares(f"a{i % 7}", "FP" if i % 4 == 0 else "TP", tuple(zip(names, share.tolist(), words.tolist(), strict=True))))  # fmt: skip
    return found


def every_drawing(width: float) -> dict[str, Drawing]:
    pairs = drawn_pairs()
    kinds = (["diagnosis", "procedure"] * 13)[:25]
    return {
        "f1": draw_f1_support(code_scores(pairs), kinds, width, "fixed 0.4", "m"),
        "calibration": draw_calibration(reliability(pairs), pairs, width, "m"),
        "curves": draw_curves(drawn_curves(), width, {"pairs": "TP", "model": "m"}),
        "one curve": draw_curves(drawn_curves(1), width, {"model": "m"}),
        "agreement": draw_agreement(agreement_of(drawn_rows(), "kendall_tau_b"), "kendall_tau_b", width, ("all", "m")),
        "sections": draw_sections(section_means(shares_of()), "attention", width, ("fixed 0.4", "m")),
    }


def drawn_texts(figure: Figure) -> list[Text]:
    """The texts that the figure shows: ticks in view, labels, titles, legends and what stands in the axes."""
    found: list[Text] = [text for legend in figure.legends for text in legend.get_texts()]
    for ax in figure.axes:
        found += [*ax.texts, ax._left_title, ax.xaxis.label, ax.yaxis.label]  # type: ignore[attr-defined]
        found += ax.get_legend().get_texts() if ax.get_legend() else []
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
            found += [t for tick in ticks if low <= tick.get_loc() <= high for t in (tick.label1, tick.label2)]
    return [text for text in found if text.get_visible() and text.get_text().strip()]


def overlaps(figure: Figure) -> list[tuple[str, str]]:
    """Texts of the figure that lie over each other or leave the canvas, as it is saved. Turned texts are left out of the
    first: their boxes are larger than they are."""
    with paper():
        figure.set_dpi(150)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        boxes = [(t, t.get_window_extent(canvas.get_renderer())) for t in drawn_texts(figure)]
        inside = figure.bbox.padded(1.0)
        found = [(t.get_text(), "the edge") for t, box in boxes if not (inside.contains(box.x0, box.y0) and inside.contains(box.x1, box.y1))]  # fmt: skip
        upright = [(t.get_text(), box.shrunk(0.9, 0.9)) for t, box in boxes if t.get_rotation() in (0.0, 90.0)]
        for i, (first, box) in enumerate(upright):
            found += [(first, second) for second, other in upright[i + 1 :] if box.overlaps(other)]
    return found


@pytest.mark.parametrize("width", [85.0, 170.0])
def test_every_figure_of_a_run_is_drawn_without_texts_over_each_other(width: float) -> None:
    for name, drawing in every_drawing(width).items():
        assert overlaps(drawing.figure) == [], name
        assert len(drawing.caption) >= 3
        assert "m." in " ".join(drawing.caption), name


def test_every_figure_is_the_same_again(tmp_path: Path) -> None:
    for turn in ("a", "b"):
        for name, drawing in every_drawing(85.0).items():
            save(drawing, tmp_path / turn / name, formats=("svg", "pdf", "png") if name == "agreement" else ("svg",))
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert len(names) == 14
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_f1_and_support_by_a_loop() -> None:
    pairs = drawn_pairs()
    found = code_scores(pairs)
    for k in range(len(pairs.codes)):
        tp = fp = fn = 0
        for i in range(len(pairs.hadm_ids)):
            predicted, gold = pairs.predicted[i, k], pairs.gold[i, k]
            tp, fp, fn = tp + (predicted and gold), fp + (predicted and not gold), fn + (gold and not predicted)
        assert found.support[k] == tp + fn
        if tp + fp + fn:
            assert found.f1[k] == pytest.approx(2 * tp / (2 * tp + fp + fn))
        else:
            assert math.isnan(found.f1[k])
    support, f1 = np.array([1, 2, 4, 8, 16, 32, 64, 128, 256, 512]), np.linspace(0, 0.9, 10)
    groups = support_groups(support, f1)
    assert groups[:, 1] == pytest.approx([0.05, 0.25, 0.45, 0.65, 0.85])
    assert groups[:, 0] == pytest.approx([2**0.5, 2**2.5, 2**4.5, 2**6.5, 2**8.5])
    drawing = draw_f1_support(found, ["diagnosis"] * 25, 85.0, "fixed 0.4", "m")
    ax = drawing.figure.axes[0]
    assert ax.get_xscale() == "log"
    points = ax.collections[0].get_offsets()
    there = (found.support > 0) & np.isfinite(found.f1)
    assert np.asarray(points) == pytest.approx(np.stack([found.support[there], found.f1[there]], axis=1))
    assert f"{int((~there).sum())} codes without support" in drawing.caption[0]


@pytest.mark.parametrize("bins", [1, 7, 10, 15])
def test_calibration_by_a_loop(bins: int) -> None:
    pairs = drawn_pairs()
    found = reliability(pairs, bins)
    inside: list[list[tuple[float, bool]]] = [[] for _ in range(bins)]
    for p, y in zip(pairs.probabilities.reshape(-1), pairs.gold.reshape(-1), strict=True):
        for b in range(bins):
            if b / bins <= p < (b + 1) / bins or (b == bins - 1 and p == 1.0):
                inside[b].append((float(p), bool(y)))
    total = sum(map(len, inside))
    assert total == pairs.probabilities.size
    ece = 0.0
    for b, part in enumerate(inside):
        assert found.counts[b] == len(part)
        if part:
            confidence, frequency = sum(p for p, _ in part) / len(part), sum(y for _, y in part) / len(part)
            assert (found.confidence[b], found.frequency[b]) == (pytest.approx(confidence), pytest.approx(frequency))
            assert found.low[b] <= frequency + 1e-12
            assert found.high[b] >= frequency - 1e-12
            ece += len(part) / total * abs(confidence - frequency)
        else:
            assert math.isnan(found.frequency[b])
    assert found.ece.estimate == pytest.approx(ece)
    assert found.brier == pytest.approx(sum((p - y) ** 2 for part in inside for p, y in part) / total)
    caption = " ".join(draw_calibration(found, pairs, 85.0, "m").caption)
    assert f"{bins} bins of equal width" in caption
    assert f"{ece:.4f}" in caption


def test_a_perfect_coder_has_no_calibration_error_and_empty_bins_are_left_out() -> None:
    gold = np.array([[True, False], [False, False]])
    pairs = Pairs(("a", "b"), ("x", "y"), gold.astype(float), gold, gold)
    found = reliability(pairs)
    assert found.ece.estimate == 0.0
    assert found.counts.tolist() == [3, 0, 0, 0, 0, 0, 0, 0, 0, 1]
    assert draw_calibration(found, pairs, 85.0, "m").caption


def test_curves_are_means_on_a_grid_with_their_areas() -> None:
    curves = drawn_curves()
    found = bands(curves)
    assert list(found) == ["attention", "input_x_gradient", "random order"]
    mine = [c for c in curves if c.method == "attention"]
    for s, x in enumerate(GRID):
        values = []
        for curve in mine:
            i = max(j for j, at in enumerate(curve.fractions) if at <= x)
            if i == len(curve.fractions) - 1:
                values.append(curve.deletion[i])
                continue
            part = (x - curve.fractions[i]) / (curve.fractions[i + 1] - curve.fractions[i])
            values.append(curve.deletion[i] + part * (curve.deletion[i + 1] - curve.deletion[i]))
        band = found["attention"]["deletion"]
        assert band.mean[s] == pytest.approx(sum(values) / len(values))
        assert band.low[s] <= band.mean[s] + 1e-12
        assert band.high[s] >= band.mean[s] - 1e-12
    single = bands(drawn_curves(1))["attention"]["insertion"]
    assert single.mean.tolist() == list(drawn_curves(1)[0].insertion)
    area = sum((a + b) / 2 * w for a, b, w in zip(single.mean, single.mean[1:], np.diff(single.at), strict=False))
    assert single.area == pytest.approx(area)
    drawing = draw_curves(drawn_curves(1), 85.0, {"model": "m"})
    assert "admission a0, code c0" in drawing.title
    assert f"{single.area:.3f}" in " ".join(drawing.caption)
    assert [ax.get_title(loc="left") for ax in drawing.figure.axes] == ["a  Deletion", "b  Insertion"]


def test_the_agreement_matrix_is_the_mean_of_its_rows() -> None:
    rows = drawn_rows()
    found = agreement_of(rows, "kendall_tau_b")
    assert found.methods == ("attention", "occlusion", "random")
    assert (found.pairs, found.notes, found.missing) == (6, 4, 3)
    for i, first in enumerate(found.methods):
        for j, second in enumerate(found.methods):
            values = [r.value.value for r in rows if r.metric == "kendall_tau_b" and r.method in (f"{first} × {second}", f"{second} × {first}") and r.value.reason is None]  # fmt: skip
            if i == j:
                assert math.isnan(found.mean[i, j])
            else:
                assert found.mean[i, j] == pytest.approx(sum(values) / len(values))
                assert found.half[i, j] > 0
    drawing = draw_agreement(found, "kendall_tau_b", 110.0, ("all", "m"))
    said = [text.get_text() for text in drawing.figure.axes[0].texts]
    assert [s for s in said if "±" not in s] == [signed(found.mean[i, j]) for i in (1, 2) for j in range(i)]
    assert (signed(-0.001), signed(-0.5)) == ("0.00", "−0.50")
    lower = draw_agreement(agreement_of(rows, "js_bits"), "js_bits", 110.0, ("all", "m"))
    assert "lower: more alike" in lower.figure.axes[1].get_ylabel()


def test_shares_of_sections_by_a_loop() -> None:
    text = "seen by us\nAllergies: none known\nHospital Course: sepsis was treated here\n"
    words = [(m, m + len(w)) for w in ("seen", "us", "none", "known", "sepsis", "treated") for m in [text.index(w)]]
    scores = np.array([[1.0, 1.0, 2.0, -5.0, 4.0, 7.0], [0.0] * 6, [0.0, 0.0, 0.0, 0.0, 3.0, 9.0]])
    one = Explained(
        "a", ("x", "y", "z"), np.zeros(3), np.array([0.9, 0.9, 0.9]), np.full(3, 0.5), np.array([True, False, False]), None,
        ("x", "y", "z"), {"m": WordScores(scores, True, "logit", np.zeros(3))}, np.array(words), np.array([0, 0, 0, 1, 1, -1]),
        np.ones(6, dtype=np.int64), np.zeros((0, 2), dtype=np.int64), (),
    )  # fmt: skip
    found = pair_shares(one, Admission("a", text, ("x",)), "m")
    assert [pair.outcome for pair in found] == ["TP", "FP"]  # y has no positive score
    by_name = {name: (share, words) for name, share, words in found[0].shares}
    assert by_name["before the first heading"] == (pytest.approx(2 / 8), pytest.approx(2 / 5))
    assert by_name["allergies"] == (pytest.approx(2 / 8), pytest.approx(2 / 5))
    assert by_name["hospital_course"] == (pytest.approx(4 / 8), pytest.approx(1 / 5))
    pairs = shares_of()
    means = section_means(pairs)
    assert len(means.sections) == MOST
    assert means.sections[-1] == OTHER
    for group in ("TP", "FP"):
        mine = [pair for pair in pairs if pair.outcome == group]
        assert means.pairs[group] == len(mine)
        assert sum(span.estimate for span in means.means[group]) == pytest.approx(1.0)
        for name, span in list(zip(means.sections, means.means[group], strict=True))[:-1]:
            total = sum(share for pair in mine for n, share, _ in pair.shares if n == name)
            assert span.estimate == pytest.approx(total / len(mine))
    assert means.words.sum() == pytest.approx(1.0)


def test_nothing_to_draw_is_said(tmp_path: Path) -> None:
    with pytest.raises(HilatError, match="no curve to draw"):
        draw_curves([], 85.0, {})
    with pytest.raises(HilatError, match="the rows hold js_bits, kendall_tau_b"):
        agreement_of(drawn_rows(), "overlap_at_5")
    with pytest.raises(HilatError, match="no true or false positive"):
        section_means([])
    with pytest.raises(HilatError, match="1 or more"):
        reliability(drawn_pairs(), 0)
    pairs = drawn_pairs()
    nobody = Pairs(pairs.hadm_ids, pairs.codes, pairs.probabilities, pairs.predicted, np.zeros_like(pairs.gold))
    with pytest.raises(HilatError, match="no code was given"):
        draw_f1_support(code_scores(nobody), ["diagnosis"] * 25, 85.0, "fixed", "m")
    with pytest.raises(HilatError, match="does not exist"):
        read_pairs(tmp_path)
    row = {"hadm_id": ["a"], "code": ["x"], "logit": [0.0], "probability": [0.5], "threshold": [0.5], "predicted": [True], "gold": [None], "chunk_attention": [None]}  # fmt: skip
    pq.write_table(pa.table(row, schema=SCHEMAS["pairs"]), tmp_path / "pairs.parquet")
    with pytest.raises(HilatError, match="does not know the coders' codes"):
        read_pairs(tmp_path)
    pq.write_table(SCHEMAS["pairs"].empty_table(), tmp_path / "pairs.parquet")
    with pytest.raises(HilatError, match="holds no admission"):
        read_pairs(tmp_path)


def test_one_admission_has_no_interval_and_is_drawn() -> None:
    pairs = drawn_pairs(n=1)
    found = reliability(pairs)
    assert math.isnan(found.ece.low)
    assert draw_calibration(found, pairs, 85.0, "m").caption
    few = Pairs(("a",), ("x",), np.array([[0.9]]), np.array([[True]]), np.array([[True]]))
    assert "undefined" in " ".join(draw_f1_support(code_scores(few), ["procedure"], 85.0, "fixed", "m").caption)
    assert draw_agreement(agreement_of([r for r in drawn_rows() if r.hadm_id == "a0"], "js_bits"), "js_bits", 85.0, ("all", "m")).caption  # fmt: skip

"""`hilat report` from the choice of admissions to the files it writes: numbers against loops, and no note text where none belongs."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import reports.maker
from explain.keywords import keyword_sets
from explain.result import defined, undefined
from explain.rows import Curve, Row, summarise, write_curves, write_rows
from hilat.admissions import HilatError
from hilat.cleaning import CleaningRules
from hilat.cli.pages import chosen_ids, mean_curves, numbered, read_measures
from hilat.coder import Coder, save_coder
from hilat.corpora import read_corpus, write_corpus
from hilat.corpora.planted import PlantedSettings, make_planted
from hilat.encoding import ChunkLayout
from hilat.model import build_model
from hilat.sections import HEADINGS
from hilat.vocabulary import train_sentencepiece
from reports.page import CodeView, ReportPage

CANARY = "zyxcanary"
Run = Callable[..., Any]  # of conftest.py


# --- which admissions


def pairs_folder(folder: Path, n: int = 12, codes: int = 5, *, gold: bool = True, seed: int = 0) -> Path:
    """A pairs table of n admissions whose ids are not in the order of the alphabet."""
    rng = np.random.default_rng(seed)
    ids = [f"a{(7 * i) % n}" for i in range(n)]
    table = {
        "hadm_id": [name for name in ids for _ in range(codes)],
        "predicted": (rng.random(n * codes) < 0.5).tolist(),
        "gold": (rng.random(n * codes) < 0.4).tolist() if gold else [None] * (n * codes),
    }
    folder.mkdir(exist_ok=True)
    schema = pa.schema([("hadm_id", pa.string()), ("predicted", pa.bool_()), ("gold", pa.bool_())])
    pq.write_table(pa.table(table, schema=schema), folder / "pairs.parquet")
    return folder


def outcomes(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Id -> TP, FP, FN, by a loop over the rows."""
    found: dict[str, list[int]] = {}
    for row in pq.read_table(folder / "pairs.parquet").to_pylist():
        counts = found.setdefault(row["hadm_id"], [0, 0, 0])
        counts[0] += row["predicted"] and row["gold"]
        counts[1] += row["predicted"] and not row["gold"]
        counts[2] += row["gold"] and not row["predicted"]
    return {name: (tp, fp, fn) for name, (tp, fp, fn) in found.items()}


def test_the_worst_admissions_are_chosen_in_the_order_of_the_explanations(tmp_path: Path) -> None:
    for seed in range(5):
        folder = pairs_folder(tmp_path / str(seed), seed=seed)
        counts = outcomes(folder)
        order = list(counts)
        f1 = {name: 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else 1.0 for name, (tp, fp, fn) in counts.items()}
        for n in (1, 4, 50):
            most_wrong = sorted(order, key=lambda name: (-counts[name][1], order.index(name)))[:n]
            assert chosen_ids(folder, f"fp:{n}") == sorted(most_wrong, key=order.index)
            worst = sorted(order, key=lambda name: (f1[name], order.index(name)))[:n]
            assert chosen_ids(folder, f"worst:{n}") == sorted(worst, key=order.index)


def test_random_admissions_are_drawn_by_the_seed(tmp_path: Path) -> None:
    folder = pairs_folder(tmp_path / "e")
    order = list(outcomes(folder))
    drawn = [chosen_ids(folder, "random:4", seed) for seed in range(20)]
    assert drawn == [chosen_ids(folder, "random:4", seed) for seed in range(20)]
    assert len({tuple(d or ()) for d in drawn}) > 10
    for d in drawn:
        assert d is not None
        assert len(set(d)) == 4
        assert d == sorted(d, key=order.index)
    assert chosen_ids(folder, "random:99") == order
    unknown = pairs_folder(tmp_path / "u", gold=False)
    assert len(chosen_ids(unknown, "random:3") or ()) == 3
    with pytest.raises(HilatError, match=r"coders' codes, which are unknown here; give random:3"):
        chosen_ids(unknown, "fp:3")


@pytest.mark.parametrize("wanted", [None, "all", "", " all "])
def test_all_admissions_are_the_default(tmp_path: Path, wanted: str | None) -> None:
    assert chosen_ids(tmp_path, wanted) is None


def test_admissions_by_id_are_taken_once(tmp_path: Path) -> None:
    folder = pairs_folder(tmp_path / "e")
    third, first = "a3", "a1"
    assert chosen_ids(folder, f" {third}, {first},,{third} ") == [third, first]
    with pytest.raises(HilatError, match="admission urn:7 was not explained"):
        chosen_ids(folder, f"{first},urn:7")


@pytest.mark.parametrize("wanted", ["fp:0", "fp:", "worst:x", "random:-1", "random:1.5", "fp:²"])
def test_a_wrong_number_is_answered(tmp_path: Path, wanted: str) -> None:
    with pytest.raises(HilatError, match="expected a number of 1 or more after the colon"):
        chosen_ids(pairs_folder(tmp_path / "e"), wanted)


# --- measures


PAIRS = tuple((f"h{a}", code, outcome) for a in range(6) for code, outcome in (("401.9", "TP"), ("428.0", "FP")))


def measured(folder: Path, pairs: Sequence[tuple[str, str, str]] = PAIRS) -> Path:
    """A folder of measures of (admission, code, outcome), 2 methods; some undefined, one measure that no page lists."""
    rng = np.random.default_rng(0)
    rows, curves = [], []
    for hadm_id, code, outcome in pairs:
        for method in ("attention", "random"):
            for metric in ("comprehensiveness", "sufficiency", "max_sensitivity"):
                value = undefined("no word") if rng.random() < 0.2 else defined(float(rng.random()))
                rows.append(Row(hadm_id, code, outcome, method, metric, value))
            points = (0.0, float(rng.uniform(0.1, 0.9)), 1.0)
            falling = tuple(sorted(rng.random(3).tolist(), reverse=True))
            curves.append(Curve(hadm_id, code, method, points, falling, falling[::-1]))
    up = {"comprehensiveness": True, "sufficiency": False, "max_sensitivity": False}
    groups = {name: summarise([r for r in rows if name in ("all", r.outcome)], up) for name in ("all", "TP", "FP")}
    extra = {"curves.parquet": lambda path: write_curves(path, curves)}
    write_rows(folder, rows, groups, {"measure": "faithfulness"}, extra=extra)
    return folder


def test_measures_are_those_of_the_tables(tmp_path: Path) -> None:
    folder = measured(tmp_path / "m")
    found = read_measures([folder])
    n = 0
    for row in pq.read_table(folder / "rows.parquet").to_pylist():
        numbers = found.numbers[row["hadm_id"], row["code"]]
        if row["metric"] == "max_sensitivity":
            assert row["metric"] not in numbers
            continue
        value = numbers[row["metric"]][row["method"]]
        assert math.isnan(value) if row["reason"] else value == row["value"]
        n += 1
    assert n == sum(len(v) for numbers in found.numbers.values() for v in numbers.values()) == 6 * 2 * 2 * 2
    assert (found.up["comprehensiveness"], found.up["sufficiency"]) == (True, False)
    curves = pq.read_table(folder / "curves.parquet").to_pylist()
    assert sum(map(len, found.curves.values())) == len(curves) == 24
    for c in curves:
        assert (c["method"], tuple(c["deletion"])) in [
            (x.method, x.deletion) for x in found.curves[c["hadm_id"], c["code"]]
        ]
    assert read_measures([]).numbers == {}


def test_tables_of_the_index_are_those_of_the_summary(tmp_path: Path) -> None:
    folder = measured(tmp_path / "m")
    tables = read_measures([folder]).tables
    summary = json.loads((folder / "summary.json").read_text())
    assert [t.title for t in tables] == [f"faithfulness, {name} pairs (n = 6)" for name in ("TP", "FP")]
    for group, table in zip(("TP", "FP"), tables, strict=True):
        assert (table.measures, table.up) == (("comprehensiveness", "sufficiency"), (True, False))
        assert [method for method, _ in table.rows] == ["attention", "random"]
        for method, cells in table.rows:
            for metric, cell in zip(table.measures, cells, strict=True):
                (said,) = [c for c in summary[group] if (c["method"], c["metric"]) == (method, metric)]
                assert (cell.value, cell.low, cell.high) == tuple(
                    said["interval"][k] for k in ("estimate", "low", "high")
                )
                assert cell.star is (said["p_corrected"] is not None and said["p_corrected"] < 0.05)


def test_a_comparison_with_attention_is_the_other_method_s_number(tmp_path: Path) -> None:
    names = ("attention × occlusion", "attention × random", "occlusion × random")
    rows = [Row("h", "c", "TP", name, "kendall_tau_b", defined(n / 10)) for n, name in enumerate(names)]
    write_rows(tmp_path / "a", rows, {"all": summarise(rows, {"kendall_tau_b": True})}, {})
    found = read_measures([tmp_path / "a"])
    assert found.numbers == {("h", "c"): {"kendall_tau_b": {"occlusion": 0.0, "random": 0.1}}}
    assert [table.title for table in found.tables] == ["a, all pairs (n = 1)"]


def test_a_folder_without_measures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HilatError, match=r"holds no rows\.parquet and summary\.json.*Correct --measures"):
        read_measures([measured(tmp_path / "m"), tmp_path])


def test_mean_curves_against_a_loop(tmp_path: Path) -> None:
    curves = [c for part in read_measures([measured(tmp_path / "m")]).curves.values() for c in part]
    found = mean_curves(curves)
    assert [curve.method for curve in found] == ["attention", "random"]

    def at(curve: Curve, x: float) -> float:
        """The curve at x, straight between its points."""
        for (x0, y0), (x1, y1) in zip(
            list(zip(curve.fractions, curve.deletion, strict=True))[:-1],
            list(zip(curve.fractions, curve.deletion, strict=True))[1:],
            strict=True,
        ):
            if x0 <= x <= x1:
                return y0 + (y1 - y0) * (x - x0) / (x1 - x0)
        raise AssertionError

    for curve in found:
        assert curve.fractions == pytest.approx([n / 20 for n in range(21)])
        mine = [c for c in curves if c.method == curve.method]
        for x, mean, low, high in zip(curve.fractions, curve.mean, curve.low, curve.high, strict=True):
            assert mean == pytest.approx(sum(at(c, x) for c in mine) / len(mine))
            assert low < mean < high
    assert mean_curves(curves) == found
    assert mean_curves([]) == ()
    (alone,) = mean_curves(curves[:1])
    assert alone.low == alone.mean == alone.high  # one admission has no interval


def test_pages_without_text_are_numbered() -> None:
    view = CodeView("c", "t", "diagnosis", 0.9, 2.0, 0.5, True, True)
    page = ReportPage("secret-7", f"{CANARY} beta", ((0, 9),), (0,), (1,), (view,))
    first, second = numbered(iter([page, replace(page, hadm_id="secret-8")]))
    assert (first.hadm_id, second.hadm_id) == ("note-00001", "note-00002")
    assert CANARY not in repr((first, second))
    assert "secret" not in repr((first, second))


# --- the command


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    """corpus, model (never trained), explain and measures of notes that hold a canary."""
    folder = tmp_path_factory.mktemp("pages")
    made = make_planted(PlantedSettings(seed=4, train=2, val=2, test=5))
    book = made.code_book.restricted_to(sorted({c for a in made.admissions for c in a.codes})[:8])
    notes = []
    for n, a in enumerate(made.admissions):
        kept = {name: tuple(s for s in getattr(a, name) if s.code in book) for name in ("evidence", "decoys")}
        text = a.text + f"\nSeen by {CANARY} for {CANARY}{'abcdefghi'[n]}ing."
        notes.append(replace(a, text=text, codes=tuple(c for c in a.codes if c in book), **kept))
    write_corpus(folder / "corpus", notes, book, source="table")
    tokenizer = train_sentencepiece([a.text.lower() for a in notes], folder / "tokenizer", vocab_size=300, seed=0)
    pad = int(tokenizer.pad_token_id or 0)
    encoder = {"model_type": "xlnet", "vocab_size": len(tokenizer), "d_model": 16, "n_layer": 1, "n_head": 2, "d_inner": 24, "pad_token_id": pad}  # fmt: skip
    model = build_model(encoder, len(book), seed=0, chunks=3, tokens=48, init_std=0.5)
    layout, half = ChunkLayout(3, 48), np.full(len(book), 0.5)
    save_coder(Coder(model.eval(), tokenizer, book, CleaningRules(), layout, half, "fixed 0.5"), folder / "model")
    answer = run("explain", "--model", folder / "model", "--corpus", folder / "corpus", "--out", folder / "explain", "--codes", "all",
                 "--method", "attention,input_x_gradient", "--device", "cpu")  # fmt: skip
    assert answer.code == 0, answer.said
    assert CANARY not in answer.said.lower()
    pairs = pq.read_table(folder / "explain" / "pairs.parquet").to_pylist()
    first = list(dict.fromkeys(row["hadm_id"] for row in pairs))[:2]
    names = {(True, True): "TP", (True, False): "FP", (False, True): "FN", (False, False): "TN"}
    chosen = [(r["hadm_id"], r["code"], names[r["predicted"], r["gold"]]) for r in pairs if r["hadm_id"] in first]
    measured(folder / "faith", [*chosen, ("another", book.codes[0], "TP"), ("another", book.codes[1], "FP")])
    return folder


def given(place: Path, out: str) -> tuple[object, ...]:
    return ("report", "--corpus", place / "corpus", "--explanations", place / "explain", "--out", place / out)


def words_of(text: str) -> set[str]:
    return set(re.findall(r"[^\W\d_]{5,}", text.lower()))


def notes_of(place: Path) -> Sequence[str]:
    return [a.text for a in read_corpus(place / "corpus", splits=["test"]).admissions]


def test_measures_reach_pages_and_index_and_the_canary_only_them(place: Path, run: Run) -> None:
    answer = run(*given(place, "pages"), "--measures", place / "faith", "--overwrite")
    assert answer.code == 0, answer.said
    assert CANARY not in answer.said.lower()
    said = words_of(answer.said.replace(str(place), ""))
    assert not words_of(" ".join(notes_of(place))) & said - words_of("pages written open index pages writing")
    pages = sorted((place / "pages").glob("admission-*.html"))
    assert len(pages) == 5
    assert all(CANARY in page.read_text("utf-8") for page in pages)
    index = (place / "pages" / "index.html").read_text("utf-8")
    assert "faithfulness, " in index
    assert "Deletion curves" in index
    values = {
        (r["hadm_id"], r["code"], r["method"]): r["value"]
        for r in pq.read_table(place / "faith" / "rows.parquet").to_pylist()
        if r["metric"] == "comprehensiveness"
    }
    measured_ids = {name for name, _, _ in values} - {"another"}
    assert len(measured_ids) == 2
    for page in pages:
        found = re.search(
            r'<script type="application/json" id="data">(.*?)</script>', page.read_text("utf-8"), re.DOTALL
        )
        assert found is not None
        data = json.loads(found[1])
        for code in data["codes"]:
            assert bool(code["nums"]) is bool(code["cv"]) is (data["hadm"] in measured_ids)
            numbers = {name: dict(by) for name, _, by in code["nums"]}.get("comprehensiveness", {})
            for method, value in numbers.items():
                wanted = values[data["hadm"], code["code"], method]
                assert value == (None if wanted is None or math.isnan(wanted) else pytest.approx(wanted, abs=1e-5))


def test_without_text_no_word_of_a_note_is_in_any_file(place: Path, run: Run) -> None:
    ids = [a.hadm_id for a in read_corpus(place / "corpus", splits=["test"]).admissions]
    answer = run(*given(place, "bare"), "--no-text", "--measures", place / "faith", "--admissions", ",".join(ids))
    assert answer.code == 0, answer.said
    corpus = read_corpus(place / "corpus", splits=["test"])
    # What may stand there: our own words, titles of codes and the terms that come with them, fixed headings, facts of the run.
    root = Path(reports.maker.__file__).parents[1]
    ours = [*(root / "reports").glob("*.py"), *(root / "reports/templates").iterdir(), place / "explain/manifest.json"]
    ours += [root / name for name in ("hilat/cli/report.py", "explain/cues.py", "explain/data/rule_pairs.yaml")]
    terms = [word for one in keyword_sets(corpus.code_book).values() for term in one.terms for word in term.words]
    allowed = words_of(" ".join((*(p.read_text("utf-8") for p in ours), *corpus.code_book.titles, *terms, *HEADINGS)))
    told = words_of(" ".join(notes_of(place))) - allowed
    assert CANARY in told
    assert len(told) > 100
    written = [path for path in (place / "bare").iterdir() if path.is_file()]
    assert sorted(path.name for path in written) == sorted(
        [".gitignore", "README-PHI.txt", "index.html", *(f"admission-note-{n:05d}.html" for n in range(1, 6))]
    )
    for path in written:
        text = path.read_text("utf-8")
        assert told & words_of(text) == set(), path.name
        assert "[**" not in text, path.name  # dates of birth stand in a heading
        for name in ids:
            assert name not in text, path.name
    assert CANARY not in answer.said.lower()


def test_only_the_chosen_admissions_get_pages(place: Path, run: Run) -> None:
    counts = outcomes(place / "explain")
    order = list(counts)
    wanted = sorted(order, key=lambda name: (-counts[name][1], order.index(name)))[:2]
    answer = run(*given(place, "two"), "--admissions", "fp:2", "--json")
    assert json.loads(answer.said[answer.said.index("{") : answer.said.rindex("}") + 1])["pages"] == 2
    assert {path.stem for path in (place / "two").glob("admission-*.html")} == {f"admission-{name}" for name in wanted}
    one = run(*given(place, "one"), "--admissions", f"{wanted[0]},{wanted[0]}", "--json")
    assert '"pages": 1' in one.said


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--admissions", "999999"), "was not explained"),
        (("--admissions", "fp:none"), "expected a number"),
        (("--measures", "."), "Correct --measures"),
        (("--rule-pairs", "nowhere.yaml"), "cannot be read"),
        (("--language", "tlh"), "cannot be in language"),
    ],
)
def test_what_is_wrong_is_answered_and_nothing_is_written(
    place: Path, more: tuple[str, ...], words: str, run: Run
) -> None:
    answer = run(*given(place, "none"), *more)
    assert answer.code == 1
    assert words in " ".join(answer.said.split())
    assert "Traceback" not in answer.said
    assert CANARY not in answer.said.lower()
    assert not (place / "none").exists()


def test_a_failure_in_the_middle_of_a_page_says_nothing_of_the_note(
    place: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    """A page that cannot be built (spans outside of the text) is told by its admission."""
    plain = reports.maker.Reading

    def broken(spans, *rest):  # type: ignore[no-untyped-def]
        return plain(spans + 10**6, *rest)

    monkeypatch.setattr(reports.maker, "Reading", broken)
    answer = run(*given(place, "broken"))
    assert answer.code == 1
    assert "outside the text" in " ".join(answer.said.split())
    assert not words_of(answer.said) & {w for note in notes_of(place) for w in words_of(note) if CANARY in w}
    assert not (place / "broken").exists()

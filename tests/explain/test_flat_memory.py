"""Explaining a corpus: what is held does not grow with the number of notes, and the scores are those of the whole table."""

from __future__ import annotations

import math
import tracemalloc
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from explain import pair_scores as pair_scores_module
from explain import writing
from explain.pair_scores import pair_scores
from explain.subject import MethodOptions, WordScores
from explain.table import SCHEMAS, Explained, read_explanations, read_manifest
from explain.writing import PART, Run, write_explanations
from hilat.admissions import Admission, HilatError
from hilat.cli.explain import Plan, write
from hilat.coder import WINDOW, Coder
from hilat.metrics import evaluate_codes

CODES = ("401.9", "428.0", "584.9")
WORDS = 40


def made(n: int) -> Explained:
    """An explained admission with numbers of its own."""
    rng = np.random.default_rng(n)
    logits = rng.normal(size=3)
    spans = np.arange(2 * WORDS).reshape(WORDS, 2)
    scores = WordScores(rng.normal(size=(2, WORDS)), True, "logit", np.zeros(2))
    return Explained(
        f"a{n:06d}", CODES, logits, 1 / (1 + np.exp(-logits)), np.full(3, 0.5), rng.random(3) < 0.4, rng.random((3, 4)),
        CODES[:2], {"attention": scores}, spans, np.zeros(WORDS, dtype=np.int64), np.ones(WORDS, dtype=np.int64),
        spans[:2], ("digit", "stop word"),
    )  # fmt: skip


def written(folder: Path, count: int) -> Path:
    def explain(parts: Sequence[slice]) -> Iterator[Explained]:
        return (made(n) for part in parts for n in range(part.start, part.stop))

    write_explanations(folder, count, explain, {}, Run({}))
    return folder


def test_tables_are_written_in_memory_that_does_not_depend_on_the_number_of_notes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "_GROUP_ADMISSIONS", 24)
    before = pa.default_memory_pool()
    peaks = {}
    written(tmp_path / "first", PART)  # what is loaded once
    for count in (48, 208):
        pool = pa.proxy_memory_pool(before)  # counts what Arrow takes
        pa.set_memory_pool(pool)
        tracemalloc.start()  # what Python and numpy take
        try:
            written(tmp_path / str(count), count)
            peaks[count] = (pool.max_memory(), tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
            pa.set_memory_pool(before)
    for few, many in zip(peaks[48], peaks[208], strict=True):
        assert 10_000 < few < 20_000_000
        assert many - few < 160 * 600  # bytes, with what numpy keeps for later; a note's rows take ten times that
    assert [one.hadm_id for one in read_explanations(tmp_path / "208")] == [f"a{n:06d}" for n in range(208)]


def test_row_groups_hold_whole_admissions_and_not_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "_GROUP_ADMISSIONS", 12)
    monkeypatch.setattr(writing, "_GROUP_ROWS", 10 * WORDS)
    folder = written(tmp_path / "out", 50)
    for name, admissions in {"pairs": 12, "scores": 5, "methods": 12, "words": 10, "unseen": 12}.items():
        with pq.ParquetFile(folder / f"{name}.parquet") as file:
            ids = [set(file.read_row_group(g)["hadm_id"].to_pylist()) for g in range(file.num_row_groups)]
        assert [len(group) for group in ids[:-1]] == [admissions] * (len(ids) - 1), name
        assert sum(map(len, ids)) == 50 == len(set.union(*ids)), name


def test_a_run_without_enough_explanations_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shorter"):
        write_explanations(tmp_path / "out", 5, lambda _: map(made, range(4)), {}, Run({}))
    assert not (tmp_path / "out").exists()


class Text(str):
    """A note whose end can be watched."""


class Watched(Sequence[Admission]):
    """Admissions that are made each time they are gone through. most: of their texts that were there at a time."""

    def __init__(self, count: int, note: str) -> None:
        self.count, self.note, self.alive, self.most = count, note, 0, 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, at: Any) -> Any:
        raise AssertionError(f"asked for {at}; expected to be gone through")

    def __iter__(self) -> Iterator[Admission]:
        for n in range(self.count):
            text = Text(f"{self.note} {n}")
            self.alive += 1
            self.most = max(self.most, self.alive)
            weakref.finalize(text, self.gone)
            yield Admission(f"a{n}", text, CODES[: n % 3])

    def gone(self) -> None:
        self.alive -= 1


def test_only_a_window_of_notes_is_held(make_coder: Callable[..., Coder], other_note: str, tmp_path: Path) -> None:
    coder = make_coder()
    notes = Watched(10 * WINDOW, other_note)
    write(coder, tmp_path, notes, tmp_path / "out", Plan("test", "made", ("gold",), ("attention",), MethodOptions()), False)  # type: ignore[arg-type]  # fmt: skip
    assert read_manifest(tmp_path / "out")["admissions"] == len(notes)
    assert WINDOW <= notes.most <= 5 * WINDOW  # `tee` frees what it passed on 57 at a time
    assert notes.alive == 0


def pairs(path: Path, scores: np.ndarray, gold: np.ndarray | None, group: int) -> Path:
    """A table of pairs with so many admissions in a row group, at thresholds 0.3, 0.4, ..."""
    n, k = scores.shape
    thresholds = np.tile(0.3 + 0.1 * np.arange(k), n)
    columns = {
        "hadm_id": [f"a{i}" for i in range(n) for _ in range(k)],
        "code": [f"c{j}" for j in range(k)] * n,
        "logit": scores.ravel(),
        "probability": scores.ravel(),
        "threshold": thresholds,
        "predicted": scores.ravel() >= thresholds,
        "gold": [None] * (n * k) if gold is None else gold.ravel(),
        "chunk_attention": [None] * (n * k),
    }
    pq.write_table(pa.table(columns, schema=SCHEMAS["pairs"]), path, row_group_size=group * k)
    return path


@pytest.mark.parametrize(("n", "k", "group", "levels"), [(90, 4, 7, 11), (90, 4, 90, 10**9), (3, 1, 1, 2), (41, 3, 10, 3)])  # fmt: skip
def test_scores_are_those_of_the_whole_table_to_the_last_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n: int, k: int, group: int, levels: int
) -> None:
    """levels: how many scores differ; few give many ties."""
    rng = np.random.default_rng(n * k + levels)
    scores = rng.integers(0, levels, size=(n, k)) / levels
    gold = rng.random((n, k)) < 0.3
    gold[0, 0], gold[-1, -1] = True, False
    path = pairs(tmp_path / "pairs.parquet", scores, gold, group)
    whole = evaluate_codes(scores, gold, 0.3 + 0.1 * np.arange(k), threshold_source="x")
    for held in (1, 20, 65_536):  # of the positives: several readings of the table, or one
        monkeypatch.setattr(pair_scores_module, "HELD", held)
        found = pair_scores(path)
        assert found is not None
        assert found == {name: getattr(whole, name) for name in found}
    assert list(found) == ["micro_f1", "macro_f1_mean_of_codes", "macro_f1_of_macro_p_r", "micro_auc"]


def test_the_table_is_read_a_row_group_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    path = pairs(tmp_path / "pairs.parquet", rng.random((60, 3)), rng.random((60, 3)) < 0.5, 5)
    read: list[int] = []
    whole_file = pq.ParquetFile

    class Counting:
        """A Parquet file from which only row groups can be read."""

        def __init__(self, path: Path) -> None:
            self.file = whole_file(path)
            self.metadata, self.num_row_groups = self.file.metadata, self.file.num_row_groups

        def __enter__(self) -> Counting:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def read_row_group(self, group: int, columns: list[str]) -> pa.Table:
            rows = self.file.read_row_group(group, columns=columns)
            read.append(len(rows))
            return rows

    monkeypatch.setattr(pair_scores_module.pq, "ParquetFile", Counting)
    monkeypatch.delattr(pair_scores_module.pq, "read_table")
    assert pair_scores(path) is not None
    assert max(read) == 5 * 3
    assert len(read) == 1 + 3 * 12  # ids of the first; counts; positives; and all scores, once for so few positives


def test_scores_without_both_kinds_or_without_coders_codes(tmp_path: Path) -> None:
    scores = np.random.default_rng(0).random((4, 2))
    for gold in (np.zeros((4, 2), dtype=bool), np.ones((4, 2), dtype=bool)):
        found = pair_scores(pairs(tmp_path / "pairs.parquet", scores, gold, 2))
        assert found is not None
        assert math.isnan(found["micro_auc"])
    assert pair_scores(pairs(tmp_path / "pairs.parquet", scores, None, 2)) is None
    assert pair_scores(pairs(tmp_path / "pairs.parquet", scores[:0], gold[:0], 2)) is None
    scores[3, 1] = np.nan
    with pytest.raises(HilatError, match="1 of 4 scores are NaN"):
        pair_scores(pairs(tmp_path / "pairs.parquet", scores, gold, 2))

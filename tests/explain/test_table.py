"""Explanation folders: what is written comes back; a run that stops goes on; damage is told."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from explain.collect import collect, fingerprint
from explain.table import Explained, read_explanations, read_manifest
from explain.writing import PART, Run, write_explanations
from hilat.admissions import Admission, HilatError
from hilat.coder import Coder

MakeCoder = Callable[..., Coder]
METHODS = ("attention", "input_x_gradient", "integrated_gradients")


@pytest.fixture(scope="module")
def coder(make_coder: MakeCoder) -> Coder:
    return make_coder()


def admissions(note: str, count: int) -> list[Admission]:
    codes = (("401.9", "584.9"), ("428.0",), ())
    return [Admission(f"a{n}", f"Note {'again ' * (n % 3)}{note}", codes[n % 3]) for n in range(count)]


def explaining(
    coder: Coder, notes: list[Admission], **options: object
) -> Callable[[Sequence[slice]], Iterator[Explained]]:
    return lambda parts: collect(coder, chosen(notes, parts), methods=METHODS, **options)  # type: ignore[arg-type]


def chosen(notes: list[Admission], parts: Sequence[slice]) -> list[Admission]:
    return [note for part in parts for note in notes[part]]


def same(first: Explained, second: Explained) -> None:
    for field in dataclasses.fields(Explained):
        a, b = getattr(first, field.name), getattr(second, field.name)
        if field.name == "methods":
            assert list(a) == list(b)
            for name in a:
                for part in dataclasses.fields(a[name]):
                    np.testing.assert_array_equal(getattr(a[name], part.name), getattr(b[name], part.name))
        elif field.name == "chunk_attention":
            np.testing.assert_allclose(a, b, rtol=1e-6)  # kept as float32
        else:
            np.testing.assert_array_equal(a, b)


def test_what_is_written_comes_back(coder: Coder, note: str, tmp_path: Path) -> None:
    notes = admissions(note, PART + 2)
    out = tmp_path / "out"
    write_explanations(out, len(notes), explaining(coder, notes), {"x": 1}, Run({"a": 1}))
    for written, read in zip(collect(coder, notes, methods=METHODS), read_explanations(out), strict=True):
        same(written, read)
    (one,) = read_explanations(out, ["a3"])
    assert one.hadm_id == "a3"
    assert read_manifest(out)["admissions"] == len(notes)
    table = pq.read_table(out / "scores.parquet")
    assert set(table["method"].to_pylist()) == set(METHODS)
    assert "again" not in str(table.schema) + str(read_manifest(out))
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_note_without_any_chosen_code_has_no_scores(coder: Coder, note: str, tmp_path: Path) -> None:
    notes = admissions(note, 3)
    write_explanations(tmp_path / "out", len(notes), explaining(coder, notes, choices=("gold",)), {}, Run({}))
    read = list(read_explanations(tmp_path / "out"))
    assert [one.scored for one in read] == [("401.9", "584.9"), ("428.0",), ()]
    assert read[2].of("attention") == {}
    with pytest.raises(HilatError, match="--method lime"):
        read[0].of("lime")


def test_a_run_that_stops_goes_on_with_the_same_settings_only(coder: Coder, note: str, tmp_path: Path) -> None:
    notes = admissions(note, 2 * PART + 1)
    out = tmp_path / "out"
    calls: list[list[slice]] = []

    def stops(parts: Sequence[slice]) -> Iterator[Explained]:
        calls.append(list(parts))
        for n, one in enumerate(collect(coder, chosen(notes, parts))):
            if len(calls) == 1 and n == PART + 3:
                raise KeyboardInterrupt
            yield one

    with pytest.raises(KeyboardInterrupt):
        write_explanations(out, len(notes), stops, {}, Run({"seed": 0}))
    assert not out.exists()
    with pytest.raises(HilatError, match=r"other settings \(seed\)"):
        write_explanations(out, len(notes), stops, {}, Run({"seed": 1}))
    write_explanations(out, len(notes), stops, {}, Run({"seed": 0}))
    assert calls[1:] == [[slice(PART, 2 * PART), slice(2 * PART, len(notes))]]
    for whole, read in zip(collect(coder, notes), read_explanations(out), strict=True):
        same(whole, read)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_damage_is_told(coder: Coder, note: str, tmp_path: Path) -> None:
    notes = admissions(note, 1)
    write_explanations(tmp_path / "out", 1, explaining(coder, notes), {}, Run({}))
    path = tmp_path / "out" / "scores.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(HilatError, match="missing or damaged"):
        list(read_explanations(tmp_path / "out"))
    with pytest.raises(HilatError, match="hilat explain"):
        read_manifest(tmp_path)


def test_the_fingerprint_is_the_models(make_coder: MakeCoder, coder: Coder) -> None:
    assert fingerprint(coder) == fingerprint(make_coder())
    assert fingerprint(coder) != fingerprint(make_coder("bert"))

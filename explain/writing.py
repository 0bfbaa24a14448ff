"""Writing explanation folders: part by part, by one process or several, and again from where a run was stopped."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from explain.pair_scores import pair_scores
from explain.table import FORMAT, SCHEMAS, Explained
from hilat.admissions import HilatError
from hilat.coder import WINDOW
from hilat.files import new_folder, read_json, write_json
from hilat.processes import ALONE, Processes

PART = WINDOW  # admissions whose explanations are written at a time: those that share batches
_GROUP_ROWS = 100_000  # of a row group of the finished tables, where one admission has no more
_GROUP_ADMISSIONS = 500  # of a row group; a batch of rows takes memory even where it has few of them


@dataclass(frozen=True, slots=True)
class Run:
    """How explanations are written. key: what makes two runs the same. part: admissions written at a time, a multiple of
    what shares batches (`hilat.coder.predict`). processes: those that share the parts."""

    key: Mapping[str, Any]
    overwrite: bool = False
    part: int = PART
    processes: Processes = ALONE


def write_explanations(
    folder: Path,
    count: int,
    explain: Callable[[Sequence[slice]], Iterable[Explained]],
    manifest: Mapping[str, Any],
    run: Run,
) -> None:
    """Explain `count` admissions into a folder, part by part; what is held does not grow with their number.

    explain: gives the explanations of some slices of the admissions, one after the other, in order.
    A run that is stopped leaves its finished parts beside the folder (NAME.partial); one with the same key goes on there.
    Of several processes, each explains every so-manieth part that is missing, and the first joins all of them. The folder
    itself appears when all is done.

    Raises:
        HilatError: the folder exists, or an unfinished run with another key does, and `overwrite` is off; another process
            was stopped.
    """
    folder, processes = Path(folder), run.processes
    partial = folder.with_name(f"{folder.name}.partial")
    if processes.first:
        if folder.exists() and not run.overwrite:
            raise HilatError(
                f"{folder} exists already; expected a new explanation folder. Choose another name or pass --overwrite"
            )
        _begin(partial, {**run.key, "part": run.part, "format": FORMAT}, run.overwrite)
    processes.wait()
    starts = range(0, count, run.part)
    missing = [number for number in range(len(starts)) if not _part(partial, number).is_dir()]
    processes.wait()  # all have seen the same parts missing
    mine = processes.share(missing)
    if mine:
        slices = [slice(starts[number], min(starts[number] + run.part, count)) for number in mine]
        stream = iter(explain(slices))
        for number, one in zip(mine, slices, strict=True):
            _write_part(_part(partial, number), one.stop - one.start, stream)
        assert next(stream, None) is None  # no more than was asked for
    processes.wait()
    if processes.first:
        with new_folder(folder, overwrite=run.overwrite, what="explanation folder") as beside:
            for name in SCHEMAS:
                _join(name, (_part(partial, number) for number in range(len(starts))), beside / f"{name}.parquet")
            scores = pair_scores(beside / "pairs.parquet")
            record = {**manifest, "format": FORMAT, "admissions": count, "metrics": scores}
            write_json(beside / "manifest.json", record)
        shutil.rmtree(partial)
    processes.wait()


def unfinished(folder: Path, part: int = PART) -> int:
    """How many admissions an interrupted run of `write_explanations` has explained already."""
    partial = Path(folder).with_name(f"{Path(folder).name}.partial")
    return part * sum(1 for _ in partial.glob("part-*"))


def _begin(partial: Path, key: Mapping[str, Any], overwrite: bool) -> None:
    record = partial / "key.json"
    wanted = json.loads(json.dumps(key))
    if partial.exists():
        before = read_json(record, what="the settings of an interrupted run") if record.exists() else None
        if before == wanted:
            return
        if not overwrite:
            differ = sorted(name for name in wanted if before is None or before.get(name) != wanted[name])
            raise HilatError(
                f"{partial} holds an interrupted run with other settings ({', '.join(differ) or 'unknown'}); expected the "
                "same ones to go on with it. Delete that folder, or pass --overwrite"
            )
        shutil.rmtree(partial)
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise HilatError(f"cannot write {partial}: {error.strerror}; choose a folder that you may write to") from None
    write_json(record, wanted)


def _part(partial: Path, number: int) -> Path:
    return partial / f"part-{number:06d}"


def _write_part(folder: Path, count: int, stream: Iterator[Explained]) -> None:
    """The next admissions of the stream as a folder of tables; Arrow's own format, which is quick to write and to join."""
    with new_folder(folder, what="part") as beside, ExitStack() as stack:
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        files = {
            name: stack.enter_context(pa.ipc.new_file(beside / f"{name}.arrow", schema, options=options))
            for name, schema in SCHEMAS.items()
        }
        for _, one in zip(range(count), islice(stream, count), strict=True):
            for name, columns in _rows(one).items():
                if len(columns["hadm_id"]):
                    files[name].write_table(pa.table(columns, schema=SCHEMAS[name]))


def _join(name: str, parts: Iterable[Path], file: Path) -> None:
    """One Parquet file of the parts' tables, a row group at a time. Fractions, most of which differ, are not put into
    dictionaries: those took four times the memory of the rows, and more room in the file."""
    schema = SCHEMAS[name]
    repeated = [f.name for f in schema if not (pa.types.is_floating(f.type) or pa.types.is_list(f.type))]
    with pq.ParquetWriter(file, schema, compression="zstd", use_dictionary=repeated) as writer:
        for group in _groups(name, parts):
            writer.write_table(group, row_group_size=len(group))
            del group
            pa.default_memory_pool().release_unused()  # or what is free piles up, group by group


def _groups(name: str, parts: Iterable[Path]) -> Iterator[pa.Table]:
    """The rows of the parts in row groups: whole admissions, several while they are small and not too many."""
    waiting: list[pa.RecordBatch] = []  # one an admission
    rows = 0
    for part in parts:
        with pa.OSFile(str(part / f"{name}.arrow")) as source, pa.ipc.open_file(source) as file:
            for batch in map(file.get_batch, range(file.num_record_batches)):
                if waiting and (rows + len(batch) > _GROUP_ROWS or len(waiting) == _GROUP_ADMISSIONS):
                    yield pa.Table.from_batches(waiting)
                    waiting, rows = [], 0
                waiting.append(batch)
                rows += len(batch)
    if waiting:
        yield pa.Table.from_batches(waiting)


def _rows(one: Explained) -> dict[str, dict[str, Any]]:
    n_codes, n_words = len(one.codes), len(one.word_spans)
    spans = one.word_spans.astype(np.int32)
    rows = [(method, code) for method in one.methods for code in one.scored]  # what `scores` and `methods` list
    absent = np.full(len(one.scored), np.nan)
    return {
        "pairs": {
            "hadm_id": [one.hadm_id] * n_codes,
            "code": list(one.codes),
            "logit": one.logits,
            "probability": one.probabilities,
            "threshold": one.thresholds,
            "predicted": one.probabilities >= one.thresholds,
            "gold": [None] * n_codes if one.gold is None else one.gold,
            "chunk_attention": [None] * n_codes
            if one.chunk_attention is None
            else [row.astype(np.float32) for row in one.chunk_attention],
        },
        "scores": {
            "hadm_id": pa.repeat(one.hadm_id, n_words * len(rows)),
            "code": _repeated([code for _, code in rows], n_words),
            "method": _repeated([method for method, _ in rows], n_words),
            "word": np.tile(np.arange(n_words, dtype=np.int32), len(rows)),
            "start": np.tile(spans[:, 0], len(rows)),
            "end": np.tile(spans[:, 1], len(rows)),
            "score": np.concatenate([m.scores.reshape(-1) for m in one.methods.values()]) if rows else np.zeros(0),
        },
        "methods": {
            "hadm_id": [one.hadm_id] * len(rows),
            "code": [code for _, code in rows],
            "method": [method for method, _ in rows],
            "target": [one.methods[method].target for method, _ in rows],
            "signed": [one.methods[method].signed for method, _ in rows],
            "outside_words": np.concatenate([m.outside for m in one.methods.values()]) if rows else np.zeros(0),
            "completeness_gap": np.concatenate(
                [absent if m.completeness_gap is None else m.completeness_gap for m in one.methods.values()]
            )
            if rows
            else np.zeros(0),
            "passes": [one.methods[method].passes for method, _ in rows],
        },
        "words": {
            "hadm_id": pa.repeat(one.hadm_id, n_words),
            "word": np.arange(n_words, dtype=np.int32),
            "start": spans[:, 0],
            "end": spans[:, 1],
            "chunk": one.word_chunk.astype(np.int16),
            "tokens": one.word_tokens.astype(np.int16),
        },
        "unseen": {
            "hadm_id": [one.hadm_id] * len(one.removed),
            "start": one.removed[:, 0].astype(np.int32),
            "end": one.removed[:, 1].astype(np.int32),
            "reason": list(one.removed_reasons),
        },
    }


def _repeated(names: Sequence[str], times: int) -> pa.Array:
    """Each name so many times, one name after the other."""
    return pa.array(names, pa.string()).take(np.repeat(np.arange(len(names)), times))

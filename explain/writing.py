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

from explain.table import FORMAT, SCHEMAS, Explained
from hilat.admissions import HilatError
from hilat.coder import WINDOW
from hilat.files import new_folder, read_json, write_json
from hilat.metrics import evaluate_codes
from hilat.processes import ALONE, Processes

PART = WINDOW  # admissions whose explanations are written at a time: those that share batches
_GROUP_ROWS = 100_000  # of a row group of the finished tables, where one admission has no more


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
    hadm_ids: Sequence[str],
    explain: Callable[[Sequence[slice]], Iterable[Explained]],
    manifest: Mapping[str, Any],
    run: Run,
) -> int:
    """Explain admissions into a folder, part by part, and return how many it holds.

    hadm_ids: of all admissions, in order. explain: gives the explanations of some slices of them, one after the other.
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
    slices = [slice(start, min(start + run.part, len(hadm_ids))) for start in range(0, len(hadm_ids), run.part)]
    missing = [number for number in range(len(slices)) if not _part(partial, number).is_dir()]
    processes.wait()  # all have seen the same parts missing
    mine = processes.share(missing)
    if mine:
        stream = iter(explain([slices[number] for number in mine]))
        for number in mine:
            _write_part(_part(partial, number), hadm_ids[slices[number]], stream)
        assert next(stream, None) is None  # no more than was asked for
    processes.wait()
    if processes.first:
        with new_folder(folder, overwrite=run.overwrite, what="explanation folder") as beside:
            for name in SCHEMAS:
                _join(name, [_part(partial, number) for number in range(len(slices))], beside)
            scores = _prediction_metrics(beside / "pairs.parquet", str(manifest.get("threshold_source", "")))
            record = {**manifest, "format": FORMAT, "admissions": len(hadm_ids), "metrics": scores}
            write_json(beside / "manifest.json", record)
        shutil.rmtree(partial)
    processes.wait()
    return len(hadm_ids)


def unfinished(folder: Path, part: int = PART) -> int:
    """How many admissions an interrupted run of `write_explanations` has explained already."""
    partial = Path(folder).with_name(f"{Path(folder).name}.partial")
    return part * len(list(partial.glob("part-*")))


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


def _write_part(folder: Path, hadm_ids: Sequence[str], stream: Iterator[Explained]) -> None:
    """The next admissions of the stream as a folder of tables; Arrow's own format, which is quick to write and to join."""
    with new_folder(folder, what="part") as beside, ExitStack() as stack:
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        files = {
            name: stack.enter_context(pa.ipc.new_file(beside / f"{name}.arrow", schema, options=options))
            for name, schema in SCHEMAS.items()
        }
        for hadm_id, one in zip(hadm_ids, islice(stream, len(hadm_ids)), strict=True):
            assert one.hadm_id == hadm_id  # a part never holds another's rows
            for name, columns in _rows(one).items():
                if len(columns["hadm_id"]):
                    files[name].write_table(pa.table(columns, schema=SCHEMAS[name]))


def _join(name: str, parts: Sequence[Path], folder: Path) -> None:
    """One Parquet file of the parts' tables: whole admissions in each row group, several while they are small."""
    waiting: list[pa.RecordBatch] = []
    with pq.ParquetWriter(folder / f"{name}.parquet", SCHEMAS[name], compression="zstd") as writer:

        def write() -> None:
            if waiting:
                table = pa.Table.from_batches(waiting, SCHEMAS[name]).combine_chunks()
                writer.write_table(table, row_group_size=len(table))
                waiting.clear()

        for part in parts:
            with pa.OSFile(str(part / f"{name}.arrow")) as source, pa.ipc.open_file(source) as file:
                for n in range(file.num_record_batches):
                    batch = file.get_batch(n)
                    if sum(map(len, waiting)) + len(batch) > _GROUP_ROWS:
                        write()
                    waiting.append(batch)
        write()


def _prediction_metrics(pairs: Path, source: str) -> dict[str, float] | None:
    """Micro and macro scores of the admissions' codes, None where the coders' codes are not known."""
    table = pq.read_table(pairs, columns=["probability", "gold"])
    if table.num_rows == 0 or table["gold"].null_count:
        return None
    first = pq.ParquetFile(pairs).read_row_group(0, columns=["hadm_id", "threshold"])
    n_codes = int((first["hadm_id"].to_numpy() == first["hadm_id"][0].as_py()).sum())
    probabilities, gold = (table[name].to_numpy().reshape(-1, n_codes) for name in ("probability", "gold"))  # (N, K)
    thresholds = first["threshold"].to_numpy()[:n_codes]  # (K,)
    metrics = evaluate_codes(probabilities, gold.astype(np.float32), thresholds, threshold_source=source)
    return {
        "micro_f1": metrics.micro_f1,
        "macro_f1_mean_of_codes": metrics.macro_f1_mean_of_codes,
        "macro_f1_of_macro_p_r": metrics.macro_f1_of_macro_p_r,
        "micro_auc": metrics.micro_auc,
    }


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

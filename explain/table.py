"""Explanations on disk: Parquet tables that pandas, R and the report read. No note text in them.

An explanation folder holds
- `pairs.parquet`: one row per (admission, code): logit, probability, threshold, predicted, gold, chunk attention;
- `scores.parquet`: one row per (admission, code, method, word): raw-text start and end, score;
- `methods.parquet`: one row per (admission, code, method): target, signed or not, the share of the absolute scores that
  fell outside of words, the completeness gap where the method promises a sum, chunks encoded for the admission;
- `words.parquet`: one row per word the model was given: raw-text start and end, chunk (-1: after the last chunk);
- `unseen.parquet`: what cleaning dropped, with the reason;
- `manifest.json`: model, corpus, split, label set, thresholds, versions.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from explain.subject import WordScores
from hilat.admissions import HilatError
from hilat.files import new_folder, read_json, write_json
from hilat.metrics import evaluate_codes

SCHEMAS: dict[str, pa.Schema] = {
    "pairs": pa.schema(
        [
            ("hadm_id", pa.string()),
            ("code", pa.string()),
            ("logit", pa.float64()),
            ("probability", pa.float64()),
            ("threshold", pa.float64()),
            ("predicted", pa.bool_()),
            ("gold", pa.bool_()),
            ("chunk_attention", pa.list_(pa.float32())),
        ]
    ),
    "scores": pa.schema(
        [
            ("hadm_id", pa.string()),
            ("code", pa.string()),
            ("method", pa.string()),
            ("word", pa.int32()),
            ("start", pa.int32()),
            ("end", pa.int32()),
            ("score", pa.float64()),
        ]
    ),
    "methods": pa.schema(
        [
            ("hadm_id", pa.string()),
            ("code", pa.string()),
            ("method", pa.string()),
            ("target", pa.string()),
            ("signed", pa.bool_()),
            ("outside_words", pa.float64()),
            ("completeness_gap", pa.float64()),
            ("passes", pa.int32()),
        ]
    ),
    "words": pa.schema(
        [
            ("hadm_id", pa.string()),
            ("word", pa.int32()),
            ("start", pa.int32()),
            ("end", pa.int32()),
            ("chunk", pa.int16()),
            ("tokens", pa.int16()),
        ]
    ),
    "unseen": pa.schema(
        [("hadm_id", pa.string()), ("start", pa.int32()), ("end", pa.int32()), ("reason", pa.string())]
    ),
}
_TABLES = tuple(SCHEMAS)
FORMAT = 2
PART = 16  # admissions whose explanations are written at a time


@dataclass(frozen=True, slots=True)
class Explained:
    """One admission as explained: what the page and the metrics need, without the note's text.

    logits, probabilities, thresholds (K,); gold (K,) bool or None; chunk_attention (K, C), or None from a model that
    pools chunks. scored: the k codes that were explained; methods: method -> their word scores (k, W).
    word_spans (W, 2), word_chunk and word_tokens (W,) in model order; removed (R, 2) with reasons.
    """

    hadm_id: str
    codes: tuple[str, ...]
    logits: NDArray[np.float64]
    probabilities: NDArray[np.float64]
    thresholds: NDArray[np.float64]
    gold: NDArray[np.bool_] | None
    chunk_attention: NDArray[np.float64] | None
    scored: tuple[str, ...]
    methods: Mapping[str, WordScores]
    word_spans: NDArray[np.int64]
    word_chunk: NDArray[np.int64]
    word_tokens: NDArray[np.int64]
    removed: NDArray[np.int64]
    removed_reasons: tuple[str, ...]

    def of(self, method: str) -> dict[str, NDArray[np.float64]]:
        """Code -> word scores (W,) of one method; empty where no code was explained.

        Raises:
            HilatError: for a method that is not in these explanations.
        """
        if not self.scored:
            return {}
        if method not in self.methods:
            raise HilatError(
                f"admission {self.hadm_id} has no explanations by {method!r}; it has {', '.join(self.methods)}. "
                f"Explain again with --method {method}"
            )
        return dict(zip(self.scored, self.methods[method].scores, strict=True))


def write_explanations(
    folder: Path,
    hadm_ids: Sequence[str],
    explain: Callable[[slice], Iterable[Explained]],
    manifest: Mapping[str, Any],
    *,
    key: Mapping[str, Any],
    overwrite: bool = False,
) -> int:
    """Explain admissions into a folder, part by part, and return how many it holds.

    hadm_ids: of all admissions, in order. explain: gives the explanations of a slice of them, in order.
    key: what makes two runs the same. A run that is stopped leaves its finished parts beside the folder (NAME.partial); one
    with the same key goes on there. The folder itself appears when all is done.

    Raises:
        HilatError: the folder exists, or an unfinished run with another key does, and `overwrite` is off.
    """
    folder = Path(folder)
    if folder.exists() and not overwrite:
        raise HilatError(
            f"{folder} exists already; expected a new explanation folder. Choose another name or pass --overwrite"
        )
    partial = folder.with_name(f"{folder.name}.partial")
    _begin(partial, key, overwrite)
    starts = range(0, len(hadm_ids), PART)
    for number, start in enumerate(starts):
        if not _part(partial, number).is_dir():
            _write_part(_part(partial, number), explain(slice(start, min(start + PART, len(hadm_ids)))))
    with new_folder(folder, overwrite=overwrite, what="explanation folder") as beside:
        for name, schema in SCHEMAS.items():
            with pq.ParquetWriter(beside / f"{name}.parquet", schema, compression="zstd") as writer:
                for number in range(len(starts)):
                    part = pq.ParquetFile(_part(partial, number) / f"{name}.parquet")
                    for group in range(part.num_row_groups):
                        writer.write_table(part.read_row_group(group))
        scores = _prediction_metrics(beside / "pairs.parquet", str(manifest.get("threshold_source", "")))
        write_json(
            beside / "manifest.json", {**manifest, "format": FORMAT, "admissions": len(hadm_ids), "metrics": scores}
        )
    shutil.rmtree(partial)
    return len(hadm_ids)


def unfinished(folder: Path) -> int:
    """How many admissions an interrupted run of `write_explanations` has explained already."""
    partial = Path(folder).with_name(f"{Path(folder).name}.partial")
    return PART * len(list(partial.glob("part-*")))


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


def _write_part(folder: Path, explained: Iterable[Explained]) -> None:
    with new_folder(folder, what="part") as beside, ExitStack() as stack:
        writers = {
            name: stack.enter_context(pq.ParquetWriter(beside / f"{name}.parquet", schema, compression="zstd"))
            for name, schema in SCHEMAS.items()
        }
        for one in explained:
            for name, columns in _rows(one).items():
                if len(columns["hadm_id"]):
                    writers[name].write_table(pa.table(columns, schema=SCHEMAS[name]))


def _prediction_metrics(pairs: Path, source: str) -> dict[str, float] | None:
    """Micro and macro scores of the admissions' codes, None where the coders' codes are not known."""
    table = pq.read_table(pairs, columns=["hadm_id", "probability", "threshold", "gold"])
    if table.num_rows == 0 or table["gold"].null_count:
        return None
    n_codes = int((table["hadm_id"].to_numpy() == table["hadm_id"][0].as_py()).sum())
    probabilities, thresholds, gold = (
        table[name].to_numpy().reshape(-1, n_codes) for name in ("probability", "threshold", "gold")
    )  # (N, K)
    metrics = evaluate_codes(probabilities, gold.astype(np.float32), thresholds[0], threshold_source=source)
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
            "hadm_id": [one.hadm_id] * (n_words * len(rows)),
            "code": np.repeat(np.array([code for _, code in rows], dtype=object), n_words),
            "method": np.repeat(np.array([method for method, _ in rows], dtype=object), n_words),
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
            "hadm_id": [one.hadm_id] * n_words,
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


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an explanation folder."""
    manifest = read_json(Path(folder) / "manifest.json", what="an explanation folder that `hilat explain` wrote")
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise HilatError(
            f"{folder} is not an explanation folder of format {FORMAT}; give one that this version's `hilat explain` wrote"
        )
    return manifest


def read_explanations(folder: Path, hadm_ids: Sequence[str] | None = None) -> Iterator[Explained]:
    """The admissions of an explanation folder, in the order in which they were written, or those asked for."""
    folder = Path(folder)
    read_manifest(folder)
    files = {}
    for name in _TABLES:
        try:
            files[name] = pq.ParquetFile(folder / f"{name}.parquet")
        except (OSError, pa.ArrowInvalid):
            raise HilatError(f"{folder}/{name}.parquet is missing or damaged; run `hilat explain` again") from None
    streams = {name: _by_admission(file) for name, file in files.items()}
    waiting = {name: next(stream, None) for name, stream in streams.items()}
    wanted = None if hadm_ids is None else set(hadm_ids)
    while (pairs := waiting["pairs"]) is not None:
        hadm_id = pairs[0]
        tables = {name: SCHEMAS[name].empty_table() for name in _TABLES}
        for name in _TABLES:
            head = waiting[name]
            if head is not None and head[0] == hadm_id:
                tables[name] = head[1]
                waiting[name] = next(streams[name], None)
        if wanted is None or hadm_id in wanted:
            yield _explained(hadm_id, tables)


def _by_admission(file: pq.ParquetFile) -> Iterator[tuple[str, pa.Table]]:
    """Row groups are written one per admission and table, so reading one back is reading one admission."""
    for group in range(file.num_row_groups):
        table = file.read_row_group(group)
        yield table["hadm_id"][0].as_py(), table


def _explained(hadm_id: str, tables: Mapping[str, pa.Table]) -> Explained:
    pairs, words, unseen = (tables[name] for name in ("pairs", "words", "unseen"))
    scored, methods = _methods(tables["methods"], tables["scores"], words.num_rows)
    gold = pairs["gold"].to_pylist()
    chunks = pairs["chunk_attention"].to_pylist()
    return Explained(
        hadm_id=hadm_id,
        codes=tuple(pairs["code"].to_pylist()),
        logits=pairs["logit"].to_numpy(),
        probabilities=pairs["probability"].to_numpy(),
        thresholds=pairs["threshold"].to_numpy(),
        gold=None if None in gold else np.array(gold, dtype=bool),
        chunk_attention=None if None in chunks else np.array(chunks, dtype=np.float64),  # (K, C)
        scored=scored,
        methods=methods,
        word_spans=np.stack([words["start"].to_numpy(), words["end"].to_numpy()], axis=1).astype(np.int64),
        word_chunk=words["chunk"].to_numpy().astype(np.int64),
        word_tokens=words["tokens"].to_numpy().astype(np.int64),
        removed=np.stack([unseen["start"].to_numpy(), unseen["end"].to_numpy()], axis=1).astype(np.int64),
        removed_reasons=tuple(unseen["reason"].to_pylist()),
    )


def _methods(rows: pa.Table, scores: pa.Table, n_words: int) -> tuple[tuple[str, ...], dict[str, WordScores]]:
    """The codes that were explained and, per method, their scores; both tables list methods, then codes, then words."""
    names = list(dict.fromkeys(rows["method"].to_pylist()))
    codes = tuple(dict.fromkeys(rows["code"].to_pylist()))
    shape = (len(names), len(codes))
    values = scores["score"].to_numpy().reshape(*shape, n_words)
    outside, gaps = (rows[name].to_numpy().reshape(shape) for name in ("outside_words", "completeness_gap"))
    first = range(0, rows.num_rows, max(1, len(codes)))
    return codes, {
        name: WordScores(
            values[m],
            rows["signed"][i].as_py(),
            rows["target"][i].as_py(),
            outside[m],
            None if np.isnan(gaps[m]).all() else gaps[m],
            rows["passes"][i].as_py(),
        )
        for m, (name, i) in enumerate(zip(names, first, strict=True))
    }

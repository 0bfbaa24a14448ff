"""Explanations on disk: Parquet tables that pandas, R and the report read. No note text in them.

An explanation folder holds
- `pairs.parquet`: one row per (admission, code): logit, probability, threshold, predicted, gold, chunk attention and
  the share of the attention outside of words;
- `scores.parquet`: one row per (admission, code, method, word): raw-text start and end, score;
- `words.parquet`: one row per word the model was given: raw-text start and end, chunk (-1: after the last chunk);
- `unseen.parquet`: what cleaning dropped, with the reason;
- `manifest.json`: model, corpus, split, label set, thresholds, versions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

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
            ("outside_words", pa.float64()),
        ]
    ),
    "scores": pa.schema(
        [
            ("hadm_id", pa.string()),
            ("code", pa.string()),
            ("method", pa.string()),
            ("target", pa.string()),
            ("word", pa.int32()),
            ("start", pa.int32()),
            ("end", pa.int32()),
            ("score", pa.float64()),
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


@dataclass(frozen=True, slots=True)
class Explained:
    """One admission as explained: what the page and the metrics need, without the note's text.

    logits, probabilities, thresholds (K,); gold (K,) bool or None; chunk_attention (K, C); outside (K,).
    word_scores: code -> (W,) attention, for the codes that were asked for. word_spans (W, 2), word_chunk and
    word_tokens (W,) in model order; removed (R, 2) with reasons.
    """

    hadm_id: str
    codes: tuple[str, ...]
    logits: NDArray[np.float64]
    probabilities: NDArray[np.float64]
    thresholds: NDArray[np.float64]
    gold: NDArray[np.bool_] | None
    chunk_attention: NDArray[np.float64]
    outside: NDArray[np.float64]
    word_scores: Mapping[str, NDArray[np.float64]]
    word_spans: NDArray[np.int64]
    word_chunk: NDArray[np.int64]
    word_tokens: NDArray[np.int64]
    removed: NDArray[np.int64]
    removed_reasons: tuple[str, ...]


def write_explanations(
    folder: Path, explained: Iterator[Explained], manifest: Mapping[str, Any], *, overwrite: bool = False
) -> int:
    """Stream explanations to a folder, and return how many admissions it holds. Nothing is left of a broken run."""
    count = 0
    tally = _Tally([], [])
    with new_folder(Path(folder), overwrite=overwrite, what="explanation folder") as beside:
        with ExitStack() as stack:
            writers = {
                name: stack.enter_context(pq.ParquetWriter(beside / f"{name}.parquet", schema, compression="zstd"))
                for name, schema in SCHEMAS.items()
            }
            for one in explained:
                for name, columns in _rows(one).items():
                    if len(columns["hadm_id"]):
                        writers[name].write_table(pa.table(columns, schema=SCHEMAS[name]))
                tally.add(one)
                count += 1
        scores = tally.scores(str(manifest.get("threshold_source", "")))
        write_json(beside / "manifest.json", {**manifest, "format": 1, "admissions": count, "metrics": scores})
    return count


@dataclass(frozen=True, slots=True)
class _Tally:
    """Probabilities and coders' codes of the admissions that went by, to score them at the end."""

    probabilities: list[NDArray[np.float64]]
    gold: list[NDArray[np.bool_]]

    def add(self, one: Explained) -> None:
        if one.gold is not None:
            self.probabilities.append(np.stack([one.probabilities, one.thresholds]))
            self.gold.append(one.gold)

    def scores(self, source: str) -> dict[str, float] | None:
        if not self.gold:
            return None
        both = np.stack(self.probabilities)  # (N, 2, K)
        metrics = evaluate_codes(both[:, 0], np.stack(self.gold), both[0, 1], threshold_source=source)
        return {
            "micro_f1": metrics.micro_f1,
            "macro_f1_mean_of_codes": metrics.macro_f1_mean_of_codes,
            "macro_f1_of_macro_p_r": metrics.macro_f1_of_macro_p_r,
            "micro_auc": metrics.micro_auc,
        }


def _rows(one: Explained) -> dict[str, dict[str, Any]]:
    n_codes, n_words = len(one.codes), len(one.word_spans)
    spans = one.word_spans.astype(np.int32)
    scored = list(one.word_scores)
    return {
        "pairs": {
            "hadm_id": [one.hadm_id] * n_codes,
            "code": list(one.codes),
            "logit": one.logits,
            "probability": one.probabilities,
            "threshold": one.thresholds,
            "predicted": one.probabilities >= one.thresholds,
            "gold": [None] * n_codes if one.gold is None else one.gold,
            "chunk_attention": [row.astype(np.float32) for row in one.chunk_attention],
            "outside_words": one.outside,
        },
        "scores": {
            "hadm_id": [one.hadm_id] * (n_words * len(scored)),
            "code": [code for code in scored for _ in range(n_words)],
            "method": ["attention"] * (n_words * len(scored)),
            "target": ["attention"] * (n_words * len(scored)),
            "word": np.tile(np.arange(n_words, dtype=np.int32), len(scored)),
            "start": np.tile(spans[:, 0], len(scored)),
            "end": np.tile(spans[:, 1], len(scored)),
            "score": np.concatenate([one.word_scores[code] for code in scored]) if scored else np.zeros(0),
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
    if not isinstance(manifest, dict) or "format" not in manifest:
        raise HilatError(f"{folder} is not an explanation folder; give the folder that `hilat explain` wrote")
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
    pairs, words, scores, unseen = (tables[name] for name in ("pairs", "words", "scores", "unseen"))
    n_words = words.num_rows
    codes = scores["code"].to_numpy(zero_copy_only=False)[:: max(1, n_words)] if scores.num_rows else np.zeros(0, str)
    values = scores["score"].to_numpy().reshape(len(codes), n_words) if len(codes) else np.zeros((0, n_words))
    gold = pairs["gold"].to_pylist()
    return Explained(
        hadm_id=hadm_id,
        codes=tuple(pairs["code"].to_pylist()),
        logits=pairs["logit"].to_numpy(),
        probabilities=pairs["probability"].to_numpy(),
        thresholds=pairs["threshold"].to_numpy(),
        gold=None if None in gold else np.array(gold, dtype=bool),
        chunk_attention=np.array(pairs["chunk_attention"].to_pylist(), dtype=np.float64),  # (K, C)
        outside=pairs["outside_words"].to_numpy(),
        word_scores={str(code): values[k] for k, code in enumerate(codes)},
        word_spans=np.stack([words["start"].to_numpy(), words["end"].to_numpy()], axis=1).astype(np.int64),
        word_chunk=words["chunk"].to_numpy().astype(np.int64),
        word_tokens=words["tokens"].to_numpy().astype(np.int64),
        removed=np.stack([unseen["start"].to_numpy(), unseen["end"].to_numpy()], axis=1).astype(np.int64),
        removed_reasons=tuple(unseen["reason"].to_pylist()),
    )

"""Explanations on disk: Parquet tables that pandas, R and the report read (`explain.writing` writes them). No note text in them.

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

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from explain.subject import WordScores
from hilat.admissions import HilatError
from hilat.files import read_json

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
FORMAT = 2


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
    for name in SCHEMAS:
        try:
            files[name] = pq.ParquetFile(folder / f"{name}.parquet")
        except (OSError, pa.ArrowInvalid):
            raise HilatError(f"{folder}/{name}.parquet is missing or damaged; run `hilat explain` again") from None
    wanted = None if hadm_ids is None else set(hadm_ids)
    streams = {name: _by_admission(file, wanted) for name, file in files.items()}
    waiting = {name: next(stream, None) for name, stream in streams.items()}
    while (pairs := waiting["pairs"]) is not None:
        hadm_id = pairs[0]
        tables = {name: SCHEMAS[name].empty_table() for name in SCHEMAS}
        for name in SCHEMAS:
            head = waiting[name]
            if head is not None and head[0] == hadm_id:
                tables[name] = head[1]
                waiting[name] = next(streams[name], None)
        yield _explained(hadm_id, tables)


def _by_admission(file: pq.ParquetFile, wanted: set[str] | None) -> Iterator[tuple[str, pa.Table]]:
    """The rows of each admission, or of each wanted one; they stand together, mostly in one row group."""
    last: tuple[str, pa.Table] | None = None
    for name, rows in _runs(file, wanted):
        if last is not None and last[0] == name:
            last = name, pa.concat_tables([last[1], rows])
            continue
        if last is not None:
            yield last
        last = name, rows
    if last is not None:
        yield last


def _runs(file: pq.ParquetFile, wanted: set[str] | None) -> Iterator[tuple[str, pa.Table]]:
    """Rows of one admission that stand together in a row group."""
    for group in range(file.num_row_groups):
        ids = file.read_row_group(group, columns=["hadm_id"])["hadm_id"].combine_chunks().dictionary_encode()
        names = ids.dictionary.to_pylist()
        if wanted is not None and wanted.isdisjoint(names):
            continue
        table = file.read_row_group(group)
        starts = np.flatnonzero(np.diff(ids.indices.to_numpy(), prepend=-1))  # (A,)
        for name, start, end in zip(names, starts, [*starts[1:], len(ids)], strict=True):
            if wanted is None or name in wanted:
                yield name, table.slice(start, end - start)


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

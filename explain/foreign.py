"""Another system's attributions, or annotated spans, as one more method beside those of an explanation folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from explain.subject import WordScores
from explain.table import Explained
from hilat.admissions import HilatError
from hilat.corpora.mdace import MdaceNote

COLUMNS = ("hadm_id", "code", "start", "end", "score")


@dataclass(frozen=True, slots=True, eq=False)
class ForeignScores:
    """Scored character ranges of one (note, code) pair: spans (n, 2) in the raw text, scores (n,)."""

    spans: NDArray[np.int64]
    scores: NDArray[np.float64]


Foreign = Mapping[tuple[str, str], ForeignScores]


def read_score_table(path: Path) -> Foreign:
    """(hadm_id, code) -> scored ranges, from a CSV or Parquet table with the columns of COLUMNS.

    Raises:
        HilatError: a missing column or file, numbers that are none, ranges that do not begin before they end.
    """
    path = Path(path)
    text = {"hadm_id": pa.string(), "code": pa.string(), "start": pa.int64(), "end": pa.int64(), "score": pa.float64()}
    try:
        if path.suffix == ".parquet":
            table = pq.read_table(path)
        else:
            table = pa_csv.read_csv(path, convert_options=pa_csv.ConvertOptions(column_types=text))
    except (OSError, pa.ArrowInvalid) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else "it is not such a table"
        raise HilatError(
            f"cannot read {path} ({why}); expected CSV or Parquet with the columns {', '.join(COLUMNS)}. Check the file"
        ) from None
    lacking = [name for name in COLUMNS if name not in table.column_names]
    if lacking:
        raise HilatError(
            f"{path} has no column {lacking[0]!r}; found: {', '.join(table.column_names)}. Expected {', '.join(COLUMNS)}"
        )
    try:
        start, end = (table[name].cast(pa.int64()).to_numpy() for name in ("start", "end"))
        score = table["score"].cast(pa.float64()).to_numpy()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise HilatError(
            f"{path} has start, end or score that are no numbers; expected characters and a score"
        ) from None
    bad = np.flatnonzero(~((start >= 0) & (start < end) & np.isfinite(score)))
    if len(bad):
        raise HilatError(
            f"{path}, row {int(bad[0]) + 1} has a range that does not begin before it ends, or no finite score; expected "
            "0 <= start < end. Repair it"
        )
    names = zip(
        table["hadm_id"].cast(pa.string()).to_pylist(), table["code"].cast(pa.string()).to_pylist(), strict=True
    )
    rows: dict[tuple[str, str], list[int]] = {}
    for n, pair in enumerate(names):
        rows.setdefault(pair, []).append(n)
    spans = np.stack([start, end], axis=1)
    return {pair: ForeignScores(spans[at], score[at]) for pair, at in rows.items()}


def scores_of_mdace(notes: Sequence[MdaceNote]) -> Foreign:
    """(hadm_id, code) -> its annotated spans, each with score 1."""
    spans: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for note in notes:
        for span in note.spans:
            spans.setdefault((note.hadm_id, span.code), []).append((span.begin, span.end))
    return {pair: ForeignScores(np.array(found, dtype=np.int64), np.ones(len(found))) for pair, found in spans.items()}


def on_words(foreign: ForeignScores, word_spans: NDArray[np.int64], join: str = "sum") -> NDArray[np.float64]:
    """Scores (W,) of words from scored ranges: each range is shared among the words it touches by overlapping characters
    (join "sum", for sub-word tokens), or counts whole for each of them, the highest winning ("max", for spans)."""
    scores = np.zeros(len(word_spans))
    for (start, end), score in zip(foreign.spans, foreign.scores, strict=True):
        overlap = np.minimum(word_spans[:, 1], end) - np.maximum(word_spans[:, 0], start)
        touched = overlap > 0
        if not touched.any():
            continue
        if join == "sum":
            scores[touched] += score * overlap[touched] / overlap[touched].sum()
        else:
            scores[touched] = np.where(scores[touched] == 0, score, np.maximum(scores[touched], score))
    return scores


def with_foreign(explained: Iterator[Explained], foreign: Foreign, name: str, join: str) -> Iterator[Explained]:
    """The explanations with one more method, on the pairs that it scores; the other pairs are left out for all methods,
    so that all are compared on the same ones.

    Raises:
        HilatError: a name that the explanations have already.
    """
    for one in explained:
        if name in one.methods:
            raise HilatError(f"there is a method {name!r} already; expected a new name. Choose another --name")
        kept = [i for i, code in enumerate(one.scored) if (one.hadm_id, code) in foreign]
        methods = {
            m: WordScores(
                w.scores[kept], w.signed, w.target, w.outside[kept],
                None if w.completeness_gap is None else w.completeness_gap[kept], w.passes,
            )
            for m, w in one.methods.items()
        }  # fmt: skip
        codes = tuple(one.scored[i] for i in kept)
        rows = [on_words(foreign[one.hadm_id, code], one.word_spans, join) for code in codes]
        scores = np.array(rows).reshape(len(codes), len(one.word_spans))
        added = WordScores(scores, True, "foreign", np.zeros(len(codes)))
        yield replace(one, scored=codes, methods={**methods, name: added} if codes else {})

"""Rows of a long measurement, kept admission by admission beside the folder to be written, so that a stopped run goes on."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from explain.result import defined, undefined
from explain.rows import Curve, MeasuredNote, Row
from hilat.admissions import HilatError
from hilat.files import read_json, write_json
from hilat.processes import ALONE, Processes


def begin(
    folder: Path | None, key: Mapping[str, Any], *, overwrite: bool = False, processes: Processes = ALONE
) -> Path | None:
    """NAME.partial beside the folder: new, or that of a stopped run with the same key (what makes two runs the same).

    None for no folder: then nothing is kept. Of several processes the first makes it, and all of them find it.

    Raises:
        HilatError: a stopped run with another key, when `overwrite` is off; a folder that cannot be made; several
            processes and no folder.
    """
    if folder is None:
        if processes.count > 1:
            raise HilatError(
                f"{processes.count} processes share this measurement and no --out is given; expected a folder beside which "
                "they put their shares. Pass --out"
            )
        return None
    partial = Path(folder).with_name(f"{Path(folder).name}.partial")
    if processes.first:
        _make(partial, key, overwrite)
    processes.wait()
    return partial


def _make(partial: Path, key: Mapping[str, Any], overwrite: bool) -> None:
    wanted = json.loads(json.dumps(key, default=str))
    if partial.exists():
        record = partial / "key.json"
        if record.exists() and read_json(record, what="the settings of a stopped run") == wanted:
            return
        if not overwrite:
            raise HilatError(
                f"{partial} holds a stopped run with other settings; expected the same ones to go on with it. Delete that "
                "folder, or pass --overwrite"
            )
        shutil.rmtree(partial)
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise HilatError(f"cannot write {partial}: {error.strerror}; choose a folder that you may write to") from None
    write_json(partial / "key.json", wanted)


def kept(partial: Path | None, hadm_id: str, measure: Callable[[], MeasuredNote]) -> MeasuredNote:
    """What `measure` gives for an admission, read back where a stopped run has measured it; nothing is kept for None."""
    if partial is None:
        return measure()
    file = partial / f"{hashlib.sha256(hadm_id.encode()).hexdigest()[:32]}.json"
    if file.exists():
        record = read_json(file, what="the rows of a stopped run")
        curves = tuple(Curve(*names, *map(tuple, numbers)) for names, numbers in record["curves"])
        return MeasuredNote(tuple(_row(values) for values in record["rows"]), int(record["passes"]), curves)
    found = measure()
    curve_values = [[[c.hadm_id, c.code, c.method], [c.fractions, c.deletion, c.insertion]] for c in found.curves]
    write_json(file, {"rows": [_values(row) for row in found.rows], "passes": found.passes, "curves": curve_values})
    return found


def finish(partial: Path | None) -> None:
    """Remove what was kept, after the folder itself is written."""
    if partial is not None:
        shutil.rmtree(partial, ignore_errors=True)


def _values(row: Row) -> list[Any]:
    value = None if row.value.reason is not None else row.value.value
    return [row.hadm_id, row.code, row.outcome, row.method, row.metric, value, row.value.reason]


def _row(values: Sequence[Any]) -> Row:
    hadm_id, code, outcome, method, metric, value, reason = values
    return Row(hadm_id, code, outcome, method, metric, undefined(reason) if reason is not None else defined(value))

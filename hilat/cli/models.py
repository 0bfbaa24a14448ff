"""`hilat compare` and `hilat over-seeds`: two models on the same admissions, and several seeds of one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hilat.admissions import HilatError
from hilat.cli.console import emit_json, number, out, table
from hilat.cli.options import Json, Seed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def compare(
    first: Annotated[Path, typer.Argument(help="An explanation folder of the first model.")],
    second: Annotated[Path, typer.Argument(help="One of the second model, on the same admissions and codes.")],
    resamples: Annotated[int, typer.Option(min=100, help="Random exchanges.")] = 10_000,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Test whether two models predict differently: paired approximate randomisation over admissions.

    On the predictions that `hilat explain` stored, each model at its own thresholds; the test of the HiLAT paper.
    macro_f1 is the mean of the codes' F1 over all codes, 0 for a code with none right.

    Example: [bold]hilat compare runs/xlnet/explain runs/bert/explain[/]
    """
    from hilat.significance import holm, interval, macro_f1_of, micro_f1_of, randomisation

    ids, codes, mine = _confusions(first)
    other_ids, other_codes, theirs = _confusions(second)
    if (ids, codes) != (other_ids, other_codes):
        raise HilatError(
            f"{first} and {second} hold {len(ids)} and {len(other_ids)} admissions, {len(codes)} and {len(other_codes)} codes "
            "that are not the same; expected the same split and label set. Explain the same admissions with both models"
        )
    k = len(codes)

    def totals(x: NDArray[np.float64]) -> NDArray[np.float64]:
        import numpy

        return numpy.stack([part.sum(axis=1) for part in numpy.split(x, 3, axis=1)], axis=1)

    measures = {"micro_f1": (micro_f1_of, totals(mine), totals(theirs)), "macro_f1": (macro_f1_of, mine, theirs)}
    found = []
    for name, (measure, a, b) in measures.items():
        test = randomisation(a, b, measure, resamples=resamples, seed=seed)
        found.append((name, interval(a, measure, seed=seed), interval(b, measure, seed=seed), test))
    corrected = holm([test.p for *_, test in found])
    if json:
        emit_json(
            {"admissions": len(ids), "codes": k, "measures": {n: {"first": asdict(a), "second": asdict(b), "comparison": asdict(t), "p_holm": p} for (n, a, b, t), p in zip(found, corrected, strict=True)}}
        )  # fmt: skip
        return
    table(
        f"{len(ids)} admissions, {k} codes · 95 % intervals over admissions · paired randomisation, Holm over the two rows",
        ("measure", "first", "second", "difference", "p", "p (Holm)", "superiority"),
        [
            (n, _span(a), _span(b), f"{t.difference:+.4f}", f"{t.p:.4f}", f"{p:.4f}", number(t.superiority))
            for (n, a, b, t), p in zip(found, corrected, strict=True)
        ],
    )
    out.print("superiority: share of admissions in which the first is better, ties half", style="dim")


def over_seeds(
    folders: Annotated[list[Path], typer.Argument(help="Folders that the judging commands wrote, one per model.")],
    pairs: Annotated[str, typer.Option(help="Pairs: all, gold, predicted, TP, FP or FN.")] = "predicted",
    show: Annotated[str, typer.Option(help="Measures, comma between, or all.")] = "all",
    json: Json = False,
) -> None:
    """Mean and standard deviation over several models (seeds) of what the judging commands measured.

    Example: [bold]hilat over-seeds seed0/faithfulness seed1/faithfulness seed2/faithfulness[/]
    """
    from hilat.files import read_json
    from hilat.significance import over_seeds as mean_and_deviation

    if len(folders) < 2:
        raise HilatError(f"{len(folders)} folder was given; expected two or more, one per model")
    values: dict[tuple[str, str], list[float]] = {}
    for folder in folders:
        summary = read_json(folder / "summary.json", what="the summary of a judging command (give it --out)")
        if pairs not in summary:
            raise HilatError(
                f"{folder} has no pairs {pairs!r}; it has {', '.join(summary)}. Choose one of them with --pairs"
            )
        for cell in summary[pairs]:
            estimate = cell["interval"]["estimate"]
            values.setdefault((cell["method"], cell["metric"]), []).append(math.nan if estimate is None else estimate)
    whole = {key: found for key, found in values.items() if len(found) == len(folders)}
    wanted = {name.strip() for name in show.split(",")}
    rows: list[dict[str, Any]] = []
    for (method, metric), found in whole.items():
        if show == "all" or metric in wanted:
            mean, deviation = mean_and_deviation(found)
            rows.append({"method": method, "metric": metric, "mean": mean, "sd": deviation, "values": found})
    if not rows:
        raise HilatError(f"no measure {show!r} is in all {len(folders)} folders; expected some of {_names(whole)}")
    if json:
        emit_json({"pairs": pairs, "models": len(folders), "over_seeds": rows})
        return
    table(
        f"{len(folders)} models · {pairs} · mean and standard deviation (n - 1) over models",
        ("method", "measure", "mean", "sd"),
        [(r["method"], r["metric"], number(r["mean"]), number(r["sd"])) for r in rows],
        left=2,
    )
    left = len(values) - len(whole)
    if left:
        out.print(f"{left} cells are not in every folder and were left out", style="dim")


def _names(cells: dict[tuple[str, str], list[float]]) -> str:
    return ", ".join(dict.fromkeys(metric for _, metric in cells)) or "none"


def _span(span: Any) -> str:
    return f"{number(span.estimate)} [{number(span.low)}, {number(span.high)}]"


def _confusions(folder: Path) -> tuple[list[str], list[str], NDArray[np.float64]]:
    """Ids, codes, and per admission the true positives, false positives and false negatives of each code, (N, 3 K)."""
    import numpy
    import pyarrow as pa
    import pyarrow.parquet as pq

    from explain.table import read_manifest

    read_manifest(folder)
    try:
        rows = pq.read_table(folder / "pairs.parquet", columns=["hadm_id", "code", "predicted", "gold"])
    except (OSError, pa.ArrowInvalid):
        raise HilatError(f"{folder}/pairs.parquet is missing or damaged; run `hilat explain` again") from None
    if not rows.num_rows or rows["gold"].null_count:
        raise HilatError(f"{folder} does not hold the coders' codes; expected a split with codes. Explain such a split")
    names: Sequence[str] = rows["hadm_id"].to_pylist()
    ids = list(dict.fromkeys(names))
    k = len(names) // len(ids)
    order = numpy.argsort(numpy.array(ids, dtype=object))
    given, gold = (rows[name].to_numpy().reshape(-1, k)[order] for name in ("predicted", "gold"))
    parts = [given & gold, given & ~gold, ~given & gold]
    return sorted(ids), rows["code"].to_pylist()[:k], numpy.concatenate(parts, axis=1).astype(numpy.float64)

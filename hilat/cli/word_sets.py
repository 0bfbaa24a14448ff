"""The part of `hilat plausibility` that judges sets of words, by a threshold tuned on another split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hilat.admissions import HilatError
from hilat.cli.console import emit_json, number, out, table
from hilat.cli.measured import View, admissions_of, each_explained, known_admission, print_by_code, print_table, summed

if TYPE_CHECKING:
    from explain.rows import Row
    from explain.word_sets import PairWords, SetScore


def tuned(folder: Path, corpus: Path, judged: Mapping[str, Any]) -> dict[str, float]:
    """Method -> the threshold that gives the highest word F1 on the gold pairs of the tuning explanations.

    Raises:
        HilatError: the tuning split is the one that is judged, or lacks a method.
    """
    from explain.judging import GROUPS
    from explain.word_sets import pair_words, tuned_threshold

    known, manifest = admissions_of(folder, corpus)
    if manifest["split"] == judged["split"]:
        raise HilatError(
            f"{folder} explains split {manifest['split']}, which is judged; expected another one, such as val. Tuning on "
            "what is judged flatters: explain another split"
        )
    lacking = [method for method in judged["methods"] if method not in manifest["methods"]]
    if lacking:
        raise HilatError(
            f"{folder} has no method {lacking[0]!r}; it has {', '.join(manifest['methods'])}. Explain that split by the "
            "same methods"
        )
    gold = GROUPS["gold"] or ()
    pairs: dict[str, list[PairWords]] = {method: [] for method in judged["methods"]}
    for one in each_explained(folder, manifest, "tuning"):
        for method in one.methods:
            if method in pairs:
                found = pair_words(one, known_admission(known, one.hadm_id), method)
                pairs[method] += [p for p in found if p.outcome in gold]
    return {method: tuned_threshold(part) for method, part in pairs.items()}


def tell_sets(
    title: str,
    rows: Sequence[Row],
    directions: Mapping[str, bool],
    view: View,
    manifest: Mapping[str, Any],
    sets: tuple[Mapping[str, float], Mapping[str, Sequence[PairWords]]],
) -> None:
    """The plausibility table, and below it the scores of sets of words; sets: thresholds, and pairs by method."""
    from explain.judging import groups_of
    from explain.word_sets import match_shares, set_scores
    from hilat.files import write_json

    thresholds, pairs = sets
    found = set_scores(pairs, thresholds, seed=view.seed)
    classes = {method: match_shares(part, thresholds[method]) for method, part in pairs.items()}
    record = {"pairs": view.pairs, "scores": [asdict(one) for one in found], "match_classes": classes}
    extra = {"word_sets.json": lambda path: write_json(path, record)}
    summaries = summed("plausibility", rows, directions, view, manifest, extra)
    if view.json:
        cells = {name: [asdict(cell) for cell in part] for name, part in summaries.items()}
        emit_json({"plausibility": cells, "word_sets": record})
        return
    print_table(title, view.pairs, groups_of(rows)[view.pairs], summaries[view.pairs], view.measures)
    if view.by_code:
        print_by_code([row for row in groups_of(rows)[view.pairs] if row.metric == view.by_code], directions, view)
    _print(found, classes, thresholds, len(next(iter(pairs.values()), [])))


def _print(
    found: Sequence[SetScore],
    classes: Mapping[str, Mapping[str, float]],
    thresholds: Mapping[str, float],
    n: int,
) -> None:
    from explain.word_sets import KINDS

    by = {(one.method, one.kind): one for one in found}
    table(
        f"Sets of words, threshold tuned on another split · {n} pairs with evidence · micro F1, word precision and recall",
        ("method", "share from", "precision", "recall", *(kind.replace("_", " ") for kind in KINDS)),
        [
            (
                method,
                f"{cut:.4f}",
                number(by[method, "word"].precision),
                number(by[method, "word"].recall),
                *(number(by[method, kind].f1.estimate) for kind in KINDS),
            )
            for method, cut in thresholds.items()
        ],
    )
    names = list(next(iter(classes.values()), {}))
    table(
        "How the chosen words meet the evidence, share of pairs (window of 10 words)",
        ("method", *names),
        [(method, *(number(shares[name]) for name in names)) for method, shares in classes.items()],
    )
    for kind, says in KINDS.items():
        out.print(f"{kind.replace('_', ' ')}: {says}", style="dim", soft_wrap=True)

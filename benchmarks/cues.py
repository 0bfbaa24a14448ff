"""Cues: how well each finds its cause, on notes where the cause is known.

    python -m benchmarks.cues --out out/cues

1. Without a model: a passage on each planted mark of unseen notes. Does the context cue fire with the right kind on decoys
   (negated, uncertain, family, history), and is it silent on evidence?
2. With a model: the demo's (trained now unless --model is given), attention on --notes unseen notes. Of false positives
   whose strongest passage points at a decoy, a mention that a coding rule excludes, or the other duration of ventilation:
   how often does the cue name it, and how often is the same cue seen with true positives that point at evidence?
3. With --shortcut FOLDER, where `benchmarks.planted --shortcut --out FOLDER` has been run: a harmless word was planted to
   go with a code; the false positives that point at it.
Intervals: 95 %, percentile bootstrap over admissions. Takes about ten minutes on two CPU cores.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.cue_cases import CUES_OF, NAMES, NOTHING, Marked, caused, marked_passages
from benchmarks.planted import SHORTCUT, coder_of, corpus_of
from explain.cases import find_cases
from explain.cues import CONTEXTS, CaseOptions
from explain.keywords import KeywordSet, keyword_sets
from explain.subject import MethodOptions
from explain.table import read_explanations
from hilat.admissions import Admission, CodeBook
from hilat.cli import explain as explain_command
from hilat.cli.console import progress, quiet_libraries, say, table
from hilat.cli.keywords import sources_of
from hilat.coder import load_coder
from hilat.corpora.planted import PlantedSettings, make_planted
from hilat.files import write_json
from hilat.significance import Interval, interval_of_mean

CONTEXT_KINDS = ("negated", "uncertain", "family", "history")
SHOWN = (*CONTEXTS, "section", "symptom_only", "duration", "rule_pair", "sibling")
Keep = Callable[[Marked], bool]


def share(marks: Sequence[Marked], hit: Keep, *, seed: int = 0) -> Interval:
    """Share of the marks for which `hit` holds, interval over admissions; NaN where there is none."""
    return interval_of_mean(np.array([float(hit(m)) for m in marks]), [m.hadm_id for m in marks], seed=seed)


def any_of(cues: Sequence[str]) -> Keep:
    """Whether one of these cues is there."""
    return lambda m: bool(m.cues & set(cues))


def shown(value: Interval) -> str:
    """An interval as a cell."""
    if value.n == 0:
        return "–"
    rest = "" if np.isnan(value.low) else f" [{value.low:.2f}, {value.high:.2f}]"
    return f"{value.estimate:.2f}{rest}"


def confusion(marks: Sequence[Marked]) -> list[tuple[str, ...]]:
    """Per kind of mark: how many, and the share of them with each cue."""
    rows = []
    for kind in ("evidence", *CONTEXT_KINDS, "rule"):
        of = [m for m in marks if m.kind == kind]
        seen = Counter(cue for m in of for cue in m.cues)
        silent = sum(not m.cues & set(CONTEXTS) for m in of)
        cells = [f"{seen[cue] / len(of):.2f}" if of else "–" for cue in SHOWN]
        rows.append((kind, str(len(of)), *cells, f"{silent / len(of):.2f}" if of else "–"))
    return rows


def recall_and_precision(marks: Sequence[Marked]) -> dict[str, tuple[Interval, Interval, Interval]]:
    """Kind -> recall (its cue fires), precision (a fired cue is of that kind), and how often it fires on evidence."""
    found = {}
    for kind in CONTEXT_KINDS:
        right = any_of(NAMES[kind])
        recall = share([m for m in marks if m.kind == kind], right)
        precision = share([m for m in marks if right(m)], lambda m, kind=kind: m.kind == kind)  # type: ignore[misc]
        found[kind] = (recall, precision, share([m for m in marks if m.kind == "evidence"], right))
    return found


def tell_model_free(marks: Sequence[Marked]) -> None:
    """Print part 1."""
    table(
        f"1. A passage on each of {len(marks)} marks: which cues fire (share of the marks)",
        ("mark", "n", *(cue.replace("_", " ") for cue in SHOWN), "no context cue"),
        confusion(marks),
    )
    table(
        "Context cues",
        ("kind", "recall", "precision", "fires on evidence"),
        [(kind, *map(shown, cells)) for kind, cells in recall_and_precision(marks).items()],
    )
    silent = share([m for m in marks if m.kind == "evidence"], lambda m: not m.cues & set(CONTEXTS))
    say(f"evidence without any context cue: {shown(silent)}")


def by_cause(marks: Sequence[Marked]) -> list[tuple[str, ...]]:
    """Per cause of false positives: how many, how often its cue names it, and how often that cue is seen otherwise."""
    false = [m for m in marks if m.outcome == "FP"]
    true = [m for m in marks if m.outcome == "TP" and m.kind == "evidence"]
    rows = []
    for kind, cues in CUES_OF.items():
        of = [m for m in false if m.kind == kind]
        if not of:
            continue
        named = any_of(cues)
        fired = [m for m in false if named(m)]
        cells = (share(of, named), share(true, named), share(fired, lambda m, kind=kind: m.kind == kind))  # type: ignore[misc]
        rows.append((kind, " or ".join(cues).replace("_", " "), str(len(of)), *map(shown, cells)))
    return rows


def tell_model(title: str, marks: Sequence[Marked]) -> None:
    """Print part 2 or 3."""
    false = [m for m in marks if m.outcome == "FP"]
    nothing = [m for m in false if m.kind == NOTHING]
    table(
        f"{title}: {len(false)} false positives in {len({m.hadm_id for m in marks})} notes",
        ("what they point at", "its cue", "FP", "named", "same cue, TP on evidence", "FP with it: its cause"),
        by_cause(marks),
        left=2,
    )
    rest = Counter(cue for m in nothing for cue in m.cues)
    say(f"{len(nothing)} false positives point at {NOTHING}; their cues: {', '.join(f'{c} {n}' for c, n in rest.most_common())}")  # fmt: skip
    true = [m for m in marks if m.outcome == "TP" and m.kind in CONTEXT_KINDS]
    named = share(true, lambda m: any_of(NAMES[m.kind])(m))
    say(f"true positives that point at a decoy all the same: {len(true)}; named {shown(named)}")


def explained_marks(
    coder_folder: Path, notes: Sequence[Admission], folder: Path, words: Mapping[str, KeywordSet]
) -> list[Marked]:
    """What the cases of a model's predictions on these notes point at; explains them where the folder is not there yet."""
    if not folder.exists():
        plan = explain_command.Plan("test", "planted", ("predicted",), ("attention",), MethodOptions())
        explain_command.write(load_coder(coder_folder), coder_folder, notes, folder, plan, overwrite=False)
    known = {note.hadm_id: note for note in notes}
    found = []
    for one in progress(read_explanations(folder, list(known)), len(known), "finding cases"):
        note = known[one.hadm_id]
        book = _book(words)
        found += [caused(case, note) for case in find_cases(one, note, words, book) if case.outcome in ("FP", "TP")]
    return found


def _book(words: Mapping[str, KeywordSet]) -> CodeBook:
    from hilat.corpora.planted import planted_code_book

    return planted_code_book().restricted_to(list(words))


def main() -> None:
    """Run the parts that were asked for, print the tables, and keep the marks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/cues"))
    parser.add_argument("--notes", type=int, default=1000, help="unseen notes")
    parser.add_argument("--seed", type=int, default=0, help="of the corpus that the model was trained on")
    parser.add_argument("--model", type=Path, help="a model of the built-in corpus (RUN/model)")
    parser.add_argument("--shortcut", type=Path, help="a folder of `benchmarks.planted --shortcut --out`")
    parser.add_argument("--without-model", action="store_true", help="part 1 only")
    given = parser.parse_args()
    quiet_libraries()
    given.out.mkdir(parents=True, exist_ok=True)
    settings = PlantedSettings(seed=given.seed, test=given.notes)
    made = make_planted(settings)
    notes = made.split("test")
    words = keyword_sets(made.code_book, sources_of(made.code_book, None, {}, True, "en"))
    marks = [
        mark
        for note in progress(notes, len(notes), "passages on marks")
        for mark in marked_passages(note, made.code_book, words, CaseOptions())
    ]
    tell_model_free(marks)
    kept = {"marks": _plain(marks)}
    if not given.without_model:
        model = given.model
        if model is None:
            coder_of(given.out, corpus_of(given.out, shortcut=False), None)
            model = given.out / "run" / "model"
        found = explained_marks(model, notes, given.out / "explain", words)
        tell_model("2. Where the attention of false positives points", found)
        kept["cases"] = _plain(found)
    if given.shortcut is not None:
        # The same notes, with the word in half of those without the code: it misleads more often than in training.
        often = replace(SHORTCUT, rate_without=0.5)
        misled = make_planted(replace(settings, shortcut=often)).split("test")
        found = explained_marks(given.shortcut / "run" / "model", misled, given.out / "explain-shortcut", words)
        tell_model(f"3. The shortcut, code {SHORTCUT.code}", [m for m in found if m.code == SHORTCUT.code])
        kept["shortcut"] = _plain(found)
    write_json(given.out / "marks.json", kept)


def _plain(marks: Sequence[Marked]) -> list[tuple[str, str, str, str, list[str]]]:
    return [(m.hadm_id, m.code, m.outcome, m.kind, sorted(m.cues)) for m in marks]


if __name__ == "__main__":
    main()

"""Known answers: every explanation method, judged on notes whose evidence is known by construction.

    python -m benchmarks.planted --out out/planted

Trains the demo's model (or takes --model), explains the true positives of the built-in test split by every method, and prints
- plausibility against the planted evidence, the share of the positive scores on decoys (negated, uncertain, family, history),
- faithfulness by removal,
and checks that the measures are sane: random scores and another code's attention at chance, the planted evidence itself on top.
With --shortcut a harmless word goes with one code at a given rate, and the table says which methods point at it. A run that
was stopped goes on where it stopped.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from explain import faithfulness, plausibility
from explain.judging import faithfulness_of, plausibility_rows
from explain.methods import METHODS
from explain.rows import Row, Summary, outcome_of, summarise, write_rows
from explain.subject import MethodOptions, WordScores
from explain.table import Explained, read_explanations
from hilat.admissions import Admission
from hilat.cli import explain as explain_command
from hilat.cli.console import counting, quiet_libraries, say, table, training_progress
from hilat.cli.demo import QUICK
from hilat.coder import Coder, load_coder
from hilat.corpora import Corpus, read_corpus, write_corpus
from hilat.corpora.planted import PlantedSettings, Shortcut, make_planted
from hilat.provenance import run_record
from hilat.settings import settings_from
from hilat.training import train

EVIDENCE = "(the evidence itself)"
SHOWN = ("average_precision", "pointing_game", "hit_at_3", "evidence_mass")
FAITHFUL = ("comprehensiveness", "sufficiency", "normalised_aopc", "racu", "decision_flip")
SHORTCUT = Shortcut(code="530.81", word="lavender", rate_with_code=0.9, rate_without=0.02)


def corpus_of(out: Path, shortcut: bool) -> Corpus:
    """The demo's corpus, with the shortcut where asked for."""
    folder = out / "corpus"
    if not folder.exists():
        made = make_planted(PlantedSettings(shortcut=SHORTCUT if shortcut else None))
        write_corpus(folder, made.admissions, made.code_book, source=made.source, notes=made.notes)
    return read_corpus(folder)


def coder_of(out: Path, corpus: Corpus, model: Path | None) -> Coder:
    """The model to explain: a given one, that of an earlier run, or the demo's, trained now."""
    own = out / "run" / "model"
    if model is None and not own.exists():
        with training_progress() as tell:
            train(corpus, settings_from(QUICK), out / "run", device="cpu", resume=(out / "run").exists(), tell=tell)
    return load_coder(model or own)


def true_positives(one: Explained) -> Explained:
    """The explanations of the pairs that the model gives rightly."""
    kept = []
    for i, code in enumerate(one.scored):
        k = one.codes.index(code)
        gold = None if one.gold is None else bool(one.gold[k])
        if outcome_of(bool(one.probabilities[k] >= one.thresholds[k]), gold) == "TP":
            kept.append(i)
    methods = {
        name: WordScores(w.scores[kept], w.signed, w.target, w.outside[kept], None, w.passes)
        for name, w in one.methods.items()
    }
    return replace(one, scored=tuple(one.scored[i] for i in kept), methods=methods)


def with_evidence(one: Explained, admission: Admission) -> Explained:
    """The same with one more "method": 1 on the words of the planted evidence, a little less on later ones."""
    rows = []
    for code in one.scored:
        inside = plausibility.evidence_words(admission.evidence, code, one.word_spans).any(axis=0)
        rows.append(inside * (1.0 - 1e-6 * np.arange(len(inside))))
    scores = np.array(rows).reshape(len(one.scored), len(one.word_spans))
    known = WordScores(scores, False, "nothing", np.zeros(len(scores)))
    return replace(one, methods={**one.methods, EVIDENCE: known})


def decoy_share(scores: NDArray[np.float64], admission: Admission, code: str, word_spans: NDArray[np.int64]) -> float:
    """Share of the positive scores on decoys of the code; NaN where there is none, or no positive score."""
    decoys = plausibility.evidence_words(admission.decoys, code, word_spans)
    positive = np.maximum(scores, 0.0)
    if not len(decoys) or positive.sum() <= 0:
        return float("nan")
    return float(positive[decoys.any(axis=0)].sum() / positive.sum())


def shortcut_hits(explained: Sequence[Explained], admissions: dict[str, Admission]) -> dict[str, tuple[float, int]]:
    """Per method, of the n notes with the shortcut word that are given its code: how often it is among the top three; n."""
    hits: dict[str, list[float]] = {}
    for one in explained:
        text = admissions[one.hadm_id].text.lower()
        words = [text[start:end] for start, end in one.word_spans]
        if SHORTCUT.code not in one.scored or SHORTCUT.word not in words:
            continue
        i = one.scored.index(SHORTCUT.code)
        for name, w in one.methods.items():
            top = np.argsort(-w.scores[i], kind="stable")[:3]
            hits.setdefault(name, []).append(float(any(words[t] == SHORTCUT.word for t in top)))
    return {name: (float(np.mean(values)), len(values)) for name, values in hits.items()}


def cell(cells: dict[tuple[str, str], Summary], method: str, metric: str) -> str:
    """Mean and half the 95 % interval."""
    span = cells[method, metric].interval
    return f"{span.estimate:.3f} ±{(span.high - span.low) / 2:.3f}"


def main() -> None:
    """Run what is not there yet, print the tables, and check the measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/planted"))
    parser.add_argument("--model", type=Path)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--admissions", type=int, default=100, help="test notes to explain")
    parser.add_argument("--faithfulness", type=int, default=40, help="test notes for faithfulness")
    parser.add_argument("--shortcut", action="store_true")
    given = parser.parse_args()
    quiet_libraries()
    given.out.mkdir(parents=True, exist_ok=True)
    corpus = corpus_of(given.out, given.shortcut)
    coder = coder_of(given.out, corpus, given.model)
    notes = corpus.split("test")[: given.admissions]
    known = {admission.hadm_id: admission for admission in notes}
    folder = given.out / "explain"
    if not folder.exists():
        methods = tuple(given.methods.split(","))
        plan = explain_command.Plan("test", corpus.source, ("predicted",), methods, MethodOptions(samples=500))
        explain_command.write(coder, given.model or given.out / "run/model", notes, folder, plan, overwrite=False)
    explained = [true_positives(one) for one in read_explanations(folder)]
    judged = [with_evidence(one, known[one.hadm_id]) for one in explained]
    plausible = [row for one in judged for row in plausibility_rows(one, known[one.hadm_id])]
    faithful: list[Row] = []
    passes = 0
    with counting(min(given.faithfulness, len(judged)), "removing words") as tick:
        for one in judged[: given.faithfulness]:
            found = faithfulness_of(coder, one, known[one.hadm_id], faithfulness.FaithfulnessOptions())
            faithful += found.rows
            passes += found.passes
            tick(1)
    tell(judged, known, plausible, faithful, given.out)
    say(f"{passes} chunks encoded for faithfulness")
    if given.shortcut:
        for name, (share, n) in shortcut_hits(explained, known).items():
            say(f"shortcut word among the top three: {name} {share:.2f} of {n} notes")


def tell(
    judged: Sequence[Explained],
    known: dict[str, Admission],
    plausible: Sequence[Row],
    faithful: Sequence[Row],
    out: Path,
) -> None:
    """Print both tables and the checks, and keep the rows."""
    up = {name: m.up for name, m in plausibility.METRICS.items()}
    up_faithful = {name: m.up for name, m in faithfulness.METRICS.items()}
    first, second = summarise(plausible, up), summarise(faithful, up_faithful)
    cells = {(s.method, s.metric): s for s in first}
    faith_cells = {(s.method, s.metric): s for s in second}
    methods = list(dict.fromkeys(row.method for row in plausible))
    decoys = {
        method: np.nanmean(
            [
                decoy_share(one.methods[method].scores[i], known[one.hadm_id], code, one.word_spans)
                for one in judged
                for i, code in enumerate(one.scored)
            ]
        )
        for method in methods
    }
    table(
        f"Plausibility on planted evidence, {len({(r.hadm_id, r.code) for r in plausible})} true positives",
        ("method", *SHOWN, "decoys' share"),
        [(m, *(cell(cells, m, name) for name in SHOWN), f"{decoys[m]:.3f}") for m in methods],
    )
    table(
        f"Faithfulness, {len({(r.hadm_id, r.code) for r in faithful})} true positives, removal by mask",
        ("method", *FAITHFUL),
        [(m, *(cell(faith_cells, m, name) for name in FAITHFUL)) for m in methods],
    )
    best = all(
        cells[EVIDENCE, name].interval.estimate >= max(cells[m, name].interval.estimate for m in methods) - 1e-9
        for name in SHOWN
    )
    share = float(np.mean([v.value.value for v in plausible if v.metric == "evidence_mass" and v.method == "random"]))
    words = float(np.mean([v.value.value for v in plausible if v.metric == "evidence_mass" and v.method == "uniform"]))
    say(f"the planted evidence is on top of every plausibility measure: {best}")
    say(f"evidence mass of random scores {share:.4f}, of even ones {words:.4f}")
    write_rows(
        out / "measures",
        [*plausible, *faithful],
        {"plausibility": first, "faithfulness": second},
        run_record("planted benchmark", {}, 0),
        overwrite=True,
    )


if __name__ == "__main__":
    main()

"""Which method points where the coders did? Every family on CodiEsp dev, beside a linear model's own weights.

    python -m benchmarks.codiesp_methods --data FOLDER_OF_CODIESP --out out/codiesp

Takes the first seed's model and cross-validated threshold from `python -m benchmarks.codiesp` in the same --out. Judged on
the pairs (case, code) that HiLAT gives rightly; the linear model's scores are its weight times the word's TF-IDF.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier

from benchmarks.planted import cell, true_positives
from explain.faithfulness import METRICS as FAITHFUL
from explain.faithfulness import FaithfulnessOptions
from explain.judging import faithfulness_of, plausibility_rows
from explain.plausibility import METRICS
from explain.rows import summarise, write_rows
from explain.subject import MethodOptions, WordScores
from explain.table import Explained, read_explanations
from hilat.admissions import Admission
from hilat.cli import explain as explain_command
from hilat.cli.console import counting, quiet_libraries, say, table
from hilat.coder import load_coder
from hilat.corpora.codiesp import read_codiesp
from hilat.files import read_json
from hilat.provenance import run_record

METHODS = ("attention", "att_in_grad", "attention_x_gradient", "attention_rollout", "input_x_gradient", "saliency",
           "integrated_gradients", "deep_lift", "occlusion", "random", "other_code")  # fmt: skip
SHOWN = ("pointing_game", "hit_at_3", "precision_at_3", "average_precision", "evidence_mass")
FAITHFUL_SHOWN = ("comprehensiveness", "sufficiency", "racu")
FAITHFULNESS = FaithfulnessOptions(groups=0, leave_one_out=False)
LINEAR = "(linear model)"
_WORD = re.compile(r"(?u)\b\w\w+\b")  # TfidfVectorizer's


class Linear:
    """TF-IDF with one-vs-rest logistic regression, as in `benchmarks.codiesp`, and the weight of each word of a case."""

    def __init__(self, cases: Sequence[Admission], targets: NDArray[np.float32]) -> None:
        self.vectors = TfidfVectorizer(sublinear_tf=True)
        x = self.vectors.fit_transform([a.text for a in cases])
        one = LogisticRegression(C=1000.0, max_iter=500, class_weight="balanced", solver="liblinear")
        self.model = OneVsRestClassifier(one).fit(x, targets)

    def scores(self, text: str, column: int, word_spans: NDArray[np.int64]) -> NDArray[np.float64]:
        """Weight times TF-IDF of each word (W,)."""
        known = self.vectors.vocabulary_
        values = self.vectors.transform([text]).toarray()[0] * self.model.estimators_[column].coef_[0]
        words = [text[start:end].lower() for start, end in word_spans]
        return np.array([values[known[w]] if _WORD.fullmatch(w) and w in known else 0.0 for w in words])


def with_linear(one: Explained, admission: Admission, linear: Linear) -> Explained:
    """The explanations with the linear model's as one more method."""
    rows = [linear.scores(admission.text, one.codes.index(code), one.word_spans) for code in one.scored]
    scores = np.array(rows).reshape(len(one.scored), len(one.word_spans))
    added = WordScores(scores, True, "logit", np.zeros(len(scores)))
    return replace(one, methods={**one.methods, LINEAR: added})


def main() -> None:
    """Explain what is not explained yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("out/codiesp"))
    parser.add_argument("--faithfulness", type=int, default=40, help="dev cases for faithfulness")
    given = parser.parse_args()
    quiet_libraries()
    corpus = read_codiesp(given.data)
    result = read_json(given.out / "results.json", what="the results of benchmarks.codiesp")["hilat"][0]
    model = given.out / f"seed{result['seed']}" / "all" / "model"
    coder = load_coder(model)
    cut = np.full(len(coder.code_book), result["threshold"])
    coder = replace(coder, thresholds=cut, threshold_source="global, cross-validated inside train")
    dev = corpus.split("dev")
    folder = given.out / "explain_methods"
    if not folder.exists():
        plan = explain_command.Plan("dev", corpus.source, ("predicted",), METHODS, MethodOptions(steps=30))
        explain_command.write(coder, model, dev, folder, plan, overwrite=False)
    known = {a.hadm_id: a for a in dev}
    cases = corpus.split("train")
    linear = Linear(cases, corpus.code_book.targets([a.codes for a in cases]))
    judged = [with_linear(true_positives(one), known[one.hadm_id], linear) for one in read_explanations(folder)]
    rows = [row for one in judged for row in plausibility_rows(one, known[one.hadm_id])]
    faithful = []
    chosen = [one for one in judged if one.scored][: given.faithfulness]
    with counting(len(chosen), "removing words") as tick:
        for one in chosen:
            faithful += faithfulness_of(coder, one, known[one.hadm_id], FAITHFULNESS).rows
            tick(1)
    first = summarise(rows, {name: metric.up for name, metric in METRICS.items()})
    second = summarise(faithful, {name: metric.up for name, metric in FAITHFUL.items()})
    cells, more = ({(s.method, s.metric): s for s in part} for part in (first, second))
    pairs = len({(row.hadm_id, row.code) for row in rows})
    table(
        f"CodiEsp dev, {pairs} pairs given rightly by seed {result['seed']}; faithfulness on {len(chosen)} cases",
        ("method", *SHOWN, *FAITHFUL_SHOWN),
        [
            (m, *(cell(cells, m, name) for name in SHOWN), *(cell(more, m, name) for name in FAITHFUL_SHOWN))
            for m in (*METHODS, LINEAR)
        ],
    )
    stars = [f"{s.method} {s.metric}" for s in first if s.metric in SHOWN and not s.p_corrected < 0.05 and s.against]
    say(f"not different from attention (Holm, 0.05): {', '.join(stars) or 'none'}")
    record = run_record("CodiEsp methods benchmark", {}, 0)
    write_rows(given.out / "methods", [*rows, *faithful], {"plausibility": first, "faithfulness": second}, record, overwrite=True)  # fmt: skip


if __name__ == "__main__":
    main()

"""HiLAT on CodiEsp (Spanish clinical cases, top-50 diagnosis codes), from scratch, beside TF-IDF with logistic regression.

    python -m benchmarks.codiesp --data FOLDER_OF_CODIESP --out out/codiesp

For each seed: five models on four fifths of train give out-of-fold probabilities, whose best micro-F1 picks the threshold; a
sixth, on all of train, is scored on dev at that threshold. Dev decides nothing. Every model is a file in --out: a run
that was stopped goes on where it stopped. At the end the table of the README is printed, and the dev pages are written.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier

from explain.attention import attend
from explain.subject import MethodOptions
from hilat.admissions import Admission
from hilat.cli.console import quiet_libraries, say, table, training_progress
from hilat.coder import Coder, load_coder, predict, save_coder
from hilat.corpora import Corpus, write_corpus
from hilat.corpora.codiesp import background_texts, read_codiesp
from hilat.files import read_json, write_json
from hilat.metrics import evaluate_codes
from hilat.settings import TrainingSettings, read_settings
from hilat.thresholds import best_cut
from hilat.training import train

FOLDS = 5
SETTINGS = Path(__file__).with_name("codiesp.yaml")


def folds(size: int, seed: int) -> NDArray[np.int64]:
    """The fold (0 to 4) of each training case."""
    return np.random.default_rng(seed).permutation(size) % FOLDS


def probabilities(coder: Coder, admissions: Sequence[Admission]) -> NDArray[np.float64]:
    """(N, K) probabilities of a coder."""
    return np.stack([p.probabilities for p in predict(coder, admissions, batch_size=16)])


def one_model(
    corpus: Corpus, held_out: Sequence[Admission], settings: TrainingSettings, texts: Sequence[str], folder: Path
) -> tuple[NDArray[np.float64], float]:
    """Probabilities (N, K) of the held-out cases from a model trained on the corpus, and the seconds that took."""
    done = folder / "probabilities.json"
    if not done.exists():
        begun = time.monotonic()
        with training_progress() as tell:
            coder = train(
                corpus, settings, folder, unlabelled=texts, device="auto", resume=folder.exists(), tell=tell
            ).coder
        rows = probabilities(coder, held_out)
        write_json(done, {"seconds": time.monotonic() - begun, "probabilities": rows.tolist()})
        shutil.rmtree(folder / "training", ignore_errors=True)
    record = read_json(done, what="the probabilities of a finished model")
    return np.array(record["probabilities"]), float(record["seconds"])


def hilat_seed(
    corpus: Corpus, settings: TrainingSettings, seed: int, texts: Sequence[str], out: Path
) -> dict[str, Any]:
    """Threshold by cross-validation inside train, then the model of all of train on dev."""
    cases, dev = corpus.split("train"), corpus.split("dev")
    settings = replace(settings, seed=seed)
    fold = folds(len(cases), seed)
    pooled = np.zeros((len(cases), len(corpus.code_book)))  # (N, K)
    for f in range(FOLDS):
        say(f"seed {seed}, fold {f + 1} of {FOLDS}")
        rest = tuple(a for a, g in zip(cases, fold, strict=True) if g != f)
        held = [a for a, g in zip(cases, fold, strict=True) if g == f]
        part = Corpus(rest, corpus.code_book, corpus.source)
        pooled[fold == f], _ = one_model(part, held, settings, texts, out / f"seed{seed}" / f"fold{f}")
    targets = corpus.code_book.targets([a.codes for a in cases])
    threshold, inside = best_cut(pooled.ravel(), targets.ravel() > 0.5)
    say(f"seed {seed}, all of train; threshold {threshold:.3f}")
    whole = Corpus(cases, corpus.code_book, corpus.source)
    scored, seconds = one_model(whole, dev, settings, texts, out / f"seed{seed}" / "all")
    return {
        "seed": seed,
        "threshold": threshold,
        "cross_validated_micro_f1": inside,
        "seconds": seconds,
        **measures(corpus, scored, threshold),
        **plausibility(load_coder(out / f"seed{seed}" / "all" / "model"), dev, threshold),
    }


def measures(corpus: Corpus, scored: NDArray[np.float64], threshold: float) -> dict[str, float]:
    """Dev micro-F1 at the threshold, at 0.5 and at dev's own best; and without the cases that share an article with train."""
    dev = corpus.split("dev")
    targets = corpus.code_book.targets([a.codes for a in dev])
    articles = {a.subject_id for a in corpus.split("train")}
    apart = np.array([a.subject_id not in articles for a in dev])
    coded = targets.sum(axis=1) > 0
    best, reached = best_cut(scored.ravel(), targets.ravel() > 0.5)
    full = evaluate_codes(scored, targets, threshold, threshold_source="cross-validated in train")

    def micro(rows: NDArray[np.bool_], cut: float) -> float:
        return evaluate_codes(scored[rows], targets[rows], cut, threshold_source="x").micro_f1

    return {
        "micro_f1": full.micro_f1,
        "micro_precision": full.micro_precision,
        "micro_recall": full.micro_recall,
        "macro_f1_mean_of_codes": full.macro_f1_mean_of_codes,
        "micro_auc": full.micro_auc,
        "mean_average_precision": full.mean_average_precision,
        "micro_f1_at_half": micro(np.ones(len(dev), dtype=bool), 0.5),
        "micro_f1_best_on_dev": reached,
        "threshold_best_on_dev": best,
        "micro_f1_without_shared_articles": micro(apart, threshold),
        "micro_f1_cases_with_a_code": micro(coded, threshold),
        "cases_without_shared_articles": int(apart.sum()),
    }


def plausibility(coder: Coder, dev: Sequence[Admission], threshold: float) -> dict[str, float]:
    """Of the pairs (case, code) given rightly: the share of the three most attended words that lie in the coders' spans,
    the share of pairs with at least one, the attention mass on spans; and the share of words in spans (chance)."""
    hits, any_hit, mass, chance = [], [], [], []
    for admission, (prediction, words, _) in zip(dev, attend(coder, dev), strict=True):
        spans = prediction.document.word_spans
        for k in np.flatnonzero(prediction.probabilities >= threshold):
            code = coder.code_book.codes[int(k)]
            marked = [s for e in admission.evidence if e.code == code for s in e.segments]
            if code not in admission.codes or not marked:
                continue
            inside = np.array([any(start < t and s < end for s, t in marked) for start, end in spans])
            top = np.argsort(-words[k], kind="stable")[:3]
            hits.append(float(inside[top].mean()))
            any_hit.append(float(inside[top].any()))
            mass.append(float(words[k][inside].sum()))
            chance.append(float(inside.mean()))
    return {
        "pairs": len(hits),
        "top3_words_in_spans": float(np.mean(hits)),
        "pairs_with_a_top3_word_in_spans": float(np.mean(any_hit)),
        "attention_mass_in_spans": float(np.mean(mass)),
        "words_in_spans": float(np.mean(chance)),
    }


def linear(corpus: Corpus) -> dict[str, Any]:
    """TF-IDF with one-vs-rest logistic regression, its threshold cross-validated on the same folds.

    Unigrams, C = 1000 and balanced classes were best in cross-validation among 1- to 3-grams, C of 10, 100, 1000, balanced or not.
    """
    cases, dev = corpus.split("train"), corpus.split("dev")
    targets = corpus.code_book.targets([a.codes for a in cases])
    fold = folds(len(cases), 0)

    def fitted(train_rows: Sequence[Admission], y: NDArray[Any], rows: Sequence[Admission]) -> NDArray[np.float64]:
        vectors = TfidfVectorizer(sublinear_tf=True)
        x = vectors.fit_transform([a.text for a in train_rows])
        model = OneVsRestClassifier(
            LogisticRegression(C=1000.0, max_iter=500, class_weight="balanced", solver="liblinear")
        ).fit(x, y)
        return np.asarray(model.predict_proba(vectors.transform([a.text for a in rows])), dtype=np.float64)

    pooled = np.zeros(targets.shape)
    for f in range(FOLDS):
        rest = [a for a, g in zip(cases, fold, strict=True) if g != f]
        pooled[fold == f] = fitted(rest, targets[fold != f], [a for a, g in zip(cases, fold, strict=True) if g == f])
    threshold, inside = best_cut(pooled.ravel(), targets.ravel() > 0.5)
    scored = fitted(list(cases), targets, list(dev))
    return {"threshold": threshold, "cross_validated_micro_f1": inside, **measures(corpus, scored, threshold)}


def show(baseline: dict[str, Any], seeds: Sequence[dict[str, Any]]) -> None:
    """Print the table."""
    columns = ("micro_f1", "micro_f1_without_shared_articles", "micro_f1_at_half", "micro_f1_best_on_dev", "threshold")
    rows = [("TF-IDF + logistic regression", *(f"{baseline[c]:.3f}" for c in columns))]
    rows += [(f"HiLAT, seed {s['seed']}", *(f"{s[c]:.3f}" for c in columns)) for s in seeds]
    if len(seeds) > 1:
        values = {c: np.array([s[c] for s in seeds]) for c in columns}
        rows.append(("HiLAT, mean (sd)", *(f"{v.mean():.3f} ({v.std(ddof=1):.3f})" for v in values.values())))
    table(
        "CodiEsp dev, top-50 diagnosis codes, micro-F1",
        ("model", "threshold from train", "same, no shared article", "at 0.5", "best on dev", "threshold"),
        rows,
    )
    for key in ("pairs_with_a_top3_word_in_spans", "top3_words_in_spans", "attention_mass_in_spans", "words_in_spans"):
        say(f"{key}: {np.mean([s[key] for s in seeds]):.3f}")


def pages(corpus: Corpus, folder: Path, threshold: float, out: Path) -> None:
    """The model with the cross-validated threshold, its dev explanations, pages with the coders' evidence boxed, and the
    study of its errors."""
    from hilat.cli import explain as explain_command
    from hilat.cli import report as report_command

    coder = load_coder(folder / "model")
    coder = replace(
        coder,
        thresholds=np.full(len(coder.code_book), threshold),
        threshold_source="global, cross-validated inside train",
    )
    save_coder(coder, out / "model", overwrite=True)
    methods = ("attention", "input_x_gradient", "random")
    plan = explain_command.Plan("dev", corpus.source, ("predicted", "gold"), methods, MethodOptions())
    explain_command.write(coder, out / "model", corpus.split("dev"), out / "explain", plan, overwrite=True)
    spanish = report_command.ReportPlan(language="es")
    index, count = report_command.write(out / "explain", corpus, out / "pages", spanish, overwrite=True)
    say(f"{count} pages: {index}")
    say(
        f"study of the errors: hilat errors study --explanations {out}/explain --corpus {out}/corpus --model {out}/model "
        f"--language es --out {out}/errors --page {out}/errors.html --pages {out}/pages"
    )


def main() -> None:
    """Run what is not there yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder of CodiEsp as released")
    parser.add_argument("--out", type=Path, default=Path("out/codiesp"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--settings", type=Path, default=SETTINGS)
    given = parser.parse_args()
    quiet_libraries()
    corpus = read_codiesp(given.data)
    texts = list(background_texts(given.data))
    given.out.mkdir(parents=True, exist_ok=True)
    write_corpus(
        given.out / "corpus",
        corpus.admissions,
        corpus.code_book,
        source=corpus.source,
        notes=corpus.notes,
        overwrite=True,
    )
    settings = read_settings(given.settings)
    baseline = linear(corpus)
    results = [hilat_seed(corpus, settings, seed, texts, given.out) for seed in given.seeds]
    write_json(given.out / "results.json", {"linear": baseline, "hilat": results, "settings": settings.to_dict()})
    show(baseline, results)
    pages(corpus, given.out / f"seed{given.seeds[0]}" / "all", float(results[0]["threshold"]), given.out)


if __name__ == "__main__":
    main()

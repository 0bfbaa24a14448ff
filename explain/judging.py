"""From stored explanations to metric rows: plausibility, faithfulness and agreement of every method on every pair."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from explain import agreement as agree
from explain import attention_tests as tests
from explain import faithfulness as faith
from explain import plausibility as plaus
from explain.attention import global_token_attention
from explain.audit import KINDS, audit
from explain.controls import seed_of
from explain.hilat_target import HilatTarget
from explain.methods import METHODS
from explain.perturbation import NoteFunction, Removal
from explain.randomisation import cascade
from explain.result import Value, defined
from explain.robustness import infidelities, max_sensitivity, soft_scores
from explain.rows import Curve, MeasuredNote, Row, outcome_of
from explain.subject import MethodOptions, Subject
from explain.table import Explained
from hilat.admissions import Admission, HilatError
from hilat.coder import Coder
from hilat.encoding import EncodedDocument


def _outcome(one: Explained, code: str) -> str:
    k = one.codes.index(code)
    predicted = bool(one.probabilities[k] >= one.thresholds[k])
    return outcome_of(predicted, None if one.gold is None else bool(one.gold[k]))


def _seen(one: Explained) -> NDArray[np.bool_]:
    return one.word_chunk >= 0


def _place(one: Explained) -> NDArray[np.int64]:
    return np.argsort(np.argsort(one.word_spans[:, 0], kind="stable"), kind="stable").astype(np.int64)


def plausibility_rows(one: Explained, admission: Admission) -> Iterator[Row]:
    """Every method against the admission's evidence, for the codes that were explained; over the words the model read."""
    for i, code in enumerate(one.scored):
        spans = plaus.evidence_words(admission.evidence, code, one.word_spans)
        for method, words in one.methods.items():
            pair = plaus.make_pair(words.scores[i], spans, one.word_spans, _seen(one))
            for name, metric in plaus.METRICS.items():
                yield Row(one.hadm_id, code, _outcome(one, code), method, name, metric.of(pair))


def agreement_rows(one: Explained) -> Iterator[Row]:
    """Every pair of methods, for the codes that were explained; over the words the model read, in text order."""
    words = np.flatnonzero(_seen(one))
    words = words[np.argsort(one.word_spans[words, 0], kind="stable")]
    for i, code in enumerate(one.scored):
        scores = {method: rows.scores[i, words] for method, rows in one.methods.items()}
        for first, second, name, value in agree.agreement(scores):
            yield Row(one.hadm_id, code, _outcome(one, code), f"{first} × {second}", name, value)


@dataclass(frozen=True, slots=True)
class RobustnessOptions:
    """How many samples `explain.robustness` takes of each kind; 0: not measured. radius: of max-sensitivity."""

    infidelity: int = 0
    soft: int = 0
    sensitivity: int = 0
    radius: float = 0.02
    seed: int = 0


def robustness_rows(
    coder: Coder, one: Explained, admission: Admission, options: RobustnessOptions, removal: Removal = "mask"
) -> list[Row]:
    """Infidelity, soft comprehensiveness and sufficiency, and max-sensitivity, of every method; what was asked for."""
    if not one.scored:
        return []
    document = checked_document(coder, one, admission)
    columns = [coder.code_book.column(code) for code in one.scored]
    target = HilatTarget(coder, columns)
    seed = seed_of(one.hadm_id, options.seed) % 2**31
    found: dict[tuple[str, int, str], Value] = {}
    if options.infidelity:
        scores = np.concatenate([m.scores for m in one.methods.values()])
        which = np.tile(np.arange(len(columns)), len(one.methods))
        value = NoteFunction(target, document, removal)
        both = infidelities(value, scores, which, _seen(one), samples=options.infidelity, seed=seed)
        for n, (raw, scaled) in enumerate(both):
            method = list(one.methods)[n // len(columns)]
            found[method, n % len(columns), "infidelity_logit"] = raw
            found[method, n % len(columns), "infidelity_normalised_logit"] = scaled
    if options.soft:
        for method, words in one.methods.items():
            for k in range(len(columns)):
                comp, suff = soft_scores(target, document, words.scores[k], k, samples=options.soft, seed=seed)
                found[method, k, "soft_comprehensiveness"], found[method, k, "soft_sufficiency"] = comp, suff
    if options.sensitivity:
        known = [method for method in one.methods if method in METHODS]
        most = max_sensitivity(
            coder, document, admission.text, columns, known, samples=options.sensitivity, radius=options.radius,
            options=MethodOptions(seed=seed),
        )  # fmt: skip
        found.update({(m, k, "max_sensitivity"): v for m, values in most.items() for k, v in enumerate(values)})
    return [
        Row(one.hadm_id, one.scored[k], _outcome(one, one.scored[k]), method, name, value)
        for (method, k, name), value in found.items()
    ]


def checked_document(coder: Coder, one: Explained, admission: Admission) -> EncodedDocument:
    """The admission as the model reads it; HilatError when it was explained on other words."""
    document = coder.encode(admission)
    if document.word_spans.shape != one.word_spans.shape or (document.word_spans != one.word_spans).any():
        raise HilatError(
            f"admission {one.hadm_id} was explained on {len(one.word_spans)} words that differ from the "
            f"{len(document.word_spans)} this model reads; expected its own explanations. Explain again with this model"
        )
    return document


def faithfulness_of(
    coder: Coder,
    one: Explained,
    admission: Admission,
    options: faith.FaithfulnessOptions,
    removal: Removal = "mask",
) -> MeasuredNote:
    """Every method's faithfulness for the codes that were explained, with the curves, and the chunks encoded for it.

    The curves are those of each method and, per code, of random orders (method "random order", the mean of them).

    Raises:
        HilatError: explanations of another text or another layout than this model reads.
    """
    if not one.scored:
        return MeasuredNote()
    document = checked_document(coder, one, admission)
    columns = [coder.code_book.column(code) for code in one.scored]
    target = HilatTarget(coder, columns)
    value = NoteFunction(target, document, removal)
    methods = list(one.methods)
    scores = np.concatenate([one.methods[method].scores for method in methods])  # (methods x k, W)
    which = np.tile(np.arange(len(columns)), len(methods))
    words = faith.Words(_seen(one), _place(one))
    measured = faith.measure(value, scores, which, target.thresholds, words, options)
    rows, curves = [], []
    for n, m in enumerate(measured):
        code, method = one.scored[n % len(columns)], methods[n // len(columns)]
        for name, metric in faith.METRICS.items():
            rows.append(Row(one.hadm_id, code, _outcome(one, code), method, name, metric.of(m)))
        kept, removed = m.probabilities[1][::-1], m.probabilities[0]
        curves.append(_curve(one.hadm_id, code, method, (m.curve.fractions, removed, kept)))
        if method == methods[0]:
            curves.append(_curve(one.hadm_id, code, "random order", (m.curve.fractions, m.random, m.random[::-1])))
    return MeasuredNote(tuple(rows), value.passes, tuple(curves))


def _curve(hadm_id: str, code: str, method: str, numbers: tuple[NDArray[np.float64], ...]) -> Curve:
    fractions, deletion, insertion = (tuple(float(x) for x in values) for values in numbers)
    return Curve(hadm_id, code, method, fractions, deletion, insertion)


# Measures of `attention_test_rows`: whether higher speaks for attention as an explanation.
ATTENTION_TESTS: dict[str, tuple[bool, str]] = {
    "permute_token": (True, "median change of the probability, token attention shuffled within chunks"),
    "permute_chunk": (True, "the same, chunk attention shuffled"),
    "permute_both": (True, "the same, both shuffled"),
    "uniform_token": (True, "change of the probability under even token attention"),
    "uniform_chunk": (True, "under even chunk attention"),
    "uniform_both": (True, "under both"),
    "zero_top_js_nats": (True, "JS divergence without the most attended token"),
    "zero_random_js_nats": (False, "without another token, drawn at random"),
    "zero_top_flips": (True, "the first flips the decision"),
    "zero_random_flips": (False, "the second does"),
    "share_until_flip": (False, "share of tokens until the decision flips, most attended first"),
    "share_until_flip_gradient": (False, "the same, by attention times its gradient"),
    "share_until_flip_random": (True, "the same, at random"),
    "adversarial_js_nats": (False, "how different an attention with the same output can be (at most 0.69)"),
    **{f"mass_{kind}": (False, f"share of the attention on {says}") for kind, says in KINDS.items()},
    **{f"even_{kind}": (False, f"what even attention puts on {says}") for kind, says in KINDS.items()},
}


def attention_test_rows(
    coder: Coder, one: Explained, admission: Admission, *, trials: int = 100, starts: int = 3, seed: int = 0
) -> list[Row]:
    """The attention tests on the codes that were explained, from one forward pass."""
    if not one.scored:
        return []
    target = HilatTarget(coder, [coder.code_book.column(code) for code in one.scored])
    document = coder.encode(admission)
    states = target.frozen(document)
    at = tests.attentions_of(states)
    drawn = seed_of(one.hadm_id, seed)
    found: dict[str, list[Value]] = {}
    levels: tuple[tests.Level, ...] = ("token", "chunk", "both")
    for level in levels:
        changes = np.median(tests.permutation(at, level, trials=trials, seed=drawn % 2**31), axis=1)
        found[f"permute_{level}"] = [defined(x) for x in changes]
        found[f"uniform_{level}"] = [defined(x) for x in tests.uniform(at, level)]
    zeroed = tests.zero_out(at, target.thresholds, seed=drawn)
    found["zero_top_js_nats"] = [z.top_js_nats for z in zeroed]
    found["zero_random_js_nats"] = [z.random_js_nats for z in zeroed]
    found["zero_top_flips"] = [z.top_flips for z in zeroed]
    found["zero_random_flips"] = [z.random_flips for z in zeroed]
    weights = at.everywhere.cpu().numpy()
    rankings = {
        "share_until_flip": weights,
        "share_until_flip_gradient": weights * at.values.cpu().numpy(),
        "share_until_flip_random": np.random.default_rng(drawn).random(weights.shape),
    }
    for name, ranking in rankings.items():
        found[name] = tests.share_until_flip(at, ranking, target.thresholds)
    spread = global_token_attention(
        states.token_attention.double().cpu().numpy(), states.chunk_attention.double().cpu().numpy()
    )  # (k, C, T)
    for kind, (mass, even) in audit(spread, document, admission.text).items():
        found[f"mass_{kind}"] = [defined(x) for x in mass]
        found[f"even_{kind}"] = [defined(even)] * len(mass)
    found["adversarial_js_nats"] = [a.js_nats for a in tests.adversarial(at, starts=starts, seed=drawn % 2**31)]
    return [
        Row(one.hadm_id, code, _outcome(one, code), "attention", name, found[name][k])
        for name in ATTENTION_TESTS
        for k, code in enumerate(one.scored)
    ]


def randomisation_rows(coder: Coder, chosen: Sequence[tuple[Explained, Admission]], *, seed: int = 0) -> list[Row]:
    """Spearman correlation of word attention before and after the weights are drawn anew, stage by stage from the
    classifier down; near 0 is what an explanation of this model should show (Adebayo et al. 2018)."""
    rows = []
    before = {one.hadm_id: _attention_of(coder, one, admission) for one, admission in chosen}
    for stage, model in cascade(coder.model, seed=seed):
        other = replace(coder, model=model)
        for one, admission in chosen:
            after = _attention_of(other, one, admission)
            for k, code in enumerate(one.scored):
                value = agree.METRICS["spearman"].of(before[one.hadm_id][k], after[k])
                rows.append(Row(one.hadm_id, code, _outcome(one, code), "attention", f"after {stage}", value))
    return rows


def _attention_of(coder: Coder, one: Explained, admission: Admission) -> NDArray[np.float64]:
    columns = [coder.code_book.column(code) for code in one.scored]
    subject = Subject(HilatTarget(coder), coder.encode(admission), admission.text, columns)
    return METHODS["attention"].scores(subject).scores[:, _seen(one)]


# Groups of pairs: the outcomes that each holds; None for all.
GROUPS: dict[str, tuple[str, ...] | None] = {
    "all": None,
    "gold": ("TP", "FN"),
    "predicted": ("TP", "FP"),
    "TP": ("TP",),
    "FP": ("FP",),
    "FN": ("FN",),
}


def groups_of(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of each of GROUPS that has any."""
    found = {name: [row for row in rows if wanted is None or row.outcome in wanted] for name, wanted in GROUPS.items()}
    return {name: part for name, part in found.items() if part}

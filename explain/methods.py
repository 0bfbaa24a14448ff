"""METHODS: the one table of explanation methods. Each turns a Subject into scores per word of the raw note."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from explain.combined import att_grad, att_in_grad, attention_x_gradient, token_attention_gradients
from explain.controls import frequency_scores, other_columns, position_scores, random_scores, seed_of, uniform_scores
from explain.gradients import (
    ShapSampling,
    TokenScores,
    deep_lift,
    gradient_shap,
    input_x_gradient,
    integrated_gradients,
    state_x_gradient,
)
from explain.occlusion import occlusion, sentence_groups, window_occlusion
from explain.rollout import label_rollout, rollout
from explain.sampling import Pool
from explain.subject import Subject, WordScores
from explain.surrogates import Surrogate, kernel_shap, lime, neighbour_groups
from hilat.admissions import HilatError


@dataclass(frozen=True, slots=True)
class Method:
    """family: attention, combined, gradient, perturbation or control. says: one line for tables and help."""

    family: str
    says: str
    scores: Callable[[Subject], WordScores]


def _attention(subject: Subject) -> WordScores:
    return subject.on_words(subject.attention, False, "attention", passes=subject.chunks)


def _token_attention(subject: Subject) -> WordScores:
    read = max(1, subject.chunks)
    return subject.on_words(subject.token_attention / read, False, "attention", passes=subject.chunks)


def _chunk_attention(subject: Subject) -> WordScores:
    seen = subject.states.seen.cpu().numpy()  # (C, T)
    each = seen / np.maximum(seen.sum(axis=1, keepdims=True), 1)  # (C, T)
    return subject.on_words(subject.chunk_attention[:, :, None] * each, False, "attention", passes=subject.chunks)


def _rollout(subject: Subject) -> WordScores:
    rolled = rollout(subject.target.encoder_attentions(subject.document))
    down = label_rollout(subject.token_attention, subject.chunk_attention, rolled)
    return subject.on_words(down, False, "attention", passes=2 * subject.chunks)


def _attention_x_gradient(subject: Subject) -> WordScores:
    scores = attention_x_gradient(subject.token_attention, token_attention_gradients(subject.states))
    return subject.on_words(scores, True, "logit", passes=subject.chunks)


def _att_grad(subject: Subject) -> WordScores:
    scores = att_grad(subject.token_attention, token_attention_gradients(subject.states))
    return subject.on_words(scores, False, "logit", passes=subject.chunks)


def _att_in_grad(subject: Subject) -> WordScores:
    norm = subject.input_x_gradient_norm
    return subject.on_words(
        att_in_grad(subject.attention, norm.scores), False, norm.target, passes=subject.chunks + norm.passes
    )


def _from_tokens(subject: Subject, tokens: TokenScores) -> WordScores:
    return subject.on_words(tokens.scores, tokens.signed, tokens.target, tokens.completeness_gap, tokens.passes)


def _saliency(subject: Subject) -> WordScores:
    return _from_tokens(subject, subject.gradient_norm)


def _input_x_gradient(subject: Subject) -> WordScores:
    tokens = input_x_gradient(subject.part, subject.document, subject.every, options=subject.gradient_options)
    return _from_tokens(subject, tokens)


def _input_x_gradient_norm(subject: Subject) -> WordScores:
    return _from_tokens(subject, subject.input_x_gradient_norm)


def _state_x_gradient(subject: Subject) -> WordScores:
    tokens = state_x_gradient(subject.part, subject.document, subject.every, options=subject.gradient_options)
    return _from_tokens(subject, tokens)


def _state_x_gradient_norm(subject: Subject) -> WordScores:
    tokens = state_x_gradient(subject.part, subject.document, subject.every, "l2", subject.gradient_options)
    return _from_tokens(subject, tokens)


def _integrated_gradients(subject: Subject) -> WordScores:
    options, given = subject.options, subject.gradient_options
    passes = 0
    for steps in (options.steps, 2 * options.steps, 4 * options.steps):
        last = steps == 4 * options.steps
        bound = given if last else replace(given, bound=np.inf)
        tokens = integrated_gradients(subject.part, subject.document, subject.every, options.baseline, steps, bound)
        passes += tokens.passes
        assert tokens.completeness_gap is not None
        if last or (tokens.completeness_gap <= given.bound).all():
            break
    return subject.on_words(tokens.scores, tokens.signed, tokens.target, tokens.completeness_gap, passes)


def _gradient_shap(subject: Subject) -> WordScores:
    options = subject.options
    sampling = ShapSampling((options.baseline,), options.steps, seed=options.seed)
    bound = replace(subject.gradient_options, bound=options.sampled_bound)
    tokens = gradient_shap(subject.part, subject.document, subject.every, sampling, bound)
    return _from_tokens(subject, tokens)


def _deep_lift(subject: Subject) -> WordScores:
    tokens = deep_lift(
        subject.part, subject.document, subject.every, subject.options.baseline, subject.gradient_options
    )
    return _from_tokens(subject, tokens)


def _signed(subject: Subject, scores: NDArray[np.float64], before: int) -> WordScores:
    """Word scores of a perturbation method; nothing falls outside of words."""
    passes = subject.without.passes - before
    return WordScores(scores, True, subject.options.output, np.zeros(len(scores)), None, passes)


def _occlusion(subject: Subject) -> WordScores:
    before = subject.without.passes
    groups = np.where(subject.seen, np.arange(len(subject.seen)), -1)
    return _signed(subject, occlusion(subject.without, groups, subject.options.output), before)


def _occlusion_window(subject: Subject) -> WordScores:
    before, options = subject.without.passes, subject.options
    words = np.flatnonzero(subject.seen)
    scores = window_occlusion(subject.without, words, len(subject.seen), options.window, options.output)
    return _signed(subject, scores, before)


def _occlusion_sentence(subject: Subject) -> WordScores:
    before = subject.without.passes
    groups = np.where(subject.seen, sentence_groups(subject.text, subject.document.word_spans), -1)
    return _signed(subject, occlusion(subject.without, groups, subject.options.output), before)


def _surrogate(subject: Subject, fitted: Callable[..., Surrogate]) -> WordScores:
    before, options = subject.without.passes, subject.options
    groups = neighbour_groups(np.flatnonzero(subject.seen), len(subject.seen), options.groups)
    seed = seed_of(subject.document.hadm_id, options.seed)
    pool = Pool(options.pool, subject.without.words_of_chunks).roomy(groups) if options.pool else None
    found = fitted(subject.without, groups, options.samples, seed, options.output, pool)
    return _signed(subject, found.scores, before)


def _control(scores: NDArray[np.float64]) -> WordScores:
    return WordScores(scores, False, "nothing", np.zeros(len(scores)))


def _random(subject: Subject) -> WordScores:
    drawn = random_scores(subject.document.hadm_id, subject.codes, len(subject.seen), subject.options.seed)
    return _control(drawn * subject.seen)


def _frequent_words(subject: Subject) -> WordScores:
    words = [subject.text[start:end] for start, end in subject.document.word_spans]
    return _control(frequency_scores(len(subject.codes), words, subject.seen))


def _other_code(subject: Subject) -> WordScores:
    columns = other_columns(subject.document.hadm_id, subject.columns, len(subject.target.codes), subject.options.seed)
    wanted = sorted(set(columns))
    others = Subject(subject.target, subject.document, subject.text, wanted, subject.options, subject.hidden)
    rows = [wanted.index(k) for k in columns]
    found = others.on_words(others.attention, False, "attention")
    return WordScores(found.scores[rows], False, "nothing", found.outside[rows], None, subject.chunks)


METHODS: dict[str, Method] = {
    "attention": Method("attention", "token attention times chunk attention (equation 10)", _attention),
    "token_attention": Method("attention", "token attention alone (equation 2), every chunk alike", _token_attention),
    "chunk_attention": Method("attention", "chunk attention alone (equation 6), even within a chunk", _chunk_attention),
    "attention_rollout": Method("attention", "equation 10 carried down through the encoder's attention", _rollout),
    "attention_x_gradient": Method(
        "combined", "token attention times its gradient, encoder states frozen", _attention_x_gradient
    ),
    "att_grad": Method("combined", "token attention times the size of its gradient", _att_grad),
    "att_in_grad": Method("combined", "attention times the norm of input x gradient (Edin et al. 2024)", _att_in_grad),
    "saliency": Method("gradient", "L2 norm of the gradient at the embedding", _saliency),
    "input_x_gradient": Method("gradient", "embedding times gradient, summed", _input_x_gradient),
    "input_x_gradient_norm": Method("gradient", "embedding times gradient, L2 norm", _input_x_gradient_norm),
    "state_x_gradient": Method(
        "gradient", "hidden state times gradient, summed; head only: not what the encoder mixed", _state_x_gradient
    ),
    "state_x_gradient_norm": Method("gradient", "the same, L2 norm; head only", _state_x_gradient_norm),
    "integrated_gradients": Method("gradient", "gradient along the way from a baseline", _integrated_gradients),
    "gradient_shap": Method("gradient", "gradient at random points on the way from a baseline", _gradient_shap),
    "deep_lift": Method("gradient", "DeepLIFT multipliers from a baseline", _deep_lift),
    "occlusion": Method("perturbation", "what the output loses without the word", _occlusion),
    "occlusion_window": Method("perturbation", "the same for windows of words", _occlusion_window),
    "occlusion_sentence": Method("perturbation", "the same for whole sentences", _occlusion_sentence),
    "lime": Method("perturbation", "LIME: a linear model on random subsets of words", lambda s: _surrogate(s, lime)),
    "kernel_shap": Method(
        "perturbation", "KernelSHAP: Shapley values by regression", lambda s: _surrogate(s, kernel_shap)
    ),
    "random": Method("control", "random scores", _random),
    "uniform": Method("control", "the same score everywhere", lambda s: _control(uniform_scores(len(s.codes), s.seen))),
    "position": Method(
        "control", "earlier words score higher", lambda s: _control(position_scores(len(s.codes), s.seen))
    ),
    "frequent_words": Method("control", "how often the word occurs in the note", _frequent_words),
    "other_code": Method("control", "the attention of another code, drawn at random", _other_code),
}


def reads_states(name: str) -> bool:
    """Whether a method looks at the states of a plain forward pass (`Subject.states`)."""
    return METHODS[name].family in ("attention", "combined") or name == "other_code"


def checked_methods(names: Sequence[str]) -> tuple[str, ...]:
    """The names, each a method and none twice; HilatError otherwise."""
    unknown = [name for name in names if name not in METHODS]
    if unknown or not names or len(set(names)) != len(names):
        raise HilatError(
            f"methods {', '.join(map(repr, names)) or '(none)'} were asked for; expected different ones of "
            f"{', '.join(METHODS)}. Correct the list"
        )
    return tuple(names)


def scores(subject: Subject, method: str) -> WordScores:
    """Word scores of the subject's codes by the named method."""
    return METHODS[checked_methods([method])[0]].scores(subject)

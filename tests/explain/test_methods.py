"""What every method owes, over the whole table; and the controls."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from explain import METHODS, MethodOptions
from explain.attention import attend
from explain.controls import other_columns, random_scores
from explain.hilat_target import HilatTarget
from explain.methods import checked_methods, scores
from explain.subject import Subject, WordScores
from hilat.admissions import HilatError
from hilat.coder import Coder

MakeCoder = Callable[..., Coder]
OPTIONS = MethodOptions(steps=12, samples=40, bound=1e9, sampled_bound=1e9)


def subject(coder: Coder, note: str, columns: tuple[int, ...] = (3, 0)) -> Subject:
    return Subject(HilatTarget(coder), coder.encode(note), note, columns, OPTIONS)


def obeys(words: WordScores, seen: np.ndarray) -> bool:
    """Finite, of its shape, nothing on words that were not read, no negative where unsigned, shares in [0, 1]."""
    return bool(
        words.scores.shape == (2, len(seen))
        and np.isfinite(words.scores).all()
        and not words.scores[:, ~seen].any()
        and (words.signed or (words.scores >= 0).all())
        and ((words.outside >= 0) & (words.outside <= 1)).all()
    )


@pytest.mark.parametrize("kind", ["xlnet", "bert"])
@pytest.mark.parametrize("name", METHODS)
def test_every_method_gives_a_score_per_word_and_the_same_again(
    make_coder: MakeCoder, note: str, kind: str, name: str
) -> None:
    coder = make_coder(kind, chunks=2)  # the note does not fit: some words are not read
    first = subject(coder, note)
    assert not first.seen.all()
    found = scores(first, name)
    assert obeys(found, first.seen)
    again = scores(subject(coder, note), name)
    np.testing.assert_array_equal(found.scores, again.scores)
    turned = scores(subject(coder, note, (0, 3)), name)  # a code's scores do not depend on its company
    if name not in ("lime", "kernel_shap"):
        np.testing.assert_allclose(turned.scores[::-1], found.scores, rtol=1e-4, atol=1e-6)


def test_the_property_fails_on_a_wrong_method() -> None:
    seen = np.array([True, False])
    good = WordScores(np.zeros((2, 2)), False, "logit", np.zeros(2))
    assert obeys(good, seen)
    for wrong in (np.array([[0.0, 1.0], [0, 0]]), np.array([[-1.0, 0], [0, 0]]), np.array([[np.nan, 0], [0, 0]])):
        assert not obeys(WordScores(wrong, False, "logit", np.zeros(2)), seen)


def test_attention_is_word_attention(make_coder: MakeCoder, note: str) -> None:
    coder = make_coder()
    ((_, words, outside),) = attend(coder, [note])
    found = scores(subject(coder, note), "attention")
    np.testing.assert_allclose(found.scores, words[[3, 0]], rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(found.outside, outside[[3, 0]], atol=1e-6)


def test_token_and_chunk_attention_are_distributions(make_coder: MakeCoder, note: str) -> None:
    for name in ("token_attention", "chunk_attention", "attention_rollout", "uniform"):
        found = scores(subject(make_coder(), note), name)
        np.testing.assert_allclose(found.scores.sum(1) / (1 - found.outside), 1.0, rtol=1e-5)


def test_integrated_gradients_take_more_steps_where_the_gap_asks_for_it(make_coder: MakeCoder, note: str) -> None:
    one = Subject(HilatTarget(make_coder()), make_coder().encode(note), note, (0,), MethodOptions(steps=2, bound=1e-12))
    with pytest.raises(HilatError, match="do not add up"):
        scores(one, "integrated_gradients")
    eased = Subject(one.target, one.document, note, (0,), MethodOptions(steps=2, bound=1e9))
    assert scores(eased, "integrated_gradients").passes == (2 + 2) * one.chunks


def test_pooling_over_chunks_leaves_gradients_and_perturbation(make_coder: MakeCoder, note: str) -> None:
    one = subject(make_coder(chunk_attention="max"), note)
    for name in ("saliency", "state_x_gradient", "occlusion", "random"):
        assert obeys(scores(one, name), one.seen)
    with pytest.raises(HilatError, match="pools chunks"):
        scores(one, "attention")


def test_random_scores_depend_on_names_and_seed_only() -> None:
    both, alone = random_scores("a", ["x", "y"], 50, 0), random_scores("a", ["y"], 50, 0)
    np.testing.assert_array_equal(both[1], alone[0])
    assert not np.array_equal(both[0], both[1])
    assert not np.array_equal(random_scores("b", ["y"], 50, 0), alone)
    assert not np.array_equal(random_scores("a", ["y"], 50, 1), alone)


def test_the_other_code_is_another_one_and_any_of_them() -> None:
    drawn = {tuple(other_columns(str(n), [0, 1, 2], 3, 0)) for n in range(200)}
    assert all(a != k for row in drawn for k, a in enumerate(row))
    assert {row[0] for row in drawn} == {1, 2}
    assert other_columns("a", [0], 1, 0) == [0]


def test_unknown_methods_are_told() -> None:
    for names in ([], ["attention", "attention"], ["atention"]):
        with pytest.raises(HilatError, match="kernel_shap"):
            checked_methods(names)

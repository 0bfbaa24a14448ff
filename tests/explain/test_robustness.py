"""Infidelity, max-sensitivity, soft measures and the audit: trusted numbers, captum, slow second versions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from captum.metrics import infidelity as captum_infidelity

from explain.attention import global_token_attention
from explain.audit import KINDS, audit, kinds
from explain.collect import collect
from explain.hilat_target import HilatTarget
from explain.judging import ATTENTION_TESTS, RobustnessOptions, attention_test_rows, robustness_rows
from explain.methods import METHODS
from explain.perturbation import NoteFunction
from explain.robustness import (
    ROBUSTNESS_METRICS,
    ShiftedTarget,
    infidelities,
    infidelity,
    max_sensitivity,
    random_removals,
    relative_change,
    soft_scores,
)
from explain.subject import MethodOptions, Subject
from hilat.admissions import Admission
from hilat.coder import Coder

MakeCoder = Callable[..., Coder]


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def test_infidelity_and_sensitivity_agree_with_the_vectors(shared: Path) -> None:
    case = json.loads((shared / "vectors/infidelity_sensitivity.json").read_text())
    w, b, moves = (np.array(case[name]) for name in ("W", "b", "perturbations"))

    def f(x: np.ndarray) -> float:
        return float(sigmoid(w @ x + b)[0])

    def gradient(x: np.ndarray) -> np.ndarray:
        return np.asarray(f(x) * (1 - f(x)) * w[0])

    for n, x in enumerate(np.array(case["X"])):
        drops = np.array([f(x) - f(x - move) for move in moves])
        np.testing.assert_allclose(gradient(x), case["grad_target0"][n], atol=1e-12)
        for name, scores, factor in (("grad", gradient(x), 1.0), ("ig", np.array(case["ig_zero_baseline_target0"][n]), 1.0), ("grad", gradient(x), 10.0)):  # fmt: skip
            raw, scaled = infidelity(moves @ (factor * scores), drops)
            ending = "_x10" if factor == 10 else ""
            assert raw.value == pytest.approx(case[f"infidelity_{name}{ending}"][n], abs=1e-10)
            assert scaled.value == pytest.approx(case[f"infidelity_normalized_{name}{ending}"][n], abs=1e-10)
        most = max(relative_change(gradient(x), gradient(x + move)) for move in moves)
        assert most == pytest.approx(case["sensitivity_max_grad_fro"][n], abs=1e-10)


def test_infidelity_on_words_is_captums(make_coder: MakeCoder, other_note: str) -> None:
    coder = make_coder()
    target = HilatTarget(coder)
    document = coder.encode(other_note)
    value = NoteFunction(target, document)
    words = len(document.word_spans)
    seen = np.ones(words, dtype=bool)
    scores = np.random.default_rng(0).normal(size=(2, words))
    found = infidelities(value, scores, np.array([1, 3]), seen, samples=30, seed=4)
    keep = random_removals(np.arange(words), words, 30, 4)
    assert ((~keep).sum(axis=1) >= 1).all()
    assert ((~keep).sum(axis=1) <= np.ceil(words / 2)).all()

    def forward(x: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(value(x.numpy() > 0.5))

    def disturb(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        moves = torch.from_numpy(~keep).double()
        return moves, x - moves

    for row, (k, (raw, scaled)) in enumerate(zip((1, 3), found, strict=True)):
        ones = torch.ones(1, words, dtype=torch.float64)
        given = {"target": k, "n_perturb_samples": 30}
        theirs = captum_infidelity(forward, disturb, ones, torch.from_numpy(scores[row : row + 1]), **given)
        assert raw.value == pytest.approx(float(theirs), rel=1e-6)
        drops = (value(np.ones((1, words), dtype=bool)) - value(keep))[:, k]
        best = captum_infidelity(forward, disturb, ones, torch.from_numpy(scores[row : row + 1]), normalize=True, **given)  # fmt: skip
        assert scaled.value == pytest.approx(float(best) / float((drops**2).mean()), rel=1e-6)
        assert 0 <= scaled.value <= 1 + 1e-12


def test_no_shift_changes_nothing_and_a_shift_is_the_noise(make_coder: MakeCoder, note: str) -> None:
    coder = make_coder()
    document = coder.encode(note)
    shape = (*document.input_ids.shape, 16)
    columns = [0, 2]
    methods = ("attention", "saliency", "integrated_gradients", "att_in_grad", "attention_x_gradient")
    none = Subject(ShiftedTarget(coder, document, torch.zeros(shape)), document, note, columns)
    plain = Subject(HilatTarget(coder), document, note, columns)
    moved = Subject(ShiftedTarget(coder, document, torch.full(shape, 0.3)), document, note, columns)
    # A second way to the same shift: add it to the whole table of embeddings.
    table = coder.model.get_input_embeddings()
    for method in methods[:2]:
        before = METHODS[method].scores(plain).scores
        np.testing.assert_allclose(METHODS[method].scores(none).scores, before, atol=1e-6)
        shifted = METHODS[method].scores(moved).scores
        assert np.abs(shifted - before).max() > 1e-4
        with torch.no_grad():
            table.weight += 0.3
        try:
            again = METHODS[method].scores(Subject(HilatTarget(coder), document, note, columns)).scores
        finally:
            with torch.no_grad():
                table.weight -= 0.3
        np.testing.assert_allclose(shifted, again, rtol=1e-4, atol=1e-6)


def test_max_sensitivity_is_the_largest_of_its_samples_and_grows_with_the_radius(
    make_coder: MakeCoder, note: str
) -> None:
    coder = make_coder()
    document = coder.encode(note)
    methods = ("attention", "saliency", "occlusion", "random")

    def run(samples: int, radius: float) -> dict[str, list[float]]:
        found = max_sensitivity(coder, document, note, [0, 1], methods, samples=samples, radius=radius, options=MethodOptions(seed=3))  # fmt: skip
        assert found["occlusion"][0].reason is not None
        return {m: [v.value for v in found[m]] for m in ("attention", "saliency")}

    one, three, wide = run(1, 0.02), run(3, 0.02), run(1, 0.2)
    for method in one:
        assert all(0 < a <= b for a, b in zip(one[method], three[method], strict=True))
        assert all(a < b for a, b in zip(one[method], wide[method], strict=True))
    assert run(1, 0.02) == one


def test_soft_measures_at_their_ends(make_coder: MakeCoder, note: str) -> None:
    coder = make_coder()
    document = coder.encode(note)
    target = HilatTarget(coder)
    words = len(document.word_spans)
    inputs = target.inputs(document)
    embeds = target.embeddings(inputs["input_ids"])
    inside = torch.from_numpy(document.word_index >= 0)[None, ..., None]
    given = {name: inputs[name] for name in ("attention_mask", "token_type_ids")}
    with torch.no_grad():
        full = target.forward(inputs).logits[0].sigmoid().numpy()
        empty = target.forward({"inputs_embeds": embeds * ~inside, **given}).logits[0].sigmoid().numpy()
    lower = [k for k in range(5) if empty[k] < full[k] - 1e-4]
    higher = [k for k in range(5) if empty[k] > full[k]]
    assert lower
    for k in lower:  # importance 1 everywhere: everything blanked, everything kept
        comp, suff = soft_scores(target, document, np.ones(words), k, samples=2)
        assert (comp.value, suff.value) == (pytest.approx(1, abs=1e-4), pytest.approx(1, abs=1e-4))
    for k in higher:
        assert soft_scores(target, document, np.ones(words), k, samples=1)[0].reason is not None
    assert soft_scores(target, document, -np.ones(words), lower[0], samples=1)[0].reason == "no positive score"
    half = np.where(np.arange(words) % 2, 1.0, 0.5)
    comp, suff = soft_scores(target, document, half, lower[0], samples=3, seed=1)
    assert 0 <= comp.value <= 1
    assert 0 <= suff.value <= 1
    assert soft_scores(target, document, half, lower[0], samples=3, seed=1) == (comp, suff)


def test_rows_hold_what_was_asked_for(make_coder: MakeCoder, note: str) -> None:
    coder = make_coder()
    admission = Admission("a1", note, ("584.9",))
    (one,) = collect(coder, [admission], choices=("584.9", "428.0"), methods=("attention", "random"))
    rows = robustness_rows(coder, one, admission, RobustnessOptions(4, 1, 1))
    assert len(rows) == 2 * 2 * len(ROBUSTNESS_METRICS)
    assert {row.metric for row in rows} == set(ROBUSTNESS_METRICS)
    assert robustness_rows(coder, one, admission, RobustnessOptions()) == []


def test_the_audit_counts_every_kind_by_hand(make_coder: MakeCoder) -> None:
    coder = make_coder(attend_padding=True)
    text = "Seen by [**Doctor Lastname 12**] for heart failure and gout."
    document = coder.encode(text)
    subject = Subject(HilatTarget(coder), document, text, [0, 3])
    attention = global_token_attention(subject.token_attention, subject.chunk_attention)
    found = audit(attention, document, text)
    assert set(found) == set(KINDS)
    slow = {kind: np.zeros(2) for kind in KINDS}
    for c in range(document.input_ids.shape[0]):
        words = [t for t in range(document.input_ids.shape[1]) if document.word_index[c, t] >= 0]
        for t in range(document.input_ids.shape[1]):
            mass = attention[:, c, t]
            w = document.word_index[c, t]
            if document.attention_mask[c, t] == 0:
                slow["padding"] += mass
            elif w < 0:
                slow["special"] += mass
            else:
                start, end = document.word_spans[w]
                if text.index("[**") < start and end < text.index("**]") + 3:
                    slow["deidentified"] += mass
                if t in (words[0], words[-1]):
                    slow["chunk_border"] += mass
    for kind in ("padding", "special", "deidentified", "chunk_border"):
        np.testing.assert_allclose(found[kind][0], slow[kind], atol=1e-12)
    assert found["padding"][0].min() > 0  # the published function attends to it
    assert found["padding"][1] == 0
    masked = make_coder()
    subject = Subject(HilatTarget(masked), masked.encode(text), text, [0])
    assert audit(subject.attention, masked.encode(text), text)["padding"][0].max() == 0
    assert not kinds(document, text)["punctuation"].any()


def test_the_audit_is_among_the_attention_tests(make_coder: MakeCoder, note: str) -> None:
    coder = make_coder()
    admission = Admission("a1", note, ("584.9",))
    (one,) = collect(coder, [admission], choices=("584.9",))
    rows = {r.metric: r.value.value for r in attention_test_rows(coder, one, admission, trials=2, starts=1)}
    assert set(rows) == set(ATTENTION_TESTS)
    assert 0 < rows["mass_special"] < 1
    assert 0 < rows["even_chunk_border"] < 0.2

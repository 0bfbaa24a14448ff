"""The attention tests against closed forms and loops over positions."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from explain.attention_tests import (
    adversarial,
    attentions_of,
    js_nats,
    permutation,
    permuted,
    probabilities,
    share_until_flip,
    uniform,
    without,
    zero_out,
)
from explain.hilat_target import HilatTarget
from explain.randomisation import cascade
from explain.target import FrozenStates
from hilat.coder import Coder, forward

MakeCoder = Callable[..., Coder]


@pytest.fixture(scope="module")
def trusted(shared: Path) -> Any:
    return json.loads((shared / "vectors/attention_tests.json").read_text())


def one_chunk(d: Any) -> FrozenStates:
    """The reference's single attention as a note of one chunk."""
    double = {"dtype": torch.float64}
    return FrozenStates(
        torch.tensor(d["h"], **double)[None],
        torch.ones(1, 4, dtype=torch.bool),
        torch.ones(1, dtype=torch.bool),
        torch.tensor(d["alpha"], **double)[None, None],
        torch.ones(1, 1, **double),
        torch.tensor(d["theta"], **double)[None],
        torch.tensor([d["bias"]], **double),
        lambda vectors: torch.ones(len(vectors), 1, 1, **double),
    )


def test_outputs_under_permutation_zeroing_and_even_attention(trusted: Any) -> None:
    d = trusted
    at = attentions_of(one_chunk(d))
    assert float(probabilities(at, at.token, at.chunk)) == pytest.approx(d["y"], abs=1e-12)
    for order, expected in zip(d["permutations"], d["perm_outputs"], strict=True):
        assert float(probabilities(at, at.token[..., order])) == pytest.approx(expected, abs=1e-12)
    found = permutation(at, "token", trials=600)[0]
    expected = np.array(d["perm_abs_diff"])
    assert {round(x, 9) for x in found} == {round(x, 9) for x in expected}
    assert found.mean() == pytest.approx(d["perm_mean_tvd"], abs=0.015)
    assert np.median(found) == pytest.approx(d["perm_median_abs_diff_all_24"], abs=0.03)
    assert uniform(at, "token")[0] == pytest.approx(d["uniform_abs_diff"], abs=1e-12)
    for t, (output, js) in enumerate(zip(d["zero_each_renorm_output"], d["js_zero_each"], strict=True)):
        gone = torch.zeros(1, 1, 4, dtype=torch.bool)
        gone[0, 0, t] = True
        after = without(at, gone)
        assert float(after) == pytest.approx(output, abs=1e-12)
        assert float(js_nats(torch.tensor(d["y"], dtype=torch.float64), after[0])) == pytest.approx(js, abs=1e-12)
    (one,) = zero_out(at, np.array([0.5]), seed=1)
    assert one.top_js_nats.value == pytest.approx(d["js_zero_top1"], abs=1e-12)
    assert min(abs(one.difference.value - x) for x in d["delta_js_top1_vs_each"]) < 1e-12
    assert (one.top_flips.value, one.random_flips.value) == (1.0, 0.0)
    (share,) = share_until_flip(at, np.array(d["alpha"])[None, None], np.array([0.5]))
    assert share.value == d["serrano_fraction"]


def test_permuted_keeps_the_weights_of_each_row_and_leaves_the_rest() -> None:
    weights = torch.rand(3, 2, 6, dtype=torch.float64)
    mask = torch.tensor([[True, True, False, True, True, False], [True] * 6])
    weights = weights * mask
    found = permuted(weights, mask, torch.Generator().manual_seed(0))
    for k in range(3):
        for c in range(2):
            assert sorted(found[k, c, mask[c]].tolist()) == sorted(weights[k, c, mask[c]].tolist())
            assert not found[k, c, ~mask[c]].any()
    assert not torch.equal(found, weights)


@pytest.fixture(scope="module")
def real(make_coder: MakeCoder, note: str) -> tuple[Coder, Any]:
    coder = make_coder()
    return coder, attentions_of(HilatTarget(coder).frozen(coder.encode(note)))


def test_the_frozen_states_give_the_models_output(real: tuple[Coder, Any], note: str) -> None:
    coder, at = real
    expected = torch.sigmoid(forward(coder.model, [coder.encode(note)]).logits[0]).double()
    torch.testing.assert_close(probabilities(at, at.token, at.chunk), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(probabilities(at, at.token), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("level", ["token", "chunk", "both"])
@pytest.mark.parametrize("chunks", ["recomputed", "frozen"])
def test_levels_are_apart(real: tuple[Coder, Any], level: Any, chunks: Any) -> None:
    _, at = real
    found = permutation(at, level, trials=5, chunks=chunks)
    assert found.shape == (5, 5)
    assert (found > 0).any()
    np.testing.assert_array_equal(found, permutation(at, level, trials=5, chunks=chunks))
    even = uniform(at, level, chunks=chunks)
    seen, kept = at.states.seen, at.states.kept
    for k in range(5):  # token by token
        chunk = at.chunk[k] if level == "token" else kept.double() / kept.sum()
        if level == "token" and chunks == "recomputed":
            continue
        logit = float(at.bias[k])
        for c in range(len(kept)):
            for t in range(seen.shape[1]):
                weight = (
                    float(at.token[k, c, t]) if level == "chunk" else float(seen[c, t]) / max(1, int(seen[c].sum()))
                )
                logit += float(chunk[c]) * weight * float(at.values[k, c, t])
        before = float(probabilities(at, at.token, at.chunk)[k])
        assert even[k] == pytest.approx(abs(1 / (1 + math.exp(-logit)) - before), abs=1e-6)


def test_shares_until_the_flip_are_found_by_trying(real: tuple[Coder, Any]) -> None:
    _, at = real
    thresholds = np.full(5, 0.3)
    ranking = at.everywhere.numpy()
    found = share_until_flip(at, ranking, thresholds)
    before = probabilities(at, at.token, at.chunk)
    places = np.flatnonzero(at.states.seen.flatten().numpy())
    assert any(value.reason is None for value in found)
    for k, value in enumerate(found):
        order = places[np.argsort(-ranking[k].reshape(-1)[places], kind="stable")]
        slow = None
        for m in range(1, len(order)):
            gone = torch.zeros(5, at.token[0].numel(), dtype=torch.bool)
            gone[k, order[:m]] = True
            if float(without(at, gone.view_as(at.token))[k]) < 0.3:
                slow = m / len(order)
                break
        if float(before[k]) < 0.3:
            assert value.reason == "the code is not given"
        elif slow is None:
            assert value.reason == "it never flips"
        else:
            assert value.value == slow


def test_an_adversary_keeps_the_output_and_changes_the_attention(real: tuple[Coder, Any]) -> None:
    _, at = real
    found = adversarial(at, bound=0.01, starts=2, steps=120)
    assert all(one.change.value <= 0.01 for one in found)
    assert all(0 <= one.js_nats.value <= math.log(2) + 1e-9 for one in found)
    assert max(one.js_nats.value for one in found) > 0.3
    assert [one.js_nats for one in found] == [one.js_nats for one in adversarial(at, bound=0.01, starts=2, steps=120)]


def test_a_cascade_goes_down_from_the_classifier_and_leaves_the_model_alone(real: tuple[Coder, Any]) -> None:
    coder, _ = real
    before = {name: value.clone() for name, value in coder.model.state_dict().items()}
    changed: dict[str, list[str]] = {}
    for stage, model in cascade(coder.model, seed=0):
        changed[stage] = [n for n, v in model.state_dict().items() if not torch.equal(v, before[n])]
    assert list(changed) == ["classifier", "chunk attention", "token attention", "encoder layer 2", "encoder layer 1", "embeddings"]  # fmt: skip
    assert all(name.startswith("classifier.") for name in changed["classifier"])
    sizes = [len(names) for names in changed.values()]
    assert sizes == sorted(sizes)
    assert all(torch.equal(value, before[name]) for name, value in coder.model.state_dict().items())

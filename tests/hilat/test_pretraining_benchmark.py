"""The parts of the benchmark on CodiEsp that its conclusion hangs on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import XLNetConfig, XLNetLMHeadModel

from benchmarks.codiesp_pretraining import counts, scaled, subset
from hilat.admissions import Admission


def test_smaller_shares_are_parts_of_larger_ones() -> None:
    cases = [Admission(str(n), "text", ()) for n in range(40)]
    whole, half, quarter = (subset(cases, share, 3) for share in (1.0, 0.5, 0.25))
    assert (len(whole), len(half), len(quarter)) == (40, 20, 10)
    assert {c.hadm_id for c in quarter} < {c.hadm_id for c in half} < {c.hadm_id for c in whole}
    assert subset(cases, 0.5, 3) == half != subset(cases, 0.5, 4)


def test_counts_are_summed_over_seeds_per_case() -> None:
    rows = [{"tp": [1, 0], "fp": [0, 2], "fn": [1, 1]}, {"tp": [2, 1], "fp": [1, 0], "fn": [0, 0]}]
    assert counts(rows).tolist() == [[3, 1, 1], [1, 2, 1]]


def test_the_scale_of_the_states_goes_down_and_comes_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = XLNetLMHeadModel(XLNetConfig(vocab_size=20, d_model=8, n_layer=2, n_head=2, d_inner=8)).eval()
    with torch.no_grad():
        model.transformer.layer[1].ff.layer_norm.bias.normal_()
    model.save_pretrained(tmp_path / "a")
    scaled(tmp_path / "a", tmp_path / "b", 0.1)
    small = XLNetLMHeadModel.from_pretrained(tmp_path / "b").eval()
    ids = torch.arange(10)[None]
    with torch.no_grad():
        before, after = (m.transformer(ids, use_mems=False).last_hidden_state for m in (model, small))
    torch.testing.assert_close(after, 0.1 * before, rtol=1e-5, atol=1e-6)
    scaled(tmp_path / "b", tmp_path / "c", None)
    first, last = (load_file(tmp_path / name / "model.safetensors") for name in ("a", "c"))
    assert all(np.allclose(first[name], last[name], rtol=1e-5, atol=1e-7) for name in first)

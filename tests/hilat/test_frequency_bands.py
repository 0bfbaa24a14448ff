"""Bands of training frequency against scikit-learn on the columns of each band."""

from __future__ import annotations

import math
import warnings
from functools import partial

import numpy as np
import pytest
from sklearn.metrics import f1_score, precision_score, recall_score, roc_auc_score

from hilat.admissions import Admission, CodeBook, HilatError
from hilat.frequency_bands import EDGES, FrequencyBand, frequency_bands, training_counts
from hilat.metrics import evaluate_codes

SEEN = (0, 0, 1, 10, 11, 50, 51, 100, 101, 500, 501, 9000)  # both ends of every band


def scored() -> tuple[np.ndarray, np.ndarray, CodeBook]:
    """Scores and targets (40, 12) with empty columns, and their codes."""
    rng = np.random.default_rng(3)
    targets = (rng.random((40, 12)) < 0.3).astype(float)
    targets[:, [1, 6]] = 0
    scores = np.clip(rng.random((40, 12)) * 0.6 + targets * 0.3, 0, 1)
    scores[:, [1, 4]] *= 0.4  # never predicted
    return scores, targets, CodeBook(tuple(f"C{k}" for k in range(12)), ("",) * 12, ("diagnosis",) * 12)


def bands() -> tuple[FrequencyBand, ...]:
    """The bands of `scored`; codes never seen in training are not in the counts."""
    scores, targets, book = scored()
    m = evaluate_codes(scores, targets, 0.5, threshold_source="fixed 0.5", code_book=book)
    return frequency_bands(m.per_code, {f"C{k}": seen for k, seen in enumerate(SEEN) if seen})


def test_each_code_is_in_one_band_and_the_bands_add_up() -> None:
    found = bands()
    assert [band.name for band in found] == ["0", "1-10", "11-50", "51-100", "101-500", ">500"]
    assert [band.codes for band in found] == [2] * 6
    scores, targets, _ = scored()
    assert sum(band.positives for band in found) == targets.sum()
    assert sum(band.predicted for band in found) == (scores >= 0.5).sum()
    assert sum(band.true_positives for band in found) == ((scores >= 0.5) * targets).sum()


def test_each_band_is_what_scikit_learn_says_of_its_columns() -> None:
    scores, targets, _ = scored()
    for b, band in enumerate(bands()):
        s, y = scores[:, 2 * b : 2 * b + 2], targets[:, 2 * b : 2 * b + 2]
        given, there = s >= 0.5, y.sum(axis=0) > 0
        for name, of in (("precision", precision_score), ("recall", recall_score), ("f1", f1_score)):
            score = partial(of, zero_division=0)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                micro = score(y, given, average="micro")
                macro = np.mean([score(y[:, j], given[:, j]) for j in np.flatnonzero(there)])
            assert np.nan_to_num(getattr(band, f"micro_{name}")) == pytest.approx(micro, abs=1e-12), (band.name, name)
            assert getattr(band, f"macro_{name}") == pytest.approx(macro, abs=1e-12), (band.name, name)
        assert band.macro_f1_all == pytest.approx(f1_score(y, given, average="macro", zero_division=0), abs=1e-12)
        assert band.macro_auc == pytest.approx(roc_auc_score(y[:, there], s[:, there], average="macro"), abs=1e-12)
        assert band.present == band.codes_in_macro_auc == there.sum()


def test_a_band_without_codes_is_undefined_and_not_0() -> None:
    scores, targets, book = scored()
    m = evaluate_codes(scores, targets, 0.5, threshold_source="x", code_book=book)
    low, high = frequency_bands(m.per_code, {}, (0,))
    assert (low.codes, high.codes, high.name) == (12, 0, ">0")
    assert low.micro_f1 == pytest.approx(m.micro_f1)
    assert low.macro_f1 == pytest.approx(m.macro_f1_present)
    assert low.macro_f1_all == pytest.approx(m.macro_f1_mean_of_codes)
    assert high.to_dict()["macro_f1"] is None
    assert low.to_dict()["training_admissions"] == "0"
    assert all(math.isnan(x) for x in (high.micro_f1, high.macro_f1, high.macro_f1_all, high.macro_auc))


@pytest.mark.parametrize("edges", [(), (5, 5), (10, 1), (-1, 3)])
def test_edges_out_of_order_are_told(edges: tuple[int, ...]) -> None:
    with pytest.raises(HilatError, match="Put them in order"):
        frequency_bands((), {}, edges)


def test_training_counts() -> None:
    notes = (Admission("1", "a", ("A", "B")), Admission("2", "b", ("B",)), Admission("3", "c", ()))
    assert training_counts(iter(notes)) == {"A": 1, "B": 2}
    assert EDGES == (0, 10, 50, 100, 500)

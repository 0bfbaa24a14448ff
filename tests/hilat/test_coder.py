"""Model folders: what is saved comes back; what is damaged is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from explain.attention import attend
from hilat.admissions import CodeBook, HilatError
from hilat.cleaning import CleaningRules
from hilat.coder import CODER_FILE, WINDOW, Coder, checked_device, load_coder, predict, save_coder
from hilat.encoding import ChunkLayout
from hilat.model import build_model
from hilat.vocabulary import train_sentencepiece

NOTES = ["heart failure and fever, treated with water tablets", "no pain", "kidney failure after sepsis; fever again"]


@pytest.fixture(scope="module")
def coder(tmp_path_factory: pytest.TempPathFactory) -> Coder:
    tokenizer = train_sentencepiece(NOTES, tmp_path_factory.mktemp("t") / "t", vocab_size=60, seed=0)
    encoder = {"model_type": "xlnet", "vocab_size": len(tokenizer), "d_model": 8, "n_layer": 1, "n_head": 2, "d_inner": 8, "pad_token_id": tokenizer.pad_token_id}  # fmt: skip
    return Coder(
        build_model(encoder, 2, chunks=3, tokens=10, seed=0, init_std=0.5).eval(),
        tokenizer,
        CodeBook(("428.0", "584.9"), ("Heart failure", "Kidney failure"), ("diagnosis",) * 2, "ICD-9-CM"),
        CleaningRules(words="all", order="raw"),
        ChunkLayout(3, 10),
        np.array([0.4, 0.6]),
        "per code, tuned on val",
        {"seed": 0},
    )


def probabilities(coder: Coder, batch_size: int = 8) -> np.ndarray:
    return np.stack([p.probabilities for p in predict(coder, NOTES, batch_size=batch_size)])


def test_what_is_saved_comes_back(coder: Coder, tmp_path: Path) -> None:
    save_coder(coder, tmp_path / "m")
    again = load_coder(tmp_path / "m")
    np.testing.assert_array_equal(probabilities(again), probabilities(coder))
    for name in ("code_book", "rules", "layout", "threshold_source", "card"):
        assert getattr(again, name) == getattr(coder, name)
    np.testing.assert_array_equal(again.thresholds, coder.thresholds)
    assert not list((tmp_path / "m").glob("*.bin")) + list((tmp_path / "m").glob("*.pkl"))
    with pytest.raises(HilatError, match="--overwrite"):
        save_coder(coder, tmp_path / "m")


def test_the_batch_changes_nothing(coder: Coder) -> None:
    np.testing.assert_allclose(probabilities(coder, 1), probabilities(coder, 3), atol=1e-6)


def test_token_attention_of_the_codes_asked_for(coder: Coder) -> None:
    whole = list(predict(coder, NOTES, attentions=True))
    for codes in ([1], [1, 0], ()):
        for got, expected in zip(predict(coder, NOTES, attentions=True, attention_codes=codes), whole, strict=True):
            assert got.token_attention is not None
            assert expected.token_attention is not None
            np.testing.assert_array_equal(got.token_attention, expected.token_attention[list(codes)])
            np.testing.assert_array_equal(got.chunk_attention, expected.chunk_attention)
    for (_, words, outside), (_, all_words, all_outside) in zip(
        attend(coder, NOTES, columns=[1]), attend(coder, NOTES), strict=True
    ):
        np.testing.assert_array_equal(words, all_words[[1]])
        np.testing.assert_array_equal(outside, all_outside[[1]])


def test_nan_weights_are_refused(coder: Coder, tmp_path: Path) -> None:
    save_coder(coder, tmp_path / "m")
    from safetensors.torch import load_file, save_file

    weights = load_file(tmp_path / "m/model.safetensors")
    weights["classifier.bias"][0] = float("nan")
    save_file(weights, tmp_path / "m/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(HilatError, match=r"not finite: classifier\.bias"):
        load_coder(tmp_path / "m")


def test_damaged_folders_are_refused(coder: Coder, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    save_coder(coder, folder)
    with pytest.raises(HilatError, match="not a folder"):
        load_coder(tmp_path / "none")
    record = json.loads((folder / CODER_FILE).read_text())
    for damage, words in (
        ({k: v for k, v in record.items() if k != "codes"}, "lacks fields"),
        ({**record, "cleaning": {"word": "all"}}, "'word'"),
        ({**record, "codes": record["codes"][:1]}, "must agree"),
    ):
        (folder / CODER_FILE).write_text(json.dumps(damage))
        with pytest.raises(HilatError, match=words):
            load_coder(folder)
    (folder / CODER_FILE).write_text(json.dumps(record)[:40])
    with pytest.raises(HilatError, match="cannot be read as JSON"):
        load_coder(folder)
    (folder / CODER_FILE).unlink()
    with pytest.raises(HilatError, match="under model/"):
        load_coder(folder)


def test_devices_are_checked() -> None:
    assert checked_device("cpu") == torch.device("cpu")
    assert checked_device("auto").type in ("cpu", "cuda", "mps")
    with pytest.raises(HilatError, match="not known"):
        checked_device("abacus")
    if not torch.cuda.is_available():
        with pytest.raises(HilatError, match="not on this machine; it has cpu"):
            checked_device("cuda:1")


def test_predictions_keep_the_order_and_depend_on_their_window_only(coder: Coder) -> None:
    notes = [f"{NOTES[n % 3]} " * (1 + 7 * n % 5) for n in range(2 * WINDOW + 3)]
    whole = list(predict(coder, iter(notes), batch_size=4))
    for note, prediction in zip(notes, whole, strict=True):
        np.testing.assert_array_equal(prediction.document.input_ids, coder.encode(note).input_ids)
        alone = next(predict(coder, [note]))
        np.testing.assert_allclose(prediction.logits, alone.logits, atol=1e-5)
    second = list(predict(coder, notes[WINDOW : 2 * WINDOW], batch_size=4))
    for part, same in zip(second, whole[WINDOW : 2 * WINDOW], strict=True):
        np.testing.assert_array_equal(part.logits, same.logits)  # to the last bit

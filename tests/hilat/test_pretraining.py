"""Pretraining: it learns, it resumes, several processes agree, and what comes out is an encoder for training."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from torch import nn
from transformers import AutoModelForMaskedLM, T5Config, XLNetLMHeadModel

from hilat.admissions import HilatError
from hilat.building import make_model, make_tokenizer
from hilat.coder import load_coder, predict
from hilat.corpora import Corpus
from hilat.corpora.planted import PlantedSettings, make_planted
from hilat.encoders import products
from hilat.pretraining import pretrain
from hilat.pretraining_data import Notes
from hilat.pretraining_models import decay_groups, language_model, objective_of
from hilat.pretraining_notes import NoteSource
from hilat.pretraining_settings import PretrainingSettings
from hilat.settings import TrainingSettings
from hilat.training import complete_checkpoint, train
from hilat.vocabulary import load_tokenizer

TINY = PretrainingSettings(
    encoder="new:xlnet", new_layers=1, new_width=16, new_heads=2, new_vocabulary=90, sequence=16, held_out=0.2, steps=6,
    batch_size=4, warmup=1, learning_rate=1e-3, evaluate_every=3, held_out_sequences=20,
)  # fmt: skip
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Notes with a rule in them: the words of each follow one another in a fixed circle."""
    folder = tmp_path_factory.mktemp("texts")
    rng = np.random.default_rng(0)
    circle = [
        "acute",
        "renal",
        "failure",
        "with",
        "fever",
        "and",
        "chronic",
        "cough",
        "after",
        "left",
        "lung",
        "biopsy",
    ]
    for n in range(40):
        first = int(rng.integers(len(circle)))
        words = [circle[(first + k) % len(circle)] for k in range(rng.integers(15, 40))]
        (folder / f"n{n:02d}.txt").write_text(" ".join(words) + ".", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def notes(texts: Path) -> Notes:
    """The same as a source."""
    return Notes((NoteSource(str(texts)),))


def weights(run: Path) -> dict[str, np.ndarray]:
    """The weights of a run's encoder."""
    return load_file(run / "encoder" / "model.safetensors")


def same(one: dict[str, np.ndarray], two: dict[str, np.ndarray]) -> bool:
    """Bit for bit."""
    return one.keys() == two.keys() and all(np.array_equal(one[k], two[k]) for k in one)


def script(texts: Path, out: Path, settings: PretrainingSettings) -> str:
    """Code that pretrains, for another process."""
    return (
        "from pathlib import Path\n"
        "from hilat.pretraining import pretrain\n"
        "from hilat.pretraining_data import Notes\n"
        "from hilat.pretraining_notes import NoteSource\n"
        "from hilat.pretraining_settings import PretrainingSettings\n"
        f"notes = Notes((NoteSource({str(texts)!r}),))\n"
        f"pretrain(notes, PretrainingSettings(**{settings.to_dict()!r}), Path({str(out)!r}), device='cpu')\n"
    )


def environment() -> dict[str, str]:
    """Of a process of its own."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


# ------------------------------------------------------------------------------------------------------------- it learns
@pytest.mark.parametrize("encoder", ["new:xlnet", "new:bert"])
def test_a_short_pretraining_lowers_the_held_out_loss(encoder: str, notes: Notes, tmp_path: Path) -> None:
    settings = replace(TINY, encoder=encoder, steps=150, batch_size=8, learning_rate=5e-3, warmup=0.1, evaluate_every=75, dropout=0.0)  # fmt: skip
    result = pretrain(notes, settings, tmp_path / "run", device="cpu")
    steps = [m.step for m in result.held_out]
    assert steps == [0, 75, 150]
    before, _, after = (m.loss for m in result.held_out)
    assert abs(before - math.log(90)) < 1.5  # about even chances at the start
    assert after < 0.75 * before
    assert all(m.perplexity == pytest.approx(math.exp(m.loss)) for m in result.held_out)
    card = json.loads((result.encoder / "pretraining.json").read_text(encoding="utf-8"))
    assert card["objective"] == ("permutation" if encoder == "new:xlnet" else "masked")
    assert card["held_out"][-1]["loss"] == after
    assert card["statistics"][-1]["notes"] == 40
    assert card["vocabulary"] == {"origin": "learned from these notes", "size": 90}


def test_accumulated_batches_are_one_batch(notes: Notes, tmp_path: Path) -> None:
    whole = pretrain(notes, replace(TINY, dropout=0.0), tmp_path / "a", device="cpu")
    parts = pretrain(notes, replace(TINY, dropout=0.0, batch_size=2, accumulate=2), tmp_path / "b", device="cpu")
    np.testing.assert_allclose([x for _, x in parts.losses], [x for _, x in whole.losses], rtol=1e-5)


def test_nothing_held_out_is_told(notes: Notes, tmp_path: Path) -> None:
    result = pretrain(notes, replace(TINY, held_out=0.0), tmp_path / "run", device="cpu")
    assert math.isnan(result.held_out[0].loss)
    assert result.held_out[0].reason == "no note is held out (held_out is 0.0, of 40 notes)"
    card = json.loads((result.encoder / "pretraining.json").read_text(encoding="utf-8"))
    assert card["held_out"][0]["loss"] is None


def test_notes_apart_and_whole_words_with_workers(notes: Notes, tmp_path: Path) -> None:
    settings = replace(TINY, documents="apart", whole_words=True, sequence=64, workers=1)
    result = pretrain(notes, settings, tmp_path / "run", device="cpu")
    assert all(math.isfinite(m.loss) for m in result.held_out)


# ------------------------------------------------------------------------------------------------- the same numbers again
def test_a_killed_run_goes_on_and_ends_as_if_never_killed(texts: Path, notes: Notes, tmp_path: Path) -> None:
    settings = replace(TINY, steps=40, evaluate_every=4)
    code = script(texts, tmp_path / "killed", settings)
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    training = tmp_path / "killed" / "training"
    deadline = time.monotonic() + 200
    while complete_checkpoint(training) is None:
        assert process.poll() is None, process.stdout.read().decode()[-2000:] if process.stdout else ""
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "killed" / "encoder").exists()
    resumed = pretrain(notes, settings, tmp_path / "killed", device="cpu", resume=True)
    whole = pretrain(notes, settings, tmp_path / "whole", device="cpu")
    assert resumed.held_out == whole.held_out
    assert resumed.losses == whole.losses
    assert same(weights(tmp_path / "killed"), weights(tmp_path / "whole"))


def test_two_processes_have_the_losses_of_one(texts: Path, notes: Notes, tmp_path: Path) -> None:
    settings = replace(TINY, dropout=0.0)
    file = tmp_path / "run.py"
    file.write_text(script(texts, tmp_path / "two", settings), encoding="utf-8")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(file)]
    done = subprocess.run(launch, env=environment(), capture_output=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    one = pretrain(notes, settings, tmp_path / "one", device="cpu")
    two = json.loads((tmp_path / "two" / "pretraining.json").read_text(encoding="utf-8"))
    np.testing.assert_allclose([x for _, x in two["losses"]], [x for _, x in one.losses], rtol=1e-5)
    np.testing.assert_allclose([m["loss"] for m in two["card"]["held_out"]], [m.loss for m in one.held_out], rtol=1e-5)


# -------------------------------------------------------------------------------------------- an encoder for `hilat train`
@pytest.mark.parametrize("encoder", ["new:xlnet", "new:bert"])
def test_the_result_is_an_encoder_for_training(encoder: str, notes: Notes, tmp_path: Path) -> None:
    pretrained = pretrain(notes, replace(TINY, encoder=encoder, sequence=24), tmp_path / "pre", device="cpu").encoder
    planted = make_planted(PlantedSettings(seed=1, train=12, val=4, test=4))
    corpus = Corpus(tuple(planted.admissions), planted.code_book, planted.source)
    settings = TrainingSettings(
        encoder=str(pretrained), chunks=2, tokens=24, steps=2, batch_size=4, evaluate_every=2, warmup=1
    )
    model = make_model(settings, make_tokenizer(settings, [], tmp_path / "none"), corpus.code_book)
    kept = load_file(pretrained / "model.safetensors")
    inside = {name: value.numpy() for name, value in model.encoder.state_dict().items() if "pooler" not in name}
    assert inside
    prefix = "transformer." if encoder == "new:xlnet" else "bert."
    for name, value in inside.items():
        assert np.array_equal(value, kept[prefix + name]), name
    train(corpus, settings, tmp_path / "run", device="cpu")
    coder = load_coder(tmp_path / "run" / "model")
    assert all(np.isfinite(p.probabilities).all() for p in predict(coder, corpus.split("test")))


def test_pretraining_goes_on_from_its_own_result(notes: Notes, tmp_path: Path) -> None:
    first = pretrain(notes, TINY, tmp_path / "first", device="cpu")
    again = replace(TINY, encoder=str(first.encoder), learning_rate=1e-9, held_out=0.2)
    second = pretrain(notes, again, tmp_path / "second", device="cpu")
    assert second.card["started_anew"] == []
    assert second.held_out[0].loss == pytest.approx(first.held_out[-1].loss, rel=1e-6)


def test_a_new_vocabulary_starts_the_embeddings_anew_and_keeps_the_layers(notes: Notes, tmp_path: Path) -> None:
    first = pretrain(notes, TINY, tmp_path / "first", device="cpu").encoder
    settings = replace(TINY, encoder=str(first), tokenizer="new", new_vocabulary=70)
    result = pretrain(notes, settings, tmp_path / "second", device="cpu")
    assert "transformer.word_embedding.weight" in result.card["started_anew"]
    assert result.card["vocabulary"]["size"] == 70
    tokenizer = load_tokenizer(result.encoder)
    model, _ = language_model(settings, tokenizer, [])
    kept = load_file(first / "model.safetensors")
    assert model.config.vocab_size == 70
    assert np.array_equal(model.state_dict()["transformer.layer.0.ff.layer_1.weight"], kept["transformer.layer.0.ff.layer_1.weight"])  # fmt: skip


@pytest.mark.parametrize("encoder", ["new:xlnet", "new:bert", "loaded"])
def test_large_products_by_the_faster_library(
    encoder: str, notes: Notes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All linear layers of new and of loaded models, where another library than torch's is faster; none elsewhere."""
    first = pretrain(notes, TINY, tmp_path / "first", device="cpu").encoder
    settings = replace(TINY, encoder=str(first) if encoder == "loaded" else encoder, sequence=24)
    for missing, kind in ((None, products.Linear), ("another processor", nn.Linear)):
        monkeypatch.setattr(products, "missing", lambda missing=missing: missing)
        model, _ = language_model(settings, load_tokenizer(first), [])
        assert {type(part) for part in model.modules() if isinstance(part, nn.Linear)} == {kind}


def test_a_bare_encoder_gets_a_new_head_and_says_so(notes: Notes, tmp_path: Path) -> None:
    first = pretrain(notes, replace(TINY, encoder="new:bert", sequence=24), tmp_path / "first", device="cpu").encoder
    bare = tmp_path / "bare"
    AutoModelForMaskedLM.from_pretrained(first).base_model.save_pretrained(bare)
    load_tokenizer(first).save_pretrained(bare)
    result = pretrain(notes, replace(TINY, encoder=str(bare)), tmp_path / "second", device="cpu")
    assert any("cls.predictions" in name for name in result.card["started_anew"])
    assert not any(name.startswith("bert.") for name in result.card["started_anew"])


def test_biases_and_normalisation_do_not_decay(notes: Notes, tmp_path: Path) -> None:
    first = pretrain(notes, TINY, tmp_path / "first", device="cpu").encoder
    model = XLNetLMHeadModel.from_pretrained(first)
    names = {id(p): name for name, p in model.named_parameters()}
    decayed, free = (sorted(names[id(p)] for p in group["params"]) for group in decay_groups(model, 0.01))
    assert sorted(decayed + free) == sorted(names.values())
    assert all("norm" in name or "bias" in name or name.endswith("bias") for name in free)
    assert "transformer.layer.0.rel_attn.q" in decayed
    assert "transformer.mask_emb" in decayed


# ----------------------------------------------------------------------------------------------------------------- errors
def test_families() -> None:
    for family in ("bert", "roberta", "distilbert", "electra", "longformer", "big_bird"):
        assert objective_of(family, "auto") == "masked"
    assert objective_of("xlnet", "auto") == "permutation"
    for family in ("t5", "gpt2", "bart", "llama"):
        with pytest.raises(HilatError, match=f"the encoder is a {family}; expected XLNet"):
            objective_of(family, "auto")
    with pytest.raises(HilatError, match="does not go with a xlnet"):
        objective_of("xlnet", "masked")


def test_what_cannot_be_pretrained_leaves_nothing_behind(notes: Notes, tmp_path: Path) -> None:
    t5 = tmp_path / "t5"
    T5Config(vocab_size=90).save_pretrained(t5)
    first = pretrain(notes, replace(TINY, encoder="new:bert"), tmp_path / "first", device="cpu").encoder
    other = tmp_path / "other"
    AutoModelForMaskedLM.from_pretrained(first).save_pretrained(other)
    second = pretrain(notes, replace(TINY, new_vocabulary=70), tmp_path / "second", device="cpu").encoder
    load_tokenizer(second).save_pretrained(other)
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "a.txt").write_text("  \n", encoding="utf-8")
    nothing = Notes((NoteSource(str(empty)),))
    cases: list[tuple[dict[str, Any], Notes, str]] = [
        ({"encoder": str(t5)}, notes, "the encoder is a t5"),
        ({"encoder": str(tmp_path / "none")}, notes, "does not load as an encoder"),
        ({"encoder": str(other)}, notes, "70 tokens and the encoder 90 embeddings"),
        ({"encoder": str(first), "sequence": 64}, notes, "positions for 16 tokens"),
        ({"objective": "masked"}, notes, "does not go with"),
        ({}, nothing, "no text was given|holds no note with text"),
        ({"encoder": str(first)}, nothing, "holds no note with text"),
        ({"encoder": str(first), "held_out": 0.999999}, notes, "40 are held out"),
    ]
    for changed, source, message in cases:
        with pytest.raises(HilatError, match=message):
            pretrain(source, replace(TINY, **changed), tmp_path / "run", device="cpu")
        assert not (tmp_path / "run").exists(), message


def test_a_run_is_not_overwritten_and_not_resumed_with_other_settings(notes: Notes, tmp_path: Path) -> None:
    settings = replace(TINY, steps=1, evaluate_every=1)
    pretrain(notes, settings, tmp_path / "run", device="cpu")
    with pytest.raises(HilatError, match="--resume"):
        pretrain(notes, settings, tmp_path / "run", device="cpu")
    with pytest.raises(HilatError, match="learning_rate differ"):
        pretrain(notes, replace(settings, learning_rate=1e-4), tmp_path / "run", device="cpu", resume=True)


def test_a_diverging_run_is_told(notes: Notes, tmp_path: Path) -> None:
    with pytest.raises(HilatError, match="diverged"):
        pretrain(notes, replace(TINY, learning_rate=1e30), tmp_path / "run", device="cpu")


# ----------------------------------------------------------------------------------------------------------- command line
def test_the_command(texts: Path, tmp_path: Path, run: Callable[..., Any]) -> None:
    config = tmp_path / "pretrain.yaml"
    given = {name: value for name, value in TINY.to_dict().items() if value is not None and name != "encoder"}
    config.write_text("\n".join(f"{name}: {json.dumps(value)}" for name, value in given.items()), encoding="utf-8")
    common = ("pretrain", "--notes", texts, "--encoder", "new:xlnet", "--config", config, "--device", "cpu")
    answer = run(*common, "--out", tmp_path / "run")
    assert answer.code == 0, answer.said
    assert "Held-out notes" in answer.out
    assert "encoder written to" in answer.out
    answer = run(*common, "--out", tmp_path / "run", "--resume", "--json")
    assert answer.json["steps"] == 6
    assert run(*common, "--out", tmp_path / "x", "--set", "chunks=3").code == 2
    answer = run("pretrain", "--notes", tmp_path / "none", "--encoder", "new:xlnet", "--out", tmp_path / "y")
    assert answer.code == 1
    assert "no notes that are known" in answer.said

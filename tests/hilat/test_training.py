"""Training: seeds, a kill in the middle, several processes, wrong settings."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hilat import training
from hilat.admissions import HilatError
from hilat.batches import ByLength
from hilat.building import make_model, parameter_groups, start_biases
from hilat.corpora import Corpus, read_corpus, write_corpus
from hilat.corpora.planted import PlantedSettings, make_planted
from hilat.settings import TrainingSettings
from hilat.training import Collator, EncodedSplit, complete_checkpoint, optimiser_steps, train
from hilat.vocabulary import train_sentencepiece

TINY = TrainingSettings(
    encoder="new:xlnet",
    new_layers=1,
    new_width=16,
    new_heads=2,
    new_vocabulary=300,
    chunks=3,
    tokens=48,
    steps=6,
    batch_size=4,
    learning_rate=1e-3,
    warmup=2,
    evaluate_every=2,
)
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def corpus_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small built-in corpus on disk."""
    made = make_planted(PlantedSettings(seed=1, train=24, val=8, test=8))
    folder = tmp_path_factory.mktemp("corpus") / "planted"
    write_corpus(folder, made.admissions, made.code_book, source=made.source, notes=made.notes)
    return folder


@pytest.fixture(scope="module")
def corpus(corpus_folder: Path) -> Corpus:
    """The same in memory."""
    return read_corpus(corpus_folder)


def weights(run: Path) -> dict[str, np.ndarray]:
    """The weights of a run's model."""
    from safetensors.numpy import load_file

    return load_file(run / "model" / "model.safetensors")


def same(one: dict[str, np.ndarray], two: dict[str, np.ndarray]) -> bool:
    """Bit for bit."""
    return one.keys() == two.keys() and all(np.array_equal(one[k], two[k]) for k in one)


def in_a_process(code: str, *, processes: int = 1, wait: bool = True) -> subprocess.Popen[bytes]:
    """Run Python code in a process of its own, or in several under torchrun."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-c", code]
    if processes > 1:
        script = Path(code)
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command = [*launch, str(script)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if wait:
        output, _ = process.communicate(timeout=240)
        assert process.returncode == 0, output.decode()[-3000:]
    return process


def script(corpus_folder: Path, out: Path, settings: TrainingSettings) -> str:
    """Code that trains, for another process."""
    return (
        "from pathlib import Path\n"
        "from hilat.corpora import read_corpus\n"
        "from hilat.settings import settings_from\n"
        "from hilat.training import train\n"
        f"train(read_corpus(Path({str(corpus_folder)!r})), settings_from({settings.to_dict()!r}), "
        f"Path({str(out)!r}), device='cpu')\n"
    )


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(corpus: Corpus, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        result = train(corpus, replace(TINY, seed=seed), tmp_path / name, device="cpu")
        assert result.steps == 6
        assert [row["step"] for row in result.evaluations] == [2, 4, 6]
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert not same(weights(tmp_path / "a"), weights(tmp_path / "c"))
    record = json.loads((tmp_path / "a" / "settings.json").read_text(encoding="utf-8"))
    assert record["settings"]["steps"] == 6
    assert record["seed"] == 0
    assert record["versions"]["torch"]


def test_a_killed_run_goes_on_and_ends_as_if_never_killed(corpus_folder: Path, corpus: Corpus, tmp_path: Path) -> None:
    settings = replace(TINY, steps=40, evaluate_every=4, patience=0)
    process = in_a_process(script(corpus_folder, tmp_path / "killed", settings), wait=False)
    training = tmp_path / "killed" / "training"
    deadline = time.monotonic() + 200
    while complete_checkpoint(training) is None:
        assert process.poll() is None, process.stdout.read().decode()[-2000:] if process.stdout else ""
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "killed" / "model").exists()
    (training / "checkpoint-4000").mkdir()  # one that was cut off while it was written
    (training / "checkpoint-4000" / "trainer_state.json").write_text('{"epo', encoding="utf-8")
    resumed = train(corpus, settings, tmp_path / "killed", device="cpu", resume=True)
    whole = train(corpus, settings, tmp_path / "whole", device="cpu")
    assert resumed.steps == whole.steps == 40
    assert same(weights(tmp_path / "killed"), weights(tmp_path / "whole"))


def test_two_processes_have_the_loss_of_one(corpus_folder: Path, corpus: Corpus, tmp_path: Path) -> None:
    settings = replace(TINY, dropout=0.0, steps=4, evaluate_every=4)
    file = tmp_path / "run.py"
    file.write_text(script(corpus_folder, tmp_path / "two", settings), encoding="utf-8")
    in_a_process(str(file), processes=2)
    one = train(corpus, settings, tmp_path / "one", device="cpu")
    two = json.loads((tmp_path / "two" / "training.json").read_text(encoding="utf-8"))
    assert [step for step, _ in two["losses"]] == [step for step, _ in one.losses]
    np.testing.assert_allclose([x for _, x in two["losses"]], [x for _, x in one.losses], rtol=1e-5)


def test_another_process_leaves_the_run_s_folder_to_the_first(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Until the first has cleared and begun it: here it never does, and the other comes as far as the trainer, which needs it."""
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(training, "_trainer", lambda *_: (_ for _ in ()).throw(ZeroDivisionError))
    with pytest.raises(ZeroDivisionError):
        train(corpus, replace(TINY, steps=1, evaluate_every=1), tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_a_run_is_not_overwritten_and_not_resumed_with_other_settings(corpus: Corpus, tmp_path: Path) -> None:
    settings = replace(TINY, steps=1, evaluate_every=1)
    train(corpus, settings, tmp_path / "run", device="cpu")
    with pytest.raises(HilatError, match="--resume"):
        train(corpus, settings, tmp_path / "run", device="cpu")
    with pytest.raises(HilatError, match="learning_rate differ"):
        train(corpus, replace(settings, learning_rate=1e-4), tmp_path / "run", device="cpu", resume=True)


def test_batches_by_length_hold_documents_of_similar_length_and_each_once() -> None:
    lengths = np.random.default_rng(0).permutation(np.arange(1003))
    sampler = ByLength(lengths.tolist(), 4, seed=5)
    epochs = []
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        order = list(sampler)
        assert sorted(order) == list(range(1003))
        assert order == list(sampler)
        whole = lengths[order][:1000].reshape(-1, 4)
        # Five pools of 200 documents each: neighbours in a pool are about five apart in length, at random 400.
        assert np.median(np.ptp(whole, axis=1)) < 30
        firsts = whole[:, 0]
        assert abs(np.corrcoef(firsts[:-1], firsts[1:])[0, 1]) < 0.3  # batches themselves come in random order
        epochs.append(order)
    assert epochs[0] != epochs[1]
    assert list(ByLength(lengths.tolist(), 4, seed=6)) != epochs[0]
    assert sorted(ByLength([3, 1], 4, seed=0)) == [0, 1]


def test_a_run_by_length_resumes_to_the_same_weights(corpus: Corpus, tmp_path: Path) -> None:
    """Stopped in its second epoch of six batches."""
    settings = replace(TINY, batches="by_length", steps=10, evaluate_every=8)
    train(corpus, settings, tmp_path / "whole", device="cpu")
    shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
    shutil.rmtree(tmp_path / "resumed" / "model")
    shutil.rmtree(tmp_path / "resumed" / "training" / "checkpoint-10")
    train(corpus, settings, tmp_path / "resumed", device="cpu", resume=True)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "resumed"))
    at_random = train(corpus, replace(settings, batches="random"), tmp_path / "random", device="cpu")
    assert at_random.steps == 10
    assert not same(weights(tmp_path / "whole"), weights(tmp_path / "random"))


def test_tuning_needs_a_validation_split(corpus: Corpus, tmp_path: Path) -> None:
    bare = Corpus(corpus.split("train"), corpus.code_book, corpus.source)
    with pytest.raises(HilatError, match="val split"):
        train(bare, replace(TINY, threshold="global"), tmp_path / "run", device="cpu")
    result = train(bare, replace(TINY, steps=2), tmp_path / "run2", device="cpu")
    assert result.coder.threshold_source == "fixed 0.5"
    assert result.evaluations == ()


def test_tuned_thresholds_and_early_stopping(corpus: Corpus, tmp_path: Path) -> None:
    settings = replace(
        TINY, threshold="per_code", patience=1, steps=30, learning_rate=1e-9, embedding_learning_rate=1e-9
    )
    result = train(corpus, settings, tmp_path / "run", device="cpu")
    assert result.steps < 30
    assert "per_code, tuned on val" in result.coder.threshold_source


def test_a_diverging_run_is_told(corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(HilatError, match="diverged"):
        train(corpus, replace(TINY, learning_rate=1e30, evaluate_every=6), tmp_path / "r", device="cpu")


def test_every_trainable_parameter_is_in_one_group_with_its_rate(corpus: Corpus, tmp_path: Path) -> None:
    settings = replace(TINY, embedding_learning_rate=2e-3, head_learning_rate=3e-3)
    tokenizer = train_sentencepiece([a.text for a in corpus.split("train")], tmp_path / "t", vocab_size=300)
    model = make_model(settings, tokenizer, corpus.code_book)
    rate_of = {}
    for group in parameter_groups(model, settings):
        for parameter in group["params"]:
            assert id(parameter) not in rate_of
            rate_of[id(parameter)] = (group["lr"], group["weight_decay"])
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            assert id(parameter) not in rate_of
            continue
        rate, decay = rate_of[id(parameter)]
        expected = 2e-3 if "word_embedding" in name else 1e-3 if name.startswith("encoder.") else 3e-3
        assert rate == expected, name
        assert decay == (0.0 if parameter.ndim == 1 or "norm" in name else settings.weight_decay), name


def test_biases_start_at_the_base_rates(corpus: Corpus, tmp_path: Path) -> None:
    tokenizer = train_sentencepiece([a.text for a in corpus.split("train")], tmp_path / "t", vocab_size=300)
    model = make_model(TINY, tokenizer, corpus.code_book)
    targets = corpus.code_book.targets([a.codes for a in corpus.split("train")])
    start_biases(model, targets)
    k = int(targets.sum(axis=0).argmax())
    share = (targets[:, k].sum() + 0.5) / (len(targets) + 1)
    assert torch.sigmoid(model.classifier.bias[k]).item() == pytest.approx(share, rel=1e-5)


def test_token_dropout_masks_words_only_and_only_in_training(corpus: Corpus, tmp_path: Path) -> None:
    from hilat.building import cleaning_of, layout_of

    tokenizer = train_sentencepiece([a.text for a in corpus.split("train")], tmp_path / "t", vocab_size=300)
    rows = EncodedSplit(corpus.split("train"), tokenizer, layout_of(TINY), cleaning_of(TINY), corpus.code_book)
    batch = [rows[n] for n in range(4)]
    plain, masked = Collator()(batch), Collator(tokenizer.mask_token_id, 0.5)(batch)
    changed = plain["input_ids"] != masked["input_ids"]
    in_words = torch.from_numpy(np.stack([row["document"].word_index for row in batch]) >= 0)
    assert bool((masked["input_ids"][changed] == tokenizer.mask_token_id).all())
    assert not bool((changed & ~in_words).any())
    assert 0.3 < float(changed[in_words].float().mean()) < 0.7
    with torch.no_grad():
        quiet = Collator(tokenizer.mask_token_id, 0.5)(batch)
    assert torch.equal(quiet["input_ids"], plain["input_ids"])


def test_steps_from_epochs() -> None:
    assert optimiser_steps(replace(TINY, epochs=2.0), 9) == 6
    assert optimiser_steps(replace(TINY, epochs=2.0, accumulate=2), 9) == 4
    assert optimiser_steps(TINY, 9) == 6


def test_a_run_that_cannot_start_leaves_nothing_behind(corpus: Corpus, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(HilatError, match="tokenizer"):
        train(corpus, replace(TINY, encoder=str(tmp_path / "nothing")), out, device="cpu")
    assert not out.exists()

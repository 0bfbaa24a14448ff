"""Own vocabularies: the fast tokenizer cuts as SentencePiece does, and comes back from disk the same."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import sentencepiece
from transformers import AutoTokenizer, CanineTokenizer, XLNetConfig

from hilat.admissions import HilatError
from hilat.encoding import check_tokenizer
from hilat.vocabulary import load_tokenizer, train_sentencepiece

TEXTS = [
    "acute on chronic systolic heart failure with preserved function",
    "chronic heart failure and acute renal failure after cardiac surgery",
    "último mes con fiebre y tos, corazón y riñón sin cambios",
    "congestive heart failure exacerbation, acute respiratory failure",
] * 5


def test_the_fast_tokenizer_cuts_as_sentencepiece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[bytes] = []
    original = sentencepiece.SentencePieceProcessor

    def remember(model_proto: bytes) -> sentencepiece.SentencePieceProcessor:
        kept.append(model_proto)
        return original(model_proto=model_proto)

    monkeypatch.setattr(sentencepiece, "SentencePieceProcessor", remember)
    tokenizer = train_sentencepiece(TEXTS, tmp_path / "t", vocab_size=120)
    oracle = original(model_proto=kept[0])
    for text in [*TEXTS, "heart of a riñón", "function xyz failure", "a", "corazón  corazón"]:
        assert tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids == oracle.encode(text)


def test_saved_loaded_and_trained_again_are_the_same(tmp_path: Path) -> None:
    one = train_sentencepiece(TEXTS, tmp_path / "one", vocab_size=100)
    two = train_sentencepiece(TEXTS, tmp_path / "two", vocab_size=100)
    again = AutoTokenizer.from_pretrained(tmp_path / "one")
    assert one.get_vocab() == two.get_vocab() == again.get_vocab()
    assert again("heart failure").input_ids == one("heart failure").input_ids
    assert len(one) == 100
    assert (one.unk_token_id, one.pad_token_id) == (0, 5)
    check_tokenizer(one, 100)


def test_a_sequence_ends_with_sep_and_cls(tmp_path: Path) -> None:
    tokenizer = train_sentencepiece(TEXTS, tmp_path / "t", vocab_size=100)
    assert tokenizer("heart").input_ids[-2:] == [tokenizer.sep_token_id, tokenizer.cls_token_id]


def test_accents_survive(tmp_path: Path) -> None:
    tokenizer = train_sentencepiece(TEXTS, tmp_path / "t", vocab_size=150)
    assert (
        tokenizer.decode(tokenizer.backend_tokenizer.encode("último riñón", add_special_tokens=False).ids)
        == "último riñón"
    )


def test_a_vocabulary_that_the_texts_cannot_fill_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HilatError, match="do not fill a vocabulary of 5000"):
        train_sentencepiece(TEXTS, tmp_path / "t", vocab_size=5000)
    assert not (tmp_path / "t").exists()
    with pytest.raises(HilatError, match="no text"):
        train_sentencepiece(["  "], tmp_path / "t", vocab_size=50)


def test_loading_nothing_and_damage_is_told(tmp_path: Path) -> None:
    with pytest.raises(HilatError, match=r"no tokenizer\.json"):
        load_tokenizer(tmp_path)
    train_sentencepiece(TEXTS, tmp_path / "t", vocab_size=100)
    (tmp_path / "t" / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(HilatError, match="tokenizer"):
        load_tokenizer(tmp_path / "t")


def test_a_tokenizer_of_another_size_is_refused(tmp_path: Path) -> None:
    tokenizer = train_sentencepiece(TEXTS, tmp_path / "t", vocab_size=100)
    with pytest.raises(HilatError, match="100 tokens and the encoder 200"):
        check_tokenizer(tokenizer, 200)


def test_too_small_and_shrunk_vocabularies(tmp_path: Path) -> None:
    characters = len(set("".join(TEXTS).replace(" ", "▁")))
    for size in (5, 20):
        with pytest.raises(HilatError, match=r"expected (more than 9|at least)") as caught:
            train_sentencepiece(TEXTS, tmp_path / "t", vocab_size=size)
        assert "heart" not in str(caught.value)
    assert len(train_sentencepiece(TEXTS, tmp_path / "t", vocab_size=9 + characters)) == 9 + characters
    with pytest.raises(HilatError, match=r"expected at most (\d+)") as caught:
        train_sentencepiece(TEXTS, tmp_path / "t", vocab_size=5000)
    most = int(re.search(r"at most (\d+)", str(caught.value))[1])  # type: ignore[index]
    assert len(train_sentencepiece(TEXTS, tmp_path / "t", vocab_size=most)) == most
    assert len(train_sentencepiece(TEXTS, tmp_path / "s", vocab_size=5000, shrink=True)) == most


def test_texts_are_read_once_and_not_written(tmp_path: Path) -> None:
    read: list[str] = []

    def reading() -> Iterator[str]:
        for text in TEXTS:
            read.append(text)
            yield text

    train_sentencepiece(reading(), tmp_path / "t", vocab_size=100)
    assert read == TEXTS
    assert [path.name for path in tmp_path.iterdir()] == ["t"]
    assert sorted(path.name for path in (tmp_path / "t").iterdir()) == ["tokenizer.json", "tokenizer_config.json"]
    assert not any(text in path.read_text(encoding="utf-8") for text in TEXTS for path in (tmp_path / "t").iterdir())


def test_rare_characters_can_go_without_a_piece(tmp_path: Path) -> None:
    texts = [*TEXTS * 20, "β"]
    assert "β" in train_sentencepiece(texts, tmp_path / "all", vocab_size=100).get_vocab()
    assert (
        "β" not in train_sentencepiece(texts, tmp_path / "most", vocab_size=100, character_coverage=0.999).get_vocab()
    )


def test_beside_an_encoder_it_is_still_the_same(tmp_path: Path) -> None:
    """transformers picks a tokenizer class by the folder's config.json; ours must not become another one."""
    own = train_sentencepiece(TEXTS, tmp_path / "t", vocab_size=120)
    XLNetConfig(vocab_size=120, d_model=8, n_head=2, n_layer=1, d_inner=8).save_pretrained(tmp_path / "t")
    again = load_tokenizer(tmp_path / "t")
    for text in [*TEXTS, "Corazón y RIÑÓN, xyz β"]:
        assert again(text).input_ids == own(text).input_ids


def test_special_tokens_have_the_ids_of_xlnet(tmp_path: Path) -> None:
    tokenizer = train_sentencepiece(TEXTS, tmp_path / "t", vocab_size=100)
    names = ["<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>", "<eod>", "<eop>"]
    assert tokenizer.convert_tokens_to_ids(names) == list(range(9))
    assert tokenizer.mask_token_id == 6


@pytest.mark.parametrize("name", ["./nowhere", "../no/such", "/no/such/folder", "a/b/c", Path("nowhere")])
def test_a_path_that_is_not_there_is_not_looked_up_on_the_network(name: str | Path) -> None:
    with pytest.raises(HilatError, match="is not a folder"):
        load_tokenizer(name)


def test_a_slow_tokenizer_is_refused() -> None:
    with pytest.raises(HilatError, match="slow one"):
        check_tokenizer(CanineTokenizer(), 10)

"""Encoding: chunks as published, every token its word, every word its place, with three families of tokenizers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast, XLNetTokenizerFast

from hilat.admissions import Admission, HilatError
from hilat.cleaning import CleaningRules, clean
from hilat.encoding import (
    ChunkLayout,
    EncodedDocument,
    check_tokenizer,
    collate,
    encode,
    outside_words,
    seen_words,
    special_frame,
    tokenise,
    tokens_to_words,
)
from hilat.vocabulary import train_sentencepiece

NOTE = (
    "Service: MEDICINE\nHistory of Present Illness:\nÚltimo mes: fiebre, acute-on-chronic ﬁbrosis 12 of h1n1 "
    "hydroxychloroquine; ½ neumoni\u0301a.\nDischarge Diagnosis:\nSepsis, electroencephalographically\nBrief Hospital "
    "Course:\nWorld 世界 naïve β-blocker a I x\nAddendum:\nlast word pneumonoultramicroscopicsilicovolcanoconiosis"
)
TEXTS = [NOTE.lower(), "heart failure acute chronic sepsis fever of the lung", "service addendum course word"] * 3
SPECIAL = {"unk_token": "<unk>", "cls_token": "<cls>", "sep_token": "<sep>", "pad_token": "<pad>"}


def bert() -> PreTrainedTokenizerBase:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(TEXTS, trainers.WordPieceTrainer(vocab_size=120, special_tokens=names))
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]"
    )


def roberta() -> PreTrainedTokenizerBase:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=330, special_tokens=names, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", cls_token="<s>", sep_token="</s>", pad_token="<pad>"
    )


def xlnet() -> PreTrainedTokenizerBase:
    """XLNet's framing and normaliser around few pieces, so that lone `▁` pieces and split ligatures come up."""
    letters = sorted(set("".join(TEXTS)) | set("abcdefghijklmnopqrstuvwxyz0123456789"))
    names = ["<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>", "<eod>", "<eop>"]
    pieces = [(name, 0.0) for name in names] + [("▁", -1.0), ("▁s", -1.5), ("ep", -2.0), ("sis", -2.0), ("▁of", -1.0)]
    pieces += [(letter, -4.0) for letter in letters if not letter.isspace()]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A:0 <sep>:0 <cls>:2", special_tokens=[("<sep>", 4), ("<cls>", 3)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, padding_side="left", **SPECIAL)


TOKENIZERS: dict[str, Callable[[], PreTrainedTokenizerBase]] = {"xlnet": xlnet, "bert": bert, "roberta": roberta}


@pytest.fixture(scope="module")
def made() -> dict[str, PreTrainedTokenizerBase]:
    return {name: make() for name, make in TOKENIZERS.items()}


def slow_owner(words: tuple[str, ...], tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """Ids and words of the tokens, each word tokenised alone: right for tokenizers that never cross a space."""
    ids, owner = [], []
    for w, word in enumerate(words):
        before = " " if w and tokenizer.backend_tokenizer.pre_tokenizer.__class__.__name__ == "ByteLevel" else ""
        alone = tokenizer.backend_tokenizer.encode(before + word, add_special_tokens=False).ids
        ids += alone
        owner += [w] * len(alone)
    return ids, owner


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("kind", ["alphabetic", "all"])
def test_each_token_has_its_word(made: dict[str, PreTrainedTokenizerBase], name: str, kind: Any) -> None:
    words = clean(NOTE, CleaningRules(words=kind)).words
    ids, owner = tokenise(words, made[name])
    slow_ids, slow = slow_owner(words, made[name])
    assert ids.tolist() == slow_ids
    assert owner.tolist() == slow
    assert owner.max() == len(words) - 1  # the last word is there


def test_a_lone_mark_and_a_ligature(made: dict[str, PreTrainedTokenizerBase]) -> None:
    """Spans of sub-words are not a partition of the text: a `▁` shares a span, a ligature gives two pieces one."""
    encoding = made["xlnet"]("x ﬁ", add_special_tokens=False, return_offsets_mapping=True)
    spans = encoding["offset_mapping"]
    assert made["xlnet"].convert_ids_to_tokens(encoding["input_ids"]) == ["▁", "x", "▁", "f", "i"]
    assert spans[3] == spans[4]
    assert tokenise(["x", "ﬁ"], made["xlnet"])[1].tolist() == [0, 0, 1, 1, 1]


@settings(max_examples=60, deadline=None)
@given(words=st.lists(st.text(alphabet="abİﬁé\u0301β世½²Ⅷ㎏x'-.,_ſ٣", min_size=1, max_size=12), min_size=1, max_size=8))
def test_owners_never_go_back_and_every_family_covers_its_words(words: list[str]) -> None:
    for name, tokenizer in FAMILIES().items():
        _, owner = tokenise(words, tokenizer)
        assert (np.diff(owner) >= 0).all(), name
        if name != "bert":  # BERT's normaliser may leave nothing of an accent on its own
            assert set(owner.tolist()) == set(range(len(words))), name


def FAMILIES(_kept: dict[str, PreTrainedTokenizerBase] = {}) -> dict[str, PreTrainedTokenizerBase]:  # noqa: B006, N802
    if not _kept:
        _kept.update({name: make() for name, make in TOKENIZERS.items()})
    return _kept


def slow_chunks(
    ids: list[int], owner: list[int], chunks: int, tokens: int, name: str, tokenizer: PreTrainedTokenizerBase
) -> list[list[tuple[int, int, int, int]]]:
    """(id, mask, type, word) of each position of each chunk, token by token."""
    cls, sep, pad = tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id
    rows = []
    for c in range(chunks):
        row = [] if name == "xlnet" else [(cls, 1, 0, -1)]
        for n in range(c * (tokens - 2), min((c + 1) * (tokens - 2), len(ids))):
            row.append((ids[n], 1, 0, owner[n]))
        row.append((sep, 1, 0, -1))
        if name == "xlnet":
            row.append((cls, 1, 2, -1))
        while len(row) < tokens:
            row.append((pad, 0, 3 if name == "xlnet" else 0, -1))
        rows.append(row)
    return rows


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize(("chunks", "tokens"), [(3, 7), (2, 3), (40, 16), (1, 400)])
def test_chunks_are_filled_one_after_the_other(
    made: dict[str, PreTrainedTokenizerBase], name: str, chunks: int, tokens: int
) -> None:
    document = encode(Admission("7", NOTE, ()), made[name], ChunkLayout(chunks, tokens))
    words = clean(NOTE).words
    ids, owner = slow_owner(words, made[name])
    rows = np.array(slow_chunks(ids, owner, chunks, tokens, name, made[name]))  # (C, T, 4)
    assert document.hadm_id == "7"
    for i, field in enumerate(("input_ids", "attention_mask", "token_type_ids", "word_index")):
        assert (getattr(document, field) == rows[..., i]).all(), field
    placed = set(owner[: chunks * (tokens - 2)])
    assert document.truncated_words == len(words) - len(placed)
    assert set(np.flatnonzero(seen_words(document))) == placed
    assert document.n_content_tokens == min(len(ids), chunks * (tokens - 2))
    assert document.filled_chunks == min(chunks, -(-len(ids) // (tokens - 2)))
    spelt = [NOTE[start:end].lower() for start, end in document.word_spans]
    assert spelt == list(words)


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("by_section", [False, True])
def test_a_note_without_letters(made: dict[str, PreTrainedTokenizerBase], name: str, by_section: bool) -> None:
    document = encode("12 / 34 --", made[name], ChunkLayout(10, 8, by_section=by_section))
    assert document.attention_mask.sum(axis=1).tolist() == [2] * 10
    assert (document.word_index == -1).all()
    assert (document.filled_chunks, document.n_content_tokens, document.truncated_words) == (0, 0, 0)
    assert tokens_to_words(np.ones((4, 10, 8)), document).shape == (4, 0)
    assert outside_words(np.ones((4, 10, 8)), document).tolist() == [80.0] * 4


@pytest.mark.parametrize("name", ["a_full", "b_addendum", "c_odd", "d_nosections", "e_tokens"])
def test_chunks_are_the_published_ones(shared: Path, name: str) -> None:
    """Ids, masks and segment ids of a white-space tokenizer in the published run, 4 chunks of 14 tokens."""
    golden = json.loads((shared / "golden" / "preproc.json").read_text(encoding="utf-8"))["admissions"][name]
    expected = golden["chunking_ws_T14_C4"]
    content = [i for row in expected["input_ids"] for i in row if i > 5]
    words = golden["reordered_text"]["level_1"].split()
    published_id = dict(zip(words, content, strict=False))  # several words may share one; ours get their own, from 6
    special = ["<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>"]
    vocabulary = {word: i for i, word in enumerate([*special, *dict.fromkeys(words)])}
    translate = np.array([*range(6), *(published_id.get(word, -1) for word in dict.fromkeys(words))])
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A:0 <sep>:0 <cls>:2", special_tokens=[("<sep>", 4), ("<cls>", 3)]
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL)
    rules = CleaningRules(order="published")
    document = encode("\n".join(golden["notes"]), fast, ChunkLayout(4, 14), rules)
    for field, values in expected.items():
        ours = getattr(document, field)
        assert (translate[ours] if field == "input_ids" else ours).tolist() == values, field
    assert document.truncated_words == max(0, len(words) - 48)


def test_chunks_by_section(made: dict[str, PreTrainedTokenizerBase]) -> None:
    note = (
        "Opening words.\nService: MED\nHistory of Present Illness:\nfever\nUnknown Heading:\nstays here\n"
        "Discharge Diagnosis:\nsepsis\nProcedure:\nnone\nHistory of Present Illness:\nagain\nAddendum:\nlate"
    )
    document = encode(note, made["roberta"], ChunkLayout(10, 160, by_section=True))
    per_chunk = []
    for row in document.word_index:
        spans = document.word_spans[np.unique(row[row >= 0])]
        per_chunk.append(" ".join(note[start:end].lower() for start, end in spans))
    assert per_chunk == [
        "opening words service med procedure none",
        "history of present illness fever unknown heading stays here history of present illness again",
        *[""] * 5,
        "discharge diagnosis sepsis",
        "",
        "addendum late",
    ]
    assert document.truncated_words == 0
    short = encode(note, made["roberta"], ChunkLayout(10, 4, by_section=True))
    assert (short.attention_mask.sum(axis=1) <= 4).all()
    assert short.truncated_words == len(short.word_spans) - int(seen_words(short).sum()) > 0
    with pytest.raises(HilatError, match="need 10 chunks"):
        ChunkLayout(8, 60, by_section=True)


def test_settings_inside_the_tokenizer_do_not_cut_or_pad(made: dict[str, PreTrainedTokenizerBase]) -> None:
    """A tokenizer.json may ask for truncation and padding; the chunks are ours."""
    plain = encode(NOTE, made["bert"], ChunkLayout(30, 16))
    asking = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(made["bert"].backend_tokenizer.to_str()),
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token="[PAD]",
    )
    asking.backend_tokenizer.enable_truncation(8)
    asking.backend_tokenizer.enable_padding(length=64)
    again = encode(NOTE, asking, ChunkLayout(30, 16))
    assert (again.input_ids == plain.input_ids).all()
    assert special_frame(asking) == special_frame(made["bert"])


@pytest.mark.parametrize("name", TOKENIZERS)
def test_words_spelt_like_special_tokens_are_not_special(made: dict[str, PreTrainedTokenizerBase], name: str) -> None:
    tokenizer = made[name]
    words = ["a", "<sep>", "<pad>", "[CLS]", "[SEP]", "</s>", "<s>", "b"]
    ids, owner = tokenise(words, tokenizer)
    assert not set(ids.tolist()) & (set(tokenizer.all_special_ids) - {tokenizer.unk_token_id})
    assert set(owner.tolist()) == set(range(8))


def test_a_word_that_the_normaliser_removes_is_not_truncated(made: dict[str, PreTrainedTokenizerBase]) -> None:
    document = encode("fever \ufffd sepsis", made["bert"], ChunkLayout(2, 32), CleaningRules(words="all"))
    assert seen_words(document).tolist() == [True, False, True]
    assert document.truncated_words == 0


def test_batches(made: dict[str, PreTrainedTokenizerBase]) -> None:
    layout = ChunkLayout(3, 16)
    documents = [encode(text, made["bert"], layout) for text in (NOTE, "sepsis")]
    batch = collate(documents)
    assert {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in batch.items()} == dict.fromkeys(
        ("input_ids", "attention_mask", "token_type_ids"), (torch.int64, (2, 3, 16))
    )
    assert all((batch["input_ids"][b].numpy() == documents[b].input_ids).all() for b in range(2))
    batch["input_ids"] += 1  # the batch is its own
    assert (documents[0].input_ids == encode(NOTE, made["bert"], layout).input_ids).all()
    with pytest.raises(HilatError, match="all of one shape"):
        collate([documents[0], encode("sepsis", made["bert"], ChunkLayout(2, 16))])
    with pytest.raises(HilatError, match="batch of 0 documents"):
        collate([])


def test_a_document_is_checked_and_read_only(made: dict[str, PreTrainedTokenizerBase]) -> None:
    document = encode(NOTE, made["bert"], ChunkLayout(3, 16))
    with pytest.raises(ValueError, match="read-only"):
        document.input_ids[0, 0] = 1
    too_far = np.full((3, 16), len(document.word_spans))
    for change, match in (
        ({"word_index": too_far}, "points past"),
        ({"attention_mask": np.ones((3, 15), int)}, "they must agree"),
        ({"attention_mask": np.zeros((3, 16), int)}, "masked out"),
        ({"word_spans": np.array([[3, 3]])}, "empty or backwards"),
        ({"truncated_words": 999}, "are truncated"),
    ):
        with pytest.raises(HilatError, match=match):
            replace(document, **change)  # type: ignore[arg-type]


def slow_words(scores: NDArray[Any], document: EncodedDocument, how: str) -> list[float]:
    """Word scores of one (C, T), word by word."""
    out = []
    for w in range(len(document.word_spans)):
        mine = [
            float(scores[c, t])
            for c in range(scores.shape[0])
            for t in range(scores.shape[1])
            if document.word_index[c, t] == w
        ]
        joined = {"sum": sum(mine), "mean": sum(mine) / max(len(mine), 1), "max": max(mine, default=0.0)}
        out.append(joined[how])
    return out


@pytest.mark.parametrize("how", ["sum", "mean", "max"])
@pytest.mark.parametrize("leading", [(), (5,), (2, 3), (0,)])
def test_word_scores(
    made: dict[str, PreTrainedTokenizerBase], how: Literal["sum", "mean", "max"], leading: tuple[int, ...]
) -> None:
    document = encode(NOTE, made["xlnet"], ChunkLayout(3, 32))  # too short for the note
    assert document.truncated_words
    scores = np.random.default_rng(0).normal(size=(*leading, 3, 32)).astype(np.float32)
    words = tokens_to_words(scores, document, how=how)
    outside = outside_words(scores, document)
    assert words.shape == (*leading, len(document.word_spans))
    assert (words.dtype, outside.shape) == (np.float64, leading)
    for place in np.ndindex(*leading):
        np.testing.assert_allclose(words[place], slow_words(scores[place], document, how), rtol=1e-12, atol=1e-12)
    if how == "sum":  # nothing is lost: float64 sums in two orders
        total = scores.astype(np.float64).sum(axis=(-2, -1))
        np.testing.assert_allclose(words.sum(axis=-1) + outside, total, atol=1e-10)


def test_wrong_scores(made: dict[str, PreTrainedTokenizerBase]) -> None:
    document = encode(NOTE, made["bert"], ChunkLayout(3, 16))
    with pytest.raises(HilatError, match=r"expected \(\.\.\., 3, 16\)"):
        tokens_to_words(np.ones((16, 3)), document)
    with pytest.raises(HilatError, match="expected sum, mean or max"):
        tokens_to_words(np.ones((3, 16)), document, how="median")  # type: ignore[arg-type]


def test_tokenizers_that_do_not_fit(made: dict[str, PreTrainedTokenizerBase]) -> None:
    for tokenizer in made.values():
        check_tokenizer(tokenizer, len(tokenizer))
        with pytest.raises(HilatError, match="do not belong together"):
            check_tokenizer(tokenizer, len(tokenizer) + 1)
    no_cls = bert()
    no_cls.cls_token = None
    with pytest.raises(HilatError, match="no cls_token"):
        check_tokenizer(no_cls, len(no_cls))
    no_pad = bert()
    no_pad.pad_token = None
    for check in (lambda: check_tokenizer(no_pad, len(no_pad)), lambda: encode(NOTE, no_pad, ChunkLayout())):
        with pytest.raises(HilatError, match="no pad_token"):
            check()
    bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0, "p": 1}, "a")), pad_token="p")
    with pytest.raises(HilatError, match="adds 0 special tokens"):
        encode(NOTE, bare, ChunkLayout())


def test_an_empty_vocabulary_is_refused(tmp_path: Path) -> None:
    """XLNetTokenizerFast(vocab_file=...) of transformers 5 reads nothing from the file and says nothing."""
    (tmp_path / "spiece.model").write_bytes(b"")
    empty = XLNetTokenizerFast(vocab_file=str(tmp_path / "spiece.model"))
    with pytest.raises(HilatError, match="empty vocabulary"):
        check_tokenizer(empty, 32_000)


def test_an_own_vocabulary_encodes_like_xlnet(tmp_path: Path) -> None:
    tokenizer = train_sentencepiece(TEXTS, tmp_path / "t", vocab_size=200, shrink=True)
    check_tokenizer(tokenizer, len(tokenizer))
    document = encode(NOTE, tokenizer, ChunkLayout(10, 64))
    assert seen_words(document).all()
    assert document.token_type_ids[-1].tolist() == [0, 2, *[3] * 62]
    assert document.input_ids[-1, :3].tolist() == [4, 3, 5]

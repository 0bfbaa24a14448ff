"""The note as a set function, against whole documents changed by hand and read from beginning to end."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest

from explain.hilat_target import HilatTarget
from explain.perturbation import NoteFunction
from explain.sampling import Pool
from explain.surrogates import Surrogate, kernel_shap, lime, neighbour_groups
from hilat.admissions import HilatError
from hilat.coder import Coder, forward
from hilat.encoding import EncodedDocument

MakeCoder = Callable[..., Coder]
HEADS = ("shared", "per_code", "mean", "max", "flat")


def changed(coder: Coder, document: EncodedDocument, keep: np.ndarray, removal: str) -> EncodedDocument:
    """The document with the words of `keep` False removed, token by token."""
    tokenizer = coder.tokenizer
    ids, mask, types, index = (
        array.copy() for array in (document.input_ids, document.attention_mask, document.token_type_ids, document.word_index)
    )  # fmt: skip
    chunks, tokens = ids.shape
    for c in range(chunks):
        rows = []
        for t in range(tokens):
            gone = index[c, t] >= 0 and not keep[index[c, t]]
            if gone and removal in ("mask", "unk"):
                ids[c, t] = getattr(tokenizer, f"{removal}_token_id")
            if gone and removal == "pad":
                ids[c, t], mask[c, t], index[c, t] = tokenizer.pad_token_id, 0, -1
            if mask[c, t] and not gone:
                rows.append((ids[c, t], 1, types[c, t], index[c, t]))
        if removal == "delete":
            padding = (tokenizer.pad_token_id, 0, 3 if coder.model.config.encoder.model_type == "xlnet" else 0, -1)
            rows += [padding] * (tokens - len(rows))
            for values, column in zip((ids, mask, types, index), zip(*rows, strict=True), strict=True):
                values[c] = column
    return dataclasses.replace(document, input_ids=ids, attention_mask=mask, token_type_ids=types, word_index=index)


def masks(document: EncodedDocument) -> np.ndarray:
    rng = np.random.default_rng(0)
    words = len(document.word_spans)
    keep = np.concatenate([rng.random((9, words)) < p for p in (0.1, 0.5, 0.9)] + [np.ones((1, words)), np.zeros((1, words))]) > 0.5  # fmt: skip
    first_chunk = document.word_index[0][document.word_index[0] >= 0]
    keep[0] = True
    keep[0, first_chunk] = False
    return keep


@pytest.mark.parametrize("kind", ["xlnet", "bert"])
@pytest.mark.parametrize("removal", ["mask", "pad", "unk", "delete"])
def test_it_answers_like_the_model_on_the_changed_document(
    make_coder: MakeCoder, note: str, kind: str, removal: str
) -> None:
    coder = make_coder(kind)
    document = coder.encode(note)
    keep = masks(document)
    value = NoteFunction(HilatTarget(coder), document, removal, batch_size=5)  # type: ignore[arg-type]
    slow = [forward(coder.model, [changed(coder, document, row, removal)]).logits[0].double().numpy() for row in keep]
    np.testing.assert_allclose(value(keep), np.stack(slow), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("attend_padding", [False, True])
def test_it_holds_for_every_head(make_coder: MakeCoder, note: str, head: str, attend_padding: bool) -> None:
    coder = make_coder(chunk_attention=head, attend_padding=attend_padding)
    document = coder.encode(note)
    keep = masks(document)
    value = NoteFunction(HilatTarget(coder), document, "delete")
    slow = [forward(coder.model, [changed(coder, document, row, "delete")]).logits[0].double().numpy() for row in keep]
    np.testing.assert_allclose(value(keep), np.stack(slow), rtol=2e-5, atol=2e-5)


def test_only_touched_chunks_are_encoded_again_and_agreeing_samples_share(make_coder: MakeCoder, note: str) -> None:
    coder = make_coder()
    document = coder.encode(note)
    value = NoteFunction(HilatTarget(coder), document)
    words = value.n_words
    value(np.ones((3, words), dtype=bool))
    filled = document.filled_chunks
    assert value.passes == filled
    value(~np.eye(words, dtype=bool))
    in_chunks = sum(len(np.unique(row[row >= 0])) for row in document.word_index)
    assert value.passes == filled + in_chunks  # a word on a border stands in two chunks
    value(~np.eye(words, dtype=bool)[[5, 5, 5]])
    assert value.passes == filled + in_chunks  # remembered from the call before


@pytest.mark.parametrize("removal", ["mask", "delete"])
def test_a_full_cache_forgets_and_answers_alike(make_coder: MakeCoder, note: str, removal: str) -> None:
    coder = make_coder()
    document = coder.encode(note)
    keep = masks(document)
    every = NoteFunction(HilatTarget(coder), document, removal)  # type: ignore[arg-type]
    few = NoteFunction(HilatTarget(coder), document, removal, cache_numbers=1)  # type: ignore[arg-type]
    np.testing.assert_allclose(few(keep), every(keep), rtol=1e-5, atol=1e-5)
    assert len(few._known) == 1
    assert len(every._known) == every.passes
    passes = few.passes
    few(keep)
    assert few.passes > passes
    before = every.passes
    np.testing.assert_array_equal(every(keep), every(keep))
    assert every.passes == before


class Watched(HilatTarget):
    """Notes what it is asked to encode."""

    def chunk_vectors(self, inputs, chunk):  # type: ignore[no-untyped-def]
        self.asked = [*getattr(self, "asked", []), inputs["attention_mask"].sum(dim=1).numpy()]
        return super().chunk_vectors(inputs, chunk)


def test_batches_are_full_and_of_about_one_length(make_coder: MakeCoder, note: str) -> None:
    coder = make_coder()
    target = Watched(coder)
    NoteFunction(target, coder.encode(note), "delete", batch_size=6)(masks(coder.encode(note)))
    assert {len(lengths) for lengths in target.asked[:-1]} == {6}
    for longer, shorter in pairwise(target.asked):
        assert longer.min() >= shorter.max()


@pytest.mark.parametrize("method", [lime, kernel_shap])
@pytest.mark.parametrize("size", [0, 32])
def test_explanations_are_those_of_a_loop_over_whole_notes(
    make_coder: MakeCoder, note: str, method: Callable[..., Surrogate], size: int
) -> None:
    coder = make_coder()
    document = coder.encode(note)
    fast = NoteFunction(HilatTarget(coder), document)

    def slow(keep: np.ndarray) -> np.ndarray:
        documents = [changed(coder, document, row, "mask") for row in keep]
        return np.stack([forward(coder.model, [one]).logits[0].double().numpy() for one in documents])

    groups = neighbour_groups(np.arange(fast.n_words), fast.n_words, 28)
    pool = Pool(size, fast.words_of_chunks) if size else None
    found, expected = (method(value, groups, 80, 0, pool=pool) for value in (fast, slow))
    np.testing.assert_allclose(found.scores, expected.scores, rtol=0, atol=2e-5 * np.abs(expected.scores).max())
    np.testing.assert_allclose(found.fit, expected.fit, atol=1e-5)


def test_columns_restrict_the_codes(make_coder: MakeCoder, note: str) -> None:
    coder = make_coder(chunk_attention="per_code")
    document = coder.encode(note)
    keep = masks(document)
    every = NoteFunction(HilatTarget(coder), document)(keep)
    some = NoteFunction(HilatTarget(coder, [3, 1]), document)(keep)
    np.testing.assert_allclose(some, every[:, [3, 1]], rtol=1e-6, atol=1e-6)


def test_words_after_the_last_chunk_change_nothing(make_coder: MakeCoder, note: str) -> None:
    coder = make_coder(chunks=1)
    document = coder.encode(note)
    value = NoteFunction(HilatTarget(coder), document)
    keep = np.ones((2, value.n_words), dtype=bool)
    keep[1, -5:] = False
    first, second = value(keep)
    np.testing.assert_array_equal(first, second)


def test_no_sample_and_wrong_shapes(make_coder: MakeCoder, note: str) -> None:
    coder = make_coder()
    value = NoteFunction(HilatTarget(coder), coder.encode(note))
    assert value(np.zeros((0, value.n_words), dtype=bool)).shape == (0, 5)
    with pytest.raises(HilatError, match="one column per word"):
        value(np.ones((1, 3), dtype=bool))
    with pytest.raises(HilatError, match="expected one of mask, pad, unk, delete"):
        NoteFunction(HilatTarget(coder), coder.encode(note), "remove")  # type: ignore[arg-type]

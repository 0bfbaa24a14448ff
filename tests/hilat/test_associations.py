"""Label vectors from associated tokens: the ratio against counts in loops, the start against the model's own scores."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from hilat.admissions import HilatError
from hilat.associations import association, initialise_from_associations
from hilat.coder import forward
from hilat.encoding import EncodedDocument
from hilat.model import HilatModel, build_model

ENCODER = {"model_type": "xlnet", "vocab_size": 30, "d_model": 16, "n_layer": 1, "n_head": 2, "d_inner": 16, "pad_token_id": 0}  # fmt: skip
SEP, CLS = 1, 2


def document(name: str, chunks: list[list[int]], tokens: int = 8) -> EncodedDocument:
    ids = np.zeros((len(chunks), tokens), dtype=np.int64)
    mask, types, index = np.zeros_like(ids), np.full_like(ids, 3), np.full_like(ids, -1)
    word = 0
    for c, chunk in enumerate(chunks):
        row = [*chunk, SEP, CLS]
        ids[c, : len(row)], mask[c, : len(row)], types[c, : len(row)] = row, 1, 0
        types[c, len(row) - 1] = 2
        index[c, : len(chunk)] = np.arange(word, word + len(chunk))
        word += len(chunk)
    spans = np.stack([np.arange(word) * 2, np.arange(word) * 2 + 1], axis=1)
    return EncodedDocument(name, ids, mask, types, index, spans, 0)


def notes() -> tuple[list[EncodedDocument], np.ndarray]:
    """Forty notes of noise; code 0 with token 20, code 1 with token 21, code 2 never."""
    rng = np.random.default_rng(0)
    documents, targets = [], np.zeros((40, 3), dtype=np.float32)
    for n in range(40):
        chunks = [rng.integers(3, 20, 6).tolist() for _ in range(2)]
        for code, token in ((0, 20), (1, 21)):
            if rng.random() < 0.4:
                targets[n, code] = 1
                chunks[int(rng.integers(2))][int(rng.integers(6))] = token
        documents.append(document(str(n), chunks))
    return documents, targets


def model(**settings: object) -> HilatModel:
    return build_model(ENCODER, 3, chunks=2, tokens=8, seed=0, init_std=0.1, **settings)


def test_the_ratio_is_twice_the_gain_in_log_likelihood() -> None:
    documents, targets = notes()
    found = association(documents, targets, 30)
    for k in range(3):
        for token in range(30):
            has = [bool((d.input_ids[d.word_index >= 0] == token).any()) for d in documents]
            gain = 0.0
            for t in (False, True):
                for c in (False, True):
                    cell = sum(h == t and (y > 0.5) == c for h, y in zip(has, targets[:, k], strict=True))
                    expected = has.count(t) * sum((y > 0.5) == c for y in targets[:, k]) / len(documents)
                    gain += 2 * cell * math.log(cell / expected) if cell else 0.0
            assert abs(found[k, token]) == pytest.approx(gain, abs=1e-9)
    assert found[0].argmax() == 20
    assert found[1].argmax() == 21
    assert (found[:2].min(axis=1) < 0).all()  # tokens that speak against a code


def test_attention_starts_on_the_associated_token_by_the_stated_gap() -> None:
    documents, targets = notes()
    ours = model()
    random = [p.clone() for p in (ours.token_attention.labels[2], ours.classifier.weight[2])]
    chosen = initialise_from_associations(ours, documents, targets, tokens=1, gap=4.0, shift=2.0)
    assert chosen.tolist() == [[20], [21], [-1]]
    assert torch.equal(ours.token_attention.labels[2], random[0])  # a code without positives keeps its start
    assert torch.equal(ours.classifier.weight[2], random[1])
    ours.train(False)
    at, elsewhere, everywhere = [], [], []
    for d in documents:  # equation 2 before the softmax, one chunk at a time
        ids = torch.from_numpy(d.input_ids.copy())
        mask = torch.from_numpy(d.attention_mask.copy())
        hidden = ours.encode_chunks({"input_ids": ids, "attention_mask": mask})
        scores = torch.tanh(hidden @ ours.token_attention.projection.T) @ ours.token_attention.labels[0]  # (C, T)
        for c, t in zip(*np.nonzero(d.word_index >= 0), strict=True):
            value = float(scores[c, t].detach())
            everywhere.append(value)
            (at if ids[c, t] == 20 else elsewhere).append(value)
    assert np.mean(at) - np.mean(everywhere) == pytest.approx(4.0, abs=1e-3)
    assert np.mean(at) > max(np.mean(elsewhere) + 2, np.quantile(elsewhere, 0.9))
    weights = forward(ours, documents, attentions=True).token_attention
    assert weights is not None
    with_token = [n for n, d in enumerate(documents) if (d.input_ids == 20).any()]
    top = [int(documents[n].input_ids.reshape(-1)[int(weights[n, 0].reshape(-1).argmax())]) for n in with_token]
    assert np.mean(np.array(top) == 20) > 0.8


def test_label_vectors_of_single_chunks_are_refused() -> None:
    documents, targets = notes()
    with pytest.raises(HilatError, match="per_chunk"):
        initialise_from_associations(model(token_attention="per_chunk"), documents, targets)

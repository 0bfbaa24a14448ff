"""A small trained-looking HiLAT for the explain tests: random weights, real tokenizer, several encoders and heads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hilat.admissions import CodeBook
from hilat.cleaning import CleaningRules
from hilat.coder import Coder
from hilat.encoding import ChunkLayout
from hilat.model import build_model
from hilat.vocabulary import train_sentencepiece

CODES = ("401.9", "428.0", "584.9", "250.00", "038.9")
NOTE = (
    "Chief Complaint: shortness of breath and fever\n"
    "History of Present Illness:\nThis is a man with known hypertension, admitted with acute kidney failure. "
    "He has no chest pain. Blood cultures grew bacteria; sepsis was treated with antibiotics for ten days.\n"
    "Past Medical History: diabetes, heart failure with low ejection fraction, gout.\n"
    "Hospital Course: creatinine rose and fell, the heart failure was treated with diuretics.\n"
    "Discharge Diagnosis: sepsis, acute kidney failure\n"
)
OTHER = "Discharge Diagnosis: heart failure. History of Present Illness: an old woman with swollen legs and gout."


def encoder_config(kind: str, vocabulary: int, pad: int) -> dict[str, object]:
    if kind == "xlnet":
        return {"model_type": "xlnet", "vocab_size": vocabulary, "d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 24, "pad_token_id": pad, "initializer_range": 0.3}  # fmt: skip
    return {"model_type": kind, "vocab_size": vocabulary, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, "max_position_embeddings": 64, "type_vocab_size": 4, "pad_token_id": pad, "initializer_range": 0.3}  # fmt: skip


@pytest.fixture(scope="session")
def make_coder(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    """make_coder(kind="xlnet"|"bert"|"roberta", chunks=4, tokens=24, **HilatConfig settings) -> Coder with random weights."""
    folder: Path = tmp_path_factory.mktemp("tokenizer") / "tokenizer"
    tokenizer = train_sentencepiece([NOTE.lower(), OTHER.lower()], folder, vocab_size=120, seed=0)

    def make(kind: str = "xlnet", chunks: int = 4, tokens: int = 24, **settings: object) -> Coder:
        encoder = encoder_config(kind, len(tokenizer), int(tokenizer.pad_token_id or 0))
        model = build_model(encoder, len(CODES), seed=0, chunks=chunks, tokens=tokens, init_std=0.5, **settings)
        return Coder(
            model.eval(),
            tokenizer,
            CodeBook(CODES, CODES, ("diagnosis",) * len(CODES), "ICD-9"),
            CleaningRules(),
            ChunkLayout(chunks, tokens),
            np.full(len(CODES), 0.5),
            "fixed 0.5",
        )

    return make


@pytest.fixture(scope="session")
def note() -> str:
    """A note that fills more than two and a half chunks of 24 tokens."""
    return NOTE


@pytest.fixture(scope="session")
def other_note() -> str:
    """A short note: one chunk."""
    return OTHER

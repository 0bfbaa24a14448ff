"""Building what a run trains: tokenizer, model, optimiser groups, as the settings describe them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedModel, PreTrainedTokenizerBase, get_scheduler, set_seed

from hilat.admissions import CodeBook
from hilat.cleaning import CleaningRules, clean
from hilat.embeddings import cooccurrence_vectors
from hilat.encoding import ChunkLayout, tokenise
from hilat.label_init import initialise_from_titles
from hilat.local_heads import look_nearby
from hilat.model import HilatModel, build_model
from hilat.settings import TrainingSettings
from hilat.vocabulary import load_tokenizer, train_sentencepiece

XLNET_SEGMENTS = 4  # 0 for text, 2 for <cls>, 3 for padding


def cleaning_of(settings: TrainingSettings) -> CleaningRules:
    """How the settings say a note is cleaned."""
    return CleaningRules(words=settings.words, order=settings.order)  # type: ignore[arg-type]


def layout_of(settings: TrainingSettings) -> ChunkLayout:
    """How the settings say a note is cut into chunks."""
    return ChunkLayout(chunks=settings.chunks, tokens=settings.tokens, by_section=settings.sections)


def make_tokenizer(settings: TrainingSettings, texts: Sequence[str], folder: Path) -> PreTrainedTokenizerBase:
    """The encoder's tokenizer; for a new encoder a SentencePiece vocabulary learned from raw texts, kept in `folder`."""
    if not settings.encoder.startswith("new:"):
        return load_tokenizer(settings.encoder)
    if folder.is_dir():
        return load_tokenizer(folder)
    rules = cleaning_of(settings)
    cleaned = (" ".join(clean(text, rules).words) for text in texts)
    return train_sentencepiece(cleaned, folder, vocab_size=settings.new_vocabulary, seed=settings.seed)


def start_new_encoder(
    model: HilatModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], settings: TrainingSettings
) -> None:
    """Give a new encoder the start that the settings describe: spread and source of its embeddings, local heads."""
    rules = cleaning_of(settings)
    sequences = (tokenise(clean(text, rules).words, tokenizer)[0] for text in texts)
    start_encoder(model.encoder, sequences, settings)


def start_encoder(encoder: PreTrainedModel, sequences: Iterable[NDArray[np.int64]], settings: TrainingSettings) -> None:
    """The same from the texts' token ids, which are read only where the embeddings start from co-occurrence."""
    weight = cast(torch.nn.Embedding, encoder.get_input_embeddings()).weight  # (V, D)
    with torch.no_grad():
        spread = settings.new_embedding_std or float(weight.std())
        weight.mul_(spread / float(weight.std()))
        if settings.new_embeddings == "cooccurrence":
            vectors = torch.from_numpy(cooccurrence_vectors(sequences, *weight.shape, seed=settings.seed))  # (V, D)
            known = vectors.abs().sum(dim=1) > 0  # special tokens keep their random start
            weight[known] = vectors[known] * spread
    if settings.new_local_heads:
        look_nearby(encoder)


def start_biases(model: HilatModel, targets: NDArray[np.float32]) -> None:
    """Set the classifier biases to the codes' log-odds in (N, K) targets, add-half smoothed, so that training does not
    spend its first steps on finding the base rates."""
    positives = targets.sum(axis=0) + 0.5  # (K,)
    negatives = len(targets) - targets.sum(axis=0) + 0.5
    with torch.no_grad():
        model.classifier.bias.copy_(torch.from_numpy(np.log(positives / negatives)))


def make_model(settings: TrainingSettings, tokenizer: PreTrainedTokenizerBase, code_book: CodeBook) -> HilatModel:
    """The model that the settings describe, freshly initialised by their seed."""
    set_seed(settings.seed)
    encoder: str | dict[str, Any] = settings.encoder
    if settings.encoder.startswith("new:"):
        encoder = new_encoder(settings, len(tokenizer), cast(int, tokenizer.pad_token_id))
    model = build_model(
        encoder,
        len(code_book),
        chunks=settings.chunks,
        tokens=settings.tokens,
        token_attention=settings.token_attention,
        chunk_attention=settings.chunk_attention,
        attention=settings.attention,
        attend_padding=settings.attend_padding,
        dropout=settings.dropout,
        init_std=settings.init_std,
        fine_tune=settings.fine_tune,
    )
    if settings.label_init == "titles":
        initialise_from_titles(model, tokenizer, code_book.titles)
    return model


def new_encoder(settings: TrainingSettings, vocabulary: int, pad_id: int) -> dict[str, Any]:
    """The transformers configuration of an encoder to be trained from scratch."""
    layers, width, heads = settings.new_layers, settings.new_width, settings.new_heads
    # 0.02, the usual start, suits a width of 768 and more; a narrow encoder stalls on it.
    spread = settings.new_init_std or width**-0.5
    if settings.encoder == "new:xlnet":
        return {
            "model_type": "xlnet",
            "vocab_size": vocabulary,
            "d_model": width,
            "n_layer": layers,
            "n_head": heads,
            "d_inner": settings.new_feed_forward * width,
            "dropout": settings.dropout,
            "initializer_range": spread,
            "pad_token_id": pad_id,
        }
    return {
        "model_type": "bert",
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": settings.new_feed_forward * width,
        "hidden_dropout_prob": settings.dropout,
        "attention_probs_dropout_prob": settings.dropout,
        "max_position_embeddings": settings.tokens,
        "type_vocab_size": XLNET_SEGMENTS,  # a new vocabulary frames chunks as XLNet does
        "pad_token_id": pad_id,
    }


def parameter_groups(model: HilatModel, settings: TrainingSettings) -> list[dict[str, Any]]:
    """AdamW's groups: embeddings, encoder and head with their rates; no decay on biases and normalisation weights."""
    embeddings = {id(p) for p in model.get_input_embeddings().parameters()}
    rates = {
        "embeddings": settings.embedding_learning_rate or settings.learning_rate,
        "encoder": settings.learning_rate,
        "head": settings.head_learning_rate or settings.learning_rate,
    }
    groups: dict[tuple[str, bool], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        part = "embeddings" if id(parameter) in embeddings else "encoder" if name.startswith("encoder.") else "head"
        decayed = parameter.ndim > 1 and "norm" not in name.lower()
        groups.setdefault((part, decayed), []).append(parameter)
    return [
        {"params": parameters, "lr": rates[part], "weight_decay": settings.weight_decay if decayed else 0.0}
        for (part, decayed), parameters in groups.items()
    ]


def optimiser_of(model: HilatModel, settings: TrainingSettings, steps: int) -> tuple[torch.optim.Optimizer, LambdaLR]:
    """AdamW with the settings' groups, and their schedule over so many steps."""
    optimizer = torch.optim.AdamW(parameter_groups(model, settings), lr=settings.learning_rate)
    warmup = int(settings.warmup if settings.warmup >= 1 else settings.warmup * steps)
    scheduler = get_scheduler(settings.schedule, optimizer, num_warmup_steps=warmup, num_training_steps=steps)
    return optimizer, cast(LambdaLR, scheduler)

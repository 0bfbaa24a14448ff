"""A trained coder: everything that is needed to go from a note to codes, in one folder that describes itself."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import islice, tee
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from hilat.admissions import Admission, CodeBook, HilatError
from hilat.cleaning import CleaningRules, CleanText
from hilat.encoding import (
    ChunkLayout,
    EncodedDocument,
    SpecialFrame,
    check_tokenizer,
    collate,
    encode,
    in_chunks,
    special_frame,
    token_rules,
)
from hilat.files import new_folder, read_json, write_json, write_text
from hilat.model import HilatModel, HilatOutput
from hilat.model_card import CARD_FILE, model_card
from hilat.tokens import TokenRules, token_texts
from hilat.vocabulary import load_tokenizer

CODER_FILE = "hilat.json"
_FORMAT = 1
WINDOW = 16  # admissions that are put into batches of similar length


@dataclass(frozen=True)
class Coder:
    """A model with its tokenizer, its code book, and how a note becomes its input.

    thresholds: (K,) probabilities from which a code is given. threshold_source: where they come from, said in
    every result ("fixed 0.5", "global, tuned on val").
    card: how it was trained (settings, versions, seed, corpus), as plain JSON values.
    """

    model: HilatModel
    tokenizer: PreTrainedTokenizerBase
    code_book: CodeBook
    rules: CleaningRules
    layout: ChunkLayout
    thresholds: NDArray[np.float64]
    threshold_source: str
    card: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.thresholds.shape != (len(self.code_book),) or not np.isfinite(self.thresholds).all():
            raise HilatError(
                f"the coder has thresholds of shape {self.thresholds.shape}; expected {len(self.code_book)} finite "
                "numbers, one per code. Tune them again"
            )
        if self.model.config.num_codes != len(self.code_book):
            raise HilatError(
                f"the model has {self.model.config.num_codes} codes, the code book {len(self.code_book)}; they must "
                "agree. Use the code book that the model was trained with"
            )

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def encode(self, admission: Admission | str) -> EncodedDocument:
        """The admission (or a bare text) as this model's input."""
        return encode(admission, self.tokenizer, self.layout, self.rules)

    @cached_property
    def token_rules(self) -> TokenRules:
        """The tokenizer as processes without transformers can use it."""
        return token_rules(self.tokenizer)

    @cached_property
    def frame(self) -> SpecialFrame:
        """The special tokens around each chunk."""
        return special_frame(self.tokenizer)


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model says of one document: (K,) logits and probabilities, and its attentions when asked for.

    cleaned: the words that the model was given, and what was dropped. token_attention (K, C, T), or (k, C, T) of the codes
    asked for, and chunk_attention (K, C) as in equations 2 and 6; None when not asked for or not had. hidden (C, T', D): the
    encoder's last states, on the model's device, when asked for; T' is T, or less where the rest is padding.
    """

    document: EncodedDocument
    cleaned: CleanText
    logits: NDArray[np.float64]
    probabilities: NDArray[np.float64]
    token_attention: NDArray[np.float32] | None = None
    chunk_attention: NDArray[np.float32] | None = None
    hidden: torch.Tensor | None = None


def forward(
    model: HilatModel,
    documents: Sequence[EncodedDocument],
    *,
    attentions: bool = False,
    attention_codes: Sequence[int] | None = None,
    hidden: bool = False,
) -> HilatOutput:
    """One pass without gradients over a batch of documents, on the model's device.

    attention_codes: columns whose token attention is kept, with attentions; None for all. hidden: with hidden states.
    """
    device = next(model.parameters()).device
    batch = {name: tensor.to(device) for name, tensor in collate(documents).items()}
    was_training = model.training
    model.eval()  # type: ignore[no-untyped-call]
    try:
        with torch.no_grad():
            output: HilatOutput = model(
                **batch, output_attentions=attentions, attention_codes=attention_codes, output_hidden=hidden
            )
    finally:
        model.train(was_training)
    return output


def predict(
    coder: Coder,
    admissions: Iterable[Admission | str],
    *,
    batch_size: int = 8,
    attentions: bool = False,
    attention_codes: Sequence[int] | None = None,
    hidden: bool = False,
    workers: int = 0,
) -> Iterator[Prediction]:
    """Predictions in the order of the admissions, window by window, so that a split never has to fit in memory.

    A window of 16 admissions (or one batch, if that is more) is put into batches by length, so that long notes share one.
    What a batch holds depends on its window only: admissions whose windows are the same give the same numbers, to the last
    bit, wherever they are computed.

    attentions: with chunk attention of all codes, and token attention of the columns `attention_codes` (None: of all,
    which takes batch_size x K x C x T numbers, 1.5 GB at 8,929 codes, 10 chunks of 512 and a batch of 8; a window is then
    one batch). hidden: with the encoder's last states, those of a window at a time (16 notes of 10 chunks of 512 at a width of
    768: 250 MB). workers: processes that clean and tokenise ahead (see `hilat.tokens.token_texts`).
    """
    whole = attentions and attention_codes is None
    window = batch_size if whole else max(batch_size, WINDOW)
    for documents in _windows(coder, admissions, window, workers):
        order = np.argsort([document.n_content_tokens for document, _ in documents], kind="stable")
        found: dict[int, Prediction] = {}
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size].tolist()
            inputs = [documents[n] for n in batch]
            output = forward(
                coder.model,
                [document for document, _ in inputs],
                attentions=attentions,
                attention_codes=attention_codes,
                hidden=hidden,
            )
            made = _predictions(inputs, output)
            found.update(zip(batch, made, strict=True))
        yield from (found.pop(n) for n in range(len(documents)))


def _windows(
    coder: Coder, admissions: Iterable[Admission | str], window: int, workers: int
) -> Iterator[list[tuple[EncodedDocument, CleanText]]]:
    """The admissions as model inputs, each with its clean text, in runs of `window`."""
    named, texts = tee(admissions)
    raw = (admission if isinstance(admission, str) else admission.text for admission in texts)
    read = token_texts(raw, coder.rules, coder.token_rules, workers=workers)
    stream = (
        (in_chunks("text" if isinstance(a, str) else a.hadm_id, tokens, coder.layout, coder.frame), tokens.cleaned)
        for a, tokens in zip(named, read, strict=True)
    )
    return iter(lambda: list(islice(stream, window)), [])


def _predictions(documents: Sequence[tuple[EncodedDocument, CleanText]], output: HilatOutput) -> Iterator[Prediction]:
    assert output.logits is not None
    logits = output.logits.double().cpu()  # (B, K)
    probabilities = torch.sigmoid(logits)
    token = None if output.token_attention is None else output.token_attention.float().cpu().numpy()
    chunk = None if output.chunk_attention is None else output.chunk_attention.float().cpu().numpy()
    for b, (document, cleaned) in enumerate(documents):
        yield Prediction(
            document,
            cleaned,
            logits[b].numpy(),
            probabilities[b].numpy(),
            None if token is None else token[b],  # (K or k, C, T)
            None if chunk is None else chunk[b],  # (K, C)
            None if output.hidden is None else output.hidden[b],  # (C, T', D)
        )


def save_coder(coder: Coder, folder: Path, *, overwrite: bool = False) -> None:
    """Write the coder as a folder: transformers' files (safetensors), the tokenizer, `hilat.json`, and the model card."""
    with new_folder(Path(folder), overwrite=overwrite, what="model folder") as beside:
        coder.model.save_pretrained(beside)
        coder.tokenizer.save_pretrained(beside)
        write_text(beside / CARD_FILE, model_card(coder))
        write_json(
            beside / CODER_FILE,
            {
                "format": _FORMAT,
                "system": coder.code_book.system,
                "codes": [
                    {"code": code, "kind": kind, "title": title, "threshold": float(threshold)}
                    for code, kind, title, threshold in zip(
                        coder.code_book.codes,
                        coder.code_book.kinds,
                        coder.code_book.titles,
                        coder.thresholds,
                        strict=True,
                    )
                ],
                "threshold_source": coder.threshold_source,
                "cleaning": asdict(coder.rules),
                "layout": asdict(coder.layout),
                "card": coder.card,
            },
        )


def load_coder(folder: Path, device: str | torch.device = "cpu") -> Coder:
    """Read a model folder written by `save_coder`.

    Raises:
        HilatError: no such folder, a file missing or damaged, weights that are not finite, a tokenizer that does not
            belong to the encoder, or a device that this machine does not have.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise HilatError(f"{folder} is not a folder; expected a model folder that `hilat train` wrote. Check the path")
    if not (folder / CODER_FILE).is_file():
        raise HilatError(
            f"{folder} has no {CODER_FILE}; expected a model folder that `hilat train` wrote. "
            "Give that folder (a run folder keeps it under model/)"
        )
    record = read_json(folder / CODER_FILE, what="the description of a hilat model")
    try:
        codes = record["codes"]
        book = CodeBook(
            tuple(c["code"] for c in codes),
            tuple(c["title"] for c in codes),
            tuple(c["kind"] for c in codes),
            record["system"],
        )
        thresholds = np.array([c["threshold"] for c in codes], dtype=np.float64)
        rules = CleaningRules.from_dict(record["cleaning"])
        layout = ChunkLayout(**record["layout"])
        source, card = str(record["threshold_source"]), dict(record["card"])
    except (KeyError, TypeError):
        raise HilatError(
            f"{folder / CODER_FILE} lacks fields of a hilat model (format {_FORMAT}); train again or restore the file"
        ) from None
    model = HilatModel.from_pretrained(folder)
    if not all(bool(torch.isfinite(p).all()) for p in model.parameters()):
        raise HilatError(f"{folder} holds weights that are NaN or infinite; the training failed. Train again")
    tokenizer = load_tokenizer(folder)
    check_tokenizer(tokenizer, model.config.encoder.vocab_size)
    return Coder(model.to(checked_device(device)).eval(), tokenizer, book, rules, layout, thresholds, source, card)


def checked_device(name: str | torch.device = "auto") -> torch.device:
    """The torch device of that name; "auto" takes CUDA, then MPS, then the CPU.

    Where several processes of one machine run (LOCAL_RANK), each takes the CUDA device of its number, unless one is named.

    Raises:
        HilatError: for a name that torch does not know or a device that this machine does not have.
    """
    if str(name) == "auto":
        if torch.cuda.is_available():
            return checked_device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise HilatError(f"device {str(name)!r} is not known; expected auto, cpu, cuda, cuda:0, ... or mps") from None
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not present.get(device.type, False):
        have = ", ".join(kind for kind, there in present.items() if there)
        raise HilatError(f"device {str(name)!r} is not on this machine; it has {have}. Pass --device auto")
    local = os.environ.get("LOCAL_RANK", "")
    if device.type == "cuda" and device.index is None and local.isdecimal():
        device = torch.device("cuda", int(local))
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise HilatError(f"device {device} is not there; this machine has {torch.cuda.device_count()} CUDA device(s)")
    return device

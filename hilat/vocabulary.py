"""Tokenizers: an own SentencePiece vocabulary for encoders trained from scratch, and loading with checks."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from pathlib import Path

import sentencepiece
from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from hilat.admissions import HilatError
from hilat.files import new_folder

# XLNet's special tokens in the order of its published vocabulary.
_SPECIAL = ("<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>", "<eod>", "<eop>")
_LONGEST_NOTE = 1_000_000  # bytes; the trainer skips longer ones


def train_sentencepiece(
    texts: Iterable[str], folder: Path, *, vocab_size: int, seed: int = 0
) -> PreTrainedTokenizerBase:
    """A tokenizer with a SentencePiece (byte-pair encoding) vocabulary learned from texts, saved in `folder`.

    It frames a sequence as XLNet does. Byte-pair encoding, because on small corpora it keeps frequent words whole, where
    a unigram vocabulary cuts them. No copy of the texts is written. The same texts and seed give the same vocabulary.

    Raises:
        HilatError: no text, or a vocabulary larger than the texts can fill (the message says how large it can be).
    """
    sentences = [text for text in texts if text.strip()]
    if not sentences:
        raise HilatError("no text was given to learn a vocabulary from; expected the notes of a train split")
    model = io.BytesIO()
    sentencepiece.set_random_generator_seed(seed)
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=model,
            vocab_size=vocab_size,
            model_type="bpe",
            character_coverage=1.0,
            normalization_rule_name="identity",
            num_threads=1,
            max_sentence_length=_LONGEST_NOTE,
            unk_id=0,
            bos_id=1,
            eos_id=2,
            pad_id=5,
            control_symbols=["<cls>", "<sep>", "<mask>", "<eod>", "<eop>"],
            minloglevel=2,
        )
    except RuntimeError as error:
        limit = [word.strip("<=.() ") for word in str(error).split() if word.strip("<=.() ").isdigit()]
        hint = f"at most {limit[-1]}" if limit else "another size"
        raise HilatError(
            f"the texts do not fill a vocabulary of {vocab_size} pieces; expected {hint}. Change new_vocabulary"
        ) from None
    tokenizer = _fast_tokenizer(model.getvalue())
    with new_folder(Path(folder), overwrite=True, what="tokenizer folder") as beside:
        tokenizer.save_pretrained(beside)
    return load_tokenizer(folder)


def _fast_tokenizer(model: bytes) -> PreTrainedTokenizerBase:
    """The fast tokenizer of a SentencePiece BPE model: the same pieces and merges, framed as XLNet frames them.

    Not transformers' XLNet class: that one strips accents, which the vocabulary was not learned with.
    """
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
    ids = {pieces.id_to_piece(i): i for i in range(pieces.get_piece_size())}
    plain = [piece for piece, i in ids.items() if not pieces.is_control(i) and not pieces.is_unknown(i)]
    merges = [
        (i, piece[:cut], piece[cut:])
        for piece in plain
        for i in (ids[piece],)
        for cut in range(1, len(piece))
        if piece[:cut] in ids and piece[cut:] in ids
    ]
    # A piece's rank is its id; of the ways to make a piece, the one whose parts came first is SentencePiece's.
    merges.sort(key=lambda merge: (merge[0], ids[merge[1]], ids[merge[2]]))
    tokenizer = Tokenizer(BPE(vocab=ids, merges=[merge[1:] for merge in merges], unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A:0 <sep>:0 <cls>:2",
        pair="$A:0 <sep>:0 $B:1 <sep>:1 <cls>:2",
        special_tokens=[("<sep>", ids["<sep>"]), ("<cls>", ids["<cls>"])],
    )
    made: PreTrainedTokenizerBase = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        cls_token="<cls>",
        sep_token="<sep>",
        pad_token="<pad>",
        mask_token="<mask>",
    )
    return made


def load_tokenizer(name: str | Path) -> PreTrainedTokenizerBase:
    """The fast tokenizer of a folder or a model name.

    Raises:
        HilatError: nothing there, no fast tokenizer, or an empty vocabulary.
    """
    folder = Path(name)
    if (
        folder.is_dir()
        and not (folder / "tokenizer_config.json").is_file()
        and not (folder / "tokenizer.json").is_file()
    ):
        raise HilatError(
            f"{folder} has no tokenizer.json; expected a folder with a tokenizer. Save one there with save_pretrained"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(name), trust_remote_code=False, use_fast=True)
    except (OSError, ValueError, KeyError, json.JSONDecodeError, ImportError):
        raise HilatError(
            f"no tokenizer could be loaded from {str(name)!r}; expected a model folder or a name that is in the cache or "
            "can be downloaded. Check the name, and the connection when it is not a folder"
        ) from None
    except Exception as error:  # the tokenizers library raises bare Exception for a damaged file
        if type(error) is not Exception:
            raise
        raise HilatError(f"{str(name)!r} holds a damaged tokenizer.json; restore or save it again") from None
    if not tokenizer.is_fast or len(tokenizer) <= len(_SPECIAL):
        raise HilatError(
            f"the tokenizer of {str(name)!r} has {len(tokenizer)} tokens and is {'fast' if tokenizer.is_fast else 'slow'}; "
            "expected a fast one with a vocabulary. Save it with a tokenizer.json"
        )
    return tokenizer

"""Tokenizers: an own SentencePiece vocabulary for encoders trained from scratch, and loading with checks."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import cast

import sentencepiece
from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from hilat.admissions import HilatError
from hilat.files import new_folder

# XLNet's special tokens in the order of its published vocabulary.
_SPECIAL = ("<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>", "<eod>", "<eop>")
# Any of these can hold a vocabulary; transformers converts the older kinds.
_VOCABULARY_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)
_LONGEST_NOTE = 1_000_000  # bytes; the trainer skips longer ones


def train_sentencepiece(
    texts: Iterable[str],
    folder: Path | str,
    *,
    vocab_size: int,
    seed: int = 0,
    character_coverage: float = 1.0,
    shrink: bool = False,
) -> PreTrainedTokenizerBase:
    """A tokenizer with a SentencePiece (byte-pair encoding) vocabulary learned from texts, saved in `folder`.

    It frames a sequence as XLNet does, and its first nine tokens are XLNet's special ones. Byte-pair encoding, because
    on small corpora it keeps frequent words whole, where a unigram vocabulary cuts them. No copy of the texts is
    written. The same texts and seed give the same vocabulary (one thread). character_coverage: the share of characters
    that get a piece; the others become <unk>. shrink: take fewer pieces where the texts cannot fill `vocab_size`.

    Raises:
        HilatError: no text, a vocabulary larger than the texts can fill (the message says how large it can be), or one
            too small for their characters.
    """
    count = 0

    def counted() -> Iterator[str]:
        nonlocal count
        for text in texts:
            if text.strip():
                count += 1
                yield text

    model = io.BytesIO()
    sentencepiece.set_random_generator_seed(seed)
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=counted(),
            model_writer=model,
            vocab_size=vocab_size,
            model_type="bpe",
            character_coverage=character_coverage,
            normalization_rule_name="identity",
            num_threads=1,
            max_sentence_length=_LONGEST_NOTE,
            hard_vocab_limit=not shrink,
            unk_id=0,
            bos_id=1,
            eos_id=2,
            pad_id=5,
            control_symbols=["<cls>", "<sep>", "<mask>", "<eod>", "<eop>"],
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        raise _cannot_learn(str(error), vocab_size, count) from None
    tokenizer = _fast_tokenizer(model.getvalue())
    with new_folder(Path(folder), overwrite=True, what="tokenizer folder") as beside:
        tokenizer.save_pretrained(beside)
    return load_tokenizer(folder)


def _cannot_learn(said: str, vocab_size: int, texts: int) -> HilatError:
    """The trainer's error as ours; its own words are not shown, since they could hold a text."""
    if not texts:
        return HilatError(
            "no text was given to learn a vocabulary from; expected the notes of a train split. Pass some"
        )
    too_high = re.search(r"set it to a value <= (\d+)", said)
    if too_high:
        return HilatError(
            f"the {texts} texts do not fill a vocabulary of {vocab_size} pieces; expected at most {too_high[1]}. "
            "Set new_vocabulary lower or give more text"
        )
    too_low = re.search(r"required_chars\D+\d+ vs (\d+)", said)
    least = f"at least {too_low[1]}, a piece for every character" if too_low else f"more than {len(_SPECIAL)}"
    return HilatError(
        f"a vocabulary of {vocab_size} pieces cannot be learned from these texts; expected {least}. "
        "Set new_vocabulary higher"
    )


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


def load_tokenizer(name: Path | str) -> PreTrainedTokenizerBase:
    """The fast tokenizer of a folder or a model name; no code that comes with it is run.

    Raises:
        HilatError: nothing there, no fast tokenizer, a damaged file, or an empty vocabulary.
    """
    folder = Path(name)
    local = isinstance(name, Path) or folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1
    if local and not folder.is_dir():
        raise HilatError(f"{str(name)!r} is not a folder; expected one that holds a tokenizer. Check the path")
    if folder.is_dir() and not any((folder / file).is_file() for file in _VOCABULARY_FILES):
        raise HilatError(
            f"{folder} has no tokenizer.json; expected a folder with a tokenizer. Save one there with save_pretrained"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(name), trust_remote_code=False, use_fast=True)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError):
        raise HilatError(
            f"no tokenizer could be loaded from {str(name)!r}; expected a model folder or a name that is in the cache or "
            "can be downloaded. Check the name, and the connection when it is not a folder"
        ) from None
    except Exception as error:  # the tokenizers library raises bare Exception for a damaged file
        if type(error) is not Exception:
            raise
        raise HilatError(
            f"{str(name)!r} holds a damaged tokenizer.json; expected one that save_pretrained wrote. Save it again"
        ) from None
    if not tokenizer.is_fast or len(tokenizer) <= len(set(tokenizer.all_special_ids)):
        raise HilatError(
            f"the tokenizer of {str(name)!r} has {len(tokenizer)} tokens and is {'fast' if tokenizer.is_fast else 'slow'}; "
            "expected a fast one with a vocabulary. Save it with a tokenizer.json"
        )
    return cast(PreTrainedTokenizerBase, tokenizer)

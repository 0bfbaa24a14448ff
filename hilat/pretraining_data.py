"""Notes as token ids on disk, written once in bounded memory, and the sequences that are read from there."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from hilat.admissions import HilatError
from hilat.cleaning import CleaningRules
from hilat.encoding import tokenise
from hilat.files import new_folder, read_json, write_json
from hilat.pretraining_notes import Note, NoteSource, read_notes
from hilat.pretraining_settings import PretrainingSettings
from hilat.pretraining_targets import Aim, Row, Vocabulary, question, vocabulary_of
from hilat.pretraining_text import NoteCounts, counts_of, preprocess, statistics_table
from hilat.vocabulary import load_tokenizer, train_sentencepiece

FORMAT = 1
_PARTS = ("train", "held_out")
# Streams of random numbers, so that the same numbers never serve two ends.
_TRAINING, _HELD_OUT, _ORDER, _VOCABULARY = 0, 1, 2, 3


@dataclass(frozen=True, slots=True)
class Notes:
    """What is read: the sources, and admissions whose notes are left out."""

    sources: tuple[NoteSource, ...]
    without: frozenset[str] = frozenset()

    def __iter__(self) -> Iterator[tuple[str, Note]]:
        """Each note with the name of its source's folder or file."""
        for source in self.sources:
            for note in read_notes(source, self.without):
                yield Path(source.path).name, note


@dataclass(frozen=True, slots=True, eq=False)
class TokenFile:
    """Token ids (N,) of notes, one after the other, each with a separator at its end; starts (notes + 1,) into them."""

    tokens: NDArray[Any]
    starts: NDArray[np.int64]

    def notes(self) -> Iterator[NDArray[np.int64]]:
        """The ids of each note, without the separator."""
        for start, end in zip(self.starts[:-1].tolist(), self.starts[1:].tolist(), strict=True):
            yield np.asarray(self.tokens[start : end - 1], dtype=np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class PreparedNotes:
    """A folder that `prepare_notes` wrote: the tokenizer, the ids, and the statistics table."""

    tokenizer: PreTrainedTokenizerBase
    train: TokenFile
    held_out: TokenFile
    statistics: list[dict[str, Any]]


def is_held_out(group: str, share: float, seed: int) -> bool:
    """Whether the notes of a group (a patient) are held out: the same answer wherever and in whatever order they come."""
    digest = hashlib.blake2b(f"{seed}:{group}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2.0**64


def prepare_notes(
    folder: Path, notes: Notes, settings: PretrainingSettings, tell: Callable[[int], None] = lambda _: None
) -> None:
    """Preprocess and tokenise all notes into `folder`, whole or not at all.

    One note is in memory at a time (for a new vocabulary, first `vocabulary_notes` of them). tell: called with 1 per note.

    Raises:
        HilatError: no note, no word in them, or all of them held out.
    """
    rules = CleaningRules(words=settings.words, order=settings.order)  # type: ignore[arg-type]
    with new_folder(folder, what="folder of prepared notes") as beside:
        tokenizer = _tokenizer(beside / "tokenizer", notes, settings, rules)
        separator = vocabulary_of(tokenizer).separator
        counts: dict[tuple[str, str], NoteCounts] = {}
        admissions: dict[tuple[str, str], set[str]] = {}
        dtype = np.dtype("<u2" if len(tokenizer) <= 2**16 else "<u4")
        starts = {part: array("q", [0]) for part in _PARTS}
        with ExitStack() as stack:
            files = {part: stack.enter_context((beside / f"{part}.tokens").open("wb")) for part in _PARTS}
            for source, note in notes:
                tell(1)
                words, sentences = preprocess(note.text, rules, settings.shortest_sentence)
                ids = tokenise(words, tokenizer)[0]
                part = "held_out" if is_held_out(note.group, settings.held_out, settings.seed) else "train"
                found = counts_of(words, sentences, len(ids), held_out=part == "held_out")
                key = source, note.category
                counts[key] = counts.get(key, NoteCounts()) + found
                admissions.setdefault(key, set()).update({note.admission} - {""})
                if len(ids):
                    _write(files[part], np.append(ids, separator), dtype)
                    starts[part].append(starts[part][-1] + len(ids) + 1)
        _check(notes, counts, starts["train"], settings)
        for part in _PARTS:
            np.save(beside / f"{part}.starts.npy", np.frombuffer(starts[part], dtype=np.int64), allow_pickle=False)
        table = statistics_table(counts, admissions)
        write_json(beside / "data.json", {"format": FORMAT, "dtype": dtype.str, "statistics": table})


def read_prepared(folder: Path) -> PreparedNotes:
    """The notes that `prepare_notes` wrote, memory-mapped.

    Raises:
        HilatError: a file that is missing, of another format, or of another length than was written.
    """
    record = read_json(folder / "data.json", what="a folder of prepared notes")
    if record.get("format") != FORMAT:
        raise HilatError(f"{folder} holds prepared notes of another format; expected {FORMAT}. Take the folder away")
    parts = {}
    for part in _PARTS:
        file = folder / f"{part}.tokens"
        try:
            starts = np.load(folder / f"{part}.starts.npy", mmap_mode="r", allow_pickle=False)
            empty = file.stat().st_size == 0  # nothing to map
            tokens = np.zeros(0, record["dtype"]) if empty else np.memmap(file, record["dtype"], "r")
        except (OSError, ValueError):
            raise HilatError(f"{file} is missing or damaged; take {folder} away, and it is written again") from None
        if len(tokens) != starts[-1]:
            raise HilatError(f"{file} was cut off or changed; take {folder} away, and it is written again")
        parts[part] = TokenFile(tokens, starts)
    return PreparedNotes(load_tokenizer(folder / "tokenizer"), parts["train"], parts["held_out"], record["statistics"])


@dataclass(frozen=True, slots=True, eq=False)
class Sequences:
    """The contents of sequences: tokens[first:last] of a token file."""

    tokens: NDArray[Any]
    first: NDArray[np.int64]
    last: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.first)

    def __getitem__(self, n: int) -> NDArray[np.int64]:
        return np.asarray(self.tokens[self.first[n] : self.last[n]], dtype=np.int64)


def cut_into_sequences(file: TokenFile, room: int, documents: str) -> Sequences:
    """Sequences of at most `room` tokens. "packed": the notes run on, with their separators; "apart": each note anew."""
    if documents == "packed":
        total = len(file.tokens)
        first = np.arange(0, total, room)
        if total % room == 1 and len(first) > 1:
            first = first[:-1]  # a lone separator asks nothing
        return Sequences(file.tokens, first, np.minimum(first + room, total))
    lengths = np.diff(file.starts) - 1  # without the separators
    pieces = -(-lengths // room)
    note = np.repeat(np.arange(len(lengths)), pieces)
    within = np.arange(len(note)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    first = file.starts[:-1][note] + within * room
    return Sequences(file.tokens, first, np.minimum(first + room, file.starts[:-1][note] + lengths[note]))


class TrainingRows(Dataset[Row]):
    """All sequences that a run reads, in their order: pass after pass, each in an order of its own.

    Row n depends on the seed and n alone: on neither the number of processes nor what came before a restart.
    """

    def __init__(self, sequences: Sequences, vocabulary: Vocabulary, aim: Aim, rows: int, seed: int) -> None:
        self.sequences, self.vocabulary, self.aim = sequences, vocabulary, aim
        self.rows, self.seed = rows, seed
        self._pass, self._order = -1, np.zeros(0, dtype=np.int64)

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, n: int) -> Row:
        which, place = divmod(n, len(self.sequences))
        if which != self._pass:
            self._order = np.random.default_rng([self.seed, _ORDER, which]).permutation(len(self.sequences))
            self._pass = which
        rng = np.random.default_rng([self.seed, _TRAINING, n])
        return question(self.sequences[int(self._order[place])], self.vocabulary, self.aim, rng)


class HeldOutRows(Dataset[Row]):
    """The held-out sequences, at most `most` of them, evenly spread, each with the same question every time."""

    def __init__(self, sequences: Sequences, vocabulary: Vocabulary, aim: Aim, most: int, seed: int) -> None:
        self.sequences, self.vocabulary, self.aim, self.seed = sequences, vocabulary, aim, seed
        count = min(most, len(sequences))
        self.chosen = np.linspace(0, len(sequences) - 1, count).round().astype(np.int64) if count else np.zeros(0, int)

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, n: int) -> Row:
        place = int(self.chosen[n])
        rng = np.random.default_rng([self.seed, _HELD_OUT, place])
        return question(self.sequences[place], self.vocabulary, self.aim, rng)


def _write(file: IO[bytes], ids: NDArray[np.int64], dtype: np.dtype[Any]) -> None:
    try:
        file.write(ids.astype(dtype).tobytes())
    except OSError as error:
        raise HilatError(f"cannot write {file.name}: {error.strerror}; free space or choose another folder") from None


def _tokenizer(
    folder: Path, notes: Notes, settings: PretrainingSettings, rules: CleaningRules
) -> PreTrainedTokenizerBase:
    """The checkpoint's tokenizer, or a new one, saved in `folder`."""
    if settings.tokenizer == "keep" and not settings.encoder.startswith("new:"):
        tokenizer = load_tokenizer(settings.encoder)
        tokenizer.save_pretrained(folder)
        return tokenizer
    drawn = _drawn_notes(notes, settings)
    cleaned = (" ".join(preprocess(text, rules, settings.shortest_sentence)[0]) for text in drawn)
    return train_sentencepiece(cleaned, folder, vocab_size=settings.new_vocabulary, seed=settings.seed)


def _drawn_notes(notes: Notes, settings: PretrainingSettings) -> Sequence[str]:
    """`vocabulary_notes` notes that are not held out, each as likely as another (Vitter 1985, algorithm R)."""
    rng = np.random.default_rng([settings.seed, _VOCABULARY])
    drawn: list[str] = []
    seen = 0
    for _, note in notes:
        if is_held_out(note.group, settings.held_out, settings.seed):
            continue
        seen += 1
        if len(drawn) < settings.vocabulary_notes:
            drawn.append(note.text)
        elif (place := int(rng.integers(seen))) < settings.vocabulary_notes:
            drawn[place] = note.text
    return drawn


def _check(
    notes: Notes, counts: dict[tuple[str, str], NoteCounts], starts: Sequence[int], settings: PretrainingSettings
) -> None:
    read = sum(found.notes for found in counts.values())
    where = ", ".join(source.path for source in notes.sources)
    if not read:
        left_out = f" outside of the {len(notes.without)} admissions left out" if notes.without else ""
        raise HilatError(f"{where} holds no note with text{left_out}; expected notes to learn from. Check the path")
    if len(starts) == 1:
        kept_out = sum(found.held_out_notes for found in counts.values())
        raise HilatError(
            f"of {read} notes in {where}, {kept_out} are held out and none of the others holds a word; expected notes to "
            f"learn from. Give more notes, or set held_out lower than {settings.held_out}"
        )

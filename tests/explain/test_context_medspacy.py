"""The glue to medspaCy, with a small module in its place: what it is given, and how its answer comes back."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace

import pytest

from explain import context_medspacy
from explain.context import KINDS, ContextCue
from hilat.admissions import HilatError

CANARY = "quetzal"


@dataclass
class Token:
    text: str
    idx: int
    i: int
    is_sent_start: bool | None = None


class Doc:
    """Tokens of a line, cut at spaces, as far as the glue asks for them."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens: list[Token] = []
        for word in text.split():
            start = text.index(word, self.tokens[-1].idx + len(self.tokens[-1].text) if self.tokens else 0)
            self.tokens.append(Token(word, start, len(self.tokens)))
        self.ents: list[tuple[int, int, str]] = []
        self._ = SimpleNamespace()

    def __iter__(self) -> Iterator[Token]:
        return iter(self.tokens)

    def __getitem__(self, i: int) -> Token:
        return self.tokens[i]

    def char_span(self, start: int, end: int, label: str, alignment_mode: str) -> tuple[int, int, str]:
        assert alignment_mode == "expand"
        return start, end, label


class ConText:
    """No rules: every token spelt like a category in `SPELT` governs whatever was asked for."""

    SPELT: dict[str, str] = {"no": "NEGATED_EXISTENCE", "maybe": "POSSIBLE_EXISTENCE", "old": "HISTORICAL", "aunt": "FAMILY", "if": "HYPOTHETICAL", "odd": "OTHER"}  # noqa: RUF012  # fmt: skip
    seen: list[Doc] = []  # noqa: RUF012

    def __init__(self, nlp: object, language_code: str) -> None:
        self.given = (nlp, language_code)

    def __call__(self, doc: Doc) -> Doc:
        self.seen.append(doc)
        edges = [
            (doc.ents[0], SimpleNamespace(category=self.SPELT[t.text.lower()], modifier_span=(t.i, t.i + 1)))
            for t in doc
            if t.text.lower() in self.SPELT
        ]
        doc._.context_graph = SimpleNamespace(edges=edges)
        return doc


@pytest.fixture
def silenced(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """medspaCy, spaCy and loguru in small; gives the names that loguru was told to silence."""
    names: list[str] = []
    for name, content in {
        "loguru": {"logger": SimpleNamespace(disable=names.append)},
        "spacy": {"blank": lambda language: SimpleNamespace(make_doc=Doc, language=language)},
        "medspacy": {},
        "medspacy.context": {"ConText": ConText},
    }.items():
        module = ModuleType(name)
        module.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, module)
    context_medspacy._pipeline.cache_clear()
    ConText.seen.clear()
    yield names
    context_medspacy._pipeline.cache_clear()


@pytest.mark.usefixtures("silenced")
def test_each_category_becomes_a_kind_and_others_are_left_out() -> None:
    assert set(context_medspacy.CATEGORIES.values()) == set(KINDS)
    text = "no maybe old aunt if odd gout"
    (cues,) = context_medspacy.context_of(text, [(25, 29)])
    assert [cue.kind for cue in cues] == ["negated", "uncertain", "historical", "family", "hypothetical"]
    assert [text[cue.start : cue.end] for cue in cues] == ["no", "maybe", "old", "aunt", "if"]


@pytest.mark.usefixtures("silenced")
def test_offsets_are_those_of_the_raw_text_whatever_stands_before() -> None:
    text = "\U0001f600 Fine.\n\nThere  is\nNO  sign of\n\t gout here."
    at = text.index("gout")
    (cues,) = context_medspacy.context_of(text, [(at, at + 4)])
    assert cues == (ContextCue("negated", text.index("NO"), text.index("NO") + 2),)
    (doc,) = ConText.seen
    assert doc.text == "There is NO sign of gout here."  # its sentence only, white space as one space
    assert doc.ents == [(20, 24, "TARGET")]
    assert [token.is_sent_start for token in doc] == [True, *[False] * 6]


@pytest.mark.usefixtures("silenced")
def test_answers_come_in_the_order_of_the_targets_and_only_for_those_in_a_sentence() -> None:
    text = "No gout. Old stroke."
    targets = [(text.index("stroke"), len(text) - 1), (3, 7), (7, 8)]
    last, first, _ = context_medspacy.context_of(text, targets, within=[(0, 8), (9, 20)])
    assert [cue.kind for cue in first] == ["negated"]
    assert [cue.kind for cue in last] == ["historical"]
    assert context_medspacy.context_of(text, [(8, 9)], within=[(0, 8), (9, 20)]) == [()]  # between sentences
    assert context_medspacy.context_of("no   \n gout", [(3, 4)], within=[(0, 11)]) == [()]  # nothing but white space


@pytest.mark.usefixtures("silenced")
def test_words_of_the_target_are_no_cues_and_dates_of_the_sentence_are() -> None:
    text = "old gout in 1999. It was in 1998."
    (cues,) = context_medspacy.context_of(text, [(0, 8)], within=[(0, 17), (18, 33)], past=[(9, 16), (25, 32)])
    assert cues == (ContextCue("historical", 9, 16),)
    assert context_medspacy.context_of(text, [(9, 16)], within=[(0, 17)], past=[(9, 16)]) == [
        (ContextCue("historical", 0, 3),)
    ]


def test_the_token_log_of_its_splitter_is_silenced_before_it_is_loaded(silenced: list[str]) -> None:
    context_medspacy.context_of("no gout", [(3, 7)])
    assert silenced == ["PyRuSH"]
    context_medspacy.context_of("no gout", [(3, 7)])
    assert silenced == ["PyRuSH"]  # the pipeline is kept


@pytest.mark.parametrize("missing", ["loguru", "spacy", "medspacy.context"])
def test_without_medspacy_the_error_says_how_to_get_it(
    silenced: list[str], missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    del silenced
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(HilatError, match="pip install medspacy") as error:
        context_medspacy.context_of(f"no {CANARY}", [(3, 10)])
    assert missing in str(error.value)
    assert CANARY not in str(error.value)


@pytest.mark.usefixtures("silenced")
def test_wrong_targets_and_languages_are_refused() -> None:
    for target in ((-1, 2), (3, 3), (2, 9)):
        with pytest.raises(HilatError, match="raw text"):
            context_medspacy.context_of("no gout", [target])
    with pytest.raises(HilatError, match="en or es"):
        context_medspacy.context_of("no gout", [(3, 7)], "de")

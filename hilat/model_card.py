"""The model card, README.md of a model folder: what the model is, what it was trained on, how well it does, what it is not for.

It is written from what the coder knows of itself and holds no note text, no dates, and of paths the last name only, so that
the same coder always gives the same card.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hilat.admissions import CodeBook, HilatError
from hilat.files import read_json, write_json, write_text

if TYPE_CHECKING:
    from hilat.coder import Coder
    from hilat.metrics import CodeMetrics

CARD_FILE = "README.md"
FEW = 10  # training cases, under which the card counts a code as rare
_BEGIN, _END = "<!-- evaluations -->", "<!-- end of evaluations -->"
_UNKNOWN = "not recorded"
_MEASURES = {
    "micro_f1": "micro-F1",
    "macro_f1_mean_of_codes": "macro-F1 (mean of the codes' F1)",
    "macro_f1_of_macro_p_r": "macro-F1 (harmonic mean of macro precision and macro recall)",
    "micro_auc": "micro-AUC",
    "macro_auc": "macro-AUC (codes with positives and negatives there)",
    "mean_average_precision": "mean average precision over codes",
}
_VALIDATION = {
    "micro_f1": "micro_f1",
    "macro_f1": "macro_f1_mean_of_codes",
    "micro_auc": "micro_auc",
    "macro_auc": "macro_auc",
    "map": "mean_average_precision",
}  # a measure's name while training, and in hilat.metrics


def label_support(code_lists: Iterable[Sequence[str]], book: CodeBook) -> dict[str, Any]:
    """How many training cases the codes of the book have, from the codes of each training note."""
    counts = Counter(code for codes in code_lists for code in codes)
    cases = np.array([counts[code] for code in book.codes])  # (K,)
    return {
        "codes": len(book),
        "without_cases": int((cases == 0).sum()),
        f"under_{FEW}_cases": int((cases < FEW).sum()),
        "median_cases": float(np.median(cases)),
    }


def validation_at(evaluations: Iterable[Mapping[str, float]], step: int | None) -> dict[str, Any] | None:
    """The validation measures, at threshold 0.5, of a step of training (None: of the last); None where there are none.

    evaluations: of a `hilat.training.TrainingResult`.
    """
    rows = [row for row in evaluations if not step or int(row["step"]) == step]
    if not rows:
        return None
    last = rows[-1]
    named = {name: last[f"eval_{short}"] for short, name in _VALIDATION.items() if f"eval_{short}" in last}
    return {"step": int(last["step"]), "threshold_source": "fixed 0.5", **named}


def evaluation_entry(metrics: CodeMetrics, corpus: str, split: str, unread: int) -> dict[str, Any]:
    """What the card keeps of an evaluation. unread: notes of which not all words were read."""
    return {
        "corpus": last_name(corpus),
        "split": split,
        "notes": metrics.documents,
        "codes": metrics.codes,
        "codes_without_positives": metrics.codes_without_positives,
        "threshold_source": metrics.threshold_source,
        "notes_not_read_whole": unread,
        **{name: getattr(metrics, name) for name in _MEASURES},
        "precision_at": {str(k): value for k, value in metrics.precision_at.items()},
    }


def record_evaluation(folder: Path, coder: Coder, entry: Mapping[str, Any]) -> None:
    """Put an evaluation into the model folder's hilat.json and its card, in the place of one of the same corpus and split.

    Raises:
        HilatError: a card whose place for evaluations was taken out, or a folder that cannot be written.
    """
    file, card = Path(folder) / "hilat.json", Path(folder) / CARD_FILE
    record = read_json(file, what="the description of a hilat model")
    same = (entry["corpus"], entry["split"])
    kept = [one for one in record["card"].get("evaluations", ()) if (one["corpus"], one["split"]) != same]
    entries = sorted([*kept, dict(entry)], key=lambda one: (one["corpus"], one["split"]))
    record["card"]["evaluations"] = entries
    if card.is_file():
        before, begin, rest = card.read_text(encoding="utf-8").partition(_BEGIN)
        _, end, after = rest.partition(_END)
        if not (begin and end):
            raise HilatError(
                f"{card} has no place for evaluations; expected the lines {_BEGIN} and {_END}. Put them back, or remove the "
                "file to have the whole card written anew"
            )
        text = f"{before}{_evaluations(entries)}{after}"
    else:
        text = model_card(coder, entries)
    write_json(file, record)
    write_text(card, text)


def model_card(coder: Coder, evaluations: Sequence[Mapping[str, Any]] | None = None) -> str:
    """The card of a coder, Markdown with a YAML head as model hubs read it. evaluations: instead of those it has."""
    entries = coder.card.get("evaluations", ()) if evaluations is None else evaluations
    parts = (_head(coder), _what(coder), _data(coder), _training(coder), _metrics(coder), _evaluations(entries), _use(), _limits(coder), _loading(), _made(coder))  # fmt: skip
    return "\n\n".join(parts) + "\n"


def last_name(path: object) -> str:
    """The last part of a path, or the text itself where it is none; of an address, without user and password."""
    return re.split(r"[\\/]", str(path).rstrip("\\/"))[-1].rsplit("@", 1)[-1]


def _head(coder: Coder) -> str:
    system = re.sub(r"[^a-z0-9]+", "-", coder.code_book.system.lower()).strip("-")
    tags = ("clinical-coding", "icd", "hilat", "label-wise-attention", *([system] if system else []))
    return "\n".join(
        (
            "---",
            "license: unknown",
            "library_name: hilat",
            "pipeline_tag: text-classification",
            "tags:",
            *(f"- {tag}" for tag in dict.fromkeys(tags)),
            "---",
        )
    )


def _what(coder: Coder) -> str:
    config, book = coder.model.config, coder.code_book
    encoder, layout, system = config.encoder, coder.layout, _cell(book.system)
    procedures = sum(kind == "procedure" for kind in book.kinds)
    layers = getattr(encoder, "num_hidden_layers", _UNKNOWN)
    reads = (
        f"{layout.chunks} chunks of {layout.tokens} tokens{', one per group of sections' if layout.by_section else ''}"
    )
    rows = [
        ("encoder", _encoder(coder)),
        ("its kind", f"{encoder.model_type}, layers: {layers}, width: {encoder.hidden_size}"),
        ("vocabulary", f"{encoder.vocab_size} tokens"),
        ("parameters", f"{sum(p.numel() for p in coder.model.parameters()):,}"),
        ("reads", f"{reads}; words: {coder.rules.words}, order: {coder.rules.order}"),
        ("token attention, chunk attention", f"{config.token_attention}, {config.chunk_attention}"),
        ("a code is given", f"from its threshold on: {coder.threshold_source}"),
    ]
    return f"""# A HiLAT model for {system} codes

Reads a clinical note and gives a probability for each of {len(book)} {system} codes ({len(book) - procedures} diagnoses, {procedures} procedures), with
attention weights on the words. HiLAT: Liu et al. 2022, *Hierarchical label-wise attention Transformer model for explainable ICD
coding*; as implemented in hilat.

{_table(("", ""), rows)}"""


def _encoder(coder: Coder) -> str:
    name = _settings(coder).get("encoder")
    if name is None:
        return _UNKNOWN
    if str(name).startswith("new:"):
        return f"{name}, started from nothing"
    return f"{last_name(name)} (see its own card for what it was pretrained on)"


def _settings(coder: Coder) -> Mapping[str, Any]:
    found: Mapping[str, Any] = coder.card.get("settings") or {}
    return found


def _data(coder: Coder) -> str:
    corpus = coder.card.get("corpus") or {}
    support, lost = coder.card.get("label_set") or {}, coder.card.get("truncated") or {}
    source = last_name(corpus.get("source", _UNKNOWN))
    rows = [
        ("corpus", f"{source} (invented by hilat, no patient's notes)" if source == "planted" else source),
        ("training notes", corpus.get("train", _UNKNOWN)),
        ("validation notes", corpus.get("val", _UNKNOWN)),
        ("label set", f"{len(coder.code_book)} codes, {coder.code_book.system}; hilat.json lists them"),
        ("training cases of a code, median", _plain(support.get("median_cases", _UNKNOWN))),
        (f"codes with fewer than {FEW} training cases", support.get(f"under_{FEW}_cases", _UNKNOWN)),
        ("codes without any", support.get("without_cases", _UNKNOWN)),
        ("training notes longer than the chunks", lost.get("train_documents", _UNKNOWN)),
        ("their words that were not read", lost.get("train_words", _UNKNOWN)),
    ]
    return "## Data\n\n" + _table(("", ""), rows)


def _training(coder: Coder) -> str:
    settings = {name: last_name(value) if name == "encoder" and not str(value).startswith("new:") else value for name, value in _settings(coder).items()}  # fmt: skip
    if not settings:
        return f"## Training\n\nSettings: {_UNKNOWN}."
    rows = [(f"`{name}`", _plain(value)) for name, value in settings.items()]
    said = f"Optimiser steps taken: {coder.card.get('steps', _UNKNOWN)}. Encoder computed by: {coder.card.get('encoder_path', _UNKNOWN)}. Settings of `hilat train`:"  # fmt: skip
    return f"## Training\n\n{said}\n\n{_table(('setting', 'value'), rows)}"


def _metrics(coder: Coder) -> str:
    found = coder.card.get("validation")
    if not found:
        return "## Metrics\n\nValidation while training: none, or not recorded."
    best = coder.card.get("best") or {}
    rows = [(_MEASURES[name], _number(found[name])) for name in _MEASURES if name in found]
    chosen = f"this checkpoint was picked there by {best['measure']}, so the numbers lean high" if best.get("step") else "of the last step"  # fmt: skip
    tuned = "" if coder.threshold_source == found["threshold_source"] else f" The model's own thresholds ({coder.threshold_source}) were set afterwards, on the same notes."  # fmt: skip
    return (
        f"## Metrics\n\nValidation split, step {found['step']}, threshold {found['threshold_source']}, all {len(coder.code_book)} codes; "
        f"{chosen}.{tuned}\n\n{_table(('measure', 'val'), rows)}"
    )


def _evaluations(entries: Sequence[Mapping[str, Any]]) -> str:
    if not entries:
        body = "No evaluation on other notes is recorded. `hilat evaluate --model FOLDER --corpus CORPUS --split test --card` adds one here."  # fmt: skip
    else:
        body = "\n\n".join(_evaluation(entry) for entry in entries)
    return f"{_BEGIN}\n\n{body}\n\n{_END}"


def _evaluation(entry: Mapping[str, Any]) -> str:
    rows = [(title, _number(entry.get(name))) for name, title in _MEASURES.items()]
    rows += [(f"precision at {k}", _number(value)) for k, value in entry["precision_at"].items()]
    return (
        f"### {entry['corpus']}, {entry['split']}\n\n{entry['notes']} notes, {entry['codes']} codes "
        f"({entry['codes_without_positives']} without a case there), threshold {entry['threshold_source']}; codes outside of the "
        f"label set are not counted; {entry['notes_not_read_whole']} notes were not read whole.\n\n{_table(('measure', entry['split']), rows)}"
    )


def _use() -> str:
    return """## Intended use

Research on automated clinical coding and on its explanations: comparing models, methods and data, and showing coders a draft that a
person checks. Not for billing, care, or any decision on a patient without a person who reads the note and answers for the code.

## Who may have it

The licence is unknown, as hilat cannot know it. Weights that were trained on notes under a data use agreement (MIMIC-III and MIMIC-IV, for
example) can give away parts of them and may not be shared freely: ask who provides the data. A vocabulary that was learned from notes
(`tokenizer.json` of an encoder started from nothing) holds their frequent words, names among them where the notes have names."""


def _limits(coder: Coder) -> str:
    support = coder.card.get("label_set") or {}
    rare = support.get(f"under_{FEW}_cases")
    few = "Codes with few training cases are" if rare is None else f"{rare} of {len(coder.code_book)} codes had fewer than {FEW} training cases; such codes are"  # fmt: skip
    room = coder.layout.chunks * (coder.layout.tokens - 2)
    return f"""## Limits

- It knows the {len(coder.code_book)} codes of its label set only; a note may need others.
- {few} rarely given, and their metrics rest on little.
- It learned the notes of one corpus: their language, their hospital, their years, their coders' habits and the marks of their
  de-identification. Elsewhere it may do worse; evaluate it on your notes first.
- It reads at most {room} tokens of a note; what comes after is not read, and `hilat predict` says how much.
- Probabilities need not be calibrated: `hilat figure calibration`.
- Negated, doubtful, past and family mentions can lead to a code: `hilat errors study`.
- Attention tells which words were weighed, not that they caused the code, and not that they justify it. `hilat faithfulness`,
  `hilat attention-tests` and `hilat plausibility` measure both for this model.
- Whether it does equally well for all groups of patients is not known."""


def _loading() -> str:
    return """## How to use it

```sh
hilat predict --model FOLDER note.txt
hilat predict --model FOLDER --text notes/ --out codes.csv --evidence 5
```

```python
from explain.pipeline import CodingPipeline

pipeline = CodingPipeline("FOLDER")
for code in pipeline("Admitted with ...", evidence=5):
    print(code.code, code.title, code.score, [(word.start, word.end, word.score) for word in code.evidence])
```

FOLDER is the folder of this file. Weights are safetensors; nothing in it is a pickle or code."""


def _made(coder: Coder) -> str:
    card = coder.card
    versions = {name: version for name, version in (card.get("versions") or {}).items() if version is not None}
    rows = [
        ("seed", card.get("seed", _UNKNOWN)),
        ("Python", card.get("python", _UNKNOWN)),
        ("git revision of hilat", card.get("git_revision") or _UNKNOWN),
        *versions.items(),
    ]
    return "## Made with\n\n" + _table(("", ""), rows)


def _table(head: tuple[str, str], rows: Iterable[tuple[str, object]]) -> str:
    lines = (f"| {left} | {_cell(right)} |" for left, right in rows)
    return "\n".join((f"| {head[0]} | {head[1]} |", "|---|---|", *lines))


def _cell(value: object) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


def _plain(value: object) -> str:
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _number(value: float | None) -> str:
    return "undefined" if value is None or not np.isfinite(value) else f"{value:.4f}"

"""A study's file: what it means, and what is said when it is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from hilat.admissions import HilatError
from hilat.corpora import write_corpus
from hilat.corpora.planted import PlantedSettings, make_planted
from hilat.model import HilatConfig, HilatModel
from hilat.settings import TrainingSettings
from hilat.study import plan_runs, read_study
from hilat.study_jobs import run_folder, state_of

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "studies"
BASE: dict[str, Any] = {
    "corpus": "C",
    "seeds": [0, 1],
    "reference": "full",
    "settings": {"chunks": 4, "learning_rate": "1e-3"},
    "rows": [{"name": "full"}, {"name": "h", "label": "mean", "settings": {"chunk_attention": "mean", "chunks": 5}}],
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study") / "corpus"
    made = make_planted(PlantedSettings(seed=1, train=6, val=3, test=3))
    write_corpus(folder, made.admissions, made.code_book, source=made.source)
    return folder


@pytest.fixture
def written(tmp_path: Path) -> Callable[[Any], Path]:
    def write(value: Any) -> Path:
        path = tmp_path / "study.yaml"
        path.write_text(value if isinstance(value, str) else yaml.safe_dump(value), encoding="utf-8")
        return path

    return write


def test_rows_are_the_base_with_their_changes_and_every_seed_runs(written: Callable[[Any], Path], corpus: Path) -> None:
    study = read_study(written(BASE), {"corpus": corpus, "settings": {"steps": 7, "chunks": 9}})
    full, mean = study.rows
    assert (full.settings.chunks, full.settings.steps, full.settings.learning_rate) == (9, 7, 1e-3)
    assert (mean.settings.chunks, mean.settings.chunk_attention) == (5, "mean")  # a row's own settings win
    assert mean.changed == {"chunk_attention": "mean", "chunks": 5}
    runs = plan_runs(study)
    assert [(run.row, run.seed, run.settings.seed) for run in runs] == [
        ("full", 0, 0), ("h", 0, 0), ("full", 1, 1), ("h", 1, 1),
    ]  # fmt: skip
    assert len({run.key for run in runs}) == 4
    assert read_study(written({**BASE, "seeds": 3}), {"corpus": corpus}).seeds == (0, 1, 2)


def test_a_run_is_known_by_settings_and_corpus_not_by_its_row(
    written: Callable[[Any], Path], corpus: Path, tmp_path: Path
) -> None:
    over = {"corpus": corpus}
    runs = plan_runs(read_study(written(BASE), over))
    renamed = {**BASE, "rows": [{"name": "all of it", "settings": {"chunks": 4}}, *BASE["rows"]]}
    again = plan_runs(read_study(written(renamed), over))
    assert again[0].key == runs[0].key  # other name, same settings
    assert again[0].folder_name != runs[0].folder_name
    assert plan_runs(read_study(written(BASE), {**over, "settings": {"steps": 8}}))[0].key != runs[0].key
    assert plan_runs(read_study(written({**BASE, "split": "val"}), over))[0].key != runs[0].key
    other = tmp_path / "other"
    made = make_planted(PlantedSettings(seed=2, train=6, val=3, test=3))
    write_corpus(other, made.admissions, made.code_book, source=made.source)
    assert plan_runs(read_study(written(BASE), {"corpus": other}))[0].key != runs[0].key
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "a.txt").write_text("one")
    with_texts = plan_runs(read_study(written(BASE), {**over, "unlabelled": texts}))[0].key
    (texts / "a.txt").write_text("two")
    assert with_texts != plan_runs(read_study(written(BASE), {**over, "unlabelled": texts}))[0].key != runs[0].key
    assert state_of(tmp_path, runs[0]) == "to run"
    (tmp_path / "runs" / runs[0].folder_name).mkdir(parents=True)
    assert run_folder(tmp_path, again[0]) == tmp_path / "runs" / runs[0].folder_name


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in BASE.items() if key != name}


WRONG: dict[str, tuple[Any, str]] = {
    "unknown key": ({**BASE, "row": []}, "unknown key row; known: title, corpus"),
    "unknown setting in the base": ({**BASE, "settings": {"stepps": 3}}, "settings has unknown setting stepps; known: encoder"),
    "unknown setting in a row": ({**BASE, "rows": [{"name": "x", "settings": {"pooling": 1}}]}, r"row 1 \(x\) has unknown setting pooling"),
    "wrong value": ({**BASE, "rows": [{"name": "x", "settings": {"chunk_attention": "median"}}]}, "expected one of shared, per_code, mean"),
    "wrong type": ({**BASE, "settings": {"steps": "many"}}, "sets steps to a str; expected int"),
    "two rows of a name": ({**BASE, "rows": [{"name": "full"}, {"name": "full"}]}, "two rows of the name full; expected every name once"),
    "no name": ({**BASE, "rows": [{"settings": {}}]}, "row 1 has no name"),
    "unknown key of a row": ({**BASE, "rows": [{"name": "x", "setting": {}}]}, "row 1 has unknown key setting; known: name, label, settings"),
    "rows by name": ({**BASE, "rows": {"full": {}}}, "rows that are a dict; expected a list"),
    "no rows": (without("rows"), "has no rows; expected a list"),
    "empty rows": ({**without("reference"), "rows": []}, "0 rows and 2 seeds; expected one or more"),
    "no corpus": (without("corpus"), "names no corpus; expected a corpus folder. Add `corpus: FOLDER` or pass --corpus"),
    "unknown reference": ({**BASE, "reference": "ful"}, "reference is 'ful'; its rows are full, h"),
    "a seed among the settings": ({**BASE, "settings": {"seed": 1}}, "set a seed; expected none"),
    "seeds": ({**BASE, "seeds": ["a"]}, r"expected a list such as \[0, 1, 2\]"),
    "a seed twice": ({**BASE, "seeds": [1, 1]}, "expected each once"),
    "a list": ("- a\n- b\n", "holds a list; expected keys"),
    "not YAML": ("rows: [", "cannot be read as YAML"),
    "an object": ("rows: !!python/object/apply:os.getcwd []\n", "cannot be read as YAML"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said(written: Callable[[Any], Path], name: str) -> None:
    given, words = WRONG[name]
    with pytest.raises(HilatError, match=words):
        read_study(written(given))


def test_a_corpus_or_split_that_is_not_there_is_said(written: Callable[[Any], Path], corpus: Path) -> None:
    with pytest.raises(HilatError, match="does not exist"):
        read_study(Path("nowhere.yaml"))
    with pytest.raises(HilatError, match="is not a folder; expected a corpus folder"):
        plan_runs(read_study(written(BASE)))
    with pytest.raises(HilatError, match="no split 'dev'; it has train, val, test"):
        plan_runs(read_study(written({**BASE, "split": "dev"}), {"corpus": corpus}))
    with pytest.raises(HilatError, match=r"holds no \.txt file"):
        plan_runs(read_study(written({**BASE, "unlabelled": str(corpus)}), {"corpus": corpus}))


ABLATIONS: dict[str, dict[str, Any]] = {
    "full": {},
    "a": {"words": "all"},
    "b": {"words": "no_stop_words"},
    "c": {"order": "raw"},
    "d": {"sections": True},
    "e": {"fine_tune": "last"},
    "f": {"label_init": "titles"},
    "g": {"token_attention": "per_chunk"},
    "h": {"chunk_attention": "mean"},
    "i": {"chunk_attention": "max"},
    "j": {"chunk_attention": "flat"},
}


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("ablations*.yaml")), ids=lambda path: path.stem)
def test_the_ablations_are_those_of_table_4(file: Path) -> None:
    study = read_study(file, {"corpus": "C"})
    assert study.reference == "full"
    assert len(study.seeds) >= 3
    rows = {row.name: row for row in study.rows}
    assert list(rows) == list(ABLATIONS)
    full = rows["full"].settings
    paper = TrainingSettings()
    for name in (
        "words",
        "order",
        "sections",
        "token_attention",
        "chunk_attention",
        "label_init",
        "fine_tune",
        "attention",
    ):
        assert getattr(full, name) == getattr(paper, name), name
    layout = {"chunks", "tokens"}  # d needs ten chunks
    for name, row in rows.items():
        assert {k: v for k, v in row.changed.items() if k not in layout} == ABLATIONS[name]
        assert name == "d" or not layout & set(row.changed)
    assert rows["d"].settings.chunks == 10


def test_the_ablations_and_encoders_for_mimic_have_the_papers_settings() -> None:
    assert read_study(EXAMPLES / "ablations.yaml", {"corpus": "C", "settings": {"encoder": "xlnet-base-cased"}}).rows[
        0
    ].settings == TrainingSettings(encoder="xlnet-base-cased")
    rows = read_study(EXAMPLES / "encoders.yaml", {"corpus": "C"}).rows
    changed = {name for row in rows for name in row.changed}
    assert changed <= {"encoder", "chunks", "tokens", "batch_size", "accumulate", "checkpointing"}
    for row in rows:
        assert row.settings.batch_size * row.settings.accumulate == 16
        assert row.settings.chunks * (row.settings.tokens - 2) <= 5100


def test_parameters_are_those_of_table_2() -> None:
    """Liu et al. 2022, Table 2: with 50 codes 109,567,538 (ClinicalBERT), 110,739,506 (PubMedBERT), 117,975,602 (XLNet)."""
    base = {"d_model": 768, "n_layer": 12, "n_head": 12, "d_inner": 3072}
    configs: tuple[tuple[dict[str, Any], int], ...] = (
        ({"model_type": "bert", "vocab_size": 28996}, 109_567_538),
        ({"model_type": "bert", "vocab_size": 30522}, 110_739_506),
        ({"model_type": "xlnet", "vocab_size": 32000, **base}, 117_975_602),
    )
    for config, expected in configs:
        with torch.device("meta"):
            model = HilatModel(HilatConfig(config, 50))
        assert sum(p.numel() for p in model.parameters()) == expected

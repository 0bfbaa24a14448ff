"""ConText: hand-labelled sentences, a slow second version, properties, the planted corpus's decoys.

All sentences were invented here. `[ ]` marks the target; the kinds are what a reader says, not what the code gave.
"""

from __future__ import annotations

import random
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from explain.context import KINDS, ContextCue, Rule, context_of, read_rules, rules
from explain.past_years import past_years
from explain.sentences import sentences
from hilat.admissions import HilatError
from hilat.corpora.planted import PlantedSettings, make_planted

N, U, H, F, Y = KINDS  # negated, uncertain, historical, family, hYpothetical

ENGLISH: tuple[tuple[str, set[str]], ...] = (
    ("No evidence of [pneumonia].", {N}),
    ("He denies chest pain, nausea or [fever].", {N}),
    ("The patient was never [intubated].", {N}),
    ("CT was negative for [pulmonary embolism].", {N}),
    ("[Pulmonary embolism] was ruled out.", {N}),
    ("Ruled out for [MI] by enzymes.", {N}),
    ("[Endocarditis] was not seen on echo.", {N}),
    ("Abdomen soft without [ascites].", {N}),
    ("w/o [edema]", {N}),
    ("There was an absence of [wheezing].", {N}),
    ("She can’t recall any [syncope].", {N}),
    ("No history of [diabetes].", {N}),
    ("The films failed to show [fracture].", {N}),
    ("She refused [colonoscopy].", {N}),
    ("Not found to have [sepsis].", {N}),
    ("No fever, but [cough] for a week.", set()),
    ("Denies pain, however [dyspnea] is severe.", set()),
    ("No cause of [anemia] was seen.", {N}),
    ("No fever. [Cough] for a week.", set()),
    ("No increase in the [pleural effusion].", set()),
    ("Not only [CHF] but also renal failure.", set()),
    ("Gram negative [bacteremia] was treated.", set()),
    ("[Appendectomy] without complications.", set()),
    ("Without complications after [appendectomy].", set()),
    ("[Pneumonia] did not respond to the first antibiotic.", set()),
    ("Denies fever, endorses [chills].", set()),
    ("Normal weight, nodular [goiter].", set()),  # "no" within words
    ("The NOTE mentions [anemia].", set()),
    ("Possible [pneumonia] in the left base.", {U}),
    ("?[UTI]", {U}),
    ("Findings may represent [atelectasis].", {U}),
    ("Cannot rule out [abscess].", {U}),
    ("[Malignancy] could not be excluded.", {U}),
    ("r/o [MI]", {U}),
    ("Concern for [sepsis] on arrival.", {U}),
    ("[CHF] vs. [COPD]", {U}),
    ("Hypoxia, likely due to [pneumonia].", {U}),
    ("[Hypoxia], likely due to pneumonia.", set()),
    ("Suspected [cholangitis], confirmed [choledocholithiasis].", {U}),
    ("[Stroke] is unlikely.", {U}),
    ("Biopsy was done as soon as possible for [lymphoma].", set()),
    ("CBC with differential showed [leukocytosis].", set()),
    ("Imaging was consistent with [pancreatitis].", set()),  # left out on purpose
    ("History of [breast cancer].", {H}),
    ("s/p [CABG] with [AVR]", {H}),
    ("h/o [DVT], now with [pneumonia]", {H}),
    ("Status\npost [hip replacement]", {H}),
    ("[Seizures] as a child.", {H}),
    ("[Kidney stones] many years ago.", {H}),
    ("Past Medical History: [hypertension]", {H}),
    ("History of present illness: [dyspnea] for two days", set()),
    ("Prior to admission he took [warfarin].", set()),
    ("History of CHF, presents with [chest pain].", set()),
    ("Previous [stroke] with no [hemiparesis].", {H}),
    ("Family history of [colon cancer].", {F}),
    ("His mother had [diabetes].", {F}),
    ("[Lung cancer] in his father.", {F}),
    ("No family history of [clotting disorder].", {F, N}),
    ("Mother had lupus, the patient has [asthma].", set()),
    ("Lives with his mother, has [asthma].", set()),
    ("Per her daughter she had [confusion].", set()),
    ("Mother-in-law visited, [asthma] stable.", set()),
    ("Return to the ED if you have [bleeding].", {Y}),
    ("Call for [fever] above 101.", {Y}),
    ("She is at risk of [falls].", {Y}),
    ("Heparin for [DVT] prophylaxis.", {Y}),
    ("Monitor for [hypoglycemia].", {Y}),
    ("Oxycodone as needed for [pain].", {Y}),
    ("The patient has [pneumonia].", set()),
    ("Treated for [urosepsis] with ceftriaxone.", set()),
    ("Family History:\nMother: [stroke]", {F}),
    ("Family History:\n[Stroke]", set()),  # a heading governs its own line only
)
SPANISH: tuple[tuple[str, set[str]], ...] = (
    ("No presenta [fiebre].", {N}),
    ("Niega [alergias] medicamentosas.", {N}),
    ("Negó dolor torácico y [disnea].", {N}),
    ("Abdomen blando sin [masas].", {N}),
    ("Ausencia de [derrame pleural].", {N}),
    ("Se descarta [tromboembolismo].", {N}),
    ("Se descartó [tuberculosis] por cultivo.", {N}),
    ("No se objetiva [fractura].", {N}),
    ("[Neumonía] fue descartada por TC.", {N}),
    ("Sin antecedentes de [diabetes].", {N}),
    ("Cultivo negativo para [hongos].", {N}),
    ("Nunca ha tenido [convulsiones].", {N}),
    ("No hay signos de [meningitis].", {N}),
    ("Sin fiebre, pero con [tos].", set()),
    ("Sin embargo presentó [sepsis].", set()),
    ("No obstante, la [anemia] persiste.", set()),
    ("No solo [anemia] sino también leucopenia.", set()),
    ("Sin cambios en la [cardiomegalia].", set()),
    ("Intervenido sin complicaciones de [apendicitis].", set()),
    ("No fiebre. [Tos] productiva.", set()),
    ("Posible [neumonía] basal.", {U}),
    ("Sospecha de [linfoma].", {U}),
    ("Probable [pielonefritis] aguda.", {U}),
    ("[Endocarditis] a descartar.", {U}),
    ("Para descartar [apendicitis] se pidió TC.", {U}),
    ("No se puede descartar [malignidad].", {U}),
    ("No se descarta [absceso].", {U}),
    ("Imagen sugestiva de [metástasis].", {U}),
    ("Quizás se trate de un [quiste].", {U}),
    ("Disnea probablemente secundaria a [anemia].", {U}),
    ("Se operó lo antes posible de la [peritonitis].", set()),
    ("Antecedentes de [hipertensión].", {H}),
    ("ANTECEDENTES\npersonales de [asma]", {H}),
    ("Historia de [migraña].", {H}),
    ("[Ictus] en la infancia.", {H}),
    ("[Hepatitis] hace muchos años.", {H}),
    ("Previo a la [cirugía] recibió heparina.", set()),
    ("Historia de la enfermedad actual: [disnea]", set()),
    ("Antecedentes de asma, actualmente con [neumonía].", set()),
    ("Madre con [diabetes].", {F}),
    ("Su padre falleció de [infarto].", {F}),
    ("Antecedentes familiares de [cáncer].", {F}),
    ("[Glaucoma] en la familia.", {F}),
    ("Niega antecedentes familiares de [epilepsia].", {F, N}),
    ("Vive con su hija, tiene [demencia].", set()),
    ("Si presenta [fiebre], acudir a urgencias.", {Y}),
    ("En caso de [dolor], paracetamol.", {Y}),
    ("Profilaxis de [trombosis] con enoxaparina.", {Y}),
    ("Riesgo de [caídas].", {Y}),
    ("Sí presenta [fiebre].", set()),
    ("Paciente con [neumonía] tratada.", set()),
    ("Nº de historia 33, [neumonía].", set()),
)


def marked(sentence: str) -> tuple[str, list[tuple[int, int]]]:
    """The sentence without its brackets, and the ranges of what they held."""
    plain, targets = "", []
    for i, piece in enumerate(part for half in sentence.split("[") for part in half.split("]")):
        if i % 2:
            targets.append((len(plain), len(plain) + len(piece)))
        plain += piece
    return plain, targets


def kinds_of(sentence: str, language: str = "en", **options: object) -> list[set[str]]:
    plain, targets = marked(sentence)
    return [{cue.kind for cue in cues} for cues in context_of(plain, targets, language, **options)]  # type: ignore[arg-type]


@pytest.mark.parametrize(("sentence", "expected"), ENGLISH)
def test_english_sentences(sentence: str, expected: set[str]) -> None:
    assert kinds_of(sentence)[0] == expected


@pytest.mark.parametrize(("sentence", "expected"), SPANISH)
def test_spanish_sentences(sentence: str, expected: set[str]) -> None:
    assert kinds_of(sentence, "es")[0] == expected


def test_the_tables_are_large_enough_and_hold_every_kind() -> None:
    for table, least in ((ENGLISH, 60), (SPANISH, 40)):
        assert len(table) >= least
        assert set().union(*(expected for _, expected in table)) == set(KINDS)
        assert sum(not expected for _, expected in table) >= 10


def test_each_target_has_a_context_of_its_own() -> None:
    assert kinds_of("[CHF] vs. [COPD]") == [{U}, {U}]
    assert kinds_of("Suspected [cholangitis], confirmed [choledocholithiasis].") == [{U}, set()]
    assert kinds_of("Previous [stroke] with no [hemiparesis].") == [{H}, {H, N}]
    assert kinds_of("h/o [DVT], now with [pneumonia]") == [{H}, set()]


def test_words_of_the_target_are_no_cues_and_take_none_away() -> None:
    assert kinds_of("[History of tobacco use].") == [set()]
    assert kinds_of("No [history of tobacco use].") == [{N}]  # "no history of" touches the target, "no" does not
    assert kinds_of("No [increase] in size.") == [{N}]
    assert kinds_of("[Rule out] MI") == [set()]


def test_a_cue_says_where_its_words_stand() -> None:
    text = "Stable. There is NO\n  evidence of sepsis."
    at = text.index("sepsis")
    assert context_of(text, [(at, at + 6)]) == [(ContextCue("negated", text.index("NO"), at - 1),)]
    text = "Negó la di\u0301sne\u0301a"  # accents as signs of their own
    assert context_of(text, [(8, len(text))], "es") == [(ContextCue("negated", 0, 4),)]
    text = "Nego\u0301 tos"
    assert context_of(text, [(6, 9)], "es") == [(ContextCue("negated", 0, 5),)]


def test_a_termination_phrase_may_end_one_kind_only() -> None:
    assert kinds_of("Father had no stroke, patient has no [gout].") == [{N}]
    assert kinds_of("Previous fall, denies syncope, reports [vertigo].") == [{H}]


# ---------------------------------------------------------------- a slow second version


def slow_context(words: Sequence[str], target: int, given: Sequence[Rule], *, terminate: bool = True) -> set[tuple[str, int, int]]:  # fmt: skip
    """(kind, first word, last word) of the cues on word `target`, from the definition, word by word."""
    found = []
    for rule in given:
        parts = rule.phrase.split()
        for i in range(len(words) - len(parts) + 1):
            inside = range(i, i + len(parts))
            if [words[j] for j in inside] == parts and target not in inside:
                found.append((rule, i, i + len(parts) - 1))
    kept: list[tuple[Rule, int, int]] = []
    while found:
        longest = max(len(rule.phrase) for rule, _, _ in found)
        first = min(i for rule, i, _ in found if len(rule.phrase) == longest)
        chosen = [m for m in found if len(m[0].phrase) == longest and m[1] == first]
        kept += [m for m in found if m[1:] == chosen[0][1:]]
        covered = set(range(chosen[0][1], chosen[0][2] + 1))
        found = [m for m in found if not covered & set(range(m[1], m[2] + 1))]
    cues = set()
    for rule, i, last in kept:
        if rule.kind not in KINDS:
            continue
        side = "forward" if last < target else "backward"
        if rule.direction not in (side, "both"):
            continue
        between = range(last + 1, target) if side == "forward" else range(target + 1, i)
        stops = [m for m in kept if m[0].kind in ("terminate", f"terminate:{rule.kind}") and m[1] in between]
        if not (terminate and stops):
            cues.add((rule.kind, i, last))
    return cues


def random_words(rng: random.Random, given: Sequence[Rule]) -> tuple[list[str], int]:
    words: list[str] = []
    for _ in range(rng.randint(1, 9)):
        draw = rng.random()
        parts = rng.choice(given).phrase.split()
        words += (
            parts if draw < 0.55 else [rng.choice(parts)] if draw < 0.75 else [rng.choice(("lorem", "ipsum", "dolor"))]
        )
    target = rng.randint(0, len(words))
    return [*words[:target], "TARGET", *words[target:]], target


def compare(rng: random.Random, language: str, *, terminate: bool) -> int:
    """How many of 1,500 random sentences the two versions see differently."""
    given, different = rules(language), 0
    for _ in range(1500):
        words, target = random_words(rng, given)
        gaps = [rng.choice((" ", "  ", "\n")) for _ in words]
        starts, text = [], ""
        for word, gap in zip(words, gaps, strict=True):
            starts.append(len(text))
            text += (word.upper() if rng.random() < 0.2 else word) + gap
        span = (starts[target], starts[target] + len("TARGET"))
        (cues,) = context_of(text, [span], language, within=[(0, len(text))])
        ends = {start + len(word): i for i, (start, word) in enumerate(zip(starts, words, strict=True))}
        fast = {(cue.kind, starts.index(cue.start), ends[cue.end]) for cue in cues}
        different += fast != slow_context(words, target, given, terminate=terminate)
    return different


@pytest.mark.parametrize("language", ["en", "es"])
def test_the_slow_version_agrees_on_random_sentences(language: str) -> None:
    assert compare(random.Random(7), language, terminate=True) == 0


def test_the_comparison_sees_a_wrong_scope() -> None:
    assert compare(random.Random(7), "en", terminate=False) > 50


# ---------------------------------------------------------------- properties


def plain_words(text: str) -> str:
    apart = unicodedata.normalize("NFD", text.lower().replace("’", "'"))
    return " ".join("".join(c for c in apart if not unicodedata.combining(c)).split())


_PIECES = st.lists(
    st.one_of(
        st.sampled_from([rule.phrase for language in ("en", "es") for rule in rules(language)]),
        st.sampled_from(
            [". ", "\n", "\n\n", "? ", ": ", "\n- ", "\n1. ", "1. ", "(1) ", "Dr. ", "[**2151-7-16**]", "___"]
        ),
        st.text(max_size=8),
        st.text(alphabet="∯ᓴᓷȸ&♬☉♨☏\x1c\x85\u2028\t\"'“”¿¡.?!…", max_size=6),
    ),
    max_size=25,
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(pieces=_PIECES, language=st.sampled_from(["en", "es"]), data=st.data())
def test_cues_stand_in_the_targets_sentence_and_hold_their_phrase(
    pieces: list[str], language: str, data: st.DataObject
) -> None:
    text = " ".join(pieces) + " end"
    start = data.draw(st.integers(0, len(text) - 1))
    target = (start, data.draw(st.integers(start + 1, len(text))))
    ranges = sentences(text, language)
    (cues,) = context_of(text, [target], language)
    assert (cues,) == tuple(context_of(text, [target], language, within=ranges))
    known = {(plain_words(rule.phrase), rule.kind) for rule in rules(language)}
    for cue in cues:
        assert any(s <= cue.start < cue.end <= e and s <= start < e for s, e in ranges)
        assert (plain_words(text[cue.start : cue.end]), cue.kind) in known
        assert cue.end <= target[0] or cue.start >= target[1]
    assert list(cues) == sorted(cues, key=lambda cue: cue.start)


@pytest.mark.parametrize("language", ["en", "es"])
def test_every_built_in_phrase_does_what_its_row_says(language: str) -> None:
    given = rules(language)
    assert {rule.kind for rule in given if rule.kind in KINDS} == set(KINDS)
    for rule in given:
        before, after = kinds_of(f"[lorem] {rule.phrase} [lorem]", language, within=[(0, 200)])
        if rule.kind in KINDS:
            assert (rule.kind in after) == (rule.direction in ("forward", "both"))
            assert (rule.kind in before) == (rule.direction in ("backward", "both"))
        elif not any(rule.phrase == other.phrase and other.kind in KINDS for other in given):
            assert before == after == set()


def test_other_wrong_inputs(tmp_path: Path) -> None:
    (tmp_path / "latin.csv").write_bytes("phrase,kind,direction\nnegó,negated,forward\n".encode("latin-1"))
    for call in (
        lambda: read_rules(tmp_path / "latin.csv"),
        lambda: read_rules(tmp_path / "absent.csv"),
        lambda: rules("de"),
        lambda: sentences("A.", "de"),
        lambda: context_of("secretword", [(0, 99)]),
        lambda: context_of("secretword", [(-1, 2)]),
        lambda: context_of("secretword", [(3, 3)]),
        lambda: Rule("Two  Spaces", "negated", "forward"),
    ):
        with pytest.raises(HilatError) as error:
            call()
        assert "secretword" not in str(error.value)


def test_a_target_between_sentences_has_no_cue() -> None:
    text = "No fever.  \n\n Cough"
    assert context_of(text, [(10, 11), (9, 15)]) == [(), ()]
    assert context_of(text, []) == []
    assert context_of("No cough", [(3, 8)], within=[]) == [()]


# ---------------------------------------------------------------- planted decoys

# (recall, precision) floors. Measured: negated 1.00, 1.00 of 36 mentions; uncertain 0.94, 1.00 of 49 (planned procedures
# count as hypothetical); family 1.00, 1.00 of 18; historical 1.00, 0.58 of 30: the corpus codes "h/o" of chronic conditions.
_FLOORS = {"negated": (0.95, 0.95), "uncertain": (0.85, 0.95), "family": (0.95, 0.95), "historical": (0.95, 0.5)}


def test_planted_decoys_are_told_from_evidence() -> None:
    corpus = make_planted(PlantedSettings(seed=3, train=50, val=5, test=5))
    total: Counter[str] = Counter()
    right: Counter[str] = Counter()
    flagged: Counter[str] = Counter()
    for admission in corpus.admissions:
        marks = [*admission.evidence, *admission.decoys]
        text, targets = admission.text, [(m.start, m.end) for m in marks]
        for mark, cues in zip(marks, context_of(text, targets, past=past_years(text)), strict=True):
            kind = {"history": "historical"}.get(mark.kind, mark.kind)
            kinds = {cue.kind for cue in cues}
            total[kind] += 1
            right[kind] += kind in kinds
            flagged.update(kinds)
    for kind, (recall, precision) in _FLOORS.items():
        assert right[kind] / total[kind] >= recall, kind
        assert right[kind] / flagged[kind] >= precision, kind

"""Verdicts read strictly and summed up: shares, weights and agreement against scikit-learn, hands and slow loops."""

from __future__ import annotations

import csv
import json
import math
import random
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import cohen_kappa_score

from explain.cues import Cue
from explain.review import agreements, kappa_of, read_weights, review, wilson, write_verdicts
from explain.triage import Drawn, ListedCase
from explain.triage_csv import write_triage
from explain.verdicts import VERDICTS, Judgement, check_verdicts, read_verdicts, verdict_files
from hilat.admissions import HilatError
from reports.render import VERDICTS as ON_PAGES


def case(hadm_id: str, code: str = "401.9", kinds: Sequence[str] = ("negated",), outcome: str = "FP") -> ListedCase:
    return ListedCase(hadm_id, code, outcome, 0.7, 0.5, False, tuple(Cue(kind, kind) for kind in kinds), ())


def said(reviewer: str, hadm_id: str, verdict: str, cues: Sequence[str] = (), shown: Sequence[str] = ("negated",)) -> Judgement:  # fmt: skip
    return Judgement(reviewer, hadm_id, "401.9", "FP", verdict, tuple(shown), tuple(cues), "", "here")


def page_file(folder: Path, reviewer: str = "ab", **changes: object) -> Path:
    """What saveVerdicts() of an admission page writes."""
    entry = {
        "hadm_id": "1", "code": "401.9", "outcome": "FP", "probability": 0.71, "verdict": "model error",
        "cues_shown": ["section", "negated"], "cues": ["negated"], "comment": "a",
    }  # fmt: skip
    path = folder / f"verdicts-1-{reviewer}.json"
    path.write_text(json.dumps({"format": 1, "reviewer": reviewer, "model": "m", "verdicts": [{**entry, **changes}]}))
    return path


def table(folder: Path, filled: Sequence[tuple[str, str, str]], name: str = "ab", delimiter: str = ",") -> Path:
    """A triage table of cases 1, 2, ... with (verdict, cues, comment) filled in, as a spreadsheet saves it."""
    cases = {one.pair: one for one in (case(str(n + 1), "038.9", ("negated", "rule_pair")) for n in range(len(filled)))}
    drawn = [Drawn(*pair, "FP", "FP", 3, 3, (name,)) for pair in cases]
    path = folder / f"triage-{name}.csv"
    write_triage(path, name, drawn, cases)
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        for row, (verdict, cues, comment) in zip(rows, filled, strict=True):
            writer.writerow({**row, "code": "38.9", "verdict": verdict, "cues": cues, "comment": comment})
    return path


# ---------------------------------------------------------------- reading


def test_the_verdicts_are_those_of_the_pages() -> None:
    assert tuple(value for value, _ in ON_PAGES) == VERDICTS


def test_a_page_s_file_is_read(tmp_path: Path) -> None:
    found, blank = read_verdicts([page_file(tmp_path)])
    assert blank == 0
    assert found == [
        Judgement("ab", "1", "401.9", "FP", "model error", ("negated", "section"), ("negated",), "a", "verdicts-1-ab.json, verdict 1")
    ]  # fmt: skip


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_filled_table_is_read_by_its_key_though_the_spreadsheet_cut_the_code(tmp_path: Path, delimiter: str) -> None:
    filled = [
        ("Model Error", "Rule pair; negated", "ok; so"),
        ("", "", ""),
        ("coder_omission", "none", ""),
        ("unclear", "ALL".lower(), ""),
        ("", "", "look again"),
    ]
    found, blank = read_verdicts([table(tmp_path, filled, delimiter=delimiter)])
    assert blank == 1
    assert [(one.pair, one.verdict, one.cues, one.comment) for one in found] == [
        (("1", "038.9"), "model error", ("negated", "rule_pair"), "ok; so"),
        (("3", "038.9"), "coder omission", (), ""),
        (("4", "038.9"), "unclear", ("negated", "rule_pair"), ""),
        (("5", "038.9"), "", (), "look again"),
    ]
    assert found[0].source == "triage-ab.csv, row 2"


def test_folders_give_their_tables_and_verdict_files(tmp_path: Path) -> None:
    page = page_file(tmp_path)
    filled = table(tmp_path, [("unclear", "", "")], "cd")
    (tmp_path / "manifest.json").write_text("{}")
    assert verdict_files([tmp_path, page]) == [filled, page]
    with pytest.raises(HilatError, match="does not exist"):
        verdict_files([tmp_path / "none"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(HilatError, match="at least one"):
        verdict_files([tmp_path / "empty"])


CANARY = "Quetzal"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"verdict": CANARY}, "model error, coder omission, coding rule, unclear"),
        ({"cues": [CANARY]}, "negated, section"),
        ({"cues": ["family"]}, "negated, section"),
        ({"cues_shown": [CANARY], "cues": []}, "symptom_only"),
        ({"cues": CANARY}, "another form"),
        ({"comment": None}, "another form"),
    ],
)
def test_a_wrong_entry_is_refused_without_quoting_it(tmp_path: Path, changes: dict[str, object], says: str) -> None:
    path = page_file(tmp_path, **changes)
    with pytest.raises(HilatError, match=says) as error:
        read_verdicts([path])
    assert "verdict 1" in str(error.value)
    assert CANARY not in str(error.value)


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        '{"format": 2, "reviewer": "a", "verdicts": []}',
        '{"format": 1, "reviewer": " ", "verdicts": []}',
        "{",
    ],
)
def test_another_json_file_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "verdicts-x.json"
    path.write_text(content)
    with pytest.raises(HilatError, match=r"page saved|cannot be read"):
        read_verdicts([path])


def test_a_wrong_table_is_refused_with_its_row_and_without_quoting_it(tmp_path: Path) -> None:
    for filled in ((CANARY, "", ""), ("unclear", CANARY, "")):
        with pytest.raises(HilatError, match="row 3") as error:
            read_verdicts([table(tmp_path, [("unclear", "", ""), filled])])
        assert CANARY not in str(error.value)
    path = tmp_path / "triage-x.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(HilatError, match="no column 'case'"):
        read_verdicts([path])
    path.write_bytes("case,reviewer,cues_shown,verdict,cues,comment\n1|2,a,,unclear,,é\n".encode("cp1252"))
    with pytest.raises(HilatError, match="UTF-8"):
        read_verdicts([path])
    path.write_text("case,reviewer,cues_shown,verdict,cues,comment\n1,a,,unclear,,\n")
    with pytest.raises(HilatError, match="lacks its case"):
        read_verdicts([path])


def test_judgements_must_be_of_the_study_and_one_per_reviewer() -> None:
    cases = {one.pair: one for one in (case("1"), case("2", outcome="TP"))}
    check_verdicts([said("ab", "1", "unclear"), said("cd", "1", "unclear")], cases)
    with pytest.raises(HilatError, match=r"admission 3, code 401\.9, is no case"):
        check_verdicts([said("ab", "3", "unclear")], cases)
    with pytest.raises(HilatError, match="is FP there and TP in the study"):
        check_verdicts([said("ab", "2", "unclear")], cases)
    with pytest.raises(HilatError, match=r"ab judged admission 1, code 401\.9, twice"):
        check_verdicts([said("ab", "1", "unclear"), said("ab", "1", "")], cases)
    with pytest.raises(HilatError, match="its case is no case") as error:
        check_verdicts([said("ab", "Quetzal was seen", "unclear")], cases)
    assert CANARY not in str(error.value)


def test_a_name_in_two_spellings_is_one_reviewer(tmp_path: Path) -> None:
    first = page_file(tmp_path, "Ab")
    second = tmp_path / "verdicts-2.json"
    second.write_text(first.read_text().replace('"Ab"', '"aB"'))
    found, _ = read_verdicts([first, second])
    assert [one.reviewer for one in found] == ["Ab", "Ab"]
    with pytest.raises(HilatError, match="twice"):
        check_verdicts(found, {("1", "401.9"): case("1")})


# ---------------------------------------------------------------- shares


def test_wilson_by_hand_and_at_the_ends() -> None:
    # Newcombe 1998 (Stat Med 17:857), table I, method 3: 81/263, 15/148, 0/20, 1/29.
    for hits, n, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611), (1, 29, 0.0061, 0.1718)):  # fmt: skip
        assert wilson(hits, n) == pytest.approx((low, high), abs=5e-5)
    assert wilson(20, 20) == pytest.approx((1 - 0.1611, 1), abs=5e-5)
    assert wilson(20, 20)[1] == 1.0
    assert all(math.isnan(x) for x in wilson(0, 0))


def test_wilson_solves_the_score_equation() -> None:
    for hits, n in ((3.5, 9), (1, 4), (7, 30)):
        for bound in wilson(hits, n):
            assert abs(hits / n - bound) == pytest.approx(1.959964 * math.sqrt(bound * (1 - bound) / n), rel=1e-5)


def test_shares_count_a_case_once_and_weights_lead_back_to_the_population() -> None:
    cases = {one.pair: one for one in [*(case(str(n)) for n in range(5)), case("5", kinds=())]}
    judgements = [
        said("ab", "0", "model error", ["negated"]),
        said("cd", "0", "coder omission"),  # half of its reviewers
        said("ab", "1", "model error", ["negated"]),
        said("ab", "2", "model error"),
        said("ab", "3", "", ["negated"]),  # not finished
        said("ab", "4", "unclear", ["negated"]),
        said("ab", "5", "model error", shown=()),
    ]
    # Stratum A: 10 cases, 4 drawn (0, 1, 2, 3), 3 of them read; B: 6 cases, 1 drawn and read (5); 4 is not of the sample.
    sample = [Drawn(str(n), "401.9", "FP", "A", 10, 4) for n in range(4)] + [Drawn("5", "401.9", "FP", "B", 6, 1), Drawn("9", "401.9", "FP", "C", 2, 1)]  # fmt: skip
    found = review(judgements, cases, sample, resamples=200)
    assert (found.cases, found.unfinished, found.reviewers) == (5, 1, {"ab": 5, "cd": 1})
    assert found.unread_strata == {"C": 2}
    (cue,) = found.cues
    assert (cue.name, cue.outcome, cue.hits, cue.n) == ("negated", "", 2.5, 4)
    assert (cue.low, cue.high) == wilson(2.5, 4)
    assert cue.weighted.estimate == pytest.approx((0.5 + 1 + 0) / 3)  # one stratum: equal weights
    assert (cue.weighted.n, cue.weighted.missing) == (3, 1)
    wrong = next(one for one in found.verdicts if one.name == "model error")
    assert (wrong.hits, wrong.n, wrong.share) == (3.5, 5, 0.7)
    third = 10 / 3
    assert wrong.weighted.estimate == pytest.approx((0.5 * third + third + third + 6) / 16)
    assert sum(one.hits for one in found.verdicts) == 5
    plain = review(judgements, cases)
    assert plain.cues[0].share == cue.share
    assert math.isnan(plain.cues[0].weighted.estimate)
    assert plain.cues[0].weighted.reason == "the sample is not known"


def test_a_weighted_share_of_cases_that_are_alike_has_no_interval() -> None:
    """Resampling would give [1, 1]; Wilson's interval is there all the same."""
    cases = {one.pair: one for one in (case("0"), case("1"))}
    sample = [Drawn(str(n), "401.9", "FP", "A", 10, 2) for n in range(2)]
    (cue,) = review([said("ab", str(n), "unclear", ["negated"]) for n in range(2)], cases, sample, resamples=50).cues
    assert (cue.weighted.estimate, cue.weighted.n) == (1.0, 2)
    assert math.isnan(cue.weighted.low)
    assert cue.weighted.reason is not None
    assert (cue.low, cue.high) == wilson(2, 2)


def test_weights_of_what_was_read() -> None:
    sample = [Drawn(str(n), "c", "FP", "A", 12, 3) for n in range(3)]
    assert read_weights(sample, {("0", "c"), ("2", "c"), ("7", "c")}) == ({("0", "c"): 6.0, ("2", "c"): 6.0}, {})


def test_shares_by_outcome_where_there_are_several() -> None:
    cases = {one.pair: one for one in (case("0"), case("1"), case("2", outcome="TP"))}
    judgements = [said("ab", "0", "model error", ["negated"]), said("ab", "1", "unclear"), said("ab", "2", "unclear")]
    found = review(judgements, cases, resamples=50)
    assert [(one.outcome, one.hits, one.n) for one in found.cues] == [("", 1, 3), ("FP", 1, 2), ("TP", 0, 1)]
    assert len(found.verdicts) == 3 * len(VERDICTS)


def test_nobody_finished_is_no_number() -> None:
    found = review([said("ab", "0", "")], {("0", "401.9"): case("0")}, resamples=50)
    assert (found.cases, found.unfinished, found.cues) == (0, 1, ())
    assert all(math.isnan(one.share) and one.reason == "no case was read" for one in found.verdicts)


# ---------------------------------------------------------------- agreement


def test_kappa_by_hand_and_as_scikit_learn_has_it() -> None:
    # Cohen 1960's form: 20 and 15 on the diagonal of 50: p_o 0.7, p_e 0.5.
    assert kappa_of(np.array([[20.0, 5, 10, 15]]))[0] == pytest.approx(0.4)
    rng = random.Random(3)
    for _ in range(50):
        size, n = rng.randint(2, 4), rng.randint(2, 40)
        first = [rng.randrange(size) for _ in range(n)]
        second = [a if rng.random() < 0.5 else rng.randrange(size) for a in first]
        table = np.zeros((size, size))
        for a, b in zip(first, second, strict=True):
            table[a, b] += 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = cohen_kappa_score(first, second, labels=list(range(size)))
        assert kappa_of(table.reshape(1, -1))[0] == pytest.approx(expected, nan_ok=True)


def test_agreement_of_two_reviewers_on_verdicts_and_on_cues() -> None:
    rng = random.Random(5)
    judgements = []
    for n in range(40):
        first = rng.choice(VERDICTS)
        second = first if rng.random() < 0.6 else rng.choice(VERDICTS)
        right = rng.random() < 0.5
        judgements.append(said("ab", str(n), first, ["negated"] if right else []))
        judgements.append(said("cd", str(n), second, ["negated"] if right != (rng.random() < 0.2) else []))
    judgements.append(said("ab", "99", "unclear"))  # alone
    on_verdicts, on_cues = agreements(judgements, resamples=400, seed=1)
    pairs = [(judgements[2 * n], judgements[2 * n + 1]) for n in range(40)]
    assert on_verdicts.shared == on_cues.shared == on_verdicts.kappa.n == 40
    assert on_verdicts.raw == pytest.approx(np.mean([a.verdict == b.verdict for a, b in pairs]))
    assert on_verdicts.kappa.estimate == pytest.approx(
        cohen_kappa_score([a.verdict for a, _ in pairs], [b.verdict for _, b in pairs])
    )
    assert on_cues.kappa.estimate == pytest.approx(
        cohen_kappa_score([bool(a.cues) for a, _ in pairs], [bool(b.cues) for _, b in pairs])
    )
    slow = []
    draws = random.Random(8)
    for _ in range(400):  # the bootstrap, one draw at a time
        drawn = [pairs[draws.randrange(40)] for _ in range(40)]
        slow.append(cohen_kappa_score([a.verdict for a, _ in drawn], [b.verdict for _, b in drawn], labels=VERDICTS))
    # Two bootstraps of 400 draws: their quantiles differ by chance.
    assert (on_verdicts.kappa.low, on_verdicts.kappa.high) == pytest.approx(np.quantile(slow, [0.025, 0.975]), abs=0.05)


def test_kappa_resamples_admissions_and_not_cases() -> None:
    """Cases of one admission that agree or not together: an interval over cases would be too narrow."""
    cases = [(str(n), code, n % 2) for n in range(12) for code in ("401.9", "428.0", "584.9", "250.00")]
    judgements = []
    for n, (hadm_id, code, differ) in enumerate(cases):
        for reviewer in ("ab", "cd"):
            verdict = VERDICTS[(n + (differ if reviewer == "cd" else 0)) % 2]
            judgements.append(Judgement(reviewer, hadm_id, code, "FP", verdict, (), (), "", ""))
    together = agreements(judgements, seed=2)[0].kappa
    alone = agreements(
        [
            Judgement(one.reviewer, f"{one.hadm_id}-{one.code}", one.code, "FP", one.verdict, (), (), "", "")
            for one in judgements
        ],
        seed=2,
    )[0].kappa
    assert together.estimate == alone.estimate
    assert together.high - together.low > 1.5 * (alone.high - alone.low)


def test_kappa_is_undefined_with_a_reason() -> None:
    same = [said(name, str(n), "unclear") for n in range(3) for name in ("ab", "cd")]
    on_verdicts, on_cues = agreements(same)
    assert (on_verdicts.raw, on_cues.raw) == (1.0, 1.0)
    for one in (on_verdicts, on_cues):
        assert math.isnan(one.kappa.estimate)
        assert one.kappa.reason is not None
        assert "one and the same answer" in one.kappa.reason
    apart = [said("ab", "1", "unclear"), said("cd", "2", "unclear")]
    assert [(one.shared, one.kappa.reason) for one in agreements(apart)] == [(0, "no case that both judged")] * 2
    single = [said("ab", "1", "unclear"), said("cd", "1", "model error")]
    assert agreements(single)[0].kappa.estimate == 0.0
    assert agreements(single)[0].kappa.reason == "fewer than two admissions"


def test_three_reviewers_are_compared_two_by_two() -> None:
    judgements = [said(name, "1", "unclear") for name in ("c", "a", "b")]
    assert [(one.first, one.second) for one in agreements(judgements) if one.what == "verdict"] == [("a", "b"), ("a", "c"), ("b", "c")]  # fmt: skip


def test_cues_that_only_one_of_them_was_shown_are_not_compared() -> None:
    judgements = [said("a", "1", "unclear", shown=("negated", "section")), said("b", "1", "unclear", shown=("section",))]  # fmt: skip
    assert agreements(judgements)[1].shared == 1


def test_merged_verdicts_are_written_with_stratum_and_weight(tmp_path: Path) -> None:
    cases = {("1", "401.9"): case("1"), ("2", "401.9"): case("2")}
    judgements = [said("ab", "1", "unclear", ["negated"]), said("ab", "2", "")]
    write_verdicts(tmp_path / "v.parquet", judgements, cases, [Drawn("1", "401.9", "FP", "FP 401.9", 8, 2)])
    first, second = pq.read_table(tmp_path / "v.parquet").to_pylist()
    assert first == {
        "reviewer": "ab", "hadm_id": "1", "code": "401.9", "outcome": "FP", "verdict": "unclear", "cues_shown": ["negated"],
        "cues": ["negated"], "comment": "", "source": "here", "stratum": "FP 401.9", "weight": 4.0,
    }  # fmt: skip
    assert (second["verdict"], second["stratum"], second["weight"]) == ("", None, None)

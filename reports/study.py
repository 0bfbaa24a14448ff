"""The page of an error study: what tells false positives from true ones, which codes are confused, and every case."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from reports.render import OUTCOME_TEXT, asset, content_policy, environment
from reports.tables import ROWS, Column, Table, kept_flags, table_data

LINKS = 30  # of the network, the most frequent ones
ROW = 26  # units between two codes of the network
WIDTH, LEFT, RIGHT = 900, 300, 600  # of the network; where the codes of the two sides stand


@dataclass(frozen=True, slots=True)
class Listing:
    """A table of text, whose first `left` columns name its rows. name: its anchor. detail: what belongs to the title.
    notes: sentences under the table."""

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    detail: str = ""
    notes: tuple[str, ...] = ()
    left: int = 1


@dataclass(frozen=True, slots=True)
class Link:
    """A false positive and another code on the same notes. label: how the codes are tied ("sibling", "rule pair",
    "co-occurring"). missed: the model did not give the other code. says: count, expectation and lift in words."""

    false_positive: str
    other: str
    label: str
    missed: bool
    count: int
    says: str


@dataclass(frozen=True, slots=True)
class StudyCase:
    """A case of the study. address: its page, "" for none. cues: kinds. passages: as one line of text each."""

    hadm_id: str
    address: str
    code: str
    title: str
    outcome: str
    probability: float
    weak: bool
    cues: tuple[str, ...]
    passages: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StudyPage:
    """Everything on the page. facts and about: label and value pairs. notes: sentences under the facts. titles: of the
    codes in links. text: whether the passages hold note text. synthetic: the notes were invented."""

    title: str
    facts: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    listings: tuple[Listing, ...]
    links: tuple[Link, ...]
    cases: tuple[StudyCase, ...]
    titles: tuple[tuple[str, str], ...] = ()
    about: tuple[tuple[str, str], ...] = ()
    text: bool = True
    synthetic: bool = False


def render_study(page: StudyPage) -> str:
    """The HTML of an error study, the same bytes for the same study."""
    style = asset("report.css") + asset("index.css")
    script = asset("index.js")
    tables = [_cases(page.cases)]
    return (
        environment()
        .get_template("study.html.j2")
        .render(
            page=page,
            tables=tables,
            data=table_data(tables),
            most=ROWS,
            network=network(page.links, dict(page.titles)),
            style=style,
            script=script,
            policy=content_policy(style, script),
        )
    )


def _cases(cases: Sequence[StudyCase]) -> Table:
    with_text, with_titles = any(case.passages for case in cases), any(case.title for case in cases)
    columns = (
        Column("Admission", "link"), Column("Code", "text"), *((Column("Title", "text"),) if with_titles else ()),
        Column("Outcome", "text"), Column("p", "real", "probability"), Column("Cues", "text"),
        *((Column("Strongest passages", "lines"),) if with_text else ()),
    )  # fmt: skip
    cells = tuple(
        ((c.hadm_id, c.address), c.code, *((c.title,) if with_titles else ()), _outcome(c), round(c.probability, 6),
         _listed(c.cues), *(("\n".join(c.passages),) if with_text else ()))
        for c in cases
    )  # fmt: skip
    flags = {
        "False positives": [c.outcome == "FP" for c in cases],
        "False negatives": [c.outcome == "FN" for c in cases],
        "Weak true positives": [c.weak for c in cases],
    }
    hint = (
        "Codes that the model gives and the coders did not, codes it misses, and codes rightly given whose strongest passages hold "
        "neither a word of the description nor the coders' evidence. Cues are reasons to look, not verdicts."
    )
    return Table("t-cases", "Cases", columns, cells, kept_flags(flags), hint)


def _outcome(case: StudyCase) -> str:
    return f"{OUTCOME_TEXT[case.outcome]}{', weak evidence' if case.weak else ''}"


def _listed(kinds: Sequence[str]) -> str:
    return ", ".join(kinds).replace("_", " ")


def network(links: Sequence[Link], titles: dict[str, str]) -> dict[str, Any] | None:
    """The drawing of the most frequent links: false positives on the left, the codes that the coders gave on the right.

    None without links. What was seen once is drawn only where nothing was seen twice. Codes stand in the order of their
    first link, which starts with the most frequent one; a line's width grows with its count.
    """
    if not links:
        return None
    most = max(link.count for link in links)
    shown = sorted(
        (link for link in links if link.count >= min(2, most)),
        key=lambda link: (-link.count, link.false_positive, link.other, not link.missed),
    )[:LINKS]
    left = {code: n for n, code in enumerate(dict.fromkeys(link.false_positive for link in shown))}
    right = {code: n for n, code in enumerate(dict.fromkeys(link.other for link in shown))}
    middle = (LEFT + RIGHT) / 2
    lines = []
    for link in shown:
        y0, y1 = 20 + ROW * left[link.false_positive], 20 + ROW * right[link.other]
        lines.append(
            {
                "d": f"M{LEFT + 6} {y0}C{middle:g} {y0} {middle:g} {y1} {RIGHT - 6} {y1}",
                "width": round(1 + 6 * link.count / most, 2),
                "kind": f"{link.label.replace(' ', '-')} {'missed' if link.missed else 'assigned'}",
                "says": link.says,
            }
        )

    def nodes(side: dict[str, int]) -> list[tuple[int, str, str]]:
        return [(24 + ROW * n, code, titles.get(code, "")) for code, n in side.items()]

    height = 24 + ROW * max(len(left), len(right))
    return {"lines": lines, "left": nodes(left), "right": nodes(right), "width": WIDTH, "height": height, "x": (LEFT, RIGHT),
            "left_out": len(links) - len(shown)}  # fmt: skip

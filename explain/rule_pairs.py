"""Coding rules that tie codes together, from an editable file."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from hilat.admissions import HilatError

RULES = ("exclusive", "together")


@dataclass(frozen=True, slots=True)
class RulePair:
    """A code and the others that a coding rule ties to it; others may end in *. rule: one of RULES. says: the rule in words."""

    first: str
    others: tuple[str, ...]
    rule: str
    says: str

    def partner(self, code: str, given: tuple[str, ...]) -> str | None:
        """The code of `given` that this rule ties to `code`, in either direction; None where there is none."""
        if code == self.first:
            found = [other for other in given if other != code and any(fnmatchcase(other, p) for p in self.others)]
        elif any(fnmatchcase(code, pattern) for pattern in self.others):
            found = [other for other in given if other == self.first]
        else:
            return None
        return found[0] if found else None


@lru_cache(maxsize=1)
def built_in_rule_pairs() -> tuple[RulePair, ...]:
    """The pairs that come with hilat: ICD-9-CM, around the fifty most frequent codes of MIMIC-III."""
    text = files("explain").joinpath("data/rule_pairs.yaml").read_text(encoding="utf-8")
    return _checked(yaml.safe_load(text), "the built-in rule pairs")


def read_rule_pairs(path: Path) -> tuple[RulePair, ...]:
    """Pairs of a YAML file: a list of entries with first, others, rule (exclusive or together) and says.

    Raises:
        HilatError: a file that is not there or not YAML, or an entry that lacks a field.
    """
    try:
        entries = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise HilatError(f"{path} cannot be read ({error.strerror}); expected a YAML file of rule pairs") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise HilatError(f"{path} is not YAML; expected a list of rule pairs. Correct its syntax") from None
    return _checked(entries, str(path))


def _checked(entries: Any, where: str) -> tuple[RulePair, ...]:
    if not isinstance(entries, list):
        raise HilatError(
            f"{where} holds a {type(entries).__name__}; expected a list of rule pairs. Begin entries with '- '"
        )
    found = []
    for number, entry in enumerate(entries, start=1):
        fields = set(entry) if isinstance(entry, dict) else set()
        if fields != {"first", "others", "rule", "says"} or entry["rule"] not in RULES:
            raise HilatError(
                f"{where}, entry {number} has {', '.join(map(str, sorted(map(str, fields)))) or 'no fields'}; expected first, "
                f"others, rule ({' or '.join(RULES)}) and says. Correct it"
            )
        codes = [entry["first"], *(entry["others"] if isinstance(entry["others"], list) else [None])]
        if len(codes) < 2 or not all(isinstance(code, str) for code in codes):
            raise HilatError(
                f"{where}, entry {number} has codes that are not text; expected quoted codes, since a number has lost its "
                'zeros ("038.9"). Put quotes around them'
            )
        found.append(RulePair(codes[0], tuple(codes[1:]), entry["rule"], str(entry["says"])))
    return tuple(found)

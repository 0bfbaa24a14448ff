"""What README and docs name is there: pages, modules, commands with their options."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from hilat.cli.app import app

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
PLACES = (".", "hilat", "hilat/corpora", "hilat/encoders", "explain", "reports")
LAUNCHED = r"(?:torchrun [^`\n]*?-m |\.venv/bin/)?hilat ([a-z][^`\n#]*)"
IN_FENCE = re.compile(rf"^{LAUNCHED}", re.MULTILINE)
ELSEWHERE = re.compile(rf"(?:^ {{4}}|`){LAUNCHED}", re.MULTILINE)


def command(words: list[str]) -> Any:
    """The command that these words begin with, or None."""
    node: Any = get_command(app)
    for word in words:
        if not getattr(node, "commands", None) or word.isupper():  # KIND stands for any
            return node
        if word not in node.commands:
            return None
        node = node.commands[word]
    return node


def commands(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command that is not hidden."""
    for name, inner in sorted(node.commands.items()):
        if getattr(inner, "commands", None):
            yield from commands(inner, (*path, name))
        elif not inner.hidden:
            yield (*path, name)


def wrong(text: str) -> list[str]:
    """What the command lines in a page say that is not there."""
    found = []
    parts = text.replace("\\\n", " ").split("```")
    for line in [line for n, part in enumerate(parts) for line in (IN_FENCE if n % 2 else ELSEWHERE).findall(part)]:
        words = line.split(";")[0].split()
        named = command(words)
        if named is None:
            found.append(f"no command hilat {' '.join(words[:2])}")
            continue
        options = {name for given in named.params for name in (*given.opts, *given.secondary_opts)} | {"--help"}
        if not getattr(named, "commands", None):
            found += [
                f"hilat {words[0]} has no {w}"
                for w in words
                if re.match(r"--[a-z]", w) and w.split("=")[0] not in options
            ]
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_command_lines_and_links_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert wrong(text) == []
    links = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", text)
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_architecture_names_modules_that_exist() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([\w/]+\.py)`", text))
    assert len(named) > 50
    assert [name for name in sorted(named) if not any((ROOT / place / name).is_file() for place in PLACES)] == []


def test_the_readme_names_every_command_and_page() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text[text.index("## Commands and pages") : text.index("## Development")]
    names = {word for quoted in re.findall(r"`([^`]+)`", table) for word in quoted.split()}
    assert {path[0] for path in commands(get_command(app))} <= names
    assert [page.name for page in PAGES[1:] if f"docs/{page.name}" not in text] == []


def test_these_checks_can_fail() -> None:
    assert wrong("`hilat trains --corpus c`") == ["no command hilat trains --corpus"]
    assert wrong("```sh\nhilat train --corpus c \\\n  --outs o\n```") == ["hilat train has no --outs"]
    assert wrong("    hilat train --outs o; other --out o") == ["hilat train has no --outs"]
    assert wrong("hilat trains people. `hilat train --out o   # --anything`") == []

"""The plan of the house, checked on the syntax trees: imports point down, nothing unsafe is called."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("hilat", "explain", "reports")
# Package -> what its modules must not import.
FORBIDDEN: dict[str, tuple[str, ...]] = {
    "hilat": ("explain", "reports", "captum", "benchmarks"),
    "explain": ("reports", "benchmarks"),
    "reports": ("torch", "captum", "transformers", "benchmarks"),
}


def modules() -> Iterator[tuple[str, Path]]:
    """Every module of the three packages."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield package, path


def wrong_imports(package: str, source: str, *, command_line: bool) -> list[str]:
    """Imports that point upward; the command line may have them inside functions and for type checking."""
    found = []
    for node, inside in _walk(ast.parse(source), False):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module or ""]
        for name in names:
            if name.split(".")[0] in FORBIDDEN[package] and not (command_line and inside):
                found.append(f"{name} (line {node.lineno})")
    return found


def _walk(node: ast.AST, inside: bool) -> Iterator[tuple[ast.AST, bool]]:
    for child in ast.iter_child_nodes(node):
        deeper = inside or isinstance(child, ast.FunctionDef) or _type_checking(child)
        yield child, deeper
        yield from _walk(child, deeper)


def _type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def unsafe_calls(source: str) -> list[str]:
    """Pickle, torch.load without weights_only=True, remote code, print."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            if names == ["pickle"] and [a.name for a in node.names] == ["UnpicklingError"]:
                continue  # only to catch it
            found += [name for name in names if name.split(".")[0] in ("pickle", "joblib", "dill", "shelve", "marshal")]
        if isinstance(node, ast.Call):
            keywords = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
            called = ast.unparse(node.func)
            if called == "torch.load" and keywords.get("weights_only") is not True:
                found.append("torch.load without weights_only=True")
            if keywords.get("trust_remote_code"):
                found.append("trust_remote_code")
            if called in ("print", "eval", "exec"):
                found.append(called)
    return found


@pytest.mark.parametrize(("package", "path"), list(modules()), ids=lambda value: getattr(value, "name", str(value)))
def test_imports_point_down(package: str, path: Path) -> None:
    command_line = "cli" in path.relative_to(ROOT).parts
    assert wrong_imports(package, path.read_text(encoding="utf-8"), command_line=command_line) == []


@pytest.mark.parametrize(("package", "path"), list(modules()), ids=lambda value: getattr(value, "name", str(value)))
def test_nothing_unsafe_is_called(package: str, path: Path) -> None:
    del package
    allowed = {"print"} if "cli" in path.relative_to(ROOT).parts else set()
    assert set(unsafe_calls(path.read_text(encoding="utf-8"))) <= allowed


@pytest.mark.parametrize(("package", "path"), list(modules()), ids=lambda value: getattr(value, "name", str(value)))
def test_files_stay_short(package: str, path: Path) -> None:
    del package
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


def test_these_checks_can_fail() -> None:
    assert wrong_imports("hilat", "def f():\n    import explain.table", command_line=False) == [
        "explain.table (line 2)"
    ]
    assert wrong_imports("hilat", "import reports", command_line=True) == ["reports (line 1)"]
    assert wrong_imports("hilat", "def f():\n    import reports", command_line=True) == []
    assert wrong_imports("reports", "from torch import nn", command_line=False) == ["torch (line 1)"]
    assert unsafe_calls("import pickle") == ["pickle"]
    assert unsafe_calls("torch.load('x')") == ["torch.load without weights_only=True"]
    assert unsafe_calls("torch.load('x', weights_only=True)") == []
    assert unsafe_calls("f(trust_remote_code=True)\nprint(1)") == ["trust_remote_code", "print"]

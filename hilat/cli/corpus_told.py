"""What `hilat corpus` says of a corpus it has written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hilat.cli.console import emit_json, out


def told(manifest: dict[str, Any], folder: Path, json: bool) -> None:
    """The manifest as JSON, or its counts in lines."""
    if json:
        emit_json(manifest)
        return
    splits = ", ".join(f"{name or 'no split'} {count}" for name, count in manifest["splits"].items())
    out.print(f"{manifest['admissions']} admissions ({splits}), {manifest['codes']} codes: {folder}", soft_wrap=True)
    for name, value in manifest["notes"].items():
        if name not in ("statistics", "settings"):
            out.print(f"  {name}: {_plain(value)}", style="dim", soft_wrap=True, markup=False)
    labels = manifest["notes"].get("labels")
    if isinstance(labels, dict):
        _differences(labels.get("differs_from", {}))


def _differences(differences: dict[str, dict[str, list[str]]]) -> None:
    """Say how the label set differs from the published lists."""
    for name, difference in differences.items():
        if difference["only_here"]:
            here, there = ", ".join(difference["only_here"]), ", ".join(difference["only_there"])
            out.print(f"  against {name}: only here {here}; only there {there}", style="yellow", soft_wrap=True)
        else:
            out.print(f"  the same codes as {name}", style="dim")


def _plain(value: Any) -> str:
    """A note's counts as text: `name count, name count`; what is told elsewhere left out."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_plain(inner)}" for name, inner in value.items() if name != "differs_from")
    if isinstance(value, list):
        return " ".join(map(str, value)) if value else "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)

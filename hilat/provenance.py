"""What a result was made with: versions, seed, machine, git revision."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

_PACKAGES = (
    "hilat",
    "torch",
    "transformers",
    "tokenizers",
    "sentencepiece",
    "captum",
    "scikit-learn",
    "numpy",
    "pyarrow",
)


def package_versions() -> dict[str, str | None]:
    """Installed versions of the packages that shape a result; None where one is not installed."""
    versions: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def git_revision() -> str | None:
    """The commit of the checkout this code runs from ("-dirty" when changed), or None outside a checkout."""
    folder = Path(__file__).resolve().parent.parent
    if not (folder / ".git").exists():
        return None
    try:
        commit = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "-C", str(folder), "status", "--porcelain", "--untracked-files=no"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit}-dirty" if changed else commit


def run_record(command: str, settings: dict[str, Any], seed: int | None) -> dict[str, Any]:
    """What every run writes beside its results: resolved settings, versions, seed, git revision."""
    return {
        "command": command,
        "settings": settings,
        "seed": seed,
        "versions": package_versions(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "git_revision": git_revision(),
    }

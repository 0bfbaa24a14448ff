"""`hilat doctor`: what is here, what is missing."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path
from typing import Any

from hilat.cli.console import emit_json, out, table
from hilat.cli.options import Json


def doctor(json: Json = False) -> None:
    """Tell versions, device and memory, and what is missing.

    Example: [bold]hilat doctor[/]
    """
    found = examine()
    if json:
        emit_json(found)
        return
    table("Packages", ("package", "version"), [(k, v or "missing") for k, v in found["packages"].items()], left=2)
    table("Machine", ("what", "found"), [(k, str(v)) for k, v in found["machine"].items()], left=2)
    for problem in found["problems"]:
        out.print(f"[yellow]![/] {problem}", soft_wrap=True)
    if not found["problems"]:
        out.print("[green]Everything that hilat needs is here.[/]")


def examine() -> dict[str, Any]:
    """Versions, machine and problems as plain values."""
    import torch

    from hilat.encoders import products, relative_attention_compiled
    from hilat.provenance import git_revision, package_versions

    not_onednn, not_compiled = products.missing(), relative_attention_compiled.missing()
    packages = package_versions()
    memory = _memory_gib()
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    machine = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "torch threads": torch.get_num_threads(),
        "CPU instructions (torch)": torch.backends.cpu.get_cpu_capability(),
        "matrix products on the CPU": "oneDNN" if not_onednn is None else f"torch's own ({not_onednn})",
        "XLNet's attention on the CPU": "compiled" if not_compiled is None else f"in blocks ({not_compiled})",
        "memory (GiB)": None if memory is None else round(memory, 1),
        "free disk here (GiB)": round(free, 1),
        "CUDA devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] or "none",
        "bf16 on CUDA": torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False),
        "browser for page tests and PDF": shutil.which("chromium") or shutil.which("google-chrome") or "none",
        "git revision": git_revision() or "not a checkout",
    }
    problems = [f"{name} is not installed: python -m pip install {name}" for name, v in packages.items() if v is None]
    if memory is not None and memory < 8:
        problems.append(f"{memory:.1f} GiB of memory: the demo runs, a base-size encoder needs 16 GiB or more")
    if free < 2:
        problems.append(f"{free:.1f} GiB of free disk: checkpoints of a base-size model take 1.4 GiB each")
    return {"packages": packages, "machine": machine, "problems": problems}


def _memory_gib() -> float | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (ValueError, OSError, AttributeError):
        return None

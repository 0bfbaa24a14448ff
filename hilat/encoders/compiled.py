"""C files of this package as libraries for this machine's processor: compiled once, by the C compiler that is there."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch

from hilat.admissions import HilatError

_FLAGS = ("-O3", "-std=gnu11", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared")
_TUNED = (("-march=native",), ("-mcpu=native",), ())  # the first that the compiler knows
_SECONDS = 120


def library(source: Path) -> ctypes.CDLL:
    """The C file as a library, out of the user's cache folder where the same compiler made the same of it before.

    The compiler is CC or the first of cc, gcc and clang. The folder is hilat in XDG_CACHE_HOME or ~/.cache; a temporary
    one of this process where that cannot be written.

    Raises:
        HilatError: no compiler is there, or it does not compile the file, or the library does not load.
    """
    command, found = place_of(source)
    if found.is_file():
        with suppress(OSError):  # damaged: made again
            return ctypes.CDLL(str(found))
    try:
        _compile(command, source, found)
        return _loaded(found)
    except OSError:
        with tempfile.TemporaryDirectory(prefix="hilat-") as folder:
            _compile(command, source, Path(folder) / found.name)
            return _loaded(Path(folder) / found.name)


def in_threads(function: Any, given: Any, count: int) -> None:
    """Call the C function, with one pointer, in so many threads at once, at most as many as torch's operations have: in
    theirs, where those are OpenMP's. Threads beside them would have to share the processor, as OpenMP's go on for a while
    after each operation, waiting for the next."""
    start = _openmp_start() if count > 1 else None
    if start is not None:  # always all of them, some for nothing, as OpenMP would make others for another number
        start(ctypes.cast(function, ctypes.c_void_p), given, torch.get_num_threads(), 0)
        return
    others = [threading.Thread(target=function, args=(given,)) for _ in range(1, count)]
    for thread in others:
        thread.start()
    function(given)
    for thread in others:
        thread.join()


@cache
def _openmp_start() -> Callable[..., None] | None:
    """GOMP_parallel, how code compiled by gcc starts OpenMP's threads (LLVM's OpenMP has it too), of the library that torch
    uses; None where there is none."""
    with suppress(OSError, AttributeError):
        found = ctypes.CDLL(torch._C.__file__).GOMP_parallel
        found.argtypes, found.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint], None
        return found
    return None


def _loaded(found: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(found))
    except OSError as error:
        raise HilatError(
            f"what the C compiler made does not load ({error}). Set XDG_CACHE_HOME to a folder whose files may be run"
        ) from None


def place_of(source: Path) -> tuple[list[str], Path]:
    """The command that compiles the file, and where what it makes belongs: another place for another compiler, processor or
    content, that of the headers beside it included.

    Raises:
        HilatError: no compiler is there.
    """
    command = _compiler()
    made_of = [path.read_bytes() for path in (source, *sorted(source.parent.glob("*.h")))]
    identity = hashlib.sha256(b"".join((_knows(command), *made_of))).hexdigest()[:24]
    return command, _cache() / f"{source.stem}-{identity}.so"


def _compiler() -> list[str]:
    """The command with its flags, those of this processor included."""
    given = shlex.split(os.environ.get("CC", ""))
    named = given or [name for name in ("cc", "gcc", "clang") if shutil.which(name)][:1]
    if not named:
        raise HilatError("no C compiler is there (cc, gcc or clang)")
    for tuned in _TUNED:
        with suppress(HilatError):
            _knows([*named, *_FLAGS, *tuned])
            return [*named, *_FLAGS, *tuned]
    raise HilatError(f"{named[0]} does not run as a C compiler")


def _knows(command: list[str]) -> bytes:
    """What the compiler says about itself, its flags and the processor it compiles for; the libraries' identity."""
    return shlex.join(command).encode() + _ran([*command, "-dM", "-E", "-x", "c", os.devnull])


def _compile(command: list[str], source: Path, found: Path) -> None:
    """Written beside its place and then moved there, so that no other process sees half of it."""
    found.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(dir=found.parent, prefix=found.stem, suffix=".part")
    os.close(handle)
    try:
        _ran([*command, str(source), "-o", beside])
        os.replace(beside, found)
    finally:
        Path(beside).unlink(missing_ok=True)


def _ran(command: list[str]) -> bytes:
    try:
        done = subprocess.run(command, capture_output=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HilatError(f"{command[0]} does not run ({type(error).__name__})") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["without a word"]
        raise HilatError(f"{command[0]} failed with status {done.returncode}: {said[0][:300]}")
    return done.stdout


def _cache() -> Path:
    given = os.environ.get("XDG_CACHE_HOME")
    try:
        return Path(given or Path.home() / ".cache") / "hilat"
    except RuntimeError:  # a user without a home
        return Path(tempfile.gettempdir()) / f"hilat-{os.getuid()}"

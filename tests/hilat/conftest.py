"""Commands run as the script would, in this process."""

from __future__ import annotations

import io
import json
import logging
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from hilat.cli import main


@dataclass(frozen=True)
class Answer:
    """What a command said: standard output, and standard error followed by every log line."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        return self.out + self.err

    @property
    def json(self) -> object:
        return json.loads(self.out)


@pytest.fixture(scope="session")
def run() -> Callable[..., Answer]:
    """run("report", "--out", folder, stdin=b"") gives the command's Answer."""

    def go(*arguments: object, stdin: bytes = b"") -> Answer:
        out, err, logged = io.StringIO(), io.StringIO(), logging.StreamHandler(io.StringIO())
        code, root = 0, logging.getLogger()
        before = root.level
        with pytest.MonkeyPatch.context() as patched, warnings.catch_warnings():
            patched.setattr(sys, "argv", ["hilat", *map(str, arguments)])
            patched.setattr(sys, "stdout", out)
            patched.setattr(sys, "stderr", err)
            patched.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
            root.addHandler(logged)
            root.setLevel(logging.DEBUG)
            try:
                main()
            except SystemExit as stop:
                code = int(stop.code or 0)
            finally:
                root.removeHandler(logged)
                root.setLevel(before)
        return Answer(code, out.getvalue(), err.getvalue() + logged.stream.getvalue())

    return go

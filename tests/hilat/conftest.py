"""Commands run as the script would, in this process; and oneDNN, counted."""

from __future__ import annotations

import io
import json
import logging
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
from torch import Tensor

from hilat.cli import main
from hilat.encoders import products


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


@pytest.fixture
def onednn(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """oneDNN on any processor and for products of any size; its attribute `count` says how often it was called."""
    calls, own = SimpleNamespace(count=0), products._onednn

    def counted(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        calls.count += 1
        return own(x, weight, bias)

    monkeypatch.setattr(products, "missing", lambda: None)
    monkeypatch.setattr(products, "_LEAST", 1)
    monkeypatch.setattr(products, "_EVEN", 1)
    monkeypatch.setattr(products, "_onednn", counted)
    return calls

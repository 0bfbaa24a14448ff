"""Writing: all or nothing."""

from __future__ import annotations

import errno
import json
import math
from pathlib import Path

import pytest

from hilat.admissions import HilatError
from hilat.files import new_folder, read_json, write_json, write_text


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "folder"

    def breaks() -> None:
        with new_folder(out) as beside:
            (beside / "half").write_text("x")
            assert not out.exists()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        breaks()
    assert list(tmp_path.rglob("*")) == [tmp_path / "deep"]
    with new_folder(out) as beside:
        (beside / "whole").write_text("x")
    assert [p.name for p in out.iterdir()] == ["whole"]


def test_what_is_there_is_kept_unless_told_and_until_the_new_one_is_done(tmp_path: Path) -> None:
    out = tmp_path / "folder"
    with new_folder(out) as beside:
        (beside / "old").write_text("x")
    with pytest.raises(HilatError, match="--overwrite"), new_folder(out):
        pass
    with pytest.raises(KeyboardInterrupt), new_folder(out, overwrite=True):
        raise KeyboardInterrupt
    assert [p.name for p in out.iterdir()] == ["old"]
    with new_folder(out, overwrite=True) as beside:
        (beside / "new").write_text("x")
    assert [p.name for p in out.iterdir()] == ["new"]
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_a_full_disk_is_told_and_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", full)
        with pytest.raises(HilatError, match="No space left on device; free space"):
            write_text(path, "b")
    assert read_json(path, what="x") == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_json_has_no_nan_and_errors_say_what_was_expected(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"a": math.nan, "b": [1.5, math.inf], "c": "é"})
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": None, "b": [1.5, None], "c": "é"}
    path.write_text('{"a": ')
    with pytest.raises(HilatError, match="cannot be read as JSON; expected a manifest"):
        read_json(path, what="a manifest")
    with pytest.raises(HilatError, match="does not exist; expected a manifest"):
        read_json(tmp_path / "none", what="a manifest")

"""Files are written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ffebm_compiler import OptionError
from ffebm_compiler.files import write_whole


def test_a_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    write_whole(tmp_path / "a.txt", "one", "text")
    write_whole(tmp_path / "a.txt", b"two", "text")
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "two"


def test_a_failure_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_whole(tmp_path / "a.txt", "one", "text")

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OptionError, match=r"text .*a\.txt: can't be written: No space left on device"):
        write_whole(tmp_path / "a.txt", "two", "text")
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "one"


def test_permissions_follow_the_mask(tmp_path: Path) -> None:
    assert write_whole(tmp_path / "a.txt", "one", "text").stat().st_mode & 0o077 == 0o066 & ~_mask()


def _mask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

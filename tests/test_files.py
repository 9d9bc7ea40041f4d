"""Files are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ffebm_compiler import OptionError
from ffebm_compiler.files import write_folder_whole, write_whole


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


def pages(**texts: str) -> Callable[[Path], None]:
    def fill(folder: Path) -> None:
        for name, text in texts.items():
            (folder / name).write_text(text)

    return fill


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    folder = write_folder_whole(tmp_path / "f", pages(index="1", a="b"), "pages", "index")
    assert {p.name: p.read_text() for p in folder.iterdir()} == {"index": "1", "a": "b"}
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_a_folder_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder_whole(tmp_path / "f", pages(index="1"), "pages", "index")

    def full(*args: object, **kwargs: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OptionError, match=r"folder .*f: can't be written: No space left on device"):
        write_folder_whole(tmp_path / "f", pages(index="2"), "pages", "index", replace=True)
    assert [p.name for p in tmp_path.iterdir()] == ["f"]
    assert (tmp_path / "f" / "index").read_text() == "1"


def test_a_folder_replaces_its_like_only(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis").write_text("x")
    (tmp_path / "empty").mkdir()
    for name in ("file", "other", "missing/f"):
        with pytest.raises(OptionError):
            write_folder_whole(tmp_path / name, pages(index="1"), "pages", "index", replace=True)
    write_folder_whole(tmp_path / "empty", pages(index="1"), "pages", "index")
    with pytest.raises(OptionError, match="exists"):
        write_folder_whole(tmp_path / "empty", pages(index="2"), "pages", "index")
    write_folder_whole(tmp_path / "empty", pages(index="2"), "pages", "index", replace=True)
    assert (tmp_path / "empty" / "index").read_text() == "2"

"""Files are written whole or not at all."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ffebm_compiler import OptionError, files
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


@pytest.mark.parametrize("exchanged", [True, False], ids=["in one step", "in two steps"])
def test_a_folder_takes_the_place_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchanged: bool) -> None:
    if not exchanged:
        monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    elif sys.platform == "linux":
        monkeypatch.setattr(files, "_take_name_in_two_steps", None)
    write_folder_whole(tmp_path / "f", pages(index="1", old="x"), "pages", "index")
    write_folder_whole(tmp_path / "f", pages(index="2", new="y"), "pages", "index", replace=True)
    assert {p.name: p.read_text() for p in (tmp_path / "f").iterdir()} == {"index": "2", "new": "y"}
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_a_link_to_a_folder_stays_one(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "f").symlink_to(tmp_path / "disk")
    write_folder_whole(tmp_path / "f", pages(index="1"), "pages", "index")
    assert (tmp_path / "f").is_symlink()
    assert (tmp_path / "disk" / "index").read_text() == "1"


def test_an_error_of_the_exchange_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OSError, match="No such file"):
        files._exchange(tmp_path / "a", tmp_path / "b")


def test_what_a_killed_writer_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = {}
    for process in (dead.pid, os.getppid(), os.getpid()):
        left[process] = tmp_path / f"{files._prefix(tmp_path / 'f', process)}abc.partial"
        left[process].mkdir()
        (left[process] / "index").write_text("x")
    others = [tmp_path / ".f.somewhere.1.abc.partial", tmp_path / f".g.{dead.pid}.partial", tmp_path / "f.partial"]
    for other in others:
        other.write_text("x")
    write_folder_whole(tmp_path / "f", pages(index="1"), "pages", "index")
    assert not left.pop(dead.pid).exists()
    assert all(p.exists() for p in (*left.values(), *others))


WRITER = """
import itertools, sys
from pathlib import Path
from ffebm_compiler.files import write_folder_whole, write_whole
place = Path(sys.argv[1])
def fill(folder, content):
    for i in range(20):
        (folder / f"page{i}").write_text(content * 2000)
    (folder / "index").write_text(content)
for n in itertools.count():
    write_folder_whole(place / "folder", lambda f: fill(f, f"{n:06}"), "pages", "index", replace=True)
    write_whole(place / "file", f"{n:06}" * 50_000, "text")
    print(n, flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems may need two steps")
def test_a_kill_at_any_moment_leaves_a_whole_folder_and_file(tmp_path: Path) -> None:
    draw = random.Random(0)
    for _ in range(6):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        writer.stdout.readline()  # both are there
        time.sleep(draw.uniform(0.0, 0.05))
        writer.kill()
        writer.communicate()
        index = (tmp_path / "folder" / "index").read_text()
        assert len(index) == 6
        for i in range(20):
            assert (tmp_path / "folder" / f"page{i}").read_text() == index * 2000
        text = (tmp_path / "file").read_text()
        assert text == text[:6] * 50_000
    write_folder_whole(tmp_path / "folder", pages(index="1"), "pages", "index", replace=True)
    write_whole(tmp_path / "file", "1", "text")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]

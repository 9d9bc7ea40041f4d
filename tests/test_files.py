"""Files are written whole or not at all."""

from __future__ import annotations

import os
import random
import socket
import stat
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


@pytest.mark.slow
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


# --- what is neither a file nor a folder ----------------------------------------------------------------------


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    try:
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    except PermissionError:  # only root makes devices
        path.symlink_to("/dev/null")


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(os.path.relpath(path))  # a short name: sockets have no long ones


def circle(path: Path) -> None:
    path.symlink_to(path)


SPECIAL = {"a pipe": pipe, "a device": device, "a socket": listening, "a link that leads back to itself": circle}


@pytest.mark.skipif(os.name != "posix", reason="has none of these")
@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("kind", SPECIAL)
def test_a_special_file_is_refused_and_stays(
    kind: str, linked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    target = special = tmp_path / "special"
    SPECIAL[kind](special)
    before = os.lstat(special).st_mode, os.lstat(special).st_ino
    if linked:
        target = tmp_path / "link"
        target.symlink_to(special)
    for write in (
        lambda: write_whole(target, "one", "text"),
        lambda: write_folder_whole(target, pages(index="1"), "pages", "index", replace=True),
    ):
        with pytest.raises(OptionError, match=f"is {kind}, which is left as it is"):
            write()
    assert (os.lstat(special).st_mode, os.lstat(special).st_ino) == before
    assert {p.name for p in tmp_path.iterdir()} == {"special", *(["link"] if linked else [])}


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_to_a_file_stays_one(exists: bool, tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    real, link = tmp_path / "inner" / "real.txt", tmp_path / "link.txt"
    if exists:
        real.write_text("old")
    link.symlink_to("inner/real.txt")
    assert write_whole(link, "new", "text") == link
    assert link.is_symlink()
    assert real.read_text() == "new"
    assert [p.name for p in (tmp_path / "inner").iterdir()] == ["real.txt"]


def test_a_link_into_no_folder_is_refused(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("nowhere/real.txt")
    for write in (
        lambda: write_whole(link, "new", "text"),
        lambda: write_folder_whole(link, pages(index="1"), "pages", "index"),
    ):
        with pytest.raises(OptionError, match="nowhere"):
            write()
    assert link.is_symlink()

"""Writes files whole or not at all: into a temporary one beside the target, which then takes its name.

Whatever moment the process is killed at, the target is the old file or folder or the new one, whole and on the disk.
What a killed writer leaves beside it carries its process number, and goes with the next write. A link is followed and
stays one; a device, a pipe or a socket is refused.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import platform
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from .errors import OptionError, Problem


def check_target(path: str | os.PathLike[str], what: str) -> Path:
    """The path, after making sure before any work that it is not a folder and stands in one.

    Raises:
        OptionError: it can't be written to.
    """
    target = Path(path)
    obstacle = _no_file(target)
    if obstacle is not None:
        raise OptionError(Problem(f"{what} {target}", *obstacle))
    return target


def _no_file(target: Path) -> tuple[str, str] | None:
    """Why a file can't take this path, and what to do. A link stays one: what it names is written."""
    real = followed(target)
    if real.is_dir():
        return "is a folder", "Name a file in it."
    if not real.parent.is_dir():
        return f"the folder {real.parent} does not exist", f"Make it first: mkdir -p {real.parent}"
    return _special(real)


def followed(path: Path) -> Path:
    """Where a path leads, links followed; itself where there are none."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def _special(real: Path) -> tuple[str, str] | None:
    """Of what is neither a file nor a folder: replacing it would destroy it, and writing into it may wait for ever."""
    try:
        mode = real.lstat().st_mode
    except OSError:
        return None
    kind = next((name for is_kind, name in _SPECIAL if is_kind(mode)), None)
    return None if kind is None else (f"is {kind}, which is left as it is", "Name a file.")


_SPECIAL: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISLNK, "a link that leads back to itself"),
)


def write_whole(path: str | os.PathLike[str], content: bytes | str, what: str) -> Path:
    """Writes a file in one step; until then, and if anything fails, whatever was there stays.

    Args:
        what: what the file is, for the error: ``"drawing"``.

    Raises:
        OptionError: the folder or the disk refuses.
    """
    given = check_target(path, what)
    target = followed(given)
    temporary: str | None = None
    try:
        _remove_stale(target)
        handle, temporary = tempfile.mkstemp(prefix=_prefix(target), suffix=_SUFFIX, dir=target.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            _to_disk(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
        _names_to_disk(target.parent)
        temporary = None
    except OSError as failure:
        raise OptionError.at(
            f"{what} {given}",
            f"can't be written: {failure.strerror}",
            "Choose a file in a folder that you may write to.",
        ) from failure
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
    return given


def write_folder_whole(
    path: str | os.PathLike[str], fill: Callable[[Path], object], what: str, marker: str, replace: bool = False
) -> Path:
    """Makes a folder in one step: it appears with all of its files, or whatever was there stays.

    Args:
        fill: writes the files into the folder that it is given.
        what: what the folder holds, for the error: ``"netlists"``.
        marker: the file by which such a folder is known; one without it is never replaced, unless it is empty.
        replace: whether an earlier such folder may be replaced.

    Raises:
        OptionError: it exists already, or can't be written.
    """
    target = check_folder(path, what, marker, replace)
    try:
        target = target.resolve()  # a link to a folder stays one
        _remove_stale(target)
        partial = Path(tempfile.mkdtemp(prefix=_prefix(target), suffix=_SUFFIX, dir=target.parent))
        try:
            fill(partial)
            partial.chmod(0o777 & ~_umask())
            _tree_to_disk(partial)
            _take_name(partial, target)
            _names_to_disk(target.parent)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as failure:
        raise unwritable_folder(target, failure) from failure
    return target


def check_folder(path: str | os.PathLike[str], what: str, marker: str, replace: bool) -> Path:
    """The path, after making sure before any work that a folder may take it; see :func:`write_folder_whole`."""
    target = Path(path)
    obstacle = _in_the_way(target, what, marker, replace)
    if obstacle is not None:
        raise OptionError(Problem(f"folder {target}", *obstacle))
    return target


def unwritable_folder(target: Path, failure: OSError) -> OptionError:
    what = f"can't be written: {failure.strerror}"
    return OptionError(Problem(f"folder {target}", what, "Choose a place that you may write to."))


def _in_the_way(target: Path, what: str, marker: str, replace: bool) -> tuple[str, str] | None:
    target = followed(target)
    if not target.parent.is_dir():
        return f"there is no folder {target.parent}", f"Make it first: mkdir -p {target.parent}"
    if (special := _special(target)) is not None:
        return special[0], "Choose another name."
    if not target.exists():
        return None
    if not target.is_dir():
        return "is a file", "Choose another name."
    if not any(target.iterdir()):
        return None
    if not (target / marker).is_file():
        return f"holds something else than {what}", "Choose another folder; this one is left as it is."
    return None if replace else ("exists", "Choose another, or let it be replaced (--force on the command line).")


def _take_name(partial: Path, target: Path) -> None:
    """The new folder takes the name of the old one, which then has the temporary name and is the caller's to remove."""
    if not target.exists():
        partial.rename(target)
    elif not _exchange(partial, target):
        _take_name_in_two_steps(partial, target)


def _take_name_in_two_steps(partial: Path, target: Path) -> None:
    """Where the system can't exchange two names; a kill in between leaves both folders under temporary names."""
    old = Path(tempfile.mkdtemp(prefix=_prefix(target), suffix=_SUFFIX, dir=target.parent))
    target.rename(old / target.name)
    try:
        partial.rename(target)
    except OSError:
        (old / target.name).rename(target)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


# --- the exchange of two names in one step ------------------------------------------------------------------

_EXCHANGE, _HERE = 2, -100
"""RENAME_EXCHANGE of Linux, which is RENAME_SWAP of macOS; AT_FDCWD."""
_UNABLE = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM)


def _exchange(one: Path, other: Path) -> bool:
    """Exchanges two names in one step; False where the system or the disk's format can't."""
    names = os.fsencode(one), os.fsencode(other)
    if os.name != "posix":
        return False
    system = ctypes.CDLL(None, use_errno=True)
    if sys.platform == "linux" and hasattr(system, "renameat2"):
        failed = system.renameat2(_HERE, names[0], _HERE, names[1], _EXCHANGE)
    elif sys.platform == "darwin" and hasattr(system, "renamex_np"):
        failed = system.renamex_np(*names, _EXCHANGE)
    else:
        return False
    if failed and (number := ctypes.get_errno()) not in _UNABLE:
        raise OSError(number, os.strerror(number))
    return not failed


# --- to the disk, before a name is taken ----------------------------------------------------------------------


def _to_disk(handle: int) -> None:
    os.fsync(handle)


def _names_to_disk(folder: Path) -> None:
    """The names in a folder; some systems have no handles of folders, and write them in order by themselves."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            _to_disk(handle)
        finally:
            os.close(handle)


def _tree_to_disk(folder: Path) -> None:
    for name, _, files in os.walk(folder):
        for file in files:
            with open(Path(name, file), "rb+") as written:
                _to_disk(written.fileno())
        _names_to_disk(Path(name))


# --- what killed writers left behind ----------------------------------------------------------------------------

_SUFFIX = ".partial"


def _prefix(target: Path, process: int | None = None) -> str:
    """Of a temporary name: the target's, the machine and the process."""
    machine = hashlib.sha256(platform.node().encode()).hexdigest()[:8]
    return f".{target.name[:40]}.{machine}.{os.getpid() if process is None else process}."


def _remove_stale(target: Path) -> None:
    """Removes what writers of this target left that no longer run on this machine."""
    for left in _left_beside(target):
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def _left_beside(target: Path) -> Iterator[Path]:
    start = re.escape(_prefix(target, 0).removesuffix("0."))
    pattern = re.compile(rf"{start}(\d+)\.[^.]+{re.escape(_SUFFIX)}")
    for name in os.listdir(target.parent):
        matched = pattern.fullmatch(name)
        if matched and not _runs(int(matched[1])):
            yield target.parent / name


def _runs(process: int) -> bool:
    if os.name != "posix":
        return True  # a signal would end it there
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _umask() -> int:
    """The process's mask for new files, which mkstemp ignores; reading it means setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask

"""Writes files whole or not at all: into a temporary one beside the target, which then takes its name."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from .errors import OptionError, Problem


def check_target(path: str | os.PathLike[str], what: str) -> Path:
    """The path, after making sure before any work that it is not a folder and stands in one.

    Raises:
        OptionError: it can't be written to.
    """
    target = Path(path)
    if target.is_dir():
        raise OptionError(Problem(f"{what} {target}", "is a folder", "Name a file in it."))
    if not target.parent.is_dir():
        raise OptionError(
            Problem(
                f"{what} {target}",
                f"the folder {target.parent} does not exist",
                f"Make it first: mkdir -p {target.parent}",
            )
        )
    return target


def write_whole(path: str | os.PathLike[str], content: bytes | str, what: str) -> Path:
    """Writes a file in one step; until then, and if anything fails, whatever was there stays.

    Args:
        what: what the file is, for the error: ``"drawing"``.

    Raises:
        OptionError: the folder or the disk refuses.
    """
    target = check_target(path, what)
    temporary: str | None = None
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{target.name[:40]}.", dir=target.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
    except OSError as failure:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise OptionError(
            Problem(
                f"{what} {target}",
                f"can't be written: {failure.strerror}",
                "Choose a file in a folder that you may write to.",
            )
        ) from failure
    return target


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
        partial = Path(tempfile.mkdtemp(prefix=f".{target.name[:40]}.", dir=target.parent))
        try:
            fill(partial)
            partial.chmod(0o777 & ~_umask())
            _take_name(partial, target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as failure:
        raise unwritable_folder(target, failure) from failure
    return target


def check_folder(path: str | os.PathLike[str], what: str, marker: str, replace: bool) -> Path:
    """The path, after making sure before any work that a folder may take it; see :func:`write_folder_whole`."""
    target = Path(path)
    found = _in_the_way(target, what, marker, replace)
    if found is not None:
        raise OptionError(Problem(f"folder {target}", *found))
    return target


def unwritable_folder(target: Path, failure: OSError) -> OptionError:
    what = f"can't be written: {failure.strerror}"
    return OptionError(Problem(f"folder {target}", what, "Choose a place that you may write to."))


def _in_the_way(target: Path, what: str, marker: str, replace: bool) -> tuple[str, str] | None:
    if not target.parent.is_dir():
        return f"there is no folder {target.parent}", f"Make it first: mkdir -p {target.parent}"
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
    """The new folder takes the name of the old one, which is removed once that has worked."""
    if not target.exists():
        partial.rename(target)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{target.name[:40]}.old.", dir=target.parent))
    target.rename(old / target.name)
    try:
        partial.rename(target)
    except OSError:
        (old / target.name).rename(target)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _umask() -> int:
    """The process's mask for new files, which mkstemp ignores; reading it means setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask

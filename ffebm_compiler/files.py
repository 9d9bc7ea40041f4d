"""Writes files whole or not at all: into a temporary one beside the target, which then takes its name."""

from __future__ import annotations

import os
import tempfile
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


def _umask() -> int:
    """The process's mask for new files, which mkstemp ignores; reading it means setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask

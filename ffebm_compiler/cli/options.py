"""Options of the command line as data: what argparse is told of each, in a few words."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, NamedTuple

Parse = Callable[[str], Any]
"""Makes a value of a text; what it raises becomes a usage error."""


class Option(NamedTuple):
    """One option: its flags, and what else ``add_argument`` is given."""

    flags: tuple[str, ...]
    settings: dict[str, Any]


def switch(flag: str, about: str) -> Option:
    """An option without a value."""
    return Option((flag,), {"action": "store_true", "help": about})


def value(flags: str, metavar: str | None, about: str, default: Any = None, type: Parse | None = None) -> Option:
    """An option with a value; its type is that of its default, where there is one.

    Args:
        flags: one or two, ``"-o --output"``.
    """
    known = type or (str if default is None else default.__class__)
    return Option(tuple(flags.split()), {"type": known, "default": default, "metavar": metavar, "help": about})


def choice(flag: str, choices: tuple[str, ...], about: str) -> Option:
    """An option that is one of a few words, the first by default."""
    return Option((flag,), {"choices": choices, "default": choices[0], "help": about})


def repeated(flag: str, metavar: str, about: str, type: Parse = str) -> Option:
    """An option that may be given several times; its values are a list."""
    settings = {"action": "append", "type": type, "default": [], "metavar": metavar, "help": about}
    return Option((flag,), settings)


# --- types --------------------------------------------------------------------------------------------------


def numbers(text: str) -> list[int]:
    """``2,3`` as whole numbers."""
    try:
        return [int(n) for n in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers such as 2,3") from None


def number_or_none(text: str) -> float | None:
    """A number, or ``none``."""
    if text.lower() == "none":
        return None
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor none") from None


def shape(text: str) -> tuple[tuple[int, ...], int | None]:
    """``1,3,32,32``, or ``1,16:1000`` for whole numbers below 1000."""
    sizes, colon, below = text.partition(":")
    try:
        read, limit = tuple(int(n) for n in sizes.split(",")), int(below) if colon else None
    except ValueError:
        read, limit = (), None
    if not read or min(read) < 1 or (limit is not None and limit < 1):
        what = "is not a shape such as 1,3,32,32, or 1,16:1000 for whole numbers below 1000"
        raise argparse.ArgumentTypeError(f"{text!r} {what}")
    return read, limit


# --- what several commands have -----------------------------------------------------------------------------

FORCE_FOLDER = switch("--force", "replace the folder if it exists")
CHIP_SEED = value("--chip-seed", "N", "of what is fixed for one chip", 0)
THREADS = value("--threads", "N", "threads of the digital parts (default: all cores)", type=int)
RUN_INPUT = repeated(
    "--input",
    "[NAME=]FILE.npy",
    "an array of numpy.save, samples first, real numbers in any precision; NAME= says which input it is; "
    "repeated for several",
)

"""What every command here shares: option types that explain, one clear message for a bad option, a tidy Ctrl-C."""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import ffebm_compiler as fc
from ffebm_compiler.errors import FFEBMError

DEFAULT_LOOP_GAIN: float = inspect.signature(fc.convert).parameters["loop_gain"].default
"""What ``convert`` bounds the loop gain by when it is not told."""

USAGE, INTERRUPTED = 2, 130


class Interrupted(Exception):  # noqa: N818 (an ending, not an error)
    """The user stopped the run; the message says how to go on."""


class Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Help that keeps the description's lines and shows each default that says something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, False) else super()._get_help_string(action)


def whole(text: str) -> int:
    """A whole number of at least 1."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is less than 1")
    return value


def seed(text: str) -> int:
    """A seed: a whole number from 0 to 2^32."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None
    if not 0 <= value < 1 << 32:
        raise argparse.ArgumentTypeError(f"{value} is not between 0 and 2^32")
    return value


def positive(text: str) -> float:
    """A finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def listed(kind: Callable[[str], int | float | str]) -> Callable[[str], list]:
    """Several values with commas between them."""

    def parse(text: str) -> list:
        return [kind(part) for part in text.split(",")]

    parse.__name__ = f"list of {kind.__name__}"
    return parse


def command(name: str, description: str, out: str) -> argparse.ArgumentParser:
    """A parser with the options that all commands have."""
    parser = argparse.ArgumentParser(name, description=description, formatter_class=Help)
    parser.add_argument("--out", type=Path, default=Path(out), metavar="FOLDER", help="where the results go")
    parser.add_argument(
        "--seed", type=seed, default=0, help="of weights, split and batches: the same seed gives the same run"
    )
    parser.add_argument("--threads", type=whole, default=None, help="CPU threads; PyTorch's choice if not given")
    parser.add_argument(
        "--quick", action="store_true", help="a run of seconds that shows everything works; its numbers mean little"
    )
    return parser


def run(main: Callable[[Sequence[str] | None], int]) -> None:
    """Ends the process with what ``main`` returns; a known error prints one message, without a traceback."""
    try:
        code = main(None)
    except FFEBMError as error:
        print(f"error: {error}", file=sys.stderr)
        code = USAGE
    except ModuleNotFoundError as error:
        print(
            f"error: {error}. The examples need more than the library does: pip install -e '.[examples]'",
            file=sys.stderr,
        )
        code = 1
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 1
    except (Interrupted, KeyboardInterrupt) as stop:
        print(f"\ninterrupted. {stop}".rstrip(), file=sys.stderr)
        code = INTERRUPTED
    sys.exit(code)

"""Runs a command: what goes wrong is one message on stderr and an exit status, never a traceback unless asked for.

Exit status: 0 done; 1 a check failed; 2 the command could not be carried out; 130 interrupted.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence

import torch

from ..errors import FFEBMError, TraceError, shown
from .commands import COMMANDS
from .parser import make_parser

FAILED = 2
_EXAMPLES_HINT = (
    "\n    On the command line: --input-shape 1,3,32,32 gives an example input, --digital NAME keeps a module out."
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs ``ffebm`` with these arguments (``sys.argv`` by default) and returns its exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without × and ─ shows ? rather than failing
    options = make_parser().parse_args(argv)
    with _logged(options.verbose), _shown_warnings(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        try:
            return COMMANDS[options.command](options)
        except BrokenPipeError:  # the reader (head, less) has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            return 0
        except KeyboardInterrupt:
            return 130
        except FFEBMError as failure:
            hint = _EXAMPLES_HINT if isinstance(failure, TraceError) and not getattr(options, "input_shape", ()) else ""
            return _failed(f"{failure}{hint}", options.traceback)
        except Exception as failure:  # the user's model may raise anything
            return _failed(
                f"{type(failure).__name__}: {failure}\n    Run again with --traceback to see where.", options.traceback
            )


def _failed(message: str, with_traceback: bool) -> int:
    if with_traceback:
        traceback.print_exc()
    print(f"ffebm: error: {message}", file=sys.stderr)
    return FAILED


@contextlib.contextmanager
def _logged(verbosity: int) -> Iterator[None]:
    """The library's log on stderr: progress with ``-v``, details with ``-vv``."""
    logger = logging.getLogger("ffebm_compiler")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel((logging.WARNING, logging.INFO, logging.DEBUG)[min(verbosity, 2)])
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


@contextlib.contextmanager
def _shown_warnings() -> Iterator[None]:
    """Warnings as one line each, without the library's own source."""
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.showwarning = lambda message, *_: print(f"ffebm: warning: {shown(str(message))}", file=sys.stderr)
        yield

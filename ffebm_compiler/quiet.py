"""Without what torch says of its insides: an attempt that fails is told by an error of ours, one that succeeds by
nothing."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

TALKATIVE = ("torch._subclasses.fake_tensor", "torch.fx.experimental.symbolic_shapes", "torch.export", "torch._export")
"""Loggers that print tracebacks of what their callers go on to handle."""


@contextlib.contextmanager
def silent(*loggers: str, level: int = logging.CRITICAL) -> Iterator[None]:
    """Those loggers tell of nothing below a level, for a while."""
    before = {name: logging.getLogger(name).level for name in loggers}
    for name in loggers:
        logging.getLogger(name).setLevel(level)
    try:
        yield
    finally:
        for name, was in before.items():
            logging.getLogger(name).setLevel(was)


@contextlib.contextmanager
def quiet_torch(prints: bool = False) -> Iterator[None]:
    """Neither logs nor, with ``prints``, what torch prints: torch.export writes the graph of a failure to stderr.

    Its warnings of attributes that a forward assigns are errors of ours, whatever the user makes of warnings.
    """
    aside = contextlib.redirect_stderr(io.StringIO()) if prints else contextlib.nullcontext()
    with silent(*TALKATIVE), aside, warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"The tensor attributes? ")
        yield

"""Why a forward can't be traced: in whose forward, at which line, and what to do about it."""

from __future__ import annotations

import linecache
import traceback
from collections.abc import Iterable

from torch import nn

from ..errors import Problem, TraceError
from ..nests import NestError
from .users_code import decided_by, is_users


class LosesMeaning(TraceError):  # noqa: N818 -- it reads as what happened
    """A forward does what no graph of it would do, such as asking for a mode of the caller; called as a whole it does.

    Attributes:
        path: the innermost module that was being traced, ``""`` for the model itself, which nobody calls as a whole.
    """

    def __init__(self, problems: Problem | Iterable[Problem], path: str = ""):
        super().__init__(problems)
        self.path = path

    def __reduce__(self) -> tuple:
        return type(self), (self.problems, self.path)


def kept_whole(path: str) -> str:
    """What to do about it, for the module at a path."""
    return f"Keep {path or 'the model'} out with digital=[{path!r}], which calls it as a whole."


_REMEDIES = {
    "torch.fx": "Give example_inputs= to trace by torch.export, or keep the module out with digital=[...] (its name), "
    "which calls it as a whole.",
    "torch.export": "torch.export failed too. Keep the module that contains this line out with digital=[...] "
    "(its name), which calls it as a whole, or write it without control flow on values.",
}
"""By the tracer that failed."""


def untraceable(network: nn.Module, failure: Exception, tracer: str = "torch.fx") -> Problem:
    """Where the user's own code failed, from the innermost frame that is not torch's."""
    model = type(network).__name__
    if isinstance(failure, NestError):
        remedy = "Use tensors, numbers, texts, and containers or objects that hold them as contents or attributes."
        return Problem(f"model {model}, {failure.where}", failure.what, remedy)
    frames = [(f, line) for f, line in traceback.walk_tb(failure.__traceback__) if is_users(f)]
    place = model
    if frames:
        file, line = frames[-1][0].f_code.co_filename, frames[-1][1]
        place = f"{file}:{line} ({linecache.getline(file, line).strip()})"
    message = str(failure).strip().splitlines() or [type(failure).__name__]
    if "data-dependent" in str(failure):
        message = ["which way it takes depends on the numbers in a tensor"]
    remedy = f"{decided_by(reversed(frames))} {_REMEDIES[tracer]}".strip()
    return Problem(f"model {model}, at {place}", f"{tracer} can't trace it: {message[0]}", remedy)

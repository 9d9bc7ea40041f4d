"""What tracing can't keep: the one error of every tracer for it, with the module whose forward it stands in."""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import Problem, TraceError


class LosesMeaning(TraceError):  # noqa: N818 -- it reads as what happened
    """A forward does what no graph of it would do, such as asking for a mode of the caller; called as a whole it does.

    Attributes:
        path: the innermost module that was being traced, ``""`` for the model itself, which has no caller to call it as a whole.
    """

    def __init__(self, problems: Problem | Iterable[Problem], path: str = ""):
        super().__init__(problems)
        self.path = path

    def __reduce__(self) -> tuple:
        return type(self), (self.problems, self.path)


def kept_whole(path: str) -> str:
    """What to do about it, for the module at a path."""
    return f"Keep {path or 'the model'} out with digital=[{path!r}], which calls it as a whole."

"""What the compiler tells its user when something is wrong.

A problem says *where* (the user's own layer or option), *what*, *why* and *what to do*; an error carries
every problem that was found, not the first one.
"""

from __future__ import annotations

import difflib
import pickle
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self


def shown(text: str) -> str:
    """A text that may come from anyone, for a terminal: control characters spelled out, its lines kept."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        where: the user's name for the place: ``"layer features.3"``, ``"option block_size"``.
        what: what is wrong there, with the offending value.
        remedy: what to do about it.
    """

    where: str
    what: str
    remedy: str

    def __str__(self) -> str:
        return shown(f"{self.where}: {self.what}\n    {self.remedy}")


class FFEBMError(Exception):
    """Base of every error of this library; ``problems`` lists all that was found."""

    def __init__(self, problems: Problem | Iterable[Problem]):
        self.problems: tuple[Problem, ...] = (problems,) if isinstance(problems, Problem) else tuple(problems)
        super().__init__(self._text())

    @classmethod
    def at(cls, where: str, what: str, remedy: str) -> Self:
        """The error of one :class:`Problem`."""
        return cls(Problem(where, what, remedy))

    @classmethod
    def raise_if(cls, problems: Iterable[Problem]) -> None:
        """Raises the error of all these problems, if there are any."""
        if problems := tuple(problems):
            raise cls(problems)

    def _text(self) -> str:
        if len(self.problems) == 1:
            return str(self.problems[0])
        lines = "\n".join(f"  {i}. {p}" for i, p in enumerate(self.problems, 1))
        return f"{len(self.problems)} problems:\n{lines}"

    def __reduce__(self) -> tuple:
        return type(self), (self.problems,)


def problems_of(step: Callable[[], object]) -> tuple[Problem, ...]:
    """What is wrong with a step: it is taken, and the problems of its error are returned instead of raised."""
    try:
        step()
    except FFEBMError as failure:
        return failure.problems
    return ()


class OptionError(FFEBMError, ValueError):
    """An option of :func:`convert` or of the command line that can't be used."""


class TraceError(FFEBMError, RuntimeError):
    """The model can't be turned into a graph."""


class PartitionError(FFEBMError, ValueError):
    """The requested partition is impossible (``analog=`` insists on what has no energy, ...)."""


class InputError(FFEBMError, ValueError):
    """A model input of the wrong shape, type, device, or with values that are not finite."""


class VerificationError(FFEBMError, AssertionError):
    """A block's printed energy and the equations the solver runs disagree: a bug, in a rule or here."""


class DerivativeError(FFEBMError, NotImplementedError):
    """A derivative that blocks don't have: a second one, in forward mode, by torch.func, of an overwritten value."""


class ConversionWarning(UserWarning):
    """What was done as asked may not be what was meant: a norm held without statistics, a rule that matched nothing."""


class ChangedError(FFEBMError, RuntimeError):
    """What was read of the model at conversion has changed since: the program would not be the model any more."""


class PickleError(FFEBMError, pickle.PicklingError):
    """A model that can't be pickled: it computes with a function that another process would not find."""


class SynchronisationError(FFEBMError, RuntimeError):
    """Processes would train apart: nobody brings their gradients together, or their models differ."""


class ConvergenceWarning(UserWarning):
    """A block stopped before its residual reached the tolerance."""


class GradientWarning(UserWarning):
    """A gradient that will be zero or missing: frozen parameters, an error signal of zero or NaN."""


def close_matches(name: str, known: Sequence[str]) -> str:
    """``Did you mean "conv1"?``, or the first few known names."""
    matches = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if matches:
        return "Did you mean " + " or ".join(f'"{m}"' for m in matches) + "?"
    shown = ", ".join(f'"{k}"' for k in known[:8])
    return f"Known names: {shown}{', ...' if len(known) > 8 else ''}."

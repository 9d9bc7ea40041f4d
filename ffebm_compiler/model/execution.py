"""How a converted model runs: estimator, tolerance, loop gain; and what is wrong with a choice of them."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass

from ..errors import OptionError, Problem
from ..estimate import ESTIMATORS, Estimator, TangentEP
from ..solve import Tolerance

DEFAULT_LOOP_GAIN = 0.01
"""Keeps a trained network's accuracy and converges in a few sweeps (benchmarks/accuracy.py)."""


@dataclass(frozen=True)
class Execution:
    """How a converted model runs.

    Attributes:
        estimator: how backward gets its gradients.
        tolerance: when relaxations stop.
        loop_gain: the bound on each coupling's loop gain; None for unit feedback.
        verify: whether the first input of each mode is used to hold the program against the model itself.

    Raises:
        OptionError: with every option that can't be used.
    """

    estimator: Estimator = field(default_factory=TangentEP)
    tolerance: Tolerance = field(default_factory=Tolerance)
    loop_gain: float | None = DEFAULT_LOOP_GAIN
    verify: bool = True

    def __post_init__(self) -> None:
        problems = [
            *execution_problems(self.estimator, self.loop_gain, self.tolerance.residual, self.tolerance.max_sweeps)
        ]
        OptionError.raise_if(problems)

    @property
    def estimator_expression(self) -> str:
        """The Python expression that makes the estimator, with the library imported as ``fc``."""
        estimator = self.estimator
        shown = (
            {f.name: getattr(estimator, f.name) for f in fields(estimator) if f.compare}
            if is_dataclass(estimator)
            else dict[str, object]()
        )
        return f"fc.{type(estimator).__name__}({', '.join(f'{k}={v!r}' for k, v in shown.items())})"


def execution_problems(
    estimator: object, loop_gain: object, tolerance: object, max_sweeps: object
) -> Iterator[Problem]:
    """What is wrong with the options of a run, in the words that the user typed."""
    yield from _estimator_problems(estimator)
    for name, value, test, remedy in (
        ("loop_gain", loop_gain, _positive, "Give a positive number (0.01 keeps a trained network's accuracy; below 0.25 a chain is certified convex), or None for the unit feedback of the paper."),
        ("tolerance", tolerance, _fraction, "Give a relative residual between 0 and 1, such as 1e-5, or None to choose by the precision."),
    ):  # fmt: skip
        if value is not None and not test(value):
            yield Problem(f"option {name}", f"is {value!r}", remedy)
    if not is_count(max_sweeps):
        yield Problem("option max_sweeps", f"is {max_sweeps!r}", "Give a whole number from 1, such as 200.")


def _estimator_problems(estimator: object) -> Iterator[Problem]:
    if inspect.isclass(estimator):
        yield Problem(
            "option estimator", f"is the class {estimator.__name__}", f"Make one: estimator=fc.{estimator.__name__}()."
        )
    elif not isinstance(estimator, Estimator):
        yield Problem(
            "option estimator",
            f"is {estimator!r}",
            f"Give {', '.join(f'fc.{e.__name__}()' for e in ESTIMATORS[:-1])} or fc.{ESTIMATORS[-1].__name__}().",
        )


def is_count(value: object) -> bool:
    """Whether a value is a whole number from 1."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _positive(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value > 0


def _fraction(value: object) -> bool:
    return _positive(value) and value < 1  # type: ignore[operator]

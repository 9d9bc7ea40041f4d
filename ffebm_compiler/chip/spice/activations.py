"""The activation of a neuron circuit as an expression in its input ``a``: what a behavioural source computes.

    s = sigma(a)        with a and s in units of ``volts``

The clipping ones are exact, kinks and all (``min`` and ``max`` have the slope of the branch that they take).
"""

from __future__ import annotations

from collections.abc import Mapping

from ...ir import IDENTITY, Kind, Options, Potential
from ...ir.kind import Expression
from ...rules.elu import CELU, ELU, SELU
from ...rules.piecewise import CLIPS, LEAKY_RELU
from ...rules.sigmoidal import SIGMOID, TANH
from ...rules.softplus import SOFTPLUS
from .netlist import number

INFINITY = float("inf")


def expression(potential: Potential, a: str) -> str | None:
    """sigma of the expression ``a``, or None where no circuit is known for it."""
    write = potential.kind.expression or _EXPRESSIONS.get(potential.kind)
    return None if write is None or potential.simplex is not None else write(a, potential.options)


def clipped(a: str, lower: float, upper: float) -> str:
    above = a if lower == -INFINITY else f"max({a}, {number(lower)})"
    return above if upper == INFINITY else f"min({above}, {number(upper)})"


def _affine_clip(a: str, o: Options) -> str:
    scaled = a if o["scale"] == 1 else f"{number(o['scale'])}*{a}"
    shifted = scaled if o["shift"] == 0 else f"({scaled} + {number(o['shift'])})"
    return clipped(shifted, o["lower"], o["upper"])


def _leaky(a: str, o: Options) -> str:
    return f"(max({a}, 0) + {number(o['slope'])}*min({a}, 0))"


def _softplus(a: str, o: Options) -> str:
    b = f"{number(o['beta'])}*{a}"  # log(1 + exp(b)), written so that exp does not overflow
    return f"((max({b}, 0) + ln(1 + exp(-abs({b}))))/{number(o['beta'])})"


def _elu(a: str, o: Options) -> str:
    below = f"(exp({number(o['rate'])}*min({a}, 0)) - 1)"
    return f"({number(o['scale'])}*(max({a}, 0) + {number(o['alpha'])}*{below}))"


_EXPRESSIONS: Mapping[Kind, Expression] = {
    **dict.fromkeys(CLIPS, _affine_clip),
    IDENTITY.kind: lambda a, o: a,
    LEAKY_RELU: _leaky,
    SIGMOID.kind: lambda a, o: f"(0.5 + 0.5*tanh(0.5*{a}))",
    TANH.kind: lambda a, o: f"tanh({a})",
    SOFTPLUS: _softplus,
    **dict.fromkeys((ELU, CELU, SELU.kind), _elu),
}
"""What a kind brings along comes before these."""


def known() -> tuple[str, ...]:
    """The names of the activations that there is an expression for."""
    return tuple(kind.name for kind in _EXPRESSIONS)

"""The activation of a neuron circuit as an expression in its input ``a``: what a behavioural source computes.

    s = sigma(a)        with a and s in units of ``volts``

The clipping ones are exact, kinks and all (``min`` and ``max`` have the slope of the branch that they take).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ...ir import Potential
from .netlist import number

Options = Mapping[str, Any]
INFINITY = float("inf")


def expression(potential: Potential, a: str) -> str | None:
    """sigma of the expression ``a``, or None where no circuit is known for it."""
    write = _EXPRESSIONS.get(potential.name)
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


_EXPRESSIONS: Mapping[str, Callable[[str, Options], str]] = {
    "identity": lambda a, o: a,
    **dict.fromkeys(("relu", "relu6", "clamp", "hardtanh", "hardsigmoid"), _affine_clip),
    "leaky_relu": _leaky,
    "sigmoid": lambda a, o: f"(0.5 + 0.5*tanh(0.5*{a}))",
    "tanh": lambda a, o: f"tanh({a})",
    "softplus": _softplus,
    **dict.fromkeys(("elu", "celu", "selu"), _elu),
}


def known() -> tuple[str, ...]:
    return tuple(_EXPRESSIONS)

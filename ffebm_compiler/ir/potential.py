"""The convex potential G of an activation sigma: ``sigma = (grad G)^-1``.

A state ``s = sigma(a)`` minimises ``G(s) - <s, a>`` over the domain of G. Besides G and sigma a potential
knows the *finite difference* ``sigma(a + da) - sigma(a)`` without cancellation, which is what makes
equilibrium propagation accurate at a small nudge in float32, and its derivative along ``da``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any

from torch import Tensor

from .kind import OTHER, Kind
from .portable import Plain


@dataclass(frozen=True)
class Potential(Plain):
    """A potential as data; all functions act elementwise, except where ``simplex`` names a dimension.

    Attributes:
        name: how the activation is called where it is shown: ``"relu"``.
        energy: G, elementwise; the caller sums. Outside the domain its value means nothing.
        activation: sigma.
        difference: ``(a, da) -> sigma(a + da) - sigma(a)``, accurate for any size of ``da``.
        tangent: ``(a, da) -> sigma'(a) da``; at a kink it has the slope that torch gives ``activation``.
        prepared_difference: the same difference as ``a -> (da -> ...)``, where that saves work.
        tangent_at: ``s -> (da -> sigma'(a) da)``, where the state ``s = sigma(a)`` tells the slope; it saves
            computing a.
        inside: ``(a, sigma(a)) ->`` where sigma has its largest slope; elsewhere it has none. For a clip that keeps its
            slope on the very bounds, where the state is the same as beyond them.
        overwrite: sigma, in the memory of ``a``.
        slope: the largest slope of sigma; G is ``1/slope``-strongly convex.
        lower, upper: the domain of G, a closed interval (or the simplex along ``simplex``).
        text, tex: G as printed mathematics, with ``{s}`` for the state.
        options: the activation's own constants, for backends that build it in another way.
        kind: what it is, for whoever treats activations apart.
    """

    name: str
    energy: Callable[[Tensor], Tensor]
    activation: Callable[[Tensor], Tensor]
    difference: Callable[[Tensor, Tensor], Tensor]
    tangent: Callable[[Tensor, Tensor], Tensor]
    prepared_difference: Callable[[Tensor], Callable[[Tensor], Tensor]] | None = None
    tangent_at: Callable[[Tensor], Callable[[Tensor], Tensor]] | None = None
    inside: Callable[[Tensor, Tensor], Tensor] | None = None
    overwrite: Callable[[Tensor], Tensor] | None = None
    slope: float = 1.0
    lower: float = -float("inf")
    upper: float = float("inf")
    simplex: int | None = None
    text: str = "½‖{s}‖²"
    tex: str = r"\tfrac12\lVert {s}\rVert^2"
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    kind: Kind = OTHER

    def difference_from(self, a: Tensor) -> Callable[[Tensor], Tensor]:
        """``da -> sigma(a + da) - sigma(a)`` at one ``a``: what depends on ``a`` alone is computed once."""
        return partial(self.difference, a) if self.prepared_difference is None else self.prepared_difference(a)

    def settle(self, a: Tensor) -> Tensor:
        """``sigma(a)`` of an ``a`` that nobody reads again."""
        return self.activation(a) if self.overwrite is None else self.overwrite(a)


def half_square(s: Tensor) -> Tensor:
    return s * s / 2


def _itself(a: Tensor) -> Tensor:
    return a


def _increment(a: Tensor, da: Tensor) -> Tensor:
    return da


def _unit_slope(s: Tensor) -> Callable[[Tensor], Tensor]:
    return _itself


IDENTITY = Potential(
    name="identity",
    energy=half_square,
    activation=_itself,
    difference=_increment,
    tangent=_increment,
    tangent_at=_unit_slope,
    overwrite=_itself,
    kind=Kind("identity", __name__),
)

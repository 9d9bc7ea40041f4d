"""How a block's interaction is differentiated: what relaxations and estimators ask for.

With ``Phi = sum_m w_m <c_m, f_m(s_<m, x; theta)>`` all of them are made of four derivatives of the drives f_m:

    pull        J_m^T c                      feedback
    push        J_m d                        how far a displacement d moves a drive
    curvature   d/ds <c, J_m d>              zero where the interaction is linear in the states
    gradient    d/dtheta, d/dx of <c, f_m> and of <c, J_m d>

:class:`~.automatic.Automatic` takes them from automatic differentiation each time, :class:`~.explicit.Explicit` from the derivatives of each
operation. Everything else of a relaxation is the same for both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from ...ir import State
from ..binding import BoundBlock, States

Gradients = dict[str, Tensor]
"""By the name of an input, or the path of a weight."""


@dataclass(frozen=True)
class Drive:
    """f of one state at a point.

    Attributes:
        f: its value.
        sources: the states that it was computed from.
        kept: what its transpose needs of them.
        is_own: whether f is memory that nothing else reads, and may be overwritten.
    """

    f: Tensor
    sources: States
    kept: Any = field(default=None, repr=False)
    is_own: bool = False


class Interaction(Protocol):
    """A block's drives and their transposes during one relaxation."""

    @property
    def bound(self) -> BoundBlock:
        """The block, without history."""
        ...

    def leaf(self, state: Tensor) -> Tensor:
        """A new state, as drives are to read it."""
        ...

    def drive(self, state: State, leaves: States, f: Tensor | None = None) -> Drive:
        """f of a state at earlier states; ``f`` where it is known already."""
        ...

    def pull(self, state: State, drive: Drive, cotangent: Tensor) -> States:
        """``J^T c`` into each source of a state's drive."""
        ...

    def holding(self, winners: Mapping[str, Tensor]) -> Interaction:
        """The same with the winners of its maxima held."""
        ...


class Linearised(Protocol):
    """A block around its free equilibrium."""

    @property
    def bound(self) -> BoundBlock:
        """The block."""
        ...

    @property
    def states(self) -> States:
        """The equilibrium."""
        ...

    @property
    def differences(self) -> Mapping[str, Callable[[Tensor], Tensor]]:
        """By state, ``sigma(a* + da) - sigma(a*)`` as a function of da."""
        ...

    @property
    def tangents(self) -> Mapping[str, Callable[[Tensor], Tensor]]:
        """By state, ``sigma'(a*) da``."""
        ...

    def push(self, state: State, d: Mapping[str, Tensor]) -> tuple[Tensor | None, dict[str, Tensor]]:
        """(J d, curvature into each source) of one state's drive; None and {} where nothing moves."""
        ...

    def pull(self, state: State, d: Tensor) -> dict[str, Tensor]:
        """J^T d into each source of one state's drive."""
        ...

    def contrast(self, difference: Mapping[str, Tensor], mean: Mapping[str, Tensor], scale: float = 1.0) -> Gradients:
        """The gradient of ``- scale sum_m w_m (<D_m, f_m(s* + h)> + <s_m* + h_m, J_m D>)`` in what is wanted, with D the difference and h
        the mean (none: zero); zero for what it does not depend on."""
        ...

    def gradient(self, state: State, cotangent: Tensor) -> Gradients:
        """The gradient of ``<c, f_m>`` of one state's drive, its sources held, in those of the wanted that it reads."""
        ...


class Differentiation(Protocol):
    """A way to differentiate the interaction of any block."""

    def interaction(self, bound: BoundBlock) -> Interaction:
        """The drives of a block, for one relaxation."""
        ...

    def linearise(self, bound: BoundBlock, states: Mapping[str, Tensor], wanted: Sequence[str] = ()) -> Linearised:
        """A block around its free equilibrium; ``wanted`` are the inputs and weights that its contrast is for."""
        ...

    def interaction_gradients(
        self, bound: BoundBlock, states: Mapping[str, Tensor], wanted: Sequence[str]
    ) -> Gradients:
        """The gradient of ``sum_m w_m <s_m, f_m(s)>`` in each wanted input and weight, the states held."""
        ...


def around(
    bound: BoundBlock, drives: Mapping[str, Tensor], pulled: Mapping[str, Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """``a_l*``: the drives, and the feedback from the ``J^T s_m*`` of each state's drive."""
    with torch.no_grad():
        a = {n: f.detach() for n, f in drives.items()}
        for m, back in pulled.items():
            for source, p in back.items():
                a[source] = a[source] + bound.reverse_gain(source, m) * p.detach()
    return a


Increment = Callable[[Tensor], Tensor]
"""From an increment of a to that of the state."""


def differences_from(bound: BoundBlock, activations: Mapping[str, Tensor]) -> dict[str, Increment]:
    """By state, ``da -> sigma(a* + da) - sigma(a*)``."""
    return {s.name: s.potential.difference_from(activations[s.name]) for s in bound.block.states}


def tangents_at(
    bound: BoundBlock, states: Mapping[str, Tensor], activations: Callable[[], Mapping[str, Tensor]]
) -> dict[str, Increment]:
    """By state, ``da -> sigma'(a*) da``: of the state where that tells the slope, of what the free phase has kept of ``a*`` where not;
    otherwise of ``a*``, which is asked for then."""

    def tangent(state: State) -> Increment:
        p, n = state.potential, state.name
        if p.tangent_at is not None:
            return p.tangent_at(states[n])
        if n in bound.inside:
            return partial(_sloped, inside=bound.inside[n], slope=p.slope)
        return partial(p.tangent, activations()[n])

    return {s.name: tangent(s) for s in bound.block.states}


def _sloped(da: Tensor, inside: Tensor, slope: float) -> Tensor:
    return torch.where(inside, da if slope == 1 else slope * da, 0.0)


def gradients_of(scalar: Tensor, leaves: Mapping[str, Tensor]) -> Gradients:
    """The gradient of a scalar in each leaf, zero where it does not depend on it."""
    if not leaves:
        return {}
    if not scalar.requires_grad:
        return {n: torch.zeros_like(v) for n, v in leaves.items()}
    found = torch.autograd.grad(scalar, list(leaves.values()), allow_unused=True)
    return {
        n: torch.zeros_like(v) if g is None else g.detach() for (n, v), g in zip(leaves.items(), found, strict=True)
    }

"""A neuron circuit: an activation with offset, gain mismatch, thermal noise and supply limits.

    s = clip( sigma( (1 + gamma) (a / D + o + n) ), -limit, limit )

``a`` is the current into the neuron, o its offset and gamma its gain error (fixed for a chip), n the thermal noise of
the phase, and D the node's conductance in units of the ideal one: 1 but in resistive networks. A bound of sigma itself
(a clamp, a diode's reference) is not disturbed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...ir import Potential
from .reading import Reading


@dataclass(frozen=True)
class Neurons:
    """The neurons of one state.

    Attributes:
        name: the state, under which its noise is drawn.
        offset: (*shape) in units of the state; None for none.
        gain: (*shape), 1 + gamma; None for none.
        conductance: (*shape), D; None for 1.
        limit: supply limit in units of the state; inf for none.
        noise: standard deviation of the thermal noise in units of the state.
    """

    name: str
    offset: Tensor | None = None
    gain: Tensor | None = None
    conductance: Tensor | None = None
    limit: float = float("inf")
    noise: float = 0.0

    @property
    def is_ideal(self) -> bool:
        nothing = all(v is None for v in (self.offset, self.gain, self.conductance))
        return nothing and self.limit == float("inf") and self.noise == 0

    def potential(self, ideal: Potential, reading: Reading | None) -> Potential:
        """The potential whose activation is this circuit's; ``reading`` None leaves the thermal noise out."""
        if self.is_ideal:
            return ideal
        return replace(
            ideal,
            activation=lambda a: self.output(self.input(a, reading), ideal),
            tangent_at=None,
            inside=None,
            overwrite=None,
        )

    def input(self, a: Tensor, reading: Reading | None = None) -> Tensor:
        """The voltage that the activation sees, at equilibrium with the current ``a``."""
        u = a if self.conductance is None else a / self.conductance.to(a)
        if self.offset is not None:
            u = u + self.offset.to(a)
        if self.noise > 0 and reading is not None:
            xi = reading.noise((self.name, "thermal"), u, white=True)
            u = torch.add(u, xi, alpha=self.noise) if u is a else u.add_(xi, alpha=self.noise)
        if self.gain is None:
            return u
        return u * self.gain.to(a) if u is a else u.mul_(self.gain.to(a))

    def output(self, u: Tensor, ideal: Potential) -> Tensor:
        s = ideal.activation(u)
        if self.limit == float("inf"):
            return s
        fresh = s is not u and not s.requires_grad
        return s.clamp_(-self.limit, self.limit) if fresh else s.clamp(-self.limit, self.limit)

    def saturated(self, s: Tensor) -> Tensor:
        """How many outputs are at the supply limit."""
        return (s.abs() >= self.limit).sum()


@dataclass(frozen=True)
class Amplifier:
    """The bidirectional amplifier between a state and a consumer: its feedback has a gain error for each neuron.

    Attributes:
        gain: (*shape), 1 + epsilon.
    """

    gain: Tensor

    def __call__(self, s: Tensor) -> Tensor:
        return _Amplifier.apply(s, self.gain.to(s))  # type: ignore[no-any-return]


class _Amplifier(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, s: Tensor, gain: Tensor) -> Tensor:
        ctx.save_for_backward(gain)
        return s.view_as(s)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, e: Tensor) -> tuple[Tensor, None]:
        (gain,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return e * gain, None

"""Pass 6, verify: the printed energy and the equations that the solver runs are the same thing, in float64.

For each block, with ``a_l = -(1/w_l) d/ds_l [E - sum w G]`` from the energy's own value:

1. stationarity: at random states this a_l is the one that the solver computes from drives and feedback;
2. inverse: at random pre-activations a, ``grad G_l(sigma_l(a)) = a`` on the domain of G_l;
3. equilibrium: ``s_l = sigma_l(a_l)``, and the energy's gradient ``w_l (grad G_l(s_l) - a_l)`` vanishes on the domain of G_l;
4. increments: the potential's difference and tangent are those of its sigma, and no increment exceeds its slope: equilibrium
   propagation nudges with the first two, the certificate builds on the third.

The first part of 3 is as sharp for tiny states as for ordinary ones. The second can't be: in ``log(1 + s)`` the digits of a tiny s are lost,
so there grad G has the rounding of an ordinary pre-activation. What it can't see at tiny states, 2 sees at ordinary ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import Problem, VerificationError
from ..ir import Energy, Potential
from ..solve import BoundBlock, Tolerance, relax
from ..solve.iteration import TINY, peak

TOLERANCE = 1e-6

ROUNDED = 1e-6
"""A state is tiny below this part of an ordinary one: rounding in the terms of grad G is then no longer far below the tolerance."""

POINTS = 1024
"""Random pre-activations at which an elementwise potential is checked."""


@dataclass(frozen=True)
class Verification:
    """The residuals of one block's checks, in float64.

    Attributes:
        block: its name.
        stationarity: relative difference between the energy's stationarity equations and the solver's.
        gradient: how far the states at the equilibrium are from those of zero gradient, relative to the states.
        converged: whether the relaxation reached the float64 tolerance; otherwise the gradient is not judged.
        increments: the relative error of the activations' differences, tangents and slopes.
        inverse: how far ordinary states are from those where grad G inverts the activation, relative to the states.
    """

    block: str
    stationarity: float
    gradient: float
    converged: bool
    increments: float = 0.0
    inverse: float = 0.0

    @property
    def ok(self) -> bool:
        judged = [self.stationarity, self.increments, self.inverse, *([self.gradient] if self.converged else [])]
        return all(residual <= TOLERANCE for residual in judged)  # what is no number is not


def verify(bound: BoundBlock, labels: Mapping[str, str], max_sweeps: int = 1000) -> Verification:
    """Checks one block on the given inputs.

    Raises:
        VerificationError: the energy and the solver disagree.
    """
    bound = in_float64(bound).detached()
    equilibrium = relax(bound, Tolerance(1e-12, max_sweeps))
    states, bound = equilibrium.states, bound.holding(equilibrium.winners)
    energy = Energy(bound.block, labels)
    potentials = [(s.potential, states[s.name]) for s in bound.block.states]
    record = Verification(
        bound.block.name,
        _stationarity(bound, energy, states),
        _gradient(bound, energy, states),
        equilibrium.relaxation.converged,
        max(_increments(p, s) for p, s in potentials),
        max(_inverse(p, s) for p, s in potentials),
    )
    if not record.ok:
        layers = ", ".join(labels[s.name] for s in bound.block.states)
        raise VerificationError(
            Problem(
                f"{record.block} ({layers})",
                f"its printed energy and its solver disagree: stationarity {record.stationarity:.1e}, gradient {record.gradient:.1e}, "
                f"increments {record.increments:.1e}, inverse {record.inverse:.1e}",
                "A rule gives the wrong energy or operation; run the generic tests on the rules in this block, or keep the layer out with digital=.",
            )
        )
    return record


def in_float64(bound: BoundBlock) -> BoundBlock:
    """A mask of infinities, whose product with the zero it makes is no number, is checked as one of large numbers."""

    def widen(v: Any) -> Any:
        if not isinstance(v, Tensor) or not v.is_floating_point():
            return v
        wide = v.detach().double()
        if v.numel() == 0 or bool(torch.isfinite(peak(v.detach()))):
            return wide
        return torch.where(torch.isinf(wide), wide.clamp(-1e4, 1e4), wide)

    return BoundBlock(
        bound.block,
        {k: widen(v) for k, v in bound.inputs.items()},
        {k: widen(v) for k, v in bound.weights.items()},
        bound.layer_weights,
    )


def _pre_activations(bound: BoundBlock, energy: Energy, states: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``a_l`` of every state, by differentiating the value of the energy without its potentials."""
    leaves = {k: v.detach().requires_grad_() for k, v in states.items()}
    with torch.enable_grad():
        value = energy.interaction(leaves, bound.inputs, bound.weights, bound.layer_weights)
        found = torch.autograd.grad(value, list(leaves.values()))
    return {k: -g / bound.layer_weights[k] for k, g in zip(leaves, found, strict=True)}


def _stationarity(bound: BoundBlock, energy: Energy, states: Mapping[str, Tensor]) -> float:
    generator = torch.Generator().manual_seed(0)
    shifted = {k: _inside(bound.block.state(k).potential, v, generator) for k, v in states.items()}
    solver, printed = bound.stationarity(shifted), _pre_activations(bound, energy, shifted)
    return max(_relative(printed[k] - solver[k], _largest(solver[k])) for k in solver)


def _inside(potential: Potential, s: Tensor, generator: torch.Generator) -> Tensor:
    """A random state in the domain."""
    noise = torch.randn(s.shape, generator=generator, dtype=torch.float64).to(s)
    return potential.activation(noise)


def _gradient(bound: BoundBlock, energy: Energy, states: Mapping[str, Tensor]) -> float:
    """How far the energy's equilibrium is from the solver's, relative to each state, or for the gradient to what is tiny."""
    residuals, a = [], _pre_activations(bound, energy, states)
    for state in bound.block.states:
        p, s = state.potential, states[state.name]
        tiny = ROUNDED * _largest(p.activation(_points(p, s)))
        residuals.append(_relative(p.activation(a[state.name]) - s, _largest(s)))
        residuals.append(_relative(_displacement(p, s, a[state.name]), max(_largest(s), tiny)))
    return max(residuals)


def _inverse(p: Potential, like: Tensor) -> float:
    a = _points(p, like)
    s = p.activation(a)
    return _relative(_displacement(p, s, a), _largest(s))


def _displacement(p: Potential, s: Tensor, a: Tensor) -> Tensor:
    """How far ``grad G(s) - a``, on the domain of G, would move s: not at all where ``s = sigma(a)``."""
    slope, curvature = _derivatives(p, s)
    g = slope - a
    if p.simplex is not None:
        g = torch.where(s > 0, g, 0.0)  # log 0 says nothing
        return s * (g - (s * g).sum(p.simplex, keepdim=True))  # along the simplex
    held = ((s <= p.lower) & (g > 0)) | ((s >= p.upper) & (g < 0)) | (_at_bound(p, s) & ~torch.isfinite(g))
    return torch.where(held, 0.0, g / curvature.clamp(min=1e-12))


def _at_bound(p: Potential, s: Tensor) -> Tensor:
    """Where a state has rounded to a bound of its domain: grad G may be infinite there."""
    rounding = 4 * torch.finfo(s.dtype).eps
    return (s - p.lower <= rounding * abs(p.lower)) | (p.upper - s <= rounding * abs(p.upper))


def _derivatives(p: Potential, s: Tensor) -> tuple[Tensor, Tensor]:
    """G' and G'' of each element."""
    leaf = s.detach().requires_grad_()
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(p.energy(leaf).sum(), leaf, create_graph=True)
        curvature = torch.autograd.grad(slope.sum(), leaf, allow_unused=True)[0] if slope.requires_grad else None
    return slope.detach(), torch.ones_like(s) if curvature is None else curvature


def _points(p: Potential, like: Tensor, seed: int = 1) -> Tensor:
    """Ordinary pre-activations: of any shape for an elementwise potential, of the state's shape for one of a simplex."""
    generator = torch.Generator().manual_seed(seed)
    shape = (POINTS,) if p.simplex is None else like.shape
    return 2 * torch.randn(shape, generator=generator, dtype=torch.float64).to(like)


def _increments(p: Potential, like: Tensor) -> float:
    """How far difference, tangent and slope of a potential are from its sigma, at random points."""
    a, da = _points(p, like, seed=1), _points(p, like, seed=2)
    sigma, small = p.activation, 1e-6
    moved = sigma(a + da) - sigma(a)
    central = (sigma(a + small * da) - sigma(a - small * da)) / (2 * small)
    smooth = (sigma(a + small * da) + sigma(a - small * da) - 2 * sigma(a)).abs() <= 1e-3 * small  # not across a kink
    tangent = torch.where(smooth, p.tangent(a, da) - central, 0.0) * 1e-2  # central differences have fewer digits
    along = (p.simplex,) if p.simplex is not None else ()
    sizes = [v.norm(dim=along, keepdim=True) if along else v.abs() for v in (moved, da)]
    steeper = (sizes[0] - p.slope * sizes[1]).clamp(min=0.0)
    prepared = p.difference_from(a)(da)
    return max(
        *(_relative(e, _largest(moved)) for e in (p.difference(a, da) - moved, prepared - moved, steeper)),
        _relative(tangent, _largest(central)),
    )


def _largest(t: Tensor) -> float:
    return float(peak(t)) if t.numel() else 0.0


def _relative(difference: Tensor, scale: float) -> float:
    relative = _largest(difference) / max(scale, TINY)
    return math.inf if math.isnan(relative) else relative  # max() would pass a NaN over

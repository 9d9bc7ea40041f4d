"""Pass 6, verify: the printed energy and the equations that the solver runs are the same thing, in float64.

For each block, at random states and at the computed equilibrium:

1. stationarity: ``-(1/w_l) d/ds_l [E - sum w G]``, by differentiating the energy's own value, equals the ``a_l`` that
   the solver computes from drives and feedback;
2. equilibrium: the energy's gradient vanishes there: ``s_l = proj(s_l - dE/ds_l)`` on the domain of G_l;
3. increments: the potential's difference and tangent are those of its sigma, and no increment exceeds its slope: equilibrium
   propagation nudges with the first two, the certificate builds on the third.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import Problem, VerificationError
from ..ir import Energy, Potential
from ..solve import BoundBlock, Tolerance, relax
from ..solve.iteration import peak

TOLERANCE = 1e-6


@dataclass(frozen=True)
class Verification:
    """The residuals of one block's checks, in float64.

    Attributes:
        block: its name.
        stationarity: relative difference between the energy's stationarity equations and the solver's.
        gradient: the projected gradient of the energy at the equilibrium, relative to the states.
        increments: the relative error of the activations' differences, tangents and slopes.
        converged: whether the relaxation reached the float64 tolerance; otherwise the gradient is not judged.
    """

    block: str
    stationarity: float
    gradient: float
    converged: bool
    increments: float = 0.0

    @property
    def ok(self) -> bool:
        judged = [self.stationarity, self.increments, *([self.gradient] if self.converged else [])]
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
    increments = max(_increments(s.potential, states[s.name]) for s in bound.block.states)
    record = Verification(
        bound.block.name,
        _stationarity(bound, energy, states),
        _projected_gradient(bound, energy, states),
        equilibrium.relaxation.converged,
        increments,
    )
    if not record.ok:
        layers = ", ".join(labels[s.name] for s in bound.block.states)
        raise VerificationError(
            Problem(
                f"{record.block} ({layers})",
                f"its printed energy and its solver disagree: stationarity {record.stationarity:.1e}, gradient {record.gradient:.1e}, increments {record.increments:.1e}",
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


def _gradient(bound: BoundBlock, part: Callable[..., Tensor], states: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The gradient of the energy, or of its interaction alone, in each state."""
    leaves = {k: v.detach().requires_grad_() for k, v in states.items()}
    with torch.enable_grad():
        value = part(leaves, bound.inputs, bound.weights, bound.layer_weights)
        found = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
    return {k: torch.zeros_like(v) if g is None else g for (k, v), g in zip(leaves.items(), found, strict=True)}


def _stationarity(bound: BoundBlock, energy: Energy, states: Mapping[str, Tensor]) -> float:
    generator = torch.Generator().manual_seed(0)
    shifted = {k: _inside(bound.block.state(k).potential, v, generator) for k, v in states.items()}
    solver = bound.stationarity(shifted)
    printed = _gradient(bound, energy.interaction, shifted)
    return max(_relative(-printed[k] / bound.layer_weights[k] - solver[k], solver[k]) for k in solver)


def _inside(potential: Potential, s: Tensor, generator: torch.Generator) -> Tensor:
    """A random state in the domain."""
    noise = torch.randn(s.shape, generator=generator, dtype=torch.float64).to(s)
    return potential.activation(noise)


def _projected_gradient(bound: BoundBlock, energy: Energy, states: Mapping[str, Tensor]) -> float:
    gradients = _gradient(bound, energy.value, states)
    worst = 0.0
    for state in bound.block.states:
        s, g = states[state.name], gradients[state.name] / bound.layer_weights[state.name]
        p = state.potential
        if p.simplex is not None:
            g = torch.where(s > 0, g, 0.0)  # log 0 says nothing
            moved = s * (g - (s * g).sum(p.simplex, keepdim=True))  # along the simplex
        else:
            at_bound = ((s <= p.lower) & (g > 0)) | ((s >= p.upper) & (g < 0)) | ~torch.isfinite(g)
            moved = torch.where(at_bound | _saturated(p, s), 0.0, g * _stiffness(p, s))
        worst = max(worst, _relative(moved, s))
    return worst


def _increments(p: Potential, like: Tensor) -> float:
    """How far difference, tangent and slope of a potential are from its sigma, at random points."""
    generator = torch.Generator().manual_seed(1)
    a, da = (2 * torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like) for _ in range(2))
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
        *(_relative(e, moved) for e in (p.difference(a, da) - moved, prepared - moved, steeper)),
        _relative(tangent, central),
    )


def _saturated(p: Potential, s: Tensor) -> Tensor:
    """Where a smooth activation has rounded to its bound, grad G is infinite and says nothing."""
    margin = 1e-12
    near = torch.zeros_like(s, dtype=torch.bool)
    if p.lower > -float("inf"):
        near |= s - p.lower < margin
    if p.upper < float("inf"):
        near |= p.upper - s < margin
    return near & (p.name in ("sigmoid", "tanh", "softplus", "elu", "celu", "selu"))


def _stiffness(p: Potential, s: Tensor) -> Tensor:
    """1 / G'' = sigma' at the state: turns a gradient of the energy into a displacement of the state."""
    leaf = s.detach().requires_grad_()
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(p.energy(leaf).sum(), leaf, create_graph=True)
        if not slope.requires_grad:
            return torch.ones_like(s)
        (curvature,) = torch.autograd.grad(slope.sum(), leaf, allow_unused=True)
    return torch.ones_like(s) if curvature is None else 1 / curvature.clamp(min=1e-12)


def _relative(difference: Tensor, reference: Tensor) -> float:
    if difference.numel() == 0:
        return 0.0
    relative = float(difference.abs().amax() / reference.abs().amax().clamp(min=1e-12))
    return math.inf if math.isnan(relative) else relative  # max() would pass a NaN over

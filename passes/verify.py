"""Pass 6, verify: the printed energy and the equations that the solver runs are the same thing.

For each block, with ``a_l = -(1/w_l) d/ds_l [E - sum w G]`` from the energy's own value, in the block's own precision:

1. stationarity: at random states this a_l is the one that the solver's code computes from drives and feedback;
2. equilibrium: where a relaxation has found the states, ``s_l = sigma_l(a_l)``;

and for each potential, in float64:

3. inverse: at random pre-activations a, ``grad G_l(sigma_l(a)) = a`` on the domain of G_l, so that with 2 the energy's
   gradient vanishes;
4. increments: the potential's difference and tangent are those of its sigma, and no increment exceeds its slope:
   equilibrium propagation nudges with the first two, the certificate builds on the third.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..errors import Problem, VerificationError
from ..ir import Energy, Potential
from ..solve import AUTOMATIC, BoundBlock, Differentiation, Relaxation
from ..solve.iteration import TINY, peak

TOLERANCE = 1e-6
"""What float64 may leave of a residual."""

ROUNDINGS, LARGEST = 1e3, 0.05
"""A narrower type may leave so many of its roundings, and no more than this part."""

WIDE = 1e12
"""Layer weights above this are the product of many couplings, and the energy's terms may leave float32."""

ABOVE_RESIDUAL = 10
"""States are off by what a last sweep changed, times the sums that they enter."""

POINTS = 1024
"""Random pre-activations at which an elementwise potential is checked."""

ROWS = 4
"""Of each dimension but its own, for a potential on a simplex."""


@dataclass(frozen=True)
class Verification:
    """The residuals of one block's checks.

    Attributes:
        block: its name.
        stationarity: relative difference between the energy's stationarity equations and the solver's.
        gradient: how far the states that a relaxation found are from those of zero gradient, relative to the states.
        converged: whether that relaxation had converged; otherwise the gradient is not judged.
        increments: the relative error of the activations' differences, tangents and slopes.
        inverse: how far ordinary states are from those where grad G inverts the activation, relative to the states.
        rounding: what the block's precision may leave of the first two.
    """

    block: str
    stationarity: float
    gradient: float
    converged: bool
    increments: float = 0.0
    inverse: float = 0.0
    rounding: float = TOLERANCE

    @property
    def ok(self) -> bool:
        in_block = [self.stationarity, *([self.gradient] if self.converged else [])]
        exact = [self.increments, self.inverse]  # a comparison with what is no number fails
        return all(r <= self.rounding for r in in_block) and all(r <= TOLERANCE for r in exact)


@dataclass(frozen=True)
class Checked:
    """The checks of a potential, which are the same in every block that has it.

    Attributes:
        rows: the shape of the states, of one on a simplex.
        increments, inverse: as in :class:`Verification`.
    """

    potential: Potential
    rows: tuple[int, ...] | None
    device: torch.device
    increments: float
    inverse: float


def verify(
    bound: BoundBlock,
    states: Mapping[str, Tensor],
    labels: Mapping[str, str],
    differentiation: Differentiation = AUTOMATIC,
    relaxation: Relaxation | None = None,
    known: list[Checked] | None = None,
) -> Verification:
    """Checks one block on the given inputs.

    Args:
        bound: the block with its layer weights.
        states: those that a relaxation found, or any of their shapes.
        labels: the user's names of the states.
        differentiation: how the solver gets drives and their transposes.
        relaxation: how the states were found; None where none was made, so that random states are compared.
        known: the checks of potentials, which other blocks have too; it grows.

    Raises:
        VerificationError: the energy and the solver disagree.
    """
    bound, narrow = _without_infinities(bound), states
    if max(bound.layer_weights.values()) > _largest_weight(states):
        bound, states = _in_float64(bound), {n: s.double() for n, s in states.items()}
    known = [] if known is None else known
    potentials = [_checked(s.potential, states[s.name], known) for s in bound.block.states]
    at_rest = relaxation is not None and relaxation.converged
    record = Verification(
        bound.block.name,
        0.0 if at_rest else _stationarity(bound, labels, states, differentiation),
        _gradient(bound, labels, states) if at_rest else 0.0,
        at_rest,
        max(p.increments for p in potentials),
        max(p.inverse for p in potentials),
        _rounding(narrow, relaxation),
    )
    if not record.ok:
        layers = ", ".join(labels[s.name] for s in bound.block.states)
        what = (
            f"its printed energy and its solver disagree: stationarity {record.stationarity:.1e}, "
            f"gradient {record.gradient:.1e}, increments {record.increments:.1e}, inverse {record.inverse:.1e}"
        )
        remedy = (
            "A rule gives the wrong energy or operation; run the generic tests on the rules in this block, or keep the "
            "layer out with digital=."
        )
        raise VerificationError(Problem(f"{record.block} ({layers})", what, remedy))
    return record


def _largest_weight(states: Mapping[str, Tensor]) -> float:
    """The largest layer weight with which the energy's terms are within the range of the states' type."""
    return min(WIDE, *(math.cbrt(torch.finfo(s.dtype).max) for s in states.values()))


def _checked(potential: Potential, like: Tensor, known: list[Checked]) -> Checked:
    """A potential on its own, each once."""
    rows = None if potential.simplex is None else tuple(like.shape)
    same = (c for c in known if c.rows == rows and c.device == like.device and c.potential == potential)
    checked = next(same, None)
    if checked is None:
        checked = Checked(potential, rows, like.device, _increments(potential, like), _inverse(potential, like))
        known.append(checked)
    return checked


def _rounding(states: Mapping[str, Tensor], relaxation: Relaxation | None) -> float:
    eps = max(torch.finfo(s.dtype).eps for s in states.values())
    device = next(iter(states.values())).device.type
    if torch.is_autocast_enabled(device):
        eps = max(eps, torch.finfo(torch.get_autocast_dtype(device)).eps)
    left = 0.0 if relaxation is None else ABOVE_RESIDUAL * relaxation.residual
    return max(TOLERANCE, min(ROUNDINGS * eps, LARGEST), left)


def _without_infinities(bound: BoundBlock) -> BoundBlock:
    """A mask of infinities, whose product with the zero it makes is no number, is checked as one of large numbers."""

    def large(v: Any) -> Any:
        if not isinstance(v, Tensor) or not v.is_floating_point():
            return v
        v = v.detach()
        finite = v.numel() == 0 or bool(torch.isfinite(peak(v)))
        return v if finite else torch.where(torch.isinf(v), v.clamp(-1e4, 1e4), v)

    inputs = {k: large(v) for k, v in bound.inputs.items()}
    return replace(bound, inputs=inputs, weights={k: large(v) for k, v in bound.weights.items()}, fixed={})


def _in_float64(bound: BoundBlock) -> BoundBlock:
    def wide(v: Any) -> Any:
        return v.double() if isinstance(v, Tensor) and v.is_floating_point() else v

    inputs, weights = ({k: wide(v) for k, v in values.items()} for values in (bound.inputs, bound.weights))
    return replace(bound, inputs=inputs, weights=weights, fixed={})


def _printed(bound: BoundBlock, labels: Mapping[str, str], states: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``a_l`` of every state, by differentiating the value of the printed energy without its potentials."""
    leaves = {k: v.detach().requires_grad_() for k, v in states.items()}
    energy = Energy(bound.block, labels)
    with torch.enable_grad():
        value = energy.interaction(leaves, bound.inputs, bound.weights, bound.layer_weights)
        slopes = torch.autograd.grad(value, list(leaves.values()))
    return {k: -g / bound.layer_weights[k] for k, g in zip(leaves, slopes, strict=True)}


def _stationarity(
    bound: BoundBlock, labels: Mapping[str, str], states: Mapping[str, Tensor], differentiation: Differentiation
) -> float:
    generator = torch.Generator().manual_seed(0)
    shifted = {k: _inside(bound.block.state(k).potential, v, generator) for k, v in states.items()}
    solver, printed = _solved(bound, shifted, differentiation), _printed(bound, labels, shifted)
    return max(_relative(printed[k] - solver[k], _largest(solver[k])) for k in solver)


def _solved(bound: BoundBlock, states: Mapping[str, Tensor], differentiation: Differentiation) -> dict[str, Tensor]:
    """``a_l`` of every state, as a sweep computes it."""
    interaction = differentiation.interaction(bound)
    leaves = {k: interaction.leaf(v) for k, v in states.items()}
    drives = {s.name: interaction.drive(s, leaves) for s in bound.block.states}
    a = {n: d.f.detach().clone() for n, d in drives.items()}
    for state in bound.block.states:
        for source, pulled in interaction.pull(state, drives[state.name], states[state.name]).items():
            a[source] = a[source] + bound.reverse_gain(source, state.name) * pulled.detach()
    return a


def _inside(potential: Potential, s: Tensor, generator: torch.Generator) -> Tensor:
    """A random state in the domain."""
    noise = torch.randn(s.shape, generator=generator, dtype=torch.float64).to(s)
    return potential.activation(noise)


def _gradient(bound: BoundBlock, labels: Mapping[str, str], states: Mapping[str, Tensor]) -> float:
    """How far the energy's equilibrium is from the states that were found, relative to each."""
    a = _printed(bound, labels, states)
    return max(
        _relative(s.potential.activation(a[s.name]) - states[s.name], _largest(states[s.name]))
        for s in bound.block.states
    )


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
    """Ordinary pre-activations: of any shape for an elementwise potential, of the state's rows for one on a simplex."""
    generator = torch.Generator().manual_seed(seed)
    shape: Sequence[int] = (POINTS,)
    if p.simplex is not None:
        own = p.simplex % like.dim()
        shape = [d if i == own else min(d, ROWS) for i, d in enumerate(like.shape)]
    return 2 * torch.randn(shape, generator=generator, dtype=torch.float64).to(like.device)


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

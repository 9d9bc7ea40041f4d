"""Reverse gains that bound the loop gain of every coupling, and the certificate that follows.

The loop from state l to its consumer m and back has the gain ``g_lm |J_lm|^2``, with ``g_lm = w_m / w_l`` and the
spectral norm of the map from s_l to s_m. In reverse topological order, with w = 1 at the outputs,

    w_l = max over consumers m of  w_m max(1, |J_lm|^2 / loop_gain)

bounds every loop gain by ``loop_gain``, and no reverse gain exceeds the unit feedback of the paper.

Certificate: with ``k_lm = sqrt(g_lm slope_l slope_m) |J_lm|`` the energy's Hessian is, after scaling, at least
``I - K`` for the symmetric matrix K of the k_lm, so an eigenvalue of K below 1 makes the energy strictly convex: one
equilibrium, and coordinate descent finds it. For a chain of any length, loop gains below 1/4 suffice.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..ir import EnergyBlock
from .binding import BoundBlock
from .contraction import Contraction, Edge
from .derivatives.automatic import AUTOMATIC
from .derivatives.interface import Differentiation, Linearised
from .lanczos import STEPS, largest_singular_value
from .norm_sample import Sample, random_like

SURE = 0.95
"""A coupling is certified below this: the norms are estimates from below (:mod:`.lanczos`)."""


class InfiniteNormError(Exception):
    """A coupling whose norm is no finite number.

    Attributes:
        edge: the coupling (l, m).
    """

    def __init__(self, edge: Edge):
        self.edge = edge
        super().__init__(*edge)


@dataclass(frozen=True)
class Gains:
    """The layer weights of a block and what they were computed from.

    Attributes:
        layer_weights: w_l by state.
        norms: the spectral norm of each coupling (l, m).
        directions: the leading direction of each coupling, from which :mod:`.gain_following` goes on.
        outdated: whether they are of other weights than the present ones, which can't be measured again.
    """

    layer_weights: Mapping[str, float]
    norms: Mapping[Edge, float] = field(default_factory=dict)
    directions: Mapping[Edge, Tensor] = field(default_factory=dict, repr=False)
    outdated: bool = False


@dataclass(frozen=True)
class Certificate:
    """Whether a block's energy is strictly convex.

    Attributes:
        coupling: the largest eigenvalue of K; below 1 the energy is strictly convex.
        loop_gain: the largest loop gain of a coupling.
        convex: the verdict; False where it is not known, and where it holds for each choice of pooling winners alone.
        reason: the verdict in words.
    """

    coupling: float
    loop_gain: float
    convex: bool
    reason: str


def unit_gains(block: EnergyBlock) -> Gains:
    """All reverse gains 1, as in the paper."""
    return Gains({s.name: 1.0 for s in block.states})


def bounded_gains(
    bound: BoundBlock,
    loop_gain: float,
    sample: Sample | None = None,
    steps: int = STEPS,
    differentiation: Differentiation = AUTOMATIC,
) -> Gains:
    """Layer weights that bound every loop gain by ``loop_gain``, a function of weights and shapes alone.

    Args:
        bound: the block on an example input, of which the shapes matter.
        sample: of this block, where it is known already.
        steps: at most so many Lanczos steps a coupling.
        differentiation: how J and its transpose are found.

    Raises:
        InfiniteNormError: a coupling whose norm is no finite number.
    """
    if not bound.block.has_feedback:
        return unit_gains(bound.block)
    norms, directions = spectral_norms(bound, sample, steps, differentiation)
    return Gains(layer_weights_of(bound.block, norms, loop_gain), norms, directions)


def layer_weights_of(block: EnergyBlock, norms: Mapping[Edge, float], loop_gain: float) -> dict[str, float]:
    w: dict[str, float] = {}
    for state in reversed(block.states):
        n = state.name
        w[n] = max((w[m] * max(1.0, norms[n, m] ** 2 / loop_gain) for m in block.consumers[n]), default=1.0)
    return w


def spectral_norms(
    bound: BoundBlock,
    sample: Sample | None = None,
    steps: int = STEPS,
    differentiation: Differentiation = AUTOMATIC,
) -> tuple[dict[Edge, float], dict[Edge, Tensor]]:
    """|J_lm| of every coupling, and its leading direction. Arguments and errors as above."""
    if not bound.block.has_feedback:
        return {}, {}
    sample = Sample.of(bound) if sample is None else sample
    norms, directions = {}, {}
    with exactly(bound):
        linear = sample.linearised(bound, differentiation)
        for edge in bound.block.edges:
            start = random_like(sample.source(edge))
            norm, direction = largest_singular_value(partial(squared, linear[edge[1]], edge), start, steps)
            norms[edge], directions[edge] = finite(norm, edge), direction
    return norms, directions


def squared(linear: Linearised, edge: Edge, v: Tensor) -> Tensor:
    """``J^T J v`` of one coupling; zero where J vanishes."""
    source, target = edge
    state = linear.bound.block.state(target)
    pushed, _ = linear.push(state, {source: v})
    return torch.zeros_like(v) if pushed is None else linear.pull(state, pushed)[source]


def finite(norm: float, edge: Edge) -> float:
    if not math.isfinite(norm):
        raise InfiniteNormError(edge)
    return norm


@contextlib.contextmanager
def exactly(bound: BoundBlock) -> Iterator[None]:
    """Without history, in the precision of what is read: no mixed precision changes the norms of weights."""
    devices = {w.device.type for w in bound.weights.values()}
    with torch.no_grad(), contextlib.ExitStack() as stack:
        for device in devices:
            stack.enter_context(torch.autocast(device, enabled=False))
        yield


def contraction_of(block: EnergyBlock, gains: Gains) -> Contraction | None:
    """What sweeps leave of the distance to the equilibrium at most; None where the gains certify none.

    The rate is k^2 for a chain, with k the largest eigenvalue of K. Sweeps backward leave as much: theirs is the
    transpose, up to a change of basis. The norms are estimates from below, so K is taken as ``K / SURE``.
    """
    if not (block.has_feedback and gains.norms) or any(not s.drive.is_linear for s in block.states):
        return None
    loops = _loops(gains)
    if not _coupling(block, loops) / SURE < SURE:
        return None
    slope = {s.name: s.potential.slope for s in block.states}
    sure = {(l, m): loop * slope[l] * slope[m] / SURE**2 for (l, m), loop in loops.items()}
    return Contraction.of(block, gains.layer_weights, sure)


def _loops(gains: Gains) -> dict[Edge, float]:
    """``g_lm |J_lm|^2`` of every coupling."""
    w = gains.layer_weights
    return {(l, m): w[m] / w[l] * norm**2 for (l, m), norm in gains.norms.items()}


def _coupling(block: EnergyBlock, loops: Mapping[Edge, float]) -> float:
    """The largest eigenvalue of K."""
    matrix = _matrix(block, loops)
    return math.inf if matrix is None else _largest(matrix)


def _largest(matrix: NDArray[np.float64]) -> float:
    return float(np.linalg.eigvalsh(matrix)[-1])


def _matrix(block: EnergyBlock, loops: Mapping[Edge, float]) -> NDArray[np.float64] | None:
    """K, in the order of the states; None where a coupling is without bounds."""
    place = {s.name: i for i, s in enumerate(block.states)}
    slope = {s.name: s.potential.slope for s in block.states}
    k = {(l, m): math.sqrt(loop * slope[l] * slope[m]) for (l, m), loop in loops.items()}
    if not all(map(math.isfinite, k.values())):
        return None
    matrix = np.zeros((len(place), len(place)))
    for (l, m), entry in k.items():
        matrix[place[l], place[m]] = matrix[place[m], place[l]] = entry
    return matrix


def certify(block: EnergyBlock, gains: Gains) -> Certificate:
    """The convexity certificate of a block with these gains."""
    if not block.has_feedback:
        return Certificate(0.0, 0.0, True, "no feedback: the equilibrium is the feedforward pass")
    if not gains.norms:
        return Certificate(
            float("nan"), float("nan"), False, "not known: coupling norms are measured with a bounded loop gain only"
        )
    loops = _loops(gains)
    largest, gain = _coupling(block, loops), max(loops.values())
    smooth = [s.name for s in block.states if not s.drive.is_linear]
    if smooth:
        return Certificate(
            largest, gain, False, "none: a smooth activation inside the interaction adds curvature of either sign"
        )
    if largest >= 1:
        return Certificate(
            largest, gain, False, f"none: coupling {largest:.3g} >= 1, so several equilibria are possible"
        )
    if largest >= SURE:
        return Certificate(
            largest,
            gain,
            False,
            f"none: coupling {largest:.3g} is below 1 by less than its norms may be underestimated",
        )
    when = ", at the weights before the last change" if gains.outdated else ""
    if block.is_routed:
        return Certificate(
            largest,
            gain,
            False,
            "convex for each choice of pooling winners only, between which several equilibria are possible: "
            f"coupling {largest:.3g} < 1{when}",
        )
    return Certificate(largest, gain, True, f"strictly convex: coupling {largest:.3g} < 1{when}")

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

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import FFEBMError
from ..ir import EnergyBlock
from .automatic import AUTOMATIC
from .binding import BoundBlock
from .contraction import Contraction, Edge
from .differentiation import Differentiation, Linearised

STEPS, SETTLED = 24, 1e-3
"""At most so many Lanczos steps at first use; fewer once a step adds less than this to the squared norm."""

SURE = 0.95
"""A coupling is certified below this: the norms are estimates from below."""


@dataclass(frozen=True)
class Sample:
    """Where the couplings of a block are linearised for their norms.

    Attributes:
        point: by state: a random one where the Jacobian of a coupling depends on it, of its shape alone elsewhere.
        shapes: of the one sample that it belongs to, by input, with type and device.
    """

    point: Mapping[str, Tensor]
    shapes: Mapping[str, tuple[object, ...]]


@dataclass(frozen=True)
class Gains:
    """The layer weights of a block and what they were computed from.

    Attributes:
        layer_weights: w_l by state.
        norms: the spectral norm of each coupling (l, m), estimated by Lanczos iteration.
        directions: the leading direction of each coupling, where the next iteration starts.
        outdated: whether the weights have changed since.
        sample: where the norms were taken, for the next measurement; not saved.
    """

    layer_weights: Mapping[str, float]
    norms: Mapping[Edge, float] = field(default_factory=dict)
    directions: Mapping[Edge, Tensor] = field(default_factory=dict, repr=False)
    outdated: bool = False
    sample: Sample | None = field(default=None, repr=False, compare=False)


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
    previous: Gains | None = None,
    iterations: int = STEPS,
    differentiation: Differentiation = AUTOMATIC,
) -> Gains:
    """Layer weights that bound every loop gain by ``loop_gain``.

    Args:
        bound: the block on an example input; one sample of it is used.
        previous: gains whose directions the iteration starts from, to follow moving weights.
        iterations: at most so many Lanczos steps a coupling.
        differentiation: how J and its transpose are found.
    """
    if not bound.block.has_feedback:
        return Gains(layer_weights_of(bound.block, {}, loop_gain))
    cut, sample = sampled(bound)
    norms, directions = _norms(cut, sample, previous, iterations, differentiation)
    return Gains(layer_weights_of(bound.block, norms, loop_gain), norms, directions, sample=sample)


def layer_weights_of(block: EnergyBlock, norms: Mapping[Edge, float], loop_gain: float) -> dict[str, float]:
    w: dict[str, float] = {}
    for state in reversed(block.states):
        n = state.name
        w[n] = max((w[m] * max(1.0, norms[n, m] ** 2 / loop_gain) for m in block.consumers[n]), default=1.0)
    return w


def one_sample(bound: BoundBlock) -> BoundBlock:
    """The block on the first sample: every tensor cut along the batch, and the sizes that count it set to one.

    Which sizes are the batch's can only be guessed, so a cut that the block does not accept gives the whole block back.
    """
    tensors = [v for v in bound.inputs.values() if isinstance(v, Tensor) and v.dim() > 0]
    batches = {t.shape[0] for t in tensors}
    if len(batches) != 1:
        return bound
    sample = cut_to_one(bound, *batches)
    try:
        with torch.no_grad():
            sample.feedforward()
    except FFEBMError:
        return bound
    return sample


def cut_to_one(bound: BoundBlock, batch: int) -> BoundBlock:
    """The first of so many samples, whether the block accepts it or not."""

    def cut(value: Any) -> Any:
        if isinstance(value, Tensor) and value.dim() > 0:
            return value[:1]
        return 1 if type(value) is int and value == batch else value

    return replace(bound, inputs={k: cut(v) for k, v in bound.inputs.items()}, fixed={})


def cut_like(cut: BoundBlock, states: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """States of a block on a batch, as states of the block that :func:`one_sample` cut from it."""
    with torch.no_grad():
        shapes = {n: s.shape for n, s in cut.feedforward().items()}
    return {n: s if s.shape == shapes[n] else s[: shapes[n][0]] for n, s in states.items()}


def sampled(bound: BoundBlock) -> tuple[BoundBlock, Sample]:
    """A block on one sample, and where its couplings are linearised."""
    cut = one_sample(bound)
    with torch.no_grad():
        states = cut.feedforward()
    moving = {
        n for s in bound.block.states if not s.drive.is_linear or s.drive.is_routed for n in (*s.drive.sources, s.name)
    }
    point = {n: _start(v) if n in moving else v.new_zeros(()).expand(v.shape) for n, v in states.items()}
    return cut, Sample(point, shapes_of(cut))


def shapes_of(bound: BoundBlock) -> dict[str, tuple[object, ...]]:
    return {n: (*v.shape, v.dtype, v.device) for n, v in bound.inputs.items() if isinstance(v, Tensor)}


def spectral_norms(
    bound: BoundBlock,
    previous: Gains | None = None,
    iterations: int = STEPS,
    differentiation: Differentiation = AUTOMATIC,
) -> tuple[dict[Edge, float], dict[Edge, Tensor]]:
    """|J_lm| of every coupling by Lanczos iteration on J^T J.

    Where J depends on the states (pooling winners, smooth activations) it is taken at a random state, always the same one: the
    gains then depend on the weights alone, and are equal on every process of a distributed training.
    """
    if not bound.block.has_feedback:
        return {}, {}
    return _norms(*sampled(bound), previous, iterations, differentiation)


def _norms(
    bound: BoundBlock, sample: Sample, previous: Gains | None, iterations: int, differentiation: Differentiation
) -> tuple[dict[Edge, float], dict[Edge, Tensor]]:
    with torch.no_grad():
        linear = differentiation.linearise(bound, sample.point)
    norms, directions = {}, {}
    for source, target in bound.block.edges:
        start = None if previous is None else previous.directions.get((source, target))
        like = linear.states[source]
        if start is None or start.shape != like.shape:
            start = _start(like)
        norms[source, target], directions[source, target] = _largest_singular_value(
            linear, source, target, start.to(like), iterations
        )
    return norms, directions


def _start(like: Tensor) -> Tensor:
    """A direction from a generator of its own, so that no caller's random numbers are used up."""
    generator = torch.Generator().manual_seed(like.numel())
    return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like)


def _largest_singular_value(
    linear: Linearised, source: str, target: str, start: Tensor, iterations: int
) -> tuple[float, Tensor]:
    """|J| and its leading direction by Lanczos iteration on J^T J, reorthogonalised (Golub & Van Loan, section 10.1).

    The largest eigenvalue of the tridiagonal matrix of the Krylov space is a bound from below that converges much faster
    than the power iteration's.
    """
    state = linear.bound.block.state(target)
    tiny = torch.finfo(start.dtype).tiny
    basis = [start / start.norm().clamp(min=tiny)]
    diagonal: list[float] = []
    beside: list[float] = []
    value = 0.0
    for _ in range(iterations):
        pushed, _ = linear.push(state, {source: basis[-1]})
        if pushed is None:
            return 0.0, start
        image = linear.pull(state, pushed)[source]
        diagonal.append(float((image * basis[-1]).sum()))
        if not np.isfinite(diagonal[-1]):
            return 0.0, start  # weights that are not finite: the relaxation diverges, and its warning names them
        for _ in range(2):  # twice is enough
            for v in basis:
                image = image - (image * v).sum() * v
        eigenvalues, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1))
        last, value = value, float(eigenvalues[-1])
        length = float(image.norm())
        if value <= 0 or value - last <= SETTLED * value or length <= SETTLED * value:
            break
        beside.append(length)
        basis.append(image / length)
    direction = sum((float(c) * v for c, v in zip(vectors[:, -1], basis, strict=False)), start=torch.zeros_like(start))
    return max(value, 0.0) ** 0.5, direction


def contraction_of(block: EnergyBlock, gains: Gains) -> Contraction | None:
    """What sweeps leave of the distance to the equilibrium at most; None where the gains certify none.

    The rate is k^2 for a chain, with k the largest eigenvalue of K. Sweeps backward leave as much: theirs is the transpose, up to a change of
    basis. The norms being estimates from below, K is taken as ``K / SURE``.
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
            f"convex for each choice of pooling winners only, between which several equilibria are possible: coupling {largest:.3g} < 1{when}",
        )
    return Certificate(largest, gain, True, f"strictly convex: coupling {largest:.3g} < 1{when}")

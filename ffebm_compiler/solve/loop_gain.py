"""Reverse gains that bound the loop gain of every coupling.

The loop from state l to its consumer m and back has the gain ``g_lm |J_lm|^2``, with ``g_lm = w_m / w_l`` and the
spectral norm of the map from s_l to s_m. In reverse topological order, with w = 1 at the outputs,

    w_l = max over consumers m of  w_m max(1, |J_lm|^2 / loop_gain)

bounds every loop gain by ``loop_gain``, and no reverse gain exceeds the unit feedback of the paper.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from ..ir import EnergyBlock
from .binding import BoundBlock, Edge
from .derivatives.automatic import AUTOMATIC
from .derivatives.interface import Differentiation, Linearised
from .lanczos import STEPS, largest_singular_value
from .norm_sample import Sample, random_like


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
        outdated: whether they are those of other weights than there are, which happens only where they can't be measured again.
    """

    layer_weights: Mapping[str, float]
    norms: Mapping[Edge, float] = field(default_factory=dict)
    directions: Mapping[Edge, Tensor] = field(default_factory=dict, repr=False)
    outdated: bool = False


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
    """Without history, and in the precision of what is read, whatever mixed precision is on: norms are those of the weights."""
    devices = {w.device.type for w in bound.weights.values()}
    with torch.no_grad(), contextlib.ExitStack() as stack:
        for device in devices:
            stack.enter_context(torch.autocast(device, enabled=False))
        yield

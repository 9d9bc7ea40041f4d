"""The displacement under a vanishing nudge by conjugate gradients: a symmetric system, solved in the square root of the sweeps.

To first order in the nudge, with ``Sigma = sigma'(a*)``, the increments of the pre-activations and the displacements are

    da = B d + c,        d = Sigma da

with B the couplings and c the nudge. In the inner product ``<u, v> = sum_l w_l u_l . v_l`` B is self-adjoint, and so is
``1 - B Sigma`` in ``<u, Sigma v>``; it is positive where the energy is convex. States that no coupling joins to each other are eliminated first:
of a chain every other one. What remains, with K the kept and E the eliminated states,

    (1 - S) da_K = c_K + B_KE Sigma_E c_E,        S = (B_KK + B_KE Sigma_E B_EK) Sigma_K

takes the push and the pull of every coupling once a step, as a sweep does. No root of Sigma is taken, and Sigma may be singular or, for a softmax, not
diagonal. Source: Hestenes & Stiefel 1952; Golub & Van Loan, section 11.3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import networkx as nx
import torch
from torch import Tensor

from ..ir import EnergyBlock, State
from .binding import States
from .derivatives.interface import Linearised
from .derivatives.sums import Part, total
from .iteration import Relaxation, advance, largest_ratio, peak
from .over_relaxation import Pace

SLOW = 0.2
"""Sweeps that leave less than this are not slower."""

FLOOR = 1.0
"""A step may leave as much as it has moved, whatever the steps before it did: no less is taken to be left."""


@dataclass(frozen=True)
class Division:
    """The states that conjugate gradients keep, and those that they eliminate."""

    kept: tuple[State, ...]
    eliminated: tuple[State, ...]

    @staticmethod
    def of(block: EnergyBlock, sizes: Mapping[str, int]) -> Division:
        """No two of the eliminated are joined; where the graph allows they are all of one class, the larger one.

        A coupling that is not linear joins its sources, each of them to itself as well.
        """
        graph = nx.Graph(block.edges)
        graph.add_nodes_from(s.name for s in block.states)
        curved = {n for s in block.states if not s.drive.is_linear for n in s.drive.sources}
        free = _larger_classes(graph, sizes) if not curved and nx.is_bipartite(graph) else _apart(graph, curved, sizes)
        kept, eliminated = ([s for s in block.states if (s.name in free) is e] for e in (False, True))
        return Division(tuple(kept), tuple(eliminated))


def _larger_classes(graph: nx.Graph, sizes: Mapping[str, int]) -> set[str]:
    found: set[str] = set()
    for part in nx.connected_components(graph):
        classes = nx.bipartite.sets(graph.subgraph(part))
        found |= max(classes, key=lambda names: sum(sizes[n] for n in names))
    return found


def _apart(graph: nx.Graph, curved: set[str], sizes: Mapping[str, int]) -> set[str]:
    """States that no coupling joins, the largest first."""
    found: set[str] = set()
    for n in sorted(graph, key=lambda n: -sizes[n]):
        if n not in curved and not found.intersection(graph[n]):
            found.add(n)
    return found


class Evaluation:
    """``da_K`` and ``d_E`` from ``d_K``, by one push and one pull of every coupling."""

    def __init__(self, linear: Linearised, division: Division):
        self.linear, self.division = linear, division

    def __call__(self, d: Mapping[str, Tensor], nudge: Mapping[str, Part]) -> tuple[States, States]:
        linear, kept, eliminated = self.linear, self.division.kept, self.division.eliminated
        parts: dict[str, list[Part]] = {
            s.name: [nudge[s.name]] if s.name in nudge else [] for s in (*kept, *eliminated)
        }
        for s in kept:
            self._pull(s, d[s.name], parts)
        for s in eliminated:
            self._push(s, d, parts)
        others = {s.name: linear.tangents[s.name](self._total(parts, s)) for s in eliminated}
        for s in kept:
            self._push(s, {**d, **others}, parts)
        for s in eliminated:
            self._pull(s, others[s.name], parts)
        return {s.name: self._total(parts, s) for s in kept}, others

    def _push(self, state: State, d: Mapping[str, Tensor], parts: dict[str, list[Part]]) -> None:
        push, curvature = self.linear.push(state, d)
        if push is not None:
            parts[state.name].append((1.0, push))
        self._back(state, curvature, parts)

    def _pull(self, state: State, d: Tensor, parts: dict[str, list[Part]]) -> None:
        self._back(state, self.linear.pull(state, d), parts)

    def _back(self, state: State, found: Mapping[str, Tensor], parts: dict[str, list[Part]]) -> None:
        for source, value in found.items():
            parts[source].append((self.linear.bound.reverse_gain(source, state.name), value))

    def _total(self, parts: Mapping[str, list[Part]], state: State) -> Tensor:
        found = total(parts[state.name])
        return torch.zeros_like(self.linear.states[state.name]) if found is None else found


class ConjugateGradients:
    """The iteration, from increments ``da`` of the kept states. It writes to tensors of its own only.

    Attributes:
        d: the displacement of every state.
    """

    def __init__(self, linear: Linearised, division: Division, nudge: Mapping[str, Part], da: Mapping[str, Tensor]):
        self._evaluate, self._kept = Evaluation(linear, division), [s.name for s in division.kept]
        self._weights, self._sigma = linear.bound.layer_weights, linear.tangents
        d = {n: self._sigma[n](da[n]) for n in self._kept}
        found, others = self._evaluate(d, nudge)
        self.d = {n: v.clone() for n, v in {**d, **others}.items()}
        self._residual = {n: found[n] - da[n] for n in self._kept}
        steepest, self._size = self._steepest()
        self._da = {n: v.clone() for n, v in self._residual.items()}  # the direction, and what it does to d
        self._direction = {n: v.clone() for n, v in steepest.items()}

    def step(self) -> float:
        """One evaluation of every coupling. Gives the largest relative change of a state; infinite where the system is not positive."""
        images, others = self._evaluate(self._direction, {})
        images = {n: self._da[n] - v for n, v in images.items()}
        curvature = self._product(self._direction, images)
        positive = curvature > 0
        length = torch.where(positive, self._size / curvature, 0.0)
        moved = {**self._direction, **others}
        for n, v in moved.items():
            self.d[n].addcmul_(length, v)
        known = torch.stack(
            [curvature, self._size, length, *(peak(t) for n, v in moved.items() if v.numel() for t in (self.d[n], v))]
        )
        for n, v in images.items():
            self._residual[n].addcmul_(length, v, value=-1)
        self._turn()
        bent, size, step, *peaks = known.cpu().tolist()
        change = largest_ratio((s, v * step) for s, v in zip(peaks[::2], peaks[1::2], strict=True))
        return change if bent > 0 or size == 0 else math.inf

    def _turn(self) -> None:
        """To the next direction, conjugate to the ones before."""
        last = self._size
        steepest, self._size = self._steepest()
        ratio = torch.where(last > 0, self._size / last, 0.0)
        for n, v in steepest.items():
            torch.addcmul(self._residual[n], self._da[n], ratio, out=self._da[n])
            torch.addcmul(v, self._direction[n], ratio, out=self._direction[n])

    def _steepest(self) -> tuple[States, Tensor]:
        steepest = {n: self._sigma[n](v) for n, v in self._residual.items()}
        return steepest, self._product(self._residual, steepest)

    def _product(self, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Tensor:
        return torch.stack([self._weights[n] * dot(a[n], b[n]) for n in self._kept]).sum()


def dot(a: Tensor, b: Tensor) -> Tensor:
    """The inner product, read in the order in which ``a`` lies in memory."""
    strides = a.stride()
    order = sorted(range(a.dim()), key=lambda i: -strides[i])
    return torch.dot(a.permute(order).reshape(-1), b.permute(order).reshape(-1))


def solves(linear: Linearised) -> bool:
    """Whether the arithmetic is fine enough, and wide enough, for products over all samples and states.

    A displacement decays as 1 / w, so its square must stay far above the smallest number of the type.
    """
    dtypes = {v.dtype for v in linear.states.values()}
    mixed = any(torch.is_autocast_enabled(v.device.type) for v in linear.states.values())
    if mixed or dtypes not in ({torch.float32}, {torch.float64}):
        return False
    weights = linear.bound.layer_weights.values()
    spread = max(weights) / min(weights)
    return spread**2 < 1e-6 / torch.finfo(dtypes.pop()).tiny


def conjugate(
    linear: Linearised,
    division: Division,
    nudge: Mapping[str, Part],
    da: Mapping[str, Tensor],
    tolerance: float,
    max_sweeps: int,
) -> tuple[States, Relaxation]:
    """The displacement to first order; the record's residual is infinite where the system is not positive, and ``d`` the last that made sense.

    Args:
        nudge: c, by state.
        da: of the kept states, to start from.
        max_sweeps: how often all couplings may be evaluated.
    """
    iteration = ConjugateGradients(linear, division, nudge, da)
    name, pace = linear.bound.block.name, Pace(limit=1.0, window=2)
    record = advance(name, iteration.step, tolerance, max_sweeps - 1, floor=FLOOR, pace=pace)
    return iteration.d, replace(record, sweeps=record.sweeps + 1)

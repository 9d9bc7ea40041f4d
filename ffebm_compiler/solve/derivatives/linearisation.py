"""A block around its free equilibrium, by automatic differentiation.

The Jacobian's transpose ``J^T c`` is recorded once, as a function of its cotangent and of the states; its own
vector-Jacobian product is then ``J d`` (through the cotangent) and the curvature (through the states).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ...ir import State
from ..binding import BoundBlock, States
from .interface import Gradients, Increment, around, differences_from, gradients_of, tangents_at


@dataclass(frozen=True)
class LinearDrive:
    """f of one state, linearised: ``sources`` are the free states it reads, ``f`` their drive, ``pulled = J^T c`` at ``c = s_m*``."""

    sources: States
    f: Tensor
    cotangent: Tensor
    pulled: States


class Linearisation:
    """The interaction of a block around its free equilibrium: push (J d), pull (J^T d), curvature and contrast.

    The recorded graph holds the pooling winners of the free equilibrium, and serves the contrast as well, which uses it up.

    Args:
        bound: the block.
        states: its free equilibrium.
        wanted: inputs and weights that the contrast will differentiate in.
    """

    def __init__(self, bound: BoundBlock, states: Mapping[str, Tensor], wanted: Sequence[str] = ()):
        self.bound, self.leaves = bound.with_leaves(wanted) if wanted else (bound.detached(), dict[str, Tensor]())
        self.states = {k: v.detach() for k, v in states.items()}
        self.drives = {s.name: self._linearise(s) for s in bound.block.states}

    @cached_property
    def _activations(self) -> States:
        drives, pulled = ({n: getattr(d, part) for n, d in self.drives.items()} for part in ("f", "pulled"))
        return around(self.bound, drives, pulled)

    @cached_property
    def differences(self) -> Mapping[str, Increment]:
        return differences_from(self.bound, self._activations)

    @cached_property
    def tangents(self) -> Mapping[str, Increment]:
        return tangents_at(self.bound, self.states, lambda: self._activations)

    def _linearise(self, state: State) -> LinearDrive:
        with torch.enable_grad():
            sources = {n: self.states[n].detach().requires_grad_() for n in state.drive.sources}
            f = self.bound.drive(state, sources)
            cotangent = self.states[state.name].detach().clone().requires_grad_()
            pulled = torch.autograd.grad(f, list(sources.values()), cotangent, create_graph=True) if sources else ()
        return LinearDrive(sources, f, cotangent, dict(zip(sources, pulled, strict=True)))

    def transpose(self, state: State, cotangent: Tensor) -> dict[str, Tensor]:
        """J^T of a cotangent into each source of one state's drive, as a function of weights and inputs."""
        linear = self.drives[state.name]
        with torch.enable_grad():
            found = torch.autograd.grad(linear.f, list(linear.sources.values()), cotangent, create_graph=True)
        return dict(zip(linear.sources, found, strict=True))

    def push(self, state: State, d: Mapping[str, Tensor]) -> tuple[Tensor | None, dict[str, Tensor]]:
        """(J d, curvature into each source) of one state's drive; None and {} where nothing moves."""
        linear = self.drives[state.name]
        moved = [(p, d[n]) for n, p in linear.pulled.items() if n in d]
        if not moved:
            return None, {}
        smooth = not state.drive.is_linear
        wanted = [linear.cotangent, *(linear.sources.values() if smooth else ())]
        pushed, *curved = torch.autograd.grad(
            [p for p, _ in moved], wanted, [v for _, v in moved], retain_graph=True, allow_unused=True
        )
        curvature = {n: c for n, c in zip(state.drive.sources, curved, strict=False) if c is not None}
        return pushed, curvature

    def pull(self, state: State, d: Tensor) -> dict[str, Tensor]:
        """J^T d into each source of one state's drive."""
        linear = self.drives[state.name]
        if not linear.sources:
            return {}
        pulled = torch.autograd.grad(linear.f, list(linear.sources.values()), d, retain_graph=True)
        return dict(zip(linear.sources, pulled, strict=True))

    def contrast(self, difference: Mapping[str, Tensor], mean: Mapping[str, Tensor], scale: float = 1.0) -> Gradients:
        """The gradient of the contrast's function of weights and inputs; the graph is used up."""
        w, states = self.bound.layer_weights, self.bound.block.states
        with torch.enable_grad():
            terms = [w[s.name] * self._directional(s, difference, mean) for s in states]
            return gradients_of(-scale * torch.stack(terms).sum(), self.leaves)

    def gradient(self, state: State, cotangent: Tensor) -> Gradients:
        f, leaves = self.drives[state.name].f, list(self.leaves.values())
        if not (leaves and f.requires_grad):
            return {}
        found = torch.autograd.grad(f, leaves, cotangent, retain_graph=True, allow_unused=True)
        return {n: g for n, g in zip(self.leaves, found, strict=True) if g is not None}

    def _directional(self, state: State, difference: Mapping[str, Tensor], mean: Mapping[str, Tensor]) -> Tensor:
        """``<D_m, f_m(s* + h)> + <s_m* + h_m, J_m D>`` of one state, as a function of weights and inputs."""
        drive = self.drives[state.name]
        term = (difference[state.name] * drive.f).sum()
        back = dict(drive.pulled)
        if mean and drive.sources:
            offset = self.transpose(state, mean[state.name])
            back = {n: b + offset[n] for n, b in back.items()}
            term = term + sum((b * mean[n]).sum() for n, b in self.transpose(state, difference[state.name]).items())
        return term + sum((b * difference[n]).sum() for n, b in back.items())

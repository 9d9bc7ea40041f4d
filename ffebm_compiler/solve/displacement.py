"""The nudged phase: how far does a nudge move the equilibrium?

At strength beta the nudged energy is ``E + beta <s_out, delta>``. What is relaxed is the displacement
``d = s(beta) - s*`` itself, so that nothing is lost to cancellation however small it is:

    d_l = sigma_l(a_l* + da_l) - sigma_l(a_l*)
    w_l da_l = w_l J_l d + sum_m w_m J_lm^T d_m + (curvature of the interaction) d - beta delta_l

with the interaction linearised at the free equilibrium: exact for couplings that are linear in the states; the
winners of a pooling maximum are held; a smooth activation contributes its second derivative. Sweeps run
backward, from the outputs where the nudge enters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..ir import State
from .binding import BoundBlock, States
from .relaxation import Relaxation, Tolerance, iterate


@dataclass(frozen=True)
class LinearDrive:
    """f of one state, linearised: ``sources`` are the free states it reads, ``f`` their drive, ``pulled = J^T c`` at ``c = s_m*``."""

    sources: States
    f: Tensor
    cotangent: Tensor
    pulled: States


class Linearisation:
    """The interaction of a block around its free equilibrium: push (J d), pull (J^T d) and curvature.

    The Jacobian's transpose is recorded once by automatic differentiation, as a function of its cotangent and of
    the states; its own vector-Jacobian product is then ``J d`` (through the cotangent) and the curvature (through
    the states). The graph holds the pooling winners of the free equilibrium, and serves the contrast as well.

    Args:
        bound: the block.
        states: its free equilibrium.
        wanted: inputs and weights that the contrast will differentiate in.
    """

    def __init__(self, bound: BoundBlock, states: Mapping[str, Tensor], wanted: Sequence[str] = ()):
        self.bound, self.leaves = bound.with_leaves(wanted) if wanted else (bound.detached(), dict[str, Tensor]())
        self.states = {k: v.detach() for k, v in states.items()}
        self.drives = {s.name: self._linearise(s) for s in bound.block.states}
        activations = self._activations()
        self.differences = {s.name: s.potential.difference_from(activations[s.name]) for s in bound.block.states}
        self.tangents = {s.name: partial(s.potential.tangent, activations[s.name]) for s in bound.block.states}

    def _linearise(self, state: State) -> LinearDrive:
        with torch.enable_grad():
            sources = {n: self.states[n].detach().requires_grad_() for n in state.drive.sources}
            f = self.bound.drive(state, sources)
            cotangent = self.states[state.name].detach().clone().requires_grad_()
            pulled = torch.autograd.grad(f, list(sources.values()), cotangent, create_graph=True) if sources else ()
        return LinearDrive(sources, f, cotangent, dict(zip(sources, pulled, strict=True)))

    def _activations(self) -> States:
        """``a_l*``: the drives, and the feedback that the recorded ``J^T s_m*`` are."""
        with torch.no_grad():
            a = {n: linear.f.detach() for n, linear in self.drives.items()}
            for m, linear in self.drives.items():
                for source, pulled in linear.pulled.items():
                    a[source] = a[source] + self.bound.reverse_gain(source, m) * pulled.detach()
        return a

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


def displace(
    linear: Linearisation, errors: Mapping[str, Tensor], beta: float, tolerance: Tolerance, tangent: bool = False
) -> tuple[States, Relaxation]:
    """The displacement of the equilibrium under the nudge ``beta <s_out, errors>``.

    Args:
        linear: the block at its free equilibrium.
        errors: the loss's gradient in each output state.
        beta: the nudge strength; with ``tangent`` the displacement is linear in it.
        tolerance: when to stop, relative to each state's own displacement.
        tangent: with sigma' instead of sigma's difference: the limit of a vanishing nudge.
    """
    bound, block = linear.bound, linear.bound.block
    w = bound.layer_weights
    d: States = {}

    def sweep() -> dict[str, tuple[Tensor, Tensor]]:
        changes: dict[str, tuple[Tensor, Tensor]] = {}
        pulled: dict[str, list[Tensor]] = {s.name: [] for s in block.states}
        pushes = {s.name: linear.push(s, d) for s in block.states if not s.drive.is_linear}
        for state, (_, curvature) in ((block.state(n), p) for n, p in pushes.items()):
            for source, c in curvature.items():
                pulled[source].append(w[state.name] / w[source] * c)
        for state in reversed(block.states):
            n = state.name
            push = pushes[n][0] if n in pushes else linear.push(state, d)[0]
            parts = [*([] if push is None else [push]), *pulled[n]]
            if n in errors:
                parts.append(errors[n] * (-beta / w[n]))
            if not parts:
                new = torch.zeros_like(linear.states[n])
            else:
                da = sum(parts[1:], start=parts[0])
                new = (linear.tangents if tangent else linear.differences)[n](da)
            changes[n] = (new, new - d[n] if n in d else new)
            d[n] = new
            for source, back in linear.pull(state, new).items():
                pulled[source].append(w[n] / w[source] * back)
        return changes

    with torch.no_grad():
        if not block.has_feedback:
            sweep()
            return d, Relaxation(block.name, 1, 0.0, True)
        dtype = next(iter(linear.states.values())).dtype
        record = iterate(block.name, sweep, tolerance.nudged(dtype), tolerance.max_sweeps)
    return d, record

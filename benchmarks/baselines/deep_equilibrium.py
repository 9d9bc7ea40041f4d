"""Implicit differentiation by a library: torchdeq (Geng & Kolter 2023, https://github.com/locuslab/torchdeq, MIT
licence).

It is given the sweep as the map whose fixed point is sought, and finds that and its adjoint with solvers of its own.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.baselines import sweeps
from ffebm_compiler.ir import EnergyBlock
from ffebm_compiler.solve import BoundBlock, States

REMEDY = "torchdeq is not installed: pip install -e '.[benchmarks]'"


def installed() -> bool:
    return importlib.util.find_spec("torchdeq") is not None


@dataclass(frozen=True)
class DeepEquilibrium:
    """An operator for :func:`benchmarks.baselines.chain.run`.

    Attributes:
        tolerance: of the fixed point; that of the adjoint is ``adjoint_tolerance``. Both relative, as the library
            counts it.
        iterations: the most that each may take.
        solver, adjoint_solver: the library's names for them.
        seen: called with each block and its free states.
    """

    tolerance: float = 1e-4
    adjoint_tolerance: float = 1e-2
    iterations: int = 200
    solver: str = "anderson"
    adjoint_solver: str = "fixed_point_iter"
    seen: Callable[[EnergyBlock, States], None] = lambda block, states: None

    def __call__(self, bound: BoundBlock) -> States:
        with torch.set_grad_enabled(not bound.block.has_feedback):
            start = bound.feedforward()
        if not bound.block.has_feedback:
            self.seen(bound.block, {n: v.detach() for n, v in start.items()})
            return start
        names = list(start)

        def swept(*states: Tensor) -> tuple[Tensor, ...]:
            differentiable = torch.is_grad_enabled()
            found = sweeps.sweep(bound, dict(zip(names, states, strict=True)), differentiable=differentiable)
            return tuple(found[n] for n in names)

        trajectory, _ = self._layer()(swept, [start[n] for n in names])
        states = dict(zip(names, trajectory[-1], strict=True))
        self.seen(bound.block, {n: v.detach() for n, v in states.items()})
        return states

    def _layer(self) -> Any:
        import torchdeq

        return torchdeq.get_deq(
            f_solver=self.solver,
            b_solver=self.adjoint_solver,
            f_tol=self.tolerance,
            b_tol=self.adjoint_tolerance,
            f_stop_mode="rel",
            b_stop_mode="rel",
            f_max_iter=self.iterations,
            b_max_iter=self.iterations,
            ift=True,
        ).train()

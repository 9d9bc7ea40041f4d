"""How good a gradient is: against the exact one of the same free energy, in float64, at the same equilibrium.

Blocks with pooling winners inside have several equilibria under strong feedback, and kinks where two values tie; a
gradient is only right at its own. So the exact one starts from the states that the contender ended at, holds the
winners that it held (or, where it held none, those of its states), relaxes on to 1e-10 in float64 and differentiates
the equilibrium implicitly.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import ffebm_compiler as fc
from benchmarks.baselines import chain
from benchmarks.speed.subjects import Batch
from ffebm_compiler.compare import compare_parameters
from ffebm_compiler.estimate import FreePhase
from ffebm_compiler.ir import EnergyBlock
from ffebm_compiler.model.converted_module import runner_of
from ffebm_compiler.solve import BoundBlock, States, Tolerance, relax
from ffebm_compiler.train import run_block

Gradients = dict[str, Tensor]


@dataclass(frozen=True)
class Ended:
    """What a block ended at: its free states, and the winners that were held, if any."""

    states: States
    winners: Mapping[str, Tensor] = field(default_factory=dict)


Settled = dict[str, Ended]
"""By the name of the block."""

TIGHT = Tolerance(1e-10, 5000)
SEED = 0
"""Of the random numbers that the digital parts draw (dropout), alike for all."""


@dataclass(frozen=True)
class Quality:
    """A gradient beside the exact one.

    Attributes:
        cosine, error: of all parameters together: cosine, and norm of the difference relative to the exact norm.
        worst, at: the lowest cosine of a single parameter, and its name.
    """

    cosine: float
    error: float
    worst: float
    at: str

    @staticmethod
    def of(estimate: Gradients, exact: Gradients) -> Quality:
        compared = [p for p in compare_parameters(estimate, exact) if not p.exact_is_zero]
        lowest = min(compared, key=lambda p: p.cosine if math.isfinite(p.cosine) else -2.0)
        a, b = (torch.cat([g[p.name].reshape(-1) for p in compared]) for g in (estimate, exact))
        scale = max(float(a.norm() * b.norm()), 1e-300)
        return Quality(float(a @ b) / scale, float((a - b).norm() / b.norm()), lowest.cosine, lowest.name)

    def columns(self) -> dict[str, Any]:
        return {"cosine": self.cosine, "error": self.error, "worst cosine": self.worst, "worst at": self.at}


def executor(model: fc.FFEBM, batch: Batch) -> tuple[Gradients, Settled]:
    """The gradient of ``loss.backward()``, and what its blocks settled to."""
    own, phases = copy.deepcopy(model), list[FreePhase]()
    runner_of(own).block_gains.use_those_of(runner_of(own).block_gains)  # none is refreshed

    def operator(block: EnergyBlock, values: Mapping[str, Any]) -> States:
        return run_block(runner_of(own).block_call(block, values, phases.append))

    found = _chained(own, batch, operator)
    return found, {p.bound.block.name: Ended(dict(p.states), dict(p.winners)) for p in phases}


def baseline(
    make: Callable[[Callable[[Any, States], None]], chain.Operator], model: fc.FFEBM, batch: Batch
) -> tuple[Gradients, Settled]:
    """The same of an operator, made with a listener for its free states."""
    settled: Settled = {}
    own = copy.deepcopy(model)
    operator = make(lambda block, states: settled.update({block.name: Ended(dict(states))}))
    return _chained(own, batch, chain.settled_by(own, operator)), settled


def exact(model: fc.FFEBM, batch: Batch, settled: Settled) -> Gradients:
    """The exact gradient at the equilibrium that continues ``settled``, with the model's reverse gains."""
    wide = copy.deepcopy(model).double()
    runner_of(wide).block_gains.use_those_of(runner_of(model).block_gains)
    starts = {block: Ended({n: s.double() for n, s in e.states.items()}, e.winners) for block, e in settled.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fc.ConvergenceWarning)
        return _chained(
            wide, batch.double(), chain.settled_by(wide, lambda bound: _exactly(bound, starts[bound.block.name]))
        )


def judged(model: fc.FFEBM, batch: Batch, found: tuple[Gradients, Settled]) -> Quality:
    estimate, settled = found
    return Quality.of(estimate, exact(model, batch, settled))


def _chained(model: fc.FFEBM, batch: Batch, settle: chain.Settle) -> Gradients:
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        model.zero_grad(set_to_none=True)
        batch.loss(chain.run(model, batch.x, settle)).backward()
    return {
        n: (torch.zeros_like(p) if p.grad is None else p.grad).double()
        for n, p in model.named_parameters()
        if p.requires_grad
    }


def _exactly(bound: BoundBlock, start: Ended) -> States:
    tensors = {
        k: v for k, v in {**bound.inputs, **bound.weights}.items() if isinstance(v, Tensor) and v.is_floating_point()
    }
    outputs = _Exact.apply(bound, start, tuple(tensors), *tensors.values())
    return dict(zip(bound.block.outputs, outputs, strict=True))


class _Exact(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, bound: BoundBlock, start: Ended, names: tuple[str, ...], *tensors: Tensor) -> Any:
        detached, _ = bound.with_leaves(())
        held = detached.holding(start.winners or detached.winners(start.states))
        found = relax(held, TIGHT, start.states if bound.block.has_feedback else None)
        ctx.phase, ctx.names, ctx.outputs = (
            FreePhase(held, found.states, found.relaxation, TIGHT),
            names,
            bound.block.outputs,
        )
        return tuple(found.states[n].clone() for n in bound.block.outputs)

    @staticmethod
    def backward(ctx: Any, *errors: Tensor | None) -> Any:
        wanted = [n for n, needed in zip(ctx.names, ctx.needs_input_grad[3:], strict=True) if needed]
        arrived = {n: e for n, e in zip(ctx.outputs, errors, strict=True) if e is not None}
        found = fc.Implicit()(ctx.phase, arrived, wanted).gradients
        return (None, None, None, *(found.get(n) for n in ctx.names))

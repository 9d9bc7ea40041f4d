"""Exact gradients that share no code with the library's solvers and estimators.

:class:`Dense` takes nothing but the value of the printed energy. At the equilibrium s* of E(s, u) (u: weights and
inputs), with the states at a bound clamped and simplex states constrained to sum to one, the errors delta at the states
give

    v = H^-1 delta   on the free coordinates,   dL/du = - d/du <v, dE/ds(s*, u)>,   H = d2E/ds2.

A state at a bound where dE/ds vanishes is free or clamped by convention, which is the activation's under automatic
differentiation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from ffebm_compiler.estimate import Estimate, FreePhase
from ffebm_compiler.ir import Energy, EnergyBlock, Potential


class Dense:
    """An estimator that solves the implicit equation of the equilibrium with dense matrices: for small blocks, in
    float64.
    """

    def __call__(self, free: FreePhase, errors: Mapping[str, Tensor], wanted: Sequence[str]) -> Estimate:
        bound, block = free.bound, free.bound.block
        energy = Energy(block, {})
        leaves = {
            n: (bound.inputs[n] if n in bound.inputs else bound.weights[n]).detach().requires_grad_() for n in wanted
        }
        inputs = {k: leaves.get(k, _detached(v)) for k, v in bound.inputs.items()}
        weights = {k: leaves.get(k, v.detach()) for k, v in bound.weights.items()}
        names = list(free.states)
        sizes = [free.states[n].numel() for n in names]
        shapes = [free.states[n].shape for n in names]

        def value(flat: Tensor) -> Tensor:
            parts = dict(zip(names, (p.view(s) for p, s in zip(flat.split(sizes), shapes, strict=True)), strict=True))
            return energy.value(parts, inputs, weights, bound.layer_weights)

        flat = torch.cat([free.states[n].detach().reshape(-1) for n in names])
        delta = torch.cat([errors.get(n, torch.zeros_like(free.states[n])).reshape(-1) for n in names])
        with torch.enable_grad():
            leaf = flat.clone().requires_grad_()
            (slope,) = torch.autograd.grad(value(leaf), leaf, create_graph=True)
            response = _solve(
                torch.autograd.functional.hessian(value, flat),
                _free(block, flat, slope.detach(), sizes),
                _constraints(block, free.states),
                delta,
            )
            scalar = -(response * torch.where(response == 0, torch.zeros_like(slope), slope)).sum()
            found = (
                torch.autograd.grad(scalar, list(leaves.values()), allow_unused=True)
                if scalar.requires_grad and leaves
                else [None] * len(leaves)
            )
        return Estimate(
            {n: torch.zeros_like(v) if g is None else g for (n, v), g in zip(leaves.items(), found, strict=True)}
        )


def _detached(value: object) -> object:
    return value.detach() if isinstance(value, Tensor) else value


def _free(block: EnergyBlock, flat: Tensor, slope: Tensor, sizes: Sequence[int]) -> Tensor:
    """The coordinates off the bounds of their domain (a smooth activation never gets there), and those that touch a
    closed one.
    """
    parts = []
    for state, s, g in zip(block.states, flat.split(list(sizes)), slope.split(list(sizes)), strict=True):
        p = state.potential
        touching = (g == 0) & ((s == p.lower) | (s == p.upper))
        parts.append((s > p.lower) & (s < p.upper) | touching & _is_closed(p))
    return torch.cat(parts)


def _is_closed(p: Potential) -> bool:
    """Whether the activation keeps its slope on a bound: its own autograd tells, on pre-activations that are their own
    images.
    """
    bounds = torch.tensor([b for b in (p.lower, p.upper) if math.isfinite(b)], dtype=torch.float64, requires_grad=True)
    if p.simplex is not None or not bounds.numel():
        return False
    image = p.activation(bounds)
    (slopes,) = torch.autograd.grad(image.sum(), bounds)
    return bool(((image == bounds) & (slopes == 1)).all())


def _constraints(block: EnergyBlock, states: Mapping[str, Tensor]) -> Tensor:
    """One row for each simplex: the sum of its coordinates."""
    total = sum(v.numel() for v in states.values())
    rows, start = [], 0
    for state in block.states:
        s = states[state.name]
        index = torch.arange(s.numel()).view(s.shape) + start
        start += s.numel()
        if (dim := state.potential.simplex) is not None:
            for group in index.movedim(dim, -1).reshape(-1, s.shape[dim]):
                rows.append(torch.zeros(total, dtype=s.dtype).index_fill(0, group, 1.0))
    return torch.stack(rows) if rows else torch.zeros(0, total, dtype=torch.float64)


def _solve(hessian: Tensor, free: Tensor, constraints: Tensor, delta: Tensor) -> Tensor:
    """H v = delta on the free coordinates with A v = 0, by the bordered system."""
    A = constraints[:, free]
    A = A[A.abs().sum(1) > 1]
    H = hessian[free][:, free]
    system = torch.cat([torch.cat([H, A.T], 1), torch.cat([A, A.new_zeros(len(A), len(A))], 1)])
    solution = torch.linalg.solve(system, torch.cat([delta[free], A.new_zeros(len(A))]))
    return torch.zeros_like(delta).masked_scatter(free, solution[: int(free.sum())])


def finite_difference(
    loss: Callable[[], Tensor], parameter: nn.Parameter, direction: Tensor, step: float = 1e-5
) -> float:
    """The slope of the loss along a direction, by central differences of relaxed equilibria."""
    values = []
    with torch.no_grad():
        for side in (1, -1):
            parameter.add_(side * step * direction)
            values.append(float(loss()))
            parameter.sub_(side * step * direction)
    return (values[0] - values[1]) / (2 * step)

"""Plain sweeps of a block: every drive computed anew, the feedback by automatic differentiation of the drives it goes
through.

States that share no coupling may be updated together. In a chain these are the even and the odd ones,

    s_l <- sigma_l( f_l(s_<l, x) + sum_m (w_m / w_l) J_lm^T s_m - beta delta_l / w_l ),

and a sweep is a half-sweep of each; in any other graph a sweep is one part a colour.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ffebm_compiler.ir import EnergyBlock
from ffebm_compiler.solve import BoundBlock, States


def colours(block: EnergyBlock) -> tuple[tuple[str, ...], ...]:
    """The states in groups without a coupling inside, greedily in forward order: even and odd ones of a chain."""
    neighbours: dict[str, set[str]] = {s.name: set() for s in block.states}
    for source, target in block.edges:
        neighbours[source].add(target)
        neighbours[target].add(source)
    colour: dict[str, int] = {}
    for name in neighbours:
        taken = {colour[n] for n in neighbours[name] if n in colour}
        colour[name] = next(c for c in range(len(neighbours)) if c not in taken)
    return tuple(tuple(n for n in colour if colour[n] == c) for c in range(max(colour.values(), default=-1) + 1))


def zeros(bound: BoundBlock) -> States:
    """Initial states of zero. Their shapes are those of a feedforward pass."""
    with torch.no_grad():
        return {n: torch.zeros_like(v) for n, v in bound.feedforward().items()}


def part(
    bound: BoundBlock,
    states: States,
    names: Sequence[str],
    nudge: Mapping[str, Tensor] | None = None,
    differentiable: bool = False,
) -> States:
    """The states after those of one colour have been updated.

    Args:
        nudge: ``beta delta_l`` by output state.
        differentiable: whether the new states keep their history, through the feedback too.
    """
    block, w = bound.block, bound.layer_weights
    with torch.enable_grad():
        read = {n: v if differentiable and v.requires_grad else v.detach() for n, v in states.items()}
        for n in names:
            read[n] = read[n].view_as(read[n]) if read[n].requires_grad else read[n].requires_grad_()
        consumers = [s for s in block.states if any(n in s.drive.sources for n in names)]
        drives = {s.name: bound.drive(s, read) for s in consumers}
        back = _pull(bound, read, names, drives, differentiable)
    with torch.set_grad_enabled(differentiable):
        new = dict(states)
        for n in names:
            a = bound.drive(block.state(n), read)
            if back.get(n) is not None:
                a = a + back[n] / w[n]
            if nudge is not None and n in nudge:
                a = a - nudge[n] / w[n]
            new[n] = block.state(n).potential.activation(a)
    return new


def _pull(
    bound: BoundBlock, read: States, names: Sequence[str], drives: Mapping[str, Tensor], differentiable: bool
) -> dict[str, Tensor]:
    """``sum_m w_m J_lm^T s_m`` into each of the named states."""
    if not drives:
        return {}
    cotangents = [bound.layer_weights[m] * read[m] for m in drives]
    found = torch.autograd.grad(
        list(drives.values()),
        [read[n] for n in names],
        cotangents if differentiable else [c.detach() for c in cotangents],
        create_graph=differentiable,
        allow_unused=True,
    )
    return {n: g for n, g in zip(names, found, strict=True) if g is not None}


def sweep(
    bound: BoundBlock, states: States, nudge: Mapping[str, Tensor] | None = None, differentiable: bool = False
) -> States:
    """One part a colour, one after the other."""
    for names in colours(bound.block):
        states = part(bound, states, names, nudge, differentiable)
    return states

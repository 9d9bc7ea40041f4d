"""A chip at rest: its devices as they are, without what changes from read to read, each block at its equilibrium.

That is what a circuit simulator can be given, and what settling times are measured on.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from ...chip.emulate import Chip, Drawing
from ...errors import InputError, Problem
from ...estimate import FreePhase
from ...ir import EnergyBlock
from ...model.verification import untouched
from ...solve.norm_sample import one_sample
from ...train import BlockCall, free_phase, run_digital

if TYPE_CHECKING:
    from .emulated import AnalogFFEBM

T = TypeVar("T")


@contextlib.contextmanager
def unobserved(chip: Chip) -> Iterator[None]:
    """What is read in a ``with`` leaves no trace: neither in the course of the noise nor in the counts of the converters."""
    noise, counts = chip.reads.get_state(), copy.deepcopy(chip.saturation)
    try:
        yield
    finally:
        chip.reads.set_state(noise)
        chip.saturation = counts


@contextlib.contextmanager
def noiseless(chip: Chip) -> Iterator[None]:
    """The chip without noise, waiting for the equilibrium, for the length of a ``with``."""
    before = chip.hardware
    chip.hardware = replace(before, read_noise=0.0, temperature=0.0, settling_time=None)
    try:
        with unobserved(chip):
            yield
    finally:
        chip.hardware = before


def look_at(
    model: AnalogFFEBM,
    look: Callable[[BlockCall, FreePhase], T],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> list[T]:
    """What ``look`` sees of each block in turn, in one pass without noise."""
    found: list[T] = []
    with torch.no_grad(), noiseless(model.chip), untouched(model.network):
        values = model.bind_inputs(args, kwargs)
        for step in model.program:
            if not isinstance(step, EnergyBlock):
                values.update(run_digital(step, model.network, values))
                continue
            call = model.block_call(step, values)
            phase = free_phase(call)
            values.update({n: call.read(n, phase.states[n]) for n in step.outputs})
            found.append(look(call, phase))
    model.forget_run()
    return found


def drawing(
    chip: Chip, labels: Mapping[str, str], call: BlockCall, phase: FreePhase, nudge: Mapping[str, Tensor]
) -> Drawing:
    """What the circuit of a block is drawn from, on the first sample of a call.

    Raises:
        InputError: no dimension counts samples.
    """
    sample = one_sample(phase.bound.detached())
    if not all(s.dim() > 1 and s.shape[0] == 1 for s in sample.feedforward().values()):
        raise InputError(
            Problem(call.block.name, "has no first sample: dimension 0 of its values counts none", "Give a batch.")
        )
    states = {n: s[:1] for n, s in phase.states.items()}
    wrong = [n for n in states if n in nudge and nudge[n].numel() != states[n].numel()]
    if wrong:
        raise InputError(
            Problem(
                f"nudge of {n!r}",
                f"has {nudge[n].numel()} currents, the state {states[n].numel()} neurons",
                f"Give one for each neuron of one sample: {tuple(states[n].shape[1:])}.",
            )
            for n in wrong
        )
    winners = {n: w[:1] for n, w in phase.bound.winners(phase.states).items()}
    exact = replace(sample, inputs=_in_double(sample.inputs), weights=_in_double(sample.weights), fixed={})
    held = exact.holding(_in_double(winners))
    return Drawing(chip, held, _in_double(states), labels, {n: nudge[n] for n in states if n in nudge})


def _in_double(values: Mapping[str, Any]) -> dict[str, Any]:
    """What is linear is found by differences, which half precision can't tell from rounding."""
    return {n: v.double() if isinstance(v, Tensor) and v.is_floating_point() else v for n, v in values.items()}

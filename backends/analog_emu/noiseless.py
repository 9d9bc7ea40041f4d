"""A chip without noise: its devices as they are, without what changes from read to read, each block at its equilibrium.

That is what a circuit simulator can be given, and what settling times are measured on.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from ...chip.emulate import Chip
from ...estimate import FreePhase
from ...ir import EnergyBlock
from ...model.left_as_it_was import untouched
from ...model.runner import Runner
from ...train import BlockCall, free_phase
from ...train.program_pass import Values, run_program

T = TypeVar("T")


@contextlib.contextmanager
def unobserved(chip: Chip) -> Iterator[None]:
    """Reads in a ``with`` leave no trace: they change neither the course of the noise nor the converters' counts."""
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


def each_block(
    model: Runner,
    chip: Chip,
    look: Callable[[BlockCall, FreePhase], T],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> list[T]:
    """What ``look`` sees of each block of a model on a chip in turn, in one pass without noise."""
    seen: list[T] = []

    def settle(block: EnergyBlock, values: Values) -> dict[str, Tensor]:
        call = model.block_call(block, values)
        phase = free_phase(call)
        seen.append(look(call, phase))
        return {n: call.read(n, phase.states[n]) for n in block.outputs}

    with torch.no_grad(), noiseless(chip), untouched(model.network):
        run_program(model.program, model.network, model.bind_inputs(args, kwargs), settle)
    model.forget_run()
    return seen

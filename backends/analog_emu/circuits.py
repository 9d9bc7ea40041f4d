"""The blocks of a model on a chip as circuits, and as netlists for SPICE."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ...chip.emulate import Chip, Drawing, OnChip, settling_times
from ...chip.hardware import Circuit
from ...chip.spice.folder import write_netlists
from ...chip.spice.testbench import Bench
from ...errors import InputError, OptionError, Problem, close_matches
from ...estimate import FreePhase
from ...model.runner import Runner
from ...solve.norm_sample import one_sample
from ...train import BlockCall, out_of_sight
from .noiseless import each_block
from .substrate import ChipSubstrate

Arguments = tuple[Any, ...]
Keywords = Mapping[str, Any]


def circuits_of(
    model: Runner, chip: Chip, args: Arguments, kwargs: Keywords, nudge: Mapping[str, Tensor]
) -> tuple[Circuit, ...]:
    """Each block as an explicit circuit; see :meth:`ffebm_compiler.AnalogFFEBM.circuits`."""
    states = [s.name for b in model.program.energy_blocks for s in b.states]
    unknown = [n for n in nudge if n not in states]
    OptionError.raise_if(Problem(f"nudge of {n!r}", "is of no state", close_matches(n, states)) for n in unknown)
    return tuple(d.circuit() for d, _ in _drawings(model, chip, args, kwargs, nudge))


def write_spice(
    model: Runner,
    on: ChipSubstrate,
    directory: str | os.PathLike[str],
    args: Arguments,
    kwargs: Keywords,
    bench: Bench | None = None,
    blocks: Sequence[str] | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Writes one SPICE netlist for each block; see :meth:`ffebm_compiler.FFEBM.export_spice`."""
    if not args and not kwargs:
        args, kwargs = _example(on)
    wanted = _named(model, blocks)
    drawn = _drawings(model, on.chip, args, kwargs, {})
    drawn = [(d, states) for d, states in drawn if d.bound.block.name in wanted]
    circuits = {d.bound.block.name: d.circuit() for d, _ in drawn}
    expected = {d.bound.block.name: {n: s[0] for n, s in states.items()} for d, states in drawn}
    return write_netlists(circuits, directory, expected, bench, overwrite)


def settling_times_of(
    model: Runner, chip: Chip, args: Arguments, kwargs: Keywords, tolerance: float, duration: float
) -> dict[str, Tensor]:
    """How long each block takes to settle; see :meth:`ffebm_compiler.AnalogFFEBM.settling_times`."""
    asked = (("tolerance", tolerance), ("duration", duration))
    wrong = [(n, v) for n, v in asked if not 0 < v < float("inf")]
    OptionError.raise_if(Problem(f"option {n}", f"is {v}", "Give a positive number.") for n, v in wrong)

    def times(call: BlockCall, phase: FreePhase) -> Tensor:
        assert isinstance(call.estimator, OnChip)
        phases, state = call.estimator.phases, call.estimator.sample.phase()
        with out_of_sight():
            return settling_times(phases, call.bound, state, tolerance, duration)

    names = [b.name for b in model.program.energy_blocks]
    return dict(zip(names, each_block(model, chip, times, args, kwargs), strict=True))


def _drawings(
    model: Runner, chip: Chip, args: Arguments, kwargs: Keywords, nudge: Mapping[str, Tensor]
) -> list[tuple[Drawing, Mapping[str, Tensor]]]:
    """What the circuits are drawn from, and the states that the chip settles to without noise."""

    def draw(call: BlockCall, phase: FreePhase) -> tuple[Drawing, Mapping[str, Tensor]]:
        return _drawing(chip, model.program.labels, call, phase, nudge), phase.states

    return each_block(model, chip, draw, args, kwargs)


def _drawing(
    chip: Chip, labels: Mapping[str, str], call: BlockCall, phase: FreePhase, nudge: Mapping[str, Tensor]
) -> Drawing:
    """What the circuit of a block is drawn from, on the first sample of a call.

    Raises:
        InputError: no dimension counts samples.
    """
    sample = one_sample(phase.bound.detached())
    if not all(s.dim() > 1 and s.shape[0] == 1 for s in sample.feedforward().values()):
        raise InputError.at(
            call.block.name, "has no first sample: dimension 0 of its values counts none", "Give a batch."
        )
    states = {n: s[:1] for n, s in phase.states.items()}
    wrong = [n for n in states if n in nudge and nudge[n].numel() != states[n].numel()]
    InputError.raise_if(
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


def _named(model: Runner, blocks: Sequence[str] | None) -> list[str]:
    known = [b.name for b in model.program.energy_blocks]
    if isinstance(blocks, str):
        raise OptionError.at("option blocks", f"is {blocks!r}", f"Give a list of names: [{blocks!r}].")
    unknown = [n for n in blocks or () if n not in known]
    OptionError.raise_if(Problem("option blocks", f"names {n!r}", close_matches(n, known)) for n in unknown)
    return known if blocks is None else list(blocks)


def _example(on: ChipSubstrate) -> tuple[Arguments, dict[str, Any]]:
    if on.example is None:
        raise InputError.at(
            "export_spice", "has no input to draw the circuits on", "Give one, or call calibrate(x) first."
        )
    return on.example

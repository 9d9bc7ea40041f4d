"""Counts the work that a program does on one sample, in one run of it.

A layer's matrix is unrolled as in :mod:`ffebm_compiler.chip.hardware.mapping`: a convolution has the rows of one
receptive field, the columns of its output channels, and uses the array once a position. Pooling, additions, activations
and held norms inside a block are done by the circuit between arrays and are not counted; biases are currents.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from operator import attrgetter
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ...errors import InputError, Problem
from ...ir import EnergyBlock, Program, Term, Weight
from ...rules.weighted import TRANSPOSED_CONVOLUTIONS
from ..hardware.mapping import array_of
from .digital import RunDigital, digital_part
from .work import AnalogPart, DigitalPart, Layer, Signal, Work


class Relaxed(Protocol):
    """How a relaxation ended."""

    @property
    def sweeps(self) -> int: ...
    @property
    def residual(self) -> float: ...


class Settled(Protocol):
    """What a block settled to."""

    @property
    def block(self) -> str: ...
    @property
    def inputs(self) -> Mapping[str, Any]: ...
    @property
    def states(self) -> Mapping[str, Tensor]: ...
    @property
    def relaxation(self) -> Relaxed: ...


def count(
    program: Program,
    network: nn.Module,
    values: Mapping[str, Any],
    settled: Iterable[Settled],
    run_digital: RunDigital,
    samples: int = 1,
) -> Work:
    """The work of a program, from one run of it.

    Args:
        program: digital parts and energy-based blocks.
        network: what holds the weights; a copy of it is run.
        values: the program's inputs, by name.
        settled: what each energy-based block settled to in the run.
        run_digital: runs a digital part.
        samples: in the batch; sizes are divided by it.

    Raises:
        InputError: a block of the program has not settled in this run.
    """
    known, network = dict(values), copy.deepcopy(network)  # running statistics stay as they are
    results = {s.block: s for s in settled}
    _check(program, results, samples)
    parts: list[AnalogPart | DigitalPart] = []
    learned = False
    with torch.no_grad(), torch.random.fork_rng():
        for step in program:
            if isinstance(step, EnergyBlock):
                result = results[step.name]
                parts.append(_analog(step, program, network, result, samples, learned))
                known.update(result.states)
                learned = True
            else:
                part, outputs = digital_part(step, network, known, run_digital, samples)
                parts.append(part)
                known.update(outputs)
                learned = learned or part.parameters > 0
    return Work(tuple(parts))


def _check(program: Program, results: Mapping[str, Settled], samples: int) -> None:
    missing = [b.name for b in program.energy_blocks if b.name not in results]
    problems = [
        Problem(f"block {name}", "has no equilibrium in this run", "Give what every block settled to.")
        for name in missing
    ]
    if samples < 1:
        problems.append(Problem("option samples", f"is {samples}", "Give the size of the batch."))
    InputError.raise_if(problems)


# --- analog ---------------------------------------------------------------------------------------------------


def _analog(
    block: EnergyBlock, program: Program, network: nn.Module, result: Settled, samples: int, learned: bool
) -> AnalogPart:
    values, layers = _layers(block, network, result, samples)
    read = {source for source, _ in block.edges}

    def signal(name: str, error: bool = False) -> Signal:
        value = values[name]
        drive = [t.origin.label for s in block.states if s.name == name for t in s.drive.layers]
        size = math.ceil(value.numel() / samples)
        return Signal(program.labels.get(name, name), size, activity(value), error, tuple(drive), name in read)

    return AnalogPart(
        name=block.name,
        layers=layers,
        states=tuple(signal(s.name) for s in block.states),
        inputs=tuple(
            signal(n, error=learned and n not in program.inputs) for n in block.inputs if isinstance(values[n], Tensor)
        ),
        outputs=tuple(signal(n) for n in block.outputs),
        sweeps=result.relaxation.sweeps,
        residual=result.relaxation.residual,
    )


def _layers(
    block: EnergyBlock, network: nn.Module, result: Settled, samples: int
) -> tuple[dict[str, Any], tuple[Layer, ...]]:
    """The value of every term at the equilibrium, and the weighted terms as matrices."""
    tensors = {p: attrgetter(p)(network).detach() for p in block.weights}
    values: dict[str, Any] = {**result.inputs, **result.states}
    layers: dict[str, Layer] = {}
    varying = {s.name for s in block.states}
    for state in block.states:
        for term in state.drive.terms:
            if term.name not in values:
                values[term.name] = term.evaluate(values, tensors)
            reads_state = any(o in varying for o in term.operands if isinstance(o, str))
            if reads_state:
                varying.add(term.name)
            if term.operation.weighted and term.name not in layers:
                target = activity(result.states[state.name]) if reads_state else None
                layers[term.name] = layer_of(term, values, tensors, samples, reads_state, target)
    return values, tuple(layers.values())


def layer_of(
    term: Term,
    values: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    samples: int,
    feedback: bool = False,
    target: float | None = None,
) -> Layer:
    """The matrices of a weighted term whose operand and result are among ``values``."""
    operand = next(values[o] for o in term.operands if isinstance(o, str))
    weight = next(weights[o.path] for o in term.operands if isinstance(o, Weight))
    groups, rows, columns = _matrix(term, weight)
    positions = max(1, values[term.name].numel() // (groups * columns * samples))
    return Layer(
        label=term.origin.label,
        groups=groups,
        rows=rows,
        columns=columns,
        positions=positions,
        filled=_filled(term, operand, weight, groups * rows * columns * positions * samples),
        feedback=feedback,
        source=activity(operand),
        target=target,
        magnitude=_mean_over_largest(weight),
    )


def _matrix(term: Term, weight: Tensor) -> tuple[int, int, int]:
    """(groups, rows, columns); what a rule of the user's calls weighted has a row for each value behind an output."""
    if (array := array_of(term.operation.kind)) is not None:
        groups, rows, columns = array.matrix(weight, term.operation.options).shape
        return groups, rows, columns
    return 1, math.prod(weight.shape[1:]), weight.shape[0]


def _filled(term: Term, operand: Tensor, weight: Tensor, products: int) -> float:
    """A transposed convolution uses each input value once with each of its weights: the rest are inserted zeros."""
    if term.operation.kind not in TRANSPOSED_CONVOLUTIONS.values():
        return 1.0
    return min(1.0, operand.numel() * math.prod(weight.shape[1:]) / max(1, products))


def activity(value: Tensor) -> float | None:
    """rms over the largest magnitude; None of an empty tensor, one that is not of numbers, or zeros."""
    if not value.is_floating_point() or value.numel() == 0:
        return None
    largest = float(value.detach().abs().amax())
    if not 0 < largest < math.inf:
        return None
    return float((value.detach().double() / largest).square().mean().sqrt())


def _mean_over_largest(weight: Tensor) -> float | None:
    largest = float(weight.detach().abs().amax()) if weight.numel() else 0.0
    return float(weight.detach().double().abs().mean()) / largest if 0 < largest < math.inf else None

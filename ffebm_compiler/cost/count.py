"""How much work a program does on one sample: what an estimate multiplies its constants with.

    multiply-accumulates of a layer = groups * rows * columns * positions * filled

A layer's matrix is unrolled as in :mod:`ffebm_compiler.hardware.mapping`: a convolution has the rows of one receptive field, the columns
of its output channels, and uses the array once a position. Pooling, additions, activations and held norms inside a block are done by
the circuit between arrays and are not counted; biases are currents.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from ..errors import InputError, Problem
from ..hardware.mapping import MAPPABLE, matrix_of
from ..ir import DigitalBlock, EnergyBlock, Program, Term, Weight

RunDigital = Callable[[DigitalBlock, nn.Module, Mapping[str, Any]], dict[str, Any]]
"""Runs a digital part: (block, network, values) -> its outputs by name."""


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


@dataclass(frozen=True)
class Signal:
    """Values that one sample has at one place.

    Attributes:
        label: the user's name.
        size: how many.
        activity: rms over the largest magnitude; None where it was not measured.
        error: an input whose error current is read, because something before it learns.
        layers: of a state, the labels of the layers in its drive.
        read: of a state, whether another state of the block reads it.
    """

    label: str
    size: int
    activity: float | None = None
    error: bool = False
    layers: tuple[str, ...] = ()
    read: bool = False


@dataclass(frozen=True)
class Layer:
    """One weighted layer as matrices.

    Attributes:
        label: the user's name.
        groups, rows, columns: that many matrices of this shape.
        positions: uses of the matrices in one pass.
        filled: part of the products whose input is a value; the rest are zeros that a transposed convolution inserts.
        feedback: whether it reads a state, so that feedback passes through it.
        source, target: activity of what drives its rows, and of the state that drives its columns in the feedback.
        magnitude: mean magnitude of a weight over the largest; None where it was not measured.
    """

    label: str
    groups: int
    rows: int
    columns: int
    positions: int = 1
    filled: float = 1.0
    feedback: bool = False
    source: float | None = None
    target: float | None = None
    magnitude: float | None = None

    @property
    def weights(self) -> int:
        return self.groups * self.rows * self.columns

    @property
    def macs(self) -> int:
        return round(self.weights * self.positions * self.filled)


@dataclass(frozen=True)
class AnalogPart:
    """An energy-based block on one sample.

    Attributes:
        name: of the block.
        layers, states, inputs, outputs: what it is made of.
        sweeps, residual: how it relaxed.
    """

    name: str
    layers: tuple[Layer, ...]
    states: tuple[Signal, ...]
    inputs: tuple[Signal, ...]
    outputs: tuple[Signal, ...]
    sweeps: int = 1
    residual: float = 0.0

    @property
    def macs(self) -> int:
        return sum(layer.macs for layer in self.layers)

    def sweeps_to(self, tolerance: float) -> float:
        """Sweeps to this residual, had it fallen by the same factor in each; at least one. All of them where it did not fall."""
        if self.residual <= 0:
            return 1.0
        if not self.residual < 1:
            return float(self.sweeps)
        return max(1.0, self.sweeps * math.log(tolerance) / math.log(self.residual))


@dataclass(frozen=True)
class DigitalPart:
    """A digital part on one sample, forward.

    Attributes:
        name: of the block.
        macs: multiply-accumulates of matrix products and convolutions.
        operations: everything else, an operation an output value.
        values: that operations read and write.
        parameters: that learn.
    """

    name: str
    macs: int = 0
    operations: int = 0
    values: int = 0
    parameters: int = 0


@dataclass(frozen=True)
class Work:
    """What a program does on one sample, part by part in order of execution."""

    parts: tuple[AnalogPart | DigitalPart, ...]

    @property
    def analog(self) -> tuple[AnalogPart, ...]:
        return tuple(p for p in self.parts if isinstance(p, AnalogPart))

    @property
    def digital(self) -> tuple[DigitalPart, ...]:
        return tuple(p for p in self.parts if isinstance(p, DigitalPart))

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one forward pass."""
        return sum(p.macs for p in self.parts)


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
                part, outputs = _digital(step, network, known, run_digital, samples)
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
    if problems:
        raise InputError(problems)


# --- analog ---------------------------------------------------------------------------------------------------


def _analog(
    block: EnergyBlock, program: Program, network: nn.Module, result: Settled, samples: int, learned: bool
) -> AnalogPart:
    tensors = {p: _attribute(network, p) for p in block.weights}
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
    read = {source for source, _ in block.edges}

    def signal(name: str, error: bool = False) -> Signal:
        value = values[name]
        drive = [t.origin.label for s in block.states if s.name == name for t in s.drive.layers]
        size = math.ceil(value.numel() / samples)
        return Signal(program.labels.get(name, name), size, activity(value), error, tuple(drive), name in read)

    return AnalogPart(
        name=block.name,
        layers=tuple(layers.values()),
        states=tuple(signal(s.name) for s in block.states),
        inputs=tuple(
            signal(n, error=learned and n not in program.inputs) for n in block.inputs if isinstance(values[n], Tensor)
        ),
        outputs=tuple(signal(n) for n in block.outputs),
        sweeps=result.relaxation.sweeps,
        residual=result.relaxation.residual,
    )


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
    if term.operation.name in MAPPABLE:
        groups, rows, columns = matrix_of(term.operation.name, weight, term.operation.options).shape
        return groups, rows, columns
    return 1, math.prod(weight.shape[1:]), weight.shape[0]


def _filled(term: Term, operand: Tensor, weight: Tensor, products: int) -> float:
    """A transposed convolution uses each input value once with each of its weights: the rest are inserted zeros."""
    if not term.operation.name.startswith("conv_transpose"):
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


def _attribute(network: nn.Module, path: str) -> Tensor:
    value: Any = network
    for name in path.split("."):
        value = getattr(value, name)
    assert isinstance(value, Tensor), path
    return value.detach()


# --- digital --------------------------------------------------------------------------------------------------


class _Tally(TorchDispatchMode):
    """Counts the values that operations read and write; a view costs nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.written = 0
        self.moved = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        read = _tensors((args, kwargs or {}))
        kept = {t.untyped_storage().data_ptr() for t in read} if not _writes(func) else set()
        written = [t for t in _tensors(result) if t.untyped_storage().data_ptr() not in kept]
        if written:
            self.written += sum(t.numel() for t in written)
            self.moved += sum(t.numel() for t in (*read, *written))
        return result


def _writes(func: Any) -> bool:
    """Whether an operation changes one of its arguments."""
    return bool(getattr(getattr(func, "_schema", None), "is_mutable", False))


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in torch.utils._pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def _digital(
    block: DigitalBlock, network: nn.Module, values: Mapping[str, Any], run_digital: RunDigital, samples: int
) -> tuple[DigitalPart, dict[str, Any]]:
    tally, flops = _Tally(), FlopCounterMode(display=False)
    with flops, tally:
        outputs = run_digital(block, network, values)
    macs = flops.get_total_flops() // 2
    return DigitalPart(
        name=block.name,
        macs=math.ceil(macs / samples),
        operations=math.ceil(tally.written / samples),
        values=math.ceil(tally.moved / samples),
        parameters=_parameters(block, network),
    ), outputs


def _parameters(block: DigitalBlock, network: nn.Module) -> int:
    """How many parameters a digital part learns."""
    found: dict[int, int] = {}
    for node in block.graph.nodes:
        if node.op == "call_module":
            learn = [p for p in network.get_submodule(str(node.target)).parameters() if p.requires_grad]
        elif node.op == "get_attr":
            value: Any = network
            for name in str(node.target).split("."):
                value = getattr(value, name)
            learn = [value] if isinstance(value, nn.Parameter) and value.requires_grad else []
        else:
            continue
        found.update({id(p): p.numel() for p in learn})
    return sum(found.values())

"""How much conductance meets at a node: row and column sums of a block's couplings, without unrolling them.

A drive ``f_m = sum_l J_lm s_l + ... + b`` becomes one resistor for each non-zero entry of each path, so what a node
needs is

    rows_m = sum_k |J_mk| + |b_m|,    columns_lm = sum_j |J_lm|_j    (|J| adds the magnitudes of parallel paths)

The first is the coupling itself, with the magnitudes of its weights, evaluated on ones; the second the vector-Jacobian
product of that. Both cost one pass through the coupling, whatever the size of the unrolled matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import Problem
from ...ir import Coupling, EnergyBlock, Kind, Operation, State, Term, Weight
from ...rules import arithmetic, pooling, resizing, shapes, weighted
from ...rules.norms import BATCH_NORM
from ...solve import BoundBlock, States
from ...solve.norm_sample import one_sample

Edge = tuple[str, str]


@dataclass(frozen=True)
class Pair:
    """What the devices of one weighted layer add up to, ``P + N``, in units of its weights.

    Attributes:
        weight: in the shape of the layer's weight.
        bias: in that of its bias; None where it has none, or where the bias is not on devices: then its magnitude is
            taken.
    """

    weight: Tensor
    bias: Tensor | None = None


Devices = Mapping[str, Pair]
"""Of each weighted term, by the term's name; a layer that is missing has ideal devices, ``P + N = |W|``."""


@dataclass(frozen=True)
class Sums:
    """Row and column sums of magnitudes, in units of the weights.

    Attributes:
        rows: of each state, biases included, in the shape of one sample of the state.
        biases: the part of the rows that comes from biases and other constants.
        columns: of each (source, state), in the shape of one sample of the source.
    """

    rows: States
    biases: States
    columns: Mapping[Edge, Tensor] = field(repr=False)


def sums(bound: BoundBlock, devices: Devices | None = None) -> Sums:
    """The sums over the devices of a block.

    Args:
        bound: the block on an example input, which gives the shapes.
        devices: of the drive, and of the feedback, which runs through the same ones; ideal ones by default.
    """
    magnitudes = Magnitudes(on_one_sample(bound), devices or {})
    states = bound.block.states
    rows = {s.name: magnitudes.rows(s) for s in states}
    biases = {s.name: magnitudes.rows(s, 0.0) for s in states}
    return Sums(rows, biases, {e: c for s in states for e, c in magnitudes.columns(s)})


def on_one_sample(bound: BoundBlock) -> BoundBlock:
    """The first sample of the block, in at least float32, with every term that no state reaches evaluated."""
    computed = {o for s in bound.block.states for t in s.drive.terms for o in t.operands[1:] if t.operation.weighted}
    sample = bound if computed & set(bound.inputs) else one_sample(bound)
    widened = BoundBlock(bound.block, _widened(sample.inputs), _widened(sample.weights), bound.layer_weights)
    return widened.detached()


def _widened(values: Mapping[str, Any]) -> dict[str, Any]:
    half = (torch.float16, torch.bfloat16)
    return {k: v.float() if isinstance(v, Tensor) and v.dtype in half else v for k, v in values.items()}


class Magnitudes:
    """The couplings of a block with magnitudes in place of weights.

    Attributes:
        bound: the block on one sample.
        states: a value of each state, for its shape.
    """

    def __init__(self, bound: BoundBlock, devices: Devices):
        self.bound, self.devices = bound, devices
        with torch.no_grad():
            self.states = bound.feedforward()

    def filled(self, coupling: Coupling, value: float) -> dict[str, Any]:
        """All that drives a coupling's resistors, at one value: sources, inputs, and what is digital of these."""
        given = {n: self.bound.fixed[n] for n in given_terms(coupling)}
        driven = (
            {n: self.states[n] for n in coupling.sources} | {n: self.bound.inputs[n] for n in coupling.inputs} | given
        )
        return {n: _filled(v, value) for n, v in driven.items()}

    def total(self, coupling: Coupling, driven: Mapping[str, Any]) -> Tensor:
        """The sum of the magnitudes of every path and constant, at these values."""
        known = dict(driven)
        for term in coupling.terms:
            if term.name not in known:
                known[term.name] = self._term(term, known)
        f: Tensor = known[coupling.output]
        return f

    def _term(self, term: Term, known: Mapping[str, Any]) -> Any:
        read = [self._operand(term, i, known) for i in range(len(term.operands))]
        magnitude = _magnitude(term.operation.kind)
        assert magnitude is not None, f"{term.operation.name} is not resistive"
        return magnitude(term.operation, read)

    def _operand(self, term: Term, i: int, known: Mapping[str, Any]) -> Any:
        operand = term.operands[i]
        if operand is None:
            return None
        if term.operation.weighted and i > 0:
            return self._device(term, i)
        if isinstance(operand, Weight):
            raw = self.bound.weights[operand.path]
            return raw if term.operation.kind is BATCH_NORM else raw.abs()
        return self.bound.inputs[operand] if term.operation.kind is BATCH_NORM and i > 0 else known[operand]

    def _device(self, term: Term, i: int) -> Tensor:
        operand, pair = term.operands[i], self.devices.get(term.name)
        given = None if pair is None else pair.weight if i == 1 else pair.bias
        if given is None:
            given = self.bound.weights[operand.path] if isinstance(operand, Weight) else self.bound.inputs[str(operand)]
            given = given.abs()
        return given.to(next(iter(self.states.values())))

    def rows(self, state: State, value: float = 1.0) -> Tensor:
        """The row sums of one state's drive; those of its biases alone at a value of 0."""
        with torch.no_grad():
            return self.total(state.drive, self.filled(state.drive, value))

    def columns(self, state: State) -> Iterator[tuple[Edge, Tensor]]:
        """The column sums of one state's drive over each of its sources."""
        if not state.drive.sources:
            return
        driven = self.filled(state.drive, 1.0)
        with torch.enable_grad():
            leaves = {n: driven[n].requires_grad_() for n in state.drive.sources}
            columns = torch.autograd.grad(self.total(state.drive, driven).sum(), list(leaves.values()))
        for source, column in zip(leaves, columns, strict=True):
            yield (source, state.name), column


def _filled(given: Any, value: float) -> Any:
    return torch.full_like(given, value) if isinstance(given, Tensor) and given.is_floating_point() else given


# --- what resistors can make of an operation --------------------------------------------------------------

Magnitude = Callable[[Operation, Sequence[Any]], Any]


def _as_it_is(operation: Operation, read: Sequence[Any]) -> Any:
    return operation(*read)


def _add(operation: Operation, read: Sequence[Any]) -> Any:
    return torch.add(read[0], read[1], alpha=abs(operation.options["alpha"]))


def _constant(operation: Operation, read: Sequence[Any]) -> Any:
    return read[0] + abs(operation.options["constant"])


def _scale(operation: Operation, read: Sequence[Any]) -> Any:
    return operation.function(read[0], **{k: abs(v) for k, v in operation.options.items()})


def _pad(operation: Operation, read: Sequence[Any]) -> Any:
    return F.pad(read[0], operation.options["pad"], value=abs(operation.options["value"]))


def _batch_norm(operation: Operation, read: Sequence[Any]) -> Any:
    """``|k| a + |c|`` for the affine map ``k a + c`` of each channel that a held norm is."""
    a, mean, variance, scale, shift = read
    k = (variance + operation.options["eps"]).rsqrt() * (1.0 if scale is None else scale)
    c = (0.0 if shift is None else shift) - mean * k
    channel = (1, -1, *(1,) * (a.dim() - 2))
    return a * k.abs().view(channel) + c.abs().view(channel)


_SUMS = (
    *(weighted.LINEAR, weighted.MATMUL, *weighted.CONVOLUTIONS.values(), *weighted.TRANSPOSED_CONVOLUTIONS.values()),
    *(*pooling.AVERAGES.values(), *pooling.ADAPTIVE_AVERAGES.values(), pooling.MEAN, arithmetic.SCALE_BY_WEIGHT),
    *(shapes.FLATTEN, shapes.UNFLATTEN, shapes.RESHAPE, shapes.PERMUTE, shapes.TRANSPOSE, shapes.SQUEEZE),
    *(shapes.UNSQUEEZE, shapes.CAT, shapes.CONTIGUOUS, resizing.UPSAMPLE, resizing.PIXEL_SHUFFLE),
)
"""They only add up what they read, by weights that are their operands or at least 0."""

_MAGNITUDES: Mapping[Kind, Magnitude] = {
    **dict.fromkeys(_SUMS, _as_it_is),
    arithmetic.ADD: _add,
    arithmetic.SHIFT: _constant,
    arithmetic.REFLECT: _constant,
    arithmetic.SCALE: _scale,
    resizing.PAD: _pad,
    BATCH_NORM: _batch_norm,
}
"""How the magnitudes of an operation follow from those that it reads. What a kind brings along comes first."""


def _magnitude(kind: Kind) -> Magnitude | None:
    return kind.magnitude or _MAGNITUDES.get(kind)


def is_resistive(term: Term) -> bool:
    """Whether the operation is affine with magnitudes that are known here."""
    operation = term.operation
    cubic = "cubic" in str(operation.options.get("mode", ""))  # its weights are of both signs
    return _magnitude(operation.kind) is not None and operation.linear and not operation.routed and not cubic


def given_terms(coupling: Coupling) -> tuple[str, ...]:
    """The terms that are computed digitally from inputs alone, and driven into the resistors as values."""
    return tuple(t.name for t in coupling.terms if not is_resistive(t))


def coupling_problems(block: EnergyBlock) -> Iterator[tuple[Term, str]]:
    """The operations of a block that resistors can't make, each with the reason."""
    for state in block.states:
        analog, arrays = set(state.drive.sources), set[str]()
        for term in state.drive.terms:
            reads = {o for o in term.operands if isinstance(o, str)}
            if term.operation.weighted and term.operands[0] in arrays:
                yield term, "follows another weighted layer without a neuron between them"
            if not is_resistive(term) and reads & (analog | arrays):
                yield term, f"{term.operation.name} of an analog value is not a sum over resistors"
            if reads & analog:
                analog.add(term.name)
            if term.operation.weighted or reads & arrays:
                arrays.add(term.name)


def problems(block: EnergyBlock, remedy: Callable[[str], str]) -> list[Problem]:
    """The same as problems that name the user's layers."""
    refused = {t.origin: (f"layer {t.origin}", why, t.origin.layer) for t, why in coupling_problems(block)}
    return [Problem(where, why, remedy(layer)) for where, why, layer in refused.values()]

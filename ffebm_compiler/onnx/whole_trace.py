"""A whole ff-EBM as one flat graph: ``x_k = F_k(s_(k-1))`` in line, ``s_k = argmin_s E_k(s, theta_k, x_k)`` as a loop.

The graph reads the model's arguments, then its tensors; it gives the result's leaves and, if asked, how blocks relaxed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import SymInt, Tensor, fx

from ..ir import EnergyBlock
from ..torch_private import tree_leaves, tree_unflatten
from ..train import run_digital
from .interface import Port, port_of
from .model import Model
from .names import Names
from .refusal import RefusedError, labelled
from .relaxation_loop import Settled, Sweeps, settle, trace_sweeps
from .result import named_leaves
from .shapes import Shape, Space, TensorLeaf, symbolically, within
from .trace import Marks, keep, trace

DRAWS = "it draws random numbers in evaluation mode, which one file for inference has no place for"


@dataclass(frozen=True)
class Whole:
    """A traced model.

    Attributes:
        module: the flat graph.
        inputs: the arguments that are tensors, in order.
        tensors: what it reads after the arguments, in order, by name: tensors of the model, numbers of its relaxations.
        outputs: the results, in order.
    """

    module: fx.GraphModule
    inputs: tuple[Port, ...]
    tensors: Mapping[str, Tensor]
    outputs: tuple[Port, ...]


def trace_whole(model: Model, space: Space, shapes: Mapping[str, Shape], diagnostics: bool, marks: Marks) -> Whole:
    """The graph of a model on fake tensors of a space.

    Args:
        shapes: of every value of the program, in that space.
        diagnostics: whether sweeps and residual of each block are results too.
        marks: notes which operation is running.
    """
    own = {**model.tensors, **model.numbers(shapes)}
    fakes = {n: space.tensor(t) for n, t in own.items()}
    call = _Call(model, shapes, tuple(fakes), _all_sweeps(model, space, shapes, fakes, marks), diagnostics, marks)
    flat = trace(call, [*(space.leaf(a.leaf) for a in call.arguments), *fakes.values()], space)
    if flat.random:
        label = flat.random[0].meta.get("label", "")
        raise RefusedError(labelled(label, tuple(model.origins), model.name), DRAWS)
    keep(flat, flat.outputs)
    used = _drop_unused(flat.module.graph, flat.inputs[len(call.arguments) :], tuple(fakes))
    names = Names((*used, *(a.port.name for a in call.arguments)))
    shown = zip(call.results, flat.outputs, strict=True)
    results = tuple(_result(names.unique(n), space.shape(node.meta["val"])) for n, node in shown)
    return Whole(flat.module, tuple(a.port for a in call.arguments), {n: own[n] for n in used}, results)


@dataclass(frozen=True)
class _Argument:
    """A tensor among the arguments of a call."""

    port: Port
    leaf: TensorLeaf


@dataclass
class _Call:
    """The model as a function of its tensor arguments, of its own tensors and of the numbers of its relaxations.

    Attributes:
        names: of own tensors and numbers, in order.
        results: readable names of what the last call gave, in order.
    """

    model: Model
    shapes: Mapping[str, Shape]
    names: tuple[str, ...]
    sweeps: Mapping[str, Sweeps | None]
    diagnostics: bool
    marks: Marks
    results: tuple[str, ...] = ()

    @cached_property
    def arguments(self) -> tuple[_Argument, ...]:
        return tuple(_arguments(self.model, self.shapes, Names(self.names)))

    def __call__(self, *flat: Any) -> Sequence[Tensor]:
        given = dict(zip([a.port.value for a in self.arguments], flat, strict=False))
        own = dict(zip(self.names, flat[len(self.arguments) :], strict=True))
        program, example = self.model.program, self.model.example
        values = {n: _nest(n, self.shapes[n], example[n], given) for n in program.inputs}
        result, settled = within(
            self.model.network, {n: own[n] for n in self.model.tensors}, lambda: self.run(values, own)
        )
        found = _results(result, settled if self.diagnostics else {})
        self.results = tuple(found)
        return [_as_result(v, flat) for v in found.values()]

    def run(self, values: dict[str, Any], numbers: Mapping[str, Tensor]) -> tuple[Any, dict[str, Settled]]:
        """The model's result, every block at its equilibrium."""
        settled: dict[str, Settled] = {}
        for step in self.model.program:
            if isinstance(step, EnergyBlock):
                bound = self.model.bound(
                    step,
                    {n: torch.scalar_tensor(v) if isinstance(v := values[n], float) else v for n in step.inputs},
                    numbers,
                )
                found = settle(bound, self.sweeps[step.name], numbers, self.marks)
                settled[step.name] = found
                values.update({n: found.states[n] for n in step.outputs})
            else:
                values.update(run_digital(step, self.model.network, values, self.marks.around))
        return self.model.pack(values), settled


def _all_sweeps(
    model: Model, space: Space, shapes: Mapping[str, Shape], fakes: Mapping[str, Tensor], marks: Marks
) -> dict[str, Sweeps | None]:
    """The sweeps of every block, traced on inputs of the shapes that are known."""

    def sweeps(block: EnergyBlock) -> Sweeps | None:
        inputs = {n: space.make(shapes[n]) for n in block.inputs}
        with space.mode, symbolically():
            bound = model.bound(block, inputs, fakes)
        return trace_sweeps(bound, space, marks)

    blocks = model.program.energy_blocks
    own = {n: fakes[n] for n in model.tensors}
    found: dict[str, Sweeps | None] = within(model.network, own, lambda: {b.name: sweeps(b) for b in blocks})
    return found


def _arguments(model: Model, shapes: Mapping[str, Shape], names: Names) -> Iterator[_Argument]:
    """Each tensor among the arguments, in order, under the user's name and its place in a nest."""
    for value in model.program.inputs:
        for place, leaf in shapes[value].named(value):
            if isinstance(leaf, TensorLeaf):
                shown = model.program.labels.get(value, value) + place.removeprefix(value)
                yield _Argument(port_of(names.unique(shown), place, leaf.dtype, leaf.sizes), leaf)


def _nest(name: str, shape: Shape, example: Any, leaves: Mapping[str, Any]) -> Any:
    """An argument: its tensors from the call, the rest as in the example."""
    recorded = tree_leaves(example)
    found = [leaves.get(place, was) for (place, _), was in zip(shape.named(name), recorded, strict=True)]
    return tree_unflatten(found, shape.tree)


def _results(result: Any, settled: Mapping[str, Settled]) -> dict[str, Any]:
    """What the graph gives, by readable name."""
    found = {n: v for n, v in named_leaves(result, "output") if isinstance(v, (Tensor, SymInt))}
    for block, how in settled.items():
        found[f"{block}.sweeps"], found[f"{block}.residual"] = how.sweeps, how.residual.float()
    return found


def _as_result(value: Any, given: Sequence[Any]) -> Tensor:
    """A tensor of its own, since a result may be an argument as it is."""
    if not isinstance(value, Tensor):
        return torch.scalar_tensor(value, dtype=torch.int64)
    return value.clone() if any(value is g for g in given) else value


def _drop_unused(graph: fx.Graph, nodes: Sequence[fx.Node], paths: Sequence[str]) -> list[str]:
    """The tensors that are read; the placeholders of the others go."""
    used = []
    for node, path in zip(nodes, paths, strict=True):
        if node.users:
            used.append(path)
        else:
            graph.erase_node(node)
    return used


def _result(name: str, shape: Shape) -> Port:
    (leaf,) = shape.leaves
    assert isinstance(leaf, TensorLeaf)
    return port_of(name, name, leaf.dtype, leaf.sizes)

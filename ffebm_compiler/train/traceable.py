"""A model's program as one function that torch.compile and torch.export can trace without a break.

Digital parts are written out call by call, so that they are compiled with what surrounds the model; an energy-based block is a call
of an operator of :mod:`.opaque_operators`.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..ir import DigitalBlock, EnergyBlock, Program, Ref, Weight
from .digital import attribute
from .layout import content, kind_of, layout_of
from .opaque_operators import FORMAT, output_places  # which also defines torch.ops.ffebm


@dataclass(frozen=True)
class Traceable:
    """A program, and how it is called, in a form that compilers trace.

    Attributes:
        arguments: None where a call is bound in a way of its own.
        function: of :func:`function_of`.
    """

    arguments: Arguments | None
    function: Callable[..., Any]

    @staticmethod
    def of(program: Program, network: nn.Module, plain: bool) -> Traceable:
        """``plain``: the forward takes the program's inputs by their names."""
        return Traceable(Arguments.of(network, program.inputs) if plain else None, function_of(program))


def function_of(program: Program) -> Callable[..., Any]:
    """``function(network, number, training, *inputs) -> output`` for a program, its output a nest of containers.

    ``number`` is the model's, as :func:`~.enrolment.enrol` gave it.
    """
    graph = fx.Graph()
    network, number, training = (graph.placeholder(n) for n in ("network", "number", "training"))
    values: dict[str, Any] = {n: graph.placeholder(f"given_{i}") for i, n in enumerate(program.inputs)}
    run = graph.call_function(begun, (number, program.inputs, tuple(values.values())))
    for step, block in enumerate(program):
        if isinstance(block, EnergyBlock):
            place = (number, training, step)
            values.update(_relaxed_in(graph, block, values, (run, network, place)))
        else:
            values.update(_digital_in(graph, block, network, values))
    graph.output(_output(graph, program.output, network, values))
    return _function(graph)


@dataclass(frozen=True)
class Arguments:
    """How a call becomes the program's inputs where that takes no more than names: compilers trace it, unlike ``inspect``.

    Attributes:
        names: the forward's parameters.
        read: those that are inputs of the program, in its order.
        defaults: of the inputs that have one, a tensor or a number.
    """

    names: tuple[str, ...]
    read: tuple[str, ...]
    defaults: Mapping[str, Any]

    @staticmethod
    def of(network: nn.Module, inputs: Sequence[str]) -> Arguments | None:
        """None for a forward that takes its arguments in another way."""
        parameters = inspect.signature(network.forward).parameters
        waiting = list(inputs)
        read = [n for n in parameters if waiting and _is_called(waiting[0], n) and waiting.pop(0)]
        if waiting or any(p.kind is not p.POSITIONAL_OR_KEYWORD for p in parameters.values()):
            return None
        defaults = {n: v for n in read if not _may_choose(v := parameters[n].default)}
        return Arguments(tuple(parameters), tuple(read), defaults)

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, ...] | None:
        """The inputs in order; None for a call that needs a closer look."""
        given = {**dict(zip(self.names, args, strict=False)), **kwargs}
        values = {**self.defaults, **given}
        repeated = len(given) != len(args) + len(kwargs)
        if repeated or any(n not in self.read for n in given) or any(n not in values for n in self.read):
            return None
        found = tuple(values[n] for n in self.read)
        return None if any(_may_choose(v) for v in found) else found


def _may_choose(value: Any) -> bool:
    """Whether a value may choose the path through a model: no input of a program is like that, and no missing default."""
    return value is None or value is inspect.Parameter.empty or isinstance(value, (bool, str))


def _is_called(name: str, parameter: str) -> bool:
    """Whether a graph's input stands for a parameter: names of Python's own get a number."""
    stem, _, number = name.rpartition("_")
    return name == parameter or (stem == parameter and number.isdigit())


def _function(graph: fx.Graph) -> Callable[..., Any]:
    """The graph's code, run."""
    code = graph.python_code("self")
    scope = dict(code.globals)
    exec(compile(code.src, "<traceable program>", "exec"), scope)
    forward: Callable[..., Any] = scope["forward"]
    return partial(forward, None)


# --- its calls ---------------------------------------------------------------------------------------------


def begun(number: int, names: Sequence[str], inputs: Sequence[Any]) -> Tensor:
    """Begins a run: every block waits for what this returns."""
    given = {n: v for n, v in zip(names, inputs, strict=True) if isinstance(v, Tensor)}
    return torch.ops.ffebm.begin(list(given.values()), list(given), number)  # type: ignore[no-any-return]


def called(network: nn.Module, path: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """A call of one of the user's layers."""
    return attribute(network, path)(*args, **kwargs)


def relaxed(
    run: Tensor,
    network: nn.Module,
    place: tuple[int, bool, int],
    inputs: Sequence[Any],
    weights: Sequence[str],
    outputs: Sequence[int],
    digest: str,
) -> tuple[Tensor, ...]:
    """The output states of the block at ``place``, by their positions among its states."""
    number, training, step = place
    tensors, sizes, kinds = [v for v in inputs if isinstance(v, Tensor)], [], []
    for value in inputs:
        kind, found = kind_of(value)
        kinds.append(kind)
        sizes.extend(found)
    tensors.extend(_weight(network, path) for path in weights)
    layout, device = layout_of(kinds, digest), tensors[0].device.type
    precision = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    where = [number, int(training), step]
    trains = torch.is_grad_enabled() and any(t.requires_grad for t in tensors[len(tensors) - len(weights) :])
    settled = torch.ops.ffebm.settle(run, tensors, sizes, layout, where, trains, precision)
    return tuple(settled[i] for i in outputs)


def _weight(network: nn.Module, path: str) -> Tensor:
    """A weight; a buffer may change before backward."""
    value: Tensor = attribute(network, path)
    return value if isinstance(value, nn.Parameter) or value.requires_grad else value.clone()


# --- its graph -----------------------------------------------------------------------------------------------


def _relaxed_in(
    graph: fx.Graph, block: EnergyBlock, values: Mapping[str, Any], where: tuple[Any, ...]
) -> dict[str, fx.Node]:
    inputs = tuple(values[n] for n in block.inputs)
    states = graph.call_function(
        relaxed, (*where, inputs, block.weights, output_places(block), f"{FORMAT} {content(block)}")
    )
    return {n: graph.call_function(operator.getitem, (states, i)) for i, n in enumerate(block.outputs)}


def _digital_in(
    graph: fx.Graph, block: DigitalBlock, network: fx.Node, values: Mapping[str, Any]
) -> dict[str, fx.Node]:
    copies: dict[fx.Node, Any] = {}
    results: tuple[Any, ...] = ()
    for node in block.graph.nodes:
        args = fx.node.map_arg(node.args, copies.__getitem__)
        kwargs = fx.node.map_arg(node.kwargs, copies.__getitem__)
        if node.op == "placeholder":
            copies[node] = values[node.target]
        elif node.op == "get_attr":
            copies[node] = graph.call_function(attribute, (network, node.target))
        elif node.op == "output":
            results = args[0]
        elif node.op == "call_module":
            copies[node] = graph.call_function(called, (network, node.target, args, kwargs))
        else:
            copies[node] = graph.create_node(node.op, node.target, args, kwargs)
    return dict(zip(block.outputs, results, strict=True))


def _output(graph: fx.Graph, output: Any, network: fx.Node, values: Mapping[str, Any]) -> Any:
    def leaf(value: Any) -> Any:
        if isinstance(value, Ref):
            return values[value.name]
        return graph.call_function(attribute, (network, value.path)) if isinstance(value, Weight) else value

    return fx.node.map_aggregate(output, leaf)

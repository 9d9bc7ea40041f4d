"""Every digital part of a program as ONNX graphs: ``F``, ``F`` with its statistics, and ``errors -> (dL/dx, dL/dtheta)``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..ir import Program
from .check import plain, session
from .graph import to_onnx, with_initializers
from .interface import FORWARD, TRAINING, VJP, ExportedPart, Interface, PartGraph, Port, Unexportable
from .names import Names, give_names
from .part import Part, parts_of
from .refusal import RefusedError, unconverted, unloadable, untraceable
from .shapes import FixedLeaf, Leaf, NumberLeaf, Shape, Shapes, SizeLeaf, Space, TensorLeaf, shapes_of, within
from .trace import Flat, Marks, keep, quietly, symbolically, trace


def export_parts(
    program: Program,
    network: nn.Module,
    values: Mapping[str, Any],
    kinds: Sequence[str],
    tell: Callable[[str], None] = lambda what: None,
) -> tuple[ExportedPart, ...]:
    """Every digital part of a program as ONNX, and the part that computes weights where blocks read computed ones.

    A part through which no gradient can flow has no ``vjp`` graph, and no refusal of one.

    Args:
        program: of one mode.
        network: the model, in that mode.
        values: every value of the program on an example of two samples or more, by name.
        kinds: which graphs: ``"forward"`` of a program for evaluation, ``"training"`` and ``"vjp"`` of one for training.
        tell: called before each graph, with what it is: ``"digital1, vjp"``.
    """
    shapes = shapes_of(program, network, values)
    parts = [_Export(p, network, program, shapes) for p in parts_of(program, network)]
    return tuple(p.graphs(kinds, tell) for p in parts)


@dataclass(frozen=True)
class _Export:
    """One part on its way to ONNX."""

    part: Part
    network: nn.Module
    program: Program
    shapes: Shapes

    def graphs(self, kinds: Sequence[str], tell: Callable[[str], None]) -> ExportedPart:
        found: dict[str, PartGraph] = {}
        refused: list[Unexportable] = []
        for kind in kinds:
            tell(f"{self.part.name}, {kind}")
            try:
                graph = self.graph(kind)
            except RefusedError as failure:
                refused.append(Unexportable(self.part.name, kind, failure.operation, failure.reason))
                continue
            if graph is not None:
                found[kind] = graph
        return ExportedPart(self.part.name, found, tuple(refused))

    def graph(self, kind: str) -> PartGraph | None:
        """The graph with sizes as symbols; failing that, for the example's sizes alone."""
        failure: RefusedError | None = None
        for space, shapes in self.shapes.spaces():
            try:
                found = self._attempt(kind, space, shapes)
            except RefusedError as refusal:
                failure = failure or refusal
                continue
            if space.is_general:
                return found
        if failure is None:
            raise AssertionError("an attempt on the example's own sizes can't restrict them")
        raise failure

    def _attempt(self, kind: str, space: Space, shapes: Mapping[str, Shape]) -> PartGraph | None:
        marks = Marks()
        call = _Call(self.part, self.network, self.program, space, shapes, marks)
        try:
            traced = call.vjp() if kind == VJP else call.forward(kind)
        except Exception as failure:  # whatever a user's layer and torch's tracer make of tensors without numbers
            raise untraceable(failure, marks.running, self.part.name) from failure
        return None if traced is None or not traced.interface.results else self._finish(traced)

    def _finish(self, traced: _Traced) -> PartGraph:
        interface = traced.interface
        tensors = [p.name for p in (*interface.parameters, *interface.buffers)]
        ports = (
            interface.inputs
            if interface.kind != FORWARD
            else (*interface.inputs, *interface.parameters, *interface.buffers)
        )
        try:
            raw = to_onnx(traced.module)
        except Exception as failure:  # torch's exporter raises what it likes
            raise unconverted(failure, traced.module, self.part.origins, self.part.name) from failure
        model = give_names(
            raw, self.part.name, _in_order(traced, ports), interface.results, _describe(self.part, interface)
        )
        model = _reordered(model, ports)
        if interface.kind == FORWARD:
            model = with_initializers(model, tensors)
        graph = PartGraph(interface, model)
        try:
            session(plain(graph))
        except Exception as failure:  # onnxruntime's exceptions have no common base
            raise unloadable(failure, self.part.origins, self.part.name) from failure
        return graph


# --- what is traced --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Traced:
    """A flat graph and its ports; ``given`` names the port of each placeholder that is left."""

    module: fx.GraphModule
    given: tuple[str, ...]
    interface: Interface


@dataclass(frozen=True)
class _Given:
    """An input of the traced function: a leaf of a value, or a tensor of the model."""

    port: Port
    fake: Any
    leaf: str = ""
    path: str = ""


class _Call:
    """A part in a space of fake tensors, called with everything that it reads as arguments."""

    def __init__(
        self, part: Part, network: nn.Module, program: Program, space: Space, shapes: Mapping[str, Shape], marks: Marks
    ):
        self.part, self.network, self.program, self.space, self.shapes, self.marks = (
            part,
            network,
            program,
            space,
            shapes,
            marks,
        )
        self.names = Names()
        self.values = [g for n in part.inputs for g in self._value(n)]
        self.tensors = [self._tensor(p) for p in part.reads]
        self.parameters = dict(network.named_parameters())

    def _value(self, name: str) -> list[_Given]:
        found = []
        for leaf_name, leaf in self.shapes[name].named(name):
            port = self._port(self._label(leaf_name), leaf_name, leaf)
            if port is not None:
                found.append(_Given(port, self.space.leaf(leaf), leaf=leaf_name))
        return found

    def _tensor(self, path: str) -> _Given:
        tensor = _at(self.network, path)
        port = Port(self.names.unique(path), path, _dtype(tensor.dtype), tuple(tensor.shape))
        return _Given(port, self.space.tensor(tensor), path=path)

    def _label(self, leaf: str) -> str:
        """The user's name of a value, or of a place in it."""
        value, bracket, place = leaf.partition("[")
        return f"{self.program.labels.get(value, value)}{bracket}{place}"

    def _port(self, name: str, value: str, leaf: Leaf) -> Port | None:
        """A port for a leaf; None for one that is the same in every call."""
        if isinstance(leaf, TensorLeaf):
            return Port(
                self.names.unique(name),
                value,
                _dtype(leaf.dtype),
                tuple(s if isinstance(s, int) else str(s) for s in leaf.sizes),
            )
        if isinstance(leaf, NumberLeaf):
            return Port(self.names.unique(name), value, _dtype(torch.get_default_dtype()), ())
        if isinstance(leaf, SizeLeaf) and not isinstance(leaf.size, int):
            return Port(self.names.unique(name), value, "int64", ())
        return None

    # --- the function ---

    def _results(self, arguments: Sequence[Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The leaves of the outputs, by name, and the tensors of the model that a layer has put anew in place of old ones."""
        leaves = dict(zip([g.leaf for g in self.values], arguments, strict=False))
        tensors = dict(zip([g.path for g in self.tensors], arguments[len(self.values) :], strict=False))
        values = {n: self._nest(n, leaves) for n in self.part.inputs}

        def call() -> tuple[dict[str, Any], dict[str, Tensor]]:
            found = self.part.run(self.network, values, self.marks.around)
            now = {p: _at(self.network, p) for p in tensors}
            return found, {p: t for p, t in now.items() if t is not tensors[p]}

        found, replaced = within(self.network, tensors, call)
        named = [(n, leaf) for name in self.part.outputs for n, leaf in _leaves(name, found[name])]
        return dict(named), replaced

    def _nest(self, name: str, leaves: Mapping[str, Any]) -> Any:
        shape = self.shapes[name]
        found = [leaves[n] if n in leaves else self.space.leaf(leaf) for n, leaf in shape.named(name)]
        return torch.utils._pytree.tree_unflatten(found, shape.tree)

    def forward(self, kind: str) -> _Traced:
        """``(x, theta, b, r) -> y``, and b' in training."""
        outputs: list[tuple[str, Leaf]] = []
        replaced: list[str] = []

        def function(*arguments: Any) -> list[Tensor]:
            results, anew = self._results(arguments)
            described = {n: self.space.shape(v).leaves[0] for n, v in results.items()}
            outputs[:] = [(n, leaf) for n, leaf in described.items() if not isinstance(leaf, FixedLeaf)]
            replaced[:] = list(anew)
            return [*(_as_tensor(results[n]) for n, _ in outputs), *anew.values()]

        given = [*self.values, *self.tensors]
        flat = trace(function, [g.fake for g in given], self.space)
        after = {given[i].path: node for i, node in flat.written.items() if given[i].path}
        after.update(zip(replaced, flat.outputs[len(outputs) :], strict=True))
        after = after if kind == TRAINING else {}
        keep(flat, [*flat.outputs[: len(outputs)], *after.values()])
        results = tuple(self._result(self._label(n), n, leaf) for n, leaf in outputs)
        statistics = tuple(self._like(f"updated/{p}", p) for p in after)
        return self._traced(kind, flat, given, outputs=results, statistics=statistics)

    def vjp(self) -> _Traced | None:
        """``(x, theta, b, r, dL/dy) -> dL/dx, dL/dtheta``; None where no gradient flows."""
        plan = self._plan()
        if not plan.errors or not plan.wanted:
            return None
        errors = [
            _Given(self._result(f"error/{self._label(n)}", n, self.space.shape(v).leaves[0]), v)
            for n, v in plan.errors.items()
        ]
        given = [*self.values, *self.tensors, *errors]

        def function(*arguments: Any) -> list[Tensor]:
            with torch.enable_grad():
                leaves = self._as_leaves(arguments[: -len(errors)])
                results, _ = self._results(leaves)
                wanted = [leaves[i] for i in plan.wanted]
                return list(torch.autograd.grad([results[n] for n in plan.errors], wanted, arguments[-len(errors) :]))

        flat = trace(function, [g.fake for g in given], self.space)
        keep(flat, flat.outputs)
        gradients = tuple(self._gradient(given[i]) for i in plan.wanted)
        return self._traced(VJP, flat, given, errors=[e.port for e in errors], gradients=gradients)

    def _plan(self) -> _Plan:
        """Which outputs take an error and which inputs get a gradient, from a run without a trace."""
        given = [*self.values, *self.tensors]
        with quietly(), torch.enable_grad(), self.space.mode, symbolically():
            leaves = self._as_leaves([g.fake for g in given])
            results, _ = self._results(leaves)
            outputs = {n: v for n, v in results.items() if isinstance(v, Tensor) and v.requires_grad}
            errors = {n: torch.empty_like(v, requires_grad=False).contiguous() for n, v in outputs.items()}
            wanted = [i for i in self._trained if isinstance(leaves[i], Tensor) and leaves[i].requires_grad]
            if not outputs or not wanted:
                return _Plan({}, ())
            found = torch.autograd.grad(
                list(outputs.values()), [leaves[i] for i in wanted], list(errors.values()), allow_unused=True
            )
        return _Plan(errors, tuple(i for i, g in zip(wanted, found, strict=True) if g is not None))

    @property
    def _trained(self) -> list[int]:
        """Arguments that a gradient is wanted for: values that a step computes, and parameters that are trained."""
        computed = {n for step in self.program for n in step.outputs}
        trained = {p for p, t in self.parameters.items() if t.requires_grad}
        given = [*self.values, *self.tensors]
        return [i for i, g in enumerate(given) if g.leaf.partition("[")[0] in computed or g.path in trained]

    def _as_leaves(self, arguments: Sequence[Any]) -> list[Any]:
        wanted = set(self._trained)
        return [
            a.detach().requires_grad_() if i in wanted and isinstance(a, Tensor) and a.is_floating_point() else a
            for i, a in enumerate(arguments)
        ]

    # --- its ports ---

    def _result(self, name: str, value: str, leaf: Leaf) -> Port:
        port = self._port(name, value, leaf)
        return port or Port(self.names.unique(name), value, "int64", ())

    def _like(self, name: str, path: str) -> Port:
        tensor = _at(self.network, path)
        return Port(self.names.unique(name), path, _dtype(tensor.dtype), tuple(tensor.shape))

    def _gradient(self, given: _Given) -> Port:
        shown = given.path or self._label(given.leaf)
        return replace(given.port, name=self.names.unique(f"gradient/{shown}"))

    def _traced(
        self, kind: str, flat: Flat, given: Sequence[_Given], outputs: tuple[Port, ...] = (), statistics: tuple[Port, ...] = (),
        errors: Sequence[Port] = (), gradients: tuple[Port, ...] = (),
    ) -> _Traced:  # fmt: skip
        """The graph without the inputs that it does not use."""
        random = [self._draw(k, n) for k, n in enumerate(flat.random)]
        ports = {n: g.port for n, g in zip(flat.inputs, given, strict=True)}
        ports.update(zip(flat.random, random, strict=True))
        for node in [n for n in ports if not n.users]:
            flat.module.graph.erase_node(node)
            del ports[node]
        left = {p.name for p in ports.values()}
        tensors = [g.port for g in self.tensors if g.port.name in left]
        order = [n for n in flat.module.graph.nodes if n.op == "placeholder"]
        interface = Interface(
            kind,
            values=tuple(g.port for g in self.values if g.port.name in left),
            parameters=tuple(p for p in tensors if p.value in self.parameters),
            buffers=tuple(p for p in tensors if p.value not in self.parameters),
            random=tuple(p for p in random if p.name in left),
            errors=tuple(p for p in errors if p.name in left),
            outputs=outputs, statistics=statistics, gradients=gradients,
        )  # fmt: skip
        return _Traced(flat.module, tuple(ports[n].name for n in order), interface)

    def _draw(self, k: int, node: fx.Node) -> Port:
        leaf = self.space.shape(node.meta["val"]).leaves[0]
        return self._result(f"random/{k}", f"random/{k}", leaf)


@dataclass(frozen=True)
class _Plan:
    """Fake errors by output, and the indices of the arguments that get a gradient."""

    errors: Mapping[str, Tensor]
    wanted: tuple[int, ...]


def _leaves(name: str, value: Any) -> list[tuple[str, Any]]:
    leaves, tree = torch.utils._pytree.tree_flatten(value)
    return [(name, value)] if tree.is_leaf() else [(f"{name}[{i}]", v) for i, v in enumerate(leaves)]


def _as_tensor(value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value
    dtype = torch.get_default_dtype() if isinstance(value, (float, torch.SymFloat)) else torch.int64
    return torch.scalar_tensor(value, dtype=dtype)


def _at(network: nn.Module, path: str) -> Tensor:
    owner, _, name = path.rpartition(".")
    found: Tensor = getattr(network.get_submodule(owner), name)
    return found


def _dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# --- names, order and words ------------------------------------------------------------------------------


def _in_order(traced: _Traced, ports: Sequence[Port]) -> list[Port]:
    named = {p.name: p for p in ports}
    return [named[n] for n in traced.given]


def _reordered(model: Any, ports: Sequence[Port]) -> Any:
    """The inputs in the interface's order."""
    declared = {v.name: v for v in model.graph.input}
    ordered = [declared[p.name] for p in ports]
    del model.graph.input[:]
    model.graph.input.extend(ordered)
    return model


_SAYS = {
    FORWARD: "y = F(x) in evaluation mode.",
    TRAINING: "y = F(x) in training mode. Outputs 'updated/<path>' are the model's buffers after the step.",
    VJP: "Given 'error/<output>' = dL/dy, gives 'gradient/<input or parameter>' = dL/dx and dL/dtheta, summed over the batch, "
    "no sign changed. The forward pass is recomputed inside.",
}  # fmt: skip
_RANDOM = (
    " 'random/<k>' are uniform numbers in [0, 1), the same for the training and the vjp graph of a step; dropout keeps "
    "where the number is at least p."
)


def _describe(part: Part, interface: Interface) -> str:
    layers = ", ".join(f"{o.label} ({o.kind})" for o in part.origins) or "no operation"
    return f"{part.name}: {layers}. {_SAYS[interface.kind]}{_RANDOM if interface.random else ''}"

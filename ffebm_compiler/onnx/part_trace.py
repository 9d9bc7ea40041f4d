"""One digital part as a function of all that it reads, traced on tensors without numbers, and the graph's ports.

forward, training    y = F(x, theta, b, r)
vjp                  dL/dx, dL/dtheta  from  x, theta, b, r  and  dL/dy
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..ir import Program
from ..torch_private import tree_unflatten
from ..train import attribute
from ..train.steps import leaves_of
from .digital_part import Part
from .interface import TRAINING, VJP, Interface, Port, port_of
from .names import Names
from .shapes import FixedLeaf, Leaf, NumberLeaf, Shape, SizeLeaf, Space, TensorLeaf, symbolically, within
from .trace import Flat, Marks, keep, quietly, trace


@dataclass(frozen=True)
class Traced:
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


class Call:
    """A part in a space of fake tensors, called with everything that it reads as arguments."""

    def __init__(
        self, part: Part, network: nn.Module, program: Program, space: Space, shapes: Mapping[str, Shape], marks: Marks
    ):
        self.part, self.network, self.program = part, network, program
        self.space, self.shapes, self.marks = space, shapes, marks
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
        tensor = attribute(self.network, path)
        port = port_of(self.names.unique(path), path, tensor.dtype, tensor.shape)
        return _Given(port, self.space.tensor(tensor), path=path)

    def _label(self, leaf: str) -> str:
        """The user's name of a value, or of a place in it."""
        value, bracket, place = leaf.partition("[")
        return f"{self.program.labels.get(value, value)}{bracket}{place}"

    def _port(self, name: str, value: str, leaf: Leaf) -> Port | None:
        """A port for a leaf; None for one that is the same in every call."""
        if isinstance(leaf, TensorLeaf):
            return port_of(self.names.unique(name), value, leaf.dtype, leaf.sizes)
        if isinstance(leaf, NumberLeaf):
            return port_of(self.names.unique(name), value, torch.get_default_dtype(), ())
        if isinstance(leaf, SizeLeaf) and not isinstance(leaf.size, int):
            return port_of(self.names.unique(name), value, torch.int64, ())
        return None

    # --- the function ---

    def _results(self, arguments: Sequence[Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The leaves of the outputs, by name, and the tensors of the model that a layer has replaced."""
        leaves = dict(zip([g.leaf for g in self.values], arguments, strict=False))
        tensors = dict(zip([g.path for g in self.tensors], arguments[len(self.values) :], strict=False))
        values = {n: self._nest(n, leaves) for n in self.part.inputs}

        def call() -> tuple[dict[str, Any], dict[str, Tensor]]:
            found = self.part.run(self.network, values, self.marks.around)
            now = {p: attribute(self.network, p) for p in tensors}
            return found, {p: t for p, t in now.items() if t is not tensors[p]}

        found, replaced = within(self.network, tensors, call)
        return dict(leaves_of({n: found[n] for n in self.part.outputs})), replaced

    def _nest(self, name: str, leaves: Mapping[str, Any]) -> Any:
        shape = self.shapes[name]
        found = [leaves[n] if n in leaves else self.space.leaf(leaf) for n, leaf in shape.named(name)]
        return tree_unflatten(found, shape.tree)

    def forward(self, kind: str) -> Traced:
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
        given_before = {g.path: g.port for g in self.tensors}
        statistics = tuple(replace(given_before[p], name=self.names.unique(f"updated/{p}")) for p in after)
        return self._traced(kind, flat, given, outputs=results, statistics=statistics)

    def vjp(self) -> Traced | None:
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
        wanted = [(given[i].port, given[i].path or self._label(given[i].leaf)) for i in plan.wanted]
        gradients = tuple(replace(port, name=self.names.unique(f"gradient/{shown}")) for port, shown in wanted)
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
        return port or port_of(self.names.unique(name), value, torch.int64, ())

    def _traced(
        self, kind: str, flat: Flat, given: Sequence[_Given], outputs: tuple[Port, ...] = (),
        statistics: tuple[Port, ...] = (), errors: Sequence[Port] = (), gradients: tuple[Port, ...] = (),
    ) -> Traced:  # fmt: skip
        """The graph without the inputs that it does not use."""
        leaves = (self.space.shape(node.meta["val"]).leaves[0] for node in flat.random)
        random = [self._result(f"random/{k}", f"random/{k}", leaf) for k, leaf in enumerate(leaves)]
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
        return Traced(flat.module, tuple(ports[n].name for n in order), interface)


@dataclass(frozen=True)
class _Plan:
    """Fake errors by output, and the indices of the arguments that get a gradient."""

    errors: Mapping[str, Tensor]
    wanted: tuple[int, ...]


def _as_tensor(value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value
    dtype = torch.get_default_dtype() if isinstance(value, (float, torch.SymFloat)) else torch.int64
    return torch.scalar_tensor(value, dtype=dtype)

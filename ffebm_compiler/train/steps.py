"""The building blocks of the generated training step: a digital part with its VJP, a block with its phases.

The generated code (:mod:`ffebm_compiler.codegen.emit`) spells out the chain of Nest & Ernoult 2024 (algorithm 1):
inference block by block, then errors backward, a digital part by its vector-Jacobian product and an energy-based block
by two nudged phases and their contrast. Automatic differentiation runs inside the digital parts and the interaction
only, never through a relaxation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..errors import DerivativeError, Problem
from ..estimate import Estimate, Estimator, FreePhase
from ..estimate.contrast import contrast
from ..estimate.equilibrium_propagation import (
    displaced,
    energy_gradients,
    mirrored,
    nudge_strength,
    rate_and_mean,
    tangent_contrast,
    tangent_displaced,
    tangent_strength,
)
from ..estimate.literal import nudged_equilibrium
from ..estimate.wide import is_too_narrow, widened
from ..ir import DigitalBlock, EnergyBlock, Program, references
from ..solve import Gradients, Linearised, States
from ..torch_private import tree_flatten, tree_map_only
from .digital import attribute
from .operator import BlockCall, free_phase
from .processes import require_synchronised
from .profiling import NUDGED, shown

Errors = dict[str, Tensor]
"""The loss's gradient in each value, by name; what the backward chain hands on."""


class Trainable(Protocol):
    """What a training step needs of a model."""

    network: nn.Module

    @property
    def program(self) -> Program: ...

    def block_call(self, block: EnergyBlock, values: Mapping[str, Any], *, trains: bool | None = None) -> BlockCall: ...


def accumulate(errors: Errors, arrived: Mapping[str, Tensor]) -> None:
    """Adds errors to those already there: a value that is read twice gets two."""
    for name, error in arrived.items():
        errors[name] = errors[name] + error if name in errors else error


def deliver(tensors: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> None:
    """Leaves gradients in ``.grad``; a weight that is computed (a parametrization) passes its own on."""
    for name, gradient in gradients.items():
        tensor = tensors[name]
        if not tensor.requires_grad:
            continue
        torch.autograd.backward(tensor, gradient)


def detached(value: Any, needs_error: bool) -> Any:
    """A value cut from what came before it; it asks for an error where something upstream wants one."""
    if isinstance(value, Tensor):
        return value.detach().requires_grad_(needs_error) if value.is_floating_point() else value
    return tree_map_only(Tensor, lambda v: detached(v, needs_error), value)


def writable(values: Mapping[str, Any]) -> dict[str, Any]:
    """Copies of what wants an error. The user's code may write into them: they are no leaves, nor a block's states."""
    return {
        n: tree_map_only(Tensor, lambda v: v.clone() if v.requires_grad else v, value) for n, value in values.items()
    }


def leaves_of(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every value by name; those of a nest (what an LSTM returns) by the nest's name and their place in it."""
    for name, value in values.items():
        leaves, nest = tree_flatten(value)
        if nest.is_leaf():
            yield name, value
        else:
            yield from ((f"{name}[{i}]", v) for i, v in enumerate(leaves))


def tensors_of(values: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors among :func:`leaves_of` values."""
    return {n: v for n, v in leaves_of(values) if isinstance(v, Tensor)}


class DigitalPart:
    """A digital part, run once with its own history, and its vector-Jacobian product.

    Args:
        model: the ff-EBM.
        name: the digital block.
        function: its code, ``(network, *inputs) -> outputs``.
        values: everything computed so far; the outputs are added, cut from their history.
        wants: names of the inputs that an error is wanted for.
    """

    def __init__(
        self,
        model: Trainable,
        name: str,
        function: Callable[..., tuple[Any, ...]],
        values: dict[str, Any],
        wants: Sequence[str] = (),
    ):
        require_synchronised()
        self.block = _named(model.program, name, DigitalBlock)
        self.inputs = {n: detached(values[n], n in wants) for n in self.block.inputs}
        self.parameters = _parameters(self.block, model.network)
        with torch.enable_grad():
            given = writable(self.inputs) if _calls_users_code(self.block, model.network) else self.inputs
            before = {n: v._version for n, v in tensors_of(given).items()}
            results = function(model.network, *given.values())
        written = {n for n, v in tensors_of(given).items() if v.requires_grad and v._version != before[n]}
        _require_unread(model.program, self.block, written)
        self.outputs = dict(zip(self.block.outputs, results, strict=True))
        values.update({n: detached(v, False) for n, v in self.outputs.items()})

    def vjp(self, errors: Mapping[str, Tensor]) -> Errors:
        """The errors of the inputs; those of the parameters are left in ``.grad``."""
        outputs = tensors_of(self.outputs)
        arrived = {n: e for n, e in errors.items() if n in outputs and outputs[n].requires_grad}
        if not arrived:
            return {}
        targets = {n: v for n, v in tensors_of(self.inputs).items() if v.requires_grad}
        wanted = [*targets.values(), *self.parameters]
        if not wanted:
            return {}
        found = torch.autograd.grad([outputs[n] for n in arrived], wanted, list(arrived.values()), allow_unused=True)
        for parameter, gradient in zip(self.parameters, found[len(targets) :], strict=True):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
        return {n: e for n, e in zip(targets, found, strict=False) if e is not None}


def _calls_users_code(block: DigitalBlock, network: nn.Module) -> bool:
    """Whether a digital part calls layers that are not torch's own: these may write into what they are given."""
    called = (network.get_submodule(str(n.target)) for n in block.graph.nodes if n.op == "call_module")
    return any(not type(layer).__module__.startswith("torch.nn.") or _in_place(layer) for layer in called)


def _in_place(layer: nn.Module) -> bool:
    return getattr(layer, "inplace", False) is True


def _require_unread(program: Program, block: DigitalBlock, written: set[str]) -> None:
    """What a layer of the user's writes into must be read by nobody else: in training parts have copies of their own.

    Raises:
        DerivativeError: it is.
    """
    if not written:
        return
    later = set(references(program.output))
    for step in reversed(list(program)):
        if step.name == block.name:
            break
        later.update(step.inputs)
    problems = [
        Problem(
            f"layer {program.labels.get(name, name)}",
            f"returns what {block.name} writes into in place, and what is read later: "
            "a training step has no such value",
            "Write into a copy in that layer's forward, as in h = h * 2 instead of h.mul_(2).",
        )
        for name in sorted(n for n in written if n.partition("[")[0] in later)
    ]
    if problems:
        raise DerivativeError(problems)


def _parameters(block: DigitalBlock, network: nn.Module) -> list[nn.Parameter]:
    """The parameters that a digital part may read."""
    found: dict[int, nn.Parameter] = {}
    for node in block.graph.nodes:
        if node.op == "call_module":
            found.update((id(p), p) for p in network.get_submodule(str(node.target)).parameters() if p.requires_grad)
        elif node.op == "get_attr":
            found.update((id(p), p) for p in _sources(network, str(node.target)))
    return list(found.values())


def _sources(network: nn.Module, path: str) -> list[nn.Parameter]:
    """The parameter at a path, or those that it is computed from."""
    value = attribute(network, path)
    if isinstance(value, nn.Parameter):
        return [value] if value.requires_grad else []
    owner = network.get_submodule(path.rpartition(".")[0])
    return (
        [p for p in owner.parameters() if p.requires_grad] if isinstance(value, Tensor) and value.requires_grad else []
    )


class EnergyPart:
    """An energy-based block in one training step: free phase at once, then nudged phases and their contrast.

    Args:
        model: the ff-EBM.
        name: the energy block.
        values: everything computed so far; the block's outputs at equilibrium are added.
        wants: names of the inputs that an error is wanted for.
    """

    def __init__(self, model: Trainable, name: str, values: dict[str, Any], wants: Sequence[str] = ()):
        require_synchronised()
        self.block = _named(model.program, name, EnergyBlock)
        self.call = model.block_call(self.block, values)
        with torch.no_grad():
            self.free: FreePhase = free_phase(self.call)
        values.update({n: self.free.states[n] for n in self.block.outputs})
        tensors = self.call.differentiable()
        self.wanted = [n for n, v in tensors.items() if (n in wants if n in self.block.inputs else v.requires_grad)]

    @cached_property
    def is_narrow(self) -> bool:
        """Whether what is small has to be computed in a wider type than the states'."""
        return is_too_narrow(self.free.states)

    @cached_property
    def phase(self) -> FreePhase:
        """The free phase that the nudged ones start from, in a type that holds them."""
        return widened(self.free) if self.is_narrow else self.free

    @cached_property
    def linear(self) -> Linearised:
        """The block around its free equilibrium: both nudged phases and their contrast work on it."""
        return self.phase.differentiation.linearise(self.phase.bound, self.phase.states, self.wanted)

    def errors_of(self, errors: Mapping[str, Tensor]) -> Errors:
        """The errors that arrived at this block's outputs."""
        arrived = {n: errors[n] for n in self.block.outputs if n in errors}
        return {n: e.float() for n, e in arrived.items()} if self.is_narrow else arrived

    def strength(self, errors: Mapping[str, Tensor], beta: float) -> float:
        """The nudge, ``beta / max |error|``."""
        return nudge_strength(self.errors_of(errors), beta)

    def nudged(self, errors: Mapping[str, Tensor], strength: float, opposite: States | None = None) -> States:
        """The displacement of every state when ``strength * error`` pulls at the outputs.

        Args:
            opposite: the displacement under the opposite nudge, from whose mirror image this one is relaxed.
        """
        start = None if opposite is None else mirrored(opposite)
        arrived, tolerance = self.errors_of(errors), self.phase.tolerance
        with self._nudging():
            displacement, record = displaced(self.linear, arrived, strength, tolerance, start)
        self._report(record)
        return displacement

    def tangent_strength(self, errors: Mapping[str, Tensor]) -> float:
        """The nudge that :meth:`tangent` is given; zero where there is no error."""
        return tangent_strength(self.errors_of(errors))

    def tangent(self, errors: Mapping[str, Tensor], strength: float) -> States:
        """The displacement of every state in the limit of a vanishing nudge, times ``strength``."""
        with self._nudging():
            displacement, record = tangent_displaced(
                self.linear, self.errors_of(errors), strength, self.phase.tolerance
            )
        self._report(record)
        return displacement

    def nudged_states(self, errors: Mapping[str, Tensor], strength: float) -> States:
        """The nudged equilibrium itself, as a circuit finds it."""
        with self._nudging():
            states, record = nudged_equilibrium(self.phase, self.errors_of(errors), strength)
        self._report(record)
        return states

    def _report(self, *records: Any) -> None:
        self.call.nudged(self.block, Estimate({}, records))

    def contrast(self, first: States, second: States, span: float) -> Errors:
        """From two displacements ``span`` apart: the weights' gradients, left in ``.grad``; the inputs', returned."""
        if span == 0:
            return {}
        difference, mean = rate_and_mean(first, second, span)
        return self._contrasted(lambda: contrast(self.linear, difference, mean))

    def contrast_tangent(self, displacement: States, strength: float) -> Errors:
        """The same from the displacement in the limit of a vanishing nudge."""
        if strength == 0:
            return {}
        return self._contrasted(lambda: tangent_contrast(self.linear, displacement, strength))

    def contrast_states(self, first: States, second: States, span: float) -> Errors:
        """The same from two nudged states, by subtracting the energy's gradients."""
        if span == 0:
            return {}
        bound, how = self.phase.bound, self.phase.differentiation

        def found() -> Gradients:
            high, low = (energy_gradients(bound, s, self.wanted, how) for s in (first, second))
            return {n: (high[n] - low[n]) / span for n in high}

        return self._contrasted(found)

    def estimate(self, errors: Mapping[str, Tensor], estimator: Estimator) -> Errors:
        """Gradients by any other estimator."""
        arrived = {n: errors[n] for n in self.block.outputs if n in errors}
        if not arrived:
            return {}
        with shown(self.block, NUDGED):
            found = estimator(self.free, arrived, self.wanted).gradients
        return self._hand_out(found)

    @contextmanager
    def _nudging(self) -> Iterator[None]:
        with shown(self.block, NUDGED), self._precision():
            yield

    def _precision(self) -> AbstractContextManager[Any]:
        device = next(iter(self.phase.states.values())).device.type
        return torch.autocast(device, enabled=False) if self.is_narrow else nullcontext()

    def _contrasted(self, find: Callable[[], Gradients]) -> Errors:
        with self._precision():
            found = find()
        like = {**self.call.inputs, **self.call.weights}
        return self._hand_out({n: g.to(like[n].dtype) for n, g in found.items()} if self.is_narrow else found)

    def _hand_out(self, gradients: Gradients) -> Errors:
        deliver(self.call.weights, {p: g for p, g in gradients.items() if p in self.call.weights})
        return {n: g for n, g in gradients.items() if n in self.call.inputs}


def output_errors(loss: Tensor, outputs: Mapping[str, Any]) -> Errors:
    """The loss's gradient in each value of the output; what else it depends on (penalised weights) gets its own."""
    loss.backward()
    return {n: v.grad for n, v in tensors_of(outputs).items() if v.requires_grad and v.grad is not None}


def _named(program: Program, name: str, kind: type) -> Any:
    step = program.by_name.get(name)
    if isinstance(step, kind):
        return step
    raise LookupError(
        f"the model has no {kind.__name__} {name!r}: this code was generated for another partition; generate it again"
    )

"""The building blocks of a bundle's training step, none of which differentiates automatically.

A digital part runs its ONNX graphs (:class:`DigitalStep`); an energy-based block relaxes, is nudged and contrasts
(:class:`EnergyStep`). The chain between them is the generated code of :mod:`ffebm_compiler.codegen.bundle_code`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import InputError, Problem
from ...estimate import FreePhase
from ...ir import DigitalBlock, EnergyBlock, Program, Ref, Weight
from ...onnx import WEIGHTS
from ...solve import Gradients
from ...train import BlockCall, attribute
from ...train.operator import free_phase
from ...train.steps import EnergyPart, Errors, Trainable, accumulate
from .losses import Loss
from .network import set_computed
from .onnx_part import OnnxPart, grouped, part_of


class DigitalStep:
    """A digital part, run once in training mode, and its vector-Jacobian product.

    Args:
        model: the ff-EBM.
        name: the digital part.
        values: everything computed so far; the outputs are added.
    """

    def __init__(self, model: Trainable, name: str, values: dict[str, Any]):
        block = _step_of(model.program, name, DigitalBlock)
        self.network = model.network
        self.part: OnnxPart = part_of(model.network, name)
        self.ran = self.part.run_training([values[n] for n in block.inputs])
        values.update(grouped(block.outputs, self.ran.outputs))

    def vjp(self, errors: Mapping[str, Tensor]) -> Errors:
        """The errors of the inputs; those of the parameters are left in ``.grad``."""
        found = self.part.vjp(self.ran, errors)
        left = deliver(self.network, found.weights)
        return {**found.values, **left}


class WeightsStep:
    """The weights that are computed from others, and the way of their gradients back to these."""

    def __init__(self, model: Trainable):
        self.network = model.network
        self.part: OnnxPart = part_of(model.network, WEIGHTS)
        self.ran = self.part.run_training([])
        for path, value in self.ran.outputs.items():
            set_computed(model.network, path, value)

    def vjp(self, errors: Mapping[str, Tensor]) -> None:
        arrived = {p: errors[key] for p in self.ran.outputs if (key := weight_error(p)) in errors}
        deliver(self.network, self.part.vjp(self.ran, arrived).weights)


class EnergyStep(EnergyPart):
    """An energy-based block in one training step: free phase at once, then nudged phases and their contrast."""

    def __init__(self, model: Trainable, name: str, values: dict[str, Any], wants: Sequence[str] = ()):
        self.block = _step_of(model.program, name, EnergyBlock)
        self.network = model.network
        trained = [p for p in self.block.weights if trains(model.network, p)]
        self.call: BlockCall = model.block_call(self.block, values, trains=bool(trained))
        inputs = [n for n in self.call.differentiable() if n in self.block.inputs and n in wants]
        self.wanted = [*inputs, *trained]
        with torch.no_grad():
            self.free: FreePhase = free_phase(self.call)
            values.update({n: self.call.read(n, self.free.states[n]) for n in self.block.outputs})

    def _hand_out(self, gradients: Gradients) -> Errors:
        left = deliver(self.network, {p: g for p, g in gradients.items() if p in self.call.weights})
        return {**{n: g for n, g in gradients.items() if n in self.call.inputs}, **left}


def trains(network: nn.Module, path: str) -> bool:
    """Whether a weight is a parameter that is not frozen, or is computed from others."""
    tensor = attribute(network, path)
    return bool(tensor.requires_grad) or path in getattr(network, "computed", ())


def deliver(network: nn.Module, gradients: Mapping[str, Tensor]) -> Errors:
    """Adds gradients to the ``.grad`` of parameters; those of computed weights are errors of their originals."""
    left: Errors = {}
    for path, gradient in gradients.items():
        tensor = attribute(network, path)
        if path in getattr(network, "computed", ()):
            left[weight_error(path)] = gradient
        elif tensor.requires_grad:
            tensor.grad = gradient if tensor.grad is None else tensor.grad + gradient
    return left


def weight_error(path: str) -> str:
    """The error of a computed weight, beside those of values: no value's name has a space."""
    return f"weight {path}"


def loss_and_errors(model: Any, values: Mapping[str, Any], y: Any, loss: Loss) -> tuple[Tensor, Errors]:
    """The loss of the model's result, and its gradient in each value of the program.

    Raises:
        InputError: the loss's errors are no nest like the result's, or of other shapes.
    """
    outputs = model.pack_output(values)
    value, given = loss(outputs, y)
    errors: Errors = {}
    problems: list[Problem] = []
    for where, leaf, output, error in _leaves(model.program.output, outputs, given, "errors"):
        if error is None:
            continue
        if not isinstance(error, Tensor) or not isinstance(output, Tensor) or error.shape != output.shape:
            problems.append(_misfit(where, output, error))
        elif isinstance(leaf, Ref):
            accumulate(errors, {leaf.name: error.detach().to(output.dtype)})
        elif isinstance(leaf, Weight):
            accumulate(errors, deliver(model.network, {leaf.path: error.detach()}))
    InputError.raise_if(problems)
    return torch.as_tensor(value).detach(), errors


_NEST = "Return (loss, errors) with the loss's gradients in the nest of the outputs, None where there is none."


def _misfit(where: str, output: Any, error: Any) -> Problem:
    def shown(value: Any) -> str:
        return f"of the shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"

    return Problem(f"{where} of the loss", f"are {shown(error)}, the output is {shown(output)}", _NEST)


def _leaves(nest: Any, outputs: Any, errors: Any, where: str) -> Iterator[tuple[str, Any, Any, Any]]:
    """The leaves of the program's result, the model's and the errors, side by side; None stands for no errors."""
    if isinstance(nest, Mapping):
        for k, n in nest.items():
            yield from _leaves(n, outputs[k], _part(errors, k, where), f"{where}[{k!r}]")
    elif isinstance(nest, (list, tuple)) or (isinstance(nest, Ref) and isinstance(outputs, (list, tuple))):
        within = [Ref(f"{nest.name}[{i}]") for i in range(len(outputs))] if isinstance(nest, Ref) else nest
        for i, n in enumerate(within):
            yield from _leaves(n, outputs[i], _part(errors, i, where), f"{where}[{i}]")
    else:
        yield where, nest, outputs, errors


def _part(errors: Any, key: Any, where: str) -> Any:
    """What the errors hold for a part of the result."""
    try:
        return None if errors is None else errors[key]
    except (KeyError, IndexError, TypeError) as failure:
        what = f"have nothing for [{key!r}] of the result"
        raise InputError.at(f"{where} of the loss", what, _NEST) from failure


def _step_of(program: Program, name: str, kind: type) -> Any:
    step = program.by_name.get(name)
    if isinstance(step, kind):
        return step
    raise LookupError(
        f"the bundle has no {kind.__name__} {name!r}: this code was generated for another; generate it again"
    )


__all__ = ["DigitalStep", "EnergyStep", "WeightsStep", "accumulate", "loss_and_errors"]

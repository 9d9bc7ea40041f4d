"""Losses and their gradients in closed form: ``(outputs, target) -> (loss, dL/d outputs)``, means over what is summed.

cross entropy            L = - mean_n sum_c t_nc log softmax(z_n)_c        dL/dz = (softmax(z) sum_c t_c - t) / N
squared error            L = mean (z - t)^2                                dL/dz = 2 (z - t) / numel
absolute error           L = mean |z - t|                                  dL/dz = sign(z - t) / numel
Huber, threshold 1       quadratic below it, linear above                  dL/dz = clamp(z - t, -1, 1) / numel
binary cross entropy     L = mean [softplus(z) - t z]                      dL/dz = (sigmoid(z) - t) / numel
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ...errors import InputError, OptionError, close_matches

Loss = Callable[[Any, Any], tuple[Tensor, Any]]
"""``(outputs, target) -> (loss, errors)``: errors are gradients in the nest of the outputs, or None."""


def cross_entropy(outputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax cross entropy of logits (batch, classes, ...); classes (batch, ...), or probabilities of their shape."""
    _require_tensors("cross_entropy", outputs, target)
    wanted = outputs.shape if target.is_floating_point() else (outputs.shape[0], *outputs.shape[2:])
    if outputs.dim() < 2 or target.shape != torch.Size(wanted):
        raise _misfit(
            "cross_entropy", outputs, target, "class indices (batch, ...) or probabilities of the outputs' shape"
        )
    probabilities = target.to(outputs) if target.is_floating_point() else _one_hot(outputs, target)
    count = outputs.numel() // outputs.shape[1]
    logs = outputs.log_softmax(1)
    loss = -(probabilities * logs).sum() / count
    return loss, (logs.exp() * probabilities.sum(1, keepdim=True) - probabilities) / count


def _one_hot(outputs: Tensor, target: Tensor) -> Tensor:
    classes = outputs.shape[1]
    outside = (target < 0) | (target >= classes)
    if bool(outside.any()):
        worst = int(target[outside].flatten()[0])
        raise InputError.at(
            "target of cross_entropy", f"has the class {worst}", f"Give classes from 0 to {classes - 1}."
        )
    return torch.zeros_like(outputs).scatter_(1, target.long().unsqueeze(1), 1.0)


def mse(outputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Mean squared error."""
    difference = _difference("mse", outputs, target)
    return difference.square().mean(), difference * (2 / difference.numel())


def l1(outputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Mean absolute error."""
    difference = _difference("l1", outputs, target)
    return difference.abs().mean(), difference.sign() / difference.numel()


def huber(outputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Squared below a difference of 1, absolute above."""
    difference = _difference("huber", outputs, target)
    size = difference.abs()
    loss = torch.where(size < 1, size.square() / 2, size - 0.5).mean()
    return loss, difference.clamp(-1, 1) / difference.numel()


def binary_cross_entropy(outputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Binary cross entropy of logits with probabilities of their shape."""
    difference = _difference("binary_cross_entropy", outputs.sigmoid(), target)
    loss = (torch.nn.functional.softplus(outputs) - target.to(outputs) * outputs).mean()
    return loss, difference / difference.numel()


def _difference(name: str, outputs: Tensor, target: Tensor) -> Tensor:
    _require_tensors(name, outputs, target)
    if outputs.shape != target.shape:
        raise _misfit(name, outputs, target, "a target of the outputs' shape")
    return outputs - target.to(outputs)


def _require_tensors(name: str, outputs: Any, target: Any) -> None:
    assert isinstance(outputs, Tensor), type(outputs)
    if not isinstance(target, Tensor):
        raise InputError.at(f"target of {name}", f"is a {type(target).__name__}", "Give a tensor or an array.")


def _misfit(name: str, outputs: Tensor, target: Tensor, wanted: str) -> InputError:
    what = f"is of the shape {tuple(target.shape)}, the outputs of {tuple(outputs.shape)}"
    return InputError.at(f"target of {name}", what, f"Give {wanted}.")


LOSSES: Mapping[str, Loss] = {
    "cross_entropy": cross_entropy,
    "mse": mse,
    "l1": l1,
    "huber": huber,
    "binary_cross_entropy": binary_cross_entropy,
}


def loss_of(loss: str | Loss, output: str | None = None) -> Loss:
    """A loss by name, or the user's own.

    Args:
        output: which of several outputs a named loss is of: ``"logits"``, ``"heads.1"``; None is the only real one.

    Raises:
        OptionError: there is none of that name, or a loss of one's own is to be of one output.
    """
    if callable(loss):
        if output is not None:
            what = f"is {output!r}, and the loss is a function, which gets all outputs"
            raise OptionError.at("option loss_output", what, "Let the function choose, or name a loss.")
        return loss
    if loss not in LOSSES:
        raise OptionError.at("option loss", f"is {loss!r}", close_matches(str(loss), [*LOSSES]))
    return _on_one_output(loss, output)


# --- a named loss of a model with several outputs -----------------------------------------------------------


def _on_one_output(loss: str, output: str | None) -> Loss:
    """The named loss of one output; the others get no errors."""

    def of_one(outputs: Any, target: Any) -> tuple[Tensor, Any]:
        place, chosen = _chosen(loss, output, dict(_real(outputs)))
        value, error = LOSSES[loss](chosen, target)
        return value, _in_nest(outputs, place, error)

    return of_one


Place = tuple[Any, ...]
"""Where in a nest something is: keys and numbers, outermost first."""


def _real(nest: Any, place: Place = ()) -> Iterator[tuple[Place, Tensor]]:
    """Every tensor of real numbers."""
    if isinstance(nest, Tensor) and nest.is_floating_point():
        yield place, nest
    elif isinstance(nest, Mapping):
        for key, inner in nest.items():
            yield from _real(inner, (*place, key))
    elif isinstance(nest, (list, tuple)):
        for i, inner in enumerate(nest):
            yield from _real(inner, (*place, i))


def _chosen(loss: str, output: str | None, found: Mapping[Place, Tensor]) -> tuple[Place, Tensor]:
    named = {".".join(map(str, place)): place for place in found}
    if output is None and len(found) == 1:
        return next(iter(found.items()))
    if output is not None and (place := named.get(output, named.get(output.removeprefix("output.")))) is not None:
        return place, found[place]
    if not found:
        what = f"is {loss!r}, and the model returns no real numbers"
        raise OptionError.at("option loss", what, "Train a model that returns some.")
    names = ", ".join(n or "output" for n in named)
    if output is not None:
        what, how = f"is {output!r}; the model returns {names}", close_matches(output, [*named])
        raise OptionError.at("option loss_output", what, how)
    how = (
        f'Say which: loss_output="{next(iter(named))}" (--loss-output on the command line), '
        "or give a function (outputs, target) -> (loss, errors)."
    )
    raise OptionError.at("option loss", f"is {loss!r}, and the model returns several outputs: {names}", how)


def _in_nest(outputs: Any, place: Place, error: Tensor) -> Any:
    """The error at its place in the nest of the outputs, None everywhere else."""
    if not place:
        return error
    keys = outputs if isinstance(outputs, Mapping) else range(len(outputs))
    inner = {k: _in_nest(outputs[k], place[1:], error) if k == place[0] else None for k in keys}
    return inner if isinstance(outputs, Mapping) else tuple(inner.values())

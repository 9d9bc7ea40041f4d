"""Single metrics of a chip's output, relaxation and cost; what has no meaning for a model is None."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from ..errors import InputError, Problem
from ..torch_private import tree_leaves
from .metrics import Measured


def first_tensor(output: Any) -> Tensor:
    """A model's output, or the first tensor of several."""
    tensors = [t for t in tree_leaves(output) if isinstance(t, Tensor) and t.is_floating_point()]
    if not tensors:
        raise InputError.at(
            "model", f"returned {type(output).__name__}", "Return a tensor, or a tuple or dict of tensors."
        )
    return tensors[0]


def supervised_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of classes, mean squared error of real targets."""
    if targets.is_floating_point():
        return nn.functional.mse_loss(outputs, targets.to(outputs))
    return nn.functional.cross_entropy(outputs, targets)


def misfit(outputs: Tensor, targets: Tensor) -> Problem | None:
    """What is wrong with targets for such outputs."""
    shapes = f"y has the shape {tuple(targets.shape)}, the model's output {tuple(outputs.shape)}"
    if targets.is_floating_point():
        remedy = "Give a real number for each output, or classes as whole numbers."
        return None if outputs.shape == targets.shape else Problem("data", shapes, remedy)
    if outputs.ndim < 2 or outputs.shape[:1] + outputs.shape[2:] != targets.shape:
        return Problem("data", shapes, "Give one class for each sample, or real targets for each output.")
    if int(targets.max()) >= outputs.shape[1]:
        what = f"y has the class {int(targets.max())}, and the model has {outputs.shape[1]} outputs"
        return Problem("data", what, "Number the classes from 0, and give the model an output for each.")
    return None


def against_digital(outputs: Tensor, wanted: Tensor) -> Measured:
    """How far the output is from the digital model's: by its classes, where it has some, and by its values."""
    has_classes = wanted.ndim >= 2 and wanted.shape[1] > 1
    scale = float(wanted.double().norm()) or 1.0
    return {
        "agreement": share(outputs.argmax(1) == wanted.argmax(1)) if has_classes else None,
        "output_error": float((outputs.double() - wanted.double()).norm()) / scale,
    }


def share(which: Tensor) -> float:
    return float(which.double().mean())


def convergence(relaxations: list[Any]) -> Measured:
    """Of the worst block and batch."""
    if not relaxations:
        return {"residual": None, "sweeps": None, "converged": None}
    residuals = [float(r.residual) for r in relaxations]
    return {
        "residual": math.nan if any(map(math.isnan, residuals)) else max(residuals),
        "sweeps": float(max(r.sweeps for r in relaxations)),
        "converged": sum(bool(r.converged) for r in relaxations) / len(relaxations),
    }


def cost_of_one(chip: Any, sample: tuple[Tensor, ...]) -> Measured:
    """Of inferring and of training with one sample."""
    cost = chip.cost(*sample)
    inference, training = cost.inference, cost.training
    return {
        "energy": float(inference.energy),
        "latency": float(inference.latency),
        "training_energy": float(training.energy),
        "training_latency": float(training.latency),
    }

"""Compares a model's gradient with the exact one, parameter by parameter.

The exact gradient is automatic differentiation through the equilibrium (the implicit function theorem on the
relaxation's own sweep) in float64, relaxed to 1e-12, with the same reverse gains. It shares no code with the nudged
phases. Both gradients come from copies: the model, its statistics and its ``.grad`` stay as they are.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .errors import ConvergenceWarning, InputError, OptionError
from .estimate import Estimator, Implicit
from .ffebm import FFEBM
from .model.converted_module import runner_of
from .torch_private import tree_map

ZERO = 1e-9
"""An exact gradient this small, relative to the largest, is zero: a bias before a batch norm."""


@dataclass(frozen=True)
class ParameterComparison:
    """One parameter's gradients.

    Attributes:
        name: the parameter.
        cosine: between the two gradients; for an exact gradient of zero, NaN.
        error: norm of the difference relative to the exact gradient's norm; for an exact gradient of zero, the norm
            of the estimate relative to the largest gradient of the model.
        exact_is_zero: whether the exact gradient is zero.
    """

    name: str
    cosine: float
    error: float
    exact_is_zero: bool


class GradientComparison(Mapping[str, tuple[float, float]]):
    """A mapping of parameter names to (cosine, relative error), in the model's order.

    Attributes:
        parameters: the same with names and zero gradients marked.
        estimator: what is compared.
    """

    def __init__(self, parameters: tuple[ParameterComparison, ...], estimator: str):
        self.parameters = parameters
        self.estimator = estimator
        self._by_name = {p.name: p for p in parameters}

    def __getitem__(self, name: str) -> tuple[float, float]:
        p = self._by_name[name]
        return p.cosine, p.error

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)

    @property
    def worst(self) -> ParameterComparison:
        """The parameter with the lowest cosine, among those whose exact gradient is not zero."""
        judged = [p for p in self.parameters if not p.exact_is_zero]
        return min(judged or self.parameters, key=lambda p: p.cosine)

    def failing(self, cosine: float = 0.999, zero: float = 1e-4) -> tuple[ParameterComparison, ...]:
        """Parameters below a cosine, or, where the exact gradient is zero, with an estimate above ``zero``."""
        return tuple(p for p in self.parameters if (p.error > zero if p.exact_is_zero else not p.cosine >= cosine))

    def __str__(self) -> str:
        width = max((len(p.name) for p in self.parameters), default=9)
        lines = [f"{'parameter':<{width}}  {'cosine':>12}  {'relative error':>14}"]
        for p in self.parameters:
            shown = "exact is 0" if p.exact_is_zero else f"{p.cosine:.9f}"
            lines.append(f"{p.name:<{width}}  {shown:>12}  {p.error:>14.2e}")
        w = self.worst
        return "\n".join(
            [*lines, f"worst of {self.estimator}: {w.name}, cosine {w.cosine:.9f}, relative error {w.error:.2e}"]
        )

    def plot(self, path: str | Path) -> Path:
        """Draws 1 - cosine and relative error per parameter (needs matplotlib, from the viz extra)."""
        from .view.gradients import plot_gradients

        rows = [(p.name, p.cosine, p.error, p.exact_is_zero) for p in self.parameters]
        return plot_gradients(rows, self.estimator, Path(path))


def compare_gradients(
    model: FFEBM,
    x: Any,
    y: Any,
    loss_fn: Callable[[Any, Any], Tensor],
    *,
    reference: Estimator | None = None,
    seed: int = 0,
) -> GradientComparison:
    """The model's gradient against the exact one, for one batch.

    Args:
        model: a converted model, on a chip or not; its current estimator, or its chip, is judged.
        x: its input: a tensor, a tuple of arguments, or a dict of keywords.
        y: the target, handed to ``loss_fn``.
        loss_fn: ``(output, y) -> scalar tensor``.
        reference: what counts as exact; implicit differentiation by default.
        seed: of the random numbers that the digital parts draw (dropout), alike in both runs.

    Raises:
        OptionError: the model is not a converted one, or has no parameter that requires grad.
        InputError: the loss is not a scalar, or does not depend on the model.
    """
    if not isinstance(model, FFEBM):
        raise OptionError.at(
            "model",
            f"is a {type(model).__name__}",
            "Convert it first: compare_gradients(fc.convert(net), x, y, loss_fn).",
        )
    if not any(p.requires_grad for p in model.parameters()):
        raise OptionError.at(
            "model", "has no parameter that requires grad", "Call requires_grad_() on those to compare."
        )
    args, kwargs = as_call(x)
    judged = copy.deepcopy(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the same gains for both, measured once
        judged.ensure_gains(*args, **kwargs)
    _share_gains(judged, judged)  # and not refreshed by this step
    truth = exact_gradients(judged, x, y, loss_fn, reference=reference, seed=seed)
    estimate = loss_gradients(judged, x, y, loss_fn, seed=seed)
    return GradientComparison(compare_parameters(estimate, truth), model.estimator_name)


def exact_gradients(
    model: FFEBM,
    x: Any,
    y: Any,
    loss_fn: Callable[[Any, Any], Tensor],
    *,
    reference: Estimator | None = None,
    seed: int = 0,
) -> dict[str, Tensor]:
    """The exact gradient by parameter, in float64, from a copy with the reverse gains that the model has.

    Of a model on a chip it is that of the ideal executor with the same weights.
    """
    exact = copy.deepcopy(model).double()
    _share_gains(exact, model)
    sweeps = max(2000, model.execution.tolerance.max_sweeps)
    with exact.as_ideal(), exact.using(estimator=reference or Implicit(), tolerance=1e-12, max_sweeps=sweeps):
        return loss_gradients(exact, _wide(x), _wide(y), _wide_loss(loss_fn), seed=seed)


def _share_gains(model: FFEBM, other: FFEBM) -> None:
    """Gives a model the reverse gains of another copy of it, until its weights change."""
    runner_of(model).block_gains.use_those_of(runner_of(other).block_gains)


def as_call(x: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """(args, kwargs) of a model's call: a tuple is several arguments, a dict keywords, anything else one argument."""
    if isinstance(x, Mapping):
        return (), dict(x)
    return (x, {}) if isinstance(x, tuple) else ((x,), {})


def _wide(value: Any) -> Any:
    return tree_map(lambda v: v.double() if isinstance(v, Tensor) and v.is_floating_point() else v, value)


def _wide_loss(loss_fn: Callable[[Any, Any], Tensor]) -> Callable[[Any, Any], Tensor]:
    """A loss with tensors of its own, such as class weights, in float64 too."""
    return copy.deepcopy(loss_fn).double() if isinstance(loss_fn, nn.Module) else loss_fn


def loss_gradients(
    model: nn.Module, x: Any, y: Any, loss_fn: Callable[[Any, Any], Tensor], *, seed: int = 0
) -> dict[str, Tensor]:
    """The gradient by parameter of one backward pass of the model, in float64. It replaces the model's ``.grad``."""
    args, kwargs = as_call(x)
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(seed)
        model.zero_grad(set_to_none=True)
        loss = loss_fn(model(*args, **kwargs), y)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            shape = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise InputError.at(
                "loss_fn", f"returned {shape}", "Return a scalar tensor: a mean or a sum over the batch."
            )
        if not loss.requires_grad:
            raise InputError.at(
                "loss_fn",
                "does not depend on the model's parameters",
                "Compute the loss from the output, without detach().",
            )
        loss.backward()
    return {
        n: (torch.zeros_like(p) if p.grad is None else p.grad).double()
        for n, p in model.named_parameters()
        if p.requires_grad
    }


def compare_parameters(estimate: Mapping[str, Tensor], truth: Mapping[str, Tensor]) -> tuple[ParameterComparison, ...]:
    """Two gradients by parameter, the second taken as exact."""
    largest = max((float(t.norm()) for t in truth.values()), default=0.0)
    rows = []
    for name, exact in truth.items():
        got, norm = estimate[name], float(exact.norm())
        if norm <= ZERO * largest:
            rows.append(ParameterComparison(name, float("nan"), float(got.norm()) / largest if largest else 0.0, True))
            continue
        scale = max(norm * float(got.norm()), 1e-300)
        rows.append(
            ParameterComparison(name, float((got * exact).sum()) / scale, float((got - exact).norm()) / norm, False)
        )
    return tuple(rows)

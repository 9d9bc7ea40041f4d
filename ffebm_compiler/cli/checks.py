"""``ffebm check``: is the converted model the model, does it relax, and are its gradients right."""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..compare import GradientComparison, compare_gradients
from ..errors import OptionError
from ..ffebm import FFEBM
from ..model.guessed_inputs import candidates
from ..solve import Relaxation
from .arrays import tensors_in
from .conversion import converted, example_inputs

EXACT = 1e-5
"""Relative difference of outputs at block size 1 that float32 rounding explains."""


@dataclass(frozen=True)
class CheckReport:
    """What was found; ``str()`` prints it.

    Attributes:
        output_error: relative difference of the outputs at block size 1.
        relaxations: how each block relaxed.
        gradients: each parameter's gradient against the exact one; None where the model has no parameter to train.
        threshold: the least cosine that passes.
    """

    output_error: float
    relaxations: tuple[Relaxation, ...]
    gradients: GradientComparison | None
    threshold: float

    @property
    def failures(self) -> tuple[str, ...]:
        return tuple(self._failures())

    @property
    def ok(self) -> bool:
        return not self.failures

    def _failures(self) -> Iterator[str]:
        if not self.output_error <= EXACT:
            yield f"at block size 1 the output differs by {self.output_error:.1e}"
        yield from (
            f"{r.block} did not converge: residual {r.residual:.1e} after {r.sweeps} sweeps"
            for r in self.relaxations
            if not r.converged
        )
        if self.gradients is not None:
            for p in self.gradients.failing(self.threshold):
                yield f"the gradient of {p.name} is wrong: " + (
                    f"{p.error:.1e}, exactly 0"
                    if p.exact_is_zero
                    else f"cosine {p.cosine:.6f}, relative error {p.error:.1e}"
                )

    def __str__(self) -> str:
        lines = [f"block size 1 against the model: relative difference of outputs {self.output_error:.1e}"]
        lines += map(relaxation_line, self.relaxations)
        lines += (
            ["no parameter requires grad: no gradients to compare"]
            if self.gradients is None
            else ["", str(self.gradients)]
        )
        verdict = [f"FAILED: {f}" for f in self.failures] or ["all checks passed"]
        return "\n".join([*lines, "", *verdict])


def relaxation_line(r: Relaxation) -> str:
    """How a block relaxed."""
    verdict = "converged" if r.converged else "NOT CONVERGED"
    return f"{r.block}: {verdict} in {r.sweeps} sweeps, residual {r.residual:.1e}"


def check_model(network: nn.Module, options: argparse.Namespace) -> CheckReport:
    """Runs all checks, on example inputs or on ones that are guessed from the first layer."""
    inputs = example_inputs(options, options.batch) or guessed_inputs(network, options.batch, options.seed)
    exact = converted(network, options, inputs, block_size=1)
    model = converted(network, options, inputs)
    error, relaxations = _output_error(network, exact, inputs), _relaxed(model, inputs)
    return CheckReport(error, relaxations, _gradients(model, inputs, options.seed), options.threshold)


def guessed_inputs(network: nn.Module, batch: int, seed: int) -> tuple[Tensor, ...]:
    """A batch of the first guessed shape that the model accepts."""
    generator = torch.Generator().manual_seed(seed)
    trial = copy.deepcopy(network).eval()
    for sample in candidates(network):
        x = torch.randn((batch, *sample.shape[1:]), generator=generator).to(sample)
        try:
            with torch.no_grad():
                trial(x)
        except Exception:  # whatever the model says to a shape that does not fit
            continue
        return (x,)
    raise OptionError.at(
        "option --input-shape",
        "is needed: no input could be guessed from the model's first layer",
        "Give the shape of each input, for example --input-shape 1,3,32,32.",
    )


def _output_error(network: nn.Module, exact: FFEBM, inputs: tuple[Tensor, ...]) -> float:
    with torch.no_grad():
        wanted = tensors_in(copy.deepcopy(network).eval()(*inputs))
        got = tensors_in(copy.deepcopy(exact).eval()(*inputs))
    return max((_relative(a, b) for a, b in zip(got, wanted, strict=True)), default=0.0)


def _relative(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm().clamp(min=1e-30))


def _relaxed(model: FFEBM, inputs: tuple[Tensor, ...]) -> tuple[Relaxation, ...]:
    settled = copy.deepcopy(model).eval()
    with torch.no_grad():
        settled(*inputs)
    return settled.relaxation


def _gradients(model: FFEBM, inputs: tuple[Tensor, ...], seed: int) -> GradientComparison | None:
    """In the mode that the model came in; the loss is a random linear function of every output."""
    if not any(p.requires_grad for p in model.parameters()):
        return None

    def loss(output: Any, _: Any) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        parts = [
            (t * torch.randn(t.shape, generator=generator).to(t)).sum()
            for t in tensors_in(output)
            if t.is_floating_point()
        ]
        return torch.stack(parts).sum() / max(len(inputs[0]), 1)

    return compare_gradients(model, inputs, None, loss)

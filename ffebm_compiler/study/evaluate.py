"""One point of a study: the model on one emulated chip, against the digital model and the exact gradient.

    output error = |o_chip - o_digital| / |o_digital|,    cosine_p = <g_chip, g> / (|g_chip| |g|) for each parameter p

with o over all samples, and g the gradient by implicit differentiation through the equilibrium in float64. Everything
runs in evaluation mode. A chip is calibrated on the first samples and judged on the ones after them.
"""

from __future__ import annotations

import math
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..chip.hardware import Hardware, stream
from ..compare import compare_parameters, exact_gradients, loss_gradients
from ..errors import ConvergenceWarning, InputError, OptionError, Problem
from ..ffebm import FFEBM
from .metrics import Measured
from .point import Point
from .samples import Samples, digest_of
from .scores import against_digital, convergence, cost_of_one, first_tensor, misfit, share, supervised_loss

BACKEND = "analog-emu"


class Subject(Protocol):
    """A model and its data, as every process of a study can make them for itself; it must pickle."""

    def convert(self, conversion: Mapping[str, Any]) -> FFEBM:
        """The converted model; ``conversion`` holds what is swept of its options."""
        ...

    def samples(self, needed: int) -> Samples:
        """The data; of random data, as many samples as are needed."""
        ...


@dataclass(frozen=True)
class Effort:
    """How much is measured at a point.

    Attributes:
        calibrate: samples that a chip is calibrated on, the first ones.
        samples: at most so many of the rest are inferred.
        gradient_samples: of these, how many the gradient is taken of; 0 leaves gradients out.
        batch: samples at a time.
        seed: of the loss where there are no targets.
    """

    calibrate: int = 64
    samples: int = 256
    gradient_samples: int = 32
    batch: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"calibrate": 1, "samples": 1, "gradient_samples": 0, "batch": 1}
        problems = [
            Problem(f"option {name}", f"is {getattr(self, name)!r}", f"Give a whole number from {low}.")
            for name, low in least.items()
            if not isinstance(getattr(self, name), int) or getattr(self, name) < low
        ]
        OptionError.raise_if(problems)


@dataclass(frozen=True)
class Reference:
    """What a chip is compared with.

    Attributes:
        model: converted, its gains measured.
        outputs: of the digital model, for every sample.
        gradient: the exact one by parameter; empty where none is wanted or there is nothing to train.
    """

    model: FFEBM
    outputs: Tensor
    gradient: Mapping[str, Tensor]


class Bench:
    """Measures points. Keeps what points with the same conversion share."""

    def __init__(self, subject: Subject, base: Hardware, effort: Effort):
        self.subject, self.base, self.effort = subject, base, effort
        given = subject.samples(effort.calibrate + effort.samples)
        if len(given) <= effort.calibrate:
            raise OptionError.at(
                "option calibrate",
                f"takes {effort.calibrate} of {len(given)} samples: none is left to judge the chips on",
                "Calibrate on fewer, or give more data.",
            )
        self.calibration = given.part(0, effort.calibrate)
        self.samples = given.part(effort.calibrate, effort.calibrate + effort.samples)
        self._reference: tuple[dict[str, Any], Reference] | None = None

    def fingerprint(self) -> dict[str, str]:
        """The weights and the data in short: what results are results of."""
        weights = self.subject.convert({}).network.state_dict()
        data = Samples(*_both(self.calibration, self.samples))
        return {"weights": digest_of({k: v for k, v in weights.items() if isinstance(v, Tensor)}), "data": data.digest}

    def measure(self, point: Point) -> Measured:
        """Every metric at one point.

        Raises:
            FFEBMError: the point can't be measured.
        """
        began = time.perf_counter()
        reference = self.reference(point.conversion)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # it is among what is measured
            chip = self._chip(reference.model, point)
            outputs, relaxations = self._inferred(chip)
            metrics = {
                **self._accuracy(outputs),
                **against_digital(outputs, reference.outputs),
                **convergence(relaxations),
                **self._aligned(chip, reference.gradient),
                **cost_of_one(chip, self.samples.part(0, 1).inputs),
            }
        return {**metrics, "seconds": time.perf_counter() - began}

    def digital(self) -> Measured:
        """The metrics of the digital model itself."""
        return self._accuracy(self.reference({}, gradient=False).outputs)

    # --- what points share -----------------------------------------------------------------------------

    def reference(self, conversion: dict[str, Any], gradient: bool = True) -> Reference:
        """Kept for as long as the next points ask for the same: points are ordered so that they do."""
        asked = {**conversion, "gradient": gradient}
        if self._reference is None or self._reference[0] != asked:
            self._reference = (asked, self._made(conversion, gradient))
        return self._reference[1]

    def _made(self, conversion: Mapping[str, Any], gradient: bool) -> Reference:
        model = self.subject.convert(conversion).eval()
        with torch.no_grad():
            outputs = _joined(model.to_feedforward().eval(), self.samples.batches(self.effort.batch))
        self._check_targets(outputs)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.ensure_gains(*self.calibration.inputs)
            exact = self._exact(model) if gradient else {}
        return Reference(model, outputs, exact)

    def _exact(self, model: FFEBM) -> dict[str, Tensor]:
        wanted = self.effort.gradient_samples > 0 and any(p.requires_grad for p in model.parameters())
        return exact_gradients(model, *self._gradient_call()) if wanted else {}

    def _gradient_call(self) -> tuple[tuple[Tensor, ...], Tensor | None, Callable[[Any, Any], Tensor]]:
        part = self.samples.part(0, self.effort.gradient_samples)
        return part.inputs, part.targets, self._loss

    def _check_targets(self, outputs: Tensor) -> None:
        problem = None if self.samples.targets is None else misfit(outputs, self.samples.targets)
        if problem is not None:
            raise InputError(problem)

    # --- one chip --------------------------------------------------------------------------------------

    def _chip(self, model: FFEBM, point: Point) -> nn.Module:
        chip: Any = model.lower(
            BACKEND, hardware=point.hardware(self.base), chip_seed=point.chip, noise_seed=point.chip
        )
        chip.eval()
        chip.calibrate(*self.calibration.inputs)
        return chip  # type: ignore[no-any-return]

    def _inferred(self, chip: Any) -> tuple[Tensor, list[Any]]:
        outputs, relaxations = [], []
        with torch.no_grad():
            for batch in self.samples.batches(self.effort.batch):
                outputs.append(first_tensor(chip(*batch.inputs)))
                relaxations += chip.relaxation
        return torch.cat(outputs), relaxations

    def _accuracy(self, outputs: Tensor) -> Measured:
        targets = self.samples.targets
        if targets is None:
            return {"accuracy": None, "loss": None}
        right = None if targets.is_floating_point() else share(outputs.argmax(1) == targets)
        return {"accuracy": right, "loss": float(supervised_loss(outputs.double(), targets))}

    def _aligned(self, chip: nn.Module, exact: Mapping[str, Tensor]) -> Measured:
        if not exact:
            return {"cosine_worst": None, "cosine_median": None}
        comparisons = compare_parameters(loss_gradients(chip, *self._gradient_call()), exact)
        cosines = [p.cosine for p in comparisons if not p.exact_is_zero] or [math.nan]
        return {"cosine_worst": min(cosines), "cosine_median": statistics.median(cosines)}

    def _loss(self, output: Any, targets: Tensor | None) -> Tensor:
        """Of the targets; without any, a random linear function of the output, so that every output has an error."""
        outputs = first_tensor(output)
        if targets is not None:
            return supervised_loss(outputs, targets)
        weights = torch.randn(outputs.shape, generator=stream(self.effort.seed, "study loss"), dtype=torch.float64)
        return (outputs * weights.to(outputs)).sum() / len(outputs)


def _joined(model: nn.Module, batches: Iterator[Samples]) -> Tensor:
    try:
        return torch.cat([first_tensor(model(*batch.inputs)) for batch in batches])
    except (RuntimeError, TypeError, ValueError, IndexError) as failure:
        if isinstance(failure, InputError):
            raise
        line = str(failure).splitlines()[0] if str(failure) else type(failure).__name__
        raise InputError.at(
            "data",
            f"the model does not take it: {line}",
            "Give inputs of the shape and type that the model expects (--precision float32 for one made for that).",
        ) from failure


def _both(first: Samples, second: Samples) -> tuple[tuple[Tensor, ...], Tensor | None]:
    inputs = tuple(torch.cat(pair) for pair in zip(first.inputs, second.inputs, strict=True))
    if first.targets is None or second.targets is None:
        return inputs, None
    return inputs, torch.cat([first.targets, second.targets])

"""What a conductance does: it is written with an error, it may be stuck, it drifts, and it is read with noise.

    written   g = max(g_target + sigma_w xi, 0),        sigma_w = g_max max(sum_k c_k (g_target/g_max)^k, 0)
    drifted   g(t) = g (t/t_0)^-nu  from t_0 on,    nu = max(mu(g_target) + spread(g_target) xi', 0), a device's own xi'
    read      g(t) + sigma_r xi'',                      sigma_r = g(t) min(q (g/g_max)^-p, cap) h(t)

with standard normal xi, xi' and xi''; mu and spread are numbers or clipped linear laws of ``ln(g_target/g_max)``; ``h =
1``, or for a 1/f spectrum ``h = sqrt(ln((t + t_r) / (2 t_r)))``. These are the forms fitted to a million phase-change
devices by Joshi et al., "Accurate deep neural network inference using computational phase-change memory", Nature
Communications 11, 2473 (2020); the growth of the read noise is from Nandakumar et al., "Phase-change memory models for
deep learning training and inference", ICECS 2019. Conductances are in siemens, times in seconds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from .quantity import LogLaw
from .specification import Hardware

READ_TIME = 250e-9
"""t_r, s: the duration of one read in the noise law of a 1/f spectrum (Nandakumar et al. 2019)."""

SMALLEST_RATIO = 1e-7
"""Of g/g_max in a logarithmic law: a device that is off has a finite exponent."""

STUCK_LOW, STUCK_HIGH = -1, 1


@dataclass(frozen=True)
class Devices:
    """Devices of any shape.

    Attributes:
        conductance: as written, in S.
        target: what each was last told to be, in S; a pulsed device is told nothing, so there it is the conductance.
        stuck: int8, :data:`STUCK_LOW`, 0 or :data:`STUCK_HIGH`; None if no device is stuck.
        drift_score: where a device stands in the spread of drift exponents, in standard deviations; None for no spread.
        step_factor: of the change by a pulse; None if all are 1.
    """

    conductance: Tensor
    target: Tensor
    stuck: Tensor | None = None
    drift_score: Tensor | None = None
    step_factor: Tensor | None = None


def manufacture(target: Tensor, hardware: Hardware, devices: Generator, writing: Generator) -> Devices:
    """New devices at a target: what they are is drawn from ``devices``, how they are written from ``writing``."""
    stuck_source, drift_source, step_source = _children(devices, 3)
    stuck = stuck_mask(target, hardware, stuck_source)
    step_spread = hardware.step_variation
    aim = at_levels(target, hardware)
    return Devices(
        conductance=held(programmed(aim, hardware, writing), stuck, hardware),
        target=aim,
        stuck=stuck,
        drift_score=normal(target, drift_source) if hardware.drift_spread != 0 else None,
        step_factor=(1 + step_spread * normal(target, step_source)).clamp(min=0) if step_spread > 0 else None,
    )


def at_levels(target: Tensor, hardware: Hardware) -> Tensor:
    """The nearest of the levels that can be written, evenly spaced over [g_min, g_max]."""
    if hardware.levels is None:
        return target
    step = (hardware.g_max - hardware.g_min) / (hardware.levels - 1)
    index = ((target - hardware.g_min) / step).round().clamp(0, hardware.levels - 1)
    return index * step + hardware.g_min


def programmed(target: Tensor, hardware: Hardware, writing: Generator) -> Tensor:
    """Conductances after writing."""
    if _coefficients(hardware) == (0.0,):
        return target
    return (target + programming_deviation(target, hardware) * normal(target, writing)).clamp(min=0)


def programming_deviation(target: Tensor, hardware: Hardware) -> Tensor:
    """sigma_w."""
    ratio = target / hardware.g_max
    total = torch.zeros_like(target)
    for coefficient in reversed(_coefficients(hardware)):
        total = total * ratio + coefficient
    return hardware.g_max * total.clamp(min=0)


def stuck_mask(like: Tensor, hardware: Hardware, devices: Generator) -> Tensor | None:
    """int8: which devices are stuck, and where; None for none."""
    if hardware.stuck_low == hardware.stuck_high == 0:
        return None
    draw = torch.rand(like.shape, generator=devices, dtype=torch.float64)
    low, high = draw < hardware.stuck_low, draw >= 1 - hardware.stuck_high
    return (STUCK_HIGH * high.to(torch.int8) + STUCK_LOW * low.to(torch.int8)).to(like.device)


def held(conductance: Tensor, stuck: Tensor | None, hardware: Hardware) -> Tensor:
    """Conductances with the stuck devices where they are stuck."""
    if stuck is None:
        return conductance
    return torch.where(stuck > 0, hardware.g_max, torch.where(stuck < 0, hardware.g_min, conductance))


def drift_exponents(devices: Devices, hardware: Hardware) -> Tensor | None:
    """nu of each device, at least 0; None for no drift. A device that is stuck does not drift."""
    if hardware.drift == 0 and hardware.drift_spread == 0:
        return None
    ratio = (devices.target / hardware.g_max).clamp(min=SMALLEST_RATIO)
    nu = law(hardware.drift, ratio)
    if devices.drift_score is not None:
        nu = nu + law(hardware.drift_spread, ratio) * devices.drift_score
    nu = nu.clamp(min=0)
    return nu if devices.stuck is None else torch.where(devices.stuck == 0, nu, 0.0)


def drifted(devices: Devices, hardware: Hardware) -> Tensor:
    """Conductances at the chip's age. At age 0 they are as written, which is what is found at ``drift_start``."""
    exponents = drift_exponents(devices, hardware) if hardware.age > hardware.drift_start else None
    if exponents is None:
        return devices.conductance
    return devices.conductance * torch.exp(-math.log(hardware.age / hardware.drift_start) * exponents)


def read_deviation(devices: Devices, hardware: Hardware) -> Tensor:
    """sigma_r of each device at the chip's age: the deviation of one reading from another."""
    ratio = devices.conductance / hardware.g_max
    relative = (hardware.read_noise * ratio**-hardware.read_noise_exponent).clamp(max=hardware.read_noise_cap)
    return drifted(devices, hardware) * relative * read_noise_growth(hardware)


def read_noise_growth(hardware: Hardware) -> float:
    """h, at the earliest for a reading at ``drift_start``, to which a conductance "as written" refers."""
    if not hardware.read_noise_flicker:
        return 1.0
    time = max(hardware.age, hardware.drift_start)
    return math.sqrt(max(0.0, math.log((time + READ_TIME) / (2 * READ_TIME))))


def law(value: float | LogLaw, ratio: Tensor) -> Tensor:
    """A device constant at ``g/g_max``."""
    if not isinstance(value, LogLaw):
        return torch.full_like(ratio, value)
    return (value.intercept + value.slope * ratio.log()).clamp(value.lowest, value.highest)


def normal(like: Tensor, generator: Generator) -> Tensor:
    """Standard normal numbers, the same ones on every kind of processor."""
    return torch.randn(like.shape, generator=generator, dtype=like.dtype).to(like.device)


def _coefficients(hardware: Hardware) -> Sequence[float]:
    error = hardware.programming_error
    return error if isinstance(error, tuple) else (error,)


def _children(generator: Generator, number: int) -> list[Generator]:
    """A generator for each property, so that drawing one changes nothing for another."""
    seeds = torch.randint(2**62, (number,), generator=generator).tolist()
    return [Generator().manual_seed(seed) for seed in seeds]

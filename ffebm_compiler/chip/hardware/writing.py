"""How a change of weights reaches differential pairs of devices, ``w = (g+ - g-) / scale``.

Ideal, and by programming again. A pair is written anew, one device at g_min: ``g+ = g_min + max(d, 0)``, ``g- = g_min +
max(-d, 0)`` with the new difference d within ``+-(g_max - g_min)``. "ideal" leaves it there, and moves the other device
of a pair where one is stuck; "quantised" rounds to levels, and writes those devices, with the programming error, whose
level has changed.

Pulses. With ``x = (g - g_min) / (g_max - g_min)``, one pulse up or down changes a device by

    up    x -> min(x + b (1 + c (1 - 2 x)), 1),   b = step (1 + a) f
    down  x -> max(x - b (1 - c (1 - 2 x)), 0),   b = step (1 - a) f

(soft bounds: at c = 1 the change vanishes at the bound that it moves to; at mid-range it is b), f being the device's
own factor. The step is affine in x, so n pulses move x towards ``x* = (1 + c) / 2c >= 1`` by the geometric sum ``b (1 +
c (1 - 2 x)) (1 - rho^n) / (1 - rho)`` with ``rho = 1 - 2 c b``, and the bound can be applied at the end. If every
pulse's b varies by a relative v, each of the n contributes the same to first order, and the sum has the standard
deviation ``v sqrt(n) rho^(n-1)`` times the first pulse's change.

A pair takes n pulses of both kinds: to raise a weight, up on g+ and down on g-. The nominal change is two steps: what a
pair at mid-range does, and also a freshly programmed weight of 0. At c = 1, a = 0 the pair's change depends on the
weight alone: ``2 step (1 -+ (x+ - x-))``.

Soft-bounded pulses: Fusi & Abbott, "Limits on the memory storage capacity of bounded synapses", Nature Neuroscience 10,
485 (2007); as a model of resistive devices in training: Gokmen & Vlasov, Frontiers in Neuroscience 10, 333 (2016),
there with constant steps (c = 0).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Generator, Tensor

from .devices import Devices, at_levels, held, normal, programmed
from .specification import Hardware

Written = tuple[Devices, Tensor]
"""The pairs afterwards, and the change of ``g+ - g-`` (S) that the controller believes it has made."""


def write_pairs(devices: Devices, change: Tensor, hardware: Hardware, writing: Generator) -> Written:
    """Changes ``g+ - g-`` of pairs ``(2, ...)`` by ``change`` (S)."""
    return _MODES[hardware.write](devices, change, hardware, writing)


def pair_of(difference: Tensor, hardware: Hardware) -> Tensor:
    """``(2, ...)`` targets of the devices whose difference is ``difference`` (S), within the range."""
    span = hardware.g_max - hardware.g_min
    return torch.stack((difference, -difference)).clamp(0, span) + hardware.g_min


def _ideal(devices: Devices, change: Tensor, hardware: Hardware, writing: Generator) -> Written:
    now = devices.conductance
    wanted = now[0] - now[1] + change
    then = torch.where(change == 0, now, around_stuck(pair_of(wanted, hardware), wanted, devices.stuck, hardware))
    return replace(devices, conductance=then, target=then), change


def around_stuck(pair: Tensor, difference: Tensor, stuck: Tensor | None, hardware: Hardware) -> Tensor:
    """A device whose partner is stuck makes up for it, within the range."""
    if stuck is None:
        return pair
    fixed = held(pair, stuck, hardware)
    partner = torch.stack((fixed[1] + difference, fixed[0] - difference)).clamp(hardware.g_min, hardware.g_max)
    return torch.where((stuck == 0) & (stuck.flip(0) != 0), partner, fixed)


def _quantised(devices: Devices, change: Tensor, hardware: Hardware, writing: Generator) -> Written:
    before = devices.target
    after = at_levels(pair_of(before[0] - before[1] + change, hardware), hardware)
    after = torch.where(change == 0, before, after)
    written = programmed(after, hardware, writing)
    now = held(torch.where(after == before, devices.conductance, written), devices.stuck, hardware)
    return replace(devices, conductance=now, target=after), (after[0] - after[1]) - (before[0] - before[1])


def _pulses(devices: Devices, change: Tensor, hardware: Hardware, writing: Generator) -> Written:
    span = hardware.g_max - hardware.g_min
    nominal = 2 * hardware.pulse_step * span
    count = (change / nominal).round()
    state = (devices.conductance - hardware.g_min) / span
    moved = pulsed(state, torch.stack((count, -count)), devices.step_factor, hardware, writing)
    then = torch.where(moved == state, devices.conductance, moved * span + hardware.g_min)
    then = held(then, devices.stuck, hardware)
    return replace(devices, conductance=then, target=then), count * nominal


_MODES: Mapping[str, Callable[[Devices, Tensor, Hardware, Generator], Written]] = {
    "ideal": _ideal,
    "quantised": _quantised,
    "pulses": _pulses,
}


def pulsed(state: Tensor, count: Tensor, factor: Tensor | None, hardware: Hardware, writing: Generator) -> Tensor:
    """``x`` after ``|count|`` pulses, up where the count is positive."""
    direction, n = count.sign(), count.abs()
    distance = torch.where(direction > 0, 1 - state, state)  # to the bound that the pulses move to
    bend = hardware.pulse_nonlinearity
    b = hardware.pulse_step * (1 + hardware.pulse_asymmetry * direction) * (1 if factor is None else factor)
    first = (b * (1 + bend * (2 * distance - 1))).clamp(min=0)
    rate = (2 * bend * b).clamp(max=1)  # 1 - rho
    move = first * _geometric(rate, n)
    if hardware.pulse_variation > 0:
        last = torch.special.xlog1py((n - 1).clamp(min=0), -rate).exp()  # rho^(n-1)
        move = move + hardware.pulse_variation * n.sqrt() * first * last * normal(state, writing)
    lowest, highest = (
        state.clamp(max=0),
        state.clamp(min=1),
    )  # a device that was written beyond the range is not thrown back
    return (state + direction * move).clamp(lowest, highest)


def _geometric(rate: Tensor, n: Tensor) -> Tensor:
    """``sum_{i<n} (1 - rate)^i``, for a rate from 0 to 1."""
    total = -torch.expm1(torch.special.xlog1py(n, -rate)) / rate
    return torch.where(rate == 0, n, total)

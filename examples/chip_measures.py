"""What is measured of a model on an emulated chip: accuracy, gradient, what each non-ideality costs, conductances.

A gradient is compared with two exact ones: that of the network which the chip's devices hold (what its gradient should
be), and that of the network as it was asked for. Noise makes a single batch's gradient point elsewhere; what training
follows is the sum over many.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ffebm_compiler as fc
from examples import training
from examples.data import Split
from ffebm_compiler.chip.hardware import Hardware, defaults
from ffebm_compiler.compare import compare_parameters, exact_gradients, loss_gradients
from ffebm_compiler.model.converted_module import runner_of

Gradient = Mapping[str, Tensor]

GROUPS: Mapping[str, tuple[str, ...]] = {
    "writing errors and levels": ("programming_error", "levels"),
    "stuck devices": ("stuck_low", "stuck_high"),
    "drift": ("drift", "drift_spread"),
    "wire resistance": ("line_resistance",),
    "read noise": ("read_noise",),
    "converters": ("dac_bits", "adc_bits"),
    "neurons and amplifiers": ("offset", "gain_mismatch", "reverse_gain_error", "headroom"),
    "thermal noise": ("temperature",),
}
"""The non-idealities that inference sees, and the fields of the specification that make them."""


# --- what each non-ideality costs -------------------------------------------------------------------------


def imperfect(hardware: Hardware) -> list[str]:
    """The groups in which a chip is not ideal."""
    ideal = defaults()
    return [name for name, fields in GROUPS.items() if any(getattr(hardware, f) != ideal[f] for f in fields)]


def without(hardware: Hardware, groups: Iterable[str]) -> Hardware:
    """The chip with these non-idealities taken away."""
    ideal = defaults()
    return replace(hardware, **{f: ideal[f] for name in groups for f in GROUPS[name]})


def ablations(hardware: Hardware) -> Iterator[tuple[str, str, Hardware]]:
    """(group, ``"without"`` or ``"alone"``, chip) for every non-ideality of a chip."""
    present = imperfect(hardware)
    for name in present:
        yield name, "without", without(hardware, [name])
        yield name, "alone", without(hardware, [other for other in present if other != name])


# --- the chip as it is ------------------------------------------------------------------------------------


def is_settled(times: Mapping[str, float], hardware: Hardware) -> bool:
    """Whether every block, which settles to 1 % in these times, has settled to 0.1 % when a phase ends: ln(1000) /
    ln(100) = 1.5 times as long.
    """
    return hardware.settling_time is not None and 1.5 * max(times.values()) <= hardware.settling_time


def held_by(chip: fc.AnalogFFEBM, model: fc.FFEBM) -> fc.FFEBM:
    """The model with the weights that the chip's devices amount to, where a parameter is held in devices."""
    held = copy.deepcopy(model).train(chip.training)
    held.load_state_dict(chip.state_dict())
    with torch.no_grad():
        for name, parameter in held.network.named_parameters():
            if name in chip.chip.devices:
                parameter.copy_(chip.chip.weight(name))
    runner_of(held).block_gains.use_those_of(runner_of(chip).block_gains)
    return held


def conductances(chip: fc.AnalogFFEBM, bins: int = 40) -> list[dict[str, Any]]:
    """How many devices of each weight have which conductance, in siemens, as written."""
    top = 1.15 * chip.hardware.g_max
    rows = []
    for path in chip.tiles:
        devices = chip.chip.devices[path].crossbar.devices
        counts = [torch.histc(g.flatten().double(), bins, 0, top) for g in (devices.conductance, devices.target)]
        rows.append({"weight": path, "top": top, "written": counts[0].tolist(), "target": counts[1].tolist()})
    return rows


# --- norms ------------------------------------------------------------------------------------------------


def retake_statistics(chip: nn.Module, batches: Iterable[Tensor]) -> None:
    """Takes the running statistics of the digital batch norms anew from what the chip delivers; nothing is trained.

    Joshi et al. 2020, Nature Communications 11, 2473, do so against drift.
    """
    norms = [m for m in chip.modules() if isinstance(m, nn.BatchNorm2d)]
    momenta = [m.momentum for m in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
    chip.train()
    with torch.no_grad():
        for x in batches:
            chip(x)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


# --- gradients --------------------------------------------------------------------------------------------


def gradient_rows(
    chip: fc.AnalogFFEBM, model: fc.FFEBM, batches: Sequence[tuple[Tensor, Tensor]], watch: Callable[[], None]
) -> list[dict[str, Any]]:
    """A row a parameter: the cosine of the chip's gradient with exact ones, of single batches and of their sum."""
    chip.train()
    found: list[tuple[Gradient, Gradient, Gradient]] = []
    for x, y in batches:
        got = loss_gradients(chip, x, y, F.cross_entropy)
        held = exact_gradients(held_by(chip, model), x, y, F.cross_entropy)
        asked = exact_gradients(chip, x, y, F.cross_entropy)
        found.append((got, held, asked))
        watch()
    single = [_cosines(got, held) for got, held, _ in found]
    got, held, asked = (_sum(side) for side in zip(*found, strict=True))
    summed, wanted = _cosines(got, held), _cosines(got, asked)
    return [
        {
            "parameter": n,
            "one batch": sum(c[n] for c in single) / len(single),
            "all batches": summed[n],
            "with the weights asked for": wanted[n],
        }
        for n in summed
        if summed[n] == summed[n] and all(c[n] == c[n] for c in single)  # an exact gradient of zero has no direction
    ]


def _cosines(got: Gradient, exact: Gradient) -> dict[str, float]:
    return {p.name: p.cosine for p in compare_parameters(got, exact)}


def _sum(gradients: Sequence[Gradient]) -> Gradient:
    return {n: torch.stack([g[n] for g in gradients]).sum(0) for n in gradients[0]}


# --- accuracy ---------------------------------------------------------------------------------------------


def calibration(data: Split, images: int = 256) -> Tensor:
    """Training images that the converters' ranges are taken from: a quarter of them, if that is less."""
    return data.pixels(data.train.x[: min(images, max(1, len(data.train) // 4))])


def programmed(model: fc.FFEBM, hardware: Hardware, data: Split, chip_seed: int, noise_seed: int = 0) -> fc.AnalogFFEBM:
    """A new chip with the model's weights, calibrated on training images."""
    chip = model.lower("analog-emu", hardware=hardware, chip_seed=chip_seed, noise_seed=noise_seed)
    return chip.calibrate(calibration(data))


def accuracy(model: fc.FFEBM, hardware: Hardware, data: Split, chip_seed: int) -> float:
    """Of a new chip, in percent."""
    return training.accuracy(programmed(model, hardware, data, chip_seed), data)

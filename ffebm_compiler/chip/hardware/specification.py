"""What a chip is made of: one frozen specification, every number with its unit, its meaning and its bounds.

Signals are voltages: the calibrated range of a value (the largest that it takes on the calibration data) is driven at
``full_scale`` volts. Errors that are "relative" are standard deviations relative to the quantity that they disturb,
unless their description says otherwise. ``None`` switches a limit off.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from ...errors import OptionError, Problem
from .quantity import LogLaw, Quantity


def _described(default: Any, quantity: Quantity) -> Any:
    return field(default=default, metadata={"quantity": quantity})


def _number(default: Any, group: str, unit: str, about: str, **bounds: Any) -> Any:
    return _described(default, Quantity(group, unit, about, **bounds))


def _count(default: Any, group: str, about: str, **bounds: Any) -> Any:
    return _described(default, Quantity(group, "1", about, "count", **bounds))


def _bits(least: int, about: str) -> Any:
    return _described(None, Quantity("converters", "bit", about, "count", low=least, high=24, optional=True))


def _switch(default: bool, group: str, about: str) -> Any:
    return _described(default, Quantity(group, "", about, "switch"))


def _choice(default: str, group: str, about: str, choices: tuple[str, ...]) -> Any:
    return _described(default, Quantity(group, "", about, "choice", choices=choices))


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """The specification of an emulated chip; by default an ideal one. The table of its fields is in docs/hardware.md.

    Raises:
        OptionError: with every field that can't be used.
    """

    # fmt: off
    name: str = _described("custom", Quantity("chip", "", "what reports call it", "text"))
    physics: str = _choice(
        "hopfield", "chip",
        "the circuit of a block: transconductances into leaky neurons (Hopfield), or positive resistors with diodes",
        ("hopfield", "resistive"))

    # --- array ---
    g_min: float = _number(0.0, "array", "S", "smallest conductance of a device")
    g_max: float = _number(1e-4, "array", "S", "largest conductance of a device", above=True)
    tile_rows: int = _count(256, "array", "inputs of a tile", low=1)
    tile_columns: int = _count(256, "array", "outputs of a tile, each a differential pair of lines", low=1)
    bidirectional: bool = _switch(
        True, "array", "feedback through the same devices as the drive, rather than through a second array")
    weight_headroom: float = _number(
        1.0, "array", "1",
        "how far weights may grow by learning, relative to the largest that a tile is first programmed with", low=1.0)
    line_resistance: float = _number(0.0, "array", "Ohm", "wire resistance from one device to the next")

    # --- devices ---
    levels: int | None = _count(
        None, "devices", "conductance levels that can be written; None is continuous", low=2, optional=True)
    programming_error: float | tuple[float, ...] = _number(
        0.0, "devices", "g_max",
        "standard deviation of a written conductance; coefficients c_k give sum c_k (g/g_max)^k", kind="polynomial")
    read_noise: float = _number(
        0.0, "devices", "1", "relative standard deviation of a conductance from read to read, at g_max")
    read_noise_exponent: float = _number(
        0.0, "devices", "1", "p: the relative read noise grows as (g/g_max)^-p towards small conductances", high=2.0)
    read_noise_cap: float = _number(0.2, "devices", "1", "the largest relative read noise of a small conductance")
    read_noise_flicker: bool = _switch(
        False, "devices", "read noise grows with the time since programming as that of a 1/f spectrum")
    read_noise_correlation: float = _number(
        0.0, "devices", "1", "correlation of the read noise between the phases of one sample", high=1.0)
    drift: float | LogLaw = _number(0.0, "devices", "1", "mean exponent nu of g(t) = g (t/t_0)^-nu", kind="law")
    drift_spread: float | LogLaw = _number(
        0.0, "devices", "1", "standard deviation of nu from device to device", kind="law")
    drift_start: float = _number(20.0, "devices", "s", "t_0, when drift begins to be counted", above=True)
    age: float = _number(0.0, "devices", "s", "time since programming at which the chip is used")
    drift_compensation: bool = _switch(
        False, "devices", "a gain per tile that restores the tile's mean conductance after drift")
    stuck_low: float = _number(0.0, "devices", "1", "part of the devices that stay at g_min", high=1.0)
    stuck_high: float = _number(0.0, "devices", "1", "part of the devices that stay at g_max", high=1.0)

    # --- converters ---
    dac_bits: int | None = _bits(1, "of the values driven into a block")
    adc_bits: int | None = _bits(1, "of the states read from a block")
    nudge_bits: int | None = _bits(2, "of the nudge currents, sign included")
    learning_bits: int | None = _bits(2, "of what is read for learning: states, or differences, and error currents")
    learning_readout: str = _choice(
        "difference", "converters",
        "read both nudged phases' states, or their difference taken before the conversion (sample and hold)",
        ("states", "difference"))
    calibration_quantile: float = _number(
        1.0, "converters", "1", "quantile of the magnitudes on calibration data that a range covers",
        high=1.0, above=True)

    # --- neurons ---
    full_scale: float = _number(
        0.5, "neurons", "V", "voltage of a value at the end of its calibrated range", above=True)
    headroom: float | None = _number(
        None, "neurons", "1", "supply limit of a neuron's output, in calibrated ranges; None is no limit",
        low=1.0, optional=True)
    offset: float = _number(0.0, "neurons", "V", "standard deviation of a neuron's input offset over the chip")
    gain_mismatch: float = _number(
        0.0, "neurons", "1", "relative standard deviation of a neuron's gain over the chip", high=1.0)
    reverse_gain_error: float = _number(
        0.0, "neurons", "1", "relative standard deviation of a bidirectional amplifier's reverse gain", high=1.0)
    time_constant: float = _number(1e-7, "neurons", "s", "R C of a neuron", above=True)
    settling_time: float | None = _number(
        None, "neurons", "s", "when a phase is read; None waits for the equilibrium", above=True, optional=True)
    temperature: float = _number(0.0, "neurons", "K", "of the thermal noise sqrt(k T / C) at each neuron; 0 is none")
    capacitance: float = _number(1e-12, "neurons", "F", "of a neuron", above=True)

    # --- learning ---
    nudge: float = _number(
        0.02, "learning", "1", "the largest nudge, relative to the output's calibrated range", high=10.0, above=True)
    learning_reads: int = _count(
        1, "learning", "times that both nudged phases are run and read, to average over noise", low=1)
    write: str = _choice(
        "ideal", "learning",
        "how an update reaches the devices: exactly; by programming again; or by pulses with soft bounds",
        ("ideal", "quantised", "pulses"))
    pulse_step: float = _number(
        0.002, "learning", "1", "change by one pulse from the middle of the range, relative to g_max - g_min",
        high=1.0, above=True)
    pulse_nonlinearity: float = _number(
        1.0, "learning", "1", "how far a pulse's change falls towards the bound it moves to: 0 not at all, 1 to zero",
        high=1.0)
    pulse_asymmetry: float = _number(
        0.0, "learning", "1", "a pulse up changes (1 + a), one down (1 - a) of the step", high=0.99)
    pulse_variation: float = _number(
        0.0, "learning", "1", "relative standard deviation of a pulse's change, from pulse to pulse")
    step_variation: float = _number(
        0.0, "learning", "1", "relative standard deviation of the step, from device to device")
    # fmt: on

    def __post_init__(self) -> None:
        """Sequences become tuples; every problem is raised at once."""
        if isinstance(self.programming_error, Sequence) and not isinstance(self.programming_error, str):
            object.__setattr__(self, "programming_error", tuple(self.programming_error))
        OptionError.raise_if(p for name in quantities() if (p := field_problem(name, getattr(self, name))) is not None)
        OptionError.raise_if(_joint_problems(self))

    @property
    def thermal_noise(self) -> float:
        """sqrt(k T / C) in volts."""
        return math.sqrt(BOLTZMANN * self.temperature / self.capacitance)


BOLTZMANN = 1.380649e-23
"""J/K, exact (SI 2019)."""


def quantities() -> dict[str, Quantity]:
    """The description of every field, by name."""
    return {f.name: f.metadata["quantity"] for f in fields(Hardware)}


def defaults() -> dict[str, Any]:
    """The default of every field, by name."""
    return {f.name: f.default for f in fields(Hardware) if f.default is not MISSING}


# --- checks -----------------------------------------------------------------------------------------------


def field_problem(name: str, value: object) -> Problem | None:
    """What is wrong with one field's value, whatever the others are."""
    return quantities()[name].problem(f"hardware field {name}", value)


LONGEST_PHASE = 10_000
"""Time constants of a phase: a circuit that has not settled by then never will, and each takes time to simulate."""


def _joint_problems(h: Hardware) -> Iterator[Problem]:
    if h.g_min >= h.g_max:
        yield Problem(
            "hardware fields g_min and g_max",
            f"are {h.g_min:g} and {h.g_max:g} S: no range is left between them",
            "Give g_min below g_max.",
        )
    if h.settling_time is not None and h.settling_time > LONGEST_PHASE * h.time_constant:
        number = f"a phase of {h.settling_time / h.time_constant:.3g} time constants, each simulated in steps"
        yield Problem(
            "hardware fields settling_time and time_constant",
            f"are {h.settling_time:g} and {h.time_constant:g} s: {number}",
            f"Give at most {LONGEST_PHASE:,} time constants, or None, which waits for the equilibrium.",
        )
    if h.physics == "resistive":
        yield from _resistive_problems(h)
    if h.stuck_low + h.stuck_high > 1:
        yield Problem(
            "hardware fields stuck_low and stuck_high",
            f"add up to {h.stuck_low + h.stuck_high:g}",
            "Give parts of all devices that add up to at most 1.",
        )
    if h.age > 0 and h.age < h.drift_start and (h.drift != 0 or h.drift_spread != 0):
        yield Problem(
            "hardware field age",
            f"is {h.age:g} s, before drift begins to be counted at drift_start = {h.drift_start:g} s",
            "Give an age of 0 (as programmed) or one from drift_start on.",
        )


def _resistive_problems(h: Hardware) -> Iterator[Problem]:
    """What a network of resistors and diodes does not have."""
    if not h.bidirectional:
        yield Problem(
            "hardware fields physics and bidirectional",
            "are resistive and False: a resistor conducts both ways",
            "Leave bidirectional at True, or take physics hopfield.",
        )
    for name in ("offset", "gain_mismatch"):
        if getattr(h, name) > 0:
            yield Problem(
                f"hardware fields physics and {name}",
                f"are resistive and {getattr(h, name):g}: a node held by diodes has no {name.replace('_', ' ')}",
                "Set it to 0 (the amplifiers have a reverse_gain_error), or take physics hopfield.",
            )

"""What a chip is made of: one frozen specification, every number with its unit, its meaning and its bounds.

Signals are voltages: the calibrated range of a value (the largest that it takes on the calibration data) is driven at
``full_scale`` volts. Errors that are "relative" are standard deviations relative to the quantity that they disturb, unless
their description says otherwise. ``None`` switches a limit off.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from ...errors import OptionError, Problem

INFINITY = math.inf


@dataclass(frozen=True)
class LogLaw:
    """``clip(intercept + slope * ln(g / g_max), lowest, highest)``: a device constant that depends on its conductance.

    Attributes:
        intercept: the value at ``g_max``.
        slope: change per e-fold of the conductance.
        lowest, highest: bounds of the value.
    """

    intercept: float
    slope: float = 0.0
    lowest: float = -INFINITY
    highest: float = INFINITY


@dataclass(frozen=True)
class Quantity:
    """What a field of the specification is.

    Attributes:
        group: the part of the chip that it describes.
        unit: ``"S"``, ``"V"``, ``"1"`` for a pure number, ``"bit"``, or ``""`` for a choice.
        about: one sentence.
        kind: ``"number"``, ``"count"``, ``"choice"``, ``"switch"``, ``"law"`` (a number or a :class:`LogLaw`),
            ``"polynomial"`` (a number or coefficients), ``"text"``.
        low, high: bounds, inclusive; ``above`` excludes ``low``.
        choices: of a choice.
        optional: whether None is allowed.
    """

    group: str
    unit: str
    about: str
    kind: str = "number"
    low: float = 0.0
    high: float = INFINITY
    above: bool = False
    choices: tuple[str, ...] = ()
    optional: bool = False


def _of(default: Any, *args: Any, **kwargs: Any) -> Any:
    return field(default=default, metadata={"quantity": Quantity(*args, **kwargs)})


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """The specification of an emulated chip; by default an ideal one. The table of its fields is in docs/hardware.md.

    Raises:
        OptionError: with every field that can't be used.
    """

    name: str = _of("custom", "chip", "", "what reports call it", "text")
    physics: str = _of(
        "hopfield",
        "chip",
        "",
        "the circuit of a block: transconductances into leaky neurons (Hopfield), or positive resistors with diodes",
        "choice",
        choices=("hopfield", "resistive"),
    )

    # --- array ---
    g_min: float = _of(0.0, "array", "S", "smallest conductance of a device")
    g_max: float = _of(1e-4, "array", "S", "largest conductance of a device", above=True)
    tile_rows: int = _of(256, "array", "1", "inputs of a tile", "count", low=1)
    tile_columns: int = _of(256, "array", "1", "outputs of a tile, each a differential pair of lines", "count", low=1)
    bidirectional: bool = _of(
        True,
        "array",
        "",
        "feedback through the same devices as the drive, rather than through a second array",
        "switch",
    )
    weight_headroom: float = _of(
        1.0,
        "array",
        "1",
        "how far weights may grow by learning, relative to the largest that a tile is first programmed with",
        low=1.0,
    )
    line_resistance: float = _of(0.0, "array", "Ohm", "wire resistance from one device to the next")

    # --- devices ---
    levels: int | None = _of(
        None,
        "devices",
        "1",
        "conductance levels that can be written; None is continuous",
        "count",
        low=2,
        optional=True,
    )
    programming_error: float | tuple[float, ...] = _of(
        0.0,
        "devices",
        "g_max",
        "standard deviation of a written conductance; coefficients c_k give sum c_k (g/g_max)^k",
        "polynomial",
    )
    read_noise: float = _of(
        0.0, "devices", "1", "relative standard deviation of a conductance from read to read, at g_max"
    )
    read_noise_exponent: float = _of(
        0.0, "devices", "1", "p: the relative read noise grows as (g/g_max)^-p towards small conductances", high=2.0
    )
    read_noise_cap: float = _of(0.2, "devices", "1", "the largest relative read noise of a small conductance")
    read_noise_flicker: bool = _of(
        False, "devices", "", "read noise grows with the time since programming as that of a 1/f spectrum", "switch"
    )
    read_noise_correlation: float = _of(
        0.0, "devices", "1", "correlation of the read noise between the phases of one sample", high=1.0
    )
    drift: float | LogLaw = _of(0.0, "devices", "1", "mean exponent nu of g(t) = g (t/t_0)^-nu", "law")
    drift_spread: float | LogLaw = _of(0.0, "devices", "1", "standard deviation of nu from device to device", "law")
    drift_start: float = _of(20.0, "devices", "s", "t_0, when drift begins to be counted", above=True)
    age: float = _of(0.0, "devices", "s", "time since programming at which the chip is used")
    drift_compensation: bool = _of(
        False, "devices", "", "a gain per tile that restores the tile's mean conductance after drift", "switch"
    )
    stuck_low: float = _of(0.0, "devices", "1", "part of the devices that stay at g_min", high=1.0)
    stuck_high: float = _of(0.0, "devices", "1", "part of the devices that stay at g_max", high=1.0)

    # --- converters ---
    dac_bits: int | None = _of(
        None, "converters", "bit", "of the values driven into a block", "count", low=1, high=24, optional=True
    )
    adc_bits: int | None = _of(
        None, "converters", "bit", "of the states read from a block", "count", low=1, high=24, optional=True
    )
    nudge_bits: int | None = _of(
        None, "converters", "bit", "of the nudge currents, sign included", "count", low=2, high=24, optional=True
    )
    learning_bits: int | None = _of(
        None,
        "converters",
        "bit",
        "of what is read for learning: states, or differences, and error currents",
        "count",
        low=2,
        high=24,
        optional=True,
    )
    learning_readout: str = _of(
        "difference",
        "converters",
        "",
        "read both nudged phases' states, or their difference taken before the conversion (sample and hold)",
        "choice",
        choices=("states", "difference"),
    )
    calibration_quantile: float = _of(
        1.0,
        "converters",
        "1",
        "quantile of the magnitudes on calibration data that a range covers",
        high=1.0,
        above=True,
    )

    # --- neurons ---
    full_scale: float = _of(0.5, "neurons", "V", "voltage of a value at the end of its calibrated range", above=True)
    headroom: float | None = _of(
        None,
        "neurons",
        "1",
        "supply limit of a neuron's output, in calibrated ranges; None is no limit",
        low=1.0,
        optional=True,
    )
    offset: float = _of(0.0, "neurons", "V", "standard deviation of a neuron's input offset over the chip")
    gain_mismatch: float = _of(
        0.0, "neurons", "1", "relative standard deviation of a neuron's gain over the chip", high=1.0
    )
    reverse_gain_error: float = _of(
        0.0, "neurons", "1", "relative standard deviation of a bidirectional amplifier's reverse gain", high=1.0
    )
    time_constant: float = _of(1e-7, "neurons", "s", "R C of a neuron", above=True)
    settling_time: float | None = _of(
        None, "neurons", "s", "when a phase is read; None waits for the equilibrium", above=True, optional=True
    )
    temperature: float = _of(0.0, "neurons", "K", "of the thermal noise sqrt(k T / C) at each neuron; 0 is none")
    capacitance: float = _of(1e-12, "neurons", "F", "of a neuron", above=True)

    # --- learning ---
    nudge: float = _of(
        0.02, "learning", "1", "the largest nudge, relative to the output's calibrated range", high=10.0, above=True
    )
    learning_reads: int = _of(
        1, "learning", "1", "times that both nudged phases are run and read, to average over noise", "count", low=1
    )
    write: str = _of(
        "ideal",
        "learning",
        "",
        "how an update reaches the devices: exactly; by programming again; or by pulses with soft bounds",
        "choice",
        choices=("ideal", "quantised", "pulses"),
    )
    pulse_step: float = _of(
        0.002,
        "learning",
        "1",
        "change by one pulse from the middle of the range, relative to g_max - g_min",
        high=1.0,
        above=True,
    )
    pulse_nonlinearity: float = _of(
        1.0,
        "learning",
        "1",
        "how far a pulse's change falls towards the bound it moves to: 0 not at all, 1 to zero",
        high=1.0,
    )
    pulse_asymmetry: float = _of(
        0.0, "learning", "1", "a pulse up changes (1 + a), one down (1 - a) of the step", high=0.99
    )
    pulse_variation: float = _of(
        0.0, "learning", "1", "relative standard deviation of a pulse's change, from pulse to pulse"
    )
    step_variation: float = _of(0.0, "learning", "1", "relative standard deviation of the step, from device to device")

    def __post_init__(self) -> None:
        """Sequences become tuples; every problem is raised at once."""
        if isinstance(self.programming_error, Sequence) and not isinstance(self.programming_error, str):
            object.__setattr__(self, "programming_error", tuple(self.programming_error))
        problems = [*_field_problems(self)]
        problems = problems or [*_joint_problems(self)]
        if problems:
            raise OptionError(problems)

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
    quantity = quantities()[name]
    if value is None and quantity.optional:
        return None
    what = _KINDS[quantity.kind](value, quantity)
    return (
        None
        if what is None
        else Problem(f"hardware field {name}", f"is {_shown(value)}: {what}", _remedy(name, quantity))
    )


def _field_problems(hardware: Hardware) -> Iterator[Problem]:
    found = (field_problem(name, getattr(hardware, name)) for name in quantities())
    return (problem for problem in found if problem is not None)


LONGEST_PHASE = 10_000
"""Of a phase, in time constants: what a circuit has not settled in by then it never will, and a transient takes time for each."""


def _joint_problems(h: Hardware) -> Iterator[Problem]:
    if h.g_min >= h.g_max:
        yield Problem(
            "hardware fields g_min and g_max",
            f"are {h.g_min:g} and {h.g_max:g} S: no range is left between them",
            "Give g_min below g_max.",
        )
    if h.settling_time is not None and h.settling_time > LONGEST_PHASE * h.time_constant:
        yield Problem(
            "hardware fields settling_time and time_constant",
            f"are {h.settling_time:g} and {h.time_constant:g} s: a phase of {h.settling_time / h.time_constant:.3g} time constants, each simulated in steps",
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


def _shown(value: object) -> str:
    """Short, also where Python refuses to write a whole number of thousands of digits."""
    try:
        text = repr(value)
    except ValueError:
        return "a number of thousands of digits"
    return text if len(text) <= 80 else f"{text[:77]}..."


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_finite(value: object) -> bool:
    """Whether it is a number that a float holds."""
    try:
        return _is_number(value) and math.isfinite(value)  # type: ignore[arg-type]
    except OverflowError:
        return False


def _number(value: object, q: Quantity) -> str | None:
    if not _is_number(value):
        return "not a number"
    assert isinstance(value, (int, float))
    if value != value:
        return "not a number"
    if not _is_finite(value):
        return "not finite"
    if value < q.low or value > q.high or (q.above and value == q.low):
        return f"outside of {_interval(q)}"
    return None


def _count(value: object, q: Quantity) -> str | None:
    if not isinstance(value, int) or isinstance(value, bool):
        return "not a whole number"
    return _number(value, q)


def _choice(value: object, q: Quantity) -> str | None:
    return None if value in q.choices and isinstance(value, str) else "not one of its choices"


def _switch(value: object, q: Quantity) -> str | None:
    return None if isinstance(value, bool) else "neither True nor False"


def _text(value: object, q: Quantity) -> str | None:
    return None if isinstance(value, str) and value and len(value) <= 200 else "not a short text"


def _law(value: object, q: Quantity) -> str | None:
    if not isinstance(value, LogLaw):
        return _number(value, q)
    parts = [getattr(value, f.name) for f in fields(value)]
    if not all(_is_number(p) and p == p for p in parts):
        return "its parts are not all numbers"
    if not (_is_finite(value.intercept) and _is_finite(value.slope)):
        return "its intercept and slope are not finite"
    return None if value.lowest <= value.highest else "its lowest is above its highest"


def _polynomial(value: object, q: Quantity) -> str | None:
    if not isinstance(value, tuple):
        return _number(value, q)
    if not 1 <= len(value) <= 8:
        return "not between 1 and 8 coefficients"
    return None if all(map(_is_finite, value)) else "its coefficients are not all finite numbers"


_KINDS: dict[str, Callable[[object, Quantity], str | None]] = {
    "number": _number,
    "count": _count,
    "choice": _choice,
    "switch": _switch,
    "text": _text,
    "law": _law,
    "polynomial": _polynomial,
}


def _interval(q: Quantity) -> str:
    left = "(" if q.above else "["
    right = "inf)" if q.high == INFINITY else f"{q.high:g}]"
    return f"{left}{q.low:g}, {right}"


def _remedy(name: str, q: Quantity) -> str:
    if q.kind == "choice":
        return f"Give one of {', '.join(q.choices)}."
    if q.kind == "switch":
        return f"Give True or False: {q.about}."
    if q.kind == "text":
        return "Give a name of at most 200 characters."
    unit = "" if q.unit in ("1", "") else f" in {q.unit}"
    none = ", or None" if q.optional else ""
    number = "a whole number" if q.kind == "count" else "a number"
    return f"Give {number}{unit} in {_interval(q)}{none}: {q.about}."

"""What an operation costs: every constant with its unit, its meaning and its source, or the word *guess*.

    ADC     E = max(step 2^bits, kT-limited floor),  floor = 10^((6.02 bits + 1.76 - FOM_S) / 10) / 2
    DAC     E = step 2^bits
    pulse   E = V^2 G t
    bias    P = supply * branches * (capacitance * ratio / time constant) / (gm / I)

The first is the law of Walden (1999, "Analog-to-digital converter survey and analysis", IEEE J. Sel. Areas Commun.
17(4)), with the line of Schreier's figure of merit in Murmann's ADC Performance Survey (github.com/bmurmann/ADC-survey)
where many bits make thermal noise the limit. The last is the current that gives an amplifier a bandwidth of ``ratio``
neurons at the efficiency gm/I. Nodes from 14 to 130 nm stand side by side; nothing is scaled to a common one. ISAAC's
components and the areas of Dally's lanes were checked against simulators that carry them (PUMA's, hwcomponents'), not
against the originals.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any

from ...errors import OptionError, Problem
from ..hardware import Hardware, Quantity

PICO, FEMTO = 1e-12, 1e-15
SQUARE_MICROMETRE = 1e-12
"""m^2."""


@dataclass(frozen=True)
class Constant(Quantity):
    """What a field of the cost model is: a quantity above 0, in SI units.

    Attributes:
        source: author, year and venue; or ``"a guess"`` and what it rests on.
    """

    source: str = ""

    @property
    def is_guess(self) -> bool:
        return self.source.startswith("a guess")


def _constant(
    default: float, group: str, unit: str, about: str, source: str, high: float = math.inf, whole: bool = False
) -> Any:
    kind = "count" if whole else "number"
    described = Constant(group, unit, about, kind, high=high, above=True, source=source)
    return field(default=default, metadata={"constant": described})


_HOROWITZ = "Horowitz 2014, ISSCC, table for 45 nm"
_ISAAC = "Shafiee et al. 2016, ISCA (ISAAC), table of its components"


@dataclass(frozen=True, kw_only=True)
class CostModel:
    """The constants of an estimate. The table of its fields is in docs/costs.md.

    Raises:
        OptionError: with every field that can't be used.
    """

    # fmt: off
    # --- converters ---
    adc_step_energy: float = _constant(10 * FEMTO, "ADC", "J", "energy of a conversion, per step: times 2^bits",
        "3.1 mW at 1.2 GS/s and 8 bits: Kull et al. 2013, ISSCC, pp. 468-469")
    adc_figure_of_merit: float = _constant(185.0, "ADC", "dB",
        "Schreier's figure of merit, which bounds the energy from below where bits are many",
        "the line drawn through the best converters in Murmann, ADC Performance Survey")
    adc_rate: float = _constant(1.2e9, "ADC", "1/s", "conversions of one ADC in a second", "Kull et al. 2013, ISSCC")
    adc_area: float = _constant(1200 * SQUARE_MICROMETRE, "ADC", "m^2", "of an ADC of 8 bits; doubles with each bit",
        _ISAAC)
    dac_step_energy: float = _constant(5 * FEMTO, "DAC", "J", "energy of a conversion, per step: times 2^bits",
        "a guess: half of the ADC's, whose core is a capacitive DAC")
    dac_rate: float = _constant(1.2e9, "DAC", "1/s", "conversions of one DAC in a second", "a guess: as the ADC")
    dac_area: float = _constant(0.166 * SQUARE_MICROMETRE, "DAC", "m^2", "of a DAC of 1 bit; doubles with each bit",
        f"{_ISAAC}: 170 um^2 for 1024")
    values_per_converter: int = _constant(128, "ADC", "1", "values that take turns at one ADC or DAC",
        "Shafiee et al. 2016: one ADC for 128 columns", whole=True)
    ideal_bits: int = _constant(8, "ADC", "bit", "what a converter is costed at whose specification has no limit",
        "a guess", whole=True, high=24)

    # --- array ---
    cell_area: float = _constant(0.1 * SQUARE_MICROMETRE, "array", "m^2",
        "of one device with its transistor",
        "a guess: published cells take 0.022 um^2 (Yang et al. 2021, ISSCC 24.2, 14 nm) and "
        "0.076 um^2 (Pan et al. 2015, IEDM 10.5, 16 nm)")
    copies: int = _constant(1, "array", "1",
        "arrays of a convolution that work side by side; its positions take turns at them",
        "a choice of the design", whole=True)
    nominal_activity: float = _constant(0.5, "array", "1", "rms of a signal over its range, where it was not measured",
        "a guess", high=1.0)
    nominal_magnitude: float = _constant(0.25, "array", "1",
        "mean magnitude of a weight over the largest, where it was not measured",
        "a guess", high=1.0)

    # --- amplifiers ---
    supply: float = _constant(1.0, "amplifiers", "V", "what amplifiers draw their current from", "a guess")
    bandwidth_ratio: float = _constant(10.0, "amplifiers", "1",
        "how much faster than a neuron's time constant an amplifier is",
        "a guess")
    transconductance_efficiency: float = _constant(15.0, "amplifiers", "1/V",
        "gm / I of its transistors",
        "a guess: moderate inversion, by the method of Silveira, Flandre & Jespers 1996, "
        "IEEE J. Solid-State Circuits 31(9)", high=40.0)
    amplifier_branches: float = _constant(4.0, "amplifiers", "1", "branches of such a current in an amplifier",
        "a guess")
    amplifier_area: float = _constant(100 * SQUARE_MICROMETRE, "amplifiers", "m^2",
        "of an amplifier without its capacitor",
        "a guess")
    capacitor_density: float = _constant(2e-3, "amplifiers", "F/m^2", "of a neuron's capacitor, 2 fF/um^2",
        "a guess: common for metal-insulator-metal capacitors")
    hold_power: float = _constant(10e-9, "amplifiers", "W", "of holding a state while others take their turn",
        f"{_ISAAC}: 10 uW for 1024")
    tolerance: float = _constant(1e-3, "amplifiers", "1",
        "distance to the equilibrium, over the range, at which a phase is read where no settling time is given",
        "a guess: a quarter of a step of 8 bits", high=0.5)

    # --- writing ---
    write_voltage: float = _constant(2.0, "writing", "V", "of a writing pulse", "a guess: oxide devices take 1 to 3 V")
    pulse_width: float = _constant(100e-9, "writing", "s", "of a writing pulse", "a guess")
    pulses: float = _constant(1.0, "writing", "1", "pulses that a device gets in an update, where updates are pulses",
        "a guess")
    verify_pulses: float = _constant(10.0, "writing", "1",
        "pulses to program a device with verification, where updates are exact or quantised",
        "a guess, of the order in Wan et al. 2022, Nature 608, extended data figure 3f")

    # --- digital ---
    multiply_energy: float = _constant(1.1 * PICO, "digital", "J", "16-bit floating-point multiplication", _HOROWITZ)
    add_energy: float = _constant(0.4 * PICO, "digital", "J", "16-bit floating-point addition", _HOROWITZ)
    memory_energy: float = _constant(1.25 * PICO, "digital", "J", "a byte from or to on-chip memory",
        f"{_HOROWITZ}: 10 pJ for 64 bits of 8 KB")
    value_bytes: float = _constant(2.0, "digital", "1", "bytes of a digital value", "16 bits, as above")
    weight_bytes: float = _constant(8.0, "digital", "1",
        "bytes moved to update a weight: its digital copy is read and written",
        "32 bits each way")
    lanes: int = _constant(256, "digital", "1", "multipliers with adders of the digital part", "a guess", whole=True)
    clock: float = _constant(1e9, "digital", "1/s", "operations of a lane in a second", "a guess")
    lane_area: float = _constant(3000 * SQUARE_MICROMETRE, "digital", "m^2",
        "of a lane: 16-bit floating-point multiplier (1640 um^2) and adder (1360 um^2)",
        "Dally 2015, NIPS tutorial, 45 nm; memory is not counted")
    # fmt: on

    def __post_init__(self) -> None:
        """Every problem is raised at once."""
        known = ((name, c.problem(f"cost constant {name}", getattr(self, name))) for name, c in constants().items())
        OptionError.raise_if(problem for _, problem in known if problem is not None)

    def adc_energy(self, bits: int | None) -> float:
        """J of one conversion."""
        bits = self.ideal_bits if bits is None else bits
        floor = 10 ** ((6.02 * bits + 1.76 - self.adc_figure_of_merit) / 10) / 2
        return max(self.adc_step_energy * 2.0**bits, floor)

    def dac_energy(self, bits: int | None) -> float:
        """J of one conversion."""
        return self.dac_step_energy * 2.0 ** (self.ideal_bits if bits is None else bits)

    def area_of_adc(self, bits: int | None) -> float:
        """m^2 of one converter."""
        return self.adc_area * 2.0 ** ((self.ideal_bits if bits is None else bits) - 8)

    def area_of_dac(self, bits: int | None) -> float:
        """m^2 of one converter."""
        return self.dac_area * 2.0 ** ((self.ideal_bits if bits is None else bits) - 1)

    def bias_power(self, hardware: Hardware) -> float:
        """W of an amplifier that follows the neurons of this chip."""
        transconductance = hardware.capacitance * self.bandwidth_ratio / hardware.time_constant
        return self.supply * self.amplifier_branches * transconductance / self.transconductance_efficiency

    def pulse_energy(self, conductance: float) -> float:
        """J of one writing pulse on a device of this conductance."""
        return self.write_voltage**2 * conductance * self.pulse_width

    @property
    def digital_rate(self) -> float:
        """Operations of the digital part in a second."""
        return self.lanes * self.clock


def constants() -> dict[str, Constant]:
    """The description of every field, by name."""
    return {f.name: f.metadata["constant"] for f in fields(CostModel)}


# --- digital accelerators -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Accelerator:
    """A digital chip that does the same multiplications: ``energy = power * MACs / (rate * utilisation)``.

    Attributes:
        name: what reports call it.
        power: W.
        inference_rate: multiply-accumulates in a second at inference.
        training_rate: the same while training; None where it can't train.
        utilisation: part of that rate which is reached.
        area: m^2.
        source: of the numbers.
    """

    name: str
    power: float
    inference_rate: float
    training_rate: float | None
    utilisation: float
    area: float
    source: str

    def __post_init__(self) -> None:
        numbers = {
            "power": self.power,
            "inference_rate": self.inference_rate,
            "training_rate": 1.0 if self.training_rate is None else self.training_rate,
            "area": self.area,
            "utilisation": self.utilisation,
        }
        problems = [
            Problem(f"accelerator {self.name}, {name}", f"is {value!r}", "Give a positive, finite number.")
            for name, value in numbers.items()
            if not (math.isfinite(value) and value > 0)
        ]
        if self.utilisation > 1:
            where = f"accelerator {self.name}, utilisation"
            problems.append(Problem(where, f"is {self.utilisation!r}", "Give a part of 1."))
        OptionError.raise_if(problems)

    def latency(self, macs: float, training: bool = False) -> float | None:
        """s; None where it can't train."""
        rate = self.training_rate if training else self.inference_rate
        return None if rate is None else macs / (rate * self.utilisation)

    def energy(self, macs: float, training: bool = False) -> float | None:
        """J; None where it can't train."""
        latency = self.latency(macs, training)
        return None if latency is None else self.power * latency


H100 = Accelerator(
    "NVIDIA H100 SXM",
    power=700.0,
    inference_rate=1978.9e12 / 2,
    training_rate=989.4e12 / 2,
    utilisation=0.3,
    area=814e-6,
    source="NVIDIA H100 datasheet: 700 W, 1979 TOPS (8-bit integers) and 989 TFLOPS (16-bit) without sparsity, 4 nm; "
    "the utilisation is a guess",
)

A100 = Accelerator(
    "NVIDIA A100 SXM",
    power=400.0,
    inference_rate=624e12 / 2,
    training_rate=312e12 / 2,
    utilisation=0.3,
    area=826e-6,
    source="NVIDIA A100 datasheet: 400 W, 624 TOPS (8-bit integers) and 312 TFLOPS (16-bit) without sparsity, 7 nm; "
    "the utilisation is a guess",
)

EYERISS = Accelerator(
    "Eyeriss",
    power=0.278,
    inference_rate=35 * 666e6,
    training_rate=None,
    utilisation=1.0,
    area=16e-6,
    source="Chen et al. 2017, IEEE J. Solid-State Circuits 52(1): die of 4 mm x 4 mm, 278 mW at 35 frames/s "
    "of AlexNet's convolutions (666 million MACs, Chen et al. 2016, ISSCC 14.5), 16 bits, 65 nm, measured; "
    "without its DRAM",
)

ACCELERATORS = (H100, A100, EYERISS)

"""Energy, time and area of a program on a chip, for one sample.

    time of a phase    T = settling_time, or  max(1, sweeps to the tolerance) * ln(1 / tolerance) * time_constant,
                       as often as the positions of a convolution take turns: ceil(positions / copies)
    array              E = sum over layers  positions T (V_in^2 + V_out^2) sum (G+ + G-);  V_out where feedback passes
    amplifiers         E = sum (bias power * time on) + load,   load = (supply - V) V sum (G+ + G-) positions T
    DAC, ADC           E = conversions * energy of one
    writing            E = devices * pulses * V_write^2 G t / batch
    digital            E = operations * energy of one + bytes * energy of one

Inference is the forward phase: inputs converted, one relaxation, outputs converted. A training step adds the backward
phase (error currents converted, two nudged relaxations, states and error currents read, vector-Jacobian products of the
digital parts at twice their forward work) and the update (outer products of what was read, weights written). V is
full_scale times the activity of the signal; the mean of G+ + G- is ``2 g_min + (g_max - g_min) mean|w| / max|w|``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from ..hardware import Hardware
from ..hardware.mapping import Tiling
from .constants import ACCELERATORS, Accelerator, CostModel
from .result import Comparison, Cost, Row
from .work import AnalogPart, DigitalPart, Layer, Signal, Work

NUDGED_PHASES = 2
"""One at +beta, one at -beta."""

OUTER_PRODUCTS = 2
"""A difference with a mean, and a mean with a difference: the gradient of a bilinear term without cancellation."""

VJP = 2
"""A vector-Jacobian product in inputs and weights costs two forward passes."""


def estimate(
    work: Work,
    hardware: Hardware,
    model: CostModel | None = None,
    *,
    batch: int = 1,
    accelerators: Sequence[Accelerator] = ACCELERATORS,
) -> Cost:
    """What one sample costs, at inference and in a training step.

    Args:
        work: what is done; see :func:`ffebm_compiler.chip.cost.count`.
        hardware: the chip.
        model: the constants.
        batch: samples that share one update of the weights.
        accelerators: digital chips to compare with.
    """
    model = model or CostModel()
    chip = _Chip(hardware, model, max(1, batch))
    rows = [row for part in work.parts for row in chip.rows(part)]
    rows.append(Row("chip", "digital", "forward", area=model.lanes * model.lane_area))
    return Cost(
        rows=tuple(rows),
        comparisons=tuple(_comparisons(rows, work.macs, accelerators)),
        macs=work.macs,
        analog_macs=sum(p.macs for p in work.analog),
        hardware=hardware.name,
        batch=chip.batch,
        model=model,
    )


def _comparisons(rows: Sequence[Row], macs: int, accelerators: Sequence[Accelerator]) -> Iterator[Comparison]:
    """A training step is three passes on an accelerator: forward, errors, gradients."""
    for training, passes in ((False, 1), (True, 3)):
        counted = [r for r in rows if training or r.phase == "forward"]
        energy, latency = sum(r.energy for r in counted), sum(r.latency for r in counted)
        for accelerator in accelerators:
            theirs, time = accelerator.energy(passes * macs, training), accelerator.latency(passes * macs, training)
            if theirs is not None and time is not None:
                step = "training" if training else "inference"
                yield Comparison(accelerator.name, step, theirs, time, energy, latency)


class _Chip:
    """The formulas, with the chip and the constants that they share."""

    def __init__(self, hardware: Hardware, model: CostModel, batch: int):
        self.hardware, self.model, self.batch = hardware, model, batch

    def rows(self, part: AnalogPart | DigitalPart) -> Iterator[Row]:
        if isinstance(part, DigitalPart):
            return self.digital(part)
        return self.analog(part)

    # --- an energy-based block --------------------------------------------------------------------------------

    def analog(self, part: AnalogPart) -> Iterator[Row]:
        yield from self.forward(part)
        yield from self.backward(part)
        yield from self.update(part)

    def forward(self, part: AnalogPart) -> Iterator[Row]:
        h = self.hardware
        inputs, outputs = _size(part.inputs), _size(part.outputs)
        yield self.conversion(part, "DAC", "forward", inputs, inputs, h.dac_bits)
        yield from self.relaxation(part, "forward", 1)
        yield self.conversion(part, "ADC", "forward", outputs, outputs, h.adc_bits)
        moved = inputs * _bytes(h.dac_bits, self.model) + outputs * _bytes(h.adc_bits, self.model)
        yield Row(part.name, "digital", "forward", moved * self.model.memory_energy)

    def backward(self, part: AnalogPart) -> Iterator[Row]:
        h, outputs, states = self.hardware, _size(part.outputs), _size(part.states)
        nudges = NUDGED_PHASES * outputs
        reads = 2 * states + _reads(h) * sum(s.size for s in part.inputs if s.error)
        yield self.conversion(part, "DAC", "backward", nudges, outputs, h.nudge_bits)
        yield from self.relaxation(part, "backward", NUDGED_PHASES)
        yield self.conversion(part, "ADC", "backward", reads, states, h.learning_bits, there=outputs)
        moved = nudges * _bytes(h.nudge_bits, self.model) + reads * _bytes(h.learning_bits, self.model)
        yield Row(part.name, "digital", "backward", moved * self.model.memory_energy)

    def update(self, part: AnalogPart) -> Iterator[Row]:
        weights = sum(layer.weights for layer in part.layers)
        yield self.digital_row(part.name, "update", OUTER_PRODUCTS * part.macs, 0, 0, weights)
        yield self.writing(part)

    def relaxation(self, part: AnalogPart, phase: str, phases: int) -> Iterator[Row]:
        """Array and amplifiers in so many phases; their area counts in the forward one."""
        settle = self.settling(part)
        turns = max((self.turns(layer) for layer in part.layers), default=1)
        first = phase == "forward"
        yield Row(
            part.name,
            "array",
            phase,
            phases * settle * sum(self.dissipation(layer) for layer in part.layers),
            phases * settle * turns,
            sum(self.array_area(layer) for layer in part.layers) if first else 0.0,
        )
        loads = sum(self.load(layer) for layer in part.layers)
        on = self.amplifier_time(part, settle)
        held = _size(part.states) * settle * turns if turns > 1 else 0.0
        yield Row(
            part.name,
            "amplifiers",
            phase,
            phases * (settle * loads + on * self.model.bias_power(self.hardware) + held * self.model.hold_power),
            0.0,
            self.amplifier_area(part) if first else 0.0,
        )

    def settling(self, part: AnalogPart) -> float:
        """s from the start of a phase until it is read, were every position to have an array of its own."""
        if self.hardware.settling_time is not None:
            return self.hardware.settling_time
        tolerance = self.model.tolerance
        return part.sweeps_to(tolerance) * math.log(1 / tolerance) * self.hardware.time_constant

    def turns(self, layer: Layer) -> int:
        """How many positions take turns at one array."""
        return -(-layer.positions // self.copies(layer))

    def copies(self, layer: Layer) -> int:
        return min(self.model.copies, layer.positions)

    # --- array ------------------------------------------------------------------------------------------------

    def conductance(self, layer: Layer) -> float:
        """S, the sum of G+ + G- over one use of the layer's matrices."""
        return layer.weights * self.pair(layer)

    def pair(self, layer: Layer) -> float:
        """S, the mean of G+ + G-."""
        h = self.hardware
        magnitude = self.model.nominal_magnitude if layer.magnitude is None else layer.magnitude
        return 2 * h.g_min + (h.g_max - h.g_min) * magnitude

    def volts(self, activity: float | None) -> float:
        """rms of a signal."""
        return self.hardware.full_scale * (self.model.nominal_activity if activity is None else activity)

    def directions(self, layer: Layer) -> Iterator[tuple[float, float]]:
        """(volts, part of the devices that they drive) of the drive, and of the feedback where it passes."""
        yield self.volts(layer.source), layer.filled
        if layer.feedback:
            yield self.volts(layer.target), layer.filled

    def dissipation(self, layer: Layer) -> float:
        """W in the devices, times the positions: J in a second of every position's own."""
        squares = sum(v * v * part for v, part in self.directions(layer))
        return layer.positions * self.conductance(layer) * squares

    def load(self, layer: Layer) -> float:
        """W that amplifiers lose in passing the devices' current from the supply, times the positions."""
        supply = self.model.supply
        lost = sum(max(0.0, supply - v) * v * part for v, part in self.directions(layer))
        return layer.positions * self.conductance(layer) * lost

    def arrays(self, layer: Layer) -> int:
        """Arrays that hold the layer's weights: a second one for feedback where devices conduct one way only."""
        second = layer.feedback and not self.hardware.bidirectional
        return self.copies(layer) * (2 if second else 1)

    def array_area(self, layer: Layer) -> float:
        h = self.hardware
        tiling = Tiling(layer.groups, layer.rows, layer.columns, h.tile_rows, h.tile_columns)
        return self.arrays(layer) * tiling.tiles * h.tile_rows * h.tile_columns * 2 * self.model.cell_area

    # --- amplifiers -------------------------------------------------------------------------------------------

    def amplifiers(self, part: AnalogPart) -> Iterator[tuple[int, int]]:
        """(amplifiers, turns that each is on for): neurons, drivers of rows, drivers of columns in the feedback."""
        turns = {layer.label: self.turns(layer) for layer in part.layers}
        for state in part.states:
            t = max((turns.get(name, 1) for name in state.layers), default=1)
            yield -(-state.size // t), t
        for layer in part.layers:
            lines = layer.rows + (layer.columns if layer.feedback else 0)
            yield layer.groups * lines * self.copies(layer), self.turns(layer)

    def amplifier_time(self, part: AnalogPart, settle: float) -> float:
        """s, summed over the amplifiers: each is off while it has no turn."""
        return settle * sum(number * turns for number, turns in self.amplifiers(part))

    def amplifier_area(self, part: AnalogPart) -> float:
        """Amplifiers, and a capacitor a neuron, which also holds it."""
        number = sum(n for n, _ in self.amplifiers(part))
        capacitors = _size(part.states) * self.hardware.capacitance / self.model.capacitor_density
        return number * self.model.amplifier_area + capacitors

    # --- converters -------------------------------------------------------------------------------------------

    def conversion(
        self,
        part: AnalogPart,
        component: str,
        phase: str,
        conversions: int,
        values: int,
        bits: int | None,
        there: int = 0,
    ) -> Row:
        """Conversions of ``values`` places that share converters; those for ``there`` are on the chip already."""
        m = self.model
        converters, extra = self.converters(values), self.converters(values) - self.converters(there)
        energy, rate, area = {
            "DAC": (m.dac_energy(bits), m.dac_rate, m.area_of_dac(bits)),
            "ADC": (m.adc_energy(bits), m.adc_rate, m.area_of_adc(bits)),
        }[component]
        turns = -(-conversions // converters) if converters else 0
        return Row(part.name, component, phase, conversions * energy, turns / rate, extra * area)

    def converters(self, values: int) -> int:
        return -(-values // self.model.values_per_converter)

    # --- learning ---------------------------------------------------------------------------------------------

    def writing(self, part: AnalogPart) -> Row:
        """A row of a tile is written at once, up and then down; tiles and layers work side by side."""
        pulses = self.model.pulses if self.hardware.write == "pulses" else self.model.verify_pulses
        energy = sum(
            2 * layer.weights * self.arrays(layer) * self.model.pulse_energy(self.pair(layer) / 2)
            for layer in part.layers
        )
        rows = max((min(layer.rows, self.hardware.tile_rows) for layer in part.layers), default=0)
        time = 2 * rows * pulses * self.model.pulse_width
        return Row(part.name, "writing", "update", pulses * energy / self.batch, time / self.batch)

    # --- digital ----------------------------------------------------------------------------------------------

    def digital(self, part: DigitalPart) -> Iterator[Row]:
        yield self.digital_row(part.name, "forward", part.macs, part.operations, part.values, 0)
        yield self.digital_row(part.name, "backward", VJP * part.macs, VJP * part.operations, VJP * part.values, 0)
        yield self.digital_row(part.name, "update", 0, 0, 0, part.parameters)

    def digital_row(self, name: str, phase: str, macs: int, operations: int, values: int, weights: int) -> Row:
        """Multiply-accumulates, additions, values moved, and weights updated once a batch."""
        m = self.model
        product = m.multiply_energy + m.add_energy
        update = (product + m.weight_bytes * m.memory_energy) / self.batch
        energy = (
            macs * product + operations * m.add_energy + values * m.value_bytes * m.memory_energy + weights * update
        )
        return Row(name, "digital", phase, energy, (macs + operations + weights / self.batch) / m.digital_rate)


def _size(signals: Sequence[Signal]) -> int:
    return sum(s.size for s in signals)


def _bytes(bits: int | None, model: CostModel) -> int:
    """Of a converted value."""
    return -(-(model.ideal_bits if bits is None else bits) // 8)


def _reads(hardware: Hardware) -> int:
    """Conversions of an error current: one of the difference of both nudged phases, or one of each."""
    return 1 if hardware.learning_readout == "difference" else NUDGED_PHASES

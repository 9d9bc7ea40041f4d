"""An estimate against a hand calculation of two layers, and the laws that it must keep."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ffebm_compiler.chip.cost import H100, AnalogPart, Cost, CostModel, DigitalPart, Layer, Signal, Work, estimate
from ffebm_compiler.chip.hardware import Hardware

MODEL = CostModel()

HARDWARE = Hardware(
    g_min=1e-6,
    g_max=41e-6,
    tile_rows=64,
    tile_columns=32,
    dac_bits=8,
    adc_bits=6,
    nudge_bits=4,
    learning_bits=8,
    full_scale=0.5,
    settling_time=1e-6,
)

DENSE = AnalogPart(
    name="block1",
    layers=(
        Layer("a", 1, 100, 40, source=0.4, magnitude=0.25),
        Layer("b", 1, 40, 10, feedback=True, source=0.6, target=0.2, magnitude=0.5),
    ),
    states=(Signal("a", 40, layers=("a",), read=True), Signal("b", 10, layers=("b",))),
    inputs=(Signal("x", 100),),
    outputs=(Signal("b", 10, layers=("b",)),),
)
"""100 inputs, 40 hidden neurons, 10 outputs."""

CONV = AnalogPart(
    name="block1",
    layers=(Layer("c", 1, 9, 4, positions=64, source=0.5, magnitude=0.25),),
    states=(Signal("c", 256, layers=("c",)),),
    inputs=(Signal("x", 64),),
    outputs=(Signal("c", 256, layers=("c",)),),
)
"""A convolution of 3 x 3 to 4 channels on 8 x 8."""

DIGITAL = DigitalPart("digital1", macs=1000, operations=500, values=300, parameters=20)


def cost(
    part: AnalogPart | DigitalPart, hardware: Hardware = HARDWARE, model: CostModel = MODEL, batch: int = 1
) -> Cost:
    return estimate(Work((part,)), hardware, model, batch=batch)


def energy(c: Cost, component: str, phase: str) -> float:
    return sum(r.energy for r in c.rows if (r.component, r.phase) == (component, phase))


def latency(c: Cost, component: str, phase: str) -> float:
    return sum(r.latency for r in c.rows if (r.component, r.phase) == (component, phase))


def area(c: Cost, component: str, phase: str) -> float:
    return sum(r.area for r in c.rows if (r.component, r.phase) == (component, phase) and r.block != "chip")


# --- two layers by hand -----------------------------------------------------------------------------------------

G_A = 4000 * (2e-6 + 40e-6 * 0.25)
"""S of the first layer's devices: pairs of 2 + 10 uS."""

G_B = 400 * (2e-6 + 40e-6 * 0.5)
"""S of the second layer's: pairs of 2 + 20 uS."""


def test_array_by_hand() -> None:
    """a: 0.2 V on 48 mS; b: 0.3 V forward and 0.1 V back on 8.8 mS; for 1 us."""
    joule = (0.2**2 * G_A + (0.3**2 + 0.1**2) * G_B) * 1e-6
    assert joule == pytest.approx(2.8e-9)
    c = cost(DENSE)
    assert energy(c, "array", "forward") == pytest.approx(joule)
    assert energy(c, "array", "backward") == pytest.approx(2 * joule)
    assert latency(c, "array", "forward") == pytest.approx(1e-6)
    assert latency(c, "array", "backward") == pytest.approx(2e-6)
    # 100 x 40 on tiles of 64 x 32 takes 2 x 2, 40 x 10 one: 5 tiles of 2048 pairs of 0.1 um^2 each
    assert area(c, "array", "forward") == pytest.approx(5 * 2048 * 2 * 0.1e-12)
    assert area(c, "array", "backward") == 0


def test_amplifiers_by_hand() -> None:
    """50 neurons, drivers of 140 rows and of 10 columns that feed back; what is left of 1 V is lost on the devices'
    current.
    """
    bias = 200 * 26.6667e-6 * 1e-6
    load = (0.8 * 0.2 * G_A + (0.7 * 0.3 + 0.9 * 0.1) * G_B) * 1e-6
    c = cost(DENSE)
    assert energy(c, "amplifiers", "forward") == pytest.approx(bias + load, rel=1e-5)
    assert energy(c, "amplifiers", "backward") == pytest.approx(2 * (bias + load), rel=1e-5)
    assert latency(c, "amplifiers", "forward") == 0  # at the same time as the array
    # 200 amplifiers of 100 um^2, 50 capacitors of 1 pF at 2 fF/um^2
    assert area(c, "amplifiers", "forward") == pytest.approx(200 * 100e-12 + 50 * 500e-12)


def test_converters_by_hand() -> None:
    c = cost(DENSE)
    assert energy(c, "DAC", "forward") == pytest.approx(100 * 5e-15 * 256)
    assert energy(c, "ADC", "forward") == pytest.approx(10 * 10e-15 * 64)
    assert energy(c, "DAC", "backward") == pytest.approx(2 * 10 * 5e-15 * 16)  # a nudge at +beta, one at -beta
    assert energy(c, "ADC", "backward") == pytest.approx(2 * 50 * 10e-15 * 256)  # each state's difference and mean
    assert latency(c, "DAC", "forward") == pytest.approx(100 / 1.2e9)  # all take turns at one
    assert latency(c, "ADC", "backward") == pytest.approx(100 / 1.2e9)
    assert area(c, "ADC", "forward") == pytest.approx(1200e-12 / 4)
    assert area(c, "DAC", "forward") == pytest.approx(0.166e-12 * 128)


def test_error_currents_are_read_where_something_before_learns() -> None:
    behind = replace(DENSE, inputs=(Signal("x", 100, error=True),))
    extra = energy(cost(behind), "ADC", "backward") - energy(cost(DENSE), "ADC", "backward")
    assert extra == pytest.approx(100 * 10e-15 * 256)
    both = replace(HARDWARE, learning_readout="states")
    extra = energy(cost(behind, both), "ADC", "backward") - energy(cost(DENSE, both), "ADC", "backward")
    assert extra == pytest.approx(2 * 100 * 10e-15 * 256)


def test_learning_by_hand() -> None:
    """Two outer products of 4400 in 16-bit floating point, weights of 8 bytes, 4400 pairs written with 10 pulses of (2
    V)^2 G 100 ns.
    """
    c = cost(DENSE, batch=4)
    product = 1.5e-12
    assert energy(c, "digital", "update") == pytest.approx(8800 * product + 4400 * (product + 8 * 1.25e-12) / 4)
    pulses = 10 * 4 * 1e-7 * (4000 * 12e-6 + 400 * 22e-6)  # both devices of a pair: G+ + G-
    assert energy(c, "writing", "update") == pytest.approx(pulses / 4)
    assert latency(c, "writing", "update") == pytest.approx(2 * 64 * 10 * 1e-7 / 4)  # 64 rows of a tile, up and down
    written = cost(DENSE, replace(HARDWARE, write="pulses"), batch=4)
    assert energy(written, "writing", "update") == pytest.approx(pulses / 40)


def test_digital_by_hand() -> None:
    c = cost(DIGITAL)
    forward = 1000 * 1.5e-12 + 500 * 0.4e-12 + 300 * 2 * 1.25e-12
    assert energy(c, "digital", "forward") == pytest.approx(forward)
    assert energy(c, "digital", "backward") == pytest.approx(2 * forward)
    assert energy(c, "digital", "update") == pytest.approx(20 * (1.5e-12 + 8 * 1.25e-12))
    assert latency(c, "digital", "forward") == pytest.approx(1500 / 256e9)


def test_settling_without_a_given_time() -> None:
    """Four sweeps that reached 1e-6 are two to 1e-3, each of ln(1000) time constants."""
    part = replace(DENSE, sweeps=4, residual=1e-6)
    c = cost(part, replace(HARDWARE, settling_time=None, time_constant=1e-8))
    assert latency(c, "array", "forward") == pytest.approx(2 * math.log(1e3) * 1e-8)
    assert replace(part, sweeps=1, residual=0.0).sweeps_to(1e-3) == 1
    assert replace(part, sweeps=1, residual=1e-9).sweeps_to(1e-3) == 1
    assert replace(part, sweeps=50, residual=math.inf).sweeps_to(1e-3) == 50  # it never settled


def test_what_was_not_measured_takes_the_nominal_values() -> None:
    bare = replace(DENSE, layers=(Layer("a", 1, 100, 40), Layer("b", 1, 40, 10, feedback=True)))
    pairs = 4400 * (2e-6 + 40e-6 * 0.25)
    joule = 0.25**2 * (pairs + 400 * 12e-6) * 1e-6
    assert energy(cost(bare), "array", "forward") == pytest.approx(joule)


def test_comparison_by_hand() -> None:
    c = estimate(Work((DENSE, DIGITAL)), HARDWARE, accelerators=(H100,))
    inference, training = c.comparisons
    macs = 4400 + 1000
    assert (c.macs, c.analog_macs) == (macs, 4400)
    assert inference.energy == pytest.approx(700 * macs / (1978.9e12 / 2 * 0.3))
    assert training.energy == pytest.approx(700 * 3 * macs / (989.4e12 / 2 * 0.3))
    assert inference.energy_ratio == pytest.approx(inference.energy / c.inference.energy)
    assert training.latency_ratio == pytest.approx(training.latency / c.training.latency)


# --- laws -------------------------------------------------------------------------------------------------------


def test_an_adc_bit_doubles_the_adc_and_nothing_else() -> None:
    a, b = cost(DENSE), cost(DENSE, replace(HARDWARE, adc_bits=7))
    assert energy(b, "ADC", "forward") == pytest.approx(2 * energy(a, "ADC", "forward"))
    for component in ("array", "amplifiers", "DAC"):
        assert b.total("training", component=component) == a.total("training", component=component)


def test_copies_trade_area_for_time_at_the_same_energy() -> None:
    one, many = cost(CONV), cost(CONV, model=CostModel(copies=16))
    assert latency(one, "array", "forward") == pytest.approx(64e-6)
    assert latency(many, "array", "forward") == pytest.approx(4e-6)
    assert energy(many, "array", "forward") == pytest.approx(energy(one, "array", "forward"))
    assert area(many, "array", "forward") == pytest.approx(16 * area(one, "array", "forward"))
    assert energy(many, "amplifiers", "forward") < energy(one, "amplifiers", "forward")  # held for a shorter time
    assert energy(many, "writing", "update") == pytest.approx(16 * energy(one, "writing", "update"))
    full, more = cost(CONV, model=CostModel(copies=64)), cost(CONV, model=CostModel(copies=1000))
    assert full.training == more.training  # there is nothing for further copies to do


def test_convolution_by_hand() -> None:
    """Each of 64 positions: 36 pairs of 12 uS at 0.25 V; 256 neurons and 9 rows on for 64 turns, 4 neuron circuits."""
    c = cost(CONV)
    assert energy(c, "array", "forward") == pytest.approx(64 * 36 * 12e-6 * 0.25**2 * 1e-6)
    on, load = (4 + 9) * 64e-6 * 26.6667e-6, 64 * 36 * 12e-6 * 0.75 * 0.25 * 1e-6
    assert energy(c, "amplifiers", "forward") == pytest.approx(on + load + 256 * 10e-9 * 64e-6, rel=1e-5)


def test_inserted_zeros_draw_no_current() -> None:
    quarter = replace(CONV, layers=(replace(CONV.layers[0], filled=0.25),))
    assert quarter.macs == CONV.macs // 4
    assert energy(cost(quarter), "array", "forward") == pytest.approx(energy(cost(CONV), "array", "forward") / 4)


def test_one_way_devices_need_a_second_array_for_feedback() -> None:
    two = cost(DENSE, replace(HARDWARE, bidirectional=False))
    assert area(two, "array", "forward") == pytest.approx((4 + 2) * 2048 * 2 * 0.1e-12)
    assert energy(two, "array", "forward") == pytest.approx(energy(cost(DENSE), "array", "forward"))
    assert energy(two, "writing", "update") > energy(cost(DENSE), "writing", "update")


def test_a_batch_shares_its_writes() -> None:
    alone, shared = cost(DENSE), cost(DENSE, batch=32)
    assert energy(alone, "writing", "update") == pytest.approx(32 * energy(shared, "writing", "update"))
    assert alone.inference == shared.inference


def test_groups_are_arrays_of_their_own() -> None:
    def of(groups: int) -> Cost:
        return cost(replace(DENSE, layers=(Layer("a", groups, 60 // groups, 30, source=0.5, magnitude=0.25),)))

    assert area(of(3), "array", "forward") == pytest.approx(3 * area(of(1), "array", "forward"))
    assert energy(of(3), "array", "forward") == pytest.approx(energy(of(1), "array", "forward"))


def test_parts_add_up() -> None:
    both = estimate(Work((DENSE, DIGITAL, replace(CONV, name="block2"))), HARDWARE)
    alone = [cost(DENSE), cost(DIGITAL), cost(CONV)]
    for step in ("inference", "training"):
        assert both.total(step).energy == pytest.approx(sum(c.total(step).energy for c in alone))
        assert both.total(step).latency == pytest.approx(sum(c.total(step).latency for c in alone))


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    rows=st.integers(1, 300),
    columns=st.integers(1, 100),
    positions=st.integers(1, 50),
    g_max=st.floats(2e-6, 1e-3),
    volts=st.floats(0.01, 0.45),
    copies=st.integers(1, 60),
)
def test_more_work_costs_more(rows: int, columns: int, positions: int, g_max: float, volts: float, copies: int) -> None:
    def of(r: int = rows, v: float = volts, g: float = g_max, p: int = positions) -> Cost:
        layer = Layer("a", 1, r, columns, p, source=0.5, magnitude=0.25)
        state = Signal("a", columns * p, layers=("a",))
        part = AnalogPart("block1", (layer,), (state,), (Signal("x", r),), (state,))
        return cost(part, replace(HARDWARE, g_max=g, full_scale=v), CostModel(copies=copies))

    base = of()
    for bigger in (of(r=rows + 1), of(g=1.5 * g_max), of(v=1.1 * volts), of(p=positions + 1)):
        assert bigger.inference.energy > base.inference.energy
        assert bigger.training.energy > base.training.energy
    for c in (base, of(r=rows + 1)):
        assert 0 < c.inference.energy < c.training.energy
        assert 0 < c.inference.latency < c.training.latency
        assert 0 < c.inference.area <= c.training.area
    assert of(r=rows + 1).inference.area >= base.inference.area


def test_a_block_without_layers_is_only_converted() -> None:
    part = AnalogPart("block1", (), (Signal("s", 4),), (Signal("x", 4),), (Signal("s", 4),))
    c = cost(part)
    assert energy(c, "array", "forward") == 0
    assert energy(c, "writing", "update") == 0
    assert energy(c, "ADC", "forward") == pytest.approx(4 * 10e-15 * 64)

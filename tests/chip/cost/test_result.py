"""An estimate as tables, dictionary and picture."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from ffebm_compiler.chip.cost import AnalogPart, Cost, DigitalPart, Layer, Signal, Work, estimate
from ffebm_compiler.chip.cost.units import si
from ffebm_compiler.chip.hardware import Hardware
from ffebm_compiler.errors import OptionError


def example(blocks: int = 2, size: int = 50) -> Cost:
    def block(i: int) -> AnalogPart:
        state = Signal("fc", size, layers=("fc",))
        return AnalogPart(f"block{i}", (Layer("fc", 1, size, size),), (state,), (Signal("x", size),), (state,))

    parts = [p for i in range(1, blocks + 1) for p in (block(i), DigitalPart(f"digital{i}", macs=100, values=40))]
    return estimate(Work(tuple(parts)), Hardware(name="mine", settling_time=1e-7))


def test_sums_by_block_and_by_component_are_the_whole() -> None:
    cost = example()
    for step in ("inference", "training"):
        whole = cost.total(step)
        by_block = [cost.total(step, block=b) for b in cost.blocks]
        by_component = [cost.total(step, component=c) for c in {r.component for r in cost.rows}]
        for parts in (by_block, by_component):
            assert sum(p.energy for p in parts) == pytest.approx(whole.energy)
            assert sum(p.latency for p in parts) == pytest.approx(whole.latency)
            assert sum(p.area for p in parts) == pytest.approx(whole.area)
    assert cost.inference == cost.total("inference")
    assert cost.training == cost.total("training")


def test_the_table_has_a_line_for_each_block_and_component() -> None:
    cost = example(blocks=1)
    head, *lines, last = cost.table("training")
    assert head == ("block", "component", "energy", "latency", "area")
    assert [line[:2] for line in lines] == [
        *(("block1", c) for c in ("array", "amplifiers", "DAC", "ADC", "digital", "writing")),
        ("digital1", "digital"),
        ("chip", "digital"),
    ]
    assert last[2] == si(cost.training.energy, "J")
    assert ("block1", "writing") not in [line[:2] for line in cost.table("inference")]


def test_the_text_says_where_the_chip_loses() -> None:
    """Ten neurons between converters of 8 bits."""
    small = example(blocks=1, size=10)
    assert "H100" in small.text
    assert "'mine'" in str(small)
    worse = [c for c in small.comparisons if c.energy_ratio < 1]
    assert worse
    for c in worse:
        assert (
            f"{c.step}: the chip takes {1 / c.energy_ratio:.3g} times the energy of {c.accelerator}." in small.remarks
        )


def test_converters_are_blamed_where_they_dominate() -> None:
    def remarks(settling: float) -> str:
        state = Signal("fc", 4, layers=("fc",))
        part = AnalogPart("block1", (Layer("fc", 1, 4, 4),), (state,), (Signal("x", 4),), (state,))
        return " ".join(estimate(Work((part,)), Hardware(settling_time=settling)).remarks)

    assert "converting takes more energy" in remarks(1e-9)
    assert "converting takes more energy" not in remarks(1e-5)


def test_the_dictionary_is_json_and_whole() -> None:
    cost = example()
    read = json.loads(json.dumps(cost.to_dict()))
    assert sum(r["energy"] for r in read["rows"]) == pytest.approx(read["totals"]["training"]["energy"])
    assert read["constants"]["adc_rate"] == 1.2e9
    assert read["macs"] == 2 * (2500 + 100)
    assert {c["step"] for c in read["comparisons"]} == {"inference", "training"}


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0 J"), (3.2e-8, "32 nJ"), (1.5, "1.5 J"), (2e-17, "0.02 fJ"), (1e-3, "1 mJ"), (999e-12, "999 pJ")],
)
def test_numbers_are_written_with_a_prefix(value: float, text: str) -> None:
    assert si(value, "J") == text


@pytest.mark.slow
@pytest.mark.parametrize("blocks", [1, 40])
def test_the_picture_is_a_png(tmp_path: Path, blocks: int) -> None:
    pytest.importorskip("matplotlib")
    path = example(blocks).plot(tmp_path / "cost.png")
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", data[16:24])
    assert width > 1000
    assert 300 < height < 2000


@pytest.mark.slow
@pytest.mark.parametrize(("ending", "start"), [("svg", b"<?xml"), ("pdf", b"%PDF"), ("PNG", b"\x89PNG")])
def test_the_ending_says_what_the_picture_is(tmp_path: Path, ending: str, start: bytes) -> None:
    pytest.importorskip("matplotlib")
    found = example().plot(tmp_path / f"cost.{ending}")
    assert found.read_bytes().startswith(start)


def test_a_picture_needs_a_folder(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="does not exist"):
        example().plot(tmp_path / "missing" / "cost.png")


def test_nothing_to_do_costs_nothing(tmp_path: Path) -> None:
    empty = estimate(Work(()), Hardware())
    assert empty.inference.energy == 0
    assert empty.text
    assert empty.remarks == ()

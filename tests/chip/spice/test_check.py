"""Folders of netlists: written whole, read with suspicion, compared by what ngspice says."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from spice_circuits import Draw, Oracle
from torch import Tensor, nn

import ffebm_compiler as fc
from ffebm_compiler import InputError, OptionError
from ffebm_compiler.chip.hardware.circuit import Circuit
from ffebm_compiler.chip.spice import Bench, check_netlists, difference, settling_time, unrest, write_netlists
from ffebm_compiler.chip.spice.folder import read_manifest
from ffebm_compiler.chip.spice.solve import still_to_go
from ffebm_compiler.rules.piecewise import RELU, clamp
from ffebm_compiler.rules.softmax import softmax

needs_ngspice = pytest.mark.skipif(shutil.which("ngspice") is None, reason="ngspice is not installed")

FREE = Draw((RELU, clamp(-0.5, 1.0)), (4, 3), 5, inputs=3).circuit()
NUDGED = Draw((RELU, clamp(-0.5, 1.0)), (4, 3), 5, inputs=3, nudge=0.2).circuit()
BOTH = {"block1": FREE, "block1 nudged": NUDGED}


def states(circuit: Circuit) -> dict[str, Tensor]:
    return {n: torch.from_numpy(v) for n, v in Oracle(circuit).equilibrium().items()}


EXPECTED = {name: states(c) for name, c in BOTH.items()}


@needs_ngspice
def test_a_folder_is_checked(tmp_path: Path) -> None:
    paths = write_netlists(BOTH, tmp_path / "spice", EXPECTED)
    assert [p.name for p in paths] == ["block1.cir", "block1_nudged.cir"]
    verdicts = check_netlists(tmp_path / "spice")
    assert [v.text for v in verdicts] == ["ok", "ok"]
    assert all(v.operating_point is not None and v.operating_point < 1e-9 for v in verdicts)
    assert all(v.transient is not None and v.transient < 1e-5 for v in verdicts)
    assert all(1e-7 < (v.settling_time or 0) < 3e-6 for v in verdicts)


@needs_ngspice
def test_a_wrong_voltage_is_found(tmp_path: Path) -> None:
    off = {name: {n: v * 1.001 for n, v in s.items()} for name, s in EXPECTED.items()}
    write_netlists(BOTH, tmp_path / "spice", off)
    verdicts = check_netlists(tmp_path / "spice")
    assert [v.ok for v in verdicts] == [False, False]
    assert verdicts[0].operating_point == pytest.approx(1e-3 / 1.001, rel=1e-6)
    assert all(v.ok for v in check_netlists(tmp_path / "spice", tolerance=2e-3))


@needs_ngspice
def test_a_short_transient_is_called_one(tmp_path: Path) -> None:
    write_netlists({"b": FREE}, tmp_path / "spice", {"b": EXPECTED["block1"]}, Bench(duration=1e-7))
    (verdict,) = check_netlists(tmp_path / "spice")
    assert verdict.ok
    assert not verdict.settled
    assert "has not settled" in verdict.text


@needs_ngspice
def test_measurements_of_the_netlist_agree(tmp_path: Path) -> None:
    """ngspice's own ``.meas``, which run without a raw file."""
    import subprocess

    (path,) = write_netlists({"b": FREE}, tmp_path / "spice", {"b": EXPECTED["block1"]})
    done = subprocess.run(["ngspice", "-n", "-b", str(path)], capture_output=True, text=True, check=True)
    found = [float(line.split("=")[1]) for line in done.stdout.splitlines() if line.startswith("settled_s_")]
    (verdict,) = check_netlists(tmp_path / "spice")
    assert found
    assert max(found) == pytest.approx(verdict.settling_time, rel=1e-3)


@needs_ngspice
def test_without_expectations_there_is_nothing_to_compare(tmp_path: Path) -> None:
    write_netlists({"b": FREE}, tmp_path / "spice")
    assert check_netlists(tmp_path / "spice")[0].text == "nothing to compare with"


def test_differences_are_relative_to_the_bank() -> None:
    expected = {"a": torch.tensor([2.0, 0.0]), "dead": torch.tensor([0.0])}
    found = {"a": torch.tensor([2.0, 0.02]), "dead": torch.tensor([2e-6])}
    assert difference(found, expected) == pytest.approx({"a": 0.01, "dead": 1e-3})


def test_settling() -> None:
    times = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0])
    course = {"s": torch.tensor([[0.0], [1.0], [0.5], [1.0], [1.0]])}
    assert settling_time(times, course, 0.1) == pytest.approx(2.8)
    assert settling_time(times, course, 0.1, {"s": torch.tensor([2.0])}) == float("inf")
    assert settling_time(times, {"s": torch.ones(5, 1)}, 0.1) == 0.0


def test_nothing_is_half_written(tmp_path: Path) -> None:
    bad = replace(FREE, banks=(replace(FREE.banks[0], potential=softmax(-1)), FREE.banks[1]))
    with pytest.raises(InputError, match=r"features\.1"):
        write_netlists({"good": FREE, "bad": bad}, tmp_path / "spice")
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_not_overwritten(tmp_path: Path) -> None:
    write_netlists({"a": FREE}, tmp_path / "spice")
    with pytest.raises(OptionError, match="exists"):
        write_netlists({"b": FREE}, tmp_path / "spice")
    write_netlists({"b": FREE}, tmp_path / "spice", replace=True)
    assert sorted(p.name for p in (tmp_path / "spice").iterdir()) == ["b.cir", "manifest.json"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    with pytest.raises(OptionError, match="something else"):
        write_netlists({"b": FREE}, tmp_path / "mine", replace=True)
    assert (tmp_path / "mine" / "thesis.txt").exists()


@pytest.mark.parametrize(
    ("expected", "what"),
    [
        ({"other": {}}, "are of no circuit"),
        ({"b": {"s0": torch.zeros(3)}}, "do not fit bank s0"),
        ({"b": {"s9": torch.zeros(4)}}, "do not fit bank s9"),
        ({"b": {"s0": torch.full((4,), float("nan"))}}, "not finite"),
    ],
)
def test_wrong_expectations(expected: dict, what: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=what):
        write_netlists({"b": FREE}, tmp_path / "spice", expected)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda m: m.update(format="other"), "format"),
        (lambda m: m.update(netlists=3), "not a list"),
        (lambda m: m["netlists"][0].update(file="../b.cir"), "not a file of this folder"),
        (lambda m: m["netlists"][0].update(file="missing.cir"), "not a file of this folder"),
        (lambda m: m["netlists"][0].update(volts=0), "must be positive"),
        (lambda m: m["netlists"][0].update(volts=float("nan")), "no number"),
        (lambda m: m["netlists"][0]["banks"][0].update(expected=[1.0]), "1 states are expected of 4 nodes"),
        (lambda m: m["netlists"][0]["banks"][0].update(nodes=[1, 2, 3, 4]), "not text"),
    ],
)
def test_damaged_manifests(change: object, what: str, tmp_path: Path) -> None:
    write_netlists({"b": FREE}, tmp_path / "spice", {"b": EXPECTED["block1"]})
    path = tmp_path / "spice" / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)  # type: ignore[operator]
    path.write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=what):
        read_manifest(tmp_path / "spice")


@pytest.mark.parametrize("content", ["", "[", "[]", "[" * 100_000, "\x00"])
def test_manifests_that_are_none(content: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(InputError, match="is damaged"):
        read_manifest(tmp_path)


def test_a_folder_without_a_manifest(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no manifest\.json"):
        read_manifest(tmp_path)


def test_a_bank_that_is_off_settles_with_the_others() -> None:
    """Its rounding is not measured against itself."""
    times = torch.linspace(0, 10, 101)
    flicker = 1e-12 * torch.rand(101, 2, generator=torch.Generator().manual_seed(0))
    course = {"on": 1 - torch.exp(-times).unsqueeze(1), "off": flicker}
    assert settling_time(times, course) < 5
    assert unrest(times, course) < 1e-3
    assert unrest(times, {"on": times.unsqueeze(1)}) == pytest.approx(0.1)


@needs_ngspice
def test_more_states_than_ngspice_can_measure(tmp_path: Path) -> None:
    circuit = Draw((RELU, clamp(-0.5, 1.0)), (100, 3), 5, inputs=2).circuit()
    (path,) = write_netlists({"b": circuit}, tmp_path / "spice", {"b": states(circuit)})
    assert path.read_text().count(".meas") == 99
    assert check_netlists(tmp_path / "spice")[0].ok


def test_what_a_slow_mode_still_has_before_it_is_estimated() -> None:
    """Of a mode that decays by a known factor, against the exponential function; and of one that rests."""
    times = torch.linspace(0, 30, 1001, dtype=torch.float64)
    slow = 1 - 0.3 * torch.exp(-times / 5)
    quick = 1 - torch.exp(-times)
    course = {"b": torch.stack([slow, quick], 1)}
    assert still_to_go(times, course) == pytest.approx(0.3 * math.exp(-30 / 5), rel=0.02)
    assert still_to_go(times, {"b": torch.ones(1001, 2, dtype=torch.float64)}) == 0


class Slow(nn.Module):
    """Its slowest mode is not over after 30 time constants at a loop gain of 0.3."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 4), nn.Linear(4, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.c(torch.tanh(self.b(torch.tanh(self.a(x))))))


@needs_ngspice
@pytest.mark.parametrize(("seed", "said"), [(8, "ok"), (9, "ok; the transient has not settled")])
def test_a_transient_whose_slowest_mode_is_not_over_is_called_so(seed: int, said: str, tmp_path: Path) -> None:
    torch.manual_seed(seed)
    model = fc.convert(Slow(), 3, loop_gain=0.3, tolerance=5e-7)  # below what is asked of operating points
    chip = model.lower("analog-emu", hardware="ideal", chip_seed=0).calibrate(torch.randn(8, 3))
    chip.export_spice(tmp_path / "spice")
    (verdict,) = check_netlists(tmp_path / "spice")
    assert (verdict.text, verdict.ok) == (said, True)
    assert verdict.operating_point is not None
    assert verdict.operating_point < 1e-6
    assert (verdict.transient > verdict.tolerance) == (said != "ok")

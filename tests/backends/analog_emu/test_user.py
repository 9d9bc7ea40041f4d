"""What a user of a chip does besides calling it: types, modes, calibrating again, and what is mistyped."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import ffebm_compiler as fc
from ffebm_compiler.backends.analog_emu.report import differences
from ffebm_compiler.chip.hardware.presets import preset
from ffebm_compiler.errors import FFEBMError, InputError, OptionError
from ffebm_compiler.ffebm import AnalogFFEBM


def _network(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 3)).to(dtype)


def _input(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(16, 5, generator=torch.Generator().manual_seed(1), dtype=dtype)


def _chip(hardware: str | fc.Hardware = "rram", dtype: torch.dtype = torch.float64) -> AnalogFFEBM:
    return fc.convert(_network(dtype), block_size=2).lower(hardware=hardware)


# --- types and modes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_chip_of_half_precision_has_its_circuits(dtype: torch.dtype) -> None:
    x = _input(dtype)
    half, double = (_chip("ideal", t).eval().calibrate(_input(t)) for t in (dtype, torch.float64))
    found, expected = half.circuits(x)[0], double.circuits(x.double())[0]
    for a, b in zip(found.edges, expected.edges, strict=True):
        scale = float(b.positive.max())
        # bfloat16 keeps 8 bits of a weight
        torch.testing.assert_close(a.positive, b.positive, rtol=0, atol=2**-8 * scale)


def test_a_chip_whose_model_has_become_double_has_its_circuits() -> None:
    chip, x = _chip(dtype=torch.float32).eval(), _input()
    chip.calibrate(x.float())(x.float())
    assert chip.double().circuits(x)[0].banks


def test_a_model_lowered_in_inference_mode_can_be_trained() -> None:
    model = fc.convert(_network(), block_size=2)
    with torch.inference_mode():
        chip = model.lower(hardware="rram").calibrate(_input())
        chip(_input())
    chip(_input()).sum().backward()
    assert all(p.grad is not None for p in chip.parameters())


@pytest.mark.parametrize("ask", [AnalogFFEBM.calibrate, AnalogFFEBM.cost], ids=["calibrate", "cost"])
def test_layers_that_were_frozen_in_evaluation_mode_stay_so(ask: Callable[[AnalogFFEBM, Tensor], object]) -> None:
    chip = _chip().train()
    chip.network[2].eval()
    ask(chip, _input())
    assert chip.training
    assert chip.network.training
    assert not chip.network[2].training


# --- calibrating again --------------------------------------------------------------------------------


def test_calibration_of_a_used_chip_is_that_of_the_weights_on_it() -> None:
    """Every device stuck at one end: whatever the parameters say, the weights are 0, and so the last state is
    its bias.
    """
    chip, x = _chip(fc.Hardware(stuck_low=1.0)).eval().calibrate(_input()), _input()
    last = chip.program.energy_blocks[-1].states[-1].name
    designed = chip.chip.ranges[last].high
    chip(x)
    chip.calibrate(x)
    assert designed > 0.1
    assert chip.chip.ranges[last].high < 1e-6 * designed or chip.chip.ranges[last].high == 1.0


def test_calibration_again_follows_what_pulses_could_reach() -> None:
    """The parameters ask for 100 times the weights; full devices can't follow, and the ranges are those of what they
    hold.
    """
    chip, x = _chip(fc.Hardware(write="pulses")).eval().calibrate(_input()), _input()
    last = chip.program.energy_blocks[-1].states[-1].name
    before = chip.chip.ranges[last].high
    chip(x)
    with torch.no_grad():
        chip.network[3].weight *= 100
        chip.calibrate(x)
    assert chip.chip.ranges[last].high < 20 * before


# --- what is mistyped ---------------------------------------------------------------------------------

MISTYPED: dict[str, tuple[Callable[[AnalogFFEBM, Tensor, Path], object], tuple[str, ...]]] = {
    "nudge of no state": (lambda c, x, _: c.circuits(x, nudge={"foo": x}), ("nudge of 'foo'", "no state")),
    "nudge of another shape": (
        lambda c, x, _: c.circuits(x, nudge={c.program.energy_blocks[0].states[0].name: torch.ones(4)}),
        ("4 currents", "8 neurons"),
    ),
    "tolerance": (
        lambda c, x, _: c.settling_times(x, tolerance=-1.0, duration=0.0),
        ("option tolerance", "option duration"),
    ),
    "batch": (lambda c, x, _: c.cost(x, batch=0), ("option batch", "is 0")),
    "step": (lambda c, x, _: c.cost(x).total("train"), ("option step", "'train'", "training")),
    "component": (lambda c, x, _: c.cost(x).total("training", component="adc"), ("option component", "'adc'", "ADC")),
    "block of a cost": (
        lambda c, x, _: c.cost(x).total("training", block="block9"),
        ("option block", "'block9'", "block1"),
    ),
    "ending": (lambda c, x, p: c.cost(x).plot(p / "a.xyz"), ("a.xyz", ".png, .svg, .pdf")),
    "blocks": (lambda c, x, p: c.export_spice(p / "n", x, blocks="block1"), ("option blocks", "['block1']")),
    "chip": (lambda c, x, _: c.lower(chip=c.chip), ("option chip", "is a Chip")),
    "folder": (lambda c, x, p: c.lower(chip=p), ("is a folder",)),
}


@pytest.mark.parametrize("name", MISTYPED)
def test_what_is_mistyped_is_one_error_that_names_it(name: str, tmp_path: Path) -> None:
    ask, words = MISTYPED[name]
    chip, x = _chip().eval().calibrate(_input()), _input()
    with pytest.raises(FFEBMError) as caught:
        ask(chip, x, tmp_path)
    assert isinstance(caught.value, OptionError | InputError)
    assert all(w in str(caught.value) for w in words), str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_model_without_values_is_an_error_that_says_so() -> None:
    chip = _chip().to("meta")
    with pytest.raises(InputError, match="input input: is on meta"):
        chip(_input().to("meta"))


def test_a_function_without_a_name_is_not_told_to_be_kept_digital_by_it() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(5, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.tanh(self.a(x)))  # type: ignore[no-any-return]

    with pytest.raises(OptionError) as caught:
        fc.convert(Net(), block_size=2).lower(hardware=fc.Hardware(physics="resistive"))
    assert 'digital=[""]' not in str(caught.value)
    assert "make it a module" in str(caught.value)


# --- what it says -------------------------------------------------------------------------------------


def test_a_report_has_no_digits_of_rounding() -> None:
    lines = "\n".join(differences(preset("rram")))
    assert "programming_error = (0.006177, 0.2845, -0.7784, 0.8057, -0.2985)" in lines
    assert "pulse_step = 0.0008333\n" in lines


def test_a_model_that_takes_a_dict_is_converted_without_a_warning() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(5, 8), nn.Linear(8, 3)

        def forward(self, batch: dict[str, Tensor]) -> Tensor:
            return self.b(torch.relu(self.a(batch["x"])))  # type: ignore[no-any-return]

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        chip = fc.convert(Net().double(), block_size=2).lower(hardware="rram")
        chip({"x": _input()})
    assert not caught, [str(w.message) for w in caught]

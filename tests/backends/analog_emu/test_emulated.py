"""The backend as its user meets it: lowering, calibration, training steps, and what can't be."""

from __future__ import annotations

import contextlib
import itertools
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ffebm_compiler as fc
from ffebm_compiler.errors import ConvergenceWarning, InputError, OptionError
from ffebm_compiler.model.converted_module import runner_of

X = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
Y = torch.randint(0, 3, (6,), generator=torch.Generator().manual_seed(1))


def network(activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Linear(5, 6),
            activation(),
            nn.Linear(6, 4),
            activation(),
            nn.Dropout(0.0),
            nn.Linear(4, 5),
            activation(),
            nn.Linear(5, 3),
        )


@pytest.fixture
def model() -> fc.FFEBM:
    return fc.convert(network(), block_size=2)


# --- bad calls -------------------------------------------------------------------------------------------

BAD: dict[str, tuple[dict[str, Any], list[str]]] = {
    "a backend misspelt": (
        {"backend": "analog-emo"},
        ["option backend: is 'analog-emo'\n    Did you mean \"analog-emu\"?"],
    ),
    "no backend": ({"backend": None}, ["option backend"]),
    "hardware misspelt": ({"hardware": "rarm"}, ["option hardware: is 'rarm'", 'Did you mean "rram"']),
    "hardware of another kind": ({"hardware": 3}, ["option hardware: is 3"]),
    "a negative seed": ({"chip_seed": -1}, ["option chip_seed: is -1"]),
    "a seed that is no number": ({"noise_seed": "1"}, ["option noise_seed: is '1'"]),
    "a seed of True": ({"chip_seed": True}, ["option chip_seed: is True"]),
    "an endless seed": ({"chip_seed": 1 << 70}, ["option chip_seed"]),
    "a broken seed": ({"noise_seed": 1.5}, ["option noise_seed: is 1.5"]),
    "two chips": ({"hardware": "rram", "chip": "x.npz"}, ["options hardware and chip: are both given"]),
    "everything": (
        {"backend": "analog", "hardware": "ramm", "chip_seed": -1, "noise_seed": None},
        ["4 problems", "option backend", "option hardware", "option chip_seed", "option noise_seed"],
    ),
    "a chip and its seeds": (
        {"chip": "x.npz", "chip_seed": 1, "noise_seed": 2},
        ["options chip_seed and chip: are both given", "options noise_seed and chip: are both given"],
    ),
    "everything with a file": (
        {"backend": "analog", "hardware": "rram", "chip": "x.npz", "chip_seed": 1},
        ["3 problems", "option backend", "options hardware and chip", "options chip_seed and chip"],
    ),
}


@pytest.mark.parametrize("name", sorted(BAD))
def test_a_bad_call_is_one_error_with_all_that_is_wrong(model: fc.FFEBM, name: str) -> None:
    options, expected = BAD[name]
    with pytest.raises(OptionError) as raised:
        model.lower(**options)
    assert all(text in str(raised.value) for text in expected), str(raised.value)


def test_a_chip_that_is_not_there(model: fc.FFEBM, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        model.lower(chip=tmp_path / "no.npz")


def test_the_chip_of_another_model_is_refused_naming_every_weight(model: fc.FFEBM, tmp_path: Path) -> None:
    chip = model.lower(hardware="rram").calibrate(X)
    chip(X)
    path = chip.save_chip(tmp_path / "chip.npz")
    other = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3), nn.ReLU(), nn.Linear(3, 2))
    with pytest.raises(InputError) as raised:
        fc.convert(other, block_size=2).lower(chip=path)
    named = {p.where.rpartition(" ")[2] for p in raised.value.problems}
    assert named == {"2.weight", "2.bias", "5.weight", "5.bias", "7.weight", "7.bias"}
    assert "(4, 6), and the model has one of (3, 6)" in str(raised.value)
    assert "(5, 4), and the model has none" in str(raised.value)


def test_resistors_refuse_all_layers_that_they_are_not_in_one_error_before_running() -> None:
    model = fc.convert(network(nn.Tanh), block_size=2)
    with pytest.raises(OptionError) as raised:
        model.lower(hardware=fc.Hardware(physics="resistive"))
    assert len(raised.value.problems) == 3
    for layer in ("1", "3", "6"):
        assert f"layer {layer} (Tanh" in str(raised.value)
        assert f'digital=["{layer}"]' in str(raised.value)
    fc.convert(network(nn.ReLU), block_size=2).lower(hardware=fc.Hardware(physics="resistive"))(X)


# --- ranges ----------------------------------------------------------------------------------------------


def test_ranges_come_from_calibration_or_from_the_first_batch(model: fc.FFEBM) -> None:
    calibrated, not_yet = (model.lower(hardware=fc.Hardware(adc_bits=6, dac_bits=6)) for _ in range(2))
    calibrated.calibrate(X)
    not_yet(X)
    assert calibrated.chip.ranges == not_yet.chip.ranges
    torch.testing.assert_close(calibrated(X), not_yet(X))
    before = dict(not_yet.chip.ranges)
    not_yet(10 * X)
    assert not_yet.chip.ranges == before  # a later batch saturates, and is counted
    assert any(s.outside for s in not_yet.chip.saturation.values())
    not_yet.calibrate(10 * X)
    assert not_yet.chip.ranges != before
    assert not any(s.outside for s in not_yet.chip.saturation.values())
    (block, *_) = calibrated.program.energy_blocks
    assert calibrated.chip.ranges[block.inputs[0]].high == pytest.approx(float(X.abs().max()))


def test_bad_data_leaves_the_ranges_alone(model: fc.FFEBM) -> None:
    chip = model.lower(hardware="rram").calibrate(X)
    before = dict(chip.chip.ranges)
    for call in (chip.calibrate, chip):
        with pytest.raises(InputError):
            call(X * float("nan"))
    assert chip.chip.ranges == before
    fresh = model.lower(hardware="rram")
    with pytest.raises(InputError):
        fresh(X * float("inf"))
    assert not fresh.chip.ranges


def test_a_model_that_diverged_gives_no_ranges_and_no_wrong_verdict_on_later_blocks() -> None:
    torch.manual_seed(1)
    sizes = (8, 16, 16, 16, 16, 16, 16, 4)
    layers = [l for a, b in itertools.pairwise(sizes) for l in (nn.Linear(a, b), nn.ReLU())]
    converted = fc.convert(nn.Sequential(*layers[:-1]), block_size=2, loop_gain=None).eval()
    x = torch.rand(5, 8)
    chip = converted.lower(hardware=fc.Hardware(adc_bits=6)).calibrate(x)
    before = dict(chip.chip.ranges)
    with torch.no_grad():
        for p in (*converted.parameters(), *chip.parameters()):
            p.mul_(1e4)
    fresh = converted.lower(hardware="rram")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for call in (chip.calibrate, fresh.calibrate, fresh):
            with pytest.raises(InputError, match="diverged"):
                call(x)
    assert chip.chip.ranges == before


def test_converters_round_what_enters_and_leaves(model: fc.FFEBM) -> None:
    chip = model.lower(hardware=fc.Hardware(adc_bits=4, dac_bits=3)).calibrate(X)
    y, found = chip.equilibrium(X)
    assert len(found[0].inputs[chip.program.energy_blocks[0].inputs[0]].unique()) <= 2**3 - 1
    assert len(y.unique()) <= 2**4 - 1


# --- training --------------------------------------------------------------------------------------------


def grads(model: fc.FFEBM) -> list[Tensor]:
    found = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    return found


@pytest.mark.parametrize("spelled_out", [False, True])
def test_a_training_step_runs_on_the_chip(model: fc.FFEBM, spelled_out: bool) -> None:
    hardware = fc.Hardware(programming_error=0.02, read_noise=0.01, offset=0.01, learning_bits=6)
    chips = [model.lower(hardware=hardware).calibrate(X) for _ in range(2)]
    namespace: dict[str, Any] = {}
    exec(chips[0].training_code, namespace)
    step = (lambda *a: namespace["training_step"](chips[0], *a)) if spelled_out else chips[0].training_step
    loss = step(X, Y, F.cross_entropy)
    expected = F.cross_entropy(chips[1](X), Y)
    expected.backward()
    assert torch.equal(loss, expected)
    assert not loss.requires_grad
    found, wanted = grads(chips[0]), grads(chips[1])
    assert len(found) == len(wanted) == 8
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(found, _grads_of(model), strict=True))
    assert "nudged phases" in chips[0].training_code


def _grads_of(model: fc.FFEBM) -> list[Tensor]:
    F.cross_entropy(model(X), Y).backward()
    return grads(model)


def test_a_training_step_takes_inputs_by_position_and_by_name() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 3)

        def forward(self, x: Tensor, z: Tensor) -> Tensor:
            return torch.relu(self.a(x)) + z

    chip = fc.convert(Two(), block_size=1).lower()
    x, z, y = torch.randn(2, 4), torch.randn(2, 3), torch.zeros(2, 3)
    assert torch.equal(chip.training_step((x, z), y, F.mse_loss), chip.training_step({"x": x, "z": z}, y, F.mse_loss))


def test_a_script_is_not_written_for_a_chip(model: fc.FFEBM, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="training_step"):
        model.lower().write_training_loop(tmp_path / "train.py")
    assert not list(tmp_path.iterdir())


def test_as_ideal_is_the_executor_for_a_while(model: fc.FFEBM) -> None:
    chip = model.lower(hardware="harsh").calibrate(X)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        before = chip(X)
        with chip.as_ideal():
            assert torch.equal(chip(X), model(X))
            with contextlib.suppress(ZeroDivisionError), chip.as_ideal():
                raise ZeroDivisionError
            assert torch.equal(chip(X), model(X))
        assert not torch.allclose(chip(X), model(X), atol=1e-3)
        assert before.shape == chip(X).shape


def test_without_gradients_and_in_inference_mode(model: fc.FFEBM) -> None:
    chip = model.lower(hardware=fc.Hardware(programming_error=0.02)).calibrate(X)
    y = chip(X)
    with torch.no_grad():
        assert torch.equal(chip(X), y)
    with torch.inference_mode():
        assert torch.equal(chip(X), y)


def test_a_model_from_a_chip_can_be_lowered_again(model: fc.FFEBM) -> None:
    """To another chip, with the weights that it has now."""
    first = model.lower(hardware="rram").calibrate(X)
    with torch.no_grad():
        for p in first.parameters():
            p.mul_(1.1)
    with first.as_ideal():
        expected = first(X)
    torch.testing.assert_close(first.lower(hardware="ideal")(X), expected, rtol=1e-4, atol=1e-5)


def test_what_it_is_shows(model: fc.FFEBM) -> None:
    chip = model.lower(hardware="rram", chip_seed=5)
    assert "rram" in repr(chip)
    assert "chip 5" in repr(chip)


def test_gains_on_a_chip_are_of_its_weights() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    model = fc.convert(net, block_size=2)
    model(torch.randn(2, 4))
    before = runner_of(model).gains(model.program.energy_blocks[0])
    assert before is not None
    for factor in (1, 10):
        with torch.no_grad():
            model.get_submodule("2").weight.mul_(factor)
        chip = model.lower()
        gains = runner_of(chip).gains(chip.program.energy_blocks[0])
        assert gains is not None
        assert not gains.outdated
        for edge, norm in gains.norms.items():
            assert norm == pytest.approx(factor * before.norms[edge], rel=1e-5)

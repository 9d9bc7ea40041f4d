"""A bundle's blocks on an emulated chip: inference, training, and the chip that comes with the bundle."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import ffebm_compiler as fc
from ffebm_compiler import runtime
from ffebm_compiler.bundle.run.load import _on_chip, runtime_of
from ffebm_compiler.errors import InputError, OptionError
from ffebm_compiler.ffebm import AnalogFFEBM

pytestmark = pytest.mark.slow


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.randn(16, 5, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def bundle(x: Tensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("chip") / "b.ffebm"
    return fc.convert(network(), block_size=2).compile_to(path, x, hardware="rram", chip_seed=3)


def test_ideal_hardware_is_the_executor(bundle: Path, x: Tensor) -> None:
    ideal = runtime.load(bundle, "analog-emu", hardware="ideal").calibrate(x)
    assert isinstance(ideal.model, AnalogFFEBM)
    torch.testing.assert_close(ideal(x), runtime.load(bundle)(x), rtol=1e-4, atol=1e-5)


def test_the_bundles_chip_is_the_one_that_it_was_compiled_for(bundle: Path, x: Tensor) -> None:
    model = fc.convert(network(), block_size=2).eval()
    with torch.no_grad():
        expected = model.lower(hardware="rram", chip_seed=3).calibrate(x)
    loaded = runtime.load(bundle, "analog-emu", hardware="bundle")
    assert isinstance(loaded.model, AnalogFFEBM)
    assert loaded.model.chip.seed == 3
    for path, devices in expected.chip.devices.items():
        assert torch.equal(devices.written, loaded.model.chip.devices[path].written), path
    other = runtime.load(bundle, "analog-emu", hardware="rram", chip_seed=4).calibrate(x)
    assert not torch.equal(other(x), loaded(x))


def test_training_on_the_chip_learns(bundle: Path, x: Tensor) -> None:
    on_chip = runtime.load(bundle, "analog-emu", hardware="ideal").calibrate(x)
    y = torch.arange(16) % 3
    trainer = on_chip.trainer(optimizer="adam", learning_rate=0.02)
    losses = [float(trainer.step(x, y)) for _ in range(25)]
    assert losses[-1] < 0.6 * losses[0]
    assert "on the chip" in on_chip.training_code


def test_its_gradient_is_the_executors_on_ideal_hardware(x: Tensor, tmp_path: Path) -> None:
    """At a loop gain at which the difference of two states in float32 tells a gradient of the first layer, on any
    processor.
    """
    bundle = fc.convert(network(), block_size=2, loop_gain=0.2).compile_to(tmp_path / "b.ffebm", x)
    y = torch.arange(16) % 3
    on_chip, executor = runtime.load(bundle, "analog-emu", hardware="ideal").calibrate(x), runtime.load(bundle)
    on_chip.train_step(x, y), executor.train_step(x, y)
    ours, theirs = on_chip.gradients(), executor.gradients()
    assert ours.keys() == theirs.keys()
    a, b = (torch.cat([g[n].flatten() for n in theirs]) for g in (ours, theirs))
    assert float(torch.nn.functional.cosine_similarity(a, b, 0)) > 0.99999


def test_a_trained_chip_is_saved_with_the_bundle(bundle: Path, x: Tensor, tmp_path: Path) -> None:
    on_chip = runtime.load(bundle, "analog-emu", hardware="bundle")
    on_chip.trainer().step(x, torch.arange(16) % 3)
    on_chip(x)  # writes the weights to the devices
    again = runtime.load(on_chip.save(tmp_path / "b"), "analog-emu", hardware="bundle")
    assert isinstance(again.model, AnalogFFEBM)
    assert isinstance(on_chip.model, AnalogFFEBM)
    assert again.model.chip.writes == on_chip.model.chip.writes
    assert torch.equal(again(x), on_chip(x))


def test_a_trained_executor_leaves_the_old_chip_out(bundle: Path, x: Tensor, tmp_path: Path) -> None:
    executor = runtime.load(bundle)
    executor.trainer().step(x, torch.arange(16) % 3)
    path = executor.save(tmp_path / "b")
    with pytest.raises(OptionError, match="without hardware"):
        runtime.load(path, "analog-emu", hardware="bundle")


def test_options_that_do_not_fit(bundle: Path) -> None:
    with pytest.raises(OptionError, match='"analog-emu"'):
        runtime.load(bundle, "analog-emulator")
    with pytest.raises(OptionError) as caught:
        runtime.load(bundle, hardware="rram", noise_seed=1, threads=0)
    assert {p.where for p in caught.value.problems} == {"option hardware", "option noise_seed", "option threads"}
    with pytest.raises(OptionError, match="rram"):
        runtime.load(bundle, "analog-emu", hardware="rramm")
    with pytest.raises(OptionError, match="chips"):
        runtime.load(bundle).calibrate(torch.zeros(1, 5))


def test_a_damaged_chip_is_refused(bundle: Path) -> None:
    contents = runtime.load(bundle).contents
    damaged = replace(contents, files={**contents.files, "conductances.npz": b"PK nothing"})
    with pytest.raises(InputError, match=r"conductances\.npz of the bundle"):
        _on_chip(runtime_of(damaged).model, damaged, "bundle", 0, 0)

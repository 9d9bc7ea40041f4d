"""Backends of other packages: found by name, loaded when asked for, named when they are broken."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from models import ZOO
from test_docs import blocks
from torch import Tensor, nn

import ffebm_compiler as fc
from ffebm_compiler.backends import TorchEP, backend_names

PAGE = Path(__file__).parents[2] / "docs" / "backends.md"
ENTRY = next(e for e in ZOO if e.name == "mlp")


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    """Installs a package of one file, with one backend, for the length of a test."""

    def installed(code: str, backend: str, value: str, package: str = "their_package") -> None:
        (tmp_path / f"{package}.py").write_text(code)
        info = tmp_path / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[ffebm_compiler.backends]\n{backend} = {value}\n")
        monkeypatch.syspath_prepend(tmp_path)

    yield installed
    sys.modules.pop("their_package", None)


def loss_after_training(model: nn.Module, x: Tensor, y: Tensor) -> tuple[float, float]:
    """The loss before and after some steps."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses[0], losses[-1]


@pytest.mark.slow
def test_the_backend_of_the_page_runs_and_trains_a_zoo_model_by_name(install: object) -> None:
    code, *_ = blocks(PAGE)
    assert len(code.splitlines()) <= 55
    install(code, "rounded-states", "their_package:rounded_states")  # type: ignore[operator]
    assert "their_package" not in sys.modules
    net, args = ENTRY.build()
    model = fc.convert(net, 2)
    before = {n: p.clone() for n, p in model.named_parameters()}
    rounded = model.lower("rounded-states", bits=8)
    assert type(rounded) is fc.FFEBM
    with torch.no_grad():
        expected, got = model(*args), rounded(*args)
    assert not torch.equal(got, expected)
    torch.testing.assert_close(got, expected, rtol=0.05, atol=0.05 * float(expected.abs().max()))
    first, last = loss_after_training(rounded, args[0], torch.zeros_like(expected))
    assert last < 0.5 * first
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())  # the weights there are a copy
    assert rounded.training_step(args[0], torch.zeros_like(expected), nn.functional.mse_loss) >= 0


@pytest.mark.slow
def test_fewer_bits_are_further_from_the_equilibrium(install: object) -> None:
    code, *_ = blocks(PAGE)
    install(code, "rounded-states", "their_package:rounded_states")  # type: ignore[operator]
    net, args = ENTRY.build()
    model = fc.convert(net, 2)
    with torch.no_grad():
        expected = model(*args)
        far = [float((model.lower("rounded-states", bits=b)(*args) - expected).abs().max()) for b in (4, 8, 12)]
    assert far[0] > far[1] > far[2] > 0


@pytest.fixture(scope="module")
def model() -> fc.FFEBM:
    return fc.convert(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), 2)


def test_an_unknown_name_lists_the_known_ones(model: fc.FFEBM, install: object) -> None:
    install("def made(model):\n    raise AssertionError\n", "rounded-states", "their_package:made")  # type: ignore[operator]
    assert backend_names() == ("torch-ep", "analog-emu", "rounded-states")
    with pytest.raises(fc.OptionError) as raised:
        model.lower("rounded-state")
    (problem,) = raised.value.problems[:1]
    assert problem.where == "option backend"
    assert 'Did you mean "rounded-states"?' in problem.remedy
    assert all(f'"{name}"' in problem.remedy for name in backend_names())


@pytest.mark.parametrize(
    ("code", "value", "told"),
    [
        ("import nowhere_to_be_found\n", "their_package:made", "ModuleNotFoundError"),
        ("", "their_package:made", "AttributeError"),
        ("made = 3\n", "their_package:made", "is a int"),
        ("def made(model, **options):\n    return 3\n", "their_package:made", "gives a int"),
    ],
)
def test_a_broken_entry_point_names_its_package(
    model: fc.FFEBM, install: object, code: str, value: str, told: str
) -> None:
    install(code, "broken", value)  # type: ignore[operator]
    with pytest.raises(fc.OptionError, match=r"backend 'broken' of the package their_package") as raised:
        model.lower("broken")
    assert told in str(raised.value)


def test_options_that_a_backend_does_not_have_are_named(model: fc.FFEBM) -> None:
    with pytest.raises(fc.OptionError, match=r"(?s)2 problems.*option hardwear.*hardware.*option bits"):
        model.lower("analog-emu", hardwear="rram", bits=8)
    with pytest.raises(fc.OptionError, match=r"option bits: is none of the backend 'torch-ep'"):
        model.lower("torch-ep", bits=8)


def test_the_executor_is_a_backend_too(model: fc.FFEBM) -> None:
    x = torch.randn(5, 3)
    assert torch.equal(model.lower("torch-ep")(x), model(x))


def test_a_function_is_a_backend(model: fc.FFEBM) -> None:
    x = torch.randn(5, 3)
    assert torch.equal(model.lower(lambda model: TorchEP())(x), model(x))


def test_a_chip_has_doors_that_others_lack_and_refuses_the_script(model: fc.FFEBM, tmp_path: Path) -> None:
    chip = model.lower()
    assert isinstance(chip, fc.AnalogFFEBM)
    assert isinstance(chip, fc.FFEBM)
    assert not hasattr(model, "chip")
    assert "write_training_loop" not in vars(fc.AnalogFFEBM)
    with pytest.raises(fc.OptionError, match="without a chip"):
        chip.write_training_loop(tmp_path / "train.py")
    with pytest.raises(fc.OptionError, match="this one is"):
        chip.export_spice(tmp_path / "spice", torch.randn(2, 3), hardware="rram")

"""What can't be one ONNX file is refused with the user's layer and the reason, and nothing is written then."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from models import ZOO
from torch import Tensor, nn

import ffebm_compiler as fc
from ffebm_compiler.ir import Potential
from ffebm_compiler.onnx import whole_file
from ffebm_compiler.rules import Role, Rule
from ffebm_compiler.rules.one_operand import fixed

pytestmark = [pytest.mark.slow, pytest.mark.since("2.11", "torch.onnx translates no loops")]


def chain(middle: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), middle, nn.Linear(6, 3))


class Digamma(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.special.digamma(x + 1)


class Noisy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x)


class Convolved(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(1, 2, 3), nn.Conv1d(2, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.second(torch.relu(self.first(x.unsqueeze(1)))))


@pytest.mark.parametrize(
    ("make", "layer", "reason"),
    [
        (lambda: chain(Digamma()), "4", "digamma"),
        (lambda: chain(Noisy()), "4", "random numbers"),
        (lambda: nn.Sequential(Convolved(), nn.Flatten()).double(), "0.first", "onnxruntime can't run it"),
    ],
)
def test_it_names_the_layer(make: Callable[[], nn.Module], layer: str, reason: str, tmp_path: Path) -> None:
    net = make().eval()
    x = torch.rand(3, 12 if "Convolved" in str(net) else 4, dtype=next(net.parameters()).dtype)
    model = fc.convert(net, block_size=2)
    with pytest.raises(fc.OptionError) as caught:
        model.export_onnx(tmp_path / "net.onnx", x)
    (problem,) = caught.value.problems
    assert problem.where.startswith(f"layer {layer}")
    assert reason in problem.what
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_was_there_stays(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(b"before")
    with pytest.raises(fc.OptionError):
        fc.convert(chain(Digamma()).eval(), block_size=2).export_onnx(path, torch.rand(3, 4))
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_refused_before_the_work(tmp_path: Path) -> None:
    model = fc.convert(chain(nn.Tanh()), block_size=2)
    with pytest.raises(fc.OptionError, match="is a folder"):
        model.export_onnx(tmp_path, torch.rand(3, 4))
    with pytest.raises(fc.OptionError, match="does not exist"):
        model.export_onnx(tmp_path / "nowhere" / "net.onnx", torch.rand(3, 4))


def test_more_weights_than_a_file_holds_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole_file, "LIMIT", 100)
    with pytest.raises(fc.OptionError, match=r"compile_to"):
        fc.convert(chain(nn.Tanh()), block_size=2).export_onnx(tmp_path / "net.onnx", torch.rand(3, 4))


@pytest.mark.usefixtures("plain_sweeps")
def test_float64_without_convolutions_takes_the_same_sweeps_to_the_end(tmp_path: Path) -> None:
    """onnxruntime has products of doubles: a hundred sweeps, whose residuals agree where those of float32 are
    rounding.
    """
    net, args = next(e for e in ZOO if e.name == "weight_norm").build()
    model = fc.convert(net.double().eval(), block_size=2, loop_gain=None, tolerance=1e-6)
    x = args[0].double()
    path = model.export_onnx(tmp_path / "net.onnx", x, diagnostics=True)
    session = onnxruntime.InferenceSession(str(path))
    found = dict(zip([o.name for o in session.get_outputs()], session.run(None, {"input": x.numpy()}), strict=True))
    with torch.no_grad():
        np.testing.assert_allclose(found["output"], model(x).numpy(), rtol=1e-10)
    assert [int(found[f"{r.block}.sweeps"]) for r in model.relaxation] == [r.sweeps for r in model.relaxation]
    assert model.relaxation[0].sweeps > 100
    assert float(found["block1.residual"]) == pytest.approx(model.relaxation[0].residual, rel=1e-5)


def _difference(a: Tensor, da: Tensor) -> Tensor:
    b = a + da
    crossing = torch.where(a * b < 0, 2 * b * a.abs(), 0.0)
    return (da + crossing) / ((1 + a.abs()) * (1 + b.abs()))


SOFTSIGN = Potential(
    name="softsign",
    energy=lambda s: -s.abs() - torch.log1p(-s.abs()),
    activation=F.softsign,
    difference=_difference,
    tangent=lambda a, da: da / (1 + a.abs()) ** 2,
    lower=-1.0,
    upper=1.0,
)
RULE = Rule("softsign", Role.POTENTIAL, fixed(SOFTSIGN), "a / (1 + |a|)", modules=(nn.Softsign,))


def test_an_operation_of_the_users_own_rule_is_part_of_the_loop(tmp_path: Path) -> None:
    model = fc.convert(chain(nn.Softsign()).eval(), block_size=3, rules=[RULE], loop_gain=0.1)
    assert any(s.potential.name == "softsign" for b in model.blocks for s in b.block.states)
    x = torch.rand(5, 4)
    path = model.export_onnx(tmp_path / "net.onnx", x)
    found = onnxruntime.InferenceSession(str(path)).run(None, {"input": x.numpy()})[0]
    with torch.no_grad():
        np.testing.assert_allclose(found, model(x).numpy(), rtol=0, atol=1e-6)


def test_a_file_that_computes_something_else_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when an exporter drops an option: every file is run once beside the executor."""
    from ffebm_compiler.backends import onnx_model

    model, x = fc.convert(chain(nn.Tanh()), block_size=2), torch.rand(3, 4)
    export = onnx_model.export_whole

    def dropping(of: Any, values: Any, diagnostics: bool) -> bytes:
        with torch.no_grad():
            of.network.get_parameter("5.bias").zero_()
        content = export(of, values, diagnostics)
        with torch.no_grad():
            of.network.get_parameter("5.bias").fill_(1.0)
        return content

    monkeypatch.setattr(onnx_model, "export_whole", dropping)
    with pytest.raises(fc.OptionError, match="differs from the executor"):
        model.export_onnx(tmp_path / "net.onnx", x)
    assert not (tmp_path / "net.onnx").exists()

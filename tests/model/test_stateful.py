"""Files of graphs hold no state between calls: a layer that keeps one is refused by its name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import ffebm_compiler as fc


class Count(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.n = 0

    def forward(self, x: Tensor) -> Tensor:
        self.n += 1
        return x * self.n


class Average(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("c", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        self.c = 0.9 * self.c + 0.1 * x.detach().mean(0)
        return x - self.c


def model_of(layer: nn.Module, digital: tuple[str, ...] = ()) -> fc.FFEBM:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), layer, nn.Linear(4, 2))
    return fc.convert(net, block_size=2, digital=digital)


@pytest.mark.parametrize("digital", [(), ("2",)], ids=["found", "chosen"])
def test_a_bundle_of_a_counter_is_refused(tmp_path: Path, digital: tuple[str, ...]) -> None:
    model = model_of(Count(), digital)
    with pytest.raises(fc.OptionError, match="its forward writes attribute 'n' between calls"):
        model.compile_to(tmp_path / "bundle", torch.randn(3, 4))
    assert not (tmp_path / "bundle").exists()
    assert model.get_submodule("2").n == 0


def test_an_onnx_file_of_a_counter_is_refused(tmp_path: Path) -> None:
    model = model_of(Count())
    with pytest.raises(fc.OptionError, match="layer 2: has no ONNX form: its forward writes attribute 'n'"):
        model.export_onnx(tmp_path / "model.onnx", torch.randn(3, 4))


@pytest.mark.slow
def test_a_buffer_is_no_such_state(tmp_path: Path) -> None:
    model_of(Average()).compile_to(tmp_path / "bundle", torch.randn(3, 4))

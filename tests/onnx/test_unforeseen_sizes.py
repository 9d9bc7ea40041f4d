"""Sizes that follow from the numbers in a tensor are refused by name; an unbatched model is written without a word from
torch.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import ffebm_compiler as fc
from ffebm_compiler import runtime


class Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.gate, self.first, self.second, self.out = (nn.Linear(4, n) for n in (2, 4, 4, 3))

    def forward(self, x: Tensor) -> Tensor:
        gates, total = self.gate(x), torch.zeros_like(x)
        for i, expert in enumerate((self.first, self.second)):
            chosen = torch.nonzero(gates.argmax(-1) == i)[:, 0]
            total = total.index_add(0, chosen, torch.relu(expert(x[chosen])))
        out: Tensor = self.out(total)
        return out


def test_a_mixture_of_experts_is_refused_by_the_line_of_its_index(tmp_path: Path) -> None:
    x = torch.randn(12, 4)
    model = fc.convert(Experts(), 2)
    with pytest.raises(fc.errors.OptionError, match="depends on the numbers in a tensor") as raised:
        model.compile_to(tmp_path / "experts.ffebm", example_inputs=(x,))
    assert "getitem (getitem, test_unforeseen_sizes.py:" in str(raised.value)
    assert not list(tmp_path.iterdir())


UNBATCHED = """
import torch, ffebm_compiler as fc
from torch import nn
model = fc.convert(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), 2)
model.compile_to("net.ffebm", example_inputs=(torch.ones(4),))
torch.save(model(torch.ones(4)).detach(), "out.pt")
"""


@pytest.mark.slow
@pytest.mark.since("2.11", "torch itself warns where its CUDA build finds no device")
def test_an_unbatched_model_is_written_in_silence(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", UNBATCHED], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    got = runtime.load(tmp_path / "net.ffebm")(torch.ones(4))
    torch.testing.assert_close(got, torch.load(tmp_path / "out.pt"))

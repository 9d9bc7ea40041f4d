"""Tuples of sizes in bundles and in whole ONNX files: as the model has them, at other batches too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ffebm_compiler as fc
from ffebm_compiler import runtime

pytestmark = pytest.mark.slow


class Net(nn.Module):
    def __init__(self, body: Callable[[Net, Tensor], Any]):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.o, self.body = nn.Conv2d(2, 3, 3, 2, 1), nn.Conv2d(3, 2, 1), body

    def forward(self, x: Tensor) -> Any:
        return self.body(self, x)


BODIES: dict[str, Callable[[Net, Tensor], Any]] = {
    "into a digital part": lambda m, x: F.interpolate(m.o(torch.tanh(m.a(x))), size=x.shape[-2:]),
    "between blocks": lambda m, x: m.o(torch.tanh(F.interpolate(torch.tanh(m.a(x)), size=x.shape[-2:]))),
    "returned": lambda m, x: (m.o(torch.tanh(m.a(x))), x.size()),
    "given to a block": lambda m, x: m.o(torch.tanh(m.a(x)).flatten(2).view(x.shape[:1] + (3, -1, 1))),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_bundle_has_the_sizes_of_each_call(name: str, tmp_path: Path) -> None:
    model = fc.convert(Net(BODIES[name]), 2)
    x, y = torch.randn(2, 2, 6, 7), torch.randn(5, 2, 6, 7)
    model.compile_to(tmp_path / "net.ffebm", example_inputs=(x,))
    got, expected = runtime.load(tmp_path / "net.ffebm")(y), model(y)
    if name == "returned":
        assert got[1] == expected[1]
        got, expected = got[0], expected[0]
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["between blocks", "given to a block"])
def test_a_whole_file_has_them_too(name: str, tmp_path: Path) -> None:
    model = fc.convert(Net(BODIES[name]), 2)
    x, y = torch.randn(2, 2, 6, 7), torch.randn(5, 2, 6, 7)
    path = model.export_onnx(tmp_path / "net.onnx", example_inputs=(x,))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {session.get_inputs()[0].name: y.numpy()})
    torch.testing.assert_close(torch.from_numpy(got), model(y), rtol=1e-4, atol=1e-5, check_dtype=False)

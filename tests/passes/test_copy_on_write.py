"""A run on a model's own weights leaves them as they were: whatever it writes into them, and however."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import ffebm_compiler as fc
from ffebm_compiler.bundle.compile.record import recorded
from ffebm_compiler.model.converted_module import runner_of
from ffebm_compiler.passes.tracing.copy_on_write import copied_on_write, sharable

WRITES: dict[str, Callable[[Tensor], object]] = {
    "in place": lambda w: w.mul_(2),
    "a row": lambda w: w[0].zero_(),
    "an index": lambda w: w.__setitem__((0, 0), 3.0),
    "through data": lambda w: w.data.clamp_(-0.1, 0.1),
    "into data": lambda w: setattr(w, "data", torch.zeros(4, 4)),
    "into data of another shape": lambda w: setattr(w, "data", torch.zeros(2)),
    "into data, and in place": lambda w: (setattr(w, "data", torch.zeros(4, 4)), w.add_(1)),
    "in place, and into data": lambda w: (w.add_(1), setattr(w, "data", torch.zeros(4, 4))),
    "by numpy": lambda w: w.detach().numpy().fill(3.0),
    "by what numpy makes of it": lambda w: np.asarray(w.detach()).fill(3.0),
    "by another library": lambda w: np.from_dlpack(w.detach()).__setitem__(0, 3.0),
    "by a tensor on numpy's memory": lambda w: torch.from_numpy(w.detach().numpy()).zero_(),
    "out": lambda w: torch.add(torch.ones(4, 4), 1, out=w),
}


@pytest.mark.parametrize("name", WRITES)
def test_a_weight_is_what_it_was(name: str) -> None:
    layer = nn.Linear(4, 4)
    before, place, version = layer.weight.detach().clone(), layer.weight.data_ptr(), layer.weight._version
    with torch.no_grad(), copied_on_write(sharable(layer)):
        WRITES[name](layer.weight)
        assert not torch.equal(layer.weight, before)
    torch.testing.assert_close(layer.weight.detach(), before, rtol=0, atol=0)
    assert (layer.weight.data_ptr(), layer.weight._version) == (place, version)


class Clamps(nn.Module):
    """Clamps its weight at every call, as a constrained model does."""

    def __init__(self, write: str) -> None:
        super().__init__()
        self.write = WRITES[write]
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.b(torch.tanh(self.a(x))))
        self.write(self.c.weight)
        y: Tensor = self.c(h)
        return y


class ByNumpy(nn.Linear):
    """Decays its weight where no operation tells of it."""

    def forward(self, x: Tensor) -> Tensor:
        self.weight.detach().numpy()[:] *= 0.5
        return super().forward(x)


def test_a_conversion_and_a_check_write_nothing_by_numpy() -> None:
    net = nn.Sequential(ByNumpy(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    x, before = torch.randn(4, 4), net[0].weight.detach().clone()
    model = fc.convert(net, 2, copy=False, example_inputs=x)
    torch.testing.assert_close(net[0].weight.detach(), before, rtol=0, atol=0)
    model(x)
    torch.testing.assert_close(net[0].weight.detach(), before / 2, rtol=0, atol=0)


@pytest.mark.parametrize("write", ["through data", "into data"])
def test_a_conversion_leaves_the_weights_that_a_forward_writes(write: str) -> None:
    net = Clamps(write)
    before = net.c.weight.detach().clone()
    model = fc.convert(net, 2, copy=False, example_inputs=torch.randn(4, 4))
    torch.testing.assert_close(net.c.weight.detach(), before, rtol=0, atol=0)
    model.ensure_gains(torch.randn(4, 4))
    model.report()
    recorded(runner_of(model), False, (torch.randn(4, 4),), {})
    torch.testing.assert_close(net.c.weight.detach(), before, rtol=0, atol=0)

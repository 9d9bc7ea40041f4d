"""A check runs on the model's own weights: what a forward writes into them is seen, and is not there afterwards."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ffebm_compiler.model.observation import observed

WRITES: dict[str, Callable[[nn.Parameter], object]] = {
    "in place": lambda w: w.mul_(0.5),
    "data": lambda w: w.data.mul_(0.5),
    "a view": lambda w: w.view(-1)[2:].zero_(),
    "out": lambda w: torch.add(w, 1, out=w),
    "foreach": lambda w: torch._foreach_add_([w.detach()], 1.0),
    "copy": lambda w: w.copy_(torch.ones_like(w)),
    "twice": lambda w: (w.zero_(), w.add_(3.0)),
}


class Writing(nn.Module):
    def __init__(self, write: Callable[[nn.Parameter], object]) -> None:
        super().__init__()
        self.weight, self.other, self.write = nn.Parameter(torch.randn(3, 3)), nn.Parameter(torch.randn(3)), write

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x, self.weight.clone(), self.other)
        with torch.no_grad():
            self.write(self.weight)
        return y


@pytest.mark.parametrize("name", WRITES)
def test_what_a_forward_writes_is_seen_and_put_back(name: str) -> None:
    net, x = Writing(WRITES[name]), torch.randn(2, 3)
    before, versions = net.weight.detach().clone(), [p._version for p in net.parameters()]
    found = observed(net, lambda a, k: net(*a, **k), (x,), {})
    assert torch.equal(net.weight, before)
    assert [p._version for p in net.parameters()] == versions
    assert net.weight.grad is None
    after = found.registered["weight"]
    net(x)
    torch.testing.assert_close(after, net.weight.detach())
    assert found.registered["other"].data_ptr() == net.other.data_ptr(), "which nothing writes, and nothing copies"


def test_statistics_that_are_parameters_are_put_back() -> None:
    """Batch norm writes them without a word in its schema."""

    class Norm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mean, self.variance = (nn.Parameter(v, requires_grad=False) for v in (torch.zeros(3), torch.ones(3)))

        def forward(self, x: Tensor) -> Tensor:
            return F.batch_norm(x, self.mean, self.variance, training=True)

    net = Norm()
    found = observed(net, lambda a, k: net(*a, **k), (torch.randn(5, 3),), {})
    assert not net.mean.any()
    assert found.registered["mean"].any()


def test_a_call_that_fails_leaves_nothing() -> None:
    def write(w: nn.Parameter) -> None:
        w.zero_()
        raise ValueError("after the write")

    net = Writing(write)
    before = net.weight.detach().clone()
    with pytest.raises(ValueError, match="after the write"):
        observed(net, lambda a, k: net(*a, **k), (torch.randn(2, 3),), {})
    assert torch.equal(net.weight, before)


def test_a_parameter_is_still_one() -> None:
    class Asking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 3))

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, self.weight) if isinstance(self.weight, nn.Parameter) else x

    net, x = Asking(), torch.randn(2, 3)
    assert torch.equal(observed(net, lambda a, k: net(*a, **k), (x,), {}).tensors[""], net(x))

"""A training step with code of the user's that writes in place: as the model itself trains, or refused by name."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ffebm_compiler as fc
from ffebm_compiler.errors import DerivativeError


class Doubles(nn.Module):
    """Counts its calls, and so is called as a whole; writes into what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, h: Tensor) -> Tensor:
        self.calls += 1
        return h.mul_(2)


class Reads(nn.Module):
    """Reads on what a layer has written into, behind a block."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.twice, self.b, self.c = nn.Linear(4, 6), Doubles(), nn.Linear(6, 6), nn.Linear(6, 3)
        self.d = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        return self.c(torch.tanh(self.b(self.twice(h)))) + self.d(h)  # type: ignore[no-any-return]


def in_place(y: Tensor, target: Tensor) -> Tensor:
    return y.sub_(target).square().mean()


NETS: dict[str, Callable[[], nn.Module]] = {
    "none": lambda: nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)),
    "first": lambda: nn.Sequential(Doubles(), nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)),
    "between": lambda: nn.Sequential(nn.Linear(4, 6), Doubles(), nn.Tanh(), nn.Linear(6, 3)),
    "last": lambda: nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3), Doubles()),
}


@pytest.mark.slow
@pytest.mark.parametrize("loss", [F.mse_loss, in_place])
@pytest.mark.parametrize("name", NETS)
def test_gradients_are_the_models(name: str, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    net, x, y = NETS[name]().double(), torch.randn(5, 4).double(), torch.randn(5, 3).double()
    model = fc.convert(net, 1)
    expected = loss(net(x.clone()), y)
    expected.backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(model.training_step(x.clone(), y, loss), expected.detach())
    for p, q in zip(net.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad, rtol=1e-6, atol=1e-9)


def test_what_is_written_and_read_on_is_named() -> None:
    model, x = fc.convert(Reads(), 1), torch.randn(5, 4)
    with pytest.raises(DerivativeError, match=r"layer a.*writes into in place"):
        model.training_step(x, torch.randn(5, 3), F.mse_loss)

"""The result of a conversion has parameters of its own, once, or with copy=False the model's."""

from __future__ import annotations

import copy
import itertools
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import ffebm_compiler as fc

SIZES = (11, 13, 17, 19)
"""Primes, so that only a copy of a weight has its shape."""


class Net(nn.Module):
    """In-place activations, a norm, a buffer of the root's, and a constant that a tracer adds."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(m, n) for m, n in itertools.pairwise(SIZES))
        self.norm, self.act = nn.BatchNorm1d(SIZES[1]), nn.ReLU(inplace=True)
        self.register_buffer("scale", torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        h = self.act(self.norm(self.a(x)))
        return self.c(torch.tanh(self.b(h))) * self.scale


class WithConstant(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + torch.tensor(0.25)


@pytest.fixture(params=[Net, WithConstant])
def net(request: pytest.FixtureRequest) -> Net:
    made: Net = request.param()
    return made


class Copies(TorchDispatchMode):
    """Counts the tensors with a weight's values that operations make, by type; what shares memory with an operand is no
    copy.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.weights = {p.shape: p.detach().double() for p in model.parameters() if p.dim() == 2}
        self.made: Counter[torch.dtype] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {t.untyped_storage().data_ptr() for t in torch.utils._pytree.tree_leaves(args) if isinstance(t, Tensor)}
        for t in torch.utils._pytree.tree_leaves(out):
            if isinstance(t, Tensor) and t.untyped_storage().data_ptr() not in given and self._is_weight(t):
                self.made[t.dtype] += 1
        return out

    def _is_weight(self, t: Tensor) -> bool:
        weight = self.weights.get(t.shape)
        return weight is not None and torch.allclose(t.detach().double(), weight, rtol=1e-4)


@pytest.mark.parametrize(
    ("work", "single", "double"),
    [
        (lambda m: fc.convert(m, 2), 3, 3),
        (lambda m: fc.convert(m, 2, copy=False), 0, 3),
        (lambda m: fc.convert(m, 2, copy=False, example_inputs=torch.randn(4, SIZES[0])), 0, 3),
        (lambda m: str(fc.explain(m, 2)), 0, 0),
    ],
    ids=["convert", "convert around the model", "with example inputs", "explain"],
)
def test_weights_are_copied_once_or_not_at_all(work: Callable[[nn.Module], Any], single: int, double: int) -> None:
    """For three layers. In double precision each is needed once, while its block is verified."""
    net = Net()
    with Copies(net) as copies:
        work(net)
    assert copies.made[torch.float32] == single
    assert copies.made[torch.float64] <= double
    assert set(copies.made) <= {torch.float32, torch.float64}


def test_the_tensors_are_the_very_same(net: Net) -> None:
    model = fc.convert(net, 2, copy=False)
    assert [n for n, _ in model.named_parameters()] == [n for n, _ in net.named_parameters()]
    assert all(model.get_parameter(n) is p for n, p in net.named_parameters())
    assert all(model.get_buffer(n) is b for n, b in net.named_buffers())


@pytest.mark.parametrize("training", [True, False])
def test_the_model_stays_as_it_was(net: Net, training: bool) -> None:
    net.train(training)
    x, before = torch.randn(5, SIZES[0]), copy.deepcopy(net)
    model = fc.convert(net, 2, copy=False, example_inputs=x)
    assert net.act.inplace
    assert all(m.training is training for m in net.modules())
    assert vars(net).keys() == vars(before).keys()
    assert net.state_dict().keys() == before.state_dict().keys()
    assert [n for n, _ in net.named_buffers()] == [n for n, _ in before.named_buffers()]
    assert all(torch.equal(net.state_dict()[k], v) for k, v in before.state_dict().items())
    assert torch.equal(net(x), before(x))
    model.train(not training)
    assert all(m.training is training for m in net.modules())


def test_an_optimizer_made_before_trains_both(net: Net) -> None:
    """And takes the steps that a copy takes."""
    x, y = torch.randn(8, SIZES[0]), torch.randn(8, SIZES[-1])
    own = fc.convert(net, 2)
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    model, other = fc.convert(net, 2, copy=False), torch.optim.Adam(own.parameters(), 1e-2)
    for trained, steps in ((model, optimizer), (own, other)):
        for _ in range(3):
            steps.zero_grad()
            nn.functional.mse_loss(trained(x), y).backward()
            steps.step()
    for name, value in own.state_dict().items():
        torch.testing.assert_close(net.state_dict()[name], value, msg=name)


def test_moving_the_one_moves_the_other(net: Net) -> None:
    model, x = fc.convert(net, 1, copy=False).eval(), torch.randn(5, SIZES[0], dtype=torch.float64)
    model.double()
    assert all(p.dtype == torch.float64 for p in net.parameters())
    shared = [n for n, b in net.named_buffers() if model.get_buffer(n) is b]
    apart = (
        {"scale"} if isinstance(net, WithConstant) else set()
    )  # the root of a model with constants has its own registry
    assert {n for n, _ in net.named_buffers()} - set(shared) == apart
    torch.testing.assert_close(model(x), net.eval().double()(x))


def test_a_copy_of_the_result_is_its_own(net: Net) -> None:
    model = fc.convert(net, 2, copy=False)
    apart = copy.deepcopy(model)
    with torch.no_grad():
        apart.a.weight.zero_()
    assert float(net.a.weight.abs().sum().detach()) > 0
    assert not {id(p) for p in apart.parameters()} & {id(p) for p in net.parameters()}
    assert not {id(p) for p in model.to_feedforward().parameters()} & {id(p) for p in net.parameters()}


def test_shared_and_parametrized_weights_stay_so() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    net[2].weight = net[0].weight
    nn.utils.parametrizations.weight_norm(net[4])
    x, model = torch.randn(3, 4), fc.convert(net, 1, copy=False)
    assert model.get_parameter("2.weight") is model.get_parameter("0.weight") is net[0].weight
    assert {id(p) for p in model.parameters()} == {id(p) for p in net.parameters()}
    assert torch.equal(model(x), net(x))


class CopiesItself(nn.Linear):
    def __deepcopy__(self, memo: dict[int, Any]) -> CopiesItself:
        made = CopiesItself(self.in_features, self.out_features)
        made.load_state_dict(self.state_dict())
        return made


def test_what_cannot_be_shared_is_an_error() -> None:
    net = nn.Sequential(CopiesItself(4, 4), nn.ReLU(), nn.Linear(4, 2))
    with pytest.raises(fc.OptionError, match=r"parameter 0\.weight: is copied by the model's own __deepcopy__"):
        fc.convert(net, copy=False)
    fc.convert(net)
    with pytest.raises(fc.OptionError, match=r"option copy: is 'no'"):
        fc.convert(net, copy="no")  # type: ignore[arg-type]

"""Batch norms: what is held, what trains, and what can't be held."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from models import with_statistics
from torch import Tensor, nn

import ffebm_compiler as fc
from ffebm_compiler.passes import NO_STATISTICS


class AlwaysBatch(nn.Module):
    """A norm that takes batch statistics in evaluation too."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)
        self.register_buffer("mean", torch.zeros(6))
        self.register_buffer("variance", torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.a(x))
        return self.c(torch.relu(F.batch_norm(self.b(h), self.mean, self.variance, training=True)))


def test_a_norm_of_batch_statistics_in_evaluation_stays_digital() -> None:
    torch.manual_seed(0)
    net, x = AlwaysBatch().eval(), torch.randn(7, 4)
    model = fc.convert(net, block_size=2, loop_gain=1e-7)
    assert torch.allclose(model(x), net(x), rtol=1e-4, atol=1e-5)
    reasons = [r for d in model.program.digital_blocks for r in d.reasons.values()]
    assert any("in evaluation too" in r for r in reasons)


@pytest.mark.slow
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("norm", "moving"), [("auto", [True, False]), ("split", [True, True]), ("held", [False, False])]
)
def test_which_norms_keep_their_statistics(training: bool, norm: str, moving: list[bool]) -> None:
    """The first is before the block's first state, the second inside it."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(4, 5),
        nn.BatchNorm1d(5),
        nn.ReLU(),
        nn.Linear(5, 5),
        nn.ReLU(),
        nn.Linear(5, 5),
        nn.BatchNorm1d(5),
        nn.ReLU(),
    )
    model = fc.convert(with_statistics(net).train(training), block_size=2, norm=norm)
    before = {k: v.clone() for k, v in model.named_buffers()}
    out = model(torch.randn(9, 4))
    out.square().sum().backward()
    for layer, moves in zip(("1", "6"), moving, strict=True):
        moved = not torch.equal(before[f"{layer}.running_mean"], model.get_buffer(f"{layer}.running_mean"))
        assert moved == (moves and training)
        assert model.get_parameter(f"{layer}.weight").grad.abs().max() > 0


def test_a_norm_without_running_statistics_is_digital() -> None:
    net = nn.Sequential(
        nn.Linear(4, 5),
        nn.ReLU(),
        nn.Linear(5, 5),
        nn.BatchNorm1d(5, track_running_stats=False),
        nn.ReLU(),
        nn.Linear(5, 2),
    )
    model, x = fc.convert(net, block_size=3, norm="held"), torch.randn(9, 4)
    model(x)
    assert "running statistics" in model.program.digital_blocks[0].reasons["3"]


# --- what a norm holds at the conversion decides, once ------------------------------------------------------


class Functional(nn.Module):
    """A norm of the user's own buffers, called as a function."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)
        self.register_buffer("mean", torch.zeros(6))
        self.register_buffer("variance", torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        h = self.b(torch.relu(self.a(x)))
        return self.c(torch.relu(F.batch_norm(h, self.mean, self.variance, training=self.training)))


class Subclass(nn.BatchNorm1d):
    """A norm that computes what its base does."""


def inner(norm: nn.Module) -> nn.Sequential:
    """A norm behind a block's first activation."""
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), norm, nn.ReLU(), nn.Linear(6, 2))


def held(model: fc.FFEBM) -> list[str]:
    return [o.label for b in model.program.energy_blocks for o in b.held_norms]


NORMS = {
    "plain": lambda: nn.BatchNorm1d(6),
    "cumulative": lambda: nn.BatchNorm1d(6, momentum=None),
    "without scale": lambda: nn.BatchNorm1d(6, affine=False),
    "subclass": lambda: Subclass(6),
    "synchronised": lambda: nn.SyncBatchNorm(6),
}


@pytest.mark.slow
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("make", NORMS.values(), ids=NORMS)
def test_a_norm_without_statistics_is_a_boundary(make: Callable[[], nn.Module], training: bool) -> None:
    fresh = fc.convert(inner(make()).train(training), 3)
    assert held(fresh) == []
    assert NO_STATISTICS in fresh.report().reasons
    assert held(fc.convert(with_statistics(inner(make())).train(training), 3)) == ["3"]


@pytest.mark.parametrize("example", [False, True])
@pytest.mark.parametrize("training", [True, False])
def test_so_is_one_that_is_called_as_a_function(training: bool, example: bool) -> None:
    torch.manual_seed(0)
    net, given = Functional().train(training), {"example_inputs": torch.randn(5, 4)} if example else {}
    assert held(fc.convert(net, 3, **given)) == []
    net.variance.fill_(2.0)
    assert held(fc.convert(net, 3, **given)) == ["batch_norm"]


def test_so_is_one_that_torch_export_writes() -> None:
    class Chooses(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = inner(nn.BatchNorm1d(6))

        def forward(self, x: Tensor) -> Tensor:
            return self.layers(x if x.shape[1] == 4 and len(x) else x[:, :4])

    torch.manual_seed(0)
    net, x = Chooses(), torch.randn(5, 4)
    fresh = fc.convert(net, 3, example_inputs=x)
    known = fc.convert(with_statistics(net), 3, example_inputs=x)
    assert (fresh.report().tracer, held(fresh), len(held(known))) == ("torch.export", [], 1)


def test_statistics_count_or_differ_from_the_initial_ones() -> None:
    net = inner(nn.BatchNorm1d(6))
    net[3].num_batches_tracked.fill_(1200)
    assert held(fc.convert(net, 3)) == ["3"]
    loaded = inner(nn.BatchNorm1d(6))
    loaded[3].running_mean[2] = 0.5
    assert held(fc.convert(loaded, 3)) == ["3"]


def test_a_shared_norm_is_judged_once() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.norm = nn.Linear(6, 6), nn.Linear(6, 6), nn.BatchNorm1d(6)

        def forward(self, x: Tensor) -> Tensor:
            h = torch.relu(self.norm(self.a(torch.relu(self.b(x)))))
            return torch.relu(self.norm(self.b(h)))

    assert held(fc.convert(Shared(), 4)) == []
    assert held(fc.convert(with_statistics(Shared()), 4)) == ["norm", "norm@2"]


def test_a_conversion_decides_once() -> None:
    """Statistics that come later move no norm into a block, and such that go move none out."""
    torch.manual_seed(0)
    net, x = inner(nn.BatchNorm1d(6)), torch.randn(9, 4)
    model = fc.convert(net, 3)
    for _ in range(3):
        model.train()(x).square().sum().backward()
    model.load_state_dict(with_statistics(inner(nn.BatchNorm1d(6))).state_dict())
    assert held(model) == held(copy.deepcopy(model)) == []
    before = model.get_buffer("3.running_mean").clone()
    model.train()(x)
    assert not torch.equal(before, model.get_buffer("3.running_mean"))
    trained = fc.convert(with_statistics(net), 3)
    trained.load_state_dict(inner(nn.BatchNorm1d(6)).state_dict())
    assert held(trained) == ["3"]


def test_the_report_says_on_what_statistics() -> None:
    text = " ".join(str(fc.explain(with_statistics(inner(nn.BatchNorm1d(6))), 3)).split())
    assert "held: running statistics of 1,200 batches; scale and shift train (1): 3" in text
    fresh = fc.explain(inner(nn.BatchNorm1d(6)), 3)
    assert f"{NO_STATISTICS} (1): 3" in " ".join(str(fresh).split())
    assert "no statistics" in fresh._repr_html_()
    assert fresh.to_dict()["norm_statistics"] == {}


@pytest.mark.parametrize("asked", [{"norm": "held"}, {"analog": ["3"]}], ids=str)
def test_holding_a_norm_without_statistics_is_the_users_word_and_said(asked: dict[str, Any]) -> None:
    with pytest.warns(fc.ConversionWarning, match="batch norm 3 is held at no statistics yet"):
        model = fc.convert(inner(nn.BatchNorm1d(6)), 3, **asked)
    assert held(model) == ["3"]
    assert "held: no statistics yet, the initial mean 0 and variance 1" in " ".join(str(model.report()).split())


def test_holding_statistics_of_a_few_batches_is_said() -> None:
    net = inner(nn.BatchNorm1d(6)).train()
    net(torch.randn(9, 4))
    with pytest.warns(fc.ConversionWarning, match="1 batch, of which 90% are still the initial values"):
        fc.convert(net, 3)


def test_a_fresh_network_trains_on_batch_statistics() -> None:
    """With blocks of one layer, whose gradient is backpropagation's, a step is a step of the network itself, norms and
    all.
    """
    torch.manual_seed(0)
    net, x = inner(nn.BatchNorm1d(6)).double(), torch.randn(9, 4, dtype=torch.float64)
    model = fc.convert(net, 1)
    for m in (net, model):
        m.train()(x).square().sum().backward()
    for (name, p), q in zip(net.named_parameters(), model.parameters(), strict=True):
        assert torch.allclose(p.grad, q.grad, rtol=1e-12, atol=1e-14), name
    assert torch.equal(net[3].running_var, model.get_buffer("3.running_var"))


class OnBothSides(nn.Module):
    """A norm whose value a block reads, and the caller."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.norm(torch.relu(self.a(x)))
        return self.b(h), h


@pytest.mark.filterwarnings("ignore::ffebm_compiler.ConversionWarning")
def test_a_held_norm_that_is_read_on_both_sides_is_held_on_both() -> None:
    net, x = OnBothSides(), torch.randn(8, 3)
    model = fc.convert(net, 2, norm="held", example_inputs=x).train()
    before = net.norm.running_mean.clone()
    model(x)
    assert torch.equal(model.network.norm.running_mean, before)

"""Random numbers that a forward draws by the way are refused by their line, and nothing is drawn."""

from __future__ import annotations

import copy
import random
import sys
import threading
from collections.abc import Callable
from random import gauss
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import ffebm_compiler as fc
from ffebm_compiler.passes.refusals import LosesMeaning
from ffebm_compiler.passes.tracing.draws import without_draws

OWN = np.random.default_rng(0)


class Drawing(nn.Module):
    def __init__(self, draw: Callable[[nn.Module], Any]) -> None:
        super().__init__()
        self.layer, self.last, self.draw = nn.Linear(4, 6), nn.Linear(6, 2), draw
        self.numpy, self.old, self.python = np.random.default_rng(0), np.random.RandomState(0), random.Random(0)
        self.generator = torch.Generator()

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.layer(x))
        if self.training:
            h = h * float(self.draw(self))
        return self.last(h)


DRAWS: list[tuple[Callable[[Any], Any], str]] = [
    (lambda m: random.random(), "from random what"),
    (lambda m: gauss(0, 1), "from random what"),
    (lambda m: random.choice([1, 2, 3]), "from random what"),
    (lambda m: np.random.rand(), "from numpy.random what"),
    (lambda m: np.random.randint(5), "from numpy.random what"),
    (lambda m: m.numpy.normal(), "from numpy what|numpy.* is written by the forward"),
    (lambda m: m.old.rand(), "from old what|old.* is written by the forward"),
    (lambda m: m.python.random(), "from python what|python.* is written by the forward"),
    (lambda m: OWN.normal(), "from tests.passes.test_draws.OWN what"),
    (lambda m: torch.rand(()), "random numbers of a fixed shape"),
    (lambda m: torch.empty(3).bernoulli_(0.5).sum(), "random numbers of a fixed shape"),
    (lambda m: torch.randint(5, (1,), generator=m.generator), "random numbers of a fixed shape"),
    (lambda m: nn.functional.dropout(torch.ones(3), 0.5).sum(), "random numbers of a fixed shape"),
]


def states(net: Drawing) -> list[Any]:
    own = (net.numpy.bit_generator.state, net.old.get_state()[1].tolist(), net.python.getstate())
    world = (random.getstate(), np.random.get_state()[1].tolist(), np.random.get_state()[2], OWN.bit_generator.state)
    return [*own, *world, torch.get_rng_state().tolist(), net.generator.get_state().tolist()]


@pytest.mark.parametrize(("draw", "what"), DRAWS)
@pytest.mark.parametrize("example", [None, torch.randn(3, 4)], ids=["fx", "export"])
def test_draws_are_refused_by_their_line(draw: Callable[[Any], Any], what: str, example: Tensor | None) -> None:
    net = Drawing(draw)
    before = states(net)
    watch = sys.gettrace()
    with pytest.raises(LosesMeaning, match=rf"(?s)(?=.*test_draws.py:\d+).*({what})"):
        fc.convert(net, 2, example_inputs=example)
    assert states(net) == before
    assert sys.gettrace() is watch


def test_lines_are_named_after_a_compilation_too() -> None:
    """torch.compile wraps the function that torch.fx traces with, in one that wraps others too."""
    torch.compile(torch.sin, backend="eager")(torch.ones(1))
    with pytest.raises(LosesMeaning, match=r"test_draws.py:\d+.*\n?.*random numbers of a fixed shape"):
        fc.convert(Drawing(lambda m: torch.rand(())), 2)


def test_a_module_that_draws_is_called_as_a_whole() -> None:
    net, x = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), Drawing(lambda m: random.random())), torch.randn(3, 4)
    model = fc.convert(net, 1)
    assert "the forward draws from random" in str(model.report())
    random.seed(0)
    first, second = model(x), model(x)
    random.seed(0)
    torch.testing.assert_close(first, net(x))
    assert not torch.equal(first, second)


def test_the_line_is_that_of_the_draw() -> None:
    net = Drawing(lambda m: 2 + random.random())
    with pytest.raises(
        LosesMeaning, match=f"test_draws.py:{test_the_line_is_that_of_the_draw.__code__.co_firstlineno + 1}:"
    ):
        fc.convert(net, 2)


class Noisy(nn.Module):
    """Draws like values, which is what a graph does too."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.drop = nn.Linear(4, 6), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.drop(torch.relu(self.layer(x)))
        return h + torch.randn_like(h) * torch.rand_like(h)


def test_draws_like_values_go_on() -> None:
    torch.manual_seed(0)
    net, x = Noisy(), torch.randn(3, 4)
    model = fc.convert(copy.deepcopy(net), 1)
    torch.manual_seed(1)
    first, second = model(x), model(x)
    torch.manual_seed(1)
    torch.testing.assert_close(first, net(x))
    assert not torch.equal(first, second)


def test_what_another_thread_draws_is_none_of_the_models() -> None:
    net, calls = nn.Linear(2, 2), 0

    def trace() -> int:
        nonlocal calls
        calls += 1
        if calls == 1:
            thread = threading.Thread(target=random.random)
            thread.start()
            thread.join()
        return calls

    before = random.getstate()
    assert without_draws(trace, net) == 2
    assert random.getstate() != before

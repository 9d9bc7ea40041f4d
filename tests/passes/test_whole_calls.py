"""Modules whose forward writes state are called as a whole, and do what they do in the model; a model's own state is
refused by name.
"""

from __future__ import annotations

import copy
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import ffebm_compiler as fc
from ffebm_compiler.passes.tracing.state import State

SHARED: dict[str, int] = {"calls": 0}


@dataclass
class Record:
    count: int = 0
    seen: list[float] = field(default_factory=list)


class Stateful(nn.Module):
    """One layer of state between two linear ones."""

    def __init__(self, write: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.write, self.n, self.mem = write, 0, None
        self.values: list[Any] = []
        self.table: dict[str, Any] = {"count": {"inner": 0}}
        self.record, self.space, self.queue = Record(), SimpleNamespace(last=0.0), deque([1.0], maxlen=3)
        self.draws = np.random.default_rng(0)
        self.plain = torch.ones(6)
        self.register_buffer("c", torch.zeros(6))

    def forward(self, x: Tensor) -> Tensor:
        return self.write(self, x)


def _membrane(m: Any, x: Tensor) -> Tensor:
    m.mem = x.detach() if m.mem is None else 0.8 * m.mem + x.detach()
    return torch.tanh(m.mem + x)


def _counter(m: Any, x: Tensor) -> Tensor:
    m.n += 1
    return x * m.n


def _assigned(m: Any, x: Tensor) -> Tensor:
    y = x - m.c
    m.c = 0.9 * m.c + 0.1 * x.detach().mean(0)
    return y


def _list(m: Any, x: Tensor) -> Tensor:
    m.values.append(x.detach())
    return x * len(m.values)


def _nested(m: Any, x: Tensor) -> Tensor:
    m.table["count"]["inner"] += 1
    return x / m.table["count"]["inner"]


def _dataclass(m: Any, x: Tensor) -> Tensor:
    m.record.count += 1
    m.record.seen.append(0.5)
    return x * m.record.count


def _namespace(m: Any, x: Tensor) -> Tensor:
    m.space.last = m.space.last + 1.0
    return x + m.space.last


def _queue(m: Any, x: Tensor) -> Tensor:
    m.queue.append(m.queue[-1] + 1.0)
    return x * sum(m.queue)


def _numpy(m: Any, x: Tensor) -> Tensor:
    return x * float(m.draws.random())


def _plain_tensor(m: Any, x: Tensor) -> Tensor:
    m.plain.mul_(0.5)
    return x * m.plain


def _plain_average(m: Any, x: Tensor) -> Tensor:
    m.plain = 0.9 * m.plain + x.detach().mean(0)
    return x * m.plain


def _auxiliary(m: Any, x: Tensor) -> Tensor:
    m.aux = x.square().mean()
    return x + 1


def _new_attribute(m: Any, x: Tensor) -> Tensor:
    m.shape_seen = x.shape
    return x + 1


WRITES: tuple[Callable[[Any, Tensor], Tensor], ...] = (
    _membrane,
    _counter,
    _assigned,
    _list,
    _nested,
    _dataclass,
    _namespace,
    _queue,
    _numpy,
    _plain_tensor,
    _plain_average,
    _auxiliary,
    _new_attribute,
)


def model_of(write: Callable[[Any, Tensor], Tensor]) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), Stateful(write), nn.Linear(6, 2))


@pytest.mark.slow
@pytest.mark.parametrize("share", [False, True], ids=["copy", "shared"])
@pytest.mark.parametrize("write", WRITES, ids=lambda f: f.__name__)
def test_a_module_with_a_state_does_what_it_does_in_the_model(
    write: Callable[[Any, Tensor], Tensor], share: bool
) -> None:
    net = model_of(write)
    own = copy.deepcopy(net)
    before = State(net)
    model = fc.convert(net, block_size=1, copy=not share)
    assert not before.changes()
    for call in range(5):
        training, x = call != 3, torch.randn(3, 4)
        a, b = model.train(training)(x), own.train(training)(x)
        torch.testing.assert_close(a, b)
        for m in (model, own):
            m.zero_grad()
        a.square().sum().backward()
        b.square().sum().backward()
        for p, q in zip(model.parameters(), own.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(model.get_buffer("1.c"), own.get_buffer("1.c"))
        assert model.get_submodule("1").n == own[1].n
        assert len(model.get_submodule("1").values) == len(own[1].values)
    assert "called as a whole: " in str(model.report())


@pytest.mark.slow
@pytest.mark.parametrize("write", [w for w in WRITES if w not in (_plain_tensor,)], ids=lambda f: f.__name__)
def test_the_models_own_state_is_refused_by_name_and_nothing_stays(write: Callable[[Any, Tensor], Tensor]) -> None:
    net = Stateful(write)
    net.layer = nn.Linear(2, 2)
    before = State(net)
    with pytest.raises(fc.TraceError, match=r"test_whole_calls.py:\d+: is written by the forward"):
        fc.convert(net, block_size=1, copy=False)
    assert not before.changes()
    assert not [n for n in vars(net) if n.startswith("_tensor_constant")]


@pytest.mark.slow
@pytest.mark.parametrize(
    "write", [w for w in WRITES if w not in (_plain_tensor, _assigned, _numpy)], ids=lambda f: f.__name__
)
def test_an_exported_models_own_state_is_refused_too(write: Callable[[Any, Tensor], Tensor]) -> None:
    """torch.export puts attributes back, so that they look unwritten afterwards."""
    net = Stateful(write)
    net.layer = nn.Linear(6, 6)
    before = State(net)
    with pytest.raises(fc.TraceError, match="is written by the forward") as raised:
        fc.convert(net, block_size=1, copy=False, example_inputs=torch.randn(3, 6), verify=False)
    assert 'digital=[""]' in str(raised.value)
    assert len(raised.value.problems) == 1
    assert not before.changes()


def test_a_buffer_that_the_model_itself_assigns_says_how_to_write_it() -> None:
    net = Stateful(_assigned)
    net.layer = nn.Linear(6, 6)
    with pytest.raises(fc.TraceError, match=r"attribute 'c'(.|\n)*in place, self\.c\.copy_(.|\n)*example_inputs="):
        fc.convert(net, block_size=1)
    own = copy.deepcopy(net)
    model, x = fc.convert(net, block_size=1, example_inputs=torch.randn(3, 6)), torch.randn(3, 6)
    for _ in range(2):
        torch.testing.assert_close(model(x), own(x))
        torch.testing.assert_close(model.c, own.c)


class Writer(nn.Module):
    """Writes into a dict of its parent's."""

    def __init__(self, book: dict[str, Any]) -> None:
        super().__init__()
        self.book, self.a = book, nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        self.book["calls"] = self.book.get("calls", 0) + 1
        return self.a(x)


class Parent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.book: dict[str, Any] = OrderedDict()
        self.first, self.last = Writer(self.book), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(x))) * self.book["calls"]


def test_state_that_modules_share_makes_their_common_caller_whole() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 4), Parent(), nn.Linear(4, 2))
    model = fc.convert(copy.deepcopy(net), block_size=1)
    for _ in range(3):
        x = torch.randn(3, 4)
        torch.testing.assert_close(model(x), net(x))
    digital = [o.layer for b in model.program.digital_blocks for o in b.origins]
    assert "1" in digital
    with pytest.raises(fc.TraceError, match="attribute 'book'"):
        fc.convert(Parent(), block_size=1)


class Reader(nn.Module):
    """Reads what its layer has written: an auxiliary loss."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.layer = nn.Linear(4, 6), Stateful(_auxiliary)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(self.a(x))
        return y + self.layer.aux


def test_who_reads_what_a_whole_module_writes_is_found() -> None:
    net = nn.Sequential(Reader(), nn.Linear(6, 2))
    model = fc.convert(copy.deepcopy(net), block_size=1)
    for _ in range(3):
        x = torch.randn(3, 4)
        torch.testing.assert_close(model(x), net(x))
    with pytest.raises(
        fc.TraceError, match=r"attribute 'aux' of layer layer, at test_whole_calls.py:\d+: is read here"
    ):
        fc.convert(Reader(), block_size=1)


class Global(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        SHARED["calls"] += 1
        return x * SHARED["calls"]


def test_state_outside_of_modules_is_refused_unless_its_writer_is_digital() -> None:
    net = nn.Sequential(nn.Linear(4, 4), Global(), nn.Linear(4, 2))
    calls = SHARED["calls"]
    with pytest.raises(fc.TraceError, match=r"'SHARED'|'calls'"):
        fc.convert(net, block_size=1)
    assert SHARED["calls"] == calls


def test_a_trace_hook_of_the_users_stays() -> None:
    import sys

    before = sys.gettrace()
    fc.convert(model_of(_counter), block_size=1)
    assert sys.gettrace() is before

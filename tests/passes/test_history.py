"""What leaves a region without gradients has no history: a converted model learns what its author lets it learn."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ffebm_compiler as fc
from ffebm_compiler.model.converted_module import runner_of
from ffebm_compiler.passes.export.export_trace import export_trace
from ffebm_compiler.passes.refusals import LosesMeaning
from ffebm_compiler.passes.tracing.symbolic_trace import symbolic_trace


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.scale = nn.Linear(4, 5), nn.Linear(5, 3), nn.Parameter(torch.rand(5) + 0.5)
        self.register_buffer("mean", torch.zeros(5))


class Frozen(Net):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            h = torch.relu(self.body(x))
        return self.head(h * self.scale)


class Inference(Net):
    def forward(self, x: Tensor) -> Tensor:
        with torch.inference_mode():
            h = torch.relu(self.body(x)) + torch.arange(5)
        return self.head(h.clone()) * self.scale[:3]


class Statement(Net):
    def forward(self, x: Tensor) -> Tensor:
        before = torch.is_grad_enabled.__name__ and True
        torch.set_grad_enabled(False)
        h = torch.relu(self.body(x))
        torch.set_grad_enabled(before)
        return self.head(h * self.scale)


class Decorated(Net):
    @torch.no_grad()
    def targets(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.softmax(self.head(self.body(x)), -1).chunk(2, 0)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first, second = self.targets(x)
        z = self.head(torch.tanh(self.body(x)))
        return (torch.cat([first, second]) * z).sum(-1), z


class Training(Net):
    def forward(self, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(not self.training):
            h = torch.relu(self.body(x))
        return self.head(h)


class Nested(Net):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            h = torch.relu(self.body(x))
            with torch.enable_grad():
                z = self.head(h * self.scale)
            k = self.head(h) + z
        return z + 0.5 * k + z * h[:, :3]


class Weighted(Net):
    def forward(self, x: Tensor) -> Tensor:
        z = self.head(torch.relu(self.body(x)))
        with torch.no_grad():
            w = torch.softmax(z, -1)
            w.mul_(self.scale[:3]).add_(z, alpha=0.1)
            w /= w.sum(-1, keepdim=True)
        return (w * z).sum(-1)


class Average(Net):
    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.body(x))
        with torch.no_grad():
            self.mean.lerp_(h.mean(0) * self.scale, 0.1)
        return self.head(h - self.mean)


class Backbone(nn.Module):
    """A frozen network of one's own, called within."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.0), nn.Linear(6, 5))
        self.head = Net()

    def forward(self, x: Tensor) -> Tensor:
        n = x.size(0)
        with torch.no_grad():
            h = self.backbone(x).view(n, 5)
            m = h.size(1)
        return self.head.head(torch.tanh(h * self.head.scale)) / m


class PassedThrough(Net):
    """What a region hands on as it is keeps its history, as in eager PyTorch."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x)
        with torch.no_grad():
            same, other = h.double().cpu(), h.float().double()
        return self.head(torch.relu(same) + other * self.scale)


class Everything(Net):
    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.body(x)))


class Returned(Net):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        z = self.head(torch.relu(self.body(x)))
        with torch.no_grad():
            best, index = z.max(-1)
            lstm = {"best": best, "index": index}
        return {"z": z, **lstm}


class Recurrent(Net):
    """A nest of tensors leaves the region. torch.export takes no LSTM in training."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 5, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            states = self.lstm(x[:, None])
        return self.head(states[0][:, 0] * self.scale)


NETS = (
    Frozen,
    Inference,
    Statement,
    Decorated,
    Training,
    Nested,
    Weighted,
    Average,
    Backbone,
    PassedThrough,
    Returned,
    Recurrent,
)


def leaves(result: Any) -> list[Tensor]:
    return torch.utils._pytree.tree_leaves(result)


def learned(run: Callable[[Tensor], Any], net: nn.Module, x: Tensor) -> Iterator[tuple[str, Any]]:
    """Everything that a step leaves behind, by name."""
    net.zero_grad()
    x = x.clone().requires_grad_()
    results = leaves(run(x))
    yield from ((f"result {i}", r.detach()) for i, r in enumerate(results))
    yield from ((f"history {i}", r.requires_grad) for i, r in enumerate(results))
    sum(r.square().sum() for r in results if r.requires_grad).backward()
    yield "error of the input", x.grad
    yield from ((n, p.grad) for n, p in net.named_parameters())
    yield from ((n, b.clone()) for n, b in net.named_buffers())


def check(model: nn.Module, net: nn.Module, x: Tensor) -> None:
    ours = dict(learned(model, model, x))
    for what, b in learned(net, net, x):
        a = ours[what]
        if isinstance(b, Tensor):
            assert isinstance(a, Tensor), what
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10, msg=what)
        else:
            assert a == b, what


@pytest.mark.parametrize(
    ("kind", "export"), [(k, e) for k in NETS for e in (False, True) if not (e and k is Recurrent)]
)
@pytest.mark.parametrize("training", [True, False])
def test_a_region_has_no_history(kind: type[nn.Module], export: bool, training: bool, monkeypatch: Any) -> None:
    torch.manual_seed(0)
    net, x = kind().double().train(training), torch.randn(6, 4, dtype=torch.float64)
    if export:
        only_export(monkeypatch)
    model = fc.convert(copy.deepcopy(net), 1, example_inputs=x)
    assert runner_of(model).compiled.modes[training].tracer == ("torch.export" if export else "torch.fx")
    for _ in range(2):
        check(model, net, x)


def only_export(monkeypatch: Any) -> None:
    def refuse(*args: Any) -> None:
        raise RuntimeError("not this time")

    monkeypatch.setattr(sys.modules["ffebm_compiler.passes.trace"], "symbolic_trace", refuse)


@pytest.mark.parametrize("kind", [Frozen, Weighted, Nested, Average])
@pytest.mark.parametrize("size", [1, 2])
def test_the_generated_step_moves_nothing_that_is_frozen(kind: type[nn.Module], size: int) -> None:
    torch.manual_seed(0)
    model, x = fc.convert(kind().double(), size, tolerance=1e-12), torch.randn(6, 4, dtype=torch.float64)
    other = copy.deepcopy(model)
    model.training_step(x, None, lambda out, y: out.square().sum())
    other(x).square().sum().backward()
    for (name, p), q in zip(model.named_parameters(), other.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None), name
        if p.grad is not None:
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-6, atol=1e-8, msg=name)
    if kind is Frozen:
        assert model.body.weight.grad is None


class Around(nn.Module):
    """A module within, whose forward no graph keeps."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.last = inner, nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.inner(x)))


class Slope(Net):
    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x)
        (slope,) = torch.autograd.grad(torch.tanh(h).sum(), h, create_graph=True)
        return self.head(slope)


@pytest.mark.parametrize("inner", ["Projected", "Slope"])
def test_a_module_that_no_graph_keeps_is_called_as_a_whole(inner: str) -> None:
    torch.manual_seed(0)
    net, x = Around(globals()[inner]()).double(), torch.randn(6, 4, dtype=torch.float64)
    model = fc.convert(copy.deepcopy(net), 1)
    assert "called as a whole" in str(model.report())
    for _ in range(2):
        check(model, net, x)


def test_a_forward_without_gradients_has_none() -> None:
    torch.manual_seed(0)
    net, x = Everything(), torch.randn(6, 4)
    for model in (fc.convert(net, 2), fc.convert(net, 1, example_inputs=x)):
        assert not model(x).requires_grad
    torch.testing.assert_close(model(x), net(x))


class Projected(Net):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.scale.clamp_(0, 1)
        return self.head(self.body(x) * self.scale)


class Clipped(Net):
    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.body(x))
        with torch.no_grad():
            h.clamp_(max=1)
        return self.head(h)


@pytest.mark.parametrize(("kind", "what"), [(Projected, "parameter scale"), (Clipped, "a value from outside of it")])
@pytest.mark.parametrize("export", [False, True])
def test_what_keeps_its_history_is_not_overwritten(kind: type[nn.Module], what: str, export: bool) -> None:
    with pytest.raises(LosesMeaning, match=rf"test_history.py:\d+: a region without gradients overwrites {what}"):
        export_trace(kind(), (torch.randn(3, 4),), {}) if export else symbolic_trace(kind(), ())


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)])
def test_the_callers_contexts_are_none_of_the_models(around: Callable[[], Any]) -> None:
    torch.manual_seed(0)
    net, x = Weighted().double(), torch.randn(6, 4, dtype=torch.float64)
    with around() if around is not None else nullcontext():
        model = fc.convert(net, 1)
    check(model, net, x)

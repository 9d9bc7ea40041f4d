"""What a converted model returns has the type, the contents and the identities of what the model returns."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import ffebm_compiler as fc
from ffebm_compiler.nests import take_apart


class Colour(Enum):
    RED = 1


class Heads(NamedTuple):
    mean: Tensor
    spread: Tensor


class Out(OrderedDict):  # type: ignore[type-arg]
    """As transformers' ModelOutput: reached by name, by place and as attributes."""

    def __init__(self, **fields: Any):
        super().__init__({k: v for k, v in fields.items() if v is not None})
        self.__dict__.update(fields)

    def __getitem__(self, key: Any) -> Any:
        return list(self.values())[key] if isinstance(key, int) else super().__getitem__(key)


@dataclass(frozen=True, slots=True)
class Frozen:
    logits: Tensor
    kind: str = "logits"


@dataclass
class Scored:
    logits: Tensor
    best: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.best = self.logits.argmax(-1)


class Stack(list):  # type: ignore[type-arg]
    def __init__(self, name: str, *values: Tensor):
        super().__init__(values)
        self.name = name


class Layers(nn.Module):
    def __init__(self, result: Callable[..., Any]):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.result = nn.Linear(4, 5), nn.Linear(5, 3), result
        self.register_buffer("steps", torch.ones(3))

    def forward(self, x: Tensor) -> Any:
        h = torch.relu(self.a(x))
        return self.result(self, x, h, self.b(h))


class Branching(Layers):
    """The same, as symbolic tracing can't take it."""

    def forward(self, x: Tensor) -> Any:
        return super().forward(x if x.shape[1] > 1 else -x)


RESULTS: dict[str, Callable[[Layers, Tensor, Tensor, Tensor], Any]] = {
    "model output": lambda m, x, h, y: Out(loss=None, logits=y, hidden=h),
    "ordered": lambda m, x, h, y: OrderedDict(z=y, a=h),
    "default dict": lambda m, x, h, y: defaultdict(list, y=[y, h]),
    "named": lambda m, x, h, y: Heads(y, h),
    "frozen": lambda m, x, h, y: Frozen(y),
    "computed": lambda m, x, h, y: Scored(y),
    "list of its own": lambda m, x, h, y: Stack("s", y, h),
    "topk": lambda m, x, h, y: torch.topk(y, 2),
    "max": lambda m, x, h, y: (y.max(1), y.sort(-1)),
    "size": lambda m, x, h, y: (y, y.size(), h.shape[0], x.shape[1:]),
    "constants": lambda m, x, h, y: [None, 1, 2.5, True, "text", Colour.RED, torch.float32, y],
    "nested": lambda m, x, h, y: {"o": [Out(logits=(y, Heads(h, y)))], "n": (Frozen(h), {1: Stack("t", y)})},
    "nothing": lambda m, x, h, y: None,
    "twice": lambda m, x, h, y: (y, [y, y]),
    "input": lambda m, x, h, y: (x, y),
    "parameter": lambda m, x, h, y: (y, m.b.weight),
    "buffer": lambda m, x, h, y: {"y": y, "steps": m.steps},
}


def tensors(value: Any) -> list[Tensor]:
    return take_apart(value, lambda v: isinstance(v, Tensor), once=False)[0]


@pytest.mark.slow
@pytest.mark.parametrize("export", [False, True])
@pytest.mark.parametrize("name", RESULTS)
def test_the_result_is_as_the_model_returns_it(name: str, export: bool) -> None:
    net, x = (Branching if export else Layers)(RESULTS[name]), torch.randn(2, 4)
    model = fc.convert(net, 1, example_inputs=(x,) if export else None)
    x = torch.randn(5, 4)
    got, expected = model(x), net(x)
    shapes = [take_apart(v, lambda t: isinstance(t, Tensor), once=False)[1] for v in (got, expected)]
    assert repr(shapes[0]) == repr(shapes[1])
    for a, b in zip(tensors(got), tensors(expected), strict=True):
        torch.testing.assert_close(a, b)
    again = model.equilibrium(x)[0]
    assert type(again) is type(expected)
    if name == "model output":
        assert got.logits is got["logits"] is got[0]
        assert got.loss is None


@pytest.mark.parametrize("size", [1, 2])
def test_identities(size: int) -> None:
    x = torch.randn(2, 4)
    model = fc.convert(Layers(RESULTS["twice"]), size)
    y, (a, b) = model(x)
    assert y is a is b
    model = fc.convert(Layers(RESULTS["input"]), size)
    assert model(x)[0] is x
    model = fc.convert(Layers(RESULTS["parameter"]), size)
    assert model(x)[1] is model.b.weight
    model = fc.convert(Layers(RESULTS["buffer"]), size)
    assert model(x)["steps"] is model.steps
    model.steps.add_(1)
    assert torch.equal(model(x)["steps"], model.steps)


def test_generated_step_and_comparison_see_the_models_own_type() -> None:
    torch.manual_seed(0)
    model, x, y = fc.convert(Layers(RESULTS["model output"]), 2), torch.randn(6, 4), torch.randn(6, 3)

    def loss(out: Out, target: Tensor) -> Tensor:
        return (out.logits - target).square().mean() + 0.1 * out.hidden.square().mean()

    found = fc.compare_gradients(model, x, y, loss)
    assert found.worst.cosine > 0.9999
    loss(model(x), y).backward()
    expected = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()
    model.training_step(x, y, loss)
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, expected[name], rtol=1e-4, atol=1e-6)


class ByMode(Layers):
    def forward(self, x: Tensor) -> Any:
        y = self.b(torch.relu(self.a(x)))
        return Out(logits=y) if self.training else Heads(y, y)


def test_each_mode_returns_its_own_type() -> None:
    model = fc.convert(ByMode(RESULTS["named"]), 1)
    assert type(model.train()(torch.ones(2, 4))) is Out
    assert type(model.eval()(torch.ones(2, 4))) is Heads


@pytest.mark.parametrize("made", [lambda y: {y}, lambda y: (v for v in [y]), lambda y: lambda: y])
def test_what_cannot_be_rebuilt_is_refused_by_name(made: Callable[[Tensor], Any]) -> None:
    net = Layers(lambda m, x, h, y: {"out": made(y)})
    with pytest.raises(fc.errors.TraceError, match=r"result\['out'\]: is a (set|generator|function)"):
        fc.convert(net, 1)

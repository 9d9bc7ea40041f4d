"""What a forward asks while it is traced is answered as at a call, or refused by name."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, is_grad_enabled, is_tensor, nn

import ffebm_compiler as fc
from ffebm_compiler.passes.export.export_trace import export_trace
from ffebm_compiler.passes.refusals import LosesMeaning
from ffebm_compiler.passes.tracing.opened_contexts import Surroundings
from ffebm_compiler.passes.tracing.questions import Asked, answered
from ffebm_compiler.passes.tracing.recorded_functions import numbers_recorded
from ffebm_compiler.passes.tracing.symbolic_trace import symbolic_trace

RECORDS = is_grad_enabled


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.w = nn.Linear(4, 6), nn.Linear(6, 3), nn.Parameter(torch.rand(6))
        self.register_buffer("c", torch.rand(6))


class IsTensor(Net):
    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.a(x))
        return self.b(h * 3 if torch.is_tensor(h) and is_tensor(x) else h)


class IsInstance(Net):
    def forward(self, x):  # type: ignore[no-untyped-def]
        if isinstance(x, dict):
            x = x["x"]
        h, parts = self.a(x), self.a(x).chunk(2, -1)
        if isinstance(h, (Tensor, int)) and not isinstance(h, nn.Parameter) and isinstance(parts[0], Tensor):
            h = h * 2
        if isinstance(self.w, Tensor) and isinstance(self.c, Tensor) and not isinstance(self.c, nn.Parameter):
            h = h * self.w
        if isinstance(h.shape, tuple) and isinstance(h.size(0), int) and not isinstance(h.size(0), Tensor):
            h = h + self.c
        if isinstance(parts, (list, tuple)) and isinstance(h.sum(), Tensor) and isinstance(F.gelu(h) + 1, Tensor):
            h = torch.tanh(h)
        return self.b(h)


class IsOfType(Net):
    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.a(x))
        if type(h) is Tensor and type(x) in (Tensor, nn.Parameter) and type(self.c) is Tensor:
            h = h * 3
        if isinstance(int, type) and type("Made", (), {}).__name__ == "Made":
            h = h + 1
        return self.b(h)


class Compiling(Net):
    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.a(x))
        tracing = torch.compiler.is_compiling() or torch.jit.is_scripting() or torch.onnx.is_in_onnx_export()
        return self.b(h if tracing or torch.jit.is_tracing() else h * 3)


class OfItsOwn(Net):
    """What the forward itself has set, it may ask."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            h = torch.relu(self.a(x)) * (2 if not torch.is_grad_enabled() and not RECORDS() else 1)
        with torch.autocast("cpu", torch.bfloat16, enabled=False):
            h = h * (3 if not torch.is_autocast_enabled("cpu") else 1)
        return self.b(h / math.sqrt(4))


def converted(kind: type[nn.Module], export: bool) -> tuple[nn.Module, nn.Module, Tensor]:
    torch.manual_seed(0)
    net, x = kind(), torch.randn(5, 4)
    if export:
        export_trace(copy.deepcopy(net), (x,), {})
    return fc.convert(copy.deepcopy(net), 1, example_inputs=x if export else None), net, x


@pytest.mark.slow
@pytest.mark.parametrize("kind", [IsTensor, IsInstance, IsOfType, Compiling, OfItsOwn])
@pytest.mark.parametrize("export", [False, True])
def test_answers_are_those_of_a_call(kind: type[nn.Module], export: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if export:
        only_export(monkeypatch)
    model, net, x = converted(kind, export)
    torch.testing.assert_close(model(x), net(x), rtol=1e-6, atol=1e-6)


def only_export(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    def refuse(*args: Any) -> None:
        raise RuntimeError("not this time")

    monkeypatch.setattr(sys.modules["ffebm_compiler.passes.trace"], "symbolic_trace", refuse)


class Scaled(Net):
    """Another value where the answer is yes."""

    asks: Callable[[Tensor], Any] = staticmethod(lambda h: False)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.a(x))
        return self.b(h * 3 if self.asks(h) else h)


def switched_on() -> bool:
    return torch.is_autocast_enabled("cpu")


ASKING = [
    (lambda h: torch.is_grad_enabled(), "asks whether its caller records gradients"),
    (lambda h: RECORDS(), "asks whether its caller records gradients"),
    (lambda h: is_grad_enabled(), "asks whether its caller records gradients"),
    (lambda h: torch.is_inference_mode_enabled(), "asks whether its caller is in inference mode"),
    (lambda h: switched_on(), "asks whether its caller uses autocast"),
    (lambda h: torch.get_autocast_dtype("cpu") == torch.float16, "asks what its caller's autocast computes in"),
    (lambda h: torch.manual_seed(0), "calls torch.manual_seed"),
    (lambda h: torch.autograd.grad(h.sum(), h)[0].sum(), "differentiates"),
]
OF_TENSORS = [
    (lambda h: h.requires_grad, "asks whether a tensor requires a gradient"),
    (lambda h: h.is_cuda, "asks for the device of a tensor"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("asks", "what"), ASKING)
@pytest.mark.parametrize("export", [False, True])
def test_what_depends_on_the_caller_is_refused(asks: Callable[[Tensor], Any], what: str, export: bool) -> None:
    net = nn.Sequential(nn.Identity(), Scaled())
    net[1].asks = asks
    with pytest.raises(LosesMeaning, match=rf"test_questions.py:\d+: the forward {what}") as caught:
        export_trace(net, (torch.randn(3, 4),), {}) if export else symbolic_trace(net, ())
    assert caught.value.path == "1"


@pytest.mark.parametrize(("asks", "what"), OF_TENSORS)
def test_what_an_export_would_bake_in_is_refused(asks: Callable[[Tensor], Any], what: str) -> None:
    net = Scaled()
    net.asks = asks
    with pytest.raises(LosesMeaning, match=what):
        export_trace(net, (torch.randn(3, 4),), {})
    with pytest.raises(fc.TraceError, match=r"(?s)control flow.*" + what):
        fc.convert(net, 1, example_inputs=torch.randn(3, 4))


class Swallowing(Scaled):
    """A forward that catches what it is told."""

    def forward(self, x: Tensor) -> Tensor:
        try:
            return super().forward(x)
        except Exception:
            return self.b(self.a(x))


@pytest.mark.parametrize("export", [False, True])
def test_a_refusal_is_not_swallowed(export: bool) -> None:
    net = Swallowing()
    net.asks = lambda h: torch.is_grad_enabled()
    with pytest.raises(LosesMeaning, match="asks whether"):
        fc.convert(net, 1, example_inputs=torch.randn(3, 4) if export else None)


class Doubled(Net):
    def forward(self, x: Tensor) -> Tensor:
        torch.set_default_dtype(torch.float64)
        try:
            return self.b(torch.relu(self.a(x)) + torch.ones(6))
        finally:
            torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("export", [False, True])
def test_settings_are_not_changed(export: bool) -> None:
    with pytest.raises(LosesMeaning, match="changes PyTorch's default type or precision"):
        export_trace(Doubled(), (torch.randn(3, 4),), {}) if export else symbolic_trace(Doubled(), ())
    assert torch.get_default_dtype() == torch.float32


def test_an_argument_that_is_no_tensor_after_all_is_named() -> None:
    model = fc.convert(IsInstance(), 1)
    with pytest.raises(fc.InputError, match=r"(?s)'?x'?.*dict.*example_inputs"):
        model({"x": torch.randn(3, 4)})
    net, x = IsInstance(), {"x": torch.randn(3, 4)}
    torch.testing.assert_close(fc.convert(copy.deepcopy(net), 1, example_inputs=(x,))(x), net(x), rtol=1e-6, atol=1e-6)


def test_a_value_whose_type_no_graph_tells() -> None:
    class Unknown(Net):
        def forward(self, x: Tensor) -> Tensor:
            h = self.a(x).max(-1)
            return self.b(self.a(x) * (2 if isinstance(h, tuple) else 3))

    with pytest.raises(LosesMeaning, match="asks for the type of a value"):
        fc.convert(Unknown(), 1)


def test_nothing_is_left_in_the_users_files() -> None:
    before = dict(globals())
    for kind in (IsOfType, IsInstance, OfItsOwn):
        fc.convert(kind(), 1)
    assert {n: v for n, v in globals().items() if not n.startswith("@")} == {
        n: v for n, v in before.items() if not n.startswith("@")
    }
    assert isinstance.__module__ == "builtins"
    assert torch.is_grad_enabled is is_grad_enabled


def test_what_is_imported_meanwhile_works_ever_after() -> None:
    kept: dict[str, Any] = {"__name__": __name__}
    net = Net()
    with answered(Asked(net, lambda value: None, Surroundings())), numbers_recorded(net):
        exec("from torch import is_grad_enabled\nfrom math import prod\nfrom builtins import isinstance", kept)
    assert eval("is_grad_enabled()", kept)
    assert kept["prod"]([2, 3], start=2) == 12
    assert not kept["isinstance"](3, Tensor)


def test_a_converted_model_within_another_is_named() -> None:
    inner = fc.convert(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), 2)
    with pytest.raises(fc.OptionError, match=r"(?s)layer 0.1: is a converted model.*model.0.1.to_feedforward\(\)"):
        fc.convert(nn.Sequential(nn.Sequential(nn.Identity(), inner), nn.Linear(4, 2)), 2)

"""A forward's own autocast is kept: its calls compute in what the forward says, whatever the caller's autocast is."""

from __future__ import annotations

import copy
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ffebm_compiler as fc
from ffebm_compiler.passes.refusals import LosesMeaning
from ffebm_compiler.passes.tracing.symbolic_trace import symbolic_trace


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.norm = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3), nn.LayerNorm(6)


class Lower(Net):
    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.a(x))
        with torch.autocast("cpu", torch.bfloat16):
            h = torch.tanh(self.norm(self.b(h))) @ self.b.weight
        return self.c(h.float())


class Higher(Net):
    """As rotary embeddings do it."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            scale = torch.sin(x.float() @ self.a.weight.float().t()).reshape(x.size(0), 6)
        return self.c(torch.relu(h) * scale)


class Nested(Net):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            h = self.b(torch.relu(self.a(x)))
            with torch.autocast("cpu", enabled=False):
                h = self.b(h.float())
            n = h.shape[0]
            h = self.b(h).view(n, -1)
        return self.c(h.float())


class Decorated(Net):
    @torch.autocast("cpu", torch.bfloat16)
    def inner(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x)))

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.inner(x).float())


NETS = [Lower, Higher, Nested, Decorated]


def gradients(model: nn.Module, x: Tensor, around: bool) -> tuple[Tensor, list[Any]]:
    model.zero_grad()
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=around):
        out = model(x)
    out.float().square().sum().backward()
    return out.detach(), [x.grad, *(p.grad for p in model.parameters())]


@pytest.mark.slow
@pytest.mark.parametrize("export", [False, True])
@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("around", [False, True], ids=["", "within autocast"])
def test_it_computes_as_the_model_does(
    kind: type[nn.Module], export: bool, around: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    net, x = kind(), torch.randn(5, 4)
    if export:
        only_export(monkeypatch)
    model = fc.convert(copy.deepcopy(net), 1, example_inputs=x if export else None)
    out, ours = gradients(model, x, around)
    expected, theirs = gradients(net, x, around)
    torch.testing.assert_close(out, expected, rtol=2e-2 if around else 1e-6, atol=2e-2 if around else 1e-6)
    for a, b in zip(ours, theirs, strict=True):
        assert (a is None) == (b is None)
        if b is not None:
            torch.testing.assert_close(a, b, rtol=3e-2, atol=3e-2)


def only_export(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise RuntimeError("not this time")

    monkeypatch.setattr(sys.modules["ffebm_compiler.passes.trace"], "symbolic_trace", refuse)


def test_what_is_switched_off_stays_so() -> None:
    """Under the caller's autocast too, where rounding to bfloat16 would show."""
    torch.manual_seed(0)
    net, x = Higher(), 100 * torch.randn(5, 4)
    model = fc.convert(copy.deepcopy(net), 1)
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = model(x).float(), net(x).float()
    assert (ours - theirs).norm() < 0.01 * theirs.norm()


@pytest.mark.parametrize("kind", NETS)
def test_steps_pickles_and_reports(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    x = torch.randn(5, 4)
    model = fc.convert(kind(), 2)
    assert "own autocast" in str(model.report())
    assert "with_autocast('cpu', torch.bfloat16, " in model.training_code
    again = pickle.loads(pickle.dumps(model))
    torch.testing.assert_close(again.eval()(x), model.eval()(x))
    model.train()
    other = copy.deepcopy(model)
    model.training_step(x, None, lambda out, y: out.square().sum())
    other(x).square().sum().backward()
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None)
        if p.grad is not None:
            torch.testing.assert_close(p.grad, q.grad, rtol=5e-2, atol=1e-2)


@pytest.mark.slow
def test_onnx(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    model, x = fc.convert(Higher(), 1).eval(), torch.randn(5, 4)
    path = model.export_onnx(tmp_path / "model.onnx", x)
    session = onnxruntime.InferenceSession(str(path))
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})[:1]
    torch.testing.assert_close(torch.from_numpy(found), model(x).detach(), rtol=1e-4, atol=1e-5)


class Whole(Net):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return self.a(x)


class Statistics(Net):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(6)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return self.norm(self.a(x)).float()


def test_what_can_not_be_traced_through_is_called_with_its_region() -> None:
    with pytest.raises(LosesMeaning, match=r"test_mixed_precision.py:\d+: the forward calls norm within autocast"):
        fc.convert(Statistics(), 2)
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), Statistics(), nn.Linear(6, 2)), torch.randn(5, 4)
    model = fc.convert(copy.deepcopy(net), 1)
    torch.testing.assert_close(model(x), net(x))


def test_a_layer_that_is_called_as_a_whole_is_refused() -> None:
    with pytest.raises(LosesMeaning, match=r"calls a within autocast"):
        symbolic_trace(Whole(), ["a"])

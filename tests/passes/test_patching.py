"""A conversion replaces calls for the whole process: other threads don't notice, and afterwards nothing is left."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import ffebm_compiler as fc
from ffebm_compiler.passes.tracing.patching import replaced


class Halved(torch.autograd.Function):
    """With a context of its own, which its backward needs."""

    @staticmethod
    def forward(x: Tensor, by: float) -> Tensor:
        return x / by

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.by = inputs[1]

    @staticmethod
    def backward(ctx: Any, error: Tensor) -> tuple[Tensor, None]:
        return error / ctx.by, None


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=False), torch.inference_mode():
            shift = x.mean()
        return Halved.apply(self.layers(x) - shift.item(), 2.0)


def plain() -> dict[str, Any]:
    """What tracing replaces."""
    return {
        "call": nn.Module.__call__,
        "getattr": nn.Module.__getattr__,
        "autocast": torch.autocast.__enter__,
        "inference": torch.inference_mode.__enter__,
        "mode": torch._C._set_grad_enabled,
        **vars(Halved),
    }


def in_threads(*works: Callable[[], None]) -> list[BaseException]:
    failures: list[BaseException] = []

    def guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=guarded, args=(w,)) for w in works]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return failures


@pytest.mark.slow
@pytest.mark.parametrize(
    ("converters", "each", "example"), [(8, 5, None), (2, 1, torch.ones(2, 6))], ids=["fx", "export"]
)
def test_converting_in_threads_while_others_call_models(converters: int, each: int, example: Tensor | None) -> None:
    torch.manual_seed(0)
    before, done, calls = plain(), threading.Event(), 0
    nets = [Own() for _ in range(2)]
    x = torch.randn(4, 6)

    def learned(net: nn.Module) -> list[Tensor]:
        net.zero_grad()
        out = net(x)
        out.square().sum().backward()
        return [out.detach(), *(p.grad.clone() for p in net.parameters())]

    expected = [learned(n) for n in nets]

    def call(i: int) -> None:
        nonlocal calls
        while not done.is_set():
            assert all(torch.equal(a, b) for a, b in zip(learned(nets[i]), expected[i], strict=True))
            calls += 1

    def convert() -> None:
        for _ in range(each):
            net = Exported() if example is not None else Traced()  # which draws its weights
            assert torch.equal(fc.convert(net, 1, example_inputs=example)(x), net(x))

    watchers = [threading.Thread(target=lambda i=i: watched.extend(in_threads(lambda: call(i)))) for i in range(2)]
    watched: list[BaseException] = []
    for t in watchers:
        t.start()
    failures = in_threads(*[convert] * converters)
    done.set()
    for t in watchers:
        t.join()
    assert (failures, watched) == ([], [])
    assert calls > 2
    assert plain() == before


class Traced(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            shift = x.mean(0)
        return Halved.apply(self.layers(x - shift), 3.0)


class Exported(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x if x.shape[0] > 1 else 2 * x)


class Interrupted(Traced):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
            self.layers(x)
            raise KeyboardInterrupt


def test_nothing_is_left_of_an_interrupted_conversion() -> None:
    before, builtin = plain(), fx.Tracer.trace
    for example in (None, torch.ones(2, 6)):
        with pytest.raises(KeyboardInterrupt):
            fc.convert(Interrupted(), 2, example_inputs=example)
        assert plain() == before
        assert torch.is_grad_enabled()
        assert not torch.is_autocast_enabled("cpu")
    assert fx.Tracer.trace is builtin
    assert fc.convert(Traced(), 2)(torch.ones(2, 6)).shape == (2, 3)


class Base:
    value = 1


class Derived(Base):
    pass


def test_what_an_owner_had_it_has_again() -> None:
    space = {"a": 1}
    with replaced(Derived, "value", 2), replaced(space, "a", 2), replaced(space, "b", 3):
        assert (Derived.value, Base.value, space) == (2, 1, {"a": 2, "b": 3})
    assert "value" not in vars(Derived)
    assert space == {"a": 1}


class Beside(nn.Module):
    """Has another thread do something while it is exported."""

    def __init__(self, work: Callable[[], None]) -> None:
        super().__init__()
        self.layers, self.work = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), work

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_exporting.__module__ != "torch.compiler":  # while it is traced
            thread = threading.Thread(target=self.work)
            thread.start()
            thread.join(20)
        return self.layers(x if x.shape[0] > 1 else 2 * x)


def test_a_converted_model_runs_while_another_thread_exports() -> None:
    """PyTorch says of all threads that they export."""
    model, x, failures = fc.convert(Traced(), 1), torch.ones(2, 6), []
    expected = model(x)

    def work() -> None:
        failures.extend(in_threads(lambda: torch.testing.assert_close(model(x), expected)))
        done.append(True)

    done: list[bool] = []
    fc.convert(Beside(work), 1, example_inputs=x)
    assert (failures, any(done)) == ([], True)

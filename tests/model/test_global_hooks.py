"""Hooks on every module of the process that come after conversion: those that look may, those that change something are
named.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as everywhere
from torch.utils.flop_counter import FlopCounterMode

import ffebm_compiler as fc
from ffebm_compiler.errors import ChangedError

REGISTER: dict[str, Callable[..., Any]] = {
    "forward hook": everywhere.register_module_forward_hook,
    "forward pre hook": everywhere.register_module_forward_pre_hook,
    "backward hook": everywhere.register_module_full_backward_hook,
}


def doubled(module: nn.Module, given: Any, result: Any = None) -> Any:
    """Changes what a linear layer returns, is given, or passes back."""
    value = given if result is None or isinstance(result, tuple) else result
    if not isinstance(module, nn.Linear):
        return None
    return tuple(2 * v if v is not None else v for v in value) if isinstance(value, tuple) else 2 * value


@pytest.fixture
def registered() -> Iterator[Callable[[str, Callable[..., Any]], None]]:
    handles: list[Any] = []
    yield lambda kind, hook: handles.append(REGISTER[kind](hook))
    for handle in handles:
        handle.remove()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model() -> fc.FFEBM:
    torch.manual_seed(0)
    return fc.convert(nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)), 1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", REGISTER)
def test_one_that_changes_something_is_named(kind: str, model: Any, x: Tensor, registered: Any) -> None:
    model(x)
    registered(kind, doubled)
    for call in (lambda: model(x), lambda: model.training_step(x, torch.zeros(5, 3), F.mse_loss)):
        with pytest.raises(ChangedError, match=f"hook doubled: is a {kind} of every module"):
            call()
    copied = pickle.loads(pickle.dumps(model))
    with pytest.raises(ChangedError, match=f"hook doubled: is a {kind} of every module"):
        copied(x)


@pytest.mark.parametrize("kind", REGISTER)
def test_one_that_looks_changes_nothing(kind: str, model: Any, x: Tensor, registered: Any) -> None:
    before, looked = model(x), []
    registered(kind, lambda *given: looked.append(len(given)))
    assert torch.equal(model(x), before)
    assert looked
    with FlopCounterMode(display=False):
        model(x)


def test_it_is_undone(model: Any, x: Tensor) -> None:
    before = model(x)
    handle = everywhere.register_module_forward_hook(doubled)
    try:
        with pytest.raises(ChangedError):
            model(x)
    finally:
        handle.remove()
    assert torch.equal(model(x), before)

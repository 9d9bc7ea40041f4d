"""The user's model as its author wrote it, to hold its program against.

Its in-place layers are in place again. Norms take their running statistics in the calls in which blocks hold them:
otherwise the two could not be compared while training.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from torch import nn

from .bound_model import BoundModel
from .held_functions import HeldFunctions, held_means


@contextlib.contextmanager
def as_written(model: BoundModel) -> Iterator[None]:
    """The network as its author wrote it, its in-place layers in place; norms are held in the calls in which blocks
    hold them."""
    in_place = [model.network.get_submodule(name) for name in model.compiled.in_place]
    with _attribute(in_place, "inplace", True), contextlib.ExitStack() as stack:
        for path, labels in _held_calls(model).items() if model.training else ():
            if (module := _module_at(model.network, path)) is not None:
                stack.enter_context(_held_in(module, path, labels))
        if model.training and (means := held_mean_paths(model)):
            stack.enter_context(HeldFunctions(model.network, means))
        yield


def held_mean_paths(model: BoundModel) -> frozenset[str]:
    """The means of the norms that blocks hold and that the model calls as functions."""
    return held_means(model.program, lambda path: hasattr(_module_at(model.network, path), "running_mean"))


def _held_calls(model: BoundModel) -> dict[str, set[str]]:
    """By the path of a norm, the labels of its calls that blocks hold; none for all, where torch.export has
    numbered calls otherwise."""
    found: dict[str, set[str]] = {}
    for block in model.program.energy_blocks:
        for origin in block.held_norms:
            found.setdefault(origin.layer, set()).update({origin.label} if model.mode.tracer == "torch.fx" else ())
    return found


@contextlib.contextmanager
def _held_in(module: nn.Module, path: str, labels: Collection[str]) -> Iterator[None]:
    """A norm that takes its running statistics in some of its calls, which are numbered as the program numbers them."""
    before, calls = module.training, itertools.count(1)

    def hold(module: nn.Module, args: Any) -> None:
        number = next(calls)
        label = path if number == 1 else f"{path}@{number}"
        module.training = before and bool(labels) and label not in labels

    def release(module: nn.Module, args: Any, result: Any) -> None:
        module.training = before

    handles = module.register_forward_pre_hook(hold), module.register_forward_hook(release)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        module.training = before


@contextlib.contextmanager
def _attribute(modules: Sequence[nn.Module], name: str, value: bool) -> Iterator[None]:
    before = [(m, getattr(m, name)) for m in modules]
    try:
        for module in modules:
            setattr(module, name, value)
        yield
    finally:
        for module, former in before:
            setattr(module, name, former)


def _module_at(network: nn.Module, path: str) -> nn.Module | None:
    """The layer of that name; None for a function's."""
    try:
        return network.get_submodule(path) if path else None
    except AttributeError:
        return None

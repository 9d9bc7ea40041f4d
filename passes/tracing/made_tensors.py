"""Tensors that a forward makes itself, and writes into: ``y = torch.zeros(3, 4); y[:, 1:] = x``.

torch.fx takes a tensor that no value of the graph has entered for a constant, and what is written into it later for
nothing, or for a write at every call. So writes into such tensors are watched while a model is traced:

- into a parameter or buffer, reached past its name (``for p in self.parameters()``): it is recorded like any other;
- into a constant that no call has read yet, without values of the graph: it is made once, while tracing, and the
  constant is the result;
- else the forward is traced again with every creation of a tensor recorded as a call; where that can't be, it is
refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor, fx
from torch.fx.node import map_aggregate
from torch.overrides import TorchFunctionMode

from ...errors import Problem
from ..graph.effects import CREATIONS, flag_position
from ..graph.in_place_twins import has_underscore
from ..refusals import LosesMeaning
from ..users_code import place_of, users_frame
from .patching import all_of, replaced_here

_SIZES_APART = ("zeros", "ones", "empty", "rand", "randn")
"""Functions that take sizes as ``f(2, 3)`` too."""

SETTERS = frozenset((Tensor.data.__set__,))  # type: ignore[attr-defined]


class WritesIntoConstant(LosesMeaning):
    """A write into a tensor that a graph holds as a constant."""


class Tracer(Protocol):
    """What is asked of the tracer.

    Attributes:
        registered: by identity, the path of each parameter and buffer of the model, and the tensor.
        tensor_attrs: the constants of the graph so far.
        captured: those, what they were when a call first read them, and in which module.
    """

    registered: dict[int, tuple[str, Tensor]]
    tensor_attrs: Any
    captured: list[tuple[Tensor, Tensor, str]]
    root: Any
    scope: Any

    def path_of_tensor(self, tensor: Tensor) -> str | None: ...
    def create_proxy(self, kind: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any: ...


class MadeTensors(TorchFunctionMode):
    """Watches the writes of a forward into tensors that are no values of the graph.

    Attributes:
        records: whether the creation of a tensor is a call of the graph.
    """

    def __init__(self, tracer: Tracer, records: bool):
        super().__init__()
        self.tracer, self.records = tracer, records

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        for tensor in _written(function, args, kwargs):
            if (path := self.tracer.path_of_tensor(tensor)) is not None:
                return self._recorded(function, tensor, path, args, kwargs)
            self._check(tensor, args, kwargs)
        if self.records and function in CREATIONS:
            return self.tracer.create_proxy("call_function", function, args, kwargs)
        return function(*args, **kwargs)

    def check_constants(self) -> None:
        """Whether the constants are still what they were when a call read them, however they were written.

        Raises:
            WritesIntoConstant: one is not.
        """
        for constant, before, path in self.tracer.captured:
            if _has_numbers(constant) and not torch.equal(torch.nan_to_num(constant), torch.nan_to_num(before)):
                raise self._lost("writes into a tensor that is a constant of the graph", WritesIntoConstant, path)

    def _recorded(self, function: Any, tensor: Tensor, path: str, args: Any, kwargs: Any) -> Any:
        """The call with a tensor of the model as a value of the graph."""
        value = self.tracer.create_proxy("get_attr", path, (), {})
        args, kwargs = (map_aggregate(given, lambda v: value if v is tensor else v) for given in (args, kwargs))
        name = str(getattr(function, "__name__", ""))
        if args and args[0] is value and getattr(Tensor, name, None) is function:
            return getattr(value, name)(*args[1:], **kwargs)
        return function(*args, **kwargs)

    def _check(self, tensor: Tensor, args: Any, kwargs: Mapping[str, Any]) -> None:
        memory = _memory(tensor)
        named = {_memory(t): path for path, t in self.tracer.registered.values()}
        if memory in named:
            raise self._lost(f"writes into {named[memory]} through another tensor", LosesMeaning)
        held = memory in {_memory(t) for t in self.tracer.tensor_attrs if isinstance(t, Tensor)}
        if held or any(isinstance(v, fx.Proxy) for v in _leaves((args, dict(kwargs)))):
            raise self._lost("writes into a tensor that is a constant of the graph", WritesIntoConstant)

    def _lost(self, what: str, kind: type[LosesMeaning], path: str | None = None) -> LosesMeaning:
        frame = users_frame()
        problem = Problem(
            place_of(frame) if frame is not None else f"model {type(self.tracer.root).__name__}",
            f"the forward {what}",
            "Make the tensor by a call that takes values, as in torch.zeros_like(x), or keep the module out with "
            "digital=[...].",
        )
        return kind(problem, self.tracer.scope.module_path if path is None else path)


_AUGMENTED = ("__iadd__", "__isub__", "__imul__", "__itruediv__", "__ipow__", "__ifloordiv__", "__imod__")


def _written(function: Any, args: Any, kwargs: Mapping[str, Any]) -> Iterator[Tensor]:
    """The tensors, not values of the graph, that a call overwrites."""
    name = getattr(function, "__name__", "")
    position = flag_position(function, args)
    in_place = has_underscore(name) or name == "__setitem__" or name in _AUGMENTED or function in SETTERS
    flagged = kwargs.get("inplace") is True or (position is not None and args[position] is True)
    first = args[0] if args else kwargs.get("input", kwargs.get("tensor"))
    written = [kwargs.get("out"), first if in_place or flagged else None]
    return (t for t in _leaves(written) if isinstance(t, Tensor))


def _leaves(value: Any) -> list[Any]:
    leaves: list[Any] = []
    map_aggregate(value, leaves.append)
    return leaves


def _has_numbers(tensor: Tensor) -> bool:
    """Whether its entries can be looked at."""
    return not tensor.is_meta and tensor.layout is torch.strided and not tensor.is_quantized


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr() or id(tensor)


def sizes_of_values() -> AbstractContextManager[None]:
    """Has ``torch.zeros(x.shape[0], 4)``, which torch refuses unseen, recorded as ``torch.zeros((x.shape[0], 4))``."""

    def together(plain: Any) -> Any:
        def call(*sizes: Any, **kwargs: Any) -> Any:
            apart = len(sizes) > 1 and any(isinstance(s, fx.Proxy) for s in sizes)
            return plain(tuple(sizes), **kwargs) if apart else plain(*sizes, **kwargs)

        return call

    return all_of([replaced_here(torch, name, together) for name in _SIZES_APART])

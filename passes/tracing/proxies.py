"""What stands for a tensor while a model is traced, and records what is written to it.

``torch.fx`` loses that ``x += y`` changes x under its other names too, and knows no ``x[i] = y`` and no ``x.data = y``.

What a forward asks of it that no graph tells (a text, a key of a dict, a number) is refused, also where the forward
catches the error:

    try: n = int(x.shape[0])
    except TypeError: n = 2
"""

from __future__ import annotations

import operator
import sys
from types import FrameType
from typing import Any, NoReturn

from torch import Tensor, fx

from ..graph.in_place_twins import OPERATORS, set_data
from ..graph.value_types import is_tensor
from ..users_code import frame_outside, is_message, is_users

_OWN = frozenset(("tracer", "node"))
"""Attributes of the proxy itself."""


class _Told(fx.Proxy):
    """What a forward asks of a traced value."""

    tracer: Any

    def __getattr__(self, name: str) -> Any:
        """A tensor says what it does not have."""
        kind = self.tracer.type_if_known(self) if is_asked_by_user() else None
        if is_tensor(kind) and not hasattr(kind, name):
            raise AttributeError(f"'Tensor' object has no attribute {name!r}")
        return _Attribute(self, name)

    def __repr__(self) -> str:
        if is_users(frame := _asking()) and not is_message(frame):
            self.tracer.refuse("makes a text of a value, which it is only at a call")
        return super().__repr__()

    def __hash__(self) -> int:
        if is_asked_by_user() and self.tracer.type_if_known(self) in (int, float, bool):
            self.tracer.refuse("looks a value up, which it is only at a call")
        return object.__hash__(self)

    def __len__(self) -> int:
        self._is_no("length")

    def __int__(self) -> int:
        self._is_no("number")

    def __float__(self) -> float:
        self._is_no("number")

    def _is_no(self, what: str) -> NoReturn:
        raise self.tracer.remembered(TypeError(f"a value that is traced has no {what} before a call"))


class _Attribute(_Told, fx.proxy.Attribute):
    """Of a value: its shape, or a method of it."""


class RecordingProxy(_Told):
    """A proxy that records what is written to the value that it stands for."""

    def __setitem__(self, index: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, index, value), {})

    def __delitem__(self, index: Any) -> None:
        raise RuntimeError("the forward deletes an entry of a value that it was given; build a new one instead")

    def register_hook(self, hook: Any) -> None:
        raise RuntimeError("the forward registers a hook on a tensor that it computes, which is no part of a graph")

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "data":
            self.tracer.create_proxy("call_function", set_data, (self, value), {})
        elif name == "requires_grad":
            self.tracer.create_proxy("call_method", "requires_grad_", (self, value), {})
        elif name not in _OWN and hasattr(Tensor, name):
            raise RuntimeError(f"the forward sets the attribute {name!r} of a tensor that it computes")
        else:
            super().__setattr__(name, value)


def _recorder(function: Any) -> Any:
    return lambda self, other: self.tracer.create_proxy("call_function", function, (self, other), {})


for _function in OPERATORS:
    setattr(RecordingProxy, f"__{_function.__name__.strip('_')}__", _recorder(_function))


def _asking() -> FrameType:
    """Who asks a proxy for something: the first frame outside of torch.fx and of this library."""
    return frame_outside(sys._getframe(1), "torch.fx", "ffebm_compiler")


def is_asked_by_user() -> bool:
    return is_users(_asking())

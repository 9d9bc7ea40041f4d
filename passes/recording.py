"""What stands for a tensor while a model is traced, and records what is written to it.

``torch.fx`` drops ``x += y``'s meaning (x changes under its other names too), and knows no ``x[i] = y`` and no ``x.data = y``.
"""

from __future__ import annotations

import operator
from typing import Any

from torch import Tensor, fx

from .in_place_twins import OPERATORS, set_data

_OWN = frozenset(("tracer", "node"))
"""Attributes of the proxy itself."""


class RecordingProxy(fx.Proxy):
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

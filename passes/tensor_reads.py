"""What a forward does to tensors while torch.export runs it on fake ones, and the exported program does not know of."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .exported_casts import cast_kept
from .questions import DIFFERENTIATES, Asked
from .users_code import is_users

_BAKED_IN: Mapping[Any, str] = {
    Tensor.requires_grad.__get__: "asks whether a tensor requires a gradient",  # type: ignore[attr-defined]
    Tensor.is_leaf.__get__: "asks whether a tensor is a leaf",  # type: ignore[attr-defined]
    Tensor.grad_fn.__get__: "asks for the history of a tensor",  # type: ignore[union-attr]
    Tensor.is_cuda.__get__: "asks for the device of a tensor",  # type: ignore[attr-defined]
}
_SETTERS = frozenset((Tensor.data.__set__,))  # type: ignore[attr-defined]
_NUMBERS = frozenset(
    (
        Tensor.__bool__,
        Tensor.__int__,
        Tensor.__float__,
        Tensor.__index__,
        Tensor.__contains__,
        Tensor.item,
        Tensor.tolist,
    )
)
"""What asks for numbers that a tensor has at a call alone."""

_IN_BETWEEN = (
    "torch/fx/experimental/proxy_tensor.py",
    "torch/_export/non_strict_utils.py",
    "torch/overrides.py",
)
"""Files whose frames stand between a call of the user's and this mode."""


class TensorReads(TorchFunctionMode):
    """Refuses what an export would bake in or drop, and keeps casts.

    Args:
        asked: through which it is refused.
    """

    def __init__(self, asked: Asked):
        super().__init__()
        self._asked = asked
        self._cut: list[Tensor] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if _is_the_users():
            self._check(func, args)
            if (cast := cast_kept(func, args, kwargs or {})) is not None:
                return cast
            if func in _SETTERS:
                return self._write(*args)
        try:
            result = func(*args, **(kwargs or {}))
        except Exception as failure:
            if func in _NUMBERS:  # told again if the forward catches it
                self._asked.caught = self._asked.caught or failure
            raise
        if func is Tensor.detach:
            self._cut.append(result)
        return result

    def _check(self, func: Callable[..., Any], args: Any) -> None:
        if func in _BAKED_IN:
            self._asked.lose(_BAKED_IN[func])
        if func is Tensor.backward:
            self._asked.lose(DIFFERENTIATES)
        if func is Tensor.requires_grad_ and not any(args[0] is c for c in self._cut):
            self._asked.lose("asks for the gradient of a tensor that it did not cut from its history")
        if self._asked.surroundings.is_set_otherwise:
            self._asked.lose("changes PyTorch's default type or precision for what follows")

    def _write(self, tensor: Tensor, value: Tensor) -> None:
        """``tensor.data = value`` as the write that it is, which an export knows of."""
        if (tensor.shape, tensor.dtype) != (value.shape, value.dtype):
            self._asked.lose("gives a tensor the data of one of another shape or type")
        with torch.no_grad():
            tensor.copy_(value)


def _is_the_users() -> bool:
    """Whether a call of the user's own, rather than of PyTorch's, came here."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_code.co_filename.endswith(_IN_BETWEEN):
        frame = frame.f_back
    return frame is not None and is_users(frame)

"""What a forward does while torch.export runs it on fake tensors, and the exported program does not know of.

What it asks of tensors is refused or answered; buffers that it assigns are written instead, since torch.export knows
of the model's own buffers alone, and forgets those of its layers:

    self.mean = 0.9 * self.mean + 0.1 * h.mean(0)     self.mean.copy_(...), behind the last read of what it was
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..torch_private import REGISTRIES
from ..tracing.made_tensors import SETTERS
from ..tracing.questions import DIFFERENTIATES, Asked
from ..tracing.state import Owned
from ..tracing.whole_calls import refuse_writes
from ..users_code import frames_from, is_users
from .operators import cast_kept

# --- tensors ----------------------------------------------------------------------------------------------

_BAKED_IN: Mapping[Any, str] = {
    Tensor.requires_grad.__get__: "asks whether a tensor requires a gradient",  # type: ignore[attr-defined]
    Tensor.is_leaf.__get__: "asks whether a tensor is a leaf",  # type: ignore[attr-defined]
    Tensor.grad_fn.__get__: "asks for the history of a tensor",  # type: ignore[union-attr]
    Tensor.is_cuda.__get__: "asks for the device of a tensor",  # type: ignore[attr-defined]
    Tensor.backward: DIFFERENTIATES,
}
_NUMBERS = frozenset(
    getattr(Tensor, n) for n in ("__bool__", "__int__", "__float__", "__index__", "__contains__", "item", "tolist")
)
"""What asks for numbers that a tensor has at a call alone."""

_IN_BETWEEN = ("torch/fx/experimental/proxy_tensor.py", "torch/_export/non_strict_utils.py", "torch/overrides.py")
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
            if func in SETTERS:
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
        if func is Tensor.requires_grad_ and not any(args[0] is c for c in self._cut):
            self._asked.lose("asks for the gradient of a tensor that it did not cut from its history")
        self._asked.check_settings()

    def _write(self, tensor: Tensor, value: Tensor) -> None:
        """``tensor.data = value`` as the write that it is, which an export knows of."""
        if (tensor.shape, tensor.dtype) != (value.shape, value.dtype):
            self._asked.lose("gives a tensor the data of one of another shape or type")
        with torch.no_grad():
            tensor.copy_(value)


def _is_the_users() -> bool:
    """Whether a call of the user's own, rather than of PyTorch's, came here."""
    outside = (f for f in frames_from(sys._getframe(2)) if not f.f_code.co_filename.endswith(_IN_BETWEEN))
    frame = next(outside, None)
    return frame is not None and is_users(frame)


# --- buffers ----------------------------------------------------------------------------------------------


class Registered:
    """What is registered with the modules of a network before its forward runs."""

    def __init__(self, network: nn.Module):
        self._before = [
            (path, name, vars(m)[name], dict(vars(m)[name]))
            for path, m in network.named_modules()
            for name in REGISTRIES[:2]
        ]

    def has_changed(self) -> bool:
        """Whether any tensor was put in the place of another."""
        return next(self._assigned(), None) is not None

    def write(self) -> None:
        """Writes into each buffer what was assigned in its place.

        Raises:
            LosesMeaning: that does not fit, or took the place of a parameter.
        """
        refused = set()
        for path, registry, space, name, old in [*self._assigned()]:
            new: Any = space.get(name)
            if registry == "_parameters" or not _fits(new, old):
                refused.add(Owned(path, name))
            elif path:
                old.copy_(new.detach())
                space[name] = old
        refuse_writes(refused)

    def _assigned(self) -> Iterator[tuple[str, str, dict[str, Any], str, Any]]:
        for path, registry, now, before in self._before:
            for name in [n for n in {**before, **now} if now.get(n) is not before.get(n)]:
                yield path, registry, now, name, before.get(name)


def _fits(new: Any, old: Any) -> bool:
    """Whether one tensor can hold the other."""
    both = isinstance(new, Tensor) and isinstance(old, Tensor)
    return both and (new.shape, new.dtype, new.device) == (old.shape, old.dtype, old.device)

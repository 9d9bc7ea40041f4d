"""Which code is the user's: the line that an error names, the file whose names are looked at."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from types import CodeType, FrameType
from typing import Any

from torch import fx, nn

_NOT_THEIRS = frozenset(("torch", "numpy", "ffebm_compiler")) | sys.stdlib_module_names


_MACHINERY = (
    *("torch.fx", "torch.export", "torch._", "torch.utils", "torch.func", "torch.nn.utils", "torch.nn.modules.module"),
    "ffebm_compiler",
)
"""What calls, traces and rewrites models."""


def module_of(frame: FrameType) -> str:
    """The name of the file's module whose code a frame runs."""
    name: str = frame.f_globals.get("__name__", "")
    return name


def is_users(frame: FrameType) -> bool:
    """Whether a frame runs code that is neither PyTorch's nor ours, nor in between."""
    return module_of(frame).split(".", 1)[0] not in _NOT_THEIRS


def is_theirs(space: Mapping[str, Any]) -> bool:
    """Whether the names of a file are those of the user's code, or of a library of models."""
    return str(space.get("__name__", "")).split(".", 1)[0] not in _NOT_THEIRS


def is_models(name: str) -> bool:
    """Whether code of a module of that name is the model's: the user's own, or that of a layer of PyTorch's."""
    is_between = name == "torch" or name.startswith(_MACHINERY)
    return not is_between and name.partition(".")[0] not in sys.stdlib_module_names


def _own_code(function: Callable[..., Any]) -> CodeType:
    """That of a function which torch.compile may have wrapped."""
    own: CodeType = inspect.unwrap(function).__code__
    return own


def users_frame() -> FrameType | None:
    """The innermost frame of the user's within the forward that is traced, if one is."""
    trace = _own_code(fx.Tracer.trace)  # torch.export runs it too
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code is not trace:
        if is_users(frame):
            return frame
        frame = frame.f_back
    return None


def place_of(frame: FrameType | None) -> str:
    """``file.py:12``, as errors name a line."""
    return "a line" if frame is None else f"{frame.f_code.co_filename.rsplit('/', 1)[-1]}:{frame.f_lineno}"


def users_place() -> str | None:
    """The innermost line of the user's own code that is running."""
    frame = users_frame()
    return None if frame is None else place_of(frame)


def spaces_of(network: nn.Module) -> Iterator[dict[str, Any]]:
    """The names of each file that a forward of the network is written in, once."""
    met: set[int] = set()
    for kind in dict.fromkeys(type(m) for m in network.modules()):
        for function in (f for c in kind.__mro__ if inspect.isfunction(f := vars(c).get("forward"))):
            space = inspect.unwrap(function).__globals__
            if id(space) not in met and space.get("__name__", "").split(".", 1)[0] not in _NOT_THEIRS:
                met.add(id(space))
                yield space

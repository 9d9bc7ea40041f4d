"""Which modules' forwards are running, from the frames of Python: the innermost first, the model itself last."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import FrameType

from torch import nn

from .state import Owned


def paths_of(network: nn.Module) -> dict[int, str]:
    """The path of each module, by its identity."""
    return {id(m): path for path, m in network.named_modules()}


def running(frame: FrameType | None, paths: Mapping[int, str]) -> list[str]:
    """The paths of the modules one of whose methods is running, from a frame outwards."""
    found: list[str] = []
    while frame is not None:
        code = frame.f_code
        owner = frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None
        if isinstance(owner, nn.Module) and id(owner) in paths and (path := paths[id(owner)]) not in found:
            found.append(path)
        frame = frame.f_back
    return found


def caller_of(stack: Sequence[str], owned: Iterable[Owned], except_for: Iterable[str] = ()) -> str:
    """The innermost running module that holds all of a state; ``""``, the model itself, if there is no other."""
    state, known = list(owned), set(except_for)
    return next((path for path in stack if path not in known and all(holds(path, o) for o in state)), "")


def holds(path: str, owned: Owned) -> bool:
    """Whether a state is that of the module at a path, or of one inside of it."""
    return owned.path is not None and (owned.path == path or owned.path.startswith(f"{path}."))


def path_around(frame: FrameType | None, network: nn.Module) -> str:
    """The innermost module of a network in whose forward a frame stands."""
    return next(iter(running(frame, paths_of(network))), "")

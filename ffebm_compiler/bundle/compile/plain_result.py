"""A model's result as plain containers: what a bundle can say of it, and what the runtime returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...compiled import ModeProgram
from ...errors import OptionError
from ...ir import Ref, Weight
from ...model.nested_values import map_leaves


def plain_result(mode: ModeProgram) -> Any:
    """Containers with ``Ref`` and ``Weight`` leaves and plain constants; a named tuple becomes a tuple.

    Raises:
        OptionError: the model returns something that a bundle can't hold.
    """
    return _plain(mode.signature.pack(map_leaves(mode.program.output, lambda leaf: leaf)), "result")


def _plain(value: Any, where: str) -> Any:
    if isinstance(value, (Ref, Weight)) or value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {_name(k, where): _plain(v, f"{where}[{k!r}]") for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        items = [_plain(v, f"{where}[{i}]") for i, v in enumerate(value)]
        return items if isinstance(value, list) else tuple(items)
    raise _unknown(where, value)


def _name(key: object, where: str) -> str:
    if not isinstance(key, str):
        raise _unknown(f"{where}, key {key!r}", key)
    return key


def _unknown(where: str, value: object) -> OptionError:
    what = f"is a {type(value).__name__}, which a bundle can't hold"
    return OptionError.at(where, what, "Return tensors, numbers, and dictionaries (by text), lists or tuples of them.")

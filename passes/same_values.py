"""Are two values the same to someone who reads them?"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from operator import is_
from typing import Any

import numpy as np
from torch import Tensor

GONE = object()
"""Stands for an attribute that is there no more."""


def is_alike(a: Any, b: Any, tensors: Callable[[Tensor, Tensor], bool] = is_, tolerance: float = 0.0) -> bool:
    """Whether two values are the same to someone who reads them.

    Args:
        a, b: any values.
        tensors: says which tensors are; by itself each is like itself alone.
        tolerance: of numbers, relative.
    """

    def alike(a: Any, b: Any) -> bool:
        if a is b:
            return True
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            return tensors(a, b)
        if type(a) is not type(b):
            return False
        if isinstance(a, Mapping):
            return a.keys() == b.keys() and all(alike(v, b[k]) for k, v in a.items())
        if isinstance(a, (list, tuple, deque)):
            return len(a) == len(b) and all(map(alike, a, b))
        if isinstance(a, np.ndarray):
            return bool(np.array_equal(a, b, equal_nan=a.dtype.kind in "fc"))
        if is_dataclass(a):
            return all(alike(getattr(a, f.name, GONE), getattr(b, f.name, GONE)) for f in fields(a))
        if isinstance(a, float):
            return bool(a == b or (a != a and b != b) or abs(a - b) <= tolerance * abs(b))
        try:
            return bool(a == b) or (hasattr(a, "__dict__") and alike(vars(a), vars(b)))
        except Exception:  # whatever the comparison of a user's own type raises
            return False

    return alike(a, b)

"""Room on the stack: a model that runs also compiles.

A level of nested modules takes three frames of Python when a model runs, up to seven when it is copied and eight when it is traced.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

FRAMES = 10
"""Of a level of nested modules, at most."""


@contextmanager
def room_for(model: nn.Module) -> Iterator[None]:
    """Raises Python's limit on recursion, for a while, by what the nesting of a model's modules asks for."""
    limit = sys.getrecursionlimit()
    depth = max(name.count(".") for name, _ in model.named_modules())
    sys.setrecursionlimit(limit + FRAMES * depth)
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)

"""What a backend is: it lowers a compiled model to something that runs.

A backend reads energy terms (states, potentials, couplings with their operations and weights), never torch layers. To add
one, write a class with ``name`` and ``lower`` and list it in ``backends/__init__.py``.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from ..compiled import Compiled


@runtime_checkable
class Backend(Protocol):
    """Lowers compiled models."""

    name: str

    def lower(self, compiled: Compiled) -> Any:
        """The compiled model in the backend's own form: a module that infers and trains, or files."""
        ...

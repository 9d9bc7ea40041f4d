"""What a backend is: it makes the substrate that the energy-based blocks of a model run on.

A backend reads energy terms (states, potentials, couplings with their operations and weights), never torch layers.
docs/backends.md writes one of about 50 lines and registers it.
"""

from __future__ import annotations

from collections.abc import Callable

from ..model.substrate import Substrate

Backend = Callable[..., Substrate]
"""``backend(model, **options) -> substrate``, which ``model.lower(name, **options)`` calls.

The model comes as a :class:`~ffebm_compiler.model.bound_model.BoundModel`: its program, network and options of
execution. A backend refuses options that can't be used, and blocks that can't run on it, by an
:class:`ffebm_compiler.OptionError` with every problem.
"""

__all__ = ["Backend", "Substrate"]

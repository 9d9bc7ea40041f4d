"""The suites by name. One that another part of the benchmarks brings is run like the rest: ``run(options) ->
Result``.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

from benchmarks.speed.result import Options, Result

SUITES = {
    "step": "benchmarks.speed.step",
    "schedules": "benchmarks.speed.schedules",
    "splitting": "benchmarks.speed.splitting",
    "inference": "benchmarks.speed.inference",
    "memory": "benchmarks.speed.memory",
    "compiling": "benchmarks.compiling",
}


def present() -> dict[str, str]:
    """Those whose module is there."""
    return {name: module for name, module in SUITES.items() if importlib.util.find_spec(module) is not None}


def load(name: str) -> Callable[[Options], Result]:
    run: Callable[[Options], Result] = importlib.import_module(SUITES[name]).run
    return run


def purpose(name: str) -> str:
    """The first line of its module's docstring."""
    found: Any = importlib.import_module(SUITES[name]).__doc__ or ""
    return str(found).strip().splitlines()[0]

"""Modules by the names that they had before: what imports them goes on working, and is told where they stand now.

A former name gives the very module of today, so that classes are the same whichever name they are
imported by: pickles, and training code that stands in bundles, load.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

PACKAGE = __package__
MOVED = {
    "hardware": "chip.hardware",
    "emulate": "chip.emulate",
    "resistive": "chip.resistive",
    "spice": "chip.spice",
    "cost": "chip.cost",
    "export": "onnx",
    "train.emit": "codegen.emit",
    "rules.activation": "rules.one_operand",
    "passes.contexts": "passes.graph.contexts",
    "passes.history": "passes.graph.regions",
    "passes.in_place_twins": "passes.graph.in_place_twins",
    "passes.own_functions": "passes.tracing.recorded_functions",
    "passes.reads": "passes.watching.recorder",
    "passes.tensors_read": "passes.watching.tensors",
    "passes.tokens": "passes.watching.attribute_tokens",
}
"""The prefix of a module's name, and what stands there now: with all that is below it."""
FACED = {"runtime": "bundle.run"}
"""Names that stay: the package is there, and its modules are found elsewhere without a word."""


class FormerNames(MetaPathFinder, Loader):
    """Finds a module by its former name, for ``sys.meta_path``."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return None if present_name(fullname) is None else ModuleSpec(fullname, self)

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__
        now = present_name(name)
        assert now is not None
        if not _below(name.removeprefix(f"{PACKAGE}."), FACED):
            warnings.warn(f"{name} is {now} now: import it from there.", DeprecationWarning, stacklevel=2)
        sys.modules[name] = importlib.import_module(now)


def present_name(name: str) -> str | None:
    """The name of today of a module that has moved; None if that is none of these."""
    moved = {**MOVED, **FACED}
    inner = name.removeprefix(f"{PACKAGE}.")
    former = _below(inner, moved) if inner != name else None
    return None if former is None else f"{PACKAGE}.{moved[former]}{inner[len(former) :]}"


def _below(inner: str, prefixes: Sequence[str] | dict[str, str]) -> str | None:
    return next((p for p in prefixes if inner == p or inner.startswith(f"{p}.")), None)


def find_former_names() -> None:
    """Makes former names importable, before all others: an upgrade may have left their empty folders behind."""
    if not any(isinstance(finder, FormerNames) for finder in sys.meta_path):
        sys.meta_path.insert(0, FormerNames())

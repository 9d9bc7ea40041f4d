"""The backends that a model can be lowered to, by name: this library's, and those that other packages register.

A package registers one as an entry point:

    [project.entry-points."ffebm_compiler.backends"]
    eight-bit = "their_package:eight_bit"
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from ..errors import OptionError, Problem, close_matches, problems_of
from ..model.bound_model import BoundModel
from .analog_emu.backend import analog_emu
from .protocol import Backend, Substrate
from .torch_ep import torch_ep

BACKENDS: Mapping[str, Backend] = {"torch-ep": torch_ep, "analog-emu": analog_emu}
"""Those of this library."""

GROUP = "ffebm_compiler.backends"
"""The group of entry points by which other packages register theirs."""


def backend_names() -> tuple[str, ...]:
    """What a model can be lowered to."""
    return (*BACKENDS, *sorted({e.name for e in entry_points(group=GROUP)} - BACKENDS.keys()))


def backend(name: str) -> Backend:
    """The backend of a name.

    Raises:
        OptionError: there is none of it, or its package does not give one.
    """
    if name in BACKENDS:
        return BACKENDS[name]
    if registered := _registered(name):
        return _loaded(registered[0])
    known = ", ".join(f'"{n}"' for n in backend_names())
    meant = f"{close_matches(str(name), backend_names())} " if _meant(name) else ""
    raise OptionError.at("option backend", f"is {name!r}", f"{meant}Known backends: {known}.")


def _meant(name: object) -> str:
    """The backend whose name is nearest."""
    return next(iter(get_close_matches(str(name), backend_names(), n=1, cutoff=0.5)), "")


def substrate_of(wanted: str | Backend, model: BoundModel, options: Mapping[str, Any]) -> Substrate:
    """What a backend, or the one of a name, makes of a model.

    Raises:
        OptionError: there is no such backend or option, or it refuses the model; with every problem, those of the
            options with the backend that was meant included.
    """
    if callable(wanted):
        return _made(getattr(wanted, "__name__", type(wanted).__name__), wanted, model, options)
    try:
        make = backend(wanted)
    except OptionError as failure:
        meant = _meant(wanted)
        further = problems_of(lambda: _made(meant, BACKENDS[meant], model, options)) if meant in BACKENDS else ()
        raise OptionError([*failure.problems, *further]) from failure
    return _made(wanted, make, model, options)


def _made(name: str, make: Backend, model: BoundModel, options: Mapping[str, Any]) -> Substrate:
    OptionError.raise_if(_unknown_options(name, make, options))
    made = make(model, **options)
    if not isinstance(made, Substrate):
        what = f"gives a {type(made).__name__}, not a substrate (docs/backends.md)"
        raise OptionError.at(_place(name), what, "Mend or remove it.")
    return made


def _unknown_options(name: str, make: Backend, options: Mapping[str, Any]) -> Iterator[Problem]:
    parameters = inspect.signature(make).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    known = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    for option in options:
        if option not in known:
            remedy = close_matches(option, known) if known else "Leave it out."
            yield Problem(f"option {option}", f"is none of the backend {name!r}", remedy)


def _loaded(registered: EntryPoint) -> Backend:
    where, remedy = _place(registered.name), "Mend it, or remove the package."
    try:
        made = registered.load()
    except Exception as failure:  # whatever the package's own code raises
        what = f"can't be loaded from {registered.value}: {type(failure).__name__}: {failure}"
        raise OptionError.at(where, what, remedy) from failure
    if not callable(made):
        what = f"is a {type(made).__name__} ({registered.value}), not a function of a model"
        raise OptionError.at(where, what, remedy)
    return made  # type: ignore[no-any-return]


def _place(name: str) -> str:
    """A backend, and the package that registers it."""
    packages = [e.dist.name for e in _registered(name) if e.dist is not None]
    return f"backend {name!r}" + (f" of the package {packages[0]}" if packages else "")


def _registered(name: object) -> list[EntryPoint]:
    return [e for e in entry_points(group=GROUP) if e.name == name]

"""Finds the model that ``MODULE:FACTORY`` names, and says what is wrong with the name if there is none."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from ..errors import OptionError, Problem, close_matches

HOW = "Write MODULE:FACTORY, for example mypackage.models:Net or net.py:Net."


def load_model(target: str) -> nn.Module:
    """The model that ``target`` names.

    Raises:
        OptionError: with the closest names that there are.
    """
    place, colon, name = target.rpartition(":")
    if not colon or not place or not name:
        raise _unusable(target, "does not name a factory", HOW + _offered(target))
    module = _module(place, target)
    return _made(_attribute(module, place, name, target), target)


def load_attribute(target: str, what: str) -> Any:
    """Whatever ``target`` names, such as a function that makes data.

    Args:
        what: what errors call it: ``"data"``.

    Raises:
        OptionError: with the closest names that there are.
    """
    place, colon, name = target.rpartition(":")
    if not colon or not place or not name:
        raise OptionError.at(f"{what} {target!r}", "does not name a factory", HOW.replace("Net", f"make_{what}"))
    try:
        return _attribute(_module(place, target), place, name, target)
    except OptionError as failure:
        told = (Problem(p.where.replace("model", what, 1), p.what, p.remedy) for p in failure.problems)
        raise OptionError(told) from failure.__cause__


def _unusable(target: str, what: str, remedy: str) -> OptionError:
    return OptionError.at(f"model {target!r}", what, remedy)


# --- the module -------------------------------------------------------------------------------------------


def _module(place: str, target: str) -> ModuleType:
    if place.endswith(".py") or "/" in place or "\\" in place:
        return _from_file(Path(place), target)
    return _imported(place, target)


def _from_file(path: Path, target: str) -> ModuleType:
    if not path.is_file():
        siblings = (
            [str(path.with_name(p.name)) for p in sorted(path.parent.glob("*.py"))] if path.parent.is_dir() else []
        )
        raise _unusable(target, f"there is no file {path}", close_matches(str(path), siblings) if siblings else HOW)
    known = sys.modules.get(path.stem)
    if known is not None and getattr(known, "__file__", None) == str(path.resolve()):
        return known
    spec = importlib.util.spec_from_file_location(path.stem, path.resolve())
    if spec is None or spec.loader is None:
        raise _unusable(target, f"{path} is no Python file", HOW)
    module = importlib.util.module_from_spec(spec)
    _search_first(str(path.resolve().parent))  # its own imports find their neighbours
    before = sys.modules.get(path.stem)
    sys.modules[path.stem] = module  # dataclasses and pickle look a class's module up by name
    try:
        spec.loader.exec_module(module)
    except Exception as failure:
        sys.modules.pop(path.stem)
        if before is not None:
            sys.modules[path.stem] = before
        raise _broken(target, f"running {path}", failure) from failure
    return module


def _imported(name: str, target: str) -> ModuleType:
    _search_first(str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as failure:
        missing = failure.name or ""
        if name == missing or name.startswith(missing + "."):
            raise _unusable(
                target, f"there is no module {missing}", close_matches(name, list(dict.fromkeys(_modules_near(name))))
            ) from failure
        raise _broken(target, f"importing {name}", failure) from failure
    except Exception as failure:
        raise _broken(target, f"importing {name}", failure) from failure


def _search_first(folder: str) -> None:
    """A console script does not look for modules where it is called; ``python -m`` does."""
    if folder not in sys.path:
        sys.path.insert(0, folder)


def _modules_near(name: str) -> Iterator[str]:
    """Modules beside the one that is missing: in its package, or in the working folder."""
    package, _, _ = name.rpartition(".")
    while package:
        parent = sys.modules.get(package)
        if parent is not None and hasattr(parent, "__path__"):
            yield from (f"{package}.{m.name}" for m in pkgutil.iter_modules(parent.__path__))
            return
        package, _, _ = package.rpartition(".")
    yield from (m.name for m in pkgutil.iter_modules([str(Path.cwd())]))
    yield from (m.name for m in pkgutil.iter_modules() if not m.name.startswith("_"))


# --- the factory ------------------------------------------------------------------------------------------


def _attribute(module: ModuleType, place: str, name: str, target: str) -> Any:
    value: Any = module
    for part in name.split("."):
        if not hasattr(value, part):
            raise _unusable(target, f"{place} has no {name}", _factories(value, part))
        value = getattr(value, part)
    return value


def _factories(owner: Any, name: str) -> str:
    known = (
        [n for n, v in vars(owner).items() if not n.startswith("_") and _may_make(v, owner)]
        if hasattr(owner, "__dict__")
        else []
    )
    return close_matches(name, known) if known else "It defines no class or function that could make a model."


def _may_make(value: Any, owner: Any) -> bool:
    if isinstance(value, nn.Module):
        return True
    return callable(value) and getattr(value, "__module__", None) == getattr(owner, "__name__", None)


def _made(named: Any, target: str) -> nn.Module:
    if isinstance(named, nn.Module):
        return named
    if not callable(named):
        raise _unusable(
            target,
            f"is of type {type(named).__name__}",
            "Name a torch.nn.Module, or a class or function that makes one.",
        )
    required = _required(named)
    if required:
        raise _unusable(
            target,
            f"needs the arguments {', '.join(required)}",
            f"Write one without: def make(): return {target.rpartition(':')[2]}(...), and name it instead.",
        )
    torch.manual_seed(torch.initial_seed())  # the seed's weights, whatever numbers importing has drawn
    try:
        model = named()
    except Exception as failure:
        raise _broken(target, "making the model", failure) from failure
    if not isinstance(model, nn.Module):
        raise _unusable(
            target, f"made an object of type {type(model).__name__}, not a torch.nn.Module", "Return the model."
        )
    return model


def _required(factory: Any) -> list[str]:
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return []
    return [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def _broken(target: str, doing: str, failure: Exception) -> OptionError:
    """An error in the user's own code, with its line."""
    frames = [
        f
        for f in traceback.extract_tb(failure.__traceback__)
        if f.filename != __file__ and "importlib" not in f.filename
    ]
    own = [f for f in frames if "site-packages" not in f.filename] or frames
    at = f" at {own[-1].filename}:{own[-1].lineno}" if own else ""
    return OptionError(
        Problem(
            f"model {target!r}",
            f"{doing} failed{at}: {type(failure).__name__}: {failure}",
            "Fix that first; --traceback shows the whole way there.",
        )
    )


def _offered(target: str) -> str:
    """What a module without a factory behind it has to offer."""
    try:
        module = _module(target, target)
    except OptionError:
        return ""
    known = [n for n, v in vars(module).items() if not n.startswith("_") and _may_make(v, module)]
    return f" {target} has {', '.join(known[:8])}." if known else ""

"""The options of a conversion, checked before anything is done: every problem at once, named as the user typed it."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from .errors import GradientWarning, OptionError, Problem, close_matches
from .estimate import Estimator, TangentEP
from .model.execution import execution_problems, is_count
from .passes import NORMS, Choice
from .passes.graph.effects import is_hooked
from .rules import Rule


@dataclass(frozen=True)
class Options:
    """What :func:`ffebm_compiler.convert` was asked for; see there."""

    block_size: int | None = None
    block_sizes: Sequence[int] | None = None
    digital: Choice = ()
    analog: Choice = ()
    norm: str = "auto"
    loop_gain: float | None = None
    estimator: Estimator | None = None
    tolerance: float | None = None
    max_sweeps: int = 200
    example_inputs: Any = None
    rules: tuple[Rule, ...] = ()
    copy: bool = True
    verify: bool = True

    def __post_init__(self) -> None:
        """Names are read more than once: a generator or a set of them becomes a tuple."""
        for option in ("digital", "analog"):
            choice = getattr(self, option)
            if isinstance(choice, Iterable) and not isinstance(choice, str) and not callable(choice):
                object.__setattr__(self, option, tuple(choice))

    @property
    def examples(self) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """The example call as (args, kwargs): a tuple or list of arguments, a dict of keywords, or the one argument."""
        given = self.example_inputs
        if given is None:
            return None
        if isinstance(given, Mapping):
            return (), dict(given)
        return (tuple(given), {}) if isinstance(given, (tuple, list)) else ((given,), {})

    def to_dict(self) -> dict[str, Any]:
        """For reports and records: plain values only."""
        return {
            f.name: _plain(getattr(self, f.name))
            for f in fields(self)
            if f.name not in ("example_inputs", "rules", "copy", "verify")
        }


def _plain(value: Any) -> Any:
    if isinstance(value, Estimator):
        return repr(value)
    if callable(value):
        return getattr(value, "__name__", "predicate")
    return list(value) if isinstance(value, (tuple, list)) else value


def check(model: object, options: Options) -> None:
    """Raises one OptionError with every problem of the model and the options; warns of what will not train."""
    problems = [*_model_problems(model), *_option_problems(options)]
    OptionError.raise_if(problems)
    assert isinstance(model, nn.Module)
    _warn_untrainable(model)


# --- the model --------------------------------------------------------------------------------------------


_WRAPPERS = ("module", "_orig_mod")
"""Where DataParallel, DistributedDataParallel, AveragedModel and torch.compile keep the model."""


def _model_problems(model: object) -> Iterator[Problem]:
    if not isinstance(model, nn.Module):
        yield _no_module(model)
        return
    if isinstance(model, torch.jit.ScriptModule):
        advice = "Give the nn.Module that it was scripted from."
        yield Problem("model", "is a TorchScript module, which can't be traced", advice)
    wrapped = _wrapped_in(model)
    if wrapped is not None:
        advice = f"Convert what is inside, and wrap the result: convert(model.{wrapped}, ...)."
        yield Problem("model", f"is wrapped in {type(model).__name__}", advice)
    elif is_hooked(model):
        what = "has hooks of its own, which a graph of what its forward does would not run"
        yield Problem("model", what, "Remove them (handle.remove()), convert, and register them on the result.")
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        found = _tensor_problem(tensor)
        if found is not None:
            yield Problem(f"parameter {name}", *found)


def _no_module(value: object) -> Problem:
    if inspect.isclass(value) and issubclass(value, nn.Module):
        name = value.__name__
        return Problem("model", f"is the class {name}, not a model", f"Make one: convert({name}(...), ...).")
    advice = "Give a torch.nn.Module; a plain function can be the forward of one."
    return Problem("model", f"is a {type(value).__name__}", advice)


def _wrapped_in(model: nn.Module) -> str | None:
    """The attribute that holds the model in a wrapper of PyTorch's."""
    if not type(model).__module__.startswith("torch."):
        return None
    return next((name for name in _WRAPPERS if isinstance(getattr(model, name, None), nn.Module)), None)


def _tensor_problem(tensor: Tensor) -> tuple[str, str] | None:
    """What is wrong with a tensor of the model, and what to do."""
    if is_lazy(tensor):
        return "is not initialised yet (a lazy layer)", "Run the model once on an input, then convert it."
    if tensor.is_complex():
        return "is complex; an energy is real", "Use real layers, or keep the model as it is."
    if tensor.device.type == "meta":
        return "is on the meta device and has no values", "Load the weights first."
    if tensor.is_floating_point() and not _is_finite(tensor):
        bad = int((~torch.isfinite(tensor)).sum())
        what = f"has {bad} of {tensor.numel()} values that are NaN or infinite"
        return what, "Load a checkpoint from before the training diverged."
    return None


def _is_finite(tensor: Tensor) -> bool:
    """From the extremes, which NaN passes through: a mask would take memory of the tensor's size."""
    return tensor.numel() == 0 or all(math.isfinite(v) for v in torch.stack(torch.aminmax(tensor.detach())).tolist())


def _warn_untrainable(model: nn.Module) -> None:
    parameters = list(model.parameters())
    if not parameters:
        warnings.warn(
            f"{type(model).__name__} has no parameters: nothing in it can be trained, and no layer forms a block.",
            GradientWarning,
            stacklevel=4,
        )
    elif not any(p.requires_grad for p in parameters):
        warnings.warn(
            f"Every parameter of {type(model).__name__} is frozen (requires_grad=False): training will change nothing. "
            "Call requires_grad_() on those to train.",
            GradientWarning,
            stacklevel=4,
        )


# --- the options ------------------------------------------------------------------------------------------


def _option_problems(o: Options) -> Iterator[Problem]:
    yield from _sizes(o.block_size, o.block_sizes)
    yield from _choice("digital", o.digital)
    yield from _choice("analog", o.analog)
    yield from execution_problems(o.estimator or TangentEP(), o.loop_gain, o.tolerance, o.max_sweeps)
    if o.norm not in NORMS:
        yield Problem("option norm", f"is {o.norm!r}", close_matches(str(o.norm), NORMS))
    if not isinstance(o.copy, bool):
        yield Problem("option copy", f"is {o.copy!r}", "Give True for parameters of its own, False for the model's.")
    if not isinstance(o.verify, bool):
        yield Problem(
            "option verify",
            f"is {o.verify!r}",
            "Give True to hold the program against the model at the first input of each mode, False to trust it.",
        )
    for rule in o.rules:
        if not isinstance(rule, Rule):
            yield Problem(
                "option rules",
                f"holds a {type(rule).__name__}",
                "Give ffebm_compiler.rules.Rule objects (docs/operations.md).",
            )
        else:
            yield from _rule_problems(rule)
    if isinstance(o.example_inputs, (str, torch.Size)) or inspect.isclass(o.example_inputs):
        yield Problem(
            "option example_inputs",
            f"is {o.example_inputs!r}",
            "Give tensors: one, a tuple of arguments, or a dict of keyword arguments.",
        )


_SPELLINGS: Mapping[str, tuple[Callable[[object], bool], str]] = {
    "modules": (lambda m: inspect.isclass(m) and issubclass(m, nn.Module), "module classes: modules=(MyLayer,)"),
    "functions": (callable, "functions: functions=(my_function,)"),
    "methods": (lambda m: isinstance(m, str), 'names of tensor methods: methods=("tanh",)'),
}


def _rule_problems(rule: Rule) -> Iterator[Problem]:
    for attribute, (fits, remedy) in _SPELLINGS.items():
        given = getattr(rule, attribute)
        if not isinstance(given, (tuple, list)) or not all(map(fits, given)):
            yield Problem(
                f"option rules, rule {rule.name!r}", f"its {attribute} are {given!r}", f"Give a tuple of {remedy}."
            )


def _sizes(size: object, sizes: object) -> Iterator[Problem]:
    remedy = "Give a whole number of weighted layers a block, from 1 (the feedforward network itself)."
    if size is not None and sizes is not None:
        yield Problem(
            "options block_size and block_sizes",
            f"are both given: {size!r} and {sizes!r}",
            "Give one: block_size for blocks of one size, block_sizes for one size a block.",
        )
    elif sizes is None and not is_count(size):
        yield Problem("option block_size", f"is {size!r}", remedy)
    elif sizes is not None and (not isinstance(sizes, Sequence) or isinstance(sizes, str) or not sizes):
        yield Problem("option block_sizes", f"is {sizes!r}", "Give a list with one size a block, such as [2, 3, 2].")
    elif sizes is not None:
        assert isinstance(sizes, Sequence)
        for i, one in enumerate(sizes):
            if not is_count(one):
                yield Problem(f"option block_sizes[{i}]", f"is {one!r}", remedy)


def _choice(option: str, choice: object) -> Iterator[Problem]:
    if isinstance(choice, str):
        yield Problem(f"option {option}", f"is the string {choice!r}", f"Give a list: {option}=[{choice!r}].")
    elif callable(choice):
        try:
            inspect.signature(choice).bind("name", None)
        except (TypeError, ValueError):
            yield Problem(
                f"option {option}",
                "is a predicate that does not take (name, module)",
                f"Write {option}=lambda name, module: ...",
            )
    elif not isinstance(choice, Iterable):
        yield Problem(
            f"option {option}", f"is {choice!r}", "Give a list of layer names, or a predicate of (name, module)."
        )
    else:
        for name in choice:
            if not isinstance(name, str):
                yield Problem(
                    f"option {option}",
                    f"holds {name!r}, a {type(name).__name__}",
                    "Name layers by their path in the model, as in model.named_modules().",
                )

"""Do two ways to run a model do the same? Differences of two observations, each as a problem in the user's names."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from ..errors import Problem
from ..nests import Branch, Fixed, Leaf, Part
from ..passes.tracing.copy_on_write import is_same_memory
from ..passes.tracing.state import GONE
from ..solve.iteration import peak
from ..train.without_feedback import rounding_of
from .module_state import is_alike
from .observation import Observation

ROUNDINGS = 1e3
"""Differences of so many roundings of the type, relative to the largest value, say nothing."""

LARGEST = 0.05
"""In a narrow type so many roundings would be any difference at all."""

FLOOR = 100
"""A gradient whose terms cancel is noise of so many roundings of the largest gradient of all."""


def tolerance_of(eps: float) -> float:
    """What roundings of that size may amount to."""
    return min(ROUNDINGS * eps, LARGEST)


def differences(
    ours: Observation, theirs: Observation, noise: Mapping[str, float], everywhere: float = 0.0
) -> Iterator[Problem]:
    """What the program does otherwise than the model.

    Args:
        ours, theirs: what the program and the model did.
        noise: by the key of an output or gradient, the relative difference that rounding alone makes there.
        everywhere: the relative difference that rounding may make in anything.
    """
    results = list(_results(ours, theirs, noise, everywhere))
    yield from results or _gradients(ours, theirs, noise, everywhere)  # which follow from results
    yield from _registered(ours, theirs, everywhere)
    yield from _attributes(ours, theirs)
    yield from _draws(ours, theirs)


def relative_differences(ours: Observation, theirs: Observation) -> dict[str, float]:
    """By output and gradient, how far two observations are apart, relative to the largest value."""
    found = {f"output{n}": difference(v, theirs.tensors[n]) for n, v in ours.tensors.items() if n in theirs.tensors}
    largest = _largest(theirs)
    for name in ours.gradients.keys() & theirs.gradients.keys():
        found[name] = _gap(ours.gradients[name], theirs.gradients[name], theirs.peaks[name], largest)
    return found


def difference(a: Tensor, b: Tensor) -> float:
    """The largest difference relative to the largest value; entries that are alike infinite or no number count as equal."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return float("inf")
    if a.numel() == 0 or is_same_memory(a, b) or torch.equal(a, b):  # as most are, and one reading of the memory
        return 0.0
    if not (a.is_floating_point() or a.is_complex()):
        return 0.0 if torch.equal(a, b) else float("inf")
    same = (a == b) | (a.isnan() & b.isnan())
    scale = peak(torch.where(torch.isfinite(b), b, 0.0)).clamp(min=torch.finfo(b.dtype).tiny)
    return float(peak(torch.where(same, 0.0, a - b)) / scale)


def _results(
    ours: Observation, theirs: Observation, noise: Mapping[str, float], everywhere: float
) -> Iterator[Problem]:
    if not _same_form(ours.form, theirs.form):
        yield Problem("result", f"is {_shape_of(ours.form)}, the model's {_shape_of(theirs.form)}", _REMEDY)
    if ours.tensors.keys() != theirs.tensors.keys():
        yield Problem(
            "result", f"holds tensors at {_listed(ours.tensors)}, the model's at {_listed(theirs.tensors)}", _REMEDY
        )
        return
    for place, mine in ours.tensors.items():
        other, where = theirs.tensors[place], f"output{place}" if place else "output"
        if mine.shape != other.shape or mine.dtype != other.dtype:
            yield Problem(where, f"is {_kind(mine)}, the model's {_kind(other)}", _REMEDY)
        elif not (far := difference(mine, other)) <= max(_allowed(other), everywhere, noise.get(f"output{place}", 0.0)):
            yield Problem(where, f"differs from the model's own by {far:.1e} of its largest value", _REMEDY)
        elif ours.requires_grad[place] != theirs.requires_grad[place]:
            has, has_not = ("it", "the model's") if ours.requires_grad[place] else ("the model's", "it")
            yield Problem(where, f"{has} has a gradient, {has_not} has none (a no_grad or detach is lost)", _REMEDY)


def _same_form(a: Part | None, b: Part | None) -> bool:
    """Whether two results are of the same types, and the same in what is no tensor."""
    if isinstance(a, Branch) and isinstance(b, Branch):
        alike = a.type is b.type and a.names == b.names and is_alike(a.keys, b.keys) and len(a.parts) == len(b.parts)
        return alike and all(map(_same_form, a.parts, b.parts))
    if isinstance(a, Fixed) and isinstance(b, Fixed):
        return is_alike(a.value, b.value, 1e-6)
    return type(a) is type(b)


def _shape_of(form: Part | None) -> str:
    """A result in a few words: ``Output(.logits, .hidden)``."""
    if isinstance(form, Branch):
        return f"{form.type.__name__}({', '.join(s + _filled(p) for s, p in zip(form.steps, form.parts, strict=True))})"
    return repr(form.value) if isinstance(form, Fixed) else "a tensor"


def _filled(part: Part) -> str:
    return "" if isinstance(part, Leaf) else f" = {_shape_of(part)}"


def _gradients(
    ours: Observation, theirs: Observation, noise: Mapping[str, float], everywhere: float
) -> Iterator[Problem]:
    if theirs.backward_failure is not None:
        return
    if ours.backward_failure is not None:
        if _is_finite(theirs):
            yield Problem(
                "backward pass", f"fails, where the model's does not: {_line(ours.backward_failure)}", _REMEDY
            )
        return
    if _all_equal(ours, theirs) or not _is_finite(theirs):
        return
    largest = _largest(theirs)
    for name, other in theirs.gradients.items():
        mine = ours.gradients.get(name)
        like = other if other is not None else mine
        if like is None or (far := _gap(mine, other, theirs.peaks[name], largest)) <= max(
            _allowed(like), everywhere, noise.get(name, 0.0)
        ):
            continue
        where = name if name.startswith("input ") else f"parameter {name}"
        if _is_nothing(mine):
            yield Problem(where, "has no gradient, and one in the model", _REMEDY)
        elif _is_nothing(other):
            yield Problem(where, "has a gradient, and none in the model (a no_grad or detach is lost)", _REMEDY)
        else:
            yield Problem(
                where, f"has a gradient that differs from the model's by {far:.1e} of its largest value", _REMEDY
            )


def _all_equal(ours: Observation, theirs: Observation) -> bool:
    """Whether every gradient is the very same number, as where both ways run the same operations: one reading of the memory."""
    pairs = [(ours.gradients.get(n), g) for n, g in theirs.gradients.items()]
    return all(a is b or (a is not None and b is not None and _is_equal(a, b)) for a, b in pairs)


def _is_equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)


def _is_finite(o: Observation) -> bool:
    """Gradients of what is no number, or infinite, say nothing."""
    results = (float(peak(v)) for v in o.tensors.values() if v.is_floating_point() and v.numel())
    return all(map(math.isfinite, (*results, *o.peaks.values())))


def _is_nothing(gradient: Tensor | None) -> bool:
    return gradient is None or not bool(gradient.any())


def _gap(mine: Tensor | None, other: Tensor | None, scale: float, largest: float) -> float:
    """Relative to ``scale``, the largest entry of ``other``; none where it is the noise that the largest gradient of all leaves. None counts as zero."""
    if mine is None or other is None:
        given = mine if other is None else other
        if given is None:
            return 0.0
        mine, other = (torch.zeros_like(given) if g is None else g for g in (mine, other))
    if mine.shape != other.shape:
        return math.inf
    if _is_equal(mine, other):
        return 0.0
    gap = float(peak(mine - other)) if mine.numel() else 0.0
    if gap <= FLOOR * torch.finfo(other.dtype).eps * largest:
        return 0.0
    return gap / scale if scale and math.isfinite(gap) else math.inf


def _largest(o: Observation) -> float:
    """The largest entry of any gradient."""
    return max(filter(math.isfinite, o.peaks.values()), default=0.0)


def _allowed(like: Tensor) -> float:
    return tolerance_of(rounding_of(like)) if like.is_floating_point() or like.is_complex() else 0.0


def _registered(ours: Observation, theirs: Observation, everywhere: float) -> Iterator[Problem]:
    for name in (n for n in ours.registered if n not in theirs.registered):
        yield Problem(f"tensor {name}", "is there afterwards, and is gone after a call of the model", _REMEDY)
    for name, other in theirs.registered.items():
        mine = ours.registered.get(name)
        if mine is None:
            yield Problem(f"tensor {name}", "is gone afterwards, and is there after a call of the model", _REMEDY)
        elif not (far := difference(mine, other)) <= max(_allowed(other), everywhere):
            yield Problem(
                f"tensor {name}", f"differs by {far:.1e} afterwards from what a call of the model leaves", _REMEDY
            )


def _attributes(ours: Observation, theirs: Observation) -> Iterator[Problem]:
    for path in dict.fromkeys((*theirs.attributes, *ours.attributes)):
        mine, other = ours.attributes.get(path, GONE), theirs.attributes.get(path, GONE)
        if is_alike(mine, other, 1e-3):
            continue
        what = "is written by the model's forward, and not here" if path not in ours.attributes else (
            "is written here, and not by the model's forward" if path not in theirs.attributes else "gets another value than from the model's forward"
        )  # fmt: skip
        yield Problem(f"attribute {path}", what, _REMEDY)


def _draws(ours: Observation, theirs: Observation) -> Iterator[Problem]:
    for name in ours.randoms.differing(theirs.randoms):
        yield Problem(
            f"random numbers of {name}", "are drawn otherwise than by the model (in another number or order)", _REMEDY
        )


def _kind(v: Tensor) -> str:
    return f"{tuple(v.shape)} {str(v.dtype).removeprefix('torch.')}"


def _listed(tensors: Mapping[str, Tensor]) -> str:
    return ", ".join(n or "the top" for n in tensors) or "no place"


def _line(failure: Exception) -> str:
    return (str(failure).strip().splitlines() or [type(failure).__name__])[0]


_REMEDY = (
    "Keep the layer that makes the difference out with digital=[...], or give example_inputs= to trace by torch.export. "
    "If no rule of your own reads it, please report it."
)

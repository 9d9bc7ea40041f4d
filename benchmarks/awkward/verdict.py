"""What becomes of an awkward model: it is right in every call, or refused by name; anything else is a fault.

Every call is compared in outputs with their types, gradients of parameters and inputs, buffers and attributes
afterwards, and in what random generators give next. At block sizes above 1 the loop gain is so small that the feedback
is rounding.
"""

from __future__ import annotations

import copy
import random
import warnings
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import ffebm_compiler as fc

from .models import Awkward

CLOSE = 2e-4
"""Of the largest entry: float32, a few layers deep, at a loop gain of 1e-7."""

ROUNDINGS = 30
"""A difference of so many times what a rounding of every input and weight makes in the model itself is one of
roundings, as in a gradient whose terms cancel.
"""

RIGHT, REFUSED = "right", "refused"
CAUGHT, SILENT, RAW, SLOW = "caught by the check", "silent", "raw", "out of time"
FAULTS = (CAUGHT, SILENT, RAW, SLOW)
"""Silently wrong, or an error of torch's own; what the check alone has noticed, which tracing should have; a conversion
that hangs.
"""


@dataclass(frozen=True)
class Verdict:
    """One model's end: ``outcome`` is right, refused, or one of :data:`FAULTS`; ``what`` says more."""

    model: Awkward
    outcome: str
    what: str

    @property
    def is_fault(self) -> bool:
        return self.outcome in FAULTS


def judged(model: Awkward) -> Verdict:
    net = model.build()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    twin = copy.deepcopy(net)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            options: dict[str, Any] = {"example_inputs": model.inputs(net, 0)} if model.given else {}
            if model.size > 1:
                options["loop_gain"] = 1e-7
            converted = fc.convert(twin, model.size, copy=model.copied, **options)
            changed = [k for k, v in twin.state_dict().items() if not torch.equal(v, before[k])]
            if changed:
                return Verdict(model, SILENT, f"conversion changed {changed}")
            return _compared(model, net, converted)
    except fc.VerificationError as failure:
        return Verdict(model, CAUGHT, str(failure))
    except fc.FFEBMError as failure:
        return Verdict(model, REFUSED, str(failure))
    except Exception as failure:
        return Verdict(model, RAW, f"{type(failure).__name__}: {failure}")


def _compared(model: Awkward, net: nn.Module, converted: nn.Module) -> Verdict:
    for call, (training, batch) in enumerate(model.calls()):
        given = model.inputs(net, call, batch)
        theirs = _call(net.train(training), given, call)
        mode = f"call {call}, {'training' if training else 'evaluation'}"
        if "raised" in theirs:
            return _refuses_too(
                model, converted.train(training), given, f"{mode}: the model fails, and the program does not"
            )
        ours = _call(converted.train(training), given, call)
        differing = [k for k, other in theirs.items() if not _alike(ours.get(k), other)]
        if differing:
            rounded = _rounded(model, call)
            differing = [k for k in differing if not is_rounding(ours.get(k), theirs[k], rounded[k])]
        if differing:
            return Verdict(model, SILENT, f"{mode}: {differing[0]} differs")
    return Verdict(model, RIGHT, "")


def _refuses_too(model: Awkward, converted: nn.Module, given: tuple[Tensor, ...], otherwise: str) -> Verdict:
    """The verdict where the model itself does not take an input: an error that names the layer is right."""
    try:
        converted(*given)
    except fc.FFEBMError as failure:
        return Verdict(model, RIGHT, f"the model itself fails: {failure}")
    return Verdict(model, SILENT, otherwise)


def _rounded(model: Awkward, last: int) -> dict[str, Any]:
    """What a call of the model itself, after those before, does where its weights and inputs are rounded otherwise."""
    net = model.build()
    for call, (training, batch) in enumerate(model.calls()[: last + 1]):
        given = model.inputs(net, call, batch)
        if call == last:
            given = tuple(map(_moved, given))
            with torch.no_grad():
                for p in net.parameters():
                    p.copy_(_moved(p))
        found = _call(net.train(training), given, call)
    return found


def _moved(tensor: Tensor) -> Tensor:
    ups = torch.rand(tensor.shape, generator=torch.Generator().manual_seed(tensor.numel())) > 0.5
    return tensor * torch.where(ups, 1 + torch.finfo(tensor.dtype).eps, 1 - torch.finfo(tensor.dtype).eps)


def is_rounding(ours: Any, theirs: Any, rounded: Any) -> bool:
    """Whether two gradients, or other tensors, differ by no more than roundings make."""
    three = (ours, theirs, rounded)
    if not all(isinstance(v, Tensor) for v in three) or len({(v.shape, v.dtype) for v in three}) > 1:
        return False
    return bool((ours - theirs).abs().max() <= ROUNDINGS * (rounded - theirs).abs().max())


def _call(net: nn.Module, given: tuple[Tensor, ...], seed: int) -> dict[str, Any]:
    """Everything that one call and its backward pass do; a model's own that fails has no gradients to compare."""
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)
    given = tuple(v.clone().requires_grad_() for v in given)
    parameters = dict(net.named_parameters())
    wanted = {**parameters, **{str(i): v for i, v in enumerate(given)}}
    try:
        result = net(*given)
    except Exception as failure:
        if isinstance(net, fc.FFEBM):
            raise
        return {"raised": failure}
    seen: dict[str, Any] = {"result": _frozen(result), "history": [v.requires_grad for v in _tensors(result)]}
    try:
        seen |= {f"gradient of {n}": g for n, g in _gradients(result, wanted).items()}
    except Exception:
        if isinstance(net, fc.FFEBM):
            raise
    seen |= {f"buffer {n}": b.clone() for n, b in net.named_buffers() if "_tensor_constant" not in n}
    seen |= {f"parameter {n}": p.detach().clone() for n, p in parameters.items()}
    plain = net.network if isinstance(net, fc.FFEBM) else net
    names = ("calls", "seen", "state", "loss", "notes")
    seen |= {f"{p}.{n}": _frozen(vars(m)[n]) for p, m in plain.named_modules() for n in names if n in vars(m)}
    seen["draws"] = (float(torch.rand(())), float(np.random.rand()), random.random())
    return seen


def _gradients(result: Any, wanted: dict[str, Tensor]) -> dict[str, Tensor | None]:
    roots = [v for v in _tensors(result) if v.requires_grad]
    if not roots:
        return dict.fromkeys(wanted)
    loss = sum((v.sin().sum() for v in roots), torch.zeros(()))
    return dict(zip(wanted, torch.autograd.grad(loss, [*wanted.values()], allow_unused=True), strict=True))


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if is_dataclass(value):
        return [t for f in fields(value) for t in _tensors(getattr(value, f.name))]
    if isinstance(value, dict):
        return [t for v in value.values() for t in _tensors(v)]
    return [t for v in value for t in _tensors(v)] if isinstance(value, (list, tuple)) else []


def _frozen(value: Any) -> Any:
    return copy.deepcopy(value) if not _tensors(value) else _walked(value)


def _walked(value: Any) -> tuple[type, Any]:
    """The type of a nest and its leaves, which later calls don't change."""
    if isinstance(value, Tensor):
        return Tensor, value.detach().clone()
    if is_dataclass(value):
        return type(value), [_walked(getattr(value, f.name)) for f in fields(value)]
    if isinstance(value, dict):
        return type(value), [(k, _walked(v)) for k, v in value.items()]
    if isinstance(value, (list, tuple)):
        return type(value), [_walked(v) for v in value]
    return type(value), value


def _alike(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        zero = torch.zeros(())
        if a is None or b is None:  # no gradient, or one of zero
            return not bool((a if b is None else b).abs().max() > 0)
        if not (isinstance(a, Tensor) and isinstance(b, Tensor)) or a.shape != b.shape or a.dtype != b.dtype:
            return False
        scale = max(float(b.abs().max()), 1e-6) if b.numel() else zero
        return bool(((a - b).abs() <= CLOSE * scale).all()) if a.numel() else True
    if type(a) is not type(b):
        return False
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(_alike, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_alike(v, b[k]) for k, v in a.items())
    return bool(a == b)

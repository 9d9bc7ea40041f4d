"""Loaded bundles for the tests of the runtime, without a file in between."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import ffebm_compiler as fc
from ffebm_compiler.backends.bundle_contents import Subject, contents_of
from ffebm_compiler.backends.bundle_options import BundleOptions
from ffebm_compiler.backends.bundle_writer import private_copy
from ffebm_compiler.bundle import Contents
from ffebm_compiler.runtime import Runtime
from ffebm_compiler.runtime.load import runtime_of


def compiled(model: fc.FFEBM, args: tuple[Any, ...]) -> Contents:
    """What the model's bundle holds; parts that ONNX can't express are left out."""
    options = BundleOptions(None, 0, "skip", False)
    return contents_of(Subject(private_copy(model), args, {}, options))


def loaded(model: fc.FFEBM, args: tuple[Any, ...], **options: Any) -> Runtime:
    return runtime_of(compiled(model, args), **options)


class SameDropout(TorchFunctionMode):
    """Dropout that keeps by uniform numbers of a generator of its own, as a bundle's graphs do."""

    def __init__(self, seed: int):
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        named = dict(kwargs or {})
        if func not in (torch.nn.functional.dropout, torch.dropout, torch.ops.aten.dropout.default):
            return func(*args, **named)
        x, p, training = (*args, *(named[k] for k in ("p", "training", "train") if k in named))[:3]
        if not training:
            return x
        kept = torch.rand(x.shape, generator=self.generator) >= p
        return x * kept / (1 - p)


def without_attention_dropout(net: nn.Module) -> nn.Module:
    """The same network; a fused attention draws where no test can see it."""
    for module in net.modules():
        for name in ("dropout", "dropout_p", "dropout_prob", "attention_dropout"):
            if isinstance(module.__dict__.get(name), float):
                setattr(module, name, 0.0)
    return net


@contextmanager
def no_differentiation(monkeypatch: Any) -> Iterator[None]:
    """Nothing may differentiate automatically."""

    def refused(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("automatic differentiation at run time")

    with monkeypatch.context() as patched:
        for owner, name in (
            (torch.autograd, "grad"),
            (torch.autograd, "backward"),
            (torch.Tensor, "backward"),
            (torch.autograd.Function, "apply"),
            (torch.autograd.variable.Variable._execution_engine, "run_backward"),
            (torch.autograd.graph, "_engine_run_backward"),
            (torch.autograd, "_engine_run_backward"),
        ):
            if hasattr(owner, name):
                patched.setattr(owner, name, refused)
        yield


def linear_loss(outputs: Any, seed: Any) -> tuple[Tensor, Any]:
    """A random linear function of every output, and its gradient."""
    generator = torch.Generator().manual_seed(int(seed))
    leaves, tree = torch.utils._pytree.tree_flatten(outputs)
    floating = [isinstance(v, Tensor) and v.is_floating_point() for v in leaves]
    weights = deque(torch.randn(v.shape, generator=generator) for v, f in zip(leaves, floating, strict=True) if f)
    errors = [weights.popleft() if f else None for f in floating]
    pairs = [(v, e) for v, e in zip(leaves, errors, strict=True) if e is not None]
    total = torch.stack([(v * e).sum() for v, e in pairs]).sum()
    return total, torch.utils._pytree.tree_unflatten(errors, tree)
